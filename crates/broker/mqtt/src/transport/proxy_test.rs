//! The PROXY header: format by format, then in the pipeline.

use std::net::SocketAddr;

use proptest::prelude::*;

use crate::transport::fixture::{PROXY, STRANGER, plain, refused, socket, trusting, websocket};
use crate::transport::proxy::{Detection, HEADER_MAX, Malformed, Origin, V2_BODY_MAX, parse};
use crate::transport::{Config, Error, Layers, Pipeline, ProxyConfig, Received, State};

const CONNECT: &[u8] = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 1883\r\n";

fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([version_command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend_from_slice(body);
    header
}

fn v2_ipv4() -> Vec<u8> {
    v2(0x21, 0x11, &[192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x07, 0x5b])
}

fn client(address: &str) -> Origin {
    Origin::Client(socket(address))
}

fn check(header: &[u8], expected: Result<Origin, Malformed>) {
    let expected = expected.map(|origin| Detection::Header { origin, size: header.len() });
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(CONNECT);
    assert_eq!(parse(&bytes), expected, "{:?}", header.escape_ascii().to_string());
}

#[test]
fn version_1_headers_are_read() {
    check(V1, Ok(client("192.0.2.7:56324")));
    check(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n", Ok(client("[2001:db8::7]:1")));
    check(b"PROXY UNKNOWN\r\n", Ok(Origin::Unknown));
    check(b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", Ok(Origin::Unknown));
}

#[test]
fn version_1_headers_that_deviate_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 56324 1883 \r\n",
        "PROXY TCP4  192.0.2.7 192.0.2.1 56324 1883\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 56324 1883\r\n",
        "PROXY TCP6 192.0.2.7 192.0.2.1 56324 1883\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 +56324 1883\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 65536 1883\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 56324 \r\n",
        "PROXY TCP5 192.0.2.7 192.0.2.1 56324 1883\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
    ] {
        check(line.as_bytes(), Err(Malformed::Line));
    }
    check(b"PROXY \xff\xff\r\n", Err(Malformed::Line));
}

#[test]
fn a_version_1_header_has_at_most_107_bytes() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(longest.len(), 107);
    check(longest.as_bytes(), Ok(Origin::Unknown));
    let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    check(longer.as_bytes(), Err(Malformed::LineOversized));
}

#[test]
fn version_2_headers_are_read() {
    check(&v2_ipv4(), Ok(client("192.0.2.7:56324")));
    let mut ipv6 = [0_u8; 36];
    ipv6[..2].copy_from_slice(&[0x20, 0x01]);
    ipv6[15] = 7;
    ipv6[32..34].copy_from_slice(&[0x12, 0x34]);
    check(&v2(0x21, 0x21, &ipv6), Ok(client("[2001::7]:4660")));
    check(&v2(0x21, 0x00, b""), Ok(Origin::Unknown));
    check(&v2(0x21, 0x12, &[0; 12]), Ok(Origin::Unknown));
    check(&v2(0x21, 0x31, &[0; 216]), Ok(Origin::Unknown));
    check(&v2(0x20, 0x00, b""), Ok(Origin::HealthCheck));
    check(&v2(0x20, 0x77, b"skipped"), Ok(Origin::HealthCheck));
    let mut with_tlvs = v2_ipv4();
    with_tlvs[15] += 5;
    with_tlvs.extend_from_slice(b"\x04\x00\x02ab");
    check(&with_tlvs, Ok(client("192.0.2.7:56324")));
}

#[test]
fn version_2_headers_that_deviate_are_refused() {
    check(&v2(0x31, 0x11, &[0; 12]), Err(Malformed::Version(3)));
    check(&v2(0x22, 0x11, &[0; 12]), Err(Malformed::Command(2)));
    check(&v2(0x21, 0x13, &[0; 12]), Err(Malformed::Family(0x13)));
    check(&v2(0x21, 0x11, &[0; 11]), Err(Malformed::BodyShort(11)));
    check(&v2(0x21, 0x21, &[0; 35]), Err(Malformed::BodyShort(35)));
    check(&v2(0x21, 0x31, &[0; 215]), Err(Malformed::BodyShort(215)));
    check(&v2(0x21, 0x00, &vec![0; V2_BODY_MAX]), Ok(Origin::Unknown));
    let oversized = V2_BODY_MAX + 1;
    check(&v2(0x21, 0x00, &vec![0; oversized]), Err(Malformed::BodyOversized(oversized)));
}

