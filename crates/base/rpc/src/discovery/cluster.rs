//! Discovery in a cluster: each server is an agent of its host, traffic rules are in the shared map.
//!
//! Of two hosts that announce a server of one name, the one whose process started first has it, by the
//! same rule on every host; the other one sees that in the landscape. Who comes later and knows of the
//! first is refused at once.
//!
//! A server is there as long as its host counts as alive. Those of *lasting* services stay when their
//! host only seems dead, until another host announces their name: that hosts are lost sight of must not
//! break what works. What is announced is in `docs/formats/rpc.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use parking_lot::Mutex;
use prost::Message as _;
use ratatosk_cluster::{
    Agent, AgentName, Cluster, Landscape as Agents, MapKey, Metadata, RecordError, Space, Watch,
};
use tokio::sync::watch;

use crate::discovery::refused::Doubts;
use crate::discovery::{AnnounceError, Discovery};
use crate::identity::{Group, HostId, ServerId, ServiceName, Tenant, Version};
use crate::landscape::{Landscape, ServerRecord};
use crate::traffic::{Rules, Scope, Shares, Weight};

/// The space of the shared map that has the traffic rules.
const SPACE: &str = "rpc";
/// Servers of one service that are kept though their hosts seem dead.
const LASTING_MAX: usize = 1_024;

/// Discovery by the hosts of a cluster. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct ClusterDiscovery {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Arc<Cluster>,
    host: HostId,
    lasting: BTreeSet<ServiceName>,
    rules: Watch<Space>,
    state: Mutex<State>,
    doubts: Doubts,
}

#[derive(Default)]
struct State {
    services: BTreeMap<ServiceName, Followed>,
    own: BTreeMap<(ServiceName, ServerId), Own>,
}

/// A service that somebody watches.
struct Followed {
    agents: Watch<Agents>,
    landscape: watch::Sender<Arc<Landscape>>,
    /// Servers of other hosts, as they were last seen.
    seen: BTreeMap<ServerId, ServerRecord>,
}

/// A server of this host.
struct Own {
    record: ServerRecord,
    agent: Agent,
}

/// A server as its agent's metadata has it.
#[derive(Clone, PartialEq, prost::Message)]
struct Announcement {
    /// The generation of its host when it was announced.
    #[prost(uint64, tag = "1")]
    since: u64,
    #[prost(uint32, tag = "2")]
    major: u32,
    #[prost(uint32, tag = "3")]
    minor: u32,
    /// Empty if its process does not listen.
    #[prost(string, tag = "4")]
    address: String,
    #[prost(string, repeated, tag = "5")]
    groups: Vec<String>,
    #[prost(btree_map = "string, string", tag = "6")]
    attributes: BTreeMap<String, String>,
}

/// The shares of a traffic rule.
#[derive(Clone, PartialEq, prost::Message)]
struct SharesRecord {
    #[prost(btree_map = "string, uint32", tag = "1")]
    weights: BTreeMap<String, u32>,
}

impl ClusterDiscovery {
    /// Discovery as a host of this cluster, which belongs to the process of
    /// [`identity_of`](Self::identity_of). Servers of `lasting` services outlast the word that their
    /// host is dead.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, lasting: impl IntoIterator<Item = ServiceName>) -> Self {
        let rules = cluster.space(SPACE);
        let inner = Arc::new(Inner {
            host: Self::identity_of(&cluster),
            lasting: lasting.into_iter().collect(),
            state: Mutex::default(),
            rules: rules.clone(),
            doubts: Doubts::default(),
            cluster,
        });
        let weak = Arc::downgrade(&inner);
        rules.on_change(move |_| {
            let Some(inner) = weak.upgrade() else { return };
            let services: Vec<_> = inner.state.lock().services.keys().cloned().collect();
            services.iter().for_each(|service| inner.refresh(service));
        });
        Self { inner }
    }

    /// What the host of a cluster is called here.
    #[must_use]
    pub fn identity_of(cluster: &Cluster) -> HostId {
        HostId(u128::from_be_bytes(*cluster.host().id.as_bytes()))
    }
}

