//! Setting aside what is damaged, so that a node can start with the rest.
//!
//! For one voter, whose data nobody else has, and only when the operator asks for it. It goes from
//! what loses least to what loses most, and stops where the store opens and every key of it can be
//! read: without the watermark; without the log, which loses what came since the last checkpoint;
//! without the keyspaces that cannot be read; with nothing. What is taken away is kept beside it as
//! `*.bad`, and what is lost is told. DUR-005
//!
//! A store that has lost something goes on under a new number: as the old one it promised to have
//! it. DUR-011

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ratatosk_engine::{
    Batch, DurableConfig, DurableEngine, Engine as _, KeyRange, SpaceId, View as _,
};

use crate::host::read_applied;
use crate::identity::{self, Identity};
use crate::log::{DurableLog, DurableLogConfig, RaftLog as _};
use crate::membership::Membership;
use crate::node::{Config, Node};
use crate::open::{Error, Records};
use crate::range::{Applied, BEGIN_INDEX, Descriptor, META, Owner};
use crate::room;

/// What was done to a store so that it opens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What was found at first; `None` if the store is whole.
    pub damage: Option<String>,
    /// What was damaged, under its new name.
    pub set_aside: Vec<PathBuf>,
    /// What was lost with it, in sentences.
    pub lost: Vec<String>,
}

/// Parts of a store's folder.
const LOG: &str = "log";
const WATERMARK: &str = "watermark";
const ENGINE: &str = "engine";
/// Where an engine is made of what can be read of another.
const WHOLE: &str = "engine.whole";
/// Bytes of keys and values that are copied at once.
const COPIED_BYTES: usize = 1 << 20;

/// Opens a store in this way. Called anew for each try.
type Make<'a> = dyn Fn() -> Config + 'a;

/// Sees that a store opens, and sets aside what keeps it from that. A store that is whole stays as
/// it is.
///
/// # Errors
/// [`Error::Locked`], [`Error::Io`] and [`Error::Version`]: nothing is known to be damaged.
pub fn recover(make: &Make<'_>) -> Result<Recovered, Error> {
    let Config { folder, keyspaces, random, .. } = make();
    let keyspaces = keyspaces.names();
    let mut work = Work { folder, keyspaces, random, done: Recovered::default() };
    if !work.folder.try_exists().map_err(|source| work.io(source))? {
        return Ok(work.done);
    }
    work.done.damage = damage_of(make)?;
    if work.done.damage.is_none() {
        return Ok(work.done);
    }
    work.find_identity()?;
    if damage_of(make)?.is_none() {
        return Ok(work.done);
    }
    // The log may end early and be right as far as it goes.
    work.copy_aside(LOG)?;
    work.set_aside(WATERMARK)?;
    let is_read = damage_of(make)?.is_none();
    if is_read {
        let lost = "what the log had at its end and does not have now, if anything, is lost";
        work.done.lost.push(lost.to_owned());
        work.remove(LOG)?;
    } else {
        work.set_aside(LOG)?;
    }
    let is_renewed = work.renew(is_read)?;
    if is_renewed && damage_of(make)?.is_none() {
        return Ok(work.done);
    }
    for part in [ENGINE, LOG, WATERMARK, identity::FILE] {
        work.set_aside(part)?;
    }
    work.done.lost.push("all that the store had is lost".to_owned());
    match damage_of(make)? {
        None => Ok(work.done),
        Some(detail) => Err(Error::Damaged { folder: work.folder, detail }),
    }
}

/// Opens a store, reads all of it, and closes it with a checkpoint.
fn attempt(make: &Make<'_>) -> Result<(), Error> {
    let config = make();
    let folder = config.folder.clone();
    let names = config.keyspaces.names();
    let node = Node::open(config)?;
    let handle = node.handle();
    for range in names.iter().flat_map(|name| handle.ranges(name)) {
        // What it finds on a damaged disk makes the library panic here and there.
        let read = catch_unwind(AssertUnwindSafe(|| {
            handle.read(range.group, &mut |reader| {
                reader.scan(&KeyRange::all(), &mut |_, _| ControlFlow::Continue(()))
            })
        }));
        let read = read.unwrap_or_else(|panic| {
            Err(ratatosk_engine::Error::Corrupt { detail: crate::panic::text(&*panic) })
        });
        read.map_err(|error| Error::of_engine(folder.clone(), error))?;
    }
    node.stop();
    Ok(())
}

/// What is damaged; other errors are the operator's.
fn damage(attempted: Result<(), Error>) -> Result<Option<String>, Error> {
    match attempted {
        Ok(()) => Ok(None),
        Err(Error::Damaged { detail, .. }) => Ok(Some(detail)),
        Err(other) => Err(other),
    }
}

