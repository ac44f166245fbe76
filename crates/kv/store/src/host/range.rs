//! A range as the host has it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use raft::eraftpb::Entry;
use ratatosk_clock::SystemClock;
use ratatosk_engine::{Batch, Engine, Error, Overlay, SpaceId};

use super::Lease;
use crate::coprocessor::{Coprocessor, Position, Reign, SpaceReader, Writer};
use crate::log::GroupId;
use crate::range::{Applied, Descriptor};

use super::work::Work;

/// See the module.
pub(super) struct Range {
    pub(super) descriptor: Descriptor,
    pub(super) space: SpaceId,
    pub(super) coprocessor: SharedCoprocessor,
    pub(super) applied: Applied,
    /// Leads once the entry of this index is applied, in a term.
    pub(super) leads_from: Option<(u64, u64)>,
    /// The term in which it leads, with all before applied.
    pub(super) led: Option<u64>,
    /// The term of the reign that the coprocessor knows of.
    pub(super) reign: Option<u64>,
    /// The coprocessor has not derived yet what it needs of its keys.
    pub(super) is_parted: bool,
    pub(super) work: Arc<Work>,
    pub(super) lease: Arc<Lease>,
}

impl Drop for Range {
    /// The data goes, or another's takes its place.
    fn drop(&mut self) {
        self.lease.end();
        self.end_reign();
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

    /// The keys are others: whoever looks at what was lent for those before is to look anew, and the reign
    /// over them is over, until [`reset`](Self::reset).
    pub(super) fn part(&mut self) {
        self.lease.end();
        self.lease = Arc::default();
        self.end_reign();
        self.is_parted = true;
    }

    /// Derives anew what the coprocessor has of the data.
    pub(super) fn reset<E: Engine>(&mut self, overlay: &Overlay<E>) -> Result<(), Error> {
        let (boundary, view) = (&self.descriptor.boundary, overlay.view());
        let reader = SpaceReader::new(&view, self.space, boundary);
        self.coprocessor.write().reset(boundary, &reader)?;
        self.is_parted = false;
        self.begin_reign();
        Ok(())
    }

    /// Begins a reign, if there may be one. What was applied is visible.
    pub(super) fn begin_reign(&mut self) {
        let may = self.reign.is_none() && !self.is_parted && self.descriptor.frozen.is_none();
        if let Some(term) = self.led.filter(|_| may) {
            let reign = Reign { term, range: self.descriptor.clone() };
            self.reign = Some(term);
            self.coprocessor.write().lead(Some(&reign));
        }
    }

    /// Ends the reign, if there is one.
    pub(super) fn end_reign(&mut self) {
        if self.reign.take().is_some() {
            self.coprocessor.write().lead(None);
        }
    }

    /// It is not here any more, or another has its keys. First it is not served: whoever answers by what the
    /// coprocessor tells may do so until then.
    pub(super) fn leave(&mut self) {
        self.lease.end();
        self.end_reign();
        self.coprocessor.write().leave();
    }

    /// It is no leader any more, nor about to be.
    pub(super) fn follow(&mut self) {
        (self.leads_from, self.led) = (None, None);
        self.end_reign();
    }

    /// Whether an order to part the range at a key is one for its coprocessor.
    pub(super) fn parts_at(&self, key: &Bytes) -> bool {
        let parting = self.coprocessor.read().parting(&self.descriptor.boundary, key);
        parting.is_some_and(|parting| parting == *key)
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
