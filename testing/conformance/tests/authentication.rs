//! Enhanced authentication through the whole broker: at connect, again, and gone wrong.

use std::sync::Arc;

use ratatosk_codec::{Auth, Connect, Disconnect, Packet, ReasonCode, SubscriptionOptions};
use ratatosk_conformance::{Broker, Client, Event, PermissionBy, Setup};
use ratatosk_plugin::{
    answer::Answer,
    auth::{
        AuthExchange, AuthProvider, AuthRequest, AuthResult, AuthStage, Challenge, DenialReason,
        Grant,
    },
    permission::Verdict,
    plugin::Plugin,
};

use crate::cases::QOS1;

const CONTINUE: ReasonCode = ReasonCode::ContinueAuthentication;
const AGAIN: ReasonCode = ReasonCode::Reauthenticate;

/// Knows the method `COUNT`: whoever says 1, 2, 3 is let in. At its turn it says what comes next.
struct Counting;

struct Count {
    next: u8,
    user: &'static str,
}

impl Plugin for Counting {
    fn name(&self) -> &str {
        "counting"
    }
}

impl AuthProvider for Counting {
    fn authenticate(&self, _: AuthRequest) -> Answer<AuthResult> {
        let grant = Grant { tenant: "default".to_owned(), ..Grant::default() };
        Answer::Now(AuthResult::Granted(grant))
    }

    fn begin(&self, request: &AuthRequest) -> Option<Box<dyn AuthExchange>> {
        // Who comes as somebody else the second time says so at once.
        let is_other = matches!(request.stage, AuthStage::Reauthenticate(_))
            && request.data.as_ref().is_some_and(|data| data.expose() == b"other");
        let count = Count { next: b'1', user: if is_other { "other" } else { "user" } };
        (request.method.as_deref() == Some("COUNT")).then(|| Box::new(count) as _)
    }
}

impl AuthExchange for Count {
    fn step(&mut self, data: &[u8]) -> Answer<AuthResult> {
        if data != [self.next] && data != b"other" {
            return Answer::Now(AuthResult::denied(DenialReason::NotAuthorized, "miscounted"));
        }
        self.next += 1;
        let said = vec![self.next];
        if self.next <= b'3' && data != b"other" {
            let challenge = Challenge { data: said, ..Challenge::default() };
            // The second comes later, as from a provider that asks others.
            return match self.next {
                b'3' => Answer::later(async { AuthResult::Continue(challenge) }),
                _ => Answer::Now(AuthResult::Continue(challenge)),
            };
        }
        Answer::Now(AuthResult::Granted(Grant {
            tenant: "default".to_owned(),
            user: self.user.to_owned(),
            auth_data: Some(said),
            ..Grant::default()
        }))
    }
}

fn broker() -> Broker {
    let permission = PermissionBy::new(|_, _| Answer::Now(Verdict::Allowed));
    Broker::with(Setup { auth: Arc::new(Counting), permission, ..Setup::default() })
}

fn open(broker: &Broker) -> Client {
    let connector = broker.v5("c").method("COUNT");
    connector.open_with(|connect| connect.properties.authentication_data = Some(b"1"))
}

fn auth(client: &mut Client, reason: ReasonCode, method: &str, data: &str) {
    let packet = Auth { data: Some(data.as_bytes()), ..Auth::new(reason, method) };
    client.send(&Packet::Auth(packet));
}

/// The next packet is AUTH with this code and data, and with the method of CONNECT.
fn expect_auth(client: &mut Client, reason: ReasonCode, data: &str) {
    client.look(|packet| {
        let Packet::Auth(auth) = packet else { panic!("not AUTH: {packet:?}") };
        let found = (auth.reason, auth.method, auth.data);
        assert_eq!(found, (reason, Some("COUNT"), Some(data.as_bytes())));
    });
}

/// A client that counted to three and is in.
fn live(broker: &Broker) -> Client {
    let mut client = open(broker);
    expect_auth(&mut client, CONTINUE, "2");
    auth(&mut client, CONTINUE, "COUNT", "2");
    expect_auth(&mut client, CONTINUE, "3");
    auth(&mut client, CONTINUE, "COUNT", "3");
    client.look(|packet| {
        let Packet::Connack(connack) = packet else { panic!("not a CONNACK: {packet:?}") };
        assert_eq!(connack.reason, ReasonCode::Success);
        assert_eq!(connack.properties.authentication_method, Some("COUNT"));
        assert_eq!(connack.properties.authentication_data, Some(&b"4"[..]));
    });
    client
}

/// MQTT-104: [MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5] [MQTT-3.2.0-2] steps go to and fro
/// until CONNACK, which comes once.
#[test]
fn an_exchange_at_connect_lets_the_client_in() {
    let broker = broker();
    let mut client = live(&broker);
    client.subscribe("t", QOS1);
    client.deliver("t", "in", QOS1);
    assert_eq!(client.message().text(), "in");
    broker.stats_when(|stats| stats.live == 1);
}

