//! Groups that have nothing to do sleep, so that idle ones cost nothing.
//!
//! A leader whose members all have everything tells them so and goes to sleep with them: no time
//! passes for the group, and nothing is sent. Whatever concerns it wakes it: a proposal, a read, a
//! message. That its leader lives is seen by the store instead: the stores of a cluster tell each other
//! five times a second that they live, once for all groups. From whom nothing comes for a second wakes
//! the groups that it leads, and a leader is looked for at once; so does a store that has started anew.
//! KV-004
//!
//! A word that gets lost costs time only: who was not told to sleep waits for the leader, asks for votes,
//! and wakes it by that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft::ProgressState;
use ratatosk_clock::Instant;

use super::{Group, Machine, Output};
use crate::log::{GroupId, RaftLog};

/// Time between two words of a store.
const BEAT: Duration = Duration::from_millis(200);
/// Who is silent for so long is lost.
const LOST: Duration = Duration::from_millis(1_000);
/// Ticks without anything to do after which a leader goes to sleep: three election timeouts.
pub(super) const SLEEP_TICKS: usize = 30;

/// A leader has nothing to do, and neither has this replica, if it has as much.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sleep {
    /// The group.
    pub group: GroupId,
    /// Who is told.
    pub replica: u64,
    /// The leader's term.
    pub term: u64,
    /// The last entry, which is committed.
    pub index: u64,
}

/// What a machine knows of the other stores.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Of this store: another number after each start.
    pub(super) life: u64,
    /// The stores that have a part in groups of this one.
    known: BTreeMap<u64, Peer>,
    /// Ranges have other members since that was found out.
    pub(super) is_stale: bool,
    next_beat: Instant,
}

#[derive(Debug)]
struct Peer {
    life: Option<u64>,
    heard: Instant,
    is_lost: bool,
}

impl Peers {
    pub(super) fn next_beat(&self) -> Option<Instant> {
        (!self.known.is_empty()).then_some(self.next_beat)
    }

    fn is_lost(&self, store: u64) -> bool {
        self.known.get(&store).is_some_and(|peer| peer.is_lost)
    }
}

impl<L: RaftLog, T> Machine<L, T> {
    /// Says that this store lives, and looks who else does.
    pub(super) fn beat(&mut self, output: &mut Output<T>) {
        if std::mem::take(&mut self.peers.is_stale) {
            self.find_peers();
        }
        if self.now < self.peers.next_beat {
            return;
        }
        self.peers.next_beat = self.now + BEAT;
        let mut lost = BTreeSet::new();
        for (store, peer) in &mut self.peers.known {
            output.beats.push((*store, self.peers.life));
            if !peer.is_lost && self.now.since(peer.heard) > LOST {
                peer.is_lost = true;
                lost.insert(*store);
            }
        }
        self.wake_those_with(&lost);
    }

    fn find_peers(&mut self) {
        let descriptors = self.groups.values().filter_map(|held| held.descriptor.as_ref());
        let members = descriptors.flat_map(|held| held.membership.replicas());
        let stores: BTreeSet<u64> =
            members.map(|replica| replica.store).filter(|store| *store != self.store).collect();
        self.peers.known.retain(|store, _| stores.contains(store));
        for store in stores {
            let peer = || Peer { life: None, heard: self.now, is_lost: false };
            self.peers.known.entry(store).or_insert_with(peer);
        }
    }

    /// Another store lives.
    pub(super) fn hear(&mut self, from: u64, life: u64) {
        let Some(peer) = self.peers.known.get_mut(&from) else { return };
        peer.heard = self.now;
        let was_lost = std::mem::take(&mut peer.is_lost);
        let is_new = peer.life.replace(life).is_some_and(|known| known != life);
        if was_lost || is_new {
            self.wake_those_with(&BTreeSet::from([from]));
        }
    }

