//! The session: one connection from its first byte to its end.
//!
//! The parent machine. It decodes, hands each packet to the child machine it belongs to, and
//! keeps the phases: nothing but CONNECT comes first, nothing is taken while an answer is
//! outstanding, nothing is sent after the farewell.
//!
//! Invariants: `request ≠ None ⇒ is_waiting`; `farewell ≠ None ⇒` no
//! further packet is taken; in phase `Over` nothing is written.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{
    Ack, Decoded, Decoder, Packet, PacketId, PacketType, ProtocolVersion, ReasonCode,
};
use ratatosk_contract::{
    PublisherId, SessionIdentity, StoredMessage, TenantSettings, Ticket, call::Settlement,
    inbox::Sequence,
};

use crate::{
    Answer, Broker, Farewell, Output, Request, WillOrder, alias::InboundAliases,
    connect::Connecting, delivery::OUTPUT_BYTES_MAX, exchange::Exchange, inbound::Inbound,
    outbound::Outbound, publish::BUSY_RETRY, rate::Bucket,
};

/// What a listener decides for all its sessions before it knows their tenants.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The largest CONNECT that is taken, in bytes.
    pub connect_bytes_max: u32,
    /// The longest client identifier, in bytes.
    pub client_id_bytes_max: u16,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig { connect_bytes_max: 1024 * 1024, client_id_bytes_max: u16::MAX }
    }
}

/// One connection's session.
#[derive(Debug)]
pub struct Session {
    pub(crate) phase: Phase,
    pub(crate) version: ProtocolVersion,
    pub(crate) decoder: Decoder,
    pub(crate) publisher: PublisherId,
    pub(crate) output: Output,
    pub(crate) settings: Arc<TenantSettings>,
    pub(crate) peer: Peer,
    pub(crate) last_heard: Instant,
    pub(crate) is_persistent: bool,
    pub(crate) is_resumed: bool,
    /// What was handed to the client on earlier connections.
    pub(crate) sent_before: Sequence,
    /// Boxed like all that most sessions have at their beginning or end only.
    pub(crate) request: Option<Box<Request>>,
    /// An answer is outstanding.
    pub(crate) is_waiting: bool,
    pub(crate) client_id_bytes_max: u16,
    pub(crate) farewell: Option<Box<Farewell>>,
    pub(crate) identity: Option<Arc<SessionIdentity>>,
    /// CONNECT while it is being worked on.
    pub(crate) connecting: Option<Box<Connecting>>,
    pub(crate) exchange: Option<Box<Exchange>>,
    pub(crate) will: Option<Box<Will>>,
    pub(crate) inbound: Option<Box<Inbound>>,
    pub(crate) outbound: Option<Box<Outbound>>,
    pub(crate) inbound_aliases: Option<Box<InboundAliases>>,
    pub(crate) rate: Option<Box<Bucket>>,
    /// Seconds that the session outlives its connection, as asked for; `u32::MAX`: for ever.
    pub(crate) expiry_s: u32,
    /// Replies that were too large for the client, since somebody asked.
    pub(crate) oversize_replies: u32,
}

/// Where a connection stands.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing came yet.
    Fresh,
    /// CONNECT came; somebody is deciding.
    Connecting,
    /// CONNACK was sent.
    Live,
    /// The farewell was said.
    Over,
}

/// What the client said of itself in CONNECT, and what came of it.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) packet_size_max: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) topic_alias_max: u16,
    /// The keep alive in force; zero: none.
    pub(crate) keep_alive_s: u16,
    pub(crate) wants_problem_information: bool,
}

/// The will of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) delay_s: u32,
    pub(crate) expiry_s: Option<u32>,
}

impl Will {
    /// What is to be published when the connection of a session with this expiry has ended.
    pub(crate) fn order(&self, expiry_s: u32) -> WillOrder {
        WillOrder {
            message: Arc::clone(&self.message),
            // MQTT-049: the session's end is the latest time for its will.
            delay_s: self.delay_s.min(expiry_s),
            expiry_s: self.expiry_s,
        }
    }
}

/// What came of the bytes that were given.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes were taken; the rest is to be brought again, with more behind it.
    pub consumed: usize,
    /// What the session needs to go on.
    pub next: Next,
}

/// What a session needs to go on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// More bytes; the whole packet has this length, if that is known already.
    Bytes {
        /// The length of the packet whose beginning was brought.
        packet_length: Option<usize>,
    },
    /// The answer to [`Session::take_request`].
    Answer,
    /// The same bytes again when something that was asked for is known, or a pending outcome came.
    Retry,
    /// The same, and at this time at the latest.
    RetryBy(Instant),
    /// The same bytes again at this time, or when the output was written.
    RetryAt(Instant),
    /// [`Session::end`]: there is a farewell.
    End,
}

/// An acknowledgement without a reason code, which every version writes alike.
const SHORT_ACK_BYTES: usize = 4;

