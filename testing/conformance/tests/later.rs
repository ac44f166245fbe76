//! Sessions whose inbox answers later, as one on another host does: in its time, out of step, or never.

use std::time::Duration;

use ratatosk_codec::{Packet, ReasonCode, RetainHandling, SubscriptionOptions};
use ratatosk_conformance::{Broker, Client, Event, Reply, Setup, Store, Testament};
use ratatosk_contract::call::Settlement;
use ratatosk_mqtt::Config;

use crate::cases::{QOS1, VERSIONS};

/// A broker, and what stands before its inbox.
fn late(change: impl FnOnce(&mut Config)) -> (Broker, std::sync::Arc<Store>) {
    let store = Store::new();
    let mut config = Config { shards: 2, ..Config::default() };
    change(&mut config);
    let broker = Broker::with(Setup { config, store: store.clone(), ..Setup::default() });
    store.claims(Reply::Late);
    store.subscriptions(Reply::Late);
    (broker, store)
}

/// A client that has its session.
fn connected(broker: &Broker, store: &Store, id: &str) -> Client {
    let mut client = broker.v5(id).persistent().open();
    store.owes_answers(1);
    store.give(0);
    assert_eq!(client.connack().reason, ReasonCode::Success);
    client
}

fn options() -> SubscriptionOptions {
    SubscriptionOptions::new(QOS1)
}

/// MQTT-031: the CONNACK of a session waits for the answer of its inbox, whatever the client sent behind its
/// CONNECT; that is handled afterwards, in its order. [MQTT-3.1.4-6]
#[test]
fn packets_behind_a_connect_wait_until_the_inbox_has_answered() {
    for version in VERSIONS {
        let (broker, store) = late(|_| {});
        for is_present in [false, true] {
            let mut client = broker.client(version, "c").persistent().open();
            let id = client.begin_subscribe(&[("t", options())], None);
            client.publish("t", "1", QOS1);
            client.send(&Packet::Pingreq);
            store.owes_answers(1);
            assert!(!client.has_more());
            store.give(0);
            let welcome = client.connack();
            assert_eq!((welcome.reason, welcome.is_present), (ReasonCode::Success, is_present));
            store.owes_answers(1);
            assert!(!client.has_more());
            store.give(0);
            assert_eq!(client.event(), Event::Suback(id, vec![ReasonCode::GrantedQos1]));
            client.ping();
            let message = client.find(|event| match event {
                Event::Publish(message) => Some(message.clone()),
                _ => None,
            });
            client.acknowledge(&message);
            client.ping();
            client.disconnect(ReasonCode::Success);
            broker.stats_when(|stats| stats.connections == 0);
        }
    }
}

/// MQTT-040: one that starts clean and leaves nothing waits until what was there is gone.
#[test]
fn a_clean_start_waits_until_the_old_session_is_gone() {
    for version in VERSIONS {
        let (broker, store) = late(|_| {});
        let mut old = broker.client(version, "c").persistent().open();
        store.owes_answers(1);
        store.give(0);
        assert_eq!(old.connack().reason, ReasonCode::Success);
        old.vanish();
        let will = Testament::new("will", "gone");
        let mut clean = broker.client(version, "c").clean().no_expiry().will(will).open();
        store.owes_answers(1);
        assert!(!clean.has_more());
        store.give(0);
        assert!(!clean.connack().is_present);
        clean.ping();
    }
}

/// MQTT-042, INBOX-002: a connection that ends while it waits for its inbox gives back what it is given,
/// and who comes next waits for that.
#[test]
fn a_connection_that_ends_while_its_inbox_is_asked_gives_the_session_back() {
    for version in VERSIONS {
        let (broker, store) = late(|config| config.connect_timeout = Duration::from_secs(3));
        let will = Testament::new("will", "gone");
        let mut witness = connected(&broker, &store, "witness");
        witness.begin_subscribe(&[("will", options())], None);
        store.owes_answers(1);
        store.give(0);
        let mut first = broker.client(version, "c").persistent().will(will).open();
        store.owes_answers(1);
        // Its time is over.
        assert_eq!(first.connack().reason, ReasonCode::ServerUnavailable);
        first.expect_close();
        drop(first);
        broker.stats_when(|stats| stats.connections == 1);
        let mut second = broker.client(version, "c").persistent().open();
        broker.stats_when(|stats| stats.connections == 2);
        witness.ping();
        store.owes_answers(1);
        store.give(0);
        // It was the owner for a moment, and was told so late.
        store.owes_answers(1);
        assert!(!second.has_more());
        store.give(0);
        assert_eq!(second.connack().reason, ReasonCode::Success);
        second.ping();
        // The first one's CONNACK never left, and so its will does not count.
        witness.find(|event| matches!(event, Event::Suback(..)).then_some(()));
        witness.ping();
        assert!(!witness.has_more());
    }
}

/// MQTT-042: who takes over a connection that waits for its inbox has the session when that one has given
/// it back; the other one is refused.
#[test]
fn a_connection_that_waits_for_its_inbox_is_taken_over() {
    let (broker, store) = late(|_| {});
    let mut first = broker.v5("c").persistent().open();
    store.owes_answers(1);
    let mut second = broker.v5("c").persistent().open();
    assert_eq!(first.connack().reason, ReasonCode::ServerBusy);
    first.expect_close();
    assert!(!second.has_more());
    store.owes_answers(1);
    store.give(0);
    store.owes_answers(1);
    assert!(!second.has_more(), "it asks only now");
    store.give(0);
    let welcome = second.connack();
    assert_eq!((welcome.reason, welcome.is_present), (ReasonCode::Success, true));
    broker.inbox_when(|stats| (stats.sessions, stats.attached) == (1, 1));
    second.ping();
}

