//! The inbox service: the contract, carried out on the sessions of 64 partitions.
//!
//! Locks: one partition at a time, and dist's within it; never two partitions, and no call to the
//! live sessions while one is held. What the end of a session leaves to do (its routes, messages
//! for other members) is done after the lock is given up and before the call returns; whoever
//! comes between finds the session gone, and routes of an earlier life do not touch a later one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_codec::PacketId;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef,
    call::Settlement,
    dist::{AddError, Dist, InboxRoute, Receiver, ReceiverKey},
    group::{Group, Member, MemberTarget},
    inbox::{
        Attach, Attached, Claim, Detach, DirectDelivery, DueWill, Entry, FetchBudget, Inbox,
        InboxId, Sequence, StaleClaim, SubscribeOutcome, Subscription, Targets,
    },
    sessions::Sessions,
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_topic::{TopicFilter, TopicLimits};
use smallvec::SmallVec;

use crate::{
    InboxStats,
    handover::{Offer, Parcel},
    partition::{DueBudget, Ended, PARTITION_COUNT, Partition, hash},
    queue::FetchEnd,
    session::{PendingWill, Session, Waiting},
};

/// Persistent sessions, in memory.
pub struct InboxService {
    partitions: Box<[CachePadded<Mutex<Partition>>]>,
    hasher: RandomState,
    pub(crate) dist: Arc<dyn Dist>,
    pub(crate) sessions: Arc<dyn Sessions>,
    memory: Accountant,
    count: AtomicUsize,
    /// The life that began last.
    incarnation: AtomicU64,
    /// At which partition the next look for what is due begins, so that each has its turn.
    turn: AtomicUsize,
    /// Messages given back for which the group had no other member.
    pub(crate) without_member: AtomicU64,
}

impl InboxService {
    /// A service without sessions, which tells `dist` of their subscriptions and wakes their
    /// owners through `sessions`.
    pub fn new(dist: Arc<dyn Dist>, sessions: Arc<dyn Sessions>) -> Self {
        let hasher = RandomState::default();
        let partition = |index| CachePadded::new(Mutex::new(Partition::new(index, hasher.clone())));
        InboxService {
            partitions: (0..PARTITION_COUNT).map(partition).collect(),
            hasher,
            dist,
            sessions,
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

    /// What is there and what happened so far. Looks at every session.
    pub fn stats(&self) -> InboxStats {
        let mut sum = InboxStats::default();
        for partition in &self.partitions {
            sum.add(&partition.lock().stats());
        }
        let without_member = self.without_member.load(Ordering::Relaxed);
        sum.appended += without_member;
        sum.dropped.no_member += without_member;
        sum
    }

    pub(crate) fn partition(&self, inbox: InboxId) -> &Mutex<Partition> {
        let count = PARTITION_COUNT as u64;
        &self.partitions[usize::try_from(inbox.0 % count).unwrap_or(0)]
    }

    fn partition_of(&self, identity: &SessionIdentity) -> &Mutex<Partition> {
        let bytes = hash(&self.hasher, identity).to_le_bytes();
        // Neither the lowest nor the highest bits, which the tables within use.
        &self.partitions[usize::from(bytes[5]) % PARTITION_COUNT]
    }

    /// Numbers a life by the clock, or by one more than the last.
    fn next_incarnation(&self, now: Instant) -> u64 {
        let next = |last: u64| now.as_nanos().max(last + 1);
        let last = self
            .incarnation
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_else(|last| last))
    }

    /// Does what the end of a session leaves to do. INBOX-010
    fn bury(&self, ended: &Ended) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        for subscription in &ended.subscriptions {
            self.remove_route(ended, &subscription.filter);
        }
        self.hand_over(&ended.tenant, ended.publisher, &ended.transfers);
    }

    fn remove_route(&self, ended: &Ended, filter: &str) {
        let Ok(filter) = TopicFilter::parse(filter, &TopicLimits::PROTOCOL) else { return };
        let key = receiver_key(&filter, ended.inbox, ended.publisher.0, ended.incarnation);
        // That it is not there any more is as good.
        let _ = self.dist.tenant(&ended.tenant).remove(&filter, &key);
    }

    /// Messages that go to a member whose session is gone go to another.
    fn give_instead(&self, gone: InboxId, group: &Arc<Group>, parcel: &mut Parcel<'_>) {
        let is_gone = |member: &&Member| member.target == MemberTarget::Inbox(gone);
        let from = group.members.iter().find(is_gone).map_or(0, |member| member.id);
        // Of a session that is gone nobody knows the tenant any more.
        let unknown = self.memory.account("");
        self.give(group, from, &Arc::clone(parcel.stored(&unknown)));
    }
}

