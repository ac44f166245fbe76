//! One write of the log for all groups that have something for it.

use raft::Ready;

use super::group::changes_members;
use super::{Error, Machine, Output};
use crate::log::{GroupId, LogBatch, LogChange, RaftLog, Sync};

/// What the groups have for the log and is not written yet.
#[derive(Default)]
pub(super) struct Unwritten {
    batch: LogBatch,
    /// Whether somebody waits for the disk.
    sync: bool,
    /// What the library is told once it is written.
    written: Vec<(GroupId, Ready)>,
    /// Groups that begin anew behind an entry.
    arrived: Vec<(GroupId, u64)>,
}

impl<L: RaftLog, T> Machine<L, T> {
    /// Gathers what the dirty groups have for the log.
    pub(super) fn gather(&mut self, batch: LogBatch, output: &mut Output<T>) -> Result<(), Error> {
        let mut unwritten = Unwritten { batch, ..Unwritten::default() };
        for id in std::mem::take(&mut self.installed) {
            let Some(held) = self.groups.get_mut(&id) else { continue };
            let Some((ready, at)) = held.take_installed() else { continue };
            self.loans.mark(held);
            unwritten.batch.push(id, LogChange::Restart(at));
            unwritten.batch.push(id, LogChange::DurableApplied(at.index));
            unwritten.arrived.push((id, at.index));
            self.put(id, ready, &mut unwritten);
            unwritten.sync = true;
        }
        for id in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let begins = unwritten.arrived.iter().any(|(known, _)| *known == id);
            if begins || !group.is_at_work() {
                continue;
            }
            group.serve_reads(self.now, self.lease, output);
            if !group.raft.has_ready() {
                self.loans.note(group);
                continue;
            }
            let ready = group.ready(output)?;
            self.loans.note(group);
            let Some(ready) = ready else { continue };
            unwritten.sync |= ready.must_sync();
            self.put(id, ready, &mut unwritten);
        }
        self.unwritten = unwritten;
        Ok(())
    }

    /// Writes what was gathered, and goes on with what that makes possible.
    pub(super) fn write(&mut self, output: &mut Output<T>) -> Result<(), Error> {
        let Unwritten { batch, sync, written, arrived } = std::mem::take(&mut self.unwritten);
        if !batch.is_empty() {
            self.log.write(batch, if sync { Sync::Wait } else { Sync::Later })?;
        }
        for (id, ready) in written {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.advance(ready, output);
            group.serve_reads(self.now, self.lease, output);
            self.loans.note(group);
            if let Some((_, index)) = arrived.iter().find(|(known, _)| *known == id) {
                group.raft.advance_apply_to(*index);
            }
            if group.raft.has_ready() {
                self.dirty.insert(id);
            }
            if group.holds() {
                self.holding.insert(id);
            }
        }
        Ok(())
    }

    /// A group's data is durable up to an entry: the log need not have it any more.
    pub(super) fn checkpointed(
        &mut self,
        group: GroupId,
        index: u64,
        batch: &mut LogBatch,
    ) -> Result<(), Error> {
        let kept = self.kept_entries;
        let Some(held) = self.at_work(group) else { return Ok(()) };
        // It is of a replica that this store had before, whose data a split has just made and nobody wants.
        if held.descriptor.is_none() {
            return Ok(());
        }
        // A checkpoint of what did not change says nothing new.
        if held.raft.mut_store().note_durable(index) {
            batch.push(group, LogChange::DurableApplied(index));
        }
        let unneeded = held.may_give_up(index, kept);
        if let Some(truncated) = held.raft.mut_store().truncate(unneeded)? {
            batch.push(group, LogChange::Truncate(truncated));
        }
        Ok(())
    }

    /// Puts what a group has for the log into the batch.
    fn put(&mut self, id: GroupId, mut ready: Ready, unwritten: &mut Unwritten) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let batch = &mut unwritten.batch;
        let entries = ready.take_entries();
        let changes_members = entries.iter().any(changes_members);
        if !entries.is_empty() {
            group.raft.mut_store().append(&entries);
            batch.push(id, LogChange::Append(entries));
        }
        // A change of the members is appended by a leader that has applied the one before, which is
        // therefore committed. Whoever comes back has to know that, or it would commit what follows by a
        // majority of those that were members before. Otherwise a commit alone is not written.
        let hard_state = match ready.hs() {
            Some(hard_state) => Some(hard_state.clone()),
            None => changes_members.then(|| group.raft.raft.hard_state()),
        };
        if let Some(hard_state) = hard_state {
            group.raft.mut_store().set_hard_state(hard_state.clone());
            batch.push(id, LogChange::HardState(hard_state));
        }
        unwritten.written.push((id, ready));
    }
}
