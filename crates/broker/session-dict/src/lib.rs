//! Which connection holds which live session.
//!
//! [`DictService`] is the directory of a node that stands alone. It keeps every live session once,
//! under its identity, in memory: the newest registration wins and names the one before it. It is
//! cut into stripes by the hash of the identity, each behind a lock of its own, held for one lookup.
//!
//! [`ClusterDict`] is that of a node among others: a session is registered at the server that it
//! belongs to, and whoever has it, wherever that is, ends before a new connection gets it.
//! [`protocol`] is all of that without clock and network; decision 0023 says what holds when.
//!
//! Not here: how a connection ends (mqtt), and fencing the owners of a persistent session (inbox).

mod entry;
mod service;

pub mod protocol;

mod cluster;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use cluster::{ClusterConfig, ClusterDict, ClusterStats, Killed, Listing, Owner, Victims};
pub use service::{DictService, DictStats};
