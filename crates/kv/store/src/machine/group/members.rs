//! How a group's members change.

use raft::eraftpb::ConfChangeV2;
use ratatosk_engine::wire;

use super::{Error, Group, Output};
use crate::host::Refusal;
use crate::log::RaftLog;
use crate::membership::{NoStep, Replica, Role, Target};
use crate::range::{Descriptor, Version};

impl<L: RaftLog, T> Group<L, T> {
    /// The range, if it does not have the version that somebody goes by.
    pub(in crate::machine) fn is_other_than(
        &self,
        expected: Option<Version>,
    ) -> Option<Box<Descriptor>> {
        let is_other = |held: &&Descriptor| expected.is_some_and(|version| version != held.version);
        self.descriptor.as_ref().filter(is_other).cloned().map(Box::new)
    }

    /// Proposes the next step to a target.
    pub(in crate::machine) fn change(
        &mut self,
        expected: Option<Version>,
        target: &Target,
        ticket: T,
        output: &mut Output<T>,
    ) {
        let other = self.is_other_than(expected);
        let descriptor = self.descriptor.as_ref().filter(|_| self.leads() && !self.is_leaving);
        let Some(descriptor) = descriptor else {
            output.refuse(ticket, Refusal::NotLeader);
            return;
        };
        if let Some(other) = other {
            output.refuse(ticket, Refusal::Version(other));
            return;
        }
        let step = match descriptor.membership.toward(target) {
            // The library would take an entry that says nothing in its place.
            Ok(_) if self.raft.raft.has_pending_conf() || !descriptor.is_at_rest() => {
                Err(NoStep::Underway)
            }
            step => step,
        };
        match step {
            Err(reason) => output.refuse(ticket, Refusal::Step(reason)),
            Ok(step) => {
                let mut context = Vec::new();
                wire::put_u64(&mut context, descriptor.version.boundary);
                wire::put_u64(&mut context, descriptor.version.config);
                step.membership.encode(&mut context);
                match self.raft.propose_conf_change(context, step.change) {
                    Ok(()) => self.note_proposal(ticket),
                    Err(_) => output.refuse(ticket, Refusal::NotLeader),
                }
            }
        }
    }

    /// A leader ends a joint configuration once it is applied, or has one do it that votes afterwards: it
    /// would know alone that it has ended, and those who do not could not do without its vote, nor get it
    /// if they lack an entry of its.
    pub(in crate::machine) fn leave_joint(&mut self) {
        let joint = self.descriptor.as_ref().filter(|held| held.membership.is_joint());
        let Some(left) = joint.map(|held| held.membership.left()) else { return };
        if !self.leads() || !self.is_at_work() || self.raft.raft.has_pending_conf() {
            return;
        }
        let votes = |replica: &&Replica| replica.role == Role::Voter;
        let mut voters = left.replicas().iter().filter(votes);
        if voters.any(|replica| replica.id == self.replica) {
            // A leader that hands over its office now takes none: the next one will.
            let _ = self.raft.propose_conf_change(Vec::new(), ConfChangeV2::default());
            return;
        }
        let progress = self.raft.raft.prs();
        let matched = |replica: &&Replica| progress.get(replica.id).map_or(0, |held| held.matched);
        let next = left.replicas().iter().filter(votes).max_by_key(matched);
        if let Some(next) = next.map(|replica| replica.id) {
            self.hand_over(next);
        }
    }

    pub(in crate::machine) fn configured(
        &mut self,
        change: &ConfChangeV2,
        descriptor: Descriptor,
    ) -> Result<(), Error> {
        let conf_state = descriptor.membership.conf_state();
        let votes = [&conf_state.voters, &conf_state.voters_outgoing];
        if self.leads() && votes.iter().all(|voters| !voters.contains(&self.replica)) {
            // The library would go on leading, and fall over its own absence.
            let term = self.raft.raft.term;
            self.raft.raft.become_follower(term, raft::INVALID_ID);
        }
        let applied = self.raft.apply_conf_change(change);
        let conf_state = applied.map_err(|source| Error::Raft { group: self.id, source })?;
        self.raft.mut_store().set_conf_state(conf_state);
        self.descriptor = Some(descriptor);
        self.peers.clear();
        Ok(())
    }
}
