//! Authentication: who a client is, decided once at CONNECT and again at re-authentication.
//!
//! The tenant and the user come from here and from nowhere else: nothing that a client sends
//! chooses its tenant unless a provider decides so.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use ratatosk_codec::ProtocolVersion;

use crate::answer::Answer;
use crate::permission::Identity;
use crate::plugin::Plugin;
use crate::secret::Secret;

/// A connection of this node, for logs and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Pairs of names and values in the order of the packet.
pub type UserProperties = Vec<(String, String)>;

/// All that is known of a client that asks to be let in.
#[derive(Clone)]
pub struct AuthRequest {
    /// The protocol that it speaks.
    pub version: ProtocolVersion,
    /// Its client id, possibly assigned by the server.
    pub client_id: Arc<str>,
    /// The user name that it claims.
    pub username: Option<Arc<str>>,
    /// The password.
    pub password: Option<Secret>,
    /// The certificate in DER that TLS has verified, if the client showed one.
    pub certificate: Option<Arc<[u8]>>,
    /// Where it comes from, behind a trusted proxy as the proxy says.
    pub peer: SocketAddr,
    /// The name of the listener that accepted it.
    pub listener: Arc<str>,
    /// The connection.
    pub connection: ConnectionId,
    /// The user properties of CONNECT; empty before MQTT 5.
    pub user_properties: UserProperties,
    /// Whether the client wants response information.
    pub wants_response_information: bool,
    /// The method of enhanced authentication, if the client asks for it.
    pub method: Option<Arc<str>>,
    /// The initial data of that method.
    pub data: Option<Secret>,
    /// Connecting, or proving itself again.
    pub stage: AuthStage,
}

/// When a client is asked who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthStage {
    /// At CONNECT.
    Connect,
    /// By AUTH on a live session. Tenant and user may not change by it.
    Reauthenticate(Identity),
}

// What a client sent as user properties may hold tokens, so it is counted, not printed.
impl std::fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthRequest")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("has_certificate", &self.certificate.is_some())
            .field("peer", &self.peer)
            .field("listener", &self.listener)
            .field("connection", &self.connection)
            .field("user_properties_count", &self.user_properties.len())
            .field("method", &self.method)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// The outcome of a question or of one step of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthResult {
    /// The client is who it says.
    Granted(Grant),
    /// The client must answer this first. Only in an exchange.
    Continue(Challenge),
    /// The client is refused.
    Denied(Denial),
    /// These credentials are none of this provider's business: the next one of a chain is asked.
    /// The host turns an abstention of all into a denial.
    Abstained,
}

impl AuthResult {
    /// A refusal with its reason for the client and its detail for the log.
    pub fn denied(reason: DenialReason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Denied(Denial { reason, detail: detail.into() })
    }
}

/// What an authenticated client is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Whose client it is.
    pub tenant: String,
    /// Who it is there; empty: nobody in particular.
    pub user: String,
    /// What else is known of it, for permission providers and events.
    pub attributes: Vec<(String, String)>,
    /// Response information for CONNACK.
    pub response_information: Option<String>,
    /// User properties for CONNACK or AUTH.
    pub user_properties: UserProperties,
    /// The last data of an exchange, for CONNACK or AUTH.
    pub auth_data: Option<Vec<u8>>,
    /// No permission is ever checked for it.
    pub superuser: bool,
}

// The data of an exchange is between the two sides, and properties may hold tokens.
impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("tenant", &self.tenant)
            .field("user", &self.user)
            .field("attributes", &self.attributes)
            .field("superuser", &self.superuser)
            .finish_non_exhaustive()
    }
}

/// What an exchange asks next.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Challenge {
    /// The data for AUTH.
    pub data: Vec<u8>,
    /// The user properties for AUTH.
    pub user_properties: UserProperties,
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenge").field("data_bytes", &self.data.len()).finish_non_exhaustive()
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the client is told.
    pub reason: DenialReason,
    /// What the log and the events are told. Never sent to the client, never holds a secret.
    pub detail: Cow<'static, str>,
}

/// Why a client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialReason {
    /// The user is unknown or the password is wrong; the client is not told which.
    BadPassword,
    /// The client may not connect.
    NotAuthorized,
    /// The client is banned.
    Banned,
    /// The method of enhanced authentication is not supported.
    BadMethod,
    /// The question could not be answered.
    Error,
}

impl DenialReason {
    /// The reason code of CONNACK in MQTT 5.
    pub const fn code_v5(self) -> u8 {
        match self {
            Self::BadPassword => 0x86,
            Self::NotAuthorized => 0x87,
            Self::Banned => 0x8a,
            Self::BadMethod => 0x8c,
            Self::Error => 0x80,
        }
    }

    /// The return code of CONNACK in MQTT 3. What it has no code for is "not authorised".
    pub const fn code_v3(self) -> u8 {
        match self {
            Self::BadPassword => 0x04,
            Self::NotAuthorized | Self::Banned | Self::BadMethod => 0x05,
            Self::Error => 0x03,
        }
    }
}

/// Decides who a client is.
pub trait AuthProvider: Plugin {
    /// Answers for a client without an authentication method. Must not block: what takes longer
    /// than some microseconds is answered later.
    fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult>;

    /// Opens an exchange for `request.method`, or `None` when the method is not supported.
    ///
    /// The first step gets `request.data`, or nothing if the client sent none.
    fn begin(&self, request: &AuthRequest) -> Option<Box<dyn AuthExchange>> {
        let _ = request;
        None
    }

    /// Rises whenever the answers may have changed: users were reloaded.
    fn epoch(&self) -> u64 {
        0
    }
}

/// One exchange of enhanced authentication. [MQTT-4.12.0-1]
pub trait AuthExchange: Send {
    /// Takes what the client sent and says what follows. After a grant or a denial the exchange
    /// is over.
    fn step(&mut self, data: &[u8]) -> Answer<AuthResult>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MQTT-021, PLG-003: each refusal has its code in both protocols.
    #[test]
    fn refusals_have_the_codes_of_the_specification() {
        let codes = [
            (DenialReason::BadPassword, 0x86, 0x04),
            (DenialReason::NotAuthorized, 0x87, 0x05),
            (DenialReason::Banned, 0x8a, 0x05),
            (DenialReason::BadMethod, 0x8c, 0x05),
            (DenialReason::Error, 0x80, 0x03),
        ];
        for (reason, v5, v3) in codes {
            assert_eq!((reason.code_v5(), reason.code_v3()), (v5, v3), "{reason:?}");
        }
    }

    /// SEC-007, PLG-001: a request can be logged; its credentials are not in what is logged.
    #[test]
    fn a_printed_request_holds_no_credentials() {
        let request = AuthRequest {
            password: Some(Secret::from("hunter2")),
            data: Some(Secret::from("hunter3")),
            user_properties: vec![("token".to_owned(), "hunter4".to_owned())],
            ..crate::testing::request("alice")
        };
        let grant = Grant { auth_data: Some(b"hunter5".to_vec()), ..Grant::default() };
        let challenge = Challenge { data: b"hunter6".to_vec(), ..Challenge::default() };
        let text = format!("{request:?} {request:#?} {grant:?} {challenge:?}");
        assert!(text.contains("alice"));
        assert!(!text.contains("104, 117"), "bytes of a secret: {text}");
        assert!(!text.contains("hunter"), "{text}");
    }
}
