//! PUBLISH from the client.

use std::time::Duration;

use bytes::Bytes;
use ratatosk_codec::{
    Packet, ProtocolVersion, Publish, PublishProperties, PublishPropertiesBuilder,
};
use ratatosk_contract::{TenantSettings, call::Settlement};
use ratatosk_session::{Claimed, Farewell, Next, Published};

use crate::harness::{
    ALL, OLD, PENDING, Peer, V5, V31, V311, connect, encoded, id, persistent, publish, settings,
    transient,
};

const MORE: Next = Next::Bytes { packet_length: None };

/// What a client reads that publishes at each QoS and is answered with `outcome`, its last words
/// included.
fn check(version: ProtocolVersion, outcome: &Published, expected: [&str; 3]) {
    for (qos, expected) in (0..).zip(expected) {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.outcomes = [outcome.clone()].into();
        peer.publish("a", qos, 1);
        let is_refused = peer.session.farewell().is_some();
        let mut read = peer.last_words();
        if is_refused && read.is_empty() {
            read.push("closed".to_owned());
        }
        assert_eq!(read.concat(), expected, "{version} QoS {qos} {outcome:?}");
    }
}

fn properties(build: impl FnOnce(&mut PublishPropertiesBuilder)) -> PublishPropertiesBuilder {
    let mut builder = PublishPropertiesBuilder::new();
    build(&mut builder);
    builder
}

fn with<'a>(publish: Publish<'a>, properties: PublishProperties<'a>) -> Packet<'a> {
    Packet::Publish(Publish { properties, ..publish })
}

/// MQTT-054, MQTT-056: [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8]
#[test]
fn an_outcome_is_acknowledged_in_the_words_of_the_version() {
    let matched = Published::Handed { is_matched: true };
    let unmatched = Published::Handed { is_matched: false };
    for version in ALL {
        check(version, &matched, ["", "PUBACK #1", "PUBREC #1"]);
        check(version, &PENDING, ["", "", ""]);
    }
    for version in OLD {
        check(version, &unmatched, ["", "PUBACK #1", "PUBREC #1"]);
    }
    check(V5, &unmatched, ["", "PUBACK #1 0x10", "PUBREC #1 0x10"]);
    check(V5, &Published::Busy, ["", "PUBACK #1 0x83 why", "PUBREC #1 0x83 why"]);
    let full = ["", "PUBACK #1 0x97 why", "PUBREC #1 0x97 why"];
    check(V5, &Published::QuotaExceeded, full);
    check(V5, &Published::Unknown, ["", "DISCONNECT 0x83", "DISCONNECT 0x83"]);
    for version in OLD {
        check(version, &Published::Busy, [""; 3]);
        check(version, &Published::QuotaExceeded, [""; 3]);
        check(version, &Published::Unknown, ["", "closed", "closed"]);
    }
}

/// MQTT-066: what is not permitted, and what could not be determined.
#[test]
fn a_publish_that_is_not_permitted_is_refused() {
    let denied = ["DISCONNECT 0x87", "PUBACK #1 0x87 why", "PUBREC #1 0x87 why"];
    let unknown = ["DISCONNECT 0x83", "PUBACK #1 0x83 why", "PUBREC #1 0x83 why"];
    check(V5, &Published::NotPermitted, denied);
    check(V5, &Published::PermissionError, unknown);
    for version in OLD {
        check(version, &Published::NotPermitted, ["closed"; 3]);
        check(version, &Published::PermissionError, ["closed"; 3]);
    }
    let mut peer = Peer::live(V5, &TenantSettings::default());
    peer.broker.outcomes = [Published::NotPermitted].into();
    peer.publish("a/b", 1, 1);
    assert_eq!(peer.broker.reports, ["publish a/b 87"]);
}

