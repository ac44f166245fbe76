//! Groups that have nothing to do sleep, so that idle ones cost nothing.
//!
//! A leader whose members all have everything tells them so and goes to sleep with them: no time
//! passes for the group, and nothing is sent. Whatever concerns it wakes it: a proposal, a read, a
//! message. That its leader lives is seen by the store instead: the stores of a cluster tell each other
//! five times a second that they live, once for all groups. From whom nothing comes for a second wakes
//! the groups that it leads, and a leader is looked for at once: the second is longer than the lease of a
//! leader that had the answers of this store before they went to sleep. A store that has started anew
//! wakes them, too. KV-004
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
    /// Who was told to sleep in this step, each with the store that said so.
    drowsy: Vec<(u64, Sleep)>,
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

    /// Whether a store has a part in groups of this one.
    pub(super) fn knows(&self, store: u64) -> bool {
        self.known.contains_key(&store)
    }

    pub(super) fn is_lost(&self, store: u64) -> bool {
        self.known.get(&store).is_some_and(|peer| peer.is_lost)
    }
}

impl<L: RaftLog, T> Machine<L, T> {
    /// Says that this store lives, and looks who else does.
    pub(super) fn beat(&mut self, output: &mut Output<T>) {
        // Who is new is known soon enough with the next word, unless there is none to come.
        if self.now < self.peers.next_beat && !self.peers.known.is_empty() {
            return;
        }
        if std::mem::take(&mut self.peers.is_stale) {
            self.find_peers();
        }
        if self.now < self.peers.next_beat {
            return;
        }
        self.peers.next_beat = self.now + BEAT;
        let (mut lost, word) = (Vec::new(), self.word());
        for (store, peer) in &mut self.peers.known {
            output.beats.push((*store, word.clone()));
            if !peer.is_lost && self.now.since(peer.heard) > LOST {
                peer.is_lost = true;
                lost.push(*store);
            }
        }
        for store in lost {
            self.wake_those_with(store, true);
        }
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
            // The number may be an old one that was long on its way, so nothing is known of the leases.
            self.wake_those_with(from, false);
        }
    }

    /// Wakes the groups that have to do with a store which came or is lost. Those that a lost one leads
    /// look for a leader soon; so do those that somebody woke before who had missed it earlier.
    fn wake_those_with(&mut self, store: u64, is_lost: bool) {
        for (id, held) in &mut self.groups {
            let members = held.descriptor.as_ref().map(|range| &range.membership);
            if !(held.is_asleep || held.has_slept)
                || members.is_none_or(|held| held.of_store(store).is_none())
            {
                continue;
            }
            if is_lost && held.leader() == Some(store) {
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

    /// A leader says that there is nothing to do. Its last heartbeat came just before, as a rule, and is
    /// to be answered first.
    pub(super) fn sleep(&mut self, from: u64, told: Sleep) {
        self.peers.drowsy.push((from, told));
    }

    /// Has those go to sleep that were told to and have nothing to do; called when all is written.
    pub(super) fn obey_sleeps(&mut self) {
        for (from, told) in std::mem::take(&mut self.peers.drowsy) {
            let peer = self.peers.known.get_mut(&from).filter(|peer| !peer.is_lost);
            let Some(peer) = peer else {
                continue;
            };
            let Some(held) = self.groups.get_mut(&told.group) else { continue };
            if held.leader() == Some(from) && held.has_no_more_than(told) {
                (held.is_asleep, held.has_slept) = (true, true);
                self.awake.remove(&told.group);
                // Words that were lost before do not count: the leader may read by what it was told last.
                peer.heard = self.now;
            }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft::eraftpb::{Message, MessageType};

    use super::*;
    use crate::log::{GroupState, MemoryLog};
    use crate::machine::{Beat, Envelope, Input, Opened, begin};
    use crate::membership::{Membership, Target};
    use crate::range::{BEGIN_INDEX, BEGIN_TERM, Descriptor};

    const GROUP: GroupId = GroupId(1);
    /// Of the leader, which is store 2.
    const TERM: u64 = 6;

    type Small = Machine<MemoryLog, u64>;

    /// A range of three stores.
    fn range() -> Descriptor {
        let target = Target { voters: [1, 2, 3].into(), ..Target::default() };
        let step = Membership::alone(1).toward(&target).expect("a step");
        let membership = step.membership.left();
        Descriptor { membership, ..Descriptor::whole(GROUP, "k".to_owned(), 1) }
    }

    fn state() -> GroupState {
        let mut state = GroupState { replica: 1, ..GroupState::new(GROUP) };
        let at = crate::log::Truncated { index: BEGIN_INDEX, term: BEGIN_TERM };
        begin(&mut state, at);
        state
    }

    fn machine(groups: Vec<Opened>) -> Small {
        let mut machine =
            Small::open(Arc::new(MemoryLog::default()), 1, groups, []).expect("whole");
        step(&mut machine, 1_000, Vec::new());
        machine
    }

    fn member() -> Opened {
        let (descriptor, applied) = (Some(range()), BEGIN_INDEX);
        Opened { descriptor, applied, ..Opened::without_range(state()) }
    }

    /// What it says to others.
    fn step(machine: &mut Small, millis: u64, inputs: Vec<Input<u64>>) -> Vec<MessageType> {
        let mut output = Output::default();
        machine.step(Instant::from_millis(millis), inputs, &mut output).expect("memory");
        while machine.is_dirty() {
            machine.step(Instant::from_millis(millis), [], &mut output).expect("memory");
        }
        output.messages.iter().map(|(_, envelope)| envelope.message.get_msg_type()).collect()
    }

    fn from(store: u64, kind: MessageType, term: u64) -> Input<u64> {
        let mut message = Message { from: store, to: 1, term, ..Message::default() };
        message.set_msg_type(kind);
        (message.commit, message.index, message.log_term) = (BEGIN_INDEX, BEGIN_INDEX, BEGIN_TERM);
        Input::Message { from: store, envelope: Box::new(Envelope { group: GROUP, message }) }
    }

    fn heartbeat() -> Input<u64> {
        from(2, MessageType::MsgHeartbeat, TERM)
    }

    fn asks_for_vote() -> Input<u64> {
        from(3, MessageType::MsgRequestPreVote, TERM + 1)
    }

    fn sleep() -> Input<u64> {
        let sleep = Sleep { group: GROUP, replica: 1, term: TERM, index: BEGIN_INDEX };
        Input::Sleep { from: 2, sleep }
    }

    fn lives(life: u64) -> Input<u64> {
        Input::Beat { from: 2, beat: Beat { life, ..Beat::default() } }
    }

    /// KV-004: nobody asks for a vote before the leader is lost, and then it is given at once.
    #[test]
    fn a_group_that_sleeps_looks_for_a_leader_when_the_store_of_its_leader_is_lost() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        step(&mut machine, 2_500, vec![lives(1), sleep()]);
        assert_eq!(machine.awake().count(), 0);
        step(&mut machine, 3_400, Vec::new());
        assert_eq!(machine.awake().count(), 0, "the store may live");
        step(&mut machine, 3_800, Vec::new());
        assert_eq!(machine.awake().collect::<Vec<_>>(), [GROUP]);
        let said = step(&mut machine, 3_850, vec![asks_for_vote()]);
        assert_eq!(said, [MessageType::MsgRequestPreVoteResponse]);
    }

    /// KV-004: whoever misses the leader first asks those who do not miss it yet.
    #[test]
    fn a_vote_that_is_asked_for_too_early_does_not_delay_the_search_for_a_leader() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        step(&mut machine, 2_500, vec![lives(1), sleep()]);
        assert_eq!(step(&mut machine, 3_450, vec![asks_for_vote()]), []);
        let said = (3_500..=4_400).step_by(50).map(|millis| (millis, Vec::new()));
        let mut said = said.map(|(millis, inputs)| (millis, step(&mut machine, millis, inputs)));
        let first = said.find(|(_, said)| said.contains(&MessageType::MsgRequestPreVote));
        assert!(first.is_some_and(|(millis, _)| millis <= 4_200), "it waits for a whole timeout");
    }

    /// KV-004: stores do not miss another in the same moment.
    #[test]
    fn a_group_that_was_woken_by_another_still_looks_for_a_leader_when_the_store_is_lost() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        step(&mut machine, 2_500, vec![lives(1), sleep()]);
        assert_eq!(step(&mut machine, 3_400, vec![asks_for_vote()]), [], "the store may live");
        step(&mut machine, 3_800, Vec::new());
        let said = step(&mut machine, 3_850, vec![asks_for_vote()]);
        assert_eq!(said, [MessageType::MsgRequestPreVoteResponse]);
    }

    /// KV-003: whoever hears nobody asks first whether it would be elected: its term disturbs nobody then.
    #[test]
    fn a_member_that_is_cut_off_asks_again_and_again_and_keeps_its_term() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        let said = (2_500..=12_000).step_by(50);
        let said: Vec<_> = said.flat_map(|millis| step(&mut machine, millis, Vec::new())).collect();
        let asked = said.iter().filter(|kind| **kind == MessageType::MsgRequestPreVote);
        assert!(asked.count() >= 4, "{said:?}");
        assert!(!said.contains(&MessageType::MsgRequestVote), "{said:?}");
    }

    /// KV-009: what it has promised its leader since it was woken counts.
    #[test]
    fn a_group_that_has_heard_its_leader_since_it_was_woken_has_patience() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        step(&mut machine, 2_500, vec![lives(1), sleep()]);
        step(&mut machine, 3_400, vec![heartbeat()]);
        step(&mut machine, 3_800, Vec::new());
        assert_eq!(step(&mut machine, 3_850, vec![asks_for_vote()]), []);
    }

    /// KV-004: the two go together, for the leader goes to sleep behind its heartbeat.
    #[test]
    fn a_heartbeat_and_the_word_to_sleep_may_come_at_once() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        let said = step(&mut machine, 2_500, vec![lives(1), heartbeat(), sleep()]);
        assert_eq!(said, [MessageType::MsgHeartbeatResponse]);
        assert_eq!(machine.awake().count(), 0);
    }

    /// KV-009: the leader reads by the answer to its heartbeat for a while, however long ago the last word
    /// of its store came.
    #[test]
    fn who_has_gone_to_sleep_votes_for_nobody_as_long_as_its_leader_may_read() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_000, vec![lives(1)]);
        step(&mut machine, 2_980, vec![heartbeat()]);
        step(&mut machine, 2_990, vec![sleep()]);
        assert_eq!(machine.awake().count(), 0);
        step(&mut machine, 3_200, Vec::new());
        assert_eq!(step(&mut machine, 3_300, vec![asks_for_vote()]), []);
    }

    /// KV-009: a number of an earlier start may come late, and takes nothing back.
    #[test]
    fn an_old_word_of_the_leader_s_store_does_not_end_what_was_promised() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        step(&mut machine, 2_500, vec![lives(2), sleep()]);
        assert_eq!(machine.awake().count(), 0);
        step(&mut machine, 2_600, vec![lives(1)]);
        assert_eq!(machine.awake().count(), 1);
        assert_eq!(step(&mut machine, 2_700, vec![asks_for_vote()]), []);
    }

    /// KV-004: a leader whose store starts anew needs the votes of those whom its last word puts to sleep late.
    #[test]
    fn a_leader_that_asks_for_votes_wakes_whom_an_old_word_of_it_put_to_sleep() {
        let mut machine = machine(vec![member()]);
        step(&mut machine, 2_490, vec![heartbeat()]);
        step(&mut machine, 2_500, vec![lives(1)]);
        step(&mut machine, 2_600, vec![lives(2)]);
        step(&mut machine, 2_610, vec![sleep()]);
        assert_eq!(machine.awake().count(), 0);
        let asks = || from(2, MessageType::MsgRequestPreVote, TERM + 1);
        let said = (3_000..=9_000).step_by(100).flat_map(|millis| {
            let inputs = if millis % 1_000 == 0 { vec![lives(2), asks()] } else { vec![lives(2)] };
            step(&mut machine, millis, inputs)
        });
        let said: Vec<MessageType> = said.collect();
        assert!(said.contains(&MessageType::MsgRequestPreVoteResponse), "{said:?}");
    }

    /// KV-009: a group that is opened again, for its range has come, does not know what it promised.
    #[test]
    fn a_group_whose_range_has_come_votes_for_nobody_at_first() {
        let mut machine = machine(Vec::new());
        let mut first = Message { from: 2, to: 1, term: TERM, ..Message::default() };
        first.set_msg_type(MessageType::MsgHeartbeat);
        let envelope = Box::new(Envelope { group: GROUP, message: first });
        let said = step(&mut machine, 2_500, vec![Input::Message { from: 2, envelope }]);
        assert_eq!(said, [MessageType::MsgHeartbeatResponse]);
        let left = Box::new(Descriptor::whole(GroupId(9), "k".to_owned(), 1));
        let right = Some(Box::new(range()));
        step(&mut machine, 2_600, vec![Input::Split { left, right }]);
        assert_eq!(step(&mut machine, 3_500, vec![asks_for_vote()]), []);
        let said = step(&mut machine, 3_700, vec![asks_for_vote()]);
        assert_eq!(said, [MessageType::MsgRequestPreVoteResponse]);
    }
}
