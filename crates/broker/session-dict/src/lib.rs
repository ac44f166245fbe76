//! Which connection holds which live session.
//!
//! [`DictService`] keeps every live session once, under its identity, in memory: the newest
//! registration wins and names the one before it. The directory is cut into stripes by the hash of
//! the identity, each behind a lock of its own, held for one lookup.
//!
//! Not here: ending the session that was replaced (mqtt), and fencing the owners of a persistent
//! session (inbox).

mod entry;
mod service;

pub use service::{DictService, DictStats};
