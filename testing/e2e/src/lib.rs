//! The real binary and foreign clients: processes, sockets, kill -9.
//!
//! `broker` runs the binary on free ports and ends it whatever happens, `scripts` runs the clients
//! of `clients/` against it, `mosquitto` those of mosquitto; `raw` says bytes that no client says,
//! `relay` is a proxy in front of it. `local` is a cluster of several, as `ratatosk dev` runs it.
//! Nothing here is skipped: a missing client or binary is a failure that says what to do.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of processes read the clock and the environment; nothing here ships"
)]

mod broker;
mod local;
mod mosquitto;
mod place;
mod process;
mod raw;
mod relay;
mod scripts;

pub use broker::{Broker, Transport};
pub use local::{Local, Node};
pub use mosquitto::{Exchange, Sleeper, mosquitto, publish, retained, round_trip};
pub use place::Place;
pub use process::{Outcome, Process, until};
pub use raw::{Connect, Packet, Raw, Request};
pub use relay::Relay;
pub use scripts::{Suite, run};
