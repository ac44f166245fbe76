//! Why a connection ended.
//!
//! Every end has exactly one farewell. It decides what the peer is told (a reason code in MQTT
//! 5.0, mostly nothing before), whether the will is published, and what the log says.

use std::{borrow::Cow, fmt};

use ratatosk_codec::{DecodeError, PacketType, ReasonCode};

/// Why a connection ended, and on whose account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The client sent DISCONNECT with this code.
    ByClient(ReasonCode),
    /// The client closed the connection without DISCONNECT.
    PeerClosed,
    /// The network failed; what the system said of it.
    NetworkError(String),
    /// No CONNECT came in time. MQTT-012
    ConnectTimeout,
    /// Nothing came for one and a half times the keep alive. MQTT-033
    KeepAliveTimeout,
    /// The bytes are not MQTT, or not what may come here.
    Malformed(DecodeError),
    /// The packets are well-formed but break the protocol.
    ProtocolError(&'static str),
    /// The connection was refused at CONNECT with this code.
    Refused {
        /// What the peer is told.
        code: ReasonCode,
        /// What the log says.
        detail: String,
    },
    /// A limit or rule of the tenant that ends the connection with this code.
    Violation {
        /// What the peer is told.
        code: ReasonCode,
        /// What the log says.
        detail: String,
    },
    /// A newer connection took the session. MQTT-042
    TakenOver,
    /// An operator ended it.
    Kicked,
    /// Re-authentication failed. MQTT-106
    ReauthenticationFailed,
    /// The server stops. MQTT-015
    ServerShutdown,
    /// The process is out of memory and this connection was chosen. MQTT-103
    MemoryPressure,
    /// The session's state is held by a newer owner.
    StaleClaim,
    /// What could not be made durable was held back for too long. MQTT-056
    NotDurable,
    /// A check of the session's own invariants failed.
    Bug(&'static str),
}

impl Farewell {
    /// The reason code that tells the peer of it, in CONNACK or DISCONNECT; `None` if there is
    /// nobody to tell or nothing is to be said.
    pub fn reason_code(&self) -> Option<ReasonCode> {
        Some(match self {
            Farewell::ByClient(_) | Farewell::PeerClosed | Farewell::NetworkError(_) => {
                return None;
            }
            Farewell::ConnectTimeout => return None,
            Farewell::KeepAliveTimeout => ReasonCode::KeepAliveTimeout,
            Farewell::Malformed(error) => error.reason_code(),
            Farewell::ProtocolError(_) => ReasonCode::ProtocolError,
            Farewell::Refused { code, .. } | Farewell::Violation { code, .. } => *code,
            Farewell::TakenOver => ReasonCode::SessionTakenOver,
            Farewell::Kicked => ReasonCode::AdministrativeAction,
            Farewell::ReauthenticationFailed => ReasonCode::NotAuthorized,
            Farewell::ServerShutdown => ReasonCode::ServerShuttingDown,
            Farewell::MemoryPressure => ReasonCode::QuotaExceeded,
            Farewell::StaleClaim => ReasonCode::SessionTakenOver,
            Farewell::NotDurable => ReasonCode::ImplementationSpecificError,
            Farewell::Bug(_) => ReasonCode::UnspecifiedError,
        })
    }

    /// The same as a code that `packet`, CONNACK or DISCONNECT, may carry. [MQTT-3.2.2-8]
    /// [MQTT-3.14.2-1]
    pub(crate) fn reason_code_in(&self, packet: PacketType) -> Option<ReasonCode> {
        let code = self.reason_code()?;
        if code.valid_in(packet) {
            return Some(code);
        }
        Some(match (packet, code) {
            (
                PacketType::Connack,
                ReasonCode::ServerShuttingDown
                | ReasonCode::SessionTakenOver
                | ReasonCode::AdministrativeAction,
            ) => ReasonCode::ServerUnavailable,
            _ => ReasonCode::UnspecifiedError,
        })
    }

    /// What the peer may read of it: nothing of an authentication that failed, nothing of our
    /// inner life.
    pub(crate) fn reason_string(&self) -> Option<Cow<'_, str>> {
        match self {
            Farewell::Bug(_) => None,
            Farewell::Refused {
                code:
                    ReasonCode::BadUsernameOrPassword
                    | ReasonCode::NotAuthorized
                    | ReasonCode::Banned
                    | ReasonCode::BadAuthenticationMethod,
                ..
            } => None,
            Farewell::Refused { detail, .. } | Farewell::Violation { detail, .. } => {
                Some(Cow::Borrowed(detail))
            }
            _ => Some(Cow::Owned(self.to_string())),
        }
    }

    /// Whether the peer ended the connection, or the way to it broke: then nothing is said of the end, but what
    /// was answered before is still owed.
    pub fn is_of_peer(&self) -> bool {
        matches!(self, Farewell::ByClient(_) | Farewell::PeerClosed | Farewell::NetworkError(_))
    }

    /// Whether the will is dropped unpublished: only a DISCONNECT of code 0x00 does that.
    /// [MQTT-3.14.4-3] [MQTT-3.1.2-10]
    pub fn drops_will(&self) -> bool {
        matches!(self, Farewell::ByClient(ReasonCode::Success))
    }

    /// A short name for metrics and events; one of a fixed set.
    pub fn name(&self) -> &'static str {
        match self {
            Farewell::ByClient(_) => "by_client",
            Farewell::PeerClosed => "peer_closed",
            Farewell::NetworkError(_) => "network_error",
            Farewell::ConnectTimeout => "connect_timeout",
            Farewell::KeepAliveTimeout => "keep_alive_timeout",
            Farewell::Malformed(_) => "malformed",
            Farewell::ProtocolError(_) => "protocol_error",
            Farewell::Refused { .. } => "refused",
            Farewell::Violation { .. } => "violation",
            Farewell::TakenOver => "taken_over",
            Farewell::Kicked => "kicked",
            Farewell::ReauthenticationFailed => "reauthentication_failed",
            Farewell::ServerShutdown => "server_shutdown",
            Farewell::MemoryPressure => "memory_pressure",
            Farewell::StaleClaim => "stale_claim",
            Farewell::NotDurable => "not_durable",
            Farewell::Bug(_) => "bug",
        }
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Farewell::ByClient(code) => write!(out, "the client disconnected: {code}"),
            Farewell::PeerClosed => out.write_str("the client closed without DISCONNECT"),
            Farewell::NetworkError(error) => write!(out, "the network failed: {error}"),
            Farewell::ConnectTimeout => out.write_str("no CONNECT came in time"),
            Farewell::KeepAliveTimeout => {
                out.write_str("nothing came for one and a half times the keep alive")
            }
            Farewell::Malformed(error) => write!(out, "{error}"),
            Farewell::ProtocolError(what) => out.write_str(what),
            Farewell::Refused { code, detail } | Farewell::Violation { code, detail } => {
                write!(out, "{code}: {detail}")
            }
            Farewell::TakenOver => out.write_str("a newer connection took the session over"),
            Farewell::Kicked => out.write_str("ended by an operator"),
            Farewell::ReauthenticationFailed => out.write_str("re-authentication failed"),
            Farewell::ServerShutdown => out.write_str("the server is shutting down"),
            Farewell::MemoryPressure => out.write_str("the server is out of memory"),
            Farewell::StaleClaim => out.write_str("a newer owner holds the session's state"),
            Farewell::NotDurable => out.write_str("a message could not be made durable in time"),
            Farewell::Bug(what) => write!(out, "internal error: {what}"),
        }
    }
}
