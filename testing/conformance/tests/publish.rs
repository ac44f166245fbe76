//! PUBLISH from clients: acknowledgements, refusals, order, what is handed on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ratatosk_codec::{
    Packet, PacketId, PacketType, Publish, PublishPropertiesBuilder, Qos, ReasonCode,
};
use ratatosk_conformance::{Broker, Event, PermissionBy, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Verdict},
};
use tokio::sync::Semaphore;

use crate::cases::{ALL_QOS, Case, QOS0, QOS1, QOS2, VERSIONS, assert_quiet};

fn settings(change: impl Fn(&mut TenantSettings)) -> Setup {
    let mut setup = Setup::default();
    change(&mut setup.settings);
    setup
}

/// MQTT-054, MQTT-055: [MQTT-4.3.2-2] [MQTT-4.3.3-2] each QoS is acknowledged as it must be, and
/// each message comes once.
#[test]
fn messages_of_every_qos_come_once() {
    for case in Case::all(Setup::default) {
        let (mut publisher, mut subscriber, _guard) =
            case.pair(case.client("publisher"), case.client("subscriber"));
        subscriber.subscribe("t/+", QOS2);
        for qos in ALL_QOS {
            for number in 0..20 {
                let code = publisher.deliver("t/x", number.to_string(), qos);
                assert_eq!(code, ReasonCode::Success);
            }
            for number in 0..20 {
                let message = subscriber.message();
                let found = (message.text().parse(), message.qos, message.dup);
                assert_eq!(found, (Ok(number), qos, false), "{}", case.name);
            }
        }
        assert_quiet(&mut publisher, &mut subscriber);
    }
}

/// MQTT-055: a QoS 2 message that is sent again before its PUBREL is distributed once.
#[test]
fn a_repeated_qos2_publish_is_distributed_once() {
    for case in Case::all(Setup::default) {
        let (mut publisher, mut subscriber, _guard) =
            case.pair(case.client("publisher"), case.client("subscriber"));
        subscriber.subscribe("t", QOS2);
        let id = publisher.publish("t", "once", QOS2);
        publisher.find_ack(PacketType::Pubrec, id);
        let again = Publish {
            dup: true,
            qos: QOS2,
            packet_id: PacketId::new(id),
            ..Publish::new("t", b"once")
        };
        for _ in 0..3 {
            publisher.publish_as(again);
            let code = publisher.find_ack(PacketType::Pubrec, id);
            assert_eq!(code, ReasonCode::Success, "{}", case.name);
        }
        publisher.ack(PacketType::Pubrel, id);
        assert_eq!(publisher.find_ack(PacketType::Pubcomp, id), ReasonCode::Success);
        assert_eq!(subscriber.message().text(), "once");
        assert_quiet(&mut publisher, &mut subscriber);
        // After PUBCOMP the identifier stands for another message.
        publisher.publish_as(Publish { dup: false, payload: b"new", ..again });
        publisher.finish(QOS2, id);
        assert_eq!(subscriber.message().text(), "new");
    }
}

/// Who speaks 5.0 is told that nobody receives it, as long as nobody does.
/// The part of MQTT-056 that needs no store that fails.
#[test]
fn an_unmatched_publish_is_acknowledged_as_such() {
    for case in Case::all(Setup::default) {
        let (mut publisher, mut subscriber, _guard) =
            case.pair(case.client("publisher"), case.client("subscriber"));
        let none = match case.version.is_v5() {
            true => ReasonCode::NoMatchingSubscribers,
            false => ReasonCode::Success,
        };
        for qos in [QOS1, QOS2] {
            assert_eq!(publisher.deliver("t", "x", qos), none, "{}", case.name);
            subscriber.subscribe("t", QOS0);
            assert_eq!(publisher.deliver("t", "x", qos), ReasonCode::Success, "{}", case.name);
            subscriber.message();
            subscriber.unsubscribe(&["t"]);
            assert_eq!(publisher.deliver("t", "x", qos), none, "{}", case.name);
        }
        // A stored session that is away receives it.
        let mut away = case.client("away").persistent().connect();
        away.subscribe("t", QOS1);
        away.disconnect(ReasonCode::Success);
        assert_eq!(publisher.deliver("t", "x", QOS1), ReasonCode::Success, "{}", case.name);
    }
}

