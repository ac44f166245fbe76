//! What retained messages are in the store: one record a topic.
//!
//! The bytes are specified in `docs/formats/retain.md`. One version is written; what has another is
//! refused, not guessed at.

pub(crate) mod message;
