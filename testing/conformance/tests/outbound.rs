//! What the broker sends: how often, how large, by which alias, and what it leaves out.

use std::time::{Duration, Instant};

use ratatosk_codec::{
    Ack, Packet, PacketId, PacketType, Publish, PublishPropertiesBuilder, ReasonCode,
};
use ratatosk_conformance::{AuthBy, Broker, Client, Event, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_plugin::auth::{AuthResult, Grant};

use crate::cases::{QOS0, QOS1, QOS2, VERSIONS, assert_quiet};

fn broker(change: impl FnOnce(&mut TenantSettings)) -> Broker {
    let mut settings = TenantSettings::default();
    change(&mut settings);
    Broker::with_settings(settings)
}

/// MQTT-091, MQTT-092: [MQTT-4.4.0-1] before 5.0, and only if a time is set, what is not
/// acknowledged comes again, marked; past PUBREC only PUBREL does.
#[test]
fn unacknowledged_messages_come_again_in_time() {
    assert_eq!(TenantSettings::default().resend_timeout_seconds, 0);
    for is_set in [true, false] {
        let broker = broker(|settings| {
            settings.resend_timeout_seconds = u32::from(is_set);
            settings.max_resend_times = 1;
        });
        for version in VERSIONS {
            let mut publisher = broker.v5("publisher").connect();
            let mut client = broker.client(version, "c").connect();
            client.subscribe("t", QOS2);
            for (text, qos) in [("one", QOS1), ("two", QOS2), ("past", QOS2), ("done", QOS1)] {
                publisher.deliver("t", text, qos);
            }
            let first: Vec<_> = (0..4).map(|_| client.unacknowledged()).collect();
            client.ack(PacketType::Pubrec, first[2].packet_id);
            client.find_ack(PacketType::Pubrel, first[2].packet_id);
            client.ack(PacketType::Puback, first[3].packet_id);
            let started = Instant::now();
            let release = Event::Ack(PacketType::Pubrel, first[2].packet_id, ReasonCode::Success);
            if is_set && !version.is_v5() {
                for before in &first[..2] {
                    let again = client.unacknowledged();
                    let found = (again.text(), again.packet_id, again.qos, again.dup);
                    assert_eq!(found, (before.text(), before.packet_id, before.qos, true));
                }
                assert!(started.elapsed() >= Duration::from_millis(950));
                assert_eq!(client.event(), release);
                client.ack(PacketType::Pubcomp, first[2].packet_id);
            } else {
                while started.elapsed() < Duration::from_millis(1500) {
                    client.send(&Packet::Pingreq);
                    assert_eq!(client.event(), Event::Pingresp, "{version}, set: {is_set}");
                    std::thread::park_timeout(Duration::from_millis(100));
                }
            }
            client.disconnect(ReasonCode::Success);
        }
    }
}

/// MQTT-092: [MQTT-4.3.3-4] [MQTT-4.3.3-5] after PUBREC the message does not come again: not
/// for a second PUBREC, and not on resume, however often.
#[test]
fn past_pubrec_only_pubrel_is_sent() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut publisher = broker.v5("publisher").connect();
        let stored = broker.client(version, "c").persistent();
        let mut client = stored.connect();
        client.subscribe("t", QOS2);
        publisher.deliver("t", "once", QOS2);
        let id = client.unacknowledged().packet_id;
        let release = Event::Ack(PacketType::Pubrel, id, ReasonCode::Success);
        for _ in 0..2 {
            client.ack(PacketType::Pubrec, id);
            assert_eq!(client.event(), release, "{version}");
        }
        for _ in 0..2 {
            client.vanish();
            client = stored.connect();
            assert_eq!(client.event(), release, "{version}");
            assert_quiet(&mut publisher, &mut client);
        }
        client.ack(PacketType::Pubcomp, id);
        client.ping();
        client.vanish();
        let mut client = stored.connect();
        assert_quiet(&mut publisher, &mut client);
    }
}

