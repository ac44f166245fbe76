//! All clients of a run behind one event loop: what each connection does with what it gets.
//!
//! Subscribers acknowledge and book deliveries, publishers free their windows; both append to buffers
//! that leave at the end of the turn. Receiving is the hot path: one clock reading per read, one
//! histogram entry per run of equal send times.

mod control;

use std::collections::VecDeque;
use std::mem;

use hdrhistogram::Histogram;

use crate::clock;
use crate::machine::ledger::Ledger;
use crate::machine::scan::{self, Malformed, Publish};
use crate::machine::stamp::Stamp;
use crate::machine::wire::{self, Version};
use crate::net::{Closed, Handler, LinkIndex, Links};
use crate::publisher::{Gate, Publisher};

/// Latencies from 100 ns to two minutes with three digits.
const LATENCY_MAX_NS: u64 = 120_000_000_000;
/// Different messages about what went wrong that are kept.
const NOTES_MAX: usize = 16;
/// SUBSCRIBE packets under way.
const SUBSCRIBES_MAX: usize = 64;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends; the number of the publisher.
    Publisher(usize),
    /// Receives; the number of the subscriber.
    Subscriber(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialing,
    Greeting,
    Ready,
    Gone,
}

#[derive(Debug)]
struct Client {
    role: Role,
    stage: Stage,
    /// The CONNECT packet until it is sent.
    hello: Vec<u8>,
    packet_id: u16,
    receive_maximum: u16,
    /// Filters of the SUBSCRIBE packets under way, in order.
    subscribing: VecDeque<usize>,
}

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Connections that are accepted.
    pub(crate) ready: usize,
    /// Connections that could not be made.
    pub(crate) failed: usize,
    /// Connections that were lost afterwards.
    pub(crate) closed: usize,
    pub(crate) sessions_present: usize,
    pub(crate) subscribed: u64,
    pub(crate) subscribes_refused: u64,
    /// Flows of QoS 1 and 2 that ended.
    pub(crate) acked: u64,
    /// Messages that were refused by a reason code.
    pub(crate) refused: u64,
    /// Messages of someone else or without a stamp.
    pub(crate) foreign: u64,
    /// Acknowledgements of nothing.
    pub(crate) unknown_acks: u64,
    /// Windows that were given up.
    pub(crate) stalls: u64,
}

/// The clients.
#[derive(Debug)]
pub(crate) struct Load {
    version: Version,
    qos: u8,
    run: u32,
    clients: Vec<Client>,
    /// The publishers, by number.
    pub(crate) publishers: Vec<Publisher>,
    /// What arrived.
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
    /// Since the driver last took it.
    pub(crate) latency: Histogram<u64>,
    /// The broker's shortest keep-alive, if it imposes one.
    pub(crate) keep_alive: Option<u16>,
    notes: Vec<(String, u64)>,
    listed: Vec<usize>,
    subscribes: VecDeque<(LinkIndex, Vec<u8>, usize)>,
    subscribes_open: usize,
}

/// An empty histogram of latencies.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    // The bounds are constants that the constructor accepts; the fallback only widens the range.
    Histogram::new_with_bounds(100, LATENCY_MAX_NS, 3).unwrap_or_else(|_| {
        let mut histogram = Histogram::new_with_max(LATENCY_MAX_NS, 3)
            .unwrap_or_else(|error| unreachable!("constant histogram bounds: {error}"));
        histogram.auto(true);
        histogram
    })
}

impl Load {
    /// No clients yet; messages of other runs than `run` are foreign.
    pub(crate) fn new(version: Version, qos: u8, run: u32, ledger: Ledger) -> Self {
        Self {
            version,
            qos,
            run,
            clients: Vec::new(),
            publishers: Vec::new(),
            ledger,
            tally: Tally::default(),
            latency: latency_histogram(),
            keep_alive: None,
            notes: Vec::new(),
            listed: Vec::new(),
            subscribes: VecDeque::new(),
            subscribes_open: 0,
        }
    }

    /// Registers the connection `link`, which must be the next number, with its CONNECT packet.
    pub(crate) fn enlist(&mut self, link: LinkIndex, role: Role, hello: Vec<u8>) {
        assert_eq!(link, self.clients.len(), "connections are numbered in order");
        self.clients.push(Client {
            role,
            stage: Stage::Dialing,
            hello,
            packet_id: 0,
            receive_maximum: u16::MAX,
            subscribing: VecDeque::new(),
        });
    }

