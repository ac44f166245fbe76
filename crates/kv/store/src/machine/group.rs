//! One Raft group of the node: the library's state, and who waits for what.

mod commit;
mod dataless;
mod members;
mod proposals;
mod reads;
mod snapshot;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message};
use raft::{RawNode, Ready, StateRole};
use ratatosk_clock::Instant;

use super::{Ask, Committed, Envelope, Error, Event, Opened, Output, TICK};
use crate::host::Refusal;
use crate::log::{GroupId, GroupLog, GroupState, RaftLog, Truncated};
use crate::membership::{Membership, Role};
use crate::range::{Descriptor, Fate};
use proposals::Gathered;
use reads::Reads;
pub(super) use reads::{Borrow, LEASE, VOTELESS, asks_for_vote};
use snapshot::TakingIn;
pub(crate) use snapshot::described;

/// Ticks without a word from the leader before an election; at most half as many more.
pub(super) const ELECTION_TICKS: usize = TIMEOUT as usize;
const TIMEOUT: u32 = 10;
/// Ticks between two words of the leader.
const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries that are read from the log at once, after a restart.
const REPLAY_BYTES: u64 = 4 << 20;
/// Bytes of applied entries that a group keeps in memory.
const CACHE_BYTES: usize = 1 << 20;
/// Bytes of proposals that may wait for their commit: with more the leader refuses.
const UNCOMMITTED_BYTES: u64 = 64 << 20;
/// Ticks without a leader's word after which a replica asks whether it is a member still, and ticks
/// until it asks again.
const QUIET_TICKS: usize = 2 * ELECTION_TICKS;
const ASK_TICKS: usize = ELECTION_TICKS;
/// Ticks after which a replica that waits for a split asks for a snapshot instead.
const WAITING_TICKS: usize = 5 * ELECTION_TICKS;

/// How long so many ticks take.
const fn ticks(count: u32) -> Duration {
    TICK.saturating_mul(count)
}

/// See the module.
pub(super) struct Group<L: RaftLog, T> {
    pub(super) id: GroupId,
    pub(super) raft: RawNode<GroupLog<L>>,
    /// Which replica this store is.
    pub(super) replica: u64,
    /// `None` while nothing but that is known: the range comes with a split or a snapshot.
    pub(super) descriptor: Option<Descriptor>,
    /// The term that the host was told of.
    led: Option<u64>,
    /// From when on it votes, if it was opened again while the store was at work.
    pub(super) votes_from: Instant,
    gathered: Gathered<T>,
    /// What was proposed here, rising by index.
    proposals: VecDeque<Proposal<T>>,
    /// Where replicas are that wrote and are not known to be members.
    peers: BTreeMap<u64, u64>,
    /// What the library waits for while the host takes in a snapshot. It is told nothing else until then.
    installing: Option<Ready>,
    /// Nothing but a snapshot brings the data that it lacks: with this entry's effects, at least.
    needs_data: Option<u64>,
    /// The host takes in data below the log, which ends with this entry.
    filling: Option<Truncated>,
    /// Replicas that take in the data that was sent to them.
    taking_in: BTreeMap<u64, TakingIn>,
    /// The range as it will be then.
    incoming: Option<Descriptor>,
    /// The host has taken it in.
    installed: Option<Descriptor>,
    /// It waits for the host to remove the data.
    pub(super) is_leaving: bool,
    /// Ticks without a word of a leader.
    quiet_ticks: usize,
    /// Ticks that it waits for its range and has entries of it.
    waiting_ticks: usize,
    /// Ticks that it leads a frozen range.
    pub(super) frozen_ticks: usize,
    /// Committed entries from a merge on that cannot be carried out yet.
    held: VecDeque<(Entry, Option<T>)>,
    /// The last entry that was handed to the host, or that the data had when it was opened.
    handed: u64,
    pub(super) reads: Reads<T>,
    /// Replicas serve its range.
    pub(super) is_served: bool,
    /// The last term in which it led that its loans know of.
    pub(super) lends_in: u64,
    /// The host was handed a change of the members, or another range to be taken in, that they do not
    /// know of.
    pub(super) changes_members: bool,
    pub(super) takes_in: bool,
    /// No time passes.
    pub(super) is_asleep: bool,
    /// It was told to sleep, and has heard nothing of a leader since.
    pub(super) has_slept: bool,
    /// Ticks since somebody wanted something of it.
    pub(super) idle_ticks: usize,
}

struct Proposal<T> {
    index: u64,
    term: u64,
    ticket: T,
}

