//! Connections that end while what they were answered is not durable: the answers are never seen, the
//! farewell is.

use ratatosk_codec::{ProtocolVersion, ReasonCode, SubscriptionOptions};
use ratatosk_conformance::{Client, Event, Site, Testament, Tunnel};

use crate::cases::{QOS1, assert_quiet};
use crate::kept::Kept;

/// Subscribes; the answer is held back.
fn begin_subscribe(kept: &mut Kept, client: &mut Client) {
    client.begin_subscribe(&[("t", SubscriptionOptions::new(QOS1))], None);
    kept.holds(1);
    assert!(!client.has_more(), "SUBACK waits for the disk");
}

/// MQTT-042, DUR-009: whoever is taken over is told so at once, through whatever layers, and nothing of what
/// was not durable. [MQTT-3.1.4-3]
#[test]
fn who_is_taken_over_while_an_answer_is_held_back_is_told_that_alone() {
    let site = Site::new();
    let kinds = [(true, false), (false, true), (true, true)];
    let layers = kinds.map(|(has_tls, has_websocket)| site.layers(has_tls, has_websocket));
    let mut kept = Kept::behind(&layers);
    let far = kept.broker.addresses()[1..].to_vec();
    let tunnels = far.iter().zip(&layers).map(|(far, layers)| Tunnel::open(*far, layers, &site));
    let tunnels: Vec<Tunnel> = tunnels.collect();
    let ways = tunnels.iter().map(Tunnel::address).chain([kept.broker.address()]);
    for address in ways.collect::<Vec<_>>() {
        for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
            let connector = kept.broker.client(version, "c").persistent().at(address);
            let mut client = kept.connect_by(&connector);
            begin_subscribe(&mut kept, &mut client);
            let mut heir = connector.open();
            client.expect_farewell(ReasonCode::SessionTakenOver);
            // The subscription, its author's end, the claim.
            kept.holds(3);
            kept.keyspace.settle();
            assert_eq!(heir.connack().reason, ReasonCode::Success);
            drop(heir);
            kept.holds(1);
            kept.keyspace.settle();
        }
    }
}

/// DUR-009: so is whoever is answered what turns out to be in doubt.
#[test]
fn who_was_answered_what_is_in_doubt_is_told_that_alone() {
    let mut kept = Kept::new();
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let connector = kept.broker.client(version, "c").persistent();
        let mut client = kept.connect_by(&connector);
        begin_subscribe(&mut kept, &mut client);
        kept.keyspace.lose();
        client.expect_farewell(ReasonCode::ImplementationSpecificError);
        kept.holds(1);
        kept.keyspace.settle();
    }
}

/// DUR-009: so is whoever breaks a rule behind what is not durable.
#[test]
fn who_breaks_a_rule_while_an_answer_is_held_back_is_told_which() {
    let mut kept = Kept::new();
    let mut client = kept.connect("c");
    begin_subscribe(&mut kept, &mut client);
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(QOS1) };
    client.begin_subscribe(&[("$share/g/t", options)], None);
    client.expect_farewell(ReasonCode::ProtocolError);
}

/// MQTT-042, MQTT-048: whoever is taken over before its CONNACK could leave is refused instead, and leaves no
/// will. [MQTT-3.2.0-1]
#[test]
fn who_is_taken_over_before_its_connack_left_is_refused() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut kept = Kept::new();
        let mut heir = kept.broker.v5("heir").connect();
        heir.subscribe("will", QOS1);
        let connector = kept.broker.client(version, "c").persistent();
        let mut client = connector.clone().will(Testament::new("will", "gone")).open();
        kept.holds(1);
        assert!(!client.has_more(), "CONNACK waits for the disk");
        let mut second = connector.open();
        assert_eq!(client.connack().reason, ReasonCode::ServerUnavailable);
        client.expect_close();
        // Two claims, and the end between them.
        kept.holds(3);
        kept.keyspace.settle();
        assert_eq!(second.connack().reason, ReasonCode::Success);
        assert_quiet(&mut second, &mut heir);
    }
}

/// DUR-009: whoever ends his half is still owed what he was answered, once it is durable, and not otherwise.
#[test]
fn who_ends_his_half_is_owed_what_becomes_durable() {
    for is_lost in [false, true] {
        let mut kept = Kept::new();
        let mut client = kept.connect("c");
        begin_subscribe(&mut kept, &mut client);
        client.half_close();
        // The session is left, too.
        kept.holds(2);
        assert!(!client.has_more(), "SUBACK waits for the disk");
        if is_lost {
            kept.keyspace.lose();
        } else {
            kept.keyspace.settle();
            assert!(matches!(client.event(), Event::Suback(..)));
        }
        client.expect_close();
    }
}
