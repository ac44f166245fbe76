//! A node of a cluster: its host, its port, its store and what looks after it, started and stopped in the
//! right order.
//!
//! 1. The host joins, or finds out that it makes the cluster ([`bootstrap`]).
//! 2. The port listens, under the cluster's id.
//! 3. The number of the folder's store is free: its former process, or that of a copy, is not believed to
//!    be alive.
//! 4. The store opens. One that makes the cluster has that on disk before anybody is told.
//! 5. It is announced, a router knows all stores, and a keeper looks after it.
//!
//! It stops in the reverse order, after the ranges that it led are led by others. All of it waits, so it is
//! for a thread that may. Calls run on a thread of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::RwLock;
use ratatosk_balance::RuleBook;
use ratatosk_balance::keeper::{self, Keeper};
use ratatosk_client::Router;
use ratatosk_clock::SystemClock;
use ratatosk_cluster::{Cluster, ClusterId};
use ratatosk_rpc::{
    ClusterDiscovery, Environment, Identity, ListenError, Listener, NameError, Permission, Tls,
    Version,
};
use ratatosk_store::coprocessor::Keyspaces;
use ratatosk_store::machine::Progress;
use ratatosk_store::node::Handle;
use ratatosk_store::{OpenError, node as store};
use ratatosk_telemetry::metric::Registry;
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::council::Pace;
use crate::bootstrap::{self, Belonging, JoinError, Wanted};
use crate::directory::Clash;
use crate::network::{self, Network, ServeError, Serving, service_name};

/// How often a store that stops looks whether it still leads.
const LOOK: Duration = Duration::from_millis(50);
/// How long it waits for somebody who could lead.
const HOPE: Duration = Duration::from_secs(2);

/// What a node is started with.
pub struct Config {
    /// The process's clock.
    pub clock: SystemClock,
    /// Where is counted.
    pub registry: Registry,
    /// Random numbers, others at each start.
    pub random: [u64; 4],
    /// The host; its cluster is found out.
    pub host: ratatosk_cluster::Config,
    /// How many nodes are started at once, if they are to find out which of them makes the cluster.
    pub expect: Option<usize>,
    /// How fast they find that out.
    pub pace: Pace,
    /// How long to wait for a cluster, and for the number of the store to be free.
    pub patience: Duration,
    /// Where calls are listened to.
    pub port: Port,
    /// The store.
    pub store: Store,
    /// How it is kept.
    pub keeping: Keeping,
    /// Changes limits of the network, of which there are many.
    pub adjust: fn(&mut ratatosk_rpc::Config, &mut network::Config),
}

/// Where calls are listened to.
#[derive(Clone, Debug)]
pub struct Port {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Where others reach it, if that is elsewhere.
    pub advertised: Option<SocketAddr>,
    /// Whether it may be reached from other machines without certificates.
    pub permission: Permission,
    /// Certificates.
    pub tls: Option<Arc<Tls>>,
}

/// The store, as in [`store::Config`].
pub struct Store {
    /// Its folder.
    pub folder: std::path::PathBuf,
    /// The services' keyspaces.
    pub keyspaces: Keyspaces,
    /// Bytes of the engine's blocks that are kept in memory.
    pub cache_bytes: u64,
    /// How often a checkpoint is made, at least.
    pub checkpoint_interval: Duration,
    /// From how many bytes of applied data in memory on a checkpoint is made at once.
    pub checkpoint_bytes: usize,
    /// Told once when the store can go on no more.
    pub on_failure: Box<dyn Fn(&str) + Send + Sync>,
}

/// How the store is kept.
#[derive(Debug)]
pub struct Keeping {
    /// Where it stands.
    pub labels: BTreeMap<String, String>,
    /// The keyspaces whose ranges it may vote for; it has others until those are there that are to.
    pub keyspaces: BTreeSet<String>,
    /// The keyspaces that its node reads.
    pub copies: BTreeSet<String>,
    /// What ranges are to be like.
    pub rules: Arc<RwLock<RuleBook>>,
    /// Time between two rounds.
    pub interval: Duration,
}