/// In 5.0 more unfinished messages than Receive Maximum allows end the connection.
/// The half of MQTT-058 that needs no store that is late.
#[test]
fn more_in_flight_than_the_receive_maximum_ends_the_connection() {
    let setup = settings(|settings| settings.receiving_maximum = 5);
    let broker = Broker::with(setup);
    let mut client = broker.v5("c").connect();
    for _ in 0..5 {
        let id = client.publish("t", "x", QOS2);
        client.find_ack(PacketType::Pubrec, id);
    }
    // One of QoS 0 does not count, and one that is finished makes room for another.
    client.publish("t", "x", QOS0);
    client.ack(PacketType::Pubrel, 1);
    client.find_ack(PacketType::Pubcomp, 1);
    let id = client.publish("t", "x", QOS2);
    client.find_ack(PacketType::Pubrec, id);
    client.publish("t", "x", QOS2);
    client.expect_farewell(ReasonCode::ReceiveMaximumExceeded);
    assert_eq!(TenantSettings::default().receiving_maximum, 1024);
}

/// MQTT-059: above the rate 5.0 is told 0x96; 3.1.1 is read at the rate, and loses nothing.
#[test]
fn publishes_above_the_rate_are_stopped_or_slowed() {
    for case in Case::all(|| settings(|settings| settings.msg_pub_per_sec = 50)) {
        let (mut publisher, mut subscriber, _guard) =
            case.pair(case.client("publisher"), case.client("subscriber"));
        subscriber.subscribe("t", QOS0);
        let started = Instant::now();
        for number in 0..100 {
            publisher.publish("t", number.to_string(), QOS0);
        }
        if case.version.is_v5() {
            publisher.expect_farewell(ReasonCode::MessageRateTooHigh);
            continue;
        }
        for number in 0..100 {
            assert_eq!(subscriber.message().text().parse(), Ok(number), "{}", case.name);
        }
        // A second's worth at once, the rest at the rate.
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(900), "{} took {took:?}", case.name);
    }
    assert_eq!(TenantSettings::default().msg_pub_per_sec, 0, "unlimited");
}

/// MQTT-054: [MQTT-4.3.2-4] a publish is acknowledged once it is known whom it reaches, and not
/// before; one of QoS 0 is delivered once, and nothing answers it.
#[test]
fn a_publish_is_acknowledged_when_its_outcome_is_known() {
    let gate = Arc::new(Semaphore::new(0));
    let closed = Arc::clone(&gate);
    let permission = PermissionBy::new(move |_, action| match action {
        Action::Publish { topic: "later", .. } => {
            let gate = Arc::clone(&closed);
            Answer::later(async move {
                gate.acquire().await.expect("stays open").forget();
                Verdict::Allowed
            })
        }
        _ => Answer::Now(Verdict::Allowed),
    });
    let broker = Broker::with(Setup { permission, ..Setup::default() });
    for version in VERSIONS {
        for qos in [QOS1, QOS2] {
            let mut publisher = broker.client(version, "publisher").connect();
            let mut subscriber = broker.client(version, "subscriber").connect();
            let mut other = broker.client(version, "other").connect();
            subscriber.subscribe("#", QOS0);
            let id = publisher.publish("later", "x", qos);
            // It is there and waits; the broker serves others.
            for _ in 0..20 {
                other.deliver("now", "y", QOS1);
                assert_eq!(subscriber.message().topic, "now");
            }
            assert!(!publisher.has_more(), "{version}: acknowledged before the outcome is known");
            gate.add_permits(1);
            assert_eq!(publisher.finish(qos, id), ReasonCode::Success, "{version}");
            assert_eq!(subscriber.message().topic, "later");
            // The code says what became of it: nobody, then somebody.
            subscriber.unsubscribe(&["#"]);
            let none = match version.is_v5() {
                true => ReasonCode::NoMatchingSubscribers,
                false => ReasonCode::Success,
            };
            assert_eq!(publisher.deliver("now", "x", qos), none, "{version}");
            subscriber.subscribe("now", QOS1);
            publisher.publish("now", "zero", QOS0);
            publisher.send(&Packet::Pingreq);
            assert_eq!(publisher.event(), Event::Pingresp, "nothing answers QoS 0");
            assert_eq!(subscriber.message().text(), "zero");
            subscriber.disconnect(ReasonCode::Success);
        }
    }
}

