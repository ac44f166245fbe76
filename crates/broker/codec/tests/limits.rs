//! Packets that must fit into the receiver's limit, and what it may not be told.

use proptest::prelude::*;
use ratatosk_codec::{
    Ack, Connack, Decoded, Decoder, Disconnect, FieldError, Packet, PacketId, PacketType,
    PropertyId, ProtocolVersion, Publish, PublishPropertiesBuilder, ReasonCode, Shed,
    SubscribeFiltersBuilder, TooLarge, UserPropertiesBuilder, encode, encode_within, encoded_len,
    withhold_problem_information,
};

use crate::parts::{Built, TYPES, parts};

/// MQTT-099: reason string first, then user properties, then nothing is sent.
/// [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.1.2-24]
#[test]
fn an_acknowledgement_sheds_its_reason_string_before_its_user_properties() {
    let mut users = UserPropertiesBuilder::new();
    users.push("a", "b").expect("fits");
    let ack = Ack {
        reason_string: Some("why"),
        user_properties: users.view(),
        ..Ack::new(PacketId::FIRST, ReasonCode::QuotaExceeded)
    };
    let check = |packet_size_max: u32, expected: Result<Shed, TooLarge>, left: Ack<'_>| {
        let mut out = Vec::new();
        let shed =
            encode_within(&Packet::Puback(ack), ProtocolVersion::V5, packet_size_max, &mut out);
        assert_eq!(shed, expected);
        if expected.is_err() {
            return assert!(out.is_empty(), "nothing is written");
        }
        let decoder = Decoder::client(ProtocolVersion::V5, packet_size_max);
        let packet = Packet::Puback(left);
        assert_eq!(decoder.decode(&out), Ok(Decoded::Packet { packet, length: out.len() }));
    };
    let silent = Ack { reason_string: None, ..ack };
    let bare = Ack::new(ack.packet_id, ack.reason);
    check(19, Ok(Shed::Nothing), ack);
    check(18, Ok(Shed::ReasonString), silent);
    check(13, Ok(Shed::ReasonString), silent);
    check(12, Ok(Shed::UserProperties), bare);
    check(5, Ok(Shed::UserProperties), bare);
    check(4, Err(TooLarge { length: 5, packet_size_max: 4 }), bare);
}

proptest! {
    /// MQTT-034, MQTT-099: no packet is written above the limit, and no more is left out than
    /// needed. [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2]
    /// [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2]
    /// [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4] [MQTT-3.15.2-2]
    /// [MQTT-3.15.2-3] [MQTT-3.1.2-25]
    #[test]
    fn no_packet_exceeds_the_limit(parts in parts(), slack in -40i32..10) {
        for packet_type in TYPES {
            let built = Built::new(&parts, packet_type, ProtocolVersion::V5);
            let packet = built.packet();
            let full = i32::try_from(encoded_len(&packet, ProtocolVersion::V5)).expect("short");
            let limit = u32::try_from((full + slack).max(0)).expect("positive");
            let mut out = Vec::new();
            let shed = encode_within(&packet, ProtocolVersion::V5, limit, &mut out);
            prop_assert!(out.len() <= limit as usize);
            prop_assert_eq!(shed == Ok(Shed::Nothing), slack >= 0);
            prop_assert_eq!(shed.is_err(), out.is_empty());
            let shedding = !matches!(
                packet_type,
                PacketType::Connect
                    | PacketType::Publish
                    | PacketType::Subscribe
                    | PacketType::Unsubscribe
                    | PacketType::Pingreq
                    | PacketType::Pingresp
            );
            prop_assert!(shedding || slack >= 0 || shed.is_err());
        }
    }
}

/// MQTT-102: [MQTT-3.1.2-29]
#[test]
fn problem_information_stays_only_where_it_is_always_allowed() {
    let mut users = UserPropertiesBuilder::new();
    users.push("a", "b").expect("fits");
    let plain = Ack::new(PacketId::FIRST, ReasonCode::NotAuthorized);
    let ack = Ack { reason_string: Some("why"), user_properties: users.view(), ..plain };
    let mut packet = Packet::Pubrec(ack);
    withhold_problem_information(&mut packet);
    assert_eq!(packet, Packet::Pubrec(plain));

    let mut disconnect = Disconnect::new(ReasonCode::ServerBusy);
    disconnect.reason_string = Some("why");
    let mut connack = Connack::new(ReasonCode::ServerBusy, false);
    connack.properties.user_properties = users.view();
    for kept in [Packet::Disconnect(disconnect), Packet::Connack(connack)] {
        let mut packet = kept;
        withhold_problem_information(&mut packet);
        assert_eq!(packet, kept);
    }
}

/// [MQTT-3.3.2-8] [MQTT-1.5.4-2] [MQTT-4.7.3-2] [MQTT-4.7.3-3]
#[test]
fn builders_refuse_what_no_packet_can_carry() {
    let long = "x".repeat(65_536);
    let too_long = FieldError::TooLong { length: 65_536 };
    let mut users = UserPropertiesBuilder::new();
    assert_eq!(users.push(&long, "").err(), Some(too_long));
    assert_eq!(users.push("", "\0").err(), Some(FieldError::Nul));
    assert!(users.view().is_empty());

    let mut filters = SubscribeFiltersBuilder::new();
    assert_eq!(filters.push(&long, Default::default()).err(), Some(too_long));
    assert!(filters.view().is_empty());

    let mut publish = PublishPropertiesBuilder::new();
    publish.content_type("a").expect("first");
    let twice = FieldError::Duplicate { id: PropertyId::ContentType };
    assert_eq!(publish.content_type("b").err(), Some(twice));
    let zero = FieldError::Value { id: PropertyId::TopicAlias, value: 0 };
    assert_eq!(publish.topic_alias(0).err(), Some(zero));
    assert!(publish.subscription_id(268_435_456).is_err());
    assert_eq!(publish.view().content_type(), Some("a"));
    publish.clear();
    assert!(publish.content_type("b").is_ok());
}

#[test]
#[should_panic(expected = "does not go with packet id")]
fn a_publish_of_qos_1_without_packet_id_is_a_bug() {
    let publish = Publish { qos: ratatosk_codec::Qos::AtLeastOnce, ..Publish::new("t", b"") };
    encode(&Packet::Publish(publish), ProtocolVersion::V5, &mut Vec::new());
}
