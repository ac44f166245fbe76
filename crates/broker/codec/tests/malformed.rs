//! What is refused, where it is found, and the reason code it gives.

use ratatosk_codec::{
    DecodeError, Decoded, Decoder, ErrorKind, Field, Flaw, Packet, PacketType, PropertyId,
    ProtocolVersion, ReasonCode,
};

use ReasonCode::{
    ClientIdNotValid, MalformedPacket, PacketTooLarge, ProtocolError, UnsupportedProtocolVersion,
};

fn new_connection() -> Decoder {
    Decoder::server(1000)
}

fn server(version: ProtocolVersion) -> Decoder {
    let mut decoder = Decoder::server(1000);
    decoder.set_version(version);
    decoder
}

fn client(version: ProtocolVersion) -> Decoder {
    Decoder::client(version, 1000)
}

const V3: [ProtocolVersion; 2] = [ProtocolVersion::V31, ProtocolVersion::V311];
const V5: ProtocolVersion = ProtocolVersion::V5;

fn error(decoder: Decoder, bytes: &[u8]) -> DecodeError {
    match decoder.decode(bytes) {
        Err(error) => error,
        Ok(decoded) => panic!("{bytes:?} was taken as {decoded:?}"),
    }
}

fn check(decoder: Decoder, bytes: &[u8], kind: ErrorKind, reason: ReasonCode) {
    let error = error(decoder, bytes);
    assert_eq!(error.kind, kind, "{bytes:?}");
    assert_eq!(error.reason_code(), reason, "{bytes:?}");
    assert!(error.offset <= bytes.len(), "{error} in {bytes:?}");
    assert_eq!(error.packet, PacketType::from_u8(bytes[0] >> 4));
}

fn check_all_versions(side: fn(ProtocolVersion) -> Decoder, bytes: &[u8], kind: ErrorKind) {
    for version in ProtocolVersion::ALL {
        check(side(version), bytes, kind, kind.reason_code());
    }
}

/// A packet with its first byte and length put before the body.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, u8::try_from(body.len()).expect("below 128")];
    assert!(bytes[1] < 128);
    bytes.extend_from_slice(body);
    bytes
}

/// CONNECT of 5.0 with these flags and properties, and this behind the client id "c".
fn connect_v5(flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).expect("short");
    let head = [b"\x00\x04MQTT\x05", &[flags, 0, 0, length][..]].concat();
    framed(0x10, &[&head, properties, b"\x00\x01c", rest].concat())
}

/// CONNECT of 3.1.1 with these flags, and this behind the client id "c".
fn connect_v311(flags: u8, rest: &[u8]) -> Vec<u8> {
    framed(0x10, &[b"\x00\x04MQTT\x04", &[flags, 0, 0][..], b"\x00\x01c", rest].concat())
}

fn value(id: PropertyId, value: u32) -> ErrorKind {
    ErrorKind::PropertyValue { id, value }
}

fn malformed(field: Field, flaw: Flaw) -> ErrorKind {
    ErrorKind::MalformedString { field, flaw }
}

/// MQTT-013: [MQTT-3.1.0-1]
#[test]
fn a_new_connection_takes_nothing_but_connect() {
    for first in [0x20, 0x30, 0x36, 0x40, 0x82, 0xC0, 0xE0, 0xF0] {
        check(new_connection(), &[first, 0], ErrorKind::ConnectExpected, ProtocolError);
        check(new_connection(), &[first], ErrorKind::ConnectExpected, ProtocolError);
    }
    let unknown = ErrorKind::UnknownPacketType { value: 0 };
    check(new_connection(), &[0x00, 0], unknown, MalformedPacket);
}

/// MQTT-027: [MQTT-3.1.0-2]
#[test]
fn a_second_connect_is_refused_by_its_first_byte() {
    check_all_versions(server, &[0x10], ErrorKind::SecondConnect);
    assert_eq!(ErrorKind::SecondConnect.reason_code(), ProtocolError);
}

