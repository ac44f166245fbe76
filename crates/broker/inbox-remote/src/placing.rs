//! Where the sessions of a partition are served, and how they go on when that changes.
//!
//! A place is compared with what is said of it now: who serves the partition, in which term, and by which
//! stream it is reached. If any of it has changed the sessions go on anew: each is resumed, then what was
//! held back meanwhile is asked, in its order.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use ratatosk_contract::ReplyTo;
use ratatosk_contract::call::{Promised, Settlement};
use ratatosk_contract::inbox::{Answer, Claim, NotServed, SubscribeOutcome};
use ratatosk_contract::serving::Refusal;

use crate::ask::Ask;
use crate::cluster_inbox::Shared;
use crate::lane::{Lane, Question, Waiting};
use crate::partition::{HELD_MAX, Partition, Session, WHOLE};
use crate::seats::{PARTITION_COUNT, partition_of};
use crate::serve::catch_up;
use crate::taking::is_left_to_owner;

/// Who serves a partition, and how it is reached.
#[derive(Clone)]
pub(crate) enum Place {
    /// Nobody whom this host reaches.
    Nobody,
    /// This host, in a term.
    Here(u64),
    /// Another one: by a stream, in a term.
    There { lane: Arc<Lane>, turn: u64, term: u64 },
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Place::Nobody, Place::Nobody) => true,
            (Place::Here(term), Place::Here(other)) => term == other,
            (
                Place::There { lane, turn, term },
                Place::There { lane: other, turn: other_turn, term: other_term },
            ) => Arc::ptr_eq(lane, other) && (turn, term) == (other_turn, other_term),
            _ => false,
        }
    }
}

impl Place {
    /// What tells it from others, and from itself after a change.
    pub(crate) fn name(&self) -> u64 {
        let mut name = DefaultHasher::new();
        match self {
            Place::Nobody => return 0,
            Place::Here(term) => (0, 0_usize, *term).hash(&mut name),
            // Messages of one stream keep their order whatever the terms of their partitions.
            Place::There { lane, turn, .. } => {
                (1, Arc::as_ptr(lane).addr(), *turn).hash(&mut name);
            }
        }
        name.finish()
    }

    /// Whether it is the same host, by whatever stream and in whatever term.
    pub(crate) fn is_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Place::Here(_), Place::Here(_)) | (Place::Nobody, Place::Nobody) => true,
            (Place::There { lane, .. }, Place::There { lane: other, .. }) => {
                Arc::ptr_eq(lane, other)
            }
            _ => false,
        }
    }
}

impl Shared {
    /// Where a partition is served.
    pub(crate) fn place(&self, partition: usize) -> Place {
        self.places.read()[partition].clone()
    }

    /// Looks at who serves what.
    pub(crate) fn place_all(&self) {
        for number in 0..PARTITION_COUNT {
            self.place_one(number);
        }
    }

    fn place_one(&self, number: usize) {
        let place = self.find_place(number);
        if self.places.read()[number] == place {
            return;
        }
        let mut partition = self.partitions[number].lock();
        // It may have changed again, and then the last word counts.
        let place = self.find_place(number);
        if self.places.read()[number] == place {
            return;
        }
        self.places.write()[number] = place.clone();
        self.stir.notify_one();
        if place != Place::Nobody {
            self.go_on(&mut partition, &place);
            self.resume_wills(number, &place);
        }
    }

    fn find_place(&self, number: usize) -> Place {
        let Some(seat) = self.seats.seat(number) else { return Place::Nobody };
        if seat.host == self.own {
            return self.local.serves(number).map_or(Place::Nobody, Place::Here);
        }
        let lanes = self.lanes.load();
        match lanes.get(&seat.host).filter(|lane| lane.is_open()) {
            Some(lane) => {
                Place::There { lane: Arc::clone(lane), turn: lane.turn(), term: seat.term }
            }
            None => Place::Nobody,
        }
    }

    /// Whoever served a partition says that it does not: it is looked for anew.
    pub(crate) fn unplace(&self, number: usize, lane: &Arc<Lane>) {
        let _held = self.partitions[number].lock();
        let mut places = self.places.write();
        if matches!(&places[number], Place::There { lane: there, .. } if Arc::ptr_eq(there, lane)) {
            places[number] = Place::Nobody;
        }
    }

