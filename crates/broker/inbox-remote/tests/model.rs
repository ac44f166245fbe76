//! Inboxes of several hosts over one store: whoever serves a partition finds what the one before left.
//!
//! It promises everything for later, and settles it at once, from within the call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::call::{Promised, Settlement};
use ratatosk_contract::inbox::{
    Attach, Attached, Claim, Detach, DirectDelivery, DueWill, Entry, FetchBudget, Inbox, InboxId,
    NotServed, Sequence, StaleClaim, SubscribeOutcome, Subscription, Targets, TooManyOrders,
    WillId,
};
use ratatosk_contract::serving::{Begun, Choice, Once, Refusal, Serving, Terms, Wish};
use ratatosk_contract::sessions::Sessions;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef, StoredMessage, TenantId,
};
use ratatosk_inbox_remote::{PARTITION_COUNT, Seat, Seats};
use ratatosk_rpc::HostId;
use tokio::sync::watch;

/// What is stored, and who serves it.
pub(crate) struct Store {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// Counts what changes it.
    pub(crate) stirred: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    seats: BTreeMap<usize, Seat>,
    /// Partitions that are not of range 0.
    ranges: BTreeMap<usize, u64>,
    /// Of each partition and publisher: the smallest number that may come again, and those that came.
    notes: BTreeMap<(usize, u64), (u64, BTreeSet<u64>)>,
    sessions: BTreeMap<u64, Stored>,
    wills: BTreeSet<u64>,
    resumed_wills: usize,
    due_wills: usize,
    last: u64,
    /// A host that says nothing of what it made durable, and of what it did not.
    silent: Option<HostId>,
    unsaid: Vec<(Arc<dyn Sessions>, ReplyTo)>,
}

#[derive(Clone)]
pub(crate) struct Stored {
    identity: SessionIdentity,
    version: u64,
    owner: Option<SessionRef>,
    /// It had an owner when its partition was seated, who has not gone on yet.
    is_awaited: bool,
    pub(crate) queue: BTreeMap<u64, Entry>,
    last: u64,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) inbound: BTreeSet<PacketId>,
    pub(crate) begun: BTreeMap<PacketId, Message2>,
    /// How many messages were begun.
    pub(crate) turn: u64,
    /// The will that is due by how it was left.
    pub(crate) will: Option<String>,
    held_will: Option<String>,
    is_waiting: bool,
}

/// A message of QoS 2 that is begun.
#[derive(Clone)]
pub(crate) struct Message2 {
    number: u64,
    mark: u64,
    pub(crate) choices: Vec<Choice>,
}

impl Store {
    pub(crate) fn new() -> Arc<Store> {
        let (changes, stirred) = (watch::Sender::new(0), watch::Sender::new(0));
        Arc::new(Store { state: Mutex::default(), changes, stirred })
    }

    /// A host serves all partitions from now on; nobody if there is none.
    pub(crate) fn seat_all(&self, host: Option<u128>) {
        for partition in 0..PARTITION_COUNT {
            self.set_seat(partition, host);
        }
    }

