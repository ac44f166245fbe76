//! Retained messages that replicas have, which may be behind: what a subscriber gets, and when.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ratatosk_client::{Pipe, held::HeldKeyspace};
use ratatosk_clock::SystemClock;
use ratatosk_codec::{PacketType, ReasonCode};
use ratatosk_conformance::{Broker, PATIENCE, Retained, Setup};
use ratatosk_contract::retain::RetainLimits;
use ratatosk_mqtt::Config;
use ratatosk_retain::{RetainCoprocessor, RetainDivision, RetainService};
use ratatosk_stores::trio::{Kind, Trio};

use crate::{
    answers::Hands,
    cases::{ALL_QOS, QOS1, VERSIONS, assert_quiet},
};

const RETAIN: &str = "retain.message";

/// A broker whose retained messages are in replicas, their log, and the replica here.
struct Node {
    broker: Broker,
    log: Arc<HeldKeyspace>,
    hands: Hands,
}

impl Node {
    fn new(config: Config) -> Self {
        let epoch = SystemClock::new().epoch();
        let service = Arc::new(RetainService::replicated(RetainLimits::default(), epoch, 1));
        let coprocessor = RetainCoprocessor::feeding(&Arc::downgrade(&service));
        let log = HeldKeyspace::new(Box::new(coprocessor));
        let hands = Hands::default();
        hands.set(true);
        let (keyspace, replicas) = (log.clone(), Box::new(hands.clone()));
        let retained = Retained { service, keyspace, replicas };
        let setup = Setup { config, retained_by: Some(retained), ..Setup::default() };
        Self { broker: Broker::with(setup), log, hands }
    }

    /// A message is retained, by a client that goes afterwards.
    fn retain(&self, topic: &str, payload: &str) {
        let mut publisher = self.broker.v5("retainer").connect();
        let id = publisher.publish_as(ratatosk_codec::Publish {
            qos: QOS1,
            retain: true,
            ..ratatosk_codec::Publish::new(topic, payload.as_bytes())
        });
        let end = Instant::now() + PATIENCE;
        while self.log.waiting() == 0 {
            assert!(Instant::now() < end, "nothing is submitted");
            std::thread::park_timeout(Duration::from_millis(2));
        }
        self.log.settle();
        let code = publisher.find_ack(PacketType::Puback, id);
        assert!(matches!(code, ReasonCode::Success | ReasonCode::NoMatchingSubscribers));
    }
}

fn impatient() -> Config {
    Config { route_patience: Duration::from_millis(200), ..Setup::default().config }
}

/// RET-006, RET-007, KV-010: the SUBACK and what is live do not wait.
#[test]
fn a_subscription_waits_for_retained_messages_that_may_be_old() {
    for version in VERSIONS {
        for qos in ALL_QOS {
            for is_persistent in [false, true] {
                let node = Node::new(Setup::default().config);
                node.retain("t/1", "kept");
                let connector = node.broker.client(version, "subscriber");
                let connector = if is_persistent { connector.persistent() } else { connector };
                let mut subscriber = connector.connect();
                node.hands.set(false);
                subscriber.subscribe("t/#", qos);
                let waiting = node.hands.awaited();
                let mut publisher = node.broker.v5("publisher").connect();
                publisher.deliver("t/2", "live", QOS1);
                let live = subscriber.message();
                assert_eq!((live.text(), live.retain), ("live", false));
                node.hands.set(true);
                waiting.into_iter().for_each(|told| told());
                let kept = subscriber.message();
                assert_eq!((kept.text(), kept.retain), ("kept", true));
                assert_quiet(&mut publisher, &mut subscriber);
            }
        }
    }
}

/// RET-006
#[test]
fn who_is_not_told_that_messages_are_there_looks_by_himself() {
    let node = Node::new(Setup::default().config);
    node.retain("t", "kept");
    node.hands.set(false);
    let mut subscriber = node.broker.v5("subscriber").connect();
    subscriber.subscribe("t", QOS1);
    drop(node.hands.awaited());
    node.hands.set(true);
    assert_eq!(subscriber.message().text(), "kept");
    assert_eq!(node.broker.stats_when(|stats| stats.sent == 1).retained_late, 0);
}

/// RET-006, RET-007: better old than nothing, once it took too long; and that is counted.
#[test]
fn a_subscription_waits_for_retained_messages_no_longer_than_it_may() {
    let node = Node::new(impatient());
    node.retain("t", "kept");
    node.hands.set(false);
    let mut subscriber = node.broker.v5("subscriber").connect();
    subscriber.subscribe("t", QOS1);
    assert_eq!(subscriber.message().text(), "kept");
    node.broker.stats_when(|stats| stats.retained_late == 1);
}

/// RET-007: what waits goes with its subscription, or with its client.
#[test]
fn who_does_not_want_messages_any_more_gets_none() {
    let node = Node::new(Setup::default().config);
    node.retain("t", "kept");
    node.retain("u", "other");
    node.hands.set(false);
    let mut gone = node.broker.v5("gone").connect();
    gone.subscribe("t", QOS1);
    let mut waiting = node.hands.awaited();
    gone.disconnect(ReasonCode::Success);
    let mut subscriber = node.broker.v5("subscriber").connect();
    subscriber.subscribe("t", QOS1);
    subscriber.subscribe("u", QOS1);
    subscriber.unsubscribe(&["t"]);
    // They may be of the same shard, and then one of them asks for both.
    node.hands.set(true);
    waiting.drain(..).for_each(|told| told());
    assert_eq!(subscriber.message().text(), "other");
    let mut publisher = node.broker.v5("publisher").connect();
    assert_quiet(&mut publisher, &mut subscriber);
}

/// RET-001, RET-002, RET-006: by an exact filter and by a wildcard, and what is cleared by none.
#[test]
fn a_subscription_at_one_node_gets_what_was_acknowledged_at_another() {
    let origins = AtomicU64::default();
    let trio = Trio::new(
        "lagging-nodes",
        Kind {
            keyspace: RETAIN,
            service: Box::new(move |clock| {
                let origin = origins.fetch_add(1, Ordering::Relaxed);
                RetainService::replicated(RetainLimits::default(), clock.epoch(), origin)
            }),
            coprocessor: |feed| Box::new(RetainCoprocessor::feeding(feed)),
            pipe: |router, clock| Pipe::repeating(Box::new(router), RETAIN, RetainDivision, clock),
            // Brokers connect them.
            connect: Box::new(|_, _, _| {}),
        },
    );
    let broker = |node: usize| {
        let (service, replicas) = (Arc::clone(&trio.services[node]), trio.replicas(node));
        let (keyspace, replicas) = (Arc::new(trio.pipe(node)), Box::new(replicas));
        let retained = Retained { service, keyspace, replicas };
        Broker::with(Setup { retained_by: Some(retained), ..Setup::default() })
    };
    let brokers: Vec<_> = (0..3).map(broker).collect();
    let mut publishers: Vec<_> =
        brokers.iter().map(|broker| broker.v5("publisher").connect()).collect();
    for (round, payload) in ["1", "2", "", "3"].into_iter().enumerate() {
        publishers[round % 3].retain("t/a", payload, QOS1);
        for (broker, publisher) in brokers.iter().zip(&mut publishers) {
            let mut client = broker.v5("subscriber").connect();
            for filter in ["t/a", "t/+"] {
                client.subscribe(filter, QOS1);
                if !payload.is_empty() {
                    let message = client.message();
                    assert_eq!((message.text(), message.retain), (payload, true));
                }
                assert_quiet(publisher, &mut client);
                client.unsubscribe(&[filter]);
            }
        }
    }
}
