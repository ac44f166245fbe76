//! Words of stores of one process.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_clock::{Instant, SystemClock};

use super::Words;
use crate::landscape::{Landscape, Reach, Store, StoreId};

/// Where the stores of one process leave word of what they have.
#[derive(Debug)]
pub struct Board {
    clock: SystemClock,
    silence_max: Duration,
    words: Mutex<BTreeMap<StoreId, (Instant, Store)>>,
}

impl Board {
    /// Without words. Who says nothing for `silence_max` does not answer.
    #[must_use]
    pub fn new(clock: SystemClock, silence_max: Duration) -> Self {
        Self { clock, silence_max, words: Mutex::default() }
    }
}

impl Words for Board {
    fn tell(&self, me: StoreId, store: Store) {
        self.words.lock().insert(me, (self.clock.now(), store));
    }

    fn landscape(&self) -> Landscape {
        let now = self.clock.now();
        let mut stores = BTreeMap::new();
        for (id, (told, store)) in &*self.words.lock() {
            let mut store = store.clone();
            if now.since(*told) > self.silence_max {
                store.reach = Reach::Away { since: *told };
                // What it said of those that it leads is of no use any more.
                store.replicas.values_mut().for_each(|report| report.leading = None);
            }
            stores.insert(*id, store);
        }
        Landscape { stores }
    }
}
