//! The record of a retained message, and its key.
//!
//! A key is the tenant, a byte that no UTF-8 contains, and a hash of the topic: the keys of a tenant
//! are neighbours, no tenant's keys begin with those of another, and a key stays short however long
//! the topic is. The whole topic is in the record.
//!
//! A record has one form: what decodes is what would be encoded. One of a single node has no stamp,
//! one that several nodes may change has the stamp of its change. Not checked here is whether the topic
//! is one, which is the matter of whoever reads it back.

use ratatosk_clock::{Instant, Timestamp};
use ratatosk_codec::Qos;
use ratatosk_contract::{Message, PublisherId};
use ratatosk_engine::{
    KEY_BYTES_MAX, KeyRange,
    wire::{Malformed, Parser, put_bytes, put_u64},
};
use sha2::{Digest, Sha256};

use super::stamp::Stamp;

/// The first byte of a record without a stamp.
const VERSION: u8 = 1;
/// The first byte of a record with a stamp.
const VERSION_STAMPED: u8 = 2;
/// The bits of the second byte: the QoS, and whether there is a deadline.
const QOS_BITS: u8 = 0b011;
const DEADLINE_BIT: u8 = 0b100;
/// Ends the tenant in a key.
const TENANT_END: u8 = 0xFF;

/// The longest name of a tenant that fits into a key.
pub(crate) const TENANT_BYTES_MAX: usize = KEY_BYTES_MAX - 1 - TopicHash::BYTES;

/// A topic in a key: the beginning of its SHA-256. Two topics of a tenant that share it replace
/// each other; to find such two takes 2⁶⁴ attempts.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopicHash([u8; TopicHash::BYTES]);

impl TopicHash {
    /// How long it is.
    pub(crate) const BYTES: usize = 16;

    /// The hash of a topic.
    pub(crate) fn of(topic: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(topic).into();
        let (beginning, _) = digest.split_first_chunk().expect("16 is less than 32");
        TopicHash(*beginning)
    }

    /// Reads what [`as_bytes`](Self::as_bytes) gave.
    pub(crate) fn take(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        let bytes = parser.take_exactly(Self::BYTES)?;
        bytes.try_into().map(TopicHash).map_err(|_| Malformed)
    }

    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The key of a tenant's topic.
pub(crate) fn key(tenant: &str, topic: TopicHash) -> Vec<u8> {
    let mut key = Vec::with_capacity(tenant.len() + 1 + TopicHash::BYTES);
    key.extend_from_slice(tenant.as_bytes());
    key.push(TENANT_END);
    key.extend_from_slice(topic.as_bytes());
    key
}

/// The keys of a tenant.
pub(crate) fn keys_of(tenant: &str) -> KeyRange {
    KeyRange::prefix(&[tenant.as_bytes(), &[TENANT_END]].concat())
}

/// Tenant and topic of a key.
pub(crate) fn parse_key(key: &[u8]) -> Result<(&str, TopicHash), Malformed> {
    let end = key.len().checked_sub(1 + TopicHash::BYTES).ok_or(Malformed)?;
    let (tenant, rest) = key.split_at(end);
    let mut parser = Parser::new(rest);
    if parser.take_u8()? != TENANT_END {
        return Err(Malformed);
    }
    let tenant = std::str::from_utf8(tenant).map_err(|_| Malformed)?;
    Ok((tenant, TopicHash::take(&mut parser)?))
}

/// A retained message as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// Which change it came by; none if a single node keeps it.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) topic: &'a str,
    /// Never empty: an empty message is not kept. [MQTT-3.3.1-7]
    pub(crate) payload: &'a [u8],
    /// Forwarded properties in the bytes of MQTT 5.0.
    pub(crate) properties: &'a [u8],
    pub(crate) qos: Qos,
    pub(crate) publisher: PublisherId,
    pub(crate) accepted: Timestamp,
    pub(crate) deadline: Option<Timestamp>,
}

impl<'a> Record<'a> {
    /// Appends the record behind its length.
    pub(crate) fn put(&self, into: &mut Vec<u8>) {
        debug_assert!(!self.payload.is_empty(), "an empty message is not kept");
        let head = self.head();
        into.reserve(head.len() + self.payload.len() + 10);
        put_u64(into, (head.len() + self.payload.len()) as u64);
        into.extend_from_slice(&head);
        into.extend_from_slice(self.payload);
    }

    /// All but the payload, which comes last.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(32 + self.topic.len() + self.properties.len());
        let deadline_bit = if self.deadline.is_some() { DEADLINE_BIT } else { 0 };
        let version = if self.stamp.is_some() { VERSION_STAMPED } else { VERSION };
        head.extend([version, self.qos.value() | deadline_bit]);
        if let Some(stamp) = self.stamp {
            stamp.put(&mut head);
        }
        head.extend(self.publisher.0.to_le_bytes());
        put_u64(&mut head, self.accepted.as_millis());
        if let Some(deadline) = self.deadline {
            put_u64(&mut head, deadline.as_millis());
        }
        put_bytes(&mut head, self.topic.as_bytes());
        put_bytes(&mut head, self.properties);
        head
    }

    /// Reads a record. Copies nothing.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let is_stamped = match parser.take_u8()? {
            VERSION => false,
            VERSION_STAMPED => true,
            _ => return Err(Malformed),
        };
        let flags = parser.take_u8()?;
        if flags & !(QOS_BITS | DEADLINE_BIT) != 0 {
            return Err(Malformed);
        }
        let stamp = if is_stamped { Some(Stamp::take(&mut parser)?) } else { None };
        let qos = Qos::try_from(flags & QOS_BITS).map_err(|_| Malformed)?;
        let publisher = parser.take_exactly(8)?.try_into().map_err(|_| Malformed)?;
        let accepted = parser.take_u64()?;
        let deadline = match flags & DEADLINE_BIT {
            0 => None,
            _ => Some(parser.take_u64()?),
        };
        let topic = parser.take_str()?;
        let properties = parser.take_bytes()?;
        let payload = parser.rest();
        if payload.is_empty() {
            return Err(Malformed);
        }
        Ok(Record {
            stamp,
            topic,
            payload,
            properties,
            qos,
            publisher: PublisherId(u64::from_le_bytes(publisher)),
            accepted: Timestamp::from_millis(accepted),
            deadline: deadline.map(Timestamp::from_millis),
        })
    }

    /// The message, with times of this process.
    pub(crate) fn message(&self, accepted: Instant, deadline: Option<Instant>) -> Message<'a> {
        Message {
            topic: self.topic,
            payload: self.payload,
            shared: None,
            properties: self.properties,
            qos: self.qos,
            retain: true,
            publisher: self.publisher,
            accepted,
            deadline,
        }
    }
}
