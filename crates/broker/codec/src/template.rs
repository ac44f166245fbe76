//! A PUBLISH encoded once and appended to many receivers, each with its own packet id.
//!
//! Receivers share a template when version, QoS, flags, alias, expiry and subscription ids are
//! the same. Invariant: there is a place for the packet id exactly when the QoS is not 0.

use crate::outgoing::{HEAD_BYTES, Outgoing};
use crate::version::PacketId;

/// A frame to be copied; its buffer is reused by the next [`fill`](Self::fill).
#[derive(Debug, Clone, Default)]
pub struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
}

impl Template {
    /// An empty template.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), packet_id_at: None }
    }

    /// Replaces the frame. With QoS 1 or 2 `message` needs some packet id, which
    /// [`append`](Self::append) replaces.
    #[inline]
    pub fn fill(&mut self, message: &Outgoing<'_>) {
        self.bytes.clear();
        let sizes = message.sizes();
        self.bytes.reserve(HEAD_BYTES + sizes.remaining);
        self.packet_id_at = message.write_head(sizes, &mut self.bytes);
        self.bytes.extend_from_slice(message.payload);
    }

    /// Appends the frame with the receiver's packet id: there exactly when the QoS is not 0.
    #[inline]
    pub fn append(&self, out: &mut Vec<u8>, packet_id: Option<PacketId>) {
        assert!(!self.bytes.is_empty(), "the template was filled");
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        match (self.packet_id_at, packet_id) {
            (None, None) => {}
            (Some(at), Some(id)) => {
                out[start + at..start + at + 2].copy_from_slice(&id.value().to_be_bytes());
            }
            (at, id) => panic!("packet id {id:?} does not go with a place for it at {at:?}"),
        }
    }

    /// The length of the frame.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it was not filled yet.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
