//! The data plane with its real services under MQTT clients, in one process.
//!
//! [`Broker`] starts `ratatosk-mqtt` with routing, inboxes, retained messages and the directory of
//! sessions on a free port; [`Client`] speaks MQTT to it over TCP, one blocking socket each. What
//! is waited for is an event, never a span of time; a limit of patience makes what does not come a
//! failure. Nothing here ships.
#![allow(clippy::disallowed_methods, reason = "tests read the clock; nothing here ships")]

mod broker;
mod client;
mod connector;
mod event;
mod providers;
mod store;
mod tunnel;

pub use broker::{Broker, Retained, Setup};
pub use client::{Client, PATIENCE};
pub use connector::{Connector, Testament};
pub use event::{Event, Message, Welcome};
pub use providers::{AuthBy, PermissionBy, SettingsBy};
pub use store::{Reply, Store};
pub use tunnel::{Site, Tunnel, plain};
