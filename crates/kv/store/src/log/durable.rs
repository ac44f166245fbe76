//! The log on disk: one instance of the `raft-engine` library for all groups.
//!
//! A write is one append and one fsync, whatever groups it has, and also if it need not wait: so
//! at most the last one can be torn. A torn tail is cut off when the log is opened; damage before
//! it refuses to open, and so does a log that ends below its [`Watermark`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use raft_engine::internals::FilePipeLog;
use raft_engine::{Command, Config, Engine, MessageExt, ReadableSize, RecoveryMode};

use super::files::Files;
use super::watermark::Watermark;
use super::{Error, GroupId, GroupState, LogBatch, LogChange, RaftLog, Span, Sync, Truncated};

/// Keys of a group's small records.
const REPLICA: &[u8] = b"replica";
const HARD_STATE: &[u8] = b"hard-state";
const TRUNCATED: &[u8] = b"truncated";
const DURABLE_APPLIED: &[u8] = b"durable-applied";
/// No group: what the log says of itself.
const OWN: u64 = u64::MAX;
/// The store and the number of a write, in every write.
const WRITTEN: &[u8] = b"written";

/// How a log on disk is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableLogConfig {
    /// Its own folder; made if it is missing.
    pub folder: PathBuf,
    /// The file that has its watermark; made if it is missing.
    pub watermark: PathBuf,
    /// Whose it is.
    pub store: u64,
    /// The store was never whole: what a log has that was begun before is whose it says.
    pub is_new: bool,
    /// Bytes of a file before the next one is begun.
    pub file_bytes: u64,
    /// Bytes from which on files of truncated entries are removed; at least one file.
    pub purge_bytes: u64,
}

/// See the module.
pub struct DurableLog {
    engine: Engine<Files, FilePipeLog<Files>>,
    files: Files,
    store: u64,
    watermark: Watermark,
    /// Held while something is written.
    end: Mutex<End>,
}

/// Where the next write goes.
struct End {
    /// The number of the last write.
    written: u64,
    /// An empty batch with the room of those before: each is as large as what waited for one fsync.
    spare: raft_engine::LogBatch,
}

/// How the library finds the index of an entry.
struct Indexed;

