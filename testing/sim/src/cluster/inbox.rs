//! The oracle of the inbox: the queue of a session has neither gap nor duplicate, whoever leads its range;
//! what was acknowledged to a publisher is there until the session commits it, and what was committed
//! does not come again. DUR-001, DUR-003
//!
//! A few sessions are connected to whoever leads, publishers send each message once, and the sessions
//! fetch, commit, and come back to begin at what they have not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::dist::{Dist as _, InboxRoute, Resolution};
use ratatosk_contract::inbox::{
    Attach, Claim, Entry, FetchBudget, Inbox as _, Sequence, SubscribeOutcome, Subscription,
    Targets,
};
use ratatosk_contract::{
    Call, Message, PublisherId, ReplyTo, SessionRef, ShardId, TenantId, Ticket as CallTicket,
};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Input;
use ratatosk_testkit::dice::Dice;
use ratatosk_topic::{TopicLimits, TopicName};

use super::front::Front;
use super::store::{Answers, Ticket, Work};
use super::{Cluster, Happening, cover, register};
use crate::clients::{LIMITS, identity};
use crate::node::{TENANT, at_once};
use crate::simulation::Checked;

/// Entries of the inbox have tickets above.
pub(super) const ENTRY: Ticket = 1 << 42;
/// The clients, each with a topic of its own, and one topic for all.
const CLIENTS: [&str; 3] = ["c", "d", "e"];
const ALL: &str = "all";
/// How long everything may take once all is well.
const RECOVERY: Duration = Duration::from_secs(30);

/// Where a message is: in which session's queue, and what it says.
type Place = (u64, String);

/// See the module.
pub(super) struct Inboxes {
    dice: Dice,
    front: Option<Front>,
    links: [Option<Link>; CLIENTS.len()],
    /// Never twice the same: of calls, messages, entries.
    number: u64,
    /// Calls that are not answered: what is acknowledged then.
    pending: BTreeMap<u64, Vec<Place>>,
    acknowledged: BTreeSet<Place>,
    /// Of each session, what was under a sequence.
    seen: BTreeMap<(u64, u64), String>,
    sequences: BTreeMap<Place, u64>,
    /// What sessions were done with; those that are durable, too.
    given_up: BTreeSet<(u64, u64)>,
    committed: BTreeSet<(u64, u64)>,
    /// Commits on their way: how many commands have to be durable.
    committing: Vec<(u64, (u64, u64))>,
    fetched: u64,
}

/// A client's connection.
struct Link {
    claim: Claim,
    cursor: u64,
    /// What it has and did not commit.
    taken: BTreeSet<u64>,
}

impl Inboxes {
    pub(super) fn new(dice: Dice) -> Self {
        Inboxes {
            dice,
            front: None,
            links: Default::default(),
            number: 0,
            pending: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            seen: BTreeMap::new(),
            sequences: BTreeMap::new(),
            given_up: BTreeSet::new(),
            committed: BTreeSet::new(),
            committing: Vec::new(),
            fetched: 0,
        }
    }

    /// Nothing of whoever led before counts: what became of it the next one has.
    fn begin(&mut self, front: Option<Front>) {
        self.front = front;
        self.links = Default::default();
        self.pending.clear();
        self.committing.clear();
    }