#[test]
fn what_other_protocols_begin_with_is_no_header() {
    for start in [CONNECT, b"\x16\x03\x01", b"GET / HTTP/1.1", b"POST", b"PR0XY", b"\r\n\r\nx"] {
        assert_eq!(parse(start), Ok(Detection::Absent), "{start:?}");
    }
}

fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        any::<(SocketAddr, SocketAddr)>().prop_map(|(source, target)| {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (source_ip, target_ip) = (source.ip(), target.ip());
            format!(
                "PROXY {family} {source_ip} {target_ip} {} {}\r\n",
                source.port(),
                target.port()
            )
            .into_bytes()
        }),
        (prop::sample::select(&[0x20_u8, 0x21, 0x22, 0x11][..]), any::<u8>(), body)
            .prop_map(|(command, family, body)| v2(command, family, &body)),
        Just(V1.to_vec()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    /// The verdict on any bytes is the same however they were cut, and never a panic.
    #[test]
    fn more_bytes_never_change_a_verdict(
        header in any_header(),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = header;
        bytes.extend_from_slice(&tail);
        let verdict = parse(&bytes);
        for size in 0..bytes.len() {
            match parse(&bytes[..size]) {
                Ok(Detection::Incomplete) => prop_assert!(size < HEADER_MAX),
                early => prop_assert_eq!(early, verdict, "at {}", size),
            }
        }
    }
}

/// One connection: what its state and MQTT bytes are after the pieces, and its pipeline.
fn receive(
    config: &Config,
    peer: &str,
    pieces: &[&[u8]],
) -> (Result<Received, Error>, Vec<u8>, Pipeline) {
    let mut pipeline = Pipeline::new(&Layers::open(config).unwrap(), socket(peer));
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let mut outcome = Ok(Received { state: State::Handshaking });
    for piece in pieces {
        outcome = pipeline.receive(piece, &mut mqtt, &mut wire);
    }
    assert!(wire.is_empty());
    (outcome, mqtt, pipeline)
}

/// MQTT-008, MQTT-010: the address of a trusted proxy's header is the peer's.
#[test]
fn a_trusted_header_tells_the_address() {
    for header in [V1.to_vec(), v2_ipv4()] {
        let (outcome, mqtt, pipeline) = receive(&trusting(plain()), PROXY, &[&header, CONNECT]);
        assert_eq!(outcome, Ok(Received { state: State::Open }));
        assert_eq!(mqtt, CONNECT);
        assert_eq!(pipeline.peer().address, socket("192.0.2.7:56324"));
        assert_eq!(pipeline.peer().socket, socket(PROXY));
    }
}

/// MQTT-010: the sources are compared as IPv4 also on a dual-stack socket.
#[test]
fn a_mapped_proxy_is_trusted_and_a_mapped_client_is_given_as_ipv4() {
    let header = b"PROXY TCP6 ::ffff:192.0.2.7 ::1 56324 1883\r\n";
    let (outcome, _, pipeline) =
        receive(&trusting(plain()), "[::ffff:10.1.2.3]:40000", &[header, CONNECT]);
    assert_eq!(outcome, Ok(Received { state: State::Open }));
    assert_eq!(pipeline.peer().address, socket("192.0.2.7:56324"));
    assert_eq!(pipeline.peer().socket, socket(PROXY));
}

#[test]
fn a_header_without_address_leaves_the_tcp_peer() {
    let (outcome, mqtt, pipeline) =
        receive(&trusting(plain()), PROXY, &[b"PROXY UNKNOWN\r\n", CONNECT]);
    assert_eq!(outcome, Ok(Received { state: State::Open }));
    assert_eq!(mqtt, CONNECT);
    assert_eq!(pipeline.peer().address, socket(PROXY));
}

/// MQTT-009: LOCAL is a health check, and nothing after it is MQTT.
#[test]
fn a_local_header_is_a_health_check() {
    let header = v2(0x20, 0x00, b"");
    let (outcome, mqtt, mut pipeline) =
        receive(&trusting(plain()), PROXY, &[&header, CONNECT, CONNECT]);
    assert_eq!(outcome, Ok(Received { state: State::HealthCheck }));
    assert!(mqtt.is_empty());
    assert_eq!(pipeline.send(CONNECT, &mut Vec::new()), Err(Error::NotOpen));
    let joined = [header.as_slice(), CONNECT].concat();
    let (outcome, mqtt, _) = receive(&trusting(plain()), PROXY, &[&joined]);
    assert_eq!(outcome, Ok(Received { state: State::HealthCheck }));
    assert!(mqtt.is_empty());
}

