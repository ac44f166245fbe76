//! The routes of one tenant: the filter index and, beside it, the receivers by filter number.
//!
//! Invariants: a number is in the index ⇔ its place in `entries` has a receiver, or a host wants it;
//! the counters are the sums over the entries.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use ratatosk_contract::{
    HostNumber,
    dist::{
        AddError, HostRoute, Receiver, ReceiverKey, Resolution, RouteId, StoredRoute,
        TransientRoute,
    },
    group::{Group, Member},
    inbox::InboxId,
};
use ratatosk_topic::{
    FilterId, FilterIndex, ORDERED_SHARE_PREFIX, SHARE_PREFIX, Share, TopicFilter, TopicName,
};

use crate::{
    DistStats,
    entry::{Added, Entry, IsNewGroup, Joining, Place, Places, Removed},
    hosts::Hosts,
    schema::Kept,
};

/// How many filters are looked at for a page of [`Table::stored`].
const STORED_FILTERS: usize = 4_096;

/// The routes of one tenant, for one writer or many readers.
pub(crate) struct Table {
    index: FilterIndex,
    /// By [`FilterId::index`]; a place without receivers is free.
    entries: Vec<Entry>,
    /// While any other host has a route.
    hosts: Option<Box<Hosts>>,
    generations: Arc<AtomicU32>,
    places: Places,
    shards: usize,
    inboxes: usize,
    wanting: usize,
    groups: usize,
    members: usize,
}

/// Whether a resolution could show the difference.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    Yes,
    No,
}

impl Changed {
    pub(crate) fn when(is_changed: bool) -> Self {
        if is_changed { Changed::Yes } else { Changed::No }
    }
}

