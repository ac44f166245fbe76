//! The bodies of the fuzz targets, so that their corpora are replayed by plain tests.
//!
//! Each layer gets arbitrary bytes, whole and cut: both must lead to the same MQTT bytes, the same
//! answer and the same end, and nothing of it may hold more than its limit.

use std::sync::LazyLock;

use crate::transport::fixture::{
    Connection, PROXY, STRANGER, Site, mqtt_request, plain, socket, trusting, websocket,
};
use crate::transport::proxy::{self, Detection, HEADER_MAX, Origin};
use crate::transport::{Config, Error, Layers, Pipeline, State};

/// Keys are expensive; all runs share them. The files are gone once they are read.
static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let site = Site::new();
    let open = |config: &Config| Layers::open(config).expect("a sound configuration");
    let secure = |base| open(&Config { tls: Some(site.tls()), ..base });
    Shared {
        websocket: open(&trusting(websocket())),
        tls: secure(plain()),
        secure_websocket: secure(websocket()),
        client: site.authority.client_config(None),
    }
});

struct Shared {
    websocket: Layers,
    tls: Layers,
    secure_websocket: Layers,
    client: std::sync::Arc<rustls::ClientConfig>,
}

/// The beginning of a connection, as a PROXY header: what a prefix tells, the whole confirms.
pub fn proxy_any(data: &[u8]) {
    let whole = proxy::parse(data);
    if whole == Ok(Detection::Incomplete) {
        assert!(data.len() < HEADER_MAX, "what is undecided is bounded");
    }
    for cut in 0..data.len() {
        let part = proxy::parse(&data[..cut]);
        assert!(part == Ok(Detection::Incomplete) || part == whole, "{part:?} then {whole:?}");
    }
    let Ok(Detection::Header { origin, size }) = whole else { return };
    assert!(size <= data.len() && size <= HEADER_MAX, "{size} of {} bytes", data.len());
    assert_eq!(proxy::parse(&data[..size]), whole, "what follows a header has no say");
    assert_eq!(proxy::parse(&data[..size - 1]), Ok(Detection::Incomplete), "all of it is needed");
    if let Origin::Client(address) = origin {
        let (family, ip) = (if address.is_ipv4() { "TCP4" } else { "TCP6" }, address.ip());
        let line = format!("PROXY {family} {ip} {ip} {} 1\r\n", address.port());
        let written = Ok(Detection::Header { origin, size: line.len() });
        assert_eq!(proxy::parse(line.as_bytes()), written, "the address can be written again");
    }
}

/// What a pipeline made of a stream.
#[derive(Debug, PartialEq)]
struct Run {
    outcome: Result<State, Error>,
    mqtt: Vec<u8>,
    wire: Vec<u8>,
}

