//! What is found on disk, and whether it is whole.
//!
//! The log and the engine each know what the other must have: the log how far the engine was at
//! the last checkpoint, the engine how far the log had come. What has less than the other knows of
//! has lost what was acknowledged, and the node does not start as if it had not. DUR-005, DUR-011

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use raft::eraftpb::HardState;
use ratatosk_engine::{Batch, Engine, KeyRange, View as _};

use crate::host::read_applied;
use crate::log::{GroupId, GroupState, LogBatch, LogChange, RaftLog, Sync};
use crate::machine::{self, Opened};
use crate::range::{Descriptor, META, Version};

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
    /// A newer program wrote it.
    #[error("{} cannot be read: {detail}", folder.display())]
    Version {
        /// The folder or file.
        folder: PathBuf,
        /// What stands there.
        detail: String,
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

/// A range with what is needed to open its group.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the range is.
    pub descriptor: Descriptor,
    /// Its group, for [`Machine::open`](crate::machine::Machine::open).
    pub group: Opened,
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
}

/// What is looked for.
#[derive(Copy, Clone, Debug)]
pub struct Asked<'a> {
    /// The store's number.
    pub store: u64,
    /// The keyspaces that it is to have.
    pub keyspaces: &'a [String],
    /// The store was never whole before.
    pub is_new: bool,
}

