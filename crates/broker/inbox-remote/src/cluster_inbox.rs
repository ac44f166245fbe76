//! The inbox of a cluster as one host has it: what it starts, and what its parts share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use ratatosk_clock::SystemClock;
use ratatosk_contract::dist::{Dist, RouteId};
use ratatosk_contract::group::Group;
use ratatosk_contract::inbox::WillId;
use ratatosk_contract::serving::Serving;
use ratatosk_contract::sessions::Sessions;
use ratatosk_rpc::{
    AnnounceError, HostId, Hosting, Landscape, Node, Registration, ServiceName, TaskScope,
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_telemetry::metric::Registry;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::append::Held;
use crate::ask::CallId;
use crate::calls::KeptWill;
use crate::desk::Desk;
use crate::jobs::Jobs;
use crate::kept::{AllKept, Kept};
use crate::lane::{Lane, Question};
use crate::metrics::Metrics;
use crate::partition::Partition;
use crate::peer::carry;
use crate::placing::Place;
use crate::proto::{InboxClient, inbox_service};
use crate::proxies::KeptWills;
use crate::seats::{PARTITION_COUNT, Seats};
use crate::serve::Server;
use crate::switch::Switch;
use ratatosk_rpc::hosts::{GENERATION, others, server_id};

/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(100);

/// The same while messages wait for a place.
const HELD_TICK: Duration = Duration::from_millis(20);

/// Of so many looks one is at the sessions of other hosts.
const SWEEP: u64 = 10;

/// Hosts that are over and remembered.
const OVER_MAX: usize = 1_024;

/// What a cluster's inbox is made with.
#[derive(Copy, Clone, Debug)]
pub struct Config {
    /// Orders the lives of hosts at one address: that of this host in its cluster.
    pub generation: u64,
    /// How long a claim waits for its answer.
    pub claim_patience: Duration,
    /// How long a message, a subscription or another change of a session does: nobody knows then whether it is
    /// durable.
    pub change_patience: Duration,
    /// Bytes for one host that wait or have no answer; messages beyond are refused as busy.
    pub lane_bytes_max: usize,
    /// What may go together at most, and so the longest message.
    pub whole_bytes_max: usize,
}

impl Config {
    /// The usual limits.
    #[must_use]
    pub const fn new(generation: u64) -> Self {
        Self {
            generation,
            claim_patience: Duration::from_secs(5),
            change_patience: Duration::from_secs(30),
            lane_bytes_max: 32 << 20,
            whole_bytes_max: 64 << 20,
        }
    }
}

/// What the parts of a host have to do with each other.
pub struct Parts {
    /// Who serves what.
    pub seats: Arc<dyn Seats>,
    /// The inbox of this host.
    pub local: Arc<dyn Serving>,
    /// The sessions that it was given.
    pub switch: Switch,
    /// Where groups are found.
    pub dist: Arc<dyn Dist>,
}

/// The inbox of a cluster, for the data plane of one host. Cheap to clone; when the last clone is gone, so
/// are its tasks.
#[derive(Clone)]
pub struct ClusterInbox {
    pub(crate) shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) own: HostId,
    pub(crate) clock: SystemClock,
    pub(crate) accountant: Accountant,
    pub(crate) metrics: Metrics,
    pub(crate) seats: Arc<dyn Seats>,
    pub(crate) local: Arc<dyn Serving>,
    pub(crate) home: Arc<dyn Sessions>,
    pub(crate) dist: Arc<dyn Dist>,
    pub(crate) client: InboxClient,
    /// The sessions of other hosts.
    pub(crate) desk: Desk,
    pub(crate) kept_wills: KeptWills,
    /// The sessions of this host. Locked before `places`, and that before a lane.
    pub(crate) partitions: Box<[Mutex<Partition>]>,
    pub(crate) places: RwLock<Vec<Place>>,
    /// Hosts that were there and are over.
    pub(crate) over: Mutex<BTreeSet<HostId>>,
    pub(crate) lanes: ArcSwap<BTreeMap<HostId, Arc<Lane>>>,
    /// Locked before `places`.
    pub(crate) jobs: Mutex<Jobs>,
    /// Locked before all others.
    pub(crate) held: Mutex<Held>,
    /// The partitions for which something is held: a bit for each.
    pub(crate) held_for: AtomicU64,
    /// Changes that this host's inbox was asked for.
    pub(crate) kept: Mutex<AllKept>,
    /// Those of which nobody knows what became.
    pub(crate) doubtful: Mutex<Vec<Kept>>,
    /// Subscriptions that are durable, and whose sessions are to be told.
    pub(crate) granted: Mutex<Vec<Question>>,
    /// Places have changed, or something is held that may be sent elsewhere.
    pub(crate) stir: Notify,
    /// The wills of transient sessions of this host, by the names that they have here.
    pub(crate) wills: Mutex<HashMap<WillId, KeptWill>>,
    /// Stands for the group of what is delivered to persistent sessions, which have none.
    pub(crate) no_group: Arc<Group>,
    calls: AtomicU64,
    node: Node,
    scope: TaskScope,
}

