//! The limits and times of a node.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::Identity;
use crate::transport::Tls;

/// What a node needs to know before it starts. Every queue and every wait of this crate has its
/// bound here.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who the node is.
    pub identity: Identity,
    /// Certificates; without any, connections are plain.
    pub tls: Option<Arc<Tls>>,
    /// How long a call may take that has no deadline of its own.
    pub call_timeout: Duration,
    /// How long making a connection may take, with TLS and handshake.
    pub connect_timeout: Duration,
    /// How long a peer has for TLS and handshake, and for the first frame of a call.
    pub handshake_timeout: Duration,
    /// How long a peer has to send the message of a single call, and to take its answer.
    pub transfer_timeout: Duration,
    /// How often a connection is looked at.
    pub keepalive_interval: Duration,
    /// How long a peer has to answer such a look.
    pub keepalive_timeout: Duration,
    /// First and longest delay between two attempts to connect.
    pub reconnect_delay: (Duration, Duration),
    /// Longest message, in bytes. Both sides refuse longer ones.
    pub message_bytes_max: usize,
    /// Connections that are let in at a time.
    pub connections_max: usize,
    /// Calls at a time on one connection.
    pub streams_max: u32,
    /// Connections to each host. One is one task: more only help where cores are many.
    pub connections_per_host: usize,
    /// Questions of one pipeline that its server works on at a time; at least one.
    pub pipeline_window: usize,
    /// Messages of a stream that its receiver has room for, each way: the credit it gives.
    pub stream_window: u32,
    /// Bytes on their way to this side for which a stream has room, and all streams of a connection
    /// together. The second is what a peer can have lie here unread; as long as it is many times
    /// the first, a stream that nobody reads does not stop the others.
    pub window_bytes: (u32, u32),
    /// How long a server that is no longer in a landscape has to answer what is under way.
    pub drain_timeout: Duration,
}

impl Config {
    /// The usual limits.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self {
            identity,
            tls: None,
            call_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            transfer_timeout: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(3),
            reconnect_delay: (Duration::from_millis(50), Duration::from_secs(5)),
            message_bytes_max: 4 << 20,
            connections_max: 1_024,
            streams_max: 1_024,
            connections_per_host: 1,
            pipeline_window: 256,
            stream_window: 64,
            window_bytes: (512 << 10, 64 << 20),
            drain_timeout: Duration::from_secs(30),
        }
    }

    /// The longest frame: a message and what travels with it.
    pub(crate) const fn frame_bytes_max(&self) -> usize {
        self.message_bytes_max.saturating_add(1_024)
    }
}

/// Bytes of headers of a call: a path of two names.
pub(crate) const HEADER_BYTES_MAX: u32 = 4 << 10;