    /// How many messages were acknowledged, and how many handed out.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.acknowledged.len() as u64, self.fetched)
    }

    fn reply(&mut self) -> (u64, Option<ReplyTo>) {
        self.number += 1;
        let session = SessionRef { shard: ShardId(0), slot: 9, generation: 0 };
        (self.number, Some(ReplyTo { session, ticket: CallTicket(self.number) }))
    }

    /// A client connects, or comes back.
    fn attach(&mut self, client: usize, now: ratatosk_clock::Instant) -> Checked {
        let Some(front) = &self.front else { return Ok(()) };
        let attach = Attach {
            identity: &identity(CLIENTS[client]),
            owner: SessionRef { shard: ShardId(0), slot: 0, generation: 0 },
            is_clean: false,
            expiry_s: None,
            limits: LIMITS,
            will: None,
            now,
        };
        let attached = at_once(front.inbox.attach(&attach, None))?.answer;
        for (place, filter) in (1..).zip([CLIENTS[client], ALL]) {
            let options = SubscriptionOptions::new(Qos::AtLeastOnce);
            let subscription =
                Subscription { filter: filter.into(), options, subscription_id: Some(place) };
            let outcome = front.inbox.subscribe(attached.claim, &subscription, None);
            let outcome = outcome.ready().ok_or("it answers later")?.answer;
            if !matches!(outcome, SubscribeOutcome::Done { .. }) {
                return Err(format!("{} does not subscribe: {outcome:?}", CLIENTS[client]));
            }
        }
        let link = Link { claim: attached.claim, cursor: 0, taken: BTreeSet::new() };
        self.links[client] = Some(link);
        Ok(())
    }

    /// Somebody publishes a message that no other is like.
    fn publish(&mut self, topic: &str, now: ratatosk_clock::Instant) -> Checked {
        let (ticket, reply_to) = self.reply();
        let Some(front) = &self.front else { return Ok(()) };
        let payload = format!("m{ticket}");
        let routes = routes(front, topic);
        let message = Message {
            topic,
            payload: payload.as_bytes(),
            shared: None,
            properties: &[],
            qos: Qos::AtLeastOnce,
            retain: false,
            publisher: PublisherId(1),
            accepted: now,
            deadline: None,
        };
        let targets = Targets { tenant: &TenantId::new(TENANT), routes: &routes, shared: &[] };
        match front.inbox.append(targets, &message, None, reply_to, &mut Vec::new()) {
            Call::Pending => {
                let places = routes.iter().map(|route| (route.inbox.0, payload.clone()));
                self.pending.insert(ticket, places.collect());
                Ok(())
            }
            Call::Ready(Settlement::Done) if routes.is_empty() => Ok(()),
            Call::Ready(other) => Err(format!("a message of the inbox: {other:?}")),
        }
    }

    /// A session fetches; what it is given has to follow what it had.
    fn fetch(&mut self, client: usize, most: usize, now: ratatosk_clock::Instant) -> Checked {
        let (Some(front), Some(link)) = (&self.front, &self.links[client]) else { return Ok(()) };
        let (claim, after) = (link.claim, link.cursor);
        let budget = FetchBudget { now, messages_max: most, bytes_max: usize::MAX };
        let mut entries = Vec::new();
        if front.inbox.fetch(claim, Sequence(after), budget, &mut entries).is_err() {
            return Err(format!("{claim:?} is stale at a fetch"));
        }
        let inbox = claim.inbox.0;
        let mut last = after;
        for entry in &entries {
            self.check_entry(inbox, last, entry)?;
            last = entry.sequence.0;
        }
        if entries.len() < most && after == 0 {
            self.check_whole(inbox, &entries)?;
        }
        self.fetched += entries.len() as u64;
        if let Some(link) = &mut self.links[client] {
            link.cursor = last;
            link.taken.extend(entries.iter().map(|entry| entry.sequence.0));
        }
        Ok(())
    }

    fn check_entry(&mut self, inbox: u64, last: u64, entry: &Entry) -> Checked {
        let sequence = entry.sequence.0;
        let payload = String::from_utf8_lossy(&entry.message.payload).into_owned();
        if sequence <= last {
            return Err(format!("{inbox}: {sequence} comes behind {last}"));
        }
        if let Some(gap) = (last + 1..sequence).find(|at| !self.given_up.contains(&(inbox, *at))) {
            return Err(format!("{inbox}: {gap} is missing between {last} and {sequence}"));
        }
        if self.committed.contains(&(inbox, sequence)) {
            return Err(format!("{inbox}: {sequence} was committed and comes again"));
        }
        let known = self.seen.entry((inbox, sequence)).or_insert_with(|| payload.clone());
        if *known != payload {
            return Err(format!("{inbox}: {sequence} was {known}, and is {payload}"));
        }
        let place = (inbox, payload);
        let first = *self.sequences.entry(place.clone()).or_insert(sequence);
        match first == sequence {
            true => Ok(()),
            false => Err(format!("{place:?} is at {first} and at {sequence}")),
        }
    }

    /// A session that was given all that is there has whatever was acknowledged and it is not done with.
    fn check_whole(&self, inbox: u64, entries: &[Entry]) -> Checked {
        let given: BTreeSet<&[u8]> =
            entries.iter().map(|entry| &entry.message.payload[..]).collect();
        let places = self.acknowledged.range((inbox, String::new())..);
        for place in places.take_while(|(held, _)| *held == inbox) {
            let sequence = self.sequences.get(place);
            let is_over = sequence.is_some_and(|at| self.given_up.contains(&(inbox, *at)));
            if !is_over && !given.contains(place.1.as_bytes()) {
                return Err(format!("{place:?} was acknowledged and is lost"));
            }
        }
        Ok(())
    }

    /// A session is done with the oldest that it has.
    fn commit(&mut self, client: usize) -> Checked {
        let (Some(front), Some(link)) = (&self.front, &mut self.links[client]) else {
            return Ok(());
        };
        let Some(sequence) = link.taken.pop_first() else { return Ok(()) };
        let inbox = link.claim.inbox.0;
        if front.inbox.commit(link.claim, Sequence(sequence)).is_err() {
            return Err(format!("{:?} is stale at a commit", link.claim));
        }
        self.given_up.insert((inbox, sequence));
        self.committing.push((front.submitted(), (inbox, sequence)));
        Ok(())
    }

    /// Takes note of what is durable now.
    fn settle(&mut self) -> Checked {
        let Some(front) = &self.front else { return Ok(()) };
        let durable = front.durable();
        let done = self.committing.extract_if(.., |(count, _)| *count <= durable);
        self.committed.extend(done.map(|(_, place)| place));
        for (ticket, settlement) in front.take_settled() {
            if settlement != Settlement::Done {
                return Err(format!("a message of the inbox settled with {settlement:?}"));
            }
            self.acknowledged.extend(self.pending.remove(&ticket).into_iter().flatten());
        }
        Ok(())
    }
}