/// Finds the ranges of the keyspaces, and makes those that are missing: each has one range, of all
/// keys. [`Node::open`](crate::node::Node::open) does this with what is on a disk, a simulation with
/// what it made up.
///
/// # Errors
/// See [`Trouble`]. What was there is as it was.
pub fn find<L: RaftLog, E: Engine>(
    log: &L,
    engine: &E,
    asked: Asked<'_>,
) -> Result<Vec<Found>, Trouble> {
    let Asked { store, keyspaces, is_new } = asked;
    // An earlier process may have gone down between a write and its sync. What is read here is told to
    // the log as durable by the next checkpoint, whether that has something to write or not.
    engine.persist()?;
    let mut states: BTreeMap<GroupId, GroupState> =
        log.groups()?.into_iter().map(|state| (state.group, state)).collect();
    let mut descriptors = read_descriptors(engine)?;
    if is_new && states.values().any(|state| state.last_index > 0) {
        let lost = "there is a log of a store whose identity file is missing";
        return Err(Trouble::Lost(lost.to_owned()));
    }
    for descriptor in descriptors.values_mut() {
        if is_new {
            // Of a start that came no further: nothing was ever proposed.
            descriptor.voters = vec![store];
        }
        if !descriptor.voters.contains(&store) {
            let voters = &descriptor.voters;
            let lost = format!("the engine is that of store {voters:x?}, and this is {store:x}");
            return Err(Trouble::Lost(lost));
        }
    }
    let mut last = descriptors.keys().chain(states.keys()).max().map_or(0, |group| group.0);
    for keyspace in keyspaces {
        if descriptors.values().any(|descriptor| descriptor.keyspace == *keyspace) {
            continue;
        }
        last += 1;
        let descriptor = Descriptor {
            group: GroupId(last),
            keyspace: keyspace.clone(),
            boundary: KeyRange::all(),
            version: Version::default(),
            voters: vec![store],
        };
        descriptors.insert(descriptor.group, descriptor);
    }
    let missing = |group: &GroupId| is_new || !states.contains_key(group);
    let fresh: Vec<_> = descriptors.values().filter(|held| missing(&held.group)).cloned().collect();
    for descriptor in &fresh {
        let applied = read_applied(&engine.view(), descriptor.group)?;
        if applied.index > 0 {
            return Err(Trouble::Lost(format!(
                "the log of {} is missing, of which {} entries were applied",
                descriptor.keyspace, applied.index
            )));
        }
        states.insert(descriptor.group, first_state(descriptor.group, store));
    }
    make(log, engine, store, &fresh)?;
    let mut found = Vec::new();
    for (group, state) in states {
        let Some(descriptor) = descriptors.remove(&group) else {
            if state.last_index == 0 {
                // It was to be made when the node went down, and is made under another number.
                continue;
            }
            return Err(Trouble::Lost(format!("group {} has a log and no data", group.0)));
        };
        found.push(check(engine, descriptor, state)?);
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

/// Makes groups durable: first what they are, then that they exist.
fn make<L: RaftLog, E: Engine>(
    log: &L,
    engine: &E,
    store: u64,
    descriptors: &[Descriptor],
) -> Result<(), Trouble> {
    if descriptors.is_empty() {
        return Ok(());
    }
    let mut changes = Batch::new();
    let mut batch = LogBatch::new();
    for descriptor in descriptors {
        changes.put(META, Descriptor::key(descriptor.group), descriptor.encode());
        let state = first_state(descriptor.group, store);
        batch.push(descriptor.group, LogChange::HardState(state.hard_state));
    }
    engine.write(changes)?;
    engine.persist()?;
    log.write(batch, Sync::Wait)?;
    Ok(())
}

/// A group that never had an entry. It has voted for itself, so that it is known to exist.
fn first_state(group: GroupId, store: u64) -> GroupState {
    GroupState {
        group,
        hard_state: HardState { term: 1, vote: store, ..HardState::default() },
        truncated: crate::log::Truncated::default(),
        last_index: 0,
        durable_applied: 0,
    }
}

fn check<E: Engine>(
    engine: &E,
    descriptor: Descriptor,
    state: GroupState,
) -> Result<Found, Trouble> {
    let applied = read_applied(&engine.view(), descriptor.group)?.index;
    if applied < state.durable_applied {
        return Err(Trouble::Lost(format!(
            "the engine's {} ends at entry {applied}, and was at {} once",
            descriptor.keyspace, state.durable_applied
        )));
    }
    if applied < state.truncated.index {
        return Err(Trouble::Lost(format!(
            "{} lacks the entries {} to {}, which the log gave up",
            descriptor.keyspace,
            applied + 1,
            state.truncated.index
        )));
    }
    if state.last_index < applied {
        return Err(Trouble::Lost(format!(
            "the log of {} ends at entry {}, and {applied} were applied",
            descriptor.keyspace, state.last_index
        )));
    }
    let voters = descriptor.voters.clone();
    Ok(Found { descriptor, group: Opened { state, voters, applied } })
}

pub(crate) fn read_descriptors<E: Engine>(
    engine: &E,
) -> Result<BTreeMap<GroupId, Descriptor>, Trouble> {
    let mut found = BTreeMap::new();
    let mut trouble = None;
    engine.view().scan(META, &KeyRange::all(), &mut |key, value| {
        let Some(group) = Descriptor::group_of(key) else { return ControlFlow::Continue(()) };
        match Descriptor::decode(group, value) {
            Ok(descriptor) => {
                found.insert(group, descriptor);
                ControlFlow::Continue(())
            }
            Err(_) => {
                trouble = Some(group);
                ControlFlow::Break(())
            }
        }
    })?;
    match trouble {
        Some(group) => Err(Trouble::Lost(format!("what range {} is, is not readable", group.0))),
        None => Ok(found),
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
        }
    }

    pub(crate) fn of_engine(folder: PathBuf, error: ratatosk_engine::Error) -> Self {
        match error {
            ratatosk_engine::Error::Locked { folder } => Self::Locked { folder },
            ratatosk_engine::Error::Version { folder, detail } => Self::Version { folder, detail },
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
            newer @ crate::identity::Error::Newer(_) => {
                Self::Version { folder, detail: newer.to_string() }
            }
            damaged @ crate::identity::Error::Damaged(_) => {
                Self::Damaged { folder, detail: damaged.to_string() }
            }
        }
    }
}
