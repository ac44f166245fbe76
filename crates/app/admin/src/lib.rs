//! Management over HTTP: metrics, health and status of a node, orders to end what a tenant has, and what
//! operators see and order of a cluster.
//!
//! Guarantees: an address that others can reach has a token, or there is no configuration for it;
//! the number of connections, the size of a request and the time that an idle connection stays are
//! bounded. The health checks need no token. What is said comes from [`Sources`]: this crate knows
//! no other service.

mod access;
pub mod cluster;
mod config;
mod connection;
mod expiry;
mod service;
mod sources;
mod token;

pub use config::{Config, ConfigError};
pub use expiry::Expiry;
pub use service::{Error, Service};
pub use sources::{Check, Sources};
pub use token::{Token, TokenError};
