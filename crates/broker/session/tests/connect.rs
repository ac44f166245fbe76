//! CONNECT, what is refused, and CONNACK.

use std::time::Duration;

use ratatosk_codec::{
    Connect, Packet, ProtocolVersion, PublishPropertiesBuilder, Qos, ReasonCode, Will,
    WillProperties,
};
use ratatosk_contract::TenantSettings;
use ratatosk_session::{Admission, Answer, ClaimRequest, Claimed, Denial, Farewell, Next, Request};

use crate::harness::{
    ALL, OLD, Peer, V5, V31, V311, connect, connect_v5, encoded, grant, persistent, settings,
    transient,
};

/// What a new connection answers to `bytes`, and that it ends.
fn refused(version: ProtocolVersion, bytes: &[u8]) -> Vec<String> {
    let mut peer = Peer::fresh(version);
    assert_eq!(peer.feed(bytes), Next::End, "{bytes:02x?}");
    peer.last_words()
}

fn patched(connect: &Connect<'_>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(&Packet::Connect(*connect), connect.version);
    let at = bytes.windows(from.len()).position(|window| window == from).expect("is there");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// What the client reads when its CONNECT meets these settings.
fn met(connect: &Connect<'_>, settings: &TenantSettings) -> Vec<String> {
    let mut peer = Peer::granted(connect, settings);
    peer.session.take_request();
    peer.answer(Answer::Claimed(Box::new(transient())));
    peer.last_words().into_iter().take(1).collect()
}

fn claim(connect: &Connect<'_>, settings: &TenantSettings) -> ClaimRequest {
    match Peer::granted(connect, settings).session.take_request() {
        Some(Request::Claim(claim)) => *claim,
        other => panic!("no claim but {other:?}"),
    }
}

/// MQTT-013: nothing but CONNECT comes first, and nothing answers it. [MQTT-3.1.0-1]
#[test]
fn a_first_packet_other_than_connect_closes_silently() {
    for first in [[0xC0, 0], [0xE0, 0], [0x30, 0], [0x00, 0], [0xF0, 0], [0x40, 2]] {
        assert_eq!(refused(V5, &first), [""; 0]);
    }
}

/// MQTT-016: [MQTT-3.1.2-1] [MQTT-3.1.2-2]; 3.1.1 [MQTT3-3.1.2-2] answers with 0x01.
#[test]
fn an_unknown_protocol_is_refused() {
    for level in [1, 3, 6, 0x84] {
        let bytes = patched(&connect(V311), &[4, 2], &[level]);
        assert_eq!(refused(V311, &bytes), ["CONNACK 0x84"]);
    }
    assert_eq!(refused(V311, &patched(&connect(V311), b"MQTT", b"MQTX")), [""; 0]);
}

/// MQTT-017: an over-large CONNECT is refused at its head; what cannot be read, by 0x81.
/// [MQTT-3.1.4-1]
#[test]
fn an_undecodable_connect_is_answered_in_mqtt_5_only() {
    let name = "n".repeat(5000);
    for (version, expected) in [(V31, ""), (V311, ""), (V5, "CONNACK 0x95")] {
        let large = Connect { username: Some(&name), ..connect(version) };
        let bytes = encoded(&Packet::Connect(large), version);
        assert_eq!(refused(version, &bytes[..20]).concat(), expected);
    }
    for (version, expected) in [(V311, ""), (V5, "CONNACK 0x81")] {
        let level = version.level();
        let bytes = patched(&connect(version), &[level, 2], &[level, 3]);
        assert_eq!(refused(version, &bytes).concat(), expected, "the reserved flag");
    }
}

/// MQTT-018: [MQTT-3.1.3-8]; 3.1.1 [MQTT3-3.1.3-8] MQTT-3.1.3-9.
#[test]
fn a_bad_client_identifier_is_rejected() {
    let long = "l".repeat(31);
    for version in ALL {
        let connect = Connect { client_id: &long, ..connect(version) };
        let bytes = encoded(&Packet::Connect(connect), version);
        assert_eq!(refused(version, &bytes), ["CONNACK 0x85"]);
    }
    for (version, clean_start) in [(V31, true), (V31, false), (V311, false)] {
        let connect = Connect { client_id: "", clean_start, ..connect(version) };
        let bytes = encoded(&Packet::Connect(connect), version);
        assert_eq!(refused(version, &bytes), ["CONNACK 0x85"]);
    }
    for (version, expected) in [(V31, ""), (V311, ""), (V5, "CONNACK 0x85")] {
        let connect = Connect { client_id: "zz", ..connect(version) };
        assert_eq!(refused(version, &patched(&connect, b"zz", &[0xFF])).concat(), expected);
    }
}

/// MQTT-019: [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[test]
fn a_client_without_identifier_gets_one() {
    for (version, told) in [(V311, None), (V5, Some("assigned-1"))] {
        let connect = Connect { client_id: "", ..connect(version) };
        let mut peer = Peer::claimed(&connect, &TenantSettings::default(), transient());
        let identity = peer.session.identity().expect("claimed");
        assert_eq!(identity.client.as_str(), "assigned-1");
        peer.read(|packet| match packet {
            Packet::Connack(connack) => assert_eq!(connack.properties.assigned_client_id, told),
            other => panic!("{other:?}"),
        });
    }
}

/// MQTT-020: malformed text is 0x81, a breach of the protocol 0x82.
#[test]
fn fields_of_a_mqtt_5_connect_are_refused_with_their_code() {
    let mut with = connect_v5(0, 0x1234, 0, 0);
    with.username = Some("uuuu");
    with.will = Some(will("wwww"));
    assert_eq!(refused(V5, &patched(&with, b"uuuu", &[0xFF])), ["CONNACK 0x81"]);
    assert_eq!(refused(V5, &patched(&with, b"wwww", &[0xFF])), ["CONNACK 0x81"]);
    let zero = patched(&with, &[0x21, 0x12, 0x34], &[0x21, 0, 0]);
    assert_eq!(refused(V5, &zero), ["CONNACK 0x82"]);
    with.properties.authentication_data = Some(b"d");
    assert_eq!(refused(V5, &encoded(&Packet::Connect(with), V5)), ["CONNACK 0x82"]);
}

/// MQTT-021, MQTT-022, MQTT-023: [MQTT-3.1.4-2] [MQTT-3.2.2-7]; 3.1.1 [MQTT3-3.2.2-6].
#[test]
fn a_denial_is_told_in_the_words_of_the_version() {
    // The code, what MQTT 3 reads, and whether the detail is told.
    let cases = [
        (ReasonCode::BadUsernameOrPassword, "CONNACK 0x86", false),
        (ReasonCode::NotAuthorized, "CONNACK 0x87", false),
        (ReasonCode::Banned, "CONNACK 0x87", false),
        (ReasonCode::BadAuthenticationMethod, "CONNACK 0x87", false),
        (ReasonCode::UnspecifiedError, "CONNACK 0x88", true),
        (ReasonCode::QuotaExceeded, "CONNACK 0x88", true),
        (ReasonCode::ServerBusy, "CONNACK 0x88", true),
    ];
    for (code, told_v3, is_explained) in cases {
        for version in ALL {
            let mut peer = Peer::connecting(&connect(version));
            let detail = "TotalConnections".to_owned();
            peer.answer(Answer::Denied(Denial { code, detail }));
            assert_eq!(peer.feed(&[0xC0, 0]), Next::End, "[MQTT-3.1.4-6]");
            let ending = peer.end();
            assert!(!ending.was_live);
            if version != V5 {
                assert_eq!(peer.out().concat(), told_v3);
                continue;
            }
            peer.read(|packet| match packet {
                Packet::Connack(connack) => {
                    assert_eq!(connack.reason, code);
                    let reason = is_explained.then_some("TotalConnections");
                    assert_eq!(connack.properties.reason_string, reason);
                    assert!(!connack.session_present, "[MQTT-3.2.2-6]");
                }
                other => panic!("{other:?}"),
            });
        }
    }
}

/// MQTT-024: a version that the tenant has switched off.
#[test]
fn a_disabled_version_is_refused() {
    let off =
        settings(|s| (s.mqtt3_enabled, s.mqtt4_enabled, s.mqtt5_enabled) = (false, false, false));
    for version in ALL {
        assert_eq!(met(&connect(version), &off), ["CONNACK 0x84"]);
        assert_eq!(met(&connect(version), &TenantSettings::default()), ["CONNACK 0x00"]);
    }
}

fn will(topic: &'static str) -> Will<'static> {
    Will {
        qos: Qos::ExactlyOnce,
        retain: true,
        topic,
        payload: b"\xFF\xFE",
        properties: WillProperties::default(),
    }
}

/// MQTT-025, MQTT-026: [MQTT-3.2.2-12] [MQTT-3.2.2-13] [MQTT-3.3.2-14]
#[test]
fn a_bad_will_refuses_the_connection() {
    let default = TenantSettings::default();
    let utf8 = WillProperties { payload_is_utf8: Some(true), ..WillProperties::default() };
    let response = |topic| WillProperties { response_topic: Some(topic), ..Default::default() };
    let cases = [
        (will("w"), default.clone(), "CONNACK 0x00"),
        (will("w"), settings(|s| s.max_last_will_bytes = 1), "CONNACK 0x95"),
        (will("w/#"), default.clone(), "CONNACK 0x90"),
        (will("$share/g/w"), default.clone(), "CONNACK 0x90"),
        (will("w"), settings(|s| s.retain_enabled = false), "CONNACK 0x9a"),
        (will("w"), settings(|s| s.maximum_qos = 1), "CONNACK 0x9b"),
        (Will { properties: utf8, ..will("w") }, default.clone(), "CONNACK 0x99"),
        (Will { properties: response("r/+"), ..will("w") }, default.clone(), "CONNACK 0x90"),
        (Will { properties: response("r"), ..will("w") }, default, "CONNACK 0x00"),
    ];
    for (will, settings, expected) in cases {
        let with = Connect { will: Some(will), ..connect(V5) };
        assert_eq!(met(&with, &settings), [expected]);
        if will.properties != WillProperties::default() {
            continue;
        }
        for version in OLD {
            let with = Connect { will: Some(will), ..connect(version) };
            let expected = if expected == "CONNACK 0x00" { expected } else { "" };
            assert_eq!(met(&with, &settings).concat(), expected);
        }
    }
}

/// MQTT-027: [MQTT-3.1.0-2]
#[test]
fn a_second_connect_ends_the_connection() {
    for (version, expected) in [(V31, ""), (V311, ""), (V5, "DISCONNECT 0x82")] {
        let mut peer = Peer::live(version, &TenantSettings::default());
        assert_eq!(peer.send(&Packet::Connect(connect(version))), Next::End);
        assert_eq!(peer.last_words().concat(), expected);
    }
}

/// MQTT-028: limits always, features only where they are off. [MQTT-3.2.2-9]
#[test]
fn connack_tells_limits_and_what_is_off() {
    let check = |settings: &TenantSettings, expected: [Option<bool>; 4], qos_max| {
        let mut peer = Peer::claimed(&connect(V5), settings, transient());
        peer.read(|packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            let p = &connack.properties;
            assert_eq!(p.receive_maximum.map(u16::from), Some(settings.receiving_maximum));
            assert_eq!(p.packet_size_max.map(u32::from), Some(settings.max_user_payload_bytes));
            assert_eq!(p.topic_alias_max, Some(settings.max_topic_alias));
            assert_eq!(p.qos_max, qos_max);
            assert_eq!(
                [
                    p.retain_available,
                    p.wildcard_available,
                    p.subscription_ids_available,
                    p.shared_available
                ],
                expected
            );
        });
    };
    check(&TenantSettings::default(), [None; 4], None);
    let off = settings(|s| {
        s.retain_enabled = false;
        s.wildcard_subscription_enabled = false;
        s.subscription_identifier_enabled = false;
        s.shared_subscription_enabled = false;
        s.maximum_qos = 1;
        s.max_topic_alias = 5;
        s.receiving_maximum = 9;
    });
    check(&off, [Some(false); 4], Some(Qos::AtLeastOnce));
}

/// MQTT-029: only what was changed. [MQTT-3.2.2-21] [MQTT-3.2.2-22]
#[test]
fn connack_tells_what_the_server_changed() {
    let limits = settings(|s| {
        s.min_keep_alive_seconds = 10;
        s.max_session_expiry_seconds = 100;
    });
    for (keep_alive_s, expiry_s, told) in [
        (5, 200, (Some(10), Some(100))),
        (10, 100, (None, None)),
        (60, 0, (None, None)),
        (0, 50, (None, None)),
    ] {
        let connect = Connect { keep_alive_s, ..connect_v5(expiry_s, 0, 0, 0) };
        let mut peer = Peer::claimed(&connect, &limits, transient());
        peer.read(|packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            let p = &connack.properties;
            assert_eq!((p.server_keep_alive_s, p.session_expiry_s), told);
        });
    }
}

