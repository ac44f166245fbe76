//! Messages to the client of a transient session.

use std::{num::NonZeroU32, time::Duration};

use ratatosk_codec::{Ack, Packet, Qos, ReasonCode, SubscriptionOptions};
use ratatosk_contract::{StoredMessage, TenantSettings};
use ratatosk_session::{Delivered, Delivery, DropReason, Farewell, Origin};

use crate::harness::{
    ALL, OLD, Peer, V5, V31, V311, connect, connect_v5, id, persistent, settings, stored, transient,
};

const SENT: Delivered = Delivered::Sent;
const QUEUED: Delivered = Delivered::Queued;

fn message(payload: &str, qos: u8) -> StoredMessage {
    stored("a", payload, Qos::try_from(qos).expect("0 to 2"))
}

/// A live client of MQTT 5 that takes `receive_maximum` messages at once.
fn windowed(receive_maximum: u16, settings: &TenantSettings) -> Peer {
    Peer::live_as(&connect_v5(0, receive_maximum, 0, 0), settings, transient())
}

/// MQTT-089: [MQTT-3.8.4-8] [MQTT-4.3.1-1] [MQTT-4.3.2-2]
#[test]
fn a_message_is_delivered_at_the_lower_quality_of_service() {
    for version in ALL {
        for published in 0..=2 {
            for granted in 0..=2 {
                let mut peer = Peer::live(version, &TenantSettings::default());
                assert_eq!(peer.deliver(&message("x", published), granted), SENT);
                let expected = match published.min(granted) {
                    0 => "PUBLISH a=x q0".to_owned(),
                    qos => format!("PUBLISH a=x q{qos} #1"),
                };
                assert_eq!(peer.out(), [expected]);
            }
        }
    }
}

/// MQTT-082: [MQTT-3.8.3-3] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
#[test]
fn no_local_and_retain_as_published_are_honoured() {
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let mut peer = Peer::live(V5, &TenantSettings::default());
    let own = StoredMessage { publisher: peer.session.publisher(), ..message("x", 0) };
    let local = Delivered::Dropped(DropReason::NoLocal);
    assert_eq!(peer.deliver_as(&own, no_local, None, false), local);
    assert_eq!(peer.deliver(&own, 0), SENT);
    assert_eq!(peer.deliver_as(&message("x", 0), no_local, None, false), SENT);
    peer.out();
    for (as_published, was_retained, is_retained, expected) in [
        (false, false, false, "PUBLISH a=x q0"),
        (false, true, false, "PUBLISH a=x q0"),
        (true, false, false, "PUBLISH a=x q0"),
        (true, true, false, "PUBLISH a=x q0 retain"),
        (false, true, true, "PUBLISH a=x q0 retain"),
    ] {
        let options = SubscriptionOptions {
            retain_as_published: as_published,
            ..SubscriptionOptions::default()
        };
        let message = StoredMessage { retain: was_retained, ..message("x", 0) };
        peer.deliver_as(&message, options, None, is_retained);
        assert_eq!(peer.out(), [expected]);
    }
}

/// MQTT-081: [MQTT-3.3.4-3] [MQTT-3.3.4-5]
#[test]
fn the_identifier_of_the_subscription_comes_with_the_message() {
    let options = SubscriptionOptions::new(Qos::AtLeastOnce);
    for (version, expected) in
        [(V5, "PUBLISH a=x q1 #1 sub=300"), (V311, "PUBLISH a=x q1 #1"), (V31, "PUBLISH a=x q1 #1")]
    {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.deliver_as(&message("x", 1), options, Some(300), false);
        assert_eq!(peer.out(), [expected]);
    }
    let mut peer = windowed(1, &TenantSettings::default());
    peer.deliver_as(&message("x", 1), options, Some(1), false);
    peer.deliver_as(&message("y", 1), options, Some(268_435_455), true);
    peer.puback(1);
    let second = "PUBLISH a=y q1 #2 retain sub=268435455";
    assert_eq!(peer.out(), ["PUBLISH a=x q1 #1 sub=1", second], "also through the queue");
}