/// A refusal is an acknowledgement: what the client refused does not come again, and its place in
/// the window is free. [MQTT-4.4.0-2] [MQTT-4.3.2-3] [MQTT-4.3.3-3]
#[test]
fn a_refused_message_does_not_come_again() {
    let broker = Broker::start();
    let mut publisher = broker.v5("publisher").connect();
    let stored = broker.v5("c").persistent().receive_maximum(1);
    let mut client = stored.connect();
    client.subscribe("t", QOS2);
    for (text, qos) in [("one", QOS1), ("two", QOS2), ("three", QOS1)] {
        publisher.deliver("t", text, qos);
    }
    for text in ["one", "two"] {
        let message = client.unacknowledged();
        assert_eq!(message.text(), text);
        let packet_id = PacketId::new(message.packet_id).expect("never zero");
        let ack = Ack::new(packet_id, ReasonCode::QuotaExceeded);
        client.send(&match message.qos {
            QOS1 => Packet::Puback(ack),
            _ => Packet::Pubrec(ack),
        });
    }
    let last = client.unacknowledged();
    assert_eq!(last.text(), "three");
    client.vanish();
    let mut client = stored.connect();
    let again = client.message();
    assert_eq!((again.text(), again.dup), ("three", true));
    assert_quiet(&mut publisher, &mut client);
}

/// MQTT-093: unless it is switched on the window is the Receive Maximum; switched on it starts
/// small and grows with what is acknowledged, never beyond the Receive Maximum.
#[test]
fn the_window_adapts_only_where_it_is_asked_to() {
    const MAXIMUM: u16 = 100;
    for is_adaptive in [false, true] {
        let broker = broker(|settings| settings.adaptive_send_window = is_adaptive);
        let mut publisher = broker.v5("publisher").connect();
        let mut client = broker.v5("c").receive_maximum(MAXIMUM).connect();
        client.subscribe("t", QOS1);
        for number in 0..400 {
            publisher.deliver("t", number.to_string(), QOS1);
        }
        let mut next = 0;
        let mut largest = 0;
        // All that is sent comes before the answer to a ping.
        while next < 400 {
            client.send(&Packet::Pingreq);
            let mut window = Vec::new();
            loop {
                match client.event() {
                    Event::Publish(message) => {
                        assert_eq!(message.text().parse(), Ok(next), "adaptive: {is_adaptive}");
                        next += 1;
                        window.push(message);
                    }
                    Event::Pingresp => break,
                    other => panic!("unexpected: {other:?}"),
                }
            }
            let count = window.len();
            assert!(count <= usize::from(MAXIMUM), "{count} at once, adaptive: {is_adaptive}");
            if next == count {
                let first = if is_adaptive { 64 } else { usize::from(MAXIMUM) };
                assert_eq!(count, first, "adaptive: {is_adaptive}");
            }
            largest = largest.max(count);
            for message in window {
                client.acknowledge(&message);
            }
        }
        assert!(largest > 64, "it grows: {largest}");
    }
    assert!(!TenantSettings::default().adaptive_send_window);
}

/// The next packet is a PUBLISH; its topic, its alias.
fn aliased(client: &mut Client) -> (String, Option<u16>) {
    client.look(|packet| {
        let Packet::Publish(publish) = packet else { panic!("not a PUBLISH: {packet:?}") };
        (publish.topic.to_owned(), publish.properties.topic_alias())
    })
}

