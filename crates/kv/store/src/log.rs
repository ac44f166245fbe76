//! The Raft log of a node: one for all its groups, so that one fsync serves every group that has
//! something to write.
//!
//! [`RaftLog`] is what the store loop writes to; [`DurableLog`] keeps it on disk, [`MemoryLog`] for
//! tests and simulation. [`GroupLog`] is one group's part of it as the Raft library reads it, with
//! the latest entries in memory.
//!
//! Of each group: `truncated ≤ durable_applied ≤ last`, and entries from `truncated + 1` to `last`.
//! An append at an index that is there replaces it and all behind it, as Raft asks.

mod durable;
mod files;
mod group;
mod memory;
mod watermark;

use raft::eraftpb::{Entry, HardState};

pub use durable::{DurableLog, DurableLogConfig};
pub use group::GroupLog;
pub use memory::MemoryLog;

/// Set in the numbers of groups that were made by an entry of another.
const BORN: u64 = 1 << 62;

/// A Raft group of the node; never reused for another range.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The group that is made by an entry of this one's log: the same on every store. That two are
    /// the same is as unlikely as that two random numbers of 64 bits are.
    #[must_use]
    pub fn born(self, index: u64) -> Self {
        let mixed = self.0.rotate_left(32) ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = crate::sum::mix(mixed);
        // Neither one of the first, which count from 1, nor what the log calls itself.
        Self((mixed | BORN) & !(1 << 63))
    }

    /// Whether it was there from the first, and not made by an entry of another group.
    #[must_use]
    pub(crate) fn is_first(self) -> bool {
        self.0 & BORN == 0
    }
}

/// The last entry that was given up, because it is durably applied.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    /// Its index; 0 while nothing was given up.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What the log knows of a group when it is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupState {
    /// The group.
    pub group: GroupId,
    /// The number of the replica that this store is in it.
    pub replica: u64,
    /// Its term, vote and commit.
    pub hard_state: HardState,
    /// Where its entries begin.
    pub truncated: Truncated,
    /// Its last entry, or the truncated one.
    pub last_index: u64,
    /// Up to where its state was durable at the last checkpoint: an engine that has less lost data.
    pub durable_applied: u64,
}

impl GroupState {
    /// One of which nothing is known.
    #[must_use]
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            replica: 0,
            hard_state: HardState::default(),
            truncated: Truncated::default(),
            last_index: 0,
            durable_applied: 0,
        }
    }

    /// Has a log say what is known of a group that has no entries yet.
    pub(crate) fn push_beginning(&self, batch: &mut LogBatch) {
        batch.push(self.group, LogChange::Replica(self.replica));
        batch.push(self.group, LogChange::Restart(self.truncated));
        batch.push(self.group, LogChange::HardState(self.hard_state.clone()));
    }
}

/// What is written together: all of it or nothing.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    changes: Vec<(GroupId, LogChange)>,
}

/// One change of one group.
#[derive(Clone, Debug, PartialEq)]
pub enum LogChange {
    /// Entries in a row; not empty.
    Append(Vec<Entry>),
    /// The number of the replica that this store is.
    Replica(u64),
    /// Term, vote, commit.
    HardState(HardState),
    /// Gives up entries up to here; all of them were there.
    Truncate(Truncated),
    /// Gives up all entries, and begins anew behind this one: the data came from another store, with
    /// the effects of all up to here. In a batch the first of its group.
    Restart(Truncated),
    /// The state up to here is durable in the engine.
    DurableApplied(u64),
    /// The group leaves this node; nothing of it stays.
    Destroy,
}

/// Whether a write waits for the disk.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It returns when this batch and all before it are durable.
    Wait,
    /// It may be lost at a crash, for all that the caller cares.
    Later,
}

/// The log of all groups.
///
/// Fetching and purging are done by one thread: a purge moves what a fetch may be reading.
pub trait RaftLog {
    /// Every group that has anything in it.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`].
    fn groups(&self) -> Result<Vec<GroupState>, Error>;

    /// Appends the entries `low ≤ index < high` of a group to `into`, at most so many bytes of
    /// them, but one at least.
    ///
    /// # Errors
    /// [`Error::Missing`] if one of them is not there; else as for [`groups`](Self::groups).
    fn fetch(&self, span: Span, bytes_max: usize, into: &mut Vec<Entry>) -> Result<(), Error>;

    /// Writes a batch; an empty one does nothing and waits for nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing of the batch counts, and the process has to be started again.
    ///
    /// # Panics
    /// If the disk does not take an fsync: what it has then is unknown.
    fn write(&self, batch: LogBatch, sync: Sync) -> Result<(), Error>;

    /// Makes durable whatever is there, also what an earlier process wrote and did not wait for. To be
    /// called before what was found is taken for granted.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn persist(&self) -> Result<(), Error>;

    /// Gives back the room of what was truncated, as far as whole files of it have become free.
    /// Answers the groups whose old entries hold files back.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn purge(&self) -> Result<Vec<GroupId>, Error>;

    /// Bytes on disk, about.
    fn disk_bytes(&self) -> u64;
}

/// Entries of a group.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The group.
    pub group: GroupId,
    /// The first index.
    pub low: u64,
    /// The first index behind them.
    pub high: u64,
}

/// The log cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the folder; nothing was touched. The operator's matter.
    #[error("{folder} is used by another process: stop it, or choose another data directory")]
    Locked {
        /// The folder.
        folder: String,
    },
    /// An entry that must be there is not. A bug, or a log that lost its middle.
    #[error("group {} has no entry {index} in its log", group.0)]
    Missing {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
    },
    /// What is on disk is not what was written. The operator's matter.
    #[error("the Raft log is damaged: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
    /// The disk failed or is full.
    #[error("the Raft log cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
}

impl LogBatch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a change.
    pub fn push(&mut self, group: GroupId, change: LogChange) {
        self.changes.push((group, change));
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl IntoIterator for LogBatch {
    type Item = (GroupId, LogChange);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.changes.into_iter()
    }
}

/// Bytes that an entry counts for in limits.
fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + size_of::<Entry>()
}

/// How many of the entries are within a limit of bytes; one at least, if there is one.
fn fitting<'a>(entries: impl IntoIterator<Item = &'a Entry>, bytes_max: usize) -> usize {
    let mut total = 0_usize;
    let sizes = entries.into_iter().map(entry_bytes).enumerate();
    let fits = sizes.take_while(|(number, bytes)| {
        total = total.saturating_add(*bytes);
        *number == 0 || total <= bytes_max
    });
    fits.count()
}
