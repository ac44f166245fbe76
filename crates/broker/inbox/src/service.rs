//! The inbox service: the contract, carried out on the sessions of 64 partitions.
//!
//! Locks: those of the partitions that a call concerns, in their order, and dist's within; no call
//! to the live sessions while one is held. What a call changes is submitted to the log before the
//! locks are given up, so that the order of a session's effects there is the order here. Routes of
//! a session that ended are removed after the locks are given up and before the call returns;
//! whoever comes between finds the session gone, and routes of an earlier life do not touch a later
//! one.
//!
//! With a log, what was decided holds at once, and a crash forgets what was not durable. So what
//! depends on it waits: entries are handed out once they are durable, and callers are told when
//! what they were promised is.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ratatosk_client::Keyspace;
use ratatosk_clock::{Epoch, Instant};
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef, StoredMessage, TenantId,
    call::{Promised, Settlement},
    dist::Dist,
    inbox::{
        Attach, Attached, Claim, Detach, DirectDelivery, DueWill, Entry, FetchBudget, Inbox,
        InboxId, NotServed, Sequence, StaleClaim, SubscribeOutcome, Subscription, Targets,
        TooManyOrders, WillId,
    },
    serving::Terms,
    sessions::Sessions,
};
use ratatosk_telemetry::memory::Accountant;
use smallvec::SmallVec;

use crate::{
    InboxStats,
    effect::Effect,
    inactive::Order,
    journal::{Change, Effects, Journal},
    partition::{DueBudget, Ended, PARTITION_COUNT, Partition},
    partitions::{Partitions, Sequel, number_of, partition_number},
    queue::FetchEnd,
    repair::LeftRoutes,
    routing::Routing,
    schema::Position,
    seats::Seats,
    session::Waiting,
    takeover::Wish,
};

/// Persistent sessions, in memory, and in a log if there is one.
pub struct InboxService {
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) journal: Option<Journal>,
    pub(crate) dist: Arc<dyn Dist>,
    pub(crate) memory: Accountant,
    /// The life that began last.
    pub(crate) incarnation: AtomicU64,
    /// At which partition the next look for what is due begins, so that each has its turn.
    pub(crate) turn: AtomicUsize,
    /// How long owners are awaited, under reigns.
    pub(crate) grace: Duration,
    /// What operators ordered to end, in turns.
    pub(crate) orders: Mutex<VecDeque<Order>>,
    /// Routes that all nodes have, and may not be as the sessions have them.
    pub(crate) routing: Arc<Routing>,
}

impl InboxService {
    /// A service without sessions, which tells `dist` of their subscriptions and wakes their
    /// owners through `sessions`.
    pub fn new(dist: Arc<dyn Dist>, sessions: Arc<dyn Sessions>) -> Self {
        InboxService {
            partitions: Arc::new(Partitions::new(sessions)),
            journal: None,
            dist,
            memory: Accountant::default(),
            incarnation: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            grace: Duration::ZERO,
            orders: Mutex::default(),
            routing: Arc::default(),
        }
    }

    /// Charges what it keeps to the tenants' accounts.
    #[must_use]
    pub fn charged_to(self, memory: &Accountant) -> Self {
        InboxService { memory: memory.clone(), ..self }
    }

    /// Keeps the sessions in a keyspace, whose coprocessor is an
    /// [`InboxCoprocessor`](crate::InboxCoprocessor). [`restore`](Self::restore) comes before the
    /// first call.
    #[must_use]
    pub fn kept_in(self, keyspace: Arc<dyn Keyspace>, epoch: Epoch) -> Self {
        let journal = Journal::new(keyspace, epoch, Arc::clone(&self.partitions));
        InboxService { journal: Some(journal), ..self }
    }

    /// Which partitions are served, where that is not all.
    pub(crate) fn seats(&self) -> Option<&Arc<Seats>> {
        self.journal.as_ref().and_then(Journal::seats)
    }

    /// Whether one command may be of both sessions. Their partitions are locked.
    pub(crate) fn is_one_range(&self, one: InboxId, other: InboxId) -> bool {
        self.seats().is_none_or(|seats| seats.is_one_reign(one, other))
    }

    /// What is there and what happened so far. Looks at every session.
    pub fn stats(&self) -> InboxStats {
        let mut sum = InboxStats::default();
        for partition in self.partitions.iter() {
            sum.add(&partition.lock().stats());
        }
        sum
    }

    /// The same of one tenant, without what is counted of sessions only. Looks at every session.
    pub fn tenant_stats(&self, tenant: &TenantId) -> InboxStats {
        let mut sum = InboxStats::default();
        for partition in self.partitions.iter() {
            sum.add(&partition.lock().tenant_stats(tenant));
        }
        sum
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.journal.is_some()
    }

    /// A command to be filled, if there is a log.
    pub(crate) fn effects(&self) -> Option<Effects> {
        self.journal.as_ref().map(|journal| Effects::new(journal.epoch))
    }

