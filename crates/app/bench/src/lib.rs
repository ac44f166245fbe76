//! The load generator of Ratatosk: it drives a broker, checks every delivery, and pronounces a verdict.
//!
//! One thread on one event loop. Each payload carries publisher, sequence number and time of sending, so
//! loss, duplicates and order are counted and not assumed. Loads are closed loops (windows end to end)
//! or evenly spaced with latency from the intended time. `machine` is the pure half; the rest drives
//! sockets, `/proc`, the broker's directory and the brokers that are compared.

mod args;
mod run;

mod plan;

mod machine;

mod clock;
mod limits;
mod load;
mod meter;
mod net;
mod publisher;

mod bench;
mod disk;
mod doors;

mod absent;
mod churn;
mod connections;
mod queue;
mod restart;
mod retained;
mod steady;

mod broker;
mod compare;
mod forwarder;

mod live;
mod report;

pub use crate::args::Args;
pub use crate::forwarder::Forwarder;
pub use crate::machine::figure::{Figures, Unit};
pub use crate::report::Report;
pub use crate::run::run;