/// MQTT-016: [MQTT-3.1.2-1] [MQTT-3.1.2-2]
#[test]
fn unknown_protocols_are_named_as_such() {
    let level = |level| ErrorKind::UnsupportedProtocolLevel { level };
    let cases: [(&[u8], ErrorKind); 7] = [
        (b"\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00", level(6)),
        (b"\x00\x04MQTT\x03\x02\x00\x00\x00\x00", level(3)),
        (b"\x00\x04MQTT\x84\x02\x00\x00\x00\x00", level(0x84)),
        (b"\x00\x06MQIsdp\x04\x02\x00\x00\x00\x00", level(4)),
        (b"\x00\x04mqtt\x04\x02\x00\x00\x00\x00", ErrorKind::UnsupportedProtocolName),
        (b"\x00\x00\x04\x02\x00\x00\x00\x00", ErrorKind::UnsupportedProtocolName),
        (b"\x00\x06MQTT\x00\x00\x04\x02\x00\x00\x00\x00", ErrorKind::UnsupportedProtocolName),
    ];
    for (body, kind) in cases {
        let bytes = framed(0x10, body);
        check(new_connection(), &bytes, kind, UnsupportedProtocolVersion);
        assert_eq!(error(new_connection(), &bytes).version, None);
    }
}

/// MQTT-017: an undecodable CONNECT gives 0x81, with the version that decides on an answer.
/// [MQTT-3.1.4-1] [MQTT-3.1.2-3] [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13]
#[test]
fn an_undecodable_connect_is_malformed() {
    let cases: [(u8, &[u8], ErrorKind); 9] = [
        (0x01, b"", ErrorKind::ConnectFlagsReserved),
        (0x08, b"", ErrorKind::WillFlagsWithoutWill),
        (0x20, b"", ErrorKind::WillFlagsWithoutWill),
        (0x1C, b"", ErrorKind::QosInvalid),
        (0x02, b"x", ErrorKind::TrailingBytes { count: 1 }),
        (0x80, b"", ErrorKind::Truncated),
        (0x80, b"\x00\x02u", ErrorKind::Truncated),
        (0xC0, b"\x00\x01u", ErrorKind::Truncated),
        (0x04, b"", ErrorKind::Truncated),
    ];
    for (flags, rest, kind) in cases {
        let bytes = connect_v5(flags, b"", rest);
        check(new_connection(), &bytes, kind, MalformedPacket);
        assert_eq!(error(new_connection(), &bytes).version, Some(V5));
        let bytes = connect_v311(flags, rest);
        check(new_connection(), &bytes, kind, MalformedPacket);
        assert_eq!(error(new_connection(), &bytes).version, Some(ProtocolVersion::V311));
    }
    check(new_connection(), &[0x10, 0], ErrorKind::Truncated, MalformedPacket);
    let cut = framed(0x10, b"\x00\x04MQTT\x05\x02\x00\x00");
    check(new_connection(), &cut, ErrorKind::Truncated, MalformedPacket);
}

/// MQTT-018: a malformed client id has its own code. [MQTT-3.1.3-4]
#[test]
fn a_client_id_that_is_no_string_is_not_valid() {
    for level in [b"MQTT\x04", b"MQTT\x05"] {
        let properties: &[u8] = if level[4] == 5 { b"\x00" } else { b"" };
        for (id, flaw) in [(b"\x00\x01\xff", Flaw::NotUtf8), (b"\x00\x01\x00", Flaw::Nul)] {
            let body = [b"\x00\x04", &level[..], b"\x02\x00\x00", properties, id].concat();
            let kind = malformed(Field::ClientId, flaw);
            check(new_connection(), &framed(0x10, &body), kind, ClientIdNotValid);
        }
    }
}

/// MQTT-020: malformed user name or will topic 0x81; authentication data without method and
/// Receive Maximum 0 give 0x82. [MQTT-3.1.3-11] [MQTT-3.1.3-12]
#[test]
fn connect_fields_have_their_reason_codes() {
    let username = malformed(Field::Username, Flaw::NotUtf8);
    check(new_connection(), &connect_v5(0x80, b"", b"\x00\x01\xff"), username, MalformedPacket);
    check(new_connection(), &connect_v311(0x80, b"\x00\x01\xff"), username, MalformedPacket);
    let will = malformed(Field::WillTopic, Flaw::Nul);
    let rest = b"\x00\x00\x01\x00\x00\x00";
    check(new_connection(), &connect_v5(0x04, b"", rest), will, MalformedPacket);
    check(new_connection(), &connect_v311(0x04, &rest[1..]), will, MalformedPacket);

    let check = |properties: &[u8], kind| {
        check(new_connection(), &connect_v5(0x02, properties, b""), kind, ProtocolError);
    };
    check(b"\x16\x00\x01d", ErrorKind::AuthenticationDataWithoutMethod);
    check(b"\x21\x00\x00", value(PropertyId::ReceiveMaximum, 0));
    check(b"\x27\x00\x00\x00\x00", value(PropertyId::MaximumPacketSize, 0));
    check(b"\x17\x02", value(PropertyId::RequestProblemInformation, 2));
    check(b"\x19\xff", value(PropertyId::RequestResponseInformation, 255));
}

