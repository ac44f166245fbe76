//! What a service puts into its ranges: how its commands change the range's data.
//!
//! Commands of a range come out of its Raft log, on every replica in the same order, and are
//! applied by one thread. Whatever [`Coprocessor::apply`] does must follow from the command and the
//! data alone: no clock, no setting, no random number, no order of a hash table, so that all
//! replicas have the same data, now and when the log is applied again after a crash.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use ratatosk_engine::{Batch, Engine, Error, KeyRange, Overlay, SpaceId, View, Visitor};

use crate::edition::{Edition, Editions, Supported};
use crate::range::Descriptor;

/// A service's part of a range.
pub trait Coprocessor: Send + Sync {
    /// Forgets what it derived from the data and derives it anew: the range has this boundary now
    /// and the data that `reader` shows.
    ///
    /// # Errors
    /// The reader's, or [`Error::Corrupt`] if the data cannot be: the node stops.
    fn reset(&mut self, boundary: &KeyRange, reader: &dyn Reader) -> Result<(), Error>;

    /// Carries out a command and answers its caller. A command that makes no sense changes nothing
    /// and says so in the answer. What it does may depend on the edition that is active, which the
    /// writer tells: that follows from the log, too.
    ///
    /// # Errors
    /// The writer's: the node stops, and applies the command again when it comes back.
    fn apply(
        &mut self,
        position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error>;

    /// Answers a question from what was applied.
    ///
    /// # Errors
    /// The reader's. A question that makes no sense is answered so.
    fn query(&self, question: &Bytes, reader: &dyn Reader) -> Result<Bytes, Error>;

    /// A reign of this replica over its range begins, or the one that was is over: see [`Reign`]. One is over
    /// before the next begins. To be short.
    fn lead(&mut self, reign: Option<&Reign>) {
        let _ = reign;
    }

    /// The range is not here any more, or others have its keys already: what it has told anybody beside
    /// the data goes, as far as no other range has it. It is told nothing after that. Nobody is told when
    /// the store stops. By then the range is not served here any more.
    fn leave(&mut self) {}

    /// A key of the boundary near `key` where the range may be parted; `None` if there is none. It must
    /// follow from the boundary and the data: an order to part the range at a key that is not its own
    /// answer is refused.
    fn parting(&self, boundary: &KeyRange, key: &Bytes) -> Option<Bytes> {
        let _ = boundary;
        Some(key.clone())
    }
}

/// For how long one store decides what becomes of a range: it leads the range's group in a term, everything
/// that was committed before is applied here, and the range has the same keys and takes commands. From then
/// on until the reign is over, whatever changes the range's data was proposed to this store in this term; and
/// what is proposed [in this term](crate::node::Handle::propose_in), for this version of the boundary, is
/// carried out before the reign is over, or never.
///
/// A change of the boundary ends one reign and begins another in the same term; a range that is frozen has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The term.
    pub term: u64,
    /// The range, as it is where the reign begins.
    pub range: Descriptor,
}

/// Makes a keyspace's coprocessor for a range.
pub type Factory = Box<dyn Fn() -> Box<dyn Coprocessor> + Send + Sync>;

/// The services' keyspaces: the space of the engine that has the data of each, what carries its
/// commands out, and in which editions.
/// Clones are the same ones.
#[derive(Clone)]
pub struct Keyspaces {
    known: Arc<[Keyspace]>,
    /// Those whose ranges every replica may serve.
    served: BTreeSet<String>,
}

struct Keyspace {
    name: String,
    editions: Editions,
    factory: Factory,
}

impl Keyspaces {
    /// In this order, which is that of the spaces. At most 254. Of each the first edition is supported.
    #[must_use]
    pub fn new(keyspaces: Vec<(String, Factory)>) -> Self {
        let first = Editions::only(Edition::FIRST);
        let keyspaces = keyspaces.into_iter().map(|(name, factory)| (name, first, factory));
        Self::with_editions(keyspaces.collect())
    }

    /// The same, each with the editions of its commands that its coprocessor can carry out.
    #[must_use]
    pub fn with_editions(keyspaces: Vec<(String, Editions, Factory)>) -> Self {
        let keyspaces = keyspaces.into_iter();
        let keyspace = |(name, editions, factory)| Keyspace { name, editions, factory };
        Self { known: keyspaces.map(keyspace).collect(), served: BTreeSet::new() }
    }

    /// The same, where every replica of a range of this keyspace may answer from what it has while its
    /// leader knows of it; and nobody is answered before all of these have what he asked for. KV-010
    #[must_use]
    pub fn served_by_replicas(mut self, keyspace: &str) -> Self {
        self.served.insert(keyspace.to_owned());
        self
    }

    /// The keyspaces that replicas serve.
    #[must_use]
    pub fn served(&self) -> BTreeSet<String> {
        self.served.clone()
    }

    /// Their names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.known.iter().map(|keyspace| keyspace.name.clone()).collect()
    }

    /// The space of a keyspace, if this version knows it.
    #[must_use]
    pub fn space(&self, keyspace: &str) -> Option<SpaceId> {
        let place = self.known.iter().position(|held| held.name == keyspace)?;
        // The first is the store's own.
        u8::try_from(place + 1).ok().map(SpaceId)
    }

    /// A coprocessor for a range of a keyspace.
    #[must_use]
    pub fn coprocessor(&self, keyspace: &str) -> Option<Box<dyn Coprocessor>> {
        self.of(keyspace).map(|held| (held.factory)())
    }

    /// The editions of a keyspace that can be carried out, if it is known.
    #[must_use]
    pub fn editions(&self, keyspace: &str) -> Option<Editions> {
        self.of(keyspace).map(|held| held.editions)
    }

    /// All of that, to be told to others.
    #[must_use]
    pub fn supported(&self) -> Supported {
        self.known.iter().map(|held| (held.name.clone(), held.editions)).collect()
    }

    fn of(&self, keyspace: &str) -> Option<&Keyspace> {
        self.known.iter().find(|held| held.name == keyspace)
    }
}