/// A node was not started. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host.
    #[error(transparent)]
    Host(#[from] ratatosk_cluster::StartError),
    /// The host would hear every machine that reaches it, and believe what it says.
    #[error(
        "the cluster address {address} can be reached from other machines and the cluster has no key: give \
         it one, or allow it by name"
    )]
    Exposed {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The environment is no name.
    #[error("the environment is no name: {0}")]
    Environment(#[from] NameError),
    /// The port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be announced.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    System(#[from] std::io::Error),
}

/// See the module. Dropped, it ends as a crash would: nothing is handed over. Not to be dropped on a
/// thread of a runtime, as it waits for its own.
pub struct Node {
    // In the order in which they have to go.
    keeper: Option<Keeper>,
    serving: Option<Serving>,
    store: Option<store::Node>,
    router: Router,
    network: Network,
    listener: Option<Listener>,
    port: ratatosk_rpc::Node,
    calls: Calls,
    host: Arc<Cluster>,
}

/// The thread that calls run on.
struct Calls {
    runtime: runtime::Handle,
    stopping: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a node. When this returns, its store is open and announced.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: Config) -> Result<Self, StartError> {
        let Config { clock, registry, random, mut host, port, store, keeping, .. } = config;
        let is_local = host.bind.ip().to_canonical().is_loopback();
        if host.keys.is_none() && !is_local && port.permission != Permission::Exposed {
            return Err(StartError::Exposed { address: host.bind });
        }
        host.cluster = bootstrap::cluster_of(&store.folder)?;
        let wanted = Wanted {
            folder: store.folder.clone(),
            seeds: host.seeds.clone(),
            expect: config.expect,
            environment: host.environment.clone(),
            keys: host.keys.clone(),
            patience: config.patience,
            pace: config.pace,
            random: random[0],
        };
        let environment = Environment::new(&host.environment)?;
        let host = Arc::new(Cluster::start(host)?);
        let Belonging { cluster, is_new } = bootstrap::find(&host, clock, &wanted)?;
        let mut limits = ratatosk_rpc::Config::new(Identity {
            cluster: ratatosk_rpc::ClusterId(cluster.number().into()),
            environment,
            host: ClusterDiscovery::identity_of(&host),
            version: Version::CURRENT,
        });
        limits.tls.clone_from(&port.tls);
        let mut bounds = network::Config::new(cluster.number(), random[1]);
        (config.adjust)(&mut limits, &mut bounds);
        let calls = Calls::start()?;
        let entered = calls.runtime.enter();
        let discovery = Arc::new(ClusterDiscovery::new(Arc::clone(&host), [service_name()]));
        let node = ratatosk_rpc::Node::new(limits, discovery, &registry, random[2]);
        let network = Network::new(node.clone(), &registry, clock, bounds);
        drop(entered);
        network.heed(&host);
        let mut started = Self {
            keeper: None,
            serving: None,
            store: None,
            router: Router::new(clock),
            network,
            listener: None,
            port: node,
            calls,
            host,
        };
        started.listen(&port)?;
        started.wait_until_free(&store.folder, config.patience)?;
        started.open(store, [random[3], random[1]], cluster, is_new)?;
        started.announce(cluster, config.patience)?;
        started.keep(keeping, registry, clock)?;
        Ok(started)
    }

    fn listen(&mut self, port: &Port) -> Result<(), StartError> {
        let listening = self.port.listen(port.address, port.advertised, port.permission);
        self.listener = Some(self.calls.runtime.block_on(listening)?);
        Ok(())
    }

    /// Waits until nobody is believed to have the number of the folder's store: its process before this
    /// one may be believed to be alive for some seconds.
    fn wait_until_free(
        &self,
        folder: &std::path::Path,
        patience: Duration,
    ) -> Result<(), StartError> {
        let Some(identity) = ratatosk_store::Identity::of(folder)? else { return Ok(()) };
        self.network.wait_until_free(identity.store, patience).map_err(ServeError::from)?;
        Ok(())
    }

    fn open(
        &mut self,
        store: Store,
        random: [u64; 2],
        cluster: ClusterId,
        is_new: bool,
    ) -> Result<(), StartError> {
        let cluster = cluster.number();
        let opened = store::Node::open(store::Config {
            folder: store.folder,
            keyspaces: store.keyspaces,
            cache_bytes: store.cache_bytes,
            checkpoint_interval: store.checkpoint_interval,
            checkpoint_bytes: store.checkpoint_bytes,
            // The second one is the cluster of a store that makes one.
            random: [random[0], if is_new { cluster } else { random[1] }],
            join: (!is_new).then_some(cluster),
            transport: self.network.transport(),
            on_failure: store.on_failure,
        })?;
        self.store = Some(opened);
        Ok(())
    }

    /// Tells the others of the cluster, now that it is on disk, and of the store.
    fn announce(&mut self, cluster: ClusterId, patience: Duration) -> Result<(), StartError> {
        if let Err(other) = self.host.set_cluster_id(cluster) {
            let (is_of, cluster) = (cluster.number(), other.number());
            return Err(ServeError::Cluster { is_of, cluster }.into());
        }
        let handle = self.handle();
        let serve = || self.network.serve(&handle);
        let serving = match serve() {
            Err(ServeError::Clash(clash)) => {
                self.network.wait_until_free(clash.store, patience).map_err(ServeError::from)?;
                serve()?
            }
            served => served?,
        };
        self.serving = Some(serving);
        Ok(())
    }

    fn keep(
        &mut self,
        keeping: Keeping,
        registry: Registry,
        clock: SystemClock,
    ) -> Result<(), StartError> {
        self.network.guide(&self.router);
        let config = keeper::Config {
            handle: self.handle(),
            words: self.network.words(),
            rules: keeping.rules,
            labels: keeping.labels,
            keyspaces: keeping.keyspaces,
            copies: keeping.copies,
            registry,
            interval: keeping.interval,
        };
        self.keeper = Some(Keeper::start(config, clock)?);
        Ok(())
    }

    /// The way to its store. Whoever keeps it past the end keeps the folder locked.
    ///
    /// # Panics
    /// Never: a node that was started has a store.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.store.as_ref().expect("the store is open").handle()
    }

    /// The way to the ranges of the cluster. It has to be polled.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Its store among the others.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What serves and calls.
    #[must_use]
    pub fn port(&self) -> &ratatosk_rpc::Node {
        &self.port
    }

    /// Where calls are listened to.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::address)
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Arc<Cluster> {
        &self.host
    }

    /// What looks after its store.
    #[must_use]
    pub fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    /// Where its calls run.
    #[must_use]
    pub fn runtime(&self) -> &runtime::Handle {
        &self.calls.runtime
    }

    /// Another process that has the number of this node's store, if there is one: the node is to stop then.
    #[must_use]
    pub fn clash(&self) -> Option<Clash> {
        self.network.clash_now()
    }

    /// Has its ranges led by others, as far as that is possible in so much time, and says whether all that can
    /// be are. Nobody looks after its store any more: it is to be stopped next.
    pub fn hand_over(&mut self, patience: Duration) -> bool {
        drop(self.keeper.take());
        hand_over(&self.handle(), patience)
    }

    /// Stops: hands its ranges over to others, as far as that is possible in so much time, then ends
    /// everything, and says goodbye. False if some of it could not be done in time.
    pub fn stop(mut self, patience: Duration) -> bool {
        let is_handed_over = self.hand_over(patience);
        if let Some(store) = self.store.take() {
            // What it says last is still carried.
            store.stop();
        }
        drop(self.serving.take());
        let is_told = self.host.depart(patience);
        self.end();
        is_handed_over && is_told
    }

    /// Lets go of all that has a way to the store, then of it.
    fn end(&mut self) {
        drop(self.listener.take());
        let own = self.network.store();
        let (network, port) = (self.network.clone(), self.port.clone());
        self.calls.runtime.block_on(async {
            network.stop().await;
            port.stop().await;
        });
        if let Some(store) = own {
            self.router.detach(store);
        }
        drop(self.serving.take());
        drop(self.store.take());
        self.calls.stop();
    }
}

