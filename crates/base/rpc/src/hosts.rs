//! Which hosts there are, from what processes announce.
//!
//! A service that every host has at most once names its servers by the [`HostId`], which is random at
//! each start, with the generation of that start among the attributes. Of two that are at one address, the
//! one of the earlier generation is over, whether the cluster has seen that yet or not.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::{HostId, Landscape, ServerId};

/// The attribute with the generation of a host.
pub const GENERATION: &str = "generation";
/// Hosts of a cluster that one speaks with at most.
const HOSTS_MAX: usize = 1_024;

/// The other hosts that count as alive, with the names of their servers.
#[must_use]
pub fn others(landscape: &Landscape, own: HostId) -> BTreeMap<HostId, ServerId> {
    let mut latest: BTreeMap<SocketAddr, (u64, HostId)> = BTreeMap::new();
    let known = || {
        landscape.servers.iter().filter_map(|(id, record)| {
            let is_named = *id == server_id(record.host);
            let address = record.address.filter(|_| is_named)?;
            let generation = record.attributes.get(GENERATION)?.parse::<u64>().ok()?;
            Some((id, record.host, address, generation))
        })
    };
    for (_, host, address, generation) in known() {
        let held = latest.entry(address).or_insert((generation, host));
        *held = (*held).max((generation, host));
    }
    let is_latest = |host, address: &SocketAddr| latest.get(address).is_some_and(|it| it.1 == host);
    known()
        .filter(|(_, host, address, _)| *host != own && is_latest(*host, address))
        .take(HOSTS_MAX)
        .map(|(id, host, ..)| (host, id.clone()))
        .collect()
}

/// The name of a host's server.
///
/// # Panics
/// Never: a number of a host makes a name.
#[must_use]
pub fn server_id(host: HostId) -> ServerId {
    ServerId::new(&host.to_string()).expect("32 digits make a name")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::{ServerRecord, ServiceName, Version};

    use super::*;

    fn record(host: u128, port: Option<u16>, generation: u64) -> ServerRecord {
        ServerRecord {
            service: ServiceName::new("s").expect("a name"),
            id: server_id(HostId(host)),
            host: HostId(host),
            address: port.map(|port| SocketAddr::from(([127, 0, 0, 1], port))),
            groups: BTreeSet::new(),
            attributes: [(GENERATION.to_owned(), generation.to_string())].into(),
            version: Version::CURRENT,
        }
    }

    fn found(records: impl IntoIterator<Item = ServerRecord>) -> Vec<u128> {
        let servers = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        let landscape = Landscape { servers, ..Landscape::default() };
        others(&landscape, HostId(1)).keys().map(|host| host.0).collect()
    }

    /// DIST-014, INBOX-012: whoever started later at an address has taken the place of who was there.
    #[test]
    fn a_later_life_at_an_address_ends_the_earlier_one() {
        let [one, two] = [record(5, Some(80), 7), record(4, Some(80), 8)];
        assert_eq!(found([one.clone(), two.clone()]), [4]);
        assert_eq!(found([one.clone()]), [5]);
        assert_eq!(found([one.clone(), two, record(9, Some(81), 1)]), [4, 9]);
        // This host itself has taken the place of one.
        assert_eq!(found([one, record(1, Some(80), 8)]), [0; 0]);
    }

    #[test]
    fn this_host_and_what_is_none_are_passed_over() {
        let mut foreign = record(3, Some(80), 1);
        foreign.id = ServerId::new("x").expect("a name");
        let mut ageless = record(6, Some(81), 1);
        ageless.attributes.clear();
        assert_eq!(found([record(1, Some(82), 1), foreign, ageless, record(2, None, 1)]), [0; 0]);
    }
}
