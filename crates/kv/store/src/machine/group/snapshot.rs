//! A group whose range comes from another store.

use raft::eraftpb::Snapshot;
use raft::{Ready, SnapshotStatus};

use super::{Error, Event, Group, Output};
use crate::host::Refusal;
use crate::log::{GroupId, RaftLog, Truncated};
use crate::range::Descriptor;

impl<L: RaftLog, T> Group<L, T> {
    /// Whether the library has taken in a snapshot of which nothing is done yet. What the host says of
    /// entries before it comes too late.
    pub(in crate::machine) fn has_snapshot(&self) -> bool {
        self.raft.snap().is_some()
    }

    pub(in crate::machine) fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raft.report_snapshot(to, status);
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
