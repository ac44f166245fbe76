//! What the inbox of another host tells the sessions of this one.

use std::sync::Arc;

use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Answer, Attached, Claim, NotServed, SubscribeOutcome};
use ratatosk_contract::sessions::Delivery;

use crate::ask::{Ask, CallId};
use crate::cluster_inbox::Shared;
use crate::lane::{Lane, Question, Waiting};
use crate::partition::{Session, WHOLE};
use crate::placing::Place;
use crate::seats::partition_of;
use crate::tell::{Outcome, Resumed, Taken, Tell};

impl Shared {
    /// Does what a word is about.
    pub(crate) fn hear(&self, lane: &Arc<Lane>, word: Tell) {
        match word {
            Tell::Attached { call, attached } => self.hear_attached(lane, call, attached),
            Tell::Discarded { call, existed } => {
                if let Some(Question { waiting: Waiting::Discard { reply_to }, .. }) =
                    lane.answer(call)
                {
                    let existed = existed.ok_or(NotServed);
                    self.home.answered(reply_to, Answer::Discarded(existed));
                }
            }
            Tell::Subscribed { call, outcome } => self.hear_subscribed(lane, call, outcome),
            Tell::NotServed { call, is_to_begin } => self.hear_not_served(lane, call, is_to_begin),
            Tell::Begun { call, said } => {
                let question = lane.answer(call);
                if let Some(Question { waiting: Waiting::Append { part, .. }, .. }) = question {
                    self.hear_begun(part, *said);
                }
            }
            Tell::NotTaken { call } => {
                if let Some(Question { waiting: Waiting::Append { part, .. }, .. }) =
                    lane.answer(call)
                {
                    self.finish_part(part, Settlement::Unknown);
                }
            }
            Tell::Settled { call, settlement } => self.hear_settled(lane, call, settlement),
            Tell::WillKept { call, will } => {
                if let Some(Question { waiting: Waiting::Will { reply_to, alias }, .. }) =
                    lane.answer(call)
                {
                    self.will_kept(alias, will);
                    self.settle(reply_to, Settlement::Done);
                }
            }
            Tell::Resumed { call, claim, end } => self.hear_resumed(lane, (call, claim), end),
            Tell::Entries { claim, entries } => {
                let number = partition_of(claim.inbox.0);
                let mut partition = self.partitions[number].lock();
                // What comes by another way than it goes now comes again.
                if !self.is_there(number, lane) {
                    return;
                }
                let session = partition.claimed(claim).filter(|session| session.resuming.is_none());
                let Some(session) = session else { return };
                let woken = session.fill(entries).then_some(session.owner);
                drop(partition);
                woken.into_iter().for_each(|owner| self.home.inbox_ready(owner));
            }
            Tell::Direct { claim, direct } => {
                let mut partition = self.partitions[partition_of(claim.inbox.0)].lock();
                let Some(owner) = partition.claimed(claim).map(|session| session.owner) else {
                    self.metrics.dropped_direct.increment();
                    return;
                };
                drop(partition);
                let delivery = Delivery {
                    tenant: direct.tenant,
                    options: direct.options,
                    subscription_id: direct.subscription_id,
                    group: Arc::clone(&self.no_group),
                    message: direct.message,
                };
                self.home.deliver(owner, delivery);
            }
            Tell::Stale { claim } => self.note_stale(claim),
        }
    }

    /// Whether a partition is served at the other end of a lane.
    fn is_there(&self, number: usize, lane: &Arc<Lane>) -> bool {
        matches!(&self.places.read()[number], Place::There { lane: there, .. }
            if Arc::ptr_eq(there, lane))
    }

    /// A session has another owner: whoever had it is told by the next thing that he asks.
    fn note_stale(&self, claim: Claim) {
        let mut partition = self.partitions[partition_of(claim.inbox.0)].lock();
        let Some(session) = partition.claimed(claim) else { return };
        session.is_stale = true;
        let owner = session.owner;
        drop(partition);
        self.home.inbox_ready(owner);
    }

    fn hear_resumed(&self, lane: &Arc<Lane>, (call, claim): (CallId, Claim), end: Resumed) {
        let number = partition_of(claim.inbox.0);
        if end == Resumed::NotServed {
            self.unplace(number, lane);
            return;
        }
        {
            let mut partition = self.partitions[number].lock();
            let session = partition.claimed(claim);
            let Some(session) = session.filter(|session| session.resuming == Some(call)) else {
                return;
            };
            session.resuming = None;
        }
        if end == Resumed::Stale {
            self.note_stale(claim);
        }
    }