impl MessageExt for Indexed {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl DurableLog {
    /// Opens the folder's log, or makes one.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::Io`].
    pub fn open(config: &DurableLogConfig) -> Result<Self, Error> {
        let folder = config.folder.to_string_lossy().into_owned();
        let settings = Config {
            dir: folder.clone(),
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            recovery_threads: 1,
            // Payloads are compressed by who knows them, or not at all.
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize(config.file_bytes),
            purge_threshold: ReadableSize(config.purge_bytes.max(config.file_bytes)),
            ..Config::default()
        };
        // What it finds on a damaged disk makes the library panic here and there.
        let files = Files::default();
        let used = Arc::new(files.clone());
        let opened =
            catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(settings, used)));
        let engine = match opened {
            Ok(Ok(engine)) => engine,
            Ok(Err(error)) if is_locked(&error) => return Err(Error::Locked { folder }),
            Ok(Err(error)) => return Err(from_opening(error)),
            Err(panic) => return Err(Error::Corrupt { detail: crate::panic::text(&*panic) }),
        };
        files.check()?;
        let (store, written) = written(&engine)?.unwrap_or((config.store, 0));
        if store != config.store && !config.is_new {
            let detail =
                format!("{folder} is the log of store {store:016x}, not {:016x}", config.store);
            return Err(Error::Corrupt { detail });
        }
        if config.is_new && written == 0 && config.watermark.try_exists()? {
            // Made by a start that came no further.
            std::fs::remove_file(&config.watermark)?;
        }
        let (watermark, reached) = Watermark::open(&config.watermark, store)?;
        if let Some(reached) = reached.filter(|reached| *reached > written) {
            let detail = format!(
                "{folder} ends at write {written} and was on disk up to write {reached}: \
                 {} acknowledged writes are lost",
                reached - written
            );
            return Err(Error::Corrupt { detail });
        }
        watermark.raise(written);
        watermark.sync()?;
        // The library syncs what it writes, not that the first file has a name.
        std::fs::File::open(&config.folder)?.sync_all()?;
        let end = Mutex::new(End { written, spare: raft_engine::LogBatch::default() });
        Ok(Self { engine, files, store, watermark, end })
    }

    /// Whose it is.
    pub fn store(&self) -> u64 {
        self.store
    }

    /// How many writes it ever had.
    pub fn written(&self) -> u64 {
        self.end.lock().written
    }

    fn truncated(&self, group: u64) -> Result<Truncated, Error> {
        let Some(bytes) = self.engine.get(group, TRUNCATED) else {
            return Ok(Truncated::default());
        };
        let (index, term) = bytes.split_at_checked(8).ok_or_else(|| damaged("truncated"))?;
        Ok(Truncated { index: number(index, "truncated")?, term: number(term, "truncated")? })
    }

    /// Writes what `fill` puts into a batch, as the next one, and waits for the disk.
    fn append(
        &self,
        fill: impl FnOnce(&mut raft_engine::LogBatch) -> raft_engine::Result<()>,
    ) -> Result<(), Error> {
        let mut end = self.end.lock();
        // After an error nothing of the batch is left for the next one.
        let mut batch = std::mem::take(&mut end.spare);
        fill(&mut batch).map_err(from_engine)?;
        let mut record = self.store.to_be_bytes().to_vec();
        record.extend((end.written + 1).to_be_bytes());
        batch.put(OWN, WRITTEN.to_vec(), record).map_err(from_engine)?;
        self.engine.write(&mut batch, true).map_err(from_engine)?;
        self.files.check()?;
        end.written += 1;
        self.watermark.raise(end.written);
        end.spare = batch;
        Ok(())
    }

    fn put(
        &self,
        written: &mut raft_engine::LogBatch,
        GroupId(group): GroupId,
        change: LogChange,
    ) -> raft_engine::Result<()> {
        match change {
            LogChange::Append(entries) => written.add_entries::<Indexed>(group, &entries),
            LogChange::Replica(replica) => {
                written.put(group, REPLICA.to_vec(), replica.to_be_bytes().to_vec())
            }
            LogChange::HardState(state) => written.put_message(group, HARD_STATE.to_vec(), &state),
            LogChange::Truncate(truncated) => put_truncated(written, group, truncated),
            LogChange::Restart(truncated) => self.put_restart(written, group, truncated),
            LogChange::DurableApplied(index) => {
                written.put(group, DURABLE_APPLIED.to_vec(), index.to_be_bytes().to_vec())
            }
            LogChange::Destroy => {
                written.add_command(group, Command::Clean);
                Ok(())
            }
        }
    }

    fn put_restart(
        &self,
        written: &mut raft_engine::LogBatch,
        group: u64,
        truncated: Truncated,
    ) -> raft_engine::Result<()> {
        let Truncated { index, term } = truncated;
        // What lies behind goes only if something else takes the place.
        if self.engine.last_index(group).is_some_and(|last| last > index) {
            let place = Entry { index, term, ..Entry::default() };
            written.add_entries::<Indexed>(group, &[place])?;
        }
        put_truncated(written, group, truncated)
    }

    fn state(&self, group: u64) -> Result<GroupState, Error> {
        let truncated = self.truncated(group)?;
        let hard_state = match self.engine.get(group, HARD_STATE) {
            Some(bytes) => {
                HardState::parse_from_bytes(&bytes).map_err(|_| damaged("hard-state"))?
            }
            None => HardState::default(),
        };
        let replica = match self.engine.get(group, REPLICA) {
            Some(bytes) => number(&bytes, "replica")?,
            None => 0,
        };
        let durable_applied = match self.engine.get(group, DURABLE_APPLIED) {
            Some(bytes) => number(&bytes, "durable-applied")?,
            None => 0,
        };
        let last_index = self.engine.last_index(group).unwrap_or(0).max(truncated.index);
        let first_index = self.engine.first_index(group).unwrap_or(0);
        if first_index > truncated.index + 1 {
            let first = truncated.index + 1;
            let detail =
                format!("the entries {first} to {} of group {group} are missing", first_index - 1);
            return Err(Error::Corrupt { detail });
        }
        let group = GroupId(group);
        Ok(GroupState { group, replica, hard_state, truncated, last_index, durable_applied })
    }
}