impl Discovery for ClusterDiscovery {
    fn watch(&self, service: &ServiceName) -> watch::Receiver<Arc<Landscape>> {
        let inner = &self.inner;
        if let Some(followed) = inner.state.lock().services.get(service) {
            return followed.landscape.subscribe();
        }
        let agents = inner.cluster.agents(service.as_str());
        let followed = Followed {
            agents: agents.clone(),
            landscape: watch::Sender::default(),
            seen: BTreeMap::new(),
        };
        // Another thread may have been faster; then its one stays.
        inner.state.lock().services.entry(service.clone()).or_insert(followed);
        let (weak, name) = (Arc::downgrade(inner), service.clone());
        // Not under the lock, which the callback takes.
        agents.on_change(move |_| {
            if let Some(inner) = weak.upgrade() {
                inner.refresh(&name);
            }
        });
        inner.refresh(service);
        inner.state.lock().services[service].landscape.subscribe()
    }

    fn announce(&self, record: ServerRecord) -> Result<(), AnnounceError> {
        let inner = &self.inner;
        let service = record.service.clone();
        // So that it is followed.
        drop(self.watch(&service));
        let metadata = Announcement::new(&record, inner.cluster.host().generation).encode_to_vec();
        let full = |why: &dyn fmt::Display| AnnounceError::Full { why: why.to_string() };
        let mut state = inner.state.lock();
        let place = (service.clone(), record.id.clone());
        if let Some(own) = state.own.get_mut(&place) {
            own.agent.update(metadata.into()).map_err(|error| full(&error))?;
            own.record = record;
        } else {
            let agents = state.services[&service].agents.current();
            let mut others = servers(&service, &agents, inner.host);
            if let Some((_, other)) = others.remove(&record.id) {
                let ServerRecord { service, id, host, .. } = other;
                return Err(AnnounceError::Taken { service, id, host });
            }
            let name = AgentName::new(service.as_str(), record.id.as_str());
            let agent = name.and_then(|name| inner.cluster.register(name, metadata.into()));
            let agent = agent.map_err(|error| match error {
                RecordError::Taken => AnnounceError::Taken {
                    service: service.clone(),
                    id: record.id.clone(),
                    host: inner.host,
                },
                error => full(&error),
            })?;
            state.own.insert(place, Own { record, agent });
        }
        drop(state);
        inner.refresh(&service);
        Ok(())
    }

    fn holder(&self, service: &ServiceName, id: &ServerId, own: HostId) -> Option<HostId> {
        // So that it is followed.
        drop(self.watch(service));
        let agents = self.inner.state.lock().services[service].agents.current();
        servers(service, &agents, own).get(id).map(|(_, record)| record.host)
    }

    fn withdraw(&self, service: &ServiceName, id: &ServerId, host: HostId) {
        if host != self.inner.host {
            return;
        }
        let own = self.inner.state.lock().own.remove(&(service.clone(), id.clone()));
        drop(own);
        self.inner.refresh(service);
    }

    fn set_rule(
        &self,
        service: &ServiceName,
        scope: Scope,
        shares: Option<Shares>,
    ) -> Result<(), AnnounceError> {
        let full = |why: &dyn fmt::Display| AnnounceError::Full { why: why.to_string() };
        let key = MapKey::new(SPACE, &rule_key(service, &scope)).map_err(|error| full(&error))?;
        let weights = |shares: Shares| {
            let weights = shares
                .iter()
                .map(|(group, weight)| (group.as_str().to_owned(), u32::from(weight.value())));
            SharesRecord { weights: weights.collect() }.encode_to_vec().into()
        };
        self.inner.cluster.write(&key, shares.map(weights)).map_err(|error| full(&error))
    }

    fn refused(&self, host: HostId) {
        let bytes = host.0.to_be_bytes();
        self.inner.doubts.raise(&self.inner.cluster, ratatosk_cluster::HostId::from_bytes(bytes));
    }
}

