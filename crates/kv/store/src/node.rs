//! The store of a node at work: five threads around a machine, a host and an overlay.
//!
//! - *log*: lets the [`Machine`] step, tells the other stores, and waits for the disk. What comes in
//!   while it waits goes with the next write, so one fsync serves all who came meanwhile, whatever their
//!   service. DUR-007
//! - *apply*: carries out what is committed and tells those who asked.
//! - *data*: sends the data of ranges to other stores, and takes in what comes of them.
//! - *checkpoint*: makes the overlay durable from time to time, so that the log can be cut.
//! - *reclaim*: has the engine give back the room of what was removed.
//!
//! When one of them fails, for the disk does, nothing is acknowledged any more and the node is told
//! once. It has to be started again: what is on the disk then is whole, what is in memory may not
//! be.

mod admission;
mod data;
mod handle;
mod queue;
mod served;
mod threads;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use ratatosk_clock::SystemClock;
use ratatosk_engine::{DurableConfig, DurableEngine, Overlay, SpaceId};

use crate::coprocessor::Keyspaces;
use crate::host::{Host, Lease, Refusal, SharedCoprocessor, Work};
use crate::identity::Identity;
use crate::log::{DurableLog, DurableLogConfig, GroupId};
use crate::machine::{Envelope, Event, Input, Machine, Opened, Status};
use crate::open::{self, Asked, Beginning, Error};
use crate::range::Descriptor;
use crate::room::{self, Sizes};
use crate::snapshot::folder::DiskFolder;
use crate::snapshot::receiver::{self, Receiver};
use crate::snapshot::sender::Parcel;
use crate::transport::Transport;
use admission::Admission;
use data::Move;
pub use handle::Handle;
use queue::{Alarm, Queue};
pub use served::Served;

/// How a store is opened.
pub struct Config {
    /// Its own folder; made if it is missing.
    pub folder: PathBuf,
    /// The services' keyspaces.
    pub keyspaces: Keyspaces,
    /// Bytes of the engine's blocks that are kept in memory.
    pub cache_bytes: u64,
    /// How often a checkpoint is made, at least.
    pub checkpoint_interval: Duration,
    /// From how many bytes of applied data in memory on a checkpoint is made at once.
    pub checkpoint_bytes: usize,
    /// Random numbers, others at each start.
    pub random: [u64; 2],
    /// The cluster that the store is of, if it did not make it: it makes no ranges then. KV-017
    pub join: Option<u64>,
    /// The way to the other stores.
    pub transport: Arc<dyn Transport>,
    /// Told once when the store can go on no more, with the reason. To be short.
    pub on_failure: Box<dyn Fn(&str) + Send + Sync>,
}

/// The threads that flush and compact the engine.
const ENGINE_WORKERS: usize = 2;