/// MQTT-057: PUBREL of an identifier that is unknown is answered: 0x92 in 5.0.
#[test]
fn an_unknown_pubrel_is_answered() {
    let broker = Broker::start();
    for (version, code) in
        [(VERSIONS[0], ReasonCode::Success), (VERSIONS[1], ReasonCode::PacketIdNotFound)]
    {
        let mut client = broker.client(version, "c").connect();
        for id in [1, 7, u16::MAX] {
            client.ack(PacketType::Pubrel, id);
            assert_eq!(client.event(), Event::Ack(PacketType::Pubcomp, id, code), "{version}");
        }
        // One that was released is unknown again.
        let id = client.publish("t", "x", QOS2);
        client.finish(QOS2, id);
        client.ack(PacketType::Pubrel, id);
        assert_eq!(client.find_ack(PacketType::Pubcomp, id), code, "{version}");
    }
}

/// MQTT-063: [MQTT-3.3.1-2] [MQTT-3.3.4-6] [MQTT-1.5.4-1] [MQTT-1.5.4-2] a topic that is no text,
/// DUP without an identifier, and a subscription identifier from a client.
#[test]
fn a_publish_that_is_none_ends_the_connection() {
    let broker = Broker::start();
    for version in ratatosk_codec::ProtocolVersion::ALL {
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        let publish = |first: u8, topic: &[u8]| {
            let length = u8::try_from(2 + topic.len() + properties.len()).expect("short");
            let count = u8::try_from(topic.len()).expect("short");
            [&[first, length, 0, count], topic, properties].concat()
        };
        let mut cases = vec![
            (publish(0x30, &[b'a', 0xFF]), ReasonCode::MalformedPacket),
            // A surrogate, and NUL.
            (publish(0x30, &[0xED, 0xA0, 0x80]), ReasonCode::MalformedPacket),
            (publish(0x30, &[b'a', 0]), ReasonCode::MalformedPacket),
            (publish(0x38, b"ab"), ReasonCode::ProtocolError),
        ];
        if version.is_v5() {
            cases.push((vec![0x30, 7, 0, 2, b'a', b'b', 2, 0x0B, 1], ReasonCode::ProtocolError));
        }
        for (bytes, code) in cases {
            let mut client = broker.client(version, "c").connect();
            client.send_raw(&bytes);
            client.expect_farewell(code);
        }
    }
}

