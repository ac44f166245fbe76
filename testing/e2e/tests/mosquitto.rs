//! mosquitto's command-line clients.

use ratatosk_e2e::{Broker, Exchange, Transport, retained, round_trip};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

fn check(transport: Transport) {
    let broker = Broker::start(&[transport]).unwrap_or_else(|error| panic!("{error:#}"));
    for version in VERSIONS {
        for qos in [1, 2] {
            let exchange = Exchange { broker: &broker, transport, version, qos };
            let name = format!("{version}-{qos}");
            // Version 2.0 of the client closes after its Receive Maximum of 20 messages at QoS 2.
            let count = if (version, qos) == ("mqttv5", 2) { 20 } else { 100 };
            round_trip(&exchange, &name, count).unwrap_or_else(|error| panic!("{error:#}"));
        }
        for qos in [0, 1, 2] {
            let exchange = Exchange { broker: &broker, transport, version, qos };
            let topic = format!("mosquitto/retained/{version}/{qos}");
            retained(&exchange, &topic, "kept").unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}

/// MQTT-001, INBOX-004, RET-001: [MQTT-7.0.0-2] three versions, sleeping sessions and retained
/// messages, with clients that know nothing of this broker.
#[test]
fn mosquitto_clients_over_tcp() {
    check(Transport::Tcp);
}

/// MQTT-001, MQTT-003: the same over TLS.
#[test]
fn mosquitto_clients_over_tls() {
    check(Transport::Tls);
}
