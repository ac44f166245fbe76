//! A small blocking MQTT client for the operator's commands: one connection, one thread, bounded
//! buffers.
//!
//! Guarantees: a message of QoS 1 or 2 counts as sent when the broker has acknowledged it; one of
//! QoS 2 that arrives is reported once; keep-alive pings are sent while the caller waits in
//! [`Client::next`]. It does not reconnect: a command that lost its broker fails and says so.

mod arguments;
mod stream;
mod trust;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_clock::SystemClock;
use ratatosk_codec::{
    Ack, Connect, Decoded, Decoder, Disconnect, Packet, PacketId, ProtocolVersion, Publish, Qos,
    ReasonCode, Subscribe, SubscribeFiltersBuilder, SubscriptionOptions, encode,
};

pub(crate) use self::arguments::{ConnectionArgs, topic_filter, topic_name};
use self::stream::Stream;

/// Messages of QoS 1 and 2 that wait for their acknowledgement, at most; fewer if the broker says
/// so.
const WINDOW_MAX: u16 = 64;

/// Messages that may come before the answer to a SUBSCRIBE.
const EARLY_MAX: usize = 65_536;

/// One read from the socket.
const READ_BYTES: usize = 64 * 1024;

/// How long the broker may take to answer a request.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What makes the connection of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection broke.
    #[error("connection to {peer} lost: {source}")]
    Lost { peer: String, source: io::Error },
    /// The broker hung up without a word.
    #[error("{peer} closed the connection")]
    Closed { peer: String },
    /// The broker hung up and said why.
    #[error("disconnected by the broker: {reason}{explanation}")]
    Disconnected { reason: &'static str, explanation: String },
    /// The broker does not let the client in.
    #[error("connection refused: {reason}{explanation}")]
    Refused { reason: &'static str, explanation: String },
    /// The broker did not take a message.
    #[error("message refused: {reason}{explanation}")]
    Unpublished { reason: &'static str, explanation: String },
    /// The broker does not answer.
    #[error("no answer within {} s", ANSWER_MAX.as_secs())]
    Silent,
    /// The broker sends what is no MQTT.
    #[error("the answer is no mqtt: {0}")]
    Malformed(String),
    /// A packet that does not belong here.
    #[error("unexpected {0} from the broker")]
    Unexpected(&'static str),
    /// The operator asked for what cannot be sent.
    #[error("{0}")]
    Usage(String),
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
}

/// A connection that was accepted.
pub(crate) struct Client {
    stream: Stream,
    version: ProtocolVersion,
    decoder: Decoder,
    clock: SystemClock,
    keep_alive: Option<Duration>,
    last_sent: Instant,
    last_received: Instant,
    /// `input[head..]` is not decoded yet.
    input: Vec<u8>,
    head: usize,
    output: Vec<u8>,
    window: usize,
    packet_id: PacketId,
    /// Sent and not acknowledged; with what the next acknowledgement must be.
    unacknowledged: BTreeMap<PacketId, Awaited>,
    /// QoS 2 messages that arrived and are not released.
    unreleased: BTreeSet<PacketId>,
    /// Messages that came before the answer to SUBSCRIBE.
    early: VecDeque<Message>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Puback,
    Pubrec,
    Pubcomp,
}

/// What a packet meant to the caller.
enum Event {
    Nothing,
    Message(Message),
    Subscribed(Vec<ReasonCode>),
}

impl Client {
    /// Connects and waits for the broker's consent.
    pub(crate) fn connect(args: &ConnectionArgs) -> anyhow::Result<Self> {
        let stream = Stream::open(args)?;
        let clock = SystemClock::new();
        let mut client = Self {
            stream,
            version: args.version,
            decoder: Decoder::client(args.version, u32::MAX),
            clock,
            keep_alive: args.keep_alive(),
            last_sent: clock.now(),
            last_received: clock.now(),
            input: Vec::new(),
            head: 0,
            output: Vec::new(),
            window: usize::from(WINDOW_MAX),
            packet_id: PacketId::FIRST,
            unacknowledged: BTreeMap::new(),
            unreleased: BTreeSet::new(),
            early: VecDeque::new(),
        };
        client.introduce(args)?;
        Ok(client)
    }

    fn introduce(&mut self, args: &ConnectionArgs) -> Result<(), Error> {
        let client_id = args.client_id();
        let mut connect = Connect::new(self.version, &client_id, !args.persistent);
        connect.keep_alive_s = args.keepalive;
        connect.username = args.username.as_deref();
        connect.password = args.password.as_deref().map(str::as_bytes);
        connect.properties.session_expiry_s = args.session_expiry();
        self.send(&Packet::Connect(connect))?;
        let deadline = self.clock.now() + ANSWER_MAX;
        let length = self.packet_by(Some(deadline))?.ok_or(Error::Silent)?;
        let connack = match decode(&self.decoder, &self.input[self.head..])? {
            Packet::Connack(connack) => connack,
            other => return Err(Error::Unexpected(other.packet_type().name())),
        };
        if connack.reason.is_error() {
            let explanation = explain(connack.properties.reason_string);
            return Err(Error::Refused { reason: connack.reason.text(), explanation });
        }
        let properties = connack.properties;
        if let Some(receive_maximum) = properties.receive_maximum {
            self.window = self.window.min(usize::from(receive_maximum.get()));
        }
        // The server's keep alive replaces ours.
        if let Some(seconds) = properties.server_keep_alive_s {
            self.keep_alive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        }
        self.head += length;
        Ok(())
    }

    /// Sends a message; waits while the window is full. Messages that arrive meanwhile are not
    /// wanted.
    pub(crate) fn publish(&mut self, message: Outgoing<'_>) -> Result<(), Error> {
        self.settle(self.window - 1)?;
        let packet_id = (message.qos != Qos::AtMostOnce).then(|| self.next_packet_id());
        let publish = Publish {
            qos: message.qos,
            retain: message.retain,
            packet_id,
            ..Publish::new(message.topic, message.payload)
        };
        match (message.qos, packet_id) {
            (Qos::AtLeastOnce, Some(id)) => drop(self.unacknowledged.insert(id, Awaited::Puback)),
            (Qos::ExactlyOnce, Some(id)) => drop(self.unacknowledged.insert(id, Awaited::Pubrec)),
            _ => {}
        }
        self.send(&Packet::Publish(publish))
    }

    /// Waits until at most so many messages are unacknowledged.
    pub(crate) fn settle(&mut self, count_max: usize) -> Result<(), Error> {
        let deadline = self.clock.now() + ANSWER_MAX;
        while self.unacknowledged.len() > count_max {
            self.event_by(Some(deadline))?.ok_or(Error::Silent)?;
        }
        Ok(())
    }

    /// Subscribes; the result has the broker's answer per filter.
    pub(crate) fn subscribe(
        &mut self,
        filters: &[String],
        qos: Qos,
    ) -> Result<Vec<ReasonCode>, Error> {
        let mut list = SubscribeFiltersBuilder::new();
        for filter in filters {
            list.push(filter, SubscriptionOptions::new(qos))
                .map_err(|error| Error::Usage(format!("topic filter {filter:?}: {error}")))?;
        }
        let packet_id = self.next_packet_id();
        self.send(&Packet::Subscribe(Subscribe::new(packet_id, list.view())))?;
        let deadline = self.clock.now() + ANSWER_MAX;
        loop {
            // A stored session's messages may come first, and are acknowledged: they would be lost.
            match self.event_by(Some(deadline))?.ok_or(Error::Silent)? {
                Event::Subscribed(codes) => return Ok(codes),
                Event::Message(_) if self.early.len() >= EARLY_MAX => return Err(Error::Silent),
                Event::Message(message) => self.early.push_back(message),
                Event::Nothing => {}
            }
        }
    }

    /// The next message; `None` when none came in time.
    pub(crate) fn next(&mut self, patience: Option<Duration>) -> Result<Option<Message>, Error> {
        if let Some(message) = self.early.pop_front() {
            return Ok(Some(message));
        }
        let deadline = patience.map(|patience| self.clock.now() + patience);
        loop {
            match self.event_by(deadline)? {
                None => return Ok(None),
                Some(Event::Message(message)) => return Ok(Some(message)),
                Some(Event::Nothing | Event::Subscribed(_)) => {}
            }
        }
    }

    /// How long the connection may stay silent before [`Client::ping`] is due.
    pub(crate) fn ping_due(&self) -> Option<Duration> {
        let interval = self.keep_alive?;
        Some(interval.saturating_sub(self.clock.now().since(self.last_sent)))
    }

    /// Tells the broker that the client lives, if it is time for that.
    pub(crate) fn ping(&mut self) -> Result<(), Error> {
        if self.ping_due() != Some(Duration::ZERO) {
            return Ok(());
        }
        self.send(&Packet::Pingreq)
    }

    /// Says goodbye and waits until the broker has read everything.
    pub(crate) fn disconnect(mut self) -> Result<(), Error> {
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)))?;
        self.stream.finish();
        Ok(())
    }

    /// The next packet's meaning; `None` when the deadline passed.
    fn event_by(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, Error> {
        let Some(length) = self.packet_by(deadline)? else { return Ok(None) };
        let (answer, event) = {
            let packet = decode(&self.decoder, &self.input[self.head..])?;
            let mut exchange = Exchange {
                unacknowledged: &mut self.unacknowledged,
                unreleased: &mut self.unreleased,
            };
            exchange.take(&packet)?
        };
        self.head += length;
        if let Some((kind, ack)) = answer {
            self.send(&kind(ack))?;
        }
        Ok(Some(event))
    }

    /// Reads until a whole packet is at the head of the input; returns its length, `None` at the
    /// deadline.
    fn packet_by(&mut self, deadline: Option<Instant>) -> Result<Option<usize>, Error> {
        loop {
            match self.decoder.decode(&self.input[self.head..]) {
                Ok(Decoded::Packet { length, .. }) => return Ok(Some(length)),
                Ok(Decoded::Incomplete { .. }) => {}
                Err(error) => return Err(Error::Malformed(error.to_string())),
            }
            let now = self.clock.now();
            let left = deadline.map(|deadline| deadline.since(now));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.ping()?;
            let silent = self.keep_alive.map(|interval| interval + ANSWER_MAX);
            if silent.is_some_and(|silent| now.since(self.last_received) > silent) {
                return Err(Error::Silent);
            }
            let wait = [left, self.ping_due(), silent].into_iter().flatten().min();
            self.read(wait)?;
        }
    }

    /// Reads once, at most so long.
    fn read(&mut self, wait: Option<Duration>) -> Result<(), Error> {
        self.input.drain(..self.head);
        self.head = 0;
        // A timeout of zero would mean none.
        let wait = wait.map(|wait| wait.max(Duration::from_millis(1)));
        let lost = |stream: &Stream, source| Error::Lost { peer: stream.peer().to_owned(), source };
        self.stream.set_read_timeout(wait).map_err(|error| lost(&self.stream, error))?;
        let filled = self.input.len();
        self.input.resize(filled + READ_BYTES, 0);
        let read = self.stream.read(&mut self.input[filled..]);
        self.input.truncate(filled + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => Err(Error::Closed { peer: self.stream.peer().to_owned() }),
            Ok(_) => {
                self.last_received = self.clock.now();
                Ok(())
            }
            Err(error) if is_timeout(&error) => Ok(()),
            Err(error) => Err(lost(&self.stream, error)),
        }
    }

    fn send(&mut self, packet: &Packet<'_>) -> Result<(), Error> {
        self.output.clear();
        encode(packet, self.version, &mut self.output);
        self.stream
            .write_all(&self.output)
            .and_then(|()| self.stream.flush())
            .map_err(|source| Error::Lost { peer: self.stream.peer().to_owned(), source })?;
        self.last_sent = self.clock.now();
        Ok(())
    }

    /// An id that no open exchange has: the window is far smaller than the ring of ids.
    fn next_packet_id(&mut self) -> PacketId {
        while self.unacknowledged.contains_key(&self.packet_id) {
            self.packet_id = self.packet_id.successor();
        }
        let id = self.packet_id;
        self.packet_id = id.successor();
        id
    }
}

type Answer<'a> = (fn(Ack<'a>) -> Packet<'a>, Ack<'a>);

