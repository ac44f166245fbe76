//! The log's files as its library sees them: the system's, but for three things.
//!
//! When the library opens a log it cuts the last file off behind the last whole write. That is
//! right for a write that a power loss has torn, and there is but one, for each is synced before
//! the next begins. If whole writes follow what it cannot read, then the file is damaged: it is left
//! as it is, and the log is not opened. DUR-005
//!
//! When a sync fails the library panics, and again when it is dropped on the way out. So it is told
//! that all is well, and whoever has the log asks [`Files::check`] before calling anything durable.
//!
//! Room that it wants made in advance is written as zeros where it is for small writes.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};
use rustix::fs::{FallocateFlags, fallocate};

/// See the module. Clones are the same ones.
#[derive(Clone, Default)]
pub(super) struct Files {
    failed: Failed,
}

/// The first sync that failed.
type Failed = Arc<Mutex<Option<(ErrorKind, String)>>>;

/// An open file.
pub(super) struct Held {
    file: File,
    path: PathBuf,
    failed: Failed,
}

/// A place in an open file, at which to read or write.
pub(super) struct Cursor {
    held: Arc<Held>,
    offset: u64,
    /// Writes since room was made; before that was ever done it counts as many.
    writes: u32,
}

/// So many writes in a room that was made, which is of 2 MiB, are small ones.
const MANY_WRITES: u32 = 128;
/// Bytes in front of a write's entries: its length and kind, and where its items begin.
const HEAD_BYTES: usize = 16;
/// Bytes of a sum.
const SUM_BYTES: usize = 4;

impl Files {
    /// That all was synced of which the library says so.
    ///
    /// # Errors
    /// That of the first sync that failed: what the disk has since is unknown.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.failed.lock() {
            None => Ok(()),
            Some((kind, text)) => Err(Error::new(*kind, text.clone())),
        }
    }

    fn open_with(&self, options: &OpenOptions, path: &Path) -> Result<Held> {
        let file = options.open(path).map_err(|error| named("opening", path, &error))?;
        Ok(Held { file, path: path.to_owned(), failed: Arc::clone(&self.failed) })
    }
}

impl FileSystem for Files {
    type Handle = Held;
    type Reader = Cursor;
    type Writer = Cursor;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Held> {
        let mut options = OpenOptions::new();
        self.open_with(options.read(true).write(true).create(true).truncate(false), path.as_ref())
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<Held> {
        let is_written = permission == Permission::ReadWrite;
        self.open_with(OpenOptions::new().read(true).write(is_written), path.as_ref())
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        let path = path.as_ref();
        std::fs::remove_file(path).map_err(|error| named("removing", path, &error))
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        let from = from.as_ref();
        std::fs::rename(from, to).map_err(|error| named("renaming", from, &error))
    }

    fn new_reader(&self, held: Arc<Held>) -> Result<Cursor> {
        Ok(Cursor { held, offset: 0, writes: MANY_WRITES })
    }

    fn new_writer(&self, held: Arc<Held>) -> Result<Cursor> {
        Ok(Cursor { held, offset: 0, writes: MANY_WRITES })
    }
}

impl Handle for Held {
    fn truncate(&self, offset: usize) -> Result<()> {
        let bytes = std::fs::read(&self.path)?;
        let rest = bytes.get(offset..).unwrap_or_default();
        if let Some(found) = whole_write(rest, sequence(&self.path)) {
            let path = self.path.display();
            let place = offset + found;
            let detail = format!(
                "{path} is damaged at byte {offset}, and what was written at byte {place} is whole"
            );
            return Err(Error::new(ErrorKind::InvalidData, detail));
        }
        self.cut(offset)
    }

    fn file_size(&self) -> Result<usize> {
        let size = self.file.metadata().map_err(|error| named("asking for", &self.path, &error))?;
        usize::try_from(size.len()).map_err(Error::other)
    }

    fn sync(&self) -> Result<()> {
        if let Err(error) = self.file.sync_data() {
            let error = named("syncing", &self.path, &error);
            self.failed.lock().get_or_insert((error.kind(), error.to_string()));
        }
        Ok(())
    }
}

impl Held {
    fn cut(&self, size: usize) -> Result<()> {
        let cut = self.file.set_len(size as u64);
        cut.map_err(|error| named("cutting", &self.path, &error))
    }
}

impl Read for Cursor {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let read = self.held.file.read_at(into, self.offset);
        let count = read.map_err(|error| named("reading", &self.held.path, &error))?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Write for Cursor {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = self.held.file.write_at(bytes, self.offset);
        let count = written.map_err(|error| named("writing", &self.held.path, &error))?;
        self.offset += count as u64;
        self.writes = self.writes.saturating_add(1);
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let place = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => (self.held.file_size()? as u64).checked_add_signed(by),
        };
        self.offset = place.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.offset)
    }
}

impl WriteExt for Cursor {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.held.cut(offset)?;
        self.offset = offset as u64;
        Ok(())
    }

    /// Makes room for what is to come. Where many small writes are synced one by one, it is written as
    /// zeros: then a sync has to do with the file's bytes alone, while one of blocks that are used for the
    /// first time waits for the file system's journal, and that for what others have written on the disk.
    /// Where much comes at once that would cost more than it saves: the system keeps the room free.
    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        let Held { file, path, .. } = &*self.held;
        let made = match std::mem::take(&mut self.writes) >= MANY_WRITES {
            true => write_zeros(file, offset, size),
            false => keep_free(file, offset, size),
        };
        made.map_err(|error| named("making room in", path, &error))
    }
}

fn write_zeros(file: &File, offset: usize, size: usize) -> Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let end = offset + size;
    (offset..end).step_by(ZEROS.len()).try_for_each(|at| {
        let bytes = &ZEROS[..ZEROS.len().min(end - at)];
        file.write_all_at(bytes, at as u64)
    })
}

fn keep_free(file: &File, offset: usize, size: usize) -> Result<()> {
    match fallocate(file, FallocateFlags::empty(), offset as u64, size as u64) {
        // It only saves the file system from growing the file bit by bit.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What the system says, and of what.
fn named(doing: &str, path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}

/// The number in the file's name, with which the sums of its writes are signed.
fn sequence(path: &Path) -> u32 {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digits = name.split('.').next().unwrap_or_default();
    // Of a number that is larger the library takes a part; nobody writes so many files.
    digits.parse().unwrap_or_default()
}

/// Where the first whole write behind the first byte begins, if there is one.
fn whole_write(bytes: &[u8], sequence: u32) -> Option<usize> {
    // Behind the last write is room that was made in advance, of zeros; a sum may end in some.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let bytes = &bytes[..bytes.len().min(used + SUM_BYTES)];
    (1..used).find(|at| is_write(&bytes[*at..], sequence))
}

fn is_write(bytes: &[u8], sequence: u32) -> bool {
    let number = |at: usize| {
        let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
        part.map_or(u64::MAX, u64::from_be_bytes)
    };
    let (head, items) = (number(0), number(8));
    // The kind says whether its entries are compressed.
    if head & 0xFF > 1 || items < HEAD_BYTES as u64 {
        return false;
    }
    let fits = |number: u64| usize::try_from(number).ok().filter(|found| *found <= bytes.len());
    let (Some(length), Some(items)) = (fits(head >> 8), fits(items)) else { return false };
    if items + SUM_BYTES >= length {
        return false;
    }
    let (counted, sum) = bytes[items..length].split_at(length - items - SUM_BYTES);
    sum.try_into().is_ok_and(|sum| u32::from_le_bytes(sum) == crc32fast::hash(counted) ^ sequence)
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
