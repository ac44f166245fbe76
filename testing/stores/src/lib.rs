//! Several stores of one process, each with threads and a disk of its own.
//!
//! [`Stores`] starts them, kills them and starts them again, and waits for what no store tells by itself.
//! What their ranges do is a coprocessor of [`counter`], or a service's; [`load`] has them do much of it, and
//! [`trio`] has services on three of them.

pub mod counter;
pub mod load;
pub mod trio;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_engine::KeyRange;
use ratatosk_store::coprocessor::{Factory, Keyspaces, scan_all};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::membership::{NoStep, Target};
use ratatosk_store::node::{Config, Handle, Node, Reply};
use ratatosk_store::range::{Descriptor, Version};
use ratatosk_store::transport::{Exchange, Packet, Transport};
use ratatosk_testkit::scratch::Scratch;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The cluster that the first store makes.
pub const CLUSTER: u64 = 77;

/// What became of what was asked; `None` if the store stopped before it knew.
pub type Answers = Option<Result<Vec<Bytes>, Refusal>>;

/// What makes the coprocessor of each range.
pub type Make = fn() -> Factory;

/// What a build knows, by the number of the build.
pub type Builds = fn(u64) -> Keyspaces;
/// Stores that nobody reaches.
type Cuts = Arc<RwLock<BTreeSet<u64>>>;

/// A way to the others that can be cut.
struct Cuttable {
    store: u64,
    line: Arc<dyn Transport>,
    cuts: Cuts,
}

impl Transport for Cuttable {
    fn send(&self, to: u64, packets: Vec<Packet>) {
        let is_cut = {
            let cuts = self.cuts.read();
            cuts.contains(&self.store) || cuts.contains(&to)
        };
        if !is_cut {
            self.line.send(to, packets);
        }
    }

    fn stores(&self) -> Vec<u64> {
        self.line.stores()
    }
}

/// Stores by their numbers. The first makes the cluster, the others join it.
pub struct Stores {
    exchange: Arc<Exchange>,
    cuts: Cuts,
    knows: Box<dyn Fn(u64) -> Keyspaces>,
    /// The build of each store.
    builds: BTreeMap<u64, u64>,
    nodes: BTreeMap<u64, Node>,
    starts: u64,
    checkpoint_interval: Duration,
    // Behind the stores: it takes their folders with it.
    scratch: Scratch,
}

impl Stores {
    /// Stores 1 to `count` with these keyspaces, below a folder with a name.
    #[must_use]
    pub fn new(name: &str, count: u64, keyspaces: &[(&str, Make)]) -> Self {
        Self::serving(name, count, keyspaces, &[])
    }

    /// The same, with checkpoints as rare as those of a broker: for benchmarks.
    #[must_use]
    pub fn of_brokers(name: &str, count: u64, keyspaces: &[(&str, Make)]) -> Self {
        let mut stores = Self::new(name, 0, keyspaces);
        stores.checkpoint_interval = Duration::from_secs(3);
        (1..=count).for_each(|store| stores.start(store));
        stores
    }

    /// The same, where replicas serve some of the keyspaces.
    #[must_use]
    pub fn serving(name: &str, count: u64, keyspaces: &[(&str, Make)], served: &[&str]) -> Self {
        let keyspaces = keyspaces.iter().map(|(name, make)| ((*name).to_owned(), *make));
        let keyspaces: Vec<_> = keyspaces.collect();
        let served: Vec<_> = served.iter().map(|name| (*name).to_owned()).collect();
        let knows = move |_| {
            let made = keyspaces.iter().map(|(name, make)| (name.clone(), make()));
            let made = Keyspaces::new(made.collect());
            served.iter().fold(made, |all, name| all.served_by_replicas(name))
        };
        Self::start_all(name, count, Box::new(knows), 1)
    }

    /// The same, where what a store knows follows from its build; all are of this one at first.
    #[must_use]
    pub fn of_builds(name: &str, count: u64, builds: Builds, build: u64) -> Self {
        Self::start_all(name, count, Box::new(builds), build)
    }