/// MQTT-030: response information only for those who asked. [MQTT-3.1.2-28]
#[test]
fn connack_carries_what_the_provider_supplied() {
    for (asks, told) in [(None, None), (Some(false), None), (Some(true), Some("answers/c"))] {
        let mut connect = connect(V5);
        connect.properties.request_response_information = asks;
        let mut peer = Peer::connecting(&connect);
        let mut grant = grant(&TenantSettings::default());
        grant.response_information = Some("answers/c".to_owned());
        grant.user_properties = vec![("b".into(), "1".into()), ("a".into(), "2".into())];
        peer.answer(Answer::Granted(Box::new(grant)));
        peer.answer(Answer::Claimed(Box::new(transient())));
        peer.read(|packet| {
            let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
            assert_eq!(connack.properties.response_information, told);
            let pairs: Vec<_> = connack.properties.user_properties.iter().collect();
            assert_eq!(pairs, [("b", "1"), ("a", "2")]);
        });
    }
}

/// MQTT-031, MQTT-040: [MQTT-3.2.2-2] [MQTT-3.2.2-3] [MQTT-3.1.2-4]
#[test]
fn session_present_is_said_of_a_resumed_session_only() {
    let found = Claimed { is_present: true, ..persistent() };
    for (version, clean_start, claimed, expected) in [
        (V5, false, found.clone(), "CONNACK 0x00 present"),
        (V311, false, found.clone(), "CONNACK 0x00 present"),
        (V31, false, found.clone(), "CONNACK 0x00"),
        (V5, true, found.clone(), "CONNACK 0x00"),
        (V5, false, persistent(), "CONNACK 0x00"),
        (V311, false, persistent(), "CONNACK 0x00"),
    ] {
        let connect = Connect { clean_start, ..connect(version) };
        assert_eq!(claim(&connect, &TenantSettings::default()).is_clean, clean_start);
        let mut peer = Peer::claimed(&connect, &TenantSettings::default(), claimed);
        assert_eq!(peer.out(), [expected]);
    }
}

