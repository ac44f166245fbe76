//! The real binary and foreign clients: processes, sockets, kill -9.
//!
//! `binary` builds or finds `ratatosk`, `broker` runs it on free ports and ends it whatever
//! happens, `scripts` runs the clients of `clients/` against it, `mosquitto` those of mosquitto.
//! Nothing here is skipped: a missing client or binary is a failure that says what to do.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of processes read the clock and the environment; nothing here ships"
)]

mod binary;
mod broker;
mod mosquitto;
mod process;
mod scripts;

pub use broker::{Broker, Transport};
pub use mosquitto::{Exchange, Sleeper, publish, retained, round_trip};
pub use scripts::{Suite, run};
