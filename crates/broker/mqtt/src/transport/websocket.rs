//! The server's end of one WebSocket connection: the upgrade, then frames.

use std::net::SocketAddr;

use tungstenite::protocol::frame::coding::CloseCode;

use crate::transport::config::WebSocketConfig;
use crate::transport::error::Error;
use crate::transport::frames::{self, FrameReader};
use crate::transport::tls::Flow;
use crate::transport::upgrade::{RealAddress, RequestHead};

/// One WebSocket connection.
pub(super) enum WebSocket {
    /// The HTTP request is incomplete.
    Upgrading(RequestHead),
    /// Frames are exchanged.
    Open(FrameReader),
    /// One side has sent its close frame, or the upgrade was refused.
    Closed,
}

/// What applies to every byte of one connection.
pub(super) struct Terms<'a> {
    pub(super) config: &'a WebSocketConfig,
    pub(super) packet_size_max: usize,
    pub(super) real_address: RealAddress,
}

impl Terms<'_> {
    fn frame_max(&self) -> u64 {
        self.config.frame_max.max(self.packet_size_max) as u64
    }
}

impl WebSocket {
    pub(super) fn new() -> Self {
        Self::Upgrading(RequestHead::default())
    }

    /// Takes bytes. Answers, of refusal too, are appended to `reply`; the client's address goes to
    /// `real_address` if the request tells it and may be believed.
    pub(super) fn receive(
        &mut self,
        mut bytes: &[u8],
        terms: &Terms<'_>,
        real_address: &mut Option<SocketAddr>,
        mqtt: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Flow, Error> {
        if let Self::Upgrading(head) = self {
            match head.receive(bytes, &terms.config.path, terms.real_address, reply) {
                Ok(None) => return Ok(Flow::Open),
                Ok(Some((upgrade, size))) => {
                    *real_address = upgrade.real_address;
                    *self = Self::Open(FrameReader::default());
                    bytes = &bytes[size..];
                }
                Err(error) => {
                    *self = Self::Closed;
                    return Err(error);
                }
            }
        }
        let Self::Open(reader) = self else {
            return Ok(Flow::Ended);
        };
        let outcome = reader.receive(bytes, terms.frame_max(), mqtt, reply);
        if let Err(error) = &outcome {
            frames::write_close(frames::close_code(error), reply);
        }
        if outcome != Ok(Flow::Open) {
            *self = Self::Closed;
        }
        outcome
    }

    /// Appends the close frame, if one is due.
    pub(super) fn close(&mut self, reply: &mut Vec<u8>) {
        if self.is_open() {
            frames::write_close(CloseCode::Normal, reply);
        }
        *self = Self::Closed;
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Upgrading(head) => head.memory(),
            Self::Open(reader) => reader.memory(),
            Self::Closed => 0,
        }
    }
}
