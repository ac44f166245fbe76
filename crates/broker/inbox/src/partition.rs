//! The sessions behind one lock, and what of them is due.
//!
//! Invariants: an identity has one session at most; the index of what is due has exactly the `due`
//! of each session and of its will; a session with an owner has neither, nor has one whose owner is
//! awaited, which is one of `awaited`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable};
use ratatosk_clock::Instant;
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    PublisherId, SessionIdentity, TenantId,
    inbox::{Attach, Attached, Claim, DueWill, InboxId, StaleClaim, Subscription, WillId},
};
use smallvec::SmallVec;

use crate::{
    InboxStats,
    effect::End,
    notes::Notes,
    queue::Transfer,
    schema::Position,
    session::{HeldWill, PendingWill, Session},
    stranded::Stranded,
    tally::Tallies,
};

/// The numbers of inboxes of one partition are this far apart, so that the number tells the
/// partition.
pub(crate) const PARTITION_COUNT: usize = 64;

/// The sessions behind one lock.
pub(crate) struct Partition {
    next_id: u64,
    pub(crate) sessions: HashMap<InboxId, Box<Session>, RandomState>,
    by_identity: HashTable<InboxId>,
    hasher: RandomState,
    due: BTreeSet<(Instant, DueKind, InboxId)>,
    /// Wills that are due, of sessions that ended or were resumed too late.
    wills: VecDeque<DueWill>,
    /// Wills of sessions that went with a crash, which wait.
    late_wills: BTreeMap<(Instant, WillId), DueWill>,
    /// Under reigns: sessions and wills that were read back, whose owners are to come.
    pub(crate) awaited: Awaited,
    /// Under reigns: the wills of transient sessions that are connected.
    pub(crate) guests: BTreeMap<WillId, Guest>,
    /// Whether anybody may ask for what is here: always, but under reigns.
    pub(crate) is_served: bool,
    /// How often all that was here went.
    pub(crate) life: u64,
    /// What happened to sessions; what is there is counted when somebody asks.
    pub(crate) stats: InboxStats,
    /// What happened to messages.
    pub(crate) tallies: Tallies,
    /// Sessions that ended whose end is not durable yet.
    pub(crate) ends_under_way: usize,
    /// Messages that may come again and are queued once.
    pub(crate) notes: Notes,
    stranded: Arc<Stranded>,
}

/// Sessions and wills whose owners are to come.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    /// When they are waited for no longer.
    pub(crate) until: Instant,
    pub(crate) sessions: BTreeSet<InboxId>,
    pub(crate) wills: BTreeSet<WillId>,
}

/// The will of a transient session that is connected.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) identity: SessionIdentity,
    pub(crate) will: HeldWill,
}

/// What was in a partition, to be dropped where nobody waits.
#[derive(Debug)]
pub(crate) struct Contents {
    sessions: HashMap<InboxId, Box<Session>, RandomState>,
    _by_identity: HashTable<InboxId>,
    _wills: VecDeque<DueWill>,
    _late_wills: BTreeMap<(Instant, WillId), DueWill>,
    _guests: BTreeMap<WillId, Guest>,
    _notes: Notes,
}

impl Contents {
    /// How many sessions there were.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }
}

/// What is due. A will goes before the end of its session.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DueKind {
    Will,
    Session,
}

/// What is left to do for a session that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) tenant: TenantId,
    pub(crate) inbox: InboxId,
    pub(crate) incarnation: u64,
    pub(crate) publisher: PublisherId,
    /// Whose routes are to be removed.
    pub(crate) subscriptions: Vec<Subscription>,
    /// What other members of its groups may have.
    pub(crate) transfers: Vec<Transfer>,
    /// How far its queue was.
    pub(crate) position: Position,
    /// What is stored of it.
    pub(crate) end: End,
    /// And of its messages that were begun, if there ever were any.
    pub(crate) begun: Option<Vec<PacketId>>,
    /// Wills that are not to be published.
    pub(crate) cancelled: Cancelled,
}

/// Wills that are not to be published: one that waited, and one of a connection.
pub(crate) type Cancelled = SmallVec<[WillId; 2]>;

/// How many of what is due may still be taken.
#[derive(Copy, Clone, Debug)]
pub(crate) struct DueBudget {
    pub(crate) wills: usize,
    pub(crate) sessions: usize,
}

