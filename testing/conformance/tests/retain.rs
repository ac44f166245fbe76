//! Retained messages.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::{Packet, PacketType, Publish, Qos};
use ratatosk_conformance::{Broker, Event, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_retain::RetainCoprocessor;

use crate::cases::{ALL_QOS, Case, QOS0, QOS1, QOS2, assert_quiet};

/// RET-001: [MQTT-3.3.1-8] [MQTT3-3.3.1-6] [MQTT3-3.3.1-7] [MQTT3-3.3.1-8] [MQTT3-3.3.1-9] the
/// latest message of a topic is kept, whatever its QoS; an empty payload clears it.
#[test]
fn the_latest_retained_message_is_kept_and_an_empty_one_clears() {
    for case in Case::all(Setup::default) {
        for qos in ALL_QOS {
            let (mut publisher, mut client, _guard) =
                case.pair(case.client("publisher"), case.client("c"));
            client.subscribe("live", QOS0);
            publisher.retain("t", "first", qos);
            publisher.retain("t", "second", qos);
            publisher.deliver("t", "not retained", qos);
            publisher.ping();
            client.subscribe("t", QOS2);
            let stored = client.message();
            assert_eq!((stored.text(), stored.retain), ("second", true), "{}", case.name);
            publisher.retain("t", "", qos);
            let cleared = client.message();
            assert_eq!((cleared.text(), cleared.retain), ("", false), "live, like any other");
            client.unsubscribe(&["t"]);
            client.subscribe("t", QOS2);
            assert_quiet(&mut publisher, &mut client);
        }
        assert_eq!(case.broker.retain.stats().topics, 0, "{}", case.name);
    }
}

/// What is retained is not part of the session that published it. [MQTT3-3.1.2-7]
#[test]
fn retained_messages_outlive_their_publisher_s_session() {
    for case in Case::all(Setup::default) {
        for (topic, is_stored) in [("clean", false), ("stored", true)] {
            let mut connector = case.client("publisher");
            if is_stored {
                connector = connector.persistent();
            }
            let mut publisher = connector.connect();
            publisher.retain(topic, "kept", QOS1);
            publisher.disconnect(ratatosk_codec::ReasonCode::Success);
            // Its clean start discards the session, and nothing else.
            case.client("publisher").connect().ping();
            let mut client = case.client("c").connect();
            client.subscribe(topic, QOS1);
            let message = client.message();
            assert_eq!((message.text(), message.retain), ("kept", true), "{}", case.name);
        }
    }
}

/// RET-002, RET-003: exact and wildcard filters find the right topics, `$` ones by name only.
#[test]
fn retained_messages_are_found_by_filter() {
    let topics = ["a", "a/b", "a/b/c", "a//c", "b/b", "/a", "$x/a", "$x"];
    let expected: [(&str, &[&str]); 10] = [
        ("a/b", &["a/b"]),
        ("a/c", &[]),
        ("a/+", &["a/b"]),
        ("+/b", &["a/b", "b/b"]),
        ("a/#", &["a", "a//c", "a/b", "a/b/c"]),
        ("a/+/c", &["a//c", "a/b/c"]),
        ("#", &["/a", "a", "a//c", "a/b", "a/b/c", "b/b"]),
        ("+/a", &["/a"]),
        ("$x/#", &["$x", "$x/a"]),
        ("$x/+", &["$x/a"]),
    ];
    for case in Case::all(Setup::default) {
        let (mut publisher, mut client, _guard) =
            case.pair(case.client("publisher"), case.client("c"));
        for topic in topics {
            publisher.retain(topic, topic, QOS1);
        }
        for (filter, found) in expected {
            client.subscribe(filter, QOS0);
            let mut got: Vec<String> = found.iter().map(|_| client.message().topic).collect();
            got.sort();
            assert_eq!(got, found, "{}, {filter}", case.name);
            assert_quiet(&mut publisher, &mut client);
            client.unsubscribe(&[filter]);
        }
    }
}

/// RET-002: no more than the limit.
#[test]
fn a_subscription_gets_no_more_than_the_limit() {
    for (limit, expected) in [(Some(0), 0), (Some(3), 3), (None, 300)] {
        let settings =
            || TenantSettings { retain_message_match_limit: limit, ..TenantSettings::default() };
        for case in Case::all(|| Setup { settings: settings(), ..Setup::default() }) {
            let mut publisher = case.client("publisher").connect();
            for number in 0..300 {
                publisher.publish_as(Publish {
                    retain: true,
                    ..Publish::new(&format!("t/{number}"), b"x")
                });
            }
            publisher.ping();
            let mut client = case.client("c").connect();
            client.subscribe("t/#", QOS1);
            for _ in 0..expected {
                assert!(client.message().retain, "{}", case.name);
            }
            assert_quiet(&mut publisher, &mut client);
        }
    }
}

/// RET-005: what comes from the store has the flag, and the lower QoS.
#[test]
fn retained_messages_have_the_flag_and_the_lower_qos() {
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            let mut connector = case.client("c");
            if is_stored {
                connector = connector.persistent();
            }
            let (mut publisher, mut client, _guard) =
                case.pair(case.client("publisher"), connector);
            for qos in ALL_QOS {
                publisher.retain("t", "x", qos);
                publisher.ping();
                for granted in ALL_QOS {
                    client.subscribe("t", granted);
                    let message = client.message();
                    let found: (bool, Qos) = (message.retain, message.qos);
                    assert_eq!(found, (true, qos.min(granted)), "{}, {is_stored}", case.name);
                    client.unsubscribe(&["t"]);
                }
            }
        }
    }
}

