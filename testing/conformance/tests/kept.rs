//! Persistent sessions on a store whose log is in the test's hands: what may be said before a change
//! is durable, and what a crash leaves.

use std::sync::Arc;

use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::{Packet, PacketId, PacketType, Publish, Qos, ReasonCode, SubscriptionOptions};
use ratatosk_conformance::{Broker, Client, Connector, Event, PATIENCE, Setup, Testament, plain};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_mqtt::transport;
use ratatosk_retain::RetainCoprocessor;

use crate::cases::{QOS1, QOS2};

/// A broker, its log, and a client on each of its shards: once both are answered, each shard has
/// written what it had to write before.
pub(crate) struct Kept {
    pub(crate) broker: Broker,
    pub(crate) keyspace: Arc<HeldKeyspace>,
    watchers: [Client; 2],
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self::on(HeldKeyspace::new(Box::<InboxCoprocessor>::default()))
    }

    fn on(keyspace: Arc<HeldKeyspace>) -> Self {
        Self::made(keyspace, Setup::default())
    }

    /// With these listeners behind the first one, which is plain.
    pub(crate) fn behind(layers: &[transport::Config]) -> Self {
        let keyspace = HeldKeyspace::new(Box::<InboxCoprocessor>::default());
        let listeners = [&[plain()], layers].concat();
        Self::made(keyspace, Setup { listeners, ..Setup::default() })
    }

    fn made(keyspace: Arc<HeldKeyspace>, setup: Setup) -> Self {
        let setup = Setup { sessions_in: Some(keyspace.clone()), ..setup };
        let broker = Broker::with(setup);
        // What the broker found to do when it read what is kept.
        keyspace.settle();
        let watchers = ["watcher-1", "watcher-2"].map(|id| broker.v5(id).connect());
        Self { broker, keyspace, watchers }
    }

    /// Waits until so many commands are held back.
    pub(crate) fn holds(&mut self, count: usize) {
        let end = std::time::Instant::now() + PATIENCE;
        while self.keyspace.waiting() != count {
            let waiting = self.keyspace.waiting();
            assert!(std::time::Instant::now() < end, "{waiting} commands wait, not {count}");
            self.watchers.iter_mut().for_each(Client::ping);
        }
        self.watchers.iter_mut().for_each(Client::ping);
    }

    /// A client that is connected, with nothing held back.
    pub(crate) fn connect(&mut self, id: &str) -> Client {
        let connector = self.broker.v5(id).persistent();
        self.connect_by(&connector)
    }

    pub(crate) fn connect_by(&mut self, connector: &Connector) -> Client {
        let mut client = connector.open();
        self.holds(1);
        assert!(!client.has_more(), "CONNACK waits for the disk: {connector:?}");
        self.keyspace.settle();
        assert_eq!(client.connack().reason, ReasonCode::Success);
        client
    }

    /// A client that is connected and subscribed, with nothing held back.
    fn subscribe(&mut self, id: &str, filter: &str, qos: Qos) -> Client {
        let mut client = self.connect(id);
        let id = client.begin_subscribe(&[(filter, SubscriptionOptions::new(qos))], None);
        self.holds(1);
        let granted = match qos {
            Qos::AtMostOnce => ReasonCode::Success,
            Qos::AtLeastOnce => ReasonCode::GrantedQos1,
            Qos::ExactlyOnce => ReasonCode::GrantedQos2,
        };
        assert_eq!(self.released(&mut client), Event::Suback(id, vec![granted]));
        client
    }

    /// What comes once the log is released.
    fn released(&mut self, client: &mut Client) -> Event {
        assert!(!client.has_more(), "it waits for the disk");
        self.keyspace.settle();
        client.event()
    }

    fn crash(self) -> Self {
        let keyspace = self.keyspace.crash(Box::<InboxCoprocessor>::default());
        drop(self);
        Self::on(keyspace)
    }
}

/// DUR-001, DUR-009, MQTT-046: with the log held back no acknowledgement of what changes a persistent
/// session leaves; released, all do. [MQTT-3.8.4-1] [MQTT-3.10.4-4]
#[test]
fn nothing_is_said_of_a_persistent_session_before_it_is_durable() {
    let mut kept = Kept::new();
    let mut subscriber = kept.subscribe("subscriber", "t", QOS2);
    let mut publisher = kept.connect("publisher");

    for (qos, kind) in [(QOS1, PacketType::Puback), (QOS2, PacketType::Pubrec)] {
        let id = publisher.publish("t", "x", qos);
        kept.holds(1);
        assert!(!publisher.has_more(), "{kind:?} waits for the disk");
        assert!(!subscriber.has_more(), "nobody sees what a crash may take back");
        kept.keyspace.settle();
        assert_eq!(publisher.find_ack(kind, id), ReasonCode::Success);
        let message = subscriber.unacknowledged();
        assert_eq!((message.text(), message.qos), ("x", qos));
        let message_id = message.packet_id;
        if qos == QOS1 {
            subscriber.acknowledge(&message);
            kept.holds(1);
            kept.keyspace.settle();
            continue;
        }
        publisher.ack(PacketType::Pubrel, id);
        subscriber.ack(PacketType::Pubrec, message_id);
        kept.holds(2);
        assert!(!publisher.has_more() && !subscriber.has_more(), "both wait for the disk");
        kept.keyspace.settle();
        assert_eq!(publisher.find_ack(PacketType::Pubcomp, id), ReasonCode::Success);
        assert_eq!(subscriber.find_ack(PacketType::Pubrel, message_id), ReasonCode::Success);
        subscriber.ack(PacketType::Pubcomp, message_id);
        kept.holds(1);
        kept.keyspace.settle();
    }
    let id = subscriber.begin_unsubscribe(&["t"]);
    kept.holds(1);
    assert_eq!(kept.released(&mut subscriber), Event::Unsuback(id, vec![ReasonCode::Success]));
}

