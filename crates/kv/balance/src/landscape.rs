//! What every node can see of the stores and their ranges.
//!
//! Each store tells what it has: its replicas as it knows them, and more of those that it leads.
//! The reader puts the latest word of every store into one [`Landscape`]; words may be old, so two
//! stores may tell different things of one range. All points in time are of the reader's clock.
//!
//! A store that some descriptor names and that has never been heard of belongs in here as
//! [`Reach::Away`] since the reader first missed it. Left out, it is taken for one that was missed
//! just now: it is neither used nor replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_store::edition::{Edition, Supported, supports};
use ratatosk_store::log::GroupId;
use ratatosk_store::range::{Descriptor, Version};

/// The number of a store.
pub type StoreId = u64;

/// The stores, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landscape {
    /// Those that are known.
    pub stores: BTreeMap<StoreId, Store>,
}

/// A store and what it told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// Where it stands, such as `zone` → `a`.
    pub labels: BTreeMap<String, String>,
    /// Whether it answers.
    pub reach: Reach,
    /// Whether it is to have anything.
    pub standing: Standing,
    /// The keyspaces whose ranges it may vote for.
    pub keyspaces: BTreeSet<String>,
    /// The keyspaces that its node reads, with a vote or without: it learns of their ranges where their rules
    /// have learners. A store that may vote for some other keyspace votes for these, too, while there are too
    /// few that are to.
    pub copies: BTreeSet<String>,
    /// The editions of commands that it supports; of a keyspace that is not in here the first alone.
    pub editions: Supported,
    /// Its replicas.
    pub replicas: BTreeMap<GroupId, Report>,
}

/// Whether a store answers.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// It does.
    #[default]
    Up,
    /// Not since then.
    Away {
        /// When it was missed.
        since: Instant,
    },
}

/// Whether a store is to have anything. What is said later outweighs what is said before.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is.
    #[default]
    Member,
    /// It is to become empty.
    Draining,
    /// An operator has given it up: while it is out of reach it is taken for lost at once, and if it comes
    /// back it is to become empty.
    GivenUp,
}

/// A replica, as its store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The range, as far as the replica has come.
    pub descriptor: Descriptor,
    /// The term that it knows.
    pub term: u64,
    /// The end of its log.
    pub log: LogEnd,
    /// Where the range comes from.
    pub lineage: Lineage,
    /// What its leader knows; `None` if it does not lead.
    pub leading: Option<Leading>,
}

/// The last entry of a log. The greater one has more of what was acknowledged.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    /// Its term.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// Where a range comes from. It does not become wrong with time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The split that made it; `None` if it was there from the first.
    pub birth: Option<Birth>,
    /// The ranges that it took in, and those that they had taken in before.
    pub taken_in: BTreeMap<GroupId, TakenIn>,
}

/// The entry that made a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Of the log of this group.
    pub parent: GroupId,
    /// Its index there. The group's number follows from the two.
    pub index: u64,
    /// The boundary part of the version that both halves began with.
    pub boundary: u64,
}

/// A range that was merged into another.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TakenIn {
    /// The version it had.
    pub version: Version,
    /// The split that had made it.
    pub birth: Option<Birth>,
    /// The boundary part of the version that the other had with it.
    pub boundary: u64,
}

/// What a leader knows of its range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leading {
    /// How far the replica of each store is, but for its own.
    pub progress: BTreeMap<StoreId, Progress>,
    /// What the range has to do.
    pub load: Load,
    /// Since when it has had nothing to do.
    pub idle_since: Option<Instant>,
}

/// How far a replica is. A leader hears of the others several times a second, so its word is newer
/// than whether they are up.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has what its leader has, but for what is on its way.
    CaughtUp,
    /// It is sent entries that it lacks.
    Lagging,
    /// It is sent all the data.
    Snapshot,
    /// It does not answer its leader.
    Silent,
}

/// What a range has to do, as of late, and what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Entries that were applied a second.
    pub entries_per_second: u64,
    /// Their bytes.
    pub written_bytes_per_second: u64,
    /// Queries that were answered a second.
    pub queries_per_second: u64,
    /// Operations of the engine for an entry.
    pub io_density: u64,
    /// How long one of them took.
    pub io_latency: Duration,
    /// Thousandths of a core that it took.
    pub cpu_permille: u64,
    /// Bytes of its data.
    pub size_bytes: u64,
    /// The key with half of the data on either side, if it is known.
    pub middle: Option<Bytes>,
    /// Keys that were worked on, each with how often. A bounded sample. KV-024
    pub samples: BTreeMap<Bytes, u64>,
    /// Where a service counts receivers. KV-024
    pub fanout: Option<Fanout>,
}

/// The key with the most receivers behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// How many.
    pub receivers: u64,
    /// Where to part them.
    pub key: Bytes,
}

impl Store {
    /// Whether it could carry out what a range's commands are.
    #[must_use]
    pub fn supports(&self, range: &Descriptor) -> bool {
        let Descriptor { keyspace, edition, .. } = range;
        match self.editions.contains_key(keyspace) {
            true => supports(&self.editions, keyspace, *edition),
            false => *edition == Edition::FIRST,
        }
    }
}

impl Landscape {
    /// Every replica that was told of, by store and group.
    pub fn reports(&self) -> impl Iterator<Item = (StoreId, GroupId, &Report)> {
        self.stores.iter().flat_map(|(store, held)| {
            held.replicas.iter().map(move |(group, report)| (*store, *group, report))
        })
    }

    /// Whether a store is known and answers.
    #[must_use]
    pub fn is_up(&self, store: StoreId) -> bool {
        self.stores.get(&store).is_some_and(|store| store.reach == Reach::Up)
    }
}
