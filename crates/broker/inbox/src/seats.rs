//! Which partitions are served here: those of ranges over which this store reigns, once they are read.
//!
//! A partition is *assigned* to a reign from when that begins until it is over, and *served* once what the
//! range has of it is in memory. It is taken from whoever asks under its lock, at the moment that the reign
//! is over: all that was decided under a reign was submitted to it. What is slow, to read and to let go of
//! memory, is done by a worker ([`InboxService::seat_next`](crate::InboxService::seat_next)).
//!
//! Order of locks: a partition's, then its slot's. Watchers are told without any.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use ratatosk_client::{Busy, Keyspace as _, Owner, ReignPipe, Reigns};
use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::KeyRange;

use crate::partition::{Contents, PARTITION_COUNT};
use crate::partitions::{Partitions, partition_number};
use crate::schema::partition_keys;

/// Told that a partition is served, or no longer: [`serves`](crate::InboxService::serves) says which. It is
/// called on threads that others wait for.
pub type SeatWatch = Box<dyn Fn(usize) + Send + Sync>;

/// See the file's head.
pub(crate) struct Seats {
    slots: Box<[Mutex<Slot>]>,
    partitions: Arc<Partitions>,
    tasks: Mutex<Tasks>,
    has_work: Condvar,
    watches: Mutex<Vec<SeatWatch>>,
    /// Whom it is told by.
    reigns: Mutex<Option<Reigns>>,
}

#[derive(Default)]
struct Slot {
    assigned: Option<ReignPipe>,
    is_served: bool,
}

#[derive(Default)]
struct Tasks {
    waiting: VecDeque<Task>,
    is_closed: bool,
}

/// What the worker does.
pub(crate) enum Task {
    /// The partitions of a reign are to be served.
    Seat(ReignPipe),
    /// What was in memory goes.
    Drop(Vec<Contents>),
}

impl Seats {
    pub(crate) fn new(partitions: Arc<Partitions>) -> Self {
        Seats {
            slots: (0..PARTITION_COUNT).map(|_| Mutex::default()).collect(),
            partitions,
            tasks: Mutex::default(),
            has_work: Condvar::new(),
            watches: Mutex::default(),
            reigns: Mutex::default(),
        }
    }

    pub(crate) fn set_reigns(&self, reigns: &Reigns) {
        *self.reigns.lock() = Some(reigns.clone());
    }

    /// Sees to reigns that broke off; says whether there are any.
    pub(crate) fn poll(&self) -> bool {
        let reigns = self.reigns.lock().clone();
        reigns.is_some_and(|reigns| reigns.poll())
    }

    /// The reign that a partition is served by.
    pub(crate) fn serving(&self, number: usize) -> Option<ReignPipe> {
        let slot = self.slots.get(number)?.lock();
        slot.assigned.clone().filter(|_| slot.is_served)
    }

    /// The reign that a partition is assigned to. Its lock is held, so that it stays so.
    pub(crate) fn assigned(&self, number: usize) -> Option<ReignPipe> {
        self.slots.get(number)?.lock().assigned.clone()
    }

    /// Whether a partition is assigned to this reign. Its lock is held, so that it stays so.
    pub(crate) fn is_assigned(&self, number: usize, reign: &ReignPipe) -> bool {
        self.assigned(number).is_some_and(|assigned| assigned.is(reign))
    }

    /// Whether both sessions are served by one reign: then one command may be of both.
    pub(crate) fn is_one_reign(&self, one: InboxId, other: InboxId) -> bool {
        let (one, other) = (partition_number(one.0), partition_number(other.0));
        let serving = self.serving(one);
        serving.is_some_and(|it| {
            one == other || self.serving(other).is_some_and(|other| it.is(&other))
        })
    }

    /// Whether a partition is served, by a store that takes more.
    pub(crate) fn check(&self, number: usize) -> Result<(), Busy> {
        self.serving(number).ok_or(Busy)?.check()
    }

    /// A partition that is assigned to a reign is read. Its lock is held.
    pub(crate) fn serve(&self, number: usize) {
        self.slots[number].lock().is_served = true;
    }

    pub(crate) fn watch(&self, watch: SeatWatch) {
        self.watches.lock().push(watch);
    }

    /// Tells that what is served has changed. Called without a lock.
    pub(crate) fn tell(&self, number: usize) {
        self.watches.lock().iter().for_each(|watch| watch(number));
    }

    fn add(&self, task: Task) {
        self.tasks.lock().waiting.push_back(task);
        self.has_work.notify_one();
    }

    /// What is to be done next, if there is anything.
    pub(crate) fn take_task(&self) -> Option<Task> {
        self.tasks.lock().waiting.pop_front()
    }

    /// It could not be done yet.
    pub(crate) fn put_back(&self, task: Task) {
        self.tasks.lock().waiting.push_front(task);
    }

    /// Waits for something to do, for so long at most.
    pub(crate) fn wait(&self, most: Duration) {
        let mut tasks = self.tasks.lock();
        if tasks.waiting.is_empty() && !tasks.is_closed {
            self.has_work.wait_for(&mut tasks, most);
        }
    }

    /// Waits for so long, or until something else is to be done.
    pub(crate) fn rest(&self, span: Duration) {
        let mut tasks = self.tasks.lock();
        if !tasks.is_closed {
            self.has_work.wait_for(&mut tasks, span);
        }
    }

    /// Nothing more is done.
    pub(crate) fn close(&self) {
        self.tasks.lock().is_closed = true;
        self.has_work.notify_all();
    }

    /// Whether nothing more is done.
    pub(crate) fn is_closed(&self) -> bool {
        self.tasks.lock().is_closed
    }
}

/// The partitions of which a range has all keys.
pub(crate) fn partitions_of(boundary: &KeyRange) -> impl Iterator<Item = usize> {
    let boundary = boundary.clone();
    let is_whole = move |number: &usize| {
        let keys = partition_keys(*number);
        boundary.intersection(&keys) == keys
    };
    (0..PARTITION_COUNT).filter(is_whole)
}

/// What the store tells its reigns.
pub(crate) struct Court(pub(crate) Weak<Seats>);

impl Owner for Court {
    fn begins(&self, reign: &ReignPipe) {
        let Some(seats) = self.0.upgrade() else { return };
        for number in partitions_of(&reign.range().boundary) {
            let mut slot = seats.slots[number].lock();
            debug_assert!(slot.assigned.is_none(), "one reign is over before the next begins");
            *slot = Slot { assigned: Some(reign.clone()), is_served: false };
        }
        seats.add(Task::Seat(reign.clone()));
    }

    fn ends(&self, reign: &ReignPipe) {
        let Some(seats) = self.0.upgrade() else { return };
        let (mut dropped, mut changed) = (Vec::new(), Vec::new());
        for number in partitions_of(&reign.range().boundary) {
            let mut locks = seats.partitions.lock_one(number);
            let mut slot = seats.slots[number].lock();
            if !slot.assigned.as_ref().is_some_and(|assigned| assigned.is(reign)) {
                continue;
            }
            // What is half read is the worker's.
            let was_served = std::mem::take(&mut *slot).is_served;
            drop(slot);
            if was_served {
                let contents = locks.at(number).vacate();
                seats.partitions.count.fetch_sub(contents.len(), Ordering::Relaxed);
                dropped.push(contents);
                changed.push(number);
            }
        }
        seats.add(Task::Drop(dropped));
        changed.into_iter().for_each(|number| seats.tell(number));
    }
}
