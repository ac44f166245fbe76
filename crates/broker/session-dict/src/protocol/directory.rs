//! A server's part of the directory: which nodes have registered which session.
//!
//! It only answers; it never tells anybody to do anything. Invariants:
//!
//! - of one session, a node has at most one registration;
//! - a registration counts as long as its host is seen, and `floor(host) ≤ round(registration)`;
//! - `Registered::is_complete` only if every node that is seen has committed all that it holds by
//!   the view of this server, since it was last lost sight of.
//!
//! What does not count is passed over by readers, and swept away bit by bit.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use ratatosk_contract::{ClientId, SessionIdentity, TenantId};
use smallvec::SmallVec;

use crate::protocol::message::{Begun, Question, Registration, Reply};
use crate::protocol::stamp::{Host, Stamp, StampClock, Time};
use crate::protocol::view::{View, ViewId};

/// See the module.
#[derive(Debug)]
pub struct Directory {
    me: Host,
    view: View,
    clock: StampClock,
    hosts: BTreeMap<Host, Holder>,
    tenants: BTreeMap<TenantId, BTreeMap<Key, Entries>>,
    /// The highest that was given out.
    round: u64,
    /// Of all tenants, those that do not count included.
    len: usize,
    /// Where to go on sweeping.
    swept: Option<(TenantId, Option<Key>)>,
}

/// A session within its tenant, in the order of listings.
type Key = (ClientId, Option<Arc<str>>);
type Entries = SmallVec<[Entry; 1]>;

/// A node that is seen.
#[derive(Debug)]
struct Holder {
    /// What it registered in an earlier round does not count.
    floor: u64,
    round: u64,
    /// By which view it has committed all that it holds.
    synced: Option<ViewId>,
    /// It has said so since the server's view is what it is. A view may come back, and in between
    /// the node may have told others.
    is_confirmed: bool,
}

#[derive(Copy, Clone, Debug)]
struct Entry {
    registration: Registration,
    round: u64,
}

/// Where a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The session.
    pub identity: SessionIdentity,
    /// Its newest registration.
    pub registration: Registration,
}

impl Directory {
    /// A server that sees nobody yet.
    #[must_use]
    pub fn new(me: Host) -> Self {
        Self {
            me,
            view: View::default(),
            clock: StampClock::default(),
            hosts: BTreeMap::new(),
            tenants: BTreeMap::new(),
            round: 0,
            len: 0,
            swept: None,
        }
    }

    /// Sees these servers and these nodes from now on. What others had registered is forgotten.
    pub fn set_members(&mut self, view: View, hosts: &BTreeSet<Host>) {
        if view.id() != self.view.id() {
            self.hosts.values_mut().for_each(|holder| holder.is_confirmed = false);
        }
        self.view = view;
        self.hosts.retain(|host, _| hosts.contains(host));
        for host in hosts {
            if !self.hosts.contains_key(host) {
                // Whatever lies here of an earlier time does not count.
                self.round += 1;
                let (floor, round) = (self.round, self.round);
                let holder = Holder { floor, round, synced: None, is_confirmed: false };
                self.hosts.insert(*host, holder);
            }
        }
    }

    /// Answers a node.
    pub fn step(&mut self, time: Time, from: Host, question: &Question) -> Reply {
        match question {
            Question::Register { view, identity, session, stamp, is_claim } => {
                let registration = Registration { host: from, session: *session, stamp: *stamp };
                self.register(time, *view, identity, registration, *is_claim)
            }
            Question::Remove { identity, host, stamp } => {
                self.remove(identity, *host, *stamp);
                Reply::Removed
            }
            Question::Begin { view, base } => self.begin(from, *view, *base),
            Question::Commit { view, round } => self.commit(from, *view, *round),
        }
    }