impl<L: RaftLog, T> Group<L, T> {
    pub(super) fn open(log: &Arc<L>, opened: Opened) -> Result<Self, Error> {
        let Opened { mut state, descriptor, applied, is_interrupted } = opened;
        let (id, replica) = (state.group, state.replica);
        if state.last_index < applied || state.last_index < state.hard_state.commit {
            let applied = applied.max(state.hard_state.commit);
            return Err(Error::Lost { group: id, last: state.last_index, applied });
        }
        // A commit that nothing but itself would have written is not: what was applied was committed, and
        // so was what the log gave up, also where the data is to come anew.
        let known = applied.max(state.truncated.index);
        state.hard_state.commit = state.hard_state.commit.max(known);
        let members = descriptor.as_ref().map(|descriptor| &descriptor.membership);
        let conf_state = members.map_or_else(ConfState::default, Membership::conf_state);
        let is_alone = conf_state.voters == [replica] && conf_state.voters_outgoing.is_empty();
        let config = raft::Config {
            id: replica,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: 1 << 20,
            max_committed_size_per_ready: REPLAY_BYTES,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            ..raft::Config::default()
        };
        let raft_error = |source| Error::Raft { group: id, source };
        let log = GroupLog::open(Arc::clone(log), state, conf_state, CACHE_BYTES)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = RawNode::new(&config, log, &logger).map_err(raft_error)?;
        if is_alone {
            // Nobody else can lead: why wait for a timeout.
            raft.campaign().map_err(raft_error)?;
        }
        let mut group = Self {
            id,
            raft,
            replica,
            descriptor,
            led: None,
            votes_from: Instant::ZERO,
            gathered: Gathered::default(),
            proposals: VecDeque::new(),
            peers: BTreeMap::new(),
            installing: None,
            needs_data: is_interrupted.then_some(0),
            filling: None,
            taking_in: BTreeMap::new(),
            incoming: None,
            installed: None,
            is_leaving: false,
            quiet_ticks: 0,
            waiting_ticks: 0,
            frozen_ticks: 0,
            held: VecDeque::new(),
            handed: applied,
            reads: Reads::default(),
            is_served: false,
            lends_in: 0,
            changes_members: false,
            takes_in: false,
            is_asleep: false,
            has_slept: false,
            idle_ticks: 0,
        };
        group.settle_timeout();
        Ok(group)
    }

    /// The last entry that was handed to the host.
    pub(super) fn handed_to(&self) -> u64 {
        self.handed
    }

    /// What is known of it, to open it again as another.
    pub(super) fn state(&self) -> GroupState {
        self.raft.store().state()
    }

    /// Whether it can take messages and time now.
    pub(super) fn is_at_work(&self) -> bool {
        !self.is_leaving && self.installing.is_none() && self.filling.is_none()
    }

    /// Whether it has, or is about to have, a key that a range has, too.
    /// What the range was taken in by is in nobody's way.
    pub(super) fn is_in_the_way_of(&self, range: &Descriptor) -> bool {
        let is_over = self.is_at_work() && !self.has_snapshot();
        let goes = |held: &Descriptor| is_over && range.fate_of(held) == Some(Fate::Merged);
        let ranges = self.descriptor.iter().chain(&self.incoming);
        ranges.filter(|held| held.overlaps(range)).any(|held| !goes(held))
    }

    /// Whether it has entries of a range that a split is to bring, which is to be applied again.
    fn waits_for_split(&self) -> bool {
        self.descriptor.is_none() && self.raft.store().truncated().index > 0
    }

    /// Whether time matters to it: a leader that is the only member waits for nobody. Whoever does not
    /// know the range yet needs it, too: it lends its ear to a leader for a while only.
    pub(super) fn waits(&self) -> bool {
        let is_alone = self.raft.raft.prs().conf().voters().ids().len() == 1;
        let has_learners = !self.raft.raft.prs().conf().learners().is_empty();
        self.is_at_work() && (self.is_frozen() || !(is_alone && self.leads() && !has_learners))
    }

    fn is_frozen(&self) -> bool {
        self.descriptor.as_ref().is_some_and(|descriptor| descriptor.frozen.is_some())
    }

    /// The store of the leader, if it is known.
    pub(super) fn leader(&self) -> Option<u64> {
        let members = self.descriptor.as_ref().map(|descriptor| &descriptor.membership)?;
        members.replica(self.raft.raft.leader_id).map(|replica| replica.store)
    }

    /// The last entry whose effects are in the data that readers see.
    pub(super) fn applied(&self) -> u64 {
        self.raft.raft.raft_log.applied
    }

    /// The last entry that is known to be committed.
    pub(super) fn committed(&self) -> u64 {
        self.raft.raft.raft_log.committed
    }

