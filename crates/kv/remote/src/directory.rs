//! Which store is where, from what processes announce.
//!
//! A store is a server of the service `ratatosk.kv.Stores`, named by its number and with its cluster
//! among its attributes. Of two processes that announce one number, discovery gives it to one; the other
//! finds here that its own number is somebody else's ([`Clash`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ratatosk_rpc::{HostId, Landscape, ServerId};

/// The attribute with the cluster of a store.
pub(crate) const CLUSTER: &str = "cluster";

/// Where a store is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its process.
    pub host: HostId,
    /// Where that listens, if it does.
    pub address: Option<SocketAddr>,
}

/// The stores that are known, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll {
    /// Where they are.
    pub seats: BTreeMap<u64, Seat>,
    /// Servers that are none of this cluster's stores, with what they say of it.
    pub foreign: BTreeMap<String, String>,
}

/// Another process has the number of a store of this one: the folder of one of the two is a copy, or was
/// given to two.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "store {store:016x} is served by another process, {host} at {}: only one may use its folder or a \
     copy of it", place(*.address)
)]
pub struct Clash {
    /// The number.
    pub store: u64,
    /// Who has it.
    pub host: HostId,
    /// Where.
    pub address: Option<SocketAddr>,
}

fn place(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "no address".to_owned(), |address| address.to_string())
}

impl Roll {
    /// The stores of a cluster among the servers of a landscape.
    pub(crate) fn of(landscape: &Landscape, cluster: u64) -> Self {
        let mut roll = Self::default();
        for (id, record) in &landscape.servers {
            let said = record.attributes.get(CLUSTER);
            match store_of(id) {
                Some(store) if said.is_some_and(|said| *said == name(cluster)) => {
                    let seat = Seat { host: record.host, address: record.address };
                    roll.seats.insert(store, seat);
                }
                _ => {
                    let said = said.cloned().unwrap_or_default();
                    roll.foreign.insert(id.as_str().to_owned(), said);
                }
            }
        }
        roll
    }

    /// Who has a number that a process of this host has announced, if it is somebody else.
    pub(crate) fn clash(&self, store: u64, host: HostId) -> Option<Clash> {
        let seat = self.seats.get(&store).filter(|seat| seat.host != host)?;
        Some(Clash { store, host: seat.host, address: seat.address })
    }
}

/// A number as it is written.
pub(crate) fn name(number: u64) -> String {
    format!("{number:016x}")
}

/// The name of a store's server.
pub(crate) fn server_id(store: u64) -> ServerId {
    ServerId::new(&name(store)).expect("16 digits make a name")
}

fn store_of(id: &ServerId) -> Option<u64> {
    let store = u64::from_str_radix(id.as_str(), 16).ok()?;
    (store != 0 && name(store) == id.as_str()).then_some(store)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ratatosk_rpc::{ServerRecord, ServiceName, Version};

    use super::*;

    fn record(id: &str, host: u128, cluster: Option<u64>) -> ServerRecord {
        ServerRecord {
            service: ServiceName::new("s").expect("a name"),
            id: ServerId::new(id).expect("a name"),
            host: HostId(host),
            address: None,
            groups: BTreeSet::new(),
            attributes: cluster.map(|id| (CLUSTER.to_owned(), name(id))).into_iter().collect(),
            version: Version::CURRENT,
        }
    }

    /// KV-017: who is of another cluster is no store of this one.
    #[test]
    fn stores_are_told_from_others() {
        let records = [
            record("00000000000000ab", 1, Some(7)),
            record("00000000000000cd", 2, Some(8)),
            record("00000000000000ef", 2, None),
            record("ab", 3, Some(7)),
            record("0000000000000000", 3, Some(7)),
        ];
        let servers = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        let roll = Roll::of(&Landscape { servers, ..Landscape::default() }, 7);
        assert_eq!(roll.seats.keys().copied().collect::<Vec<_>>(), [0xAB]);
        assert_eq!(roll.foreign.len(), 4);
        assert_eq!(roll.foreign["00000000000000cd"], name(8));
        assert_eq!(roll.clash(0xAB, HostId(1)), None);
        assert_eq!(roll.clash(0xAB, HostId(2)).map(|clash| clash.host), Some(HostId(1)));
    }
}