/// An open store. Dropping it stops it, without a last checkpoint.
pub struct Node {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Told what became of a proposal: the answer to each of its commands, or why none was carried out.
/// Called on the thread that applies; never, if the store stops before it knows.
pub type Reply = Box<dyn FnOnce(Result<Vec<Bytes>, Refusal>) + Send>;

/// A range as it was last applied.
#[derive(Clone)]
struct Located {
    descriptor: Descriptor,
    /// The space of the engine that has its data.
    space: SpaceId,
    work: Arc<Work>,
    lease: Arc<Lease>,
    coprocessor: SharedCoprocessor,
}

struct Shared {
    identity: Identity,
    /// Another number at each start.
    life: u64,
    /// By which leases are counted.
    clock: SystemClock,
    keyspaces: Keyspaces,
    /// As they were last applied.
    ranges: RwLock<BTreeMap<GroupId, Located>>,
    /// Groups of which something was applied since a checkpoint began.
    touched: Mutex<BTreeSet<GroupId>>,
    transport: Arc<dyn Transport>,
    overlay: Arc<Overlay<DurableEngine>>,
    log: Arc<DurableLog>,
    folder: PathBuf,
    checkpoint_interval: Duration,
    admission: Admission,
    inbox: Queue<Word>,
    events: Queue<Event<Reply>>,
    moves: Queue<Move>,
    alarm: Alarm,
    leads: Mutex<BTreeSet<GroupId>>,
    is_led: Condvar,
    has_failed: AtomicBool,
    /// This build does not carry out what its log has.
    is_unsupported: AtomicBool,
    /// Why, once it has.
    reason: Mutex<String>,
    on_failure: Box<dyn Fn(&str) + Send + Sync>,
}

/// What the thread of the log is told.
enum Word {
    Input(Input<Reply>),
    /// A store wants to send the data of a range.
    Announced {
        from: u64,
        parcel: Parcel,
    },
    /// All of it has come.
    Arrived {
        from: u64,
        envelope: Box<Envelope>,
    },
    /// What is known of the groups?
    Asked(Told),
}

/// Told what is known of the groups of a store.
pub type Told = Box<dyn FnOnce(Vec<Status>) + Send>;

impl Node {
    /// Opens the store of a folder, or makes one, and applies what its log has. When it returns,
    /// the store leads the ranges that nobody else keeps, and their data is what it was.
    ///
    /// # Errors
    /// See [`Error`]. Nothing runs.
    pub fn open(config: Config) -> Result<Self, Error> {
        let (folder, keyspaces) = (config.folder.clone(), config.keyspaces.clone());
        let Config { random, join, .. } = config;
        let io = |source| Error::Io { folder: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(io)?;
        let sizes = room::of(&folder).map_err(io)?.sizes();
        let checkpoint_bytes = usize::try_from(sizes.checkpoint_bytes).unwrap_or(usize::MAX);
        let checkpoint_bytes = config.checkpoint_bytes.min(checkpoint_bytes);
        let (mut identity, is_new) = identify(&config)?;
        let log = Arc::new(open_log(&folder, identity.store, is_new, sizes)?);
        let names = keyspaces.names();
        identity.store = log.store();
        let engine = open_engine(&folder, &names, sizes, &config)?;
        let beginning = if join.is_some() { Beginning::Joining } else { Beginning::Alone };
        let asked = Asked { store: identity.store, keyspaces: &keyspaces, beginning, is_new };
        let found = open::find(&*log, &engine, asked)
            .map_err(|trouble| Error::of_trouble(folder.clone(), trouble))?;
        if is_new {
            identity.write(&folder).map_err(|error| Error::of_identity(&folder, error))?;
            open::sync_above(&folder);
        }
        let space_count = u8::try_from(names.len() + 1).unwrap_or(u8::MAX);
        let overlay = Arc::new(Overlay::new(engine, space_count));
        check_keyspaces(&found.groups, &keyspaces, &folder)?;
        let engine_error = |error| Error::of_engine(folder.join("engine"), error);
        let mut host = Host::new(identity.store, Arc::clone(&overlay), keyspaces.clone());
        host.clear_leftovers().map_err(engine_error)?;
        for descriptor in found.groups.iter().filter_map(|opened| opened.descriptor.clone()) {
            host.open(descriptor).map_err(engine_error)?;
        }
        let machine = Machine::open(Arc::clone(&log), identity.store, found.groups, found.left)
            .map_err(|error| Error::of_machine(folder.clone(), error))?
            .served_by_replicas(keyspaces.served());
        let life = random[0] ^ random[1].rotate_left(32);
        let machine = machine.supporting(keyspaces.supported()).with_life(life);
        let staging = DiskFolder::open(&folder).map_err(io)?;
        let receiver = Receiver::open(staging, receiver::Config::default()).map_err(io)?;
        let shared = Arc::new(Shared {
            identity,
            life,
            clock: SystemClock::new(),
            keyspaces,
            ranges: RwLock::new(located_all(&host)),
            touched: Mutex::default(),
            transport: config.transport,
            overlay,
            log,
            admission: Admission::new(folder.clone(), checkpoint_bytes),
            folder,
            checkpoint_interval: config.checkpoint_interval,
            inbox: Queue::new(),
            events: Queue::new(),
            moves: Queue::new(),
            alarm: Alarm::default(),
            leads: Mutex::default(),
            is_led: Condvar::new(),
            has_failed: AtomicBool::new(false),
            is_unsupported: AtomicBool::new(false),
            reason: Mutex::default(),
            on_failure: config.on_failure,
        });
        shared.look();
        Node::start(shared, machine, host, receiver)
    }

    /// Starts the threads, and waits until what nobody else keeps is led.
    fn start(
        shared: Arc<Shared>,
        machine: Machine<DurableLog, Reply>,
        host: Host<DurableEngine>,
        receiver: Receiver<DiskFolder>,
    ) -> Result<Self, Error> {
        let alone = kept_alone(&host, shared.identity.store);
        let mut node = Node { shared, threads: Vec::new() };
        let (shelf, host) = (receiver.shelf(), host.timed_by(SystemClock::new()));
        node.spawn("store-log", move |shared| threads::run_log(shared, machine))?;
        node.spawn("store-apply", move |shared| threads::run_apply(shared, host, &shelf))?;
        node.spawn("store-data", move |shared| data::run(shared, receiver))?;
        node.spawn("store-checkpoint", threads::run_checkpoints)?;
        node.spawn("store-reclaim", threads::run_reclaim)?;
        node.wait_until_led(&alone)?;
        Ok(node)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce(&Shared) -> Result<(), String> + Send + 'static,
    ) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        // What it finds on a damaged disk makes the log's library panic here and there.
        let guarded = move || match catch_unwind(AssertUnwindSafe(|| work(&shared))) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => shared.fail(&reason),
            Err(panic) => shared.fail(&crate::panic::text(&*panic)),
        };
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
        let thread =
            spawned.map_err(|source| Error::Io { folder: self.shared.folder.clone(), source })?;
        self.threads.push(thread);
        Ok(())
    }

