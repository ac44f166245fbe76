//! All layers together: however the network cuts the bytes, the same MQTT bytes come out.

use std::sync::LazyLock;

use proptest::prelude::*;

use crate::transport::fixture::{
    Authority, Connection, PROXY, Site, mqtt_request, plain, request, socket, trusting, websocket,
};
use crate::transport::{ClientAuth, Config, Error, Layers, State, TlsConfig};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 1883\r\n";

/// Keys are expensive; all cases share them. The files are gone once they are read.
static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let site = Site::new();
    let open = |stack: Stack, tls: Option<TlsConfig>| {
        let base = if stack.has_websocket() { websocket() } else { plain() };
        Layers::open(&trusting(Config { tls, ..base })).unwrap()
    };
    let layers = Stack::ALL.map(|stack| open(stack, stack.has_tls().then(|| site.tls())));
    let mutual = open(Stack::SecureWebSocket, Some(site.mutual_tls(ClientAuth::Required)));
    Shared { layers, mutual, authority: site.authority }
});

struct Shared {
    /// In the order of [`Stack::ALL`].
    layers: [Layers; 4],
    /// Secure WebSocket with client certificates.
    mutual: Layers,
    authority: Authority,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stack {
    Tcp,
    Tls,
    WebSocket,
    SecureWebSocket,
}

impl Stack {
    const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::WebSocket, Self::SecureWebSocket];

    fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::SecureWebSocket)
    }

    fn has_websocket(self) -> bool {
        matches!(self, Self::WebSocket | Self::SecureWebSocket)
    }

    fn connect(self, cuts: &[usize]) -> Connection {
        let mut connection = self.bare().cut_into(cuts);
        if self.has_websocket() {
            connection = connection.with_websocket(mqtt_request());
        }
        if self.has_tls() {
            connection = connection.with_tls(&SHARED.authority.client_config(None));
        }
        connection
    }

    /// A connection whose client speaks none of the layers yet.
    fn bare(self) -> Connection {
        let index = Self::ALL.iter().position(|stack| *stack == self).unwrap();
        Connection::new(&SHARED.layers[index], PROXY)
    }
}

/// MQTT bytes travel both ways over a stack, cut as asked.
fn check(stack: Stack, has_header: bool, cuts: &[usize], messages: &[Vec<u8>]) {
    let mut connection = stack.connect(cuts);
    if has_header {
        connection.deliver(HEADER).unwrap();
    }
    for (index, message) in messages.iter().enumerate() {
        // Frames can be written only once the upgrade is complete.
        if index == 0 {
            connection.settle().unwrap();
        }
        connection.send(message);
    }
    let sent = messages.concat();
    let state = connection.settle();
    if !sent.is_empty() {
        assert_eq!(state, Ok(State::Open));
    }
    assert_eq!(connection.mqtt, sent, "{stack:?}");
    if state == Ok(State::Open) {
        connection.serve(&sent);
        assert_eq!(connection.answered, sent, "{stack:?}");
    }
    let expected = if has_header { "192.0.2.7:56324" } else { PROXY };
    assert_eq!(connection.pipeline.peer().address, socket(expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// MQTT-008, MQTT-009: with or without PROXY header, over TCP, TLS, WS and WSS.
    #[test]
    fn however_the_bytes_are_cut_the_same_mqtt_bytes_come_out(
        has_header in any::<bool>(),
        cuts in prop::collection::vec(prop_oneof![1_usize..8, 1_usize..200, 1_usize..9000], 1..8),
        // The first byte of a connection is CONNECT's, which no PROXY header begins with.
        messages in prop::collection::vec(prop::collection::vec(0x10_u8..0x20, 0..3000), 0..4),
    ) {
        for stack in Stack::ALL {
            check(stack, has_header, &cuts, &messages);
        }
    }
}

/// MQTT-008, MQTT-009: also when each byte comes alone, and when all come at once.
#[test]
fn single_bytes_and_whole_streams_are_alike() {
    for stack in Stack::ALL {
        for cuts in [&[1][..], &[usize::MAX]] {
            for has_header in [false, true] {
                check(stack, has_header, cuts, &[vec![0x10; 700], vec![0x11; 5]]);
            }
        }
    }
}

/// A header and all that follows may come in one piece.
#[test]
fn the_bytes_behind_a_header_are_not_lost() {
    let mut connection = Stack::WebSocket.connect(&[usize::MAX]);
    let bytes = [HEADER, &connection.outgoing()].concat();
    assert_eq!(connection.deliver(&bytes), Ok(State::Open));
    assert_eq!(connection.pipeline.peer().address, socket("192.0.2.7:56324"));
}

/// MQTT-007: within TLS, the address of the request is believed if the proxy is.
#[test]
fn the_real_address_is_read_within_tls() {
    let real_address = request("/mqtt", &[("X-Real-IP", "192.0.2.9"), ("X-Real-Port", "9")]);
    let mut connection = Stack::SecureWebSocket
        .bare()
        .with_websocket(real_address)
        .with_tls(&SHARED.authority.client_config(None));
    assert_eq!(connection.settle(), Ok(State::Open));
    assert_eq!(connection.pipeline.peer().address, socket("192.0.2.9:9"));
}

/// SEC-002: also over WebSocket, the certificate is known when the connection is open.
#[test]
fn a_client_certificate_is_reported_over_secure_websocket() {
    let meter = SHARED.authority.issue("meter-7", 7);
    let connection = Connection::new(&SHARED.mutual, PROXY)
        .with_websocket(mqtt_request())
        .with_tls(&SHARED.authority.client_config(Some(&meter)))
        .open();
    assert_eq!(connection.pipeline.peer().common_name().as_deref(), Some("meter-7"));
}

/// MQTT-006: within TLS too, the refusal reaches the client.
#[test]
fn a_refusal_is_encrypted() {
    let mut connection = Stack::SecureWebSocket
        .bare()
        .with_websocket(request("/other", &[]))
        .with_tls(&SHARED.authority.client_config(None));
    assert!(connection.settle().is_err());
    assert!(connection.raw.starts_with(b"HTTP/1.1 400 "));
    assert!(connection.failure().is_some_and(|reason| reason.contains("400")));
}

/// [MQTT-6.0.0-1] Within TLS the close frame is encrypted, and close_notify may still follow it.
#[test]
fn a_text_frame_within_tls_is_answered_within_tls() {
    let mut connection = Stack::SecureWebSocket.connect(&[usize::MAX]).open();
    connection.raw.clear();
    connection.message(tungstenite::Message::Text("text".into()));
    assert_eq!(connection.settle(), Err(Error::TextFrame));
    assert_eq!(connection.raw, [0x88, 2, 0x03, 0xeb]);
    assert!(connection.serve_close() > 0);
    assert_eq!(connection.serve_close(), 0);
}

#[test]
fn only_a_listener_without_layers_is_plain() {
    let is_plain = |config: Config| Layers::open(&config).unwrap().is_plain();
    assert!(is_plain(plain()));
    assert!(!is_plain(websocket()));
    assert!(!is_plain(trusting(plain())));
    assert!(!SHARED.layers[1].is_plain());
}
