//! The MQTT broker Ratatosk: one binary that is the node and the operator's tool.
//!
//! `configuration` says what a node is told, `command` what an operator can ask for, `node` how
//! services become a node. Here is only what a process needs at its edge. Exit codes: see
//! [`exit::Code`].

mod allocator;
mod broker;
mod cause;
mod client;
mod command;
mod configuration;
mod exit;
mod metrics;
mod node;
mod rlimit;
mod signals;
mod systemd;

use std::process::ExitCode;

/// Memory that clients made the broker take goes back to the system when they go. glibc keeps
/// three quarters of it after an attack, and a broker that looks full refuses everybody.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    allocator::settle();
    command::run()
}
