//! Which other hosts want which filters of a tenant. A tenant whose routes are all of this host has none
//! of it.
//!
//! Beside each filter are the hosts whose transient sessions have it; beside each host, the filters with a
//! route of it, so that it can be forgotten without a look at the others.
//!
//! Invariants: `routes[host][filter]` is how many routes the host has there: one if it wants the filter,
//! one for each member; no count is 0, no host is without a filter; lists of hosts rise.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use ratatosk_contract::HostNumber;

/// See the module. Filters are known by [`FilterId::index`](ratatosk_topic::FilterId::index).
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// By filter; whoever is beyond the end is wanted by nobody.
    wanted: Vec<Wanted>,
    routes: HashMap<HostNumber, HashMap<u32, u32, RandomState>, RandomState>,
}

/// By whom a filter is wanted.
#[derive(Debug, Default)]
enum Wanted {
    #[default]
    Nowhere,
    At(HostNumber),
    #[expect(clippy::box_collection, reason = "most are one host: a vector has three words")]
    Among(Box<Vec<HostNumber>>),
}

const _: () = assert!(size_of::<Wanted>() <= 16, "there is one for each of millions of filters");

impl Hosts {
    /// The hosts that want a filter.
    pub(crate) fn of(&self, filter: usize) -> &[HostNumber] {
        match self.wanted.get(filter) {
            None | Some(Wanted::Nowhere) => &[],
            Some(Wanted::At(host)) => std::slice::from_ref(host),
            Some(Wanted::Among(hosts)) => hosts,
        }
    }

    /// Adds the hosts that want a filter to those that are found.
    pub(crate) fn gather(&self, filter: usize, found: &mut Vec<HostNumber>) {
        let hosts = self.of(filter);
        if found.is_empty() {
            found.extend_from_slice(hosts);
            return;
        }
        let mut from = 0;
        for host in hosts {
            match found[from..].binary_search(host) {
                Ok(at) => from += at,
                Err(at) => {
                    from += at;
                    found.insert(from, *host);
                }
            }
        }
    }

    /// False if the host wants the filter already.
    pub(crate) fn add(&mut self, filter: usize, host: HostNumber) -> bool {
        if self.wanted.len() <= filter {
            self.wanted.resize_with(filter + 1, Wanted::default);
        }
        let wanted = &mut self.wanted[filter];
        match wanted {
            Wanted::Nowhere => *wanted = Wanted::At(host),
            Wanted::At(known) if *known == host => return false,
            Wanted::At(known) => {
                let (first, last) = (host.min(*known), host.max(*known));
                *wanted = Wanted::Among(Box::new(vec![first, last]));
            }
            Wanted::Among(hosts) => match hosts.binary_search(&host) {
                Ok(_) => return false,
                Err(at) => hosts.insert(at, host),
            },
        }
        self.count(filter, host);
        true
    }

    /// False if the host does not want the filter.
    pub(crate) fn remove(&mut self, filter: usize, host: HostNumber) -> bool {
        let Some(wanted) = self.wanted.get_mut(filter) else { return false };
        match wanted {
            Wanted::At(known) if *known == host => *wanted = Wanted::Nowhere,
            Wanted::Nowhere | Wanted::At(_) => return false,
            Wanted::Among(hosts) => {
                let Ok(at) = hosts.binary_search(&host) else { return false };
                hosts.remove(at);
                if let [last] = hosts[..] {
                    *wanted = Wanted::At(last);
                }
            }
        }
        self.uncount(filter, host, 1);
        while self.wanted.pop_if(|last| matches!(last, Wanted::Nowhere)).is_some() {}
        if self.wanted.len() * 4 <= self.wanted.capacity() {
            self.wanted.shrink_to(self.wanted.len() * 2);
        }
        true
    }

    /// The host has one member more at a filter.
    pub(crate) fn count(&mut self, filter: usize, host: HostNumber) {
        *self.routes.entry(host).or_default().entry(number(filter)).or_default() += 1;
    }

    /// The host has so many members less at a filter.
    pub(crate) fn uncount(&mut self, filter: usize, host: HostNumber, count: usize) {
        let Some(filters) = self.routes.get_mut(&host) else { return };
        let Some(held) = filters.get_mut(&number(filter)) else { return };
        *held = held.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        if *held == 0 {
            filters.remove(&number(filter));
            if filters.is_empty() {
                self.routes.remove(&host);
            } else if filters.len() * 8 <= filters.capacity() {
                filters.shrink_to(filters.len() * 2);
            }
        }
    }

    /// The filters with a route of a host.
    pub(crate) fn filters(&self, host: HostNumber) -> impl ExactSizeIterator<Item = usize> {
        let filters = self.routes.get(&host).map(HashMap::keys).unwrap_or_default();
        filters.map(|filter| *filter as usize)
    }

    /// Whether no host has a route.
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

/// Filters are numbered by 32 bits.
fn number(filter: usize) -> u32 {
    u32::try_from(filter).unwrap_or(u32::MAX)
}

#[cfg(test)]
impl Hosts {
    /// Panics unless the invariants of the file's head hold; `members` are those of (filter, host).
    pub(crate) fn check_invariants(
        &self,
        members: &std::collections::BTreeMap<(usize, HostNumber), u32>,
    ) -> usize {
        let mut counts = members.clone();
        let mut wanting = 0;
        for filter in 0..self.wanted.len() {
            let hosts = self.of(filter);
            assert!(hosts.is_sorted_by(|a, b| a < b), "hosts rise");
            wanting += hosts.len();
            for host in hosts {
                *counts.entry((filter, *host)).or_default() += 1;
            }
        }
        for (host, filters) in &self.routes {
            assert!(!filters.is_empty(), "a host without routes is not known");
            for (filter, count) in filters {
                assert_eq!(
                    counts.remove(&(*filter as usize, *host)),
                    Some(*count),
                    "{filter} at {host:?}"
                );
            }
        }
        assert!(counts.is_empty(), "{counts:?} are not counted");
        wanting
    }
}
