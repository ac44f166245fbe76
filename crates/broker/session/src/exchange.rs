//! Enhanced authentication: AUTH at connect and while live, and DISCONNECT.
//!
//! One exchange runs at a time. At connect nothing but AUTH and DISCONNECT may come between;
//! while live the client goes on as it was, and the session survives the exchange. MQTT-104,
//! MQTT-105

use ratatosk_codec::{Auth, Disconnect, Packet, ReasonCode};

use crate::{
    Credentials, Farewell, Grant, Request, Session, connect::clamp_expiry, session::Phase,
};

/// The method that CONNECT named, and whether an exchange is running.
#[derive(Debug)]
pub(crate) struct Exchange {
    method: Box<str>,
    /// AUTH with 0x18 was sent; the client's turn.
    awaits_client: bool,
}

impl Session {
    pub(crate) fn on_auth(&mut self, auth: &Auth<'_>) -> Result<(), Farewell> {
        if self.phase == Phase::Fresh {
            return Err(Farewell::ProtocolError("AUTH before CONNECT"));
        }
        // [MQTT-4.12.0-7]
        let Some(exchange) = &mut self.exchange else {
            return Err(Farewell::ProtocolError(
                "AUTH without an authentication method in CONNECT",
            ));
        };
        // [MQTT-4.12.0-5] [MQTT-4.12.1-1] MQTT-106; what goes on says 0x18 [MQTT-4.12.0-3].
        if auth.method != Some(&*exchange.method) {
            return Err(Farewell::ProtocolError("AUTH with another method than CONNECT"));
        }
        match auth.reason {
            ReasonCode::ContinueAuthentication if exchange.awaits_client => {
                exchange.awaits_client = false;
                self.ask(Request::Exchange(auth.data.unwrap_or_default().to_vec()));
                Ok(())
            }
            ReasonCode::Reauthenticate if self.phase == Phase::Live && !exchange.awaits_client => {
                let credentials = Credentials {
                    version: self.version,
                    client_id: self
                        .identity
                        .as_ref()
                        .map_or_else(String::new, |identity| identity.client.as_str().to_owned()),
                    username: None,
                    password: None,
                    user_properties: Vec::new(),
                    method: Some(exchange.method.to_string()),
                    data: auth.data.map(<[u8]>::to_vec),
                    is_again: true,
                };
                self.ask(Request::Authenticate(Box::new(credentials)));
                Ok(())
            }
            _ => Err(Farewell::ProtocolError("AUTH that no exchange awaits")),
        }
    }

    /// One more round: AUTH with 0x18. [MQTT-4.12.0-2]
    pub(crate) fn on_continue(&mut self, data: &[u8]) -> Result<(), Farewell> {
        let method = match (&self.exchange, &self.connecting) {
            (Some(exchange), _) => exchange.method.to_string(),
            (None, Some(connecting)) => {
                connecting.method.clone().ok_or(Farewell::Bug("an exchange without a method"))?
            }
            (None, None) => return Err(Farewell::Bug("an exchange without a method")),
        };
        let reason = ReasonCode::ContinueAuthentication;
        let auth = Auth { data: Some(data), ..Auth::new(reason, &method) };
        self.write_explained(Packet::Auth(auth));
        self.exchange = Some(Box::new(Exchange { method: method.into(), awaits_client: true }));
        Ok(())
    }

    /// Re-authentication succeeded: AUTH with 0x00.
    pub(crate) fn on_granted_again(&mut self, grant: &Grant) -> Result<(), Farewell> {
        let Some(exchange) = &self.exchange else {
            return Err(Farewell::Bug("an exchange without a method"));
        };
        // The session cannot move to another tenant, nor to another user where that is another
        // session.
        let user = grant.user.as_ref().filter(|_| self.settings.user_in_identity);
        let is_same = self
            .identity
            .as_ref()
            .is_some_and(|id| id.tenant == grant.tenant && id.user.as_ref() == user);
        if !is_same {
            return Err(Farewell::ReauthenticationFailed);
        }
        let method = exchange.method.clone();
        let auth = Auth { data: grant.data.as_deref(), ..Auth::new(ReasonCode::Success, &method) };
        self.write_explained(Packet::Auth(auth));
        Ok(())
    }

    /// Remembers the method of a CONNECT that was let in, so that it can authenticate again.
    pub(crate) fn keep_method(&mut self, method: Option<&str>) {
        if let Some(method) = method {
            self.exchange =
                Some(Box::new(Exchange { method: method.into(), awaits_client: false }));
        }
    }

    pub(crate) fn on_disconnect(&mut self, disconnect: &Disconnect<'_>) -> Result<(), Farewell> {
        // [MQTT-3.14.2-1]
        if !may_come_from_client(disconnect.reason) {
            return Err(Farewell::ProtocolError("DISCONNECT with a code that only a server sends"));
        }
        if let Some(asked_s) = disconnect.session_expiry_s {
            // MQTT-041: a session that was to end with its connection cannot be prolonged.
            if self.expiry_s == 0 && asked_s > 0 {
                return Err(Farewell::ProtocolError(
                    "DISCONNECT prolongs a session of expiry zero",
                ));
            }
            self.expiry_s = clamp_expiry(asked_s, &self.settings);
        }
        Err(Farewell::ByClient(disconnect.reason))
    }
}

/// The codes of DISCONNECT that the specification gives to clients.
fn may_come_from_client(code: ReasonCode) -> bool {
    matches!(code.value(), 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
}
