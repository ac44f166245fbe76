//! SUBSCRIBE and UNSUBSCRIBE.

use ratatosk_clock::Instant;
use ratatosk_codec::{Packet, Qos, RetainHandling, SubscriptionOptions};
use ratatosk_contract::TenantSettings;
use ratatosk_session::{Farewell, Next, Permit, Subscribed, Unsubscribed};

use crate::harness::{ALL, OLD, Peer, V5, V31, V311, settings};

const MORE: Next = Next::Bytes { packet_length: None };

/// MQTT-072: [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-7] [MQTT-2.2.1-6]
#[test]
fn a_subscription_is_acknowledged_once_it_is_effective() {
    for version in ALL {
        for (qos, expected) in [(0, "SUBACK #7 00"), (1, "SUBACK #7 01"), (2, "SUBACK #7 02")] {
            // [MQTT-3.2.2-10] whatever the maximum QoS of a publish is.
            let mut peer = Peer::live(version, &settings(|s| s.maximum_qos = 0));
            let options = SubscriptionOptions::new(Qos::try_from(qos).expect("0 to 2"));
            peer.subscribe_as(&["a/+"], options, None);
            assert_eq!(peer.out(), [expected]);
            assert_eq!(peer.broker.subscriptions, [("a/+".to_owned(), options, None)]);
        }
    }
}

/// MQTT-073: [MQTT-3.8.3-2] [MQTT-3.10.3-2]
#[test]
fn an_empty_or_endless_list_of_filters_ends_the_connection() {
    let few = settings(|s| s.max_topic_filters_per_sub = 2);
    for (version, empty, endless) in
        [(V31, "", ""), (V311, "", ""), (V5, "DISCONNECT 0x82", "DISCONNECT 0x98")]
    {
        for first in [0x82, 0xA2] {
            let mut peer = Peer::live(version, &few);
            let bytes: &[u8] = if version == V5 { &[first, 3, 0, 1, 0] } else { &[first, 2, 0, 1] };
            assert_eq!(peer.feed(bytes), Next::End);
            assert_eq!(peer.last_words().concat(), empty);
        }
        let mut peer = Peer::live(version, &few);
        peer.subscribe(&["a", "b"]);
        peer.unsubscribe(&["a", "b"]);
        assert_eq!(peer.out().len(), 2);
        assert_eq!(peer.subscribe(&["a", "b", "c"]), Next::End);
        assert_eq!(peer.last_words().concat(), endless);
        let mut peer = Peer::live(version, &few);
        assert_eq!(peer.unsubscribe(&["a", "b", "c"]), Next::End);
        assert_eq!(peer.last_words().concat(), endless);
        assert!(peer.broker.unsubscribed.is_empty());
    }
}

/// MQTT-074: [MQTT-3.8.4-6] [MQTT-3.9.3-1] [MQTT-3.9.3-2]; 3.1.1 [MQTT3-3.9.3-2]
#[test]
fn each_filter_has_its_own_code() {
    let off = settings(|s| {
        s.wildcard_subscription_enabled = false;
        s.shared_subscription_enabled = false;
    });
    for (version, expected) in [
        (V5, "SUBACK #7 01 8f a2 9e 87 01"),
        (V311, "SUBACK #7 01 80 80 80 80 01"),
        (V31, "SUBACK #7 01 80 80 80 80 01"),
    ] {
        let mut peer = Peer::live(version, &off);
        peer.broker.permits = [Permit::Allowed, Permit::Denied].into();
        peer.broker.subscribe_outcomes = [Subscribed::Granted].into();
        peer.subscribe(&["a", "b/#/c", "#", "$share/g/d", "e", "h"]);
        assert_eq!(peer.out(), [expected]);
        let filters: Vec<_> = peer.broker.subscriptions.iter().map(|(f, ..)| &f[..]).collect();
        assert_eq!(filters, ["a", "h"]);
        let first = "subscribe b/#/c 8f".to_owned();
        assert_eq!((peer.broker.reports.len(), &peer.broker.reports[0]), (4, &first));
    }
}

/// MQTT-074: a permission that could not be determined is no permission.
#[test]
fn a_failed_permission_check_refuses_the_subscription() {
    for (version, expected) in [(V5, "SUBACK #7 83"), (V311, "SUBACK #7 80")] {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.permits = [Permit::Error].into();
        peer.subscribe(&["a"]);
        assert_eq!(peer.out(), [expected]);
    }
}

