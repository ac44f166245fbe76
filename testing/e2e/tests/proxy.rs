//! PROXY headers before TCP and TLS, from those who may send them and those who may not.

use ratatosk_e2e::{Broker, Connect, Outcome, Raw, Relay, Transport, mosquitto};

const CLIENT_V4: &str = "203.0.113.7:4711";
const CLIENT_V6: &str = "[2001:db8::7]:4712";
const CONNECT: Connect<'_> = Connect { version: 5, client_id: "raw", credentials: None };

fn version_1() -> Vec<u8> {
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 1883\r\n".to_vec()
}

/// Version 2 with a command, an address block and a TLV that nobody knows.
fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let tlv = [0xe0, 0, 2, 1, 2];
    let length = u16::try_from(addresses.len() + tlv.len()).expect("short");
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let head = [&signature[..], &[0x20 | command, family], &length.to_be_bytes()].concat();
    [&head[..], addresses, &tlv].concat()
}

fn version_2_v6() -> Vec<u8> {
    let mut addresses = vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    addresses.extend([0; 16]);
    addresses.extend(4712_u16.to_be_bytes());
    addresses.extend(1883_u16.to_be_bytes());
    version_2(1, 0x21, &addresses)
}

fn start(transport: Transport, trusted: &str, more: &[&str]) -> Broker {
    let trusted = format!("listener.0.proxy_protocol.trusted=[{trusted}]");
    let settings = [&[trusted.as_str(), "log.level=debug"], more].concat();
    Broker::start_with(&[transport], &settings).unwrap_or_else(|error| panic!("{error:#}"))
}

fn publish(broker: &Broker, transport: Transport, port: u16) -> Outcome {
    let mut arguments = vec!["-t", "a", "-q", "1", "-m", "x", "-i", "mosquitto"];
    if transport == Transport::Tls {
        arguments.extend(["--cafile", "authority.pem"]);
    }
    broker.place().run(mosquitto("mosquitto_pub", port, &arguments), "").expect("runs")
}

fn check(transport: Transport) {
    let broker = start(transport, "\"127.0.0.1\"", &[]);
    let target = broker.port(transport);
    for (number, (header, client)) in
        [(version_1(), CLIENT_V4), (version_2_v6(), CLIENT_V6)].into_iter().enumerate()
    {
        let relay = Relay::start(target, &header).expect("starts");
        let outcome = publish(&broker, transport, relay.port());
        assert_eq!(outcome.code, Some(0), "{client}: {}", outcome.output);
        let lines = broker.wait_for_log("\"message\":\"client connected\"", number + 1);
        let lines = lines.expect("is logged");
        let told = format!("\"peer\":\"{client}\"");
        assert!(lines[number].contains(&told), "{told} in {}", lines[number]);
    }
    // Where it is not required, a client may also come directly.
    assert_eq!(publish(&broker, transport, target).code, Some(0));
    let lines = broker.wait_for_log("\"message\":\"client connected\"", 3).expect("is logged");
    assert!(lines[2].contains("\"peer\":\"127.0.0.1:"), "{}", lines[2]);
}

/// MQTT-008, MQTT-009: both versions tell the client's address; no header is no harm.
#[test]
fn a_header_before_tcp_tells_the_address() {
    check(Transport::Tcp);
}

/// MQTT-008: the header precedes the TLS handshake.
#[test]
fn a_header_before_tls_tells_the_address() {
    check(Transport::Tls);
}

/// MQTT-009: a probe of the proxy is closed without an answer, and is no client.
#[test]
fn a_probe_of_the_proxy_is_no_client() {
    let broker = start(Transport::Tcp, "\"127.0.0.1\"", &[]);
    let mut probe = Raw::open(broker.port(Transport::Tcp)).expect("opens");
    probe.write(&version_2(0, 0, &[])).expect("sends");
    assert_eq!(probe.read_to_end().expect("closes"), b"");
    assert_eq!(publish(&broker, Transport::Tcp, broker.port(Transport::Tcp)).code, Some(0));
}

/// MQTT-010: a header from elsewhere, or on a listener without the layer, is refused.
#[test]
fn a_header_from_a_stranger_ends_the_connection() {
    let stranger = start(Transport::Tcp, "\"192.0.2.0/24\"", &[]);
    let off = Broker::start(&[Transport::Tcp]).unwrap_or_else(|error| panic!("{error:#}"));
    for broker in [stranger, off] {
        let port = broker.port(Transport::Tcp);
        for header in [version_1(), version_2_v6()] {
            let mut raw = Raw::open(port).expect("opens");
            raw.write(&[header, CONNECT.encode()].concat()).expect("sends");
            assert_eq!(raw.try_packet().expect("closes"), None);
        }
        let (_, connack) = Raw::connect(port, &CONNECT).expect("answers");
        assert_eq!((connack.head, connack.body[1]), (0x20, 0));
    }
}

/// MQTT-010: where the header is required, a connection without one is refused.
#[test]
fn a_required_header_must_be_there() {
    let broker =
        start(Transport::Tcp, "\"127.0.0.1\"", &["listener.0.proxy_protocol.required=true"]);
    let port = broker.port(Transport::Tcp);
    let mut raw = Raw::open(port).expect("opens");
    raw.write(&CONNECT.encode()).expect("sends");
    assert_eq!(raw.try_packet().expect("closes"), None);
    let mut raw = Raw::open(port).expect("opens");
    // However the header is cut, it is read as one.
    for byte in version_1() {
        raw.write(&[byte]).expect("sends");
    }
    raw.write(&CONNECT.encode()).expect("sends");
    assert_eq!(raw.packet().expect("answers").body[1], 0);
}