/// MQTT-064: a payload that is marked as UTF-8 is checked where the tenant says
/// so, and refused as its QoS allows.
#[test]
fn a_payload_of_another_format_is_refused() {
    for is_checked in [true, false] {
        let setup = || settings(|settings| settings.payload_format_validation_enabled = is_checked);
        let broker = Broker::with(setup());
        let mut watcher = broker.v5("watcher").connect();
        watcher.subscribe("t", QOS0);
        let mut client = broker.v5("c").connect();
        let mut builder = PublishPropertiesBuilder::new();
        builder.payload_is_utf8(true).expect("fits");
        let marked = Publish { properties: builder.view(), ..Publish::new("t", &[0xC0, 0x80]) };
        let expected = match is_checked {
            true => ReasonCode::PayloadFormatInvalid,
            false => ReasonCode::Success,
        };
        for qos in [QOS1, QOS2] {
            let id = client.publish_as(Publish { qos, ..marked });
            assert_eq!(client.finish(qos, id), expected);
            // One that is what it says, or that says nothing.
            let id = client.publish_as(Publish { qos, payload: "ü".as_bytes(), ..marked });
            assert_eq!(client.finish(qos, id), ReasonCode::Success);
            assert_eq!(client.deliver("t", [0xC0, 0x80], qos), ReasonCode::Success);
            let mut payloads = vec!["ü".as_bytes().to_vec(), vec![0xC0, 0x80]];
            if !is_checked {
                payloads.insert(0, vec![0xC0, 0x80]);
            }
            for payload in payloads {
                assert_eq!(watcher.message().payload, payload);
            }
        }
        client.publish_as(marked);
        if is_checked {
            client.expect_farewell(ReasonCode::PayloadFormatInvalid);
        } else {
            assert_eq!(watcher.message().payload, [0xC0, 0x80]);
            client.ping();
        }
    }
    assert!(TenantSettings::default().payload_format_validation_enabled);
}

/// MQTT-060: what the tenant has switched off ends the connection.
#[test]
fn retain_and_qos_beyond_the_settings_end_the_connection() {
    let setup = settings(|settings| {
        settings.retain_enabled = false;
        settings.maximum_qos = 1;
    });
    let broker = Broker::with(setup);
    for version in VERSIONS {
        let mut client = broker.client(version, "c").connect();
        client.deliver("t", "allowed", QOS1);
        client.publish("t", "x", QOS2);
        client.expect_farewell(ReasonCode::QosNotSupported);
        let mut client = broker.client(version, "c").connect();
        client.publish_as(Publish { retain: true, ..Publish::new("t", b"x") });
        client.expect_farewell(ReasonCode::RetainNotSupported);
    }
}

/// MQTT-061, MQTT-062: an invalid topic is refused as the QoS and the version allow.
#[test]
fn invalid_topics_are_refused() {
    let setup = || {
        settings(|settings| {
            settings.max_topic_length = 40;
            settings.max_topic_levels = 4;
            settings.max_topic_level_length = 20;
        })
    };
    let long = "l".repeat(21);
    let total = ["l".repeat(18), "m".repeat(18), "n".repeat(18)].join("/");
    let invalid = ["a/+", "a/#", "#", "$share/g/t", "$oshare/g/t", "a/b/c/d/e", &long, &total];
    for case in Case::all(setup) {
        for topic in invalid {
            let mut client = case.client("c").connect();
            if case.version.is_v5() {
                for qos in [QOS1, QOS2] {
                    let code = client.deliver(topic, "x", qos);
                    assert_eq!(code, ReasonCode::TopicNameInvalid, "{topic}");
                }
                client.ping();
                client.publish(topic, "x", QOS0);
                client.expect_farewell(ReasonCode::TopicNameInvalid);
            } else {
                for qos in ALL_QOS {
                    let mut client = case.client("d").connect();
                    client.publish(topic, "x", qos);
                    client.expect_close();
                }
            }
        }
        let mut client = case.client("c").connect();
        let fits = ["l".repeat(18), "m".repeat(19), "n".to_owned()].join("/");
        for topic in ["a/b/c/d", "/", "$SYS/x", &"l".repeat(20), &fits] {
            assert!(!client.deliver(topic, "x", QOS1).is_error(), "{topic}");
        }
    }
    let defaults = TenantSettings::default();
    assert_eq!((defaults.max_topic_length, defaults.max_topic_levels), (65_535, 128));
}

