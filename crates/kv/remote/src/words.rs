//! The words of all stores, as a keeper hears them. KV-026

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_balance::keeper::Words;
use ratatosk_balance::landscape::{Landscape, Reach, Store, StoreId};
use ratatosk_clock::Instant;

use crate::network::Shared;
use crate::record::{Head, encode_report};

/// See the module. The store of this process tells its word here; those of others come by themselves.
pub(crate) struct NetworkWords {
    pub(crate) shared: Arc<Shared>,
}

/// What is known beside the words of others.
#[derive(Default)]
pub(crate) struct Own {
    /// The word of this process's store.
    word: Mutex<Option<(StoreId, Store)>>,
    /// Stores that are spoken of and unknown, since when.
    missed: Mutex<BTreeMap<StoreId, Instant>>,
}

impl NetworkWords {
    /// Adds the stores that some range names and that nobody has heard of.
    fn add_missed(&self, now: Instant, stores: &mut BTreeMap<StoreId, Store>) {
        let reports = stores.values().flat_map(|store| store.replicas.values());
        let named = reports.flat_map(|report| report.descriptor.membership.replicas());
        let named: BTreeSet<StoreId> = named.map(|replica| replica.store).collect();
        let mut missed = self.shared.own.missed.lock();
        missed.retain(|store, _| named.contains(store) && !stores.contains_key(store));
        for store in named.into_iter().filter(|store| !stores.contains_key(store)) {
            missed.entry(store).or_insert(now);
        }
        for (store, since) in &*missed {
            let reach = Reach::Away { since: *since };
            stores.insert(*store, Store { reach, ..Store::default() });
        }
    }
}

impl Words for NetworkWords {
    fn tell(&self, me: StoreId, store: Store) {
        let head = Head::of(&store, self.shared.clock.now()).encode();
        let replicas = store.replicas.iter();
        let entries = replicas.map(|(group, report)| (*group, encode_report(report))).collect();
        self.shared.word.tell(head, entries);
        *self.shared.own.word.lock() = Some((me, store));
    }

    fn landscape(&self) -> Landscape {
        let now = self.shared.clock.now();
        let peers: Vec<_> = self.shared.peers.read().values().cloned().collect();
        let silence_max = self.shared.config.silence_max;
        let mut stores: BTreeMap<StoreId, Store> =
            peers.iter().map(|peer| (peer.store, peer.word.store(now, silence_max))).collect();
        stores.extend(self.shared.own.word.lock().clone());
        self.add_missed(now, &mut stores);
        let mut landscape = Landscape { stores };
        if let Some(standings) = self.shared.standings.get() {
            standings.apply(&mut landscape);
        }
        landscape
    }
}
