//! What is done with what an earlier process left.

use std::sync::atomic::{AtomicBool, Ordering};

use ratatosk_engine::{Batch, Engine, Error, MemoryEngine};
use ratatosk_store::log::MemoryLog;
use ratatosk_store::open;

use crate::fixture::STORE;

/// Knows whether something was written and not persisted.
struct Watched {
    engine: MemoryEngine,
    is_unsynced: AtomicBool,
}

impl Engine for Watched {
    type View = <MemoryEngine as Engine>::View;

    fn write(&self, batch: Batch) -> Result<(), Error> {
        self.is_unsynced.store(true, Ordering::Relaxed);
        self.engine.write(batch)
    }

    fn persist(&self) -> Result<(), Error> {
        self.is_unsynced.store(false, Ordering::Relaxed);
        self.engine.persist()
    }

    fn view(&self) -> Self::View {
        self.engine.view()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// DUR-004, KV-012: or a checkpoint that has nothing to write would let the log go.
#[test]
fn what_is_found_is_synced_before_it_counts_as_durable() {
    let (engine, is_unsynced) = (MemoryEngine::new(2), AtomicBool::new(false));
    let (log, engine) = (MemoryLog::default(), Watched { engine, is_unsynced });
    let keyspaces = ["counter".to_owned()];
    let asked = |is_new| open::Asked { store: STORE, keyspaces: &keyspaces, is_new };
    open::find(&log, &engine, asked(true)).expect("it is new");
    engine.write(Batch::new()).expect("memory");
    // The process goes down here, and the next one finds what was written.
    open::find(&log, &engine, asked(false)).expect("it is whole");
    assert!(!engine.is_unsynced.load(Ordering::Relaxed));
}