/// Brings `bytes` in pieces of `size` until they end or an error comes.
fn run(pipeline: &mut Pipeline, bytes: &[u8], size: usize) -> Run {
    let (mut mqtt, mut wire) = (Vec::new(), Vec::new());
    let mut outcome = Ok(State::Handshaking);
    for piece in bytes.chunks(size) {
        match pipeline.receive(piece, &mut mqtt, &mut wire) {
            Ok(received) => outcome = Ok(received.state),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        assert!(pipeline.memory() < 128 * 1024, "{} bytes are held", pipeline.memory());
    }
    if !matches!(outcome, Ok(State::Handshaking | State::Open)) {
        let (before, answered) = (mqtt.len(), wire.len());
        let after = pipeline.receive(b"later", &mut mqtt, &mut wire);
        let is_probe = outcome == Ok(State::HealthCheck);
        let end = if is_probe { State::HealthCheck } else { State::Closed };
        assert_eq!(after.map(|received| received.state), Ok(end), "an end is for good");
        assert_eq!((mqtt.len(), wire.len()), (before, answered), "what comes later is ignored");
    }
    Run { outcome, mqtt, wire }
}

/// The first byte decides the cuts and whether the peer is a proxy; the rest comes where a request
/// is expected.
pub fn upgrade_any(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    if bytes.is_empty() {
        return;
    }
    let peer = socket(if first & 0x80 == 0 { STRANGER } else { PROXY });
    let mut pipeline = Pipeline::new(&SHARED.websocket, peer);
    let whole = run(&mut pipeline, bytes, bytes.len());
    let mut other = Pipeline::new(&SHARED.websocket, peer);
    let parts = run(&mut other, bytes, usize::from(first & 0x3f) + 1);
    assert_eq!(whole, parts, "cuts change nothing");
    assert_eq!(pipeline.peer(), other.peer(), "cuts change nothing");
    if peer == socket(STRANGER) {
        assert_eq!(pipeline.peer().address, peer, "a stranger speaks for nobody else");
    }
    let is_upgraded = whole.wire.starts_with(b"HTTP/1.1 101 ");
    let is_refused = whole.wire.starts_with(b"HTTP/1.1 400 ");
    match &whole.outcome {
        Err(Error::UpgradeRefused { .. }) => assert!(is_refused, "the client is told"),
        Ok(State::Open) => assert!(is_upgraded),
        Ok(State::Handshaking) => assert!(whole.wire.is_empty() && whole.mqtt.is_empty()),
        _ => {}
    }
    assert!(is_upgraded || whole.mqtt.is_empty(), "no MQTT without an upgrade");
}

/// The first byte decides the cuts, the rest comes where frames are expected.
pub fn frames_any(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    if bytes.is_empty() {
        return;
    }
    let [whole, parts] = [bytes.len(), usize::from(first) + 1].map(|size| {
        let mut pipeline = Pipeline::new(&SHARED.websocket, socket(STRANGER));
        let upgraded = run(&mut pipeline, &request(), usize::MAX);
        assert_eq!(upgraded.outcome, Ok(State::Open));
        run(&mut pipeline, bytes, size)
    });
    assert_eq!(whole, parts, "cuts change nothing");
    let (mqtt, is_sound) = frames_of(bytes);
    assert_eq!(whole.mqtt, mqtt, "the payload of binary messages");
    assert!(!is_sound || whole.outcome.is_ok(), "{:?} for sound frames", whole.outcome);
    check_replies(&whole.wire, whole.outcome == Ok(State::Open));
}

fn request() -> Vec<u8> {
    Connection::new(&SHARED.websocket, STRANGER).with_websocket(mqtt_request()).outgoing()
}

/// A plain reader: the payload of data frames up to the first breach or close, and whether there
/// is no breach but perhaps in a close frame.
fn frames_of(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let (mut mqtt, mut is_within) = (Vec::new(), false);
    loop {
        let [first, second, rest @ ..] = bytes else { return (mqtt, true) };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let is_masked = second & 0x80 != 0;
        let head = extended + if is_masked { 4 } else { 0 };
        if rest.len() < head {
            return (mqtt, true);
        }
        let length = match extended {
            0 => u64::from(second & 0x7f),
            _ => rest[..extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let (operation, is_final) = (first & 0x0f, first & 0x80 != 0);
        let is_data = operation == 2 && !is_within || operation == 0 && is_within;
        let is_control = (8..=10).contains(&operation) && is_final && length <= 125;
        let is_sound = is_data && length <= 4096 || is_control;
        if first & 0x70 != 0 || !is_masked || !is_sound {
            return (mqtt, false);
        }
        let (mask, payload) = (&rest[extended..head], &rest[head..]);
        let taken = payload.len().min(usize::try_from(length).expect("it was checked"));
        if is_data {
            is_within = !is_final;
            mqtt.extend(payload[..taken].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        }
        if (taken as u64) < length {
            return (mqtt, true);
        }
        if operation == 8 {
            return (mqtt, false);
        }
        bytes = &payload[taken..];
    }
}

/// A server answers with whole unmasked pongs, and with one close frame as the last.
fn check_replies(mut wire: &[u8], is_open: bool) {
    while let [first, second, rest @ ..] = wire {
        let length = usize::from(*second);
        assert!(length <= 125 && length <= rest.len(), "a short whole frame");
        assert!(matches!(first, 0x8a | 0x88), "{first:#x} is pong or close");
        wire = &rest[length..];
        assert!(*first == 0x8a || (wire.is_empty() && !is_open), "a close frame is the last");
    }
    assert!(wire.is_empty(), "half a frame");
}

/// The first byte decides where the rest comes: at the beginning of a TLS connection, behind its
/// handshake, or, encrypted, as frames within it; and how it is cut.
pub fn records_any(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    if bytes.is_empty() {
        return;
    }
    let size = usize::from(first / 3) + 1;
    match first % 3 {
        0 => {
            let mut pipeline = Pipeline::new(&SHARED.tls, socket(STRANGER));
            let seen = run(&mut pipeline, bytes, size);
            // Whoever has no key has no handshake.
            assert!(seen.outcome != Ok(State::Open) && seen.mqtt.is_empty(), "{seen:?}");
            check_records(&seen.wire);
        }
        1 => {
            let mut connection =
                Connection::new(&SHARED.tls, STRANGER).with_tls(&SHARED.client).open();
            let seen = run(&mut connection.pipeline, bytes, size);
            assert!(seen.mqtt.is_empty(), "what was not encrypted by the client is not passed on");
            check_records(&seen.wire);
        }
        _ => {
            let mut connection = Connection::new(&SHARED.secure_websocket, STRANGER)
                .with_tls(&SHARED.client)
                .with_websocket(mqtt_request())
                .cut_into(&[size, 3, 500])
                .open();
            connection.raw_send(bytes);
            let outcome = connection.settle();
            let (mqtt, is_sound) = frames_of(bytes);
            assert_eq!(connection.mqtt, mqtt, "the payload of binary messages");
            assert!(!is_sound || outcome.is_ok(), "{outcome:?} for sound frames");
        }
    }
}

/// What is written is whole records.
fn check_records(mut wire: &[u8]) {
    while let [kind, 3, _, high, low, rest @ ..] = wire {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!((20..=23).contains(kind), "content type {kind}");
        assert!(length <= (1 << 14) + 256 && length <= rest.len(), "{length} bytes");
        wire = &rest[length..];
    }
    assert!(wire.is_empty(), "{} bytes are no record", wire.len());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn replay(target: &str, body: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus");
        let entries = std::fs::read_dir(corpus.join(target)).expect("part of the repository");
        let count = entries
            .map(|entry| body(&std::fs::read(entry.expect("readable").path()).expect("readable")))
            .count();
        assert!(count >= 5, "{count} seeds of {target}");
    }

    #[test]
    fn stored_proxy_headers_are_judged_alike_in_parts_and_whole() {
        replay("proxy_header", proxy_any);
    }

    #[test]
    fn stored_requests_are_answered_alike_in_parts_and_whole() {
        replay("http_upgrade", upgrade_any);
    }

    #[test]
    fn stored_frames_give_what_a_plain_reader_finds() {
        replay("websocket_frames", frames_any);
    }

    #[test]
    fn stored_tls_bytes_pass_nothing_on_that_was_not_encrypted() {
        replay("tls_record", records_any);
    }
}
