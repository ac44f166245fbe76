//! What an earlier process left, read back: sessions, queues, wills, and the routes of them all.
//!
//! Nobody is connected to a node that begins. Who was counts as detached from now on: his expiry
//! and the delay of his will begin, and all that was queued may have been sent to him. MQTT-043,
//! INBOX-013
//!
//! What belongs to nobody is swept. No number is given again that occurs anywhere.

mod reading;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use ratatosk_client::{Keyspace, ReignPipe};
use ratatosk_clock::{Instant, Timestamp};
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    StoredMessage,
    dist::{RESTORED_LIFE, Restored},
    inbox::{DueWill, InboxId, Subscription, WillId},
};
use ratatosk_engine::{Error, KeyRange, wire::Malformed};
use ratatosk_store::coprocessor::{Reader, scan_all};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    InboxService,
    coprocessor::corrupt,
    effect::Effect,
    exchanges::Exchanges,
    handover::keep,
    journal::{Effects, Journal, WillOrder},
    partition::PARTITION_COUNT,
    partitions::{PartitionSet, Sequel, number_of, partition_number, partition_of},
    queue::Queue,
    repair::Repaired,
    schema::{
        BegunRecord, Key, MessageRecord, NoteRecord, Place, Position, SessionRecord,
        SubscriptionRecord, TurnRecord, WillRecord, partition_keys,
    },
    session::{PendingWill, Session},
    subscribing::receiver,
};
use reading::Reading;

/// A command of what is to be corrected holds about so much.
const COMMAND_BYTES: usize = 64 * 1024;

/// From where it is read.
#[derive(Copy, Clone)]
pub(crate) struct Origin<'a> {
    pub(crate) journal: &'a Journal,
    /// Under which reign, if not all is this node's: owners may live elsewhere then.
    pub(crate) reign: Option<&'a ReignPipe>,
    pub(crate) now: Instant,
    /// Where what nobody has is removed.
    pub(crate) sweep_at: u64,
}

/// Threads that read what is stored.
const READERS_MAX: usize = 8;

/// Sessions that were found.
pub(crate) type Sessions = BTreeMap<InboxId, FoundSession>;

/// What was found.
#[derive(Default)]
pub(crate) struct Found {
    sessions: Sessions,
    wills: Vec<(WillId, Bytes)>,
    bodies: HashMap<(InboxId, u64), Body, foldhash::fast::RandomState>,
    /// Keys of sessions without a record.
    loose: Vec<Bytes>,
    notes: Vec<Note>,
}

/// The partition, the publisher and its number.
type Note = (InboxId, (InboxId, u64), NoteRecord);

pub(crate) struct FoundSession {
    pub(crate) record: SessionRecord,
    subscriptions: Vec<(u32, Subscription)>,
    inbound: Vec<PacketId>,
    begun: Vec<(PacketId, BegunRecord)>,
    turn: Option<TurnRecord>,
    position: Position,
    entries: Vec<(u64, Bytes)>,
}

/// A message of several entries.
struct Body {
    record: Bytes,
    /// Made for the first entry that refers to it.
    message: Option<Arc<StoredMessage>>,
}

impl InboxService {
    /// Takes over what the keyspace has, and corrects the routes that dist took over before; answers
    /// which. To be called once, before anything else.
    ///
    /// # Errors
    /// The keyspace's, or [`Error::Corrupt`] if its data is not what was written.
    pub fn restore(&self, now: Instant) -> Result<Repaired, Error> {
        let Some(journal) = &self.journal else { return Ok(Repaired::default()) };
        let Some(keyspace) = journal.whole() else { return Ok(Repaired::default()) };
        let mut found = self.find_all(&**keyspace)?;
        self.incarnation.fetch_max(RESTORED_LIFE, Ordering::Relaxed);
        let origin = Origin { journal, reign: None, now, sweep_at: 0 };
        let (sessions, added) = self.take_in_sessions(&origin, &mut found)?;
        let removed = self.remove_stale_routes(PartitionSet::ALL);
        self.take_in_rest(&origin, &mut found, &sessions)?;
        self.partitions.count.store(sessions.len(), Ordering::Relaxed);
        Ok(Repaired { added, removed })
    }