/// MQTT-032: the floor holds for those who keep alive at all.
#[test]
fn keep_alive_is_raised_to_the_floor() {
    for (floor_s, asked_s, expected_s) in [(0, 7, 7), (60, 7, 60), (60, 70, 70), (60, 0, 0)] {
        for version in ALL {
            let connect = Connect { keep_alive_s: asked_s, ..connect(version) };
            let limits = settings(|s| s.min_keep_alive_seconds = floor_s);
            let peer = Peer::live_as(&connect, &limits, transient());
            assert_eq!(peer.session.keep_alive(), Duration::from_secs(expected_s));
        }
    }
}

/// MQTT-033: [MQTT-3.1.2-22]
#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    for (version, expected) in [(V31, ""), (V311, ""), (V5, "DISCONNECT 0x8d")] {
        let connect = Connect { keep_alive_s: 10, ..connect(version) };
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
        peer.tick_after(Duration::from_millis(14_999));
        assert_eq!(peer.session.farewell(), None);
        // Half a packet is none.
        assert_eq!(peer.feed(&[0xC0]), Next::Bytes { packet_length: None });
        let due = peer.session.deadline();
        assert_eq!(due, Some(peer.now + Duration::from_millis(1)));
        assert_eq!(peer.feed(&[0]), Next::Bytes { packet_length: None });
        assert_eq!(peer.out(), ["PINGRESP"], "[MQTT-3.12.4-1]");
        peer.tick_after(Duration::from_millis(14_999));
        assert_eq!(peer.session.farewell(), None);
        peer.tick_after(Duration::from_millis(1));
        assert_eq!(peer.session.farewell(), Some(&Farewell::KeepAliveTimeout));
        assert_eq!(peer.last_words().concat(), expected);
    }
}

