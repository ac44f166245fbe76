//! Persistent sessions: the inbox, and what follows a reconnect.

use std::time::Duration;

use ratatosk_codec::{Connect, Packet, Publish, Qos};
use ratatosk_contract::{
    StoredMessage, TenantSettings,
    inbox::{Entry, Sequence},
};
use ratatosk_session::{Claimed, Farewell};

use crate::harness::{
    ALL, FakeBroker, Peer, V5, V311, connect, connect_v5, id, persistent, publish, settings, stored,
};

fn queue(messages: &[(u64, &str, u8)]) -> Vec<Entry> {
    let mut broker = FakeBroker::default();
    for (sequence, payload, qos) in messages {
        let qos = Qos::try_from(*qos).expect("0 to 2");
        broker.enqueue(*sequence, &stored("a", payload, qos));
    }
    broker.queue
}

fn sent(sequence: u64) -> Claimed {
    Claimed { is_present: true, sent: Sequence(sequence), ..persistent() }
}

/// MQTT-044, MQTT-091: [MQTT-3.3.1-1] [MQTT-4.4.0-1] [MQTT-3.2.0-1]
#[test]
fn unacknowledged_messages_are_sent_again_on_resume() {
    for version in ALL {
        let queue = queue(&[(3, "x", 1), (5, "y", 2), (6, "z", 1)]);
        let mut connect = connect(version);
        connect.clean_start = false;
        let mut peer = Peer::resumed(&connect, sent(5), queue, &TenantSettings::default());
        let mut read = peer.out();
        assert_eq!(&read.remove(0)[..12], "CONNACK 0x00", "before anything else");
        let again = ["PUBLISH a=x q1 #3 dup", "PUBLISH a=y q2 #5 dup", "PUBLISH a=z q1 #6"];
        assert_eq!(read, again);
        peer.puback(3);
        peer.ack(Packet::Pubrec, 5);
        peer.ack(Packet::Pubcomp, 5);
        peer.puback(6);
        assert_eq!(peer.broker.committed, [3, 5, 6]);
        assert!(peer.broker.queue.is_empty());
    }
}

/// MQTT-045, MQTT-092: [MQTT-4.3.3-6]
#[test]
fn an_owed_pubrel_is_sent_again_on_resume() {
    for version in ALL {
        let queue = queue(&[(1, "x", 2), (2, "y", 2)]);
        let mut connect = connect(version);
        connect.clean_start = false;
        let mut peer = Peer::resumed(&connect, sent(0), queue, &TenantSettings::default());
        peer.ack(Packet::Pubrec, 1);
        assert_eq!(peer.out().len(), 4);
        let queue = std::mem::take(&mut peer.broker.queue);
        let mut peer = Peer::resumed(&connect, sent(2), queue, &TenantSettings::default());
        assert_eq!(peer.out()[1..], ["PUBREL #1", "PUBLISH a=y q2 #2 dup"]);
        peer.ack(Packet::Pubrec, 1);
        peer.ack(Packet::Pubcomp, 1);
        assert_eq!(peer.out(), ["PUBREL #1"]);
        assert_eq!(peer.broker.committed, [1]);
    }
}

/// MQTT-046: [MQTT-4.3.3-10]
#[test]
fn an_inbound_identifier_is_known_after_a_reconnect() {
    for version in ALL {
        let mut connect = connect(version);
        connect.clean_start = false;
        let known = Claimed { inbound: vec![id(7)], is_present: true, ..persistent() };
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), known);
        peer.send(&Packet::Publish(Publish { dup: true, ..publish("a", 2, 7) }));
        peer.ack(Packet::Pubrel, 7);
        assert_eq!(peer.out(), ["PUBREC #7", "PUBCOMP #7"]);
        assert!(peer.broker.published.is_empty());
        assert_eq!(peer.broker.inbound, [(7, true)]);
    }
}

/// MQTT-090: the inbox is read as the window allows. [MQTT-3.3.4-9]
#[test]
fn the_inbox_is_fetched_within_the_window() {
    let queue = queue(&[(1, "v", 1), (2, "w", 2), (3, "x", 1), (4, "y", 1)]);
    let connect = connect_v5(60, 2, 0, 0);
    let mut peer = Peer::resumed(&connect, sent(0), queue, &TenantSettings::default());
    assert_eq!(peer.out()[1..], ["PUBLISH a=v q1 #1", "PUBLISH a=w q2 #2"]);
    peer.puback(1);
    assert_eq!(peer.out(), ["PUBLISH a=x q1 #3"]);
    peer.puback(3);
    assert_eq!(peer.out(), ["PUBLISH a=y q1 #4"], "a confirmation out of order frees a place");
    assert_eq!(peer.broker.committed, [1, 3]);
    assert!(!peer.session.wants_pump());
    peer.puback(4);
    peer.broker.enqueue(5, &stored("a", "z", Qos::AtLeastOnce));
    peer.session.inbox_ready(peer.now, &mut peer.broker);
    assert_eq!(peer.out(), ["PUBLISH a=z q1 #5"]);
}