    /// Puts a command into the log, and promises its outcome. Called with the lock of whom it
    /// concerns.
    pub(crate) fn promise<T>(
        &self,
        answer: T,
        inbox: InboxId,
        reply_to: Option<ReplyTo>,
        write: impl FnOnce(&mut Effects),
    ) -> Promised<T> {
        self.promise_both(answer, inbox, Sequel { reply_to, ..Sequel::default() }, write)
    }

    /// As [`promise`](Self::promise), with all that follows.
    pub(crate) fn promise_both<T>(
        &self,
        answer: T,
        inbox: InboxId,
        sequel: Sequel,
        write: impl FnOnce(&mut Effects),
    ) -> Promised<T> {
        let Some(journal) = &self.journal else {
            // Where sessions are not kept nothing is waited for but their routes.
            return match sequel.both.filter(|both| both.is_awaited()) {
                Some(both) => {
                    both.add(true);
                    Promised::later(answer)
                }
                None => Promised::kept(answer),
            };
        };
        let mut effects = Effects::new(journal.epoch);
        write(&mut effects);
        journal.submit(inbox, effects, sequel);
        Promised::later(answer)
    }

    /// As [`promise`](Self::promise), for a call that may have ended a session of the partition.
    pub(crate) fn promise_change<T>(
        &self,
        answer: T,
        at: (&mut Partition, InboxId),
        effects: Option<Effects>,
        change: &Change,
        reply_to: Option<ReplyTo>,
    ) -> Promised<T> {
        let (Some(journal), Some(effects)) = (&self.journal, effects) else {
            return Promised::kept(answer);
        };
        let mut sequel = Sequel { reply_to, ..Sequel::default() };
        let (partition, inbox) = at;
        sequel.joint = self.remove_later(change.ended.iter().map(LeftRoutes::of), None);
        if !change.ended.is_empty() {
            partition.ends_under_way += 1;
            sequel.ended = Some((partition_number(inbox.0), partition.life));
        }
        journal.submit(inbox, effects, sequel);
        Promised::later(answer)
    }

    /// Tells the log that entries are gone. Called with the session's lock.
    pub(crate) fn forget(&self, inbox: InboxId, position: Position, sequences: SmallVec<[u64; 2]>) {
        if !sequences.is_empty() {
            let removed = Effect::Removed { inbox, sequences, position };
            let _ = self.promise((), inbox, None, |effects| effects.push(&removed));
        }
    }

    /// Does what is left of a call, without a lock.
    pub(crate) fn finish(&self, mut change: Change) {
        for ended in &change.ended {
            self.partitions.count.fetch_sub(1, Ordering::Relaxed);
            if self.seats().is_none() {
                LeftRoutes::of(ended).remove(&*self.dist, &self.routing, None);
            }
        }
        for Ended { tenant, subscriptions, .. } in std::mem::take(&mut change.ended) {
            let filters = subscriptions.iter().map(|held| &*held.filter);
            self.nudge_heirs(&tenant, filters, &mut change);
        }
        self.wake_nudged(&mut change);
        let sessions = &self.partitions.sessions;
        for (session, delivery) in change.deliveries {
            sessions.deliver(session, delivery);
        }
        for owner in change.ready {
            sessions.inbox_ready(owner);
        }
    }

    fn end_will(&self, will: WillId) {
        let number = number_of(will);
        let mut partition = self.partitions.lock_of(number);
        if !partition.is_served {
            return;
        }
        partition.guests.remove(&will);
        partition.awaited.wills.remove(&will);
        let _ = self.promise((), number, None, |effects| {
            effects.push(&Effect::WillEnd { will: number });
        });
    }
}

