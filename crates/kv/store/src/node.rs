//! The store of a node at work: three threads around a machine, a host and an overlay.
//!
//! - *log*: lets the [`Machine`] step and waits for the disk. What comes in while it waits goes with
//!   the next write, so one fsync serves all who came meanwhile, whatever their service. DUR-007
//! - *apply*: carries out what is committed and tells those who asked.
//! - *checkpoint*: makes the overlay durable from time to time, so that the log can be cut.
//!
//! When one of them fails, for the disk does, nothing is acknowledged any more and the node is told
//! once. It has to be started again: what is on the disk then is whole, what is in memory may not
//! be.

mod queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use ratatosk_clock::SystemClock;
use ratatosk_engine::{DurableConfig, DurableEngine, KeyRange, Overlay, SpaceId};

use crate::coprocessor::{Coprocessor, Reader};
use crate::host::{self, Answered, Done, Host, Refusal};
use crate::identity::Identity;
use crate::log::{DurableLog, DurableLogConfig, GroupId};
use crate::machine::{Event, Input, Machine, Opened, Output};
use crate::open::{self, Asked, Error, Found};
use crate::range::Descriptor;
use crate::room;
use queue::{Alarm, Queue};

/// How a store is opened.
pub struct Config {
    /// Its own folder; made if it is missing.
    pub folder: PathBuf,
    /// The services' keyspaces, each with what carries its commands out. At most 254.
    pub keyspaces: Vec<(String, Box<dyn Coprocessor>)>,
    /// Bytes of the engine's blocks that are kept in memory.
    pub cache_bytes: u64,
    /// How often a checkpoint is made, at least.
    pub checkpoint_interval: Duration,
    /// From how many bytes of applied data in memory on a checkpoint is made at once.
    pub checkpoint_bytes: usize,
    /// A number for a store or cluster that is made; random.
    pub random: [u64; 2],
    /// Told once when the store can go on no more, with the reason. To be short.
    pub on_failure: Box<dyn Fn(&str) + Send + Sync>,
}

/// Bytes of a file of the log before the next one is begun.
const LOG_FILE_BYTES: u64 = 64 << 20;
/// Bytes of the log from which on files of what was given up are removed.
const LOG_PURGE_BYTES: u64 = 512 << 20;
/// How often the log is cut.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
/// How often the free room of the disk is looked at, and the size of the overlay.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// So many times what a checkpoint waits for may be in memory before nothing more is taken.
const OVERLAY_FACTOR: usize = 4;
/// The threads that flush and compact the engine.
const ENGINE_WORKERS: usize = 2;

