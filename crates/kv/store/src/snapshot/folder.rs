//! Where snapshots are staged: a folder of files that are of no use to another process.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Result, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::room;

/// The folder's name in that of the store.
pub const FOLDER: &str = "snapshots";

/// What a receiver stages to: files on a disk, or what a simulation makes up.
pub trait Folder {
    /// A file of it.
    type File: Staged;

    /// Removes every file.
    ///
    /// # Errors
    /// The system's.
    fn clear(&self) -> Result<()>;

    /// Makes an empty file, also where there is one.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, name: &str) -> Result<Self::File>;

    /// Removes a file; who has it open may read on.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> Result<()>;

    /// Whether there is room to take over so many bytes into the engine. DUR-006
    ///
    /// # Errors
    /// The system's.
    fn has_room(&self, bytes: u64) -> Result<bool>;
}

/// A file that grows, and is then read.
pub trait Staged {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// The system's; the file is of no use any more.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Waits until the disk has taken all.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn sync(&mut self) -> Result<()>;

    /// Reads what is at a place, as much as `into` holds.
    ///
    /// # Errors
    /// The system's, or that there is less.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()>;
}

/// A folder on disk.
#[derive(Debug)]
pub struct DiskFolder {
    path: PathBuf,
}

/// A file on disk.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    /// Bytes that the disk may not have.
    unsynced: usize,
}

/// From so many bytes on they are synced: little by little, so that whoever else waits for the disk does not
/// wait for all of a snapshot.
const UNSYNCED_BYTES: usize = 4 << 20;

impl DiskFolder {
    /// The one in a store's folder; made if it is missing.
    ///
    /// # Errors
    /// The system's.
    pub fn open(store: &Path) -> Result<Self> {
        let path = store.join(FOLDER);
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Folder for DiskFolder {
    type File = DiskFile;

    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn create(&self, name: &str) -> Result<DiskFile> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(DiskFile { file: options.open(path)?, unsynced: 0 })
    }

    fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn has_room(&self, bytes: u64) -> Result<bool> {
        let room = room::of(&self.path)?;
        Ok(room.free_bytes >= room.required_bytes(bytes))
    }
}

impl Staged for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes)?;
        self.unsynced += bytes.len();
        if self.unsynced >= UNSYNCED_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_all()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, offset)
    }
}
