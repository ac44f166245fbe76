//! Changes of sessions that this host serves itself and that are not durable yet.
//!
//! When a partition goes elsewhere, what becomes of those that were on their way is in doubt. They may be done
//! twice, so they are asked again where their sessions are served next, as those are that another host did
//! not answer.

use std::collections::HashMap;

use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::SubscribeOutcome;
use ratatosk_contract::{ReplyTo, SessionRef, Ticket};

use crate::append::JOIN_SHARD;
use crate::ask::{Ask, CallId};
use crate::cluster_inbox::Shared;
use crate::lane::{Question, Waiting};
use crate::placing::Place;
use crate::seats::partition_of;

/// What tells these from parts of messages, which are told of by the same shard number.
pub(crate) const CHANGE_SLOT: u32 = 1;

/// A change, and where it was asked.
pub(crate) type Kept = (Question, Place);

/// All that have no outcome.
pub(crate) type AllKept = HashMap<CallId, Kept>;

impl Shared {
    /// Keeps a change that is asked of this host's inbox next, with this reply.
    pub(crate) fn keep(&self, question: Question, place: &Place) -> ReplyTo {
        let session = SessionRef { shard: JOIN_SHARD, slot: CHANGE_SLOT, generation: 0 };
        let ticket = Ticket(question.call.0);
        self.kept.lock().insert(question.call, (question, place.clone()));
        ReplyTo { session, ticket }
    }

    /// A change has its outcome, or it is in doubt.
    pub(crate) fn settle_kept(&self, Ticket(call): Ticket, settlement: Settlement) {
        let Some(kept) = self.kept.lock().remove(&CallId(call)) else { return };
        // Whoever tells it may hold locks.
        match (settlement, &kept.0.waiting) {
            (Settlement::Unknown, _) => self.doubtful.lock().push(kept),
            (_, Waiting::Subscribe { .. }) => self.granted.lock().push(kept.0),
            (_, Waiting::Change { reply_to, .. }) => return self.settle(*reply_to, settlement),
            _ => return,
        }
        self.stir.notify_one();
    }

    /// Answers subscriptions that are durable.
    pub(crate) fn answer_granted(&self) {
        let granted = std::mem::take(&mut *self.granted.lock());
        for question in granted {
            let Waiting::Subscribe { reply_to, claim, ask: Ask::Subscribe { subscription, .. } } =
                question.waiting
            else {
                continue;
            };
            let mut partition = self.partitions[partition_of(claim.inbox.0)].lock();
            let done = SubscribeOutcome::Done { route: None, existed: false };
            self.subscribed(&mut partition, claim, &subscription.filter, done, reply_to);
        }
    }

    /// Asks changes in doubt again whose sessions are served elsewhere by now, or anew.
    pub(crate) fn ask_doubtful(&self) {
        let mut doubtful = std::mem::take(&mut *self.doubtful.lock());
        doubtful.sort_by_key(|(question, _)| question.call);
        let now = self.clock.now();
        for (question, before) in doubtful {
            let (Waiting::Change { claim, .. } | Waiting::Subscribe { claim, .. }) =
                &question.waiting
            else {
                continue;
            };
            let number = partition_of(claim.inbox.0);
            if question.due <= now {
                self.metrics.late.increment();
                self.give_up(&question);
            } else if self.place(number) == before {
                self.doubtful.lock().push((question, before));
            } else {
                self.ask_again(question);
            }
        }
    }
}
