//! What is found on disk, and whether it is whole.
//!
//! The log and the engine each know what the other must have: the log how far the engine was at
//! the last checkpoint, the engine how far the log had come. What has less than the other knows of
//! has lost what was acknowledged, and the node does not start as if it had not. DUR-005, DUR-011

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ratatosk_engine::{Batch, Engine, KeyRange, View as _};

use crate::coprocessor::Keyspaces;
use crate::edition::{self, Edition, Editions};
use crate::host::read_applied;
use crate::log::{GroupId, GroupState, LogBatch, LogChange, RaftLog, Sync, Truncated};
use crate::machine::{self, Opened, begin};
use crate::mark::Installing;
use crate::membership::Membership;
use crate::range::{Applied, BEGIN_INDEX, BEGIN_TERM, Descriptor, META, Owner, Tombstone};

/// A store cannot be opened. Nothing was changed that was there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses it.
    #[error("{} is used by another process: stop it, or choose another data directory", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The system refuses. Nothing is known to be lost.
    #[error("{} cannot be used: {source}", folder.display())]
    Io {
        /// The folder or file.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another version of the program wrote it.
    #[error("{} cannot be read: {detail}", folder.display())]
    Version {
        /// The folder or file.
        folder: PathBuf,
        /// What stands there.
        detail: String,
    },
    /// It is of another cluster than the one to join. Different clusters never merge. KV-017
    #[error(
        "{} has the data of cluster {is_of:016x}, and the cluster to join is {wanted:016x}: choose \
         another data directory, or start it without joining",
        folder.display()
    )]
    Cluster {
        /// The folder.
        folder: PathBuf,
        /// The cluster that it is of.
        is_of: u64,
        /// The one to join.
        wanted: u64,
    },
    /// Files are damaged or missing: what was acknowledged may be lost.
    #[error(
        "the data in {} is not whole: {detail}. Restore the folder from a backup; or have \
         `ratatosk recover` set aside what is damaged, to start with the rest",
        folder.display()
    )]
    Damaged {
        /// The store's folder.
        folder: PathBuf,
        /// What is missing.
        detail: String,
    },
}

/// What a store has.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Its groups, for [`Machine::open`](crate::machine::Machine::open), those with a range for
    /// [`Host::open`](crate::host::Host::open), too, after
    /// [`Host::clear_leftovers`](crate::host::Host::clear_leftovers).
    pub groups: Vec<Opened>,
    /// Groups that it has left, with the highest number of its replicas.
    pub left: Vec<(GroupId, u64)>,
}

/// Why what was found is not whole, in words that follow "is not whole:".
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The engine cannot be read or written.
    #[error(transparent)]
    Engine(#[from] ratatosk_engine::Error),
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] crate::log::Error),
    /// One of the two has less than the other knows of.
    #[error("{0}")]
    Lost(String),
    /// This build does not support what is there.
    #[error("{0}")]
    Version(String),
}

/// What is looked for.
#[derive(Copy, Clone, Debug)]
pub struct Asked<'a> {
    /// The store's number.
    pub store: u64,
    /// What this build knows.
    pub keyspaces: &'a Keyspaces,
    /// Whether it makes what is missing.
    pub beginning: Beginning,
    /// The store was never whole before.
    pub is_new: bool,
}

/// Where a store gets its ranges from. KV-017
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It makes a range of each keyspace, unless it is one of a cluster.
    Alone,
    /// Others give them to it.
    Joining,
}

