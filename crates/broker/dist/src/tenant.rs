//! The routes of one tenant: a table behind a lock that readers do not contend for, and the epoch.
//!
//! Where routes of persistent sessions are kept, whoever changes one has his turn: the table changes,
//! and what came of it is submitted, before the next one's turn. Readers do not wait for that, and
//! routes of transient sessions neither.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard};
use parking_lot::Mutex;
use ratatosk_contract::{
    Call, HostNumber, TenantId,
    dist::{
        AddError, HostRoute, Receiver, ReceiverKey, Resolution, Restored, RouteEpoch, RouteId,
        StoredRoute, TenantRoutes,
    },
    group::Group,
};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::{
    DistStats,
    entry::Removed,
    journal::Journal,
    schema::Kept,
    table::{Changed, Table},
};

/// How many filters of a host are looked at under one lock: at most two microseconds each.
const HOST_FILTERS: usize = 128;

/// The routes of one tenant.
pub(crate) struct Tenant {
    id: TenantId,
    /// Readers are on the packet path: each thread has its own part of the lock.
    table: ShardedLock<Table>,
    /// Written under the write lock only, after the change and before the lock is given up. So a
    /// resolution, made under the read lock, knows exactly which changes it has seen.
    epoch: AtomicU64,
    /// `None` also if the tenant's name is too long for it: then persistent sessions are refused.
    journal: Option<Arc<Journal>>,
    is_unfit: bool,
    /// The turn of whoever changes what the journal keeps.
    turn: Mutex<()>,
}

impl Tenant {
    pub(crate) fn new(
        id: TenantId,
        hash_seed: u64,
        generations: Arc<AtomicU32>,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        let takes = Journal::takes(id.as_str());
        Tenant {
            id,
            table: ShardedLock::new(Table::new(hash_seed, generations)),
            epoch: AtomicU64::new(0),
            is_unfit: journal.is_some() && !takes,
            journal: journal.filter(|_| takes),
            turn: Mutex::new(()),
        }
    }

    pub(crate) fn id(&self) -> &TenantId {
        &self.id
    }

    /// Adds a receiver that the journal has.
    pub(crate) fn load(&self, filter: &TopicFilter<'_>, receiver: Receiver) {
        let _ = self.change(|table| table.add(filter, receiver));
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
        let (member, kept) = kept_of(&receiver);
        let journal = match &self.journal {
            Some(journal) if is_stored(&receiver) => journal,
            None if self.is_unfit && kept.is_some() => return Call::Ready(Err(AddError::Busy)),
            _ => {
                let added = self.change(|table| table.add(filter, receiver));
                return Call::Ready(added.map(|(route, _)| route));
            }
        };
        let _turn = self.turn.lock();
        // Who asks for what he has is not refused. MQTT-077, DUR-006
        if kept.is_some() && !journal.has_room() && !self.read().has(filter, &receiver) {
            return Call::Ready(Err(AddError::Busy));
        }
        Call::Ready(self.change(|table| table.add(filter, receiver)).map(|(route, added)| {
            let mut writing = journal.write(self.id.as_str());
            writing.added(*filter, member, added, kept);
            writing.finish();
            route
        }))
    }

    // [MQTT-3.10.4-1] The filter that is equal, byte by byte; [MQTT-3.10.4-2] no later resolution
    // has it.
    fn remove(&self, filter: &TopicFilter<'_>, receiver: &ReceiverKey) -> Call<bool> {
        Call::Ready(self.remove_each(&[(*filter, *receiver)]) > 0)
    }

