//! Where ranges part and end, and which of them has room beside the others.

use raft::eraftpb::Message;

use super::group::{Group, described};
use super::{Error, Event, Machine, Opened, Output, begin};
use crate::log::{GroupId, GroupState, LogBatch, LogChange, RaftLog, Truncated};
use crate::range::{BEGIN_INDEX, BEGIN_TERM, Descriptor};

impl<L: RaftLog, T> Machine<L, T> {
    /// Whether a snapshot's range has room beside the others. It may come before a split that makes
    /// that room, and comes again. KV-018
    pub(super) fn fits(&self, group: GroupId, message: &Message) -> bool {
        let Some(descriptor) = described(group, message.get_snapshot()) else { return false };
        let replica = descriptor.membership.of_store(self.store).map(|replica| replica.id);
        let mut others = self.groups.iter().filter(|(id, _)| **id != group);
        // What it has taken in elsewhere goes with it, unless another range here still takes that in.
        let is_awaited =
            |held: &Descriptor| held.overlaps(&descriptor) && self.is_awaited(held, &descriptor);
        let is_in_the_way = |held: &Group<L, T>| {
            held.is_in_the_way_of(&descriptor) || held.descriptor.as_ref().is_some_and(is_awaited)
        };
        replica == Some(message.to) && !others.any(|(_, held)| is_in_the_way(held))
    }

    pub(super) fn split(
        &mut self,
        left: Descriptor,
        right: Option<Box<Descriptor>>,
        batch: &mut LogBatch,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let held = self.groups.get_mut(&left.group);
        let leads = held.as_ref().is_some_and(|held| held.leads());
        if let Some(held) = held {
            held.descriptor = Some(left);
        }
        let Some(right) = right else { return Ok(()) };
        let Some(replica) = right.membership.of_store(self.store) else { return Ok(()) };
        let id = right.group;
        let mut state = GroupState { replica: replica.id, ..GroupState::new(id) };
        let mut was_at_work = false;
        if let Some(known) = self.groups.remove(&id) {
            if known.replica > replica.id {
                // The one that the split makes here was removed before, and another came.
                self.groups.insert(id, known);
                output.events.push(Event::Remove { group: id, replica: replica.id });
                return Ok(());
            }
            if known.replica == replica.id {
                // What it promised others counts, and so does what it wrote before a crash.
                state = known.state();
                was_at_work = true;
            }
        }
        if state.truncated.index < BEGIN_INDEX {
            begin(&mut state, Truncated { index: BEGIN_INDEX, term: BEGIN_TERM });
            state.push_beginning(batch);
        }
        let (descriptor, applied) = (Some(*right), BEGIN_INDEX);
        let opened = Opened { descriptor, applied, ..Opened::without_range(state) };
        match was_at_work {
            true => self.open_again(opened)?,
            false => self.open_group(opened)?,
        }
        if leads && let Some(held) = self.groups.get_mut(&id) {
            // Whoever led both leads both: the others would wait for a timeout.
            let campaign = held.raft.campaign();
            campaign.map_err(|source| Error::Raft { group: id, source })?;
        }
        Ok(())
    }

    /// A range is another from now on.
    pub(super) fn describe(&mut self, descriptor: Descriptor) {
        self.wake(descriptor.group);
        if let Some(held) = self.groups.get_mut(&descriptor.group) {
            held.descriptor = Some(descriptor);
        }
    }

    /// A range is no more here, durably, as the replica that it was.
    pub(super) fn removed(
        &mut self,
        group: GroupId,
        replica: u64,
        batch: &mut LogBatch,
        output: &mut Output<T>,
    ) {
        let highest = self.left.entry(group).or_default();
        *highest = replica.max(*highest);
        if self.groups.get(&group).is_some_and(|held| held.replica <= replica) {
            self.loans.forget(group, output);
            if let Some(held) = self.groups.remove(&group) {
                held.give_up(output);
            }
            self.dirty.remove(&group);
            self.announced.remove(&group);
            self.awake.remove(&group);
            batch.push(group, LogChange::Destroy);
        }
    }
}
