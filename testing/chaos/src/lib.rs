//! Several brokers of one cluster, as real processes, under load and under harm: nothing that they
//! acknowledged may be lost, and who is connected to another node does not notice.
//!
//! Clients, history and oracles are those of `testing/crash`; here each client is at one of several
//! nodes, goes to another when it loses it, and takes its session along. `rounds` runs the rounds:
//! load, harm (`harm`), healing, load, and then a pause in which everything is taken and judged.
//! The nodes (`node`, `cluster`) are processes in network namespaces (`network`), whose packets can
//! be lost in one direction; or on the loopback; or there is one alone, to show that clients and
//! oracles are right. `figures` counts and measures, `report` shows. `takeover` has clients that
//! compete for one session at different nodes, and oracles of its own.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of processes read the clock and the environment; nothing here ships"
)]

pub mod api;
pub mod cluster;
pub mod figures;
pub mod harm;
pub mod network;
pub mod node;
pub mod plan;
pub mod report;
pub mod roles;
pub mod rounds;
pub mod takeover;

pub use plan::{Ground, Harm, Plan};
pub use rounds::Outcome;
