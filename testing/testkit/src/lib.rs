//! What tests and benchmarks of several crates share. Knows none of them.
#![allow(
    clippy::disallowed_methods,
    reason = "benchmarks read the clock, tests make folders; nothing here ships"
)]

pub mod gauge;
pub mod scratch;