    fn remove_route(&self, route: RouteId, receiver: &ReceiverKey) -> Call<bool> {
        let journal = self.journal.as_ref().filter(|_| is_key_stored(receiver));
        let Some(journal) = journal else {
            let removed = self.change(|table| table.remove_route(route, receiver));
            return Call::Ready(removed != Removed::Nothing);
        };
        let _turn = self.turn.lock();
        let mut text = String::new();
        self.filter_text(route, &mut text);
        let removed = self.change(|table| table.remove_route(route, receiver));
        let filter = TopicFilter::parse(&text, &TopicLimits::PROTOCOL);
        if let (true, Ok(filter)) = (removed != Removed::Nothing, filter) {
            let mut writing = journal.write(self.id.as_str());
            writing.removed(filter, None, removed);
            writing.finish();
        }
        Call::Ready(removed != Removed::Nothing)
    }

    fn remove_each(&self, receivers: &[(TopicFilter<'_>, ReceiverKey)]) -> usize {
        let has_stored = receivers.iter().any(|(_, key)| is_key_stored(key));
        let journal = self.journal.as_ref().filter(|_| has_stored);
        let _turn = journal.map(|_| self.turn.lock());
        let mut writing = journal.map(|journal| journal.write(self.id.as_str()));
        let mut count = 0;
        for (filter, key) in receivers {
            let removed = self.change(|table| table.remove(filter, key));
            count += usize::from(removed != Removed::Nothing);
            if let Some(writing) = &mut writing {
                writing.removed(*filter, member_of(key), removed);
            }
        }
        if let Some(writing) = writing {
            writing.finish();
        }
        count
    }

    fn host_routes(&self, host: HostNumber) -> Vec<RouteId> {
        self.read().host_routes(host)
    }

    fn host_routes_count(&self, host: HostNumber) -> usize {
        self.read().host_routes_count(host)
    }

    fn retain_host(
        &self,
        host: HostNumber,
        filters: &[RouteId],
        keep: &mut dyn FnMut(HostRoute<'_>) -> bool,
    ) -> usize {
        // Readers have their turn in between.
        let mut retain =
            |page: &[RouteId]| self.change(|table| table.retain_host(host, page, keep));
        filters.chunks(HOST_FILTERS).map(&mut retain).sum()
    }

    fn restore(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Restored {
        let (member, kept) = kept_of(&receiver);
        let _turn = self.turn.lock();
        let added = self.change(|table| table.add(filter, receiver));
        let (Some(journal), Ok((_, added))) = (&self.journal, added) else {
            return Restored::Known;
        };
        let mut writing = journal.write(self.id.as_str());
        let is_known = writing.added(*filter, member, added, kept);
        writing.finish();
        if is_known { Restored::Known } else { Restored::Repaired }
    }

    fn stored(&self, from: usize, found: &mut Vec<StoredRoute>) -> Option<usize> {
        self.read().stored(from, found)
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

/// Whether the journal may have to do with a receiver. One of no other host may stand for a stored one
/// of its identity.
fn is_stored(receiver: &Receiver) -> bool {
    match receiver {
        Receiver::Shard(_) | Receiver::Host(_) => false,
        Receiver::Inbox(_) => true,
        Receiver::Member { member, .. } => member.host().is_none(),
    }
}

/// As [`is_stored`].
fn is_key_stored(key: &ReceiverKey) -> bool {
    matches!(key, ReceiverKey::Inbox { .. } | ReceiverKey::Member { .. })
}

/// The number as a member, and what the journal keeps of a receiver.
fn kept_of(receiver: &Receiver) -> (Option<u64>, Option<Kept>) {
    match receiver {
        Receiver::Shard(_) | Receiver::Host(_) => (None, None),
        Receiver::Inbox(route) => (None, Some(Kept::of(route))),
        Receiver::Member { member, .. } => (Some(member.id), Kept::of_member(member)),
    }
}

fn member_of(key: &ReceiverKey) -> Option<u64> {
    match *key {
        ReceiverKey::Member { id, .. } => Some(id),
        ReceiverKey::Shard(_)
        | ReceiverKey::Inbox { .. }
        | ReceiverKey::Host(_)
        | ReceiverKey::HostMember { .. } => None,
    }
}