/// MQTT-033: what the client sends while the server does not read is no silence.
#[test]
fn a_client_that_is_kept_waiting_is_not_silent() {
    let connect = Connect { keep_alive_s: 10, ..connect(V311) };
    let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
    for _ in 0..4 {
        peer.pass(Duration::from_secs(12));
        peer.broker.outcomes = [ratatosk_session::Published::Later].into();
        let next = if peer.unread.is_empty() { peer.publish("a", 1, 1) } else { peer.feed(&[]) };
        assert_eq!(next, Next::Retry);
        peer.tick_after(Duration::ZERO);
        assert_eq!(peer.session.farewell(), None);
    }
}

/// MQTT-033: nor is one that the driver does not read, unless it does not take its answers.
#[test]
fn a_client_that_is_not_read_is_excused_unless_it_does_not_read_itself() {
    let connect = Connect { keep_alive_s: 10, ..connect(V311) };
    let limits = settings(|s| s.max_user_payload_bytes = 1024);
    let mut peer = Peer::live_as(&connect, &limits, transient());
    for _ in 0..4 {
        peer.pass(Duration::from_secs(12));
        peer.session.excuse(peer.now);
        peer.tick_after(Duration::ZERO);
        assert_eq!(peer.session.farewell(), None);
    }
    while !matches!(peer.feed(&[0xC0, 0].repeat(10_000)), Next::RetryAt(_)) {}
    peer.pass(Duration::from_secs(15));
    peer.session.excuse(peer.now);
    peer.tick_after(Duration::ZERO);
    assert_eq!(peer.session.farewell(), Some(&Farewell::KeepAliveTimeout));
}