/// MQTT-090: [MQTT-3.3.4-9] [MQTT-4.9.0-2] [MQTT-3.3.4-10]
#[test]
fn the_window_never_passes_the_client_s_receive_maximum() {
    let mut peer = windowed(2, &TenantSettings::default());
    let told: Vec<_> =
        ["a", "b", "c", "d"].iter().map(|text| peer.deliver(&message(text, 2), 2)).collect();
    assert_eq!(told, [SENT, SENT, QUEUED, QUEUED]);
    assert!(peer.session.is_congested());
    assert_eq!(peer.deliver(&message("0", 0), 0), SENT, "QoS 0 does not count");
    peer.send(&Packet::Pingreq);
    let first = ["PUBLISH a=a q2 #1", "PUBLISH a=b q2 #2", "PUBLISH a=0 q0", "PINGRESP"];
    assert_eq!(peer.out(), first);
    peer.ack(Packet::Pubrec, 1);
    assert_eq!(peer.out(), ["PUBREL #1"], "PUBREC frees nothing");
    peer.ack(Packet::Pubcomp, 1);
    assert_eq!(peer.out(), ["PUBLISH a=c q2 #3"]);
    peer.send(&Packet::Pubrec(Ack::new(id(2), ReasonCode::UnspecifiedError)));
    assert_eq!(peer.out(), ["PUBLISH a=d q2 #4"], "a refusal frees a place");
    assert!(!peer.session.is_congested());
}

/// MQTT-090: a client of MQTT 3 names no maximum and gets the server's.
#[test]
fn a_client_of_mqtt_3_has_a_window_too() {
    for version in OLD {
        let mut peer = Peer::live(version, &TenantSettings::default());
        let told: Vec<_> = (0..1030).map(|_| peer.deliver(&message("x", 1), 1)).collect();
        assert_eq!(told.iter().filter(|told| **told == SENT).count(), 1024);
        assert_eq!(peer.out().len(), 1024);
        for packet_id in 1..=6 {
            peer.puback(packet_id);
        }
        assert_eq!(peer.out().len(), 6);
    }
}

/// MQTT-093: the window adapts only where the tenant wants it, and within the maximum.
#[test]
fn an_adaptive_window_starts_small_and_grows_with_confirmations() {
    for (is_adaptive, receive_maximum, expected) in
        [(false, 1000, [300, 0]), (true, 1000, [64, 80]), (true, 10, [10, 10])]
    {
        let limits = settings(|s| s.adaptive_send_window = is_adaptive);
        let mut peer = windowed(receive_maximum, &limits);
        for _ in 0..300 {
            peer.deliver(&message("x", 1), 1);
        }
        let first = peer.out().len();
        peer.pass(Duration::from_millis(1));
        let acks: Vec<u8> = (1..=u8::try_from(first.min(64)).expect("small"))
            .flat_map(|number| [0x40, 2, 0, number])
            .collect();
        peer.feed(&acks);
        assert_eq!([first, peer.out().len()], expected);
    }
}

/// MQTT-092: [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6]
#[test]
fn after_pubrec_only_pubrel_is_sent() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.deliver(&message("x", 2), 2);
        assert_eq!(peer.out(), ["PUBLISH a=x q2 #1"]);
        for _ in 0..3 {
            peer.ack(Packet::Pubrec, 1);
            assert_eq!(peer.out(), ["PUBREL #1"]);
        }
        peer.ack(Packet::Pubcomp, 1);
        peer.ack(Packet::Pubcomp, 1);
        assert_eq!(peer.out(), [""; 0], "a second one answers nothing");
        peer.ack(Packet::Pubrec, 1);
        let unknown = if version == V5 { "PUBREL #1 0x92" } else { "PUBREL #1" };
        assert_eq!(peer.out(), [unknown]);
    }
}

/// MQTT-092: an acknowledgement of the other quality of service breaks the protocol.
#[test]
fn an_acknowledgement_of_the_wrong_kind_ends_the_connection() {
    for (qos, kind) in [
        (1, Packet::Pubrec as fn(_) -> _),
        (1, Packet::Pubcomp),
        (2, Packet::Puback),
        (2, Packet::Pubcomp),
    ] {
        let mut peer = Peer::live(V5, &TenantSettings::default());
        peer.deliver(&message("x", qos), qos);
        peer.out();
        peer.ack(kind, 1);
        assert_eq!(peer.last_words(), ["DISCONNECT 0x82"]);
    }
    let mut peer = Peer::live(V5, &TenantSettings::default());
    peer.puback(9);
    assert_eq!(peer.session.farewell(), None, "an answer to nothing is ignored");
}