/// A host that serves the sessions of others. Dropped, it is not announced any more.
pub struct Serves {
    _registration: Registration,
}

/// The name of the service that hosts are announced under.
///
/// # Panics
/// Never: it is a name.
#[must_use]
pub fn service_name() -> ServiceName {
    ServiceName::new(InboxClient::SERVICE).expect("it is the name of a service")
}

impl ClusterInbox {
    /// Follows the other hosts, and who serves what, from now on. Tasks run on the runtime that it is made
    /// on.
    ///
    /// # Panics
    /// Outside of a runtime, or if the switch is another one's already: bugs of the caller.
    #[must_use]
    pub fn new(
        node: Node,
        registry: &Registry,
        accountant: &Accountant,
        clock: SystemClock,
        parts: Parts,
        config: Config,
    ) -> Self {
        let Parts { seats, local, switch, dist } = parts;
        let scope = TaskScope::new(tokio::runtime::Handle::current());
        let landscapes = node.discovery().watch(&service_name());
        let changes = seats.changes();
        let shared = Arc::new(Shared {
            config,
            own: node.host(),
            clock,
            accountant: accountant.clone(),
            metrics: Metrics::new(registry),
            seats,
            local,
            home: Arc::clone(switch.home()),
            dist,
            client: InboxClient::new(&node),
            desk: Desk::default(),
            kept_wills: Mutex::default(),
            partitions: (0..PARTITION_COUNT).map(|_| Mutex::default()).collect(),
            places: RwLock::new(vec![Place::Nobody; PARTITION_COUNT]),
            over: Mutex::default(),
            lanes: ArcSwap::default(),
            jobs: Mutex::default(),
            held: Mutex::default(),
            held_for: AtomicU64::new(0),
            kept: Mutex::default(),
            doubtful: Mutex::default(),
            granted: Mutex::default(),
            stir: Notify::new(),
            wills: Mutex::default(),
            no_group: Arc::new(no_group()),
            calls: AtomicU64::new(0),
            node,
            scope: scope.clone(),
        });
        switch.join(&shared);
        shared.place_all();
        let end = Arc::new(scope.guard());
        scope.spawn(Arc::clone(&shared).call_roll(landscapes));
        scope.spawn(Arc::clone(&shared).look(changes));
        Self { shared, _end: end }
    }

    /// Announces this host, and serves the sessions of others, until what this returns is dropped.
    ///
    /// # Errors
    /// When there is no room to announce it, or it is announced already.
    pub fn serve(&self) -> Result<Serves, AnnounceError> {
        let shared = &self.shared;
        let server = Arc::new(Server::new(shared));
        let mut hosting = Hosting::new(server_id(shared.own));
        let generation = shared.config.generation.to_string();
        hosting.attributes.insert(GENERATION.to_owned(), generation);
        let registration = shared.node.serve(inbox_service(&server), hosting)?;
        Ok(Serves { _registration: registration })
    }

    /// How many partitions are served by somebody whom this host reaches.
    #[must_use]
    pub fn reached(&self) -> usize {
        let places = self.shared.places.read();
        places.iter().filter(|place| !matches!(place, Place::Nobody)).count()
    }

    /// How many sessions of other hosts are served here.
    #[must_use]
    pub fn served(&self) -> usize {
        self.shared.desk.len()
    }