/// MQTT-036, MQTT-037, MQTT-038: expiry of MQTT 5. [MQTT-3.1.2-23]
#[test]
fn session_expiry_is_clamped() {
    let narrow =
        settings(|s| (s.min_session_expiry_seconds, s.max_session_expiry_seconds) = (5, 50));
    let endless = settings(|s| s.max_session_expiry_seconds = u32::MAX);
    for (settings, asked_s, expected) in [
        (&narrow, 0, Admission::Transient),
        (&narrow, 1, Admission::Persistent(Some(5))),
        (&narrow, 20, Admission::Persistent(Some(20))),
        (&narrow, u32::MAX, Admission::Persistent(Some(50))),
        (&endless, u32::MAX, Admission::Persistent(None)),
        (&endless, 7, Admission::Persistent(Some(7))),
        (&TenantSettings::default(), u32::MAX, Admission::Persistent(Some(604_800))),
    ] {
        assert_eq!(claim(&connect_v5(asked_s, 0, 0, 0), settings).admission, expected);
    }
}

/// MQTT-039: clean session 0 of MQTT 3, and a tenant that forces all to be transient.
#[test]
fn a_session_of_mqtt_3_that_is_not_clean_is_persistent() {
    let limits = settings(|s| s.max_session_expiry_seconds = 77);
    let forced = settings(|s| s.force_transient = true);
    for version in OLD {
        let kept = Connect { clean_start: false, ..connect(version) };
        assert_eq!(claim(&kept, &limits).admission, Admission::Persistent(Some(77)));
        assert_eq!(claim(&connect(version), &limits).admission, Admission::Transient);
        assert_eq!(claim(&kept, &forced).admission, Admission::Transient);
    }
    assert_eq!(claim(&connect_v5(60, 0, 0, 0), &forced).admission, Admission::Transient);
}

