//! How sessions end: DISCONNECT, wills, expiry.

use ratatosk_codec::{Connect, Disconnect, Packet, Qos, ReasonCode, Will, WillProperties};
use ratatosk_contract::TenantSettings;
use ratatosk_session::{Farewell, Next};

use crate::harness::{
    ALL, Peer, V5, V311, connect, connect_v5, persistent, publish, settings, stored, transient,
};

fn will(delay_s: u32) -> Option<Will<'static>> {
    Some(Will {
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: "will",
        payload: b"gone",
        properties: WillProperties { delay_s: Some(delay_s), ..WillProperties::default() },
    })
}

fn disconnect(code: ReasonCode, session_expiry_s: Option<u32>) -> Packet<'static> {
    Packet::Disconnect(Disconnect { session_expiry_s, ..Disconnect::new(code) })
}

/// MQTT-048: [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.14.4-3]
#[test]
fn a_will_is_published_unless_the_client_said_a_normal_goodbye() {
    for version in ALL {
        for (farewell, is_due) in [
            (Farewell::PeerClosed, true),
            (Farewell::NetworkError("reset".to_owned()), true),
            (Farewell::KeepAliveTimeout, true),
            (Farewell::Kicked, true),
            (Farewell::TakenOver, true),
            (Farewell::MemoryPressure, true),
        ] {
            let connect = Connect { will: will(0), ..connect(version) };
            let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
            let ending = peer.session.end(farewell.clone());
            assert_eq!((ending.will.is_some(), &ending.farewell), (is_due, &farewell));
            assert!(peer.session.end(farewell).will.is_none(), "once only");
        }
        let connect = Connect { will: will(0), ..connect(version) };
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
        assert_eq!(peer.send(&disconnect(ReasonCode::Success, None)), Next::End);
        assert!(peer.end().will.is_none());
        assert_eq!(peer.out(), [""; 0]);
    }
    for code in [ReasonCode::DisconnectWithWill, ReasonCode::UnspecifiedError] {
        let connect = Connect { will: will(0), ..connect(V5) };
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
        assert_eq!(peer.send(&disconnect(code, None)), Next::End);
        assert!(peer.end().will.is_some(), "{code}");
    }
}

/// MQTT-048: who was not let in leaves no will.
#[test]
fn a_will_of_a_connection_that_was_never_accepted_is_not_published() {
    let connect = Connect { will: will(0), ..connect(V5) };
    let ending = Peer::granted(&connect, &TenantSettings::default()).end();
    assert!(ending.will.is_none());
    assert!(!ending.was_live);
}

/// MQTT-049, MQTT-050: the earlier of will delay and the session's end.
#[test]
fn a_will_waits_for_its_delay_but_not_beyond_the_session() {
    for (delay_s, expiry_s, expected) in [(5, 100, 5), (200, 100, 100), (9, 0, 0), (0, 100, 0)] {
        let connect = Connect { will: will(delay_s), ..connect_v5(expiry_s, 0, 0, 0) };
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
        let ending = peer.end();
        assert_eq!(ending.will.map(|will| will.delay_s), Some(expected));
        assert_eq!(ending.expiry_s, expiry_s);
    }
}

/// MQTT-053: wills of a graceful stop, as the tenant wishes.
#[test]
fn a_server_that_stops_may_keep_wills_back() {
    for (is_kept_back, is_due) in [(true, false), (false, true)] {
        let limits = settings(|s| s.no_lwt_when_server_shutting_down = is_kept_back);
        let connect = Connect { will: will(0), ..connect(V5) };
        let mut peer = Peer::live_as(&connect, &limits, transient());
        let ending = peer.session.end(Farewell::ServerShutdown);
        assert_eq!(ending.will.is_some(), is_due);
        assert_eq!(peer.out(), ["DISCONNECT 0x8b"]);
    }
}

/// MQTT-041: [MQTT-3.14.2-2] is the server's side of it.
#[test]
fn disconnect_changes_the_expiry_of_a_persistent_session() {
    let limits = settings(|s| {
        (s.min_session_expiry_seconds, s.max_session_expiry_seconds) = (10, 100);
    });
    for (asked_s, expected_s) in [(None, 50), (Some(70), 70), (Some(500), 100), (Some(1), 10)] {
        let connect = connect_v5(50, 0, 0, 0);
        let mut peer = Peer::live_as(&connect, &limits, persistent());
        peer.send(&disconnect(ReasonCode::Success, asked_s));
        let ending = peer.end();
        assert_eq!((ending.expiry_s, peer.out().len()), (expected_s, 0));
    }
    let mut ended = Peer::live_as(&connect_v5(50, 0, 0, 0), &limits, persistent());
    ended.send(&disconnect(ReasonCode::DisconnectWithWill, Some(0)));
    assert_eq!(ended.end().expiry_s, 0);
    let mut raised = Peer::live_as(&connect_v5(0, 0, 0, 0), &limits, transient());
    assert_eq!(raised.send(&disconnect(ReasonCode::Success, Some(1))), Next::End);
    assert_eq!(raised.end().expiry_s, 0);
    assert_eq!(raised.out(), ["DISCONNECT 0x82"]);
    let mut zero = Peer::live_as(&connect_v5(0, 0, 0, 0), &limits, transient());
    zero.send(&disconnect(ReasonCode::Success, Some(0)));
    assert_eq!(zero.last_words(), [""; 0], "zero stays zero");
}

