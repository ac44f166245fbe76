//! The store loop: every Raft group of the node, driven by inputs, one write of the log a step.
//!
//! [`Machine::step`] takes what came in since the last one, lets the groups concerned work, writes
//! what all of them have for the log as one batch, and answers with what is committed. It does not
//! wait but for the log, reads no clock, and draws no random number: production drives it from a
//! thread, a simulation from a seed.
//!
//! What is committed goes to a [`Host`](crate::host::Host), which may be on another thread; it says
//! by [`Input::Applied`] how far it came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, HardState, Message};
use raft::{RawNode, Ready, StateRole};
use ratatosk_clock::Instant;

use crate::log::{GroupId, GroupLog, GroupState, LogBatch, LogChange, RaftLog, Sync};

/// Time between two ticks of a group.
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks without a word from the leader before an election; at most half as many more.
const ELECTION_TICKS: usize = 10;
/// Ticks between two words of the leader.
const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries that are read from the log at once, after a restart.
const REPLAY_BYTES: u64 = 4 << 20;
/// Bytes of applied entries that a group keeps in memory.
const CACHE_BYTES: usize = 1 << 20;

/// Every group of a node; `T` is what a proposal carries to be answered.
pub struct Machine<L: RaftLog, T> {
    log: Arc<L>,
    store: u64,
    groups: BTreeMap<GroupId, Group<L, T>>,
    /// Those that may have something to do.
    dirty: BTreeSet<GroupId>,
    next_tick: Instant,
}

struct Group<L: RaftLog, T> {
    raft: RawNode<GroupLog<L>>,
    is_leader: bool,
    /// How far its data is durable without the log, as the log knows.
    durable_applied: u64,
    /// What was proposed here, rising by index.
    proposals: VecDeque<Proposal<T>>,
}

struct Proposal<T> {
    index: u64,
    term: u64,
    ticket: T,
}

/// A group as it is opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What the log has of it.
    pub state: GroupState,
    /// The stores that vote, as its applied entries made them.
    pub voters: Vec<u64>,
    /// The last entry whose effects are in the data.
    pub applied: u64,
}

/// What a step works on.
#[derive(Debug)]
pub enum Input<T> {
    /// Write this to a group's log.
    Propose {
        /// The group.
        group: GroupId,
        /// What [`Commands::into_data`](crate::command::Commands::into_data) gave.
        data: Vec<u8>,
        /// Comes back with the entry, or refused.
        ticket: T,
    },
    /// A message of another store.
    Message {
        /// The group.
        group: GroupId,
        /// What the library sent.
        message: Box<Message>,
    },
    /// A group's entries up to here are in the data that readers see.
    Applied {
        /// The group.
        group: GroupId,
        /// The last of them.
        index: u64,
    },
    /// A group's data up to here is durable without the log.
    Checkpointed {
        /// The group.
        group: GroupId,
        /// The last entry in it.
        index: u64,
    },
}

/// What came of a step.
#[derive(Debug)]
pub struct Output<T> {
    /// For other stores.
    pub messages: Vec<(GroupId, Message)>,
    /// For the host, in this order.
    pub events: Vec<Event<T>>,
}

/// What a host is told.
#[derive(Debug)]
pub enum Event<T> {
    /// Entries are durable on a majority of the group's voters: apply them.
    Committed(Committed<T>),
    /// A proposal is not in the log and never will be: this store does not lead the group.
    Refused {
        /// The proposal's.
        ticket: T,
    },
    /// This store leads the group, from when the entry of `index` is applied.
    Leads {
        /// The group.
        group: GroupId,
        /// Its first entry as the leader.
        index: u64,
    },
    /// This store leads the group no longer.
    Follows {
        /// The group.
        group: GroupId,
    },
}

/// Entries of a group in a row.
#[derive(Debug)]
pub struct Committed<T> {
    /// The group.
    pub group: GroupId,
    /// The entries, each with the ticket of a proposal of this store.
    pub entries: Vec<(Entry, Option<T>)>,
    /// Tickets of proposals in whose place another entry was committed.
    pub lost: Vec<T>,
}

/// A group cannot work as the library and the log have it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] crate::log::Error),
    /// The library refuses to go on: a defect, or damaged state.
    #[error("group {} cannot go on: {source}", group.0)]
    Raft {
        /// The group.
        group: GroupId,
        /// What the library says.
        source: raft::Error,
    },
    /// The log ends before what was applied: acknowledged entries are gone, and the group must not
    /// vote as if they had never been. DUR-011
    #[error(
        "the log of group {} ends at entry {last}, but entry {applied} was applied already: \
         the log lost what was acknowledged",
        group.0
    )]
    Lost {
        /// The group.
        group: GroupId,
        /// The last entry.
        last: u64,
        /// What the data has.
        applied: u64,
    },
}

impl<T> Default for Output<T> {
    fn default() -> Self {
        Self { messages: Vec::new(), events: Vec::new() }
    }
}

