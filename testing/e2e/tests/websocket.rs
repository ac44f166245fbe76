//! WebSocket as no library does it: frames cut in pieces, text, other paths.

use ratatosk_e2e::{Broker, Connect, Raw, Request, Transport};

const BINARY: u8 = 0x82;
const BINARY_BEGINS: u8 = 0x02;
const CONTINUES: u8 = 0x00;
const CONTINUES_LAST: u8 = 0x80;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CONNECT: Connect<'_> = Connect { version: 5, client_id: "raw", credentials: None };

fn start(settings: &[&str]) -> Broker {
    Broker::start_with(&[Transport::Ws], settings).unwrap_or_else(|error| panic!("{error:#}"))
}

fn open(broker: &Broker) -> Raw {
    let mut raw = Raw::open(broker.port(Transport::Ws)).expect("opens");
    let status = raw.upgrade("/mqtt").expect("answers");
    assert_eq!(status, "HTTP/1.1 101 Switching Protocols");
    raw
}

/// MQTT-006: whatever is no upgrade at the configured path gets 400, and the socket closes.
#[test]
fn other_paths_and_other_requests_get_400() {
    let broker = start(&["listener.0.path=/broker"]);
    let port = broker.port(Transport::Ws);
    for path in ["/mqtt", "/", "/broker/x"] {
        let mut raw = Raw::open(port).expect("opens");
        let status = raw.upgrade(path).expect("answers");
        assert!(status.starts_with("HTTP/1.1 400"), "{path}: {status}");
        raw.read_to_end().expect("closes");
    }
    let mut raw = Raw::open(port).expect("opens");
    raw.write(b"GET /broker HTTP/1.1\r\nHost: x\r\n\r\n").expect("sends");
    let answer = raw.read_to_end().expect("closes");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let mut raw = Raw::open(port).expect("opens");
    assert!(raw.upgrade("/broker").expect("answers").contains(" 101 "));
}

/// A text frame closes the connection. [MQTT-6.0.0-1]
#[test]
fn a_text_frame_closes_the_connection() {
    let broker = start(&[]);
    let mut raw = open(&broker);
    raw.frame(TEXT, &CONNECT.encode()).expect("sends");
    let (first, payload) = raw.read_frame().expect("answers");
    assert_eq!((first, &payload[..2]), (CLOSE, &1003_u16.to_be_bytes()[..]));
    assert_eq!(raw.read_to_end().expect("closes"), b"");
}

/// Packets need not be aligned with frames. [MQTT-6.0.0-2]
#[test]
fn packets_are_read_across_frames_and_fragments() {
    let broker = start(&[]);
    let mut raw = open(&broker);
    // One packet in three fragments, with a ping in between.
    let connect = CONNECT.encode();
    raw.frame(BINARY_BEGINS, &connect[..1]).expect("sends");
    raw.frame(CONTINUES, &connect[1..5]).expect("sends");
    raw.frame(PING, b"there?").expect("sends");
    raw.frame(CONTINUES_LAST, &connect[5..]).expect("sends");
    assert_eq!(raw.read_frame().expect("answers"), (PONG, b"there?".to_vec()));
    let connack = raw.packet().expect("answers");
    assert_eq!((connack.head, connack.body[1]), (0x20, 0));
    // Two packets in one frame, then one in as many frames as it has bytes.
    let request = Request { version: 5 };
    let both = [request.subscribe("a"), request.publish("a", "1", 1)].concat();
    raw.frame(BINARY, &both).expect("sends");
    for byte in request.publish("a", "2", 1) {
        raw.frame(BINARY, &[byte]).expect("sends");
    }
    let mut delivered = Vec::new();
    let mut heads = Vec::new();
    while delivered.len() < 2 || heads.len() < 3 {
        let packet = raw.packet().expect("answers");
        match packet.head & 0xf0 {
            0x30 => delivered.push(*packet.body.last().expect("a payload")),
            _ => heads.push(packet.head),
        }
    }
    assert_eq!(delivered, b"12");
    assert_eq!(heads, [0x90, 0x40, 0x40]);
}

/// A close frame is answered with the same code before the socket closes.
#[test]
fn a_close_frame_is_answered() {
    let broker = start(&[]);
    let mut raw = open(&broker);
    raw.frame(BINARY, &CONNECT.encode()).expect("sends");
    assert_eq!(raw.packet().expect("answers").body[1], 0);
    raw.frame(CLOSE, &1000_u16.to_be_bytes()).expect("sends");
    assert_eq!(raw.read_frame().expect("answers"), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
    assert_eq!(raw.read_to_end().expect("closes"), b"");
}

/// MQTT-068: a packet above the limit is told so, whatever its frame.
#[test]
fn a_packet_that_is_too_large_is_told_within_a_frame() {
    let broker = start(&["tenant.max_user_payload_bytes=100"]);
    let mut raw = open(&broker);
    raw.frame(BINARY, &CONNECT.encode()).expect("sends");
    assert_eq!(raw.packet().expect("answers").body[1], 0);
    let publish = Request { version: 5 }.publish("a", &"x".repeat(100), 1);
    raw.frame(BINARY, &publish).expect("sends");
    let farewell = raw.packet().expect("answers");
    assert_eq!((farewell.head, farewell.body[0]), (0xe0, 0x95));
    assert_eq!(raw.read_frame().expect("answers").0, CLOSE);
}

/// MQTT-007: a trusted proxy tells the client's address in the request; a stranger does not.
#[test]
fn the_real_address_is_believed_from_a_trusted_proxy() {
    for (trusted, expected) in [("127.0.0.1", "203.0.113.7:4711"), ("192.0.2.1", "127.0.0.1:")] {
        let trusted = format!("listener.0.proxy_protocol.trusted=[\"{trusted}\"]");
        let broker = start(&[&trusted, "log.level=debug"]);
        let mut raw = Raw::open(broker.port(Transport::Ws)).expect("opens");
        let headers = "X-Real-IP: 203.0.113.7\r\nX-Real-Port: 4711\r\n";
        assert!(raw.upgrade_with("/mqtt", headers).expect("answers").contains(" 101 "));
        raw.frame(BINARY, &CONNECT.encode()).expect("sends");
        assert_eq!(raw.packet().expect("answers").body[1], 0);
        let lines = broker.wait_for_log("\"message\":\"client connected\"", 1).expect("is logged");
        let told = format!("\"peer\":\"{expected}");
        assert!(lines[0].contains(&told), "{told} in {}", lines[0]);
    }
}

/// A graceful stop says goodbye in MQTT first, then in WebSocket.
#[test]
fn a_stop_is_told_within_a_frame() {
    let broker = start(&[]);
    let mut raw = open(&broker);
    raw.frame(BINARY, &CONNECT.encode()).expect("sends");
    assert_eq!(raw.packet().expect("answers").body[1], 0);
    broker.signal("TERM").expect("is told");
    let farewell = raw.packet().expect("is told");
    assert_eq!((farewell.head, farewell.body[0]), (0xe0, 0x8b));
    assert_eq!(raw.read_frame().expect("is told").0, CLOSE);
    assert_eq!(raw.read_to_end().expect("closes"), b"");
}
