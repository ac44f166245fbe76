//! What an operator decides about the data plane.

use std::{net::SocketAddr, time::Duration};

use ratatosk_session::SessionConfig;

use crate::transport;

/// The data plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listeners: Vec<ListenerConfig>,
    /// Threads of the data plane; at most [`ratatosk_contract::ShardId::COUNT_MAX`].
    pub shards: usize,
    /// How long a connection may take to send its CONNECT. MQTT-012
    pub connect_timeout: Duration,
    /// How long a client's CONNECT waits while nobody serves its session.
    pub claim_patience: Duration,
    /// How long a client's SUBSCRIBE waits for an inbox that answers later, and how long a session is kept
    /// from its next connection after one ended that waited for it.
    pub inbox_patience: Duration,
    /// How long a client's PUBLISH waits while it is not known whether the routes of persistent sessions are all
    /// here. Then it is refused, or dropped if its QoS is 0. As long waits a subscription for retained messages
    /// while these may not all be here; then it gets those that are.
    pub route_patience: Duration,
    /// Connections accepted in a second; `None`: unlimited. MQTT-011
    pub connections_per_second_max: Option<u32>,
    /// Connections at a time; `None`: what the open files allow.
    pub connections_max: Option<usize>,
    /// Sessions ended in a second by a graceful stop. MQTT-015
    pub disconnects_per_second: u32,
    /// What holds before the tenant is known.
    pub session: SessionConfig,
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Its name in logs, and for authentication.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The layers between its sockets and MQTT.
    pub layers: transport::Config,
    /// A failure to listen stops the start; otherwise it is logged.
    pub is_required: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listeners: Vec::new(),
            shards: default_shards(),
            connect_timeout: Duration::from_secs(20),
            claim_patience: Duration::from_secs(5),
            inbox_patience: Duration::from_secs(30),
            route_patience: Duration::from_secs(10),
            connections_per_second_max: None,
            connections_max: None,
            disconnects_per_second: 1000,
            session: SessionConfig::default(),
        }
    }
}

/// One thread for each core. CFG-003
pub fn default_shards() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZeroUsize::get)
        .min(ratatosk_contract::ShardId::COUNT_MAX)
}
