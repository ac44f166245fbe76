//! The replicated store of one node.
//!
//! Today: the Raft log that all groups of the node share, and a group's view of it. The store loop,
//! apply and the coprocessor host stand on these.

pub mod coprocessor;
pub mod log;