/// The hash of an identity.
pub(crate) fn hash(hasher: &RandomState, identity: &SessionIdentity) -> u64 {
    use std::hash::BuildHasher;
    hasher.hash_one(identity)
}

impl Partition {
    pub(crate) fn new(index: usize, hasher: RandomState, stranded: Arc<Stranded>) -> Self {
        Partition {
            // Zero names nobody.
            next_id: (index + PARTITION_COUNT) as u64,
            sessions: HashMap::default(),
            by_identity: HashTable::new(),
            hasher,
            due: BTreeSet::new(),
            wills: VecDeque::new(),
            late_wills: BTreeMap::new(),
            awaited: Awaited::default(),
            guests: BTreeMap::new(),
            is_served: true,
            life: 0,
            stats: InboxStats::default(),
            tallies: Tallies::default(),
            ends_under_way: 0,
            notes: Notes::default(),
            stranded,
        }
    }

    /// A number that nobody had.
    pub(crate) fn next_number(&mut self) -> u64 {
        let number = self.next_id;
        self.next_id += PARTITION_COUNT as u64;
        number
    }

    /// A number was given by an earlier process.
    pub(crate) fn note_number(&mut self, number: u64) {
        self.next_id = self.next_id.max(number.saturating_add(PARTITION_COUNT as u64));
    }

    pub(crate) fn find(&self, identity: &SessionIdentity) -> Option<InboxId> {
        let is_meant =
            |id: &InboxId| self.sessions.get(id).is_some_and(|held| held.identity == *identity);
        self.by_identity.find(hash(&self.hasher, identity), is_meant).copied()
    }

    /// The session of a claim that still holds. INBOX-002
    pub(crate) fn claimed(&mut self, claim: Claim) -> Result<&mut Session, StaleClaim> {
        match self.sessions.get_mut(&claim.inbox) {
            Some(session) if session.version == claim.version && session.owner.is_some() => {
                Ok(session)
            }
            _ => {
                self.stats.stale += 1;
                Err(StaleClaim)
            }
        }
    }

    pub(crate) fn insert(&mut self, session: Session) -> InboxId {
        let id = InboxId(self.next_number());
        self.put(id, session);
        id
    }

    /// Files a session under its number, which nobody has.
    pub(crate) fn put(&mut self, id: InboxId, mut session: Session) {
        session.tally = self.tallies.place(&session.identity.tenant);
        let identity_hash = hash(&self.hasher, &session.identity);
        let was_there = self.sessions.insert(id, Box::new(session)).is_some();
        assert!(!was_there, "inbox {id:?} is new");
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        let rehash = |id: &InboxId| sessions.get(id).map_or(0, |held| hash(hasher, &held.identity));
        self.by_identity.insert_unique(identity_hash, id, rehash);
    }

    /// Makes `attach.owner` the owner. A will that was to be published later is not. MQTT-050,
    /// [MQTT-3.1.3-9]
    pub(crate) fn attach(
        &mut self,
        id: InboxId,
        attach: &Attach<'_>,
    ) -> Option<(Attached, Cancelled)> {
        let cancelled = self.cancel(id, attach.now);
        self.awaited.sessions.remove(&id);
        let session = self.sessions.get_mut(&id)?;
        let is_present = session.version > 0;
        session.attach(attach);
        self.stranded.forget_all(id, &mut session.noted);
        Some((session.attached(id, is_present), cancelled))
    }

    /// Everything goes: it is to be served elsewhere. What is in queues leaves with it, counted.
    pub(crate) fn vacate(&mut self) -> Contents {
        for (id, session) in &mut self.sessions {
            self.stranded.forget_all(*id, &mut session.noted);
            session.set_offline(true);
            let queued = session.queue.len() + session.queue.qos0_len();
            self.tallies.at(session.tally).left += queued as u64;
        }
        self.due.clear();
        self.awaited = Awaited::default();
        (self.is_served, self.life) = (false, self.life + 1);
        self.ends_under_way = 0;
        Contents {
            sessions: std::mem::take(&mut self.sessions),
            _by_identity: std::mem::take(&mut self.by_identity),
            _wills: std::mem::take(&mut self.wills),
            _late_wills: std::mem::take(&mut self.late_wills),
            _guests: std::mem::take(&mut self.guests),
            _notes: std::mem::take(&mut self.notes),
        }
    }

    /// Notes what other members of its groups may have of a session that has no owner.
    pub(crate) fn strand(&mut self, id: InboxId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Session { queue, noted, .. } = &mut **session;
        self.stranded.note_all(id, noted, queue);
        session.recharge();
    }

