//! The protocol without its driver: no clock, no randomness, no sockets, no threads.
//!
//! [`machine::Machine`] is the whole of a host; the other modules are its parts, from the bytes up.

pub mod machine;

pub(crate) mod contact;
pub(crate) mod envelope;
pub(crate) mod frame;
mod front;
#[cfg(test)]
mod golden_test;
pub(crate) mod health;
pub(crate) mod hlc;
pub(crate) mod identity;
pub(crate) mod key;
pub(crate) mod message;
pub(crate) mod record;
pub(crate) mod records;
pub(crate) mod refusal;
pub(crate) mod replay;
pub(crate) mod rumours;
pub(crate) mod shared_map;
pub(crate) mod stream;
pub(crate) mod swim;
pub(crate) mod swim_codec;
pub(crate) mod tuning;
pub(crate) mod wire;
