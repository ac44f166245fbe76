//! Where several nodes have the retained messages together: as the ranges' replicas of each have applied them.
//!
//! Every node may change every topic: it shows its change at once, submits it, and what all show in the end is
//! what the log has last. Every node reads its own memory, which its replicas feed. They may be behind, and
//! know it; so whoever must not miss what was acknowledged elsewhere asks them first. KV-010

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use ratatosk_client::{Change, Coverage, Serving};
use ratatosk_clock::Epoch;
use ratatosk_engine::KeyRange;

use crate::{journal::Journal, schema::stamp::Stamp};

/// See the module.
pub(crate) struct Replication {
    pub(crate) epoch: Epoch,
    /// Of the stamps.
    origin: u64,
    changes: AtomicU64,
    coprocessors: AtomicU64,
    journal: OnceLock<Journal>,
    /// What is here.
    pub(crate) serving: Serving,
    coverage: Mutex<Coverage>,
    /// How often there were other keys here.
    turns: AtomicU64,
    /// The ranges that this node leads, by the numbers of their coprocessors.
    led: RwLock<Vec<(u64, KeyRange)>>,
}

impl Replication {
    pub(crate) fn new(epoch: Epoch, origin: u64) -> Self {
        Replication {
            epoch,
            origin,
            changes: AtomicU64::new(0),
            coprocessors: AtomicU64::new(0),
            journal: OnceLock::new(),
            serving: Serving::default(),
            coverage: Mutex::default(),
            turns: AtomicU64::new(0),
            led: RwLock::default(),
        }
    }

    /// The way to the log. The first one counts.
    pub(crate) fn connect(&self, journal: Journal) {
        let is_first = self.journal.set(journal).is_ok();
        debug_assert!(is_first, "a service is connected once");
    }

    /// The log; `None` before there is a way to it.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// The log, if it takes more at the moment.
    pub(crate) fn journal_with_room(&self) -> Option<&Journal> {
        self.journal().filter(|journal| journal.has_room())
    }

    /// The next change of this node.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::of(self.origin, self.changes.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn next_coprocessor(&self) -> u64 {
        self.coprocessors.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A range has these keys from now on, or none. To be followed by what comes of it.
    pub(crate) fn cover(&self, number: u64, keys: Option<&KeyRange>) -> Change {
        // Whoever reads meanwhile may miss what goes: he sees that it is another turn.
        self.turns.fetch_add(1, Ordering::AcqRel);
        self.coverage.lock().set(number, keys)
    }

    /// Rises before messages go because their keys do.
    pub(crate) fn turn(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// This node leads a range with these keys from now on, or does not any more.
    pub(crate) fn note_lead(&self, number: u64, keys: Option<&KeyRange>) {
        let mut led = self.led.write();
        led.retain(|(held, _)| *held != number);
        led.extend(keys.map(|keys| (number, keys.clone())));
    }

    /// Whether this node leads the range of a key.
    pub(crate) fn leads(&self, key: &[u8]) -> bool {
        self.led.read().iter().any(|(_, keys)| keys.contains(key))
    }
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Replication").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
