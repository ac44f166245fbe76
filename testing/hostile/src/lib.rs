//! Clients that do their worst against the real binary.
//!
//! `target` runs the broker and watches its size, its descriptors and its log; `neighbour` is the
//! client that behaves well and must not notice anything; `siege`, `nuisance` and `mutation` are
//! three kinds of attack: on memory, on patience, on decoders. `packet` writes what they send.
//! An attack reports what it saw and judges nothing: that is for its caller.
#![allow(
    clippy::disallowed_methods,
    reason = "tests of processes read the clock and the environment; nothing here ships"
)]

pub mod mutation;
pub mod neighbour;
pub mod nuisance;
pub mod packet;
pub mod siege;
pub mod target;

pub use neighbour::{Neighbours, PATIENCE, Served};
pub use target::Target;
