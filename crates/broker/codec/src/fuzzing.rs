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

    /// The stored corpus, which holds the golden packets and what the fuzzer found.
    #[test]
    fn the_stored_corpus_decodes_or_is_refused_and_never_panics() {
        let corpus = "../../../fuzz/corpus/codec_decode";
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join(corpus);
        let mut count = 0;
        for entry in std::fs::read_dir(&corpus).expect("the corpus is part of the repository") {
            let path = entry.expect("readable").path();
            decode_any(&std::fs::read(&path).expect("readable"));
            count += 1;
        }
        assert!(count > 50, "{count} seeds in {}", corpus.display());
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