    /// The connections that are up, with their roles.
    pub(crate) fn ready_links(&self) -> impl Iterator<Item = (LinkIndex, Role)> {
        self.clients
            .iter()
            .enumerate()
            .filter(|(_, client)| client.stage == Stage::Ready)
            .map(|(link, client)| (link, client.role))
    }

    /// The connection leaves of its own will and is not one of the ready ones any more.
    pub(crate) fn retire(&mut self, link: LinkIndex) {
        self.clients[link].stage = Stage::Gone;
    }

    /// Adds the next publisher; the broker's receive maximum lowers its limit. [MQTT-4.9.0-1]
    pub(crate) fn add_publisher(&mut self, mut publisher: Publisher) {
        if let Some(flow) = &mut publisher.flow {
            flow.lower_limit(self.clients[publisher.link].receive_maximum);
        }
        self.publishers.push(publisher);
    }

    /// Queues one SUBSCRIBE packet with `filters`; false if it is too large for MQTT.
    pub(crate) fn subscribe(&mut self, link: LinkIndex, filters: &[String]) -> bool {
        let client = &mut self.clients[link];
        client.packet_id = client.packet_id.checked_add(1).unwrap_or(1);
        let packet = wire::subscribe(self.version, client.packet_id, filters, self.qos);
        let Some(packet) = packet else { return false };
        self.subscribes.push_back((link, packet, filters.len()));
        true
    }

    /// Sends queued SUBSCRIBE packets as far as the limit allows; true when all are answered.
    pub(crate) fn pump_subscribes(&mut self, links: &mut Links) -> bool {
        while self.subscribes_open < SUBSCRIBES_MAX {
            let Some((link, packet, count)) = self.subscribes.pop_front() else { break };
            if self.clients[link].stage != Stage::Ready {
                continue;
            }
            links.buffer(link).extend_from_slice(&packet);
            self.clients[link].subscribing.push_back(count);
            self.subscribes_open += 1;
        }
        self.subscribes_open == 0 && self.subscribes.is_empty()
    }

    /// Lets every publisher look for room at the next fill.
    pub(crate) fn list_all(&mut self) {
        for publisher in 0..self.publishers.len() {
            self.list(publisher);
        }
    }

    /// Lets the publisher look for room at the next fill.
    #[inline]
    pub(crate) fn list(&mut self, publisher: usize) {
        if let Some(found) = self.publishers.get_mut(publisher)
            && !found.listed
        {
            found.listed = true;
            self.listed.push(publisher);
        }
    }

    /// Appends what the publishers may send.
    pub(crate) fn fill(&mut self, links: &mut Links, now_ns: u64) {
        let mut listed = mem::take(&mut self.listed);
        for index in listed.drain(..) {
            let publisher = &mut self.publishers[index];
            publisher.listed = publisher.fill(links, now_ns);
            if publisher.listed {
                self.listed.push(index);
            }
        }
        if self.listed.is_empty() {
            self.listed = listed;
        }
    }

    /// Whether a publisher could send more at once.
    pub(crate) fn is_eager(&self) -> bool {
        !self.listed.is_empty()
    }

    /// To be called once a second: gives up windows that stand still.
    pub(crate) fn give_up_stalled(&mut self) {
        for index in 0..self.publishers.len() {
            if self.publishers[index].give_up_stalled() {
                self.tally.stalls += 1;
                self.list(index);
            }
        }
    }

