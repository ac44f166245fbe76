//! Whether the store takes more, and whether it may make a checkpoint.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::room::{self, Room};

/// So many times what a checkpoint waits for may be in memory before nothing more is taken.
const OVERLAY_FACTOR: usize = 4;

/// A disk that was full takes more when this part more than necessary is free.
const RETURN_PART: u64 = 8;

/// What is known of the room, by the last look. Any thread may look.
pub(super) struct Admission {
    folder: PathBuf,
    checkpoint_bytes: usize,
    is_short: AtomicBool,
    /// The disk is, so that it is told once.
    is_full: AtomicBool,
    /// The store works no more: nothing is taken ever.
    has_ended: AtomicBool,
}

impl Admission {
    pub(super) fn new(folder: PathBuf, checkpoint_bytes: usize) -> Self {
        let no = || AtomicBool::new(false);
        Self { folder, checkpoint_bytes, is_short: no(), is_full: no(), has_ended: no() }
    }

    /// From how many bytes in memory on a checkpoint is made at once.
    pub(super) fn checkpoint_bytes(&self) -> usize {
        self.checkpoint_bytes
    }

    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        self.is_short.store(true, Ordering::Relaxed);
    }

    /// Looks at the disk, while so many bytes are in memory only. Says whether there is room to make
    /// them durable.
    pub(super) fn look(&self, in_memory_bytes: usize) -> bool {
        // What cannot be asked is no reason to refuse; a full disk will say so itself.
        let room = room::of(&self.folder).ok();
        let in_memory = in_memory_bytes as u64;
        let was_full = self.is_full.load(Ordering::Relaxed);
        let short = room.filter(|room| {
            let required = room.required_bytes(in_memory);
            // Who was refused is not to be admitted and refused again in turn.
            let more = if was_full { required / RETURN_PART } else { 0 };
            room.free_bytes < required.saturating_add(more)
        });
        let is_behind = in_memory_bytes > self.checkpoint_bytes.saturating_mul(OVERLAY_FACTOR);
        let is_short = short.is_some() || is_behind || self.has_ended.load(Ordering::Relaxed);
        self.is_short.store(is_short, Ordering::Relaxed);
        if self.is_full.swap(short.is_some(), Ordering::Relaxed) != short.is_some() {
            self.tell(short);
        }
        room.is_none_or(|room| room.has_checkpoint(in_memory))
    }

    /// What the disk has left.
    pub(super) fn free_bytes(&self) -> u64 {
        room::of(&self.folder).map_or(u64::MAX, |room| room.free_bytes)
    }

    fn tell(&self, short: Option<Room>) {
        let folder = self.folder.display();
        match short {
            Some(Room { free_bytes, .. }) => tracing::error!(
                %folder, free_bytes,
                "the disk is nearly full: what would have to be stored is refused until there is room"
            ),
            None => tracing::info!(%folder, "the disk has room again: the store takes what comes"),
        }
    }
}
