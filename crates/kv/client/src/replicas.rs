//! What the replicas of this node may answer for.
//!
//! A service that has in its memory what the replicas here have applied asks them before it answers from there:
//! they may be behind, or cut off. It asks for an interval of keys, which may lie in several ranges, and once for
//! all that it does at once. KV-010

use std::fmt;
use std::sync::OnceLock;

use parking_lot::{Mutex, RwLock};
use ratatosk_engine::KeyRange;
use ratatosk_store::node::{Handle, Served};

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
pub struct Serving {
    replicas: OnceLock<Box<dyn Replicas>>,
    /// As of the last look.
    known: RwLock<Vec<Replica>>,
    /// Who asks again once there are other ranges.
    waiting: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

/// How many may wait for ranges to come.
const WAITING_MAX: usize = 4_096;

impl Serving {
    /// The way to the replicas, without which nothing may be answered. The first one counts.
    pub fn connect(&self, replicas: Box<dyn Replicas>) {
        let is_first = self.replicas.set(replicas).is_ok();
        debug_assert!(is_first, "a service is connected once");
        self.changed();
    }

    /// Whether the replicas here have all that was acknowledged of some keys before this was asked.
    pub fn may_answer(&self, keys: &KeyRange) -> bool {
        if is_served(&self.known.read(), keys).is_ok() {
            return true;
        }
        let Some(replicas) = self.replicas.get() else { return false };
        let now = replicas.look();
        let may = is_served(&now, keys).is_ok();
        *self.known.write() = now;
        may
    }

    /// Has somebody told when it is worth asking again, never before this returns. Where there is nothing to
    /// wait for but that ranges come, not all are told if they are too many.
    pub fn when_may_answer(&self, keys: &KeyRange, told: Box<dyn FnOnce() + Send>) {
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
    pub fn changed(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(|told| told());
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

impl fmt::Debug for Serving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Replica").field("keys", &self.keys).finish_non_exhaustive()
    }
}
