//! One test per client library and transport.

use ratatosk_e2e::{Broker, Suite, Transport, run};

fn check(suite: Suite, transport: Transport) {
    let broker = Broker::start(&[transport]).unwrap_or_else(|error| panic!("{error:#}"));
    let held = run(suite, &broker, transport).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{suite:?} over {}: {}", transport.name(), held.join(", "));
}

#[test]
fn paho_over_tcp() {
    check(Suite::Paho, Transport::Tcp);
}

#[test]
fn paho_over_tls() {
    check(Suite::Paho, Transport::Tls);
}

#[test]
fn paho_over_websocket() {
    check(Suite::Paho, Transport::Ws);
}

#[test]
fn paho_over_secure_websocket() {
    check(Suite::Paho, Transport::Wss);
}

#[test]
fn aiomqtt_over_tcp() {
    check(Suite::Aiomqtt, Transport::Tcp);
}

#[test]
fn aiomqtt_over_tls() {
    check(Suite::Aiomqtt, Transport::Tls);
}

#[test]
fn aiomqtt_over_websocket() {
    check(Suite::Aiomqtt, Transport::Ws);
}

#[test]
fn aiomqtt_over_secure_websocket() {
    check(Suite::Aiomqtt, Transport::Wss);
}

#[test]
fn mqttjs_over_tcp() {
    check(Suite::MqttJs, Transport::Tcp);
}

#[test]
fn mqttjs_over_tls() {
    check(Suite::MqttJs, Transport::Tls);
}

#[test]
fn mqttjs_over_websocket() {
    check(Suite::MqttJs, Transport::Ws);
}

#[test]
fn mqttjs_over_secure_websocket() {
    check(Suite::MqttJs, Transport::Wss);
}
