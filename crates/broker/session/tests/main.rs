//! The session, fed with bytes and read by its bytes.

mod authentication;
mod bounds;
mod connect;
mod ending;
mod harness;
mod on_behalf;
mod outbound;
mod properties;
mod publish;
mod resume;
mod subscribe;
