//! The store of this process among those of others: who they are, and the ways to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use ratatosk_balance::keeper::Words;
use ratatosk_balance::landscape::Standing;
use ratatosk_client::Router;
use ratatosk_clock::SystemClock;
use ratatosk_cluster::Cluster;
use ratatosk_rpc::{AnnounceError, Hosting, Node, Registration, ServiceName, TaskScope};
use ratatosk_store::node::{Handle, Told};
use ratatosk_store::transport::{Packet, Receive, Transport};
use ratatosk_telemetry::metric::Registry;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::directory::{CLUSTER, Clash, Roll, name, server_id};
use crate::far::Far;
use crate::metrics::Metrics;
use crate::mirror::Source;
use crate::order::Orders;
use crate::peer::Peer;
use crate::proto::{Hello, StoresClient, stores_service};
use crate::serve::Server;
use crate::standings::{StandError, Standings};
use crate::talk::Purpose;
use crate::words::{NetworkWords, Own};

/// How often it is looked whether a number is free.
const LOOK: Duration = Duration::from_millis(50);
/// Stores of a cluster that a node knows of at most.
const STORES_MAX: usize = 1_024;

/// What a network is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster of the stores.
    pub cluster: u64,
    /// A random number, another one for each network of a process.
    pub random: u64,
    /// Bytes of words that wait for a store.
    pub words_bytes_max: usize,
    /// Bytes of data that wait for a store.
    pub data_bytes_max: usize,
    /// Bytes of proposals that wait for a store.
    pub proposals_bytes_max: usize,
    /// Bytes that belong together: a packet, a proposal, a word. More than the longest command.
    pub whole_bytes_max: usize,
    /// Who says nothing for so long does not answer.
    pub silence_max: Duration,
    /// How long one who calls may be unknown before it is refused: news of it may be on their way.
    pub unknown_max: Duration,
}

impl Config {
    /// The usual limits.
    #[must_use]
    pub const fn new(cluster: u64, random: u64) -> Self {
        Self {
            cluster,
            random,
            words_bytes_max: 32 << 20,
            data_bytes_max: 16 << 20,
            proposals_bytes_max: 32 << 20,
            whole_bytes_max: 64 << 20,
            silence_max: Duration::from_secs(5),
            unknown_max: Duration::from_secs(3),
        }
    }
}

/// The store of this process, once it is served.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) store: u64,
    pub(crate) handle: Handle,
    pub(crate) receiver: Arc<dyn Receive>,
}

/// See the module. Cheap to clone; when the last clone is gone, so are its tasks.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
    _end: Arc<DropGuard>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) node: Node,
    pub(crate) client: StoresClient,
    pub(crate) scope: TaskScope,
    pub(crate) clock: SystemClock,
    pub(crate) metrics: Metrics,
    pub(crate) roll: watch::Sender<Arc<Roll>>,
    pub(crate) home: watch::Sender<Option<Home>>,
    pub(crate) peers: RwLock<BTreeMap<u64, Arc<Peer>>>,
    /// What the store of this process tells.
    pub(crate) word: Source,
    pub(crate) own: Own,
    /// What operators want of stores, once there is a cluster that says it.
    pub(crate) standings: OnceLock<Standings>,
    turns: AtomicU64,
}

/// The store cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It is of another cluster. KV-017
    #[error("the store is of cluster {is_of:016x}, and this is cluster {cluster:016x}")]
    Cluster {
        /// The store's.
        is_of: u64,
        /// The network's.
        cluster: u64,
    },
    /// Another process has its number.
    #[error(transparent)]
    Clash(#[from] Clash),
    /// It cannot be announced.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
}

/// A store at work. Dropped, it is taken back: nothing is carried for it any more.
pub struct Serving {
    shared: Arc<Shared>,
    store: u64,
    _registration: Registration,
}

/// The name of the service that stores are announced under.
#[must_use]
pub fn service_name() -> ServiceName {
    ServiceName::new(StoresClient::SERVICE).expect("it is the name of a service")
}

impl Network {
    /// A network without a store of its own yet. Its tasks run on the runtime that it is made on.
    ///
    /// # Panics
    /// Outside of a runtime: a bug of the caller.
    #[must_use]
    pub fn new(node: Node, registry: &Registry, clock: SystemClock, config: Config) -> Self {
        let scope = TaskScope::new(tokio::runtime::Handle::current());
        let landscapes = node.discovery().watch(&service_name());
        let shared = Arc::new(Shared {
            client: StoresClient::new(&node),
            node,
            metrics: Metrics::new(registry),
            roll: watch::Sender::default(),
            home: watch::Sender::new(None),
            peers: RwLock::default(),
            word: Source::default(),
            own: Own::default(),
            standings: OnceLock::new(),
            turns: AtomicU64::new(0),
            clock,
            config,
            scope: scope.clone(),
        });
        let end = Arc::new(scope.guard());
        let to_call = Arc::clone(&shared);
        scope.spawn(async move {
            let mut landscapes = landscapes;
            loop {
                let landscape = Arc::clone(&landscapes.borrow_and_update());
                to_call.call_roll(Roll::of(&landscape, to_call.config.cluster));
                if landscapes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        });
        Self { shared, _end: end }
    }

    /// The way of this process's store to the others: for
    /// [`Config::transport`](ratatosk_store::node::Config::transport). What is sent before it is
    /// [served](Self::serve) waits, as far as there is room.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Line { shared: Arc::downgrade(&self.shared) })
    }