    /// The same, where each store knows what it is given by its number.
    #[must_use]
    pub fn of_each(name: &str, count: u64, knows: impl Fn(u64) -> Keyspaces + 'static) -> Self {
        let builds = (1..=count).map(|store| (store, store)).collect();
        Self::start_of(name, count, Box::new(knows), builds)
    }

    fn start_all(name: &str, count: u64, knows: Box<dyn Fn(u64) -> Keyspaces>, build: u64) -> Self {
        let builds = (1..=count).map(|store| (store, build)).collect();
        Self::start_of(name, count, knows, builds)
    }

    fn start_of(
        name: &str,
        count: u64,
        knows: Box<dyn Fn(u64) -> Keyspaces>,
        builds: BTreeMap<u64, u64>,
    ) -> Self {
        let mut stores = Self {
            scratch: Scratch::new(name),
            exchange: Exchange::new(),
            cuts: Cuts::default(),
            knows,
            builds,
            nodes: BTreeMap::new(),
            starts: 0,
            checkpoint_interval: Duration::from_millis(200),
        };
        (1..=count).for_each(|store| stores.start(store));
        stores
    }

    /// How a store is opened.
    #[must_use]
    pub fn config(&mut self, store: u64) -> Config {
        self.config_as(store, self.builds.get(&store).copied().unwrap_or(1))
    }

    /// The same, by a build.
    #[must_use]
    pub fn config_as(&mut self, store: u64, build: u64) -> Config {
        self.starts += 1;
        let (line, cuts) = (self.exchange.transport(store), Arc::clone(&self.cuts));
        Config {
            folder: self.folder(store),
            keyspaces: (self.knows)(build),
            cache_bytes: 8 << 20,
            checkpoint_interval: self.checkpoint_interval,
            checkpoint_bytes: 64 << 20,
            random: [store, if store == 1 { CLUSTER } else { self.starts << 8 }],
            join: (store > 1).then_some(CLUSTER),
            transport: Arc::new(Cuttable { store, line, cuts }),
            on_failure: Box::new(|reason| panic!("the store failed: {reason}")),
        }
    }

