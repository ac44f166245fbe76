//! A log that keeps nothing: for tests, simulation, and nodes that are told so.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};

use super::{
    Error, GroupId, GroupState, LogBatch, LogChange, RaftLog, Span, Sync, Truncated, fitting,
};

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryLog {
    groups: Mutex<BTreeMap<GroupId, Group>>,
}

#[derive(Debug, Default)]
struct Group {
    replica: u64,
    hard_state: HardState,
    truncated: Truncated,
    durable_applied: u64,
    entries: VecDeque<Entry>,
}

impl Group {
    fn last_index(&self) -> u64 {
        self.entries.back().map_or(self.truncated.index, |entry| entry.index)
    }

    fn change(&mut self, change: LogChange) {
        match change {
            LogChange::Append(entries) => {
                let Some(first) = entries.first() else { return };
                while self.entries.back().is_some_and(|last| last.index >= first.index) {
                    self.entries.pop_back();
                }
                let expected = self.last_index() + 1;
                assert_eq!(first.index, expected, "entries are appended without a gap");
                self.entries.extend(entries);
            }
            LogChange::Replica(replica) => self.replica = replica,
            LogChange::HardState(hard_state) => self.hard_state = hard_state,
            LogChange::Truncate(truncated) => {
                while self.entries.front().is_some_and(|first| first.index <= truncated.index) {
                    self.entries.pop_front();
                }
                self.truncated = truncated;
            }
            LogChange::Restart(truncated) => {
                self.entries.clear();
                self.truncated = truncated;
            }
            LogChange::DurableApplied(index) => self.durable_applied = index,
            LogChange::Destroy => unreachable!("the caller removes the group"),
        }
    }
}

impl RaftLog for MemoryLog {
    fn groups(&self) -> Result<Vec<GroupState>, Error> {
        let groups = self.groups.lock();
        let state = |(id, group): (&GroupId, &Group)| GroupState {
            group: *id,
            replica: group.replica,
            hard_state: group.hard_state.clone(),
            truncated: group.truncated,
            last_index: group.last_index(),
            durable_applied: group.durable_applied,
        };
        Ok(groups.iter().map(state).collect())
    }

    fn fetch(&self, span: Span, bytes_max: usize, into: &mut Vec<Entry>) -> Result<(), Error> {
        let groups = self.groups.lock();
        let missing = |index| Error::Missing { group: span.group, index };
        let group = groups.get(&span.group).ok_or_else(|| missing(span.low))?;
        if span.low <= group.truncated.index {
            return Err(missing(span.low));
        }
        if span.high > group.last_index() + 1 {
            return Err(missing(span.high - 1));
        }
        let within = |entry: &&Entry| (span.low..span.high).contains(&entry.index);
        let wanted = || group.entries.iter().filter(within);
        into.extend(wanted().take(fitting(wanted(), bytes_max)).cloned());
        Ok(())
    }

    fn write(&self, batch: LogBatch, _sync: Sync) -> Result<(), Error> {
        let mut groups = self.groups.lock();
        for (id, change) in batch {
            match change {
                LogChange::Destroy => {
                    groups.remove(&id);
                }
                change => groups.entry(id).or_default().change(change),
            }
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), Error> {
        Ok(())
    }

    fn purge(&self) -> Result<Vec<GroupId>, Error> {
        Ok(Vec::new())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