/// The acknowledgement of four bytes at the front of `bytes`, if that is what is there.
#[inline]
fn short_ack(bytes: &[u8]) -> Option<(PacketType, PacketId)> {
    let [first, 2, high, low, ..] = *bytes else { return None };
    let kind = match first {
        0x40 => PacketType::Puback,
        0x50 => PacketType::Pubrec,
        0x62 => PacketType::Pubrel,
        0x70 => PacketType::Pubcomp,
        _ => return None,
    };
    Some((kind, PacketId::new(u16::from_be_bytes([high, low]))?))
}

/// How a packet was taken.
pub(crate) enum Taken {
    /// Done with it.
    Whole,
    /// It is to be brought again.
    Again(Next),
}

impl Session {
    /// The session of a connection that was just made.
    pub fn new(now: Instant, config: &SessionConfig, settings: Arc<TenantSettings>) -> Self {
        Session {
            phase: Phase::Fresh,
            version: ProtocolVersion::V311,
            decoder: Decoder::server(config.connect_bytes_max),
            publisher: PublisherId(0),
            output: Output::default(),
            settings,
            peer: Peer {
                packet_size_max: u32::MAX,
                receive_maximum: u16::MAX,
                topic_alias_max: 0,
                keep_alive_s: 0,
                wants_problem_information: true,
            },
            last_heard: now,
            is_persistent: false,
            is_resumed: false,
            sent_before: Sequence(0),
            request: None,
            is_waiting: false,
            client_id_bytes_max: config.client_id_bytes_max,
            farewell: None,
            identity: None,
            connecting: None,
            exchange: None,
            will: None,
            inbound: None,
            outbound: None,
            inbound_aliases: None,
            rate: None,
            expiry_s: 0,
            oversize_replies: 0,
        }
    }

    /// Takes the packets at the front of `bytes`. `whole` is the buffer that `bytes` lies in, if
    /// it holds one large packet: its payload is then shared instead of copied.
    pub fn receive<B: Broker>(
        &mut self,
        now: Instant,
        bytes: &[u8],
        whole: Option<&Bytes>,
        broker: &mut B,
    ) -> Received {
        let mut consumed = 0;
        let next = loop {
            if self.farewell.is_some() || self.phase == Phase::Over {
                break Next::End;
            }
            if self.is_waiting {
                break Next::Answer;
            }
            // A client that sends and never reads gets no more answers than fit. SEC-006
            if self.output.len() > self.output_bytes_max() {
                break Next::RetryAt(now + BUSY_RETRY);
            }
            let rest = &bytes[consumed..];
            if let Some((kind, packet_id)) = short_ack(rest).filter(|_| self.is_live()) {
                match self.take_ack(now, kind, packet_id, broker) {
                    Ok(()) => {
                        consumed += SHORT_ACK_BYTES;
                        self.last_heard = now;
                    }
                    Err(farewell) => self.farewell = Some(Box::new(farewell)),
                }
                continue;
            }
            // Matched where it lies: a packet is large and most of it is not looked at.
            let decoded = self.decoder.decode(rest);
            let (packet, length) = match &decoded {
                Ok(Decoded::Packet { packet, length }) => (packet, *length),
                Ok(Decoded::Incomplete { packet_length }) => {
                    break Next::Bytes { packet_length: *packet_length };
                }
                Err(error) => {
                    self.version = error.version.unwrap_or(self.version);
                    self.farewell = Some(Box::new(Farewell::Malformed(*error)));
                    continue;
                }
            };
            match self.take(now, packet, whole, broker) {
                Ok(Taken::Whole) => {
                    consumed += length;
                    self.last_heard = now;
                }
                Ok(Taken::Again(next)) => {
                    // It waits for us, not we for it.
                    self.last_heard = now;
                    break next;
                }
                Err(farewell) => self.farewell = Some(Box::new(farewell)),
            }
        };
        if self.is_live() && self.wants_pump() {
            self.pump(now, broker);
        }
        self.check_invariants();
        // The pump may have found that the session is not ours any more.
        let next = if self.farewell.is_some() { Next::End } else { next };
        Received { consumed, next }
    }

    /// From how many unwritten bytes on nothing is read: beyond what deliveries may leave there,
    /// with the one that passed the mark.
    pub(crate) fn output_bytes_max(&self) -> usize {
        2 * OUTPUT_BYTES_MAX + self.settings.max_user_payload_bytes as usize
    }

    /// The acknowledgements of success, which are most of what a subscriber sends, without the
    /// decoder.
    #[inline]
    fn take_ack<B: Broker>(
        &mut self,
        now: Instant,
        kind: PacketType,
        packet_id: PacketId,
        broker: &mut B,
    ) -> Result<(), Farewell> {
        let ack = Ack::new(packet_id, ReasonCode::Success);
        match kind {
            PacketType::Puback => self.on_puback(now, &ack, broker),
            PacketType::Pubrec => self.on_pubrec(now, &ack, broker),
            PacketType::Pubrel => self.on_pubrel(&ack, broker),
            _ => self.on_pubcomp(now, &ack, broker),
        }
    }