impl RaftLog for DurableLog {
    fn groups(&self) -> Result<Vec<GroupState>, Error> {
        let mut groups = self.engine.raft_groups();
        groups.retain(|group| *group != OWN);
        groups.sort_unstable();
        groups.into_iter().map(|group| self.state(group)).collect()
    }

    fn fetch(&self, span: Span, bytes_max: usize, into: &mut Vec<Entry>) -> Result<(), Error> {
        let Span { group, low, high } = span;
        if low >= high {
            return Ok(());
        }
        let found =
            self.engine.fetch_entries_to::<Indexed>(group.0, low, high, Some(bytes_max), into);
        match found {
            Ok(0) | Err(raft_engine::Error::EntryCompacted | raft_engine::Error::EntryNotFound) => {
                Err(Error::Missing { group, index: low })
            }
            Ok(_) => Ok(()),
            Err(error) => Err(from_engine(error)),
        }
    }

    fn write(&self, batch: LogBatch, _sync: Sync) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.append(|written| {
            batch.into_iter().try_for_each(|(group, change)| self.put(written, group, change))
        })
    }

    fn persist(&self) -> Result<(), Error> {
        self.append(|_| Ok(()))
    }

    fn purge(&self) -> Result<Vec<GroupId>, Error> {
        let holding = self.engine.purge_expired_files().map_err(from_engine)?;
        self.files.check()?;
        self.watermark.sync()?;
        Ok(holding.into_iter().filter(|group| *group != OWN).map(GroupId).collect())
    }

    fn disk_bytes(&self) -> u64 {
        self.engine.get_used_size() as u64
    }
}

impl std::fmt::Debug for DurableLog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DurableLog").field("folder", &self.engine.path()).finish()
    }
}

fn put_truncated(
    written: &mut raft_engine::LogBatch,
    group: u64,
    truncated: Truncated,
) -> raft_engine::Result<()> {
    let mut bytes = truncated.index.to_be_bytes().to_vec();
    bytes.extend(truncated.term.to_be_bytes());
    written.add_command(group, Command::Compact { index: truncated.index + 1 });
    written.put(group, TRUNCATED.to_vec(), bytes)
}

/// Who made the last write, and its number.
fn written(engine: &Engine<Files, FilePipeLog<Files>>) -> Result<Option<(u64, u64)>, Error> {
    let Some(bytes) = engine.get(OWN, WRITTEN) else { return Ok(None) };
    let (store, count) = bytes.split_at_checked(8).ok_or_else(|| damaged("written"))?;
    Ok(Some((number(store, "written")?, number(count, "written")?)))
}

fn number(bytes: &[u8], record: &str) -> Result<u64, Error> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| damaged(record))
}

fn damaged(record: &str) -> Error {
    Error::Corrupt { detail: format!("a {record} record cannot be read") }
}

/// The library tells a lock that is held in words only.
fn is_locked(error: &raft_engine::Error) -> bool {
    error.to_string().contains("Failed to lock file")
}

/// What a file has that cannot be, the library tells as an error of the system, now and then.
fn from_opening(error: raft_engine::Error) -> Error {
    match error {
        raft_engine::Error::Io(error) if crate::open::is_damage(&error) => {
            Error::Corrupt { detail: error.to_string() }
        }
        other => from_engine(other),
    }
}

fn from_engine(error: raft_engine::Error) -> Error {
    match error {
        raft_engine::Error::Io(error) => Error::Io(error),
        other => Error::Corrupt { detail: other.to_string() },
    }
}
