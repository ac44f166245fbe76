//! QoS 2 among several nodes: transient sessions have a message once, whatever becomes of its publisher.

use std::{sync::Arc, time::Duration};

use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::{PacketId, PacketType, Publish, ReasonCode};
use ratatosk_conformance::{Broker, Client, Event, Setup};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_rpc::{HostId, MemoryDiscovery};

use crate::{
    cases::{QOS0, QOS1, QOS2},
    nodes::until,
    relay::{joined, wanted},
};

/// A node with a publisher whose log is in the test's hands, and one whose session only listens.
struct Pair {
    discovery: MemoryDiscovery,
    keyspace: Arc<HeldKeyspace>,
    lives: u128,
    home: Option<Broker>,
    other: Broker,
    /// A session of each.
    watchers: Vec<Client>,
    publisher: Client,
}

impl Pair {
    fn new() -> Self {
        let discovery = MemoryDiscovery::new();
        let keyspace = HeldKeyspace::new(Box::<InboxCoprocessor>::default());
        let home = home(&discovery, &keyspace, 1);
        let cluster = Some((discovery.clone(), HostId(0xB0)));
        let other = Broker::with(Setup { cluster, ..Setup::default() });
        let mut watchers = vec![other.v5("there").connect(), home.v5("here").connect()];
        for watcher in &mut watchers {
            watcher.subscribe("t", QOS2);
            watcher.subscribe("end", QOS0);
        }
        let mut member = other.v5("member").connect();
        member.subscribe("$oshare/g/t", QOS2);
        member.subscribe("end", QOS0);
        watchers.push(member);
        let publisher = publisher(&home, &keyspace, false);
        let pair =
            Pair { discovery, keyspace, lives: 1, home: Some(home), other, watchers, publisher };
        pair.know_each_other();
        pair
    }

    fn home(&self) -> &Broker {
        self.home.as_ref().expect("it is there")
    }

    fn know_each_other(&self) {
        wanted(self.home(), "t", 1);
        wanted(self.home(), "end", 1);
        joined(std::slice::from_ref(self.home()), "t", 1);
    }

    fn holds(&self, count: usize) {
        until("commands are held back", || self.keyspace.waiting() == count);
    }

    /// The publisher's node dies, and with it its session there.
    fn crash(&mut self) {
        self.keyspace = self.keyspace.crash(Box::<InboxCoprocessor>::default());
        // It is there once: those of the other node stay.
        if self.lives == 1 {
            self.watchers.remove(1);
        }
        drop(self.home.take());
        self.lives += 1;
        self.home = Some(home(&self.discovery, &self.keyspace, self.lives));
        self.know_each_other();
        self.publisher = publisher(self.home(), &self.keyspace, true);
    }

    /// The publisher sends a message again.
    fn repeat(&mut self, id: u16, payload: &str) {
        let packet_id = PacketId::new(id);
        let again = Publish::new("t", payload.as_bytes());
        self.publisher.publish_as(Publish { qos: QOS2, dup: true, packet_id, ..again });
    }

    /// Nothing is on its way to anybody: what somebody else sends comes next.
    fn assert_quiet(&mut self) {
        let mut sender = self.home().v5("sender").connect();
        assert_eq!(sender.deliver("end", "", QOS1), ReasonCode::Success);
        for watcher in &mut self.watchers {
            assert_eq!(watcher.message().topic, "end");
        }
    }

    /// Each gets these, in their order, and nothing else.
    fn assert_delivered(&mut self, expected: &[&str]) {
        for watcher in &mut self.watchers {
            for text in expected {
                assert_eq!(watcher.message().text(), *text);
            }
        }
        self.assert_quiet();
    }
}

fn home(discovery: &MemoryDiscovery, keyspace: &Arc<HeldKeyspace>, life: u128) -> Broker {
    let cluster = Some((discovery.clone(), HostId(0xA0 + life)));
    let sessions_in = Some(Arc::clone(keyspace) as _);
    let home = Broker::with(Setup { cluster, sessions_in, ..Setup::default() });
    keyspace.settle();
    home
}

