//! The data plane: listeners, shards, connections.
//!
//! A connection is accepted, given to a shard, and stays there: bytes become packets, packets
//! become steps of a session, messages become frames in other sessions' outputs. What a session
//! may not know (sockets, other sessions, routes) is here; what it decides is in
//! `ratatosk-session`.
//!
//! In reading order: [`Config`], [`Mqtt`] and [`Running`], then `acceptor`, `shard`, `transport`.

mod acceptor;
mod arrivals;
mod config;
mod gate;
mod node;
mod ring;
mod service;
mod shard;
mod tenants;
pub mod transport;

pub use acceptor::ListenError;
pub use config::{Config, ListenerConfig, default_shards};
pub use node::{Post, Services};
pub use service::{Mqtt, Running, StartError};
pub use shard::{
    flow::Flow,
    stats::{NodeStats, Stats},
};