    /// Whoever owned the session is waited for.
    pub(crate) fn await_owner(&mut self, id: InboxId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.is_awaited = true;
        self.awaited.sessions.insert(id);
    }

    /// Files the times of a session that has no owner.
    pub(crate) fn schedule(&mut self, id: InboxId, now: Instant) {
        let lifetime = self.sessions.get(&id).and_then(|session| session.lifetime());
        self.schedule_at(id, lifetime.map(|lifetime| now + lifetime));
    }

    /// Files the end and the will of a session that has no owner.
    pub(crate) fn schedule_at(&mut self, id: InboxId, due: Option<Instant>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.due = due;
        if let Some(due) = session.due {
            self.due.insert((due, DueKind::Session, id));
        }
        if let Some(will) = &session.will {
            self.due.insert((will.due, DueKind::Will, id));
        }
    }

    /// Ends the life of a session that has no owner: its time is over from `now` on.
    pub(crate) fn make_due(&mut self, id: InboxId, now: Instant) {
        if let Some(due) = self.sessions.get(&id).and_then(|session| session.due) {
            self.due.remove(&(due, DueKind::Session, id));
        }
        self.schedule_at(id, Some(now));
    }

    /// Ends a session whose client is back and starts clean: a will that is not due yet goes with
    /// it, for the client has come within the delay. MQTT-040, [MQTT-3.1.2-8]
    pub(crate) fn replace(&mut self, id: InboxId, now: Instant) -> Option<Ended> {
        let cancelled = self.cancel(id, now);
        Some(Ended { cancelled, ..self.end(id)? })
    }

    /// Takes the wills of a session whose client is back, if they are not due.
    fn cancel(&mut self, id: InboxId, now: Instant) -> Cancelled {
        let waiting = self.unschedule(id, now);
        let session = self.sessions.get_mut(&id);
        let held = session.and_then(|session| {
            session.held = None;
            session.held_will.take()
        });
        waiting.into_iter().chain(held).collect()
    }

    /// Ends a session: what is left is done without the lock. [MQTT-3.1.2-8]
    pub(crate) fn end(&mut self, id: InboxId) -> Option<Ended> {
        // As if now were the end of time: a will that waits is due when its session ends.
        self.unschedule(id, Instant::from_nanos(u64::MAX));
        let mut session = self.sessions.remove(&id)?;
        self.awaited.sessions.remove(&id);
        let identity_hash = hash(&self.hasher, &session.identity);
        if let Ok(held) = self.by_identity.find_entry(identity_hash, |held| *held == id) {
            held.remove();
        }
        self.shrink();
        let (position, entries) = (session.queue.position(), session.queue.sequences());
        self.stranded.forget_all(id, &mut session.noted);
        let transfers = session.queue.take_shared(usize::MAX, |_, _| true);
        let tally = self.tallies.at(session.tally);
        tally.moved += transfers.len() as u64;
        tally.dropped.session_ended += (session.queue.len() + session.queue.qos0_len()) as u64;
        let begun = session.exchanges.take().map(|begun| begun.packet_ids().collect());
        let (subscriptions, ordinals) = session.take_subscriptions();
        let end = End {
            inbox: id,
            first: entries.start,
            count: u32::try_from(entries.end - entries.start).unwrap_or(u32::MAX),
            ordinals,
            inbound: session.inbound().to_vec(),
        };
        Some(Ended {
            tenant: session.identity.tenant.clone(),
            inbox: id,
            incarnation: session.incarnation,
            publisher: session.publisher,
            subscriptions,
            transfers,
            position,
            end,
            begun,
            cancelled: Cancelled::new(),
        })
    }

    /// The next session whose time is over, within the budget; wills that are due before are made
    /// ready to be taken. A session whose client is there is not among them. INBOX-010, INBOX-011
    /// [MQTT-4.1.0-1] [MQTT-4.1.0-2]
    pub(crate) fn next_over(&mut self, now: Instant, budget: &DueBudget) -> Option<InboxId> {
        while let Some(&(due, kind, id)) = self.due.first().filter(|first| first.0 <= now) {
            match kind {
                DueKind::Will if self.wills.len() >= budget.wills => break,
                DueKind::Will => {
                    self.due.remove(&(due, kind, id));
                    let session = self.sessions.get_mut(&id);
                    if let Some(will) = session.and_then(|session| session.will.take()) {
                        self.release(id, *will);
                    }
                }
                DueKind::Session if budget.sessions == 0 => break,
                DueKind::Session => {
                    return Some(id);
                }
            }
        }
        None
    }