/// MQTT-104: [MQTT-4.12.0-1] [MQTT-4.12.0-4] [MQTT-3.1.2-30] a wrong step is refused, and any
/// other packet ends the exchange with its connection.
#[test]
fn other_packets_during_an_exchange_end_it() {
    let broker = broker();
    let mut client = open(&broker);
    expect_auth(&mut client, CONTINUE, "2");
    auth(&mut client, CONTINUE, "COUNT", "7");
    assert_eq!(client.connack().reason, ReasonCode::NotAuthorized);
    client.expect_close();
    let others: [fn(&mut Client); 6] = [
        |client| client.send(&Packet::Pingreq),
        |client| {
            client.publish("t", "x", QOS1);
        },
        |client| {
            client.begin_subscribe(&[("t", SubscriptionOptions::new(QOS1))], None);
        },
        |client| {
            client.send(&Packet::Connect(Connect::new(client.version(), "c", true)));
        },
        |client| auth(client, CONTINUE, "OTHER", "2"),
        |client| auth(client, AGAIN, "COUNT", "2"),
    ];
    for (number, other) in others.into_iter().enumerate() {
        let mut client = open(&broker);
        expect_auth(&mut client, CONTINUE, "2");
        other(&mut client);
        let code = client.connack().reason;
        assert!(code.is_error(), "number {number}: {code}");
        client.expect_close();
    }
    // Who gives up is told nothing.
    let mut client = open(&broker);
    expect_auth(&mut client, CONTINUE, "2");
    client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    client.expect_close();
    // A method that nobody knows.
    let unknown = broker.v5("c").method("NONE").refused();
    assert_eq!(unknown, ReasonCode::BadAuthenticationMethod);
    assert_eq!(broker.stats_when(|_| true).connected, 0);
}

/// MQTT-105: [MQTT-4.12.1-1] who proves itself again keeps session, subscriptions and what is in
/// flight, and goes on meanwhile.
#[test]
fn reauthentication_keeps_the_session() {
    let broker = broker();
    let mut client = live(&broker);
    client.subscribe("t", QOS1);
    let mut publisher = broker.v5("publisher").connect();
    publisher.deliver("t", "before", QOS1);
    let before = client.unacknowledged();
    for _ in 0..2 {
        auth(&mut client, AGAIN, "COUNT", "1");
        expect_auth(&mut client, CONTINUE, "2");
        // Between the steps it is served as ever.
        client.ping();
        publisher.deliver("t", "meanwhile", QOS1);
        assert_eq!(client.message().text(), "meanwhile");
        auth(&mut client, CONTINUE, "COUNT", "2");
        expect_auth(&mut client, CONTINUE, "3");
        auth(&mut client, CONTINUE, "COUNT", "3");
        expect_auth(&mut client, ReasonCode::Success, "4");
        publisher.deliver("t", "after", QOS1);
        assert_eq!(client.message().text(), "after");
    }
    client.acknowledge(&before);
    client.ping();
    assert_eq!(broker.stats_when(|stats| stats.live == 2).connected, 2, "no new session");
}

/// MQTT-106: [MQTT-4.12.1-2] [MQTT-4.12.0-7] another method, or one where there was none, is 0x82;
/// a proof that fails is 0x87.
#[test]
fn reauthentication_that_fails_ends_the_connection() {
    let broker = broker();
    let mut client = live(&broker);
    auth(&mut client, AGAIN, "OTHER", "1");
    client.expect_farewell(ReasonCode::ProtocolError);
    let mut client = live(&broker);
    auth(&mut client, AGAIN, "COUNT", "7");
    client.expect_farewell(ReasonCode::NotAuthorized);
    let mut client = live(&broker);
    auth(&mut client, AGAIN, "COUNT", "1");
    expect_auth(&mut client, CONTINUE, "2");
    auth(&mut client, CONTINUE, "COUNT", "7");
    client.expect_farewell(ReasonCode::NotAuthorized);
    // Who turns out to be somebody else, also where nobody asks who may do what.
    let unasked = Broker::with(Setup { auth: Arc::new(Counting), ..Setup::default() });
    for broker in [&broker, &unasked] {
        let mut client = live(broker);
        auth(&mut client, AGAIN, "COUNT", "other");
        client.expect_farewell(ReasonCode::NotAuthorized);
    }
    let mut plain = broker.v5("plain").connect();
    auth(&mut plain, AGAIN, "COUNT", "1");
    plain.expect_farewell(ReasonCode::ProtocolError);
    let mut old = broker.v4("old").connect();
    old.send_raw(&[0xF0, 0]);
    assert_eq!(old.event(), Event::Closed);
}