    fn hear_attached(&self, lane: &Arc<Lane>, call: CallId, attached: Option<Box<Taken>>) {
        let question = lane.answer(call);
        let Some(Question { waiting: Waiting::Attach { reply_to, filters_max }, .. }) = question
        else {
            if let Some(taken) = attached {
                // Its client was refused meanwhile.
                self.give_back(lane, taken.claim);
            }
            return;
        };
        let Some(taken) = attached else {
            self.home.answered(reply_to, Answer::Attached(Err(NotServed)));
            return;
        };
        let Taken { claim, incarnation, is_present, sent, inbound, subscriptions } = *taken;
        let mut session = Session::new(claim, reply_to.session, &subscriptions, filters_max);
        let number = partition_of(claim.inbox.0);
        let mut partition = self.partitions[number].lock();
        if self.is_there(number, lane) {
            let now = self.clock.now();
            lane.outbox.put(|into| Ask::More { claim, credit: WHOLE }.put(into, now));
        } else {
            // It has moved meanwhile, and goes on where it is.
            self.resume(&mut session, &self.place(number));
        }
        let before = partition.sessions.insert(claim.inbox, session);
        drop(partition);
        if let Some(before) = before.filter(|before| before.owner != reply_to.session) {
            self.home.inbox_ready(before.owner);
        }
        let attached = Attached {
            claim,
            incarnation,
            is_present,
            member: Arc::default(),
            subscriptions,
            inbound,
            sent,
        };
        self.home.answered(reply_to, Answer::Attached(Ok(Box::new(attached))));
    }

    fn give_back(&self, lane: &Lane, claim: Claim) {
        let now = self.clock.now();
        let ask = Ask::Detach { call: CallId(0), claim, expiry_s: None, will: None };
        lane.outbox.put(|into| ask.put(into, now));
    }

    fn hear_subscribed(&self, lane: &Arc<Lane>, call: CallId, outcome: Outcome) {
        let Some(question) = lane.answer(call) else { return };
        let Waiting::Subscribe { reply_to, claim, ask: Ask::Subscribe { subscription, .. } } =
            &question.waiting
        else {
            return self.hear_subscribed_again(lane, question, outcome);
        };
        let (reply_to, claim, filter) = (*reply_to, *claim, subscription.filter.clone());
        let outcome = match outcome {
            Outcome::Done | Outcome::Existed => {
                SubscribeOutcome::Done { route: None, existed: outcome == Outcome::Existed }
            }
            Outcome::TooManyFilters => SubscribeOutcome::TooManyFilters,
            Outcome::GroupFull => SubscribeOutcome::GroupFull,
            Outcome::Busy => SubscribeOutcome::Busy,
            Outcome::Stale => {
                // Its partition may have gone elsewhere; whether the session has is said by a word of its own.
                self.hold_back(question, lane);
                return;
            }
        };
        let mut partition = self.partitions[partition_of(claim.inbox.0)].lock();
        self.subscribed(&mut partition, claim, &filter, outcome, reply_to);
    }

    /// What its session was promised before by another inbox, which did not make it durable.
    fn hear_subscribed_again(&self, lane: &Arc<Lane>, question: Question, outcome: Outcome) {
        let Waiting::Change { reply_to, ask: Ask::Subscribe { .. }, .. } = &question.waiting else {
            return;
        };
        match outcome {
            Outcome::Done | Outcome::Existed => self.settle(*reply_to, Settlement::Done),
            Outcome::Stale => self.hold_back(question, lane),
            // It was granted, and is not: that can be neither said nor unsaid.
            Outcome::TooManyFilters | Outcome::GroupFull | Outcome::Busy => {
                self.settle(*reply_to, Settlement::Unknown);
            }
        }
    }

    /// Nobody has the message: it goes where its sessions are served, or is begun first.
    fn hear_not_served(&self, lane: &Arc<Lane>, call: CallId, is_to_begin: bool) {
        let Some(question) = lane.answer(call) else { return };
        let Waiting::Append { part, .. } = question.waiting else {
            self.give_up(&question);
            return;
        };
        if is_to_begin {
            self.jobs.lock().note_to_begin(part);
            return self.hold(part);
        }
        let asked = self.jobs.lock().part(part).map(|part| part.asked());
        let numbers = asked.unwrap_or_default();
        numbers.into_iter().for_each(|number| self.unplace(number, lane));
        self.hold(part);
    }

    fn hear_settled(&self, lane: &Arc<Lane>, call: CallId, settlement: Settlement) {
        let Some(question) = lane.answer(call) else { return };
        match &question.waiting {
            Waiting::Change { reply_to, claim, ask } => {
                let is_live = {
                    let mut partition = self.partitions[partition_of(claim.inbox.0)].lock();
                    partition.claimed(*claim).is_some() || matches!(ask, Ask::Detach { .. })
                };
                if settlement == Settlement::Unknown && is_live {
                    self.hold_back(question, lane);
                } else {
                    self.settle(*reply_to, settlement);
                }
            }
            // It may be asked again.
            Waiting::Subscribe { .. } => self.hold_back(question, lane),
            Waiting::Append { part, .. } => self.settle_part(*part, settlement),
            Waiting::Will { .. } => self.give_up(&question),
            // Questions of other kinds have answers of their own.
            Waiting::Attach { .. } | Waiting::Discard { .. } => self.give_up(&question),
        }
    }
}