/// 3.1.1 [MQTT3-3.1.2-22]
#[test]
fn a_password_needs_a_user_name_before_version_5() {
    let kind = ErrorKind::PasswordWithoutUsername;
    check(new_connection(), &connect_v311(0x40, b"\x00\x01p"), kind, MalformedPacket);
    let bytes = connect_v5(0x40, b"", b"\x00\x01p");
    let decoded = new_connection().decode(&bytes);
    let Ok(Decoded::Packet { packet: Packet::Connect(connect), .. }) = decoded else {
        panic!("{decoded:?}");
    };
    assert_eq!((connect.username, connect.password), (None, Some(&b"p"[..])));
}

#[test]
fn version_3_1_tolerates_what_its_specification_tolerates() {
    // The flags of user name and password without their fields, and the unused flag.
    let bytes = framed(0x10, b"\x00\x06MQIsdp\x03\xC3\x00\x00\x00\x01c");
    let decoded = new_connection().decode(&bytes);
    let Ok(Decoded::Packet { packet: Packet::Connect(connect), .. }) = decoded else {
        panic!("{decoded:?}");
    };
    assert_eq!((connect.username, connect.password), (None, None));
    // DUP on a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE.
    for bytes in
        [&b"\x6a\x02\x00\x01"[..], b"\x8a\x06\x00\x01\x00\x01f\x00", b"\xaa\x04\x00\x01\x00\x00"]
    {
        assert!(server(ProtocolVersion::V31).decode(bytes).is_ok(), "{bytes:?}");
        let flags = ErrorKind::ReservedFlags { flags: 0b1010 };
        check(server(ProtocolVersion::V311), bytes, flags, MalformedPacket);
    }
}

/// [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1];
/// 3.1.1 MQTT-2.2.2-1 [MQTT-2.2.2-2]
#[test]
fn fixed_flags_are_judged_by_the_first_byte() {
    for (packet, fixed) in [(4, 0), (5, 0), (6, 2), (8, 2), (10, 2), (12, 0), (14, 0), (15, 0)] {
        for flags in (0..16).filter(|flags| *flags != fixed) {
            let kind = ErrorKind::ReservedFlags { flags };
            check(server(V5), &[packet << 4 | flags], kind, MalformedPacket);
        }
    }
    for (packet, fixed) in [(2, 0), (9, 0), (11, 0), (13, 0)] {
        for flags in (0..16).filter(|flags| *flags != fixed) {
            let kind = ErrorKind::ReservedFlags { flags };
            check_all_versions(client, &[packet << 4 | flags], kind);
        }
    }
    check(new_connection(), &[0x11], ErrorKind::ReservedFlags { flags: 1 }, MalformedPacket);
}

#[test]
fn packets_of_the_other_side_are_refused() {
    for first in [0x20, 0x90, 0xB0, 0xD0] {
        check_all_versions(server, &[first], ErrorKind::WrongDirection);
    }
    for first in [0x10, 0x82, 0xA2, 0xC0] {
        check_all_versions(client, &[first], ErrorKind::WrongDirection);
    }
    for version in V3 {
        check(client(version), &[0xE0], ErrorKind::WrongDirection, ProtocolError);
        let unknown = ErrorKind::UnknownPacketType { value: 15 };
        check(server(version), &[0xF0], unknown, MalformedPacket);
    }
    check_all_versions(server, &[0x00], ErrorKind::UnknownPacketType { value: 0 });
}

