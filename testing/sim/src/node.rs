//! A node as it runs: the store, three pipes, and the services in front of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ratatosk_client::{Keyspace, Pipe};
use ratatosk_clock::{Clock, Epoch, Instant, Timestamp};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Answer, DueWill, NotServed};
use ratatosk_contract::retain::{Retain as _, RetainLimits, TenantRetained};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{Call, ReplyTo, SessionRef, TenantId, Ticket};
use ratatosk_dist::DistService;
use ratatosk_inbox::{InboxService, Repaired};
use ratatosk_retain::RetainService;

use crate::disk::Disk;
use crate::planted::Planted;
use crate::replay::Replay;
use crate::routes::{self, Forgetful, Routes};
use crate::store::{KEYSPACES, Stopped, Store};

/// The tenant of everybody.
pub(crate) const TENANT: &str = "t";
/// How many turns a store may need until nothing is left to do.
const TURNS_MAX: usize = 10_000;

/// See the module.
pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) dist: Arc<DistService>,
    /// What of the routes was not as the sessions had it.
    pub(crate) repaired: Repaired,
    pub(crate) inbox: InboxService,
    pub(crate) retain: RetainService,
    pub(crate) retained: Arc<dyn TenantRetained>,
    settled: Arc<Settled>,
    epoch: Epoch,
    clock: SimClock,
}

/// The wall clock of the simulation, in milliseconds. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct SimClock(Arc<AtomicU64>);

/// What a node is opened with.
pub(crate) struct Start {
    pub(crate) clock: SimClock,
    /// When the process's time began.
    pub(crate) began_ms: u64,
    /// Makes checkpoints before the store leads, as when the disk is slow.
    pub(crate) is_hasty: bool,
    pub(crate) planted: Option<Planted>,
}

/// Notes what callers are told.
#[derive(Default)]
struct Settled(Mutex<Vec<(Ticket, Settlement)>>);

impl Node {
    /// Opens a disk's store, lets it come to lead, and the services read back what they had.
    pub(crate) fn open(
        disk: &mut Disk,
        start: Start,
        replay: &mut Replay,
    ) -> Result<Self, Stopped> {
        let Start { clock, began_ms, is_hasty, planted } = start;
        let mut store = Store::open(disk, planted)?;
        let mut turns = 0;
        while !store.is_led() {
            if is_hasty {
                store.checkpoint()?;
            }
            store.step_machine(clock.now(), usize::MAX)?;
            store.step_host(usize::MAX, replay)?;
            turns += 1;
            if turns > TURNS_MAX {
                return Err(Stopped("nobody leads".to_owned()));
            }
        }
        let pipe = |keyspace| -> Arc<dyn Keyspace> {
            Arc::new(Pipe::new(Box::new(store.handle()), keyspace, clock.clone()))
        };
        let epoch = Epoch::new(Instant::ZERO, Timestamp::from_millis(began_ms));
        let mut routes = pipe(KEYSPACES[2]);
        if planted == Some(Planted::RouteForgotten) {
            routes = Arc::new(Forgetful(routes));
        }
        let dist = Arc::new(DistService::new().kept_in(routes));
        let settled = Arc::new(Settled::default());
        let sessions: Arc<dyn Sessions> = settled.clone();
        let inbox = InboxService::new(dist.clone(), Arc::clone(&sessions));
        let inbox = inbox.kept_in(pipe(KEYSPACES[0]), epoch);
        let retain = RetainService::new(RetainLimits::default());
        let retain = retain.kept_in(pipe(KEYSPACES[1]), sessions, epoch);
        let corrupt = |error: ratatosk_engine::Error| Stopped(error.to_string());
        let now = epoch.instant(Timestamp::from_millis(clock.millis()));
        dist.restore().map_err(corrupt)?;
        let repaired = inbox.restore(now).map_err(corrupt)?;
        retain.restore().map_err(corrupt)?;
        let retained = retain.tenant(&TenantId::new(TENANT));
        Ok(Node { store, dist, repaired, inbox, retain, retained, settled, epoch, clock })
    }

    /// The routes that the store has.
    pub(crate) fn stored_routes(&self) -> Result<Routes, Stopped> {
        let pipe = Pipe::new(Box::new(self.store.handle()), KEYSPACES[2], self.clock.clone());
        let dist = DistService::new().kept_in(Arc::new(pipe));
        dist.restore().map_err(|error| Stopped(error.to_string()))?;
        Ok(routes::of(&dist))
    }

    /// The time of the process now.
    pub(crate) fn now(&self) -> Instant {
        self.at(self.clock.millis())
    }

    /// The time of the process at a moment of the wall clock.
    pub(crate) fn at(&self, wall_ms: u64) -> Instant {
        self.epoch.instant(Timestamp::from_millis(wall_ms))
    }

    /// Lets the store work until nothing is on its way.
    pub(crate) fn settle(&mut self, replay: &mut Replay) -> Result<(), Stopped> {
        for _ in 0..TURNS_MAX {
            if self.store.is_idle() {
                return Ok(());
            }
            self.store.step_machine(self.clock.now(), usize::MAX)?;
            self.store.step_host(usize::MAX, replay)?;
        }
        Err(Stopped("the store does not come to rest".to_owned()))
    }

    /// What callers were told since the last call.
    pub(crate) fn take_settled(&self) -> Vec<(Ticket, Settlement)> {
        std::mem::take(&mut *self.settled.0.lock())
    }
}

impl SimClock {
    /// One that stands at this moment.
    pub(crate) fn at(wall_ms: u64) -> Self {
        SimClock(Arc::new(AtomicU64::new(wall_ms)))
    }

    /// What it shows.
    pub(crate) fn millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, span_ms: u64) {
        self.0.fetch_add(span_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::from_millis(self.millis())
    }
}

/// The answer of a service of this process.
pub(crate) fn at_once<T>(call: Call<Result<T, NotServed>>) -> Result<T, String> {
    call.ready().ok_or("it answers later")?.map_err(|error| error.to_string())
}

impl Sessions for Settled {
    fn inbox_ready(&self, _session: SessionRef) {}

    fn deliver(&self, _session: SessionRef, _delivery: Delivery) {}

    fn settle(&self, _session: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.0.lock().push((ticket, settlement));
    }

    fn answered(&self, _reply_to: ReplyTo, _answer: Answer) {}

    fn publish(&self, _will: DueWill) {}
}
