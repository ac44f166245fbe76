//! What the process says about itself: its metrics, its logs, and where its memory went.
//!
//! Three independent modules. [`metric`] is a registry with sharded counters that renders
//! Prometheus text. [`log`] turns `tracing` events into text or JSON lines through a bounded queue.
//! [`memory`] is the one accountant of the process: who holds how many bytes, and what must be
//! shed. Nothing here reads the environment or a configuration file; the binary passes values in.

pub mod byte_count;
pub mod log;
pub mod memory;
pub mod metric;

pub use byte_count::ByteCount;