/// A session that nobody serves is refused, at once or later, and its client may come again.
#[test]
fn a_session_that_nobody_serves_is_refused_as_unavailable() {
    for version in VERSIONS {
        for connector in [
            |broker: &Broker, version| broker.client(version, "c").persistent(),
            |broker: &Broker, version| broker.client(version, "c").clean().no_expiry(),
        ] {
            let (broker, store) = late(|config| config.claim_patience = Duration::ZERO);
            let connector = connector(&broker, version);
            store.claims(Reply::Refused(Settlement::Busy));
            assert_eq!(connector.refused(), ReasonCode::ServerUnavailable);
            store.claims(Reply::Late);
            let mut client = connector.open();
            store.owes_answers(1);
            store.give_up(0);
            assert_eq!(client.connack().reason, ReasonCode::ServerUnavailable);
            client.expect_close();
            store.claims(Reply::Prompt);
            connector.connect().ping();
        }
    }
}

/// OPS-002: a client whose session nobody serves yet waits until somebody does, without coming again.
#[test]
fn a_client_waits_until_somebody_serves_its_session() {
    for version in VERSIONS {
        for connector in [
            |broker: &Broker, version| broker.client(version, "c").persistent(),
            |broker: &Broker, version| broker.client(version, "c").clean().no_expiry(),
        ] {
            let (broker, store) =
                late(|config| config.claim_patience = ratatosk_conformance::PATIENCE);
            let connector = connector(&broker, version);
            store.claims(Reply::Refused(Settlement::Busy));
            let mut client = connector.open();
            store.refuses_claims(3);
            store.claims(Reply::Prompt);
            assert_eq!(client.connack().reason, ReasonCode::Success);
            client.ping();
        }
    }
}

/// MQTT-012: an inbox that never answers does not hold a client up for longer than its CONNECT may take,
/// nor the next one for longer than the inbox is waited for.
#[test]
fn an_inbox_that_never_answers_is_unavailable_and_is_not_waited_for_for_ever() {
    for version in VERSIONS {
        let (broker, store) = late(|config| {
            config.connect_timeout = Duration::from_millis(600);
            config.inbox_patience = Duration::from_millis(300);
        });
        let connector = broker.client(version, "c").persistent();
        assert_eq!(connector.refused(), ReasonCode::ServerUnavailable);
        store.owes_answers(1);
        store.claims(Reply::Prompt);
        let mut client = connector.connect();
        // What comes now is of no use to anybody, and harms nobody.
        store.give(0);
        client.ping();
        assert!(!client.deliver("t", "1", QOS1).is_error());
    }
}

/// MQTT-072, MQTT-083: a SUBSCRIBE is answered when all of its filters are known, in whatever order they
/// become known; what is retained comes behind it, once.
#[test]
fn a_subscribe_is_acknowledged_when_all_its_answers_are_there() {
    for version in VERSIONS {
        let (broker, store) = late(|_| {});
        let mut client = broker.client(version, "c").persistent().open();
        store.owes_answers(1);
        store.give(0);
        client.connack();
        client.retain("a", "kept", QOS1);
        client.retain("b", "kept", QOS1);
        let new = SubscriptionOptions { retain_handling: RetainHandling::SendIfNew, ..options() };
        let filters = [("a", new), ("bad/#/filter", new), ("b", new), ("c", new)];
        let id = client.begin_subscribe(&filters, None);
        client.send(&Packet::Pingreq);
        for left in (1..=3).rev() {
            store.owes_answers(left);
            assert!(!client.has_more());
            store.give(left - 1);
        }
        let Event::Suback(found, codes) = client.event() else { panic!("SUBACK comes first") };
        assert_eq!((found, codes.len()), (id, filters.len()));
        let mut topics: Vec<String> = Vec::new();
        while topics.len() < 2 {
            if let Event::Publish(message) = client.event() {
                client.acknowledge(&message);
                topics.push(message.topic);
            }
        }
        topics.sort();
        assert_eq!(topics, ["a", "b"]);
        client.ping();
        assert_eq!(broker.stats_when(|stats| stats.subscribed == 3).subscribe_refused, 1);
    }
}

/// MQTT-077: a subscription that is not known in time is refused, and taken back if it comes about.
#[test]
fn a_subscription_that_is_not_known_in_time_is_refused() {
    let refusals = [ReasonCode::UnspecifiedError, ReasonCode::ImplementationSpecificError];
    for (version, busy) in VERSIONS.into_iter().zip(refusals) {
        let (broker, store) = late(|config| config.inbox_patience = Duration::from_millis(200));
        let mut client = broker.client(version, "c").persistent().open();
        store.owes_answers(1);
        store.give(0);
        client.connack();
        store.subscriptions(Reply::Prompt);
        assert_eq!(client.subscribe("known", QOS1), ReasonCode::GrantedQos1);
        store.subscriptions(Reply::Late);
        for filter in ["known", "new"] {
            assert_eq!(client.subscribe(filter, QOS1), busy);
            store.give(0);
            client.ping();
        }
        // It is taken back behind what was on its way.
        let mut is_there = |topic| {
            assert!(!client.deliver(topic, "1", QOS1).is_error());
            client.ping();
            client.has_more().then(|| client.message()).is_some()
        };
        while is_there("new") {}
        assert!(is_there("known"));
    }
}