/// MQTT-062: a topic with NUL is no topic; the packet is malformed.
#[test]
fn a_topic_with_nul_is_malformed() {
    let broker = Broker::start();
    for version in VERSIONS {
        let mut client = broker.client(version, "c").connect();
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        let mut packet = vec![0x30, 5 + u8::from(version.is_v5()), 0, 3, b'a', 0, b'b'];
        packet.extend_from_slice(properties);
        client.send_raw(&packet);
        client.expect_farewell(ReasonCode::MalformedPacket);
    }
}

fn aliased<'a>(
    builder: &'a mut PublishPropertiesBuilder,
    topic: &'a str,
    alias: u16,
) -> Publish<'a> {
    builder.clear();
    builder.topic_alias(alias).expect("not zero");
    Publish { properties: builder.view(), ..Publish::new(topic, b"x") }
}

/// MQTT-065: [MQTT-3.2.2-17] aliases up to the maximum stand for their topics; others end the
/// connection.
#[test]
fn inbound_topic_aliases_stand_for_topics() {
    let broker = Broker::start();
    let mut subscriber = broker.v5("subscriber").connect();
    subscriber.subscribe("#", QOS0);
    let mut client = broker.v5("publisher").connect();
    let mut builder = PublishPropertiesBuilder::new();
    for alias in 1..=32 {
        client.publish_as(aliased(&mut builder, &format!("t/{alias}"), alias));
        assert_eq!(subscriber.message().topic, format!("t/{alias}"));
    }
    for alias in 1..=32 {
        client.publish_as(aliased(&mut builder, "", alias));
        assert_eq!(subscriber.message().topic, format!("t/{alias}"));
    }
    // An alias can be given another topic.
    client.publish_as(aliased(&mut builder, "other", 1));
    client.publish_as(aliased(&mut builder, "", 1));
    assert_eq!([subscriber.message().topic, subscriber.message().topic], ["other", "other"]);
    client.publish_as(aliased(&mut builder, "t", 33));
    client.expect_farewell(ReasonCode::TopicAliasInvalid);
    // Aliases end with their connection.
    let mut client = broker.v5("publisher").connect();
    client.publish_as(aliased(&mut builder, "", 1));
    client.expect_farewell(ReasonCode::ProtocolError);
    let mut client = broker.v5("publisher").connect();
    client.send_raw(&[0x30, 7, 0, 1, b't', 3, 0x23, 0, 0]);
    client.expect_farewell(ReasonCode::TopicAliasInvalid);
}

/// MQTT-066: [MQTT-3.3.5-2] who may not publish is told so, as the QoS and the version allow.
#[test]
fn a_publish_without_permission_is_refused() {
    let setup = || Setup {
        permission: PermissionBy::new(|_, action| match action {
            Action::Publish { topic: "no", .. } => Answer::Now(Verdict::denied("rule")),
            Action::Publish { topic: "later-no", .. } => {
                Answer::later(async { Verdict::denied("rule") })
            }
            Action::Publish { topic: "later-yes", .. } => Answer::later(async { Verdict::Allowed }),
            _ => Answer::Now(Verdict::Allowed),
        }),
        ..Setup::default()
    };
    for case in Case::all(setup) {
        let (mut watcher, mut client, _guard) = case.pair(case.client("watcher"), case.client("c"));
        watcher.subscribe("#", QOS2);
        for qos in ALL_QOS {
            client.deliver("later-yes", "x", qos);
            client.deliver("yes", "y", qos);
            assert_eq!([watcher.message().topic, watcher.message().topic], ["later-yes", "yes"]);
        }
        for topic in ["no", "later-no"] {
            for qos in ALL_QOS {
                let mut client = case.client("d").connect();
                if case.version.is_v5() && qos != QOS0 {
                    let code = client.deliver(topic, "x", qos);
                    assert_eq!(code, ReasonCode::NotAuthorized, "{}, {topic}", case.name);
                    client.ping();
                    continue;
                }
                client.publish(topic, "x", qos);
                client.expect_farewell(ReasonCode::NotAuthorized);
            }
        }
        assert_quiet(&mut client, &mut watcher);
    }
}

