//! The bytes of every packet in every version, written out. They never change.
//!
//! Each is also a seed of the fuzz corpus: its decoder's number, then its bytes.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;

use ratatosk_codec::{
    Ack, Auth, Connack, ConnackProperties, Connect, ConnectProperties, Decoded, Decoder,
    Disconnect, Packet, PacketId, ProtocolVersion, Publish, PublishPropertiesBuilder, Qos,
    ReasonCode, RetainHandling, Suback, Subscribe, SubscribeFiltersBuilder, SubscriptionOptions,
    Unsuback, Unsubscribe, UnsubscribeFiltersBuilder, UserPropertiesBuilder, Will, WillProperties,
    encode,
};

use ProtocolVersion::{V5, V31, V311};

/// Who receives the packet.
#[derive(Clone, Copy)]
enum To {
    NewServer,
    Server,
    Client,
}

/// Both directions, and the seed.
fn check(name: &str, to: To, version: ProtocolVersion, bytes: &[u8], packet: Packet<'_>) {
    let mut encoded = Vec::new();
    encode(&packet, version, &mut encoded);
    assert_eq!(encoded.escape_ascii().to_string(), bytes.escape_ascii().to_string(), "{name}");
    let mut server = Decoder::server(1000);
    let decoder = match to {
        To::NewServer => server,
        To::Server => {
            server.set_version(version);
            server
        }
        To::Client => Decoder::client(version, 1000),
    };
    let expected = Ok(Decoded::Packet { packet, length: bytes.len() });
    assert_eq!(decoder.decode(bytes), expected, "{name}");
    check_seed(name, to, version, bytes);
}

fn check_seed(name: &str, to: To, version: ProtocolVersion, bytes: &[u8]) {
    let first = 2 * (version.level() - 3) + 1;
    let selector = match to {
        To::NewServer => 0,
        To::Server => first,
        To::Client => first + 1,
    };
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus/codec_decode");
    let seed = std::fs::read(corpus.join(name)).unwrap_or_default();
    assert_eq!(seed.first(), Some(&selector), "the corpus holds {name} for its decoder");
    assert_eq!(&seed[1..], bytes, "the corpus holds {name}");
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not zero")
}

fn users() -> UserPropertiesBuilder {
    let mut users = UserPropertiesBuilder::new();
    users.push("a", "b").expect("short");
    users
}

/// [MQTT-3.1.3-1] [MQTT-3.1.3-3] [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18] [MQTT-3.1.2-19]
#[test]
fn connect_keeps_its_bytes() {
    let bytes = b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02cl";
    let bare = Connect { keep_alive_s: 60, ..Connect::new(V31, "cl", true) };
    check("connect_v31", To::NewServer, V31, bytes, Packet::Connect(bare));

    let bytes =
        b"\x10\x19\x00\x04MQTT\x04\xee\x00\x0a\x00\x01c\x00\x01w\x00\x01m\x00\x01u\x00\x01p";
    let properties = WillProperties::default();
    let qos = Qos::AtLeastOnce;
    let full = Connect {
        keep_alive_s: 10,
        will: Some(Will { qos, retain: true, topic: "w", payload: b"m", properties }),
        username: Some("u"),
        password: Some(b"p"),
        ..Connect::new(V311, "c", true)
    };
    check("connect_v311", To::NewServer, V311, bytes, Packet::Connect(full));

    let bytes = b"\x10\x0d\x00\x04MQTT\x05\x00\x00\x00\x00\x00\x00";
    let bare = Connect::new(V5, "", false);
    check("connect_v5", To::NewServer, V5, bytes, Packet::Connect(bare));
}

/// [MQTT-3.1.2-9] [MQTT-3.1.3-10]
#[test]
fn connect_with_all_properties_keeps_its_bytes() {
    let bytes = b"\x10\x5d\x00\x04MQTT\x05\xd4\x00\x0a\x23\x11\x00\x00\x00\x3c\x21\x00\x0a\x27\x00\x00\x10\x00\x22\x00\x05\x19\x01\x17\x00\x15\x00\x01m\x16\x00\x01d\x26\x00\x01a\x00\x01b\x00\x01c\x1f\x18\x00\x00\x00\x05\x02\x00\x00\x00\x07\x01\x01\x03\x00\x01t\x08\x00\x01r\x09\x00\x01c\x26\x00\x01a\x00\x01b\x00\x01w\x00\x01m\x00\x01u\x00\x01p";
    let users = users();
    let properties = WillProperties {
        delay_s: Some(5),
        payload_is_utf8: Some(true),
        message_expiry_s: Some(7),
        content_type: Some("t"),
        response_topic: Some("r"),
        correlation_data: Some(b"c"),
        user_properties: users.view(),
    };
    let mut forwarded = Vec::new();
    properties.forwarded(&mut forwarded);
    let expected = b"\x01\x01\x03\x00\x01t\x08\x00\x01r\x09\x00\x01c\x26\x00\x01a\x00\x01b";
    assert_eq!(forwarded, expected);
    let qos = Qos::ExactlyOnce;
    let full = Connect {
        keep_alive_s: 10,
        will: Some(Will { qos, retain: false, topic: "w", payload: b"m", properties }),
        username: Some("u"),
        password: Some(b"p"),
        properties: ConnectProperties {
            session_expiry_s: Some(60),
            receive_maximum: NonZeroU16::new(10),
            packet_size_max: NonZeroU32::new(4096),
            topic_alias_max: Some(5),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            user_properties: users.view(),
            authentication_method: Some("m"),
            authentication_data: Some(b"d"),
        },
        ..Connect::new(V5, "c", false)
    };
    check("connect_v5_full", To::NewServer, V5, bytes, Packet::Connect(full));
}

