//! A range that this store answers from what it has applied, while the range's leader knows of it.
//!
//! To be asked before whatever must not be answered past what was acknowledged anywhere, once for a batch:
//! it costs a look at the clock and at one number. KV-010, DUR-012

use std::sync::Arc;

use super::{Reply, Shared, Word};
use crate::coprocessor::Reader;
use crate::host::{self, Lease};
use crate::log::GroupId;
use crate::machine::Input;

/// See the module. Good for as long as the range has these keys here; afterwards it says no for ever, and
/// another is to be had.
#[derive(Clone)]
pub struct Served {
    shared: Arc<Shared>,
    group: GroupId,
    lease: Arc<Lease>,
}

impl Served {
    pub(super) fn new(shared: Arc<Shared>, group: GroupId, lease: Arc<Lease>) -> Self {
        Self { shared, group, lease }
    }

    /// Whether what is applied here has everything that was acknowledged before this was asked. Who asks
    /// from time to time keeps it so, as far as the leader is reached. What is read afterwards has no
    /// less, as long as the range stays: [`read`](Self::read) looks after that, too.
    #[must_use]
    pub fn may_answer(&self) -> bool {
        let now = self.shared.clock.now();
        if self.lease.is_due(now) {
            self.ask(None);
        }
        self.lease.holds(now)
    }

    /// Has `reply` called without answers once this store may answer, or with why not: it was not to be had
    /// within a second, or the range is another. Whoever was told looks again before it answers, by what
    /// [`served`](super::Handle::served) gives then.
    pub fn wait(&self, reply: Reply) {
        self.ask(Some(reply));
    }

    /// Shows the data of the range, if this store may answer; false if not, and nothing that was shown
    /// counts then.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    pub fn read(
        &self,
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), ratatosk_engine::Error>,
    ) -> Result<bool, ratatosk_engine::Error> {
        let ends = self.lease.ends();
        let ranges = self.shared.ranges.read();
        let held = ranges.get(&self.group).cloned();
        drop(ranges);
        let held = held.filter(|held| Arc::ptr_eq(&held.lease, &self.lease));
        let Some(held) = held.filter(|_| self.may_answer()) else { return Ok(false) };
        let boundary = &held.descriptor.boundary;
        host::read_range(&*self.shared.overlay, held.space, boundary, read)?;
        // Data that goes, goes behind the end of what was lent.
        Ok(self.lease.ends() == ends)
    }

    fn ask(&self, ticket: Option<Reply>) {
        let input = Input::Serve { group: self.group, ticket };
        self.shared.inbox.push(Word::Input(input));
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Served").field("group", &self.group).finish_non_exhaustive()
    }
}
