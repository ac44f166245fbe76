//! Messages on their way to a host, and what became of them, as bytes.
//!
//! Messages stand one after the other, each behind its length. What a later version adds behind a message
//! is passed over. The bytes are in `docs/formats/relay.md`.

use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{PublishProperties, Qos};
use ratatosk_contract::relay::{Addressee, Dispatch, Fate};
use ratatosk_contract::{Message, PublisherId, StoredMessage};
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::record::{len, take_id};

const QOS: u8 = 0b0000_0011;
const RETAIN: u8 = 0b0000_0100;
const EXPIRES: u8 = 0b0000_1000;
const MEMBER: u8 = 0b0001_0000;
const ORDERED: u8 = 0b0010_0000;

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) to: Addressee<'a>,
    topic: &'a str,
    properties: &'a [u8],
    payload: &'a [u8],
    /// The same, if it is large.
    shared: Option<Bytes>,
    qos: Qos,
    retain: bool,
    publisher: PublisherId,
    /// What was left of its life when it was sent.
    remaining: Option<Duration>,
}

impl Letter<'_> {
    /// The message, as accepted now.
    pub(crate) fn message(&self, now: Instant) -> Message<'_> {
        Message {
            topic: self.topic,
            payload: self.shared.as_deref().unwrap_or(self.payload),
            shared: self.shared.as_ref(),
            properties: self.properties,
            qos: self.qos,
            retain: self.retain,
            publisher: self.publisher,
            accepted: now,
            deadline: self.remaining.map(|remaining| now + remaining),
        }
    }
}

/// Appends a message.
pub(crate) fn put(into: &mut Vec<u8>, dispatch: &Dispatch<'_>, now: Instant) {
    let Dispatch { tenant, to, message } = dispatch;
    let text = |bytes: &[u8]| len(bytes.len() as u64) + bytes.len();
    let mut flags = message.qos as u8;
    let mut length = 1 + 8 + text(tenant.as_str().as_bytes()) + text(message.topic.as_bytes());
    length += text(message.properties) + text(message.payload);
    if message.retain {
        flags |= RETAIN;
    }
    let remaining = message.deadline.map(|deadline| {
        let nanos = deadline.since(now).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    });
    if let Some(remaining) = remaining {
        flags |= EXPIRES;
        length += len(remaining);
    }
    if let Addressee::Member { filter, group, is_ordered, incarnation, .. } = to {
        flags |= MEMBER | if *is_ordered { ORDERED } else { 0 };
        length += text(filter.as_bytes()) + text(group.as_bytes()) + 8 + len(*incarnation);
    }
    into.reserve(length + 10);
    wire::put_u64(into, length as u64);
    into.push(flags);
    wire::put_bytes(into, tenant.as_str().as_bytes());
    if let Addressee::Member { filter, group, id, incarnation, .. } = to {
        wire::put_bytes(into, filter.as_bytes());
        wire::put_bytes(into, group.as_bytes());
        into.extend_from_slice(&id.to_be_bytes());
        wire::put_u64(into, *incarnation);
    }
    if let Some(remaining) = remaining {
        wire::put_u64(into, remaining);
    }
    into.extend_from_slice(&message.publisher.0.to_be_bytes());
    wire::put_bytes(into, message.topic.as_bytes());
    wire::put_bytes(into, message.properties);
    wire::put_bytes(into, message.payload);
}

/// The messages in some bytes.
///
/// # Errors
/// [`Malformed`] if one is, or is not what a publisher could have sent: then none is to be delivered.
pub(crate) fn take_all(data: &Bytes) -> Result<Vec<Letter<'_>>, Malformed> {
    let mut parser = Parser::new(data);
    let mut all = Vec::new();
    while !parser.is_at_end() {
        all.push(take(data, parser.take_bytes()?)?);
    }
    Ok(all)
}

fn take<'a>(data: &'a Bytes, bytes: &'a [u8]) -> Result<Letter<'a>, Malformed> {
    let mut body = Parser::new(bytes);
    let flags = body.take_u8()?;
    let tenant = body.take_str()?;
    let to = if flags & MEMBER == 0 {
        Addressee::Sessions
    } else {
        Addressee::Member {
            filter: body.take_str()?,
            group: body.take_str()?,
            is_ordered: flags & ORDERED != 0,
            id: take_id(&mut body)?,
            incarnation: body.take_u64()?,
        }
    };
    if let Addressee::Member { filter, .. } = to {
        TopicFilter::parse(filter, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
    }
    let remaining = if flags & EXPIRES == 0 { None } else { Some(body.take_u64()?) };
    let publisher = PublisherId(take_id(&mut body)?);
    let topic = body.take_str()?;
    TopicName::parse(topic, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
    let properties = body.take_bytes()?;
    if !properties.is_empty() {
        PublishProperties::of_forwarded(properties).ok_or(Malformed)?;
    }
    let payload = body.take_bytes()?;
    Ok(Letter {
        tenant,
        to,
        topic,
        properties,
        payload,
        shared: (payload.len() >= StoredMessage::SHARED_FROM_BYTES).then(|| share(data, payload)),
        qos: Qos::try_from(flags & QOS).map_err(|_| Malformed)?,
        retain: flags & RETAIN != 0,
        publisher,
        remaining: remaining.map(Duration::from_millis),
    })
}

/// A large part of some bytes. Where much else is in them, it does not keep that.
fn share(data: &Bytes, part: &[u8]) -> Bytes {
    let is_most = part.len() * 2 >= data.len();
    if is_most { data.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}

/// Appends what became of the messages of one frame: how many there were, and which were not taken.
pub(crate) fn put_receipt(into: &mut Vec<u8>, fates: &[Fate]) {
    wire::put_u64(into, fates.len() as u64);
    let mut last = 0;
    for (at, fate) in fates.iter().enumerate() {
        let kind = match fate {
            Fate::Taken => continue,
            Fate::Gone => 1,
            Fate::Full => 2,
        };
        wire::put_u64(into, (at - last) as u64);
        into.push(kind);
        last = at;
    }
}

/// What was not taken of the `count` messages of a frame, by their places, which rise.
///
/// # Errors
/// [`Malformed`], also if the receipt is one of another number of messages.
pub(crate) fn take_receipt(bytes: &[u8], count: usize) -> Result<Vec<(usize, Fate)>, Malformed> {
    let mut parser = Parser::new(bytes);
    if parser.take::<usize>()? != count {
        return Err(Malformed);
    }
    let mut refused: Vec<(usize, Fate)> = Vec::new();
    while !parser.is_at_end() {
        let step = parser.take::<usize>()?;
        let at = match refused.last() {
            Some(_) if step == 0 => return Err(Malformed),
            Some((last, _)) => last.checked_add(step).ok_or(Malformed)?,
            None => step,
        };
        let fate = match parser.take_u8()? {
            1 => Fate::Gone,
            // What a later version says beside is that it did not take it.
            _ => Fate::Full,
        };
        if at >= count {
            return Err(Malformed);
        }
        refused.push((at, fate));
    }
    Ok(refused)
}

#[cfg(test)]
#[path = "letter_test.rs"]
mod tests;
