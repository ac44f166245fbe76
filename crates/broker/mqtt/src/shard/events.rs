//! What the collectors of events are told of connections and sessions.
//!
//! Exactly one event for each connection that never became live, and for each live session
//! CLIENT_CONNECTED with MQTT_SESSION_START at its beginning and one reason with
//! MQTT_SESSION_STOP at its end. Nothing is built while nobody listens.

use std::sync::Arc;

use ratatosk_codec::ReasonCode;
use ratatosk_contract::SessionRef;
use ratatosk_plugin::{
    auth::ConnectionId,
    event::{ClientInfo, Event, EventKind, EventType, LastWill},
    permission::Identity,
};
use ratatosk_session::{Ending, Farewell, Report};

use super::{
    Shard,
    connection::{Connection, Local},
};

impl Shard {
    /// A session became live. EVT-003, EVT-005
    pub(super) fn report_connected(&self, session: SessionRef, connection: &mut Connection) {
        if !self.node.events.wants(EventType::ClientConnected, false) {
            return;
        }
        let Some(client) = self.client_info(session, connection).map(Arc::new) else { return };
        let id = session_id(session);
        let keep_alive = connection.session.keep_alive().as_secs();
        let last_will = connection.session.will().map(|will| LastWill {
            topic: &will.topic,
            qos: will.qos,
            is_retain: will.retain,
            payload_bytes: u32::try_from(will.payload.len()).unwrap_or(u32::MAX),
        });
        self.report(Some(&client), EventKind::MqttSessionStart { session_id: &id });
        self.report(
            Some(&client),
            EventKind::ClientConnected {
                server_id: &self.node.name,
                session_id: &id,
                keep_alive_seconds: u16::try_from(keep_alive).unwrap_or(u16::MAX),
                clean_session: !connection.session.is_persistent(),
                session_present: connection.session.is_resumed(),
                last_will,
            },
        );
        connection.local.rare().client = Some(client);
    }

    /// A connection ended. EVT-002, EVT-004, EVT-005
    pub(super) fn report_ended(
        &self,
        session: SessionRef,
        connection: &Connection,
        ending: &Ending,
    ) {
        if !self.node.events.wants(EventType::MqttSessionStop, false) {
            return;
        }
        let client = connection.local.rare.as_ref().and_then(|rare| rare.client.as_deref());
        let text = ending.farewell.to_string();
        if !ending.was_live {
            self.report(client, closed(connection, ending, &text));
            return;
        }
        let keep_alive = connection.session.keep_alive().as_secs();
        self.report(client, disconnected(&ending.farewell, &text, keep_alive));
        let id = session_id(session);
        self.report(client, EventKind::MqttSessionStop { session_id: &id });
    }

    /// Something was refused to a live session. EVT-006
    pub(super) fn report_denied(&self, local: &Local, report: &Report<'_>) {
        let kind = match *report {
            Report::PublishRefused { topic, qos, code: ReasonCode::NotAuthorized } => {
                EventKind::PubActionDisallow { topic, qos, is_last_will: false, is_retain: false }
            }
            Report::SubscribeRefused { filter, qos, code: ReasonCode::NotAuthorized } => {
                EventKind::SubActionDisallow { topic_filter: filter, qos }
            }
            _ => return,
        };
        let client = local.rare.as_ref().and_then(|rare| rare.client.as_deref());
        self.report(client, kind);
    }

    fn report(&self, client: Option<&ClientInfo>, kind: EventKind<'_>) {
        let at = self.node.event_clock.stamp(self.node.clock.wall().as_millis());
        self.node.events.report(&Event { at, client, kind }, false);
    }

    fn client_info(&self, session: SessionRef, connection: &Connection) -> Option<ClientInfo> {
        let owner = connection.session.identity()?;
        let identity = match &connection.local.identity {
            Some(identity) => Identity::clone(identity),
            None => Identity {
                tenant: owner.tenant.as_str().into(),
                user: owner.user.clone().unwrap_or_default(),
                client_id: owner.client.as_str().into(),
                attributes: Arc::from([]),
                superuser: false,
            },
        };
        Some(ClientInfo {
            identity,
            version: connection.session.version(),
            connection: ConnectionId(connection_number(session)),
            peer: connection.peer,
            node: Arc::clone(&self.node.name),
            is_persistent: connection.session.is_persistent(),
        })
    }
}

/// A connection's number on its node; unique while it lasts.
pub(super) fn connection_number(session: SessionRef) -> u64 {
    u64::from(session.shard.0) << 56
        | (u64::from(session.generation) & 0xff_ffff) << 32
        | u64::from(session.slot)
}

fn session_id(session: SessionRef) -> String {
    format!("{:016x}", connection_number(session))
}

/// The event of a connection that never became live.
fn closed<'a>(connection: &Connection, ending: &'a Ending, text: &'a str) -> EventKind<'a> {
    let peer = connection.peer;
    match &ending.farewell {
        Farewell::ConnectTimeout => EventKind::ConnectTimeout { peer },
        Farewell::Malformed(error)
            if error.reason_code() == ReasonCode::UnsupportedProtocolVersion =>
        {
            EventKind::UnacceptedProtocolVer { peer }
        }
        Farewell::Malformed(error) if error.reason_code() == ReasonCode::ClientIdNotValid => {
            EventKind::MalformedClientIdentifier { peer }
        }
        Farewell::Malformed(_) | Farewell::ProtocolError(_) => {
            EventKind::ProtocolError { peer, statement: text }
        }
        Farewell::Refused { code, detail } => match code {
            ReasonCode::ClientIdNotValid => EventKind::IdentifierRejected { peer },
            ReasonCode::BadUsernameOrPassword | ReasonCode::Banned => {
                EventKind::UnauthenticatedClient { peer, tenant: "", user: "", client_id: "" }
            }
            ReasonCode::NotAuthorized => {
                EventKind::NotAuthorizedClient { peer, tenant: "", user: "", client_id: "" }
            }
            _ => EventKind::AuthError { peer, cause: detail },
        },
        _ => EventKind::ChannelError { peer, cause: text },
    }
}

/// The event of a live session's end.
fn disconnected<'a>(farewell: &'a Farewell, text: &'a str, keep_alive: u64) -> EventKind<'a> {
    match farewell {
        Farewell::ByClient(_) => EventKind::ByClient { without_disconnect: false },
        Farewell::PeerClosed => EventKind::ByClient { without_disconnect: true },
        Farewell::NetworkError(cause) => EventKind::ClientChannelError { cause },
        Farewell::KeepAliveTimeout => {
            EventKind::Idle { keep_alive_seconds: u16::try_from(keep_alive).unwrap_or(u16::MAX) }
        }
        Farewell::Malformed(_) => EventKind::BadPacket { cause: text },
        Farewell::ProtocolError(statement) => EventKind::ProtocolViolation { statement },
        Farewell::TakenOver | Farewell::Kicked | Farewell::StaleClaim => {
            EventKind::Kicked { kicker: text }
        }
        Farewell::ReauthenticationFailed => EventKind::ReAuthFailed,
        Farewell::ServerShutdown => EventKind::ByServer,
        Farewell::MemoryPressure => EventKind::ResourceThrottled { reason: text },
        Farewell::NotDurable => EventKind::InboxTransientError { reason: text },
        _ => EventKind::ProtocolViolation { statement: text },
    }
}