    /// Reads all there is: several partitions at a time, as what takes time is to copy.
    fn find_all(&self, keyspace: &dyn Keyspace) -> Result<Found, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let step = PARTITION_COUNT.div_ceil(threads.min(READERS_MAX));
        let firsts: Vec<usize> = (0..PARTITION_COUNT).step_by(step).collect();
        let read = |first: usize| {
            let behind = first + step;
            let end = (behind < PARTITION_COUNT).then(|| partition_keys(behind).start);
            let start = if first == 0 { Bytes::new() } else { partition_keys(first).start };
            let keys = KeyRange { start, end };
            let mut found = Found::default();
            keyspace.read(&mut |reader| self.find(reader, &keys, &mut found))?;
            Ok(found)
        };
        let parts: Vec<Result<Found, Error>> = std::thread::scope(|scope| {
            let others = firsts[1..].iter().map(|first| scope.spawn(|| read(*first)));
            let others: Vec<_> = others.collect();
            let own = read(firsts[0]);
            let others = others.into_iter().map(|other| match other.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            [own].into_iter().chain(others).collect()
        });
        parts.into_iter().try_fold(Found::default(), |mut all, part| {
            all.append(part?);
            Ok(all)
        })
    }

    /// Notes what is there of some keys.
    pub(crate) fn find(
        &self,
        reader: &dyn Reader,
        keys: &KeyRange,
        found: &mut Found,
    ) -> Result<(), Error> {
        scan_all(reader, keys, |key, value| {
            let parsed = Key::parse(key).map_err(|malformed| corrupt(key, malformed))?;
            let number = parsed.inbox.0;
            self.partitions.lock_of(parsed.inbox).note_number(number);
            found.add(parsed, value).map_err(|malformed| corrupt(key, malformed))
        })
    }

    /// Makes the sessions that were found, and answers them, and how many routes were not as they should
    /// be.
    pub(crate) fn take_in_sessions(
        &self,
        origin: &Origin<'_>,
        found: &mut Found,
    ) -> Result<(Sessions, usize), Error> {
        let mut sessions = std::mem::take(&mut found.sessions);
        let mut added = 0;
        // Of two sessions of one identity the later is right.
        for (inbox, session) in sessions.iter().rev() {
            added += self.restore_session(origin, *inbox, session)?;
        }
        sessions.retain(|inbox, session| {
            let is_there = self.partitions.lock_of(*inbox).sessions.contains_key(inbox);
            if !is_there {
                found.loose.extend(session.keys(*inbox));
            }
            is_there
        });
        Ok((sessions, added))
    }

    /// Gives the sessions what they have: queues, times, wills.
    pub(crate) fn take_in_rest(
        &self,
        origin: &Origin<'_>,
        found: &mut Found,
        sessions: &Sessions,
    ) -> Result<(), Error> {
        // Groups are known once all their members are.
        for (inbox, session) in sessions {
            self.restore_queue(*inbox, session, &mut found.bodies)?;
        }
        for (inbox, session) in sessions {
            self.restore_times(origin, *inbox, session);
        }
        for (at, (publisher, number), record) in &found.notes {
            let notes = &mut self.partitions.lock_of(*at).notes;
            notes.restore(*publisher, *number, *record);
            notes.charge(&self.memory);
        }
        for (will, record) in &found.wills {
            self.restore_will(origin, *will, record, sessions).map_err(|malformed| {
                corrupt(&Key::new(number_of(*will), Place::Will).to_bytes(), malformed)
            })?;
        }
        sweep(origin, found);
        Ok(())
    }