    fn register(
        &mut self,
        time: Time,
        view: ViewId,
        identity: &SessionIdentity,
        registration: Registration,
        is_claim: bool,
    ) -> Reply {
        let from = registration.host;
        let Some(round) = self.hosts.get(&from).map(|holder| holder.round) else {
            return Reply::Stranger;
        };
        let is_complete = self.is_complete(view);
        if !self.tenants.contains_key(&identity.tenant) {
            self.tenants.insert(identity.tenant.clone(), BTreeMap::new());
        }
        let sessions = self.tenants.get_mut(&identity.tenant).expect("it was put there");
        let entries = sessions.entry(key(identity)).or_default();
        let hosts = &self.hosts;
        let is_other = |entry: &&Entry| entry.registration.host != from && counts(hosts, entry);
        let others: Vec<_> =
            entries.iter().filter(is_other).map(|entry| entry.registration).collect();
        let mut stamp = registration.stamp;
        self.clock.observe(stamp);
        if is_claim && others.iter().any(|other| other.stamp >= stamp) {
            stamp = self.clock.tick(time.wall);
        }
        let entry = Entry { registration: Registration { stamp, ..registration }, round };
        if let Some(own) = entries.iter_mut().find(|entry| entry.registration.host == from) {
            *own = entry;
        } else {
            entries.push(entry);
            self.len += 1;
        }
        Reply::Registered { stamp, others, is_complete }
    }

    fn remove(&mut self, identity: &SessionIdentity, host: Host, stamp: Option<Stamp>) {
        let Some(sessions) = self.tenants.get_mut(&identity.tenant) else { return };
        let key = key(identity);
        let Some(entries) = sessions.get_mut(&key) else { return };
        let is_meant = |entry: &Entry| {
            entry.registration.host == host
                && stamp.is_none_or(|stamp| entry.registration.stamp == stamp)
        };
        let before = entries.len();
        entries.retain(|entry| !is_meant(entry));
        self.len -= before - entries.len();
        if entries.is_empty() {
            sessions.remove(&key);
            if sessions.is_empty() {
                self.tenants.remove(&identity.tenant);
            }
        }
    }

    fn begin(&mut self, from: Host, view: ViewId, base: Option<ViewId>) -> Reply {
        let Some(holder) = self.hosts.get_mut(&from) else { return Reply::Stranger };
        let has_base = base.is_some() && holder.synced == base;
        if !has_base {
            // What it registers from now on counts at once, the rest until it has committed.
            self.round += 1;
            holder.round = self.round;
            holder.synced = None;
            return Reply::Begun(Begun::All, holder.round);
        }
        holder.is_confirmed = holder.synced == Some(view);
        let begun = if holder.is_confirmed { Begun::Nothing } else { Begun::Rest };
        Reply::Begun(begun, holder.round)
    }

    fn commit(&mut self, from: Host, view: ViewId, round: u64) -> Reply {
        let holder = self.hosts.get_mut(&from).filter(|holder| holder.round == round);
        let Some(holder) = holder else { return Reply::Stranger };
        // Of a round that had all, what was there before does not count; of one that had the rest,
        // all that was there is of this round or of those since the floor.
        if holder.synced.is_none() {
            holder.floor = holder.round;
        }
        (holder.synced, holder.is_confirmed) = (Some(view), true);
        Reply::Committed
    }

    /// Whether all nodes that are seen have registered all that they hold, by this view.
    #[must_use]
    pub fn is_complete(&self, view: ViewId) -> bool {
        let has_told = |holder: &Holder| holder.is_confirmed && holder.synced == Some(view);
        view == self.view.id() && self.hosts.values().all(has_told)
    }

