//! The ranges of a cluster: who keeps and leads them, from what the stores tell of themselves.
//!
//! A store is asked for its word several times a second, and at once where somebody was sent to one that
//! does not lead. What is known may be old: a store refuses what is not for it, and the next word says
//! more. Nobody waits for a store that is gone: what it was asked and does not answer is in doubt after a
//! while.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_engine::Error;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Status;
use ratatosk_store::node::{Handle, Reply, Told};
use ratatosk_store::range::{Descriptor, Version};

use crate::{Answer, Leader, Outcome, Pipe, Ranges, Read, Route};

/// How often stores are asked for their word.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a store may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often a [`Poller`] looks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a client needs of a store, near or far.
pub trait Store: Send + Sync {
    /// Has somebody told what is known of its groups; never, if it does not come to it.
    fn ask_status(&self, told: Told);

    /// Proposes an entry, if the store leads the group in this term. Drops `reply` if there will be none.
    /// What one caller proposes comes in the order of the calls, or not at all.
    fn propose(&self, term: u64, group: GroupId, data: Vec<u8>, reply: Reply);

    /// Asks a range's coprocessor, if the store leads the range in this version. Drops `reply` if there will
    /// be no answer.
    fn query(&self, group: GroupId, version: Version, question: Bytes, reply: Reply);

    /// Whether it takes nothing, for disk or memory are short.
    fn is_short(&self) -> bool;
}

impl Store for Handle {
    fn ask_status(&self, told: Told) {
        Handle::ask_status(self, told);
    }

    fn propose(&self, term: u64, group: GroupId, data: Vec<u8>, reply: Reply) {
        self.propose_in(term, group, data, reply);
    }

    fn query(&self, group: GroupId, version: Version, question: Bytes, reply: Reply) {
        Handle::query(self, group, version, question, reply);
    }

    fn is_short(&self) -> bool {
        Handle::is_short(self)
    }
}

/// See the module. Clones are the same one.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    clock: SystemClock,
    stores: RwLock<BTreeMap<u64, Arc<dyn Store>>>,
    words: Mutex<Words>,
    /// Somebody was sent to a store that does not lead.
    is_stale: AtomicBool,
    pending: Mutex<VecDeque<(Instant, Weak<Slot>)>>,
    /// What is to be answered by the next poll, as nobody may be answered while asking.
    later: Mutex<Vec<(Answer, Outcome)>>,
}

/// What the stores said.
#[derive(Default)]
struct Words {
    asked_at: Option<Instant>,
    last: BTreeMap<u64, Vec<Status>>,
    /// What stores said when they refused, newer than their last word.
    learned: BTreeMap<GroupId, Descriptor>,
}

/// Who waits for an answer, until it is there or in doubt.
type Slot = Mutex<Option<Answer>>;

/// Held by who is to answer: without an answer it is in doubt.
struct Ticket {
    slot: Arc<Slot>,
    shared: Weak<Shared>,
}