/// Where no aliases are taken the first one ends the connection. [MQTT-3.2.2-18]
#[test]
fn no_alias_is_taken_where_they_are_off() {
    let broker = Broker::with(settings(|settings| settings.max_topic_alias = 0));
    let mut client = broker.v5("c").connect();
    let mut builder = PublishPropertiesBuilder::new();
    client.publish_as(aliased(&mut builder, "t", 1));
    client.expect_farewell(ReasonCode::TopicAliasInvalid);
}

/// DUP of a publisher is not handed to subscribers, nor DUP to a subscriber taken from it.
/// [MQTT-3.3.1-3]
#[test]
fn dup_is_not_handed_through() {
    for case in Case::all(Setup::default) {
        let (mut publisher, mut subscriber, _guard) =
            case.pair(case.client("publisher"), case.client("subscriber"));
        subscriber.subscribe("t", QOS2);
        for qos in [QOS1, QOS2] {
            let id = publisher.publish_as(Publish { dup: true, qos, ..Publish::new("t", b"x") });
            publisher.finish(qos, id);
            let message = subscriber.message();
            assert_eq!((message.dup, message.qos), (false, qos), "{}", case.name);
        }
    }
}

/// A publish whose permission cannot be determined is refused with 0x83, or closes; unless the
/// tenant takes a failure for a yes. [MQTT-4.8.0-2]
#[test]
fn a_permission_that_cannot_be_determined_refuses() {
    for is_passed in [false, true] {
        let permission = PermissionBy::new(|_, action| match action {
            Action::Publish { .. } => Answer::Now(Verdict::error("no answer")),
            _ => Answer::Now(Verdict::Allowed),
        });
        let mut setup = settings(|settings| settings.by_pass_perm_check_error = is_passed);
        setup.permission = permission;
        let broker = Broker::with(setup);
        for version in VERSIONS {
            let mut client = broker.client(version, "c").connect();
            client.subscribe("t", QOS0);
            if is_passed {
                assert_eq!(client.deliver("t", "x", QOS1), ReasonCode::Success);
                assert_eq!(client.message().text(), "x");
                continue;
            }
            if version.is_v5() {
                let code = ReasonCode::ImplementationSpecificError;
                assert_eq!(client.deliver("t", "x", QOS1), code);
                assert_eq!(client.deliver("t", "x", QOS2), code);
            }
            client.publish("t", "x", QOS0);
            client.expect_farewell(ReasonCode::ImplementationSpecificError);
        }
    }
}

/// A message reaches every session with a matching filter, whether it is there or away, and no
/// other. [MQTT-4.5.0-1] [MQTT3-3.1.2-5]
#[test]
fn every_matching_session_gets_the_message() {
    for case in Case::all(Setup::default) {
        let mut publisher = case.client("publisher").connect();
        let mut others: Vec<_> = ["t", "t/#", "t/+", "#", "other"]
            .into_iter()
            .flat_map(|filter| [(filter, false), (filter, true)])
            .map(|(filter, is_stored)| {
                let mut connector = case.client(&format!("{filter} {is_stored}"));
                if is_stored {
                    connector = connector.persistent();
                }
                let mut client = connector.connect();
                client.subscribe(filter, QOS2);
                (client, filter)
            })
            .collect();
        let away: Vec<_> = ["t", "t/#", "other"]
            .map(|filter| (filter, case.client(&format!("away {filter}")).persistent()))
            .into();
        for (filter, connector) in &away {
            let mut client = connector.connect();
            client.subscribe(filter, QOS2);
            client.disconnect(ReasonCode::Success);
        }
        for qos in [QOS1, QOS2] {
            publisher.deliver("t", "x", qos);
        }
        for (filter, connector) in away {
            others.push((connector.connect(), filter));
        }
        for (client, filter) in &mut others {
            if !matches!(*filter, "t/+" | "other") {
                for qos in [QOS1, QOS2] {
                    let message = client.message();
                    let found = (message.topic.as_str(), message.qos);
                    assert_eq!(found, ("t", qos), "{}, {filter}", case.name);
                }
            }
            client.unsubscribe(&[filter]);
            assert_quiet(&mut publisher, client);
        }
    }
}

