//! An application message on its way through the broker.
//!
//! [`Message`] borrows from wherever the bytes are: a read buffer, a record between shards, a
//! stored message. [`StoredMessage`] owns them and is shared. The forwarded properties are kept
//! as the bytes of MQTT 5.0, in the order in which they were received, without topic alias,
//! message expiry and subscription identifiers, which the broker sets itself per receiver.

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::Qos;

use crate::PublisherId;

/// A message, borrowed.
#[derive(Copy, Clone, Debug)]
pub struct Message<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// The application's bytes.
    pub payload: &'a [u8],
    /// The same bytes as `payload`, if they are large enough to be shared rather than copied.
    pub shared: Option<&'a Bytes>,
    /// Forwarded properties in the bytes of MQTT 5.0.
    pub properties: &'a [u8],
    /// The quality of service at which it was published.
    pub qos: Qos,
    /// The RETAIN flag as it was published.
    pub retain: bool,
    /// Who published it.
    pub publisher: PublisherId,
    /// When the broker accepted it.
    pub accepted: Instant,
    /// When it expires; `None`: never.
    pub deadline: Option<Instant>,
}

impl Message<'_> {
    /// The bytes that the message occupies wherever it is kept.
    pub fn size_bytes(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// What an owned copy occupies besides the payload.
    pub fn stored_bytes(&self) -> usize {
        size_of::<StoredMessage>() + self.topic.len() + self.properties.len()
    }

    /// Whether its time is over. [MQTT-3.3.2-5]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// The Message Expiry Interval to forward: what is left of it in seconds, rounded up.
    /// [MQTT-3.3.2-6]
    pub fn expiry_left(&self, now: Instant) -> Option<u32> {
        let left = self.deadline?.since(now).as_nanos().div_ceil(1_000_000_000);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// An owned copy. Shares the payload if it is shared already.
    pub fn to_stored(&self) -> StoredMessage {
        self.to_stored_as(
            self.shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.payload)),
        )
    }

    /// An owned copy around `payload`, which has the same bytes: for who keeps it in his own way.
    pub fn to_stored_as(&self, payload: Bytes) -> StoredMessage {
        debug_assert_eq!(payload.len(), self.payload.len(), "the same bytes");
        StoredMessage {
            topic: self.topic.into(),
            payload,
            properties: self.properties.into(),
            qos: self.qos,
            retain: self.retain,
            publisher: self.publisher,
            accepted: self.accepted,
            deadline: self.deadline,
        }
    }
}

/// A message, owned. Kept behind an `Arc` where several hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// See [`Message::topic`].
    pub topic: Box<str>,
    /// See [`Message::payload`].
    pub payload: Bytes,
    /// See [`Message::properties`].
    pub properties: Box<[u8]>,
    /// See [`Message::qos`].
    pub qos: Qos,
    /// See [`Message::retain`].
    pub retain: bool,
    /// See [`Message::publisher`].
    pub publisher: PublisherId,
    /// See [`Message::accepted`].
    pub accepted: Instant,
    /// See [`Message::deadline`].
    pub deadline: Option<Instant>,
}

impl StoredMessage {
    /// Payloads from this size on are shared between receivers instead of copied.
    pub const SHARED_FROM_BYTES: usize = 4096;

    /// The message, borrowed.
    pub fn as_message(&self) -> Message<'_> {
        let is_large = self.payload.len() >= Self::SHARED_FROM_BYTES;
        Message {
            topic: &self.topic,
            payload: &self.payload,
            shared: is_large.then_some(&self.payload),
            properties: &self.properties,
            qos: self.qos,
            retain: self.retain,
            publisher: self.publisher,
            accepted: self.accepted,
            deadline: self.deadline,
        }
    }

    /// The bytes that it occupies, its own structure included.
    pub fn size_bytes(&self) -> usize {
        self.as_message().stored_bytes() + self.payload.len()
    }
}