    fn wait_until_led(&self, groups: &[GroupId]) -> Result<(), Error> {
        let mut leads = self.shared.leads.lock();
        while !groups.iter().all(|group| leads.contains(group)) {
            if self.shared.has_failed.load(Ordering::Acquire) {
                let reason = self.shared.reason.lock().clone();
                let folder = self.shared.folder.clone();
                if self.shared.is_unsupported.load(Ordering::Acquire) {
                    return Err(Error::Version { folder, detail: reason });
                }
                let detail = format!("its log cannot be applied: {reason}");
                return Err(Error::Damaged { folder, detail });
            }
            self.shared.is_led.wait(&mut leads);
        }
        Ok(())
    }

    /// A way to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Carries out what was proposed before, makes a last checkpoint, and ends.
    pub fn stop(mut self) {
        self.shared.alarm.ring(true);
        // In this order: each finishes what the one before has handed to it.
        self.shared.inbox.close();
        self.join_first();
        self.shared.events.close();
        self.join_first();
        self.shared.moves.close();
        while !self.threads.is_empty() {
            self.join_first();
        }
        // Without room for it the log has what it would write.
        if !self.shared.has_failed.load(Ordering::Acquire)
            && self.shared.look()
            && let Err(error) = self.shared.overlay.checkpoint()
        {
            self.shared.fail(&error.to_string());
        }
    }

