//! The log on the simulated disk.
//!
//! It stands for `DurableLog`, and what it takes for granted is what the library behind that one
//! promises: records have checksums, so a batch that is torn is gone as a whole; what follows a lost
//! batch is lost, too; a write that waits makes durable whatever was written before it, also by an
//! earlier process.

use std::sync::Arc;

use parking_lot::Mutex;
use raft::eraftpb::Entry;
use ratatosk_store::log::{
    Error, GroupId, GroupState, LogBatch, LogChange, MemoryLog, RaftLog, Span, Sync,
};
use ratatosk_testkit::dice::Dice;

use crate::disk::{Fate, Power, failed};
use crate::planted::Planted;

/// See the module.
pub(crate) struct SimLog {
    power: Arc<Power>,
    is_sync_skipped: bool,
    file: Mutex<File>,
}

#[derive(Default)]
struct File {
    synced: MemoryLog,
    /// In the order of writing.
    unsynced: Vec<LogBatch>,
    /// Both together: what the process sees.
    seen: MemoryLog,
}

impl SimLog {
    /// An empty one.
    pub(crate) fn new(power: Arc<Power>, planted: Option<Planted>) -> Self {
        let is_sync_skipped = planted == Some(Planted::FsyncSkipped);
        SimLog { power, is_sync_skipped, file: Mutex::default() }
    }

    /// Loses the unsynced batches from some place on; answers how many.
    pub(crate) fn lose(&self, dice: &mut Dice) -> usize {
        let mut file = self.file.lock();
        let File { synced, unsynced, seen } = &mut *file;
        let kept = dice.below(unsynced.len() + 1);
        let lost = unsynced.len() - kept;
        unsynced.drain(..).take(kept).for_each(|batch| put(synced, batch));
        *seen = copy(synced);
        lost
    }

    /// Another file with the same content.
    pub(crate) fn copy(&self, power: Arc<Power>) -> Self {
        let file = self.file.lock();
        let (synced, seen) = (copy(&file.seen), copy(&file.seen));
        let file = Mutex::new(File { synced, unsynced: Vec::new(), seen });
        SimLog { power, is_sync_skipped: false, file }
    }
}

impl RaftLog for SimLog {
    fn groups(&self) -> Result<Vec<GroupState>, Error> {
        self.file.lock().seen.groups()
    }

    fn fetch(&self, span: Span, bytes_max: usize, into: &mut Vec<Entry>) -> Result<(), Error> {
        self.file.lock().seen.fetch(span, bytes_max, into)
    }

    fn write(&self, batch: LogBatch, sync: Sync) -> Result<(), Error> {
        let fate = self.power.spend();
        if fate == Fate::Refused {
            return Err(failed().into());
        }
        let mut file = self.file.lock();
        let File { synced, unsynced, seen } = &mut *file;
        put(seen, batch.clone());
        unsynced.push(batch);
        if fate == Fate::Torn {
            return Err(failed().into());
        }
        if sync == Sync::Wait && !self.is_sync_skipped {
            unsynced.drain(..).for_each(|batch| put(synced, batch));
        }
        Ok(())
    }

    fn purge(&self) -> Result<Vec<GroupId>, Error> {
        Ok(Vec::new())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

fn put(log: &MemoryLog, batch: LogBatch) {
    log.write(batch, Sync::Later).unwrap_or_else(|error| unreachable!("in memory: {error}"));
}

fn copy(log: &MemoryLog) -> MemoryLog {
    let copied = MemoryLog::default();
    for state in log.groups().unwrap_or_default() {
        let GroupState { group, hard_state, truncated, last_index, durable_applied } = state;
        let mut entries = Vec::new();
        let span = Span { group, low: truncated.index + 1, high: last_index + 1 };
        if span.low < span.high {
            log.fetch(span, usize::MAX, &mut entries)
                .unwrap_or_else(|error| unreachable!("in memory: {error}"));
        }
        let mut batch = LogBatch::new();
        batch.push(group, LogChange::Truncate(truncated));
        batch.push(group, LogChange::Append(entries));
        batch.push(group, LogChange::HardState(hard_state));
        batch.push(group, LogChange::DurableApplied(durable_applied));
        put(&copied, batch);
    }
    copied
}
