//! What clients see of the data plane: one binary, a module for each part of the protocol.
#![allow(clippy::disallowed_methods, reason = "tests read the clock; nothing here ships")]

mod cases;
mod connect;
mod durable;
mod events;
mod flow;
mod order;
mod publish;
mod retain;
mod session;
mod shared;
mod subscribe;
mod tenants;
mod wills;
