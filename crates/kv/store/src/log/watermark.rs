//! How far the log is durable at least, in a file beside it.
//!
//! A log that ends early looks like one whose last write was torn by a power loss. Every write
//! has a number, which is in the log with it; once it is synced the number goes into this file,
//! without a sync of its own. So `watermark ≤ what was synced`, always, and a log that ends below
//! it has lost what was acknowledged. After a crash of the process it is exact; after a power loss
//! it may be as old as the system's last write-back. DUR-004, DUR-011

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::Error;

/// Store, number and sum, big-endian.
const BYTES: usize = 24;

/// See the module.
pub(super) struct Watermark {
    file: File,
    store: u64,
}

impl Watermark {
    /// Opens the file, or makes it; with the number that is in it.
    pub(super) fn open(path: &Path, store: u64) -> Result<(Self, Option<u64>), Error> {
        let is_new = !path.try_exists()?;
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let opened = Self { file, store };
        if is_new {
            return Ok((opened, None));
        }
        let damaged = || Error::Corrupt {
            detail: format!(
                "{} is damaged; if nothing else is, remove it to start with what the log has",
                path.display()
            ),
        };
        let mut bytes = [0; BYTES];
        opened.file.read_exact_at(&mut bytes, 0).map_err(|_| damaged())?;
        let is_longer = opened.file.metadata()?.len() > BYTES as u64;
        let number = u64::from_be_bytes(part(&bytes, 1));
        if is_longer || bytes != record(store, number) {
            return Err(damaged());
        }
        Ok((opened, Some(number)))
    }

    /// Notes that the log is durable up to a write. What cannot be noted is not: it is a lower
    /// bound, and the disk will tell the log itself.
    pub(super) fn raise(&self, number: u64) {
        let _ = self.file.write_all_at(&record(self.store, number), 0);
    }

    /// Makes the file itself durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        Ok(self.file.sync_all()?)
    }
}

fn record(store: u64, number: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&store.to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    let sum = crate::sum::of(&bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn part(bytes: &[u8; BYTES], place: usize) -> [u8; 8] {
    let mut found = [0; 8];
    found.copy_from_slice(&bytes[place * 8..place * 8 + 8]);
    found
}
