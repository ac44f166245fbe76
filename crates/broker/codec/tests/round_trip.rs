//! What is encoded comes back the same, for every packet in every version.

use proptest::prelude::*;
use ratatosk_codec::{
    Decoded, Decoder, Outgoing, Packet, PacketId, ProtocolVersion, Publish,
    PublishPropertiesBuilder, Qos, Template, encode, encoded_len,
};

use crate::parts::{Built, parts, types_of};

proptest! {
    #[test]
    fn every_packet_decodes_to_what_was_encoded(parts in parts()) {
        for version in ProtocolVersion::ALL {
            for packet_type in types_of(version) {
                let built = Built::new(&parts, packet_type, version);
                let packet = built.packet();
                let mut bytes = b"before".to_vec();
                encode(&packet, version, &mut bytes);
                let bytes = &bytes[6..];
                prop_assert_eq!(bytes.len(), encoded_len(&packet, version));
                let decoded = built.decoder().decode(bytes);
                let expected = Decoded::Packet { packet, length: bytes.len() };
                prop_assert_eq!(decoded, Ok(expected), "{:?} in {}", packet_type, version);
            }
        }
    }

    /// What stands behind a packet does not change it.
    #[test]
    fn a_packet_ends_where_its_length_says(parts in parts(), behind in any::<[u8; 4]>()) {
        for version in ProtocolVersion::ALL {
            for packet_type in types_of(version) {
                let built = Built::new(&parts, packet_type, version);
                let packet = built.packet();
                let mut bytes = Vec::new();
                encode(&packet, version, &mut bytes);
                let length = bytes.len();
                bytes.extend_from_slice(&behind);
                let decoded = built.decoder().decode(&bytes);
                prop_assert_eq!(decoded, Ok(Decoded::Packet { packet, length }));
            }
        }
    }

    /// The three ways to write a PUBLISH give the same bytes, and those the same message.
    #[test]
    fn outgoing_publishes_decode_to_what_was_sent(
        parts in parts(),
        alias in proptest::option::of(1..u16::MAX),
        message_expiry_s in any::<Option<u32>>(),
        subscription_ids in proptest::collection::vec(1..=268_435_455u32, 0..3),
        id in 1..u16::MAX,
        topic_omitted in any::<bool>(),
    ) {
        for version in ProtocolVersion::ALL {
            let built = Built::new(&parts, ratatosk_codec::PacketType::Publish, version);
            let Packet::Publish(incoming) = built.packet() else { unreachable!() };
            let mut forwarded = Vec::new();
            incoming.properties.forwarded(&mut forwarded);
            let packet_id = incoming.packet_id.and(PacketId::new(id));
            let outgoing = Outgoing {
                dup: incoming.dup,
                qos: incoming.qos,
                retain: incoming.retain,
                packet_id: incoming.packet_id,
                topic_alias: alias,
                topic_omitted,
                message_expiry_s,
                subscription_ids: &subscription_ids,
                forwarded: &forwarded,
                ..Outgoing::new(version, incoming.topic, incoming.payload)
            };
            let mut bytes = Vec::new();
            let mut template = Template::new();
            template.fill(&outgoing);
            template.append(&mut bytes, packet_id);
            prop_assert_eq!(template.len(), outgoing.encoded_len());

            let sent = Outgoing { packet_id, ..outgoing };
            let mut whole = Vec::new();
            sent.encode(&mut whole);
            prop_assert_eq!(&whole, &bytes);
            let mut in_parts = Vec::new();
            sent.encode_head(&mut in_parts);
            in_parts.extend_from_slice(sent.payload);
            prop_assert_eq!(&in_parts, &bytes);

            let decoder = Decoder::client(version, u32::MAX);
            let decoded = decoder.decode(&bytes).expect("sound");
            let Decoded::Packet { packet: Packet::Publish(publish), .. } = decoded else {
                panic!("{decoded:?} is no PUBLISH");
            };
            prop_assert_eq!(publish.packet_id, packet_id);
            prop_assert_eq!(publish.payload, incoming.payload);
            let v5 = version.is_v5();
            let omitted = v5 && topic_omitted && alias.is_some();
            prop_assert_eq!(publish.topic, if omitted { "" } else { incoming.topic });
            prop_assert_eq!(publish.properties.topic_alias(), alias.filter(|_| v5));
            prop_assert_eq!(publish.properties.message_expiry_s(), message_expiry_s.filter(|_| v5));
            let ids: Vec<_> = publish.properties.subscription_ids().collect();
            prop_assert_eq!(ids, if v5 { subscription_ids.clone() } else { Vec::new() });
            let mut again = Vec::new();
            publish.properties.forwarded(&mut again);
            prop_assert_eq!(again, forwarded);
        }
    }
}

#[test]
fn lengths_at_the_steps_of_the_length_field_come_back() {
    let payload = vec![7; 2_097_200];
    for length in [0, 122, 123, 124, 125, 16_378, 16_379, 16_380, 16_381, 2_097_147, 2_097_148] {
        for version in ProtocolVersion::ALL {
            let packet = Packet::Publish(Publish::new("t", &payload[..length]));
            let mut bytes = Vec::new();
            encode(&packet, version, &mut bytes);
            let decoded = Decoder::client(version, u32::MAX).decode(&bytes);
            assert_eq!(decoded, Ok(Decoded::Packet { packet, length: bytes.len() }));
        }
    }
}

#[test]
fn property_blocks_longer_than_127_bytes_come_back() {
    let long = "x".repeat(60_000);
    let mut builder = PublishPropertiesBuilder::new();
    builder.user_property(&long, &long).expect("fits").content_type(&long).expect("fits");
    let publish = Publish {
        qos: Qos::ExactlyOnce,
        packet_id: Some(PacketId::FIRST),
        properties: builder.view(),
        ..Publish::new("t", b"")
    };
    let packet = Packet::Publish(publish);
    let mut bytes = Vec::new();
    encode(&packet, ProtocolVersion::V5, &mut bytes);
    let decoded = Decoder::client(ProtocolVersion::V5, u32::MAX).decode(&bytes);
    assert_eq!(decoded, Ok(Decoded::Packet { packet, length: bytes.len() }));
    assert_eq!(publish.properties.content_type(), Some(long.as_str()));
}