impl Table {
    pub(crate) fn new(hash_seed: u64, generations: Arc<AtomicU32>, places: Places) -> Self {
        Table {
            index: FilterIndex::new(hash_seed),
            entries: Vec::new(),
            hosts: None,
            generations,
            places,
            shards: 0,
            inboxes: 0,
            wanting: 0,
            groups: 0,
            members: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn stats(&self) -> DistStats {
        DistStats {
            tenants: 1,
            routes: self.index.len(),
            shards: self.shards,
            inboxes: self.inboxes,
            hosts: self.wanting,
            groups: self.groups,
            members: self.members,
        }
    }

    /// Appends the receivers of `topic` to `found`.
    pub(crate) fn resolve(&self, topic: TopicName<'_>, found: &mut Resolution) {
        let hosts = self.hosts.as_deref();
        self.index.matches_each(topic, |filter| {
            let Some(entry) = self.entry(filter) else {
                debug_assert!(false, "filter {filter} has no receivers");
                return;
            };
            if !entry.shards.is_empty() {
                found
                    .transient
                    .push(TransientRoute { route: route_of(entry), shards: entry.shards });
            }
            found.inboxes.extend_from_slice(entry.inboxes());
            found.groups.extend_from_slice(entry.groups());
            if let Some(hosts) = hosts {
                hosts.gather(filter.index(), &mut found.hosts);
            }
        });
    }

    /// DIST-001: repeating it changes nothing.
    pub(crate) fn add(
        &mut self,
        filter: &TopicFilter<'_>,
        receiver: Receiver,
    ) -> (Result<(RouteId, Added), AddError>, Changed) {
        let share = filter.share();
        let is_member = matches!(receiver, Receiver::Member { .. });
        assert!(share.is_some() || !is_member, "filter {filter} of a member names its group");
        let (number, is_new) = self.index.insert(filter.filter());
        if is_new {
            self.make_entry(number);
        }
        let entry = &mut self.entries[number.index()];
        let route = route_of(entry);
        let outcome = match receiver {
            Receiver::Shard(shard) => {
                let is_added = entry.shards.insert(shard);
                self.shards += usize::from(is_added);
                Ok(if is_added { Added::New } else { Added::Nothing })
            }
            Receiver::Inbox(inbox) => {
                let added = entry.add_inbox(inbox);
                self.inboxes += usize::from(added == Added::New);
                Ok(added)
            }
            Receiver::Host(host) => {
                let is_added = self.hosts.get_or_insert_default().add(number.index(), host);
                self.wanting += usize::from(is_added);
                Ok(if is_added { Added::New } else { Added::Nothing })
            }
            Receiver::Member { member, members_max } => {
                let share = share.unwrap_or(Share { group: "", ordered: false });
                let host = member.host();
                let joining = Joining { share, route, members_max, places: self.places };
                entry.add_member(&joining, member).map(|(added, group)| {
                    self.members += usize::from(added == Added::New);
                    self.groups += usize::from(group == IsNewGroup::Yes);
                    if let (Some(host), Added::New) = (host, added) {
                        self.hosts.get_or_insert_default().count(number.index(), host);
                    }
                    added
                })
            }
        };
        match outcome {
            Ok(added) => (Ok((route, added)), Changed::when(added != Added::Nothing)),
            Err(refused) => {
                self.drop_if_empty(number);
                (Err(refused), Changed::No)
            }
        }
    }

    /// Whether the receiver was there and is gone.
    pub(crate) fn remove(
        &mut self,
        filter: &TopicFilter<'_>,
        receiver: &ReceiverKey,
    ) -> (Removed, Changed) {
        match self.index.find(filter.filter()) {
            Some(number) => self.remove_receiver(number, filter.share(), receiver),
            None => (Removed::Nothing, Changed::No),
        }
    }

    /// Whether the receiver was there and is gone.
    pub(crate) fn remove_route(
        &mut self,
        route: RouteId,
        receiver: &ReceiverKey,
    ) -> (Removed, Changed) {
        match self.entry_of(route) {
            Some(entry) => self.remove_receiver(entry.filter, None, receiver),
            None => (Removed::Nothing, Changed::No),
        }
    }

    /// Whether adding the receiver would change nothing.
    pub(crate) fn has(&self, filter: &TopicFilter<'_>, receiver: &Receiver) -> bool {
        let found = self.index.find(filter.filter()).and_then(|number| self.entry(number));
        found.is_some_and(|entry| entry.has(filter.share(), receiver, self.places))
    }

    /// What is known of a persistent session's route that all nodes have.
    pub(crate) fn kept(
        &self,
        filter: &TopicFilter<'_>,
        member: Option<u64>,
        inbox: InboxId,
    ) -> Option<Kept> {
        let entry = self.entry(self.index.find(filter.filter())?)?;
        match member {
            None => {
                let inboxes = entry.inboxes();
                let at = inboxes.binary_search_by_key(&inbox, |route| route.inbox).ok()?;
                Some(Kept::of(&inboxes[at]))
            }
            Some(id) => members_of(entry.group(filter.share()?)?, id).find_map(Kept::of_member),
        }
    }

    /// Whether a group has room for a member. MQTT-086
    pub(crate) fn has_room(&self, filter: &TopicFilter<'_>, receiver: &Receiver) -> bool {
        let Receiver::Member { member, members_max } = receiver else { return true };
        let limit = usize::try_from(*members_max).unwrap_or(usize::MAX);
        let found = self.index.find(filter.filter()).and_then(|number| self.entry(number));
        let group = found.zip(filter.share()).and_then(|(entry, share)| entry.group(share));
        let Some(group) = group else { return limit > 0 };
        let place = self.places.of(member);
        let mut known = members_of(group, member.id);
        group.members.len() < limit || known.any(|held| self.places.of(held) == place)
    }

    /// Takes a persistent session's route away that all nodes have, whichever life it is of.
    pub(crate) fn remove_stored(
        &mut self,
        filter: &TopicFilter<'_>,
        inbox: InboxId,
        member: Option<u64>,
    ) -> (Removed, Changed) {
        let Some(number) = self.index.find(filter.filter()) else {
            return (Removed::Nothing, Changed::No);
        };
        let Some(id) = member else {
            let receiver = ReceiverKey::Inbox { inbox, incarnation: u64::MAX };
            return self.remove_receiver(number, None, &receiver);
        };
        let removed = self.take_member(number, filter.share(), (id, Place::Everywhere), u64::MAX);
        let is_removed = removed != Removed::Nothing;
        if is_removed {
            self.drop_if_empty(number);
        }
        (removed, Changed::when(is_removed))
    }

    /// The filters with a route of a host.
    pub(crate) fn host_routes(&self, host: HostNumber) -> Vec<RouteId> {
        let Some(hosts) = &self.hosts else { return Vec::new() };
        hosts.filters(host).filter_map(|at| self.entries.get(at)).map(route_of).collect()
    }

    /// How many they are.
    pub(crate) fn host_routes_count(&self, host: HostNumber) -> usize {
        self.hosts.as_deref().map_or(0, |hosts| hosts.filters(host).len())
    }

    /// Takes away the routes that a host has at some filters and `keep` does not want; answers how
    /// many.
    pub(crate) fn retain_host(
        &mut self,
        host: HostNumber,
        filters: &[RouteId],
        keep: &mut dyn FnMut(HostRoute<'_>) -> bool,
    ) -> (usize, Changed) {
        let mut count = 0;
        for route in filters {
            let Some(number) = self.entry_of(*route).map(|entry| entry.filter) else { continue };
            let Some(hosts) = &mut self.hosts else { break };
            let at = number.index();
            if hosts.of(at).contains(&host) && !keep(HostRoute::Filter(*route)) {
                hosts.remove(at, host);
                self.wanting -= 1;
                count += 1;
            }
            let (members, groups) = self.entries[at].retain_members(host, keep);
            hosts.uncount(at, host, members);
            self.members -= members;
            self.groups -= groups;
            count += members;
            self.drop_if_empty(number);
        }
        (count, Changed::when(count > 0))
    }

    /// Appends the routes of persistent sessions of some filters; answers where the next begin.
    pub(crate) fn stored(&self, from: usize, found: &mut Vec<StoredRoute>) -> Option<usize> {
        let end = self.entries.len().min(from.saturating_add(STORED_FILTERS));
        for entry in self.entries.get(from..end)? {
            let Some(text) = self.index.text(entry.filter).filter(|_| !entry.is_empty()) else {
                continue;
            };
            found.extend(entry.stored().map(|(route, member)| StoredRoute {
                filter: member.map_or_else(|| text.into(), |(group, _)| shared(group, text)),
                route,
                member: member.map(|(_, id)| id),
            }));
        }
        (end < self.entries.len()).then_some(end)
    }

    pub(crate) fn find(&self, filter: &TopicFilter<'_>) -> Option<RouteId> {
        self.entry(self.index.find(filter.filter())?).map(route_of)
    }

    pub(crate) fn group(&self, route: RouteId, name: &str, is_ordered: bool) -> Option<Arc<Group>> {
        self.entry_of(route)?.group(Share { group: name, ordered: is_ordered }).cloned()
    }

    pub(crate) fn filter_text(&self, route: RouteId) -> Option<&str> {
        self.index.text(self.entry_of(route)?.filter)
    }

    fn remove_receiver(
        &mut self,
        number: FilterId,
        share: Option<Share<'_>>,
        receiver: &ReceiverKey,
    ) -> (Removed, Changed) {
        let entry = &mut self.entries[number.index()];
        let removed = match *receiver {
            ReceiverKey::Shard(shard) => {
                let is_removed = entry.shards.remove(shard);
                self.shards -= usize::from(is_removed);
                if is_removed { Removed::Receiver(None) } else { Removed::Nothing }
            }
            ReceiverKey::Inbox { inbox, incarnation } => {
                let removed = entry.remove_inbox(inbox, incarnation);
                self.inboxes -= usize::from(removed != Removed::Nothing);
                removed
            }
            ReceiverKey::Host(host) => {
                let hosts = self.hosts.as_deref_mut();
                let is_removed = hosts.is_some_and(|hosts| hosts.remove(number.index(), host));
                self.wanting -= usize::from(is_removed);
                if is_removed { Removed::Receiver(None) } else { Removed::Nothing }
            }
            ReceiverKey::Member { .. } | ReceiverKey::HostMember { .. } => {
                self.remove_member(number, share, receiver)
            }
        };
        let is_removed = removed != Removed::Nothing;
        if is_removed {
            self.drop_if_empty(number);
        }
        (removed, Changed::when(is_removed))
    }

    fn remove_member(
        &mut self,
        number: FilterId,
        share: Option<Share<'_>>,
        receiver: &ReceiverKey,
    ) -> Removed {
        match *receiver {
            ReceiverKey::Member { id, incarnation } => {
                self.take_member(number, share, (id, Place::Here), incarnation)
            }
            ReceiverKey::HostMember { host, id } => {
                self.take_member(number, share, (id, Place::Host(host)), u64::MAX)
            }
            ReceiverKey::Shard(_) | ReceiverKey::Inbox { .. } | ReceiverKey::Host(_) => {
                Removed::Nothing
            }
        }
    }

    fn take_member(
        &mut self,
        number: FilterId,
        share: Option<Share<'_>>,
        seat: (u64, Place),
        incarnation: u64,
    ) -> Removed {
        let Some(share) = share else { return Removed::Nothing };
        let entry = &mut self.entries[number.index()];
        let removed = entry.remove_member(share, seat, incarnation, self.places);
        let is_removed = removed != Removed::Nothing;
        self.members -= usize::from(is_removed);
        self.groups -= usize::from(matches!(removed, Removed::Group(_)));
        if let (Some(hosts), (_, Place::Host(host)), true) = (&mut self.hosts, seat, is_removed) {
            hosts.uncount(number.index(), host, 1);
        }
        removed
    }

    fn make_entry(&mut self, filter: FilterId) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let (at, entry) = (filter.index(), Entry::new(filter, generation));
        match self.entries.get_mut(at) {
            Some(place) => {
                assert!(place.is_empty(), "the number of a new filter is free");
                *place = entry;
            }
            None => self.entries.resize_with(at + 1, || Entry::new(filter, generation)),
        }
    }

    fn drop_if_empty(&mut self, filter: FilterId) {
        self.hosts.take_if(|hosts| hosts.is_empty());
        if !self.is_free(filter.index()) {
            return;
        }
        let is_removed = self.index.remove(filter);
        assert!(is_removed, "filter {filter} with an entry is in the index");
        // The index gives the lowest free number first, so what is free gathers at the end.
        while !self.entries.is_empty() && self.is_free(self.entries.len() - 1) {
            self.entries.pop();
        }
        if self.entries.len() * 4 <= self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Whether a place has no receiver.
    fn is_free(&self, at: usize) -> bool {
        self.entries.get(at).is_none_or(Entry::is_empty)
            && self.hosts.as_ref().is_none_or(|hosts| hosts.of(at).is_empty())
    }

    fn entry(&self, filter: FilterId) -> Option<&Entry> {
        self.entries.get(filter.index()).filter(|_| !self.is_free(filter.index()))
    }

    fn entry_of(&self, route: RouteId) -> Option<&Entry> {
        let at = usize::try_from(route.index).ok()?;
        let entry = self.entries.get(at)?;
        (entry.generation == route.generation && !self.is_free(at)).then_some(entry)
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let (mut shards, mut inboxes, mut groups, mut members, mut taken) = (0, 0, 0, 0, 0);
        let mut abroad = std::collections::BTreeMap::new();
        for (at, entry) in self.entries.iter().enumerate().filter(|(at, _)| !self.is_free(*at)) {
            entry.check_invariants(self.places);
            assert!(self.index.text(entry.filter).is_some(), "{} is in the index", entry.filter);
            taken += 1;
            shards += entry.shards.iter().count();
            inboxes += entry.inboxes().len();
            groups += entry.groups().len();
            members += entry.groups().iter().map(|group| group.members.len()).sum::<usize>();
            let all = entry.groups().iter().flat_map(|group| &group.members);
            for host in all.filter_map(Member::host) {
                *abroad.entry((at, host)).or_default() += 1;
            }
        }
        assert_eq!(taken, self.index.len());
        assert_eq!((shards, inboxes), (self.shards, self.inboxes));
        assert_eq!((groups, members), (self.groups, self.members));
        assert!(self.hosts.as_ref().is_none_or(|hosts| !hosts.is_empty()), "hosts have routes");
        let wanting = self.hosts.as_ref().map_or(0, |hosts| hosts.check_invariants(&abroad));
        assert_eq!(wanting, self.wanting);
        assert!(self.hosts.is_some() || abroad.is_empty());
    }
}

/// The filter as a member of the group wrote it.
fn shared(group: &Group, filter: &str) -> Box<str> {
    let prefix = if group.is_ordered { ORDERED_SHARE_PREFIX } else { SHARE_PREFIX };
    [prefix, &group.name, "/", filter].concat().into()
}

/// The members of one identity.
fn members_of(group: &Group, id: u64) -> impl Iterator<Item = &Member> {
    let first = group.members.partition_point(|held| held.id < id);
    group.members[first..].iter().take_while(move |held| held.id == id)
}

fn route_of(entry: &Entry) -> RouteId {
    let index = u32::try_from(entry.filter.index());
    RouteId { index: index.unwrap_or(u32::MAX), generation: entry.generation }
}