    /// The same by the server's own view.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_complete(self.view.id())
    }

    /// Who holds a session: its newest registration.
    #[must_use]
    pub fn find(&self, identity: &SessionIdentity) -> Option<Registration> {
        let entries = self.tenants.get(&identity.tenant)?.get(&key(identity))?;
        self.newest(entries)
    }

    /// The sessions of a tenant that belong to this server, in the order of client ids, of one
    /// client id in the order of users, behind `after`; at most `count_max`, and none of them
    /// is passed over. The second is false if there are more.
    #[must_use]
    pub fn list(
        &self,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> (Vec<Location>, bool) {
        let mut listed = Vec::new();
        let Some(sessions) = self.tenants.get(tenant) else { return (listed, true) };
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(key(after)));
        for ((client, user), entries) in sessions.range((from, Bound::Unbounded)) {
            let Some(registration) = self.newest(entries) else { continue };
            let identity = SessionIdentity {
                tenant: tenant.clone(),
                user: user.clone(),
                client: client.clone(),
            };
            // What belongs to another server is listed there.
            if self.view.server(&identity) != Some(self.me) {
                continue;
            }
            if listed.len() == count_max {
                return (listed, false);
            }
            listed.push(Location { identity, registration });
        }
        (listed, true)
    }

    /// Throws away what does not count, and, once all nodes have registered elsewhere what does not
    /// belong here, that. Looks at about `count_max` sessions and tenants.
    pub fn sweep(&mut self, count_max: usize) {
        let mut left = count_max;
        let mut at = self.swept.take();
        while left > 0 {
            let tenant = match &at {
                Some((tenant, Some(_))) => Some(tenant.clone()),
                Some((tenant, None)) => self.tenant_behind(Some(tenant)),
                None => self.tenant_behind(None),
            };
            let Some(tenant) = tenant else { return };
            let behind = at.and_then(|(_, key)| key);
            let (seen, last) = self.sweep_tenant(&tenant, behind, left);
            let is_done = seen < left;
            // A tenant is work, too.
            left = left.saturating_sub(seen.max(1));
            at = Some((tenant, last.filter(|_| !is_done)));
        }
        self.swept = at;
    }

    fn tenant_behind(&self, tenant: Option<&TenantId>) -> Option<TenantId> {
        let from = tenant.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.tenants.range::<TenantId, _>((from, Bound::Unbounded));
        behind.next().map(|(tenant, _)| tenant.clone())
    }

    /// Sweeps some sessions of a tenant; how many, and the last of them.
    fn sweep_tenant(
        &mut self,
        tenant: &TenantId,
        behind: Option<Key>,
        count_max: usize,
    ) -> (usize, Option<Key>) {
        let is_settled = self.is_settled();
        let Some(sessions) = self.tenants.get_mut(tenant) else { return (0, None) };
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut seen, mut last, mut empty) = (0, None, Vec::new());
        for (key, entries) in sessions.range_mut((from, Bound::Unbounded)).take(count_max) {
            seen += 1;
            last = Some(key.clone());
            let before = entries.len();
            let (client, user) = key.clone();
            let identity = SessionIdentity { tenant: tenant.clone(), user, client };
            if is_settled && self.view.server(&identity) != Some(self.me) {
                entries.clear();
            } else {
                entries.retain(|entry| counts(&self.hosts, entry));
            }
            self.len -= before - entries.len();
            if entries.is_empty() {
                empty.push(key.clone());
            }
        }
        for key in &empty {
            sessions.remove(key);
        }
        if sessions.is_empty() {
            self.tenants.remove(tenant);
        }
        (seen, last)
    }

    /// How many registrations there are, those that do not count any more and are not yet thrown
    /// away included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn newest(&self, entries: &Entries) -> Option<Registration> {
        let counting = entries.iter().filter(|entry| counts(&self.hosts, entry));
        let registrations = counting.map(|entry| entry.registration);
        registrations.max_by_key(|registration| (registration.stamp, registration.host))
    }
}

fn counts(hosts: &BTreeMap<Host, Holder>, entry: &Entry) -> bool {
    hosts.get(&entry.registration.host).is_some_and(|holder| holder.floor <= entry.round)
}

fn key(identity: &SessionIdentity) -> Key {
    (identity.client.clone(), identity.user.clone())
}

#[cfg(test)]
#[path = "directory_test.rs"]
mod tests;
