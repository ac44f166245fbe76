//! Events: what the broker reports of itself, and who collects it.
//!
//! An event borrows all that it tells, so that making one costs nothing; a collector that keeps
//! one copies what it needs. Payloads, passwords and authentication data are in no event.

mod catalogue;
mod collector;
mod stamp;

pub use catalogue::{DropReason, EventGroup, EventKind, EventType, LastWill, Publication, Push};
pub use collector::{CollectorCounts, EventCollector, EventCollectors};
pub use stamp::{HybridClock, HybridTime};

use std::net::SocketAddr;
use std::sync::Arc;

use ratatosk_codec::ProtocolVersion;

use crate::auth::ConnectionId;
use crate::permission::Identity;

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// When, comparable between nodes.
    pub at: HybridTime,
    /// The client that it happened to, once there is one.
    pub client: Option<&'a ClientInfo>,
    /// What.
    pub kind: EventKind<'a>,
}

/// The client of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// Tenant, user, client id and attributes.
    pub identity: Identity,
    /// The protocol that it speaks.
    pub version: ProtocolVersion,
    /// Its connection.
    pub connection: ConnectionId,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The node that serves it.
    pub node: Arc<str>,
    /// Whether its session outlives the connection.
    pub is_persistent: bool,
}

/// Receives one field of an event: its name and its value.
pub type FieldVisitor<'v> = dyn FnMut(&'static str, &dyn std::fmt::Debug) + 'v;