/// MQTT-091: timed, in MQTT 3, where the tenant asks for it. [MQTT-3.3.1-1] [MQTT-4.4.0-1]
#[test]
fn unconfirmed_messages_are_sent_again_after_a_while() {
    let limits = settings(|s| (s.resend_timeout_seconds, s.max_resend_times) = (5, 2));
    for version in OLD {
        let mut peer = Peer::live(version, &limits);
        peer.deliver(&message("x", 1), 1);
        peer.deliver(&message("y", 2), 2);
        peer.deliver(&message("z", 2), 2);
        peer.ack(Packet::Pubrec, 3);
        assert_eq!(peer.out().len(), 4);
        peer.tick_after(Duration::from_millis(4_999));
        assert_eq!(peer.out(), [""; 0]);
        assert_eq!(peer.session.deadline(), Some(peer.now + Duration::from_millis(1)));
        let again = ["PUBLISH a=x q1 #1 dup", "PUBLISH a=y q2 #2 dup", "PUBREL #3"];
        peer.tick_after(Duration::from_millis(1));
        assert_eq!(peer.out(), again);
        peer.tick_after(Duration::from_secs(5));
        assert_eq!(peer.out(), again);
        peer.tick_after(Duration::from_secs(5));
        assert_eq!(peer.out(), [""; 0]);
        assert_eq!(peer.broker.reports, ["exhausted 2"]);
        peer.tick_after(Duration::from_secs(5));
        assert_eq!(peer.out(), ["PUBREL #3"], "a release is never given up");
        assert_eq!(peer.broker.reports.len(), 1);
    }
}

/// MQTT-091: not in MQTT 5, not unless asked for, and not what was confirmed.
#[test]
fn nothing_is_sent_again_that_need_not_be() {
    let limits = settings(|s| s.resend_timeout_seconds = 5);
    for (version, limits) in [(V5, &limits), (V311, &TenantSettings::default())] {
        let mut peer = Peer::live(version, limits);
        peer.deliver(&message("x", 1), 1);
        peer.out();
        assert_eq!(peer.session.deadline(), None);
        peer.tick_after(Duration::from_secs(100));
        assert_eq!(peer.out(), [""; 0]);
    }
    let mut peer = Peer::live(V311, &limits);
    for text in ["x", "y"] {
        peer.deliver(&message(text, 1), 1);
    }
    peer.out();
    peer.tick_after(Duration::from_secs(4));
    peer.puback(2);
    peer.tick_after(Duration::from_secs(4));
    assert_eq!(peer.out(), [""; 0], "a confirmation shows that the client is at work");
    peer.tick_after(Duration::from_secs(1));
    assert_eq!(peer.out(), ["PUBLISH a=x q1 #1 dup"]);
    peer.puback(1);
    assert_eq!(peer.session.deadline(), None);
}

/// MQTT-091: what is given up makes room for what waits.
#[test]
fn giving_up_goes_on_with_the_queue() {
    let limits = settings(|s| (s.resend_timeout_seconds, s.max_resend_times) = (5, 0));
    let mut peer = Peer::live(V311, &limits);
    for _ in 0..1025 {
        peer.deliver(&message("x", 1), 1);
    }
    assert_eq!(peer.out().len(), 1024);
    peer.tick_after(Duration::from_secs(5));
    assert_eq!(peer.broker.reports, ["exhausted 1024"]);
    assert_eq!(peer.out(), ["PUBLISH a=x q1 #1025"]);
}

/// MQTT-094: [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8]
#[test]
fn aliases_are_used_up_to_the_client_s_maximum() {
    for (alias_max, expected) in [
        (0, ["a=x q0", "a=x q0", "b=x q0", "b=x q0", "c=x q0"]),
        (2, ["a=x q0 alias=1", "=x q0 alias=1", "b=x q0 alias=2", "=x q0 alias=2", "c=x q0"]),
    ] {
        let connect = connect_v5(0, 0, 0, alias_max);
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
        for topic in ["a", "a", "b", "b", "c"] {
            peer.deliver(&stored(topic, "x", Qos::AtMostOnce), 0);
        }
        assert_eq!(peer.out(), expected.map(|text| format!("PUBLISH {text}")));
    }
}