fn damage_of(make: &Make<'_>) -> Result<Option<String>, Error> {
    damage(attempt(make))
}

/// One recovery.
struct Work {
    folder: PathBuf,
    keyspaces: Vec<String>,
    random: [u64; 2],
    done: Recovered,
}

impl Work {
    fn io(&self, source: io::Error) -> Error {
        Error::Io { folder: self.folder.clone(), source }
    }

    /// Makes an identity if there is none, with the number that the log has.
    fn find_identity(&mut self) -> Result<(), Error> {
        if matches!(Identity::read(&self.folder), Ok(Some(_))) {
            return Ok(());
        }
        self.set_aside(identity::FILE)?;
        let log = self.open_log(1, true);
        let store = log.ok().filter(|log| log.written() > 0).map(|log| log.store());
        let identity =
            Identity { store: store.unwrap_or(self.random[0].max(1)), cluster: self.random[1] };
        self.write(identity)
    }

    fn write(&self, identity: Identity) -> Result<(), Error> {
        identity.write(&self.folder).map_err(|error| Error::of_identity(&self.folder, error))
    }

    fn open_log(&self, store: u64, is_new: bool) -> Result<DurableLog, Error> {
        let sizes = room::of(&self.folder).map_err(|source| self.io(source))?.sizes();
        let folder = self.folder.join(LOG);
        let config = DurableLogConfig {
            folder: folder.clone(),
            watermark: self.folder.join(WATERMARK),
            store,
            is_new,
            file_bytes: sizes.log_file_bytes,
            purge_bytes: sizes.log_purge_bytes,
        };
        DurableLog::open(&config).map_err(|error| Error::of_log(folder, error))
    }

    fn open_engine(&self, name: &str) -> Result<DurableEngine, Error> {
        let sizes = room::of(&self.folder).map_err(|source| self.io(source))?.sizes();
        let folder = self.folder.join(name);
        let mut spaces = vec!["meta".to_owned()];
        spaces.extend(self.keyspaces.iter().cloned());
        let config = DurableConfig {
            folder: folder.clone(),
            spaces,
            cache_bytes: COPIED_BYTES as u64,
            memtable_bytes: sizes.memtable_bytes,
            journal_bytes: sizes.journal_bytes,
            workers: 1,
        };
        DurableEngine::open(&config).map_err(|error| Error::of_engine(folder, error))
    }

    /// Goes on from what the engine has, without a log, as another store; false if the engine is of
    /// no use. `is_all` if the engine has all that the log had.
    fn renew(&mut self, is_all: bool) -> Result<bool, Error> {
        let before = match Identity::read(&self.folder) {
            Ok(Some(identity)) => identity,
            _ => return Ok(false),
        };
        let Some(known) = self.whole_ranges(before.store)? else { return Ok(false) };
        // From here on a second try finds no log, and so the engine that belongs to it.
        let store = self.random[0].max(1);
        self.write(Identity { store, ..before })?;
        let engine = self.open_engine(ENGINE)?;
        let mut changes = Batch::new();
        changes.put(META, Owner::key(), Owner(store).encode());
        for descriptor in known {
            let of_engine = |error| Error::of_engine(self.folder.join(ENGINE), error);
            let applied = read_applied(&engine.view(), descriptor.group).map_err(of_engine)?;
            let (index, group) = (applied.index, descriptor.group);
            let renewed = Descriptor { membership: Membership::alone(store), ..descriptor };
            changes.put(META, Descriptor::key(group), renewed.encode());
            // As if the data had come from another store: the log begins behind it.
            let applied = Applied { installed: index, ..applied };
            changes.put(META, Applied::key(group), applied.encode());
            if !is_all && index > BEGIN_INDEX {
                self.done.lost.push(format!(
                    "of {} what came after entry {index} is lost, the last that a checkpoint has",
                    renewed.keyspace
                ));
            }
        }
        let written = engine.write(changes).and_then(|()| engine.persist());
        written.map_err(|error| Error::of_engine(self.folder.join(ENGINE), error))?;
        let log = self.open_log(store, true)?;
        log.persist().map_err(|error| Error::of_log(self.folder.join(LOG), error))?;
        Ok(true)
    }

