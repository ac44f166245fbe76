//! From a landscape to the pool of each tenant.

use std::collections::BTreeMap;

use crate::balance::Pool;
use crate::identity::{Group, Tenant, Version};
use crate::landscape::{Landscape, ServerRecord};
use crate::traffic::{Scope, Shares, Weight};

/// A server of a router, by its place in [`Router::servers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerIndex(pub(crate) usize);

/// A pool of a router. Tenants with equal shares have one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolIndex(pub(crate) usize);

/// Which servers work for which tenant.
#[derive(Debug)]
pub struct Router {
    servers: Box<[ServerRecord]>,
    pools: Vec<Pool>,
    tenants: BTreeMap<Tenant, PoolIndex>,
    /// By length, longest first, so that the first hit is the longest prefix.
    prefixes: Vec<(usize, BTreeMap<Tenant, PoolIndex>)>,
    otherwise: PoolIndex,
    barred: Option<Version>,
}

impl Router {
    /// The router of a node that speaks `version`. Servers that it cannot speak with are left out.
    #[must_use]
    pub fn new(landscape: &Landscape, version: Version) -> Self {
        let (servers, strangers): (Vec<_>, Vec<_>) =
            landscape.servers.values().partition(|server| server.version.speaks_with(version));
        let servers: Box<[ServerRecord]> = servers.into_iter().cloned().collect();
        let barred = strangers.first().map(|server| server.version);
        let by_default = Shares::from([(Group::default_group(), Weight::ONE)]);
        let mut pools = vec![Pool::new(members(&servers, &by_default))];
        let otherwise = PoolIndex(0);
        let mut known = BTreeMap::from([(&by_default, otherwise)]);
        let mut tenants = BTreeMap::new();
        let mut by_length: BTreeMap<usize, BTreeMap<Tenant, PoolIndex>> = BTreeMap::new();
        for (scope, shares) in landscape.rules.iter() {
            let index = *known.entry(shares).or_insert_with(|| {
                pools.push(Pool::new(members(&servers, shares)));
                PoolIndex(pools.len() - 1)
            });
            match scope {
                Scope::Tenant(tenant) => drop(tenants.insert(tenant.clone(), index)),
                Scope::Prefix(prefix) => {
                    let length = prefix.as_str().len();
                    by_length.entry(length).or_default().insert(prefix.clone(), index);
                }
            }
        }
        let prefixes = by_length.into_iter().rev().collect();
        Self { servers, pools, tenants, prefixes, otherwise, barred }
    }

    /// The servers that can be chosen, by name.
    #[must_use]
    pub fn servers(&self) -> &[ServerRecord] {
        &self.servers
    }

    /// A version that was left out because it cannot be spoken with, if there is one.
    #[must_use]
    pub const fn barred(&self) -> Option<Version> {
        self.barred
    }

    /// The server of this name.
    #[must_use]
    pub fn server(&self, id: &str) -> Option<ServerIndex> {
        self.servers.binary_search_by(|server| server.id.as_str().cmp(id)).ok().map(ServerIndex)
    }

    /// The pool that works for a tenant.
    #[must_use]
    pub fn pool_of(&self, tenant: &Tenant) -> PoolIndex {
        if let Some(index) = self.tenants.get(tenant) {
            return *index;
        }
        let name = tenant.as_str();
        let by_prefix = self.prefixes.iter().find_map(|(length, prefixes)| {
            name.get(..*length).and_then(|prefix| prefixes.get(prefix))
        });
        by_prefix.copied().unwrap_or(self.otherwise)
    }

    /// A pool of this router.
    ///
    /// # Panics
    /// When the index is of another router: a bug of the caller.
    #[must_use]
    pub fn pool(&self, index: PoolIndex) -> &Pool {
        &self.pools[index.0]
    }

    /// How many pools there are.
    #[must_use]
    pub fn pool_count(&self) -> usize {
        self.pools.len()
    }
}

/// Servers with a weight above 0, each with the greatest of its groups.
fn members<'a>(servers: &'a [ServerRecord], shares: &Shares) -> Vec<(ServerIndex, &'a str, u8)> {
    let weight_of = |group: &Group| shares.get(group).map_or(0, |weight| weight.value());
    let by_default = weight_of(&Group::default_group());
    let weight =
        |server: &ServerRecord| server.groups.iter().map(weight_of).max().unwrap_or(by_default);
    let all = servers.iter().enumerate();
    all.map(|(index, server)| (ServerIndex(index), server.id.as_str(), weight(server)))
        .filter(|(_, _, weight)| *weight > 0)
        .collect()
}
