//! Where every node has the routes of persistent sessions: as the ranges' replicas here have applied them.
//!
//! Nothing is decided in the tables then. Whoever wants a route to come or to go submits that, from whatever
//! node, and is told once all replicas have it that may answer; the tables follow. So two changes of one
//! route that come from two nodes have the order of the log, whichever was asked for first.
//!
//! What may be acted upon is another question: this node's replicas may be behind. They know, and are
//! asked once for all that was read at once. DUR-012, KV-010

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use ratatosk_client::{Fate, Keyspace};
use ratatosk_contract::dist::RouteTold;
use ratatosk_engine::KeyRange;
use ratatosk_store::node::{Handle, Served};

use crate::coprocessor::Answer;
use crate::effect::Draft;

/// The replicas of a keyspace's ranges on this node.
pub trait Replicas: Send + Sync {
    /// Those that are here, in the order of their keys, as they are now.
    fn look(&self) -> Vec<Replica>;
}

/// A replica that is here.
pub struct Replica {
    /// Its range's keys.
    pub keys: KeyRange,
    /// Whether it may answer. Of a range that has other keys by now it says no for ever.
    pub loan: Box<dyn Loan>,
}

/// Whether a replica may answer from what it has applied.
pub trait Loan: Send + Sync {
    /// Whether what is applied here has everything that was acknowledged before this was asked.
    fn may_answer(&self) -> bool;

    /// Has `told` called once it may, or cannot soon; not before this returns.
    fn wait(&self, told: Box<dyn FnOnce() + Send>);
}

impl Loan for Served {
    fn may_answer(&self) -> bool {
        Served::may_answer(self)
    }

    fn wait(&self, told: Box<dyn FnOnce() + Send>) {
        Served::wait(self, Box::new(move |_| told()));
    }
}

/// The replicas that a store has of a keyspace.
#[derive(Debug)]
pub struct StoreReplicas {
    handle: Handle,
    keyspace: String,
}

impl StoreReplicas {
    /// Those of the keyspace called `keyspace`, which [replicas serve].
    ///
    /// [replicas serve]: ratatosk_store::coprocessor::Keyspaces::served_by_replicas
    #[must_use]
    pub fn new(handle: Handle, keyspace: &str) -> Self {
        Self { handle, keyspace: keyspace.to_owned() }
    }
}

