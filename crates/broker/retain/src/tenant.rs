//! The retained messages of one tenant, shared: a store behind a lock that is held for one message
//! or one page.
//!
//! With a journal, what changes is visible at once and durable later. Commands are submitted under
//! the lock, so the log has them in the order of the changes. Where several nodes change the messages see
//! [`replicated`](crate::replicated).

use std::{
    ops::Bound,
    sync::{Arc, Weak},
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use ratatosk_clock::Instant;
use ratatosk_contract::{
    Call, Message, ReplyTo, StoredMessage, TenantId,
    retain::{Cursor, Page, RetainLimits, StoreOutcome, TenantRetained},
};
use ratatosk_telemetry::memory::{Account, Share};
use ratatosk_topic::{FilterScan, TopicFilter, TopicKey};

use crate::{
    RetainStats,
    journal::{Journal, Removals},
    replication::Replication,
    schema::message::TopicHash,
    store::{Kept, Store, is_apart, topic_key},
};

/// Where changes are written.
#[derive(Clone, Debug, Default)]
pub(crate) enum Home {
    /// Nowhere: they end with the process.
    #[default]
    Memory,
    /// In a log, as they are decided here.
    Journal(Arc<Journal>),
    /// In a log that decides, and that others write, too.
    Replicas(Arc<Replication>),
}

/// The retained messages of one tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    id: TenantId,
    store: RwLock<Store>,
    account: Account,
    home: Home,
    itself: Weak<Tenant>,
    /// Those of the journal.
    removals: Removals,
}

impl Tenant {
    pub(crate) fn new(
        id: TenantId,
        limits: RetainLimits,
        account: Account,
        home: Home,
    ) -> Arc<Self> {
        let hold = account.hold(Share::Retained, 0);
        let store = RwLock::new(Store::new(limits, hold));
        Arc::new_cyclic(|itself| {
            let (itself, removals) = (Weak::clone(itself), Removals::default());
            Tenant { id, store, account, home, itself, removals }
        })
    }

    pub(crate) fn id(&self) -> &TenantId {
        &self.id
    }

    pub(crate) fn itself(&self) -> Weak<Self> {
        Weak::clone(&self.itself)
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read()
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write()
    }

    /// A copy to be kept. A payload that readers share stays charged until the last of them has
    /// it no more; all else is the store's.
    pub(crate) fn keep(&self, message: &Message<'_>) -> StoredMessage {
        // Not the publisher's bytes, even if they are shared: those may be part of something
        // larger, and are charged as what is on its way.
        let payload = message.payload.to_vec();
        let held = payload.len();
        message.to_stored_as(match is_apart(held) {
            true => self.account.keep(Share::Retained, payload, held),
            false => payload.into(),
        })
    }

    pub(crate) fn stats(&self) -> RetainStats {
        self.store.read().stats()
    }

    /// Whether it has anything that must not be forgotten.
    pub(crate) fn is_used(&self) -> bool {
        self.store.read().is_used() || !self.removals.are_over()
    }

    /// See [`Store::restore`].
    pub(crate) fn restore(&self, kept: Kept) {
        self.store.write().restore(kept);
    }

    /// Removes messages that are expired, or has them removed, and looks at most at `count_max`; returns
    /// at how many it looked. None while the journal has no room.
    pub(crate) fn collect(&self, now: Instant, count_max: usize) -> usize {
        if let Home::Replicas(replication) = &self.home {
            return self.collect_led(replication, now, count_max);
        }
        if !self.store.read().is_due(now) {
            return 0;
        }
        let Home::Journal(journal) = &self.home else {
            return self.store.write().collect(now, count_max, |_| {});
        };
        if !journal.has_room() {
            return 0;
        }
        let mut store = self.store.write();
        let mut topics = store.collect_stale(count_max);
        let left = count_max - topics.len();
        store.collect(now, left, |message| topics.push(TopicHash::of(&message.topic)));
        journal.write_removed(self.id.as_str(), &topics, &self.removals);
        topics.len()
    }

    /// Whether an order to end what was there is not carried out yet.
    pub(crate) fn is_ending(&self) -> bool {
        self.store.read().is_ending()
    }