/// MQTT-095, MQTT-096: what was sent before does not expire, what was not does.
/// [MQTT-4.3.3-7]
#[test]
fn expiry_of_queued_messages_spares_those_in_exchange() {
    let peer = Peer::fresh(V5);
    let deadline = Some(peer.now);
    let mut broker = FakeBroker::default();
    for (sequence, payload, qos) in [(1, "x", 2), (2, "y", 1), (2, "q", 0), (3, "z", 1)] {
        let qos = Qos::try_from(qos).expect("0 to 2");
        broker.enqueue(sequence, &StoredMessage { deadline, ..stored("a", payload, qos) });
    }
    broker.enqueue(4, &stored("a", "fresh", Qos::AtLeastOnce));
    let connect = connect_v5(60, 0, 0, 0);
    let mut peer = Peer::resumed(&connect, sent(1), broker.queue, &TenantSettings::default());
    assert_eq!(peer.out()[1..], ["PUBLISH a=x q2 #1 dup expiry=0", "PUBLISH a=fresh q1 #4"]);
    assert_eq!(peer.broker.committed, [2, 3], "the dead are not kept");
    assert_eq!(peer.take_dropped(), (3, 0));
}

/// MQTT-099: what the client cannot take is dropped, counted and forgotten by the inbox.
#[test]
fn an_oversize_entry_of_the_inbox_is_dropped() {
    let queue = queue(&[(1, &"x".repeat(100), 1), (2, "y", 1), (2, &"z".repeat(100), 0)]);
    let connect = connect_v5(60, 0, 60, 0);
    let mut peer = Peer::resumed(&connect, sent(0), queue, &TenantSettings::default());
    assert_eq!(peer.out()[1..], ["PUBLISH a=y q1 #2"]);
    assert_eq!(peer.broker.committed, [1]);
    assert_eq!(peer.take_dropped(), (0, 2));
}

/// MQTT-042, MQTT-046: whatever the inbox is asked, a newer owner ends this one.
#[test]
fn a_stale_claim_ends_the_session() {
    let steps: [fn(&mut Peer); 4] = [
        |peer| peer.puback(1),
        |peer| peer.ack(Packet::Pubrec, 2),
        |peer| peer.ack(Packet::Pubrel, 7),
        |peer| peer.session.inbox_ready(peer.now, &mut peer.broker),
    ];
    for step in steps {
        let claimed = Claimed { inbound: vec![id(7)], ..sent(0) };
        let queue = queue(&[(1, "x", 1), (2, "y", 2)]);
        let connect = connect_v5(60, 0, 0, 0);
        let mut peer = Peer::resumed(&connect, claimed, queue, &TenantSettings::default());
        peer.out();
        peer.broker.is_stale = true;
        step(&mut peer);
        assert_eq!(peer.session.farewell(), Some(&Farewell::StaleClaim));
        assert_eq!(peer.last_words(), ["DISCONNECT 0x8e"]);
    }
}

/// MQTT-090: an identifier comes round only after its last bearer was confirmed. [MQTT-2.2.1-4]
/// [MQTT-2.3.1-4]
#[test]
fn a_message_waits_for_its_identifier() {
    let queue = queue(&[(1, "x", 1), (65_536, "y", 1), (65_537, "z", 1)]);
    for connect in [connect_v5(60, 0, 0, 0), Connect { clean_start: false, ..connect(V311) }] {
        let mut peer = Peer::resumed(&connect, sent(0), queue.clone(), &TenantSettings::default());
        assert_eq!(peer.out()[1..], ["PUBLISH a=x q1 #1"]);
        peer.session.inbox_ready(peer.now, &mut peer.broker);
        assert!(!peer.session.wants_pump());
        assert_eq!(peer.out(), [""; 0]);
        peer.puback(1);
        assert_eq!(peer.out(), ["PUBLISH a=y q1 #1", "PUBLISH a=z q1 #2"]);
        peer.puback(1);
        peer.puback(2);
        assert_eq!(peer.broker.committed, [1, 65_536, 65_537]);
    }
}

/// MQTT-091: the timed re-send works for persistent sessions of MQTT 3, and commits what it
/// gives up.
#[test]
fn a_persistent_session_of_mqtt_3_sends_again_and_gives_up() {
    let limits = settings(|s| (s.resend_timeout_seconds, s.max_resend_times) = (5, 1));
    let mut connect = connect(V311);
    connect.clean_start = false;
    let queue = queue(&[(4, "x", 1), (5, "y", 1)]);
    let mut peer = Peer::resumed(&connect, sent(0), queue, &limits);
    peer.puback(4);
    peer.out();
    peer.tick_after(Duration::from_secs(5));
    assert_eq!(peer.out(), ["PUBLISH a=y q1 #5 dup"]);
    peer.tick_after(Duration::from_secs(5));
    assert_eq!(peer.broker.committed, [4, 5]);
    assert_eq!(peer.broker.reports, ["exhausted 1"]);
}