/// MQTT-067: an identifier in use is refused for another message; a re-send is acknowledged again.
#[test]
fn an_identifier_in_use_is_refused() {
    for case in Case::all(Setup::default) {
        let mut client = case.client("c").connect();
        let id = client.publish("t", "x", QOS2);
        client.find_ack(PacketType::Pubrec, id);
        let again = Publish { qos: QOS2, packet_id: PacketId::new(id), ..Publish::new("t", b"x") };
        client.publish_as(Publish { dup: true, ..again });
        assert!(!client.find_ack(PacketType::Pubrec, id).is_error(), "{}", case.name);
        client.publish_as(Publish { qos: QOS1, ..again });
        if case.version.is_v5() {
            assert_eq!(client.find_ack(PacketType::Puback, id), ReasonCode::PacketIdInUse);
            client.publish_as(again);
            assert_eq!(client.find_ack(PacketType::Pubrec, id), ReasonCode::PacketIdInUse);
            client.ack(PacketType::Pubrel, id);
            assert_eq!(client.find_ack(PacketType::Pubcomp, id), ReasonCode::Success);
        } else {
            client.expect_close();
        }
    }
}

/// MQTT-068: [MQTT-3.2.2-15] a packet above the limit ends the connection, before it has come as a whole.
#[test]
fn a_packet_above_the_limit_ends_the_connection() {
    for case in Case::all(|| settings(|settings| settings.max_user_payload_bytes = 4096)) {
        let (mut watcher, mut client, _guard) = case.pair(case.client("watcher"), case.client("c"));
        watcher.subscribe("t", QOS0);
        client.publish("t", vec![b'x'; 4000], QOS0);
        assert_eq!(watcher.message().payload.len(), 4000);
        // The fixed header alone: a megabyte is to follow.
        client.send_raw(&[0x30, 0x80, 0x80, 0x40]);
        client.expect_farewell(ReasonCode::PacketTooLarge);
    }
    assert_eq!(TenantSettings::default().max_user_payload_bytes, 1 << 20);
}

/// Payloads of every size come as they were sent, also those that are shared and read in pieces.
#[test]
fn payloads_of_every_size_come_unchanged() {
    for case in Case::all(Setup::default) {
        let (mut publisher, mut subscriber, _guard) =
            case.pair(case.client("publisher"), case.client("subscriber"));
        subscriber.subscribe("t", QOS1);
        for size in [0, 1, 127, 128, 4095, 4096, 32_000, 32_768, 65_536, 300_000, 1_000_000] {
            let payload: Vec<u8> = (0..=250).cycle().take(size).collect();
            publisher.publish("t", &payload, QOS1);
            let message = subscriber.message();
            assert!(message.payload == payload, "{}: {size} bytes differ", case.name);
        }
    }
}

