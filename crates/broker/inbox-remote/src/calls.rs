//! The inbox as the data plane of this host asks it.
//!
//! What this host serves is asked of its own inbox, as without a cluster. What another one serves is asked of
//! it in the order of the calls; what must be known at once is known here: the filters of a session, and what
//! its buffer has.

use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_codec::PacketId;
use ratatosk_contract::call::{Promised, Settlement};
use ratatosk_contract::inbox::{
    Attach, Attached, Claim, Detach, DirectDelivery, DueWill, Entry, FetchBudget, Inbox, NotServed,
    Sequence, StaleClaim, SubscribeOutcome, Subscription, Targets, TooManyOrders, WillId,
};
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef, StoredMessage, TenantId,
};

use crate::ask::{Ask, CallId};
use crate::cluster_inbox::{ClusterInbox, Shared};
use crate::lane::{Question, Waiting};
use crate::partition::Session;
use crate::placing::Place;
use crate::seats::partition_of;

/// The will of a transient session of this host that another one keeps.
pub(crate) struct KeptWill {
    /// Its name there, once that is known.
    name: Option<WillId>,
    /// It is to be forgotten as soon as it is.
    is_over: bool,
}

impl Shared {
    fn question(&self, patience: Duration, waiting: Waiting, call: CallId) -> Question {
        Question { call, due: self.clock.now() + patience, waiting }
    }

    /// Asks a change of a session where it is served; held back while it is nowhere. The lock of the
    /// partition keeps the order.
    fn change(
        &self,
        claim: Claim,
        reply_to: Option<ReplyTo>,
        make: impl FnOnce(CallId) -> Ask,
    ) -> Promised<()> {
        let call = self.next_call();
        let waiting = Waiting::Change { reply_to, claim, ask: make(call) };
        self.ask_again(self.question(self.config.change_patience, waiting, call));
        Promised { answer: (), is_durable: reply_to.is_none() }
    }

    /// Has the inbox of this host carry out a change of a session that it serves. If what becomes of it is in
    /// doubt it is asked again, wherever the session is served next.
    fn change_here<T>(
        &self,
        (claim, place): (Claim, &Place),
        reply_to: Option<ReplyTo>,
        make: impl FnOnce(CallId) -> Ask,
        change: impl FnOnce(Option<ReplyTo>) -> Result<Promised<T>, StaleClaim>,
    ) -> Result<Promised<T>, StaleClaim> {
        if reply_to.is_none() {
            return change(None);
        }
        let call = self.next_call();
        let waiting = Waiting::Change { reply_to, claim, ask: make(call) };
        let question = self.question(self.config.change_patience, waiting, call);
        let changed = change(Some(self.keep(question, place)));
        if changed.as_ref().map_or(true, |promised| promised.is_durable) {
            self.kept.lock().remove(&call);
        }
        changed
    }

