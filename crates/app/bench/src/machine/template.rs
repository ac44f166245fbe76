//! A PUBLISH that is encoded once and patched per message.
//!
//! Sending is then three stores and one copy: sequence number, time, packet id, frame. Built here and
//! not by the codec, because the generator must cost less than the broker that it measures.
//! Invariant: every patch position lies inside `bytes`, and `payload_at ≤ size ≤ bytes.len()`.

use crate::machine::stamp::{SEQUENCE_OFFSET, STAMP_SIZE, Stamp, TIME_OFFSET};
use crate::machine::wire::{self, Version};

/// What a template is built from.
#[derive(Debug, Clone)]
pub(crate) struct Shape<'a> {
    /// Protocol version of the connection.
    pub(crate) version: Version,
    /// Topic of every message; a topic that changes keeps its length.
    pub(crate) topic: &'a str,
    /// Quality of service, 0 to 2.
    pub(crate) qos: u8,
    /// Retain flag.
    pub(crate) retain: bool,
    /// Payload bytes; at least a stamp, or none to clear a retained message.
    pub(crate) payload_size: usize,
    /// The run and the publisher.
    pub(crate) run: u32,
    /// Number of the publisher.
    pub(crate) publisher: u32,
}

/// The prebuilt frame.
#[derive(Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    topic_at: usize,
    topic_size: usize,
    packet_id_at: Option<usize>,
    payload_at: usize,
    /// Bytes that are sent; the stamp lies behind them if there is no payload.
    size: usize,
}

impl Template {
    /// Encodes the frame. `None` if the payload cannot hold a stamp or a length exceeds the protocol's.
    pub(crate) fn new(shape: &Shape<'_>) -> Option<Self> {
        let topic_length = u16::try_from(shape.topic.len()).ok()?;
        if shape.payload_size < STAMP_SIZE && shape.payload_size > 0 {
            return None;
        }
        let packet_id_size = if shape.qos > 0 { 2 } else { 0 };
        let property_size = usize::from(shape.version == Version::V5);
        let remaining = 2 + shape.topic.len() + packet_id_size + property_size + shape.payload_size;
        let mut bytes = vec![0x30 | shape.qos << 1 | u8::from(shape.retain)];
        wire::put_variable_integer(&mut bytes, remaining)?;
        bytes.extend_from_slice(&topic_length.to_be_bytes());
        let topic_at = bytes.len();
        bytes.extend_from_slice(shape.topic.as_bytes());
        let packet_id_at = (shape.qos > 0).then_some(bytes.len());
        bytes.resize(bytes.len() + packet_id_size + property_size, 0);
        let payload_at = bytes.len();
        let stamp = Stamp { run: shape.run, publisher: shape.publisher, sequence: 0, sent_ns: 0 };
        bytes.extend_from_slice(&stamp.encode());
        let size = payload_at + shape.payload_size;
        bytes.resize(size.max(bytes.len()), b'.');
        let topic_size = shape.topic.len();
        Some(Self { bytes, topic_at, topic_size, packet_id_at, payload_at, size })
    }

    /// Bytes of the frame.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The bytes of the topic, for those who publish to a different one each time.
    pub(crate) fn topic_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.topic_at..self.topic_at + self.topic_size]
    }

    /// Sets the time of the messages that follow.
    #[inline]
    pub(crate) fn set_time(&mut self, sent_ns: u64) {
        let at = self.payload_at + TIME_OFFSET;
        self.bytes[at..at + 8].copy_from_slice(&sent_ns.to_be_bytes());
    }

    /// Appends the message `sequence` to `out`; `packet_id` is ignored at QoS 0.
    #[inline]
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, sequence: u64, packet_id: u16) {
        let at = self.payload_at + SEQUENCE_OFFSET;
        self.bytes[at..at + 8].copy_from_slice(&sequence.to_be_bytes());
        if let Some(at) = self.packet_id_at {
            self.bytes[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        out.extend_from_slice(&self.bytes[..self.size]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::scan;

    fn shape(version: Version, qos: u8, payload_size: usize) -> Shape<'static> {
        Shape {
            version,
            topic: "bench/017",
            qos,
            retain: false,
            payload_size,
            run: 5,
            publisher: 17,
        }
    }

    #[test]
    fn patched_frames_carry_sequence_time_and_packet_id() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..=2 {
                let mut template = Template::new(&shape(version, qos, 300)).unwrap();
                let mut out = Vec::new();
                template.set_time(99);
                template.append(&mut out, 1, 11);
                template.set_time(100);
                template.append(&mut out, 2, 12);
                assert_eq!(out.len(), 2 * template.size());
                let mut at = 0;
                for (sequence, sent_ns, packet_id) in [(1, 99, 11), (2, 100, 12)] {
                    let frame = scan::frame(&out[at..]).unwrap().unwrap();
                    let publish = scan::publish(frame, version == Version::V5).unwrap();
                    let expected = Stamp { run: 5, publisher: 17, sequence, sent_ns };
                    assert_eq!(publish.topic, b"bench/017");
                    assert_eq!(publish.qos, qos);
                    assert_eq!(publish.packet_id, if qos == 0 { 0 } else { packet_id });
                    assert_eq!(publish.payload.len(), 300);
                    assert_eq!(Stamp::decode(publish.payload), Some(expected));
                    at += frame.size;
                }
            }
        }
    }

    #[test]
    fn changing_the_topic_leaves_the_rest() {
        let mut template = Template::new(&shape(Version::V311, 1, 32)).unwrap();
        template.topic_mut().copy_from_slice(b"other/042");
        let mut out = Vec::new();
        template.append(&mut out, 3, 4);
        let publish = scan::publish(scan::frame(&out).unwrap().unwrap(), false).unwrap();
        assert_eq!(publish.topic, b"other/042");
        assert_eq!(Stamp::decode(publish.payload).unwrap().sequence, 3);
    }

    #[test]
    fn empty_payload_clears_and_carries_no_stamp() {
        let mut template =
            Template::new(&Shape { retain: true, ..shape(Version::V5, 1, 0) }).unwrap();
        let mut out = Vec::new();
        template.set_time(5);
        template.append(&mut out, 3, 4);
        assert_eq!(out.len(), template.size());
        let frame = scan::frame(&out).unwrap().unwrap();
        assert_eq!(frame.size, out.len());
        let publish = scan::publish(frame, true).unwrap();
        assert_eq!((publish.payload, publish.packet_id), (&b""[..], 4));
    }

    #[test]
    fn payload_without_room_for_a_stamp_is_refused() {
        assert!(Template::new(&shape(Version::V311, 0, STAMP_SIZE - 1)).is_none());
        assert!(Template::new(&shape(Version::V311, 0, STAMP_SIZE)).is_some());
        assert!(Template::new(&shape(Version::V311, 0, 1 << 28)).is_none());
    }
}