/// MQTT-061, MQTT-062: [MQTT-3.3.2-2] [MQTT-4.7.0-1]
#[test]
fn a_publish_to_an_invalid_topic_is_refused() {
    for topic in ["a/+", "#", "$share/g/a", "$oshare/g/a"] {
        for (qos, expected) in
            [(0, "DISCONNECT 0x90"), (1, "PUBACK #1 0x90 why"), (2, "PUBREC #1 0x90 why")]
        {
            let mut peer = Peer::live(V5, &TenantSettings::default());
            peer.publish(topic, qos, 1);
            assert_eq!(peer.last_words(), [expected], "{topic}");
        }
        for version in OLD {
            let mut peer = Peer::live(version, &TenantSettings::default());
            assert_eq!(peer.publish(topic, 1, 1), Next::End);
            assert_eq!(peer.last_words(), [""; 0]);
        }
    }
    for version in OLD {
        let mut peer = Peer::live(version, &TenantSettings::default());
        assert_eq!(peer.publish("", 0, 1), Next::End);
    }
}

/// MQTT-063: [MQTT-3.3.1-2] [MQTT-3.3.4-6] [MQTT-4.13.1-1]
#[test]
fn a_publish_that_is_no_publish_ends_the_connection() {
    let own_id = properties(|p| _ = p.subscription_id(3));
    let own_id = encoded(&with(publish("a", 0, 1), own_id.view()), V5);
    let cases: [(&[u8], &str); 5] = [
        (&[0x30, 3, 0, 1, 0xFF], "DISCONNECT 0x81"),
        (&[0x38, 3, 0, 1, b'a'], "DISCONNECT 0x82"),
        (&[0x36, 5, 0, 1, b'a', 0, 1], "DISCONNECT 0x81"),
        (&[0x32, 6, 0, 1, b'a', 0, 0, 0], "DISCONNECT 0x82"),
        (&own_id, "DISCONNECT 0x82"),
    ];
    for (bytes, expected) in cases {
        let mut peer = Peer::live(V5, &TenantSettings::default());
        assert_eq!(peer.feed(bytes), Next::End, "{bytes:02x?}");
        assert_eq!(peer.last_words(), [expected], "{bytes:02x?}");
        let mut peer = Peer::live(V311, &TenantSettings::default());
        if bytes != own_id {
            assert_eq!(peer.feed(bytes), Next::End, "{bytes:02x?}");
        }
        assert_eq!(peer.last_words(), [""; 0], "{bytes:02x?}");
    }
}

/// MQTT-068: what passes the tenant's limit is refused at its first bytes.
#[test]
fn a_packet_above_the_limit_ends_the_connection() {
    let limits = settings(|s| s.max_user_payload_bytes = 100);
    for (version, expected) in [(V31, ""), (V311, ""), (V5, "DISCONNECT 0x95")] {
        let mut peer = Peer::live(version, &limits);
        assert_eq!(peer.feed(&[0x30, 98]), Next::Bytes { packet_length: Some(100) });
        let mut peer = Peer::live(version, &limits);
        assert_eq!(peer.feed(&[0x30, 99]), Next::End);
        assert_eq!(peer.last_words().concat(), expected);
    }
}

/// MQTT-060: [MQTT-3.2.2-11] [MQTT-3.2.2-14]
#[test]
fn features_that_are_off_end_the_connection_of_who_uses_them() {
    let off = settings(|s| (s.retain_enabled, s.maximum_qos) = (false, 1));
    for (version, retain_told, qos_told) in
        [(V31, "", ""), (V311, "", ""), (V5, "DISCONNECT 0x9a", "DISCONNECT 0x9b")]
    {
        let mut peer = Peer::live(version, &off);
        peer.publish("a", 1, 1);
        assert_eq!(peer.out(), ["PUBACK #1"]);
        let retained = Publish { retain: true, ..publish("a", 0, 1) };
        assert_eq!(peer.send(&Packet::Publish(retained)), Next::End);
        assert_eq!(peer.last_words().concat(), retain_told);
        let mut peer = Peer::live(version, &off);
        assert_eq!(peer.publish("a", 2, 1), Next::End);
        assert_eq!(peer.last_words().concat(), qos_told);
    }
}

