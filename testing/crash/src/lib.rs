//! The real binary under load, killed again and again: nothing that it acknowledged may be lost.
//!
//! `testing/chaos` has the same clients, history and oracles for several brokers of one cluster.
//!
//! `torture` runs the rounds: load, kill -9, restart on the same folder, and at the end a drain.
//! The clients outlive the broker and keep their side of a session as the specification asks
//! (`publisher`, `subscriber`, `mortal`); `cast` says who they are. All that they do and see goes
//! to a `history`, and `oracle` judges it afterwards: a pure function, tested with histories made
//! by hand. A seed decides what clients do and when the broker is killed; how the two meet is up
//! to the machine, so that a seed is repeated to look for the same kind of trouble, not to get
//! the same packets.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of processes read the clock and the environment; nothing here ships"
)]

pub mod broker;
pub mod cast;
pub mod connection;
pub mod drain;
pub mod history;
pub mod mortal;
pub mod oracle;
pub mod probe;
pub mod publisher;
pub mod report;
pub mod stage;
mod subscriber;
pub mod torture;
mod transient;

pub use torture::{Blow, Outcome, Plan};
