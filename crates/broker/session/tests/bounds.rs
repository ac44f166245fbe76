//! What one connection can make the broker hold.

use std::time::Duration;

use ratatosk_codec::{Packet, Publish, PublishPropertiesBuilder, Qos, UserPropertiesBuilder};
use ratatosk_contract::{TenantSettings, call::Settlement};
use ratatosk_session::{Claimed, Next};

use crate::harness::{
    ALL, PENDING, Peer, V5, V311, connect, id, persistent, publish, settings, stored, transient,
};

/// SEC-006: topics of inbound aliases hold 2 MiB at most: all aliases as shipped.
#[test]
fn topic_aliases_are_bounded_in_bytes() {
    let limits = settings(|s| s.max_topic_alias = 1000);
    let topic = "t".repeat(60_000);
    let mut peer = Peer::live(V5, &limits);
    let mut taken = 0;
    for alias in 1..=1000 {
        let mut properties = PublishPropertiesBuilder::new();
        properties.topic_alias(alias).expect("not zero");
        let publish = Publish { properties: properties.view(), ..Publish::new(&topic, b"") };
        if peer.send(&Packet::Publish(publish)) == Next::End {
            break;
        }
        taken += 1;
    }
    assert_eq!(taken, 2 * 1024 * 1024 / 60_000);
    assert!(peer.session.memory_bytes() < 2200 * 1024);
    assert_eq!(peer.last_words(), ["DISCONNECT 0x97"]);
}

/// SEC-006: a client that sends and never reads is not read from any more.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    for version in ALL {
        let mut peer = Peer::live(version, &settings(|s| s.max_user_payload_bytes = 1024));
        let pings = [0xC0, 0].repeat(10_000);
        let mut next = Next::Retry;
        for _ in 0..100 {
            next = peer.feed(&pings);
            if matches!(next, Next::RetryAt(_)) {
                break;
            }
        }
        assert!(matches!(next, Next::RetryAt(_)), "{next:?}");
        assert!(peer.session.output_len() < 600 * 1024);
        let left = peer.unread.len();
        peer.written();
        assert_eq!(peer.feed(&[]), Next::Bytes { packet_length: None });
        assert_eq!(peer.written().len(), left, "nothing was lost");
    }
}

/// SEC-006, MQTT-058: repetitions do not pile up behind an open outcome.
#[test]
fn repeated_publishes_wait_like_others() {
    let limits = settings(|s| s.receiving_maximum = 5);
    for version in [V311, V5] {
        let known = Claimed { inbound: vec![id(9)], ..persistent() };
        let mut peer = Peer::live_as(&connect(version), &limits, known);
        peer.broker.outcomes = [PENDING].into();
        peer.publish("a", 1, 1);
        let again = Packet::Publish(Publish { dup: true, ..publish("a", 2, 9) });
        let mut taken = 0;
        while peer.send(&again) != Next::Retry {
            taken += 1;
            assert!(taken < 10, "it has to wait");
        }
        let ticket = peer.broker.tickets[0];
        peer.session.settle(ticket, Settlement::Done);
        assert_eq!(peer.feed(&[]), Next::Bytes { packet_length: None });
        let read = peer.out();
        assert_eq!((&read[0][..], read.len()), ("PUBACK #1", taken + 2));
        assert_eq!(read[1..], vec!["PUBREC #9"; taken + 1]);
    }
}

/// SEC-006: what a stranger sends is not multiplied.
#[test]
fn user_properties_of_connect_are_bounded() {
    for (count, expected) in [(256, None), (257, Some("CONNACK 0x97"))] {
        let mut properties = UserPropertiesBuilder::new();
        for _ in 0..count {
            properties.push("", "").expect("fits");
        }
        let mut connect = connect(V5);
        connect.properties.user_properties = properties.view();
        let mut peer = Peer::connecting(&connect);
        match expected {
            None => assert!(peer.session.take_request().is_some()),
            Some(expected) => assert_eq!(peer.last_words(), [expected]),
        }
    }
}

/// SEC-006: an idle session holds nothing on the heap; a busy one gives its memory back.
#[test]
fn memory_returns_when_the_work_is_done() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        assert_eq!(peer.session.memory_bytes(), 0);
        for number in 1..=1000 {
            peer.publish("a", 2, number);
            peer.deliver(&stored("a", "x", Qos::AtLeastOnce), 1);
        }
        assert!(peer.session.memory_bytes() > 10_000);
        for number in 1..=1000 {
            peer.ack(Packet::Pubrel, number);
            peer.puback(number);
        }
        peer.written();
        assert!(peer.session.memory_bytes() < 2_000, "{}", peer.session.memory_bytes());
    }
}

/// SEC-006, MQTT-103: the queue can be shed, oldest first.
#[test]
fn a_queue_is_shed_on_demand() {
    let mut connect = connect(V5);
    connect.properties.receive_maximum = std::num::NonZeroU16::new(1);
    let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
    for text in ["a", "b", "c", "d"] {
        peer.deliver(&stored("t", text, Qos::AtLeastOnce), 1);
    }
    assert_eq!(peer.session.shed(1), 1);
    peer.puback(1);
    peer.puback(2);
    assert_eq!(peer.out(), ["PUBLISH t=a q1 #1", "PUBLISH t=c q1 #2", "PUBLISH t=d q1 #3"]);
    assert_eq!(peer.session.shed(usize::MAX), 0);
}

/// SEC-006, MQTT-091: what has not even left is not sent again, however often the time comes.
#[test]
fn a_resend_waits_until_the_output_was_written() {
    let limits = settings(|s| s.resend_timeout_seconds = 5);
    let mut peer = Peer::live(V311, &limits);
    let large = stored("a", &"x".repeat(150_000), Qos::AtLeastOnce);
    peer.deliver(&large, 1);
    peer.deliver(&large, 1);
    let before = peer.session.output_len();
    for _ in 0..10 {
        peer.tick_after(Duration::from_secs(5));
    }
    assert_eq!(peer.session.output_len(), before);
    assert!(peer.broker.reports.is_empty(), "nor is it given up");
    peer.written();
    peer.tick_after(Duration::from_secs(5));
    assert_eq!(peer.out().len(), 2);
}
