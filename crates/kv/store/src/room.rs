//! How much room the disk has left. DUR-006

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

/// The room of the file system that has the folder, for a process without privileges.
pub(crate) fn of(folder: &Path) -> std::io::Result<Room> {
    let found = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Room { total_bytes: bytes(found.f_blocks), free_bytes: bytes(found.f_bavail) })
}

impl Room {
    /// Whether less than a twentieth is left, as far as that is neither little nor much.
    pub(crate) fn is_short(self) -> bool {
        // Of a small disk something has to be left to be used.
        let reserve_min = RESERVE_BYTES_MIN.min(self.total_bytes / 4);
        let reserve = (self.total_bytes / 20).clamp(reserve_min, RESERVE_BYTES_MAX);
        self.free_bytes < reserve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_is_kept_free_within_bounds() {
        let is_short = |total_mib: u64, free_mib: u64| {
            Room { total_bytes: total_mib << 20, free_bytes: free_mib << 20 }.is_short()
        };
        assert!(is_short(64, 15) && !is_short(64, 16), "a quarter of a small disk");
        assert!(is_short(1000, 63) && !is_short(1000, 64), "64 MiB at least");
        assert!(is_short(2000, 99) && !is_short(2000, 100));
        assert!(is_short(1 << 20, 511) && !is_short(1 << 20, 512), "512 MiB at most");
    }

    #[test]
    fn a_folder_has_room() {
        let room = of(Path::new("/")).expect("there is a root");
        assert!(room.total_bytes >= room.free_bytes && room.total_bytes > 0);
    }
}
