//! A message as bytes of this process: between shards and in a session's queue.
//!
//! Not a format of wire or disk: it is written and read by one process, so it carries no version
//! and its lengths are trusted. Small messages are copied whole into one buffer; a payload that
//! is shared goes beside it, in order, and the record only says so.

use std::collections::VecDeque;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::Qos;

use crate::{Message, PublisherId};

/// No deadline.
const NEVER: u64 = u64::MAX;
const FLAG_QOS: u8 = 0b0000_0011;
const FLAG_RETAIN: u8 = 0b0000_0100;
const FLAG_SHARED: u8 = 0b0000_1000;

/// Flags, topic length, properties length, payload length, publisher, accepted, deadline.
const HEAD_BYTES: usize = 1 + 2 + 4 + 4 + 8 + 8 + 8;

/// How many bytes [`write()`] appends for `message`.
pub fn len(message: &Message<'_>) -> usize {
    let copied = if message.shared.is_some() { 0 } else { message.payload.len() };
    HEAD_BYTES + message.topic.len() + message.properties.len() + copied
}

/// Appends `message` to `bytes`; a shared payload is handed to `share` instead of being copied.
///
/// # Panics
/// If topic, properties or payload are longer than MQTT allows.
pub fn write(message: &Message<'_>, bytes: &mut Vec<u8>, share: impl FnOnce(Bytes)) {
    let topic_len = u16::try_from(message.topic.len()).expect("a topic has at most 65,535 bytes");
    let properties_len = u32::try_from(message.properties.len()).expect("properties fit a packet");
    let payload_len = u32::try_from(message.payload.len()).expect("a payload fits a packet");
    let mut flags = message.qos as u8;
    if message.retain {
        flags |= FLAG_RETAIN;
    }
    if message.shared.is_some() {
        flags |= FLAG_SHARED;
    }
    let deadline = message.deadline.map_or(NEVER, Instant::as_nanos);
    let mut head = [0; HEAD_BYTES];
    head[0] = flags;
    head[1..3].copy_from_slice(&topic_len.to_le_bytes());
    head[3..7].copy_from_slice(&properties_len.to_le_bytes());
    head[7..11].copy_from_slice(&payload_len.to_le_bytes());
    head[11..19].copy_from_slice(&message.publisher.0.to_le_bytes());
    head[19..27].copy_from_slice(&message.accepted.as_nanos().to_le_bytes());
    head[27..35].copy_from_slice(&deadline.to_le_bytes());
    bytes.reserve(len(message));
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(message.topic.as_bytes());
    bytes.extend_from_slice(message.properties);
    match message.shared {
        Some(payload) => share(payload.clone()),
        None => bytes.extend_from_slice(message.payload),
    }
}

/// Reads the record at the front of `bytes`, which [`write()`] wrote; `shared` is the payload that
/// was handed out for it, if it is a record with a shared payload. Returns the message and how
/// many bytes it took.
///
/// # Panics
/// If `bytes` does not begin with a whole record.
pub fn read<'a>(bytes: &'a [u8], shared: Option<&'a Bytes>) -> (Message<'a>, usize) {
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    let flags = head[0];
    let topic_len = usize::from(u16::from_le_bytes([head[1], head[2]]));
    let properties_len = read_u32(&head[3..7]) as usize;
    let payload_len = read_u32(&head[7..11]) as usize;
    let (topic, rest) = rest.split_at(topic_len);
    let (properties, rest) = rest.split_at(properties_len);
    let is_shared = flags & FLAG_SHARED != 0;
    let shared = if is_shared { shared } else { None };
    let (payload, copied) = match shared {
        Some(payload) => (&payload[..], 0),
        None => (&rest[..payload_len], payload_len),
    };
    debug_assert_eq!(payload.len(), payload_len, "the shared payload belongs to this record");
    let deadline = read_u64(&head[27..35]);
    let message = Message {
        topic: std::str::from_utf8(topic).expect("write took it from a string"),
        payload,
        shared,
        properties,
        qos: Qos::try_from(flags & FLAG_QOS).expect("write took it from a quality of service"),
        retain: flags & FLAG_RETAIN != 0,
        publisher: PublisherId(read_u64(&head[11..19])),
        accepted: Instant::from_nanos(read_u64(&head[19..27])),
        deadline: (deadline != NEVER).then(|| Instant::from_nanos(deadline)),
    };
    (message, HEAD_BYTES + topic_len + properties_len + copied)
}

