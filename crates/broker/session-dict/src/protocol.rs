//! Who holds a session when nodes are many: the protocol, without clock, randomness and sockets.
//!
//! A [`Roster`] is a node's part: its sessions, and what is to be done before one of them may be
//! told that it is alone. A [`Directory`] is a server's part: which nodes have registered which
//! session. Decision 0023 says what holds when, and why.

pub mod directory;
pub mod message;
pub mod roster;
pub mod stamp;
pub mod view;

#[cfg(test)]
mod simulation;

pub use directory::{Directory, Location};
pub use message::{Begun, Meeting, Question, Registration, Reply, Verdict};
pub use roster::{Effect, Effects, Roster, RosterStats, Tuning};
pub use stamp::{Host, Stamp, Time};
pub use view::{View, ViewId};
