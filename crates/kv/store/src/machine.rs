//! The store loop: every Raft group of the node, driven by inputs, one write of the log a step.
//!
//! [`Machine::begin`] takes what came in since the last step, lets the groups concerned work, and answers
//! with what is committed and with what others may be told at once. [`Machine::finish`] writes what all
//! groups have for the log as one batch, and answers with what is so once it is durable. Neither
//! waits but for the log, reads a clock, or draws a random number: production drives them from a
//! thread, a simulation from a seed.
//!
//! What is committed goes to a [`Host`](crate::host::Host), which may be on another thread; it says
//! by inputs how far it came, and what became of the groups.
//!
//! A store may be told of a group by others before it knows the range: it keeps what it promises them,
//! in the log, and waits for the range, which comes with a split or with a snapshot.

mod boundary;
mod fill;
#[cfg(test)]
mod fixture;
mod group;
mod input;
#[cfg(test)]
mod leading_test;
mod loans;
mod merge;
mod output;
mod propose;
mod receive;
mod recovery;
mod sleep;
mod status;
mod support;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::Instant;

use crate::edition::Supported;
use crate::host::Refusal;
use crate::log::{GroupId, GroupState, LogBatch, RaftLog, Truncated};
use crate::range::{Descriptor, OVER};
pub(crate) use group::changes_members;
pub(crate) use group::described;
use group::{Group, LEASE, VOTELESS};
pub use input::{Envelope, Input};
use loans::Loans;
pub(crate) use loans::{ASK_AGAIN, FOREVER};
pub use loans::{Loan, SERVE, Token};
pub use merge::{Ask, Verdict};
pub use output::{Committed, Event, Output};
pub use sleep::Sleep;
use sleep::{Peers, SLEEP_TICKS};
pub use status::{Progress, Status};
pub use support::Beat;
use support::{Change, Support};
use write::Unwritten;

/// Time between two ticks of a group.
pub const TICK: Duration = Duration::from_millis(100);

/// See [`Machine::keep_entries`].
const KEPT_ENTRIES: u64 = 4096;

/// Every group of a node; `T` is what a proposal carries to be answered.
pub struct Machine<L: RaftLog, T> {
    log: Arc<L>,
    store: u64,
    groups: BTreeMap<GroupId, Group<L, T>>,
    /// Groups that this store has left, with the highest number of its replicas.
    left: BTreeMap<GroupId, u64>,
    /// Those for which time passes.
    awake: BTreeSet<GroupId>,
    /// Those that may have something to do.
    dirty: BTreeSet<GroupId>,
    /// Groups with proposals that are gathered.
    gathering: BTreeSet<GroupId>,
    /// Those that may hold entries back.
    holding: BTreeSet<GroupId>,
    /// What is known of groups of which this store has no data: the range as it was to be sent.
    announced: BTreeMap<GroupId, Descriptor>,
    /// Those whose snapshot the host has taken in.
    installed: Vec<GroupId>,
    now: Instant,
    next_tick: Instant,
    /// From when on it votes: before, it does not know whom it had promised not to.
    votes_from: Option<Instant>,
    kept_entries: u64,
    peers: Peers,
    support: Support<T>,
    sleep_ticks: usize,
    lease: Duration,
    loans: Loans<T>,
    /// What a step that has begun has for the log.
    unwritten: Unwritten,
}

/// A group as it is opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What the log has of it.
    pub state: GroupState,
    /// What the engine has of its range; `None` if that is still to come.
    pub descriptor: Option<Descriptor>,
    /// The last entry whose effects are in the data.
    pub applied: u64,
    /// It had a range, or was about to, when the process went down with another in its place half way:
    /// it needs a snapshot.
    pub is_interrupted: bool,
}

impl Opened {
    /// One whose range is still to come.
    pub(crate) fn without_range(state: GroupState) -> Self {
        Self { state, descriptor: None, applied: 0, is_interrupted: false }
    }
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

impl<L: RaftLog, T> Machine<L, T> {
    /// The groups of store number `store`, of which none leads yet, and those that it has left, with
    /// the highest number of its replicas. The time is that of the first step.
    ///
    /// # Errors
    /// [`Error::Lost`], and what the log and the library answer. Nothing was written.
    pub fn open(
        log: Arc<L>,
        store: u64,
        groups: impl IntoIterator<Item = Opened>,
        left: impl IntoIterator<Item = (GroupId, u64)>,
    ) -> Result<Self, Error> {
        let mut machine = Self {
            log,
            store,
            groups: BTreeMap::new(),
            left: left.into_iter().collect(),
            awake: BTreeSet::new(),
            dirty: BTreeSet::new(),
            gathering: BTreeSet::new(),
            holding: BTreeSet::new(),
            announced: BTreeMap::new(),
            installed: Vec::new(),
            now: Instant::ZERO,
            next_tick: Instant::ZERO,
            votes_from: None,
            kept_entries: KEPT_ENTRIES,
            peers: Peers::default(),
            support: Support::default(),
            sleep_ticks: SLEEP_TICKS,
            lease: LEASE,
            loans: Loans::default(),
            unwritten: Unwritten::default(),
        };
        for opened in groups {
            machine.open_group(opened)?;
        }
        Ok(machine)
    }

