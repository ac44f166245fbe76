//! The partitions behind their locks, and what is done there when the log has settled.
//!
//! Locks are taken in the order of the partitions, so those who need several never wait for each
//! other. No call to the live sessions is made while one is held.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard};
use ratatosk_contract::{
    ReplyTo, SessionIdentity, SessionRef,
    call::Settlement,
    inbox::{InboxId, WillId},
    sessions::Sessions,
};
use smallvec::SmallVec;

use crate::{
    joint::Joint,
    partition::{PARTITION_COUNT, Partition},
    routing::Both,
    session::Waiting,
    stranded::Stranded,
};

/// Every partition, with the live sessions that are told of them.
pub(crate) struct Partitions {
    locks: Box<[CachePadded<Mutex<Partition>>]>,
    pub(crate) sessions: Arc<dyn Sessions>,
    pub(crate) stranded: Arc<Stranded>,
    /// Sessions that are there.
    pub(crate) count: AtomicUsize,
}

/// Some of the partitions.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionSet(u64);

const _: () = assert!(PARTITION_COUNT == 64, "a set has a bit for each");

/// Partitions that are locked.
pub(crate) struct Locks<'a> {
    set: PartitionSet,
    /// In their order.
    held: SmallVec<[MutexGuard<'a, Partition>; 1]>,
}

/// What follows when a command is done.
#[derive(Debug, Default)]
pub(crate) struct Sequel {
    /// Entries that may be handed out then.
    pub(crate) entries: SmallVec<[(InboxId, u64); 2]>,
    /// Who is told.
    pub(crate) reply_to: Option<ReplyTo>,
    /// Or once another command is done as well.
    pub(crate) both: Option<Arc<Both>>,
    /// The partition where a session ended, and its life then.
    pub(crate) ended: Option<(usize, u64)>,
    /// What comes behind it, and perhaps behind others.
    pub(crate) joint: Option<Arc<Joint>>,
}

impl PartitionSet {
    pub(crate) const ALL: PartitionSet = PartitionSet(u64::MAX);

    pub(crate) fn of(number: usize) -> Self {
        PartitionSet(1 << (number % PARTITION_COUNT))
    }

    pub(crate) fn insert(&mut self, number: usize) {
        self.0 |= Self::of(number).0;
    }

    pub(crate) fn numbers(self) -> impl Iterator<Item = usize> {
        (0..PARTITION_COUNT).filter(move |number| self.has(*number))
    }

    pub(crate) fn has(self, number: usize) -> bool {
        self.0 & Self::of(number).0 != 0
    }
}

impl Locks<'_> {
    /// A partition, which must be among them.
    pub(crate) fn at(&mut self, number: usize) -> &mut Partition {
        let bit = PartitionSet::of(number).0;
        assert!(self.set.0 & bit != 0, "partition {number} is locked");
        let at = (self.set.0 & (bit - 1)).count_ones() as usize;
        &mut self.held[at]
    }

    /// Whether the partition of a session is among them.
    pub(crate) fn has(&self, inbox: InboxId) -> bool {
        self.set.has(partition_number(inbox.0))
    }

    /// The partition of a session, which must be among them.
    pub(crate) fn of(&mut self, inbox: InboxId) -> &mut Partition {
        self.at(partition_number(inbox.0))
    }
}

impl Partitions {
    pub(crate) fn new(sessions: Arc<dyn Sessions>) -> Self {
        let hasher = RandomState::default();
        let stranded = Arc::<Stranded>::default();
        let partition = |index| {
            let partition = Partition::new(index, hasher.clone(), Arc::clone(&stranded));
            CachePadded::new(Mutex::new(partition))
        };
        let locks = (0..PARTITION_COUNT).map(partition).collect();
        Partitions { locks, sessions, stranded, count: AtomicUsize::new(0) }
    }

    pub(crate) fn lock(&self, set: PartitionSet) -> Locks<'_> {
        let mut held = SmallVec::new();
        let mut rest = set.0;
        while rest != 0 {
            held.push(self.locks[rest.trailing_zeros() as usize].lock());
            rest &= rest - 1;
        }
        Locks { set, held }
    }

    pub(crate) fn lock_one(&self, number: usize) -> Locks<'_> {
        let held = std::iter::once(self.locks[number].lock()).collect();
        Locks { set: PartitionSet::of(number), held }
    }

    /// The partition of a session or of a will.
    pub(crate) fn lock_of(&self, inbox: InboxId) -> MutexGuard<'_, Partition> {
        self.locks[partition_number(inbox.0)].lock()
    }

    /// Nothing is served, until it is opened.
    pub(crate) fn vacate_all(&self) {
        self.iter().for_each(|partition| drop(partition.lock().vacate()));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mutex<Partition>> {
        self.locks.iter().map(|padded| &**padded)
    }

    /// Does what follows of a command that was carried out, or may be lost: then its entries are not
    /// handed out. DUR-009
    pub(crate) fn follow(&self, sequel: &Sequel, is_done: bool) {
        if let Some((number, life)) = sequel.ended {
            let mut partition = self.locks[number].lock();
            partition.ends_under_way -= usize::from(partition.life == life);
        }
        if let Some(joint) = &sequel.joint {
            joint.add(is_done);
        }
        let mut ready = SmallVec::<[SessionRef; 8]>::new();
        for (inbox, sequence) in sequel.entries.iter().filter(|_| is_done) {
            let mut partition = self.lock_of(*inbox);
            let Some(session) = partition.sessions.get_mut(inbox) else { continue };
            if session.queue.release(*sequence) {
                ready.extend(session.wake(Waiting::Message));
            }
        }
        for owner in ready {
            self.sessions.inbox_ready(owner);
        }
        if let Some(ReplyTo { session, ticket }) = sequel.reply_to {
            let settlement = if is_done { Settlement::Done } else { Settlement::Unknown };
            self.sessions.settle(session, ticket, settlement);
        }
        if let Some(both) = &sequel.both {
            both.add(is_done);
        }
    }
}

impl std::fmt::Debug for Partitions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Partitions").finish_non_exhaustive()
    }
}

/// The partition of an identity: the same in every process, for it is part of the numbers.
pub(crate) fn partition_of(identity: &SessionIdentity) -> usize {
    partition_number(identity.publisher().0)
}

/// The partition of a number.
pub(crate) fn partition_number(number: u64) -> usize {
    usize::try_from(number % PARTITION_COUNT as u64).unwrap_or(0)
}

/// A will's number is one of its partition, as a session's is.
pub(crate) fn number_of(will: WillId) -> InboxId {
    InboxId(will.0)
}
