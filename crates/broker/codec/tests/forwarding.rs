//! Properties of a PUBLISH on their way to subscribers.

use ratatosk_codec::{Decoded, Decoder, Packet, ProtocolVersion, Publish};

const FORMAT: &[u8] = b"\x01\x01";
const EXPIRY: &[u8] = b"\x02\x00\x00\x00\x3c";
const CONTENT: &[u8] = b"\x03\x00\x01c";
const RESPONSE: &[u8] = b"\x08\x00\x01r";
const CORRELATION: &[u8] = b"\x09\x00\x02\x00\xff";
const ALIAS: &[u8] = b"\x23\x00\x00";
const USER_1: &[u8] = b"\x26\x00\x01k\x00\x011";
const USER_2: &[u8] = b"\x26\x00\x01k\x00\x012";

fn packet(properties: &[&[u8]]) -> Vec<u8> {
    let block = properties.concat();
    let length = |value: usize| u8::try_from(value).expect("short");
    let mut bytes = vec![0x30, length(4 + block.len()), 0, 1, b't', length(block.len())];
    bytes.extend_from_slice(&block);
    bytes
}

fn publish(bytes: &[u8]) -> Publish<'_> {
    let mut decoder = Decoder::server(1000);
    decoder.set_version(ProtocolVersion::V5);
    match decoder.decode(bytes) {
        Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) => publish,
        other => panic!("{other:?} is no PUBLISH"),
    }
}

/// MQTT-101: unaltered and in order. [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16]
/// [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
#[test]
fn what_subscribers_get_keeps_its_bytes_and_order() {
    let check = |properties: &[&[u8]], expected: &[&[u8]], is_one_slice: bool| {
        let bytes = packet(properties);
        let properties = publish(&bytes).properties;
        let mut forwarded = vec![9];
        properties.forwarded(&mut forwarded);
        assert_eq!(&forwarded[1..], expected.concat());
        let slice = properties.forwarded_slice();
        assert_eq!(slice.is_some(), is_one_slice);
        assert_eq!(slice.unwrap_or(&forwarded[1..]), expected.concat());
    };
    check(&[], &[], true);
    check(&[ALIAS], &[], true);
    check(&[USER_2, CONTENT, USER_1], &[USER_2, CONTENT, USER_1], true);
    check(&[EXPIRY, USER_1, FORMAT, ALIAS], &[USER_1, FORMAT], true);
    check(&[USER_1, ALIAS, USER_2], &[USER_1, USER_2], false);
    let all = [RESPONSE, EXPIRY, USER_2, CORRELATION, ALIAS, CONTENT, FORMAT, USER_1];
    check(&all, &[RESPONSE, USER_2, CORRELATION, CONTENT, FORMAT, USER_1], false);
}

#[test]
fn properties_are_read_wherever_they_stand() {
    let all = [RESPONSE, EXPIRY, USER_2, CORRELATION, ALIAS, CONTENT, FORMAT, USER_1];
    let bytes = packet(&all);
    let properties = publish(&bytes).properties;
    assert_eq!(properties.topic_alias(), Some(0), "the session answers alias 0");
    assert_eq!(properties.message_expiry_s(), Some(60));
    assert!(properties.payload_is_utf8());
    assert_eq!(properties.response_topic(), Some("r"));
    assert_eq!(properties.correlation_data(), Some(&b"\x00\xff"[..]));
    assert_eq!(properties.content_type(), Some("c"));
    let users: Vec<_> = properties.user_properties().collect();
    assert_eq!(users, [("k", "2"), ("k", "1")]);
    assert_eq!(properties.bytes(), all.concat());
    let none = Publish::new("t", b"").properties;
    assert_eq!(none.content_type(), None);
    assert!(!none.payload_is_utf8());
}
