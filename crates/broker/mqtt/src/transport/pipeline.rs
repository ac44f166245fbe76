//! One connection's layers, driven by bytes.
//!
//! `socket → PROXY header → TLS → WebSocket → MQTT` inwards, the same backwards outwards.
//!
//! Invariants: once `Closed` or `HealthCheck`, the state never changes and no byte is read;
//! `held.len() < proxy::HEADER_MAX`, and it is empty once the header is decided.
//! Deliberately absent: deadlines. The driver closes a pipeline that stays `Handshaking`.

use std::mem;
use std::net::SocketAddr;

use crate::transport::config::WebSocketConfig;
use crate::transport::error::Error;
use crate::transport::frames::BinaryHeader;
use crate::transport::layers::Layers;
use crate::transport::peer::{self, Peer};
use crate::transport::proxy::{self, Detection, Origin};
use crate::transport::tls::{Flow, Tls};
use crate::transport::upgrade::RealAddress;
use crate::transport::websocket::{Terms, WebSocket};

/// The layers of one connection. Plain TCP needs none: see [`Layers::is_plain`].
pub struct Pipeline {
    layers: Layers,
    peer: Peer,
    state: State,
    /// The start of a PROXY header that is not decided yet; `None` once it is.
    held: Option<Vec<u8>>,
    real_address: RealAddress,
    tls: Option<Tls>,
    websocket: Option<WebSocket>,
}

/// Where a connection is below MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A header, TLS handshake or upgrade is incomplete. No MQTT byte has come.
    Handshaking,
    /// MQTT bytes flow both ways; the peer is fully known.
    Open,
    /// A proxy checks that the listener is alive. There is no client: close.
    HealthCheck,
    /// The peer ended TLS or WebSocket in order, or an error was reported: flush and close.
    Closed,
}

/// What one call of [`Pipeline::receive`] led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The state after all bytes were taken.
    pub state: State,
}

impl Pipeline {
    /// The layers for a connection that was accepted from `peer`.
    pub fn new(layers: &Layers, peer: SocketAddr) -> Self {
        let config = layers.config();
        let trusted = layers.trusts(peer);
        Self {
            peer: Peer::new(peer),
            state: State::Handshaking,
            held: config.proxy_protocol.as_ref().map(|_| Vec::new()),
            real_address: if trusted { RealAddress::Believe } else { RealAddress::Ignore },
            tls: config.tls.as_ref().map(|_| Tls::Waiting),
            websocket: config.websocket.as_ref().map(|_| WebSocket::new()),
            layers: layers.clone(),
        }
    }

    /// Takes bytes from the socket. MQTT bytes are appended to `mqtt`; what must be written to the
    /// socket (handshakes, pongs, close frames) to `wire`.
    ///
    /// On an error the state is [`State::Closed`]: flush `wire`, which then holds the alert, the
    /// HTTP response or the close frame, and close the socket. MQTT bytes that came before the
    /// error are in `mqtt` nevertheless. Later bytes are ignored.
    pub fn receive(
        &mut self,
        socket_bytes: &[u8],
        mqtt: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Received, Error> {
        if self.is_over() {
            return Ok(Received { state: self.state });
        }
        match self.receive_header(socket_bytes, mqtt, wire) {
            Ok(state) => {
                self.state = state;
                Ok(Received { state })
            }
            Err(error) => {
                self.state = State::Closed;
                Err(error)
            }
        }
    }

    /// Wraps MQTT bytes for the socket: one frame and as few records as possible. Whole packets
    /// are not required, and several at once cost less than one at a time.
    pub fn send(&mut self, mqtt: &[u8], wire: &mut Vec<u8>) -> Result<(), Error> {
        if self.state != State::Open {
            return Err(Error::NotOpen);
        }
        if mqtt.is_empty() {
            return Ok(());
        }
        let header = self.websocket.as_ref().map(|_| BinaryHeader::new(mqtt.len()));
        let head = header.as_ref().map_or(&[][..], BinaryHeader::as_bytes);
        match &mut self.tls {
            Some(tls) => tls.send(head, mqtt, wire),
            None => {
                wire.extend_from_slice(head);
                wire.extend_from_slice(mqtt);
                Ok(())
            }
        }
    }

    /// Appends the orderly end: WebSocket close frame, TLS close_notify. What the peer sends
    /// afterwards is ignored. Without effect the second time.
    pub fn close(&mut self, wire: &mut Vec<u8>) {
        if let Some(websocket) = &mut self.websocket {
            let mut reply = Vec::new();
            websocket.close(&mut reply);
            // A connection that cannot carry the frame any more needs none.
            let _ = write_reply(&mut self.tls, &reply, wire);
        }
        if let Some(tls) = &mut self.tls {
            tls.close(wire);
        }
        if self.state != State::HealthCheck {
            self.state = State::Closed;
        }
    }

    /// Whether it takes nothing more from the peer.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::HealthCheck | State::Closed)
    }

    /// Who is at the other end; complete in [`State::Open`].
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Bytes that this connection holds below MQTT. For TLS, whose library does not tell, what it
    /// was measured to keep when idle.
    pub fn memory(&self) -> usize {
        let certificate = self.peer.certificate.as_ref().map_or(0, |der| der.len());
        mem::size_of::<Self>()
            + certificate
            + self.held.as_ref().map_or(0, Vec::capacity)
            + self.tls.as_ref().map_or(0, Tls::memory)
            + self.websocket.as_ref().map_or(0, WebSocket::memory)
    }

