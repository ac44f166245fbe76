//! A range as the host has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use raft::eraftpb::Entry;
use ratatosk_engine::{Batch, Engine, Error, Overlay, SpaceId};

use crate::coprocessor::{Coprocessor, Position, SpaceReader, Writer};
use crate::log::GroupId;
use crate::range::{Applied, Descriptor};

/// See the module.
pub(super) struct Range {
    pub(super) descriptor: Descriptor,
    pub(super) space: SpaceId,
    pub(super) coprocessor: Shared,
    pub(super) applied: Applied,
    /// Leads once the entry of this index is applied.
    pub(super) leads_from: Option<u64>,
    pub(super) is_leader: bool,
    pub(super) work: Arc<Work>,
}

/// What a range had to do since it is here. Any thread may look.
#[derive(Debug, Default)]
pub(crate) struct Work {
    entries: AtomicU64,
    bytes: AtomicU64,
}

/// What was applied to a range.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// Entries with commands.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Work {
    pub(crate) fn so_far(&self) -> Worked {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Worked { entries: read(&self.entries), bytes: read(&self.bytes) }
    }
}

pub(super) type Shared = Arc<RwLock<Box<dyn Coprocessor>>>;

impl Range {
    pub(super) fn corrupt(&self, entry: &Entry, what: &str) -> Error {
        corrupt(entry, self.descriptor.group, what)
    }

    pub(super) fn reach(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.index <= self.applied.index {
            return Err(self.corrupt(entry, "was applied already"));
        }
        self.applied = Applied { index: entry.index, term: entry.term, ..self.applied };
        Ok(())
    }

    /// Derives anew what the coprocessor has of the data.
    pub(super) fn reset<E: Engine>(&mut self, overlay: &Overlay<E>) -> Result<(), Error> {
        let (boundary, view) = (&self.descriptor.boundary, overlay.view());
        let reader = SpaceReader::new(&view, self.space, boundary);
        self.coprocessor.write().reset(boundary, &reader)
    }

    pub(super) fn apply<E: Engine>(
        &self,
        overlay: &Overlay<E>,
        entry: &Entry,
        commands: &[Bytes],
        changes: &mut Batch,
    ) -> Result<Vec<Bytes>, Error> {
        self.work.entries.fetch_add(1, Ordering::Relaxed);
        self.work.bytes.fetch_add(entry.data.len() as u64, Ordering::Relaxed);
        let mut coprocessor = self.coprocessor.write();
        let mut answers = Vec::with_capacity(commands.len());
        for (number, command) in (0..).zip(commands) {
            let position = Position { index: entry.index, number };
            let mut writer = Writer::new(overlay, self.space, &self.descriptor.boundary, changes);
            answers.push(coprocessor.apply(position, command, &mut writer)?);
        }
        Ok(answers)
    }
}

/// What an entry of a group does not make sense for.
pub(super) fn corrupt(entry: &Entry, group: GroupId, what: &str) -> Error {
    Error::Corrupt { detail: format!("entry {} of group {} {what}", entry.index, group.0) }
}