/// MQTT-064: marked as UTF-8 but not UTF-8, where the tenant checks.
#[test]
fn a_payload_of_another_format_is_refused() {
    let marked = properties(|p| _ = p.payload_is_utf8(true));
    for (qos, expected) in
        [(0, "DISCONNECT 0x99"), (1, "PUBACK #1 0x99 why"), (2, "PUBREC #1 0x99 why")]
    {
        let bad = Publish { payload: b"\xFF", ..publish("a", qos, 1) };
        let mut peer = Peer::live(V5, &TenantSettings::default());
        peer.send(&with(bad, marked.view()));
        assert_eq!(peer.last_words(), [expected]);
        assert!(peer.broker.published.is_empty());
        let unchecked = settings(|s| s.payload_format_validation_enabled = false);
        let mut peer = Peer::live(V5, &unchecked);
        peer.send(&with(bad, marked.view()));
        assert_eq!(peer.broker.published.len(), 1);
    }
}

/// MQTT-061: the response topic is a topic name too. [MQTT-3.3.2-14]
#[test]
fn an_invalid_response_topic_is_refused() {
    for (qos, expected) in
        [(0, "DISCONNECT 0x90"), (1, "PUBACK #1 0x90 why"), (2, "PUBREC #1 0x90 why")]
    {
        for topic in ["r/#", "+", ""] {
            let properties = properties(|p| _ = p.response_topic(topic));
            let mut peer = Peer::live(V5, &TenantSettings::default());
            peer.send(&with(publish("a", qos, 1), properties.view()));
            assert_eq!(peer.last_words(), [expected], "{topic}");
            assert!(peer.broker.published.is_empty());
        }
    }
}

/// MQTT-065: [MQTT-3.3.2-12] [MQTT-3.3.2-9] [MQTT-3.3.2-7]
#[test]
fn an_alias_stands_for_its_topic() {
    let alias = |number: u16| properties(|p| _ = p.topic_alias(number));
    let mut peer = Peer::live(V5, &TenantSettings::default());
    for number in 1..=32 {
        peer.send(&with(publish("first", 0, 1), alias(number).view()));
        peer.send(&with(publish("", 0, 1), alias(number).view()));
    }
    peer.send(&with(publish("second", 0, 1), alias(32).view()));
    peer.send(&with(publish("", 0, 1), alias(32).view()));
    peer.send(&with(publish("", 0, 1), alias(31).view()));
    let topics: Vec<_> = peer.broker.published.iter().map(|message| &*message.topic).collect();
    assert_eq!(topics[..64], ["first"; 64]);
    assert_eq!(topics[64..], ["second", "second", "first"]);
    for (topic, number, expected) in
        [("a", 33, "DISCONNECT 0x94"), ("", 33, "DISCONNECT 0x94"), ("", 5, "DISCONNECT 0x82")]
    {
        let mut peer = Peer::live(V5, &TenantSettings::default());
        peer.send(&with(publish(topic, 0, 1), alias(number).view()));
        assert_eq!(peer.last_words(), [expected]);
    }
    let mut peer = Peer::live(V5, &TenantSettings::default());
    assert_eq!(peer.feed(&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0]), Next::End, "alias 0");
    assert_eq!(peer.last_words(), ["DISCONNECT 0x94"]);
    let mut peer = Peer::live(V5, &TenantSettings::default());
    assert_eq!(peer.publish("", 0, 1), Next::End, "neither topic nor alias");
    assert_eq!(peer.last_words(), ["DISCONNECT 0x82"]);
    let mut peer = Peer::live(V5, &settings(|s| s.max_topic_alias = 0));
    peer.send(&with(publish("a", 0, 1), alias(1).view()));
    assert_eq!(peer.last_words(), ["DISCONNECT 0x94"]);
}

/// MQTT-065: the client counts on an alias whatever became of the packet that brought it.
#[test]
fn an_alias_of_a_refused_or_repeated_publish_holds() {
    let alias = properties(|p| _ = p.topic_alias(1));
    let refused = properties(|p| _ = p.topic_alias(2).and_then(|p| p.payload_is_utf8(true)));
    let known = Claimed { inbound: vec![id(9)], ..persistent() };
    let mut peer = Peer::live_as(&connect(V5), &TenantSettings::default(), known);
    let repeated = Publish { dup: true, ..publish("repeated", 2, 9) };
    peer.send(&with(repeated, alias.view()));
    let bad = Publish { payload: b"\xFF", ..publish("refused", 1, 1) };
    peer.send(&with(bad, refused.view()));
    assert_eq!(peer.out(), ["PUBREC #9", "PUBACK #1 0x99 why"]);
    peer.send(&with(publish("", 0, 1), alias.view()));
    let second = properties(|p| _ = p.topic_alias(2));
    peer.send(&with(publish("", 0, 1), second.view()));
    let topics: Vec<_> = peer.broker.published.iter().map(|message| &*message.topic).collect();
    assert_eq!(topics, ["repeated", "refused"]);
}