/// MQTT-009: without a header the connection works, from anywhere.
#[test]
fn a_connection_without_header_passes() {
    for peer in [PROXY, STRANGER] {
        let (outcome, mqtt, pipeline) = receive(&trusting(plain()), peer, &[CONNECT]);
        assert_eq!(outcome, Ok(Received { state: State::Open }));
        assert_eq!(mqtt, CONNECT);
        assert_eq!(pipeline.peer().address, socket(peer));
    }
}

/// MQTT-010: a required header must be there.
#[test]
fn a_connection_without_the_required_header_is_refused() {
    let trusted = vec!["10.0.0.0/8".parse().unwrap()];
    let proxy_protocol = Some(ProxyConfig { trusted, required: true });
    let config = Config { proxy_protocol, ..plain() };
    let (outcome, mqtt, _) = receive(&config, PROXY, &[CONNECT]);
    assert_eq!(outcome, Err(Error::ProxyMissing { peer: socket(PROXY) }));
    assert!(mqtt.is_empty());
    let (outcome, ..) = receive(&config, PROXY, &[V1, CONNECT]);
    assert_eq!(outcome, Ok(Received { state: State::Open }));
}

/// MQTT-010: a header from an untrusted source is refused, a health check too.
#[test]
fn a_header_from_a_stranger_is_refused() {
    for header in [V1.to_vec(), v2_ipv4(), v2(0x20, 0x00, b"")] {
        let (outcome, mqtt, pipeline) = receive(&trusting(plain()), STRANGER, &[&header]);
        assert_eq!(outcome, Err(Error::ProxyUntrusted { peer: socket(STRANGER) }));
        assert!(mqtt.is_empty());
        assert_eq!(pipeline.peer().address, socket(STRANGER));
    }
}

/// MQTT-010: switched off, a header is not looked for.
#[test]
fn a_header_on_a_listener_without_the_layer_is_not_believed() {
    let mut pipeline = Pipeline::new(&Layers::open(&websocket()).unwrap(), socket(PROXY));
    let outcome = pipeline.receive(&v2_ipv4(), &mut Vec::new(), &mut Vec::new());
    assert!(matches!(outcome, Err(Error::UpgradeRefused { .. })), "{outcome:?}");
    assert_eq!(pipeline.peer().address, socket(PROXY));
}

#[test]
fn a_malformed_header_ends_the_connection() {
    let (outcome, mqtt, mut pipeline) =
        receive(&trusting(plain()), PROXY, &[b"PROXY TCP4 nonsense\r\n"]);
    assert_eq!(outcome, Err(Error::ProxyMalformed(Malformed::Line)));
    assert!(mqtt.is_empty());
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let later = pipeline.receive(CONNECT, &mut mqtt, &mut wire);
    assert_eq!(later, Ok(Received { state: State::Closed }));
    assert!(mqtt.is_empty());
}

/// An undecided header is held up to its limit only.
#[test]
fn an_endless_header_is_bounded() {
    let mut line = b"PROXY UNKNOWN ".to_vec();
    line.resize(1 << 20, b'x');
    let mut announced = v2(0x21, 0x00, &vec![0; V2_BODY_MAX]);
    announced.pop();
    for (bytes, expected) in [
        (line, Err(Error::ProxyMalformed(Malformed::LineOversized))),
        (announced, Ok(Received { state: State::Handshaking })),
    ] {
        let mut pipeline = Pipeline::new(&Layers::open(&trusting(plain())).unwrap(), socket(PROXY));
        let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
        let mut outcome = Ok(Received { state: State::Handshaking });
        for byte in bytes.chunks(1) {
            outcome = pipeline.receive(byte, &mut mqtt, &mut wire);
            assert!(pipeline.memory() < 3 * HEADER_MAX, "{}", pipeline.memory());
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(outcome, expected);
    }
}

#[test]
fn a_layer_that_trusts_nobody_is_refused() {
    let proxy_protocol = Some(ProxyConfig { trusted: Vec::new(), required: false });
    let reason = refused(&Config { proxy_protocol, ..plain() });
    assert!(reason.starts_with("proxy_protocol.trusted is empty"), "{reason}");
}