/// Finds the groups of a store, and, where it stands alone, makes a range of all keys for each keyspace
/// that has none.
/// [`Node::open`](crate::node::Node::open) does this with what is on a disk, a simulation with what
/// it made up.
///
/// # Errors
/// See [`Trouble`]. What was there is as it was.
pub fn find<L: RaftLog, E: Engine>(
    log: &L,
    engine: &E,
    asked: Asked<'_>,
) -> Result<Found, Trouble> {
    // An earlier process may have gone down between a write and its sync. What is read here is told to
    // the log as durable by the next checkpoint, and to other stores by the first answer, whether there
    // is something to write or not.
    engine.persist()?;
    log.persist()?;
    let mut states: BTreeMap<GroupId, GroupState> =
        log.groups()?.into_iter().map(|state| (state.group, state)).collect();
    let mut records = Records::read(engine)?;
    let store = asked.store;
    let mut batch = LogBatch::new();
    match asked.is_new {
        true => records.begin_anew(engine, &mut states, asked, &mut batch)?,
        false => records.check_owner(store)?,
    }
    records.check_editions(asked.keyspaces)?;
    let Records { mut descriptors, left, installing, .. } = records;
    let numbers = descriptors
        .keys()
        .chain(states.keys())
        .chain(installing.keys())
        .filter(|group| group.is_first());
    let last = numbers.max().map_or(0, |group| group.0);
    let is_shared = |held: &Descriptor| held.membership != Membership::alone(asked.store);
    let is_member =
        !left.is_empty() || !installing.is_empty() || descriptors.values().any(is_shared);
    // A store that has or had others beside it is one of a cluster, which has these ranges already. So is
    // one that was to join others and was given nothing yet.
    let is_member = is_member || (!asked.is_new && descriptors.is_empty());
    let beginning = if is_member { Beginning::Joining } else { asked.beginning };
    make(engine, &mut descriptors, last, Asked { beginning, ..asked })?;
    let mut found = Found { groups: Vec::new(), left: left.into_iter().collect() };
    for (group, mark) in installing {
        let what = What { group, keyspace: &mark.keyspace, replica: mark.replica };
        let state = check(what, mark.applied, states.remove(&group), &mut batch)?;
        found.groups.push(Opened { is_interrupted: true, ..Opened::without_range(state) });
    }
    for (group, descriptor) in descriptors {
        let applied = read_applied(&engine.view(), group)?;
        let replica = descriptor.membership.of_store(store).map_or(0, |replica| replica.id);
        let what = What { group, keyspace: &descriptor.keyspace, replica };
        let state = check(what, applied, states.remove(&group), &mut batch)?;
        let (descriptor, applied) = (Some(descriptor), applied.index);
        found.groups.push(Opened { descriptor, applied, ..Opened::without_range(state) });
    }
    for (group, state) in states {
        let was_left = found.left.iter().any(|(id, last)| *id == group && *last >= state.replica);
        if was_left {
            // It went down before the log was told.
            batch.push(group, LogChange::Destroy);
        } else if had_data(&state) {
            return Err(Trouble::Lost(format!("group {} has a log and no data", group.0)));
        } else {
            found.groups.push(Opened::without_range(state));
        }
    }
    if !batch.is_empty() {
        log.write(batch, Sync::Wait)?;
    }
    Ok(found)
}

/// Makes durable that the folder has its name, and those above it, which may be new too.
pub(crate) fn sync_above(folder: &Path) {
    for above in folder.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        // Of what is not ours to open the names were there before.
        if let Ok(held) = std::fs::File::open(above) {
            let _ = held.sync_all();
        }
    }
}

/// Whether the engine must have had the range of a group. It need not if all that is known is the
/// replica's number, nor if a split that it came of is to be applied again.
fn had_data(state: &GroupState) -> bool {
    let begin = if state.group.is_first() { 0 } else { BEGIN_INDEX };
    state.durable_applied > 0 || state.truncated.index > begin
}

/// Makes the ranges durable that are missing, under numbers above `last`.
fn make<E: Engine>(
    engine: &E,
    descriptors: &mut BTreeMap<GroupId, Descriptor>,
    mut last: u64,
    asked: Asked<'_>,
) -> Result<(), Trouble> {
    let mut changes = Batch::new();
    if asked.is_new {
        changes.put(META, Owner::key(), Owner(asked.store).encode());
        // They may be those of a store that never came to be.
        for (group, descriptor) in &*descriptors {
            changes.put(META, Descriptor::key(*group), descriptor.encode());
        }
    }
    let names = match asked.beginning {
        Beginning::Alone => asked.keyspaces.names(),
        Beginning::Joining => Vec::new(),
    };
    for keyspace in &names {
        if descriptors.values().any(|held| held.keyspace == *keyspace) {
            continue;
        }
        last += 1;
        let whole = Descriptor::whole(GroupId(last), keyspace.clone(), asked.store);
        let descriptor = Descriptor { edition: newest(asked.keyspaces, keyspace), ..whole };
        let applied = Applied { index: BEGIN_INDEX, term: BEGIN_TERM, installed: BEGIN_INDEX };
        changes.put(META, Descriptor::key(descriptor.group), descriptor.encode());
        changes.put(META, Applied::key(descriptor.group), applied.encode());
        descriptors.insert(descriptor.group, descriptor);
    }
    if changes.is_empty() {
        return Ok(());
    }
    engine.write(changes)?;
    engine.persist()?;
    Ok(())
}

