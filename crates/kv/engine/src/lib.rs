//! Ordered local storage of one node: what a range's state is kept in.
//!
//! An [`Engine`] holds a few ordered maps of bytes, its spaces, and writes batches to them
//! atomically. [`DurableEngine`] keeps them on disk, [`MemoryEngine`] does not; both obey the same
//! contract tests. An [`Overlay`] stands above an engine: it takes what was applied from a log that
//! is durable already, shows it to readers at once, and hands it down at checkpoints, so that
//! the engine's stalls and its write amplification stay off the path of an acknowledgement.
//!
//! Nothing here knows ranges, Raft or what the bytes mean.

mod batch;
mod durable;
mod engine;
mod layer;
mod memory;
mod overlay;
mod range;
mod weight;
pub mod wire;

pub use batch::{Batch, Change, KEY_BYTES_MAX};
pub use durable::{DurableConfig, DurableEngine, Haste};
pub use engine::{Engine, Error, SpaceId, View, Visitor};
pub use memory::MemoryEngine;
pub use overlay::{Checkpointed, Overlay, OverlayView};
pub use range::KeyRange;
pub use weight::Weight;
