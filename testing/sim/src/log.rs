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
use crate::file::{Content, File};
use crate::planted::Planted;

/// See the module.
pub(crate) struct SimLog {
    power: Arc<Power>,
    is_sync_skipped: bool,
    planted: Option<Planted>,
    file: Mutex<File<MemoryLog>>,
}

impl SimLog {
    /// An empty one.
    pub(crate) fn new(power: Arc<Power>, planted: Option<Planted>) -> Self {
        let is_sync_skipped = planted == Some(Planted::FsyncSkipped);
        let file = Mutex::new(File::new(MemoryLog::default()));
        SimLog { power, is_sync_skipped, planted, file }
    }

    /// As [`File::lose`].
    pub(crate) fn lose(&self, dice: &mut Dice) -> usize {
        self.file.lock().lose(dice)
    }

    /// What of a batch is written.
    fn written(&self, batch: LogBatch) -> LogBatch {
        let mut written = LogBatch::new();
        for (group, change) in batch {
            match (change, self.planted) {
                (LogChange::Replica(_), Some(Planted::ReplicaForgotten)) => {}
                (LogChange::HardState(mut state), Some(Planted::CommitForgotten)) => {
                    state.commit = 0;
                    written.push(group, LogChange::HardState(state));
                }
                (change, _) => written.push(group, change),
            }
        }
        written
    }

    /// Another file with the same content.
    pub(crate) fn copy(&self, power: Arc<Power>) -> Self {
        let file = Mutex::new(self.file.lock().copy());
        SimLog { power, is_sync_skipped: false, planted: None, file }
    }
}

impl RaftLog for SimLog {
    fn groups(&self) -> Result<Vec<GroupState>, Error> {
        self.file.lock().seen().groups()
    }

    fn fetch(&self, span: Span, bytes_max: usize, into: &mut Vec<Entry>) -> Result<(), Error> {
        self.file.lock().seen().fetch(span, bytes_max, into)
    }

    fn write(&self, batch: LogBatch, sync: Sync) -> Result<(), Error> {
        let fate = self.power.spend();
        if fate == Fate::Refused {
            return Err(failed().into());
        }
        let mut file = self.file.lock();
        file.write(self.written(batch));
        if fate == Fate::Torn {
            return Err(failed().into());
        }
        if sync == Sync::Wait && !self.is_sync_skipped {
            file.sync();
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), Error> {
        if self.power.spend() != Fate::Done {
            return Err(failed().into());
        }
        if !self.is_sync_skipped && self.planted != Some(Planted::FoundUnsynced) {
            self.file.lock().sync();
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

impl Content for MemoryLog {
    type Batch = LogBatch;

    fn put(&self, batch: LogBatch) {
        self.write(batch, Sync::Later).unwrap_or_else(|error| unreachable!("in memory: {error}"));
    }

    fn copy(&self) -> Self {
        let copied = MemoryLog::default();
        for state in self.groups().unwrap_or_default() {
            let GroupState { group, replica, hard_state, truncated, last_index, durable_applied } =
                state;
            let mut entries = Vec::new();
            let span = Span { group, low: truncated.index + 1, high: last_index + 1 };
            if span.low < span.high {
                self.fetch(span, usize::MAX, &mut entries)
                    .unwrap_or_else(|error| unreachable!("in memory: {error}"));
            }
            let mut batch = LogBatch::new();
            batch.push(group, LogChange::Restart(truncated));
            batch.push(group, LogChange::Replica(replica));
            batch.push(group, LogChange::Append(entries));
            batch.push(group, LogChange::HardState(hard_state));
            batch.push(group, LogChange::DurableApplied(durable_applied));
            copied.put(batch);
        }
        copied
    }
}
