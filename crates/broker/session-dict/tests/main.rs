//! The session directory of several nodes of one process, over real sockets.

mod hosts;
mod lookups;
mod membership;
mod support;
mod takeover;
