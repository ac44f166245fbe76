//! Packets that come in pieces: a part is never taken for a whole, nor judged differently.

use proptest::prelude::*;
use ratatosk_codec::{
    Connect, DecodeError, Decoded, Decoder, ErrorKind, Packet, PacketType, ProtocolVersion, encode,
};

use crate::parts::{Built, parts, types_of};

type Outcome<'a> = Result<Decoded<'a>, DecodeError>;

/// Every prefix is incomplete, or is what the whole is.
fn check_prefixes(decoder: &Decoder, bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole: Outcome<'_> = decoder.decode(bytes);
    for cut in 0..bytes.len() {
        match decoder.decode(&bytes[..cut]) {
            Ok(Decoded::Incomplete { packet_length }) => {
                if let Some(length) = packet_length {
                    prop_assert!(length > cut, "{} bytes would have been enough", length);
                }
                if let (Ok(Decoded::Packet { length, .. }), Some(told)) = (whole, packet_length) {
                    prop_assert_eq!(length, told);
                }
            }
            other => prop_assert_eq!(other, whole, "at {}", cut),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_prefix_of_a_packet_is_incomplete(parts in parts()) {
        for version in ProtocolVersion::ALL {
            for packet_type in types_of(version) {
                let built = Built::new(&parts, packet_type, version);
                let mut bytes = Vec::new();
                encode(&built.packet(), version, &mut bytes);
                for cut in 0..bytes.len() {
                    let decoded = built.decoder().decode(&bytes[..cut]);
                    let is_incomplete = matches!(decoded, Ok(Decoded::Incomplete { .. }));
                    prop_assert!(is_incomplete, "{:?} at {}", decoded, cut);
                }
                check_prefixes(&built.decoder(), &bytes)?;
            }
        }
    }

    #[test]
    fn a_damaged_packet_is_judged_alike_in_parts_and_whole(
        parts in parts(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        packet_size_max in prop_oneof![Just(u32::MAX), 0..300u32],
    ) {
        for version in ProtocolVersion::ALL {
            for packet_type in types_of(version) {
                let built = Built::new(&parts, packet_type, version);
                let mut bytes = Vec::new();
                encode(&built.packet(), version, &mut bytes);
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let mut decoder = built.decoder();
                decoder.set_packet_size_max(packet_size_max);
                check_prefixes(&decoder, &bytes)?;
            }
        }
    }

    #[test]
    fn random_bytes_are_judged_alike_in_parts_and_whole(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        check_prefixes(&Decoder::server(1000), &bytes)?;
        for version in ProtocolVersion::ALL {
            let mut server = Decoder::server(1000);
            server.set_version(version);
            check_prefixes(&server, &bytes)?;
            check_prefixes(&Decoder::client(version, 1000), &bytes)?;
        }
    }
}

#[test]
fn the_length_is_told_as_soon_as_the_fixed_header_is_there() {
    let decoder = Decoder::client(ProtocolVersion::V311, 1000);
    let unknown = Ok(Decoded::Incomplete { packet_length: None });
    assert_eq!(decoder.decode(b""), unknown);
    assert_eq!(decoder.decode(b"\x30"), unknown);
    assert_eq!(decoder.decode(b"\x30\x80"), unknown);
    let known = Ok(Decoded::Incomplete { packet_length: Some(131) });
    assert_eq!(decoder.decode(b"\x30\x80\x01"), known);
}

#[test]
fn a_packet_above_the_limit_is_refused_by_its_fixed_header() {
    let decoder = Decoder::client(ProtocolVersion::V5, 130);
    let error = decoder.decode(b"\x30\x80\x01").expect_err("131 bytes");
    assert_eq!(error.kind, ErrorKind::TooLarge { length: 131, packet_size_max: 130 });
    assert_eq!(error.packet, Some(PacketType::Publish));
    let fits = Decoder::client(ProtocolVersion::V5, 131).decode(b"\x30\x80\x01");
    assert!(fits.is_ok());
}

/// MQTT-017: an over-large CONNECT names its version, however it is cut, so that 5.0 gets 0x95.
#[test]
fn an_over_large_connect_is_refused_when_its_version_is_known() {
    for version in ProtocolVersion::ALL {
        let id = "c".repeat(200);
        let mut bytes = Vec::new();
        encode(&Packet::Connect(Connect::new(version, &id, true)), version, &mut bytes);
        let decoder = Decoder::server(100);
        // Fixed header of three bytes, length and name.
        let level_at = 3 + 2 + version.protocol_name().len();
        let shorter = decoder.decode(&bytes[..level_at]);
        assert_eq!(shorter, Ok(Decoded::Incomplete { packet_length: None }));
        let error = decoder.decode(&bytes[..=level_at]).expect_err("too large");
        assert_eq!(error.version, Some(version));
        assert_eq!(error.reason_code().value(), 0x95);
    }
    let error = Decoder::server(100).decode(b"\x10\xff\x7fGET").expect_err("no MQTT");
    assert_eq!(error.version, None);
}
