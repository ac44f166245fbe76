//! What tests and benchmarks of several crates share. Knows none of them.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and its arguments; nothing here ships"
)]

pub mod gauge;