    /// Wakes the groups that have to do with stores which came or went. Those that they lead look for a
    /// leader soon.
    fn wake_those_with(&mut self, stores: &BTreeSet<u64>) {
        if stores.is_empty() {
            return;
        }
        for (id, held) in &mut self.groups {
            let mut members = held.descriptor.iter().flat_map(|range| range.membership.replicas());
            if !held.is_asleep || !members.any(|replica| stores.contains(&replica.store)) {
                continue;
            }
            if held.leader().is_some_and(|leader| stores.contains(&leader)) {
                held.grow_impatient();
            }
            held.wake();
            self.awake.insert(*id);
        }
    }

    pub(super) fn wake(&mut self, group: GroupId) {
        let Some(held) = self.groups.get_mut(&group) else { return };
        if held.is_asleep {
            self.awake.insert(group);
        }
        held.wake();
    }

    /// Has those go to sleep that have nothing to do; called once a tick.
    pub(super) fn fall_asleep(&mut self, output: &mut Output<T>) {
        let peers = &self.peers;
        let (groups, sleep_ticks) = (&mut self.groups, self.sleep_ticks);
        self.awake.retain(|id| {
            let Some(held) = groups.get_mut(id) else { return false };
            if held.idle_ticks < sleep_ticks || !held.may_sleep(|store| peers.is_lost(store)) {
                return true;
            }
            held.is_asleep = true;
            held.tell_to_sleep(self.store, output);
            false
        });
    }

    /// A leader says that there is nothing to do.
    pub(super) fn sleep(&mut self, from: u64, told: Sleep) {
        let is_lost = self.peers.is_lost(from) || !self.peers.known.contains_key(&from);
        let Some(held) = self.groups.get_mut(&told.group).filter(|_| !is_lost) else { return };
        if held.leader() == Some(from) && held.has_no_more_than(told) {
            held.is_asleep = true;
            self.awake.remove(&told.group);
        }
    }
}

impl<L: RaftLog, T> Group<L, T> {
    pub(super) fn wake(&mut self) {
        self.is_asleep = false;
        self.idle_ticks = 0;
    }

    /// Whether it leads, and nobody who lives lacks anything.
    fn may_sleep(&self, is_lost: impl Fn(u64) -> bool) -> bool {
        let raft = &self.raft.raft;
        let last = raft.raft_log.last_index();
        let Some(range) = self.descriptor.as_ref().filter(|range| range.is_at_rest()) else {
            return false;
        };
        let is_done = raft.raft_log.committed == last
            && raft.raft_log.applied == last
            && raft.lead_transferee.is_none()
            && raft.commit_to_current_term();
        let has_all = |replica: &crate::membership::Replica| {
            is_lost(replica.store)
                || raft.prs().get(replica.id).is_some_and(|held| {
                    held.matched == last && held.state != ProgressState::Snapshot
                })
        };
        let voters = range.membership.target().voters;
        let alive = voters.iter().filter(|store| !is_lost(**store)).count();
        self.leads()
            && self.is_at_work()
            && is_done
            && self.reads.is_empty()
            && alive * 2 > voters.len()
            && range.membership.replicas().iter().all(has_all)
    }

    fn tell_to_sleep(&self, me: u64, output: &mut Output<T>) {
        let (term, index) = (self.raft.raft.term, self.raft.raft.raft_log.last_index());
        for replica in self.descriptor.iter().flat_map(|range| range.membership.replicas()) {
            if replica.store != me {
                let sleep = Sleep { group: self.id, replica: replica.id, term, index };
                output.sleeps.push((replica.store, sleep));
            }
        }
    }

    /// Whether it follows in this term and has nothing to do but what the leader has done.
    fn has_no_more_than(&self, told: Sleep) -> bool {
        let (raft, log) = (&self.raft.raft, &self.raft.raft.raft_log);
        let is_done = log.last_index() == told.index
            && log.committed == told.index
            && log.applied == told.index;
        let is_it = self.replica == told.replica && raft.term == told.term && !self.leads();
        is_it && is_done && self.is_at_work() && !self.raft.has_ready()
    }

    /// An election timeout is over, but for the part that is different for each.
    fn grow_impatient(&mut self) {
        self.raft.raft.election_elapsed = super::group::ELECTION_TICKS;
    }
}