/// DUR-002, DUR-003, MQTT-043: a session is after a crash what it was told to be. [MQTT-4.1.0-1]
/// [MQTT-4.4.0-1]
#[test]
fn a_session_is_after_a_crash_what_was_acknowledged() {
    let mut kept = Kept::new();
    let mut client = kept.subscribe("c", "t", QOS1);
    let mut publisher = kept.broker.v5("p").connect();
    for text in ["1", "2", "3"] {
        let id = publisher.publish("t", text, QOS1);
        kept.holds(1);
        kept.keyspace.settle();
        publisher.find_ack(PacketType::Puback, id);
    }
    let first = client.unacknowledged();
    client.acknowledge(&first);
    kept.holds(1);
    kept.keyspace.settle();
    // This one is not acknowledged, and lost.
    publisher.publish("t", "lost", QOS1);
    kept.holds(1);

    let mut kept = kept.crash();
    let mut client = kept.broker.v5("c").persistent().open();
    kept.holds(1);
    kept.keyspace.settle();
    assert!(client.connack().is_present);
    for text in ["2", "3"] {
        let message = client.unacknowledged();
        assert_eq!((message.text(), message.dup), (text, true), "it may have been sent before");
        client.acknowledge(&message);
    }
    client.send(&Packet::Pingreq);
    kept.keyspace.settle();
    assert_eq!(client.event(), Event::Pingresp);
}

/// MQTT-051, MQTT-049, INBOX-011: the will of a connection is kept before its CONNACK, and published
/// when the node died with it. [MQTT-3.1.2-8]
#[test]
fn a_will_is_kept_before_its_connack_and_published_if_the_node_dies() {
    for is_persistent in [false, true] {
        let mut kept = Kept::new();
        let connector = kept.broker.v5("author").will(Testament::new("will", "gone"));
        let connector = if is_persistent { connector.persistent() } else { connector };
        let mut author = connector.open();
        kept.holds(1);
        assert!(!author.has_more(), "CONNACK waits until the will is kept");
        kept.keyspace.settle();
        assert_eq!(author.connack().reason, ReasonCode::Success);
        let heir = kept.subscribe("heir", "will", QOS1);
        drop(heir);
        let kept = kept.crash();
        let keyspace = Arc::clone(&kept.keyspace);
        let clerk = std::thread::spawn(move || {
            while Arc::strong_count(&keyspace) > 1 {
                keyspace.settle();
                std::thread::yield_now();
            }
        });
        let mut heir = kept.broker.v5("heir").persistent().connect();
        assert_eq!(heir.message().text(), "gone");
        drop((heir, kept));
        clerk.join().expect("no panic");
    }
}

/// MQTT-051: a will that is kept is forgotten when what came of it is durable, and a store that takes
/// nothing is tried again.
#[test]
fn a_will_is_kept_until_it_is_stored() {
    for is_persistent in [false, true] {
        let mut kept = Kept::new();
        let author = kept.broker.v5("author").will(Testament::new("will", "gone"));
        let mut author = if is_persistent { author.persistent() } else { author }.open();
        kept.holds(1);
        kept.keyspace.settle();
        assert_eq!(author.connack().reason, ReasonCode::Success);
        let mut heir = kept.subscribe("heir", "will", QOS1);
        kept.keyspace.set_busy(true);
        author.vanish();
        // A persistent session has it kept anew, and gives up what it had.
        kept.holds(if is_persistent { 2 } else { 0 });
        kept.keyspace.settle();
        kept.keyspace.set_busy(false);
        kept.holds(1);
        assert!(!heir.has_more(), "it is not stored");
        kept.keyspace.settle_some(1);
        assert_eq!(heir.unacknowledged().text(), "gone");
        kept.holds(1);
        drop(heir);

        // It was stored, and is not known to be.
        let kept = kept.crash();
        let keyspace = Arc::clone(&kept.keyspace);
        let clerk = std::thread::spawn(move || {
            while Arc::strong_count(&keyspace) > 1 {
                keyspace.settle();
                std::thread::yield_now();
            }
        });
        let mut heir = kept.broker.v5("heir").persistent().connect();
        let mut dups = [heir.message(), heir.message()].map(|message| message.dup);
        dups.sort_unstable();
        assert_eq!(dups, [false, true], "it comes again, and is sent again");
        drop((heir, kept));
        clerk.join().expect("no panic");
    }
}

