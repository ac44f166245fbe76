//! The routes of one tenant: a table behind a lock that readers do not contend for, and the epoch.
//!
//! Where routes of persistent sessions are kept, whoever changes one has his turn: the table changes,
//! and what came of it is submitted, before the next one's turn. Readers do not wait for that, and
//! routes of transient sessions neither. Where replicas have them see [`replicated`](crate::replicated).

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard};
use parking_lot::Mutex;
use ratatosk_contract::{
    Call, HostNumber, TenantId,
    dist::{
        AddError, HostRoute, InboxRoute, RESTORED_LIFE, Receiver, ReceiverKey, Resolution,
        Restored, RouteEpoch, RouteId, RouteTold, StoredKey, StoredRoute, TenantRoutes,
    },
    group::{Group, Member, MemberState, MemberTarget},
};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::{
    DistStats,
    entry::{Places, Removed},
    journal::Journal,
    replicas::Replication,
    replicated::MemberStates,
    schema::Kept,
    table::{Changed, Table},
};

/// How many filters of a host are looked at under one lock: at most two microseconds each.
const HOST_FILTERS: usize = 128;

/// Where the routes of persistent sessions are beside the table.
#[derive(Clone, Debug, Default)]
pub(crate) enum Home {
    /// Nowhere.
    #[default]
    Memory,
    /// In a log, which has what is decided here.
    Journal(Arc<Journal>),
    /// On all nodes; the table follows.
    Replicas(Arc<Replication>),
}

/// The routes of one tenant.
pub(crate) struct Tenant {
    id: TenantId,
    /// Readers are on the packet path: each thread has its own part of the lock.
    table: ShardedLock<Table>,
    /// Written under the write lock only, after the change and before the lock is given up. So a
    /// resolution, made under the read lock, knows exactly which changes it has seen.
    epoch: AtomicU64,
    home: Home,
    /// The tenant's name is too long to be kept there: persistent sessions are refused.
    is_unfit: bool,
    /// Of members that are served here.
    states: MemberStates,
    /// The turn of whoever changes what the journal keeps.
    turn: Mutex<()>,
}

impl Tenant {
    pub(crate) fn new(
        id: TenantId,
        hash_seed: u64,
        generations: Arc<AtomicU32>,
        home: Home,
    ) -> Self {
        let is_unfit = !matches!(home, Home::Memory) && !Journal::takes(id.as_str());
        let places = match home {
            Home::Replicas(_) => Places::Apart,
            Home::Memory | Home::Journal(_) => Places::Shared,
        };
        Tenant {
            id,
            table: ShardedLock::new(Table::new(hash_seed, generations, places)),
            epoch: AtomicU64::new(0),
            home,
            is_unfit,
            states: MemberStates::default(),
            turn: Mutex::new(()),
        }
    }

    pub(crate) fn id(&self) -> &TenantId {
        &self.id
    }

    /// Whether somebody may need it though nobody holds it.
    pub(crate) fn is_used(&self) -> bool {
        self.read().len() > 0 || !self.states.is_empty()
    }

    /// Adds the receiver of a stored route.
    pub(crate) fn load(&self, filter: &TopicFilter<'_>, member: Option<u64>, kept: Kept) {
        match &self.home {
            Home::Replicas(_) => self.put(filter, member, kept),
            Home::Memory | Home::Journal(_) => {
                // As of an earlier process.
                let receiver = receiver_of(member, kept, RESTORED_LIFE, Arc::default());
                let _ = self.change(|table| table.add(filter, receiver));
            }
        }
    }

    /// The log of what is decided here; `None` also if the tenant does not fit into it.
    fn journal(&self) -> Option<&Journal> {
        match &self.home {
            Home::Journal(journal) if !self.is_unfit => Some(journal),
            _ => None,
        }
    }

    /// Where all nodes have the routes of persistent sessions.
    pub(crate) fn replication(&self) -> Option<&Replication> {
        match &self.home {
            Home::Replicas(replication) => Some(replication),
            Home::Memory | Home::Journal(_) => None,
        }
    }

