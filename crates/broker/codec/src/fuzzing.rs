//! The bodies of the fuzz targets, so that a stored corpus is replayed by plain tests.

use crate::decode::{Decoded, Decoder};
use crate::encode::{encode, encoded_len};
use crate::packet::Packet;
use crate::version::ProtocolVersion;

/// The first byte picks the decoder, the rest is the packet. What decodes must encode, and decode
/// again to the same.
pub fn decode_any(data: &[u8]) {
    let Some((&selector, bytes)) = data.split_first() else {
        return;
    };
    let decoder = decoder_of(selector);
    let Ok(Decoded::Packet { packet, length }) = decoder.decode(bytes) else {
        return;
    };
    assert!(length <= bytes.len(), "a packet ends within its bytes");
    read_lazy_parts(&packet);
    let version = match packet {
        Packet::Connect(connect) => connect.version,
        _ => decoder.version().unwrap_or(ProtocolVersion::V5),
    };
    let mut out = Vec::new();
    encode(&packet, version, &mut out);
    assert_eq!(out.len(), encoded_len(&packet, version), "the length is known in advance");
    let again = decoder.decode(&out);
    assert_eq!(again, Ok(Decoded::Packet { packet, length: out.len() }), "round trip");
}

/// The first byte picks the decoder, the second how the stream is cut, the rest is the stream. Cut
/// or whole it holds the same packets and ends in the same way, and what is called incomplete
/// becomes complete at the length that was told.
pub fn stream_any(data: &[u8]) {
    let Some((&[selector, cut], stream)) = data.split_first_chunk() else {
        return;
    };
    let (mut decoder, mut at, mut available) = (decoder_of(selector), 0, 0);
    for turn in 0_usize.. {
        // What a connection would hold: everything that has come and was not taken.
        let whole = decoder.decode(&stream[at..]);
        let part = decoder.decode(&stream[at..available]);
        match part {
            Ok(Decoded::Incomplete { packet_length }) => {
                check_incomplete(packet_length, available - at, &whole);
                if available == stream.len() {
                    assert_eq!(part, whole, "everything is there");
                    return;
                }
                let step = 1 + (usize::from(cut) + turn * 7) % 19;
                available = stream.len().min(available + step);
            }
            Ok(Decoded::Packet { packet, length }) => {
                assert_eq!(part, whole, "a packet does not depend on what follows it");
                assert!(length > 0 && length <= available - at, "a packet lies in its bytes");
                if let Packet::Connect(connect) = packet {
                    decoder.set_version(connect.version);
                }
                at += length;
            }
            Err(_) => {
                assert_eq!(part, whole, "what is malformed stays so");
                return;
            }
        }
    }
}

/// A part that is called incomplete: the length told is beyond it and that of the whole.
fn check_incomplete(
    told: Option<usize>,
    held: usize,
    whole: &Result<Decoded<'_>, crate::DecodeError>,
) {
    let Some(told) = told else { return };
    assert!(told > held, "{told} bytes would have been enough, {held} are there");
    match whole {
        Ok(Decoded::Packet { length, .. }) => assert_eq!(*length, told, "the length told"),
        Ok(Decoded::Incomplete { packet_length }) => assert_eq!(*packet_length, Some(told)),
        Err(_) => {}
    }
}

/// Seven decoders: a server before CONNECT, then server and client of each version.
pub(crate) fn decoder_of(selector: u8) -> Decoder {
    let packet_size_max = 1 << 20;
    let mut server = Decoder::server(packet_size_max);
    let version = match selector % 7 {
        0 => return server,
        1 | 2 => ProtocolVersion::V31,
        3 | 4 => ProtocolVersion::V311,
        _ => ProtocolVersion::V5,
    };
    if (selector % 7).is_multiple_of(2) {
        return Decoder::client(version, packet_size_max);
    }
    server.set_version(version);
    server
}

/// What was checked once is read again by iterators, which must find all of it.
fn read_lazy_parts(packet: &Packet<'_>) {
    match packet {
        Packet::Publish(publish) => {
            let mut forwarded = Vec::new();
            publish.properties.forwarded(&mut forwarded);
            assert!(forwarded.len() <= publish.properties.bytes().len(), "a part of all");
            let pairs = publish.properties.user_properties().count();
            assert!(pairs * 5 <= forwarded.len(), "a pair takes five bytes at least");
        }
        Packet::Subscribe(subscribe) => {
            assert_eq!(subscribe.filters.iter().count(), subscribe.filters.len());
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert_eq!(unsubscribe.filters.iter().count(), unsubscribe.filters.len());
        }
        Packet::Suback(suback) => assert_eq!(suback.codes.iter().count(), suback.codes.len()),
        Packet::Unsuback(unsuback) => {
            assert_eq!(unsuback.codes.iter().count(), unsuback.codes.len());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn replay(target: &str, body: fn(&[u8])) -> usize {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus");
        let entries = std::fs::read_dir(corpus.join(target)).expect("part of the repository");
        entries
            .map(|entry| body(&std::fs::read(entry.expect("readable").path()).expect("readable")))
            .count()
    }

    /// The stored corpus, which holds the golden packets and what the fuzzer found.
    #[test]
    fn the_stored_corpus_decodes_or_is_refused_and_never_panics() {
        assert!(replay("codec_decode", decode_any) > 50, "the golden packets at least");
    }

    #[test]
    fn the_stored_streams_mean_the_same_wherever_they_are_cut() {
        assert!(replay("codec_stream", stream_any) >= 8);
    }

    proptest! {
        #[test]
        fn random_bytes_decode_or_are_refused_and_never_panic(data in vec(any::<u8>(), 0..100)) {
            decode_any(&data);
        }

        /// A sound fixed header, so that the bodies are reached.
        #[test]
        fn random_bodies_decode_or_are_refused_and_never_panic(
            selector in 0..7u8,
            packet in 1..16u8,
            flags in prop_oneof![Just(0), Just(2), 0..16u8],
            body in vec(prop_oneof![0..4u8, any::<u8>()], 0..60),
        ) {
            let length = u8::try_from(body.len()).expect("short");
            let mut data = vec![selector, packet << 4 | flags, length];
            data.extend_from_slice(&body);
            decode_any(&data);
        }
    }
}
