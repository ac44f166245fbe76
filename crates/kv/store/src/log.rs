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

/// A Raft group of the node; never reused for another range.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

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
    /// Its term, vote and commit.
    pub hard_state: HardState,
    /// Where its entries begin.
    pub truncated: Truncated,
    /// Its last entry, or the truncated one.
    pub last_index: u64,
    /// Up to where its state was durable at the last checkpoint: an engine that has less lost data.
    pub durable_applied: u64,
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
    /// Term, vote, commit.
    HardState(HardState),
    /// Gives up entries.
    Truncate(Truncated),
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
