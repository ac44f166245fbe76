//! MQTT service: everything between a client's socket and the session.
//!
//! Guarantees: bytes from the network never panic, and what a connection may hold is bounded at
//! each layer. Deliberately absent: topics, routes and queues; those belong to other services.

pub mod transport;

pub use crate::transport::{Layers, Pipeline};