fn publisher(home: &Broker, keyspace: &HeldKeyspace, is_present: bool) -> Client {
    let mut publisher = home.v5("publisher").persistent().open();
    until("the session is on its way to the log", || keyspace.waiting() > 0);
    keyspace.settle();
    assert_eq!(publisher.connack().is_present, is_present);
    publisher
}

/// DUR-003, DUR-010: sessions without a queue have a message of QoS 2 when nobody brings it again: once its
/// exchange is durable.
#[test]
fn a_qos_2_message_that_its_publisher_brings_again_reaches_transient_sessions_once() {
    let mut pair = Pair::new();
    let id = pair.publisher.publish("t", "once", QOS2);
    pair.holds(1);
    pair.assert_quiet();

    pair.crash();
    pair.assert_quiet();
    pair.repeat(id, "once");
    pair.holds(1);
    pair.assert_quiet();
    pair.keyspace.settle();
    pair.assert_delivered(&["once"]);
    assert_eq!(pair.publisher.find_ack(PacketType::Pubrec, id), ReasonCode::Success);
    pair.publisher.ack(PacketType::Pubrel, id);
    pair.holds(1);
    pair.keyspace.settle();
    assert_eq!(pair.publisher.find_ack(PacketType::Pubcomp, id), ReasonCode::Success);

    let id = pair.publisher.publish("t", "twice", QOS2);
    pair.holds(1);
    pair.keyspace.settle();
    pair.assert_delivered(&["twice"]);
    // Its PUBREC may not have left.
    pair.crash();
    pair.repeat(id, "twice");
    assert_eq!(pair.publisher.find_ack(PacketType::Pubrec, id), ReasonCode::Success);
    pair.assert_quiet();
}

/// MQTT-069, MQTT-085: what a publisher sends behind a message that waits for its exchange waits, too.
#[test]
fn nothing_of_a_publisher_overtakes_a_message_that_waits_for_its_exchange() {
    let mut pair = Pair::new();
    let first = pair.publisher.publish("t", "1", QOS2);
    pair.publisher.publish("t", "2", QOS0);
    let third = pair.publisher.publish("t", "3", QOS1);
    let fourth = pair.publisher.publish("t", "4", QOS2);
    pair.holds(2);
    pair.assert_quiet();
    assert!(!pair.publisher.has_more(), "what nobody has is not acknowledged");

    pair.keyspace.settle_some(1);
    for watcher in &mut pair.watchers {
        for text in ["1", "2", "3"] {
            assert_eq!(watcher.message().text(), text);
        }
    }
    assert_eq!(pair.publisher.find_ack(PacketType::Pubrec, first), ReasonCode::Success);
    assert_eq!(pair.publisher.find_ack(PacketType::Puback, third), ReasonCode::Success);
    pair.assert_quiet();
    pair.keyspace.settle();
    pair.assert_delivered(&["4"]);
    assert_eq!(pair.publisher.find_ack(PacketType::Pubrec, fourth), ReasonCode::Success);
}

/// DUR-003, MQTT-015: a node that stops sends what it has taken over before it goes, for nobody brings
/// it again.
#[test]
fn a_node_that_stops_hands_on_what_waits_for_an_exchange() {
    let mut pair = Pair::new();
    pair.publisher.publish("t", "last", QOS2);
    pair.holds(1);
    let mut home = pair.home.take().expect("it is there");
    home.stop(Duration::from_secs(20));
    assert!(matches!(pair.publisher.event(), Event::Disconnect(..)), "it is told first");
    assert!(matches!(pair.watchers.remove(1).event(), Event::Disconnect(..)), "so is everybody");
    pair.holds(2);
    pair.keyspace.settle();
    for watcher in &mut pair.watchers {
        assert_eq!(watcher.message().text(), "last");
    }
    home.stopped();
    let mut sender = pair.other.v5("sender").connect();
    sender.deliver("end", "", QOS1);
    for watcher in &mut pair.watchers {
        assert_eq!(watcher.message().topic, "end", "and once");
    }
}