    /// Makes a session with its subscriptions; answers how many of their routes were not as they
    /// should be.
    fn restore_session(
        &self,
        origin: &Origin<'_>,
        inbox: InboxId,
        found: &FoundSession,
    ) -> Result<usize, Error> {
        let record = &found.record;
        if partition_of(&record.identity) != partition_number(inbox.0) {
            return Err(corrupt(&Key::new(inbox, Place::Session).to_bytes(), Malformed));
        }
        let mut partition = self.partitions.lock_of(inbox);
        if partition.find(&record.identity).is_some() {
            return Ok(0);
        }
        let account = self.memory.account(record.identity.tenant.as_str());
        let mut session = Session::restored(record.clone(), RESTORED_LIFE, &account);
        session.detach();
        let routes = self.dist.tenant(&record.identity.tenant);
        let mut count = 0;
        for (ordinal, subscription) in &found.subscriptions {
            let key = || Key::new(inbox, Place::Subscription(*ordinal)).to_bytes();
            let filter = TopicFilter::parse(&subscription.filter, &TopicLimits::PROTOCOL);
            let filter = filter.map_err(|_| corrupt(&key(), Malformed))?;
            // Whoever was in a group stays in it, also if the tenant has a lower limit now.
            let receiver = receiver(&session, inbox, &filter, subscription, u32::MAX);
            count += usize::from(routes.restore(&filter, receiver) == Restored::Repaired);
            session.restore_subscription(*ordinal, subscription.clone());
        }
        for packet_id in &found.inbound {
            session.note_inbound(*packet_id, false);
        }
        if let Some(TurnRecord(last)) = found.turn {
            session.exchanges = Some(Box::new(Exchanges::restored(last, found.begun.clone())));
            session.recharge();
        }
        partition.put(inbox, session);
        if origin.awaits(record) {
            partition.await_owner(inbox);
        }
        Ok(count)
    }

    fn restore_queue(
        &self,
        inbox: InboxId,
        found: &FoundSession,
        bodies: &mut HashMap<(InboxId, u64), Body, foldhash::fast::RandomState>,
    ) -> Result<(), Error> {
        let tenant = &found.record.identity.tenant;
        let mut reading = Reading {
            epoch: self.journal.as_ref().map(|journal| journal.epoch).unwrap_or_default(),
            account: self.memory.account(tenant.as_str()),
            routes: self.dist.tenant(tenant),
            bodies,
        };
        let mut queue = Queue::restored(found.position);
        for (sequence, record) in &found.entries {
            let key = || Key::new(inbox, Place::Entry(*sequence)).to_bytes();
            let (item, is_received) =
                reading.item(record).map_err(|malformed| corrupt(&key(), malformed))?;
            if !queue.restore(*sequence, item, is_received) {
                return Err(corrupt(&key(), Malformed));
            }
        }
        if !queue.restore_end(found.position.last, found.record.detached.is_none()) {
            return Err(corrupt(&Key::new(inbox, Place::Position).to_bytes(), Malformed));
        }
        let mut partition = self.partitions.lock_of(inbox);
        partition.tallies.of(tenant).appended += queue.len() as u64;
        if let Some(session) = partition.sessions.get_mut(&inbox) {
            session.queue = queue;
            session.note_room();
        }
        if partition.sessions.get(&inbox).is_some_and(|session| session.is_away()) {
            partition.strand(inbox);
        }
        Ok(())
    }

    /// Files when a session ends. Who was connected is noted as detached now, or his owner is awaited.
    fn restore_times(&self, origin: &Origin<'_>, inbox: InboxId, found: &FoundSession) {
        if origin.awaits(&found.record) {
            return;
        }
        let Origin { journal, now, .. } = *origin;
        let mut partition = self.partitions.lock_of(inbox);
        let Some(session) = partition.sessions.get_mut(&inbox) else { return };
        let since = found.record.detached.unwrap_or(journal.epoch.stamp(now));
        session.away_since = since;
        let due = session.lifetime().map(|lifetime| journal.epoch.instant(after(since, lifetime)));
        if found.record.detached.is_none() {
            let mut effects = Effects::new(journal.epoch);
            effects.session(inbox, &session.record(Some(since)));
            effects.push(&Effect::Position { inbox, position: session.queue.position() });
            origin.submit(inbox, effects);
        }
        partition.schedule_at(inbox, due);
    }