/// MQTT-095: [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn expired_messages_are_not_delivered_and_others_say_what_is_left() {
    let mut peer = windowed(1, &TenantSettings::default());
    let deadline = Some(peer.now + Duration::from_millis(9_500));
    let dying = |payload| StoredMessage { deadline, ..message(payload, 1) };
    peer.deliver(&dying("x"), 1);
    assert_eq!(peer.deliver(&dying("y"), 1), QUEUED);
    assert_eq!(peer.deliver(&message("z", 1), 1), QUEUED);
    assert_eq!(peer.out(), ["PUBLISH a=x q1 #1 expiry=10"]);
    peer.pass(Duration::from_millis(9_000));
    assert_eq!(peer.deliver(&dying("w"), 0), SENT);
    assert_eq!(peer.out(), ["PUBLISH a=w q0 expiry=1"]);
    peer.pass(Duration::from_millis(500));
    let expired = Delivered::Dropped(DropReason::Expired);
    assert_eq!(peer.deliver(&dying("w"), 0), expired);
    peer.puback(1);
    assert_eq!(peer.out(), ["PUBLISH a=z q1 #2"]);
    assert_eq!(peer.take_dropped(), (1, 0), "the one that expired in the queue");
}

/// MQTT-096: [MQTT-4.3.3-7] [MQTT-4.3.3-13]
#[test]
fn expiry_does_not_interrupt_an_exchange() {
    let limits = settings(|s| s.resend_timeout_seconds = 20);
    for version in ALL {
        let mut peer = Peer::live(version, &limits);
        let deadline = Some(peer.now + Duration::from_secs(1));
        peer.deliver(&StoredMessage { deadline, ..message("x", 2) }, 2);
        peer.out();
        peer.pass(Duration::from_secs(10));
        peer.ack(Packet::Pubrec, 1);
        assert_eq!(peer.out(), ["PUBREL #1"]);
        peer.ack(Packet::Pubcomp, 1);
        assert_eq!(peer.session.farewell(), None);
    }
}

/// MQTT-097: QoS 0 is dropped, QoS 1 waits until there is room again.
#[test]
fn a_client_that_does_not_read_gets_no_qos_0() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        let large = message(&"x".repeat(200_000), 0);
        assert_eq!(peer.deliver(&large, 0), SENT);
        assert_eq!(peer.deliver(&large, 0), SENT);
        assert!(peer.session.output_len() > 256 * 1024);
        assert_eq!(peer.deliver(&large, 0), Delivered::Dropped(DropReason::Overflow));
        assert_eq!(peer.deliver(&message("y", 1), 1), QUEUED);
        assert!(!peer.session.wants_pump());
        peer.written();
        assert!(peer.session.wants_pump());
        assert_eq!(peer.deliver(&message("z", 1), 1), QUEUED, "not before those that wait");
        peer.session.pump(peer.now, &mut peer.broker);
        assert_eq!(peer.out(), ["PUBLISH a=y q1 #1", "PUBLISH a=z q1 #2"]);
    }
}

/// MQTT-098: the queue of a transient session drops its newest.
#[test]
fn a_full_queue_drops_the_newest() {
    let mut peer = windowed(1, &settings(|s| s.session_inbox_size = 2));
    let told: Vec<_> =
        ["a", "b", "c", "d"].iter().map(|text| peer.deliver(&message(text, 1), 1)).collect();
    let overflow = Delivered::Dropped(DropReason::Overflow);
    assert_eq!(told, [SENT, QUEUED, QUEUED, overflow]);
    for packet_id in 1..=3 {
        peer.puback(packet_id);
    }
    assert_eq!(peer.out(), ["PUBLISH a=a q1 #1", "PUBLISH a=b q1 #2", "PUBLISH a=c q1 #3"]);
}