    #[inline]
    fn take<B: Broker>(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        whole: Option<&Bytes>,
        broker: &mut B,
    ) -> Result<Taken, Farewell> {
        match packet {
            Packet::Publish(publish) if self.is_live() => {
                return self.on_publish(now, publish, whole, broker);
            }
            Packet::Connect(connect) => self.on_connect(now, connect, broker)?,
            Packet::Auth(auth) => self.on_auth(auth)?,
            Packet::Disconnect(disconnect) => self.on_disconnect(disconnect)?,
            // MQTT-104: [MQTT-3.1.2-30]
            _ if !self.is_live() => {
                return Err(Farewell::ProtocolError("a packet other than AUTH before CONNACK"));
            }
            Packet::Puback(ack) => self.on_puback(now, ack, broker)?,
            Packet::Pubrec(ack) => self.on_pubrec(now, ack, broker)?,
            Packet::Pubcomp(ack) => self.on_pubcomp(now, ack, broker)?,
            Packet::Pubrel(ack) => self.on_pubrel(ack, broker)?,
            Packet::Subscribe(subscribe) => return self.on_subscribe(subscribe, broker),
            Packet::Unsubscribe(unsubscribe) => {
                return self.on_unsubscribe(now, unsubscribe, broker);
            }
            // [MQTT-3.12.4-1]
            Packet::Pingreq => self.output.append(|bytes| bytes.extend_from_slice(&[0xD0, 0])),
            // The decoder of a server lets nothing else through.
            _ => return Err(Farewell::ProtocolError("a packet that only a server sends")),
        }
        Ok(Taken::Whole)
    }

    /// The answer to a request.
    pub fn answer<B: Broker>(&mut self, now: Instant, answer: Answer, broker: &mut B) {
        if self.farewell.is_some() || self.phase == Phase::Over {
            return;
        }
        if let Err(farewell) = self.on_answer(now, answer, broker) {
            self.farewell = Some(Box::new(farewell));
        }
        self.check_invariants();
    }

    /// A pending publish has its outcome.
    pub fn settle(&mut self, ticket: Ticket, settlement: Settlement) {
        if self.phase == Phase::Live
            && let Err(farewell) = self.on_settled(ticket, settlement)
        {
            self.farewell = Some(Box::new(farewell));
        }
        self.check_invariants();
    }

    /// So many more outcomes are to come of a pending publish.
    pub fn expect(&mut self, ticket: Ticket, parts: u32) {
        if let Some(inbound) = &mut self.inbound {
            inbound.expect(ticket, parts);
        }
    }

    /// The inbox has more for this session.
    pub fn inbox_ready<B: Broker>(&mut self, now: Instant, broker: &mut B) {
        if let Some(outbound) = &mut self.outbound {
            outbound.may_fetch = true;
        }
        self.pump(now, broker);
    }

    /// What the session waits for, once.
    pub fn take_request(&mut self) -> Option<Request> {
        self.request.take().map(|request| *request)
    }

    /// Why it must end, if it must.
    pub fn farewell(&self) -> Option<&Farewell> {
        self.farewell.as_deref()
    }

    /// Whether CONNACK was sent and no end has come.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether nothing that makes a CONNECT came yet.
    pub fn is_fresh(&self) -> bool {
        self.phase == Phase::Fresh
    }

    /// What is to be written.
    #[inline]
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// How many bytes are to be written.
    #[inline]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// The protocol version, once CONNECT came.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// Who the session belongs to, once that is decided.
    pub fn identity(&self) -> Option<&Arc<SessionIdentity>> {
        self.identity.as_ref()
    }

    /// The identity as a number; see [`SessionIdentity::publisher`].
    pub fn publisher(&self) -> PublisherId {
        self.publisher
    }

    /// The settings of its tenant as of CONNECT.
    pub fn settings(&self) -> &Arc<TenantSettings> {
        &self.settings
    }

    /// Whether its messages come from an inbox.
    pub fn is_persistent(&self) -> bool {
        self.is_persistent
    }

    /// Whether stored state was resumed at CONNECT.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The will that is published if the connection is lost.
    pub fn will(&self) -> Option<&StoredMessage> {
        self.will.as_ref().map(|will| &*will.message)
    }

    /// How many QoS 1 and 2 messages may be unconfirmed towards the client.
    /// [MQTT-4.9.0-1] MQTT-090
    #[inline]
    pub(crate) fn window_max(&self) -> u16 {
        match self.outbound.as_ref().and_then(|outbound| outbound.pace.as_ref()) {
            Some(pace) => pace.window(),
            None => self.peer.receive_maximum,
        }
    }

    pub(crate) fn inbound_mut(&mut self) -> &mut Inbound {
        self.inbound.get_or_insert_with(Box::default)
    }

    pub(crate) fn check_invariants(&self) {
        debug_assert!(self.request.is_none() || self.is_waiting, "a request waits for its answer");
        debug_assert!(
            self.phase != Phase::Live || self.identity.is_some(),
            "a live session belongs to somebody"
        );
        debug_assert!(
            self.outbound
                .as_ref()
                .is_none_or(|out| out.window.open() <= usize::from(self.peer.receive_maximum)),
            "the window stays within the client's receive maximum"
        );
        if let Some(inbound) = &self.inbound {
            inbound.check_invariants();
        }
    }
}