/// MQTT-074: nothing is done before all permissions are known.
#[test]
fn a_subscribe_is_brought_again_until_its_permissions_are_known() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.permits = [Permit::Allowed, Permit::Later].into();
        assert_eq!(peer.subscribe(&["a", "b"]), Next::Retry);
        assert!(peer.broker.subscriptions.is_empty());
        assert_eq!(peer.feed(&[]), MORE);
        assert_eq!(peer.out(), ["SUBACK #7 01 01"]);
        peer.broker.permits = [Permit::Allowed, Permit::Later].into();
        assert_eq!(peer.unsubscribe(&["a", "b"]), Next::Retry);
        assert!(peer.broker.unsubscribed.is_empty());
        assert_eq!(peer.feed(&[]), MORE);
        assert_eq!(peer.out().len(), 1);
    }
}

/// MQTT-072: of a packet whose answers come later only what is not known is asked again, and one packet
/// answers all of it. MQTT-077
#[test]
fn a_subscribe_is_brought_again_until_what_became_of_it_is_known() {
    let by = Instant::from_millis(9_000);
    let later = || Subscribed::Later { by };
    for (version, busy) in [(V311, "80"), (V5, "83")] {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.subscribe_outcomes = [Subscribed::Granted, later(), later()].into();
        assert_eq!(peer.subscribe(&["a", "b", "c"]), Next::RetryBy(by));
        peer.broker.subscribe_outcomes = [Subscribed::Busy, later()].into();
        assert_eq!(peer.feed(&[]), Next::RetryBy(by));
        assert!(peer.out().is_empty());
        // What comes behind it waits.
        assert_eq!(peer.feed(&[0xC0, 0]), MORE);
        assert_eq!(peer.out(), [format!("SUBACK #7 01 {busy} 01"), "PINGRESP".to_owned()]);
        assert_eq!(peer.broker.places, [0, 1, 2, 1, 2, 2]);
    }
}