    /// The first layer: decides whether there is a PROXY header, once.
    fn receive_header(
        &mut self,
        bytes: &[u8],
        mqtt: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<State, Error> {
        let Some(mut held) = self.held.take() else {
            return self.receive_tls(bytes, mqtt, wire);
        };
        if held.is_empty() {
            return match self.detect(bytes)? {
                Some(size) => self.after_header(&bytes[size..], mqtt, wire),
                None => {
                    self.held = Some(bytes.to_vec());
                    Ok(State::Handshaking)
                }
            };
        }
        held.extend_from_slice(bytes);
        match self.detect(&held)? {
            Some(size) => self.after_header(&held[size..], mqtt, wire),
            None => {
                self.held = Some(held);
                Ok(State::Handshaking)
            }
        }
    }

    /// Says how many bytes the header takes, or `None` when that is undecided.
    fn detect(&mut self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let socket = self.peer.socket;
        let proxy = self.layers.config().proxy_protocol.as_ref();
        let (origin, size) = match proxy::parse(bytes)? {
            Detection::Incomplete => {
                assert!(bytes.len() < proxy::HEADER_MAX, "an undecided header is bounded");
                return Ok(None);
            }
            Detection::Absent if proxy.is_some_and(|proxy| proxy.required) => {
                return Err(Error::ProxyMissing { peer: socket });
            }
            Detection::Absent => return Ok(Some(0)),
            Detection::Header { origin, size } => (origin, size),
        };
        if !self.layers.trusts(socket) {
            return Err(Error::ProxyUntrusted { peer: socket });
        }
        match origin {
            Origin::HealthCheck => self.state = State::HealthCheck,
            // The proxy does not tell here, so it may tell in the request.
            Origin::Unknown => {}
            Origin::Client(address) => {
                self.peer.address = peer::canonical(address);
                self.real_address = RealAddress::Ignore;
            }
        }
        Ok(Some(size))
    }

    fn after_header(
        &mut self,
        bytes: &[u8],
        mqtt: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<State, Error> {
        if self.state == State::HealthCheck {
            return Ok(State::HealthCheck);
        }
        self.receive_tls(bytes, mqtt, wire)
    }

    /// The second layer; passes plaintext on to the third.
    fn receive_tls(
        &mut self,
        bytes: &[u8],
        mqtt: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<State, Error> {
        let mut reply = Vec::new();
        let mut address = None;
        let config = self.layers.config();
        let mut inner = Inner {
            terms: config.websocket.as_ref().map(|websocket: &WebSocketConfig| Terms {
                config: websocket,
                packet_size_max: config.packet_size_max,
                real_address: self.real_address,
            }),
            websocket: self.websocket.as_mut(),
            address: &mut address,
        };
        let outcome = match &mut self.tls {
            None => inner.receive(bytes, mqtt, wire),
            Some(tls) => {
                let was_open = tls.is_open();
                let accept = || self.layers.server_config();
                let mut plaintext = |piece: &[u8]| inner.receive(piece, mqtt, &mut reply);
                let outcome = tls.receive(bytes, accept, &mut plaintext, wire);
                if !was_open && tls.is_open() {
                    let identity = tls.identity();
                    self.peer.certificate = identity.certificate;
                    self.peer.sni = identity.sni;
                }
                outcome
            }
        };
        if let Some(address) = address {
            self.peer.address = address;
        }
        // Also after an error: the refusal or the close frame is owed.
        let replied = write_reply(&mut self.tls, &reply, wire);
        if outcome? == Flow::Ended {
            return Ok(State::Closed);
        }
        replied?;
        let is_open = self.tls.as_ref().is_none_or(Tls::is_open)
            && self.websocket.as_ref().is_none_or(WebSocket::is_open);
        Ok(if is_open { State::Open } else { State::Handshaking })
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pipeline")
            .field("peer", &self.peer)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The third layer, or nothing when plaintext is MQTT.
struct Inner<'a> {
    terms: Option<Terms<'a>>,
    websocket: Option<&'a mut WebSocket>,
    address: &'a mut Option<SocketAddr>,
}

impl Inner<'_> {
    fn receive(
        &mut self,
        bytes: &[u8],
        mqtt: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Flow, Error> {
        match (&mut self.websocket, &self.terms) {
            (Some(websocket), Some(terms)) => {
                let mut address = None;
                let outcome = websocket.receive(bytes, terms, &mut address, mqtt, reply);
                if address.is_some() {
                    *self.address = address;
                }
                outcome
            }
            _ => {
                mqtt.extend_from_slice(bytes);
                Ok(Flow::Open)
            }
        }
    }
}

/// Puts what the WebSocket layer answered on the wire, encrypted if there is TLS.
fn write_reply(tls: &mut Option<Tls>, reply: &[u8], wire: &mut Vec<u8>) -> Result<(), Error> {
    if reply.is_empty() {
        return Ok(());
    }
    match tls {
        Some(tls) => tls.send(reply, &[], wire),
        None => {
            wire.extend_from_slice(reply);
            Ok(())
        }
    }
}