/// MQTT-055, MQTT-057: [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12]
#[test]
fn a_qos_2_message_is_distributed_once_per_identifier() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.publish("a", 2, 1);
        for _ in 0..3 {
            peer.send(&Packet::Publish(Publish { dup: true, ..publish("a", 2, 1) }));
        }
        assert_eq!(peer.out(), ["PUBREC #1"; 4]);
        assert_eq!(peer.broker.published.len(), 1);
        peer.ack(Packet::Pubrel, 1);
        peer.publish("a", 2, 1);
        assert_eq!(peer.out(), ["PUBCOMP #1", "PUBREC #1"]);
        assert_eq!(peer.broker.published.len(), 2);
        peer.ack(Packet::Pubrel, 5);
        let unknown = if version == V5 { "PUBCOMP #5 0x92" } else { "PUBCOMP #5" };
        assert_eq!(peer.out(), [unknown]);
    }
}

/// MQTT-055: [MQTT-4.3.3-9] a refused QoS 2 message leaves nothing behind.
#[test]
fn an_identifier_is_free_after_a_refusal() {
    let mut peer = Peer::live(V5, &TenantSettings::default());
    peer.broker.outcomes = [Published::NotPermitted].into();
    peer.publish("a", 2, 1);
    peer.publish("b", 2, 1);
    assert_eq!(peer.out(), ["PUBREC #1 0x87 why", "PUBREC #1"]);
    assert_eq!(peer.broker.published.len(), 1);
}

/// MQTT-067: another message on an identifier in use; [MQTT-4.3.2-5] QoS 1 ends with PUBACK.
#[test]
fn an_identifier_in_use_is_refused() {
    let mut peer = Peer::live(V5, &TenantSettings::default());
    peer.publish("a", 2, 1);
    peer.publish("b", 2, 1);
    peer.publish("b", 1, 1);
    assert_eq!(peer.out(), ["PUBREC #1", "PUBREC #1 0x91", "PUBACK #1 0x91"]);
    peer.publish("a", 1, 2);
    peer.publish("b", 1, 2);
    assert_eq!(peer.out(), ["PUBACK #2", "PUBACK #2"]);
    // While the outcome is open, a repetition waits for it and another message is refused.
    peer.broker.outcomes = [PENDING].into();
    peer.publish("a", 1, 3);
    peer.send(&Packet::Publish(Publish { dup: true, ..publish("a", 1, 3) }));
    peer.publish("b", 1, 3);
    assert_eq!(peer.out(), [""; 0]);
    let ticket = peer.broker.tickets[0];
    peer.session.settle(ticket, Settlement::Done);
    assert_eq!(peer.out(), ["PUBACK #3", "PUBACK #3 0x91"]);
    peer.publish("c", 1, 3);
    assert_eq!(peer.out(), ["PUBACK #3"], "it is free again");
    for version in OLD {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.publish("a", 2, 1);
        peer.out();
        assert_eq!(peer.publish("b", 1, 1), Next::End);
        assert_eq!(peer.last_words(), [""; 0]);
    }
}

/// MQTT-054: acknowledgements leave in the order of the publishes. [MQTT-4.6.0-2] [MQTT-4.6.0-3]
#[test]
fn an_acknowledgement_waits_for_those_before_it() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.outcomes = [PENDING, PENDING].into();
        peer.publish("a", 1, 1);
        peer.publish("a", 2, 2);
        peer.publish("a", 1, 3);
        peer.publish("a", 2, 4);
        peer.send(&Packet::Pingreq);
        assert_eq!(peer.out(), ["PINGRESP"]);
        let tickets = peer.broker.tickets.clone();
        peer.session.settle(tickets[1], Settlement::Done);
        assert_eq!(peer.out(), [""; 0]);
        peer.session.settle(tickets[0], Settlement::Done);
        assert_eq!(peer.out(), ["PUBACK #1", "PUBREC #2", "PUBACK #3", "PUBREC #4"]);
        peer.ack(Packet::Pubrel, 2);
        peer.ack(Packet::Pubrel, 4);
        assert_eq!(peer.out(), ["PUBCOMP #2", "PUBCOMP #4"]);
    }
}