/// [MQTT-2.2.2-1] [MQTT-3.2.2-16] [MQTT-3.2.2-9]
#[test]
fn connack_keeps_its_bytes() {
    let accepted = Connack::new(ReasonCode::Success, false);
    check("connack_v31", To::Client, V31, b"\x20\x02\x00\x00", Packet::Connack(accepted));
    let resumed = Connack::new(ReasonCode::Success, true);
    check("connack_v311", To::Client, V311, b"\x20\x02\x01\x00", Packet::Connack(resumed));
    let refused = Connack::new(ReasonCode::NotAuthorized, false);
    check("connack_v311_refused", To::Client, V311, b"\x20\x02\x00\x05", Packet::Connack(refused));
    check("connack_v5", To::Client, V5, b"\x20\x03\x01\x00\x00", Packet::Connack(resumed));

    let bytes = b"\x20\x3f\x00\x9d\x3c\x11\x00\x00\x00\x3c\x21\x00\x0a\x24\x01\x25\x00\x27\x00\x00\x10\x00\x12\x00\x01i\x22\x00\x05\x1f\x00\x01s\x28\x00\x29\x00\x2a\x01\x13\x00\x1e\x1a\x00\x01r\x1c\x00\x01h\x15\x00\x01m\x16\x00\x01d\x26\x00\x01a\x00\x01b";
    let users = users();
    let properties = ConnackProperties {
        session_expiry_s: Some(60),
        receive_maximum: NonZeroU16::new(10),
        qos_max: Some(Qos::AtLeastOnce),
        retain_available: Some(false),
        packet_size_max: NonZeroU32::new(4096),
        assigned_client_id: Some("i"),
        topic_alias_max: Some(5),
        reason_string: Some("s"),
        user_properties: users.view(),
        wildcard_available: Some(false),
        subscription_ids_available: Some(false),
        shared_available: Some(true),
        server_keep_alive_s: Some(30),
        response_information: Some("r"),
        server_reference: Some("h"),
        authentication_method: Some("m"),
        authentication_data: Some(b"d"),
    };
    let full = Connack { properties, ..Connack::new(ReasonCode::ServerMoved, false) };
    check("connack_v5_full", To::Client, V5, bytes, Packet::Connack(full));
}

/// [MQTT-2.2.1-2] [MQTT-2.2.2-1]; 3.1.1 [MQTT-2.3.1-5]
#[test]
fn publish_keeps_its_bytes() {
    let plain = Publish::new("t", b"hi");
    check("publish_v31", To::Client, V31, b"\x30\x05\x00\x01thi", Packet::Publish(plain));
    check("publish_v311", To::Server, V311, b"\x30\x05\x00\x01thi", Packet::Publish(plain));
    check("publish_v5", To::Server, V5, b"\x30\x06\x00\x01t\x00hi", Packet::Publish(plain));
    let qos = Qos::AtLeastOnce;
    let again = Publish { dup: true, retain: true, qos, packet_id: Some(id(10)), ..plain };
    let bytes = b"\x3b\x07\x00\x01t\x00\x0ahi";
    check("publish_v311_qos1", To::Server, V311, bytes, Packet::Publish(again));
    let qos = Qos::ExactlyOnce;
    let exact = Publish { qos, packet_id: Some(id(258)), ..Publish::new("", b"") };
    let bytes = b"\x34\x04\x00\x00\x01\x02";
    check("publish_v31_qos2", To::Server, V31, bytes, Packet::Publish(exact));

    let bytes = b"\x34\x29\x00\x01t\x01\x02\x22\x23\x00\x03\x02\x00\x00\x00\x3c\x01\x01\x08\x00\x01r\x09\x00\x01c\x03\x00\x01j\x26\x00\x01a\x00\x01b\x0b\x07\x0b\x80\x01!";
    let mut builder = PublishPropertiesBuilder::new();
    builder
        .topic_alias(3)
        .and_then(|it| it.message_expiry_s(60))
        .and_then(|it| it.payload_is_utf8(true))
        .and_then(|it| it.response_topic("r"))
        .and_then(|it| it.correlation_data(b"c"))
        .and_then(|it| it.content_type("j"))
        .and_then(|it| it.user_property("a", "b"))
        .and_then(|it| it.subscription_id(7))
        .and_then(|it| it.subscription_id(128))
        .expect("each once");
    let full = Publish { properties: builder.view(), topic: "t", payload: b"!", ..exact };
    check("publish_v5_full", To::Client, V5, bytes, Packet::Publish(full));
}