/// MQTT-094: [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] [MQTT-3.3.2-11] aliases are used up
/// to the client's maximum, on its connection.
#[test]
fn outbound_aliases_are_used_up_to_the_maximum() {
    let broker = Broker::start();
    let mut publisher = broker.v5("publisher").connect();
    let stored = broker.v5("c").persistent();
    for maximum in [None, Some(0), Some(2)] {
        for _ in 0..2 {
            let mut client =
                stored.open_with(|connect| connect.properties.topic_alias_max = maximum);
            assert_eq!(client.connack().reason, ReasonCode::Success);
            client.subscribe("#", QOS0);
            for topic in ["a", "a", "b", "c", "b", "a", "c"] {
                publisher.publish(topic, "x", QOS0);
            }
            let found: Vec<_> = (0..7).map(|_| aliased(&mut client)).collect();
            let found: Vec<_> = found.iter().map(|(topic, alias)| (&topic[..], *alias)).collect();
            let plain = |topic| (topic, None);
            let expected = match maximum {
                Some(2) => [
                    ("a", Some(1)),
                    ("", Some(1)),
                    ("b", Some(2)),
                    plain("c"),
                    ("", Some(2)),
                    ("", Some(1)),
                    plain("c"),
                ],
                _ => ["a", "a", "b", "c", "b", "a", "c"].map(plain),
            };
            assert_eq!(found, expected, "maximum {maximum:?}");
            client.disconnect(ReasonCode::Success);
        }
    }
}

/// MQTT-095, MQTT-096: [MQTT-3.3.2-5] [MQTT-3.3.2-6] [MQTT-4.3.3-7] [MQTT-4.3.3-13] what was not
/// sent yet expires in the queue; an exchange that has begun is finished.
#[test]
fn expiry_spares_an_exchange_that_has_begun() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut publisher = broker.v5("publisher").connect();
        // A window of two: the third message waits.
        let stored = broker.client(version, "c").persistent();
        let mut client = match version.is_v5() {
            true => stored.clone().receive_maximum(2).connect(),
            false => stored.connect(),
        };
        client.subscribe("t", QOS2);
        let mut builder = PublishPropertiesBuilder::new();
        builder.message_expiry_s(1).expect("fits");
        for text in ["past pubrec", "sent", "waits"] {
            let properties = builder.view();
            let publish = Publish { qos: QOS2, properties, ..Publish::new("t", text.as_bytes()) };
            let id = publisher.publish_as(publish);
            publisher.finish(QOS2, id);
        }
        let past = client.unacknowledged();
        let sent = client.unacknowledged();
        if !version.is_v5() {
            let waits = client.unacknowledged();
            client.acknowledge(&waits);
        }
        client.ack(PacketType::Pubrec, past.packet_id);
        client.find_ack(PacketType::Pubrel, past.packet_id);
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(1500) {
            client.ping();
            std::thread::park_timeout(Duration::from_millis(100));
        }
        // On the same connection: PUBREC is answered with PUBREL as ever.
        client.ack(PacketType::Pubrec, sent.packet_id);
        let release = client.find_ack(PacketType::Pubrel, sent.packet_id);
        assert_eq!(release, ReasonCode::Success, "{version}");
        client.ping();
        client.vanish();
        // And on the next one, for both.
        let mut client = stored.connect();
        for message in [&past, &sent] {
            let id = message.packet_id;
            assert_eq!(client.find_ack(PacketType::Pubrel, id), ReasonCode::Success, "{version}");
            client.ack(PacketType::Pubcomp, id);
        }
        assert_quiet(&mut publisher, &mut client);
    }
}

/// The next packet is PUBACK; its code and its reason string.
fn puback(client: &mut Client) -> (ReasonCode, Option<String>) {
    client.look(|packet| {
        let Packet::Puback(ack) = packet else { panic!("not a PUBACK: {packet:?}") };
        (ack.reason, ack.reason_string.map(str::to_owned))
    })
}

