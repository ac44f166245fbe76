//! A group whose range comes from another store.

use raft::eraftpb::Snapshot;
use raft::{Progress, ProgressState, Ready, SnapshotStatus};

use super::{Error, Event, Group, Output};
use crate::host::Refusal;
use crate::log::{GroupId, RaftLog, Truncated};
use crate::range::Descriptor;

/// Ticks after which a leader does not wait any more for a replica to take in what it has: it may have
/// gone, or its disk is too slow for what is written meanwhile. They pass while the group is awake: one that
/// sleeps writes nothing.
const TAKING_TICKS: u32 = 6_000;

/// A replica to which all of a snapshot has come.
pub(super) struct TakingIn {
    /// The last entry whose effects it has.
    index: u64,
    /// Since then.
    ticks: u32,
}

impl<L: RaftLog, T> Group<L, T> {
    /// Whether the library has taken in a snapshot of which nothing is done yet. What the host says of
    /// entries before it comes too late.
    pub(in crate::machine) fn has_snapshot(&self) -> bool {
        self.raft.snap().is_some()
    }

    pub(in crate::machine) fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        if let Some(progress) = self.raft.raft.prs().get(to)
            && progress.state == ProgressState::Snapshot
            && arrived
        {
            let ticks = 0;
            self.taking_in.insert(to, TakingIn { index: progress.pending_snapshot, ticks });
        }
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raft.report_snapshot(to, status);
    }

    /// A leader waits for those that take in what was sent to them, but not for ever.
    pub(super) fn pass_time_of_snapshots(&mut self) {
        if !self.leads() {
            self.taking_in.clear();
        }
        let progress = self.raft.raft.prs();
        self.taking_in.retain(|replica, taking| {
            taking.ticks += 1;
            let is_behind = |held: &Progress| held.matched < taking.index;
            taking.ticks < TAKING_TICKS && progress.get(*replica).is_some_and(is_behind)
        });
    }

    /// From which entry on the log is kept: those that are sent a snapshot, or take one in, would need
    /// another one after it.
    pub(super) fn awaited(&self) -> Option<u64> {
        let progress = self.raft.raft.prs();
        let sent = progress.iter().filter(|(_, held)| held.state == ProgressState::Snapshot);
        // It comes, or fails, in bounded time.
        let sent = sent.map(|(_, held)| held.pending_snapshot);
        let taken = self.taking_in.iter().filter_map(|(replica, taking)| {
            progress.get(*replica).filter(|held| held.matched < taking.index).map(|_| taking.index)
        });
        sent.chain(taken).min()
    }

    pub(super) fn install(&mut self, ready: Ready, output: &mut Output<T>) -> Result<(), Error> {
        // Without a range it would not have been taken in.
        let unusable = raft::Error::Store(raft::StorageError::SnapshotOutOfDate);
        let descriptor = self.incoming.clone();
        let descriptor = descriptor.ok_or(Error::Raft { group: self.id, source: unusable })?;
        let metadata = ready.snapshot().get_metadata();
        let at = Truncated { index: metadata.index, term: metadata.term };
        // What is held back comes with it.
        for (_, ticket) in self.held.drain(..) {
            ticket.into_iter().for_each(|ticket| output.refuse(ticket, Refusal::Lost));
        }
        let (descriptor, keeps_log) = (Box::new(descriptor), false);
        output.events.push(Event::Install { descriptor, at, keeps_log });
        self.installing = Some(ready);
        Ok(())
    }

    /// The host has the data of a snapshot.
    pub(in crate::machine) fn note_installed(&mut self, descriptor: Descriptor) {
        self.installed = Some(descriptor);
    }

    /// If the host has the data of a snapshot: what the library waits for, and where the log begins.
    pub(in crate::machine) fn take_installed(&mut self) -> Option<(Ready, Truncated)> {
        let descriptor = self.installed.take()?;
        (self.incoming, self.needs_data) = (None, None);
        let ready = self.installing.take()?;
        let metadata = ready.snapshot().get_metadata();
        let at = Truncated { index: metadata.index, term: metadata.term };
        let log = self.raft.mut_store();
        log.set_conf_state(descriptor.membership.conf_state());
        log.restart(at);
        log.note_durable(at.index);
        self.handed = at.index;
        self.descriptor = Some(descriptor);
        self.peers.clear();
        Some((ready, at))
    }
}

/// Which range a snapshot is of; `None` if it does not say so.
pub(crate) fn described(group: GroupId, snapshot: &Snapshot) -> Option<Descriptor> {
    Descriptor::decode(group, snapshot.get_data()).ok()
}
