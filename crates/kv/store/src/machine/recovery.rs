//! A group whose quorum is lost, brought back with one replica by order of an operator. KV-027

use raft::{GetEntriesContext, INVALID_ID, Storage as _};

use super::{Error, Event, Machine, Opened, Output};
use crate::host::{Refusal, Rest};
use crate::log::{GroupId, RaftLog};
use crate::range::{Descriptor, Version};

impl<L: RaftLog, T> Machine<L, T> {
    /// Has the host carry out what the log has, and go on without the other members.
    pub(super) fn recover(
        &mut self,
        group: GroupId,
        above: Version,
        ticket: T,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let Some(held) = self.called_on(group).filter(|held| held.descriptor.is_some()) else {
            output.refuse(ticket, Refusal::NotLeader);
            return Ok(());
        };
        if held.raft.raft.leader_id != INVALID_ID {
            output.refuse(ticket, Refusal::Led);
            return Ok(());
        }
        let (low, log) = (held.handed_to() + 1, held.raft.store());
        let raft_error = |source| Error::Raft { group, source };
        let high = log.last_index().map_err(raft_error)? + 1;
        let context = GetEntriesContext::empty(false);
        let entries = match low < high {
            true => log.entries(low, high, None, context).map_err(raft_error)?,
            false => Vec::new(),
        };
        // Nothing is heard any more by what it was.
        held.is_leaving = true;
        output.events.push(Event::Recover { rest: Rest { group, entries, above }, ticket });
        Ok(())
    }

    /// The host goes on with this replica alone, durably.
    pub(super) fn recovered(
        &mut self,
        descriptor: Descriptor,
        applied: u64,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let Some(held) = self.groups.remove(&descriptor.group) else { return Ok(()) };
        let state = held.state();
        held.give_up_behind(applied, output);
        let descriptor = Some(descriptor);
        self.open_again(Opened { descriptor, applied, ..Opened::without_range(state) })
    }
}
