//! What a machine knows of its groups, for whoever plans.

use raft::ProgressState;

use super::{Group, Machine};
use crate::log::{GroupId, RaftLog};
use crate::range::Descriptor;

/// Entries that a replica may lack while more come, and be taken for one that has everything.
const ON_ITS_WAY: u64 = 1_024;

/// What is known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// The range, as far as the replica has come.
    pub descriptor: Descriptor,
    /// The term that it knows.
    pub term: u64,
    /// The term and the index of the last entry.
    pub last: (u64, u64),
    /// The store that leads, if it is known.
    pub leader: Option<u64>,
    /// No time passes for it, as it has nothing to do.
    pub is_asleep: bool,
    /// If this store leads: how far the other members are, each with its store.
    pub followers: Option<Vec<(u64, Progress)>>,
}

/// How far a member is, as its leader sees it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has everything, but for what is on its way.
    CaughtUp,
    /// It is sent entries that it lacks.
    Lagging,
    /// It is sent all the data.
    Snapshot,
    /// Nothing comes from its store.
    Silent,
}

impl<L: RaftLog, T> Machine<L, T> {
    /// What is known of each group whose range is here.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let is_lost = |store| self.peers.is_lost(store);
        self.groups.values().filter_map(|held| held.status(self.store, is_lost)).collect()
    }
}

impl<L: RaftLog, T> Group<L, T> {
    fn status(&self, me: u64, is_lost: impl Fn(u64) -> bool) -> Option<Status> {
        let descriptor = self.descriptor.clone()?;
        let raft = &self.raft.raft;
        let last = raft.raft_log.last_index();
        let progress = |store: u64, replica: u64| {
            let Some(held) = raft.prs().get(replica).filter(|_| !is_lost(store)) else {
                return Progress::Silent;
            };
            // The library goes on probing who has everything, until there is more to send.
            let lacks = last.saturating_sub(held.matched);
            match held.state {
                ProgressState::Snapshot => Progress::Snapshot,
                ProgressState::Replicate if lacks <= ON_ITS_WAY => Progress::CaughtUp,
                ProgressState::Probe if lacks == 0 => Progress::CaughtUp,
                ProgressState::Probe | ProgressState::Replicate => Progress::Lagging,
            }
        };
        let others = descriptor.membership.replicas().iter().filter(|other| other.store != me);
        let followers = self
            .leads()
            .then(|| others.map(|other| (other.store, progress(other.store, other.id))).collect());
        Some(Status {
            group: self.id,
            term: raft.term,
            last: (raft.raft_log.last_term(), last),
            leader: self.leader(),
            is_asleep: self.is_asleep,
            followers,
            descriptor,
        })
    }
}