impl<L: RaftLog, T> Machine<L, T> {
    /// The groups of store number `store`, of which none leads yet. The time is that of the first
    /// step.
    ///
    /// # Errors
    /// [`Error::Lost`], and what the log and the library answer. Nothing was written.
    pub fn open(
        log: Arc<L>,
        store: u64,
        groups: impl IntoIterator<Item = Opened>,
    ) -> Result<Self, Error> {
        let mut machine = Self {
            log,
            store,
            groups: BTreeMap::new(),
            dirty: BTreeSet::new(),
            next_tick: Instant::ZERO,
        };
        for opened in groups {
            machine.open_group(opened)?;
        }
        Ok(machine)
    }

    fn open_group(&mut self, opened: Opened) -> Result<(), Error> {
        let Opened { mut state, voters, applied } = opened;
        let id = state.group;
        let durable_applied = state.durable_applied;
        if state.last_index < applied || state.last_index < state.hard_state.commit {
            let applied = applied.max(state.hard_state.commit);
            return Err(Error::Lost { group: id, last: state.last_index, applied });
        }
        // A commit that nothing but itself would have written is not: what was applied was committed.
        state.hard_state.commit = state.hard_state.commit.max(applied);
        let is_alone = voters == [self.store];
        let config = raft::Config {
            id: self.store,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: 1 << 20,
            max_committed_size_per_ready: REPLAY_BYTES,
            ..raft::Config::default()
        };
        let raft_error = |source| Error::Raft { group: id, source };
        let conf_state = ConfState { voters, ..ConfState::default() };
        let log = GroupLog::open(Arc::clone(&self.log), state, conf_state, CACHE_BYTES)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = RawNode::new(&config, log, &logger).map_err(raft_error)?;
        settle_timeout(&mut raft, id);
        if is_alone {
            // Nobody else can lead: why wait for a timeout.
            raft.campaign().map_err(raft_error)?;
        }
        let proposals = VecDeque::new();
        self.groups.insert(id, Group { raft, is_leader: false, durable_applied, proposals });
        self.dirty.insert(id);
        Ok(())
    }

    /// Works on `inputs`, in their order, and on what is due at `now`.
    ///
    /// # Errors
    /// The log's and the library's. Nothing may be done with this machine any more; what was
    /// proposed is in the log or not.
    pub fn step(
        &mut self,
        now: Instant,
        inputs: impl IntoIterator<Item = Input<T>>,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let mut batch = LogBatch::new();
        for input in inputs {
            self.take(input, &mut batch, output)?;
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            for (id, group) in &mut self.groups {
                if group.waits() && group.raft.tick() {
                    self.dirty.insert(*id);
                }
            }
        }
        self.write(batch, output)
    }

    /// When it has something to do without an input, if ever: groups that nobody else is a member of
    /// have no time.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        self.groups.values().any(Group::waits).then_some(self.next_tick)
    }

    /// Whether a group has something to do at once.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Gives back the disk room of what was truncated.
    ///
    /// # Errors
    /// The log's.
    pub fn purge(&self) -> Result<(), Error> {
        // Groups that hold files back are those without a checkpoint for a while; the next one
        // frees them.
        let _behind = self.log.purge()?;
        Ok(())
    }

    fn take(
        &mut self,
        input: Input<T>,
        batch: &mut LogBatch,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        match input {
            Input::Propose { group, data, ticket } => self.propose(group, data, ticket, output),
            Input::Message { group, message } => {
                if let Some(held) = self.groups.get_mut(&group) {
                    // Of a peer that is none any more, or older than what is known: as if it was
                    // lost on its way.
                    let _ = held.raft.step(*message);
                    settle_timeout(&mut held.raft, group);
                    self.dirty.insert(group);
                }
            }
            Input::Applied { group, index } => {
                if let Some(held) = self.groups.get_mut(&group) {
                    held.raft.advance_apply_to(index);
                    held.raft.mut_store().release(index);
                    self.dirty.insert(group);
                }
            }
            Input::Checkpointed { group, index } => {
                // A checkpoint of what did not change says nothing new.
                let held = self.groups.get_mut(&group);
                if let Some(held) = held.filter(|held| held.durable_applied < index) {
                    held.durable_applied = index;
                    batch.push(group, LogChange::DurableApplied(index));
                    if let Some(truncated) = held.raft.mut_store().truncate(index)? {
                        batch.push(group, LogChange::Truncate(truncated));
                    }
                }
            }
        }
        Ok(())
    }

    fn propose(&mut self, group: GroupId, data: Vec<u8>, ticket: T, output: &mut Output<T>) {
        let held = self.groups.get_mut(&group);
        // The library would pass it on to the leader, and nobody here would hear of it.
        let Some(held) = held.filter(|held| held.raft.raft.state == StateRole::Leader) else {
            output.events.push(Event::Refused { ticket });
            return;
        };
        match held.raft.propose(Vec::new(), data) {
            Ok(()) => {
                let (index, term) = (held.raft.raft.raft_log.last_index(), held.raft.raft.term);
                held.proposals.push_back(Proposal { index, term, ticket });
                self.dirty.insert(group);
            }
            Err(_) => output.events.push(Event::Refused { ticket }),
        }
    }

    /// Writes what the dirty groups have for the log, and goes on with what that makes possible.
    fn write(&mut self, mut batch: LogBatch, output: &mut Output<T>) -> Result<(), Error> {
        let mut sync = Sync::Later;
        let mut written: Vec<(GroupId, Ready)> = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if !group.raft.has_ready() {
                continue;
            }
            let mut ready = group.raft.ready();
            if !ready.snapshot().is_empty() {
                let source = raft::Error::Store(raft::StorageError::SnapshotTemporarilyUnavailable);
                return Err(Error::Raft { group: id, source });
            }
            group.note_role(id, output);
            // A leader's messages need not wait for its own disk.
            send(id, ready.take_messages(), output);
            group.commit(id, ready.take_committed_entries(), output);
            let entries = ready.take_entries();
            if !entries.is_empty() {
                group.raft.mut_store().append(&entries);
                batch.push(id, LogChange::Append(entries));
            }
            if let Some(hard_state) = ready.hs() {
                group.raft.mut_store().set_hard_state(hard_state.clone());
                batch.push(id, LogChange::HardState(hard_state.clone()));
            }
            if ready.must_sync() {
                sync = Sync::Wait;
            }
            written.push((id, ready));
        }
        if !batch.is_empty() {
            self.log.write(batch, sync)?;
        }
        for (id, mut ready) in written {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            send(id, ready.take_persisted_messages(), output);
            let mut light = group.raft.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                group.note_commit(commit);
            }
            send(id, light.take_messages(), output);
            group.commit(id, light.take_committed_entries(), output);
            settle_timeout(&mut group.raft, id);
            if group.raft.has_ready() {
                self.dirty.insert(id);
            }
        }
        Ok(())
    }
}

