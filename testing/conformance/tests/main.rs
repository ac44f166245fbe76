//! What clients see of the data plane: one binary, a module for each part of the protocol.
#![allow(clippy::disallowed_methods, reason = "tests read the clock; nothing here ships")]

mod answers;
mod authentication;
mod away;
mod cases;
mod connack;
mod connect;
mod conservation;
mod departures;
mod durable;
mod events;
mod farewells;
mod flow;
mod half_close;
mod kept;
mod lagging;
mod later;
mod memory;
mod nodes;
mod on_behalf;
mod once;
mod order;
mod outbound;
mod pauses;
mod publish;
mod refusals;
mod relay;
mod retain;
mod routes;
mod session;
mod shared;
mod stores;
mod subscribe;
mod takeover;
mod tenants;
mod wills;
