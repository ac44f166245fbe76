//! A range as the host has it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use raft::eraftpb::Entry;
use ratatosk_clock::SystemClock;
use ratatosk_engine::{Batch, Engine, Error, Overlay, SpaceId};

use super::Lease;
use crate::coprocessor::{Coprocessor, Position, SpaceReader, Writer};
use crate::log::GroupId;
use crate::range::{Applied, Descriptor};

use super::work::Work;

/// See the module.
pub(super) struct Range {
    pub(super) descriptor: Descriptor,
    pub(super) space: SpaceId,
    pub(super) coprocessor: SharedCoprocessor,
    pub(super) applied: Applied,
    /// Leads once the entry of this index is applied.
    pub(super) leads_from: Option<u64>,
    pub(super) is_leader: bool,
    pub(super) work: Arc<Work>,
    pub(super) lease: Arc<Lease>,
}

impl Drop for Range {
    /// The data goes, or another's takes its place.
    fn drop(&mut self) {
        self.lease.end();
    }
}

pub(crate) type SharedCoprocessor = Arc<RwLock<Box<dyn Coprocessor>>>;

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

    /// The keys are others: whoever looks at what was lent for those before is to look anew.
    pub(super) fn part_from_lease(&mut self) {
        self.lease.end();
        self.lease = Arc::default();
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
        clock: Option<&SystemClock>,
    ) -> Result<Vec<Bytes>, Error> {
        self.work.add_entry(entry.data.len());
        let begun = clock.map(SystemClock::now);
        let mut coprocessor = self.coprocessor.write();
        let mut answers = Vec::with_capacity(commands.len());
        for (number, command) in (0..).zip(commands) {
            let position = Position { index: entry.index, number };
            let Descriptor { boundary, edition, .. } = &self.descriptor;
            let writer = Writer::new(overlay, self.space, boundary, changes);
            let watches = self.work.watches_next();
            let mut writer = writer.in_edition(*edition).watched(watches);
            answers.push(coprocessor.apply(position, command, &mut writer)?);
            self.work.add_command(writer.operations(), writer.first_key());
        }
        if let Some((clock, begun)) = clock.zip(begun) {
            self.work.add_busy(clock.now().since(begun));
        }
        Ok(answers)
    }
}

/// What an entry of a group does not make sense for.
pub(super) fn corrupt(entry: &Entry, group: GroupId, what: &str) -> Error {
    Error::Corrupt { detail: format!("entry {} of group {} {what}", entry.index, group.0) }
}