/// [MQTT-2.2.1-5]; 3.1.1 [MQTT-2.3.1-6]
#[test]
fn acknowledgements_keep_their_bytes() {
    let ack = Ack::new(id(258), ReasonCode::Success);
    for (version, name) in [(V31, "v31"), (V311, "v311"), (V5, "v5")] {
        let check = |packet: &str, bytes: &[u8], value: Packet<'_>| {
            check(&format!("{packet}_{name}"), To::Server, version, bytes, value);
        };
        check("puback", b"\x40\x02\x01\x02", Packet::Puback(ack));
        check("pubrec", b"\x50\x02\x01\x02", Packet::Pubrec(ack));
        check("pubrel", b"\x62\x02\x01\x02", Packet::Pubrel(ack));
        check("pubcomp", b"\x70\x02\x01\x02", Packet::Pubcomp(ack));
    }
    let none = Ack::new(id(258), ReasonCode::NoMatchingSubscribers);
    check("puback_v5_code", To::Client, V5, b"\x40\x03\x01\x02\x10", Packet::Puback(none));
    let users = users();
    let full = Ack {
        reason_string: Some("s"),
        user_properties: users.view(),
        ..Ack::new(id(258), ReasonCode::PacketIdNotFound)
    };
    let bytes = b"\x70\x0f\x01\x02\x92\x0b\x1f\x00\x01s\x26\x00\x01a\x00\x01b";
    check("pubcomp_v5_full", To::Client, V5, bytes, Packet::Pubcomp(full));
    let full = Ack { reason: ReasonCode::Success, user_properties: Default::default(), ..full };
    let bytes = b"\x62\x08\x01\x02\x00\x04\x1f\x00\x01s";
    check("pubrel_v5_full", To::Client, V5, bytes, Packet::Pubrel(full));
}