    pub(crate) fn is_unfit(&self) -> bool {
        self.is_unfit
    }

    pub(crate) fn states(&self) -> &MemberStates {
        &self.states
    }

    pub(crate) fn stats(&self) -> DistStats {
        self.read().stats()
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.read().check_invariants();
    }

    /// A thread that panicked under the lock must not take the node with it.
    pub(crate) fn read(&self) -> ShardedLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and outdates the resolutions if one could show it.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Table) -> (T, Changed)) -> T {
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
        let journal = match self.journal() {
            Some(journal) if is_stored(&receiver) => journal,
            None if kept.is_some() && (self.is_unfit || self.is_replicated()) => {
                return Call::Ready(Err(AddError::Busy));
            }
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
        if self.leaves_alone(receiver) {
            return Call::Ready(false);
        }
        let Some(journal) = self.journal().filter(|_| is_key_stored(receiver)) else {
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
        let journal = self.journal().filter(|_| has_stored);
        let _turn = journal.map(|_| self.turn.lock());
        let mut writing = journal.map(|journal| journal.write(self.id.as_str()));
        let mut count = 0;
        for (filter, key) in receivers.iter().filter(|(_, key)| !self.leaves_alone(key)) {
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

    fn add_stored(
        &self,
        filter: &TopicFilter<'_>,
        receiver: Receiver,
        told: RouteTold,
    ) -> Call<Result<RouteId, AddError>> {
        match (self.replication(), kept_of(&receiver)) {
            (Some(replication), (member, Some(kept))) => {
                self.ask_to_add(replication, filter, &receiver, (member, kept), told)
            }
            _ => self.add(filter, receiver),
        }
    }

    fn remove_stored(
        &self,
        routes: &[(TopicFilter<'_>, StoredKey)],
        told: RouteTold,
    ) -> Call<usize> {
        if let Some(replication) = self.replication() {
            return self.ask_to_remove(replication, routes, told);
        }
        let keys = routes.iter().map(|(filter, key)| (*filter, key.receiver()));
        Call::Ready(self.remove_each(&keys.collect::<Vec<_>>()))
    }

    fn is_replicated(&self) -> bool {
        self.replication().is_some()
    }

    fn may_answer(&self) -> Option<RouteEpoch> {
        let Some(replication) = self.replication() else { return Some(self.epoch()) };
        self.epoch_of(replication)
    }

    fn when_may_answer(&self, told: Box<dyn FnOnce() + Send>) {
        if let Some(replication) = self.replication() {
            replication.serving.when_may_answer(&self.keys(), told);
        }
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
        if let (Some(replication), Some(kept)) = (self.replication(), kept) {
            return self.repair(replication, filter, &receiver, (member, kept));
        }
        let _turn = self.turn.lock();
        let added = self.change(|table| table.add(filter, receiver));
        let (Some(journal), Ok((_, added))) = (self.journal(), added) else {
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

impl Tenant {
    /// Whether a receiver's routes come and go with those of all nodes.
    fn leaves_alone(&self, key: &ReceiverKey) -> bool {
        self.is_replicated() && matches!(key, ReceiverKey::Inbox { .. })
    }
}

/// The receiver of a stored route.
pub(crate) fn receiver_of(
    member: Option<u64>,
    kept: Kept,
    incarnation: u64,
    state: Arc<MemberState>,
) -> Receiver {
    let Kept { inbox, options, subscription_id } = kept;
    let Some(id) = member else {
        return Receiver::Inbox(InboxRoute { inbox, incarnation, options, subscription_id });
    };
    let target = MemberTarget::Inbox(inbox);
    let member = Member { id, incarnation, target, options, subscription_id, state };
    // Whoever was in a group stays in it, also if the tenant has a lower limit now.
    Receiver::Member { member, members_max: u32::MAX }
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