    fn restore_will(
        &self,
        origin: &Origin<'_>,
        id: WillId,
        record: &Bytes,
        sessions: &Sessions,
    ) -> Result<(), Malformed> {
        let (epoch, now) = (origin.journal.epoch, origin.now);
        let record = WillRecord::decode(record)?;
        if self.keep_back(origin, id, &record, sessions)? {
            return Ok(());
        }
        let message = MessageRecord::decode(record.message)?;
        let found = record.session.and_then(|inbox| Some((inbox, sessions.get(&inbox)?)));
        let delay = Duration::from_secs(record.delay_s.into());
        let due = match (record.due, found) {
            (Some(due), _) => due,
            (None, Some((_, session))) => {
                let expiry_s = session.record.expiry_s.filter(|expiry_s| *expiry_s != u32::MAX);
                let lifetime =
                    expiry_s.map_or(delay, |expiry_s| Duration::from_secs(expiry_s.into()));
                after(session.record.detached.unwrap_or(epoch.stamp(now)), lifetime.min(delay))
            }
            (None, None) if record.session.is_none() => after(epoch.stamp(now), delay),
            (None, None) => epoch.stamp(now),
        };
        let deadline_ms = match record.due {
            Some(_) => message.deadline_ms,
            None => message.deadline_ms.map(|span_ms| due.as_millis().saturating_add(span_ms)),
        };
        let account = self.memory.account(record.identity.tenant.as_str());
        let accepted = epoch.instant(due);
        let message = MessageRecord { deadline_ms, ..message }.to_message(epoch, accepted);
        let message = Arc::new(keep(&message, &account));
        let mut partition = self.partitions.lock_of(number_of(id));
        if record.due.is_none() {
            // It stays due then, whatever its client leaves behind until the next start.
            let (identity, session, delay_s) = (&record.identity, record.session, record.delay_s);
            let order = WillOrder { identity, session, delay_s, due: Some(due), message: &message };
            let mut effects = Effects::new(epoch);
            effects.will(number_of(id), &order);
            origin.submit(number_of(id), effects);
        }
        let is_late = epoch.instant(due) > now;
        if let Some((inbox, _)) = found.filter(|_| is_late)
            && let Some(session) = partition.sessions.get_mut(&inbox)
            && session.will.is_none()
        {
            let (due, end) = (epoch.instant(due), session.due);
            session.will = Some(Box::new(PendingWill { id, due, message }));
            session.recharge();
            partition.schedule_at(inbox, end);
            return Ok(());
        }
        let will = DueWill { id, identity: record.identity, message };
        match is_late && record.session.is_none() {
            true => partition.put_late_will(epoch.instant(due), will),
            // Also one whose session has ended: that was its time.
            false => partition.put_will(will),
        }
        Ok(())
    }
}

impl Origin<'_> {
    /// Whether a session had an owner who may come again.
    fn awaits(&self, record: &SessionRecord) -> bool {
        self.reign.is_some() && record.detached.is_none()
    }

    /// Puts a correction into the log.
    fn submit(&self, at: InboxId, effects: Effects) {
        self.journal.submit_to(self.reign, at, effects, Sequel::default());
    }
}

impl Found {
    /// What was found of other partitions.
    fn append(&mut self, mut other: Found) {
        self.sessions.append(&mut other.sessions);
        self.wills.append(&mut other.wills);
        self.bodies.extend(other.bodies);
        self.loose.append(&mut other.loose);
        self.notes.append(&mut other.notes);
    }