    /// Bytes of the files of a store.
    ///
    /// # Panics
    /// If its folder cannot be read.
    #[must_use]
    pub fn disk_bytes(&self, store: u64) -> u64 {
        let mut folders = vec![self.folder(store)];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("it is there") {
                let entry = entry.expect("readable");
                // A file may go meanwhile.
                let Ok(metadata) = entry.metadata() else { continue };
                match metadata.is_dir() {
                    true => folders.push(entry.path()),
                    false => bytes += metadata.len(),
                }
            }
        }
        bytes
    }

    fn folder(&self, store: u64) -> PathBuf {
        self.scratch.path().join(store.to_string())
    }

    /// Starts a store, for the first time or again.
    ///
    /// # Panics
    /// If it does not open.
    pub fn start(&mut self, store: u64) {
        let config = self.config(store);
        let node = Node::open(config).unwrap_or_else(|error| panic!("store {store}: {error}"));
        self.exchange.attach(store, &node.handle().receiver());
        self.nodes.insert(store, node);
    }

    /// Ends a store as a crash of its process would: nothing is handed over. Whoever has a handle to it
    /// has to let go of it before it can be started again.
    pub fn kill(&mut self, store: u64) {
        self.nodes.remove(&store);
    }

    /// Nothing comes from a store to others any more, nor from them to it.
    pub fn cut_off(&self, store: u64) {
        self.cuts.write().insert(store);
    }

    /// It is reached again.
    pub fn mend(&self, store: u64) {
        self.cuts.write().remove(&store);
    }

    /// Ends a store, and starts it as another build.
    ///
    /// # Panics
    /// If it does not open.
    pub fn restart_as(&mut self, store: u64, build: u64) {
        self.kill(store);
        self.builds.insert(store, build);
        self.start(store);
    }

    /// Those that are up.
    pub fn live(&self) -> impl Iterator<Item = (u64, Handle)> {
        self.nodes.iter().map(|(store, node)| (*store, node.handle()))
    }

    /// The way to one that is up.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn handle(&self, store: u64) -> Handle {
        self.nodes[&store].handle()
    }

    /// The one range of a keyspace, as the first store made it.
    ///
    /// # Panics
    /// If the first store does not have it.
    #[must_use]
    pub fn whole(&self, keyspace: &str) -> Descriptor {
        self.handle(1).ranges(keyspace).remove(0)
    }

    /// Who leads a group, once somebody does.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> u64 {
        until("a leader", || self.leader_now(group))
    }

    /// Who leads a group, if somebody does.
    #[must_use]
    pub fn leader_now(&self, group: GroupId) -> Option<u64> {
        self.live().find(|(_, handle)| handle.leads().contains(&group)).map(|(store, _)| store)
    }

    /// Takes steps until a range is kept by these voters.
    pub fn change(&self, range: &Descriptor, voters: &[u64]) {
        let target = Target { voters: voters.iter().copied().collect(), learners: BTreeSet::new() };
        until("the members", || {
            let handle = self.handle(self.leader_now(range.group)?);
            let version = version_of(&handle, range)?;
            let answers = wait(|reply| handle.change(range.group, version, target.clone(), reply));
            matches!(answers, Some(Err(Refusal::Step(NoStep::Reached)))).then_some(())
        });
    }

    /// Has a store lead a group in which it has a vote.
    pub fn transfer(&self, group: GroupId, to: u64) {
        until("it leads", || {
            let leader = self.leader_now(group)?;
            if leader != to {
                self.handle(leader).transfer(group, to);
            }
            (leader == to).then_some(())
        });
    }

    /// Shows what a store has applied of a keyspace.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn visit(&self, store: u64, keyspace: &str, mut visit: impl FnMut(&[u8], &[u8])) {
        let handle = self.handle(store);
        for range in handle.ranges(keyspace) {
            let read = handle.read(range.group, &mut |reader| {
                scan_all(reader, &KeyRange::all(), |key, value| {
                    visit(key, value);
                    Ok(())
                })
            });
            read.expect("the engine reads");
        }
    }

    /// What a store has applied of a keyspace of [`counter::Counter`].
    #[must_use]
    pub fn content(&self, store: u64, keyspace: &str) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        self.visit(store, keyspace, |key, value| {
            let name = String::from_utf8_lossy(key).into_owned();
            found.push((name, counter::number(value)));
        });
        found
    }

    /// The keys that a store has of a keyspace.
    #[must_use]
    pub fn keys(&self, store: u64, keyspace: &str) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        self.visit(store, keyspace, |key, _| keys.push(key.to_vec()));
        keys
    }

    /// Waits until all that are up have applied the same.
    #[must_use]
    pub fn settle(&self, keyspace: &str) -> Vec<(String, u64)> {
        until("all have the same", || {
            let contents = self.live().map(|(store, _)| self.content(store, keyspace));
            let mut contents: Vec<_> = contents.collect();
            let first = contents.pop()?;
            contents.iter().all(|content| *content == first).then_some(first)
        })
    }
}

/// The version of a range, as a store has applied it.
#[must_use]
pub fn version_of(handle: &Handle, range: &Descriptor) -> Option<Version> {
    let ranges = handle.ranges(&range.keyspace);
    ranges.iter().find(|held| held.group == range.group).map(|held| held.version)
}

/// Asks a store and waits for the answer.
///
/// # Panics
/// If there is none for [`PATIENCE`].
pub fn wait(ask: impl FnOnce(Reply)) -> Answers {
    let (told, tells) = mpsc::sync_channel(1);
    // Whoever asked may wait no longer.
    ask(Box::new(move |answers| drop(told.send(answers))));
    match tells.recv_timeout(PATIENCE) {
        Ok(answers) => Some(answers),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("no answer in {PATIENCE:?}"),
    }
}

/// Asks again and again, for what no store tells by itself.
///
/// # Panics
/// If it is not found for [`PATIENCE`].
pub fn until<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    until_for(PATIENCE, what, found)
}

/// As [`until`], for what may take longer, or must not.
///
/// # Panics
/// If it is not found for so long.
pub fn until_for<T>(patience: Duration, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(clock.now().since(Instant::ZERO) < patience, "not in {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up: Vec<_> = self.nodes.keys().collect();
        formatter.debug_struct("Stores").field("up", &up).finish_non_exhaustive()
    }
}