impl Router {
    /// Without stores.
    #[must_use]
    pub fn new(clock: SystemClock) -> Self {
        let shared = Shared {
            clock,
            stores: RwLock::default(),
            words: Mutex::default(),
            is_stale: AtomicBool::new(true),
            pending: Mutex::default(),
            later: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A store can be reached from now on, this way.
    pub fn attach(&self, store: u64, way: Arc<dyn Store>) {
        self.shared.stores.write().insert(store, way);
        self.shared.is_stale.store(true, Ordering::Relaxed);
    }

    /// A store cannot be reached any more.
    pub fn detach(&self, store: u64) {
        self.shared.stores.write().remove(&store);
        self.shared.words.lock().last.remove(&store);
    }

    /// Asks the stores for their word if it is time to, and gives up what was not answered. To be called
    /// several times a second.
    pub fn poll(&self) {
        let now = self.shared.clock.now();
        self.shared.give_up(now);
        let later = std::mem::take(&mut *self.shared.later.lock());
        later.into_iter().for_each(|(answer, outcome)| answer(outcome));
        let mut words = self.shared.words.lock();
        let is_due = words.asked_at.is_none_or(|at| now.since(at) >= ASK_INTERVAL);
        let is_stale = self.shared.is_stale.swap(false, Ordering::Relaxed);
        if !is_due && !is_stale {
            return;
        }
        words.asked_at = Some(now);
        drop(words);
        let stores = self.shared.stores.read().clone();
        for (store, way) in stores {
            let shared = Arc::downgrade(&self.shared);
            way.ask_status(Box::new(move |groups| {
                if let Some(shared) = shared.upgrade() {
                    shared.take(store, groups);
                }
            }));
        }
    }
}

impl Router {
    /// The leader's term, the way to it, and who is told what it answers; `answer` gets to know if nobody is
    /// known to lead.
    fn begin(&self, route: &Route, answer: Answer) -> Option<(u64, Arc<dyn Store>, Reply)> {
        let way = route.leader.and_then(|leader| {
            let stores = self.shared.stores.read();
            Some((leader.term, Arc::clone(stores.get(&leader.store)?)))
        });
        let Some((term, way)) = way else {
            let refused = Outcome::Refused(Refusal::NotLeader);
            self.shared.later.lock().push((answer, refused));
            return None;
        };
        let slot = Arc::new(Mutex::new(Some(answer)));
        let mut pending = self.shared.pending.lock();
        while pending.front().is_some_and(|(_, slot)| slot.strong_count() == 0) {
            pending.pop_front();
        }
        pending.push_back((self.shared.clock.now(), Arc::downgrade(&slot)));
        drop(pending);
        let ticket = Ticket { slot, shared: Arc::downgrade(&self.shared) };
        let reply = Box::new(move |answers: Result<_, _>| ticket.answer(answers.into()));
        Some((term, way, reply))
    }
}

impl Ranges for Router {
    fn routes(&self, keyspace: &str) -> Vec<Route> {
        self.shared.words.lock().routes(keyspace)
    }

    fn propose(&self, route: &Route, data: Vec<u8>, answer: Answer) {
        if let Some((term, way, reply)) = self.begin(route, answer) {
            way.propose(term, route.descriptor.group, data, reply);
        }
    }

    fn query(&self, route: &Route, question: Bytes, answer: Answer) {
        if let Some((_, way, reply)) = self.begin(route, answer) {
            way.query(route.descriptor.group, route.descriptor.version, question, reply);
        }
    }

    fn learn(&self, descriptor: Descriptor) {
        let mut words = self.shared.words.lock();
        let held = words.learned.entry(descriptor.group).or_insert_with(|| descriptor.clone());
        if descriptor.version > held.version {
            *held = descriptor;
        }
        self.shared.is_stale.store(true, Ordering::Relaxed);
    }

    fn is_short(&self) -> bool {
        self.shared.stores.read().values().any(|way| way.is_short())
    }

    /// Nothing is here.
    fn read(&self, _group: GroupId, _read: &mut Read<'_>) -> Result<(), Error> {
        Ok(())
    }
}

impl Shared {
    fn take(&self, store: u64, groups: Vec<Status>) {
        let mut words = self.words.lock();
        for status in &groups {
            let known = words.learned.get(&status.group);
            if known.is_some_and(|known| known.version <= status.descriptor.version) {
                words.learned.remove(&status.group);
            }
        }
        words.last.insert(store, groups);
    }

    /// Who has waited too long is in doubt.
    fn give_up(&self, now: Instant) {
        let mut late = Vec::new();
        let mut pending = self.pending.lock();
        while let Some((_, slot)) = pending.pop_front_if(|(since, slot)| {
            slot.strong_count() == 0 || now.since(*since) > ANSWER_MAX
        }) {
            late.extend(slot.upgrade().and_then(|slot| slot.lock().take()));
        }
        drop(pending);
        self.later.lock().extend(late.into_iter().map(|answer| (answer, Outcome::Unknown)));
    }
}

impl Words {
    /// The ranges of a keyspace, each with who leads it, if somebody says so.
    fn routes(&self, keyspace: &str) -> Vec<Route> {
        let mut ranges: BTreeMap<GroupId, Route> = BTreeMap::new();
        let said = self.last.iter().flat_map(|(store, groups)| {
            groups.iter().map(move |status| (&status.descriptor, leader_of(*store, status)))
        });
        let learned = self.learned.values().map(|descriptor| (descriptor, None));
        for (descriptor, leader) in said.chain(learned) {
            if descriptor.keyspace != keyspace {
                continue;
            }
            let fresh = || Route { descriptor: descriptor.clone(), leader: None };
            let held = ranges.entry(descriptor.group).or_insert_with(fresh);
            if descriptor.version > held.descriptor.version {
                held.descriptor = descriptor.clone();
            }
            held.leader = held.leader.max(leader);
        }
        let mut routes: Vec<_> = ranges.into_values().collect();
        // Of two that have a key in common the earlier one is known from a store that is behind.
        routes.sort_by_key(|route| std::cmp::Reverse(route.descriptor.version));
        let mut kept: Vec<Route> = Vec::with_capacity(routes.len());
        for route in routes {
            if kept.iter().all(|held| !held.descriptor.overlaps(&route.descriptor)) {
                kept.push(route);
            }
        }
        kept.sort_by(|one, two| one.descriptor.boundary.start.cmp(&two.descriptor.boundary.start));
        kept
    }
}

/// The leader, if a store says that it is.
fn leader_of(store: u64, status: &Status) -> Option<Leader> {
    status.followers.as_ref().map(|_| Leader { term: status.term, store })
}

impl Ticket {
    fn answer(self, outcome: Outcome) {
        let answer = self.slot.lock().take();
        if matches!(outcome, Outcome::Refused(_))
            && let Some(shared) = self.shared.upgrade()
        {
            shared.is_stale.store(true, Ordering::Relaxed);
        }
        if let Some(answer) = answer {
            answer(outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(answer) = self.slot.lock().take() else { return };
        if let Some(shared) = self.shared.upgrade() {
            shared.is_stale.store(true, Ordering::Relaxed);
            shared.later.lock().push((answer, Outcome::Unknown));
        }
    }
}

/// Polls a router and the pipes in front of it, on a thread of its own, until it is dropped.
pub struct Poller {
    stopping: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Poller {
    /// Starts to.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(router: Router, pipes: Vec<Pipe>) -> std::io::Result<Self> {
        let (stopping, stops) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("store-client".to_owned()).spawn(move || {
            while stops.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                router.poll();
                pipes.iter().for_each(Pipe::poll);
            }
        });
        Ok(Self { stopping: Some(stopping), thread: Some(thread?) })
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        drop(self.stopping.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was told already.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stores = self.shared.stores.read().len();
        formatter.debug_struct("Router").field("stores", &stores).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Poller").finish_non_exhaustive()
    }
}