    /// Keeps so many entries at least that are durable without the log, in groups with other replicas:
    /// one that was away for a while is sent these, not all the data.
    #[must_use]
    pub fn keep_entries(self, count: u64) -> Self {
        Self { kept_entries: count, ..self }
    }

    /// Tells other stores this number, which has to be another after each start of the store.
    #[must_use]
    pub fn with_life(mut self, life: u64) -> Self {
        self.peers.life = life;
        self
    }

    /// Tells other stores that this one supports these editions, and has ranges raised to them.
    #[must_use]
    pub fn supporting(self, supported: Supported) -> Self {
        Self { support: Support::new(supported), ..self }
    }

    /// Lets leaders read for so long without asking. Longer than the default is not safe.
    #[must_use]
    pub fn lease_for(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Lets groups sleep that have nothing to do for so many ticks.
    #[must_use]
    pub fn sleep_after(self, ticks: usize) -> Self {
        Self { sleep_ticks: ticks, ..self }
    }

    fn open_group(&mut self, opened: Opened) -> Result<(), Error> {
        let id = opened.state.group;
        let mut group = Group::open(&self.log, opened)?;
        self.loans.mark(&mut group);
        self.groups.insert(id, group);
        self.awake.insert(id);
        self.dirty.insert(id);
        (self.peers.is_stale, self.support.is_stale) = (true, true);
        Ok(())
    }

    /// The same of a group that was at work: as after a start it does not know whom it had promised not
    /// to vote for others.
    fn open_again(&mut self, opened: Opened) -> Result<(), Error> {
        let id = opened.state.group;
        self.open_group(opened)?;
        if let Some(held) = self.groups.get_mut(&id) {
            held.votes_from = self.now + VOTELESS;
        }
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
        self.begin(now, inputs, output)?;
        self.finish(output)
    }

    /// The part of a step that does not wait for the disk. What it puts into `output` may be sent and
    /// carried out at once. [`finish`](Self::finish) has to follow before another step begins.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    pub fn begin(
        &mut self,
        now: Instant,
        inputs: impl IntoIterator<Item = Input<T>>,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let mut batch = LogBatch::new();
        self.now = now;
        self.votes_from.get_or_insert(now + VOTELESS);
        for input in inputs {
            self.take(input, &mut batch, output)?;
        }
        self.propose_all(output);
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            for id in &self.awake {
                if self.groups.get_mut(id).is_some_and(|group| group.tick(output)) {
                    self.dirty.insert(*id);
                }
            }
            self.urge(output);
            self.fall_asleep(output);
            self.pass_loan_time(output);
        }
        self.go_on_with_changes(output);
        self.release(output);
        self.gather(batch, output)?;
        self.settle_loans(output);
        Ok(())
    }

