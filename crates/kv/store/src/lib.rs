//! The replicated store of one node: ranges, each with a Raft group and a coprocessor.
//!
//! [`log`] is what all groups of the node share: one fsync serves them all. [`machine`] drives the
//! groups, [`host`] carries out what they commit, [`node`] puts the two on threads and disks. A
//! service brings a [`coprocessor`] and reaches its ranges through the client.
//!
//! A range is kept by the members of its group ([`membership`]), which may be on many stores; what they
//! tell each other is carried by a [`transport`].

pub mod command;
pub mod coprocessor;
pub mod edition;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod host;
mod identity;
pub mod log;
pub mod machine;
mod mark;
pub mod membership;
pub mod node;
pub mod open;
mod panic;
pub mod range;
pub mod recover;
mod room;
pub mod snapshot;
mod sum;
pub mod transport;

pub use identity::Identity;
pub use open::Error as OpenError;
