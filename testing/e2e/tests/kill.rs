//! kill -9 of the broker: what was acknowledged is there afterwards.

use ratatosk_e2e::{Broker, Exchange, Transport, publish, retained_again};

const TRANSPORT: Transport = Transport::Tcp;

/// DUR-002, MQTT-043: a sleeping session has every acknowledged message after kill -9.
#[test]
fn acknowledged_messages_survive_kill() {
    let mut broker = Broker::start(&[TRANSPORT]).unwrap_or_else(|error| panic!("{error:#}"));
    let sent: Vec<String> = (0..500).map(|number| format!("message {number}")).collect();
    let exchange = Exchange { broker: &broker, transport: TRANSPORT, version: "mqttv311", qos: 1 };
    let sleeper =
        exchange.fall_asleep("sleeper", "kill/a").unwrap_or_else(|error| panic!("{error:#}"));
    publish(&exchange, "kill/a", &sent).unwrap_or_else(|error| panic!("{error:#}"));
    broker.kill_and_restart().unwrap_or_else(|error| panic!("{error:#}"));
    let exchange = Exchange { broker: &broker, transport: TRANSPORT, version: "mqttv311", qos: 1 };
    let received = exchange.wake(&sleeper, sent.len()).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(received, sent);
}

/// DUR-002, RET-006: a retained message is there after kill -9.
#[test]
fn retained_messages_survive_kill() {
    let mut broker = Broker::start(&[TRANSPORT]).unwrap_or_else(|error| panic!("{error:#}"));
    let exchange = Exchange { broker: &broker, transport: TRANSPORT, version: "mqttv5", qos: 1 };
    ratatosk_e2e::retained(&exchange, "kill/retained", "kept")
        .unwrap_or_else(|error| panic!("{error:#}"));
    broker.kill_and_restart().unwrap_or_else(|error| panic!("{error:#}"));
    let exchange = Exchange { broker: &broker, transport: TRANSPORT, version: "mqttv5", qos: 1 };
    retained_again(&exchange, "kill/retained", "kept").unwrap_or_else(|error| panic!("{error:#}"));
}