/// An open store. Dropping it stops it, without a last checkpoint.
pub struct Node {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A way to the store that can be kept by many.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Told what became of a proposal: the answer to each of its commands, or why none was carried out.
/// Called on the thread that applies; never, if the store stops before it knows.
pub type Reply = Box<dyn FnOnce(Result<Vec<Bytes>, Refusal>) + Send>;

/// A range, and the space of the engine that has its data.
type Located = (Descriptor, SpaceId);

struct Shared {
    identity: Identity,
    ranges: Vec<Located>,
    overlay: Arc<Overlay<DurableEngine>>,
    folder: PathBuf,
    checkpoint_interval: Duration,
    checkpoint_bytes: usize,
    inbox: Queue<Input<Reply>>,
    events: Queue<Event<Reply>>,
    alarm: Alarm,
    leads: Mutex<Vec<GroupId>>,
    is_led: Condvar,
    has_failed: AtomicBool,
    /// Why, once it has.
    reason: Mutex<String>,
    /// The disk or the memory is so full that nothing is taken.
    is_short: AtomicBool,
    on_failure: Box<dyn Fn(&str) + Send + Sync>,
}

impl Node {
    /// Opens the store of a folder, or makes one, and applies what its log has. When it returns,
    /// the store leads its ranges, and their data is what it was.
    ///
    /// # Errors
    /// See [`Error`]. Nothing runs.
    pub fn open(config: Config) -> Result<Self, Error> {
        let Config { folder, keyspaces, random, .. } = config;
        let io = |source| Error::Io { folder: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(io)?;
        let identity_error = |error| Error::of_identity(&folder, error);
        let known = Identity::read(&folder).map_err(identity_error)?;
        let mut identity =
            known.unwrap_or(Identity { store: random[0].max(1), cluster: random[1] });
        let log = DurableLog::open(&DurableLogConfig {
            folder: folder.join("log"),
            watermark: folder.join("watermark"),
            store: identity.store,
            is_new: known.is_none(),
            file_bytes: LOG_FILE_BYTES,
            purge_bytes: LOG_PURGE_BYTES,
        });
        let log = Arc::new(log.map_err(|error| Error::of_log(folder.join("log"), error))?);
        let names: Vec<String> = keyspaces.iter().map(|(name, _)| name.clone()).collect();
        let mut spaces = vec!["meta".to_owned()];
        spaces.extend(names.iter().cloned());
        identity.store = log.store();
        if known.is_some() && log.written() == 0 {
            let detail = format!("the log in {} is missing", folder.join("log").display());
            return Err(Error::Damaged { folder, detail });
        }
        let engine = DurableEngine::open(&DurableConfig {
            folder: folder.join("engine"),
            spaces,
            cache_bytes: config.cache_bytes,
            workers: ENGINE_WORKERS,
        });
        let engine_error = |error| Error::of_engine(folder.join("engine"), error);
        let engine = engine.map_err(engine_error)?;
        let asked = Asked { store: identity.store, keyspaces: &names, is_new: known.is_none() };
        let found = open::find(&*log, &engine, asked)
            .map_err(|trouble| Error::of_trouble(folder.clone(), trouble))?;
        if known.is_none() {
            identity.write(&folder).map_err(identity_error)?;
            open::sync_above(&folder);
        }
        let space_count = u8::try_from(names.len() + 1).unwrap_or(u8::MAX);
        let overlay = Arc::new(Overlay::new(engine, space_count));
        let mut host = Host::new(Arc::clone(&overlay));
        let opened = open_ranges(&mut host, found, keyspaces, &folder)?;
        let (ranges, groups) = opened.into_iter().unzip();
        let groups: Vec<Opened> = groups;
        let machine = Machine::open(log, identity.store, groups)
            .map_err(|error| Error::of_machine(folder.clone(), error))?;
        let shared = Arc::new(Shared {
            identity,
            ranges,
            overlay,
            folder,
            checkpoint_interval: config.checkpoint_interval,
            checkpoint_bytes: config.checkpoint_bytes,
            inbox: Queue::new(),
            events: Queue::new(),
            alarm: Alarm::default(),
            leads: Mutex::default(),
            is_led: Condvar::new(),
            has_failed: AtomicBool::new(false),
            reason: Mutex::default(),
            is_short: AtomicBool::new(false),
            on_failure: config.on_failure,
        });
        shared.look_at_room();
        let node = Node::start(shared, machine, host)?;
        node.wait_until_led()?;
        Ok(node)
    }

    fn start(
        shared: Arc<Shared>,
        machine: Machine<DurableLog, Reply>,
        host: Host<DurableEngine>,
    ) -> Result<Self, Error> {
        let mut node = Node { shared, threads: Vec::new() };
        node.spawn("store-log", move |shared| run_log(shared, machine))?;
        node.spawn("store-apply", move |shared| run_apply(shared, host))?;
        node.spawn("store-checkpoint", run_checkpoints)?;
        Ok(node)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce(&Shared) -> Result<(), String> + Send + 'static,
    ) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        // A failed fsync is a panic of the log's library: what the disk has then is unknown.
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

    fn wait_until_led(&self) -> Result<(), Error> {
        let mut leads = self.shared.leads.lock();
        while leads.len() < self.shared.ranges.len() {
            if self.shared.has_failed.load(Ordering::Acquire) {
                let reason = self.shared.reason.lock().clone();
                let detail = format!("its log cannot be applied: {reason}");
                return Err(Error::Damaged { folder: self.shared.folder.clone(), detail });
            }
            self.shared.is_led.wait(&mut leads);
        }
        Ok(())
    }

    /// A way to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Carries out what was proposed before, makes a last checkpoint, and ends.
    pub fn stop(mut self) {
        self.shared.alarm.ring(true);
        // In this order: each finishes what the one before has handed to it.
        self.shared.inbox.close();
        self.join_one(0);
        self.shared.events.close();
        self.join_one(0);
        self.join_one(0);
        if !self.shared.has_failed.load(Ordering::Acquire)
            && let Err(error) = self.shared.overlay.checkpoint()
        {
            self.shared.fail(&error.to_string());
        }
    }

    fn join_one(&mut self, place: usize) {
        if place < self.threads.len() {
            // Its panic was told already.
            let _ = self.threads.remove(place).join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.alarm.ring(true);
        self.shared.inbox.close();
        self.shared.events.close();
        while !self.threads.is_empty() {
            self.join_one(0);
        }
    }
}

impl Handle {
    /// Who the store is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The ranges of a keyspace, in the order of their keys.
    #[must_use]
    pub fn ranges(&self, keyspace: &str) -> Vec<Descriptor> {
        let ranges = self.shared.ranges.iter().map(|(descriptor, _)| descriptor);
        let mut found: Vec<_> =
            ranges.filter(|descriptor| descriptor.keyspace == keyspace).cloned().collect();
        found.sort_by(|one, two| one.boundary.start.cmp(&two.boundary.start));
        found
    }

    /// Proposes an entry for a group. Entries of one group are in the log in the order of the calls.
    /// Never calls `reply` itself.
    pub fn propose(&self, group: GroupId, data: Vec<u8>, reply: Reply) {
        self.shared.inbox.push(Input::Propose { group, data, ticket: reply });
    }

    /// Whether so little room is left, on the disk or for what is not on it yet, that nothing should
    /// be proposed. DUR-006
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.shared.is_short.load(Ordering::Relaxed)
    }

    /// Shows the data of a group's range as it was applied.
    ///
    /// # Errors
    /// The engine's, or those of `read`.
    pub fn read(
        &self,
        group: GroupId,
        read: &mut dyn FnMut(&dyn Reader) -> Result<(), ratatosk_engine::Error>,
    ) -> Result<(), ratatosk_engine::Error> {
        let found = self.shared.ranges.iter().find(|(descriptor, _)| descriptor.group == group);
        let Some((descriptor, space)) = found else { return Ok(()) };
        let boundary: &KeyRange = &descriptor.boundary;
        host::read_range(&*self.shared.overlay, *space, boundary, read)
    }

    /// About how many bytes of memory hold what is applied and not on disk.
    #[must_use]
    pub fn overlay_bytes(&self) -> usize {
        self.shared.overlay.memory_bytes()
    }
}

/// Has the host take in what was found, each range with its keyspace's coprocessor.
fn open_ranges(
    host: &mut Host<DurableEngine>,
    found: Vec<Found>,
    keyspaces: Vec<(String, Box<dyn Coprocessor>)>,
    folder: &Path,
) -> Result<Vec<(Located, Opened)>, Error> {
    let mut places: Vec<_> = keyspaces.into_iter().map(|(name, held)| (name, Some(held))).collect();
    let mut opened = Vec::new();
    for Found { descriptor, group } in found {
        let keyspace = &descriptor.keyspace;
        let place = places.iter().position(|(name, _)| name == keyspace);
        // Today a keyspace is one range.
        let coprocessor = place.and_then(|place| places[place].1.take());
        let (Some(place), Some(coprocessor)) = (place, coprocessor) else {
            let detail =
                format!("it holds a range of {keyspace:?} that this version does not know");
            return Err(Error::Version { folder: folder.to_owned(), detail });
        };
        let space = SpaceId(u8::try_from(place + 1).unwrap_or(u8::MAX));
        host.open(descriptor.clone(), space, coprocessor)
            .map_err(|error| Error::of_engine(folder.join("engine"), error))?;
        opened.push(((descriptor, space), group));
    }
    Ok(opened)
}

fn run_log(shared: &Shared, mut machine: Machine<DurableLog, Reply>) -> Result<(), String> {
    let clock = SystemClock::new();
    let mut inputs = Vec::new();
    let mut output = Output::default();
    let mut next_purge = clock.now() + PURGE_INTERVAL;
    loop {
        let wait = match machine.is_dirty() {
            true => Duration::ZERO,
            false => {
                let next = machine.next_tick().unwrap_or(next_purge).min(next_purge);
                next.since(clock.now())
            }
        };
        let is_closed = shared.inbox.take(wait, &mut inputs);
        if is_closed && inputs.is_empty() && !machine.is_dirty() {
            return Ok(());
        }
        let stepped = machine.step(clock.now(), inputs.drain(..), &mut output);
        stepped.map_err(|error| error.to_string())?;
        // One store has nobody to send to.
        output.messages.clear();
        shared.events.extend(&mut output.events);
        if clock.now() >= next_purge {
            machine.purge().map_err(|error| error.to_string())?;
            next_purge = clock.now() + PURGE_INTERVAL;
        }
    }
}

fn run_apply(shared: &Shared, mut host: Host<DurableEngine>) -> Result<(), String> {
    let mut events = Vec::new();
    let mut done = Done::default();
    loop {
        let is_closed = shared.events.take(Duration::MAX, &mut events);
        if is_closed && events.is_empty() {
            return Ok(());
        }
        host.run(events.drain(..), &mut done).map_err(|error| error.to_string())?;
        for Answered { ticket, answers } in done.answered.drain(..) {
            ticket(answers);
        }
        let applied = done.applied.drain(..).map(|(group, index)| Input::Applied { group, index });
        shared.inbox.add_quietly(applied);
        if !done.leads.is_empty() {
            shared.leads.lock().append(&mut done.leads);
            shared.is_led.notify_all();
        }
    }
}

fn run_checkpoints(shared: &Shared) -> Result<(), String> {
    let clock = SystemClock::new();
    let groups: Vec<_> = shared.ranges.iter().map(|(descriptor, _)| descriptor.group).collect();
    let mut next = clock.now() + shared.checkpoint_interval;
    while !shared.alarm.wait(LOOK_INTERVAL) {
        shared.look_at_room();
        let is_due = clock.now() >= next;
        if !is_due && shared.overlay.memory_bytes() < shared.checkpoint_bytes {
            continue;
        }
        let durable = host::checkpoint(&shared.overlay, groups.iter().copied());
        let durable = durable.map_err(|error| error.to_string())?;
        let told = durable.into_iter().map(|(group, index)| Input::Checkpointed { group, index });
        shared.inbox.add_quietly(told);
        next = clock.now() + shared.checkpoint_interval;
    }
    Ok(())
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
            self.is_short.store(true, Ordering::Relaxed);
            (self.on_failure)(reason);
        }
        self.inbox.close();
        self.events.close();
        // Under the lock, so that whoever looked before and waits now is woken.
        drop(self.leads.lock());
        self.is_led.notify_all();
    }

    fn look_at_room(&self) {
        let is_full = match room::of(&self.folder) {
            Ok(room) => room.is_short(),
            // What cannot be asked is no reason to refuse; a full disk will say so itself.
            Err(_) => false,
        };
        let is_behind =
            self.overlay.memory_bytes() > self.checkpoint_bytes.saturating_mul(OVERLAY_FACTOR);
        let is_short = is_full || is_behind || self.has_failed.load(Ordering::Relaxed);
        self.is_short.store(is_short, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Node").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Handle")
            .field("folder", &self.shared.folder)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Config").field("folder", &self.folder).finish_non_exhaustive()
    }
}