/// MQTT-056: what is not durable is never acknowledged.
#[test]
fn an_outcome_that_is_not_durable_is_refused_or_closes() {
    for (settlement, v5, v3) in [
        (Settlement::Done, "PUBACK #1", "PUBACK #1"),
        (Settlement::Busy, "PUBACK #1 0x83", ""),
        (Settlement::QuotaExceeded, "PUBACK #1 0x97", ""),
        (Settlement::Unknown, "DISCONNECT 0x83", ""),
    ] {
        for (version, expected) in [(V5, v5), (V311, v3), (V31, v3)] {
            let mut peer = Peer::live(version, &TenantSettings::default());
            peer.broker.outcomes = [PENDING].into();
            peer.publish("a", 1, 1);
            let ticket = peer.broker.tickets[0];
            peer.session.settle(ticket, settlement);
            assert_eq!(peer.last_words().concat(), expected);
        }
    }
}

/// MQTT-054, MQTT-056: what is work for two stores is acknowledged when both are done, with the
/// worst outcome.
#[test]
fn an_outcome_in_parts_is_known_with_its_last() {
    use Settlement::{Busy, Done, QuotaExceeded, Unknown};
    for (parts, is_matched, expected) in [
        ([Done, Done], true, "PUBACK #1PUBACK #2"),
        ([Done, Done], false, "PUBACK #1 0x10PUBACK #2"),
        ([Done, Busy], true, "PUBACK #1 0x83PUBACK #2"),
        ([QuotaExceeded, Busy], true, "PUBACK #1 0x97PUBACK #2"),
        ([Unknown, Done], true, "DISCONNECT 0x83"),
    ] {
        let mut peer = Peer::live(V5, &TenantSettings::default());
        peer.broker.outcomes = [Published::Pending { parts: 2, is_matched }].into();
        peer.publish("a", 1, 1);
        peer.publish("a", 1, 2);
        let ticket = peer.broker.tickets[0];
        for part in parts {
            assert_eq!(peer.out(), [""; 0], "a part is missing");
            peer.session.settle(ticket, part);
        }
        // One that was not waited for changes nothing.
        peer.session.settle(ticket, Unknown);
        assert_eq!(peer.last_words().concat(), expected);
    }
}

/// MQTT-056: MQTT 3 has no word for it: the publish is held, and what follows it waits.
#[test]
fn a_busy_store_holds_a_publisher_of_mqtt_3() {
    for version in OLD {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.outcomes = [Published::Busy, Published::Busy].into();
        let again = peer.now + Duration::from_millis(50);
        assert_eq!(peer.publish("a", 1, 1), Next::RetryAt(again));
        assert_eq!(peer.publish("b", 1, 2), Next::RetryAt(again));
        assert_eq!(peer.feed(&[]), MORE);
        assert_eq!(peer.out(), ["PUBACK #1", "PUBACK #2"]);
        let topics: Vec<_> = peer.broker.published.iter().map(|m| &*m.topic).collect();
        assert_eq!(topics, ["a", "b"]);
    }
}

/// MQTT-056: nobody is held for ever; each publish for which there was room begins anew.
#[test]
fn a_publisher_of_mqtt_3_is_not_held_for_ever() {
    for outcome in [Published::Busy, Published::QuotaExceeded] {
        let mut peer = Peer::live(V311, &TenantSettings::default());
        for packet_id in 1..=3 {
            peer.broker.outcomes = [outcome.clone(), outcome.clone()].into();
            assert!(matches!(peer.publish("a", 1, packet_id), Next::RetryAt(_)));
            peer.pass(Duration::from_millis(4_900));
            assert!(matches!(peer.feed(&[]), Next::RetryAt(_)));
            assert_eq!(peer.feed(&[]), MORE);
        }
        peer.broker.outcomes = [outcome.clone(), outcome].into();
        peer.publish("a", 1, 4);
        peer.pass(Duration::from_secs(5));
        assert_eq!(peer.feed(&[]), Next::End);
        assert_eq!(peer.session.farewell(), Some(&Farewell::NotDurable));
    }
}

