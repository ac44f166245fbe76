//! The retained messages of one tenant where several nodes change them.
//!
//! What is asked for here shows at once and is submitted in that order. What the log brings is applied, topic by
//! topic; which of the two shows says [`pending`](crate::pending). Limits are judged by what shows here.

use std::{sync::Arc, time::Duration};

use ratatosk_clock::{Epoch, Instant};
use ratatosk_contract::{
    Call, Message, ReplyTo,
    retain::{Cursor, Page, StoreOutcome, TenantRetained},
};
use ratatosk_engine::KeyRange;
use ratatosk_topic::{TopicFilter, TopicKey};

use crate::{
    journal::Journal,
    over::Over,
    replication::Replication,
    schema::{
        message::{Record, TopicHash, key, keys_of},
        stamp::Stamp,
    },
    store::{Kept, topic_key},
    tenant::Tenant,
};

/// When a message was accepted that another node accepted: clocks of nodes do not compare, so it is older than
/// any subscription here. Who got it live as well gets it twice, and nobody misses it.
pub(crate) const ELSEWHERE: Instant = Instant::ZERO;
/// When it is looked again whether an expired message is gone that was to go, or was another node's to end.
const LOOKED_AGAIN: Duration = Duration::from_secs(10);
/// How many topics change under one lock: less than a microsecond each.
const TOPICS_MAX: usize = 128;
/// How often is read before ranges are taken for such as come and go all the time.
const READS_MAX: usize = 4;

/// What came of an effect.
#[derive(Clone, Debug)]
pub(crate) enum Applied<'a> {
    /// The topic has this message.
    Put(Record<'a>),
    /// It was cleared.
    Cleared {
        /// The topic.
        topic: &'a str,
        /// By which change, if that is known.
        stamp: Option<Stamp>,
    },
    /// Its message was over.
    Ended {
        /// The topic.
        topic: &'a str,
    },
}

/// A tenant that follows what the log brings.
pub(crate) struct Follower {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) epoch: Epoch,
}

impl Follower {
    /// An effect was applied. In the order of the log, by one thread.
    pub(crate) fn follow(&self, applied: &Applied<'_>) {
        let topic = match applied {
            Applied::Put(record) => record.topic,
            Applied::Cleared { topic, .. } | Applied::Ended { topic } => topic,
        };
        // Nobody stores what is no topic.
        let Some(key) = topic_key(topic) else { return };
        let (key, tenant) = (key.as_bytes(), &self.tenant);
        match applied {
            Applied::Put(record) => {
                if record.stamp.is_some_and(|stamp| tenant.follow_own(key, stamp)) {
                    return;
                }
                let deadline = record.deadline.map(|deadline| self.epoch.instant(deadline));
                // Copied before the lock is taken: payloads may be large.
                let stored = Arc::new(tenant.keep(&record.message(ELSEWHERE, deadline)));
                let mut store = tenant.write();
                let held = store.fresh(stored, record.stamp);
                store.apply(key, Some(held));
            }
            Applied::Cleared { stamp, .. } => {
                if !stamp.is_some_and(|stamp| tenant.follow_own(key, stamp)) {
                    tenant.write().apply(key, None);
                }
            }
            Applied::Ended { .. } => {
                let mut store = tenant.write();
                store.apply(key, None);
                store.stats.expired += 1;
            }
        }
    }
}

impl Tenant {
    /// Whether this was a change of this node, which is applied now.
    fn follow_own(&self, key: &[u8], stamp: Stamp) -> bool {
        // Most changes are not: readers are not kept from reading for them.
        let is_own = self.read().is_own(key, stamp);
        is_own && self.write().apply_own(key, stamp)
    }

