//! A message as it is stored: what its receivers are to get, and what a group needs to give it to
//! another member.

use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_codec::Qos;
use ratatosk_contract::{Message, PublisherId};
use ratatosk_engine::wire::{Malformed, Parser, put_bytes, put_u64};

use super::{flag, flags};

const FLAG_QOS: u8 = 0x03;
const FLAG_RETAIN: u8 = 0x04;
const FLAG_DEADLINE: u8 = 0x08;
const FLAG_PUBLISHER: u8 = 0x10;
const FLAG_PROPERTIES: u8 = 0x20;
const FLAGS: u8 = 0x3F;

/// A message without the moment in which it came, which nobody asks for later.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) properties: &'a [u8],
    /// At which it was published.
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// In milliseconds: a stamp, or for a will whose time has not begun, a span.
    pub(crate) deadline_ms: Option<u64>,
    /// Only where somebody may ask: with messages of groups.
    pub(crate) publisher: Option<PublisherId>,
}

impl<'a> MessageRecord<'a> {
    /// A message for queues.
    pub(crate) fn of(message: &Message<'a>, epoch: Epoch, has_publisher: bool) -> Self {
        MessageRecord {
            topic: message.topic,
            payload: message.payload,
            properties: message.properties,
            qos: message.qos,
            retain: message.retain,
            deadline_ms: message.deadline.map(|deadline| epoch.stamp(deadline).as_millis()),
            publisher: has_publisher.then_some(message.publisher),
        }
    }

    /// The message, as of `accepted`.
    pub(crate) fn to_message(self, epoch: Epoch, accepted: Instant) -> Message<'a> {
        let deadline = |stamp_ms| epoch.instant(Timestamp::from_millis(stamp_ms));
        Message {
            topic: self.topic,
            payload: self.payload,
            shared: None,
            properties: self.properties,
            qos: self.qos,
            retain: self.retain,
            publisher: self.publisher.unwrap_or(PublisherId(0)),
            accepted,
            deadline: self.deadline_ms.map(deadline),
        }
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.push(
            self.qos as u8
                | flag(self.retain, FLAG_RETAIN)
                | flag(self.deadline_ms.is_some(), FLAG_DEADLINE)
                | flag(self.publisher.is_some(), FLAG_PUBLISHER)
                | flag(!self.properties.is_empty(), FLAG_PROPERTIES),
        );
        put_bytes(into, self.topic.as_bytes());
        if let Some(deadline_ms) = self.deadline_ms {
            put_u64(into, deadline_ms);
        }
        if let Some(publisher) = self.publisher {
            into.extend_from_slice(&publisher.0.to_be_bytes());
        }
        if !self.properties.is_empty() {
            put_bytes(into, self.properties);
        }
        into.extend_from_slice(self.payload);
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let flags = flags(parser.take_u8()?, FLAGS)?;
        let topic = parser.take_str()?;
        let deadline_ms = if flags & FLAG_DEADLINE != 0 { Some(parser.take_u64()?) } else { None };
        let publisher = match flags & FLAG_PUBLISHER {
            0 => None,
            _ => {
                let number = parser.take_exactly(8)?.try_into().map_err(|_| Malformed)?;
                Some(PublisherId(u64::from_be_bytes(number)))
            }
        };
        let properties = match flags & FLAG_PROPERTIES {
            0 => &[],
            _ => Some(parser.take_bytes()?).filter(|bytes| !bytes.is_empty()).ok_or(Malformed)?,
        };
        Ok(MessageRecord {
            topic,
            payload: parser.rest(),
            properties,
            qos: Qos::try_from(flags & FLAG_QOS).map_err(|_| Malformed)?,
            retain: flags & FLAG_RETAIN != 0,
            deadline_ms,
            publisher,
        })
    }
}
