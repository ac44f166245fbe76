//! Giving back the room of what was removed.
//!
//! The library drops what was removed when it merges tables, and it merges them when tables were
//! added. What is filled and then emptied adds few, so that it would lie there for long. Here it is
//! told to merge when a large part of a space is waste, and either little of it is left, or much was
//! written since it was merged last, so that all the merging writes no more than a few times what was
//! written, or nothing is written any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fjall::{AbstractTree as _, Keyspace};

use super::{DurableEngine, from_fjall};
use crate::Error;

/// Less than this is not worth the work.
const WASTE_BYTES_MIN: u64 = 16 << 20;
/// How often it is looked whether the library is done with something, and how many times.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSES_MAX: usize = 2_000;
/// A space is wasteful when so many times the removals are as many as its entries, removals
/// included: each stands for itself and for what it removed, so half of the space is waste.
const ENTRIES_PER_REMOVAL: u64 = 4;

/// What was done to a space.
#[derive(Debug, Default)]
pub(super) struct Churn {
    /// Removals that are in no table yet.
    removals: AtomicU64,
    /// Bytes of keys and values that were ever written.
    written: AtomicU64,
    /// Of these, when it was merged last, and when it was looked at last.
    merged_at: AtomicU64,
    looked_at: AtomicU64,
}

impl Churn {
    pub(super) fn add_removal(&self, bytes: usize) {
        self.removals.fetch_add(1, Ordering::Relaxed);
        self.add_written(bytes);
    }

    pub(super) fn add_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether it is time to merge a space of so many bytes.
    fn is_due(&self, disk_bytes: u64) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        let is_quiet = self.looked_at.swap(written, Ordering::Relaxed) == written;
        is_quiet || written - self.merged_at.load(Ordering::Relaxed) >= disk_bytes / 2
    }

    fn note_merged(&self) {
        self.merged_at.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// When waste is worth the work.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Haste {
    /// When it is in proportion to what is written otherwise.
    InTime,
    /// At once: room is short.
    Now,
}

impl DurableEngine {
    /// Gives back room if much of it is waste and merging needs at most `room_bytes` meanwhile. Says
    /// whether something was done. Takes as long as writing what is left; others go on meanwhile.
    ///
    /// # Errors
    /// As for [`write`](crate::Engine::write).
    pub fn reclaim(&self, room_bytes: u64, haste: Haste) -> Result<bool, Error> {
        let spaces = || self.spaces.iter().zip(&self.churn);
        let is_due = |(space, churn): (&Keyspace, &Churn)| {
            let removals = churn.removals.load(Ordering::Relaxed) + space.tree.tombstone_count();
            let is_due = churn.is_due(space.disk_space())
                || haste == Haste::Now
                || is_nearly_empty(space, removals);
            is_due && is_wasteful(space, removals)
        };
        let due: Vec<bool> = spaces().map(is_due).collect();
        // What is in memory, and in a journal, is waste like what is in tables.
        let held = self.database.disk_space().map_err(from_fjall)?;
        if !due.contains(&true) || held + self.database.write_buffer_size() < WASTE_BYTES_MIN {
            return Ok(false);
        }
        // A journal goes when all that it has is in tables, of whatever space it is.
        for (space, churn) in spaces() {
            churn.removals.store(0, Ordering::Relaxed);
            write_table(space)?;
        }
        for ((space, churn), is_due) in spaces().zip(due) {
            let has_room = space.disk_space() / 2 <= room_bytes;
            if is_due && has_room && is_wasteful(space, space.tree.tombstone_count()) {
                merge(space)?;
                churn.note_merged();
            }
        }
        Ok(true)
    }
}

/// Merges all tables of a space. The library does nothing, and says nothing, while a worker of its own
/// merges some of them: that is waited for, but not for ever.
fn merge(space: &Keyspace) -> Result<(), Error> {
    for _ in 0..PAUSES_MAX {
        let next_table = space.tree.next_table_id();
        space.major_compact().map_err(from_fjall)?;
        let is_merged = space.tree.next_table_id() != next_table;
        if is_merged || !is_wasteful(space, space.tree.tombstone_count()) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Has what a space has in memory written to a table. Waits for it, but not for ever, as the library's
/// own function does: a table that cannot be written poisons the engine, and nobody is told.
fn write_table(space: &Keyspace) -> Result<(), Error> {
    // Without anything new there may be something on its way to a table.
    space.rotate_memtable().map_err(from_fjall)?;
    for _ in 0..PAUSES_MAX {
        if space.sealed_memtable_count() == 0 {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn is_wasteful(space: &Keyspace, removal_count: u64) -> bool {
    removal_count > 0
        && removal_count.saturating_mul(ENTRIES_PER_REMOVAL) >= space.approximate_len() as u64
}

/// Whether at most an eighth of its entries stands for something.
fn is_nearly_empty(space: &Keyspace, removal_count: u64) -> bool {
    let entries = space.approximate_len() as u64;
    entries.saturating_sub(removal_count.saturating_mul(2)) <= entries / 8
}
