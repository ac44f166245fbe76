//! A client and a broker around one session; time is a number that tests move.
//!
//! [`Peer`] encodes what the client sends, decodes what the session wrote and shows it as short
//! text: `PUBLISH a=x q1 #1 dup`. [`FakeBroker`] answers from scripts and records what it is asked.

use std::{
    collections::VecDeque,
    io::IoSlice,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_codec::{
    Ack, Connect, Decoded, Decoder, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode,
    Subscribe, SubscribeFiltersBuilder, SubscriptionOptions, encode,
};
use ratatosk_contract::{
    Message, PublisherId, StoredMessage, TenantId, TenantSettings, Ticket,
    inbox::{Entry, FetchBudget, Sequence, StaleClaim},
};
use ratatosk_session::{
    Answer, Broker, Claimed, Delivered, Delivery, Ending, Farewell, Grant, Next, Permit, Published,
    Report, Request, Session, SessionConfig, Subscribed, Unsubscribed,
};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

pub(crate) const V31: ProtocolVersion = ProtocolVersion::V31;
pub(crate) const V311: ProtocolVersion = ProtocolVersion::V311;
pub(crate) const V5: ProtocolVersion = ProtocolVersion::V5;
pub(crate) const ALL: [ProtocolVersion; 3] = [V31, V311, V5];
pub(crate) const OLD: [ProtocolVersion; 2] = [V31, V311];

/// Durable later.
pub(crate) const PENDING: Published = Published::Pending { parts: 1, is_matched: true };

/// Answers from scripts, and yes when they are over; records what it is asked.
#[derive(Debug, Default)]
pub(crate) struct FakeBroker {
    pub(crate) published: Vec<StoredMessage>,
    pub(crate) outcomes: VecDeque<Published>,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) permits: VecDeque<Permit>,
    pub(crate) subscribe_outcomes: VecDeque<Subscribed>,
    pub(crate) unsubscribe_outcomes: VecDeque<Unsubscribed>,
    /// The places of the filters that were subscribed to, in the order of the questions.
    pub(crate) places: Vec<usize>,
    pub(crate) subscriptions: Vec<(String, SubscriptionOptions, Option<u32>)>,
    pub(crate) unsubscribed: Vec<String>,
    /// The inbox of a persistent session.
    pub(crate) queue: Vec<Entry>,
    pub(crate) committed: Vec<u64>,
    pub(crate) inbound: Vec<(u16, bool)>,
    pub(crate) is_stale: bool,
    pub(crate) reports: Vec<String>,
}

impl FakeBroker {
    fn claim(&self) -> Result<(), StaleClaim> {
        if self.is_stale { Err(StaleClaim) } else { Ok(()) }
    }

    /// Puts a message into the inbox.
    pub(crate) fn enqueue(&mut self, sequence: u64, message: &StoredMessage) {
        self.queue.push(Entry {
            sequence: Sequence(sequence),
            qos: message.qos,
            retain: false,
            is_received: false,
            subscription_id: None,
            message: Arc::new(message.clone()),
        });
    }
}

impl Broker for FakeBroker {
    fn publish(
        &mut self,
        message: &Message<'_>,
        ticket: Ticket,
        exchange: Option<PacketId>,
    ) -> Published {
        if let Err(error) = TopicName::parse(message.topic, &TopicLimits::default()) {
            return Published::InvalidTopic(error);
        }
        let outcome = self.outcomes.pop_front().unwrap_or(Published::Handed { is_matched: true });
        if matches!(outcome, Published::Pending { .. }) {
            self.tickets.push(ticket);
        }
        if matches!(outcome, Published::Pending { .. } | Published::Handed { .. }) {
            self.published.push(message.to_stored());
            let accepted = exchange.map(|packet_id| (packet_id.value(), false));
            self.inbound.extend(accepted);
        }
        outcome
    }

    fn permits_subscribe(&mut self, _filter: TopicFilter<'_>, _qos: Qos) -> Permit {
        self.permits.pop_front().unwrap_or(Permit::Allowed)
    }

    fn permits_unsubscribe(&mut self, _filter: TopicFilter<'_>) -> Permit {
        self.permits.pop_front().unwrap_or(Permit::Allowed)
    }

    fn subscribe(
        &mut self,
        place: usize,
        filter: TopicFilter<'_>,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Subscribed {
        self.places.push(place);
        self.subscriptions.push((filter.as_str().to_owned(), options, subscription_id));
        self.subscribe_outcomes.pop_front().unwrap_or(Subscribed::Granted)
    }

    fn unsubscribe(&mut self, filter: TopicFilter<'_>) -> Unsubscribed {
        self.unsubscribed.push(filter.as_str().to_owned());
        self.unsubscribe_outcomes.pop_front().unwrap_or(Unsubscribed::Removed)
    }