/// Has others lead what a store leads; whether that was done in time. It does not wait long for nobody.
fn hand_over(handle: &Handle, patience: Duration) -> bool {
    let me = handle.identity().store;
    let (clock, mut is_first) = (SystemClock::new(), true);
    let begun = clock.now();
    let mut hoped = begun;
    loop {
        let (told, tells) = mpsc::sync_channel(1);
        handle.ask_status(Box::new(move |groups| drop(told.send(groups))));
        let Ok(groups) = tells.recv_timeout(patience) else { return false };
        let mut leads = 0;
        for (place, status) in groups.iter().enumerate() {
            let Some(followers) = &status.followers else { continue };
            let voters = status.descriptor.membership.target().voters;
            let may = |(store, progress): &&(u64, Progress)| {
                *store != me && voters.contains(store) && *progress == Progress::CaughtUp
            };
            let ready: Vec<u64> = followers.iter().filter(may).map(|(store, _)| *store).collect();
            leads += usize::from(voters.iter().any(|store| *store != me));
            if let Some(to) = ready.get(place % ready.len().max(1)) {
                handle.transfer(status.group, *to);
                hoped = clock.now();
            }
        }
        if leads == 0 {
            return true;
        }
        let now = clock.now();
        if now.since(begun) > patience || now.since(hoped) > HOPE {
            return false;
        }
        // Nobody tells that a group is led elsewhere; the first one goes fast.
        let wait = if std::mem::take(&mut is_first) { LOOK / 10 } else { LOOK };
        std::thread::sleep(wait);
    }
}

impl Calls {
    fn start() -> std::io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stopping) = (runtime.handle().clone(), CancellationToken::new());
        let until = stopping.clone();
        let thread = std::thread::Builder::new()
            .name("calls".to_owned())
            .spawn(move || runtime.block_on(until.cancelled()))?;
        Ok(Self { runtime: handle, stopping, thread: Some(thread) })
    }

    fn stop(&mut self) {
        self.stopping.cancel();
        if let Some(thread) = self.thread.take() {
            // Its panic was told already.
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.calls.thread.is_none() {
            return;
        }
        drop(self.keeper.take());
        // As a crash would: it is not taken back, its connections just end.
        self.host.halt();
        self.end();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Node").field("network", &self.network).finish_non_exhaustive()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Config").field("host", &self.host).finish_non_exhaustive()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Store").field("folder", &self.folder).finish_non_exhaustive()
    }
}