/// MQTT-101: what 5.0 adds to a message is forwarded unchanged, user properties in order.
#[test]
fn properties_are_forwarded_unchanged() {
    for is_stored in [false, true] {
        for is_across in [false, true] {
            let broker = Broker::start();
            let mut connector = broker.v5("subscriber");
            if is_stored {
                connector = connector.persistent();
            }
            let mut subscriber = connector.connect();
            let _between = (!is_across).then(|| broker.v4("between").connect());
            let mut publisher = broker.v5("publisher").connect();
            subscriber.subscribe("t", QOS2);
            let mut builder = PublishPropertiesBuilder::new();
            let mut build = || -> Result<(), ratatosk_codec::FieldError> {
                builder.payload_is_utf8(true)?.content_type("text/plain")?;
                builder.response_topic("answer/to")?.correlation_data(&[0, 1, 255])?;
                builder.user_property("b", "1")?.user_property("a", "2")?;
                builder.user_property("b", "1")?;
                Ok(())
            };
            build().expect("fields that fit");
            let owned = |pair: (&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
            let expected = [("b", "1"), ("a", "2"), ("b", "1")].map(owned);
            for qos in ALL_QOS {
                let publish = Publish {
                    qos,
                    properties: builder.view(),
                    ..Publish::new("t", "grüße".as_bytes())
                };
                let id = publisher.publish_as(publish);
                publisher.finish(qos, id);
                let message = subscriber.message();
                assert_eq!(message.user_properties, expected);
                assert_eq!(message.response_topic.as_deref(), Some("answer/to"));
                assert_eq!(message.correlation_data.as_deref(), Some(&[0, 1, 255][..]));
                assert_eq!(message.content_type.as_deref(), Some("text/plain"));
                assert!(message.is_utf8 && message.text() == "grüße" && message.qos == qos);
            }
        }
    }
}

/// MQTT-095: the interval counts down while a message waits, and what is over is not delivered.
#[test]
fn messages_expire_while_they_wait() {
    let broker = Broker::start();
    let stored = broker.v5("away").persistent();
    let mut client = stored.connect();
    client.subscribe("t", QOS1);
    client.disconnect(ReasonCode::Success);
    let mut publisher = broker.v5("publisher").connect();
    let mut builder = PublishPropertiesBuilder::new();
    for (payload, expiry_s) in [("short", 1), ("long", 100)] {
        builder.clear();
        builder.message_expiry_s(expiry_s).expect("fits");
        let properties = builder.view();
        let publish = Publish { qos: QOS1, properties, ..Publish::new("t", payload.as_bytes()) };
        let id = publisher.publish_as(publish);
        publisher.finish(QOS1, id);
    }
    publisher.deliver("t", "forever", QOS1);
    // A will that is due after a little more than a second tells that the time is over.
    let mut clock = broker.v5("clock").connect();
    clock.subscribe("over", QOS0);
    let due = ratatosk_conformance::Testament {
        delay_s: Some(2),
        ..ratatosk_conformance::Testament::new("over", "now")
    };
    broker.v5("dying").persistent().will(due).connect().vanish();
    clock.message();
    let mut client = stored.connect();
    let long = client.message();
    assert_eq!(long.text(), "long");
    assert!(matches!(long.expiry_s, Some(90..=98)), "{:?} s are left", long.expiry_s);
    let forever = client.message();
    assert_eq!((forever.text(), forever.expiry_s), ("forever", None));
    assert_quiet(&mut publisher, &mut client);
}

/// MQTT-089: a message comes with the lower of its QoS and the granted one.
#[test]
fn the_lower_qos_counts() {
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            let mut connector = case.client("subscriber");
            if is_stored {
                connector = connector.persistent();
            }
            let (mut publisher, mut subscriber, _guard) =
                case.pair(case.client("publisher"), connector);
            for granted in ALL_QOS {
                subscriber.subscribe("t", granted);
                for qos in ALL_QOS {
                    publisher.deliver("t", "x", qos);
                    let message: Qos = subscriber.message().qos;
                    assert_eq!(message, qos.min(granted), "{}, stored: {is_stored}", case.name);
                }
            }
        }
    }
}

/// A publisher that subscribes gets its own messages, in order with its acknowledgements.
#[test]
fn a_publisher_may_be_its_own_subscriber() {
    for case in Case::all(Setup::default) {
        let mut client = case.client("echo").connect();
        client.subscribe("t", QOS1);
        for number in 0..50 {
            assert_eq!(client.deliver("t", number.to_string(), QOS1), ReasonCode::Success);
        }
        for number in 0..50 {
            assert_eq!(client.message().text().parse(), Ok(number), "{}", case.name);
        }
        client.send(&Packet::Pingreq);
        assert_eq!(client.event(), Event::Pingresp, "{}", case.name);
    }
}