    /// The stream to a host broke: what it was asked is answered, or asked again when it can be.
    pub(crate) fn lose(&self, lane: &Arc<Lane>) {
        // Nothing for its sessions is sent or held by others before what it had is.
        let mut held = self.held.lock();
        for number in 0..PARTITION_COUNT {
            self.unplace(number, lane);
        }
        let (mut others, mut ends) = (Vec::new(), Vec::new());
        for question in lane.lose() {
            match question.waiting {
                Waiting::Append { part, .. } if self.doubt(part) => {
                    self.note_held(&mut held, part);
                }
                Waiting::Append { part, .. } => ends.push(part),
                _ => others.push(question),
            }
        }
        drop(held);
        others.into_iter().for_each(|question| self.ask_again(question));
        ends.into_iter().for_each(|part| self.settle_part(part, Settlement::Unknown));
    }

    /// What is asked of the sessions of a partition goes on at another place.
    fn go_on(&self, partition: &mut Partition, place: &Place) {
        let mut woken = Vec::new();
        for session in partition.sessions.values_mut().filter(|session| !session.is_stale) {
            woken.extend(self.resume(session, place).then_some(session.owner));
        }
        let mut held = std::mem::take(&mut partition.held);
        held.sort_unstable_by_key(|question| question.call);
        for question in held {
            self.ask_at(partition, place, question);
        }
        woken.into_iter().for_each(|owner| self.home.inbox_ready(owner));
    }

    /// A session goes on at a place; true if it has to look for what is there, or that it is not its owner's
    /// any more.
    pub(crate) fn resume(&self, session: &mut Session, place: &Place) -> bool {
        self.metrics.resumed.increment();
        match place {
            Place::Nobody => false,
            Place::Here(_) => self.resume_here(session),
            Place::There { lane, .. } => {
                self.resume_there(session, lane);
                false
            }
        }
    }

    fn resume_here(&self, session: &mut Session) -> bool {
        let (claim, owner) = (session.claim, session.owner);
        let (handed, open) = session.restart();
        let now = self.clock.now();
        let resumed = self.local.resume(claim, owner);
        let caught_up = resumed.and_then(|()| {
            catch_up(&*self.local, claim, (handed, &open), now).map_err(|_| Refusal::Stale)
        });
        match caught_up {
            Ok(entries) => {
                session.fill(entries);
                session.wake();
                true
            }
            Err(Refusal::Stale) => {
                session.is_stale = true;
                true
            }
            // The next look finds that it is not served here.
            Err(Refusal::NotServed) => false,
        }
    }

    fn resume_there(&self, session: &mut Session, lane: &Lane) {
        let claim = session.claim;
        let (handed, open) = session.restart();
        let (call, now) = (self.next_call(), self.clock.now());
        session.resuming = Some(call);
        lane.outbox.put(|into| {
            Ask::Resume { call, claim, handed, open }.put(into, now);
            Ask::More { claim, credit: WHOLE }.put(into, now);
        });
    }

    /// A question that was not answered is asked where its session is served now, or is held back until it
    /// is served; what cannot be asked twice is answered.
    pub(crate) fn ask_again(&self, question: Question) {
        let (Waiting::Subscribe { claim, .. } | Waiting::Change { claim, .. }) = &question.waiting
        else {
            self.give_up(&question);
            return;
        };
        let number = partition_of(claim.inbox.0);
        let mut partition = self.partitions[number].lock();
        let place = self.place(number);
        self.ask_at(&mut partition, &place, question);
    }

    /// As [`Shared::ask_again`], when the one who was asked says that it does not serve the session.
    pub(crate) fn hold_back(&self, question: Question, lane: &Arc<Lane>) {
        let (Waiting::Subscribe { claim, .. } | Waiting::Change { claim, .. }) = &question.waiting
        else {
            self.give_up(&question);
            return;
        };
        self.unplace(partition_of(claim.inbox.0), lane);
        self.ask_again(question);
    }

    fn ask_at(&self, partition: &mut Partition, place: &Place, question: Question) {
        let is_late = question.due <= self.clock.now();
        match place {
            _ if is_late => self.give_up(&question),
            Place::Nobody if partition.held.len() < HELD_MAX => partition.held.push(question),
            Place::Nobody => self.give_up(&question),
            Place::Here(_) => self.ask_here(partition, question),
            Place::There { lane, .. } => {
                let ask = match &question.waiting {
                    Waiting::Subscribe { ask, .. } | Waiting::Change { ask, .. } => ask.clone(),
                    _ => return self.give_up(&question),
                };
                let now = self.clock.now();
                lane.ask(question, |into| ask.put(into, now));
            }
        }
    }

