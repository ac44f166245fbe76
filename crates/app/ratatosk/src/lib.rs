//! The MQTT broker Ratatosk: one binary that is the node and the operator's tool.
//!
//! `configuration` says what a node is told, `command` what an operator can ask for, `node` how
//! services become a node. Exit codes: see `exit::Code`. A library for the sake of its fuzz target
//! only: nothing else depends on it.

mod allocator;
mod broker;
mod cause;
mod client;
mod cluster;
mod command;
mod configuration;
mod exit;
mod ground;
mod metrics;
mod node;
mod operations;
mod rlimit;
mod signals;
mod store;
mod systemd;

use std::process::ExitCode;

#[cfg(any(test, feature = "fuzzing"))]
pub use self::configuration::fuzzing;

/// Does what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    allocator::settle();
    command::run()
}
