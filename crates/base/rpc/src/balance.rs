//! Who gets a call: the servers that work for a tenant, and one of them by a mode.
//!
//! Pure: a [`Router`] follows from a landscape and never changes; draws and turns are arguments.
//! All hosts that see the same servers and rules choose alike for a key, whatever their word size
//! or release: hashes are XXH3 over names, and no floating point takes part.

mod pool;
mod rendezvous;
mod ring;
mod router;

use bytes::Bytes;

use crate::identity::ServerId;

pub use pool::Pool;
pub use router::{PoolIndex, Router, ServerIndex};

/// How the server of a call is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This server, whatever the traffic rules say.
    Server(ServerId),
    /// Any, by weight at random; one in this process if there is one.
    Random,
    /// One after the other, by weight; one in this process if there is one.
    RoundRobin,
    /// The one that the key falls to on a ring: when servers come or go, only their share of the
    /// keys moves, and keys are found in O(log n).
    Hashed(Bytes),
    /// The one that wins the key (highest random weight): spreads more evenly than the ring and
    /// needs no memory, in O(n).
    Rendezvous(Bytes),
}

#[cfg(test)]
#[path = "balance/balance_test.rs"]
mod tests;