/// MQTT-048, MQTT-063: [MQTT-3.14.2-1] codes that only a server sends break the protocol.
#[test]
fn disconnect_with_a_code_of_the_server_is_a_protocol_error() {
    for code in [0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x9A, 0x9C, 0x9E, 0xA0, 0xA2] {
        let code = ReasonCode::from_u8(code).expect("defined");
        let connect = Connect { will: will(0), ..connect_v5(50, 0, 0, 0) };
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), persistent());
        assert_eq!(peer.send(&disconnect(code, Some(0))), Next::End);
        let ending = peer.end();
        assert_eq!((ending.will.is_some(), ending.expiry_s), (true, 50), "{code}");
        assert_eq!(peer.out(), ["DISCONNECT 0x82"]);
    }
}

/// MQTT-033, MQTT-042, MQTT-015: the end in the words of the version. [MQTT-3.14.0-1]
#[test]
fn each_farewell_has_its_reason_code_in_mqtt_5_and_silence_before() {
    let cases = [
        (Farewell::TakenOver, "DISCONNECT 0x8e", "CONNACK 0x88"),
        (Farewell::StaleClaim, "DISCONNECT 0x8e", "CONNACK 0x88"),
        (Farewell::Kicked, "DISCONNECT 0x98", "CONNACK 0x88"),
        (Farewell::ServerShutdown, "DISCONNECT 0x8b", "CONNACK 0x88"),
        (Farewell::MemoryPressure, "DISCONNECT 0x97", "CONNACK 0x97"),
        (Farewell::NotDurable, "DISCONNECT 0x83", "CONNACK 0x83"),
        (Farewell::Bug("oops"), "DISCONNECT 0x80", "CONNACK 0x80"),
        (Farewell::KeepAliveTimeout, "DISCONNECT 0x8d", "CONNACK 0x80"),
        (Farewell::PeerClosed, "", ""),
        (Farewell::ConnectTimeout, "", ""),
        (Farewell::NetworkError("reset".to_owned()), "", ""),
    ];
    for (farewell, live, before) in cases {
        let mut peer = Peer::live(V5, &TenantSettings::default());
        peer.session.end(farewell.clone());
        assert_eq!(peer.out().concat(), live, "{farewell}");
        let mut peer = Peer::connecting(&connect(V5));
        peer.session.end(farewell.clone());
        assert_eq!(peer.out().concat(), before, "{farewell}");
        let mut peer = Peer::live(V311, &TenantSettings::default());
        peer.session.end(farewell.clone());
        assert_eq!(peer.out(), [""; 0], "{farewell}");
        let mut peer = Peer::fresh(V5);
        peer.session.end(farewell);
        assert_eq!(peer.out(), [""; 0], "nobody introduced himself");
    }
}

/// MQTT-048: [MQTT-3.14.4-1]
#[test]
fn nothing_is_written_after_the_farewell() {
    for version in ALL {
        let mut peer = Peer::live(version, &TenantSettings::default());
        peer.end();
        peer.out();
        assert_eq!(peer.send(&Packet::Publish(publish("a", 1, 1))), Next::End);
        peer.deliver(&stored("a", "x", Qos::AtLeastOnce), 1);
        peer.session.pump(peer.now, &mut peer.broker);
        peer.session.inbox_ready(peer.now, &mut peer.broker);
        peer.tick_after(std::time::Duration::from_secs(100));
        assert_eq!(peer.last_words(), [""; 0]);
        assert!(peer.broker.published.is_empty());
    }
}

/// MQTT-042, DUR-009: of a session whose answers were held back the farewell alone is said; a refusal before
/// CONNACK left, nothing in the middle of a frame. [MQTT-3.2.0-1]
#[test]
fn what_was_not_to_be_seen_is_taken_back_before_the_farewell() {
    let cases = [(V5, "DISCONNECT 0x8e", "CONNACK 0x88"), (V311, "", "CONNACK 0x88")];
    for (version, live, before) in cases {
        let live_peer = || Peer::live(version, &TenantSettings::default());
        let connect = Connect { will: will(0), ..connect(version) };
        let mut peer = live_peer();
        peer.subscribe(&["a"]);
        assert!(peer.session.end_unsaid(Farewell::TakenOver).was_live);
        assert_eq!(peer.out().concat(), live);

        let mut peer = live_peer();
        peer.subscribe(&["a"]);
        peer.session.output().advance(1);
        peer.session.end_unsaid(Farewell::TakenOver);
        assert_eq!(peer.session.output_len(), 0);

        // CONNACK was not read.
        let mut peer = Peer::claimed(&connect, &TenantSettings::default(), persistent());
        peer.subscribe(&["a"]);
        let ending = peer.session.end_unsaid(Farewell::TakenOver);
        assert!(ending.was_live && ending.will.is_none(), "it was never let in");
        assert_eq!(peer.out().concat(), before);

        // Whoever goes by himself is owed what he was answered.
        let mut peer = live_peer();
        peer.subscribe(&["a"]);
        peer.session.end_unsaid(Farewell::PeerClosed);
        assert_eq!(peer.out().len(), 1);
    }
}
