//! Routes that replicas have, which may be behind: what a publisher is told meanwhile.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ratatosk_client::{Loan, Replica, Replicas, held::HeldKeyspace};
use ratatosk_codec::{PacketType, ProtocolVersion, ReasonCode, SubscriptionOptions};
use ratatosk_conformance::{Broker, Event, PATIENCE, Setup, Testament};
use ratatosk_dist::{DistCoprocessor, DistService};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_mqtt::Config;

use crate::cases::{ALL_QOS, QOS0, QOS1, VERSIONS};

pub(crate) type Told = Box<dyn FnOnce() + Send>;

/// The one replica of a keyspace, in the test's hands.
#[derive(Clone, Default)]
pub(crate) struct Hands {
    may: Arc<AtomicBool>,
    waiting: Arc<Mutex<Vec<Told>>>,
}

impl Replicas for Hands {
    fn look(&self) -> Vec<Replica> {
        vec![Replica { keys: Default::default(), loan: Box::new(self.clone()) }]
    }
}

impl Loan for Hands {
    fn may_answer(&self) -> bool {
        self.may.load(Ordering::SeqCst)
    }

    fn wait(&self, told: Told) {
        self.waiting.lock().expect("nobody panics with it").push(told);
    }
}

impl Hands {
    pub(crate) fn set(&self, may: bool) {
        self.may.store(may, Ordering::SeqCst);
    }

    /// Waits until somebody waits; answers who does.
    pub(crate) fn awaited(&self) -> Vec<Told> {
        let end = Instant::now() + PATIENCE;
        loop {
            let waiting = std::mem::take(&mut *self.waiting.lock().expect("as above"));
            if !waiting.is_empty() {
                return waiting;
            }
            assert!(Instant::now() < end, "nobody waits");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

/// A broker whose routes are in replicas, their log, and the replica here.
struct Node {
    broker: Broker,
    routes: Arc<HeldKeyspace>,
    hands: Hands,
}

impl Node {
    fn new(setup: Setup) -> Self {
        let dist = Arc::new(DistService::replicated());
        let coprocessor = DistCoprocessor::feeding(&Arc::downgrade(&dist));
        let routes = HeldKeyspace::new(Box::new(coprocessor));
        let hands = Hands::default();
        hands.set(true);
        dist.connect(routes.clone(), Box::new(hands.clone()));
        let broker = Broker::with(Setup { dist: Some(dist), ..setup });
        Self { broker, routes, hands }
    }
}

/// DUR-012, KV-010: it is brought again, whatever the connection knew of the topic before.
#[test]
fn a_publish_waits_while_the_routes_may_lack_what_was_acknowledged() {
    for version in VERSIONS {
        for qos in ALL_QOS {
            let node = Node::new(Setup::default());
            let mut subscriber = node.broker.client(version, "subscriber").connect();
            subscriber.subscribe("t", qos);
            let mut publisher = node.broker.client(version, "publisher").connect();
            publisher.deliver("t", "1", qos);
            assert_eq!(subscriber.message().text(), "1");

            node.hands.set(false);
            let id = publisher.publish("t", "2", qos);
            let waiting = node.hands.awaited();
            subscriber.ping();
            node.hands.set(true);
            waiting.into_iter().for_each(|told| told());
            publisher.finish(qos, id);
            assert_eq!(subscriber.message().text(), "2");
        }
    }
}

/// MQTT-051, DUR-012: a will waits for the routes, too.
#[test]
fn a_will_waits_while_the_routes_may_lack_what_was_acknowledged() {
    let node = Node::new(Setup::default());
    let mut subscriber = node.broker.v5("subscriber").connect();
    subscriber.subscribe("will", QOS1);
    let author = node.broker.v5("author").will(Testament::new("will", "gone")).connect();
    node.hands.set(false);
    author.vanish();
    node.broker.stats_when(|stats| stats.wills == 1);
    subscriber.ping();
    node.hands.set(true);
    assert_eq!(subscriber.message().text(), "gone");
}

/// DUR-012
#[test]
fn who_is_not_told_that_the_routes_are_there_looks_by_himself() {
    let node = Node::new(Setup::default());
    let mut subscriber = node.broker.v5("subscriber").connect();
    subscriber.subscribe("t", QOS1);
    let mut publisher = node.broker.v5("publisher").connect();
    node.hands.set(false);
    let id = publisher.publish("t", "1", QOS1);
    drop(node.hands.awaited());
    node.hands.set(true);
    assert_eq!(publisher.find_ack(PacketType::Puback, id), ReasonCode::Success);
    assert_eq!(subscriber.message().text(), "1");
}

/// DUR-012, MQTT-056: refused as by a store that is full; of QoS 0 dropped and counted.
#[test]
fn a_publish_waits_for_routes_no_longer_than_it_may() {
    let config =
        Config { shards: 1, route_patience: Duration::from_millis(200), ..Setup::default().config };
    let node = Node::new(Setup { config, ..Setup::default() });
    let mut subscriber = node.broker.v5("subscriber").connect();
    subscriber.subscribe("t", QOS1);
    let mut publisher = node.broker.v5("publisher").connect();
    node.hands.set(false);
    let refused = publisher.deliver("t", "1", QOS1);
    assert_eq!(refused, ReasonCode::ImplementationSpecificError);
    publisher.publish("t", "2", QOS0);
    let stats = node.broker.stats_when(|stats| stats.publish_refused == 2);
    assert_eq!(stats.sent, 0);
    publisher.ping();
    node.hands.set(true);
    assert_eq!(publisher.deliver("t", "3", QOS1), ReasonCode::Success);
    assert_eq!(subscriber.message().text(), "3");
}

/// DUR-012, DIST-005: a SUBACK of a persistent session leaves when both logs have what it says.
#[test]
fn a_persistent_subscription_is_acknowledged_when_all_nodes_match_by_it() {
    let sessions = HeldKeyspace::new(Box::<InboxCoprocessor>::default());
    let setup = Setup { sessions_in: Some(sessions.clone()), ..Setup::default() };
    let node = Node::new(setup);
    let is_over = Arc::new(AtomicBool::new(false));
    let clerk = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::SeqCst) {
                sessions.settle();
                std::thread::yield_now();
            }
        }
    });
    let mut client = node.broker.client(ProtocolVersion::V5, "c").persistent().connect();
    let id = client.begin_subscribe(&[("t", SubscriptionOptions::new(QOS1))], None);
    let end = Instant::now() + PATIENCE;
    while node.routes.waiting() == 0 {
        assert!(Instant::now() < end, "no route is asked for");
        std::thread::yield_now();
    }
    let mut publisher = node.broker.v5("publisher").connect();
    publisher.ping();
    assert!(!client.has_more(), "SUBACK waits for the route");
    node.routes.settle();
    assert_eq!(client.event(), Event::Suback(id, vec![ReasonCode::GrantedQos1]));
    assert_eq!(publisher.deliver("t", "1", QOS1), ReasonCode::Success);
    assert_eq!(client.message().text(), "1");
    is_over.store(true, Ordering::SeqCst);
    clerk.join().expect("no panic");
}