/// [MQTT-1.5.5-1]
#[test]
fn lengths_have_four_digits_at_most_and_in_version_5_no_more_than_needed() {
    let kind = ErrorKind::MalformedVariableInteger;
    check_all_versions(server, b"\xc0\x80\x80\x80\x80\x00", kind);
    check_all_versions(server, b"\x30\xff\xff\xff\xff", kind);
    check(new_connection(), b"\x10\xff\xff\xff\x80\x01", kind, MalformedPacket);
    check(server(V5), b"\xc0\x80\x00", kind, MalformedPacket);
    let padded = Ok(Decoded::Packet { packet: Packet::Pingreq, length: 3 });
    assert_eq!(server(ProtocolVersion::V311).decode(b"\xc0\x80\x00"), padded);

    // A CONNECT tells its version behind its length.
    let mut v5 = connect_v5(0x02, b"", b"");
    v5.splice(1..2, [v5[1] | 0x80, 0]);
    check(new_connection(), &v5, kind, MalformedPacket);
    let mut v311 = connect_v311(0x02, b"");
    v311.splice(1..2, [v311[1] | 0x80, 0]);
    assert!(matches!(new_connection().decode(&v311), Ok(Decoded::Packet { .. })));

    // Property length and property id.
    check(server(V5), b"\x30\x05\x00\x01t\x80\x00", kind, MalformedPacket);
    check(server(V5), b"\x30\x07\x00\x01t\x03\x81\x00\x00", kind, MalformedPacket);
}

/// MQTT-068: above the limit: 0x95 for every packet.
#[test]
fn packets_above_the_limit_are_too_large() {
    let kind = ErrorKind::TooLarge { length: 1001, packet_size_max: 1000 };
    check_all_versions(server, b"\x30\xe6\x07", kind);
    assert_eq!(kind.reason_code(), PacketTooLarge);
    let fits = server(V5).decode(b"\x30\xe5\x07");
    assert_eq!(fits, Ok(Decoded::Incomplete { packet_length: Some(1000) }));
}

/// MQTT-063: a malformed topic 0x81; DUP with QoS 0 and a client's subscription id 0x82.
/// [MQTT-3.3.1-2] [MQTT-3.3.1-4] [MQTT-3.3.2-1] [MQTT-3.3.2-13] [MQTT-3.3.2-19] [MQTT-3.3.4-6]
#[test]
fn malformed_publishes_have_their_reason_codes() {
    check_all_versions(server, &[0x38], ErrorKind::DupWithoutQos);
    assert_eq!(ErrorKind::DupWithoutQos.reason_code(), ProtocolError);
    for first in [0x36, 0x37, 0x3E, 0x3F] {
        check_all_versions(server, &[first], ErrorKind::QosInvalid);
        check_all_versions(client, &[first], ErrorKind::QosInvalid);
    }
    let not_utf8 = malformed(Field::Topic, Flaw::NotUtf8);
    check_all_versions(server, b"\x30\x03\x00\x01\xff", not_utf8);
    check_all_versions(server, b"\x30\x05\x00\x03\xed\xa0\x80", not_utf8);
    let nul = malformed(Field::Topic, Flaw::Nul);
    check_all_versions(server, b"\x30\x03\x00\x01\x00", nul);
    assert_eq!(not_utf8.reason_code(), MalformedPacket);

    let id = ErrorKind::SubscriptionIdFromClient;
    check(server(V5), b"\x30\x06\x00\x01t\x02\x0b\x01", id, ProtocolError);
    assert!(client(V5).decode(b"\x30\x06\x00\x01t\x02\x0b\x01").is_ok());
    let zero = value(PropertyId::SubscriptionId, 0);
    check(client(V5), b"\x30\x06\x00\x01t\x02\x0b\x00", zero, ProtocolError);
    let format = value(PropertyId::PayloadFormat, 2);
    check(server(V5), b"\x30\x06\x00\x01t\x02\x01\x02", format, ProtocolError);
    let response = malformed(Field::Property(PropertyId::ResponseTopic), Flaw::Nul);
    check(server(V5), b"\x30\x08\x00\x01t\x04\x08\x00\x01\x00", response, MalformedPacket);
    let content = malformed(Field::Property(PropertyId::ContentType), Flaw::NotUtf8);
    check(server(V5), b"\x30\x08\x00\x01t\x04\x03\x00\x01\xff", content, MalformedPacket);
}

