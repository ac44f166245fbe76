//! One group's part of the log, as the Raft library reads it.
//!
//! The latest entries are in memory, so that what is replicated and applied now is not read from
//! disk; older ones come from the log. What is appended here has to be written to the log by the
//! same caller, in the same turn: `cache ⊆ log`, and the cache is its end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::{Error, GroupId, GroupState, RaftLog, Span, Truncated, entry_bytes, fitting};

/// Of the memory for entries only one part in so many is used for those that all have: so that what is
/// written next has the place of what was just applied, and both are in the processor's cache.
const KNOWN_PART: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct GroupLog<L> {
    log: Arc<L>,
    group: GroupId,
    replica: u64,
    durable_applied: u64,
    hard_state: HardState,
    conf_state: ConfState,
    truncated: Truncated,
    last_index: u64,
    last_term: u64,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// The library asked for a snapshot.
    is_wanted: Cell<bool>,
    /// One that was made, until it is asked for.
    offered: RefCell<Option<Snapshot>>,
}

impl<L: RaftLog> GroupLog<L> {
    /// What the log has of a group, of which the state machine says who its members are. At most
    /// so many bytes of entries that are applied stay in memory.
    ///
    /// # Errors
    /// The log's, if the last entry cannot be read.
    pub fn open(
        log: Arc<L>,
        state: GroupState,
        conf_state: ConfState,
        cache_bytes_max: usize,
    ) -> Result<Self, Error> {
        let GroupState { group, replica, hard_state, truncated, last_index, durable_applied } =
            state;
        let mut opened = Self {
            log,
            group,
            replica,
            durable_applied,
            hard_state,
            conf_state,
            truncated,
            last_index,
            last_term: truncated.term,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            is_wanted: Cell::new(false),
            offered: RefCell::new(None),
        };
        if last_index > truncated.index {
            opened.last_term = opened.entry_of_log(last_index)?.term;
        }
        Ok(opened)
    }

    /// Takes note of entries that are written to the log in this turn.
    ///
    /// # Panics
    /// If they leave a gap, or replace what was given up.
    pub fn append(&mut self, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        assert!(first.index > self.truncated.index, "what was given up is not replaced");
        assert!(first.index <= self.last_index + 1, "entries are appended without a gap");
        while self.cache.back().is_some_and(|known| known.index >= first.index) {
            let gone = self.cache.pop_back();
            self.cache_bytes -= gone.as_ref().map_or(0, entry_bytes);
        }
        self.cache_bytes += entries.iter().map(entry_bytes).sum::<usize>();
        self.cache.extend(entries.iter().cloned());
        self.last_index = last.index;
        self.last_term = last.term;
    }