/// The acknowledgements under way, in both directions.
struct Exchange<'a> {
    unacknowledged: &'a mut BTreeMap<PacketId, Awaited>,
    unreleased: &'a mut BTreeSet<PacketId>,
}

impl Exchange<'_> {
    /// What the packet means, and what must be answered.
    fn take(&mut self, packet: &Packet<'_>) -> Result<(Option<Answer<'static>>, Event), Error> {
        let answer = match packet {
            Packet::Publish(publish) => return Ok(self.take_message(publish)),
            Packet::Puback(ack) => {
                self.acknowledge(ack, Awaited::Puback)?;
                None
            }
            Packet::Pubrec(ack) => {
                self.acknowledge(ack, Awaited::Pubrec)?;
                self.unacknowledged.insert(ack.packet_id, Awaited::Pubcomp);
                Some(answer(Packet::Pubrel, ack.packet_id))
            }
            Packet::Pubcomp(ack) => {
                self.acknowledge(ack, Awaited::Pubcomp)?;
                None
            }
            Packet::Pubrel(ack) => {
                self.unreleased.remove(&ack.packet_id);
                Some(answer(Packet::Pubcomp, ack.packet_id))
            }
            Packet::Suback(suback) => {
                return Ok((None, Event::Subscribed(suback.codes.iter().collect())));
            }
            Packet::Pingresp | Packet::Unsuback(_) => None,
            Packet::Disconnect(disconnect) => {
                let explanation = explain(disconnect.reason_string);
                return Err(Error::Disconnected { reason: disconnect.reason.text(), explanation });
            }
            other => return Err(Error::Unexpected(other.packet_type().name())),
        };
        Ok((answer, Event::Nothing))
    }

    fn take_message(&mut self, publish: &Publish<'_>) -> (Option<Answer<'static>>, Event) {
        let message = || {
            let (topic, payload) = (publish.topic.to_owned(), publish.payload.to_vec());
            Event::Message(Message { topic, payload })
        };
        match (publish.qos, publish.packet_id) {
            (Qos::AtLeastOnce, Some(id)) => (Some(answer(Packet::Puback, id)), message()),
            (Qos::ExactlyOnce, Some(id)) => {
                // Until it is released, a message of this id is the same one.
                let is_new = self.unreleased.insert(id);
                let event = if is_new { message() } else { Event::Nothing };
                (Some(answer(Packet::Pubrec, id)), event)
            }
            _ => (None, message()),
        }
    }

    fn acknowledge(&mut self, ack: &Ack<'_>, awaited: Awaited) -> Result<(), Error> {
        if self.unacknowledged.remove(&ack.packet_id) != Some(awaited) {
            return Err(Error::Unexpected("acknowledgement"));
        }
        if ack.reason.is_error() {
            let explanation = explain(ack.reason_string);
            return Err(Error::Unpublished { reason: ack.reason.text(), explanation });
        }
        Ok(())
    }
}

fn answer(kind: fn(Ack<'static>) -> Packet<'static>, id: PacketId) -> Answer<'static> {
    (kind, Ack::new(id, ReasonCode::Success))
}

fn decode<'a>(decoder: &Decoder, bytes: &'a [u8]) -> Result<Packet<'a>, Error> {
    match decoder.decode(bytes) {
        Ok(Decoded::Packet { packet, .. }) => Ok(packet),
        Ok(Decoded::Incomplete { .. }) => Err(Error::Malformed("half a packet".to_owned())),
        Err(error) => Err(Error::Malformed(error.to_string())),
    }
}

fn explain(reason_string: Option<&str>) -> String {
    reason_string.map(|text| format!(" ({text})")).unwrap_or_default()
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
