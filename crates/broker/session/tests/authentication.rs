//! Enhanced authentication.

use std::{sync::Arc, time::Duration};

use ratatosk_codec::{Auth, Connect, Disconnect, Packet, ReasonCode};
use ratatosk_contract::{TenantId, TenantSettings};
use ratatosk_session::{Answer, Denial, Farewell, Grant, Next, Request};

use crate::harness::{Peer, V5, V311, connect, grant, settings, transient};

const CONTINUE: ReasonCode = ReasonCode::ContinueAuthentication;
const AGAIN: ReasonCode = ReasonCode::Reauthenticate;

fn with_method() -> Connect<'static> {
    let mut connect = connect(V5);
    connect.properties.authentication_method = Some("M");
    connect.properties.authentication_data = Some(b"1");
    connect
}

fn auth(reason: ReasonCode, method: &'static str, data: &'static str) -> Packet<'static> {
    Packet::Auth(Auth { data: Some(data.as_bytes()), ..Auth::new(reason, method) })
}

fn granted(change: impl FnOnce(&mut Grant)) -> Answer {
    let mut grant = grant(&TenantSettings::default());
    change(&mut grant);
    Answer::Granted(Box::new(grant))
}

fn exchanging() -> Peer {
    let mut peer = Peer::connecting(&with_method());
    peer.session.take_request();
    peer.answer(Answer::Continue { data: b"2".to_vec() });
    assert_eq!(peer.out(), ["AUTH 0x18 M 2"]);
    peer
}

fn live() -> Peer {
    Peer::live_as(&with_method(), &TenantSettings::default(), transient())
}

/// MQTT-104: [MQTT-4.12.0-2] [MQTT-4.12.0-5]
#[test]
fn an_exchange_at_connect_ends_with_connack() {
    let mut peer = exchanging();
    assert_eq!(peer.send(&auth(CONTINUE, "M", "3")), Next::Answer);
    assert_eq!(peer.session.take_request(), Some(Request::Exchange(b"3".to_vec())));
    peer.answer(Answer::Continue { data: b"4".to_vec() });
    peer.send(&auth(CONTINUE, "M", "5"));
    assert_eq!(peer.out(), ["AUTH 0x18 M 4"]);
    peer.answer(granted(|grant| grant.data = Some(b"6".to_vec())));
    peer.answer(Answer::Claimed(Box::new(transient())));
    peer.read(|packet| {
        let Packet::Connack(connack) = packet else { panic!("{packet:?}") };
        assert_eq!(connack.properties.authentication_method, Some("M"));
        assert_eq!(connack.properties.authentication_data, Some(&b"6"[..]));
    });
    assert!(peer.session.is_live());
}

/// MQTT-104: [MQTT-3.1.2-30] [MQTT-4.12.0-4]
#[test]
fn other_packets_during_an_exchange_close_the_connection() {
    for packet in [
        Packet::Pingreq,
        Packet::Publish(crate::harness::publish("a", 0, 1)),
        auth(AGAIN, "M", "3"),
        auth(CONTINUE, "N", "3"),
        Packet::Connect(with_method()),
    ] {
        let mut peer = exchanging();
        assert_eq!(peer.send(&packet), Next::End, "{packet:?}");
        assert_eq!(peer.last_words(), ["CONNACK 0x82"]);
    }
    let mut peer = exchanging();
    peer.send(&auth(CONTINUE, "M", "wrong"));
    let (code, detail) = (ReasonCode::NotAuthorized, "no".to_owned());
    peer.answer(Answer::Denied(Denial { code, detail }));
    assert_eq!(peer.last_words(), ["CONNACK 0x87"]);
    let mut peer = exchanging();
    let goodbye = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
    assert_eq!(peer.send(&goodbye), Next::End);
    assert_eq!(peer.last_words(), [""; 0], "the client gave up");
}

/// MQTT-104: [MQTT-4.12.0-6] [MQTT-4.12.0-7]
#[test]
fn without_a_method_there_is_no_auth() {
    let mut peer = Peer::live(V5, &TenantSettings::default());
    assert_eq!(peer.send(&auth(AGAIN, "M", "1")), Next::End);
    assert_eq!(peer.last_words(), ["DISCONNECT 0x82"]);
    let mut peer = Peer::live(V311, &TenantSettings::default());
    assert_eq!(peer.feed(&[0xF0, 0]), Next::End);
}