/// MQTT-058: [MQTT-3.3.4-7] [MQTT-4.9.0-2]
#[test]
fn publish_beyond_receive_maximum_disconnects_or_waits() {
    let limits = settings(|s| s.receiving_maximum = 2);
    let mut peer = Peer::live(V5, &limits);
    peer.broker.outcomes = [PENDING].into();
    peer.publish("a", 1, 1);
    peer.publish("a", 2, 2);
    peer.publish("a", 0, 1);
    assert_eq!(peer.session.farewell(), None, "QoS 0 does not count");
    assert_eq!(peer.publish("a", 1, 3), Next::End);
    assert_eq!(peer.last_words(), ["DISCONNECT 0x93"]);
    let mut peer = Peer::live(V5, &limits);
    for number in 1..=2 {
        peer.publish("a", 2, number);
    }
    peer.send(&Packet::Publish(Publish { dup: true, ..publish("a", 2, 2) }));
    peer.ack(Packet::Pubrel, 1);
    peer.publish("a", 1, 3);
    assert_eq!(peer.out().len(), 5, "PUBCOMP and PUBACK give their places back");
    assert_eq!(peer.publish("a", 2, 4), MORE);
    assert_eq!(peer.publish("a", 2, 5), Next::End);
    for version in OLD {
        let mut peer = Peer::live(version, &limits);
        peer.broker.outcomes = [PENDING, PENDING].into();
        peer.publish("a", 1, 1);
        peer.publish("a", 1, 2);
        assert_eq!(peer.publish("a", 1, 3), Next::Retry);
        let ticket = peer.broker.tickets[0];
        peer.session.settle(ticket, Settlement::Done);
        assert_eq!(peer.feed(&[]), MORE);
        assert_eq!(peer.out(), ["PUBACK #1"]);
        assert_eq!(peer.broker.published.len(), 3);
    }
}

/// MQTT-058: what an earlier connection left open does not use up this one's quota.
/// [MQTT-4.9.0-1]
#[test]
fn restored_identifiers_do_not_count_as_received() {
    let limits = settings(|s| s.receiving_maximum = 2);
    let known = Claimed { inbound: vec![id(8), id(9)], ..persistent() };
    let mut peer = Peer::live_as(&connect(V5), &limits, known);
    peer.publish("a", 2, 1);
    peer.publish("a", 2, 2);
    assert_eq!(peer.out(), ["PUBREC #1", "PUBREC #2"]);
    assert_eq!(peer.publish("a", 2, 3), Next::End);
}

/// MQTT-059: MQTT 5 is told, MQTT 3 waits.
#[test]
fn publishing_faster_than_allowed_disconnects_or_waits() {
    let limits = settings(|s| s.msg_pub_per_sec = 10);
    let mut peer = Peer::live(V5, &limits);
    for _ in 0..10 {
        assert_eq!(peer.publish("a", 0, 1), MORE);
    }
    assert_eq!(peer.publish("a", 0, 1), Next::End);
    assert_eq!(peer.last_words(), ["DISCONNECT 0x96"]);
    for version in OLD {
        let mut peer = Peer::live(version, &limits);
        for _ in 0..10 {
            peer.publish("a", 0, 1);
        }
        let again = peer.now + Duration::from_millis(100);
        assert_eq!(peer.publish("a", 0, 1), Next::RetryAt(again));
        peer.pass(Duration::from_millis(100));
        assert_eq!(peer.feed(&[]), MORE);
        assert_eq!(peer.broker.published.len(), 11);
    }
}

/// MQTT-059: a publish that is brought again counts once.
#[test]
fn a_publish_that_waits_for_a_permission_is_charged_once() {
    let limits = settings(|s| s.msg_pub_per_sec = 1);
    let mut peer = Peer::live(V5, &limits);
    peer.broker.outcomes = std::iter::repeat_n(Published::Later, 20).collect();
    assert_eq!(peer.publish("a", 1, 1), Next::Retry);
    while peer.feed(&[]) == Next::Retry {}
    assert_eq!(peer.out(), ["PUBACK #1"]);
}

