//! The store loop: every Raft group of the node, driven by inputs, one write of the log a step.
//!
//! [`Machine::step`] takes what came in since the last one, lets the groups concerned work, writes
//! what all of them have for the log as one batch, and answers with what is committed. It does not
//! wait but for the log, reads no clock, and draws no random number: production drives it from a
//! thread, a simulation from a seed.
//!
//! What is committed goes to a [`Host`](crate::host::Host), which may be on another thread; it says
//! by inputs how far it came, and what became of the groups.
//!
//! A store may be told of a group by others before it knows the range: it keeps what it promises them,
//! in the log, and waits for the range, which comes with a split or with a snapshot.

mod boundary;
mod fill;
mod group;
mod input;
mod merge;
mod output;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use raft::Ready;
use raft::eraftpb::MessageType;
use ratatosk_clock::Instant;

use crate::host::Refusal;
use crate::log::{GroupId, GroupState, LogBatch, LogChange, RaftLog, Sync, Truncated};
use crate::range::Descriptor;
pub(crate) use group::changes_members;
pub(crate) use group::described;
use group::{Group, introduces};
pub use input::{Envelope, Input};
pub use merge::{Ask, Verdict};
pub use output::{Committed, Event, Output};

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
    /// Those that may have something to do.
    dirty: BTreeSet<GroupId>,
    /// Those that may hold entries back.
    holding: BTreeSet<GroupId>,
    /// What is known of groups of which this store has no data: the range as it was to be sent.
    announced: BTreeMap<GroupId, Descriptor>,
    /// Those whose snapshot the host has taken in.
    installed: Vec<GroupId>,
    next_tick: Instant,
    kept_entries: u64,
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
            dirty: BTreeSet::new(),
            holding: BTreeSet::new(),
            announced: BTreeMap::new(),
            installed: Vec::new(),
            next_tick: Instant::ZERO,
            kept_entries: KEPT_ENTRIES,
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

    fn open_group(&mut self, opened: Opened) -> Result<(), Error> {
        let id = opened.state.group;
        let group = Group::open(&self.log, self.store, opened)?;
        self.groups.insert(id, group);
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
                if group.tick(output) {
                    self.dirty.insert(*id);
                }
            }
            self.urge(output);
        }
        self.release(output);
        self.write(batch, output)?;
        self.release(output);
        Ok(())
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
            Input::Propose { group, data, ticket } => match self.at_work(group) {
                Some(held) => held.propose(data, ticket, output),
                None => output.refuse(ticket, Refusal::NotLeader),
            },
            Input::Change { group, target, ticket } => match self.at_work(group) {
                Some(held) => held.change(&target, ticket, output),
                None => output.refuse(ticket, Refusal::NotLeader),
            },
            Input::Message { from, envelope } => self.receive(from, *envelope, batch, output)?,
            Input::Merge { group, ticket } => self.freeze(group, ticket, output),
            Input::Urged { group, order } => self.urged(group, order),
            Input::Asked { from, ask } => self.asked(from, ask, output),
            Input::Told { group, replica, verdict } => {
                self.told(group, replica, verdict, output);
            }
            Input::Described { descriptor } => self.describe(*descriptor),
            Input::Merged { whole, right, replica } => {
                self.describe(*whole);
                self.removed(right, replica, batch, output);
            }
            Input::Split { left, right } => self.split(*left, right, batch, output)?,
            Input::Installed { descriptor } => {
                self.outlive(&descriptor, output);
                let held = self.groups.get_mut(&descriptor.group);
                if held.as_ref().is_some_and(|held| held.filled_to().is_some()) {
                    self.filled(*descriptor, output)?;
                } else if let Some(held) = held {
                    self.installed.push(descriptor.group);
                    held.note_installed(*descriptor);
                }
            }
            Input::Removed { group, replica } => self.removed(group, replica, batch, output),
            Input::Checkpointed { group, index } => self.checkpointed(group, index, batch)?,
            known => self.take_of_group(known)?,
        }
        Ok(())
    }

    /// What concerns one group, if it is still there.
    fn take_of_group(&mut self, input: Input<T>) -> Result<(), Error> {
        match input {
            Input::Transfer { group, to } => {
                if let Some(held) = self.at_work(group) {
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
            Input::Applied { group, index } => {
                if let Some(held) = self.at_work(group) {
                    held.raft.advance_apply_to(index);
                    held.raft.mut_store().release(index);
                    held.leave_joint();
                }
            }
            Input::Configured { change, descriptor } => {
                if let Some(held) = self.at_work(descriptor.group) {
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

    fn receive(
        &mut self,
        from: u64,
        envelope: Envelope,
        batch: &mut LogBatch,
        output: &mut Output<T>,
    ) -> Result<(), Error> {
        let Envelope { group, message } = envelope;
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
        if let Some(held) = self.at_work(group) {
            held.step(from, message);
        }
        Ok(())
    }

    /// Takes note of a group that others have this store in.
    fn meet(&mut self, id: GroupId, replica: u64, batch: &mut LogBatch) -> Result<(), Error> {
        let state = GroupState { replica, ..GroupState::new(id) };
        batch.push(id, LogChange::Replica(replica));
        self.open_group(Opened::without_range(state))
    }

    /// Has the host remove a group of which this store is no member any more.
    fn leave(&mut self, group: GroupId, replica: u64, output: &mut Output<T>) {
        let held = self.groups.get_mut(&group).filter(|held| held.replica <= replica);
        if let Some(held) = held.filter(|held| held.is_at_work()) {
            held.is_leaving = true;
            output.events.push(Event::Remove { group, replica: held.replica });
        }
    }

    fn checkpointed(
        &mut self,
        group: GroupId,
        index: u64,
        batch: &mut LogBatch,
    ) -> Result<(), Error> {
        let kept = self.kept_entries;
        let Some(held) = self.at_work(group) else { return Ok(()) };
        // A checkpoint of what did not change says nothing new.
        if held.raft.mut_store().note_durable(index) {
            batch.push(group, LogChange::DurableApplied(index));
        }
        let unneeded = held.may_give_up(index, kept);
        if let Some(truncated) = held.raft.mut_store().truncate(unneeded)? {
            batch.push(group, LogChange::Truncate(truncated));
        }
        Ok(())
    }

    /// Writes what the dirty groups have for the log, and goes on with what that makes possible.
    fn write(&mut self, mut batch: LogBatch, output: &mut Output<T>) -> Result<(), Error> {
        let mut sync = Sync::Later;
        let mut written: Vec<(GroupId, Ready)> = Vec::new();
        let mut arrived = Vec::new();
        for id in std::mem::take(&mut self.installed) {
            let held = self.groups.get_mut(&id);
            let Some((ready, at)) = held.and_then(Group::take_installed) else { continue };
            batch.push(id, LogChange::Restart(at));
            batch.push(id, LogChange::DurableApplied(at.index));
            arrived.push((id, at.index));
            self.put(id, ready, &mut batch, &mut written);
            sync = Sync::Wait;
        }
        for id in std::mem::take(&mut self.dirty) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let is_written = written.iter().any(|(known, _)| *known == id);
            if is_written || !group.is_at_work() || !group.raft.has_ready() {
                continue;
            }
            let Some(ready) = group.ready(output)? else { continue };
            if ready.must_sync() {
                sync = Sync::Wait;
            }
            self.put(id, ready, &mut batch, &mut written);
        }
        if !batch.is_empty() {
            self.log.write(batch, sync)?;
        }
        for (id, ready) in written {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.advance(ready, self.store, output);
            if let Some((_, index)) = arrived.iter().find(|(known, _)| *known == id) {
                group.raft.advance_apply_to(*index);
            }
            if group.raft.has_ready() {
                self.dirty.insert(id);
            }
            if group.holds() {
                self.holding.insert(id);
            }
        }
        Ok(())
    }

    /// Puts what a group has for the log into the batch.
    fn put(
        &mut self,
        id: GroupId,
        mut ready: Ready,
        batch: &mut LogBatch,
        written: &mut Vec<(GroupId, Ready)>,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let entries = ready.take_entries();
        let changes_members = entries.iter().any(changes_members);
        if !entries.is_empty() {
            group.raft.mut_store().append(&entries);
            batch.push(id, LogChange::Append(entries));
        }
        // A change of the members is appended by a leader that has applied the one before, which is
        // therefore committed. Whoever comes back has to know that, or it would commit what follows by a
        // majority of those that were members before. Otherwise a commit alone is not written.
        let hard_state = match ready.hs() {
            Some(hard_state) => Some(hard_state.clone()),
            None => changes_members.then(|| group.raft.raft.hard_state()),
        };
        if let Some(hard_state) = hard_state {
            group.raft.mut_store().set_hard_state(hard_state.clone());
            batch.push(id, LogChange::HardState(hard_state));
        }
        written.push((id, ready));
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