    /// Messages sent by all publishers.
    pub(crate) fn sent(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.sent).sum()
    }

    /// Flows of QoS 1 and 2 that have not ended.
    pub(crate) fn unacknowledged(&self) -> u64 {
        let flows = self.publishers.iter().filter_map(|publisher| publisher.flow.as_ref());
        flows.map(|flow| flow.open() as u64).sum()
    }

    /// Acknowledgements that came in another order than their messages.
    pub(crate) fn acks_out_of_turn(&self) -> u64 {
        let flows = self.publishers.iter().filter_map(|publisher| publisher.flow.as_ref());
        flows.map(crate::machine::flow::Flow::out_of_turn).sum()
    }

    /// What went wrong, each with the number of times.
    pub(crate) fn notes(&self) -> Vec<String> {
        let line = |(text, count): &(String, u64)| {
            if *count == 1 { text.clone() } else { format!("{text} ({count} times)") }
        };
        self.notes.iter().map(line).collect()
    }

    fn note(&mut self, text: String) {
        if let Some((_, count)) = self.notes.iter_mut().find(|(known, _)| *known == text) {
            *count += 1;
        } else if self.notes.len() < NOTES_MAX {
            self.notes.push((text, 1));
        }
    }

    fn subscriber_chunk(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        subscriber: usize,
        bytes: &[u8],
    ) -> Result<usize, Malformed> {
        let now_ns = clock::now_ns();
        let mut at = 0;
        let (mut sent_ns, mut count) = (0, 0);
        while let Some(frame) = scan::frame(&bytes[at..])? {
            at += frame.size;
            if frame.packet_type() != wire::PUBLISH {
                self.control(links, link, frame)?;
                continue;
            }
            let publish = scan::publish(frame, self.version == Version::V5)?;
            match publish.qos {
                0 => {}
                1 => links
                    .buffer(link)
                    .extend_from_slice(&wire::acknowledgement(wire::PUBACK, publish.packet_id)),
                _ => links
                    .buffer(link)
                    .extend_from_slice(&wire::acknowledgement(wire::PUBREC, publish.packet_id)),
            }
            let Some(message_sent_ns) = self.deliver(subscriber, publish) else { continue };
            if message_sent_ns != sent_ns {
                self.record(now_ns, sent_ns, count);
                (sent_ns, count) = (message_sent_ns, 0);
            }
            count += 1;
        }
        self.record(now_ns, sent_ns, count);
        Ok(at)
    }

    /// Books a delivery; the time of sending if it is a new one of this run.
    #[inline]
    fn deliver(&mut self, subscriber: usize, publish: Publish<'_>) -> Option<u64> {
        let stamp = Stamp::decode(publish.payload).filter(|stamp| stamp.run == self.run);
        let Some(stamp) = stamp else {
            self.tally.foreign += 1;
            return None;
        };
        let publisher = stamp.publisher as usize;
        if !self.ledger.observe(subscriber, publisher, stamp.sequence) {
            return None;
        }
        if let Some(found) = self.publishers.get_mut(publisher)
            && let Gate::Window(window) = &mut found.gate
            && window.deliver(stamp.sequence)
            && !found.listed
        {
            found.listed = true;
            self.listed.push(publisher);
        }
        Some(stamp.sent_ns)
    }

    #[inline]
    fn record(&mut self, now_ns: u64, sent_ns: u64, count: u64) {
        if count > 0 {
            let latency = now_ns.saturating_sub(sent_ns).min(LATENCY_MAX_NS);
            self.latency.saturating_record_n(latency, count);
        }
    }

    fn publisher_chunk(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        publisher: usize,
        bytes: &[u8],
    ) -> Result<usize, Malformed> {
        let mut at = 0;
        while let Some(frame) = scan::frame(&bytes[at..])? {
            at += frame.size;
            match frame.packet_type() {
                wire::PUBACK | wire::PUBREC | wire::PUBCOMP => {
                    self.acknowledged(links, link, publisher, frame)?;
                }
                _ => self.control(links, link, frame)?,
            }
        }
        self.list(publisher);
        Ok(at)
    }
}

impl Handler for Load {
    fn opened(&mut self, links: &mut Links, link: LinkIndex) {
        let client = &mut self.clients[link];
        client.stage = Stage::Greeting;
        links.buffer(link).extend_from_slice(&mem::take(&mut client.hello));
    }

    #[inline]
    fn chunk(
        &mut self,
        links: &mut Links,
        link: LinkIndex,
        bytes: &[u8],
    ) -> Result<usize, Malformed> {
        match self.clients[link].role {
            Role::Publisher(index) => self.publisher_chunk(links, link, index, bytes),
            Role::Subscriber(index) => self.subscriber_chunk(links, link, index, bytes),
        }
    }

    fn drained(&mut self, link: LinkIndex) {
        if let Role::Publisher(index) = self.clients[link].role {
            self.list(index);
        }
    }

    fn closed(&mut self, _links: &mut Links, link: LinkIndex, why: Closed) {
        let client = &mut self.clients[link];
        let stage = mem::replace(&mut client.stage, Stage::Gone);
        self.subscribes_open -= mem::take(&mut client.subscribing).len();
        match stage {
            Stage::Dialing => {
                self.tally.failed += 1;
                self.note(why.to_string());
            }
            Stage::Greeting => {
                self.tally.failed += 1;
                self.note(format!("connection ended before connack: {why}"));
            }
            Stage::Ready => {
                self.tally.closed += 1;
                self.note(format!("connection ended: {why}"));
            }
            Stage::Gone => {}
        }
    }
}
