//! Why a connection's layers gave up.
//!
//! Every variant but the last is the peer's doing: the connection must be closed after the bytes
//! that were appended to the wire (alert, HTTP 400, close frame) are flushed. Nothing of the
//! process is affected.

use std::net::SocketAddr;

/// What ends a connection below MQTT.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A source outside the trusted networks claims to be a proxy.
    #[error("proxy protocol header from {peer}, which is not in proxy_protocol.trusted")]
    ProxyUntrusted {
        /// The TCP peer.
        peer: SocketAddr,
    },
    /// The listener requires a header and the connection began without one.
    #[error("connection from {peer} has no proxy protocol header, which this listener requires")]
    ProxyMissing {
        /// The TCP peer.
        peer: SocketAddr,
    },
    /// The header began as one and then broke the format.
    #[error("proxy protocol header is malformed: {0}")]
    ProxyMalformed(#[from] crate::transport::proxy::Malformed),
    /// The first byte cannot begin a TLS connection.
    #[error("first byte {first:#04x} is not tls: the client speaks another protocol to this port")]
    TlsExpected {
        /// What came instead of a handshake record.
        first: u8,
    },
    /// The TLS handshake or a record failed; an alert is on the wire.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// A TLS message exceeds what is buffered.
    #[error("tls message exceeds the buffer limit")]
    TlsOversized,
    /// The HTTP request is not a WebSocket upgrade that is served here; 400 is on the wire.
    #[error("websocket upgrade refused: {reason}")]
    UpgradeRefused {
        /// Also the body of the response.
        reason: &'static str,
    },
    /// [MQTT-6.0.0-1] A text frame; close code 1003 is on the wire.
    #[error("websocket text frame: mqtt travels in binary frames only")]
    TextFrame,
    /// RFC 6455 5.1: a client must mask; close code 1002 is on the wire.
    #[error("websocket frame without mask")]
    UnmaskedFrame,
    /// The announced payload is larger than the limit; close code 1009 is on the wire.
    #[error("websocket frame of {size} bytes exceeds the limit of {maximum}")]
    FrameOversized {
        /// Announced payload length.
        size: u64,
        /// The limit in force.
        maximum: u64,
    },
    /// Another breach of RFC 6455; close code 1002 or 1007 is on the wire.
    #[error("websocket protocol error: {0}")]
    WebSocketProtocol(&'static str),
    /// The caller sent before the layers were open, or after they closed. Nothing was written.
    #[error("the transport is not open")]
    NotOpen,
}
