//! The engine on disk: a log-structured merge tree of the `fjall` library.
//!
//! One database a node, one keyspace a space: a keyspace costs milliseconds to make and a memtable
//! of its own, so ranges do not have one. Its journal is never synced but by
//! [`Engine::persist`]: a sync for each batch would be one for each writer, without group commit.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};

use crate::{Batch, Change, Engine, Error, KeyRange, SpaceId, View, Visitor};

/// How an engine on disk is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableConfig {
    /// Its own folder; made if it is missing.
    pub folder: PathBuf,
    /// The names of its spaces: [`SpaceId`]s count them. A name keeps its data when the list
    /// changes.
    pub spaces: Vec<String>,
    /// Bytes of blocks that are kept in memory.
    pub cache_bytes: u64,
    /// Threads that flush and compact; at least 1.
    pub workers: usize,
}

/// See the module.
pub struct DurableEngine {
    database: Database,
    spaces: Vec<Keyspace>,
}

/// A moment of a [`DurableEngine`].
pub struct DurableView {
    snapshot: Snapshot,
    spaces: Vec<Keyspace>,
}

impl DurableEngine {
    /// Opens the folder's engine, or makes one.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Version`], [`Error::Corrupt`], [`Error::Io`].
    pub fn open(config: &DurableConfig) -> Result<Self, Error> {
        let opened = |error| named(&config.folder, error);
        let database = Database::builder(&config.folder)
            .cache_size(config.cache_bytes)
            .worker_threads(config.workers.max(1))
            .open()
            .map_err(opened)?;
        let space = |name: &String| database.keyspace(name, KeyspaceCreateOptions::default);
        let spaces: Result<Vec<Keyspace>, _> = config.spaces.iter().map(space).collect();
        Ok(Self { spaces: spaces.map_err(opened)?, database })
    }
}

impl Engine for DurableEngine {
    type View = DurableView;

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut written = self.database.batch().durability(None);
        for change in batch {
            match change {
                Change::Put { space, key, value, .. } => {
                    written.insert(&self.spaces[space.index()], key, value);
                }
                Change::Remove { space, key } => {
                    written.remove(&self.spaces[space.index()], key);
                }
            }
        }
        written.commit().map_err(from_fjall)
    }

    fn persist(&self) -> Result<(), Error> {
        self.database.persist(PersistMode::SyncAll).map_err(from_fjall)
    }

    fn view(&self) -> DurableView {
        DurableView { snapshot: self.database.snapshot(), spaces: self.spaces.clone() }
    }

    fn disk_bytes(&self) -> u64 {
        // What cannot be read for a figure will be told by whoever needs it.
        self.database.disk_space().unwrap_or(0)
    }
}

impl View for DurableView {
    fn get(&self, space: SpaceId, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.snapshot.get(&self.spaces[space.index()], key).map_err(from_fjall)?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, space: SpaceId, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        for found in self.snapshot.range::<&[u8], _>(&self.spaces[space.index()], range.bounds()) {
            let (key, value) = found.into_inner().map_err(from_fjall)?;
            if visit(&key, &Bytes::from(value)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for DurableEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DurableEngine").field("spaces", &self.spaces.len()).finish()
    }
}

impl std::fmt::Debug for DurableView {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DurableView").field("spaces", &self.spaces.len()).finish()
    }
}

/// An error of opening, which has to say where.
fn named(folder: &Path, error: fjall::Error) -> Error {
    let folder = folder.to_path_buf();
    match error {
        fjall::Error::Locked => Error::Locked { folder },
        fjall::Error::InvalidVersion(found) => {
            Error::Version { folder, detail: format!("{found:?}") }
        }
        other => from_fjall(other),
    }
}

fn from_fjall(error: fjall::Error) -> Error {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            Error::Io(error)
        }
        fjall::Error::Poisoned => Error::Poisoned,
        other => Error::Corrupt { detail: other.to_string() },
    }
}