    /// What stores tell of themselves, for the keeper of this process's one.
    #[must_use]
    pub fn words(&self) -> Arc<dyn Words> {
        Arc::new(NetworkWords { shared: Arc::clone(&self.shared) })
    }

    /// Has words say what operators of this cluster want of stores, from now on. The first cluster stays.
    pub fn heed(&self, cluster: &Arc<Cluster>) {
        self.shared.standings.get_or_init(|| Standings::new(cluster));
    }

    /// Marks a store for all nodes of the cluster: as one that is to become empty, or that is given up; or
    /// takes its mark away. OPS-003
    ///
    /// # Errors
    /// This node is in no cluster, or the cluster's map is full. Nothing was changed.
    pub fn stand(&self, store: u64, standing: Standing) -> Result<(), StandError> {
        self.shared.standings.get().ok_or(StandError::Alone)?.set(store, standing)
    }

    /// How a store is marked, as far as this node has heard.
    #[must_use]
    pub fn standing(&self, store: u64) -> Standing {
        self.shared.standings.get().map_or(Standing::Member, |marks| marks.of(store))
    }

    /// Has somebody told what the store of this process knows of its groups. Dropped untold if it is not
    /// served.
    pub fn ask_status(&self, told: Told) {
        let home = self.shared.home.borrow().clone();
        if let Some(home) = home {
            home.handle.ask_status(told);
        }
    }

    /// Orders for stores.
    #[must_use]
    pub fn orders(&self) -> Orders {
        Orders::new(&self.shared)
    }

    /// The store of this process, while it is served.
    #[must_use]
    pub fn store(&self) -> Option<u64> {
        self.shared.home.borrow().as_ref().map(|home| home.store)
    }

    /// The stores that are known, now and from now on.
    #[must_use]
    pub fn roll(&self) -> watch::Receiver<Arc<Roll>> {
        self.shared.roll.subscribe()
    }

    /// Announces the store of this process and takes what comes for it, until what this returns is
    /// dropped.
    ///
    /// # Errors
    /// When it is of another cluster, another process has its number, or there is no room to announce
    /// it. Nothing is served then.
    pub fn serve(&self, handle: &Handle) -> Result<Serving, ServeError> {
        let shared = &self.shared;
        let identity = handle.identity();
        let (store, cluster) = (identity.store, shared.config.cluster);
        if identity.cluster != cluster {
            return Err(ServeError::Cluster { is_of: identity.cluster, cluster });
        }
        let home = Home { store, handle: handle.clone(), receiver: handle.receiver() };
        let server = Arc::new(Server::new(shared));
        let mut hosting = Hosting::new(server_id(store));
        hosting.attributes.insert(CLUSTER.to_owned(), name(cluster));
        // Before anybody is told where it is.
        shared.home.send_replace(Some(home));
        let registration = match shared.node.serve(stores_service(&server), hosting) {
            Ok(registration) => registration,
            Err(error) => {
                shared.home.send_replace(None);
                let AnnounceError::Taken { host, .. } = error else { return Err(error.into()) };
                let address = shared.roll.borrow().seats.get(&store).and_then(|seat| seat.address);
                return Err(Clash { store, host, address }.into());
            }
        };
        let former = shared.peers.write().remove(&store);
        drop(former);
        Ok(Serving { shared: Arc::clone(shared), store, _registration: registration })
    }