impl Cluster {
    /// A store leads a group, with all before applied.
    pub(super) fn comes_to_lead(&mut self, store: u64, group: GroupId, term: u64) -> Checked {
        let place = self.stores.get(&store).and_then(|place| place.store.as_ref());
        let Some(held) = place.filter(|held| held.keyspace(group) == Some(register::INBOX)) else {
            return Ok(());
        };
        if self.inboxes.front.as_ref().is_some_and(|front| front.term >= term) {
            return Ok(());
        }
        let front = Front::open((store, group, term), held.overlay(), self.now);
        let front = front.map_err(|error| format!("the inbox of {store}: {error}"))?;
        self.trace.note(&format!("the inbox is at {store} in term {term}"));
        self.inboxes.begin(Some(front));
        Ok(())
    }

    /// A store is gone, with what it ran.
    pub(super) fn lose_inbox(&mut self, store: u64) {
        if self.inboxes.front.as_ref().is_some_and(|front| front.store == store) {
            self.inboxes.begin(None);
        }
    }

    /// Somebody does something with the inbox.
    pub(super) fn use_inbox(&mut self) -> Checked {
        if self.callers.has_finish() {
            return Ok(());
        }
        let now = self.now;
        let held = &mut self.inboxes;
        let client = held.dice.below(CLIENTS.len());
        if held.links[client].is_none() {
            held.attach(client, now)?;
        }
        match held.dice.below(12) {
            0..=3 => held.publish(CLIENTS[client], now)?,
            4 => held.publish(ALL, now)?,
            5..=7 => {
                let most = 1 + held.dice.below(8);
                held.fetch(client, most, now)?;
            }
            8..=10 => held.commit(client)?,
            _ => {
                held.attach(client, now)?;
                held.fetch(client, usize::MAX, now)?;
            }
        }
        self.send_entry();
        let span = Duration::from_millis(1 + self.inboxes.dice.below(12) as u64);
        self.after(span, Happening::Inbox);
        Ok(())
    }

    /// What the inbox has for the log goes there.
    fn send_entry(&mut self) {
        let Some(front) = &mut self.inboxes.front else { return };
        let (number, group, term) = (front.store, front.group, front.term);
        let place = self.stores.get_mut(&number).and_then(|place| place.store.as_mut());
        let Some(store) = place else { return };
        let Some(version) = store.version(group) else { return };
        let Some(data) = front.next_entry(version) else { return };
        let ticket = ENTRY + term;
        store.ask(Input::Propose { group, term: Some(term), data, ticket });
        self.wake(number, Work::Log);
    }

    /// An entry of the inbox is answered.
    pub(super) fn inbox_answered(&mut self, ticket: Ticket, answers: Answers) -> Checked {
        let Some(front) = &mut self.inboxes.front else { return Ok(()) };
        if ticket != ENTRY + front.term {
            return Ok(());
        }
        match answers {
            Ok(answers) => {
                front.is_done(answers)?;
                self.inboxes.settle()?;
            }
            // Nothing of it is in the log; a leader that cannot hand over goes on to lead.
            Err(Refusal::Version(_) | Refusal::NotLeader) => {
                front.try_again();
                return Ok(());
            }
            // Whoever leads next knows what became of it.
            Err(_) => self.inboxes.begin(None),
        }
        self.send_entry();
        Ok(())
    }

    /// Everything that was acknowledged is there, and can be committed.
    pub(super) fn empty_inboxes(&mut self) -> Checked {
        let end = self.now + RECOVERY;
        let mut is_asked = false;
        while self.now < end {
            self.send_entry();
            let is_served = self.inboxes.front.is_some();
            if is_served && !is_asked {
                self.inboxes.publish(ALL, self.now)?;
            }
            is_asked = is_served;
            let next = self.now + Duration::from_millis(50);
            self.until(next, |_| false)?;
            self.now = self.now.max(next);
            let is_settled = self.inboxes.pending.is_empty() && self.inboxes.front.is_some();
            if is_asked && is_settled && self.inboxes.committing.is_empty() {
                return self.check_inboxes();
            }
        }
        let (range, front) = (cover::of(register::INBOX, self.live()), &self.inboxes.front);
        let waiting = (&self.inboxes.pending, &self.inboxes.committing);
        Err(format!(
            "{RECOVERY:?} after all was well the inbox does not work: {front:?}, {waiting:?}, {range:?}"
        ))
    }

    fn check_inboxes(&mut self) -> Checked {
        for client in 0..CLIENTS.len() {
            self.inboxes.attach(client, self.now)?;
            self.inboxes.fetch(client, usize::MAX, self.now)?;
        }
        self.send_entry();
        (self.outcome.messages, self.outcome.fetched) = self.inboxes.counts();
        Ok(())
    }
}

/// The sessions that are to have what is published to a topic.
fn routes(front: &Front, topic: &str) -> Vec<InboxRoute> {
    let Ok(name) = TopicName::parse(topic, &TopicLimits::PROTOCOL) else { return Vec::new() };
    let mut found = Resolution::default();
    front.dist.tenant(&TenantId::new(TENANT)).resolve(name, &mut found);
    found.inboxes.sort_by_key(|route| route.inbox.0);
    found.inboxes
}