/// [MQTT-2.2.1-3]; 3.1.1 [MQTT-2.3.1-1]
#[test]
fn packet_id_zero_is_refused() {
    let kind = ErrorKind::PacketIdZero;
    let bytes: [&[u8]; 6] = [
        b"\x32\x05\x00\x01t\x00\x00",
        b"\x40\x02\x00\x00",
        b"\x50\x02\x00\x00",
        b"\x62\x02\x00\x00",
        b"\x70\x02\x00\x00",
        b"\x82\x05\x00\x00\x00\x00\x00",
    ];
    for bytes in bytes {
        check_all_versions(server, bytes, kind);
    }
    check_all_versions(client, b"\xb0\x02\x00\x00", kind);
    assert_eq!(kind.reason_code(), ProtocolError);
}

#[test]
fn fields_that_end_behind_the_packet_are_refused() {
    let bytes: [&[u8]; 7] = [
        b"\x30\x00",
        b"\x30\x01\x00",
        b"\x30\x03\x00\x02t",
        b"\x32\x04\x00\x01t\x00",
        b"\x40\x00",
        b"\x40\x01\x00",
        b"\x82\x01\x00",
    ];
    for bytes in bytes {
        check_all_versions(server, bytes, ErrorKind::Truncated);
    }
    for bytes in [&b"\x30\x03\x00\x01t"[..], b"\x30\x04\x00\x01t\x01", b"\x30\x05\x00\x01t\x01\x01"]
    {
        check(server(V5), bytes, ErrorKind::Truncated, MalformedPacket);
    }
}

#[test]
fn bytes_behind_the_last_field_are_refused() {
    let one = ErrorKind::TrailingBytes { count: 1 };
    check_all_versions(server, b"\xc0\x01\x00", one);
    check_all_versions(client, b"\xd0\x01\x00", one);
    for version in V3 {
        check(server(version), b"\x40\x03\x00\x01\x00", one, MalformedPacket);
        check(server(version), b"\xe0\x01\x00", one, MalformedPacket);
        check(client(version), b"\x20\x03\x00\x00\x00", one, MalformedPacket);
        check(client(version), b"\xb0\x03\x00\x01\x00", one, MalformedPacket);
    }
    check(server(V5), b"\x40\x05\x00\x01\x00\x00\x07", one, MalformedPacket);
    check(server(V5), b"\xe0\x03\x00\x00\x07", one, MalformedPacket);
}

/// MQTT-073: an empty list gives 0x82, in SUBSCRIBE and UNSUBSCRIBE. [MQTT-3.8.3-2]
/// [MQTT-3.10.3-2]; 3.1.1 MQTT-3.8.3-3
#[test]
fn lists_without_filters_are_refused() {
    let kind = ErrorKind::NoFilters;
    assert_eq!(kind.reason_code(), ProtocolError);
    for first in [0x82, 0xA2] {
        for version in V3 {
            check(server(version), &[first, 2, 0, 1], kind, ProtocolError);
        }
        check(server(V5), &[first, 3, 0, 1, 0], kind, ProtocolError);
    }
}

/// MQTT-075: subscription id 0 gives 0x82, and so does a second one.
#[test]
fn subscription_ids_are_one_and_not_zero() {
    let zero = value(PropertyId::SubscriptionId, 0);
    let bytes = framed(0x82, b"\x00\x01\x02\x0b\x00\x00\x01f\x00");
    check(server(V5), &bytes, zero, ProtocolError);
    let twice = ErrorKind::DuplicateProperty { id: PropertyId::SubscriptionId };
    let bytes = framed(0x82, b"\x00\x01\x04\x0b\x01\x0b\x02\x00\x01f\x00");
    check(server(V5), &bytes, twice, ProtocolError);
}

