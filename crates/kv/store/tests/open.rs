//! What is done with what an earlier process left.

use std::sync::atomic::{AtomicBool, Ordering};

use raft::eraftpb::Entry;
use ratatosk_engine::{Batch, Engine, Error, MemoryEngine};
use ratatosk_store::log::{
    Error as LogError, GroupId, GroupState, LogBatch, LogChange, MemoryLog, RaftLog, Span, Sync,
};
use ratatosk_store::open;

use crate::fixture::{asked, keyspaces};

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

/// The same of a log.
#[derive(Default)]
struct WatchedLog {
    log: MemoryLog,
    is_unsynced: AtomicBool,
}

impl RaftLog for WatchedLog {
    fn groups(&self) -> Result<Vec<GroupState>, LogError> {
        self.log.groups()
    }

    fn fetch(&self, span: Span, bytes_max: usize, into: &mut Vec<Entry>) -> Result<(), LogError> {
        self.log.fetch(span, bytes_max, into)
    }

    fn write(&self, batch: LogBatch, sync: Sync) -> Result<(), LogError> {
        self.is_unsynced.store(sync == Sync::Later, Ordering::Relaxed);
        self.log.write(batch, sync)
    }

    fn persist(&self) -> Result<(), LogError> {
        self.is_unsynced.store(false, Ordering::Relaxed);
        self.log.persist()
    }

    fn purge(&self) -> Result<Vec<GroupId>, LogError> {
        self.log.purge()
    }

    fn disk_bytes(&self) -> u64 {
        self.log.disk_bytes()
    }
}

/// DUR-004, KV-012: or a checkpoint that has nothing to write would let the log go.
#[test]
fn what_is_found_is_synced_before_it_counts_as_durable() {
    let (engine, is_unsynced) = (MemoryEngine::new(2), AtomicBool::new(false));
    let (log, engine) = (MemoryLog::default(), Watched { engine, is_unsynced });
    let keyspaces = keyspaces();
    let asked = |is_new| open::Asked { is_new, ..asked(&keyspaces) };
    open::find(&log, &engine, asked(true)).expect("it is new");
    engine.write(Batch::new()).expect("memory");
    // The process goes down here, and the next one finds what was written.
    open::find(&log, &engine, asked(false)).expect("it is whole");
    assert!(!engine.is_unsynced.load(Ordering::Relaxed));
}

/// DUR-004, DUR-011: or a replica would tell others that it has entries which a power loss takes.
#[test]
fn a_log_that_is_found_is_synced_before_it_counts_as_durable() {
    let (log, engine) = (WatchedLog::default(), MemoryEngine::new(2));
    let keyspaces = keyspaces();
    let asked = |is_new| open::Asked { is_new, ..asked(&keyspaces) };
    open::find(&log, &engine, asked(true)).expect("it is new");
    let mut batch = LogBatch::new();
    let entry = Entry { index: 6, term: 6, ..Entry::default() };
    batch.push(GroupId(1), LogChange::Append(vec![entry]));
    log.write(batch, Sync::Later).expect("memory");
    // The process goes down here, and the next one finds what was written.
    open::find(&log, &engine, asked(false)).expect("it is whole");
    assert!(!log.is_unsynced.load(Ordering::Relaxed));
}

/// DUR-011: also while the log has all of it still.
#[test]
fn an_engine_that_ends_before_what_was_durable_is_refused() {
    let (log, engine) = (MemoryLog::default(), MemoryEngine::new(2));
    let keyspaces = keyspaces();
    let asked = |is_new| open::Asked { is_new, ..asked(&keyspaces) };
    open::find(&log, &engine, asked(true)).expect("it is new");
    let mut batch = LogBatch::new();
    let entry = Entry { index: 6, term: 6, ..Entry::default() };
    batch.push(GroupId(1), LogChange::Append(vec![entry]));
    batch.push(GroupId(1), LogChange::DurableApplied(6));
    log.write(batch, Sync::Wait).expect("memory");
    let found = open::find(&log, &engine, asked(false));
    assert!(matches!(found, Err(open::Trouble::Lost(_))), "{found:?}");
}