    /// The ranges of the keyspaces that can be read to their end. If some cannot, an engine of the
    /// others takes the place of the one that is there. `None` if it is of no use, or another's.
    fn whole_ranges(&mut self, store: u64) -> Result<Option<Vec<Descriptor>>, Error> {
        if !is_there(&self.folder.join(ENGINE)) {
            return Ok(None);
        }
        let engine = match self.open_engine(ENGINE) {
            Ok(engine) => engine,
            Err(Error::Damaged { .. }) => return Ok(None),
            Err(other) => return Err(other),
        };
        let Ok(found) = Records::read(&engine) else { return Ok(None) };
        let mut known: Vec<Descriptor> = found.descriptors.into_values().collect();
        let is_alone = |held: &Descriptor| held.membership == Membership::alone(store);
        if found.owner != Some(store) || known.is_empty() || !known.iter().all(is_alone) {
            return Ok(None);
        }
        let unreadable: Vec<String> =
            self.keyspaces.iter().filter(|name| !self.reads(&engine, name)).cloned().collect();
        known.retain(|descriptor| !unreadable.contains(&descriptor.keyspace));
        if unreadable.is_empty() {
            return Ok(Some(known));
        }
        self.remove(WHOLE)?;
        let whole = self.open_engine(WHOLE)?;
        for descriptor in &known {
            self.copy(&engine, &whole, descriptor)?;
        }
        let persisted = whole.persist();
        persisted.map_err(|error| Error::of_engine(self.folder.join(WHOLE), error))?;
        drop((engine, whole));
        for name in unreadable {
            self.done.lost.push(format!("all of {name} is lost"));
        }
        self.set_aside(ENGINE)?;
        let (from, to) = (self.folder.join(WHOLE), self.folder.join(ENGINE));
        fs::rename(from, to).map_err(|source| self.io(source))?;
        self.sync()?;
        Ok(Some(known))
    }

    fn space(&self, keyspace: &str) -> Option<SpaceId> {
        let place = self.keyspaces.iter().position(|name| name == keyspace)?;
        u8::try_from(place + 1).ok().map(SpaceId)
    }

    fn reads(&self, engine: &DurableEngine, keyspace: &str) -> bool {
        let Some(space) = self.space(keyspace) else { return false };
        let scan =
            || engine.view().scan(space, &KeyRange::all(), &mut |_, _| ControlFlow::Continue(()));
        catch_unwind(AssertUnwindSafe(scan)).is_ok_and(|read| read.is_ok())
    }

    /// Copies a range with what is known of it.
    fn copy(
        &self,
        from: &DurableEngine,
        into: &DurableEngine,
        descriptor: &Descriptor,
    ) -> Result<(), Error> {
        let of_engine = |error| Error::of_engine(self.folder.join(ENGINE), error);
        let view = from.view();
        let mut changes = Batch::new();
        let applied = Applied::key(descriptor.group);
        changes.put(META, Descriptor::key(descriptor.group), descriptor.encode());
        if let Some(value) = view.get(META, &applied).map_err(of_engine)? {
            changes.put(META, applied, value);
        }
        let Some(space) = self.space(&descriptor.keyspace) else { return Ok(()) };
        let (mut bytes, mut written) = (0, Ok(()));
        let scanned = view.scan(space, &KeyRange::all(), &mut |key, value| {
            bytes += key.len() + value.len();
            changes.put(space, Bytes::copy_from_slice(key), value.clone());
            if bytes >= COPIED_BYTES {
                bytes = 0;
                written = into.write(std::mem::take(&mut changes));
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        scanned.and(written).and_then(|()| into.write(changes)).map_err(of_engine)
    }

    /// Gives a part another name, if it is there.
    fn set_aside(&mut self, part: &str) -> Result<(), Error> {
        let from = self.folder.join(part);
        if !is_there(&from) {
            return Ok(());
        }
        let to = self.aside(part);
        fs::rename(&from, &to).map_err(|source| self.io(source))?;
        self.done.set_aside.push(to);
        self.sync()
    }

    /// Copies a folder of files, if it is there: what is left is tried first.
    fn copy_aside(&mut self, part: &str) -> Result<(), Error> {
        let from = self.folder.join(part);
        if !from.is_dir() {
            return Ok(());
        }
        let to = self.aside(part);
        copy_all(&from, &to).map_err(|source| self.io(source))?;
        self.done.set_aside.push(to);
        self.sync()
    }

    fn remove(&self, part: &str) -> Result<(), Error> {
        let path = self.folder.join(part);
        match is_there(&path) {
            true => fs::remove_dir_all(path).map_err(|source| self.io(source)),
            false => Ok(()),
        }
    }

    /// A name that nothing has.
    fn aside(&self, part: &str) -> PathBuf {
        let numbered = (2..).map(|number| self.folder.join(format!("{part}.{number}.bad")));
        let mut names = std::iter::once(self.folder.join(format!("{part}.bad"))).chain(numbered);
        names.find(|name| !is_there(name)).expect("there is no end of numbers")
    }

    fn sync(&self) -> Result<(), Error> {
        let synced = fs::File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| self.io(source))
    }
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
