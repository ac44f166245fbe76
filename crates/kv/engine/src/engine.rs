//! What an engine promises.
//!
//! - A batch is atomic: a view sees all of it or nothing, also after a crash.
//! - What [`Engine::persist`] followed is there after a crash; what it did not may be missing, but
//!   only from the end: if a batch is there, so are all that were written before it.
//! - A view is a moment: what is written later does not show in it.
//!
//! An error of a write leaves its batch unwritten as far as this process sees; whether it comes
//! back after a restart is open, so the process must end and the log be applied again.

use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;

use crate::{Batch, KeyRange};

/// One of an engine's maps, by its place in the list that the engine was opened with.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u8);

impl SpaceId {
    /// Its place in the list.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// Ordered maps that are written in atomic batches.
pub trait Engine: Send + Sync {
    /// A moment of all maps.
    type View: View;

    /// Writes a batch: visible to every later view, durable only after [`persist`](Self::persist).
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`]; nothing may be written to this engine any more.
    fn write(&self, batch: Batch) -> Result<(), Error>;

    /// Makes durable what was written before, with the system's fsync.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn persist(&self) -> Result<(), Error>;

    /// The maps as they are now. Cheap; while it lives, what it sees cannot be cleaned up.
    fn view(&self) -> Self::View;

    /// Bytes on disk, about; 0 where there is none.
    fn disk_bytes(&self) -> u64;
}

/// What a scan does with a key and its value; `Break` ends it.
pub type Visitor<'a> = dyn FnMut(&[u8], &Bytes) -> ControlFlow<()> + 'a;

/// A moment of an engine.
pub trait View {
    /// The key's value.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corrupt`].
    fn get(&self, space: SpaceId, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Shows the keys of a range in ascending order.
    ///
    /// # Errors
    /// As for [`get`](Self::get); the keys that were visited are right.
    fn scan(&self, space: SpaceId, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error>;
}

/// The engine cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the folder; nothing was touched. The operator's matter.
    #[error("{} is used by another process: stop it, or choose another data directory", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The files are of a version that this program does not read; nothing was touched.
    #[error("{} was written by another version of the storage format: {detail}", folder.display())]
    Version {
        /// The folder.
        folder: PathBuf,
        /// What stands there.
        detail: String,
    },
    /// What is there is for another version of the program, and nothing of it was carried out. The
    /// operator's matter.
    #[error("{detail}")]
    Unsupported {
        /// What it is, and what to do.
        detail: String,
    },
    /// What is on disk is not what was written. The operator's matter.
    #[error("the store is damaged: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
    /// The disk failed or is full. Nothing may be written before the process was started again.
    #[error("the store cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// An earlier write failed. Nothing may be written before the process was started again.
    #[error("an earlier write failed: the process has to be started again")]
    Poisoned,
}