/// [MQTT-3.8.3-1] [MQTT-3.8.3-5] [MQTT-3.10.3-1]; 3.1.1 [MQTT3-3.8.3-4]
#[test]
fn malformed_filters_and_options_are_refused() {
    let subscribe =
        |options: u8| framed(0x82, &[b"\x00\x01\x00\x00\x01f", &[options][..]].concat());
    for options in [0x40, 0x80, 0xC0] {
        let kind = ErrorKind::SubscriptionOptionsReserved { options };
        check(server(V5), &subscribe(options), kind, MalformedPacket);
    }
    check(server(V5), &subscribe(0x03), ErrorKind::QosInvalid, MalformedPacket);
    check(server(V5), &subscribe(0x30), ErrorKind::RetainHandlingInvalid, ProtocolError);
    for options in [0x04, 0x08, 0x10, 0x20, 0x40, 0x80] {
        let bytes = framed(0x82, &[b"\x00\x01\x00\x01f", &[options][..]].concat());
        let kind = ErrorKind::SubscriptionOptionsReserved { options };
        for version in V3 {
            check(server(version), &bytes, kind, MalformedPacket);
        }
    }
    let filter = malformed(Field::TopicFilter, Flaw::NotUtf8);
    check(server(V5), &framed(0x82, b"\x00\x01\x00\x00\x01\xff\x00"), filter, MalformedPacket);
    check(server(V5), &framed(0xA2, b"\x00\x01\x00\x00\x01\xff"), filter, MalformedPacket);
    for version in V3 {
        check(server(version), &framed(0x82, b"\x00\x01\x00\x01\xff\x00"), filter, MalformedPacket);
        check(server(version), &framed(0xA2, b"\x00\x01\x00\x01\xff"), filter, MalformedPacket);
    }
    // The second filter is without options.
    let cut = framed(0x82, b"\x00\x01\x00\x00\x01f\x00\x00\x01g");
    check(server(V5), &cut, ErrorKind::Truncated, MalformedPacket);
}

/// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.14.2-1] [MQTT-3.15.2-1]
/// [MQTT-3.9.3-2] [MQTT-3.11.3-2] [MQTT-3.2.2-8]; 3.1.1 [MQTT3-3.9.3-2]
#[test]
fn reason_codes_outside_the_table_of_the_packet_are_refused() {
    let listed = |packet: PacketType, code: u8| {
        ReasonCode::from_u8(code).is_some_and(|code| code.valid_in(packet))
    };
    let check = |decoder: Decoder, bytes: &[u8], packet: PacketType, code: u8| {
        if listed(packet, code) {
            return assert!(decoder.decode(bytes).is_ok(), "{packet:?} {code}");
        }
        check(decoder, bytes, ErrorKind::InvalidReasonCode { code }, ProtocolError);
    };
    for code in 0..=u8::MAX {
        check(server(V5), &[0x40, 3, 0, 1, code], PacketType::Puback, code);
        check(server(V5), &[0x50, 3, 0, 1, code], PacketType::Pubrec, code);
        check(server(V5), &[0x62, 3, 0, 1, code], PacketType::Pubrel, code);
        check(server(V5), &[0x70, 3, 0, 1, code], PacketType::Pubcomp, code);
        check(server(V5), &[0xE0, 1, code], PacketType::Disconnect, code);
        let auth = [0xF0, 6, code, 4, 0x15, 0, 1, b'm'];
        check(server(V5), &auth, PacketType::Auth, code);
        check(client(V5), &[0x20, 3, 0, code, 0], PacketType::Connack, code);
        check(client(V5), &[0x90, 4, 0, 1, 0, code], PacketType::Suback, code);
        check(client(V5), &[0xB0, 4, 0, 1, 0, code], PacketType::Unsuback, code);
    }
    for version in V3 {
        let kind = |code| ErrorKind::InvalidReasonCode { code };
        self::check(client(version), &[0x20, 2, 0, 6], kind(6), ProtocolError);
        self::check(client(version), &[0x90, 3, 0, 1, 3], kind(3), ProtocolError);
        self::check(client(version), &[0x90, 3, 0, 1, 0x87], kind(0x87), ProtocolError);
        assert!(client(version).decode(&[0x90, 4, 0, 1, 2, 0x80]).is_ok());
    }
}

/// [MQTT-3.2.2-1] [MQTT-3.2.2-6]; 3.1.1 MQTT-3.2.2-4
#[test]
fn connack_flags_are_checked() {
    let reserved = ErrorKind::ConnackFlagsReserved;
    check(client(V5), b"\x20\x03\x02\x00\x00", reserved, MalformedPacket);
    check(client(ProtocolVersion::V311), b"\x20\x02\x81\x00", reserved, MalformedPacket);
    let present = ErrorKind::SessionPresentOnRefusal;
    check(client(V5), b"\x20\x03\x01\x87\x00", present, ProtocolError);
    check(client(ProtocolVersion::V311), b"\x20\x02\x01\x05", present, ProtocolError);
    for (property, kind) in [
        (b"\x24\x02", value(PropertyId::MaximumQos, 2)),
        (b"\x25\x02", value(PropertyId::RetainAvailable, 2)),
        (b"\x2a\x07", value(PropertyId::SharedSubscriptionAvailable, 7)),
    ] {
        let bytes = framed(0x20, &[b"\x00\x00\x02", &property[..]].concat());
        check(client(V5), &bytes, kind, ProtocolError);
    }
}

