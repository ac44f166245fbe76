//! A message as hosts hand it to each other, as bytes.
//!
//! Moments do not travel: of a deadline what is left, and the message counts as accepted when it comes.
//! The bytes are in `docs/formats/inbox-calls.md`.

use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{PublishProperties, Qos};
use ratatosk_contract::{Message, PublisherId, StoredMessage};
use ratatosk_engine::wire::{Malformed, Parser, put_bytes, put_u64};
use ratatosk_topic::{TopicLimits, TopicName};

const QOS: u8 = 0b0000_0011;
const RETAIN: u8 = 0b0000_0100;
const EXPIRES: u8 = 0b0000_1000;

/// Appends a message as of `now`.
pub(crate) fn put(into: &mut Vec<u8>, message: &Message<'_>, now: Instant) {
    let mut flags = message.qos as u8;
    if message.retain {
        flags |= RETAIN;
    }
    let remaining = message.deadline.map(|deadline| {
        let nanos = deadline.since(now).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    });
    if remaining.is_some() {
        flags |= EXPIRES;
    }
    into.reserve(64 + message.topic.len() + message.properties.len() + message.payload.len());
    into.push(flags);
    if let Some(remaining) = remaining {
        put_u64(into, remaining);
    }
    into.extend_from_slice(&message.publisher.0.to_be_bytes());
    put_bytes(into, message.topic.as_bytes());
    put_bytes(into, message.properties);
    put_bytes(into, message.payload);
}

/// Reads a message that came in `data` now. A large payload is shared with the bytes that it came in.
///
/// # Errors
/// [`Malformed`], also if it is none that a publisher could have sent.
pub(crate) fn take(
    parser: &mut Parser<'_>,
    data: &Bytes,
    now: Instant,
) -> Result<StoredMessage, Malformed> {
    let message = take_or_husk(parser, data, now)?;
    TopicName::parse(&message.topic, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
    Ok(message)
}

/// Reads a message that may be none any more: of one that was received, only that it was is kept, and it
/// has no topic then.
///
/// # Errors
/// [`Malformed`], also if it is neither.
pub(crate) fn take_husk(
    parser: &mut Parser<'_>,
    data: &Bytes,
    now: Instant,
) -> Result<StoredMessage, Malformed> {
    let message = take_or_husk(parser, data, now)?;
    if !message.topic.is_empty() {
        TopicName::parse(&message.topic, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
    }
    Ok(message)
}

fn take_or_husk(
    parser: &mut Parser<'_>,
    data: &Bytes,
    now: Instant,
) -> Result<StoredMessage, Malformed> {
    let flags = parser.take_u8()?;
    if flags & !(QOS | RETAIN | EXPIRES) != 0 {
        return Err(Malformed);
    }
    let remaining = if flags & EXPIRES == 0 { None } else { Some(parser.take_u64()?) };
    let publisher = take_fixed(parser)?;
    let topic = parser.take_str()?;
    let properties = parser.take_bytes()?;
    if !properties.is_empty() {
        PublishProperties::of_forwarded(properties).ok_or(Malformed)?;
    }
    let payload = parser.take_bytes()?;
    Ok(StoredMessage {
        topic: topic.into(),
        payload: share(data, payload),
        properties: properties.into(),
        qos: Qos::try_from(flags & QOS).map_err(|_| Malformed)?,
        retain: flags & RETAIN != 0,
        publisher: PublisherId(publisher),
        accepted: now,
        deadline: remaining.map(|remaining| now + Duration::from_millis(remaining)),
    })
}

/// A number of eight bytes, big-endian.
pub(crate) fn take_fixed(parser: &mut Parser<'_>) -> Result<u64, Malformed> {
    let bytes = parser.take_exactly(8)?;
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

/// A part of some bytes. Unless it is most of them, it does not keep the rest.
fn share(data: &Bytes, part: &[u8]) -> Bytes {
    let is_most = part.len() >= StoredMessage::SHARED_FROM_BYTES && part.len() * 2 >= data.len();
    if is_most { data.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}