    /// Has the inbox of this host subscribe a session.
    pub(crate) fn subscribe_here(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<SubscribeOutcome>, StaleClaim> {
        match self.local.subscribe(claim, subscription, reply_to).ready() {
            Some(Promised { answer: SubscribeOutcome::Stale, .. }) => Err(StaleClaim),
            Some(promised) => Ok(promised),
            None => Ok(Promised::kept(SubscribeOutcome::Busy)),
        }
    }

    /// Whether a claim that the inbox of this host refused is stale, or its partition has just gone, or come.
    pub(crate) fn refused(&self, claim: Claim, term: u64) -> Result<(), StaleClaim> {
        match self.local.serves(partition_of(claim.inbox.0)) {
            Some(now) if now == term && !self.local.is_awaited(claim) => Err(StaleClaim),
            _ => Ok(()),
        }
    }

    /// A will is kept under this name.
    pub(crate) fn will_kept(&self, alias: WillId, name: WillId) {
        let mut wills = self.wills.lock();
        let is_over = match wills.get_mut(&alias) {
            Some(kept) => {
                kept.name = Some(name);
                kept.is_over
            }
            None => true,
        };
        if is_over {
            wills.remove(&alias);
            drop(wills);
            self.end_will(name);
        }
    }

    /// The wills of this host's transient sessions that a partition keeps go on at another place.
    pub(crate) fn resume_wills(&self, number: usize, place: &Place) {
        let wills = self.wills.lock();
        let names = wills.values().filter_map(|kept| kept.name);
        let names: Vec<WillId> = names.filter(|name| partition_of(name.0) == number).collect();
        drop(wills);
        for will in names {
            match place {
                Place::There { lane, .. } => {
                    let now = self.clock.now();
                    lane.outbox.put(|into| Ask::ResumeWill { will }.put(into, now));
                }
                Place::Here(_) => {
                    let _ = self.local.resume_will(will);
                }
                Place::Nobody => {}
            }
        }
    }

    /// Has a will forgotten where it is kept.
    fn end_will(&self, name: WillId) {
        let places = self.places.read();
        match &places[partition_of(name.0)] {
            Place::There { lane, .. } => {
                let now = self.clock.now();
                lane.outbox.put(|into| Ask::EndWill { will: name }.put(into, now));
            }
            Place::Here(_) | Place::Nobody => {
                drop(places);
                self.local.withdraw_will(name);
            }
        }
    }
}

impl Inbox for ClusterInbox {
    fn attach(
        &self,
        attach: &Attach<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<Attached>, NotServed>> {
        let shared = &*self.shared;
        let number = partition_of(attach.identity.publisher().0);
        // Whoever has it go on somewhere else finds the session, or this finds that it has moved.
        let mut partition = shared.partitions[number].lock();
        match (shared.place(number), reply_to) {
            (Place::Here(_), _) => {
                let attached = shared.local.attach(attach, reply_to);
                if let Call::Ready(Ok(Promised {
                    answer: Attached { claim, subscriptions, .. },
                    ..
                })) = &attached
                {
                    let (owner, filters_max) = (attach.owner, attach.limits.filters_max);
                    let session = Session::new(*claim, owner, subscriptions, filters_max);
                    partition.sessions.insert(claim.inbox, session);
                }
                attached
            }
            (Place::There { lane, .. }, Some(reply_to)) => {
                let call = shared.next_call();
                let Attach { identity, owner: _, is_clean, expiry_s, limits, will, now } = attach;
                let ask = Ask::Attach {
                    call,
                    identity: (*identity).clone(),
                    is_clean: *is_clean,
                    expiry_s: *expiry_s,
                    limits: *limits,
                    will: will.clone(),
                };
                let waiting = Waiting::Attach { reply_to, filters_max: limits.filters_max };
                let question = shared.question(shared.config.claim_patience, waiting, call);
                lane.ask(question, |into| ask.put(into, *now));
                Call::Pending
            }
            _ => Call::Ready(Err(NotServed)),
        }
    }

    fn detach(
        &self,
        claim: Claim,
        detach: Detach,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        let shared = &*self.shared;
        let number = partition_of(claim.inbox.0);
        let place = {
            let mut partition = shared.partitions[number].lock();
            let is_held = partition.sessions.get(&claim.inbox).is_some_and(|it| it.claim == claim);
            if is_held {
                partition.sessions.remove(&claim.inbox);
            }
            shared.place(number)
        };
        let Detach { expiry_s, will, .. } = detach.clone();
        let make = |call| Ask::Detach { call, claim, expiry_s, will };
        if let Place::Here(term) = place {
            let change = |reply_to| shared.local.detach(claim, detach, reply_to);
            match shared.change_here((claim, &place), reply_to, make.clone(), change) {
                Err(StaleClaim) if shared.refused(claim, term).is_ok() => {}
                detached => return detached,
            }
        }
        Ok(shared.change(claim, reply_to, make))
    }

    fn discard(
        &self,
        identity: &SessionIdentity,
        now: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<bool>, NotServed>> {
        let shared = &*self.shared;
        let places = shared.places.read();
        match (&places[partition_of(identity.publisher().0)], reply_to) {
            (Place::Here(_), _) => {
                drop(places);
                shared.local.discard(identity, now, reply_to)
            }
            (Place::There { lane, .. }, Some(reply_to)) => {
                let call = shared.next_call();
                let waiting = Waiting::Discard { reply_to };
                let question = shared.question(shared.config.claim_patience, waiting, call);
                let ask = Ask::Discard { call, identity: identity.clone() };
                lane.ask(question, |into| ask.put(into, now));
                Call::Pending
            }
            _ => Call::Ready(Err(NotServed)),
        }
    }

    fn subscribe(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Call<Promised<SubscribeOutcome>> {
        let shared = &*self.shared;
        let ready = |outcome| Call::Ready(Promised::kept(outcome));
        let number = partition_of(claim.inbox.0);
        let mut partition = shared.partitions[number].lock();
        let Some(session) = partition.claimed(claim) else { return ready(SubscribeOutcome::Stale) };
        let is_known = session.filters.contains(&subscription.filter);
        if !is_known && session.filters.len() >= session.filters_max as usize {
            return ready(SubscribeOutcome::TooManyFilters);
        }
        let make = |call| Ask::Subscribe { call, claim, subscription: subscription.clone() };
        let place = shared.place(number);
        if let Place::Here(term) = place {
            let change = |reply_to| shared.subscribe_here(claim, subscription, reply_to);
            match shared.change_here((claim, &place), reply_to, make, change) {
                Err(StaleClaim) if shared.refused(claim, term).is_ok() => {}
                Err(StaleClaim) => return ready(SubscribeOutcome::Stale),
                Ok(promised) => {
                    if matches!(promised.answer, SubscribeOutcome::Done { .. }) {
                        session.filters.insert(subscription.filter.clone());
                    }
                    return Call::Ready(promised);
                }
            }
        }
        drop(partition);
        let Some(reply_to) = reply_to else { return ready(SubscribeOutcome::Busy) };
        let call = shared.next_call();
        let waiting = Waiting::Subscribe { reply_to, claim, ask: make(call) };
        shared.ask_again(shared.question(shared.config.change_patience, waiting, call));
        Call::Pending
    }

    fn unsubscribe(
        &self,
        claim: Claim,
        filter: &str,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, StaleClaim> {
        let shared = &*self.shared;
        let number = partition_of(claim.inbox.0);
        let existed = {
            let mut partition = shared.partitions[number].lock();
            let session = partition.claimed(claim).ok_or(StaleClaim)?;
            session.filters.remove(filter)
        };
        let make = |call| Ask::Unsubscribe { call, claim, filter: filter.into() };
        let place = shared.place(number);
        if let Place::Here(term) = place {
            let change = |reply_to| shared.local.unsubscribe(claim, filter, reply_to);
            match shared.change_here((claim, &place), reply_to, make, change) {
                Err(StaleClaim) => shared.refused(claim, term)?,
                removed => return removed,
            }
        }
        let asked = shared.change(claim, reply_to, make);
        Ok(Promised { answer: existed, is_durable: asked.is_durable })
    }

    fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        self.shared.append(targets, message, exchange, reply_to, direct)
    }

    fn fetch(
        &self,
        claim: Claim,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        let shared = &*self.shared;
        let number = partition_of(claim.inbox.0);
        let mut partition = shared.partitions[number].lock();
        let session = partition.claimed(claim).ok_or(StaleClaim)?;
        let first = entries.len();
        let credit = session.fetch(after, &budget, entries);
        match (shared.place(number), credit) {
            // What was left in the buffer when it came here goes first.
            (Place::Here(term), _) if entries.len() == first => {
                if shared.local.fetch(claim, after, budget, entries).is_err() {
                    return shared.refused(claim, term);
                }
                session.note_handed(&entries[first..]);
            }
            (Place::There { lane, .. }, Some(credit)) => {
                lane.outbox.put(|into| Ask::More { claim, credit }.put(into, budget.now));
            }
            _ => {}
        }
        Ok(())
    }

    fn commit(&self, claim: Claim, sequence: Sequence) -> Result<(), StaleClaim> {
        let shared = &*self.shared;
        let number = partition_of(claim.inbox.0);
        let mut partition = shared.partitions[number].lock();
        let session = partition.claimed(claim).ok_or(StaleClaim)?;
        session.commit(sequence);
        match shared.place(number) {
            Place::Here(term) => match shared.local.commit(claim, sequence) {
                Err(StaleClaim) => shared.refused(claim, term),
                done => done,
            },
            Place::There { lane, .. } => {
                let now = shared.clock.now();
                lane.outbox.put(|into| Ask::Commit { claim, sequence }.put(into, now));
                Ok(())
            }
            // Whoever takes the session over is told what is open.
            Place::Nobody => Ok(()),
        }
    }

    fn received(
        &self,
        claim: Claim,
        sequence: Sequence,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        let shared = &*self.shared;
        let number = partition_of(claim.inbox.0);
        {
            let mut partition = shared.partitions[number].lock();
            partition.claimed(claim).ok_or(StaleClaim)?.receive(sequence);
        }
        let make = |call| Ask::Received { call, claim, sequence };
        let place = shared.place(number);
        if let Place::Here(term) = place {
            let change = |reply_to| shared.local.received(claim, sequence, reply_to);
            match shared.change_here((claim, &place), reply_to, make, change) {
                Err(StaleClaim) => shared.refused(claim, term)?,
                noted => return noted,
            }
        }
        Ok(shared.change(claim, reply_to, make))
    }

    fn inbound(
        &self,
        claim: Claim,
        packet_id: PacketId,
        is_released: bool,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim> {
        let shared = &*self.shared;
        let number = partition_of(claim.inbox.0);
        shared.partitions[number].lock().claimed(claim).ok_or(StaleClaim)?;
        let make = |call| Ask::Inbound { call, claim, packet_id, is_released };
        let place = shared.place(number);
        if let Place::Here(term) = place {
            let change = |reply_to| shared.local.inbound(claim, packet_id, is_released, reply_to);
            match shared.change_here((claim, &place), reply_to, make, change) {
                Err(StaleClaim) => shared.refused(claim, term)?,
                noted => return noted,
            }
        }
        Ok(shared.change(claim, reply_to, make))
    }

    fn keep_will(
        &self,
        identity: &SessionIdentity,
        owner: SessionRef,
        message: &Arc<StoredMessage>,
        delay_s: u32,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<WillId>, NotServed> {
        let shared = &*self.shared;
        let places = shared.places.read();
        match &places[partition_of(identity.publisher().0)] {
            Place::Here(_) => {
                drop(places);
                let kept = shared.local.keep_will(identity, owner, message, delay_s, reply_to)?;
                // Its partition may move.
                let held = KeptWill { name: Some(kept.answer), is_over: false };
                shared.wills.lock().insert(kept.answer, held);
                Ok(kept)
            }
            Place::There { lane, .. } => {
                let call = shared.next_call();
                // Numbers of wills come from clocks, and are nowhere near.
                let alias = WillId(u64::MAX - call.0);
                shared.wills.lock().insert(alias, KeptWill { name: None, is_over: false });
                let waiting = Waiting::Will { reply_to, alias };
                let question = shared.question(shared.config.change_patience, waiting, call);
                let (identity, message) = (identity.clone(), Arc::clone(message));
                let ask = Ask::KeepWill { call, identity, message, delay_s };
                let now = shared.clock.now();
                lane.ask(question, |into| ask.put(into, now));
                Ok(Promised { answer: alias, is_durable: reply_to.is_none() })
            }
            Place::Nobody => Err(NotServed),
        }
    }

    fn withdraw_will(&self, will: WillId) {
        let mut wills = self.shared.wills.lock();
        match wills.get_mut(&will) {
            // It is forgotten once its name is known.
            Some(kept) if kept.name.is_none() => kept.is_over = true,
            Some(_) => {
                let name = wills.remove(&will).and_then(|kept| kept.name);
                drop(wills);
                name.into_iter().for_each(|name| self.shared.end_will(name));
            }
            None => {
                drop(wills);
                self.shared.end_will(will);
            }
        }
    }

    fn will_sent(&self, will: WillId) {
        self.withdraw_will(will);
    }

    fn expire(&self, now: Instant, due_max: usize, wills: &mut Vec<DueWill>) {
        self.shared.local.expire(now, due_max, wills);
    }

    fn expire_inactive(
        &self,
        tenant: &TenantId,
        away_min: Duration,
        now: Instant,
    ) -> Result<usize, TooManyOrders> {
        self.shared.local.expire_inactive(tenant, away_min, now)
    }

    fn len(&self) -> usize {
        self.shared.local.len()
    }
}
