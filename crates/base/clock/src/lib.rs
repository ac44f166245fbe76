//! Time as an argument.
//!
//! State machines take an [`Instant`] and never read a clock; drivers own a [`SystemClock`] and
//! pass what it says. So every machine can be run under a simulated clock, tick by tick.
//!
//! [`Wheel`] is the timer of a shard: one entry a connection, filed by the second it is due and
//! asked again when it comes up, so that pushing a deadline back costs nothing.

mod instant;
mod system;
mod wheel;

pub use instant::{Epoch, Instant, Timestamp};
pub use system::{Clock, SystemClock};
pub use wheel::Wheel;