/// Where a command stands: the same on every replica, and never used twice in a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The entry of the log.
    pub index: u64,
    /// The command within the entry.
    pub number: u32,
}

/// A range's data.
pub trait Reader {
    /// The key's value.
    ///
    /// # Errors
    /// The engine's.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Shows the keys of an interval in ascending order, as far as the range has them.
    ///
    /// # Errors
    /// The engine's; the keys that were visited are right.
    fn scan(&self, keys: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error>;
}

/// A moment of one space of an overlay or engine, as the data of a range.
#[derive(Debug)]
pub struct SpaceReader<'a, V> {
    view: &'a V,
    space: SpaceId,
    boundary: &'a KeyRange,
}

impl<'a, V: View> SpaceReader<'a, V> {
    /// What a view has in a space, within the boundary.
    pub fn new(view: &'a V, space: SpaceId, boundary: &'a KeyRange) -> Self {
        Self { view, space, boundary }
    }
}

impl<V: View> Reader for SpaceReader<'_, V> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.boundary.contains(key) {
            true => self.view.get(self.space, key),
            false => Ok(None),
        }
    }

    fn scan(&self, keys: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        self.view.scan(self.space, &self.boundary.intersection(keys), visit)
    }
}

/// What a command changes: visible to the commands behind it, and to readers when the entries that
/// are applied together have all been.
pub struct Writer<'a> {
    below: &'a dyn Below,
    space: SpaceId,
    boundary: &'a KeyRange,
    edition: Edition,
    changes: &'a mut Batch,
    operations: Cell<u64>,
    is_watched: bool,
    first_key: Option<Bytes>,
}

/// What lies below the changes.
trait Below {
    fn get(&self, space: SpaceId, key: &[u8]) -> Result<Option<Bytes>, Error>;
}

impl<E: Engine> Below for Overlay<E> {
    fn get(&self, space: SpaceId, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.view().get(space, key)
    }
}

impl<'a> Writer<'a> {
    /// Adds to `changes`, which are above the overlay and not in it yet, in the first edition.
    pub fn new<E: Engine>(
        overlay: &'a Overlay<E>,
        space: SpaceId,
        boundary: &'a KeyRange,
        changes: &'a mut Batch,
    ) -> Self {
        let (edition, operations) = (Edition::FIRST, Cell::new(0));
        let (is_watched, first_key) = (false, None);
        Self {
            below: overlay,
            space,
            boundary,
            edition,
            changes,
            operations,
            is_watched,
            first_key,
        }
    }

    /// The same; if it is watched it keeps the first key.
    pub(crate) fn watched(self, is_watched: bool) -> Self {
        Self { is_watched, ..self }
    }

    /// How many keys were read, written and removed.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// The first key that was written or removed, if it was watched.
    pub(crate) fn first_key(&self) -> Option<&Bytes> {
        self.first_key.as_ref()
    }

    /// The same in another edition.
    #[must_use]
    pub fn in_edition(self, edition: Edition) -> Self {
        Self { edition, ..self }
    }

    /// The edition that is active where the command stands: the same on every replica, and now as well as
    /// when the log is applied again. It may be newer than the one that the command was written for.
    #[must_use]
    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// The key has this value from now on.
    ///
    /// # Panics
    /// If the key is outside the range: what leaves it was not meant for it.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let key = self.within(key.into());
        self.changes.put(self.space, key, value);
    }

    /// As [`put`](Self::put) for a key that is not there: if it is removed before the next
    /// checkpoint it never reaches the disk.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn insert(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let key = self.within(key.into());
        self.changes.insert(self.space, key, value);
    }

    /// The key is not there from now on; it need not have been.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        let key = self.within(key.into());
        self.changes.remove(self.space, key);
    }

    /// The key's value, with the changes of the commands before.
    ///
    /// # Errors
    /// The engine's.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.operations.update(|count| count + 1);
        match self.changes.get(self.space, key) {
            Some(changed) => Ok(changed.cloned()),
            None => self.below.get(self.space, key),
        }
    }

    fn within(&mut self, key: Bytes) -> Bytes {
        assert!(self.boundary.contains(&key), "the key {key:?} is outside the range");
        self.operations.update(|count| count + 1);
        if self.is_watched && self.first_key.is_none() {
            // A copy: to share the key would cost whoever gets it, too.
            self.first_key = Some(Bytes::copy_from_slice(&key));
        }
        key
    }
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Writer").field("space", &self.space).finish_non_exhaustive()
    }
}

/// Reads all keys of an interval: for what is rebuilt from the data.
///
/// # Errors
/// The reader's, or what `each` answers for the first key that it does not like.
pub fn scan_all(
    reader: &dyn Reader,
    keys: &KeyRange,
    mut each: impl FnMut(&[u8], &Bytes) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut outcome = Ok(());
    reader.scan(keys, &mut |key, value| match each(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            outcome = Err(error);
            ControlFlow::Break(())
        }
    })?;
    outcome
}

impl std::fmt::Debug for Keyspaces {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.known.iter().map(|held| &held.name)).finish()
    }
}