    /// See [`TenantRetained::store`].
    pub(crate) fn ask(
        &self,
        replication: &Replication,
        key: &TopicKey,
        message: &Message<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<StoreOutcome> {
        if !Journal::takes(self.id().as_str()) {
            self.write().refuse();
            return Call::Ready(StoreOutcome::Refused);
        }
        let Some(journal) = replication.journal_with_room() else {
            return Call::Ready(StoreOutcome::Busy);
        };
        let is_clearing = message.payload.is_empty();
        if is_clearing && self.is_known_clear(replication, message.topic, key) {
            return Call::Ready(StoreOutcome::Cleared);
        }
        // Copied before the lock is taken: payloads may be large.
        let stamp = replication.stamp();
        let entry = journal.entry(self.id().as_str(), message, Some(stamp));
        let stored = (!is_clearing).then(|| Arc::new(self.keep(message)));
        let (tenant, changed) = (self.itself(), key.as_bytes().to_vec());
        let mut store = self.write();
        match &stored {
            Some(stored) if !store.has_room(key.as_bytes(), stored) => {
                store.refuse();
                return Call::Ready(StoreOutcome::Refused);
            }
            Some(_) => store.stats.stored += 1,
            None => store.stats.cleared += u64::from(store.messages.contains_key(key.as_bytes())),
        }
        store.begin(key.as_bytes(), stored, stamp);
        journal.submit(entry, reply_to, move |is_done| {
            if let Some(tenant) = tenant.upgrade() {
                tenant.write().conclude(&changed, stamp, is_done);
            }
        });
        Call::Pending
    }

    /// Whether a topic has nothing anywhere, as far as was acknowledged.
    fn is_known_clear(&self, replication: &Replication, topic: &str, key: &TopicKey) -> bool {
        let turn = replication.turn();
        let start = key_of(self.id().as_str(), topic);
        let end = [&start[..], &[0]].concat();
        let keys = KeyRange { start: start.into(), end: Some(end.into()) };
        replication.serving.may_answer(&keys)
            && self.read().is_clear(key.as_bytes())
            && replication.turn() == turn
    }

    /// See [`TenantRetained::scan_current`].
    pub(crate) fn read_current(
        &self,
        replication: &Replication,
        now: Instant,
        filter: &TopicFilter<'_>,
        (cursor, page): (&mut Cursor, &mut Page),
    ) -> bool {
        let (start, before) = (cursor.clone(), page.messages.len());
        for _ in 0..READS_MAX {
            let turn = replication.turn();
            if !self.is_current(replication) {
                return false;
            }
            self.scan(now, filter, cursor, page);
            if replication.turn() == turn {
                return true;
            }
            *cursor = start.clone();
            page.messages.truncate(before);
        }
        false
    }

    /// Whether what was applied here has all that was acknowledged anywhere. If so, what this node was told
    /// to be done is in it.
    pub(crate) fn is_current(&self, replication: &Replication) -> bool {
        let done = self.read().done();
        let is_current = replication.serving.may_answer(&self.keys());
        if is_current && !done.is_empty() {
            self.write().forget_done(&done);
        }
        is_current
    }

    /// The keys of all its messages.
    pub(crate) fn keys(&self) -> KeyRange {
        keys_of(self.id().as_str())
    }

    /// Submits the end of expired messages whose ranges this node leads, and looks at most at `count_max`;
    /// answers at how many it looked. RET-004
    pub(crate) fn collect_led(
        &self,
        replication: &Replication,
        now: Instant,
        count_max: usize,
    ) -> usize {
        if self.read().has_done() {
            self.is_current(replication);
        }
        if !self.read().is_due(now) {
            return 0;
        }
        let Some(journal) = replication.journal_with_room() else { return 0 };
        let due = self.write().due_now(now, count_max, LOOKED_AGAIN);
        let id = self.id().as_str();
        let led = due.iter().filter(|(topic, _)| replication.leads(&key(id, *topic)));
        // What is lost on its way is looked at again.
        journal.write_ended(id, &led.copied().collect::<Vec<Over>>(), || drop);
        due.len()
    }

    /// Goes on with an order to end what was there: submits at most `count_max` ends and answers how many.
    pub(crate) fn end_some_submitted(&self, replication: &Replication, count_max: usize) -> usize {
        let Some(journal) = replication.journal_with_room() else { return 0 };
        let (over, order) = self.write().over_next(count_max);
        journal.write_ended(self.id().as_str(), &over, || {
            let tenant = self.itself();
            move |is_done: bool| {
                if let Some(tenant) = tenant.upgrade().filter(|_| !is_done) {
                    tenant.write().end_again(order);
                }
            }
        });
        over.len()
    }

    /// Takes in what was applied under keys that no range here had.
    pub(crate) fn take_over(&self, kept: Kept) {
        let mut store = self.write();
        if store.is_new() {
            store.restore(kept);
            return;
        }
        drop(store);
        for page in kept.into_messages().chunks(TOPICS_MAX) {
            let mut store = self.write();
            for (key, held) in page {
                if !held.stamp.is_some_and(|stamp| store.apply_own(key, stamp)) {
                    let held = store.fresh(Arc::clone(&held.message), held.stamp);
                    store.apply(key, Some(held));
                }
            }
        }
    }

    /// Forgets what was applied under keys that no range here has any more.
    pub(crate) fn release(&self, intervals: &[KeyRange]) {
        let keys = self.keys();
        if intervals.iter().all(|interval| interval.intersection(&keys).is_empty()) {
            return;
        }
        let id = self.id().as_str();
        let has_gone = |topic: &str| {
            let key = key_of(id, topic);
            intervals.iter().any(|interval| interval.contains(&key))
        };
        let mut page = self.read().hidden();
        let mut after: Box<[u8]> = Box::default();
        loop {
            page.retain(|(_, message)| has_gone(&message.topic));
            let mut store = self.write();
            page.iter().for_each(|(key, _)| store.apply(key, None));
            drop(store);
            page = self.read().behind(&after, TOPICS_MAX);
            match page.last() {
                Some((last, _)) => after = last.clone(),
                None => return,
            }
        }
    }
}

/// The key of a topic.
fn key_of(tenant: &str, topic: &str) -> Vec<u8> {
    key(tenant, TopicHash::of(topic))
}