    pub(crate) fn set_seat(&self, partition: usize, host: Option<u128>) {
        let mut state = self.state.lock();
        state.last += 1;
        let (term, range) = (state.last, state.ranges.get(&partition).copied().unwrap_or(0));
        match host {
            Some(host) => {
                state.seats.insert(partition, Seat { host: HostId(host), term, range });
            }
            None => {
                state.seats.remove(&partition);
            }
        }
        let of_it = |inbox: &u64| place_of(InboxId(*inbox)) == partition;
        for stored in state.sessions.iter_mut().filter(|(inbox, _)| of_it(inbox)) {
            stored.1.is_awaited |= stored.1.owner.take().is_some();
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// A partition is of another range from now on. Others know when it is seated next.
    pub(crate) fn set_range(&self, partition: usize, range: u64) {
        self.state.lock().ranges.insert(partition, range);
    }

    /// A host does what it is asked, and does not say so. Nobody if there is none.
    pub(crate) fn keep_silent(&self, host: Option<u128>) {
        self.state.lock().silent = host.map(HostId);
    }

    /// What was not said is in doubt: whoever was to say it serves nothing any more.
    pub(crate) fn doubt_the_unsaid(&self) {
        let unsaid = std::mem::take(&mut self.state.lock().unsaid);
        for (sessions, ReplyTo { session, ticket }) in unsaid {
            sessions.settle(session, ticket, Settlement::Unknown);
        }
    }

    /// What was not said is durable, after all.
    pub(crate) fn say_the_unsaid(&self) {
        let unsaid = std::mem::take(&mut self.state.lock().unsaid);
        for (sessions, ReplyTo { session, ticket }) in unsaid {
            sessions.settle(session, ticket, Settlement::Done);
        }
    }

    /// How much was not said.
    pub(crate) fn unsaid(&self) -> usize {
        self.state.lock().unsaid.len()
    }

    /// A session has no subscriptions: what it was told of was not durable.
    pub(crate) fn unsubscribe_all(&self, inbox: InboxId) {
        if let Some(stored) = self.state.lock().sessions.get_mut(&inbox.0) {
            stored.subscriptions.clear();
        }
    }

    pub(crate) fn stored(&self, inbox: InboxId) -> Option<Stored> {
        self.state.lock().sessions.get(&inbox.0).cloned()
    }

    /// How many wills are kept, were resumed, and are due.
    pub(crate) fn wills(&self) -> (usize, usize, usize) {
        let state = self.state.lock();
        (state.wills.len(), state.resumed_wills, state.due_wills)
    }

    pub(crate) fn is_attached(&self, inbox: InboxId) -> bool {
        self.stored(inbox).is_some_and(|stored| stored.owner.is_some() || stored.is_awaited)
    }
}

impl Seats for Store {
    fn seat(&self, partition: usize) -> Option<Seat> {
        self.state.lock().seats.get(&partition).copied()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The inbox of one host.
pub(crate) struct Model {
    pub(crate) host: HostId,
    pub(crate) store: Arc<Store>,
    pub(crate) sessions: Arc<dyn Sessions>,
}

impl Model {
    fn work<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let done = work(&mut self.store.state.lock());
        self.store.stirred.send_modify(|count| *count += 1);
        done
    }

    fn is_served(&self, state: &State, number: u64) -> bool {
        let partition = usize::try_from(number % PARTITION_COUNT as u64).expect("small");
        state.seats.get(&partition).is_some_and(|seat| seat.host == self.host)
    }

    fn claimed<R>(
        &self,
        claim: Claim,
        work: impl FnOnce(&mut Stored) -> R,
    ) -> Result<R, StaleClaim> {
        self.owned(claim, |stored| stored.owner.is_some().then(|| work(stored)))?.ok_or(StaleClaim)
    }

    /// As [`Model::claimed`], for an owner who may be awaited.
    fn owned<R>(&self, claim: Claim, work: impl FnOnce(&mut Stored) -> R) -> Result<R, StaleClaim> {
        self.work(|state| {
            if !self.is_served(state, claim.inbox.0) {
                return Err(StaleClaim);
            }
            let stored = state.sessions.get_mut(&claim.inbox.0).ok_or(StaleClaim)?;
            if stored.version != claim.version || stored.owner.is_none() && !stored.is_awaited {
                return Err(StaleClaim);
            }
            Ok(work(stored))
        })
    }

    fn promise<T>(&self, answer: T, reply_to: Option<ReplyTo>) -> Promised<T> {
        match reply_to {
            Some(reply_to) if self.store.state.lock().silent == Some(self.host) => {
                let unsaid = (Arc::clone(&self.sessions), reply_to);
                self.store.state.lock().unsaid.push(unsaid);
                self.store.stirred.send_modify(|count| *count += 1);
                Promised::later(answer)
            }
            Some(ReplyTo { session, ticket }) => {
                self.sessions.settle(session, ticket, Settlement::Done);
                Promised::later(answer)
            }
            None => Promised::kept(answer),
        }
    }

    fn queue(
        &self,
        state: &mut State,
        targets: Targets<'_>,
        message: &Message<'_>,
        Terms { exchange, once, .. }: Terms,
        (direct, ready): (&mut Vec<DirectDelivery>, &mut Vec<SessionRef>),
    ) -> Result<(), Settlement> {
        let members = targets.shared.iter().map(|shared| &shared.route);
        let routes: Vec<_> = targets.routes.iter().chain(members).collect();
        let all = routes.iter().map(|route| route.inbox.0);
        let mut all = all.chain(exchange.iter().map(|(claim, _)| claim.inbox.0));
        if !all.all(|number| self.is_served(state, number)) {
            return Err(Settlement::Busy);
        }
        if let Some((claim, packet_id)) = exchange {
            let stored = state.sessions.get_mut(&claim.inbox.0).ok_or(Settlement::Unknown)?;
            let begun = stored.begun.get(&packet_id).map(|begun| begun.number);
            let is_begun = once.is_none_or(|once| begun == Some(once.number));
            if stored.version != claim.version || stored.owner.is_none() || !is_begun {
                return Err(Settlement::Unknown);
            }
            stored.begun.remove(&packet_id);
            stored.inbound.insert(packet_id);
        }
        let mut known = BTreeSet::new();
        if let Some(Once { publisher, number, low }) = once {
            for route in &routes {
                let place = place_of(route.inbox);
                let noted = state.notes.entry((place, publisher.0)).or_default();
                if number < noted.0 || noted.1.contains(&number) {
                    known.insert(place);
                }
            }
            for route in &routes {
                let noted = state.notes.entry((place_of(route.inbox), publisher.0)).or_default();
                noted.0 = noted.0.max(low);
                noted.1.insert(number);
            }
        }
        for route in routes.iter().filter(|it| !known.contains(&place_of(it.inbox))) {
            let Some(stored) = state.sessions.get_mut(&route.inbox.0) else { continue };
            let qos = message.qos.min(route.options.qos);
            if qos == Qos::AtMostOnce {
                let (options, subscription_id) = (route.options, route.subscription_id);
                let direct_to = |owner| DirectDelivery { owner, options, subscription_id };
                direct.extend(stored.owner.map(direct_to));
                continue;
            }
            stored.last += 1;
            let entry = Entry {
                sequence: Sequence(stored.last),
                qos,
                retain: false,
                is_received: false,
                subscription_id: route.subscription_id,
                message: Arc::new(message.to_stored()),
            };
            stored.queue.insert(stored.last, entry);
            if std::mem::take(&mut stored.is_waiting) {
                ready.extend(stored.owner);
            }
        }
        Ok(())
    }

    fn find(state: &State, identity: &SessionIdentity) -> Option<u64> {
        let mut all = state.sessions.iter();
        all.find(|(_, stored)| stored.identity == *identity).map(|(number, _)| *number)
    }
}

fn place_of(inbox: InboxId) -> usize {
    usize::try_from(inbox.0 % PARTITION_COUNT as u64).expect("small")
}

fn topic_of(will: Option<&(Arc<StoredMessage>, u32)>) -> Option<String> {
    will.map(|(message, _)| message.topic.to_string())
}

impl Serving for Model {
    fn accepted(
        &self,
        claim: Claim,
        packet_id: PacketId,
        reply_to: Option<ReplyTo>,
    ) -> Option<Call<Settlement>> {
        let is_noted = self.claimed(claim, |stored| stored.inbound.contains(&packet_id));
        is_noted.ok().filter(|is_noted| *is_noted)?;
        let promised = self.promise((), reply_to);
        Some(if promised.is_durable { Call::Ready(Settlement::Done) } else { Call::Pending })
    }

    fn range(&self, partition: usize) -> Option<u64> {
        self.serves(partition)?;
        Some(self.store.state.lock().ranges.get(&partition).copied().unwrap_or(0))
    }

    fn begin(
        &self,
        (claim, packet_id): (Claim, PacketId),
        mark: u64,
        wished: &[Wish],
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<Begun>, StaleClaim> {
        let begun = self.claimed(claim, |stored| {
            let next = stored.turn + 1;
            let new = || Message2 { number: next, mark, choices: Vec::new() };
            let known = stored.begun.remove(&packet_id).filter(|known| known.mark == mark);
            let mut message = known.unwrap_or_else(new);
            let mut last = message.number;
            for Wish { group, inbox, instead_of } in wished {
                let known = message.choices.iter().find(|choice| choice.group == *group);
                if known.is_none_or(|known| Some(known.inbox) == *instead_of) {
                    message.choices.retain(|choice| choice.group != *group);
                    last = next;
                    message.choices.push(Choice { group: *group, inbox: *inbox, number: next });
                }
            }
            stored.turn = stored.turn.max(last);
            let (number, choices) = (message.number, message.choices.clone());
            stored.begun.insert(packet_id, message);
            let low = stored.begun.values().map(|begun| begun.number).min().expect("one is");
            Begun { once: Once { publisher: claim.inbox, number, low }, choices, others: last }
        })?;
        Ok(self.promise(begun, reply_to))
    }

    fn is_begun(&self, (claim, packet_id): (Claim, PacketId)) -> bool {
        self.claimed(claim, |stored| stored.begun.contains_key(&packet_id)) == Ok(true)
    }

    fn append_on(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        terms: Terms,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        let mut ready = Vec::new();
        let refused =
            self.work(|state| self.queue(state, targets, message, terms, (direct, &mut ready)));
        if let Err(settlement) = refused {
            return Call::Ready(settlement);
        }
        ready.into_iter().for_each(|owner| self.sessions.inbox_ready(owner));
        match terms.reply_to {
            Some(reply_to) if message.qos != Qos::AtMostOnce => {
                let _ = self.promise((), Some(reply_to));
                Call::Pending
            }
            _ => Call::Ready(Settlement::Done),
        }
    }

    fn serves(&self, partition: usize) -> Option<u64> {
        let seat = self.store.seat(partition)?;
        (seat.host == self.host).then_some(seat.term)
    }

    fn resume(&self, claim: Claim, owner: SessionRef) -> Result<(), Refusal> {
        let is_served = self.is_served(&self.store.state.lock(), claim.inbox.0);
        if !is_served {
            return Err(Refusal::NotServed);
        }
        let resumed = self.owned(claim, |stored| {
            (stored.owner, stored.is_awaited) = (Some(owner), false);
        });
        resumed.map_err(|_| Refusal::Stale)
    }

    fn is_awaited(&self, claim: Claim) -> bool {
        self.owned(claim, |stored| stored.is_awaited) == Ok(true)
    }

    fn abandon(&self, claim: Claim, _: Instant) -> Result<(), Refusal> {
        let abandoned = self.owned(claim, |stored| {
            (stored.owner, stored.is_awaited) = (None, false);
            stored.will = stored.held_will.take();
        });
        abandoned.map_err(|_| Refusal::Stale)
    }

    fn resume_will(&self, will: WillId) -> Result<(), Refusal> {
        self.work(|state| {
            state.resumed_wills += 1;
            state.wills.contains(&will.0).then_some(()).ok_or(Refusal::Stale)
        })
    }

    fn abandon_will(&self, will: WillId, _: Instant) -> Result<(), Refusal> {
        self.work(|state| {
            let was_kept = state.wills.remove(&will.0);
            state.due_wills += usize::from(was_kept);
            was_kept.then_some(()).ok_or(Refusal::Stale)
        })
    }
}

impl Inbox for Model {
    fn attach(
        &self,
        attach: &Attach<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<Attached>, NotServed>> {
        let publisher = attach.identity.publisher().0;
        let attached = self.work(|state| {
            if !self.is_served(state, publisher) {
                return Err(NotServed);
            }
            let mut found = Model::find(state, attach.identity);
            if let Some(number) = found.filter(|_| attach.is_clean) {
                state.sessions.remove(&number);
                found = None;
            }
            let number = found.unwrap_or_else(|| {
                state.last += 1;
                let number =
                    state.last * PARTITION_COUNT as u64 + publisher % PARTITION_COUNT as u64;
                let stored = Stored {
                    identity: attach.identity.clone(),
                    version: 0,
                    owner: None,
                    is_awaited: false,
                    queue: BTreeMap::new(),
                    last: 0,
                    subscriptions: Vec::new(),
                    inbound: BTreeSet::new(),
                    begun: BTreeMap::new(),
                    turn: 0,
                    will: None,
                    held_will: None,
                    is_waiting: false,
                };
                state.sessions.insert(number, stored);
                number
            });
            let stored = state.sessions.get_mut(&number).expect("it is there");
            stored.version += 1;
            (stored.owner, stored.is_awaited) = (Some(attach.owner), false);
            stored.held_will = topic_of(attach.will.as_ref());
            Ok(Attached {
                claim: Claim { inbox: InboxId(number), version: stored.version },
                incarnation: number,
                is_present: found.is_some(),
                member: Arc::default(),
                subscriptions: stored.subscriptions.clone(),
                inbound: stored.inbound.iter().copied().collect(),
                sent: Sequence(0),
            })
        });
        Call::Ready(attached.map(|attached| self.promise(attached, reply_to)))
    }

    fn detach(
        &self,
        claim: Claim,
        detach: Detach,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        self.owned(claim, |stored| {
            (stored.owner, stored.is_awaited) = (None, false);
            stored.held_will = None;
            stored.will = topic_of(detach.will.as_ref());
        })?;
        Ok(self.promise((), reply_to))
    }

    fn discard(
        &self,
        identity: &SessionIdentity,
        _: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<bool>, NotServed>> {
        let discarded = self.work(|state| {
            if !self.is_served(state, identity.publisher().0) {
                return Err(NotServed);
            }
            let found = Model::find(state, identity);
            Ok(found.and_then(|number| state.sessions.remove(&number)).is_some())
        });
        Call::Ready(discarded.map(|existed| self.promise(existed, reply_to)))
    }

    fn subscribe(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Call<Promised<SubscribeOutcome>> {
        let route = None;
        let subscribed = self.claimed(claim, |stored| {
            let before = stored.subscriptions.len();
            stored.subscriptions.retain(|held| held.filter != subscription.filter);
            let existed = stored.subscriptions.len() < before;
            stored.subscriptions.push(subscription.clone());
            SubscribeOutcome::Done { route, existed }
        });
        Call::Ready(match subscribed {
            Ok(outcome) => self.promise(outcome, reply_to),
            Err(StaleClaim) => Promised::kept(SubscribeOutcome::Stale),
        })
    }

    fn unsubscribe(
        &self,
        claim: Claim,
        filter: &str,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, StaleClaim> {
        let existed = self.claimed(claim, |stored| {
            let before = stored.subscriptions.len();
            stored.subscriptions.retain(|held| &*held.filter != filter);
            stored.subscriptions.len() < before
        })?;
        Ok(self.promise(existed, reply_to))
    }

    fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        self.append_on(targets, message, Terms { exchange, once: None, reply_to }, direct)
    }

    fn fetch(
        &self,
        claim: Claim,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        self.claimed(claim, |stored| {
            let first = entries.len();
            let next = stored.queue.range(after.0 + 1..).map(|(_, entry)| entry.clone());
            entries.extend(next.take(budget.messages_max));
            stored.is_waiting = entries.len() - first < budget.messages_max;
        })
    }

    fn commit(&self, claim: Claim, sequence: Sequence) -> Result<(), StaleClaim> {
        self.claimed(claim, |stored| {
            stored.queue.remove(&sequence.0);
        })
    }

    fn received(
        &self,
        claim: Claim,
        sequence: Sequence,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        self.claimed(claim, |stored| {
            if let Some(entry) = stored.queue.get_mut(&sequence.0) {
                entry.is_received = true;
                // Of what was received an inbox that was read back knows only that.
                entry.message = Arc::new(crate::support::stored("", "", entry.qos));
            }
        })?;
        Ok(self.promise((), reply_to))
    }

    fn inbound(
        &self,
        claim: Claim,
        packet_id: PacketId,
        is_released: bool,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        self.claimed(claim, |stored| match is_released {
            true => stored.inbound.remove(&packet_id),
            false => stored.inbound.insert(packet_id),
        })?;
        Ok(self.promise((), reply_to))
    }

    fn keep_will(
        &self,
        identity: &SessionIdentity,
        _: SessionRef,
        _: &Arc<StoredMessage>,
        _: u32,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<WillId>, NotServed> {
        let publisher = identity.publisher().0;
        let kept = self.work(|state| {
            if !self.is_served(state, publisher) {
                return Err(NotServed);
            }
            state.last += 1;
            let number = state.last * PARTITION_COUNT as u64 + publisher % PARTITION_COUNT as u64;
            state.wills.insert(number);
            Ok(WillId(number))
        })?;
        Ok(self.promise(kept, reply_to))
    }

    fn withdraw_will(&self, will: WillId) {
        self.work(|state| state.wills.remove(&will.0));
    }

    fn will_sent(&self, will: WillId) {
        self.withdraw_will(will);
    }

    fn expire(&self, _: Instant, _: usize, _: &mut Vec<DueWill>) {}

    fn expire_inactive(
        &self,
        _: &TenantId,
        _: Duration,
        _: Instant,
    ) -> Result<usize, TooManyOrders> {
        Ok(0)
    }

    fn len(&self) -> usize {
        self.store.state.lock().sessions.len()
    }
}