    fn join_first(&mut self) {
        if !self.threads.is_empty() {
            // Its panic was told already.
            let _ = self.threads.remove(0).join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.alarm.ring(true);
        self.shared.inbox.close();
        self.shared.events.close();
        self.shared.moves.close();
        while !self.threads.is_empty() {
            self.join_first();
        }
        self.shared.end();
    }
}

fn open_engine(
    folder: &Path,
    keyspaces: &[String],
    sizes: Sizes,
    config: &Config,
) -> Result<DurableEngine, Error> {
    let own = folder.join("engine");
    let mut spaces = vec!["meta".to_owned()];
    spaces.extend(keyspaces.iter().cloned());
    let engine = DurableEngine::open(&DurableConfig {
        folder: own.clone(),
        spaces,
        cache_bytes: config.cache_bytes,
        memtable_bytes: sizes.memtable_bytes.min(config.checkpoint_bytes as u64),
        journal_bytes: sizes.journal_bytes,
        workers: ENGINE_WORKERS,
    });
    engine.map_err(|error| Error::of_engine(own, error))
}

/// Who the store of a folder is, and whether it is a new one.
fn identify(config: &Config) -> Result<(Identity, bool), Error> {
    let Config { folder, random, join, .. } = config;
    let known = Identity::read(folder).map_err(|error| Error::of_identity(folder, error))?;
    let fresh = Identity { store: random[0].max(1), cluster: join.unwrap_or(random[1]) };
    let identity = known.unwrap_or(fresh);
    match join.filter(|cluster| *cluster != identity.cluster) {
        Some(wanted) => {
            Err(Error::Cluster { folder: folder.clone(), is_of: identity.cluster, wanted })
        }
        None => Ok((identity, known.is_none())),
    }
}

fn open_log(folder: &Path, store: u64, is_new: bool, sizes: Sizes) -> Result<DurableLog, Error> {
    let own = folder.join("log");
    let log = DurableLog::open(&DurableLogConfig {
        folder: own.clone(),
        watermark: folder.join("watermark"),
        store,
        is_new,
        file_bytes: sizes.log_file_bytes,
        purge_bytes: sizes.log_purge_bytes,
    });
    let log = log.map_err(|error| Error::of_log(own.clone(), error))?;
    if !is_new && log.written() == 0 {
        let detail = format!("the log in {} is missing", own.display());
        return Err(Error::Damaged { folder: folder.to_owned(), detail });
    }
    Ok(log)
}

/// Whether this version knows the keyspaces of the ranges that were found.
fn check_keyspaces(groups: &[Opened], keyspaces: &Keyspaces, folder: &Path) -> Result<(), Error> {
    let mut found = groups.iter().filter_map(|opened| opened.descriptor.as_ref());
    match found.find(|descriptor| keyspaces.space(&descriptor.keyspace).is_none()) {
        Some(Descriptor { keyspace, .. }) => {
            let detail =
                format!("it holds a range of {keyspace:?} that this version does not know");
            Err(Error::Version { folder: folder.to_owned(), detail })
        }
        None => Ok(()),
    }
}

fn located_all(host: &Host<DurableEngine>) -> BTreeMap<GroupId, Located> {
    let groups = host.ranges().map(|descriptor| descriptor.group);
    groups.filter_map(|group| Some((group, located(host, group)?))).collect()
}

/// The groups that nobody else is a member of.
fn kept_alone(host: &Host<DurableEngine>, store: u64) -> Vec<GroupId> {
    let alone = host.ranges().filter(|descriptor| descriptor.membership.is_only(store));
    alone.map(|descriptor| descriptor.group).collect()
}

/// A range as the host has it now.
fn located(host: &Host<DurableEngine>, group: GroupId) -> Option<Located> {
    let (descriptor, space, work) = host.place(group)?;
    let (work, lease) = (Arc::clone(work), Arc::clone(host.lease(group)?));
    let coprocessor = Arc::clone(host.coprocessor(group)?);
    Some(Located { descriptor: descriptor.clone(), space, work, lease, coprocessor })
}

impl Shared {
    /// Ends what goes through the store: nothing is answered any more.
    fn fail(&self, reason: &str) {
        let mut first = self.reason.lock();
        if first.is_empty() {
            reason.clone_into(&mut first);
        }
        drop(first);
        if !self.has_failed.swap(true, Ordering::AcqRel) {
            self.admission.end();
            (self.on_failure)(reason);
        }
        self.end();
        // Under the lock, so that whoever looked before and waits now is woken.
        drop(self.leads.lock());
        self.is_led.notify_all();
    }

    /// What waits for a thread of the store waits in vain: whoever is to hear of it learns so.
    fn end(&self) {
        self.inbox.end();
        self.events.end();
        self.moves.end();
    }

    /// Looks at what room there is; says whether there is enough for a checkpoint.
    fn look(&self) -> bool {
        self.admission.look(self.overlay.memory_bytes())
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Node").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Config").field("folder", &self.folder).finish_non_exhaustive()
    }
}