impl<L: RaftLog, T> Group<L, T> {
    /// Whether time matters to it: a leader that is the only member waits for nobody.
    fn waits(&self) -> bool {
        let is_alone = self.raft.raft.prs().conf().voters().ids().len() == 1;
        !(is_alone && self.is_leader)
    }

    fn note_role(&mut self, id: GroupId, output: &mut Output<T>) {
        let is_leader = self.raft.raft.state == StateRole::Leader;
        if is_leader == self.is_leader {
            return;
        }
        self.is_leader = is_leader;
        output.events.push(match is_leader {
            true => Event::Leads { group: id, index: self.raft.raft.raft_log.last_index() },
            false => Event::Follows { group: id },
        });
    }

    /// The commit goes to the disk with the next change of the term or the vote, and is found again
    /// by an election; in memory it has to be right.
    fn note_commit(&mut self, commit: u64) {
        let raft = &self.raft.raft;
        let hard_state =
            HardState { term: raft.term, vote: raft.vote, commit, ..HardState::default() };
        self.raft.mut_store().set_hard_state(hard_state);
    }

    /// Joins committed entries and the tickets of those that were proposed here.
    fn commit(&mut self, id: GroupId, entries: Vec<Entry>, output: &mut Output<T>) {
        if entries.is_empty() {
            return;
        }
        let mut lost = Vec::new();
        let mut joined = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut ticket = None;
            while let Some(first) = self.proposals.front() {
                if first.index > entry.index {
                    break;
                }
                let is_it = first.index == entry.index && first.term == entry.term;
                let Some(proposal) = self.proposals.pop_front() else { break };
                match is_it {
                    true => ticket = Some(proposal.ticket),
                    false => lost.push(proposal.ticket),
                }
            }
            joined.push((entry, ticket));
        }
        output.events.push(Event::Committed(Committed { group: id, entries: joined, lost }));
    }
}

fn send<T>(group: GroupId, messages: Vec<Message>, output: &mut Output<T>) {
    output.messages.extend(messages.into_iter().map(|message| (group, message)));
}

/// Gives a group an election timeout that follows from who it is and when: the library draws a
/// random one, which no simulation could repeat.
fn settle_timeout<L: RaftLog>(raft: &mut RawNode<GroupLog<L>>, group: GroupId) {
    let seed = raft.raft.id ^ group.0.rotate_left(21) ^ raft.raft.term.rotate_left(42);
    // The finalizer of SplitMix64: one bit of the seed changes half of the bits.
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let spread = (ELECTION_TICKS / 2) as u64;
    let more = usize::try_from((mixed ^ (mixed >> 31)) % spread).unwrap_or(0);
    raft.raft.set_randomized_election_timeout(ELECTION_TICKS + more);
}

impl<L: RaftLog, T> std::fmt::Debug for Machine<L, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Machine")
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}