/// MQTT-105: the session goes on during and after it.
#[test]
fn reauthentication_keeps_the_session() {
    let mut peer = live();
    assert_eq!(peer.send(&auth(AGAIN, "M", "1")), Next::Answer);
    match peer.session.take_request() {
        Some(Request::Authenticate(credentials)) => {
            assert!(credentials.is_again);
            assert_eq!(
                (&credentials.client_id[..], credentials.method.as_deref()),
                ("c", Some("M"))
            );
        }
        other => panic!("{other:?}"),
    }
    peer.answer(Answer::Continue { data: b"2".to_vec() });
    peer.send(&Packet::Pingreq);
    assert_eq!(peer.out(), ["AUTH 0x18 M 2", "PINGRESP"]);
    peer.send(&auth(CONTINUE, "M", "3"));
    peer.answer(granted(|grant| grant.data = Some(b"4".to_vec())));
    assert_eq!(peer.out(), ["AUTH 0x00 M 4"]);
    peer.publish("a", 1, 1);
    assert_eq!(peer.out(), ["PUBACK #1"]);
    peer.send(&auth(AGAIN, "M", "1"));
    peer.answer(granted(|_| ()));
    assert_eq!(peer.out(), ["AUTH 0x00 M "], "as often as it likes");
}

/// MQTT-106: [MQTT-4.12.1-1] [MQTT-4.12.1-2]
#[test]
fn reauthentication_that_fails_ends_the_connection() {
    let mut peer = live();
    assert_eq!(peer.send(&auth(AGAIN, "N", "1")), Next::End);
    assert_eq!(peer.last_words(), ["DISCONNECT 0x82"]);
    let mut peer = live();
    assert_eq!(peer.send(&auth(CONTINUE, "M", "1")), Next::End, "nothing is to be continued");
    let mut peer = live();
    peer.send(&auth(AGAIN, "M", "1"));
    let (code, detail) = (ReasonCode::BadUsernameOrPassword, "no".to_owned());
    peer.answer(Answer::Denied(Denial { code, detail }));
    assert_eq!(peer.session.farewell(), Some(&Farewell::ReauthenticationFailed));
    assert_eq!(peer.last_words(), ["DISCONNECT 0x87"]);
}

/// MQTT-106: who comes back as somebody else does not keep the session.
#[test]
fn reauthentication_cannot_change_tenant_or_user() {
    let check = |in_identity: bool, change: fn(&mut Grant), is_kept: bool| {
        let limits = settings(|s| s.user_in_identity = in_identity);
        let mut peer = Peer::connecting(&with_method());
        let mut first = grant(&limits);
        first.user = Some(Arc::from("alice"));
        peer.answer(Answer::Granted(Box::new(first.clone())));
        peer.answer(Answer::Claimed(Box::new(transient())));
        peer.send(&auth(AGAIN, "M", "1"));
        change(&mut first);
        peer.answer(Answer::Granted(Box::new(first)));
        assert_eq!(peer.session.farewell().is_none(), is_kept);
    };
    check(false, |_| (), true);
    check(true, |_| (), true);
    check(false, |grant| grant.user = Some(Arc::from("bob")), true);
    check(true, |grant| grant.user = Some(Arc::from("bob")), false);
    check(true, |grant| grant.user = None, false);
    check(false, |grant| grant.tenant = TenantId::new("other"), false);
}

/// MQTT-105: an answer that comes too late, or twice, changes nothing.
#[test]
fn an_answer_to_nothing_is_ignored() {
    let mut peer = live();
    peer.answer(granted(|_| ()));
    let (code, detail) = (ReasonCode::Banned, "late".to_owned());
    peer.answer(Answer::Denied(Denial { code, detail }));
    peer.answer(Answer::Claimed(Box::new(transient())));
    assert_eq!(peer.session.farewell(), None);
    assert_eq!(peer.out(), [""; 0]);
}

/// MQTT-033, MQTT-105: while an answer is awaited nothing is read, so silence is not the client's.
#[test]
fn keep_alive_rests_while_an_answer_is_awaited() {
    let connect = Connect { keep_alive_s: 10, ..with_method() };
    let mut peer = Peer::live_as(&connect, &TenantSettings::default(), transient());
    peer.send(&auth(AGAIN, "M", "1"));
    peer.tick_after(Duration::from_secs(20));
    assert_eq!(peer.session.farewell(), None);
    peer.answer(granted(|_| ()));
    peer.tick_after(Duration::from_secs(14));
    assert_eq!(peer.session.farewell(), None);
    peer.tick_after(Duration::from_secs(1));
    assert_eq!(peer.session.farewell(), Some(&Farewell::KeepAliveTimeout));
}