    /// Takes note of a hard state that is written to the log in this turn.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Takes note of the members that an applied entry made.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Gives up entries up to `index`; answers what has to be written to the log in this turn, or
    /// `None` if they were given up before.
    ///
    /// # Errors
    /// The log's, if the entry cannot be read.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn truncate(&mut self, index: u64) -> Result<Option<Truncated>, Error> {
        assert!(index <= self.last_index, "what is given up was there");
        if index <= self.truncated.index {
            return Ok(None);
        }
        let term = self.term_at(index)?;
        self.truncated = Truncated { index, term };
        self.drop_front(|first, _| first.index <= index);
        Ok(Some(self.truncated))
    }

    /// Begins anew behind an entry that another store's data came with; to be written to the log in
    /// this turn.
    pub fn restart(&mut self, truncated: Truncated) {
        self.cache.clear();
        self.cache_bytes = 0;
        self.truncated = truncated;
        (self.last_index, self.last_term) = (truncated.index, truncated.term);
    }

    /// What is known of the group, as the log has it after this turn.
    pub fn state(&self) -> GroupState {
        GroupState {
            group: self.group,
            replica: self.replica,
            hard_state: self.hard_state.clone(),
            truncated: self.truncated,
            last_index: self.last_index,
            durable_applied: self.durable_applied,
        }
    }

    /// Where the entries begin.
    pub fn truncated(&self) -> Truncated {
        self.truncated
    }

    /// The group's data up to here is durable without the log; false if that is nothing new.
    pub fn note_durable(&mut self, index: u64) -> bool {
        let is_new = self.durable_applied < index;
        self.durable_applied = self.durable_applied.max(index);
        is_new
    }

    /// Whether the library has asked for a snapshot since the last call.
    pub fn take_wish(&self) -> bool {
        self.is_wanted.take()
    }

    /// Hands over a snapshot that the library will ask for again.
    pub fn offer(&self, snapshot: Snapshot) {
        *self.offered.borrow_mut() = Some(snapshot);
    }

    /// Lets go of the memory of entries that are applied, as far as there are too many of them. Those up to
    /// `known` no other replica will ask for, as far as is known: few of them are kept.
    pub fn release(&mut self, applied: u64, known: u64) {
        let bytes_max = self.cache_bytes_max;
        self.drop_front(|first, bytes| {
            let bytes_max = if first.index <= known { bytes_max / KNOWN_PART } else { bytes_max };
            first.index <= applied && bytes > bytes_max
        });
    }

    /// Bytes of the entries in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.cache_bytes
    }

    fn drop_front(&mut self, goes: impl Fn(&Entry, usize) -> bool) {
        while self.cache.front().is_some_and(|first| goes(first, self.cache_bytes)) {
            let gone = self.cache.pop_front();
            self.cache_bytes -= gone.as_ref().map_or(0, entry_bytes);
        }
    }

    /// The first index that is in memory, or the one behind the last.
    fn cache_start(&self) -> u64 {
        self.cache.front().map_or(self.last_index + 1, |entry| entry.index)
    }

    fn cached(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.cache_start())?;
        self.cache.get(usize::try_from(place).ok()?)
    }

    fn entry_of_log(&self, index: u64) -> Result<Entry, Error> {
        let mut found = Vec::with_capacity(1);
        let span = Span { group: self.group, low: index, high: index + 1 };
        self.log.fetch(span, usize::MAX, &mut found)?;
        found.pop().ok_or(Error::Missing { group: self.group, index })
    }

    fn term_at(&self, index: u64) -> Result<u64, Error> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if index == self.last_index {
            return Ok(self.last_term);
        }
        match self.cached(index) {
            Some(entry) => Ok(entry.term),
            None => Ok(self.entry_of_log(index)?.term),
        }
    }
}

impl<L: RaftLog> Storage for GroupLog<L> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last_index + 1, "entries {low}..{high} of {}", self.last_index);
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let mut found = Vec::new();
        let cache_start = self.cache_start();
        if low < cache_start {
            let span = Span { group: self.group, low, high: high.min(cache_start) };
            self.log.fetch(span, bytes_max, &mut found).map_err(failed)?;
        }
        let next = low + found.len() as u64;
        if next >= cache_start {
            let used: usize = found.iter().map(entry_bytes).sum();
            let cached = || (next..high).map_while(|index| self.cached(index));
            let room = bytes_max.saturating_sub(used);
            // Behind others not even one may be too many.
            let fits = match found.is_empty() {
                true => fitting(cached(), room),
                false => fitting_behind(cached(), room),
            };
            found.extend(cached().take(fits).cloned());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last_index {
            return Err(StorageError::Unavailable.into());
        }
        self.term_at(index).map_err(failed)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    /// It is made aside, and handed over when it is there. One that others have cut the log behind is
    /// of no use any more.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let least = request_index.max(self.truncated.index);
        let offered = self.offered.take().filter(|held| held.get_metadata().index >= least);
        offered.ok_or_else(|| {
            self.is_wanted.set(true);
            StorageError::SnapshotTemporarilyUnavailable.into()
        })
    }
}

/// How many of the entries are within a limit of bytes, none if the first is beyond it.
fn fitting_behind<'a>(entries: impl IntoIterator<Item = &'a Entry>, bytes_max: usize) -> usize {
    let mut total = 0_usize;
    let fits = entries.into_iter().map(entry_bytes).take_while(|bytes| {
        total = total.saturating_add(*bytes);
        total <= bytes_max
    });
    fits.count()
}

fn failed(error: Error) -> raft::Error {
    StorageError::Other(error.into()).into()
}