impl Replicas for StoreReplicas {
    fn look(&self) -> Vec<Replica> {
        let ranges = self.handle.ranges(&self.keyspace);
        let served = ranges.iter().map(|range| self.handle.served(range.group));
        let served: Vec<_> = served.collect();
        // What was lent is for the keys that the range had then: those of the two looks, if they are the
        // same.
        let again = self.handle.ranges(&self.keyspace);
        let pairs = ranges.into_iter().zip(served);
        let replica = |(range, served): (_, Option<Served>)| {
            let served = served.filter(|_| again.contains(&range))?;
            Some(Replica { keys: range.boundary, loan: Box::new(served) })
        };
        pairs.filter_map(replica).collect()
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Replication {
    ways: OnceLock<Ways>,
    /// As of the last look.
    known: RwLock<Vec<Replica>>,
    /// Who asks again once there are other ranges.
    waiting: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

/// How many may wait for ranges to come.
const WAITING_MAX: usize = 4_096;

struct Ways {
    keyspace: Arc<dyn Keyspace>,
    replicas: Box<dyn Replicas>,
}

impl Replication {
    /// The way to the log, and to what is here. The first one counts.
    pub(crate) fn connect(&self, keyspace: Arc<dyn Keyspace>, replicas: Box<dyn Replicas>) {
        let is_first = self.ways.set(Ways { keyspace, replicas }).is_ok();
        debug_assert!(is_first, "a service is connected once");
    }

    /// The log; `None` before there is a way to it.
    pub(crate) fn keyspace(&self) -> Option<&dyn Keyspace> {
        self.ways.get().map(|ways| &*ways.keyspace)
    }

    /// Whether the replicas here have all that was acknowledged of some keys.
    pub(crate) fn may_answer(&self, keys: &KeyRange) -> bool {
        if is_served(&self.known.read(), keys).is_ok() {
            return true;
        }
        let Some(ways) = self.ways.get() else { return false };
        let now = ways.replicas.look();
        let may = is_served(&now, keys).is_ok();
        *self.known.write() = now;
        may
    }

    /// Has somebody told when it is worth asking again. Where there is nothing to wait for but that ranges
    /// come, not all are told if they are too many.
    pub(crate) fn when_may_answer(&self, keys: &KeyRange, told: Box<dyn FnOnce() + Send>) {
        let known = self.known.read();
        let replica = match is_served(&known, keys) {
            Err(Missing::Loan(replica)) => Some(replica),
            // It has come meanwhile: that is told at once, but not by whoever asks.
            Ok(()) => known.get(first_of(&known, keys)),
            Err(Missing::Range) => None,
        };
        if let Some(replica) = replica {
            replica.loan.wait(told);
            return;
        }
        drop(known);
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push(told);
        }
    }

    /// There are other ranges here, or they have other keys.
    pub(crate) fn changed(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(|told| told());
    }

    /// Puts commands into the log, and tells somebody what became of all. False if there is no way to it:
    /// then nobody is told.
    pub(crate) fn submit(&self, drafts: Vec<Draft<'_>>, told: RouteTold) -> bool {
        let Some(keyspace) = self.keyspace() else { return false };
        let told = Arc::new(Joint {
            open: AtomicUsize::new(drafts.len()),
            is_done: AtomicBool::new(true),
            told: Mutex::new(Some(told)),
        });
        for draft in drafts {
            let ((key, command), told) = (draft.finish(), Arc::clone(&told));
            keyspace.submit(&key, command, Box::new(move |fate| told.add(&fate)));
        }
        true
    }
}

/// Why some keys are not to be answered for.
enum Missing<'a> {
    /// Some are of no range that is here.
    Range,
    /// The first replica that may not answer.
    Loan(&'a Replica),
}

/// Whether replicas have all that was acknowledged of some keys.
fn is_served<'a>(replicas: &'a [Replica], keys: &KeyRange) -> Result<(), Missing<'a>> {
    let (mut next, mut late) = (&keys.start, None);
    for replica in &replicas[first_of(replicas, keys)..] {
        if replica.keys.start > *next {
            return Err(Missing::Range);
        }
        // All are asked, so that they borrow at the same time.
        if !replica.loan.may_answer() {
            late = late.or(Some(replica));
        }
        match &replica.keys.end {
            Some(end) if keys.end.as_ref().is_none_or(|last| end < last) => next = end,
            _ => return late.map_or(Ok(()), |replica| Err(Missing::Loan(replica))),
        }
    }
    Err(Missing::Range)
}

/// The place of the first replica that may have some of the keys.
fn first_of(replicas: &[Replica], keys: &KeyRange) -> usize {
    replicas
        .partition_point(|replica| replica.keys.end.as_ref().is_some_and(|end| *end <= keys.start))
}

/// Who is told of several commands.
struct Joint {
    open: AtomicUsize,
    is_done: AtomicBool,
    told: Mutex<Option<RouteTold>>,
}

impl Joint {
    fn add(&self, fate: &Fate) {
        let is_done = matches!(fate, Fate::Applied(answer) if Answer::is_done(answer));
        self.is_done.fetch_and(is_done, Ordering::AcqRel);
        if self.open.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let told = self.told.lock().take();
        if let Some(told) = told {
            told(self.is_done.load(Ordering::Acquire));
        }
    }
}

impl fmt::Debug for Replication {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Replication").finish_non_exhaustive()
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Replica").field("keys", &self.keys).finish_non_exhaustive()
    }
}