impl Inbox for InboxService {
    fn attach(&self, attach: &Attach<'_>) -> Call<Attached> {
        let mut ended = None;
        let mut partition = self.partition_of(attach.identity).lock();
        let mut found = partition.find(attach.identity);
        if let Some(id) = found {
            let is_over = partition.sessions.get(&id).is_some_and(|held| held.is_over(attach.now));
            partition.stats.expired_sessions += u64::from(is_over);
            // [MQTT-3.1.2-4]
            if attach.is_clean || is_over {
                ended = partition.replace(id, attach.now);
                found = None;
            }
        }
        let id = found.unwrap_or_else(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            let account = self.memory.account(attach.identity.tenant.as_str());
            let incarnation = self.next_incarnation(attach.now);
            partition.insert(Session::new(attach, incarnation, &account))
        });
        let attached = partition.attach(id, attach);
        drop(partition);
        if let Some(ended) = ended {
            self.bury(&ended);
        }
        match attached {
            Some(attached) => Call::Ready(attached),
            None => unreachable!("inbox {id:?} was found or made under the same lock"),
        }
    }

    fn detach(&self, claim: Claim, detach: Detach) -> Call<Result<(), StaleClaim>> {
        let mut partition = self.partition(claim.inbox).lock();
        let session = match partition.claimed(claim) {
            Ok(session) => session,
            Err(stale) => return Call::Ready(Err(stale)),
        };
        session.expiry_s = detach.expiry_s.or(session.expiry_s);
        session.detach();
        let lifetime = session.lifetime();
        // MQTT-049: the will waits no longer than the session lives.
        session.will = detach.will.map(|(message, delay_s)| {
            let delay = std::time::Duration::from_secs(u64::from(delay_s));
            let due = detach.now + lifetime.map_or(delay, |lifetime| lifetime.min(delay));
            Box::new(PendingWill { due, message })
        });
        session.recharge();
        if lifetime.is_some_and(|lifetime| lifetime.is_zero()) {
            let ended = partition.end(claim.inbox);
            drop(partition);
            if let Some(ended) = ended {
                self.bury(&ended);
            }
            return Call::Ready(Ok(()));
        }
        let transfers = self.take_shared(session);
        let (identity, publisher) = (session.identity.tenant.clone(), session.publisher);
        partition.stats.moved += transfers.len() as u64;
        partition.schedule(claim.inbox, detach.now);
        drop(partition);
        self.hand_over(&identity, publisher, &transfers);
        Call::Ready(Ok(()))
    }

    fn discard(&self, identity: &SessionIdentity, now: Instant) -> Call<bool> {
        let mut partition = self.partition_of(identity).lock();
        let ended = partition.find(identity).and_then(|id| partition.replace(id, now));
        drop(partition);
        if let Some(ended) = &ended {
            self.bury(ended);
        }
        Call::Ready(ended.is_some())
    }

    fn subscribe(&self, claim: Claim, subscription: &Subscription) -> Call<SubscribeOutcome> {
        let mut partition = self.partition(claim.inbox).lock();
        let Ok(session) = partition.claimed(claim) else {
            return Call::Ready(SubscribeOutcome::Stale);
        };
        let Ok(filter) = TopicFilter::parse(&subscription.filter, &TopicLimits::PROTOCOL) else {
            debug_assert!(false, "{:?} is no topic filter", subscription.filter);
            return Call::Ready(SubscribeOutcome::Busy);
        };
        let existed = session.has_subscription(&subscription.filter);
        let count = session.subscriptions().len() as u64;
        if !existed && count >= u64::from(session.limits.filters_max) {
            return Call::Ready(SubscribeOutcome::TooManyFilters);
        }
        // Under the session's lock, so that the route does not outlive the session.
        let receiver = receiver(session, claim.inbox, &filter, subscription);
        let added = self.dist.tenant(&session.identity.tenant).add(&filter, receiver);
        Call::Ready(match added {
            Call::Ready(Ok(route)) => {
                session.put_subscription(subscription.clone());
                SubscribeOutcome::Done { route, existed }
            }
            Call::Ready(Err(AddError::GroupFull { .. })) => SubscribeOutcome::GroupFull,
            Call::Ready(Err(AddError::Busy)) | Call::Pending => SubscribeOutcome::Busy,
        })
    }

    fn unsubscribe(&self, claim: Claim, filter: &str) -> Call<Result<bool, StaleClaim>> {
        let mut partition = self.partition(claim.inbox).lock();
        let session = match partition.claimed(claim) {
            Ok(session) => session,
            Err(stale) => return Call::Ready(Err(stale)),
        };
        let Some(removed) = session.remove_subscription(filter) else {
            return Call::Ready(Ok(false));
        };
        if let Ok(filter) = TopicFilter::parse(&removed.filter, &TopicLimits::PROTOCOL) {
            let id = session.publisher.0;
            let key = receiver_key(&filter, claim.inbox, id, session.incarnation);
            let _ = self.dist.tenant(&session.identity.tenant).remove(&filter, &key);
        }
        Call::Ready(Ok(true))
    }

    fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        _reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        let mut parcel = Parcel::new(message);
        let mut waiting = SmallVec::<[SessionRef; 8]>::new();
        for route in targets.routes {
            match self.offer(route, None, &mut parcel) {
                Offer::Queued(owner) => waiting.extend(owner),
                Offer::Direct(delivery) => direct.push(delivery),
                Offer::Dropped | Offer::NotMeant => {}
                Offer::Gone => {
                    let stats = &mut self.partition(route.inbox).lock().stats;
                    stats.appended += 1;
                    stats.dropped.session_gone += 1;
                }
            }
        }
        for shared in targets.shared {
            match self.offer(&shared.route, Some(&shared.group), &mut parcel) {
                Offer::Queued(owner) => waiting.extend(owner),
                Offer::Direct(delivery) => direct.push(delivery),
                Offer::Dropped | Offer::NotMeant => {}
                Offer::Gone => self.give_instead(shared.route.inbox, &shared.group, &mut parcel),
            }
        }
        for owner in waiting {
            self.sessions.inbox_ready(owner);
        }
        Call::Ready(Settlement::Done)
    }

    fn fetch(
        &self,
        claim: Claim,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        let mut partition = self.partition(claim.inbox).lock();
        let session = partition.claimed(claim)?;
        let fetched = session.queue.fetch(after, &budget, entries);
        session.recharge();
        session.note_room();
        session.waiting = match fetched.end {
            FetchEnd::Budget => Waiting::Not,
            FetchEnd::Empty => Waiting::Message,
            FetchEnd::Window => Waiting::PacketId,
        };
        partition.stats.dropped.expired += fetched.expired;
        partition.stats.fetched_qos0 += fetched.qos0;
        Ok(())
    }

    fn commit(&self, claim: Claim, sequence: Sequence) -> Result<(), StaleClaim> {
        let mut partition = self.partition(claim.inbox).lock();
        let session = partition.claimed(claim)?;
        let base = session.queue.base();
        let is_committed = session.queue.commit(sequence);
        session.note_room();
        let has_moved = session.queue.base() != base;
        session.recharge();
        let waiting = if has_moved { session.wake(Waiting::PacketId) } else { None };
        partition.stats.committed += u64::from(is_committed);
        drop(partition);
        if let Some(owner) = waiting {
            self.sessions.inbox_ready(owner);
        }
        Ok(())
    }

    fn received(&self, claim: Claim, sequence: Sequence) -> Result<(), StaleClaim> {
        let mut partition = self.partition(claim.inbox).lock();
        partition.claimed(claim)?.queue.receive(sequence);
        Ok(())
    }

    fn inbound(
        &self,
        claim: Claim,
        packet_id: PacketId,
        is_released: bool,
    ) -> Result<(), StaleClaim> {
        let mut partition = self.partition(claim.inbox).lock();
        partition.claimed(claim)?.note_inbound(packet_id, is_released);
        Ok(())
    }

    fn expire(&self, now: Instant, due_max: usize, wills: &mut Vec<DueWill>) {
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % PARTITION_COUNT;
        let mut budget = DueBudget { wills: due_max, sessions: due_max };
        for partition in self.partitions[start..].iter().chain(&self.partitions[..start]) {
            let ended = partition.lock().expire(now, &mut budget, wills);
            for ended in &ended {
                self.bury(ended);
            }
        }
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl InboxService {
    pub(crate) fn check_invariants(&self) {
        for partition in &self.partitions {
            partition.lock().check_invariants();
        }
    }
}

/// The session as a receiver of `filter`.
fn receiver(
    session: &Session,
    inbox: InboxId,
    filter: &TopicFilter<'_>,
    subscription: &Subscription,
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
    Receiver::Member { member, members_max: session.limits.members_max }
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