impl Inbox for InboxService {
    fn attach(
        &self,
        attach: &Attach<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<Attached>, NotServed>> {
        Call::Ready(self.attach_here(attach, reply_to))
    }

    fn detach(
        &self,
        claim: Claim,
        detach: Detach,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        self.detach_owner(claim, &detach, reply_to)
    }

    fn discard(
        &self,
        identity: &SessionIdentity,
        now: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<bool>, NotServed>> {
        Call::Ready(self.discard_here(identity, now, reply_to))
    }

    fn subscribe(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Call<Promised<SubscribeOutcome>> {
        Call::Ready(self.put_subscription(claim, subscription, reply_to))
    }

    fn unsubscribe(
        &self,
        claim: Claim,
        filter: &str,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, StaleClaim> {
        self.remove_subscription(claim, filter, reply_to)
    }

    fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        self.append_to(targets, message, Terms { exchange, once: None, reply_to }, direct)
    }

    fn fetch(
        &self,
        claim: Claim,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        let mut partition = self.partitions.lock_of(claim.inbox);
        let session = partition.claimed(claim)?;
        let before = entries.len();
        let fetched = session.queue.fetch(after, &budget, entries);
        session.recharge();
        session.note_room();
        session.waiting = match fetched.end {
            FetchEnd::Budget => Waiting::Not,
            FetchEnd::Empty => Waiting::Message,
            FetchEnd::Window => Waiting::PacketId,
        };
        let is_low = fetched.end == FetchEnd::Empty && !self.stranded().is_empty();
        let wish = match is_low {
            true => Wish::of(claim, session, &budget, entries.len() - before),
            false => None,
        };
        let place = session.tally;
        self.forget(claim.inbox, session.queue.position(), fetched.forgotten);
        let tally = partition.tallies.at(place);
        tally.dropped.expired += fetched.expired;
        tally.fetched_qos0 += fetched.qos0;
        drop(partition);
        wish.iter().for_each(|wish| self.take_over(wish));
        Ok(())
    }

    fn commit(&self, claim: Claim, sequence: Sequence) -> Result<(), StaleClaim> {
        let mut partition = self.partitions.lock_of(claim.inbox);
        let session = partition.claimed(claim)?;
        let base = session.queue.base();
        let is_committed = session.queue.commit(sequence);
        session.note_room();
        let has_moved = session.queue.base() != base;
        session.recharge();
        if is_committed {
            let sequences = SmallVec::from_slice(&[sequence.0]);
            self.forget(claim.inbox, session.queue.position(), sequences);
        }
        let mut waiting = if has_moved { session.wake(Waiting::PacketId) } else { None };
        if session.is_short && session.take_relief() && !self.stranded().is_empty() {
            waiting = waiting.or_else(|| session.wake(Waiting::Message));
        }
        let place = session.tally;
        partition.tallies.at(place).committed += u64::from(is_committed);
        drop(partition);
        if let Some(owner) = waiting {
            self.partitions.sessions.inbox_ready(owner);
        }
        Ok(())
    }

    fn received(
        &self,
        claim: Claim,
        sequence: Sequence,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        let mut partition = self.partitions.lock_of(claim.inbox);
        let is_received = partition.claimed(claim)?.queue.receive(sequence);
        if !is_received && self.seats().is_none() {
            return Ok(Promised::kept(()));
        }
        let received = Effect::Received { inbox: claim.inbox, sequence: sequence.0 };
        Ok(self.promise((), claim.inbox, reply_to, |effects| {
            if is_received {
                effects.push(&received);
            }
        }))
    }

    fn inbound(
        &self,
        claim: Claim,
        packet_id: PacketId,
        is_released: bool,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        let inbox = claim.inbox;
        let mut partition = self.partitions.lock_of(inbox);
        let session = partition.claimed(claim)?;
        // Also if nothing changed: what did before may not be durable yet.
        if is_released {
            session.note_inbound(packet_id, true);
            let released = Effect::Released { inbox, packet_id };
            return Ok(self.promise((), inbox, reply_to, |effects| effects.push(&released)));
        }
        let was_begun = session.accept(packet_id);
        Ok(self.promise((), inbox, reply_to, |effects| {
            effects.accepted(inbox, packet_id, was_begun);
        }))
    }

    fn keep_will(
        &self,
        identity: &SessionIdentity,
        _owner: SessionRef,
        message: &Arc<StoredMessage>,
        delay_s: u32,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<WillId>, NotServed> {
        self.keep_will_here(identity, (message, delay_s), reply_to)
    }

    fn withdraw_will(&self, will: WillId) {
        self.end_will(will);
    }

    fn will_sent(&self, will: WillId) {
        self.end_will(will);
    }

    fn expire(&self, now: Instant, due_max: usize, wills: &mut Vec<DueWill>) {
        self.make_inactive_due(now);
        self.mind_routes(now);
        self.abandon_awaited(now, due_max);
        self.forget_old_notes(now);
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % PARTITION_COUNT;
        let mut budget = DueBudget { wills: due_max, sessions: due_max };
        for number in (start..PARTITION_COUNT).chain(0..start) {
            loop {
                let mut locks = self.partitions.lock_one(number);
                let partition = locks.at(number);
                if !partition.is_served {
                    break;
                }
                let Some(id) = partition.next_over(now, &budget) else {
                    partition.take_wills(now, &mut budget, wills);
                    break;
                };
                drop(locks);
                budget.sessions -= usize::from(self.end_over(id, now));
            }
        }
    }

    fn expire_inactive(
        &self,
        tenant: &TenantId,
        away_min: Duration,
        now: Instant,
    ) -> Result<usize, TooManyOrders> {
        self.order_inactive(tenant, away_min, now)
    }

    fn len(&self) -> usize {
        self.partitions.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl InboxService {
    pub(crate) fn check_invariants(&self) {
        for partition in self.partitions.iter() {
            partition.lock().check_invariants();
        }
        self.check_stranded();
    }
}
