//! Messages into queues and out of them, and wills that are due.

use std::collections::{BTreeMap, BTreeSet};

use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::dist::{Dist as _, InboxRoute, Resolution};
use ratatosk_contract::inbox::{Entry, FetchBudget, Inbox as _, Sequence, Targets};
use ratatosk_contract::{Call, Message, PublisherId, SessionRef, ShardId, TenantId};
use ratatosk_topic::{TopicLimits, TopicName};

use crate::clients::{identity, will_message};
use crate::ledger::{CLIENTS, Ledger, Queued, TOPICS, Will};
use crate::node::{Node, TENANT};
use crate::planted::Planted;
use crate::probe;
use crate::simulation::{Checked, Simulation};

/// Packet identifiers that publishers use.
const PACKET_IDS: usize = 5;

impl Simulation {
    /// A message for whoever subscribed, from a persistent session with its exchange or from
    /// somebody else.
    pub(crate) fn append(&mut self) -> Checked {
        let topic = self.dice.below(TOPICS.len());
        let payload = format!("m{}", self.fresh());
        let deadline_ms = self.dice.once_in(4).then(|| self.clock.millis() + 3_000);
        let exchange = if self.dice.once_in(3) { self.new_exchange() } else { None };
        let is_qos2 = exchange.is_some() || self.dice.once_in(2);
        let qos = if is_qos2 { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let routes = routes(node, topic);
        let found: BTreeSet<_> = routes.iter().map(place).collect();
        let expected = self.ledgers.now().receivers(topic);
        if found != expected {
            return Err(format!("{} goes to {found:?}, not {expected:?}", TOPICS[topic]));
        }
        let message = Message {
            topic: TOPICS[topic],
            payload: payload.as_bytes(),
            shared: None,
            properties: &[],
            qos,
            retain: false,
            publisher: PublisherId(1),
            accepted: node.now(),
            deadline: deadline_ms.map(|deadline_ms| node.at(deadline_ms)),
        };
        let targets = Targets { tenant: &TenantId::new(TENANT), routes: &routes, shared: &[] };
        let is_forgotten = self.plan.planted == Some(Planted::ExchangeForgotten);
        let told = exchange.map(|(_, exchange)| exchange).filter(|_| !is_forgotten);
        let call = node.inbox.append(targets, &message, told, reply_to, &mut Vec::new());
        let to = found.iter().map(|(inbox, _)| inbox).collect::<Vec<_>>();
        self.trace
            .note(&format!("append {payload} {qos:?} to {to:?} {exchange:?} {ticket}: {call:?}"));
        match call {
            Call::Pending => {}
            Call::Ready(Settlement::Busy) => return Ok(()),
            Call::Ready(Settlement::Done) if routes.is_empty() && told.is_none() => return Ok(()),
            Call::Ready(other) => return Err(format!("a message: {other:?}")),
        }
        let since = self.ledgers.last() + 1;
        let mut ledger = self.ledgers.now().clone();
        if let Some((client, (_, packet_id))) = exchange
            && let Some(session) = ledger.session(client)
        {
            session.inbound.insert(packet_id.value());
        }
        for route in &routes {
            let qos = qos.min(route.options.qos) as u8;
            let payload = payload.clone();
            let queued = Queued { payload, qos, is_received: false, deadline_ms, since };
            ledger.push(route.inbox.0, queued);
        }
        self.decide(ledger, Some(ticket));
        Ok(())
    }

    /// An exchange that a persistent publisher begins, with the place of the publisher.
    fn new_exchange(&mut self) -> Option<(usize, (ratatosk_contract::inbox::Claim, PacketId))> {
        let number = u16::try_from(1 + self.dice.below(PACKET_IDS)).ok()?;
        let (client, link) = self.any_link()?;
        let claim = link.claim;
        let is_used = self.ledgers.now().sessions.get(&client)?.inbound.contains(&number);
        (!is_used).then_some((client, (claim, PacketId::new(number)?)))
    }

    /// A PUBREL of a publisher, or its message once more.
    pub(crate) fn inbound(&mut self) -> Checked {
        let number = u16::try_from(1 + self.dice.below(PACKET_IDS)).unwrap_or(1);
        let is_released = !self.dice.once_in(4);
        let Some((client, link)) = self.any_link() else { return Ok(()) };
        let (claim, Some(packet_id)) = (link.claim, PacketId::new(number)) else { return Ok(()) };
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        if node.inbox.inbound(claim, packet_id, is_released, reply_to).is_err() {
            return Err(format!("{claim:?} is stale at a PUBREL"));
        }
        let name = CLIENTS[client];
        self.trace.note(&format!("inbound {name} {number} released {is_released} {ticket}"));
        self.change(client, ticket, |session| {
            match is_released {
                true => session.inbound.remove(&number),
                false => session.inbound.insert(number),
            };
        });
        Ok(())
    }

    /// A connection fetches all that is there for it.
    pub(crate) fn fetch(&mut self) -> Checked {
        let Some((client, link)) = self.any_link() else { return Ok(()) };
        let (claim, after) = (link.claim, link.cursor);
        let Some(node) = &self.node else { return Ok(()) };
        let (messages_max, bytes_max) = (usize::MAX, usize::MAX);
        let budget = FetchBudget { now: node.now(), messages_max, bytes_max };
        let mut entries = Vec::new();
        if node.inbox.fetch(claim, Sequence(after), budget, &mut entries).is_err() {
            return Err(format!("{claim:?} is stale at a fetch"));
        }
        let sequences: Vec<_> = entries.iter().map(|entry| entry.sequence.0).collect();
        self.trace.note(&format!("fetch {} after {after}: {sequences:?}", CLIENTS[client]));
        let over = self.check_fetched(client, after, &entries)?;
        for entry in &entries {
            self.note_delivered(claim.inbox.0, entry)?;
        }
        if let Some(link) = &mut self.links[client] {
            link.cursor = sequences.last().copied().unwrap_or(after);
            link.taken.extend(entries.iter().map(|entry| (entry.sequence.0, entry.qos as u8)));
        }
        if !over.is_empty() {
            let mut ledger = self.ledgers.now().clone();
            if let Some(session) = ledger.session(client) {
                session.queue.retain(|sequence, _| !over.contains(sequence));
            }
            self.decide(ledger, None);
        }
        Ok(())
    }

    /// Whether a fetch gave what is durable, in order and without a gap but for what is over, which
    /// it answers.
    fn check_fetched(
        &self,
        client: usize,
        after: u64,
        entries: &[Entry],
    ) -> Checked<BTreeSet<u64>> {
        let mut given: BTreeMap<u64, &Entry> =
            entries.iter().map(|entry| (entry.sequence.0, entry)).collect();
        if !entries.iter().map(|entry| entry.sequence).is_sorted() || given.len() < entries.len() {
            return Err(format!("the order of {entries:?}"));
        }
        let mut over = BTreeSet::new();
        let (now_ms, floor) = (self.clock.millis(), self.ledgers.floor());
        let session = self.ledgers.now().sessions.get(&client);
        for (sequence, queued) in
            session.iter().flat_map(|session| session.queue.range(after + 1..))
        {
            if queued.since > floor {
                // What follows is held back, too, and is among what nobody expects.
                break;
            }
            let Some(entry) = given.remove(sequence) else {
                if queued.deadline_ms.is_none_or(|deadline_ms| deadline_ms > now_ms) {
                    return Err(format!("{sequence} is durable and not handed out: {queued:?}"));
                }
                over.insert(*sequence);
                continue;
            };
            let seen = probe::queued(entry);
            let is_same = seen.payload == queued.payload || queued.is_received;
            if !is_same || (seen.qos, seen.is_received) != (queued.qos, queued.is_received) {
                return Err(format!("{sequence} is {seen:?}, not {queued:?}"));
            }
        }
        match given.first_key_value() {
            None => Ok(over),
            Some((sequence, _)) => {
                Err(format!("{sequence} is handed out and not durable, or gone"))
            }
        }
    }

    /// A sequence, from which its packet identifier follows, never names two messages.
    fn note_delivered(&mut self, inbox: u64, entry: &Entry) -> Checked {
        if entry.is_received {
            return Ok(());
        }
        let payload = probe::text(&entry.message.payload);
        let before = self.delivered.insert((inbox, entry.sequence.0), payload.clone());
        match before {
            Some(before) if before != payload => {
                Err(format!("{:?} of {inbox} was {before}, and is {payload}", entry.sequence))
            }
            _ => Ok(()),
        }
    }

    /// A client confirms a message for good.
    pub(crate) fn commit(&mut self) -> Checked {
        let Some((client, claim, sequence)) = self.any_taken(false) else { return Ok(()) };
        let Some(node) = &self.node else { return Ok(()) };
        if node.inbox.commit(claim, Sequence(sequence)).is_err() {
            return Err(format!("{claim:?} is stale at a PUBACK"));
        }
        self.trace.note(&format!("commit {} {sequence}", CLIENTS[client]));
        if let Some(link) = &mut self.links[client] {
            link.taken.remove(&sequence);
        }
        let mut ledger = self.ledgers.now().clone();
        if let Some(session) = ledger.session(client) {
            session.queue.remove(&sequence);
        }
        self.decide(ledger, None);
        Ok(())
    }

    /// A client's PUBREC.
    pub(crate) fn received(&mut self) -> Checked {
        let Some((client, claim, sequence)) = self.any_taken(true) else { return Ok(()) };
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let Ok(promised) = node.inbox.received(claim, Sequence(sequence), reply_to) else {
            return Err(format!("{claim:?} is stale at a PUBREC"));
        };
        self.trace.note(&format!("received {} {sequence} {ticket}", CLIENTS[client]));
        if promised.is_durable {
            return Err(format!("{sequence} was handed out, and its PUBREC is not noted"));
        }
        self.change(client, ticket, |session| {
            if let Some(queued) = session.queue.get_mut(&sequence) {
                queued.is_received = true;
            }
        });
        Ok(())
    }

    fn any_taken(
        &mut self,
        is_qos2: bool,
    ) -> Option<(usize, ratatosk_contract::inbox::Claim, u64)> {
        let (client, link) = self.any_link()?;
        let claim = link.claim;
        let is_meant = |(_, qos): &(&u64, &u8)| !is_qos2 || **qos == 2;
        let taken: Vec<u64> = link.taken.iter().filter(is_meant).map(|(at, _)| *at).collect();
        // Mostly in order.
        let place = self.dice.below(taken.len().min(3));
        Some((client, claim, *taken.get(place)?))
    }

    /// Time is over for sessions, and wills are due.
    pub(crate) fn expire(&mut self) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let mut wills = Vec::new();
        node.inbox.expire(node.now(), usize::MAX, &mut wills);
        let now_ms = self.clock.millis();
        let mut ledger = self.ledgers.now().clone();
        let is_due =
            |will: &Will| !will.is_handed_out && will.due_ms.is_some_and(|due| due <= now_ms);
        let expected = ledger.wills.iter().filter(|(_, will)| is_due(will));
        let expected: BTreeSet<String> = expected.map(|(text, _)| text.clone()).collect();
        let given: BTreeSet<_> =
            wills.iter().map(|will| probe::text(&will.message.payload)).collect();
        self.trace.note(&format!("expire: {given:?}"));
        if given != expected || given.len() < wills.len() {
            return Err(format!("the wills {given:?} were handed out, not {expected:?}"));
        }
        for will in &wills {
            if let Some(held) = ledger.wills.get_mut(&probe::text(&will.message.payload)) {
                (held.id, held.is_handed_out) = (Some(will.id), true);
            }
        }
        let over = ledger.sessions.iter().filter(|(_, session)| session.is_over(now_ms));
        let over: Vec<usize> = over.map(|(client, _)| *client).collect();
        // In which order they ended is the service's matter: any of them may be the last durable.
        for some in 0..1_usize << over.len() {
            let mut ended = ledger.clone();
            let is_among = |place: &usize| some >> place & 1 == 1;
            for place in (0..over.len()).filter(is_among) {
                ended.sessions.remove(&over[place]);
            }
            self.decide(ended, None);
        }
        Ok(())
    }