/// The edition that a new range begins with.
fn newest(keyspaces: &Keyspaces, keyspace: &str) -> Edition {
    keyspaces.editions(keyspace).map_or(Edition::FIRST, Editions::newest)
}

/// What the engine says of a group's replica here.
#[derive(Copy, Clone)]
struct What<'a> {
    group: GroupId,
    keyspace: &'a str,
    replica: u64,
}

/// Holds what the log has of a range against what the engine has of it, or had before it was about to
/// get the data of another store.
fn check(
    what: What<'_>,
    applied: Applied,
    state: Option<GroupState>,
    batch: &mut LogBatch,
) -> Result<GroupState, Trouble> {
    let What { group, keyspace, replica } = what;
    let mut state = state.unwrap_or(GroupState { replica, ..GroupState::new(group) });
    if state.replica != replica {
        let lost = format!("group {} has the log of replica {}", group.0, state.replica);
        return Err(Trouble::Lost(format!("{lost} and the data of replica {replica}")));
    }
    if applied == Applied::default() && !had_data(&state) {
        return Ok(state);
    }
    if state.truncated.index < applied.installed {
        // The engine has what came by a snapshot or a split, which is durable first.
        if applied.index > applied.installed {
            return Err(Trouble::Lost(format!(
                "the log of {keyspace} is missing, of which {} entries were applied",
                applied.index - applied.installed
            )));
        }
        begin(&mut state, Truncated { index: applied.index, term: applied.term });
        state.push_beginning(batch);
        if applied.installed > BEGIN_INDEX {
            state.durable_applied = applied.index;
            batch.push(group, LogChange::DurableApplied(applied.index));
        }
    }
    if applied.index < state.durable_applied {
        return Err(Trouble::Lost(format!(
            "the engine's {keyspace} ends at entry {}, and was at {} once",
            applied.index, state.durable_applied
        )));
    }
    if applied.index < state.truncated.index {
        return Err(Trouble::Lost(format!(
            "{keyspace} lacks the entries {} to {}, which the log gave up",
            applied.index + 1,
            state.truncated.index
        )));
    }
    if state.last_index < applied.index {
        return Err(Trouble::Lost(format!(
            "the log of {keyspace} ends at entry {}, and {} were applied",
            state.last_index, applied.index
        )));
    }
    Ok(state)
}

/// What the engine has of the store itself.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) descriptors: BTreeMap<GroupId, Descriptor>,
    /// Groups whose data was about to come from another store.
    installing: BTreeMap<GroupId, Installing>,
    /// Groups that were left, with the highest number of a replica here.
    left: BTreeMap<GroupId, u64>,
    pub(crate) owner: Option<u64>,
}