impl Inner {
    /// Shows a landscape as it is now to those who watch it.
    fn refresh(&self, service: &ServiceName) {
        let mut state = self.state.lock();
        let State { services, own } = &mut *state;
        let Some(followed) = services.get_mut(service) else { return };
        let agents = followed.agents.current();
        let visible = servers(service, &agents, self.host);
        let mut seen: BTreeMap<_, _> =
            visible.iter().map(|(id, (_, record))| (id.clone(), record.clone())).collect();
        if self.lasting.contains(service) {
            self.keep(&mut followed.seen, &mut seen);
        }
        let mut servers = seen.clone();
        for ((_, id), own) in
            own.range(beginning_of(service)..).take_while(|((of, _), _)| of == service)
        {
            let since = self.cluster.host().generation;
            let is_later =
                |(other, record): &(u64, ServerRecord)| (*other, record.host) < (since, self.host);
            if !visible.get(id).is_some_and(is_later) {
                seen.remove(id);
                servers.insert(id.clone(), own.record.clone());
            }
        }
        followed.seen = seen;
        let landscape = Landscape { servers, rules: rules_of(service, &self.rules.current()) };
        followed.landscape.send_if_modified(|held| {
            let is_other = **held != landscape;
            if is_other {
                *held = Arc::new(landscape);
            }
            is_other
        });
    }

    /// Adds those that were seen before and whose hosts are not there to take them back.
    fn keep(
        &self,
        before: &mut BTreeMap<ServerId, ServerRecord>,
        seen: &mut BTreeMap<ServerId, ServerRecord>,
    ) {
        let members = self.cluster.members().current();
        let is_member = |host: HostId| {
            members.iter().any(|member| member.host.id.as_bytes() == &host.0.to_be_bytes())
        };
        for (id, record) in std::mem::take(before) {
            if seen.len() < LASTING_MAX && !is_member(record.host) {
                seen.entry(id).or_insert(record);
            }
        }
    }
}

/// Nothing of a service comes before it.
fn beginning_of(service: &ServiceName) -> (ServiceName, ServerId) {
    (service.clone(), ServerId::new("\0").expect("it is short and not empty"))
}

/// What other hosts announce, each server with since when. Agents that say nothing sensible are passed
/// over.
fn servers(
    service: &ServiceName,
    agents: &Agents,
    own: HostId,
) -> BTreeMap<ServerId, (u64, ServerRecord)> {
    let mut found: BTreeMap<ServerId, (u64, ServerRecord)> = BTreeMap::new();
    for (address, Metadata { bytes, .. }) in agents {
        let host = HostId(u128::from_be_bytes(*address.host.as_bytes()));
        if host == own {
            continue;
        }
        let id = ServerId::new(address.name.instance());
        let announced = id.ok().and_then(|id| {
            Announcement::decode(bytes.as_ref()).ok()?.into_record(service.clone(), id, host)
        });
        let Some((since, record)) = announced else {
            tracing::debug!(?address, "what an agent says of a server means nothing");
            continue;
        };
        let held = found.entry(record.id.clone()).or_insert_with(|| (since, record.clone()));
        if (since, host) < (held.0, held.1.host) {
            *held = (since, record);
        }
    }
    found
}

impl Announcement {
    fn new(record: &ServerRecord, since: u64) -> Self {
        Self {
            since,
            major: record.version.major.into(),
            minor: record.version.minor.into(),
            address: record.address.map(|address| address.to_string()).unwrap_or_default(),
            groups: record.groups.iter().map(|group| group.as_str().to_owned()).collect(),
            attributes: record.attributes.clone(),
        }
    }

    /// Of the service and server that its agent is named after; `None` if it makes no sense.
    fn into_record(
        self,
        service: ServiceName,
        id: ServerId,
        host: HostId,
    ) -> Option<(u64, ServerRecord)> {
        let version =
            Version { major: self.major.try_into().ok()?, minor: self.minor.try_into().ok()? };
        let address = match self.address.as_str() {
            "" => None,
            address => Some(address.parse::<SocketAddr>().ok()?),
        };
        let groups = self.groups.iter().map(|group| Group::new(group).ok());
        let groups = groups.collect::<Option<BTreeSet<_>>>()?;
        let attributes = self.attributes;
        let record = ServerRecord { service, id, host, address, groups, attributes, version };
        Some((self.since, record))
    }
}

fn rule_key(service: &ServiceName, scope: &Scope) -> Vec<u8> {
    let (kind, tenant) = match scope {
        Scope::Tenant(tenant) => (0, tenant),
        Scope::Prefix(tenant) => (1, tenant),
    };
    let service = service.as_str().as_bytes();
    let mut key = Vec::with_capacity(service.len() + tenant.as_str().len() + 2);
    // A name has at most 255 bytes.
    key.put_u8(u8::try_from(service.len()).unwrap_or(u8::MAX));
    key.put_slice(service);
    key.put_u8(kind);
    key.put_slice(tenant.as_str().as_bytes());
    key
}

