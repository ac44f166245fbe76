//! How much room the disk has left, and what of it may be used. DUR-006
//!
//! What was admitted has to be carried to its end whatever comes: it is in the log, goes to the
//! engine's journal at a checkpoint, and from there to a table. So much is kept free, and a reserve
//! for what clients take out and for the engine's own work. A checkpoint for which there is no room
//! is not begun: what it would write is in the log, and a failed write would end the process.

use std::path::Path;

/// The room of a file system.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
}

/// What is always kept free, so that checkpoints and cutting the log still find room.
const RESERVE_BYTES_MAX: u64 = 512 << 20;
/// More than a fast disk takes between two looks, and what was admitted before the last one.
const RESERVE_BYTES_MIN: u64 = 64 << 20;
/// What a checkpoint leaves free for the log.
const CHECKPOINT_MARGIN_BYTES: u64 = 8 << 20;
/// How often what is in memory is written on its way to a table: journal, table, and once more when
/// tables are merged.
const WRITTEN_FACTOR: u64 = 3;

/// How large the parts of a store may be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Bytes of a file of the log before the next one is begun.
    pub(crate) log_file_bytes: u64,
    /// Bytes of the log from which on files of what was given up are removed.
    pub(crate) log_purge_bytes: u64,
    /// Bytes that the engine has in memory of a space before it writes a table.
    pub(crate) memtable_bytes: u64,
    /// Bytes of the engine's journals before it writes tables so that they can go.
    pub(crate) journal_bytes: u64,
    /// Bytes of applied data in memory from which on a checkpoint is made at once, at most.
    pub(crate) checkpoint_bytes: u64,
}

/// The room of the file system that has the folder, for a process without privileges.
pub(crate) fn of(folder: &Path) -> std::io::Result<Room> {
    let found = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Room { total_bytes: bytes(found.f_blocks), free_bytes: bytes(found.f_bavail) })
}

impl Room {
    /// What has to be free, so that more may be admitted while so many bytes of what was are in
    /// memory only: a twentieth, as far as that is neither little nor much, and what those bytes
    /// will take.
    pub(crate) fn required_bytes(self, in_memory_bytes: u64) -> u64 {
        self.reserve_bytes().saturating_add(written_bytes(in_memory_bytes))
    }

    /// Whether there is room to make durable what is in memory. A small one is made even of the last
    /// room, because it lets the log give up more.
    pub(crate) fn has_checkpoint(self, in_memory_bytes: u64) -> bool {
        let margin = CHECKPOINT_MARGIN_BYTES.min(self.reserve_bytes() / 2);
        self.free_bytes >= margin.saturating_add(written_bytes(in_memory_bytes))
    }

    fn reserve_bytes(self) -> u64 {
        // Of a small disk something has to be left to be used.
        let reserve_min = RESERVE_BYTES_MIN.min(self.total_bytes / 4);
        (self.total_bytes / 20).clamp(reserve_min, RESERVE_BYTES_MAX)
    }

    /// What suits a file system of this size: a small one is not to be full of room for more.
    pub(crate) fn sizes(self) -> Sizes {
        let part = |parts: u64, min_mib: u64, max_mib: u64| {
            (self.total_bytes / parts).clamp(min_mib << 20, max_mib << 20)
        };
        Sizes {
            log_file_bytes: part(128, 4, 32),
            log_purge_bytes: part(16, 16, 64),
            memtable_bytes: part(64, 4, 64),
            journal_bytes: part(32, 64, 256),
            checkpoint_bytes: part(64, 4, u64::MAX >> 20),
        }
    }
}

fn written_bytes(in_memory_bytes: u64) -> u64 {
    in_memory_bytes.saturating_mul(WRITTEN_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(total_mib: u64, free_mib: u64) -> Room {
        Room { total_bytes: total_mib << 20, free_bytes: free_mib << 20 }
    }

    #[test]
    fn a_twentieth_is_kept_free_within_bounds() {
        let required_mib = |total_mib| room(total_mib, 0).required_bytes(0) >> 20;
        assert_eq!(required_mib(64), 16, "a quarter of a small disk");
        assert_eq!(required_mib(1000), 64, "64 MiB at least");
        assert_eq!(required_mib(2000), 100);
        assert_eq!(required_mib(1 << 20), 512, "512 MiB at most");
    }

    #[test]
    fn what_was_admitted_finds_room_until_it_is_in_a_table() {
        let in_memory = 10 << 20;
        assert_eq!(room(1000, 0).required_bytes(in_memory), 94 << 20);
        assert!(!room(1000, 37).has_checkpoint(in_memory), "the log goes on");
        assert!(room(1000, 38).has_checkpoint(in_memory));
        assert!(room(1000, 8).has_checkpoint(0) && !room(1000, 7).has_checkpoint(0));
        assert_eq!(room(1000, 1).required_bytes(u64::MAX), u64::MAX);
        assert!(!room(1000, 1).has_checkpoint(u64::MAX));
    }

    #[test]
    fn sizes_follow_the_disk_within_bounds() {
        let of = |total_mib| room(total_mib, 0).sizes();
        let large = Sizes {
            log_file_bytes: 32 << 20,
            log_purge_bytes: 64 << 20,
            memtable_bytes: 64 << 20,
            journal_bytes: 256 << 20,
            checkpoint_bytes: 16 << 30,
        };
        assert_eq!(of(1 << 20), large);
        let small = of(256);
        assert_eq!((small.log_file_bytes, small.log_purge_bytes), (4 << 20, 16 << 20));
        assert_eq!((small.memtable_bytes, small.checkpoint_bytes), (4 << 20, 4 << 20));
    }

    #[test]
    fn a_folder_has_room() {
        let room = of(Path::new("/")).expect("there is a root");
        assert!(room.total_bytes >= room.free_bytes && room.total_bytes > 0);
    }
}