    /// Goes on with such an order: removes at most `count_max` messages and returns how many. None
    /// while the journal has no room.
    pub(crate) fn end_some(&self, count_max: usize) -> usize {
        let journal = match &self.home {
            Home::Memory => return self.store.write().end_some(count_max, |_| {}),
            Home::Journal(journal) => journal,
            Home::Replicas(replication) => return self.end_some_submitted(replication, count_max),
        };
        if !journal.has_room() {
            return 0;
        }
        let mut store = self.store.write();
        let mut topics = Vec::new();
        store.end_some(count_max, |message| topics.push(TopicHash::of(&message.topic)));
        journal.write_removed(self.id.as_str(), &topics, &self.removals);
        topics.len()
    }

    /// Changes memory, writes the change, and answers when it is durable.
    fn store_durably(
        &self,
        journal: &Journal,
        key: TopicKey,
        message: &Message<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<StoreOutcome> {
        if !Journal::takes(self.id.as_str()) {
            self.store.write().refuse();
            return Call::Ready(StoreOutcome::Refused);
        }
        if !journal.has_room() {
            return Call::Ready(StoreOutcome::Busy);
        }
        // Copied before the lock is taken: payloads may be large.
        let entry = journal.entry(self.id.as_str(), message, None);
        if message.payload.is_empty() {
            let mut store = self.store.write();
            // If the topic has nothing because of a removal that is not durable yet, the answer
            // has to wait as well; to remove it once more is the way to be told.
            if !store.clear(&key) && self.removals.are_over() {
                return Call::Ready(StoreOutcome::Cleared);
            }
            journal.write(entry, Some(&self.removals), reply_to);
            return Call::Pending;
        }
        let stored = Arc::new(self.keep(message));
        let mut store = self.store.write();
        if !store.put(key, stored) {
            return Call::Ready(StoreOutcome::Refused);
        }
        store.freshen(entry.topic);
        journal.write(entry, None, reply_to);
        Call::Pending
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.store.read().check_invariants();
    }
}

impl TenantRetained for Tenant {
    fn store(&self, message: &Message<'_>, reply_to: Option<ReplyTo>) -> Call<StoreOutcome> {
        let Some(key) = topic_key(message.topic) else {
            debug_assert!(false, "{:?} is no topic name", message.topic);
            return Call::Ready(StoreOutcome::Refused);
        };
        match &self.home {
            Home::Memory => {}
            Home::Journal(journal) => return self.store_durably(journal, key, message, reply_to),
            Home::Replicas(replication) => return self.ask(replication, &key, message, reply_to),
        }
        // [MQTT-3.3.1-6], [MQTT-3.3.1-7]
        if message.payload.is_empty() {
            self.store.write().clear(&key);
            return Call::Ready(StoreOutcome::Cleared);
        }
        // Copied before the lock is taken: payloads may be large.
        let stored = Arc::new(self.keep(message));
        // [MQTT-3.3.1-5]
        let is_stored = self.store.write().put(key, stored);
        Call::Ready(if is_stored { StoreOutcome::Stored } else { StoreOutcome::Refused })
    }

    fn scan(&self, now: Instant, filter: &TopicFilter<'_>, cursor: &mut Cursor, page: &mut Page) {
        let scan = FilterScan::new(*filter);
        let start;
        let from = match cursor {
            Cursor::Start => {
                start = scan.start();
                Bound::Included(start.as_bytes())
            }
            Cursor::After(key) => Bound::Excluded(&**key),
            Cursor::End => return,
        };
        let reached = self.store.read().scan(now, &scan, from, page);
        *cursor = reached;
    }

    fn scan_current(
        &self,
        now: Instant,
        filter: &TopicFilter<'_>,
        cursor: &mut Cursor,
        page: &mut Page,
    ) -> bool {
        if let Home::Replicas(replication) = &self.home {
            return self.read_current(replication, now, filter, (cursor, page));
        }
        self.scan(now, filter, cursor, page);
        true
    }

    fn when_current(&self, told: Box<dyn FnOnce() + Send>) {
        if let Home::Replicas(replication) = &self.home {
            replication.serving.when_may_answer(&self.keys(), told);
        }
    }

    fn expire_all(&self) -> usize {
        self.store.write().order_end()
    }

    fn set_limits(&self, limits: RetainLimits) {
        self.store.write().set_limits(limits);
    }

    fn len(&self) -> usize {
        self.store.read().len()
    }
}