    /// The part of a step that waits for the disk, and what is so after it.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    pub fn finish(&mut self, output: &mut Output<T>) -> Result<(), Error> {
        self.write(output)?;
        self.release(output);
        self.settle_loans(output);
        self.obey_sleeps();
        self.beat(output);
        self.raise_editions();
        Ok(())
    }

    /// When it has something to do without an input, if ever: groups that nobody else is a member of
    /// have no time.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        let waiting = |id| self.groups.get(id).is_some_and(Group::waits);
        let is_awaited = self.awake.iter().any(waiting) || self.loans.wait();
        let tick = is_awaited.then_some(self.next_tick);
        let due = self.support.next_due();
        tick.into_iter().chain(self.peers.next_beat()).chain(due).min()
    }

    /// The groups for which time passes.
    pub fn awake(&self) -> impl Iterator<Item = GroupId> {
        let waits = |id: &&GroupId| self.groups.get(id).is_some_and(Group::waits);
        self.awake.iter().filter(waits).copied()
    }

    /// Whether a group has something to do at once.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn take(
        &mut self,
        input: Input<T>,
        batch: &mut LogBatch,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        self.propose_before(&input, output);
        self.peers.is_stale |= input.reshapes();
        self.support.is_stale |= input.reshapes();
        match input {
            Input::Propose { group, term, data, ticket } => match self.called_on(group) {
                Some(held) => {
                    held.gather(term, data, ticket, output);
                    self.gathering.insert(group);
                }
                None => output.refuse(ticket, Refusal::NotLeader),
            },
            Input::Read { group, version, ticket } => match self.called_on(group) {
                Some(held) => held.read(version, ticket, output),
                None => output.refuse(ticket, Refusal::NotLeader),
            },
            Input::Change { group, expected, target, ticket } => {
                self.change(Change { group, expected, target, ticket }, output);
            }
            Input::Serve { group, ticket } => self.serve(group, ticket, output),
            Input::Loan { from, loan } => self.hear_of_loan(from, loan, output),
            Input::Message { from, envelope } => self.receive(from, *envelope, batch, output)?,
            Input::Merge { group, expected, ticket } => {
                self.freeze(group, expected, ticket, output);
            }
            Input::Urged { group, order } => self.urged(group, order),
            Input::Asked { from, ask } => self.asked(from, ask, output),
            Input::Told { group, replica, verdict } => {
                self.told(group, replica, verdict, output);
            }
            Input::Described { descriptor } => self.describe(*descriptor),
            Input::Merged { whole, right } => {
                self.describe(*whole);
                self.removed(right, OVER, batch, output);
            }
            Input::Split { left, right } => self.split(*left, right, batch, output)?,
            Input::Installed { descriptor } => self.note_installed(*descriptor, output)?,
            Input::Recover { group, above, ticket } => {
                self.recover(group, above, ticket, output)?;
            }
            Input::Recovered { descriptor, applied } => {
                self.recovered(*descriptor, applied, output)?;
            }
            Input::Removed { group, replica } => self.removed(group, replica, batch, output),
            Input::Beat { from, beat } => {
                self.note_support(from, &beat);
                self.hear(from, beat.life);
            }
            Input::Inquired { from } => output.beats.push((from, self.word())),
            Input::Sleep { from, sleep } => self.sleep(from, sleep),
            Input::Checkpointed { group, index } => self.checkpointed(group, index, batch)?,
            Input::Applied { group, index } => {
                if let Some(held) = self.at_work(group) {
                    held.raft.advance_apply_to(index);
                    held.release_entries(index);
                    held.leave_joint();
                }
                self.tell_lender(group, index, output);
            }
            known => self.take_of_group(known)?,
        }
        Ok(())
    }

    /// The host has taken in a snapshot.
    fn note_installed(
        &mut self,
        descriptor: Descriptor,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        self.outlive(&descriptor, output);
        let held = self.groups.get_mut(&descriptor.group);
        if held.as_ref().is_some_and(|held| held.filled_to().is_some()) {
            self.filled(descriptor, output)?;
        } else if let Some(held) = held {
            self.installed.push(descriptor.group);
            held.note_installed(descriptor);
        }
        Ok(())
    }

    /// What concerns one group, if it is still there.
    fn take_of_group(&mut self, input: Input<T>) -> Result<(), Error> {
        match input {
            Input::Transfer { group, to } => {
                if let Some(held) = self.called_on(group) {
                    held.transfer(to);
                }
            }
            Input::Snapshot { group, snapshot } => {
                if let Some(held) = self.at_work(group) {
                    held.raft.store().offer(*snapshot);
                }
            }
            Input::SnapshotSent { group, to, arrived } => {
                if let Some(held) = self.at_work(group) {
                    held.snapshot_sent(to, arrived);
                }
            }
            Input::Configured { change, descriptor } => {
                if let Some(held) = self.called_on(descriptor.group) {
                    held.configured(&change, *descriptor)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A group that is not about to become another, or to go; it may have something to do then.
    fn at_work(&mut self, group: GroupId) -> Option<&mut Group<L, T>> {
        let is_at_work = |held: &&mut Group<L, T>| held.is_at_work() && !held.has_snapshot();
        let held = self.groups.get_mut(&group).filter(is_at_work)?;
        self.dirty.insert(group);
        Some(held)
    }

    /// The same, of one that somebody wants something of.
    fn called_on(&mut self, group: GroupId) -> Option<&mut Group<L, T>> {
        self.wake(group);
        self.at_work(group)
    }
}

/// Lets a group without entries begin behind `at`.
pub(crate) fn begin(state: &mut GroupState, at: Truncated) {
    state.truncated = at;
    state.last_index = at.index;
    state.hard_state.commit = at.index;
    state.hard_state.term = state.hard_state.term.max(at.term);
}

impl<L: RaftLog, T> std::fmt::Debug for Machine<L, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Machine")
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}