/// MQTT-034, MQTT-099: [MQTT-3.1.2-24] [MQTT-3.1.2-25] [MQTT-3.4.2-2] what is larger than the
/// client takes loses its explanations; a message is dropped and counted.
#[test]
fn nothing_exceeds_the_packet_size_of_the_client() {
    let auth = AuthBy::new(|_| {
        AuthResult::Granted(Grant {
            tenant: "default".to_owned(),
            user_properties: vec![("name".into(), "v".repeat(40))],
            ..Grant::default()
        })
    });
    let broker = Broker::with(Setup { auth, ..Setup::default() });
    let mut publisher = broker.v5("publisher").connect();
    for (bytes_max, is_explained) in [(30, false), (1000, true)] {
        let stored = broker.v5("c").persistent().packet_size_max(bytes_max);
        let mut client = stored.open();
        client.look(|packet| {
            let Packet::Connack(connack) = packet else { panic!("not a CONNACK: {packet:?}") };
            assert_eq!(connack.reason, ReasonCode::Success);
            assert_eq!(connack.properties.user_properties.iter().count() == 1, is_explained);
        });
        client.publish("bad/#", "x", QOS1);
        let (code, why) = puback(&mut client);
        assert_eq!((code, why.is_some()), (ReasonCode::TopicNameInvalid, is_explained));
        client.subscribe("t", QOS1);
        // 30 bytes: head 2, topic 3, identifier 2, properties 1. The second has one more.
        let texts = ["y".repeat(22), "y".repeat(23)];
        let before = broker.stats_when(|_| true).dropped_oversize;
        for text in &texts {
            assert_eq!(publisher.deliver("t", text, QOS1), ReasonCode::Success);
        }
        expect_first(&mut client, &texts, is_explained);
        assert_quiet(&mut publisher, &mut client);
        // And from the queue of a session that was away.
        client.vanish();
        for text in &texts {
            assert_eq!(publisher.deliver("t", text, QOS1), ReasonCode::Success);
        }
        let mut client = stored.connect();
        expect_first(&mut client, &texts, is_explained);
        assert_quiet(&mut publisher, &mut client);
        let dropped = 2 * u64::from(!is_explained);
        broker.stats_when(|stats| stats.dropped_oversize == before + dropped);
        client.disconnect(ReasonCode::Success);
        broker.v5("c").connect().disconnect(ReasonCode::Success);
    }
}

/// The first text comes, and the second if both are said to.
fn expect_first(client: &mut Client, texts: &[String; 2], both: bool) {
    assert_eq!(client.message().text(), texts[0]);
    if both {
        assert_eq!(client.message().text(), texts[1]);
    }
}

/// MQTT-102: [MQTT-3.1.2-29] who wants no explanations gets none, but where they are always
/// allowed: in CONNACK, PUBLISH and DISCONNECT.
#[test]
fn problem_information_is_withheld() {
    let auth = AuthBy::new(|_| {
        AuthResult::Granted(Grant {
            tenant: "default".to_owned(),
            user_properties: vec![("a".into(), "b".into())],
            ..Grant::default()
        })
    });
    let broker = Broker::with(Setup { auth, ..Setup::default() });
    for wants in [None, Some(true), Some(false)] {
        let mut client = broker.v5("c").open_with(|connect| {
            connect.properties.request_problem_information = wants;
        });
        client.look(|packet| {
            let Packet::Connack(connack) = packet else { panic!("not a CONNACK: {packet:?}") };
            assert_eq!(connack.properties.user_properties.iter().count(), 1);
        });
        client.publish("bad/#", "x", QOS1);
        let (code, why) = puback(&mut client);
        assert_eq!(code, ReasonCode::TopicNameInvalid);
        assert_eq!(why.is_none(), wants == Some(false), "{wants:?}: {why:?}");
        client.publish("bad/#", "x", QOS2);
        client.look(|packet| {
            let Packet::Pubrec(ack) = packet else { panic!("not a PUBREC: {packet:?}") };
            assert_eq!(ack.reason_string.is_none(), wants == Some(false), "{wants:?}");
        });
        client.subscribe("t", QOS0);
        let mut builder = PublishPropertiesBuilder::new();
        builder.user_property("name", "value").expect("fits");
        client.publish_as(Publish { properties: builder.view(), ..Publish::new("t", b"x") });
        assert_eq!(client.message().user_properties.len(), 1);
        client.publish("bad/#", "x", QOS0);
        client.look(|packet| {
            let Packet::Disconnect(farewell) = packet else { panic!("not a farewell: {packet:?}") };
            assert_eq!(farewell.reason, ReasonCode::TopicNameInvalid);
            assert!(farewell.reason_string.is_some(), "{wants:?}");
        });
        client.expect_close();
    }
}
