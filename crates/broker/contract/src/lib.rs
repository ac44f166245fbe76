//! What the services of the broker tell each other: messages, client traits, shared plain types.

pub mod settings;