impl Records {
    pub(crate) fn read<E: Engine>(engine: &E) -> Result<Self, Trouble> {
        let (mut found, mut trouble) = (Self::default(), None);
        engine.view().scan(META, &KeyRange::all(), &mut |key, value| {
            let taken = found.take(key, value);
            trouble = taken.err();
            if trouble.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match trouble {
            Some(group) => {
                Err(Trouble::Lost(format!("what range {} is, is not readable", group.0)))
            }
            None => Ok(found),
        }
    }

    /// Whether it is what a store wrote under this number.
    fn check_owner(&self, store: u64) -> Result<(), Trouble> {
        let lost = match self.owner {
            Some(owner) if owner == store => return Ok(()),
            Some(owner) => format!("the engine is that of store {owner:x}, and this is {store:x}"),
            None => "the engine is empty: it does not say whose it is".to_owned(),
        };
        Err(Trouble::Lost(lost))
    }

    /// Whether this build carries out the ranges that are there. It need not know all their keyspaces.
    fn check_editions(&self, keyspaces: &Keyspaces) -> Result<(), Trouble> {
        for range in self.descriptors.values() {
            let supported = keyspaces.editions(&range.keyspace);
            if supported.is_some_and(|editions| !editions.contains(range.edition)) {
                return Err(Trouble::Version(edition::refusal(range, supported)));
            }
        }
        Ok(())
    }

    /// Takes over what a start left that came no further: nothing was ever proposed.
    fn begin_anew<E: Engine>(
        &mut self,
        engine: &E,
        states: &mut BTreeMap<GroupId, GroupState>,
        asked: Asked<'_>,
        batch: &mut LogBatch,
    ) -> Result<(), Trouble> {
        if states.values().any(|state| state.last_index > BEGIN_INDEX) {
            let lost = "there is a log of a store whose identity file is missing";
            return Err(Trouble::Lost(lost.to_owned()));
        }
        states.keys().for_each(|group| batch.push(*group, LogChange::Destroy));
        states.clear();
        for (group, descriptor) in &mut self.descriptors {
            let applied = read_applied(&engine.view(), *group)?;
            if applied.index > BEGIN_INDEX {
                let (keyspace, entries) = (&descriptor.keyspace, applied.index - BEGIN_INDEX);
                return Err(Trouble::Lost(format!(
                    "the log of {keyspace} is missing, of which {entries} entries were applied"
                )));
            }
            descriptor.membership = Membership::alone(asked.store);
            // It may have been another build.
            descriptor.edition = newest(asked.keyspaces, &descriptor.keyspace);
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), GroupId> {
        if let Some(group) = Descriptor::group_of(key) {
            let descriptor = Descriptor::decode(group, value).map_err(|_| group)?;
            self.descriptors.insert(group, descriptor);
        }
        if let Some(group) = Installing::group_of(key) {
            self.installing.insert(group, Installing::decode(value).map_err(|_| group)?);
        }
        if key == Owner::key() {
            self.owner = Some(Owner::decode(value).map_err(|_| GroupId(0))?.0);
        }
        if let Some(group) = Tombstone::group_of(key) {
            let Tombstone(replica) = Tombstone::decode(value).map_err(|_| group)?;
            self.left.insert(group, replica);
        }
        Ok(())
    }
}

/// Whether an error of the system, met in a folder that a store has written, says that a file is
/// not what was written.
pub(crate) fn is_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::Other
    )
}

impl Error {
    pub(crate) fn of_trouble(folder: PathBuf, trouble: Trouble) -> Self {
        match trouble {
            Trouble::Engine(error) => Self::of_engine(folder, error),
            Trouble::Log(error) => Self::of_log(folder, error),
            Trouble::Lost(detail) => Self::Damaged { folder, detail },
            Trouble::Version(detail) => Self::Version { folder, detail },
        }
    }

    pub(crate) fn of_engine(folder: PathBuf, error: ratatosk_engine::Error) -> Self {
        match error {
            ratatosk_engine::Error::Locked { folder } => Self::Locked { folder },
            ratatosk_engine::Error::Version { folder, detail } => Self::Version { folder, detail },
            ratatosk_engine::Error::Unsupported { detail } => Self::Version { folder, detail },
            ratatosk_engine::Error::Io(source) if is_damage(&source) => {
                Self::Damaged { folder, detail: source.to_string() }
            }
            ratatosk_engine::Error::Io(source) => Self::Io { folder, source },
            other => Self::Damaged { folder, detail: other.to_string() },
        }
    }

    pub(crate) fn of_log(folder: PathBuf, error: crate::log::Error) -> Self {
        match error {
            crate::log::Error::Locked { folder } => Self::Locked { folder: folder.into() },
            crate::log::Error::Io(source) => Self::Io { folder, source },
            other => Self::Damaged { folder, detail: other.to_string() },
        }
    }

    pub(crate) fn of_machine(folder: PathBuf, error: machine::Error) -> Self {
        match error {
            machine::Error::Log(error) => Self::of_log(folder, error),
            other => Self::Damaged { folder, detail: other.to_string() },
        }
    }

    pub(crate) fn of_identity(folder: &Path, error: crate::identity::Error) -> Self {
        let folder = folder.join(crate::identity::FILE);
        match error {
            crate::identity::Error::Io(source) => Self::Io { folder, source },
            other @ (crate::identity::Error::Newer(_) | crate::identity::Error::Older(_)) => {
                Self::Version { folder, detail: other.to_string() }
            }
            damaged @ crate::identity::Error::Damaged(_) => {
                Self::Damaged { folder, detail: damaged.to_string() }
            }
        }
    }
}