    /// Ends all that it does. What waits for other hosts is answered.
    pub async fn stop(&self) {
        self.shared.scope.end().await;
    }
}

/// A group without members.
fn no_group() -> Group {
    Group {
        name: "".into(),
        is_ordered: false,
        route: RouteId { index: u32::MAX, generation: 0 },
        members: Vec::new(),
        cursor: AtomicU32::new(0),
    }
}

impl Shared {
    /// Names a question.
    pub(crate) fn next_call(&self) -> CallId {
        CallId(self.calls.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Begins to speak with hosts that come, and forgets those that go.
    async fn call_roll(self: Arc<Self>, mut landscapes: watch::Receiver<Arc<Landscape>>) {
        let mut ends: BTreeMap<HostId, DropGuard> = BTreeMap::new();
        loop {
            let landscape = Arc::clone(&landscapes.borrow_and_update());
            let alive = others(&landscape, self.own);
            let mut lanes = BTreeMap::clone(&self.lanes.load());
            lanes.retain(|host, lane| {
                let is_alive = alive.contains_key(host);
                if !is_alive {
                    ends.remove(host);
                    self.lose(lane);
                }
                is_alive
            });
            for (host, server) in &alive {
                if lanes.contains_key(host) {
                    continue;
                }
                let lane = Arc::new(Lane::new(&self.accountant.account("")));
                lanes.insert(*host, Arc::clone(&lane));
                let end = CancellationToken::new();
                let task = carry(Arc::clone(&self), server.clone(), lane);
                let ended = end.clone();
                self.scope.spawn(async move {
                    // Who loses is dropped for good.
                    tokio::select! {
                        biased;
                        () = ended.cancelled() => {}
                        () = task => {}
                    }
                });
                ends.insert(*host, end.drop_guard());
            }
            {
                // Who comes back was believed dead.
                let mut over = self.over.lock();
                over.retain(|host| !alive.contains_key(host));
                let known = self.lanes.load();
                over.extend(known.keys().filter(|host| !alive.contains_key(host)));
                while over.len() > OVER_MAX {
                    over.pop_first();
                }
            }
            self.lanes.store(Arc::new(lanes));
            self.place_all();
            self.bury();
            if landscapes.changed().await.is_err() {
                // Discovery has ended; what was known stays.
                return std::future::pending().await;
            }
        }
    }

    /// Looks at what changes: who serves what, and what is due.
    async fn look(self: Arc<Self>, mut changes: watch::Receiver<u64>) {
        let mut is_followed = true;
        for turn in 1_u64.. {
            let tick = if self.held.lock().is_empty() { TICK } else { HELD_TICK };
            // All are cancel-safe.
            tokio::select! {
                changed = changes.changed(), if is_followed => is_followed = changed.is_ok(),
                () = self.stir.notified() => {}
                () = sleep(tick) => {}
            }
            self.place_all();
            self.answer_granted();
            self.ask_doubtful();
            self.drain();
            self.expire();
            if turn.is_multiple_of(SWEEP) {
                // What attached while its host went.
                self.bury();
                self.forget_unclaimed();
            }
            let waiting: usize = self.lanes.load().values().map(|lane| lane.bytes()).sum();
            self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            self.metrics.served.set(i64::try_from(self.desk.len()).unwrap_or(i64::MAX));
        }
    }

    /// Answers what is late.
    fn expire(&self) {
        let now = self.clock.now();
        for lane in self.lanes.load().values() {
            for question in lane.expire(now) {
                self.metrics.late.increment();
                self.give_up(&question);
            }
        }
        let mut sessions = 0;
        for partition in &self.partitions {
            let mut partition = partition.lock();
            sessions += partition.sessions.len();
            let late: Vec<_> =
                partition.held.extract_if(.., |question| question.due <= now).collect();
            drop(partition);
            for question in late {
                self.metrics.late.increment();
                self.give_up(&question);
            }
        }
        self.metrics.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }
}

impl fmt::Debug for ClusterInbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClusterInbox").field("host", &self.shared.own).finish_non_exhaustive()
    }
}

impl fmt::Debug for Serves {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Serves").finish_non_exhaustive()
    }
}