    /// Waits until another process has the number of the store that is served here: this one is to stop
    /// then. It is not spoken to any more, whoever came first.
    pub async fn clash(&self) -> Clash {
        let mut rolls = self.shared.roll.subscribe();
        loop {
            let clash = self.shared.clash(&rolls.borrow_and_update());
            if let Some(clash) = clash {
                return clash;
            }
            if rolls.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The same, as it is known now.
    #[must_use]
    pub fn clash_now(&self) -> Option<Clash> {
        self.shared.clash(&self.shared.roll.borrow())
    }

    /// Waits until no other process is believed to have a number: that of a process that has just died is
    /// for some seconds. For a thread that may wait.
    ///
    /// # Errors
    /// Who has it still when so much time has passed.
    pub fn wait_until_free(&self, store: u64, patience: Duration) -> Result<(), Clash> {
        let shared = &self.shared;
        let (discovery, own) = (shared.node.discovery(), shared.node.host());
        let deadline = shared.clock.now() + patience;
        loop {
            let holder = discovery.holder(&service_name(), &server_id(store), own);
            let Some(host) = holder else { return Ok(()) };
            if shared.clock.now() >= deadline {
                let address = shared.roll.borrow().seats.get(&store).and_then(|seat| seat.address);
                return Err(Clash { store, host, address });
            }
            // Nobody tells when a name that is not let go of comes free.
            std::thread::sleep(LOOK);
        }
    }

    /// Has a router know the ways to all stores, from now on: that of this process directly, others over
    /// the network.
    pub fn guide(&self, router: &Router) {
        let (shared, router) = (Arc::clone(&self.shared), router.clone());
        self.shared.scope.spawn(async move {
            let (mut rolls, mut homes) = (shared.roll.subscribe(), shared.home.subscribe());
            let mut attached = BTreeMap::new();
            loop {
                rolls.mark_unchanged();
                let home = homes.borrow_and_update().clone();
                shared.attach(&router, home.as_ref(), &mut attached);
                // Both are cancel-safe.
                let changed = tokio::select! {
                    changed = rolls.changed() => changed,
                    changed = homes.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        });
    }

    /// Ends all that this network does.
    pub async fn stop(&self) {
        self.shared.scope.end().await;
        self.shared.peers.write().clear();
    }
}

impl Shared {
    /// What this side opens a stream with. Each has a later turn than those before.
    pub(crate) fn hello(&self, to: u64, purpose: Purpose) -> Hello {
        let from = self.home.borrow().as_ref().map_or(0, |home| home.store);
        Hello {
            cluster: self.config.cluster,
            from,
            to,
            purpose: purpose as u32,
            turn: self.turns.fetch_add(1, Ordering::Relaxed) + 1,
            client: self.config.random,
        }
    }

    /// Runs a task until it ends, the token says so, or the network stops.
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

    /// These are the stores now: begins to speak with those that are new.
    fn call_roll(self: &Arc<Self>, roll: Roll) {
        let before = Arc::clone(&self.roll.borrow());
        for (id, said) in &roll.foreign {
            if !before.foreign.contains_key(id) {
                tracing::warn!(
                    server = id,
                    cluster = said,
                    "a store of another cluster is passed over"
                );
            }
        }
        if let Some(clash) = self.clash(&roll).filter(|_| self.clash(&before).is_none()) {
            tracing::error!(%clash, "this store is served twice: it is not spoken to any more");
        }
        let own = self.home.borrow().as_ref().map(|home| home.store);
        let mut peers = self.peers.write();
        let mut gone = Vec::new();
        peers.retain(|store, peer| {
            let stays = roll.seats.contains_key(store);
            if !stays {
                gone.push(Arc::clone(peer));
            }
            stays
        });
        let host = self.node.host();
        for (store, seat) in &roll.seats {
            let is_here = Some(*store) == own || seat.host == host;
            if !is_here && peers.len() < STORES_MAX && !peers.contains_key(store) {
                peers.insert(*store, Peer::start(self, *store));
            }
        }
        drop(peers);
        drop(gone);
        self.roll.send_replace(Arc::new(roll));
    }

    pub(crate) fn clash(&self, roll: &Roll) -> Option<Clash> {
        let store = self.home.borrow().as_ref().map(|home| home.store)?;
        roll.clash(store, self.node.host())
    }

    fn attach(
        &self,
        router: &Router,
        home: Option<&Home>,
        attached: &mut BTreeMap<u64, Option<Arc<Peer>>>,
    ) {
        let peers = self.peers.read().clone();
        let own = home.map(|home| home.store);
        let ways = peers.into_iter().map(|(store, peer)| (store, Some(peer)));
        let ways: BTreeMap<u64, Option<Arc<Peer>>> =
            ways.chain(own.map(|store| (store, None))).collect();
        let gone: BTreeSet<u64> =
            attached.keys().filter(|store| !ways.contains_key(store)).copied().collect();
        gone.iter().for_each(|store| router.detach(*store));
        for (store, way) in &ways {
            let is_same = match (attached.get(store), way) {
                (Some(Some(before)), Some(now)) => Arc::ptr_eq(before, now),
                (Some(None), None) => true,
                _ => false,
            };
            match (way, home) {
                _ if is_same => {}
                (Some(peer), _) => router.attach(*store, Arc::new(Far(Arc::clone(peer)))),
                (None, Some(home)) => router.attach(*store, Arc::new(home.handle.clone())),
                (None, None) => {}
            }
        }
        *attached = ways;
    }
}

/// The way of this process's store to the others. It does not keep the network, which has a way to the
/// store.
struct Line {
    shared: Weak<Shared>,
}

impl Transport for Line {
    fn send(&self, to: u64, packets: Vec<Packet>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let peer = shared.peers.read().get(&to).cloned();
        if let Some(peer) = peer {
            peer.send(packets);
        }
    }

    fn stores(&self) -> Vec<u64> {
        let Some(shared) = self.shared.upgrade() else { return Vec::new() };
        shared.peers.read().keys().copied().collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let home = self.shared.home.send_replace(None);
        drop(home);
        tracing::debug!(store = %name(self.store), "the store is served no more");
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Network")
            .field("roll", &*self.shared.roll.borrow())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Serving").field("store", &name(self.store)).finish_non_exhaustive()
    }
}