    /// Takes wills that are due, within the budget.
    pub(crate) fn take_wills(
        &mut self,
        now: Instant,
        budget: &mut DueBudget,
        wills: &mut Vec<DueWill>,
    ) {
        while let Some(first) = self.late_wills.first_entry().filter(|will| will.key().0 <= now) {
            self.wills.push_back(first.remove());
        }
        let count = budget.wills.min(self.wills.len());
        budget.wills -= count;
        wills.extend(self.wills.drain(..count));
        if self.wills.is_empty() {
            self.wills.shrink_to(0);
        }
    }

    /// What happened and what is there.
    pub(crate) fn stats(&self) -> InboxStats {
        let mut stats = self.stats;
        self.tallies.iter().for_each(|tally| stats.add(tally));
        if self.is_served {
            stats.wills_due = self.wills.len();
            self.sessions.values().for_each(|session| note_there(&mut stats, session));
        }
        stats
    }

    /// What happened to the messages of one tenant, and what it has.
    pub(crate) fn tenant_stats(&mut self, tenant: &TenantId) -> InboxStats {
        let Some(place) = self.tallies.find(tenant) else { return InboxStats::default() };
        let mut stats = *self.tallies.at(place);
        let is_served = self.is_served;
        let its = self.sessions.values().filter(|session| session.tally == place && is_served);
        its.for_each(|session| note_there(&mut stats, session));
        stats
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let mut due = BTreeSet::new();
        for (id, session) in &self.sessions {
            session.queue.check_invariants();
            assert_eq!(self.find(&session.identity), Some(*id));
            let has_times = session.due.is_some() || session.will.is_some();
            assert!(session.is_away() || !has_times, "{} is attached", session.identity);
            assert_eq!(session.is_awaited, self.awaited.sessions.contains(id));
            due.extend(session.due.map(|due| (due, DueKind::Session, *id)));
            due.extend(session.will.iter().map(|will| (will.due, DueKind::Will, *id)));
        }
        assert_eq!(self.by_identity.len(), self.sessions.len());
        assert_eq!(self.due, due);
        self.notes.check_invariants();
    }

    /// Takes the times of a session out of the index; a will that waited until `now` is due, one
    /// that has to wait longer is returned.
    fn unschedule(&mut self, id: InboxId, now: Instant) -> Option<WillId> {
        let session = self.sessions.get_mut(&id)?;
        if let Some(due) = session.due.take() {
            self.due.remove(&(due, DueKind::Session, id));
        }
        let will = session.will.take()?;
        self.due.remove(&(will.due, DueKind::Will, id));
        if will.due > now {
            return Some(will.id);
        }
        self.release(id, *will);
        None
    }

    /// Makes a will of a session ready to be taken.
    fn release(&mut self, id: InboxId, will: PendingWill) {
        let Some(session) = self.sessions.get(&id) else { return };
        let identity = session.identity.clone();
        self.put_will(DueWill { id: will.id, identity, message: will.message });
    }

    /// Puts a will where [`Partition::take_wills`] finds it.
    pub(crate) fn put_will(&mut self, will: DueWill) {
        self.wills.push_back(will);
    }

    /// Puts a will that belongs to no session where it is found when it is due.
    pub(crate) fn put_late_will(&mut self, due: Instant, will: DueWill) {
        self.late_wills.insert((due, will.id), will);
    }

    /// Gives memory back after many sessions have ended.
    fn shrink(&mut self) {
        /// Tables have more room than this before they give some back.
        const ROOM_MIN: usize = 64;
        if self.sessions.capacity() <= ROOM_MIN.max(4 * self.sessions.len()) {
            return;
        }
        let room = 2 * self.sessions.len();
        self.sessions.shrink_to(room);
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        let rehash = |id: &InboxId| sessions.get(id).map_or(0, |held| hash(hasher, &held.identity));
        self.by_identity.shrink_to(room, rehash);
    }
}

/// Counts what a session has.
fn note_there(stats: &mut InboxStats, session: &Session) {
    stats.sessions += 1;
    stats.attached += usize::from(session.owner.is_some());
    stats.queued += session.queue.len() as u64;
    stats.queued_qos0 += session.queue.qos0_len() as u64;
}