/// A persistent session gets retained messages whenever it subscribes, also when it was resumed.
#[test]
fn a_resumed_session_gets_retained_messages() {
    for case in Case::all(Setup::default) {
        let stored = case.client("c").persistent();
        stored.connect().disconnect(ratatosk_codec::ReasonCode::Success);
        let (mut publisher, mut client, _guard) =
            case.pair(case.client("publisher"), stored.clone());
        publisher.retain("t", "x", QOS2);
        for granted in ALL_QOS {
            client.subscribe("t", granted);
            let message = client.message();
            let found = (message.retain, message.qos, message.text());
            assert_eq!(found, (true, granted, "x"), "{}", case.name);
            client.disconnect(ratatosk_codec::ReasonCode::Success);
            client = stored.connect();
        }
    }
}

/// What is retained while a subscription is made comes at least once, and what follows it too.
#[test]
fn no_message_falls_between_store_and_subscription() {
    for case in Case::all(Setup::default) {
        let connector = case.client("publisher");
        let publishing = std::thread::spawn(move || {
            let mut publisher = connector.connect();
            for number in 0..300 {
                publisher.retain("t", number.to_string(), QOS1);
            }
        });
        let mut is_over = false;
        while !is_over {
            let mut client = case.client("c").connect();
            client.subscribe("t", QOS1);
            // What is published meanwhile may come from the store and live, so apart from that.
            let (mut stored, mut live) = (None, Vec::new());
            while live.len() < 4 && !is_over {
                let message = client.message();
                let number: u32 = message.text().parse().expect("a number");
                is_over = number == 299;
                match message.retain {
                    true => assert_eq!(stored.replace(number), None, "the store gives one"),
                    false => live.push(number),
                }
            }
            let is_gapless = live.windows(2).all(|pair| pair[1] == pair[0] + 1);
            assert!(is_gapless, "{}: {live:?} came live", case.name);
            if let (Some(stored), Some(first)) = (stored, live.first()) {
                assert!(stored + 1 >= *first, "{}: {stored}, then {live:?}", case.name);
            }
            client.disconnect(ratatosk_codec::ReasonCode::Success);
        }
        publishing.join().expect("all is retained");
    }
}

/// However few messages its queue holds, a session gets all retained ones, as fast as its client
/// takes them: none is dropped, and the window is kept.
#[test]
fn retained_messages_beyond_the_queue_all_come() {
    const TOPICS: usize = 1000;
    const WINDOW: u16 = 8;
    for is_stored in [false, true] {
        for session_inbox_size in [50, 1] {
            let settings = TenantSettings { session_inbox_size, ..TenantSettings::default() };
            let broker = Broker::with_settings(settings);
            let mut publisher = broker.v5("publisher").connect();
            for number in 0..TOPICS {
                let topic = format!("t/{number}");
                publisher.publish_as(Publish {
                    retain: true,
                    qos: QOS1,
                    ..Publish::new(&topic, b"x")
                });
            }
            publisher.ping();
            let mut connector = broker.v5("c").receive_maximum(WINDOW);
            if is_stored {
                connector = connector.persistent();
            }
            let mut client = connector.connect();
            client.subscribe("t/#", QOS1);
            let (mut topics, mut open) = (BTreeSet::new(), VecDeque::new());
            while topics.len() < TOPICS {
                let message = client.unacknowledged();
                open.push_back(message.packet_id);
                assert!(
                    message.retain && open.len() <= usize::from(WINDOW),
                    "{} in flight",
                    open.len()
                );
                assert!(topics.insert(message.topic), "each comes once");
                // Now and then nothing is acknowledged until no more can come.
                let kept = if topics.len() % 100 < 50 { 0 } else { session_inbox_size.min(8) - 1 };
                while open.len() > kept as usize {
                    let id = open.pop_front().expect("some are open");
                    client.ack(PacketType::Puback, id);
                }
            }
            open.drain(..).for_each(|id| client.ack(PacketType::Puback, id));
            assert_quiet(&mut publisher, &mut client);
            let stats = broker.inbox_when(|stats| stats.queued == 0);
            assert_eq!(stats.dropped.sum(), 0, "stored: {is_stored}");
            assert_eq!(broker.stats_when(|_| true).dropped_overflow, 0, "stored: {is_stored}");
        }
    }
}