    /// The last entry that the host was handed.
    pub(super) fn handed(&self) -> u64 {
        self.handed
    }

    /// Whether it needs nobody to commit, nor to lead.
    pub(super) fn is_alone(&self) -> bool {
        self.raft.raft.prs().is_singleton()
    }

    /// Whether the leader knows that all replicas have an entry, durably.
    pub(super) fn all_have(&self, index: u64) -> bool {
        self.leads() && self.raft.raft.prs().iter().all(|(_, held)| held.matched >= index)
    }

    pub(super) fn ask(&self) -> Ask {
        let descriptor = self.descriptor.clone().map(Box::new);
        Ask { group: self.id, replica: self.replica, descriptor }
    }

    pub(super) fn leads(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// The library draws a random election timeout, which no simulation could repeat: it gets one that
    /// follows from who it is and when. Those who vote have turns, as far from each other as may be, so that
    /// not all want to lead at once; another order in each term.
    pub(super) fn settle_timeout(&mut self) {
        let term = self.raft.raft.term;
        let seed = crate::sum::mix(self.id.0.rotate_left(21) ^ term.rotate_left(42));
        let members = self.descriptor.iter().flat_map(|held| held.membership.replicas());
        let mut voters = members.filter(|member| member.role != Role::Learner);
        let count = voters.clone().count() as u64;
        let turn = match voters.position(|voter| voter.id == self.replica) {
            Some(place) => (place as u64 + seed % count) % count,
            None => crate::sum::mix(self.replica ^ seed),
        };
        let most = (ELECTION_TICKS / 2 - 1) as u64;
        let more = match count {
            0 | 1 => turn % (most + 1),
            count => turn % count * most / (count - 1),
        };
        let more = usize::try_from(more).unwrap_or(0);
        self.raft.raft.set_randomized_election_timeout(ELECTION_TICKS + more);
    }

    pub(super) fn step(&mut self, from: u64, mut message: Message) {
        let members = self.descriptor.as_ref().map(|descriptor| &descriptor.membership);
        if members.is_none_or(|members| members.replica(message.from).is_none()) {
            self.peers.insert(message.from, from);
        }
        use raft::eraftpb::MessageType as Kind;
        if matches!(
            message.get_msg_type(),
            Kind::MsgAppend | Kind::MsgHeartbeat | Kind::MsgSnapshot
        ) && message.term >= self.raft.raft.term
        {
            (self.quiet_ticks, self.has_slept) = (0, false);
        }
        if self.has_more_than(&message) {
            return;
        }
        // Of a peer that is none any more, or older than what is known: as if it was lost on its way.
        let incoming = described(self.id, message.get_snapshot());
        self.wait_for_data(&mut message);
        let _ = self.raft.step(message);
        self.note_resignation();
        self.ask_for_data();
        if self.has_snapshot() {
            self.incoming = incoming;
        }
    }

    /// Time passes; true if that gave it something to do.
    pub(super) fn tick(&mut self, output: &mut Output<T>) -> bool {
        if !self.waits() {
            return false;
        }
        self.idle_ticks += 1;
        let has_work = self.raft.tick();
        self.leave_joint();
        self.pass_time_of_snapshots();
        self.quiet_ticks = if self.leads() { 0 } else { self.quiet_ticks + 1 };
        self.waiting_ticks = if self.waits_for_split() { self.waiting_ticks + 1 } else { 0 };
        if self.waiting_ticks >= WAITING_TICKS {
            // The range that was to be split may have been replaced by a snapshot, without its other
            // part.
            self.need_data(0);
        }
        if self.quiet_ticks > QUIET_TICKS && self.quiet_ticks.is_multiple_of(ASK_TICKS) {
            output.asks.push(self.ask());
        }
        self.frozen_ticks = match self.is_frozen() && self.leads() {
            true => self.frozen_ticks + 1,
            false => 0,
        };
        has_work || self.raft.has_ready() || !self.reads.is_empty()
    }

    /// How far the log may be given up, where the data is durable up to `durable`.
    /// Of those beyond it keeps `kept` for others.
    pub(super) fn may_give_up(&self, durable: u64, kept: u64) -> u64 {
        let progress = self.raft.raft.prs();
        if progress.iter().len() < 2 {
            return durable;
        }
        let behind = durable.saturating_sub(kept);
        if !self.leads() {
            return behind;
        }
        let matched = progress.iter().map(|(_, held)| held.matched).min().unwrap_or(0);
        matched.min(durable).max(behind).min(self.awaited().unwrap_or(u64::MAX))
    }

    /// Has another replica lead, if it can.
    fn hand_over(&mut self, replica: u64) {
        // The library of a follower would ask the leader.
        if self.leads() {
            self.raft.transfer_leader(replica);
            self.note_resignation();
        }
    }

    fn note_resignation(&mut self) {
        if self.raft.raft.lead_transferee.is_some() {
            self.reads.resign(self.raft.raft.term);
        }
    }

    pub(super) fn transfer(&mut self, store: u64) {
        let members = self.descriptor.as_ref().map(|descriptor| &descriptor.membership);
        if let Some(replica) = members.and_then(|members| members.of_store(store)) {
            self.hand_over(replica.id);
        }
    }

    /// Takes what the library has for the log, for others and for the host. `None` if the host has to
    /// take in a snapshot first.
    pub(super) fn ready(&mut self, output: &mut Output<T>) -> Result<Option<Ready>, Error> {
        let mut ready = self.raft.ready();
        self.note_role(output);
        // A leader's messages need not wait for its own disk.
        self.send(ready.take_messages(), output);
        if !ready.snapshot().is_empty() {
            self.install(ready, output)?;
            return Ok(None);
        }
        self.commit(ready.take_committed_entries(), output);
        self.confirm(ready.take_read_states());
        self.hand_over_reads(output);
        if self.raft.store().take_wish() {
            output.snapshots.push(self.id);
        }
        Ok(Some(ready))
    }

    /// Goes on with what is in the log now.
    pub(super) fn advance(&mut self, mut ready: Ready, output: &mut Output<T>) {
        self.send(ready.take_persisted_messages(), output);
        let mut light = self.raft.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.note_commit(commit);
        }
        self.send(light.take_messages(), output);
        self.commit(light.take_committed_entries(), output);
        self.hand_over_reads(output);
        if self.raft.store().take_wish() {
            output.snapshots.push(self.id);
        }
        self.settle_timeout();
    }

