//! The byte layers between a socket and MQTT: PROXY protocol, TLS, WebSocket.
//!
//! A [`Pipeline`] is a pure machine: socket bytes in, MQTT bytes and bytes for the socket out.
//! The layers are nested in this order, each of them optional:
//!
//! ```text
//! socket → PROXY header (once, in clear) → TLS → WebSocket → MQTT packets
//! ```
//!
//! TLS is rustls; the WebSocket handshake is tungstenite's. Frames are read here, because MQTT is a
//! stream: payload is passed on as it arrives, where a message API would hold it until complete.
//!
//! Guarantees: however the bytes are cut by the network, the same MQTT bytes come out, each of them
//! and in order [MQTT-4.2.0-1] [MQTT-7.1.1-1]; no layer
//! holds more than its limit; one call writes at most what its input can cause. Certificates are
//! replaced for new connections without touching the old ones.
//! Deliberately absent: sockets, timers (the driver owns the handshake deadline), MQTT packets.
//! Only [`Layers::open`], [`Layers::reload`] and [`Watch`] touch the file system.

mod config;
mod credentials;
mod error;
mod frames;
mod layers;
mod network;
mod peer;
mod pipeline;
pub mod proxy;
mod tls;
mod upgrade;
mod watch;
mod websocket;

pub use self::config::{ClientAuth, Config, ConfigError, ProxyConfig, TlsConfig, WebSocketConfig};
pub use self::error::Error;
pub use self::layers::Layers;
pub use self::network::{IpNetwork, IpNetworkError};
pub use self::peer::Peer;
pub use self::pipeline::{Pipeline, Received, State};
pub use self::watch::{Watch, WatchError};

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the fuzz targets need a part of it"))]
mod fixture;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod pipeline_test;
#[cfg(test)]
mod proxy_test;
#[cfg(test)]
mod tls_test;
#[cfg(test)]
mod websocket_test;