/// MQTT-073: of a packet with many filters a bounded number is being determined at a time.
#[test]
fn a_subscribe_with_many_filters_is_determined_in_parts() {
    let mut peer = Peer::live(V5, &TenantSettings::default());
    let names: Vec<String> = (0..600).map(|number| format!("f/{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let by = Instant::from_millis(9_000);
    peer.broker.subscribe_outcomes = vec![Subscribed::Later { by }; 256].into();
    assert_eq!(peer.subscribe(&names), Next::RetryBy(by));
    assert_eq!(peer.broker.places.len(), 256);
    assert_eq!(peer.feed(&[]), MORE);
    assert_eq!(peer.broker.places.len(), 256 + 600);
    assert_eq!(peer.out().len(), 1);
}

/// MQTT-075, MQTT-081: an identifier of zero, and identifiers where they are off.
#[test]
fn subscription_identifiers_are_checked() {
    let mut peer = Peer::live(V5, &TenantSettings::default());
    assert_eq!(peer.feed(&[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b'a', 0]), Next::End);
    assert_eq!(peer.last_words(), ["DISCONNECT 0x82"]);
    let mut peer = Peer::live(V5, &settings(|s| s.subscription_identifier_enabled = false));
    peer.subscribe_as(&["a", "b"], SubscriptionOptions::default(), Some(3));
    assert_eq!(peer.out(), ["SUBACK #7 a1 a1"]);
    peer.subscribe_as(&["a"], SubscriptionOptions::default(), None);
    assert_eq!(peer.out(), ["SUBACK #7 00"]);
    let mut peer = Peer::live(V5, &TenantSettings::default());
    peer.subscribe_as(&["a", "b"], SubscriptionOptions::default(), Some(268_435_455));
    let ids: Vec<_> = peer.broker.subscriptions.iter().map(|(.., number)| *number).collect();
    assert_eq!(ids, [Some(268_435_455); 2]);
}

/// MQTT-076, MQTT-077, MQTT-086: limits and back-pressure, a code for each filter.
#[test]
fn what_the_broker_cannot_take_is_refused_per_filter() {
    use Subscribed::{Busy, Granted, GroupFull, TooManyFilters};
    for (version, expected) in [
        (V5, "SUBACK #7 97 01 83 97"),
        (V311, "SUBACK #7 80 01 80 80"),
        (V31, "SUBACK #7 80 01 80 80"),
    ] {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.subscribe_outcomes = [TooManyFilters, Granted, Busy, GroupFull].into();
        peer.subscribe(&["a", "b", "c", "$share/g/d"]);
        assert_eq!(peer.out(), [expected]);
    }
}

/// MQTT-078, MQTT-083: options go to the broker as they came. [MQTT-3.8.4-3] [MQTT-3.3.1-9]
#[test]
fn subscribing_again_brings_the_new_options() {
    let mut peer = Peer::live(V5, &TenantSettings::default());
    for retain_handling in
        [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]
    {
        let options = SubscriptionOptions {
            retain_handling,
            no_local: true,
            retain_as_published: true,
            qos: Qos::ExactlyOnce,
        };
        peer.subscribe_as(&["a"], options, None);
        assert_eq!(peer.out(), ["SUBACK #7 02"]);
        assert_eq!(peer.broker.subscriptions.pop().map(|(_, seen, _)| seen), Some(options));
    }
}

/// MQTT-082: [MQTT-3.8.3-4]
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut peer = Peer::live(V5, &TenantSettings::default());
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    assert_eq!(peer.subscribe_as(&["a", "$share/g/a"], options, None), Next::End);
    assert!(peer.broker.subscriptions.is_empty());
    assert_eq!(peer.last_words(), ["DISCONNECT 0x82"]);
}

/// MQTT-079: [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.11.3-1] [MQTT-3.11.3-2]
#[test]
fn each_filter_of_an_unsubscribe_has_its_own_code() {
    for (version, expected) in
        [(V5, "UNSUBACK #7 00 11 8f 87 83 83"), (V311, "UNSUBACK #7"), (V31, "UNSUBACK #7")]
    {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.permits =
            [Permit::Allowed, Permit::Allowed, Permit::Denied, Permit::Allowed, Permit::Error]
                .into();
        use Unsubscribed::{Busy, NotFound, Removed};
        let third = if version == V5 { Busy } else { Removed };
        peer.broker.unsubscribe_outcomes = [Removed, NotFound, third].into();
        peer.unsubscribe(&["a", "b", "c/#/c", "d", "e", "f"]);
        assert_eq!(peer.out(), [expected]);
        assert_eq!(peer.broker.unsubscribed, ["a", "b", "e"]);
    }
}

/// MQTT-079: an UNSUBACK of MQTT 3 says that it is done, so it waits until it is.
#[test]
fn a_busy_unsubscribe_of_mqtt_3_is_brought_again() {
    for version in OLD {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.unsubscribe_outcomes = [Unsubscribed::Removed, Unsubscribed::Busy].into();
        assert!(matches!(peer.unsubscribe(&["a", "b"]), Next::RetryAt(_)));
        assert_eq!(peer.out(), [""; 0]);
        assert_eq!(peer.feed(&[]), MORE);
        assert_eq!(peer.out(), ["UNSUBACK #7"]);
    }
}

/// MQTT-063, MQTT-074: flags and options that the protocol reserves. [MQTT-3.8.1-1]
/// [MQTT-3.8.3-5]
#[test]
fn a_malformed_subscribe_ends_the_connection() {
    for (bytes, expected) in [
        (&[0x80, 7, 0, 1, 0, 0, 1, b'a', 0][..], "DISCONNECT 0x81"),
        (&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x80], "DISCONNECT 0x81"),
        (&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x03], "DISCONNECT 0x81"),
        (&[0x82, 7, 0, 1, 0, 0, 1, 0xFF, 0], "DISCONNECT 0x81"),
        (&[0xA0, 6, 0, 1, 0, 0, 1, b'a'], "DISCONNECT 0x81"),
    ] {
        let mut peer = Peer::live(V5, &TenantSettings::default());
        peer.send(&Packet::Pingreq);
        assert_eq!(peer.feed(bytes), Next::End);
        assert_eq!(peer.last_words(), ["PINGRESP", expected], "{bytes:02x?}");
    }
}

/// INBOX-002: whose session has another owner by now is told that, not that there is no such subscription.
#[test]
fn a_change_of_a_session_with_another_owner_ends_the_connection() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.subscribe_outcomes = [Subscribed::Granted, Subscribed::Stale].into();
        assert_eq!(peer.subscribe(&["a", "b"]), Next::End);
        assert_eq!(peer.session.farewell(), Some(&Farewell::StaleClaim));
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.broker.unsubscribe_outcomes = [Unsubscribed::Removed, Unsubscribed::Stale].into();
        assert_eq!(peer.unsubscribe(&["a", "b"]), Next::End);
        assert_eq!(peer.session.farewell(), Some(&Farewell::StaleClaim));
        assert_eq!(peer.out(), [""; 0]);
    }
}
