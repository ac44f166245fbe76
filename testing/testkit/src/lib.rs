//! What tests and benchmarks of several crates share. Knows none of them, and of the broker only
//! how it is built.
#![allow(
    clippy::disallowed_methods,
    reason = "benchmarks read the clock, tests make folders and run programs; nothing here ships"
)]

pub mod binary;
pub mod dice;
pub mod gauge;
pub mod ports;
pub mod scratch;