    /// A will that was handed out was published.
    pub(crate) fn send_will(&mut self) {
        let mut ledger = self.ledgers.now().clone();
        let is_out = |will: &Will| will.is_handed_out;
        let out = ledger.wills.iter().filter(|(_, will)| is_out(will));
        let out: Vec<_> = out.map(|(text, will)| (text.clone(), will.id)).collect();
        let Some((text, Some(id))) = self.dice.pick(&out).cloned() else { return };
        let Some(node) = &self.node else { return };
        node.inbox.will_sent(id);
        self.trace.note(&format!("will {text} sent"));
        ledger.wills.remove(&text);
        self.decide(ledger, None);
    }

    /// A client with a transient session connects with a will, or leaves in peace.
    pub(crate) fn keep_will(&mut self) -> Checked {
        let mut ledger = self.ledgers.now().clone();
        let is_kept = |will: &Will| will.due_ms.is_none() && will.inbox.is_none();
        let kept = ledger.wills.iter().filter(|(_, will)| is_kept(will));
        let kept: Vec<_> = kept.map(|(text, will)| (text.clone(), will.id)).collect();
        let is_end = self.dice.once_in(2);
        let Some(node) = &self.node else { return Ok(()) };
        if let Some((text, Some(id))) = self.dice.pick(&kept).cloned().filter(|_| is_end) {
            node.inbox.withdraw_will(id);
            self.trace.note(&format!("withdraw {text}"));
            ledger.wills.remove(&text);
            self.decide(ledger, None);
            return Ok(());
        }
        let (text, delay_s) = (format!("t{}", self.fresh()), [0, 4][self.dice.below(2)]);
        let (ticket, reply_to) = self.ticket();
        let Some(node) = &self.node else { return Ok(()) };
        let owner = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
        let (identity, message) = (identity("transient"), will_message(&text));
        let kept = node.inbox.keep_will(&identity, owner, &message, delay_s, reply_to);
        let kept = kept.map_err(|error| error.to_string())?;
        self.trace.note(&format!("keep will {text}/{delay_s} {ticket}: {:?}", kept.answer));
        let id = Some(kept.answer);
        ledger.wills.insert(text, Will { id, ..Will::held(None, delay_s) });
        self.decide(ledger, Some(ticket));
        Ok(())
    }
}

impl Ledger {
    /// Queues an entry behind the others of a session.
    fn push(&mut self, inbox: u64, queued: Queued) {
        let found = self.sessions.iter().find(|(_, session)| session.inbox == inbox);
        let Some(client) = found.map(|(client, _)| *client) else { return };
        if let Some(session) = self.session(client) {
            session.queue.insert(session.next, queued);
            session.next += 1;
        }
    }
}

/// The routes of a topic, in an order of their own.
fn routes(node: &Node, topic: usize) -> Vec<InboxRoute> {
    let Ok(name) = TopicName::parse(TOPICS[topic], &TopicLimits::PROTOCOL) else {
        return Vec::new();
    };
    let mut found = Resolution::default();
    node.dist.tenant(&TenantId::new(TENANT)).resolve(name, &mut found);
    found.inboxes.sort_by_key(place);
    found.inboxes
}

/// The session and the filter of a route.
fn place(route: &InboxRoute) -> (u64, usize) {
    (route.inbox.0, route.subscription_id.map_or(usize::MAX, |number| number as usize - 1))
}
