//! What retained messages are in the store: one record a topic.
//!
//! The bytes are specified in `docs/formats/retain.md`. What has another version is refused, not guessed at.

pub(crate) mod message;
pub(crate) mod stamp;