    fn fetch(
        &mut self,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        self.claim()?;
        let (mut taken, mut bytes) = (0, 0);
        self.queue.retain(|entry| {
            let is_plain = entry.qos == Qos::AtMostOnce;
            let is_next = if is_plain { entry.sequence >= after } else { entry.sequence > after };
            if !is_next || taken >= budget.messages_max || (bytes > 0 && bytes >= budget.bytes_max)
            {
                return true;
            }
            taken += 1;
            bytes += entry.message.payload.len();
            entries.push(entry.clone());
            !is_plain
        });
        Ok(())
    }

    fn commit(&mut self, sequence: Sequence) -> Result<(), StaleClaim> {
        self.claim()?;
        self.committed.push(sequence.0);
        self.queue.retain(|entry| entry.sequence != sequence || entry.qos == Qos::AtMostOnce);
        Ok(())
    }

    fn received(&mut self, sequence: Sequence) -> Result<(), StaleClaim> {
        self.claim()?;
        for entry in &mut self.queue {
            entry.is_received |= entry.sequence == sequence && entry.qos == Qos::ExactlyOnce;
        }
        Ok(())
    }

    fn released(&mut self, packet_id: PacketId) -> Result<(), StaleClaim> {
        self.claim()?;
        self.inbound.push((packet_id.value(), true));
        Ok(())
    }

    fn assign_client_id(&mut self) -> String {
        "assigned-1".to_owned()
    }

    fn report(&mut self, report: Report<'_>) {
        self.reports.push(match report {
            Report::PublishRefused { topic, code, .. } => {
                format!("publish {topic} {:02x}", code.value())
            }
            Report::SubscribeRefused { filter, code, .. } => {
                format!("subscribe {filter} {:02x}", code.value())
            }
            Report::ResendsExhausted { count } => format!("exhausted {count}"),
        });
    }
}

/// A session with its client and its broker.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) session: Session,
    pub(crate) broker: FakeBroker,
    pub(crate) now: Instant,
    pub(crate) version: ProtocolVersion,
    /// Bytes that the session has not taken.
    pub(crate) unread: Vec<u8>,
}

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not zero")
}

/// Settings that differ from the default.
pub(crate) fn settings(change: impl FnOnce(&mut TenantSettings)) -> TenantSettings {
    let mut settings = TenantSettings::default();
    change(&mut settings);
    settings
}

/// A CONNECT of client `c`.
pub(crate) fn connect(version: ProtocolVersion) -> Connect<'static> {
    Connect::new(version, "c", true)
}

pub(crate) fn grant(settings: &TenantSettings) -> Grant {
    Grant {
        tenant: TenantId::new("t"),
        user: None,
        settings: Arc::new(settings.clone()),
        response_information: None,
        user_properties: Vec::new(),
        data: None,
    }
}

pub(crate) fn transient() -> Claimed {
    Claimed { is_present: false, is_persistent: false, inbound: Vec::new(), sent: Sequence(0) }
}

pub(crate) fn persistent() -> Claimed {
    Claimed { is_persistent: true, ..transient() }
}

/// A message of another client.
pub(crate) fn stored(topic: &str, payload: &str, qos: Qos) -> StoredMessage {
    StoredMessage {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: Box::default(),
        qos,
        retain: false,
        publisher: PublisherId(77),
        accepted: Instant::from_millis(1_000),
        deadline: None,
    }
}

pub(crate) fn publish(topic: &'static str, qos: u8, packet_id: u16) -> Publish<'static> {
    Publish {
        qos: Qos::try_from(qos).expect("0 to 2"),
        packet_id: PacketId::new(packet_id).filter(|_| qos > 0),
        ..Publish::new(topic, b"x")
    }
}

pub(crate) fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(packet, version, &mut bytes);
    bytes
}