/// [MQTT-2.2.1-6] [MQTT-3.8.4-6] [MQTT-3.9.3-1]; 3.1.1 [MQTT-2.3.1-7] MQTT-3.9.3-1
#[test]
fn subscribe_and_suback_keep_their_bytes() {
    let mut filters = SubscribeFiltersBuilder::new();
    filters.push("a/+", SubscriptionOptions::new(Qos::AtLeastOnce)).expect("short");
    filters.push("#", SubscriptionOptions::new(Qos::ExactlyOnce)).expect("short");
    let plain = Subscribe::new(id(10), filters.view());
    let bytes = b"\x82\x0c\x00\x0a\x00\x03a/+\x01\x00\x01#\x02";
    check("subscribe_v31", To::Server, V31, bytes, Packet::Subscribe(plain));
    check("subscribe_v311", To::Server, V311, bytes, Packet::Subscribe(plain));

    let mut filters = SubscribeFiltersBuilder::new();
    let options = SubscriptionOptions {
        qos: Qos::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    filters.push("a", options).expect("short");
    let users = users();
    let full = Subscribe {
        subscription_id: Some(128),
        user_properties: users.view(),
        ..Subscribe::new(id(10), filters.view())
    };
    let bytes = b"\x82\x11\x00\x0a\x0a\x0b\x80\x01\x26\x00\x01a\x00\x01b\x00\x01a\x2d";
    check("subscribe_v5", To::Server, V5, bytes, Packet::Subscribe(full));

    let codes = [ReasonCode::GrantedQos1, ReasonCode::UnspecifiedError];
    let plain = Suback::new(id(10), &codes);
    check("suback_v31", To::Client, V31, b"\x90\x04\x00\x0a\x01\x80", Packet::Suback(plain));
    check("suback_v311", To::Client, V311, b"\x90\x04\x00\x0a\x01\x80", Packet::Suback(plain));
    let codes = [ReasonCode::GrantedQos2, ReasonCode::NotAuthorized];
    let full = Suback {
        reason_string: Some("s"),
        user_properties: users.view(),
        ..Suback::new(id(10), &codes)
    };
    let bytes = b"\x90\x10\x00\x0a\x0b\x1f\x00\x01s\x26\x00\x01a\x00\x01b\x02\x87";
    check("suback_v5", To::Client, V5, bytes, Packet::Suback(full));
    // What 3.x cannot say is a failure there.
    let mut bytes = Vec::new();
    encode(&Packet::Suback(full), V311, &mut bytes);
    assert_eq!(bytes, b"\x90\x04\x00\x0a\x02\x80");
}

/// [MQTT-2.2.1-6] [MQTT-3.11.3-1]; 3.1.1 [MQTT-2.3.1-7]
#[test]
fn unsubscribe_and_unsuback_keep_their_bytes() {
    let mut filters = UnsubscribeFiltersBuilder::new();
    filters.push("a/+").expect("short").push("#").expect("short");
    let plain = Unsubscribe::new(id(10), filters.view());
    let bytes = b"\xa2\x0a\x00\x0a\x00\x03a/+\x00\x01#";
    check("unsubscribe_v31", To::Server, V31, bytes, Packet::Unsubscribe(plain));
    check("unsubscribe_v311", To::Server, V311, bytes, Packet::Unsubscribe(plain));
    let users = users();
    let full = Unsubscribe { user_properties: users.view(), ..plain };
    let bytes = b"\xa2\x12\x00\x0a\x07\x26\x00\x01a\x00\x01b\x00\x03a/+\x00\x01#";
    check("unsubscribe_v5", To::Server, V5, bytes, Packet::Unsubscribe(full));

    let plain = Unsuback::new(id(10), &[]);
    check("unsuback_v31", To::Client, V31, b"\xb0\x02\x00\x0a", Packet::Unsuback(plain));
    check("unsuback_v311", To::Client, V311, b"\xb0\x02\x00\x0a", Packet::Unsuback(plain));
    let codes = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    let full = Unsuback { reason_string: Some("s"), ..Unsuback::new(id(10), &codes) };
    let bytes = b"\xb0\x09\x00\x0a\x04\x1f\x00\x01s\x00\x11";
    check("unsuback_v5", To::Client, V5, bytes, Packet::Unsuback(full));
}

#[test]
fn pings_keep_their_bytes() {
    for (version, name) in [(V31, "v31"), (V311, "v311"), (V5, "v5")] {
        let pingreq = format!("pingreq_{name}");
        check(&pingreq, To::Server, version, b"\xc0\x00", Packet::Pingreq);
        let pingresp = format!("pingresp_{name}");
        check(&pingresp, To::Client, version, b"\xd0\x00", Packet::Pingresp);
    }
}

#[test]
fn disconnect_and_auth_keep_their_bytes() {
    let normal = Disconnect::new(ReasonCode::Success);
    for (version, name) in [(V31, "v31"), (V311, "v311"), (V5, "v5")] {
        let name = format!("disconnect_{name}");
        check(&name, To::Server, version, b"\xe0\x00", Packet::Disconnect(normal));
    }
    let will = Disconnect::new(ReasonCode::DisconnectWithWill);
    check("disconnect_v5_code", To::Server, V5, b"\xe0\x01\x04", Packet::Disconnect(will));
    let expiry = Disconnect { session_expiry_s: Some(60), ..normal };
    let bytes = b"\xe0\x07\x00\x05\x11\x00\x00\x00\x3c";
    check("disconnect_v5_expiry", To::Server, V5, bytes, Packet::Disconnect(expiry));
    let users = users();
    let moved = Disconnect {
        reason_string: Some("s"),
        user_properties: users.view(),
        server_reference: Some("h"),
        ..Disconnect::new(ReasonCode::ServerMoved)
    };
    let bytes = b"\xe0\x11\x9d\x0f\x1f\x00\x01s\x1c\x00\x01h\x26\x00\x01a\x00\x01b";
    check("disconnect_v5_moved", To::Client, V5, bytes, Packet::Disconnect(moved));

    let auth = Auth {
        data: Some(b"d"),
        reason_string: Some("s"),
        user_properties: users.view(),
        ..Auth::new(ReasonCode::ContinueAuthentication, "m")
    };
    let bytes = b"\xf0\x15\x18\x13\x15\x00\x01m\x16\x00\x01d\x1f\x00\x01s\x26\x00\x01a\x00\x01b";
    check("auth_v5", To::Server, V5, bytes, Packet::Auth(auth));
    let short = Auth { method: None, ..Auth::new(ReasonCode::Success, "") };
    check("auth_v5_short", To::Client, V5, b"\xf0\x00", Packet::Auth(short));
}