    fn add(&mut self, key: Key, value: &Bytes) -> Result<(), Malformed> {
        match key.place {
            Place::Session => {
                let record = SessionRecord::decode(value)?;
                let session = FoundSession {
                    record,
                    subscriptions: Vec::new(),
                    inbound: Vec::new(),
                    begun: Vec::new(),
                    turn: None,
                    position: Position::default(),
                    entries: Vec::new(),
                };
                self.sessions.insert(key.inbox, session);
                return Ok(());
            }
            Place::Will => {
                self.wills.push((WillId(key.inbox.0), value.clone()));
                return Ok(());
            }
            Place::Body(sequence) => {
                let body = Body { record: value.clone(), message: None };
                self.bodies.insert((key.inbox, sequence), body);
                return Ok(());
            }
            Place::Mark => return Ok(()),
            Place::Note { publisher, number } => {
                self.notes.push((key.inbox, (publisher, number), NoteRecord::decode(value)?));
                return Ok(());
            }
            Place::Subscription(_) | Place::Inbound(_) | Place::Position | Place::Entry(_) => {}
            Place::Begun(_) | Place::Turn => {}
        }
        // A session's record is the first of its keys.
        let Some(session) = self.sessions.get_mut(&key.inbox) else {
            self.loose.push(key.to_bytes());
            return Ok(());
        };
        match key.place {
            Place::Subscription(ordinal) => {
                let subscription = SubscriptionRecord::decode(value)?.to_subscription();
                session.subscriptions.push((ordinal, subscription));
            }
            Place::Inbound(packet_id) => session.inbound.push(packet_id),
            Place::Position => session.position = Position::decode(value)?,
            Place::Entry(sequence) => session.entries.push((sequence, value.clone())),
            Place::Begun(packet_id) => {
                session.begun.push((packet_id, BegunRecord::decode(value)?));
            }
            Place::Turn => session.turn = Some(TurnRecord::decode(value)?),
            Place::Session | Place::Will | Place::Body(_) | Place::Mark | Place::Note { .. } => {}
        }
        Ok(())
    }
}

impl FoundSession {
    /// Every key of it.
    fn keys(&self, inbox: InboxId) -> Vec<Bytes> {
        let ordinals = self.subscriptions.iter().map(|held| Place::Subscription(held.0));
        let inbound = self.inbound.iter().map(|packet_id| Place::Inbound(*packet_id));
        let entries = self.entries.iter().map(|entry| Place::Entry(entry.0));
        let begun = self.begun.iter().map(|begun| Place::Begun(begun.0));
        let turn = self.turn.iter().map(|_| Place::Turn);
        let places = ordinals.chain(inbound).chain(entries).chain(begun).chain(turn);
        let places = places.chain([Place::Position, Place::Session]);
        places.map(|place| Key::new(inbox, place).to_bytes()).collect()
    }
}

/// Removes what belongs to nobody: keys of sessions that are not, and messages without an entry.
fn sweep(origin: &Origin<'_>, found: &Found) {
    let journal = origin.journal;
    let is_unused = |body: &Body| body.message.is_none();
    let unused = found.bodies.iter().filter(|(_, body)| is_unused(body));
    let mut bodies: Vec<_> = unused.map(|(at, _)| *at).collect();
    bodies.sort_unstable();
    let bodies = bodies.iter().map(|(inbox, at)| Key::new(*inbox, Place::Body(*at)).to_bytes());
    let mut effects = Effects::new(journal.epoch);
    // Entries first: a message may be theirs.
    for key in found.loose.iter().cloned().chain(bodies) {
        effects.push(&Effect::Sweep { key: &key });
        if effects.len() >= COMMAND_BYTES {
            let full = std::mem::replace(&mut effects, Effects::new(journal.epoch));
            origin.submit(InboxId(origin.sweep_at), full);
        }
    }
    if !effects.is_empty() {
        origin.submit(InboxId(origin.sweep_at), effects);
    }
}

fn after(stamp: Timestamp, span: Duration) -> Timestamp {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(stamp.as_millis().saturating_add(millis))
}
