//! How partitions come to be served under a reign: read from the range's data, by a worker.
//!
//! Nobody sees a partition before all of it is there. Those of one reign are served together, once the routes
//! that no session of them has are gone: whoever subscribes from then on does so under their locks. What
//! was connected is awaited, see [`owners`](crate::owners).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use ratatosk_client::{Realm, ReignPipe, Reigns};
use ratatosk_clock::{Epoch, Instant, SystemClock};
use ratatosk_contract::dist::RESTORED_LIFE;
use ratatosk_engine::Error;

use crate::{
    InboxService,
    journal::Journal,
    partitions::PartitionSet,
    restore::{Found, Origin},
    schema::partition_keys,
    seats::{Court, SeatWatch, Seats, Task, partitions_of},
};

/// How long to wait before what the store does not show yet is read again.
const AGAIN: Duration = Duration::from_millis(1);
/// How often a reign that broke off is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long the worker sleeps while there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// A worker that makes partitions served, until it is dropped.
pub struct Seating {
    seats: Arc<Seats>,
    thread: Option<JoinHandle<()>>,
}

/// How far the worker came.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There may be more to do.
    Done,
    /// The store does not show yet what it has; try again soon.
    NotYet,
    /// There was nothing to do.
    Idle,
}

impl InboxService {
    /// Keeps the sessions in ranges that other nodes have, too, and serves those over which this node reigns:
    /// none, before [`follow`](Self::follow). Owners that were connected elsewhere are awaited for `grace`.
    #[must_use]
    pub fn reigning(self, epoch: Epoch, grace: Duration) -> Self {
        self.partitions.vacate_all();
        let seats = Arc::new(Seats::new(Arc::clone(&self.partitions)));
        let journal = Journal::of_reigns(seats, epoch, Arc::clone(&self.partitions));
        InboxService { journal: Some(journal), grace, ..self }
    }

    /// Follows the reigns of a store, as their one owner. To be called once, if it is [reigning].
    ///
    /// [reigning]: Self::reigning
    pub fn follow(&self, reigns: &Reigns, realm: Arc<dyn Realm>) {
        if let Some(seats) = self.seats() {
            seats.set_reigns(reigns);
            reigns.bind(realm, Arc::new(Court(Arc::downgrade(seats))));
        }
    }

    /// Tells `watch` whenever a partition has come to be served, or is no longer.
    pub fn watch_seats(&self, watch: SeatWatch) {
        if let Some(seats) = self.seats() {
            seats.watch(watch);
        }
    }

    /// Starts a worker that does what [`seat_next`](Self::seat_next) does, and tells `failed` why a reign's
    /// partitions cannot be served.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start_seating(
        self: &Arc<Self>,
        clock: SystemClock,
        failed: impl Fn(&Error) + Send + 'static,
    ) -> io::Result<Option<Seating>> {
        let Some(seats) = self.seats().cloned() else { return Ok(None) };
        let (service, its) = (Arc::downgrade(self), Arc::clone(&seats));
        let thread = std::thread::Builder::new().name("inbox-seats".to_owned()).spawn(move || {
            while let Some(service) = service.upgrade().filter(|_| !its.is_closed()) {
                let step = service.seat_next(clock.now());
                drop(service);
                match step {
                    Ok(Step::Done) => {}
                    Ok(Step::NotYet) => its.rest(AGAIN),
                    Ok(Step::Idle) if its.poll() => its.wait(POLL),
                    Ok(Step::Idle) => its.wait(IDLE),
                    Err(error) => failed(&error),
                }
            }
        });
        Ok(Some(Seating { seats, thread: Some(thread?) }))
    }

    /// Does one thing of what reigns that began or ended leave to do.
    ///
    /// # Errors
    /// What a range has is not what was written, or cannot be read: its partitions are not served.
    pub fn seat_next(&self, now: Instant) -> Result<Step, Error> {
        let Some((journal, seats)) = self.journal.as_ref().zip(self.seats()) else {
            return Ok(Step::Idle);
        };
        match seats.take_task() {
            None => Ok(Step::Idle),
            Some(Task::Drop(contents)) => {
                drop(contents);
                Ok(Step::Done)
            }
            Some(Task::Seat(reign)) => {
                let seated = self.seat(journal, seats, &reign, now);
                if let Ok(Step::NotYet) = seated {
                    seats.put_back(Task::Seat(reign));
                }
                seated
            }
        }
    }

    /// Has the partitions of a reign served, unless it is over meanwhile.
    fn seat(
        &self,
        journal: &Journal,
        seats: &Seats,
        reign: &ReignPipe,
        now: Instant,
    ) -> Result<Step, Error> {
        self.incarnation.fetch_max(RESTORED_LIFE, Ordering::Relaxed);
        let mut set = PartitionSet::default();
        partitions_of(&reign.range().boundary).for_each(|number| set.insert(number));
        let mut outcome = Ok(Step::Done);
        for number in set.numbers() {
            outcome = self.read_partition(journal, reign, number, now);
            if !matches!(outcome, Ok(Step::Done)) || reign.is_over() {
                break;
            }
        }
        let is_whole = matches!(outcome, Ok(Step::Done)) && !reign.is_over();
        if is_whole {
            self.remove_stale_routes(set);
        }
        set.numbers().for_each(|number| self.open(seats, reign, number, is_whole, now));
        if is_whole {
            set.numbers().for_each(|number| seats.tell(number));
        }
        outcome
    }

    /// Reads what the range has of a partition, which nobody is served from.
    fn read_partition(
        &self,
        journal: &Journal,
        reign: &ReignPipe,
        number: usize,
        now: Instant,
    ) -> Result<Step, Error> {
        let mut found = Found::default();
        let keys = partition_keys(number);
        let is_shown = reign.read_keys(&keys, &mut |reader| {
            found = Found::default();
            self.find(reader, &keys, &mut found)
        })?;
        if !is_shown {
            return Ok(if reign.is_over() { Step::Done } else { Step::NotYet });
        }
        let origin = Origin { journal, reign: Some(reign), now, sweep_at: number as u64 };
        let sessions = self.take_in_sessions(&origin, &mut found)?.0;
        self.take_in_rest(&origin, &mut found, &sessions)?;
        Ok(Step::Done)
    }

    /// A partition that was read is served, or let go of.
    fn open(&self, seats: &Seats, reign: &ReignPipe, number: usize, is_whole: bool, now: Instant) {
        let mut locks = self.partitions.lock_one(number);
        let partition = locks.at(number);
        if !is_whole || !seats.is_assigned(number, reign) {
            let contents = partition.vacate();
            drop(locks);
            return drop(contents);
        }
        partition.is_served = true;
        partition.awaited.until = now + self.grace;
        self.partitions.count.fetch_add(partition.sessions.len(), Ordering::Relaxed);
        seats.serve(number);
    }
}

impl Drop for Seating {
    fn drop(&mut self) {
        self.seats.close();
        if let Some(thread) = self.thread.take() {
            // Its panic was told already.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Seating {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Seating").finish_non_exhaustive()
    }
}
