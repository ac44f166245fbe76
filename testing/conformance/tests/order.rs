//! The order of messages, under load.

use std::collections::{HashMap, VecDeque};

use ratatosk_conformance::{Broker, Client};

use crate::cases::{ALL_QOS, QOS0, QOS1, QOS2, VERSIONS};

/// MQTT-069: [MQTT-4.6.0-5] [MQTT-4.6.0-6] each subscriber gets the messages of a publisher on a topic in their order, whatever
/// happens around it.
#[test]
fn messages_of_a_publisher_keep_their_order() {
    for seed in 0..4 {
        keep_order(seed);
    }
}

/// A small generator, so that a seed says all.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u32) -> usize {
        usize::try_from(self.next() % u64::from(bound)).expect("below the bound")
    }
}

/// Publishers on both shards, each on two topics at a QoS of its own; subscribers of both kinds
/// on both shards; a third party that changes routes all the time.
fn keep_order(seed: u64) {
    const PUBLISHERS: u64 = 4;
    const COUNT: u64 = 400;
    let mut random = Random(seed * 0x9E37_79B9 + 0x1234_5678_9ABC);
    let broker = Broker::start();
    let filters = ["order/#", "order/+/a", "+/+/b"];
    let mut subscribers = Vec::new();
    for number in 0..4 {
        let version = VERSIONS[random.below(2)];
        let mut connector = broker.client(version, &format!("s{number}"));
        if random.below(2) == 0 {
            connector = connector.persistent();
        }
        let mut client = connector.connect();
        let filter = filters[random.below(3)];
        client.subscribe(filter, QOS2);
        subscribers.push((client, filter));
    }
    let mut threads = Vec::new();
    for publisher in 0..PUBLISHERS {
        let qos = ALL_QOS[random.below(3)];
        let connector = broker.client(VERSIONS[random.below(2)], &format!("p{publisher}"));
        let mut random = Random(random.next() | 1);
        threads.push(std::thread::spawn(move || {
            let mut client = connector.connect();
            let mut open = VecDeque::new();
            for number in 0..COUNT {
                let topic = ["a", "b"][random.below(2)];
                let payload = number.to_string();
                let id = client.publish(&format!("order/{publisher}/{topic}"), payload, qos);
                open.push_back(id);
                if open.len() > random.below(16) {
                    let id = open.pop_front().expect("just pushed");
                    client.finish(qos, id);
                }
            }
            for id in open {
                client.finish(qos, id);
            }
            // The last word of each topic.
            for topic in ["a", "b"] {
                client.deliver(&format!("order/{publisher}/{topic}"), "end", qos);
            }
        }));
    }
    let changer = broker.v5("changer");
    threads.push(std::thread::spawn(move || {
        let mut client = changer.connect();
        for number in 0..100 {
            client.subscribe("order/+/none", QOS0);
            client.subscribe(&format!("elsewhere/{number}"), QOS1);
            client.unsubscribe(&["order/+/none"]);
        }
    }));
    for (mut client, filter) in subscribers {
        threads.push(std::thread::spawn(move || check_order(seed, &mut client, filter)));
    }
    for thread in threads {
        thread.join().expect("order is kept");
    }

    fn check_order(seed: u64, client: &mut Client, filter: &str) {
        let per_publisher = if filter == "order/#" { 2 } else { 1 };
        let mut ends_left = PUBLISHERS * per_publisher;
        let mut last = HashMap::new();
        while ends_left > 0 {
            let message = client.message();
            if message.text() == "end" {
                ends_left -= 1;
                continue;
            }
            let number: i64 = message.text().parse().expect("a number");
            let before = last.insert(message.topic.clone(), number).unwrap_or(-1);
            assert!(before < number, "seed {seed}, {}: {number} after {before}", message.topic);
        }
    }
}
