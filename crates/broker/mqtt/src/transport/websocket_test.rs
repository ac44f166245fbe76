//! The upgrade and the frames, in clear.

use proptest::prelude::*;
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::transport::fixture::{
    Connection, PROXY, STRANGER, mqtt_request, plain, refused, request, socket, trusting, websocket,
};
use crate::transport::upgrade::HEAD_MAX;
use crate::transport::{Config, Error, Layers, Pipeline, State, WebSocketConfig};

const KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

fn open() -> Connection {
    let layers = Layers::open(&websocket()).unwrap();
    Connection::new(&layers, STRANGER).with_websocket(mqtt_request()).open()
}

/// A frame of a client, for what tungstenite would not send.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => bytes.push(0x80 | short),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// What a request is answered with, and how the pipeline takes it.
fn upgrade(config: &Config, peer: &str, bytes: &[u8]) -> (String, Result<State, Error>, Pipeline) {
    let mut pipeline = Pipeline::new(&Layers::open(config).unwrap(), socket(peer));
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let outcome = pipeline.receive(bytes, &mut mqtt, &mut wire);
    assert!(mqtt.is_empty());
    (String::from_utf8(wire).unwrap(), outcome.map(|received| received.state), pipeline)
}

fn request_text(line: &str, headers: &str) -> String {
    format!(
        "{line}\r\nHost: broker.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

fn sub_protocol(offered: &str, expected: Option<&str>) {
    let text = request_text("GET /mqtt HTTP/1.1", offered);
    let (answer, outcome, _) = upgrade(&websocket(), STRANGER, text.as_bytes());
    assert_eq!(outcome, Ok(State::Open), "{offered}");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let accept = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
    assert!(answer.to_ascii_lowercase().contains(accept), "{answer}");
    let selected = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-protocol").then_some(value)
    });
    assert_eq!(selected, expected, "{offered}");
}

/// MQTT-005: the first offered sub-protocol that is known is returned. [MQTT-6.0.0-4]
#[test]
fn the_first_known_sub_protocol_is_selected() {
    sub_protocol("Sec-WebSocket-Protocol: mqtt\r\n", Some("mqtt"));
    sub_protocol("Sec-WebSocket-Protocol: mqttv3.1\r\n", Some("mqttv3.1"));
    sub_protocol("Sec-WebSocket-Protocol: mqttv3.1.1\r\n", Some("mqttv3.1.1"));
    sub_protocol("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", Some("mqttv3.1"));
    sub_protocol("Sec-WebSocket-Protocol: chat,mqttv3.1.1 , mqtt\r\n", Some("mqttv3.1.1"));
    let two = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt\r\n";
    sub_protocol(two, Some("mqtt"));
}

/// MQTT-005: a client that offers no sub-protocol is accepted without one.
#[test]
fn a_client_without_sub_protocol_is_accepted() {
    sub_protocol("", None);
}

fn refusal(config: &Config, bytes: &[u8], expected: &str) {
    let (answer, outcome, pipeline) = upgrade(config, STRANGER, bytes);
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    assert!(matches!(outcome, Err(Error::UpgradeRefused { .. })), "{text} {outcome:?}");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text} {answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{answer}");
    assert!(head.ends_with("Connection: close"), "{answer}");
    assert!(body.contains(expected), "{text} {body}");
    let mut pipeline = pipeline;
    assert_eq!(pipeline.send(b"mqtt", &mut Vec::new()), Err(Error::NotOpen));
    let later = pipeline.receive(&frame(0x82, b"mqtt"), &mut Vec::new(), &mut Vec::new());
    assert_eq!(later.map(|received| received.state), Ok(State::Closed));
}

/// MQTT-005: only unknown sub-protocols are refused.
#[test]
fn a_client_that_offers_only_other_sub_protocols_gets_400() {
    let text = request_text("GET /mqtt HTTP/1.1", "Sec-WebSocket-Protocol: chat, MQTT\r\n");
    refusal(&websocket(), text.as_bytes(), "none of the offered sub-protocols");
}