/// RET-008: while others read very many retained topics, or do not even read them, a neighbour's
/// messages go to and fro as before.
/// A tenth of a million, because a page does not grow with what there is.
#[test]
fn many_retained_topics_stall_nobody() {
    const TOPICS: usize = 100_000;
    let broker = Broker::start();
    let mut publisher = broker.v5("publisher").connect();
    for number in 0..TOPICS {
        let topic = format!("many/{}/{}", number % 100, number);
        let qos = if number % 10 == 0 { QOS1 } else { QOS0 };
        publisher.publish_as(Publish { retain: true, qos, ..Publish::new(&topic, b"stored") });
        if number % 1000 == 0 {
            publisher.ping();
        }
    }
    publisher.ping();
    assert_eq!(broker.retain.stats().topics, TOPICS);
    // A neighbour on each shard, one who takes nothing, and readers of every kind.
    let mut neighbours = [broker.v5("n1").connect(), broker.v5("n2").connect()];
    for neighbour in &mut neighbours {
        neighbour.subscribe("live", QOS0);
    }
    let mut deaf = broker.v5("deaf").connect();
    deaf.subscribe("#", QOS1);
    let connectors = [
        broker.v5("r1"),
        broker.v5("r2").persistent(),
        broker.v4("r3").persistent(),
        broker.v4("r4"),
    ];
    let all = TOPICS * connectors.len();
    let read = Arc::new(AtomicUsize::new(0));
    let readers = connectors.map(|connector| {
        let read = Arc::clone(&read);
        std::thread::spawn(move || {
            let mut reader = connector.connect();
            reader.subscribe("#", QOS1);
            let mut count = 0;
            while count < TOPICS {
                let is_retained = usize::from(reader.message().retain);
                count += is_retained;
                read.fetch_add(is_retained, Ordering::Relaxed);
            }
        })
    });
    // How far the readers get during one round trip does not depend on how fast the machine is.
    let (mut most, mut trips) = (0, 0);
    while !readers.iter().all(JoinHandle::is_finished) {
        let before = read.load(Ordering::Relaxed);
        publisher.publish("live", "x", QOS0);
        for neighbour in &mut neighbours {
            neighbour.message();
        }
        most = most.max(read.load(Ordering::Relaxed) - before);
        trips += 1;
    }
    for reader in readers {
        reader.join().expect("each reader gets all");
    }
    assert!(trips >= 10, "{trips} round trips while all was read");
    assert!(most < all / 4, "{most} of {all} were read during one round trip");
    let dropped = broker.inbox.stats().dropped;
    assert_eq!((dropped.overflow, dropped.overflow_qos0), (0, 0));
}

/// DUR-009, RET-006: with the log held back nobody is told that a message is retained, though all
/// see it; a crash keeps what was told, to the next subscriber.
#[test]
fn a_retained_message_is_acknowledged_when_it_is_durable() {
    let keyspace = HeldKeyspace::new(Box::new(RetainCoprocessor::new()));
    let broker_on = |keyspace: &Arc<HeldKeyspace>| {
        Broker::with(Setup { retained_in: Some(keyspace.clone()), ..Setup::default() })
    };
    let broker = broker_on(&keyspace);
    let mut publisher = broker.v5("publisher").connect();
    let retained = |topic, qos| Publish { qos, retain: true, ..Publish::new(topic, b"x") };
    let acks = [
        (PacketType::Puback, publisher.publish_as(retained("one", QOS1))),
        (PacketType::Pubrec, publisher.publish_as(retained("two", QOS2))),
    ];
    publisher.publish_as(retained("zero", QOS0));
    publisher.send(&Packet::Pingreq);
    assert_eq!(publisher.event(), Event::Pingresp, "nothing comes before");
    let mut reader = broker.v5("reader").connect();
    reader.subscribe("#", QOS0);
    for topic in ["one", "two", "zero"] {
        assert_eq!(reader.message().topic, topic);
    }
    assert_eq!(keyspace.waiting(), 3);
    keyspace.settle();
    for (kind, id) in acks {
        publisher.find_ack(kind, id);
    }
    publisher.publish_as(retained("lost", QOS1));
    assert_eq!(reader.message().topic, "lost");
    drop(broker);

    let broker = broker_on(&keyspace.crash(Box::new(RetainCoprocessor::new())));
    let (mut publisher, mut reader) =
        (broker.v5("publisher").connect(), broker.v5("reader").connect());
    reader.subscribe("#", QOS2);
    for (topic, qos) in [("one", QOS1), ("two", QOS2), ("zero", QOS0)] {
        let message = reader.message();
        assert_eq!((message.topic.as_str(), message.qos, message.retain), (topic, qos, true));
    }
    assert_quiet(&mut publisher, &mut reader);
}
