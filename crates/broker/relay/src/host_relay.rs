//! A host among the others: what it starts, what it is asked, and who it speaks with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use ratatosk_clock::SystemClock;
use ratatosk_contract::dist::Dist;
use ratatosk_contract::group::Member;
use ratatosk_contract::relay::{
    Deliverer, Dispatch, IsVisible, Outcomes, Relay, Sent, TableSequence,
};
use ratatosk_contract::{Call, HostNumber, ReplyTo, TenantId};
use ratatosk_rpc::{
    AnnounceError, HostId, Hosting, Landscape, Node, Registration, ServiceName, TaskScope,
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_telemetry::metric::Registry;
use ratatosk_topic::TopicFilter;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::lane::{Bounds, Lane};
use crate::letter;
use crate::metrics::{Metrics, Reason};
use crate::peer::Peer;
use crate::proto::{RelayClient, relay_service};
use crate::serve::{Server, Turns};
use crate::table::Table;
use crate::visible::Visibility;
use ratatosk_rpc::hosts::{GENERATION, others, server_id};

/// Entries that are looked at in turn for members whose state has changed.
const LOOK_ENTRIES: usize = 4_096;
/// What is kept of the buffer in which a thread encodes.
const SCRATCH_BYTES: usize = 64 << 10;

/// What a relay is made with.
#[derive(Copy, Clone, Debug)]
pub struct Config {
    /// Orders the lives of hosts at one address: that of this host in its cluster.
    pub generation: u64,
    /// How long a message may be without an answer before it is dropped.
    pub patience: Duration,
    /// Bytes of messages for one host that wait or are in flight; more are dropped.
    pub lane_bytes_max: usize,
    /// Bytes of messages for one host that are in flight.
    pub in_flight_bytes_max: usize,
    /// The longest message, with what comes with it: longer ones are neither sent nor taken.
    pub whole_bytes_max: usize,
    /// Changes of the table that are remembered, or as many as it has entries. Whoever is further
    /// behind is told everything again.
    pub changes_min: usize,
    /// How long somebody may wait until all hosts have seen a change.
    pub visible_max: Duration,
    /// How often the states of members of groups are looked at.
    pub look_interval: Duration,
}

impl Config {
    /// The usual limits.
    #[must_use]
    pub const fn new(generation: u64) -> Self {
        Self {
            generation,
            patience: Duration::from_millis(500),
            lane_bytes_max: 32 << 20,
            in_flight_bytes_max: 4 << 20,
            whole_bytes_max: 64 << 20,
            changes_min: 65_536,
            visible_max: Duration::from_secs(5),
            look_interval: Duration::from_millis(100),
        }
    }

    pub(crate) const fn bounds(&self) -> Bounds {
        Bounds {
            bytes_max: self.lane_bytes_max,
            in_flight_max: self.in_flight_bytes_max,
            message_max: self.whole_bytes_max,
            patience: self.patience,
        }
    }
}

/// The way between the transient sessions of this host and those of others. Cheap to clone; when the last
/// clone is gone, so are its tasks, and the routes of the others.
#[derive(Clone)]
pub struct HostRelay {
    shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: RelayClient,
    pub(crate) clock: SystemClock,
    pub(crate) metrics: Metrics,
    pub(crate) dist: Arc<dyn Dist>,
    pub(crate) table: Mutex<Table>,
    /// That of the table, for those who tell of it.
    pub(crate) sequence: watch::Sender<u64>,
    pub(crate) visibility: Mutex<Visibility>,
    pub(crate) turns: Mutex<Turns>,
    pub(crate) home: ArcSwapOption<Home>,
    /// By their numbers, which rise.
    lanes: ArcSwap<Vec<Arc<Lane>>>,
    hosts: watch::Sender<Arc<BTreeMap<HostId, HostNumber>>>,
    node: Node,
    scope: TaskScope,
}

/// Who has the sessions of this host, while they are served.
pub(crate) struct Home {
    pub(crate) deliverer: Arc<dyn Deliverer>,
    pub(crate) outcomes: Arc<dyn Outcomes>,
}

/// A host at work. Dropped, others are told that it has no sessions: they forget what it wanted.
pub struct Serving {
    shared: Arc<Shared>,
    _registration: Registration,
}

/// The name of the service that hosts are announced under.
///
/// # Panics
/// Never: it is a name.
#[must_use]
pub fn service_name() -> ServiceName {
    ServiceName::new(RelayClient::SERVICE).expect("it is the name of a service")
}

impl HostRelay {
    /// Follows the other hosts from now on: what they want is in `dist`. Tasks run on the runtime that it
    /// is made on.
    ///
    /// # Panics
    /// Outside of a runtime: a bug of the caller.
    #[must_use]
    pub fn new(
        node: Node,
        registry: &Registry,
        accountant: &Accountant,
        clock: SystemClock,
        dist: Arc<dyn Dist>,
        config: Config,
    ) -> Self {
        let scope = TaskScope::new(tokio::runtime::Handle::current());
        let landscapes = node.discovery().watch(&service_name());
        let shared = Arc::new(Shared {
            config,
            client: RelayClient::new(&node),
            clock,
            metrics: Metrics::new(registry, accountant.clone()),
            dist,
            table: Mutex::new(Table::new(config.changes_min.max(1))),
            sequence: watch::Sender::new(0),
            visibility: Mutex::default(),
            turns: Mutex::default(),
            home: ArcSwapOption::empty(),
            lanes: ArcSwap::default(),
            hosts: watch::Sender::default(),
            node,
            scope: scope.clone(),
        });
        let end = Arc::new(scope.guard());
        scope.spawn(Arc::clone(&shared).call_roll(landscapes));
        scope.spawn(Arc::clone(&shared).look());
        Self { shared, _end: end }
    }

    /// Announces this host, and takes messages for its sessions, until what this returns is dropped.
    ///
    /// # Errors
    /// When there is no room to announce it, or it is announced already. Nothing is served then.
    pub fn serve(
        &self,
        deliverer: Arc<dyn Deliverer>,
        outcomes: Arc<dyn Outcomes>,
    ) -> Result<Serving, AnnounceError> {
        let shared = &self.shared;
        let server = Arc::new(Server::new(shared));
        let mut hosting = Hosting::new(server_id(shared.node.host()));
        let generation = shared.config.generation.to_string();
        hosting.attributes.insert(GENERATION.to_owned(), generation);
        // Before anybody is told where it is.
        let before = shared.home.swap(Some(Arc::new(Home { deliverer, outcomes })));
        let registration = shared.node.serve(relay_service(&server), hosting);
        let registration = registration.inspect_err(|_| shared.home.store(before))?;
        Ok(Serving { shared: Arc::clone(shared), _registration: registration })
    }

    /// The other hosts that count as alive, now and from now on, and their numbers here.
    #[must_use]
    pub fn hosts(&self) -> watch::Receiver<Arc<BTreeMap<HostId, HostNumber>>> {
        self.shared.hosts.subscribe()
    }

    /// Ends all that it does. The routes of other hosts go, and what waits for them is answered.
    pub async fn stop(&self) {
        self.shared.scope.end().await;
    }
}

impl Shared {
    /// Runs a task until it ends, the token says so, or the relay stops.
    pub(crate) fn spawn_until(
        &self,
        end: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.scope.spawn(async move {
            // Who loses is dropped for good.
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Begins to speak with hosts that come, and forgets those that go.
    async fn call_roll(self: Arc<Self>, mut landscapes: watch::Receiver<Arc<Landscape>>) {
        let mut peers = Peers { shared: Arc::clone(&self), by_host: BTreeMap::new(), next: 0 };
        loop {
            let landscape = Arc::clone(&landscapes.borrow_and_update());
            peers.change(&landscape).await;
            if landscapes.changed().await.is_err() {
                // Discovery has ended; what was known stays.
                return std::future::pending().await;
            }
        }
    }

    /// Looks at what changes by itself: states of members, deadlines.
    async fn look(self: Arc<Self>) {
        loop {
            sleep(self.config.look_interval).await;
            let mut table = self.table.lock();
            let is_changed = table.look(LOOK_ENTRIES);
            let (sequence, entries) = (table.sequence(), table.len());
            drop(table);
            if is_changed {
                self.sequence.send_replace(sequence);
            }
            let waiting: usize = self.lanes.load().iter().map(|lane| lane.bytes()).sum();
            self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            self.metrics.wishes.set(i64::try_from(entries).unwrap_or(i64::MAX));
            let answers = self.visibility.lock().expire(self.clock.now());
            self.tell_visible(answers);
        }
    }

    /// Makes a change of the table, and tells those who tell of it.
    fn change(&self, change: impl FnOnce(&mut Table) -> u64) -> TableSequence {
        let mut table = self.table.lock();
        let before = table.sequence();
        let sequence = change(&mut table);
        let now = table.sequence();
        drop(table);
        if now != before {
            self.sequence.send_replace(now);
        }
        TableSequence(sequence)
    }

    fn send(
        &self,
        dispatch: &Dispatch<'_>,
        hosts: &[HostNumber],
        reply_to: Option<ReplyTo>,
        scratch: &mut Vec<u8>,
    ) -> Sent {
        let now = self.clock.now();
        letter::put(scratch, dispatch, now);
        let tenant = self.metrics.tenant(dispatch.tenant);
        tenant.sent.add(hosts.len() as u64);
        let lanes = self.lanes.load();
        let mut sent = Sent::default();
        for host in hosts {
            let pushed = match lanes.binary_search_by_key(host, |lane| lane.host) {
                Ok(at) => lanes[at].push(now, &tenant, scratch, reply_to).is_ok(),
                Err(_) => {
                    tenant.dropped(Reason::Lost).increment();
                    false
                }
            };
            sent.pending += usize::from(pushed);
            sent.dropped += usize::from(!pushed);
        }
        sent
    }
}

impl Relay for HostRelay {
    fn want(&self, tenant: &TenantId, filter: &TopicFilter<'_>) -> TableSequence {
        self.shared.change(|table| table.want(tenant, filter.filter()))
    }

    fn unwant(&self, tenant: &TenantId, filter: &TopicFilter<'_>) -> TableSequence {
        self.shared.change(|table| table.unwant(tenant, filter.filter()))
    }

    fn join(&self, tenant: &TenantId, filter: &TopicFilter<'_>, member: &Member) -> TableSequence {
        assert!(filter.share().is_some(), "filter {filter} of a member names its group");
        self.shared.change(|table| table.join(tenant, filter.as_str(), member))
    }

    fn leave(
        &self,
        tenant: &TenantId,
        filter: &TopicFilter<'_>,
        id: u64,
        incarnation: u64,
    ) -> TableSequence {
        self.shared.change(|table| table.leave(tenant, filter.as_str(), id, incarnation))
    }

    fn when_visible(&self, sequence: TableSequence, reply_to: ReplyTo) -> Call<IsVisible> {
        let due = self.shared.clock.now() + self.shared.config.visible_max;
        let answer = self.shared.visibility.lock().wait(sequence.0, due, reply_to);
        answer.map_or(Call::Pending, Call::Ready)
    }

    fn send(
        &self,
        dispatch: &Dispatch<'_>,
        hosts: &[HostNumber],
        reply_to: Option<ReplyTo>,
    ) -> Sent {
        thread_local! {
            static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let sent = self.shared.send(dispatch, hosts, reply_to, scratch);
            scratch.clear();
            scratch.shrink_to(SCRATCH_BYTES);
            sent
        })
    }

    fn is_idle(&self) -> bool {
        self.shared.lanes.load().iter().all(|lane| lane.bytes() == 0)
    }
}

/// The hosts that are spoken with.
struct Peers {
    shared: Arc<Shared>,
    by_host: BTreeMap<HostId, (HostNumber, Peer)>,
    next: u32,
}

impl Peers {
    async fn change(&mut self, landscape: &Landscape) {
        let shared = &self.shared;
        let alive = others(landscape, shared.node.host());
        let is_gone = |host: &HostId| !alive.contains_key(host);
        let gone: Vec<HostId> = self.by_host.keys().filter(|host| is_gone(host)).copied().collect();
        let gone: Vec<_> = gone.iter().filter_map(|host| self.by_host.remove(host)).collect();
        for (host, server) in &alive {
            if !self.by_host.contains_key(host) {
                let number = HostNumber(self.next);
                self.next += 1;
                let peer = Peer::start(shared, number, server);
                self.by_host.insert(*host, (number, peer));
            }
        }
        let mut lanes: Vec<_> =
            self.by_host.values().map(|(_, peer)| Arc::clone(&peer.lane)).collect();
        lanes.sort_unstable_by_key(|lane| lane.host);
        shared.lanes.store(Arc::new(lanes));
        gone.iter().for_each(|(_, peer)| peer.close(shared));
        for (_, peer) in gone {
            peer.end(shared).await;
        }
        let answers = shared.visibility.lock().set_alive(alive.into_keys().collect());
        shared.tell_visible(answers);
        shared.metrics.hosts.set(i64::try_from(self.by_host.len()).unwrap_or(i64::MAX));
        let numbers = self.by_host.iter().map(|(host, (number, _))| (*host, *number));
        shared.hosts.send_replace(Arc::new(numbers.collect()));
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.shared.lanes.store(Arc::default());
        let all = std::mem::take(&mut self.by_host);
        all.values().for_each(|(_, peer)| peer.close(&self.shared));
        drop(all);
        self.shared.hosts.send_replace(Arc::default());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.home.store(None);
    }
}

impl fmt::Debug for HostRelay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("HostRelay")
            .field("hosts", &*self.shared.hosts.borrow())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Serving").field("host", &self.shared.node.host()).finish_non_exhaustive()
    }
}
