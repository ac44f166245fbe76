//! The routes of one tenant: a table behind a lock that readers do not contend for, and the epoch.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard};
use ratatosk_contract::{
    Call,
    dist::{AddError, Receiver, ReceiverKey, Resolution, RouteEpoch, RouteId, TenantRoutes},
    group::Group,
};
use ratatosk_topic::{TopicFilter, TopicName};

use crate::{
    DistStats,
    table::{Changed, Table},
};

/// The routes of one tenant.
pub(crate) struct Tenant {
    /// Readers are on the packet path: each thread has its own part of the lock.
    table: ShardedLock<Table>,
    /// Written under the write lock only, after the change and before the lock is given up. So a
    /// resolution, made under the read lock, knows exactly which changes it has seen.
    epoch: AtomicU64,
}

impl Tenant {
    pub(crate) fn new(hash_seed: u64, generations: Arc<AtomicU32>) -> Self {
        Tenant {
            table: ShardedLock::new(Table::new(hash_seed, generations)),
            epoch: AtomicU64::new(0),
        }
    }

    pub(crate) fn stats(&self) -> DistStats {
        self.read().stats()
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.read().check_invariants();
    }

    /// A thread that panicked under the lock must not take the node with it.
    fn read(&self) -> ShardedLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and outdates the resolutions if one could show it.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> (T, Changed)) -> T {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let (answer, changed) = change(&mut table);
        if changed == Changed::Yes {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        answer
    }
}

impl TenantRoutes for Tenant {
    fn epoch(&self) -> RouteEpoch {
        RouteEpoch(self.epoch.load(Ordering::Acquire))
    }

    // [MQTT-4.5.0-1] Every matching route, transient and stored, is in one resolution.
    fn resolve(&self, topic: TopicName<'_>, found: &mut Resolution) {
        found.clear();
        let table = self.read();
        found.epoch = RouteEpoch(self.epoch.load(Ordering::Relaxed));
        table.resolve(topic, found);
    }

    fn add(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Call<Result<RouteId, AddError>> {
        Call::Ready(self.change(|table| table.add(filter, receiver)))
    }

    // [MQTT-3.10.4-1] The filter that is equal, byte by byte; [MQTT-3.10.4-2] no later resolution
    // has it.
    fn remove(&self, filter: &TopicFilter<'_>, receiver: &ReceiverKey) -> Call<bool> {
        Call::Ready(self.change(|table| table.remove(filter, receiver)))
    }

    fn remove_route(&self, route: RouteId, receiver: &ReceiverKey) -> Call<bool> {
        Call::Ready(self.change(|table| table.remove_route(route, receiver)))
    }

    fn find(&self, filter: &TopicFilter<'_>) -> Option<RouteId> {
        self.read().find(filter)
    }

    fn group(&self, route: RouteId, name: &str, is_ordered: bool) -> Option<Arc<Group>> {
        self.read().group(route, name, is_ordered)
    }

    fn filter_text(&self, route: RouteId, text: &mut String) -> bool {
        let table = self.read();
        let found = table.filter_text(route);
        text.push_str(found.unwrap_or_default());
        found.is_some()
    }

    fn len(&self) -> usize {
        self.read().len()
    }
}