/// MQTT-006: a wrong path gets 400.
#[test]
fn a_wrong_path_gets_400() {
    for path in ["/", "/mqtt/", "/MQTT", "/mqttx", "/other?x=/mqtt", "*"] {
        let text = request_text(&format!("GET {path} HTTP/1.1"), "");
        refusal(&websocket(), text.as_bytes(), "path");
    }
}

/// MQTT-004, MQTT-006: the path is configurable, and a query is no part of it.
#[test]
fn the_configured_path_is_served() {
    let layer = WebSocketConfig { path: "/broker/ws".to_owned(), frame_max: 4096 };
    let config = Config { websocket: Some(layer), ..plain() };
    let text = request_text("GET /broker/ws?token=1 HTTP/1.1", "");
    let (_, outcome, _) = upgrade(&config, STRANGER, text.as_bytes());
    assert_eq!(outcome, Ok(State::Open));
    refusal(&config, request_text("GET /mqtt HTTP/1.1", "").as_bytes(), "path");
}

/// MQTT-006: whatever is no upgrade gets 400.
#[test]
fn what_is_no_upgrade_gets_400() {
    let good = request_text("GET /mqtt HTTP/1.1", "");
    for (from, to) in [
        ("GET ", "POST "),
        ("HTTP/1.1", "HTTP/1.0"),
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("Connection: keep-alive, Upgrade", "Connection: close"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
        ("Sec-WebSocket-Key: dGhl", "Sec-WebSocket-Key: "),
        ("Host:", "Ho st:"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        refusal(&websocket(), bad.as_bytes(), "not a WebSocket upgrade");
    }
    refusal(&websocket(), b"GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n", "not a WebSocket upgrade");
    let smuggled = good.replacen("\r\n\r\n", "\n\nGET / HTTP/1.1\r\n\r\n", 1);
    refusal(&websocket(), smuggled.as_bytes(), "not a WebSocket upgrade");
    refusal(&websocket(), b"\x10\x0c\x00\x04MQTT", "expects an HTTP request");
    refusal(&websocket(), b"\x16\x03\x01", "expects an HTTP request");
}

/// MQTT-006: an endless head is refused at its limit and holds no more than that.
#[test]
fn a_head_that_never_ends_is_refused_at_its_limit() {
    let mut pipeline = Pipeline::new(&Layers::open(&websocket()).unwrap(), socket(STRANGER));
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let head = b"GET /mqtt HTTP/1.1\r\n".iter().chain(b"A: b\r\n".iter().cycle());
    let mut taken = 0;
    for byte in head.take(10 * HEAD_MAX) {
        taken += 1;
        let outcome = pipeline.receive(&[*byte], &mut mqtt, &mut wire);
        assert!(pipeline.memory() < 2 * HEAD_MAX + 1024, "{}", pipeline.memory());
        if outcome.is_err() {
            break;
        }
        assert!(wire.is_empty());
    }
    assert_eq!(taken, HEAD_MAX);
    assert!(wire.starts_with(b"HTTP/1.1 400 "));
    let mut whole = b"GET /mqtt HTTP/1.1\r\nA: ".to_vec();
    whole.resize(1 << 20, b'b');
    refusal(&websocket(), &whole, "too large");
}

fn real_address(config: &Config, peer: &str, before: &str, headers: &str, expected: &str) {
    let text = before.to_owned() + &request_text("GET /mqtt HTTP/1.1", headers);
    let (_, outcome, pipeline) = upgrade(config, peer, text.as_bytes());
    assert_eq!(outcome, Ok(State::Open), "{headers}");
    assert_eq!(pipeline.peer().address, socket(expected), "{headers}");
    assert_eq!(pipeline.peer().socket, socket(peer), "{headers}");
}

/// MQTT-007: a trusted proxy's X-Real-IP and X-Real-Port are the client's address.
#[test]
fn the_real_address_comes_from_a_trusted_proxy() {
    let config = trusting(websocket());
    let both = "X-Real-IP: 192.0.2.7\r\nX-Real-Port: 5555\r\n";
    real_address(&config, PROXY, "", both, "192.0.2.7:5555");
    real_address(&config, PROXY, "", "X-Real-IP: 2001:db8::7\r\n", "[2001:db8::7]:0");
    real_address(&config, PROXY, "", "X-Real-IP: ::ffff:192.0.2.7\r\n", "192.0.2.7:0");
    real_address(&config, PROXY, "", "X-Real-Port: 5555\r\n", PROXY);
    real_address(&config, PROXY, "PROXY UNKNOWN\r\n", both, "192.0.2.7:5555");
}

/// MQTT-007, MQTT-008: the PROXY header's address goes before X-Real-IP.
#[test]
fn the_proxy_header_goes_before_the_real_address() {
    let header = "PROXY TCP4 198.51.100.1 192.0.2.1 1000 8083\r\n";
    let both = "X-Real-IP: 192.0.2.7\r\nX-Real-Port: 5555\r\n";
    real_address(&trusting(websocket()), PROXY, header, both, "198.51.100.1:1000");
}

/// MQTT-007, MQTT-010: nobody else can choose his address.
#[test]
fn the_real_address_of_a_stranger_is_ignored() {
    let both = "X-Real-IP: 192.0.2.7\r\nX-Real-Port: 5555\r\n";
    real_address(&trusting(websocket()), STRANGER, "", both, STRANGER);
    real_address(&websocket(), PROXY, "", both, PROXY);
}

/// MQTT-007: an address that is unclear is refused rather than replaced by the proxy's.
#[test]
fn an_unclear_real_address_gets_400() {
    for headers in [
        "X-Real-IP: unix:\r\n",
        "X-Real-IP: 192.0.2.7, 192.0.2.8\r\n",
        "X-Real-IP: 192.0.2.7\r\nX-Real-IP: 192.0.2.8\r\n",
        "X-Real-IP: 192.0.2.7\r\nX-Real-Port: many\r\n",
    ] {
        let text = request_text("GET /mqtt HTTP/1.1", headers);
        let (answer, outcome, _) = upgrade(&trusting(websocket()), PROXY, text.as_bytes());
        assert!(matches!(outcome, Err(Error::UpgradeRefused { .. })), "{headers}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

/// The client library takes part in the handshake and finds nothing to object.
#[test]
fn both_directions_carry_mqtt() {
    let mut connection = open();
    for size in [0, 1, 125, 126, 1000, 4096] {
        connection.send(&vec![7; size]);
        assert_eq!(connection.settle(), Ok(State::Open));
        assert_eq!(std::mem::take(&mut connection.mqtt), vec![7; size]);
    }
    for size in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
        connection.serve(&vec![9; size]);
        assert_eq!(std::mem::take(&mut connection.answered), vec![9; size]);
    }
    assert_eq!(connection.failure(), None);
}

/// [MQTT-6.0.0-2] Packets need not align with frames, and payload is passed on as it arrives.
#[test]
fn fragments_and_halves_of_frames_are_passed_on_as_they_arrive() {
    let mut connection = open();
    let first = frame(0x02, b"\x10\x0c\x00\x04MQ");
    let (half, rest) = first.split_at(8);
    connection.raw_send(half);
    assert_eq!(connection.settle(), Ok(State::Open));
    assert_eq!(connection.mqtt, b"\x10\x0c");
    connection.raw_send(rest);
    connection.raw_send(&frame(0x89, b"between"));
    connection.raw_send(&frame(0x00, b""));
    connection.raw_send(&frame(0x00, b"TT\x04"));
    connection.raw_send(&frame(0x80, b"\x02\x00\x3c\x00\x00\xc0\x00\xc0"));
    connection.raw_send(&frame(0x82, b"\x00\xe0\x00"));
    connection.raw.clear();
    assert_eq!(connection.settle(), Ok(State::Open));
    assert_eq!(
        connection.mqtt,
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\xc0\x00\xc0\x00\xe0\x00"
    );
    // The ping between the fragments was answered with its own payload.
    assert_eq!(connection.raw, b"\x8a\x07between");
}

fn breach(bytes: &[u8], expected: &Error, code: u16) {
    let mut connection = open();
    connection.send(b"before");
    connection.raw_send(bytes);
    connection.raw_send(&frame(0x82, b"after"));
    connection.raw.clear();
    assert_eq!(connection.settle().as_ref(), Err(expected));
    assert_eq!(connection.mqtt, b"before");
    let [high, low] = code.to_be_bytes();
    assert_eq!(connection.raw, [0x88, 2, high, low], "{expected}");
    // The close frame is sent once.
    assert_eq!(connection.serve_close(), 0);
}

/// [MQTT-6.0.0-1] Any data frame but a binary one closes the connection.
#[test]
fn a_text_frame_closes_with_1003() {
    breach(&frame(0x81, b"text"), &Error::TextFrame, 1003);
    breach(&frame(0x01, b""), &Error::TextFrame, 1003);
}

#[test]
fn an_unmasked_frame_closes_with_1002() {
    breach(&[0x82, 1, b'x'], &Error::UnmaskedFrame, 1002);
    breach(&[0x89, 0], &Error::UnmaskedFrame, 1002);
}

#[test]
fn an_oversized_frame_closes_with_1009() {
    let error = Error::FrameOversized { size: 4097, maximum: 4096 };
    breach(&frame(0x82, &[0; 4097]), &error, 1009);
    let mut endless = vec![0x82, 0xff];
    endless.extend(u64::MAX.to_be_bytes());
    endless.extend(KEY);
    breach(&endless, &Error::FrameOversized { size: u64::MAX, maximum: 4096 }, 1009);
}

#[test]
fn a_frame_may_always_hold_the_largest_packet() {
    let layers = Layers::open(&Config { packet_size_max: 9000, ..websocket() }).unwrap();
    let mut connection = Connection::new(&layers, STRANGER).with_websocket(mqtt_request()).open();
    connection.raw_send(&frame(0x82, &[5; 9000]));
    assert_eq!(connection.settle(), Ok(State::Open));
    assert_eq!(connection.mqtt, [5; 9000]);
    connection.raw_send(&frame(0x82, &[5; 9001]));
    let error = Error::FrameOversized { size: 9001, maximum: 9000 };
    assert_eq!(connection.settle(), Err(error));
}

#[test]
fn breaches_of_the_frame_protocol_close_the_connection() {
    let reserved = Error::WebSocketProtocol("reserved bit without an extension");
    breach(&frame(0xc2, b"x"), &reserved, 1002);
    let unknown = Error::WebSocketProtocol("unknown operation code");
    breach(&frame(0x83, b"x"), &unknown, 1002);
    breach(&frame(0x8b, b"x"), &unknown, 1002);
    let orphan = Error::WebSocketProtocol("continuation without a message");
    breach(&frame(0x80, b"x"), &orphan, 1002);
    let nested = Error::WebSocketProtocol("new message within a fragmented one");
    breach(&[frame(0x02, b""), frame(0x82, b"x")].concat(), &nested, 1002);
    let control = Error::WebSocketProtocol("control frame too long or fragmented");
    breach(&frame(0x09, b"x"), &control, 1002);
    breach(&frame(0x89, &[0; 126]), &control, 1002);
    let short = Error::WebSocketProtocol("close frame of one byte");
    breach(&frame(0x88, b"x"), &short, 1002);
    let status = Error::WebSocketProtocol("close status that must not be sent");
    breach(&frame(0x88, &1005_u16.to_be_bytes()), &status, 1002);
    let reason = Error::WebSocketProtocol("close reason is not utf-8");
    breach(&frame(0x88, b"\x03\xe8\xff"), &reason, 1007);
}

#[test]
fn pings_are_answered_and_pongs_ignored() {
    let mut connection = open();
    connection.message(Message::Ping(b"are you there".to_vec().into()));
    connection.message(Message::Pong(b"nobody asked".to_vec().into()));
    connection.raw_send(&frame(0x89, &[3; 125]));
    connection.raw.clear();
    assert_eq!(connection.settle(), Ok(State::Open));
    let mut expected = b"\x8a\x0dare you there\x8a\x7d".to_vec();
    expected.extend([3; 125]);
    assert_eq!(connection.raw, expected);
    assert!(connection.mqtt.is_empty());
}

#[test]
fn a_close_frame_of_the_peer_is_answered_and_ends_the_connection() {
    for (close, answer) in [
        (None, &[0x88, 0][..]),
        (
            Some(CloseFrame { code: CloseCode::Away, reason: "leaving".into() }),
            &[0x88, 2, 0x03, 0xe9][..],
        ),
    ] {
        let mut connection = open();
        connection.send(b"last");
        connection.message(Message::Close(close));
        connection.raw_send(&frame(0x82, b"after"));
        connection.raw.clear();
        assert_eq!(connection.settle(), Ok(State::Closed));
        assert_eq!(connection.mqtt, b"last");
        assert_eq!(connection.raw, answer);
        assert_eq!(connection.serve_close(), 0);
    }
}

#[test]
fn closing_sends_one_close_frame_and_nothing_after_it() {
    let mut connection = open();
    connection.raw.clear();
    assert_eq!(connection.serve_close(), 4);
    assert_eq!(connection.raw, [0x88, 2, 0x03, 0xe8]);
    assert_eq!(connection.serve_close(), 0);
    assert_eq!(connection.pipeline.send(b"late", &mut Vec::new()), Err(Error::NotOpen));
    connection.raw_send(&frame(0x82, b"after"));
    assert_eq!(connection.settle(), Ok(State::Closed));
    assert!(connection.mqtt.is_empty());
}

#[test]
fn nothing_is_sent_before_the_upgrade() {
    let layers = Layers::open(&websocket()).unwrap();
    let mut connection = Connection::new(&layers, STRANGER).with_websocket(mqtt_request());
    let mut wire = Vec::new();
    assert_eq!(connection.pipeline.send(b"early", &mut wire), Err(Error::NotOpen));
    assert_eq!(connection.serve_close(), 0);
    assert!(wire.is_empty());
}

#[test]
fn a_client_library_sees_the_refusal() {
    let layers = Layers::open(&websocket()).unwrap();
    let mut connection = Connection::new(&layers, STRANGER).with_websocket(request("/other", &[]));
    assert!(connection.settle().is_err());
    assert!(connection.failure().is_some_and(|reason| reason.contains("400")));
}

#[test]
fn an_open_connection_holds_no_buffers() {
    let mut connection = open();
    connection.send(&[1; 4000]);
    connection.message(Message::Ping(vec![1; 100].into()));
    assert_eq!(connection.settle(), Ok(State::Open));
    assert_eq!(connection.pipeline.memory(), size_of::<Pipeline>());
}

#[test]
fn a_path_that_no_request_can_name_is_refused() {
    for path in ["", "mqtt", "/a b", "/a?b", "/a#b", "/ü"] {
        let layer = WebSocketConfig { path: path.to_owned(), frame_max: 4096 };
        let reason = refused(&Config { websocket: Some(layer), ..plain() });
        assert!(reason.contains("must begin with /"), "{reason}");
    }
}

proptest! {
    /// Nothing that a client sends, cut anywhere, does more than end its own connection; what is
    /// written back is bounded by what was received.
    #[test]
    fn garbage_ends_a_connection_at_worst(
        is_open in any::<bool>(),
        starts in prop::collection::vec((any::<u8>(), any::<u8>()), 0..8),
        tail in prop::collection::vec(any::<u8>(), 0..400),
        cut in 1_usize..64,
    ) {
        let mut connection = open();
        if !is_open {
            connection.pipeline =
                Pipeline::new(&Layers::open(&websocket()).unwrap(), socket(STRANGER));
        }
        let mut bytes = Vec::new();
        for (first, length) in starts {
            bytes.extend(frame(first, &vec![first; usize::from(length)]));
        }
        bytes.extend(tail);
        let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
        let mut has_ended = false;
        for piece in bytes.chunks(cut) {
            let before = mqtt.len();
            match connection.pipeline.receive(piece, &mut mqtt, &mut wire) {
                Ok(received) if has_ended => {
                    prop_assert_eq!(received.state, State::Closed);
                    prop_assert_eq!(mqtt.len(), before);
                }
                Ok(received) => has_ended = received.state == State::Closed,
                Err(_) => has_ended = true,
            }
        }
        prop_assert!(mqtt.len() <= bytes.len());
        prop_assert!(wire.len() <= bytes.len() + 512);
    }
}