/// DUR-010: a QoS 2 message whose publisher was not answered before a crash is one message when it
/// comes again, in whichever order log and crash were.
#[test]
fn a_qos_2_message_that_is_sent_again_after_a_crash_is_one_message() {
    for is_durable in [false, true] {
        let mut kept = Kept::new();
        let _subscriber = kept.subscribe("s", "t", QOS2);
        let mut publisher = kept.connect("p");
        let id = publisher.publish("t", "once", QOS2);
        kept.holds(1);
        if is_durable {
            kept.keyspace.settle();
        }

        let mut kept = kept.crash();
        let mut publisher = kept.broker.v5("p").persistent().open();
        kept.holds(1);
        kept.keyspace.settle();
        assert!(publisher.connack().is_present);
        let packet_id = PacketId::new(id);
        let again = Publish { qos: QOS2, dup: true, packet_id, ..Publish::new("t", b"once") };
        publisher.publish_as(again);
        if !is_durable {
            kept.holds(1);
        }
        kept.keyspace.settle();
        publisher.find_ack(PacketType::Pubrec, id);
        let mut subscriber = kept.broker.v5("s").persistent().open();
        kept.holds(1);
        kept.keyspace.settle();
        assert!(subscriber.connack().is_present);
        assert_eq!(subscriber.unacknowledged().text(), "once");
        subscriber.send(&Packet::Pingreq);
        assert_eq!(subscriber.event(), Event::Pingresp, "and no second one");
    }
}

/// DUR-010, RET-006: that a QoS 2 message was accepted is not in the log before its retained copy is
/// durable: whoever sends it again after a crash is not taken to have been retained.
#[test]
fn an_exchange_is_noted_when_its_message_is_retained() {
    let retained = HeldKeyspace::new(Box::new(RetainCoprocessor::new()));
    let sessions = HeldKeyspace::new(Box::<InboxCoprocessor>::default());
    let broker = Broker::with(Setup {
        sessions_in: Some(sessions.clone()),
        retained_in: Some(retained.clone()),
        ..Setup::default()
    });
    let holds = |keyspace: &HeldKeyspace, count| {
        let end = std::time::Instant::now() + PATIENCE;
        while keyspace.waiting() != count {
            assert!(std::time::Instant::now() < end, "{} commands wait", keyspace.waiting());
            std::thread::yield_now();
        }
    };
    let mut publisher = broker.v5("p").persistent().open();
    holds(&sessions, 1);
    sessions.settle();
    publisher.connack();
    let publish = |topic| Publish { qos: QOS2, retain: true, ..Publish::new(topic, b"x") };
    for topic in ["first", "second"] {
        let id = publisher.publish_as(publish(topic));
        holds(&retained, 1);
        assert_eq!(sessions.waiting(), 0, "not before it is retained");
        retained.settle();
        holds(&sessions, 1);
        assert!(!publisher.has_more(), "PUBREC waits for the exchange");
        sessions.settle();
        assert_eq!(publisher.find_ack(PacketType::Pubrec, id), ReasonCode::NoMatchingSubscribers);
    }
    assert_eq!(broker.retain.stats().topics, 2);
}

/// DUR-006, MQTT-077: a store that takes no more refuses what has to be kept; what needs no store goes
/// on.
#[test]
fn a_store_that_is_full_refuses_what_has_to_be_kept_and_nothing_else() {
    let mut kept = Kept::new();
    drop(kept.subscribe("c", "t", QOS1));
    kept.holds(1);
    kept.keyspace.settle();
    kept.keyspace.set_busy(true);
    // Who comes back subscribes again, and that is nothing new.
    let mut client = kept.subscribe("c", "t", QOS1);
    let mut publisher = kept.broker.v5("p").connect();
    let id = publisher.publish("t", "refused", QOS1);
    let code = publisher.find_ack(PacketType::Puback, id);
    assert_eq!(code, ReasonCode::ImplementationSpecificError);
    assert_eq!(client.subscribe("u", QOS1), ReasonCode::ImplementationSpecificError);
    let id = publisher.publish("nobody", "taken", QOS1);
    assert_eq!(publisher.find_ack(PacketType::Puback, id), ReasonCode::NoMatchingSubscribers);
    kept.keyspace.set_busy(false);
    let id = publisher.publish("t", "taken", QOS1);
    kept.holds(1);
    kept.keyspace.settle();
    assert_eq!(publisher.find_ack(PacketType::Puback, id), ReasonCode::Success);
    assert_eq!(client.message().text(), "taken");
}