/// MQTT-034, MQTT-099: no packet passes the client's maximum. [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn packets_beyond_the_client_s_maximum_are_cut_or_dropped() {
    let default = TenantSettings::default();
    let mut peer = Peer::live_as(&connect_v5(0, 0, 30, 0), &default, transient());
    peer.broker.outcomes = [ratatosk_session::Published::NotPermitted].into();
    peer.publish("a", 1, 1);
    assert_eq!(peer.out(), ["PUBACK #1 0x87"], "the reason string is left out");
    peer.subscribe(&["f"; 40]);
    assert_eq!(peer.out(), [""; 0], "the SUBACK does not fit");
    assert_eq!(peer.take_dropped(), (0, 1));
    peer.publish("a", 1, 2);
    assert_eq!(peer.out(), ["PUBACK #2"], "the session goes on");
    // A client that no accepting CONNACK fits is turned away, in words if they fit.
    for (size, expected) in [(15, "CONNACK 0x95"), (4, "")] {
        let mut tiny = Peer::connecting(&connect_v5(0, 0, size, 0));
        assert_eq!(tiny.feed(&[]), Next::End);
        assert_eq!(tiny.last_words().concat(), expected);
    }
}

/// MQTT-102: [MQTT-3.1.2-29] allows explanations in CONNACK and DISCONNECT only.
#[test]
fn problem_information_is_withheld_from_those_who_want_none() {
    for (wants, expected) in [(None, "PUBACK #1 0x87 why"), (Some(false), "PUBACK #1 0x87")] {
        let mut connect = connect(V5);
        connect.properties.request_problem_information = wants;
        let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
        peer.broker.outcomes = [ratatosk_session::Published::NotPermitted].into();
        peer.publish("a", 1, 1);
        assert_eq!(peer.out(), [expected]);
    }
}

/// MQTT-101: what a will carries is stored in order. [MQTT-3.1.3-10]
#[test]
fn properties_of_a_will_are_kept() {
    let mut properties = PublishPropertiesBuilder::new();
    properties.content_type("text").expect("fits").correlation_data(b"id").expect("fits");
    let with = WillProperties {
        content_type: Some("text"),
        correlation_data: Some(b"id"),
        delay_s: Some(3),
        message_expiry_s: Some(9),
        ..WillProperties::default()
    };
    let will = Will { properties: with, ..will("w") };
    let connect = Connect { will: Some(will), ..connect_v5(100, 0, 0, 0) };
    let mut peer = Peer::live_as(&connect, &TenantSettings::default(), persistent());
    let order = peer.end().will.expect("the peer closed");
    assert_eq!((order.delay_s, order.expiry_s), (3, Some(9)));
    assert_eq!(&*order.message.properties, properties.view().bytes());
    assert_eq!((&*order.message.topic, order.message.retain), ("w", true));
    assert_eq!(order.message.qos, Qos::ExactlyOnce);
}

/// SEC-007: neither passwords nor authentication data are ever printed.
#[test]
fn secrets_are_not_printed() {
    let mut connect = connect(V5);
    connect.username = Some("alice");
    connect.password = Some(b"hunter2");
    connect.properties.authentication_method = Some("M");
    connect.properties.authentication_data = Some(b"hunter2");
    let mut peer = Peer::connecting(&connect);
    let secret_in = |text: &str| {
        text.contains("hunter2") || text.contains(&format!("{:?}", b"hunter2".as_slice()))
    };
    assert!(!secret_in(&format!("{:?}", peer.session)));
    let request = peer.session.take_request();
    assert!(!secret_in(&format!("{request:?}")));
    let answer = Answer::Continue { data: b"hunter2".to_vec() };
    assert!(!secret_in(&format!("{answer:?}")));
    peer.answer(answer);
    let auth = ratatosk_codec::Auth {
        data: Some(b"hunter2"),
        ..ratatosk_codec::Auth::new(ReasonCode::ContinueAuthentication, "M")
    };
    peer.send(&Packet::Auth(auth));
    assert!(!secret_in(&format!("{:?}", peer.session)));
    let request = peer.session.take_request();
    assert!(matches!(request, Some(Request::Exchange(_))));
    assert!(!secret_in(&format!("{request:?}")));
    let mut grant = grant(&TenantSettings::default());
    grant.data = Some(b"hunter2".to_vec());
    let answer = Answer::Granted(Box::new(grant));
    assert!(!secret_in(&format!("{answer:?}")));
    peer.answer(answer);
    assert!(!secret_in(&format!("{:?}", peer.session)));
}
