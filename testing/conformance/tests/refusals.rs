//! CONNECT that is refused, in the words of each version.

use ratatosk_codec::{ProtocolVersion, UserPropertiesBuilder};
use ratatosk_conformance::{Broker, Client, Connector, Event, PATIENCE, Setup, Testament};
use ratatosk_contract::TenantSettings;
use ratatosk_mqtt::Config;

use crate::cases::{QOS1, QOS2, event_names};

const V31: ProtocolVersion = ProtocolVersion::V31;
const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

/// The code that a refused client is told, as its version writes it; `None` if it is closed
/// without a word.
fn refusal(client: &mut Client) -> Option<u8> {
    let welcome = match client.event() {
        Event::Closed => return None,
        Event::Connack(welcome) => welcome,
        other => panic!("neither refused nor closed: {other:?}"),
    };
    assert!(!welcome.is_present, "a refusal has no session");
    client.expect_close();
    Some(match client.version() {
        V5 => welcome.reason.value(),
        _ => welcome.reason.connect_return_code().expect("a code of MQTT 3").value(),
    })
}

/// The CONNECT with some bytes replaced, where they first stand.
fn patched(connector: &Connector, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = connector.encoded(|_| ());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("is there");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// MQTT-016: [MQTT-3.1.2-2] [MQTT3-3.1.2-2] a level that nobody knows is refused, and told apart
/// from other breaches.
#[test]
fn an_unknown_protocol_level_is_refused() {
    let (events, told) = event_names();
    let broker = Broker::with(Setup { events, ..Setup::default() });
    for level in [1, 2, 3, 6, 255] {
        let bytes = patched(&broker.v4("c"), &[4, 2], &[level]);
        // It is told so by the code of 3.1.1.
        assert_eq!(refusal(&mut broker.v4("c").open_raw(&bytes)), Some(0x01), "level {level}");
        assert_eq!(told.recv_timeout(PATIENCE), Ok("UNACCEPTED_PROTOCOL_VER"), "level {level}");
    }
    // Another name is no MQTT.
    let bytes = patched(&broker.v4("c"), b"MQTT", b"MQTX");
    assert_eq!(refusal(&mut broker.v4("c").open_raw(&bytes)), None);
    assert_eq!(broker.stats_when(|stats| stats.refused == 6).connected, 0);
}

/// MQTT-017: [MQTT-3.1.4-1] [MQTT3-3.1.4-1] what is too large or cannot be decoded is told its
/// code in 5.0, and closed before.
#[test]
fn a_connect_that_is_too_large_or_malformed_is_refused() {
    let mut config = Config { shards: 2, ..Config::default() };
    config.session.connect_bytes_max = 2000;
    let broker = Broker::with(Setup { config, ..Setup::default() });
    for (version, large, malformed) in
        [(V5, Some(0x95), Some(0x81)), (V311, None, None), (V31, None, None)]
    {
        let name = "n".repeat(2000);
        let mut client = broker.client(version, "c").user(&name).open();
        assert_eq!(refusal(&mut client), large, "{version}");
        let connector = broker.client(version, "c").user("u").will(Testament::new("w", "x"));
        // Of the flags: QoS 3 of the will, and a will that has QoS but is not there.
        let level = version.level();
        let mut broken = vec![patched(&connector, &[level, 0x8E], &[level, 0x9E])];
        broken.push(patched(&connector, &[level, 0x8E], &[level, 0x8A]));
        if version != V31 {
            // The reserved flag.
            broken.push(patched(&connector, &[level, 0x8E], &[level, 0x8F]));
        }
        if version == V311 {
            // A password without a user name. [MQTT3-3.1.2-22]
            broken.push(patched(&broker.v4("c").user("p"), &[4, 0x82], &[4, 0x42]));
        }
        // A field that is longer than the packet, and a packet that is longer than its fields.
        let mut bytes = connector.encoded(|_| ());
        let length = bytes.len();
        bytes[length - 2] += 1;
        broken.push(bytes.clone());
        bytes[length - 2] -= 1;
        bytes[1] += 1;
        bytes.push(0);
        broken.push(bytes);
        for bytes in broken {
            let mut client = connector.open_raw(&bytes);
            assert_eq!(refusal(&mut client), malformed, "{version}, {bytes:02x?}");
        }
        let name = "n".repeat(1000);
        broker.client(version, "c").user(&name).connect().ping();
    }
}

/// MQTT-018: [MQTT-3.1.3-4] [MQTT-3.1.3-5] [MQTT-3.1.3-8] [MQTT3-3.1.3-8] identifiers that are too
/// long, no text, or empty where they may not be.
#[test]
fn a_bad_client_id_is_refused() {
    let mut config = Config { shards: 2, ..Config::default() };
    config.session.client_id_bytes_max = 62;
    let broker = Broker::with(Setup { config, ..Setup::default() });
    for (version, code) in [(V5, 0x85), (V311, 0x02), (V31, 0x02)] {
        let long = "l".repeat(63);
        assert_eq!(refusal(&mut broker.client(version, &long).open()), Some(code), "{version}");
        broker.client(version, &long[1..]).connect().ping();
        // Letters and digits, 23 of them, are always taken.
        broker.client(version, "0aA9zZbcdefghijklmnopqr").connect().ping();
        // Text that is none: MQTT 3 closes.
        let bytes = patched(&broker.client(version, "zz"), b"zz", &[0xFF]);
        let expected = version.is_v5().then_some(code);
        let mut client = broker.client(version, "zz").open_raw(&bytes);
        assert_eq!(refusal(&mut client), expected, "{version}");
        let bytes = patched(&broker.client(version, "zz"), b"zz", &[0]);
        let mut client = broker.client(version, "zz").open_raw(&bytes);
        assert_eq!(refusal(&mut client), expected, "{version}");
    }
    assert_eq!(refusal(&mut broker.v4("").persistent().open()), Some(0x02));
    // 3.1 has no identifiers of the server's; 5.0 gives one to whoever has none.
    assert_eq!(refusal(&mut broker.client(V31, "").open()), Some(0x02));
    broker.v5("").persistent().connect().ping();
    assert_eq!(Config::default().session.client_id_bytes_max, u16::MAX);
}

/// MQTT-020: [MQTT-3.1.3-11] [MQTT-3.1.3-12] malformed text is 0x81, what the protocol forbids is
/// 0x82; before 5.0 both close.
#[test]
fn fields_of_connect_are_refused_with_their_codes() {
    let broker = Broker::start();
    for version in [V31, V311, V5] {
        let code = |code| version.is_v5().then_some(code);
        let connector = broker.client(version, "c").user("uu").will(Testament::new("ww", "x"));
        for (field, broken) in
            [(b"uu", [b'u', 0xFF]), (b"uu", [0, b'u']), (b"ww", [0xC0, 0x80]), (b"ww", [b'w', 0])]
        {
            let mut client = connector.open_raw(&patched(&connector, field, &broken));
            assert_eq!(refusal(&mut client), code(0x81), "{version}, {broken:02x?}");
        }
    }
    let connector = broker.v5("c").receive_maximum(0x1234);
    let zero = patched(&connector, &[0x21, 0x12, 0x34], &[0x21, 0, 0]);
    assert_eq!(refusal(&mut connector.open_raw(&zero)), Some(0x82));
    let mut client =
        broker.v5("c").open_with(|connect| connect.properties.authentication_data = Some(b"d"));
    assert_eq!(refusal(&mut client), Some(0x82));
}

/// The count of user properties is bounded, and the refusal says what ran out.
#[test]
fn user_properties_of_connect_are_bounded() {
    let broker = Broker::start();
    let mut properties = UserPropertiesBuilder::new();
    for _ in 0..257 {
        properties.push("name", "value").expect("fits");
    }
    let mut bytes = Vec::new();
    let mut connect = ratatosk_codec::Connect::new(V5, "c", true);
    connect.properties.user_properties = properties.view();
    ratatosk_codec::encode(&ratatosk_codec::Packet::Connect(connect), V5, &mut bytes);
    let welcome = broker.v5("c").open_raw(&bytes).connack();
    assert_eq!(welcome.reason.value(), 0x97);
    let why = welcome.reason_string.expect("says why");
    assert!(why.contains("user properties"), "{why}");
}

/// MQTT-025: [MQTT3-3.2.2-6] [MQTT-4.13.2-1] a will that is larger than the tenant allows is 0x95,
/// or closes.
#[test]
fn a_will_that_is_too_large_is_refused() {
    let settings = TenantSettings { max_last_will_bytes: 10, ..TenantSettings::default() };
    let broker = Broker::with_settings(settings);
    let mut watcher = broker.v5("watcher").connect();
    watcher.subscribe("w", QOS1);
    for version in [V31, V311, V5] {
        let will = |bytes: usize| Testament::new("w", &"x".repeat(bytes));
        let mut client = broker.client(version, "c").will(will(11)).open();
        assert_eq!(refusal(&mut client), version.is_v5().then_some(0x95), "{version}");
        broker.client(version, "c").will(will(10)).connect().vanish();
        // The refused one has no will that could come.
        assert_eq!(watcher.message().payload.len(), 10, "{version}");
    }
    assert_eq!(TenantSettings::default().max_last_will_bytes, 1 << 20);
}

/// MQTT-026: [MQTT-3.2.2-12] [MQTT-3.2.2-13] each fault of a will has its code, or closes.
#[test]
fn a_bad_will_is_refused() {
    let all = TenantSettings::default();
    let no_retain = TenantSettings { retain_enabled: false, ..all.clone() };
    let no_qos2 = TenantSettings { maximum_qos: 1, ..all.clone() };
    let shallow = TenantSettings { max_topic_levels: 2, ..all.clone() };
    let will = |topic: &str| Testament { retain: true, qos: QOS2, ..Testament::new(topic, "x") };
    let cases = [
        (&all, will("w"), None),
        (&all, will("w/#"), Some(0x90)),
        (&all, will("+"), Some(0x90)),
        (&all, will("$share/g/w"), Some(0x90)),
        (&shallow, will("a/b/c"), Some(0x90)),
        (&no_retain, will("w"), Some(0x9A)),
        (&no_retain, Testament { retain: false, ..will("w") }, None),
        (&no_qos2, will("w"), Some(0x9B)),
        (&no_qos2, Testament { qos: QOS1, ..will("w") }, None),
    ];
    for (settings, will, code) in cases {
        let broker = Broker::with_settings(settings.clone());
        for version in [V31, V311, V5] {
            let connector = broker.client(version, "c").will(will.clone());
            if code.is_none() {
                connector.connect().ping();
                continue;
            }
            let expected = code.filter(|_| version.is_v5());
            assert_eq!(refusal(&mut connector.open()), expected, "{version}, {will:?}");
        }
    }
    // Text that is none, while that is checked.
    for (is_checked, expected) in [(true, 0x99), (false, 0x00)] {
        let settings =
            TenantSettings { payload_format_validation_enabled: is_checked, ..all.clone() };
        let broker = Broker::with_settings(settings);
        let will = Testament { payload: vec![0xFF], ..will("w") };
        let mut client = broker.v5("c").will(will).open_with(|connect| {
            let will = connect.will.as_mut().expect("has one");
            will.properties.payload_is_utf8 = Some(true);
        });
        assert_eq!(client.connack().reason.value(), expected);
    }
}
