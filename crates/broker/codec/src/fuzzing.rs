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
