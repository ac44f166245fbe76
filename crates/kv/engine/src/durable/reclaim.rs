//! Giving back the room of what was removed.
//!
//! The library drops what was removed when it merges tables, and it merges them when tables were
//! added. What is filled and then emptied adds few, so that it would lie there for long. Here it is
//! told to merge, as soon as a large part of a space is waste: then it writes what is left, which
//! is less than what it gives back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fjall::{AbstractTree as _, Keyspace};

use super::{DurableEngine, from_fjall};
use crate::Error;

/// Less than this is not worth the work.
const WASTE_BYTES_MIN: u64 = 16 << 20;
/// How often it is looked whether a table was written, and how many times.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSES_MAX: usize = 2_000;
/// A space is wasteful when so many times the removals are as many as its entries, removals
/// included: each stands for itself and for what it removed, so half of the space is waste.
const ENTRIES_PER_REMOVAL: u64 = 4;

/// Removals that are in no table yet.
#[derive(Debug, Default)]
pub(super) struct Removals(AtomicU64);

impl Removals {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl DurableEngine {
    /// Gives back room if much of it is waste and merging needs at most `room_bytes` meanwhile. Says
    /// whether something was done. Takes as long as writing what is left; others go on meanwhile.
    ///
    /// # Errors
    /// As for [`write`](crate::Engine::write).
    pub fn reclaim(&self, room_bytes: u64) -> Result<bool, Error> {
        let spaces = || self.spaces.iter().zip(&self.removals);
        let has_waste = spaces().any(|(space, removals)| {
            is_wasteful(space, removals.count() + space.tree.tombstone_count())
        });
        // What is in memory, and in a journal, is waste like what is in tables.
        let held = self.database.disk_space().map_err(from_fjall)?;
        if !has_waste || held + self.database.write_buffer_size() < WASTE_BYTES_MIN {
            return Ok(false);
        }
        // A journal goes when all that it has is in tables, of whatever space it is.
        for (space, removals) in spaces() {
            removals.take();
            write_table(space)?;
        }
        for space in &self.spaces {
            let has_room = space.disk_space() / 2 <= room_bytes;
            if has_room && is_wasteful(space, space.tree.tombstone_count()) {
                space.major_compact().map_err(from_fjall)?;
            }
        }
        Ok(true)
    }
}

/// Has what a space has in memory written to a table. Waits for it, but not for ever, as the library's
/// own function does: a table that cannot be written poisons the engine, and nobody is told.
fn write_table(space: &Keyspace) -> Result<(), Error> {
    if !space.rotate_memtable().map_err(from_fjall)? {
        return Ok(());
    }
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
