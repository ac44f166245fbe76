//! Inboxes at three stores, with threads and disks.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatosk_client::Reigns;
use ratatosk_clock::SystemClock;
use ratatosk_contract::call::Settlement;
use ratatosk_store::coprocessor::{Coprocessor, Keyspaces};
use ratatosk_store::log::GroupId;
use ratatosk_stores::{Stores, until};

use crate::{
    InboxCoprocessor, Seating,
    durable_fixture::epoch,
    fake::{Bench, bench_of},
    reign_fixture::GRACE,
};

pub(crate) const KEYSPACE: &str = "inbox.session";
pub(crate) const STORES: u64 = 3;

/// A service at each store, over one range at first.
pub(crate) struct Cluster {
    pub(crate) benches: BTreeMap<u64, Bench>,
    _workers: Vec<Seating>,
    reigns: BTreeMap<u64, Reigns>,
    pub(crate) group: GroupId,
    pub(crate) stores: Stores,
    settled: BTreeMap<u64, Settlement>,
    number: u64,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let clock = SystemClock::new();
        let reigns: BTreeMap<u64, Reigns> =
            (1..=STORES).map(|store| (store, Reigns::new(clock))).collect();
        let known = reigns.clone();
        let stores = Stores::of_each("inbox-reigns", STORES, move |store| {
            let reigns = known[&store].clone();
            let made = move || -> Box<dyn Coprocessor> {
                Box::new(InboxCoprocessor::reigning(reigns.hook()))
            };
            Keyspaces::new(vec![(KEYSPACE.to_owned(), Box::new(made))])
        });
        let (mut benches, mut workers) = (BTreeMap::new(), Vec::new());
        for (store, handle) in stores.live() {
            let bench = bench_of(|inbox| inbox.reigning(epoch(), GRACE));
            bench.inbox.follow(&reigns[&store], Arc::new(handle));
            let failed = |error: &_| panic!("it reads what was written: {error}");
            workers.extend(bench.inbox.start_seating(clock, failed).expect("a thread"));
            benches.insert(store, bench);
        }
        let whole = stores.whole(KEYSPACE);
        stores.change(&whole, &[1, 2, 3]);
        let (settled, number) = (BTreeMap::new(), 0);
        Cluster { benches, _workers: workers, reigns, group: whole.group, stores, settled, number }
    }

    /// Ends the services, and then the stores.
    pub(crate) fn stop(self) {
        self.reigns.values().for_each(Reigns::unbind);
    }

    pub(crate) fn ticket(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The store that serves a partition, of those that believe to the one in the latest term.
    pub(crate) fn seat_of(&self, place: usize) -> Option<u64> {
        let serves = |(store, bench): (&u64, &Bench)| Some((bench.inbox.serves(place)?, *store));
        self.benches.iter().filter_map(serves).max().map(|(_, store)| store)
    }

    fn hear(&mut self) {
        for bench in self.benches.values() {
            self.settled.extend(bench.sessions.take_settled());
        }
    }

    /// What became of a call.
    pub(crate) fn outcome(&mut self, ticket: u64) -> Settlement {
        until("a settlement", || {
            self.hear();
            self.settled.get(&ticket).copied()
        })
    }
}