/// The rules of a service; those that mean nothing are passed over.
fn rules_of(service: &ServiceName, space: &Space) -> Rules {
    let mut rules = Rules::default();
    for (key, value) in space {
        if let Some((scope, shares)) = rule_of(service, key, value) {
            rules.set(scope, shares);
        }
    }
    rules
}

fn rule_of(service: &ServiceName, mut key: &[u8], value: &[u8]) -> Option<(Scope, Shares)> {
    let length = usize::from(key.try_get_u8().ok()?);
    let (name, mut rest) = key.split_at_checked(length)?;
    if name != service.as_str().as_bytes() {
        return None;
    }
    let kind = rest.try_get_u8().ok()?;
    let tenant = Tenant::new(std::str::from_utf8(rest).ok()?).ok()?;
    let scope = match kind {
        0 => Scope::Tenant(tenant),
        1 => Scope::Prefix(tenant),
        _ => return None,
    };
    let SharesRecord { weights } = SharesRecord::decode(value).ok()?;
    let share = |(group, weight): (&String, &u32)| {
        Some((Group::new(group).ok()?, Weight::new(u8::try_from(*weight).ok()?)?))
    };
    Some((scope, weights.iter().map(share).collect::<Option<Shares>>()?))
}

impl fmt::Debug for ClusterDiscovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClusterDiscovery").field("host", &self.inner.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatosk_cluster::AgentAddress;

    use super::*;

    fn agents(id: &str, said: &[&[u8]]) -> Agents {
        let agent = |(host, bytes): (u8, &&[u8])| {
            let host = ratatosk_cluster::HostId::from_bytes([host; 16]);
            let name = AgentName::new("s", id).expect("a name");
            let bytes = bytes.to_vec().into();
            (AgentAddress { host, name }, Metadata { version: 1, bytes })
        };
        (1..).zip(said).map(agent).collect()
    }

    fn read(said: &[&[u8]]) -> BTreeMap<ServerId, (u64, ServerRecord)> {
        servers(&ServiceName::new("s").expect("a name"), &agents("a", said), HostId(0))
    }

    fn announcement(since: u64) -> Announcement {
        Announcement {
            since,
            major: 1,
            minor: 2,
            address: "[::1]:7".to_owned(),
            groups: vec!["g".to_owned()],
            attributes: [("k".to_owned(), "v".to_owned())].into(),
        }
    }

    #[test]
    fn what_means_nothing_is_passed_over() {
        let good = announcement(5);
        let wrong = [
            Announcement { address: "nowhere".to_owned(), ..good.clone() },
            Announcement { major: 70_000, ..good.clone() },
            Announcement { groups: vec!["g".repeat(300)], ..good.clone() },
        ];
        for wrong in wrong {
            let (wrong, good) = (wrong.encode_to_vec(), good.encode_to_vec());
            assert!(read(&[&wrong]).is_empty());
            let found = read(&[&wrong, &good, b"\xFF"]);
            let (since, record) = found.values().next().expect("the good one");
            assert_eq!((*since, record.version), (5, Version { major: 1, minor: 2 }));
            assert_eq!(record.address, "[::1]:7".parse().ok());
        }
        // The earlier one has the name, then the smaller host.
        let hosts = |said: &[u64]| {
            let said: Vec<_> =
                said.iter().map(|since| announcement(*since).encode_to_vec()).collect();
            let said: Vec<&[u8]> = said.iter().map(Vec::as_slice).collect();
            read(&said)
                .values()
                .next()
                .map(|(_, record)| u8::try_from(record.host.0 & 0xFF).expect("a byte"))
        };
        assert_eq!((hosts(&[6, 5, 7]), hosts(&[5, 5])), (Some(2), Some(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_passed_over(said: Vec<u8>, changed: prop::sample::Index, byte: u8) {
            let mut near = announcement(5).encode_to_vec();
            let place = changed.index(near.len());
            near[place] = byte;
            prop_assert!(read(&[&said, &near]).len() <= 1);
            let service = ServiceName::new("s").expect("a name");
            drop(rule_of(&service, &said, &near));
            drop(rule_of(&service, &near, &said));
        }
    }
}