    /// Asks the inbox of this host what another one did not answer.
    fn ask_here(&self, partition: &mut Partition, question: Question) {
        match question.waiting {
            // It is asked when its session has gone on here, or elsewhere.
            Waiting::Change { claim, ref ask, .. } | Waiting::Subscribe { claim, ref ask, .. }
                if !matches!(ask, Ask::Detach { .. })
                    && is_left_to_owner(&*self.local, claim)
                    && partition.held.len() < HELD_MAX =>
            {
                partition.held.push(question);
            }
            Waiting::Subscribe {
                claim,
                reply_to,
                ask: Ask::Subscribe { ref subscription, .. },
            } => {
                let (call, subscription) = (question.call, subscription.clone());
                let place = self.place(partition_of(claim.inbox.0));
                let kept = Some(self.keep(question, &place));
                let promised = self.subscribe_here(claim, &subscription, kept);
                let promised = promised.unwrap_or(Promised::kept(SubscribeOutcome::Stale));
                // Otherwise it is answered once it is durable.
                if promised.is_durable && self.kept.lock().remove(&call).is_some() {
                    let (filter, outcome) = (&subscription.filter, promised.answer);
                    self.subscribed(partition, claim, filter, outcome, reply_to);
                }
            }
            Waiting::Change { reply_to, claim, ref ask } => {
                let (call, ask) = (question.call, ask.clone());
                let place = self.place(partition_of(claim.inbox.0));
                let kept = reply_to.map(|_| self.keep(question, &place));
                let is_durable = self.change_asked(ask, kept);
                if is_durable != Some(false) {
                    self.kept.lock().remove(&call);
                    let done = is_durable.map_or(Settlement::Unknown, |_| Settlement::Done);
                    self.settle(reply_to, done);
                }
            }
            _ => self.give_up(&question),
        }
    }

    /// Carries a change out; whether it is durable, or none if it was refused.
    fn change_asked(&self, ask: Ask, reply_to: Option<ReplyTo>) -> Option<bool> {
        let done = match ask {
            Ask::Detach { claim, expiry_s, will, .. } => {
                let now = self.clock.now();
                let detach = ratatosk_contract::inbox::Detach { expiry_s, will, now };
                self.local.detach(claim, detach, reply_to)
            }
            Ask::Subscribe { claim, subscription, .. } => {
                let promised = self.subscribe_here(claim, &subscription, reply_to).ok()?;
                let is_done = matches!(promised.answer, SubscribeOutcome::Done { .. });
                return is_done.then_some(promised.is_durable);
            }
            Ask::Unsubscribe { claim, filter, .. } => {
                let removed = self.local.unsubscribe(claim, &filter, reply_to);
                return removed.ok().map(|promised| promised.is_durable);
            }
            Ask::Received { claim, sequence, .. } => self.local.received(claim, sequence, reply_to),
            Ask::Inbound { claim, packet_id, is_released, .. } => {
                self.local.inbound(claim, packet_id, is_released, reply_to)
            }
            _ => return None,
        };
        done.ok().map(|promised| promised.is_durable)
    }

    /// A subscription has its answer: the session knows it, and the data plane is told.
    pub(crate) fn subscribed(
        &self,
        partition: &mut Partition,
        claim: Claim,
        filter: &str,
        outcome: SubscribeOutcome,
        reply_to: ReplyTo,
    ) {
        let mut outcome = outcome;
        if let (SubscribeOutcome::Done { route, .. }, Some(session)) =
            (outcome, partition.claimed(claim))
        {
            // That it was there already may be the work of a question that was asked twice.
            let existed = !session.filters.insert(filter.into());
            outcome = SubscribeOutcome::Done { route, existed };
        }
        self.home.answered(reply_to, Answer::Subscribed(outcome));
    }

    /// Answers a question that nobody answers.
    pub(crate) fn give_up(&self, question: &Question) {
        match &question.waiting {
            Waiting::Attach { reply_to, .. } => {
                self.home.answered(*reply_to, Answer::Attached(Err(NotServed)));
            }
            Waiting::Discard { reply_to } => {
                self.home.answered(*reply_to, Answer::Discarded(Err(NotServed)));
            }
            Waiting::Subscribe { reply_to, .. } => {
                self.home.answered(*reply_to, Answer::Subscribed(SubscribeOutcome::Busy));
            }
            Waiting::Change { reply_to, .. } => self.settle(*reply_to, Settlement::Unknown),
            Waiting::Append { part, .. } => self.settle_part(*part, Settlement::Unknown),
            Waiting::Will { reply_to, alias } => {
                self.wills.lock().remove(alias);
                self.settle(*reply_to, Settlement::Unknown);
            }
        }
    }

    pub(crate) fn settle(&self, reply_to: Option<ReplyTo>, settlement: Settlement) {
        if let Some(ReplyTo { session, ticket }) = reply_to {
            self.home.settle(session, ticket, settlement);
        }
    }
}
