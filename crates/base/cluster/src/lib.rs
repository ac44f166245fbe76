//! The hosts of a cluster, and the agents that run on them.
//!
//! *Underlay*: hosts find each other by seeds, notice by SWIM who is gone, and find each other again
//! after a partition. *Overlay*: each host tells of itself, in one versioned record, which agents run on
//! it; a small map that all may write holds what has no owner; agents send each other messages.
//!
//! [`protocol`] is all of that without clock, randomness and sockets; its driver is [`Cluster`].
//! Decision 0017 says why it is as it is, `docs/formats/gossip.md` what goes over the wire.
//!
//! It guarantees no order and no agreement: what two hosts see of each other may differ for seconds, and
//! whoever needs more builds it on top (`kv`).

pub mod protocol;

mod ask;
mod cluster;
mod config;
mod driver;
mod watch;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use ask::{AskError, ask_cluster};
pub use cluster::{Agent, Cluster, INBOX_MAX, Incoming, Space};
pub use config::{Config, SEED_NAMES_MAX, StartError};
pub use driver::CONNECTIONS_MAX;
pub use protocol::envelope::PACKET_MAX;
pub use protocol::frame::FRAME_MAX;
pub use protocol::health::SCORE_MAX;
pub use protocol::hlc::{AHEAD_MAX, Stamp};
pub use protocol::identity::{ClusterId, Host, HostId, NotAClusterId};
pub use protocol::key::{KEYS_MAX, KeyError, KeyRing};
pub use protocol::machine::{Event, Member, SEEDS_MAX, SendError, Sources};
pub use protocol::message::{Audience, Carriage, MESSAGE_MAX};
pub use protocol::record::{
    AGENTS_MAX, AgentAddress, AgentName, Labels, METADATA_MAX, Metadata, NAME_MAX, RECORD_MAX,
    RecordError,
};
pub use protocol::records::Landscape;
pub use protocol::refusal::{Count, Counters, Refusal};
pub use protocol::shared_map::{ENTRIES_MAX, KEY_MAX, MAP_MAX, MapError, MapKey, VALUE_MAX};
pub use protocol::swim::HOSTS_MAX;
pub use protocol::tuning::Tuning;
pub use watch::Watch;
