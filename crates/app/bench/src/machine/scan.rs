//! Header-only scan of what the broker sends: frame bounds, packet id, payload; nothing is decoded twice.
//!
//! The generator must cost less than the broker that it measures, so a PUBLISH is not decoded into a
//! packet: its topic is skipped, its properties are skipped, and the payload is handed out as a slice.
//! Control packets are rare and go through `wire`.

/// The peer sent bytes that are not MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// The remaining length has more than four bytes. [MQTT-1.5.5-1]
    #[error("remaining length is longer than four bytes")]
    Length,
    /// A field runs over the end of its packet.
    #[error("packet of type {packet_type} ends inside a field")]
    Truncated {
        /// The upper four bits of the first byte.
        packet_type: u8,
    },
    /// QoS 3 does not exist. [MQTT-3.3.1-4]
    #[error("publish with quality of service 3")]
    Qos,
    /// The packet does not fit the read buffer.
    #[error("packet of {size} bytes exceeds the limit of {limit} bytes")]
    Oversized {
        /// Bytes of the packet.
        size: usize,
        /// Bytes that fit.
        limit: usize,
    },
}

/// One packet: its first byte and what follows the remaining length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Packet type and flags.
    pub(crate) first: u8,
    /// Everything after the fixed header.
    pub(crate) body: &'a [u8],
    /// Bytes of the whole packet, fixed header included.
    pub(crate) size: usize,
}

impl Frame<'_> {
    /// The packet type, 1 to 15.
    pub(crate) fn packet_type(&self) -> u8 {
        self.first >> 4
    }
}

/// What of a PUBLISH matters to the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    /// Quality of service, 0 to 2.
    pub(crate) qos: u8,
    /// Sent as a retained message.
    pub(crate) retain: bool,
    /// The packet id; 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// The topic name, not validated.
    pub(crate) topic: &'a [u8],
    /// The application message.
    pub(crate) payload: &'a [u8],
}

/// The frame at the start of `bytes`, or `None` if it is not complete yet.
#[inline]
pub(crate) fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, width)) = variable_integer(rest)? else { return Ok(None) };
    let header = 1 + width;
    let size = header + length;
    match bytes.get(header..size) {
        Some(body) => Ok(Some(Frame { first, body, size })),
        None => Ok(None),
    }
}

/// Bytes of the frame at the start of `bytes` as soon as its header is there.
pub(crate) fn announced_size(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((_, rest)) = bytes.split_first() else { return Ok(None) };
    Ok(variable_integer(rest)?.map(|(length, width)| 1 + width + length))
}

/// Splits the body of a PUBLISH; `properties` says whether it has a property section (MQTT 5).
#[inline]
pub(crate) fn publish(frame: Frame<'_>, properties: bool) -> Result<Publish<'_>, Malformed> {
    let truncated = Malformed::Truncated { packet_type: frame.packet_type() };
    let qos = frame.first >> 1 & 3;
    if qos == 3 {
        return Err(Malformed::Qos);
    }
    let (length, rest) = frame.body.split_first_chunk::<2>().ok_or(truncated)?;
    let (topic, rest) =
        rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(truncated)?;
    let (packet_id, rest) = if qos == 0 {
        (0, rest)
    } else {
        let (id, rest) = rest.split_first_chunk::<2>().ok_or(truncated)?;
        (u16::from_be_bytes(*id), rest)
    };
    let payload = if properties { skip_properties(rest).ok_or(truncated)? } else { rest };
    Ok(Publish { qos, retain: frame.first & 1 == 1, packet_id, topic, payload })
}

/// A variable byte integer and its width, or `None` if `bytes` end inside it.
#[inline]
pub(crate) fn variable_integer(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Malformed::Length) } else { Ok(None) }
}

/// What follows the property section at the start of `bytes`.
fn skip_properties(bytes: &[u8]) -> Option<&[u8]> {
    let (length, width) = variable_integer(bytes).ok()??;
    bytes.get(width + length..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn check(bytes: &[u8], expected: Result<Option<usize>, Malformed>) {
        assert_eq!(frame(bytes).map(|frame| frame.map(|frame| frame.size)), expected, "{bytes:?}");
    }

    #[test]
    fn frames_are_found_only_when_complete() {
        check(&[], Ok(None));
        check(&[0x30], Ok(None));
        check(&[0x30, 3, 0, 1], Ok(None));
        check(&[0x30, 3, 0, 1, b'a'], Ok(Some(5)));
        check(&[0x30, 3, 0, 1, b'a', 0xd0], Ok(Some(5)));
        check(&[0xd0, 0], Ok(Some(2)));
        check(&[0x30, 0x80], Ok(None));
        check(&[0x30, 0x80, 0x80, 0x80, 0x80], Err(Malformed::Length));
    }

    #[test]
    fn two_byte_length_is_read() {
        let mut bytes = vec![0x30, 0xc8, 0x01];
        bytes.resize(3 + 200, 0);
        check(&bytes, Ok(Some(203)));
        check(&bytes[..202], Ok(None));
        assert_eq!(announced_size(&bytes[..3]), Ok(Some(203)));
        assert_eq!(announced_size(&bytes[..2]), Ok(None));
    }

    #[test]
    fn publish_is_split_at_each_quality_of_service() {
        let bytes = [0x31, 5, 0, 1, b'a', b'x', b'y'];
        let found = publish(frame(&bytes).unwrap().unwrap(), false).unwrap();
        let expected = Publish { qos: 0, retain: true, packet_id: 0, topic: b"a", payload: b"xy" };
        assert_eq!(found, expected);

        let bytes = [0x34, 7, 0, 1, b'a', 1, 2, b'x', b'y'];
        let found = publish(frame(&bytes).unwrap().unwrap(), false).unwrap();
        let expected =
            Publish { qos: 2, retain: false, packet_id: 258, topic: b"a", payload: b"xy" };
        assert_eq!(found, expected);
    }

    #[test]
    fn properties_are_skipped_in_version_five() {
        let bytes = [0x30, 7, 0, 1, b'a', 2, 0x01, 0x01, b'x'];
        let found = publish(frame(&bytes).unwrap().unwrap(), true).unwrap();
        assert_eq!(found.payload, b"x");
    }

    #[test]
    fn fields_beyond_the_packet_are_malformed() {
        let truncated = Err(Malformed::Truncated { packet_type: 3 });
        let split = |bytes: &[u8], properties| {
            publish(frame(bytes).unwrap().unwrap(), properties).map(|_| ())
        };
        assert_eq!(split(&[0x30, 1, 0], false), truncated);
        assert_eq!(split(&[0x30, 3, 0, 9, b'a'], false), truncated);
        assert_eq!(split(&[0x32, 4, 0, 1, b'a', 0], false), truncated);
        assert_eq!(split(&[0x30, 4, 0, 1, b'a', 9], true), truncated);
        assert_eq!(split(&[0x36, 5, 0, 1, b'a', 0, 1], false), Err(Malformed::Qos));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(found)) = frame(&bytes) {
                assert!(found.size <= bytes.len());
                let _ = publish(found, true);
                let _ = publish(found, false);
            }
        }
    }
}
