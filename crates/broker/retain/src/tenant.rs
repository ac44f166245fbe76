//! The retained messages of one tenant, shared: a store behind a lock that is held for one message
//! or one page.

use std::{ops::Bound, sync::Arc};

use parking_lot::RwLock;
use ratatosk_clock::Instant;
use ratatosk_contract::{
    Call, Message, ReplyTo, StoredMessage,
    retain::{Cursor, Page, RetainLimits, StoreOutcome, TenantRetained},
};
use ratatosk_telemetry::memory::{Account, Share};
use ratatosk_topic::{FilterScan, TopicFilter};

use crate::{
    RetainStats,
    store::{Store, is_apart, topic_key},
};

/// The retained messages of one tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    store: RwLock<Store>,
    account: Account,
}

impl Tenant {
    pub(crate) fn new(limits: RetainLimits, account: Account) -> Self {
        let hold = account.hold(Share::Retained, 0);
        Tenant { store: RwLock::new(Store::new(limits, hold)), account }
    }

    /// A copy to be kept. A payload that readers share stays charged until the last of them has
    /// it no more; all else is the store's.
    fn keep(&self, message: &Message<'_>) -> StoredMessage {
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

    /// Removes messages that are expired, at most `count_max`; returns how many.
    pub(crate) fn collect(&self, now: Instant, count_max: usize) -> usize {
        if self.store.read().due_next().is_none_or(|due| due > now) {
            return 0;
        }
        self.store.write().collect(now, count_max)
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.store.read().check_invariants();
    }
}

impl TenantRetained for Tenant {
    fn store(&self, message: &Message<'_>, _reply_to: Option<ReplyTo>) -> Call<StoreOutcome> {
        let Some(key) = topic_key(message.topic) else {
            debug_assert!(false, "{:?} is no topic name", message.topic);
            return Call::Ready(StoreOutcome::Refused);
        };
        // [MQTT-3.3.1-6], [MQTT-3.3.1-7]
        if message.payload.is_empty() {
            return Call::Ready(self.store.write().clear(&key));
        }
        // Copied before the lock is taken: payloads may be large.
        let stored = Arc::new(self.keep(message));
        // [MQTT-3.3.1-5]
        Call::Ready(self.store.write().put(key, stored))
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

    fn set_limits(&self, limits: RetainLimits) {
        self.store.write().set_limits(limits);
    }

    fn len(&self) -> usize {
        self.store.read().len()
    }
}
