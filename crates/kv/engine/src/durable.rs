//! The engine on disk: a log-structured merge tree of the `fjall` library.
//!
//! One database a node, one keyspace a space: a keyspace costs milliseconds to make and a memtable
//! of its own, so ranges do not have one. Its journal is never synced but by
//! [`Engine::persist`]: a sync for each batch would be one for each writer, without group commit.

mod reclaim;
mod weigh;

use std::fs::File;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};

use reclaim::Churn;
pub use reclaim::Haste;

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
    /// Bytes of a space in memory, beside the journal, before a table is written: of spaces that are
    /// made now.
    pub memtable_bytes: u64,
    /// Bytes of journals from which on the space that holds the oldest one back is written to a
    /// table; at least 64 MiB.
    pub journal_bytes: u64,
    /// Threads that flush and compact; at least 1.
    pub workers: usize,
}

/// The names of the spaces that there are: the library makes one anew whose files are gone.
const LIST: &str = "spaces";

/// What the library takes at least.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;

/// See the module.
pub struct DurableEngine {
    database: Database,
    spaces: Vec<Keyspace>,
    /// Of each space.
    churn: Vec<Churn>,
}

/// A moment of a [`DurableEngine`].
pub struct DurableView {
    snapshot: Snapshot,
    spaces: Vec<Keyspace>,
}

impl DurableEngine {
    /// Opens the folder's engine. If the folder is missing one is made, whole or not at all, also
    /// over a power loss: under the folder's name with `.new`, which is left behind then.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Version`], [`Error::Corrupt`], [`Error::Io`].
    pub fn open(config: &DurableConfig) -> Result<Self, Error> {
        if !config.folder.try_exists()? {
            Self::make(config)?;
        }
        Self::open_made(config)
    }

    fn make(config: &DurableConfig) -> Result<(), Error> {
        let folder = config.folder.with_extension("new");
        if folder.try_exists()? {
            std::fs::remove_dir_all(&folder)?;
        }
        drop(Self::open_made(&DurableConfig { folder: folder.clone(), ..config.clone() })?);
        sync_all_in(&folder)?;
        std::fs::rename(&folder, &config.folder)?;
        if let Some(above) = config.folder.parent() {
            File::open(above)?.sync_all()?;
        }
        Ok(())
    }

    fn open_made(config: &DurableConfig) -> Result<Self, Error> {
        check(&config.folder)?;
        // What it finds on a damaged disk makes the library panic here and there.
        let opened = catch_unwind(|| Self::open_checked(config));
        let panicked = |panic: Box<dyn std::any::Any + Send>| Error::Corrupt {
            detail: panic_text(&*panic).to_owned(),
        };
        opened.map_err(panicked)?.map_err(|error| named(&config.folder, error))?
    }

    /// Bytes of memory: of what was written and is in no table yet, and of blocks of tables.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.database.write_buffer_size() + self.database.cache_size()
    }

    /// As [`open`](Self::open), with the library's errors and our own apart.
    fn open_checked(config: &DurableConfig) -> fjall::Result<Result<Self, Error>> {
        let database = Database::builder(&config.folder)
            .cache_size(config.cache_bytes)
            .max_journaling_size(config.journal_bytes.max(JOURNAL_BYTES_MIN))
            .worker_threads(config.workers.max(1))
            .open()?;
        let held = database.list_keyspace_names();
        let is_lost = |name: &&str| !held.iter().any(|held| **held == **name);
        let list = config.folder.join(LIST);
        let listed = match std::fs::read_to_string(&list) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        if let Some(name) = listed.lines().find(is_lost) {
            return Ok(Err(Error::Corrupt {
                detail: format!("the files of {name:?} are missing"),
            }));
        }
        let options = || KeyspaceCreateOptions::default().max_memtable_size(config.memtable_bytes);
        let space = |name: &String| database.keyspace(name, options);
        let spaces: Result<Vec<Keyspace>, _> = config.spaces.iter().map(space).collect();
        let spaces = spaces?;
        let churn = spaces.iter().map(|_| Churn::default()).collect();
        let opened = Self { spaces, churn, database };
        let names = config.spaces.iter().map(|name| format!("{name}\n")).collect::<String>();
        if names != listed {
            let fresh = list.with_extension("new");
            std::fs::write(&fresh, names)?;
            File::open(&fresh)?.sync_all()?;
            std::fs::rename(&fresh, &list)?;
            File::open(&config.folder)?.sync_all()?;
        }
        Ok(Ok(opened))
    }
}

/// Sees that nothing is missing whose lack the library would take for a space that was never
/// finished, or for one that was given up: it removes what is left of such a space.
fn check(folder: &Path) -> Result<(), Error> {
    // A version that is newer is none of ours; one that is none at all is damage.
    let version = folder.join("version");
    if std::fs::read(&version).is_ok_and(|text| text.len() < 4 || !text.starts_with(b"FJL")) {
        return Err(Error::Corrupt { detail: format!("{} is damaged", version.display()) });
    }
    let folder = folder.join("keyspaces");
    // Where there is none there is nothing to remove.
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
    let spaces: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let spaces = spaces?;
    // The first one names the others.
    let first = folder.join("0");
    let has_others = spaces.iter().any(|space| *space != first);
    for space in spaces.iter().chain(has_others.then_some(&first)) {
        let marker = space.join("current");
        let tables = std::fs::read_dir(space.join("tables"));
        let has_tables = tables.is_ok_and(|mut tables| tables.next().is_some());
        let has_data = has_tables || (has_others && *space == first);
        if has_data && !marker.try_exists()? {
            return Err(Error::Corrupt { detail: format!("{} is missing", marker.display()) });
        }
    }
    Ok(())
}

/// Makes durable what a folder has: the library leaves the names of some folders to chance.
fn sync_all_in(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all_in(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

impl Engine for DurableEngine {
    type View = DurableView;

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut written = self.database.batch().durability(None);
        for change in batch {
            match change {
                Change::Put { space, key, value, .. } => {
                    self.churn[space.index()].add_written(key.len() + value.len());
                    written.insert(&self.spaces[space.index()], key, value);
                }
                Change::Remove { space, key } => {
                    self.churn[space.index()].add_removal(key.len());
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
