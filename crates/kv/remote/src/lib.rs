//! Stores of different processes.
//!
//! A [`Network`] joins the store of this process with those of others: it carries what stores tell each
//! other ([`Transport`](ratatosk_store::transport::Transport)), what they tell of themselves
//! ([`Words`](ratatosk_balance::keeper::Words)), and what clients want of ranges that another store leads
//! ([`Store`](ratatosk_client::Store)). Who is where it learns from `base/rpc`, which learns it from the
//! cluster. [`bootstrap`] is what comes before: in which cluster a node is, or whether it makes one.
//!
//! It guarantees that no thread of a store ever waits for a peer, that what waits for a peer is bounded,
//! that one who does not read keeps nobody else waiting, and that a store speaks for itself only. Packets
//! may be lost, as their senders expect. Whether another store lives is not decided here: stores tell each
//! other.
//!
//! The bytes are in `docs/formats/stores.md`; decision 0020 says why it is as it is.

pub mod bootstrap;
mod directory;
mod editions;
mod far;
mod follow;
mod frames;
mod lane;
mod line;
mod metrics;
mod mirror;
mod network;
pub mod node;
mod order;
pub mod packet;
mod peer;
mod record;
mod serve;
mod standings;
mod talk;
mod words;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

/// What is made of `proto/stores.proto`.
mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/ratatosk.kv.rs"));
}

pub use directory::{Clash, Roll, Seat};
pub use network::{Config, Network, ServeError, Serving, service_name};
pub use node::Node;
pub use order::{OrderError, Orders};
pub use standings::StandError;
