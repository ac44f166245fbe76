//! Where servers are announced and found.
//!
//! [`Discovery`] is what this crate needs of the cluster: a landscape for each service that can be
//! watched, and a place to announce servers and traffic rules in. [`MemoryDiscovery`] is one for
//! tests and for a node that stands alone, [`ClusterDiscovery`] one for the hosts of a cluster.

mod cluster;
mod refused;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::identity::{HostId, ServerId, ServiceName};
use crate::landscape::{Landscape, ServerRecord};
use crate::traffic::{Scope, Shares};
pub use cluster::ClusterDiscovery;

/// An announcement that could not be made. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// A server of this name is announced already.
    #[error("server {id} of {service} is announced by host {host}")]
    Taken {
        /// Of which service.
        service: ServiceName,
        /// The name.
        id: ServerId,
        /// Who has it.
        host: HostId,
    },
    /// The record has no room where it is to be kept.
    #[error("there is no room to announce it: {why}")]
    Full {
        /// What is full.
        why: String,
    },
}

/// Where servers are announced and found. Implementations never block.
///
/// Changes may take their time to reach other nodes, but a node sees its own at once, and every
/// change that is followed by no other is seen by all in the end.
pub trait Discovery: fmt::Debug + Send + Sync {
    /// What is known of a service, now and from now on.
    fn watch(&self, service: &ServiceName) -> watch::Receiver<Arc<Landscape>>;

    /// Announces a server of this process, or replaces what it announced before under that name.
    ///
    /// # Errors
    /// When another process has that name, or there is no room.
    fn announce(&self, record: ServerRecord) -> Result<(), AnnounceError>;

    /// The other process that has a name, so that this one could not announce it now.
    fn holder(&self, service: &ServiceName, id: &ServerId, own: HostId) -> Option<HostId>;

    /// Takes back what a process announced. Nothing happens when another process has taken the
    /// name over.
    fn withdraw(&self, service: &ServiceName, id: &ServerId, host: HostId);

    /// Puts a traffic rule in place, for all nodes, or takes it away.
    ///
    /// # Errors
    /// When there is no room.
    fn set_rule(
        &self,
        service: &ServiceName,
        scope: Scope,
        shares: Option<Shares>,
    ) -> Result<(), AnnounceError>;

    /// The port of a host refuses connections: perhaps its process is no more.
    fn refused(&self, _host: HostId) {}
}

/// Discovery within one process. Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct MemoryDiscovery {
    services: Arc<Mutex<HashMap<ServiceName, watch::Sender<Arc<Landscape>>>>>,
}

impl MemoryDiscovery {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all that a host announced: it is dead.
    pub fn remove_host(&self, host: HostId) {
        for landscape in self.services.lock().values() {
            landscape.send_if_modified(|landscape| {
                if landscape.servers.values().all(|server| server.host != host) {
                    return false;
                }
                Arc::make_mut(landscape).servers.retain(|_, server| server.host != host);
                true
            });
        }
    }

    fn change<T>(&self, service: &ServiceName, change: impl FnOnce(&mut Landscape) -> T) -> T {
        let mut services = self.services.lock();
        let landscape = services.entry(service.clone()).or_default();
        let mut answer = None;
        landscape.send_modify(|landscape| answer = Some(change(Arc::make_mut(landscape))));
        answer.expect("the change was made")
    }
}

impl Discovery for MemoryDiscovery {
    fn watch(&self, service: &ServiceName) -> watch::Receiver<Arc<Landscape>> {
        self.services.lock().entry(service.clone()).or_default().subscribe()
    }

    fn announce(&self, record: ServerRecord) -> Result<(), AnnounceError> {
        let service = record.service.clone();
        self.change(&service, |landscape| {
            match landscape.servers.get(&record.id) {
                Some(other) if other.host != record.host => {
                    let ServerRecord { service, id, host, .. } = other.clone();
                    return Err(AnnounceError::Taken { service, id, host });
                }
                _ => drop(landscape.servers.insert(record.id.clone(), record)),
            }
            Ok(())
        })
    }

    fn holder(&self, service: &ServiceName, id: &ServerId, own: HostId) -> Option<HostId> {
        let services = self.services.lock();
        let host = services.get(service)?.borrow().servers.get(id)?.host;
        (host != own).then_some(host)
    }

    fn withdraw(&self, service: &ServiceName, id: &ServerId, host: HostId) {
        self.change(service, |landscape| {
            if landscape.servers.get(id).is_some_and(|server| server.host == host) {
                landscape.servers.remove(id);
            }
        });
    }

    fn set_rule(
        &self,
        service: &ServiceName,
        scope: Scope,
        shares: Option<Shares>,
    ) -> Result<(), AnnounceError> {
        self.change(service, |landscape| match shares {
            Some(shares) => landscape.rules.set(scope, shares),
            None => drop(landscape.rules.remove(&scope)),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::identity::Version;

    fn record(id: &str, host: u128) -> ServerRecord {
        ServerRecord {
            service: ServiceName::new("test.Service").expect("a service"),
            id: ServerId::new(id).expect("a server"),
            host: HostId(host),
            address: None,
            groups: BTreeSet::new(),
            attributes: BTreeMap::new(),
            version: Version::CURRENT,
        }
    }

    /// RPC-001, RPC-002: who watches a service hears of those that come and of those that die.
    #[test]
    fn watchers_see_servers_come_and_go() {
        let discovery = MemoryDiscovery::new();
        let service = record("a", 1).service;
        let mut watch = discovery.watch(&service);
        let ids = |landscape: &Landscape| -> Vec<String> {
            landscape.servers.keys().map(ToString::to_string).collect()
        };
        discovery.announce(record("a", 1)).expect("room");
        discovery.announce(record("b", 2)).expect("room");
        assert_eq!(ids(&watch.borrow_and_update()), ["a", "b"]);
        discovery.remove_host(HostId(1));
        assert!(watch.has_changed().expect("open"));
        assert_eq!(ids(&watch.borrow_and_update()), ["b"]);
        discovery.remove_host(HostId(1));
        assert!(!watch.has_changed().expect("open"), "nothing has changed");
        discovery.withdraw(&service, &record("b", 2).id, HostId(2));
        assert_eq!(ids(&watch.borrow_and_update()), [""; 0]);
    }

    #[test]
    fn a_name_belongs_to_one_host() {
        let discovery = MemoryDiscovery::new();
        let record_of = record;
        discovery.announce(record("a", 1)).expect("room");
        discovery.announce(record("a", 1)).expect("its own");
        let taken = discovery.announce(record_of("a", 2));
        assert!(matches!(taken, Err(AnnounceError::Taken { host: HostId(1), .. })));
        let own = record("a", 2);
        assert_eq!(discovery.holder(&own.service, &own.id, HostId(2)), Some(HostId(1)));
        assert_eq!(discovery.holder(&own.service, &own.id, HostId(1)), None);
        let record = record("a", 1);
        discovery.withdraw(&record.service, &record.id, HostId(2));
        assert_eq!(discovery.watch(&record.service).borrow().servers.len(), 1);
    }
}