/// MQTT-101: [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-18]
#[test]
fn properties_are_forwarded_as_they_came() {
    let build = |p: &mut PublishPropertiesBuilder| {
        p.payload_is_utf8(true).and_then(|p| p.response_topic("r")).expect("fits");
        p.user_property("b", "1").and_then(|p| p.correlation_data(b"\0")).expect("fits");
    };
    let expected = properties(|p| {
        build(p);
        p.user_property("a", "2").and_then(|p| p.content_type("c")).expect("fits");
    });
    let sent = properties(|p| {
        p.topic_alias(1).expect("fits");
        build(p);
        p.message_expiry_s(9).and_then(|p| p.user_property("a", "2")).expect("fits");
        p.content_type("c").expect("fits");
    });
    let mut peer = Peer::live(V5, &TenantSettings::default());
    peer.send(&with(publish("a", 0, 1), sent.view()));
    let message = &peer.broker.published[0];
    assert_eq!(&*message.properties, expected.view().bytes());
    assert_eq!(message.deadline, Some(peer.now + Duration::from_secs(9)));
    assert_eq!(message.accepted, peer.now);
}

/// MQTT-046: what QoS 2 needs is told to the broker with the message, in order, and only of
/// persistent sessions.
#[test]
fn qos_2_of_a_persistent_session_is_recorded() {
    for (claimed, expected) in
        [(transient(), vec![]), (persistent(), vec![(1, false), (2, false), (1, true)])]
    {
        let mut peer = Peer::live_as(&connect(V5), &TenantSettings::default(), claimed);
        peer.broker.outcomes = [PENDING].into();
        peer.publish("a", 2, 1);
        peer.publish("a", 2, 2);
        peer.publish("a", 1, 3);
        let accepted = expected.iter().copied().filter(|(_, is_released)| !is_released);
        assert!(peer.broker.inbound.iter().copied().eq(accepted), "with the message");
        let ticket = peer.broker.tickets[0];
        peer.session.settle(ticket, Settlement::Done);
        peer.ack(Packet::Pubrel, 1);
        peer.ack(Packet::Pubrel, 1);
        assert_eq!(peer.broker.inbound, expected);
    }
    let mut peer = Peer::live_as(&connect(V5), &TenantSettings::default(), persistent());
    peer.publish("a", 2, 1);
    peer.broker.is_stale = true;
    peer.ack(Packet::Pubrel, 1);
    assert_eq!(peer.session.farewell(), Some(&Farewell::StaleClaim));
    assert_eq!(peer.last_words(), ["PUBREC #1", "DISCONNECT 0x8e"]);
}

/// MQTT-054: large payloads are shared with the buffer that they came in, small ones copied.
#[test]
fn a_large_payload_is_shared_with_its_buffer() {
    for (length, is_shared) in [(5000, true), (100, false)] {
        let payload = vec![7; length];
        let large = Publish { payload: &payload, ..publish("a", 0, 1) };
        let bytes = Bytes::from(encoded(&Packet::Publish(large), V311));
        let mut peer = Peer::live(V311, &TenantSettings::default());
        let whole = bytes.clone();
        peer.session.receive(peer.now, &bytes, Some(&whole), &mut peer.broker);
        let kept = &peer.broker.published[0].payload;
        assert_eq!(&kept[..], payload);
        assert_eq!(bytes.as_ptr_range().contains(&kept.as_ptr()), is_shared);
        // A buffer that is another one, or mostly something else, is not kept alive.
        let other = Bytes::from(vec![0; 9000]);
        peer.session.receive(peer.now, &bytes, Some(&other), &mut peer.broker);
        let many = Bytes::from(bytes.repeat(3));
        peer.session.receive(peer.now, &many, Some(&many), &mut peer.broker);
        assert_eq!(peer.broker.published.len(), 5);
        for message in &peer.broker.published[1..] {
            assert_eq!(&message.payload[..], payload);
            assert!(!many.as_ptr_range().contains(&message.payload.as_ptr()));
        }
    }
}