/// MQTT-099: [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn a_publish_beyond_the_client_s_maximum_is_dropped() {
    let oversize = Delivered::Dropped(DropReason::Oversize);
    let mut peer = Peer::live_as(&connect_v5(0, 1, 60, 5), &TenantSettings::default(), transient());
    // Fixed header 2, topic 3, packet identifier 2, properties 1 with alias 4.
    let fits_with_alias = message(&"x".repeat(49), 1);
    let fits_without = message(&"y".repeat(52), 1);
    let too_large = message(&"z".repeat(53), 1);
    assert_eq!(peer.deliver(&too_large, 1), oversize);
    assert_eq!(peer.deliver(&fits_without, 1), SENT);
    assert_eq!(peer.deliver(&too_large, 1), QUEUED);
    assert_eq!(peer.deliver(&fits_with_alias, 1), QUEUED);
    peer.puback(1);
    let read = peer.out();
    assert_eq!(read[0], format!("PUBLISH a={} q1 #1", "y".repeat(52)));
    assert_eq!(read[1], format!("PUBLISH a={} q1 #2 alias=1", "x".repeat(49)));
    assert_eq!(peer.take_dropped(), (0, 1));
    peer.puback(2);
    peer.deliver(&message("x", 1), 1);
    assert_eq!(peer.out(), ["PUBLISH =x q1 #3 alias=1"]);
}

/// MQTT-087: [MQTT-4.8.2-5] [MQTT-4.8.2-6]
#[test]
fn what_a_shared_member_leaves_unfinished_is_shown() {
    let mut peer = windowed(4, &TenantSettings::default());
    let origin = NonZeroU32::new(5).map(Origin);
    for (payload, qos, origin) in [
        ("confirmed", 1, origin),
        ("refused", 1, origin),
        ("in flight", 1, origin),
        ("own", 1, None),
        ("exactly once", 2, origin),
        ("waits", 1, origin),
        ("waits too", 2, origin),
        ("own that waits", 1, None),
    ] {
        let message = message(payload, qos);
        let options = SubscriptionOptions::new(Qos::ExactlyOnce);
        let message = message.as_message();
        let delivery = Delivery {
            message: &message,
            options,
            subscription_id: None,
            is_retained: false,
            origin,
        };
        peer.session.deliver(peer.now, &delivery);
        if payload == "refused" {
            peer.puback(1);
            peer.send(&Packet::Puback(Ack::new(id(2), ReasonCode::UnspecifiedError)));
        }
    }
    peer.end();
    let mut shown = Vec::new();
    peer.session.unfinished_shared(|origin, message| {
        assert_eq!(origin.0.get(), 5);
        shown.push(String::from_utf8_lossy(message.payload).into_owned());
    });
    assert_eq!(shown, ["in flight", "waits", "waits too"]);
}

/// MQTT-090: a message of the client's own farewell is the last.
#[test]
fn a_session_that_has_to_end_takes_no_more_messages() {
    let mut peer = Peer::live_as(&connect(V5), &TenantSettings::default(), persistent());
    peer.broker.is_stale = true;
    peer.session.inbox_ready(peer.now, &mut peer.broker);
    assert_eq!(peer.session.farewell(), Some(&Farewell::StaleClaim));
    let closed = Delivered::Dropped(DropReason::SessionClosed);
    assert_eq!(peer.deliver(&message("x", 0), 0), closed);
    assert_eq!(peer.last_words(), ["DISCONNECT 0x8e"]);
}

/// MQTT-101: [MQTT-3.3.2-17] [MQTT-3.3.2-16] [MQTT-3.3.2-20]
#[test]
fn forwarded_properties_reach_clients_of_mqtt_5_only() {
    let mut properties = ratatosk_codec::PublishPropertiesBuilder::new();
    properties.user_property("b", "1").and_then(|p| p.response_topic("r")).expect("fits");
    properties.user_property("a", "2").and_then(|p| p.correlation_data(b"c")).expect("fits");
    let message = StoredMessage { properties: properties.view().bytes().into(), ..message("x", 0) };
    for (version, is_forwarded) in [(V5, true), (V311, false), (V31, false)] {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.deliver(&message, 0);
        let expected = if is_forwarded { properties.view().bytes() } else { &[] };
        peer.read(|packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!(publish.properties.bytes(), expected);
            assert_eq!(publish.payload, b"x");
        });
    }
}

/// MQTT-097: a large payload goes out by reference and arrives whole, in order.
#[test]
fn shared_payloads_keep_their_place() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        let large = message(&"l".repeat(5000), 1);
        for message in [&message("x", 1), &large, &message("y", 1), &large] {
            assert_eq!(peer.deliver(message, 1), SENT);
        }
        let read: Vec<_> = peer.out().iter().map(String::len).collect();
        assert_eq!(read, [17, 5016, 17, 5016]);
    }
}
