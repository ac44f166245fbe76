//! The log's files as its library sees them: the system's, but for one thing.
//!
//! When the library opens a log it cuts the last file off behind the last whole write. That is
//! right for a write that a power loss has torn, and there is but one, for each is synced before
//! the next begins. If whole writes follow what it cannot read, then the file is damaged: it is left
//! as it is, and the log is not opened. DUR-005

use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission};

type Inner = <DefaultFileSystem as FileSystem>::Handle;

/// See the module.
pub(super) struct Files;

/// An open file.
pub(super) struct Held {
    file: Arc<Inner>,
    path: PathBuf,
}

/// Bytes in front of a write's entries: its length and kind, and where its items begin.
const HEAD_BYTES: usize = 16;
/// Bytes of a sum.
const SUM_BYTES: usize = 4;

impl FileSystem for Files {
    type Handle = Held;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Held> {
        let file = Arc::new(DefaultFileSystem.create(&path)?);
        Ok(Held { file, path: path.as_ref().to_owned() })
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<Held> {
        let file = Arc::new(DefaultFileSystem.open(&path, permission)?);
        Ok(Held { file, path: path.as_ref().to_owned() })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Held>) -> Result<Self::Reader> {
        DefaultFileSystem.new_reader(Arc::clone(&handle.file))
    }

    fn new_writer(&self, handle: Arc<Held>) -> Result<Self::Writer> {
        DefaultFileSystem.new_writer(Arc::clone(&handle.file))
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
        self.file.truncate(offset)
    }

    fn file_size(&self) -> Result<usize> {
        self.file.file_size()
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
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
