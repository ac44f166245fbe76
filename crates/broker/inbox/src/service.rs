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
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ratatosk_client::Keyspace;
use ratatosk_clock::{Epoch, Instant};
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef, StoredMessage,
    call::{Promised, Settlement},
    dist::{AddError, Dist, InboxRoute, Receiver, ReceiverKey},
    group::{Member, MemberTarget},
    inbox::{
        Attach, Attached, Claim, Detach, DirectDelivery, DueWill, Entry, FetchBudget, Inbox,
        InboxId, Sequence, StaleClaim, SubscribeOutcome, Subscription, Targets, WillId,
    },
    sessions::Sessions,
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_topic::{TopicFilter, TopicLimits};
use smallvec::SmallVec;

use crate::{
    InboxStats,
    effect::Effect,
    handover::Source,
    journal::{Change, Effects, Journal, WillOrder},
    partition::{DueBudget, Ended, PARTITION_COUNT, Partition},
    partitions::{
        Locks, PartitionSet, Partitions, Sequel, number_of, partition_number, partition_of,
    },
    queue::FetchEnd,
    schema::Position,
    session::{PendingWill, Session, Waiting},
};

/// Persistent sessions, in memory, and in a log if there is one.
pub struct InboxService {
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) journal: Option<Journal>,
    pub(crate) dist: Arc<dyn Dist>,
    pub(crate) memory: Accountant,
    pub(crate) count: AtomicUsize,
    /// The life that began last.
    pub(crate) incarnation: AtomicU64,
    /// At which partition the next look for what is due begins, so that each has its turn.
    turn: AtomicUsize,
    /// Messages given back for which the group had no other member.
    pub(crate) without_member: AtomicU64,
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
            count: AtomicUsize::new(0),
            incarnation: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            without_member: AtomicU64::new(0),
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

    /// What is there and what happened so far. Looks at every session.
    pub fn stats(&self) -> InboxStats {
        let mut sum = InboxStats::default();
        for partition in self.partitions.iter() {
            sum.add(&partition.lock().stats());
        }
        let without_member = self.without_member.load(Ordering::Relaxed);
        sum.appended += without_member;
        sum.dropped.no_member += without_member;
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
    fn promise<T>(
        &self,
        answer: T,
        inbox: InboxId,
        reply_to: Option<ReplyTo>,
        write: impl FnOnce(&mut Effects),
    ) -> Promised<T> {
        let Some(journal) = &self.journal else { return Promised::kept(answer) };
        let mut effects = Effects::new(journal.epoch);
        write(&mut effects);
        journal.submit(inbox, effects, Sequel { reply_to, ..Sequel::default() });
        Promised::later(answer)
    }

    /// As [`promise`](Self::promise), for a call that may have ended a session of the partition.
    fn promise_change<T>(
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
        if !change.ended.is_empty() {
            partition.ends_under_way += 1;
            sequel.ended = Some(partition_number(inbox.0));
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

    /// The lock of a partition, or those of all if what is to be done there may hand messages over.
    fn lock_for(&self, number: usize, hands_over: impl Fn(&Partition) -> bool) -> Locks<'_> {
        let mut locks = self.partitions.lock_one(number);
        if !hands_over(locks.at(number)) {
            return locks;
        }
        drop(locks);
        self.partitions.lock(PartitionSet::ALL)
    }

    /// Hands over what a session leaves, and notes what its end takes with it. INBOX-010
    fn bury(
        &self,
        locks: &mut Locks<'_>,
        ended: Ended,
        effects: &mut Option<Effects>,
        change: &mut Change,
    ) {
        let source = Source {
            tenant: &ended.tenant,
            publisher: ended.publisher,
            inbox: ended.inbox,
            position: ended.position,
        };
        self.hand_over(locks, &source, &ended.transfers, change);
        if let Some(effects) = effects {
            for will in &ended.cancelled {
                effects.push(&Effect::WillEnd { will: number_of(*will) });
            }
            effects.push(&Effect::End(ended.end.clone()));
        }
        change.ended.push(ended);
    }

    /// Does what is left of a call, without a lock.
    pub(crate) fn finish(&self, change: Change) {
        for ended in &change.ended {
            self.count.fetch_sub(1, Ordering::Relaxed);
            for subscription in &ended.subscriptions {
                self.remove_route(ended, &subscription.filter);
            }
        }
        let sessions = &self.partitions.sessions;
        for (session, delivery) in change.deliveries {
            sessions.deliver(session, delivery);
        }
        for owner in change.ready {
            sessions.inbox_ready(owner);
        }
    }

    fn remove_route(&self, ended: &Ended, filter: &str) {
        let Ok(filter) = TopicFilter::parse(filter, &TopicLimits::PROTOCOL) else { return };
        let key = receiver_key(&filter, ended.inbox, ended.publisher.0, ended.incarnation);
        // That it is not there any more is as good.
        let _ = self.dist.tenant(&ended.tenant).remove(&filter, &key);
    }

    /// Numbers a life by the clock, or by one more than the last: where lives outlive the process,
    /// by the clock that does.
    fn next_incarnation(&self, now: Instant) -> u64 {
        let nanos = match &self.journal {
            Some(journal) => journal.epoch.stamp(now).as_millis().saturating_mul(1_000_000),
            None => now.as_nanos(),
        };
        let next = |last: u64| nanos.max(last + 1);
        let last = self
            .incarnation
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }

    /// Ends one session whose time is over; false if it is not any more.
    fn end_over(&self, id: InboxId, now: Instant) -> bool {
        let has_shared = |partition: &Partition| {
            partition.sessions.get(&id).is_some_and(|session| session.queue.has_shared())
        };
        let mut locks = self.lock_for(partition_number(id.0), has_shared);
        let partition = locks.of(id);
        let is_over = partition.sessions.get(&id).is_some_and(|session| session.is_over(now));
        let Some(ended) = is_over.then(|| partition.end(id)).flatten() else { return false };
        partition.stats.expired_sessions += 1;
        let (mut change, mut effects) = (Change::default(), self.effects());
        self.bury(&mut locks, ended, &mut effects, &mut change);
        let _ = self.promise_change((), (locks.of(id), id), effects, &change, None);
        drop(locks);
        self.finish(change);
        true
    }

    fn end_will(&self, will: WillId) {
        let number = number_of(will);
        let _locked = self.partitions.lock_of(number);
        let _ = self.promise((), number, None, |effects| {
            effects.push(&Effect::WillEnd { will: number });
        });
    }
}

impl Inbox for InboxService {
    fn attach(&self, attach: &Attach<'_>, reply_to: Option<ReplyTo>) -> Promised<Attached> {
        let is_to_end = |session: &Session| attach.is_clean || session.is_over(attach.now);
        let number = partition_of(attach.identity);
        let mut locks = self.lock_for(number, |partition| {
            let found = partition.find(attach.identity).and_then(|id| partition.sessions.get(&id));
            found.is_some_and(|session| is_to_end(session) && session.queue.has_shared())
        });
        let (mut change, mut effects) = (Change::default(), self.effects());
        let partition = locks.at(number);
        let mut found = partition.find(attach.identity);
        // [MQTT-3.1.2-4]
        if let Some(id) = found
            && partition.sessions.get(&id).is_some_and(|session| is_to_end(session))
        {
            let is_over = partition.sessions.get(&id).is_some_and(|held| held.is_over(attach.now));
            partition.stats.expired_sessions += u64::from(is_over);
            found = None;
            if let Some(ended) = partition.replace(id, attach.now) {
                self.bury(&mut locks, ended, &mut effects, &mut change);
            }
        }
        let partition = locks.at(number);
        let id = found.unwrap_or_else(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            let account = self.memory.account(attach.identity.tenant.as_str());
            let incarnation = self.next_incarnation(attach.now);
            partition.insert(Session::new(attach, incarnation, &account))
        });
        let Some((attached, cancelled)) = partition.attach(id, attach) else {
            unreachable!("inbox {id:?} was found or made under the same lock");
        };
        if let Some(effects) = &mut effects {
            for will in cancelled {
                effects.push(&Effect::WillEnd { will: number_of(will) });
            }
            note_attached(partition, id, attach, effects);
        }
        let promised = self.promise_change(attached, (partition, id), effects, &change, reply_to);
        drop(locks);
        self.finish(change);
        promised
    }

    fn detach(
        &self,
        claim: Claim,
        detach: Detach,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        let id = claim.inbox;
        let mut locks = self.lock_for(partition_number(id.0), |partition| {
            partition.sessions.get(&id).is_some_and(|session| session.queue.has_shared())
        });
        let (mut change, mut effects) = (Change::default(), self.effects());
        let partition = locks.of(id);
        partition.claimed(claim)?;
        // Of the connection's will, or a new one.
        let spare = detach.will.as_ref().map(|_| WillId(partition.next_number()));
        let session = partition.claimed(claim)?;
        session.expiry_s = detach.expiry_s.or(session.expiry_s);
        session.detach();
        let is_over = session.lifetime().is_some_and(|lifetime| lifetime.is_zero());
        leave_will(session, id, &detach, spare, &mut effects);
        session.recharge();
        if is_over {
            if let Some(ended) = partition.end(id) {
                self.bury(&mut locks, ended, &mut effects, &mut change);
            }
        } else {
            let transfers = self.take_shared(session);
            let position = session.queue.position();
            if let Some(effects) = &mut effects {
                let detached = Some(effects.epoch().stamp(detach.now));
                effects.session(id, &session.record(detached));
                effects.push(&Effect::Position { inbox: id, position });
            }
            let (tenant, publisher) = (session.identity.tenant.clone(), session.publisher);
            partition.stats.moved += transfers.len() as u64;
            partition.schedule(id, detach.now);
            let source = Source { tenant: &tenant, publisher, inbox: id, position };
            self.hand_over(&mut locks, &source, &transfers, &mut change);
        }
        let promised = self.promise_change((), (locks.of(id), id), effects, &change, reply_to);
        drop(locks);
        self.finish(change);
        Ok(promised)
    }

    fn discard(
        &self,
        identity: &SessionIdentity,
        now: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Promised<bool> {
        let number = partition_of(identity);
        let mut locks = self.lock_for(number, |partition| {
            let found = partition.find(identity).and_then(|id| partition.sessions.get(&id));
            found.is_some_and(|session| session.queue.has_shared())
        });
        let (mut change, mut effects) = (Change::default(), self.effects());
        let partition = locks.at(number);
        let id = partition.find(identity);
        if let Some(ended) = id.and_then(|id| partition.replace(id, now)) {
            self.bury(&mut locks, ended, &mut effects, &mut change);
        } else if partition.ends_under_way == 0 {
            return Promised::kept(false);
        }
        // Nothing was there, but perhaps its end is not durable yet: then an empty command waits
        // behind it.
        let (at, existed) = (id.unwrap_or(InboxId(number as u64)), id.is_some());
        let promised =
            self.promise_change(existed, (locks.at(number), at), effects, &change, reply_to);
        drop(locks);
        self.finish(change);
        promised
    }

    fn subscribe(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Promised<SubscribeOutcome> {
        let refused = Promised::kept;
        let mut partition = self.partitions.lock_of(claim.inbox);
        let Ok(session) = partition.claimed(claim) else {
            return refused(SubscribeOutcome::Stale);
        };
        let Ok(filter) = TopicFilter::parse(&subscription.filter, &TopicLimits::PROTOCOL) else {
            debug_assert!(false, "{:?} is no topic filter", subscription.filter);
            return refused(SubscribeOutcome::Busy);
        };
        let existed = session.has_subscription(&subscription.filter);
        let count = session.subscriptions().len() as u64;
        if !existed && count >= u64::from(session.limits.filters_max) {
            return refused(SubscribeOutcome::TooManyFilters);
        }
        if self.journal.as_ref().is_some_and(|journal| journal.check().is_err()) {
            return refused(SubscribeOutcome::Busy);
        }
        // Under the session's lock, so that the route does not outlive the session.
        let members_max = session.limits.members_max;
        let receiver = receiver(session, claim.inbox, &filter, subscription, members_max);
        let added = self.dist.tenant(&session.identity.tenant).add(&filter, receiver);
        let route = match added {
            Call::Ready(Ok(route)) => route,
            Call::Ready(Err(AddError::GroupFull { .. })) => {
                return refused(SubscribeOutcome::GroupFull);
            }
            Call::Ready(Err(AddError::Busy)) | Call::Pending => {
                return refused(SubscribeOutcome::Busy);
            }
        };
        let ordinal = session.put_subscription(subscription.clone());
        let outcome = SubscribeOutcome::Done { route, existed };
        self.promise(outcome, claim.inbox, reply_to, |effects| {
            effects.subscription(claim.inbox, ordinal, subscription);
        })
    }

    fn unsubscribe(
        &self,
        claim: Claim,
        filter: &str,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, StaleClaim> {
        let mut partition = self.partitions.lock_of(claim.inbox);
        let session = partition.claimed(claim)?;
        let Some((removed, ordinal)) = session.remove_subscription(filter) else {
            // Perhaps it was removed before, and that is not durable yet.
            return Ok(self.promise(false, claim.inbox, reply_to, |_| {}));
        };
        if let Ok(filter) = TopicFilter::parse(&removed.filter, &TopicLimits::PROTOCOL) {
            let id = session.publisher.0;
            let key = receiver_key(&filter, claim.inbox, id, session.incarnation);
            let _ = self.dist.tenant(&session.identity.tenant).remove(&filter, &key);
        }
        let unsubscribed = Effect::Unsubscribed { inbox: claim.inbox, ordinal };
        Ok(self.promise(true, claim.inbox, reply_to, |effects| effects.push(&unsubscribed)))
    }

    fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        self.append_to(targets, message, exchange, reply_to, direct)
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
        let fetched = session.queue.fetch(after, &budget, entries);
        session.recharge();
        session.note_room();
        session.waiting = match fetched.end {
            FetchEnd::Budget => Waiting::Not,
            FetchEnd::Empty => Waiting::Message,
            FetchEnd::Window => Waiting::PacketId,
        };
        self.forget(claim.inbox, session.queue.position(), fetched.forgotten);
        partition.stats.dropped.expired += fetched.expired;
        partition.stats.fetched_qos0 += fetched.qos0;
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
        let waiting = if has_moved { session.wake(Waiting::PacketId) } else { None };
        partition.stats.committed += u64::from(is_committed);
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
        if !partition.claimed(claim)?.queue.receive(sequence) {
            return Ok(Promised::kept(()));
        }
        let received = Effect::Received { inbox: claim.inbox, sequence: sequence.0 };
        Ok(self.promise((), claim.inbox, reply_to, |effects| effects.push(&received)))
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
        partition.claimed(claim)?.note_inbound(packet_id, is_released);
        // Also if nothing changed: what did before may not be durable yet.
        let noted = match is_released {
            true => Effect::Released { inbox, packet_id },
            false => Effect::Accepted { inbox, packet_id },
        };
        Ok(self.promise((), inbox, reply_to, |effects| effects.push(&noted)))
    }

    fn keep_will(
        &self,
        identity: &SessionIdentity,
        _owner: SessionRef,
        message: &Arc<StoredMessage>,
        delay_s: u32,
        reply_to: Option<ReplyTo>,
    ) -> Promised<WillId> {
        let mut locks = self.partitions.lock_one(partition_of(identity));
        let will = WillId(locks.at(partition_of(identity)).next_number());
        let order = WillOrder { identity, session: None, delay_s, due: None, message };
        self.promise(will, number_of(will), reply_to, |effects| {
            effects.will(number_of(will), &order);
        })
    }

    fn withdraw_will(&self, will: WillId) {
        self.end_will(will);
    }

    fn will_sent(&self, will: WillId) {
        self.end_will(will);
    }

    fn expire(&self, now: Instant, due_max: usize, wills: &mut Vec<DueWill>) {
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % PARTITION_COUNT;
        let mut budget = DueBudget { wills: due_max, sessions: due_max };
        for number in (start..PARTITION_COUNT).chain(0..start) {
            loop {
                let mut locks = self.partitions.lock_one(number);
                let partition = locks.at(number);
                let Some(id) = partition.next_over(now, &budget) else {
                    partition.take_wills(now, &mut budget, wills);
                    break;
                };
                drop(locks);
                budget.sessions -= usize::from(self.end_over(id, now));
            }
        }
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Notes a session with its new owner, and the will of the connection.
fn note_attached(
    partition: &mut Partition,
    id: InboxId,
    attach: &Attach<'_>,
    effects: &mut Effects,
) {
    let will = attach.will.as_ref().map(|_| WillId(partition.next_number()));
    let Some(session) = partition.sessions.get_mut(&id) else { return };
    effects.session(id, &session.record(None));
    session.held_will = will;
    if let (Some(will), Some((message, delay_s))) = (will, &attach.will) {
        let (identity, session) = (attach.identity, Some(id));
        let order = WillOrder { identity, session, delay_s: *delay_s, due: None, message };
        effects.will(number_of(will), &order);
    }
}

/// Leaves a session with the will that its connection gave, or without one. MQTT-049
fn leave_will(
    session: &mut Session,
    id: InboxId,
    detach: &Detach,
    spare: Option<WillId>,
    effects: &mut Option<Effects>,
) {
    let held = session.held_will.take();
    if let (Some((message, delay_s)), Some(will)) = (&detach.will, held.or(spare)) {
        // The will waits no longer than the session lives.
        let delay = Duration::from_secs(u64::from(*delay_s));
        let due = detach.now + session.lifetime().map_or(delay, |lifetime| lifetime.min(delay));
        let message = Arc::clone(message);
        if let Some(effects) = effects {
            let (identity, due) = (&session.identity, Some(effects.epoch().stamp(due)));
            let (session, delay_s) = (Some(id), *delay_s);
            let order = WillOrder { identity, session, delay_s, due, message: &message };
            effects.will(number_of(will), &order);
        }
        session.will = Some(Box::new(PendingWill { id: will, due, message }));
    } else if let (Some(effects), Some(held)) = (effects, held) {
        effects.push(&Effect::WillEnd { will: number_of(held) });
    }
}

#[cfg(test)]
impl InboxService {
    pub(crate) fn check_invariants(&self) {
        for partition in self.partitions.iter() {
            partition.lock().check_invariants();
        }
    }
}

/// The session as a receiver of `filter`.
pub(crate) fn receiver(
    session: &Session,
    inbox: InboxId,
    filter: &TopicFilter<'_>,
    subscription: &Subscription,
    members_max: u32,
) -> Receiver {
    let (options, subscription_id) = (subscription.options, subscription.subscription_id);
    let incarnation = session.incarnation;
    if filter.share().is_none() {
        return Receiver::Inbox(InboxRoute { inbox, incarnation, options, subscription_id });
    }
    let member = Member {
        id: session.publisher.0,
        incarnation,
        target: MemberTarget::Inbox(inbox),
        options,
        subscription_id,
        state: Arc::clone(&session.member),
    };
    Receiver::Member { member, members_max }
}

/// The same receiver, to be removed.
fn receiver_key(
    filter: &TopicFilter<'_>,
    inbox: InboxId,
    id: u64,
    incarnation: u64,
) -> ReceiverKey {
    match filter.share() {
        None => ReceiverKey::Inbox { inbox, incarnation },
        Some(_) => ReceiverKey::Member { id, incarnation },
    }
}