    /// Nobody who waits is answered by this replica any more.
    pub(super) fn give_up(self, output: &mut Output<T>) {
        self.give_up_behind(0, output);
    }

    /// The same; what is up to this entry was carried out, and whoever proposed it is left in doubt.
    pub(super) fn give_up_behind(mut self, applied: u64, output: &mut Output<T>) {
        self.reads.begin_term(output);
        let is_behind = |index: u64| index > applied;
        let proposed = self.proposals.into_iter().filter(|proposal| is_behind(proposal.index));
        let proposed = proposed.map(|proposal| proposal.ticket);
        let held = self.held.into_iter().filter(|(entry, _)| is_behind(entry.index));
        let held = held.filter_map(|(_, ticket)| ticket);
        for ticket in held.chain(proposed) {
            output.refuse(ticket, Refusal::Lost);
        }
    }

    fn note_role(&mut self, output: &mut Output<T>) {
        let raft = &self.raft.raft;
        let led = self.leads().then_some(raft.term);
        if led == self.led {
            return;
        }
        let group = self.id;
        // It may have lost the one term and won the next since it was looked at.
        if self.led.is_some() {
            output.events.push(Event::Follows { group });
        }
        if let Some(term) = led {
            let index = raft.raft_log.last_index();
            output.events.push(Event::Leads { group, term, index });
        }
        self.led = led;
    }

    /// The commit goes to the disk with the next change of the term or the vote, and is found again
    /// by an election; in memory it has to be right.
    fn note_commit(&mut self, commit: u64) {
        let raft = &self.raft.raft;
        let hard_state =
            HardState { term: raft.term, vote: raft.vote, commit, ..HardState::default() };
        self.raft.mut_store().set_hard_state(hard_state);
    }

    /// Addresses messages. Who is known to nobody is sent nothing.
    fn send(&self, messages: Vec<Message>, output: &mut Output<T>) {
        let members = self.descriptor.as_ref().map(|descriptor| &descriptor.membership);
        for message in messages {
            let member = members.and_then(|members| members.replica(message.to));
            let store = member.map(|replica| replica.store);
            let Some(to) = store.or_else(|| self.peers.get(&message.to).copied()) else { continue };
            output.messages.push((to, Envelope { group: self.id, message }));
        }
    }
}

/// Whether a message may be the first that a store hears of a group.
pub(super) fn introduces(message: &Message) -> bool {
    use raft::eraftpb::MessageType as Kind;
    matches!(
        message.get_msg_type(),
        Kind::MsgAppend
            | Kind::MsgHeartbeat
            | Kind::MsgSnapshot
            | Kind::MsgRequestVote
            | Kind::MsgRequestPreVote
    )
}

/// Whether an entry changes the members of a group.
pub(crate) fn changes_members(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}