/// Whether the record at the front of `bytes` has a shared payload.
pub fn is_shared(bytes: &[u8]) -> bool {
    bytes[0] & FLAG_SHARED != 0
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn read_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// A queue of records, each with a tag of the owner's, in segments that are freed as they are
/// read. Costs nothing while it is empty.
#[derive(Debug, Default)]
pub struct RecordQueue {
    segments: VecDeque<Segment>,
    shared: VecDeque<Bytes>,
    count: usize,
    bytes: usize,
    shared_bytes: usize,
}

#[derive(Debug)]
struct Segment {
    bytes: Vec<u8>,
    read: usize,
}

/// A tag before each record.
const TAG_BYTES: usize = 8;
/// A segment takes records until it holds this much.
const SEGMENT_BYTES: usize = 16 * 1024;

impl RecordQueue {
    /// Appends a message.
    pub fn push(&mut self, tag: u64, message: &Message<'_>) {
        let needed = TAG_BYTES + len(message);
        let has_room = self.segments.back().is_some_and(|segment| {
            segment.bytes.len() + needed <= segment.bytes.capacity().max(SEGMENT_BYTES)
        });
        if !has_room {
            // The first segment of a queue is small: most queues are short.
            let capacity =
                if self.segments.is_empty() { needed } else { needed.max(SEGMENT_BYTES) };
            self.segments.push_back(Segment { bytes: Vec::with_capacity(capacity), read: 0 });
        }
        let segment = self.segments.back_mut().expect("one was just made");
        segment.bytes.extend_from_slice(&tag.to_le_bytes());
        let shared = &mut self.shared;
        write(message, &mut segment.bytes, |payload| shared.push_back(payload));
        self.count += 1;
        self.bytes += needed;
        self.shared_bytes += message.shared.map_or(0, Bytes::len);
    }

    /// The oldest message and its tag.
    pub fn front(&self) -> Option<(u64, Message<'_>)> {
        let segment = self.segments.front()?;
        let (tag, rest) = segment.bytes[segment.read..].split_at(TAG_BYTES);
        Some((read_u64(tag), read(rest, self.shared.front()).0))
    }

    /// Drops the oldest message; false if there is none.
    pub fn pop(&mut self) -> bool {
        let Some(segment) = self.segments.front_mut() else { return false };
        let rest = &segment.bytes[segment.read + TAG_BYTES..];
        let (message, taken) = read(rest, self.shared.front());
        let shared_len = message.shared.map(Bytes::len);
        segment.read += TAG_BYTES + taken;
        if segment.read == segment.bytes.len() {
            self.segments.pop_front();
        }
        if shared_len.is_some() {
            self.shared.pop_front();
        }
        self.count -= 1;
        self.bytes -= TAG_BYTES + taken;
        self.shared_bytes -= shared_len.unwrap_or(0);
        true
    }

    /// Shows every message with its tag, oldest first.
    pub fn for_each(&self, mut show: impl FnMut(u64, &Message<'_>)) {
        let mut shared = self.shared.iter();
        for segment in &self.segments {
            let mut rest = &segment.bytes[segment.read..];
            while !rest.is_empty() {
                let (tag, record) = rest.split_at(TAG_BYTES);
                let payload = if is_shared(record) { shared.next() } else { None };
                let (message, taken) = read(record, payload);
                show(read_u64(tag), &message);
                rest = &record[taken..];
            }
        }
    }

    /// How many messages are queued.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes the messages occupy that nobody else holds.
    pub fn own_bytes(&self) -> usize {
        self.bytes + self.shared.len() * size_of::<Bytes>()
    }

    /// How many bytes their shared payloads have, of which others may hold the same.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// How many bytes the messages have.
    pub fn size_bytes(&self) -> usize {
        self.bytes + self.shared_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(topic: &'a str, payload: &'a [u8], shared: Option<&'a Bytes>) -> Message<'a> {
        Message {
            topic,
            payload,
            shared,
            properties: b"\x03\x00\x01x",
            qos: Qos::AtLeastOnce,
            retain: true,
            publisher: PublisherId(7),
            accepted: Instant::from_millis(5),
            deadline: Some(Instant::from_millis(9)),
        }
    }

    fn length(number: u64) -> usize {
        usize::try_from(number * 7 % 300).expect("small")
    }

    #[test]
    fn a_queue_gives_back_what_was_put_in_across_segments_and_shared_payloads() {
        let large = Bytes::from(vec![9; 50_000]);
        let mut queue = RecordQueue::default();
        for number in 0..1000_u64 {
            let topic = format!("t/{number}");
            let payload = vec![number.to_le_bytes()[0]; length(number)];
            let shared = number.is_multiple_of(10).then_some(&large);
            let payload = shared.map_or(&payload[..], |large| &large[..]);
            queue.push(number, &message(&topic, payload, shared));
        }
        assert_eq!(queue.len(), 1000);
        assert_eq!(queue.shared_bytes(), 100 * 50_000);
        assert!(queue.own_bytes() < 300_000, "what is shared is not the queue's own");
        let mut shown = 0;
        queue.for_each(|tag, message| {
            assert_eq!(tag, shown);
            assert_eq!(message.topic, format!("t/{tag}"));
            shown += 1;
        });
        assert_eq!(shown, 1000);
        for number in 0..1000_u64 {
            let (tag, message) = queue.front().expect("not empty");
            assert_eq!(tag, number);
            assert_eq!(message.topic, format!("t/{number}"));
            assert_eq!(message.publisher, PublisherId(7));
            assert_eq!(message.deadline, Some(Instant::from_millis(9)));
            assert!(message.retain);
            let expected = if number.is_multiple_of(10) { 50_000 } else { length(number) };
            assert_eq!(message.payload.len(), expected);
            assert!(queue.pop());
        }
        assert!(!queue.pop());
        assert_eq!((queue.size_bytes(), queue.own_bytes()), (0, 0));
        assert!(queue.segments.is_empty() && queue.shared.is_empty());
    }

    #[test]
    fn a_record_occupies_the_bytes_that_len_says() {
        let mut bytes = Vec::new();
        let written = message("a/b", b"payload", None);
        write(&written, &mut bytes, |_| panic!("nothing is shared"));
        assert_eq!(bytes.len(), len(&written));
        let (read_back, taken) = read(&bytes, None);
        assert_eq!(taken, bytes.len());
        assert_eq!(read_back.payload, b"payload");
        assert_eq!(read_back.properties, written.properties);
    }
}