impl Peer {
    /// Messages that expired and packets that did not fit, since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> (u32, u32) {
        let late = self.session.take_late();
        (late.expired, late.oversize + late.replies)
    }

    /// A connection on which nothing came yet.
    pub(crate) fn fresh(version: ProtocolVersion) -> Self {
        let now = Instant::from_millis(10_000);
        let config = SessionConfig { connect_bytes_max: 4096, client_id_bytes_max: 30 };
        let settings = Arc::new(TenantSettings::default());
        let session = Session::new(now, &config, settings);
        Peer { session, broker: FakeBroker::default(), now, version, unread: Vec::new() }
    }

    /// A connection whose CONNECT was sent.
    pub(crate) fn connecting(connect: &Connect<'_>) -> Self {
        let mut peer = Peer::fresh(connect.version);
        peer.send(&Packet::Connect(*connect));
        peer
    }

    /// A connection whose client was let in; the CONNACK is still unread.
    pub(crate) fn granted(connect: &Connect<'_>, settings: &TenantSettings) -> Self {
        let mut peer = Peer::connecting(connect);
        assert!(matches!(peer.session.take_request(), Some(Request::Authenticate(_))));
        peer.answer(Answer::Granted(Box::new(grant(settings))));
        peer
    }

    pub(crate) fn claimed(
        connect: &Connect<'_>,
        settings: &TenantSettings,
        claimed: Claimed,
    ) -> Self {
        let mut peer = Peer::granted(connect, settings);
        assert!(matches!(peer.session.take_request(), Some(Request::Claim(_))));
        peer.answer(Answer::Claimed(Box::new(claimed)));
        peer
    }

    /// A live transient session; the CONNACK was read.
    pub(crate) fn live(version: ProtocolVersion, settings: &TenantSettings) -> Self {
        Peer::live_as(&connect(version), settings, transient())
    }

    pub(crate) fn live_as(
        connect: &Connect<'_>,
        settings: &TenantSettings,
        claimed: Claimed,
    ) -> Self {
        let mut peer = Peer::claimed(connect, settings, claimed);
        assert_eq!(peer.out().first().map(|text| &text[..12]), Some("CONNACK 0x00"));
        peer
    }

    /// A live session whose queue is in the inbox, with these messages; nothing was read.
    pub(crate) fn resumed(
        connect: &Connect<'_>,
        claimed: Claimed,
        queue: Vec<Entry>,
        settings: &TenantSettings,
    ) -> Self {
        let mut peer = Peer::granted(connect, settings);
        peer.broker.queue = queue;
        peer.session.take_request();
        peer.answer(Answer::Claimed(Box::new(claimed)));
        peer
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        self.session.answer(self.now, answer, &mut self.broker);
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Next {
        self.unread.extend_from_slice(bytes);
        let received = self.session.receive(self.now, &self.unread, None, &mut self.broker);
        self.unread.drain(..received.consumed);
        received.next
    }

    pub(crate) fn send(&mut self, packet: &Packet<'_>) -> Next {
        let bytes = encoded(packet, self.version);
        self.feed(&bytes)
    }

    pub(crate) fn publish(&mut self, topic: &'static str, qos: u8, packet_id: u16) -> Next {
        self.send(&Packet::Publish(publish(topic, qos, packet_id)))
    }

    pub(crate) fn ack(&mut self, kind: fn(Ack<'static>) -> Packet<'static>, packet_id: u16) {
        self.send(&kind(Ack::new(id(packet_id), ReasonCode::Success)));
    }

    pub(crate) fn puback(&mut self, packet_id: u16) {
        self.ack(Packet::Puback, packet_id);
    }

    pub(crate) fn subscribe(&mut self, filters: &[&str]) -> Next {
        self.subscribe_as(filters, SubscriptionOptions::new(Qos::AtLeastOnce), None)
    }

    pub(crate) fn subscribe_as(
        &mut self,
        filters: &[&str],
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Next {
        let mut builder = SubscribeFiltersBuilder::new();
        for filter in filters {
            builder.push(filter, options).expect("a filter fits");
        }
        let subscribe = Subscribe { subscription_id, ..Subscribe::new(id(7), builder.view()) };
        self.send(&Packet::Subscribe(subscribe))
    }

    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Next {
        let mut builder = ratatosk_codec::UnsubscribeFiltersBuilder::new();
        for filter in filters {
            builder.push(filter).expect("a filter fits");
        }
        let unsubscribe = ratatosk_codec::Unsubscribe::new(id(7), builder.view());
        self.send(&Packet::Unsubscribe(unsubscribe))
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    pub(crate) fn tick_after(&mut self, span: Duration) {
        self.pass(span);
        self.session.tick(self.now, &mut self.broker);
    }

    pub(crate) fn deliver(&mut self, message: &StoredMessage, granted: u8) -> Delivered {
        let qos = Qos::try_from(granted).expect("0 to 2");
        self.deliver_as(message, SubscriptionOptions::new(qos), None, false)
    }

    pub(crate) fn deliver_as(
        &mut self,
        message: &StoredMessage,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
        is_retained: bool,
    ) -> Delivered {
        let message = message.as_message();
        let delivery =
            Delivery { message: &message, options, subscription_id, is_retained, origin: None };
        self.session.deliver(self.now, &delivery)
    }

    /// What the client can read now, as bytes.
    pub(crate) fn written(&mut self) -> Vec<u8> {
        let output = self.session.output();
        let mut all = Vec::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = output.gather(&mut slices);
            let before = all.len();
            slices[..filled].iter().for_each(|slice| all.extend_from_slice(slice));
            let count = all.len() - before;
            output.advance(count);
        }
        all
    }

    /// What the client can read now, as packets.
    pub(crate) fn read(&mut self, mut see: impl FnMut(&Packet<'_>)) {
        let bytes = self.written();
        let decoder = Decoder::client(self.version, u32::MAX);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match decoder.decode(rest) {
                Ok(Decoded::Packet { packet, length }) => {
                    see(&packet);
                    rest = &rest[length..];
                }
                other => panic!("the session wrote no packet: {other:?} in {rest:02x?}"),
            }
        }
    }

    /// What the client can read now, as text.
    pub(crate) fn out(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        self.read(|packet| texts.push(describe(packet)));
        texts
    }

    /// Ends the session for its own reason, or as if the peer had closed.
    pub(crate) fn end(&mut self) -> Ending {
        self.session.end(Farewell::PeerClosed)
    }

    /// Ends the session, and what the client reads then.
    pub(crate) fn last_words(&mut self) -> Vec<String> {
        self.end();
        self.out()
    }
}

/// A packet as short text.
pub(crate) fn describe(packet: &Packet<'_>) -> String {
    let ack = |name: &str, ack: &Ack<'_>| {
        let mut text = format!("{name} #{}", ack.packet_id.value());
        if ack.reason != ReasonCode::Success {
            text += &format!(" 0x{:02x}", ack.reason.value());
        }
        if ack.reason_string.is_some() {
            text += " why";
        }
        text
    };
    match packet {
        Packet::Connack(connack) => {
            let present = if connack.session_present { " present" } else { "" };
            format!("CONNACK 0x{:02x}{present}", connack.reason.value())
        }
        Packet::Publish(publish) => describe_publish(publish),
        Packet::Puback(puback) => ack("PUBACK", puback),
        Packet::Pubrec(pubrec) => ack("PUBREC", pubrec),
        Packet::Pubrel(pubrel) => ack("PUBREL", pubrel),
        Packet::Pubcomp(pubcomp) => ack("PUBCOMP", pubcomp),
        Packet::Suback(suback) => {
            let codes: Vec<_> =
                suback.codes.iter().map(|code| format!("{:02x}", code.value())).collect();
            format!("SUBACK #{} {}", suback.packet_id.value(), codes.join(" "))
        }
        Packet::Unsuback(unsuback) => {
            let codes: Vec<_> =
                unsuback.codes.iter().map(|code| format!(" {:02x}", code.value())).collect();
            format!("UNSUBACK #{}{}", unsuback.packet_id.value(), codes.concat())
        }
        Packet::Disconnect(disconnect) => format!("DISCONNECT 0x{:02x}", disconnect.reason.value()),
        Packet::Auth(auth) => {
            let data = auth.data.map(String::from_utf8_lossy).unwrap_or_default();
            let method = auth.method.unwrap_or_default();
            format!("AUTH 0x{:02x} {method} {data}", auth.reason.value())
        }
        other => other.packet_type().name().to_owned(),
    }
}

fn describe_publish(publish: &Publish<'_>) -> String {
    let mut text = format!(
        "PUBLISH {}={} q{}",
        publish.topic,
        String::from_utf8_lossy(publish.payload),
        publish.qos.value()
    );
    if let Some(packet_id) = publish.packet_id {
        text += &format!(" #{}", packet_id.value());
    }
    for (is_set, name) in [(publish.dup, " dup"), (publish.retain, " retain")] {
        if is_set {
            text += name;
        }
    }
    if let Some(alias) = publish.properties.topic_alias() {
        text += &format!(" alias={alias}");
    }
    if let Some(expiry_s) = publish.properties.message_expiry_s() {
        text += &format!(" expiry={expiry_s}");
    }
    for subscription_id in publish.properties.subscription_ids() {
        text += &format!(" sub={subscription_id}");
    }
    text
}

/// Sets the properties of a CONNECT that tests vary.
pub(crate) fn connect_v5(
    session_expiry_s: u32,
    receive_maximum: u16,
    packet_size_max: u32,
    topic_alias_max: u16,
) -> Connect<'static> {
    let mut connect = connect(V5);
    connect.clean_start = session_expiry_s == 0;
    connect.properties.session_expiry_s = Some(session_expiry_s).filter(|seconds| *seconds > 0);
    connect.properties.receive_maximum = NonZeroU16::new(receive_maximum);
    connect.properties.packet_size_max = NonZeroU32::new(packet_size_max);
    connect.properties.topic_alias_max = Some(topic_alias_max).filter(|max| *max > 0);
    connect
}
