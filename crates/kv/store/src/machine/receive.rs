//! What other stores say to a group, known or not.

use raft::eraftpb::MessageType;

use super::group::{Group, asks_for_vote, introduces};
use super::{Envelope, Error, Event, Machine, Opened, Output};
use crate::log::{GroupId, GroupState, LogBatch, LogChange, RaftLog};

impl<L: RaftLog, T> Machine<L, T> {
    pub(super) fn receive(
        &mut self,
        from: u64,
        envelope: Envelope,
        batch: &mut LogBatch,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let Envelope { group, message } = envelope;
        let may_have_promised = self.votes_from.is_none_or(|from| self.now < from)
            || self.groups.get(&group).is_some_and(|held| self.now < held.votes_from);
        if may_have_promised && asks_for_vote(&message) {
            return Ok(());
        }
        match self.groups.get(&group) {
            Some(held) if message.to > held.replica => {
                // Whoever sent it knows that the one that this is was removed.
                self.leave(group, message.to - 1, output);
                return Ok(());
            }
            Some(held) if message.to < held.replica => return Ok(()),
            Some(_) => {}
            None => {
                let was_here = self.left.get(&group).is_some_and(|left| *left >= message.to);
                if was_here || !introduces(&message) {
                    return Ok(());
                }
                self.meet(group, message.to, batch)?;
            }
        }
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        if is_snapshot && (!self.fits(group, &message) || self.fill(group, &message, output)) {
            return Ok(());
        }
        // It would not be given; and whoever woke for it would not notice that its leader is lost. But a leader
        // that asks leads no more: the word to sleep was one of its former life, and long on its way.
        if asks_for_vote(&message) && self.sleeps_well(group, from) {
            return Ok(());
        }
        // Answers to the last word before it went to sleep do not wake a leader.
        if message.get_msg_type() != MessageType::MsgHeartbeatResponse {
            self.wake(group);
        }
        if let Some(held) = self.at_work(group) {
            held.step(from, message);
        }
        Ok(())
    }

    /// Whether a group sleeps behind a leader other than this store, whose store lives, as far as is known.
    fn sleeps_well(&self, group: GroupId, other: u64) -> bool {
        let sleeps = |held: &&Group<L, T>| held.is_asleep && !held.leads();
        let leader = self.groups.get(&group).filter(sleeps).and_then(Group::leader);
        leader.is_some_and(|store| store != other && !self.peers.is_lost(store))
    }

    /// Takes note of a group that others have this store in.
    fn meet(&mut self, id: GroupId, replica: u64, batch: &mut LogBatch) -> Result<(), Error> {
        let state = GroupState { replica, ..GroupState::new(id) };
        batch.push(id, LogChange::Replica(replica));
        self.open_group(Opened::without_range(state))
    }

    /// Has the host remove a group of which this store is no member any more.
    pub(super) fn leave(&mut self, group: GroupId, replica: u64, output: &mut Output<T>) {
        let held = self.groups.get_mut(&group).filter(|held| held.replica <= replica);
        if let Some(held) = held.filter(|held| held.is_at_work()) {
            held.is_leaving = true;
            output.events.push(Event::Remove { group, replica: held.replica });
        }
    }
}