/// [MQTT-3.14.2-2] A server's DISCONNECT has no session expiry, a client's no server reference.
#[test]
fn properties_of_other_packets_are_refused() {
    let foreign = |id| ErrorKind::ForeignProperty { id };
    let expiry = b"\xe0\x07\x00\x05\x11\x00\x00\x00\x01";
    check(client(V5), expiry, foreign(PropertyId::SessionExpiry), MalformedPacket);
    assert!(server(V5).decode(expiry).is_ok());
    let reference = b"\xe0\x06\x9d\x04\x1c\x00\x01s";
    check(server(V5), reference, foreign(PropertyId::ServerReference), MalformedPacket);
    assert!(client(V5).decode(reference).is_ok());
    let alias = foreign(PropertyId::TopicAlias);
    check(server(V5), b"\x40\x07\x00\x01\x00\x03\x23\x00\x01", alias, MalformedPacket);
    let unknown = ErrorKind::UnknownProperty { id: 0x2B };
    check(server(V5), b"\x30\x06\x00\x01t\x02\x2b\x00", unknown, MalformedPacket);
    let unknown = ErrorKind::UnknownProperty { id: 300 };
    check(server(V5), b"\x30\x06\x00\x01t\x02\xac\x02", unknown, MalformedPacket);
}

#[test]
fn properties_stand_once_unless_they_may_repeat() {
    let twice = |id| ErrorKind::DuplicateProperty { id };
    let bytes = framed(0x30, b"\x00\x01t\x06\x23\x00\x01\x23\x00\x02");
    check(server(V5), &bytes, twice(PropertyId::TopicAlias), ProtocolError);
    let bytes = framed(0x40, b"\x00\x01\x00\x08\x1f\x00\x01a\x1f\x00\x01a");
    check(server(V5), &bytes, twice(PropertyId::ReasonString), ProtocolError);
    let users = framed(0x40, b"\x00\x01\x00\x0a\x26\x00\x00\x00\x00\x26\x00\x00\x00\x00");
    assert!(server(V5).decode(&users).is_ok());
    let ids = framed(0x30, b"\x00\x01t\x04\x0b\x01\x0b\x02");
    assert!(client(V5).decode(&ids).is_ok());
    let bytes = connect_v5(0x02, b"\x21\x00\x01\x21\x00\x01", b"");
    check(new_connection(), &bytes, twice(PropertyId::ReceiveMaximum), ProtocolError);
}

/// [MQTT-1.5.7-1] [MQTT-3.3.2-17]
#[test]
fn both_halves_of_a_pair_are_strings() {
    let kind = malformed(Field::Property(PropertyId::UserProperty), Flaw::NotUtf8);
    let first = framed(0x30, b"\x00\x01t\x06\x26\x00\x01\xff\x00\x00");
    let second = framed(0x30, b"\x00\x01t\x06\x26\x00\x00\x00\x01\xff");
    check(server(V5), &first, kind, MalformedPacket);
    check(server(V5), &second, kind, MalformedPacket);
}

#[test]
fn authentication_needs_its_method() {
    let kind = ErrorKind::AuthenticationMethodMissing;
    check(server(V5), b"\xf0\x02\x18\x00", kind, ProtocolError);
    check(server(V5), b"\xf0\x06\x18\x04\x16\x00\x01d", kind, ProtocolError);
    check(server(V5), b"\xf0\x01\x18", ErrorKind::Truncated, MalformedPacket);
    assert!(client(V5).decode(b"\xf0\x00").is_ok());
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let text = error(server(V5), b"\x30\x05\x00\x03\xed\xa0\x80").to_string();
    assert_eq!(text, "malformed topic: not UTF-8, at byte 4 of PUBLISH");
    let text = error(server(V5), b"\x30\x06\x00\x01t\x02\x01\x02").to_string();
    assert_eq!(text, "payload format indicator must not be 2, at byte 7 of PUBLISH");
    let text = error(server(V5), b"\x00").to_string();
    assert_eq!(text, "packet type 0 does not exist, at byte 0 of an unknown packet");
}
