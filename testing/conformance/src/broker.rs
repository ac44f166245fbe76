//! A broker of two shards within the test's process.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use ratatosk_client::{Keyspace, Replicas};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_codec::ProtocolVersion;
use ratatosk_contract::{
    TenantSettings,
    inbox::Inbox,
    relay::Relay,
    retain::{Retain, RetainLimits},
    sessions::Sessions as _,
};
use ratatosk_dist::DistService;
use ratatosk_inbox::{InboxService, InboxStats};
use ratatosk_mqtt::{Config, ListenerConfig, Mqtt, NodeStats, Post, Services, Stats, transport};
use ratatosk_plugin::{
    answer::BoxFuture,
    auth::AuthProvider,
    builtin::{AllowAll, StaticSettings},
    event::EventCollectors,
    host::{Host, Limits, Providers, Timer},
    permission::PermissionProvider,
    settings::SettingsProvider,
};
use ratatosk_relay::HostRelay;
use ratatosk_retain::RetainService;
use ratatosk_rpc::{
    ClusterId, Environment, HostId, Identity, Listener, MemoryDiscovery, Node, Permission, Version,
};
use ratatosk_session_dict::{ClusterConfig, ClusterDict, DictService};
use ratatosk_telemetry::{ByteCount, memory::Accountant, metric::Registry};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{AuthBy, Connector, PATIENCE, Store, plain};

/// How often what has expired is looked for.
const EXPIRE_INTERVAL: Duration = Duration::from_millis(20);

/// How a broker is made.
pub struct Setup {
    /// What every tenant has unless the provider says otherwise.
    pub settings: TenantSettings,
    /// The data plane; the harness adds the listener.
    pub config: Config,
    /// The layers of each listener.
    pub listeners: Vec<transport::Config>,
    /// Who clients are.
    pub auth: Arc<dyn AuthProvider>,
    /// What they may do.
    pub permission: Arc<dyn PermissionProvider>,
    /// What tenants have otherwise.
    pub overrides: Arc<dyn SettingsProvider>,
    /// Who is told what happens.
    pub events: EventCollectors,
    /// What stands before the inbox and the retained messages.
    pub store: Arc<Store>,
    /// Where persistent sessions are kept. If they are, `store` does not stand before them.
    pub sessions_in: Option<Arc<dyn Keyspace>>,
    /// Where the routes of persistent sessions are kept.
    pub routes_in: Option<Arc<dyn Keyspace>>,
    /// Routing, if it is made already.
    pub dist: Option<Arc<DistService>>,
    /// Where retained messages are kept. If they are, `store` does not stand before them.
    pub retained_in: Option<Arc<dyn Keyspace>>,
    /// Retained messages that replicas have, if they do.
    pub retained_by: Option<Retained>,
    /// The memory that the broker may use.
    pub memory_max: ByteCount,
    /// It is one of several nodes that share a directory of sessions and carry messages to each other's
    /// transient sessions: where they find each other, and what this one is called.
    pub cluster: Option<(MemoryDiscovery, HostId)>,
    /// How long a message for another node may be without an answer. On a busy machine an answer takes
    /// its time.
    pub patience: Duration,
}

/// A replicated service of retained messages that is not connected yet, its log and its replicas.
pub struct Retained {
    /// The service.
    pub service: Arc<RetainService>,
    /// The log.
    pub keyspace: Arc<dyn Keyspace>,
    /// What it may answer for.
    pub replicas: Box<dyn Replicas>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            settings: TenantSettings::default(),
            config: Config { shards: 2, ..Config::default() },
            listeners: vec![plain()],
            auth: AuthBy::name(),
            permission: Arc::new(AllowAll),
            overrides: Arc::new(StaticSettings),
            events: EventCollectors::default(),
            store: Store::new(),
            sessions_in: None,
            routes_in: None,
            dist: None,
            retained_in: None,
            retained_by: None,
            memory_max: ByteCount::mebibytes(4096),
            cluster: None,
            patience: PATIENCE,
        }
    }
}

/// A broker at work. Dropping it stops it at once.
pub struct Broker {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<Duration>>,
    runtime: Option<JoinHandle<()>>,
    refused: watch::Receiver<u64>,
    /// The counters of the data plane.
    stats: Arc<NodeStats>,
    /// Routing.
    pub dist: Arc<DistService>,
    /// Persistent sessions.
    pub inbox: Arc<InboxService>,
    /// Retained messages.
    pub retain: Arc<RetainService>,
    /// The directory of live sessions of a broker that stands alone.
    pub session_dict: Arc<DictService>,
    /// That of one among others.
    pub cluster_dict: Option<ClusterDict>,
    /// Its way to the others.
    pub relay: Option<HostRelay>,
    freezes: mpsc::UnboundedSender<Freeze>,
    /// The account of the process's memory.
    pub memory: Accountant,
}

impl Broker {
    /// A broker of two shards with the defaults.
    pub fn start() -> Broker {
        Broker::with(Setup::default())
    }

    /// A broker whose tenants have these settings.
    pub fn with_settings(settings: TenantSettings) -> Broker {
        Broker::with(Setup { settings, ..Setup::default() })
    }

    /// A broker made like this.
    ///
    /// # Panics
    /// If it does not start.
    pub fn with(setup: Setup) -> Broker {
        let (ready, started) = sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let runtime = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime is made");
            runtime.block_on(serve(setup, &ready, stopped));
        });
        let mut broker: Broker = started.recv().expect("the broker starts");
        broker.stop = Some(stop);
        broker.runtime = Some(runtime);
        broker
    }

    /// Where its first listener is.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where its listeners are.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A client of this version to be.
    pub fn client(&self, version: ProtocolVersion, client_id: &str) -> Connector {
        Connector::new(self.address(), version, client_id)
    }

    /// A client of MQTT 3.1.1 to be.
    pub fn v4(&self, client_id: &str) -> Connector {
        self.client(ProtocolVersion::V311, client_id)
    }

    /// A client of MQTT 5.0 to be.
    pub fn v5(&self, client_id: &str) -> Connector {
        self.client(ProtocolVersion::V5, client_id)
    }

    /// The counters of the shards.
    pub fn node_stats(&self) -> &NodeStats {
        &self.stats
    }

    /// The counters, once they satisfy a condition.
    ///
    /// # Panics
    /// If they never do.
    pub fn stats_when(&self, is_met: impl Fn(&Stats) -> bool) -> Stats {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let stats = self.stats.total();
            if is_met(&stats) {
                return stats;
            }
            assert!(std::time::Instant::now() < end, "the counters stay at {stats:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// What the inboxes hold, once it satisfies a condition.
    ///
    /// # Panics
    /// If it never does.
    pub fn inbox_when(&self, is_met: impl Fn(&InboxStats) -> bool) -> InboxStats {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let stats = self.inbox.stats();
            if is_met(&stats) {
                return stats;
            }
            assert!(std::time::Instant::now() < end, "the inboxes stay at {stats:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until the number of connections that were refused at accept satisfies a condition.
    ///
    /// # Panics
    /// If it never does.
    pub fn refused_when(&self, is_met: impl Fn(u64) -> bool) {
        let end = std::time::Instant::now() + PATIENCE;
        while !is_met(*self.refused.borrow()) {
            let refused = *self.refused.borrow();
            assert!(std::time::Instant::now() < end, "{refused} were refused");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Has all but the shards stand still until what this returns is dropped: other nodes get no answer.
    ///
    /// # Panics
    /// If the broker has stopped.
    pub fn freeze(&self) -> std::sync::mpsc::Sender<()> {
        let (hold, held) = std::sync::mpsc::channel();
        let (begin, begun) = sync_channel(1);
        assert!(self.freezes.send(Freeze { held, begin }).is_ok(), "the broker runs");
        begun.recv().expect("the broker runs");
        hold
    }

    /// Begins a graceful stop; [`Broker::stopped`] waits for its end.
    pub fn stop(&mut self, deadline: Duration) {
        let stop = self.stop.take().expect("stopped once");
        stop.send(deadline).expect("the broker runs");
    }

    /// Waits until the broker has stopped.
    pub fn stopped(mut self) {
        let runtime = self.runtime.take().expect("waited for once");
        runtime.join().expect("the broker does not panic");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take()
            && runtime.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the broker panicked");
        }
    }
}

async fn serve(
    setup: Setup,
    ready: &std::sync::mpsc::SyncSender<Broker>,
    stop: oneshot::Receiver<Duration>,
) {
    let clock = SystemClock::new();
    let providers =
        Providers { auth: setup.auth, permission: setup.permission, settings: setup.overrides };
    let timer: Arc<dyn Timer> = Arc::new(RuntimeTimer(clock));
    let plugins = Host::new(providers, setup.settings, &timer, Limits::default());
    let listeners =
        setup.listeners.into_iter().enumerate().map(|(number, layers)| ListenerConfig {
            name: format!("listener-{number}"),
            address: ([127, 0, 0, 1], 0).into(),
            layers,
            is_required: true,
        });
    let mqtt = Mqtt::new(Config { listeners: listeners.collect(), ..setup.config });
    let post = mqtt.post();
    let mut dist = DistService::new();
    if let Some(keyspace) = setup.routes_in {
        dist = dist.kept_in(keyspace);
        dist.restore().expect("what is kept can be read");
    }
    let dist = setup.dist.unwrap_or_else(|| Arc::new(dist));
    let memory = Accountant::new(setup.memory_max);
    let are_sessions_kept = setup.sessions_in.is_some();
    let mut inbox = InboxService::new(dist.clone(), Arc::new(post.clone())).charged_to(&memory);
    if let Some(keyspace) = setup.sessions_in {
        inbox = inbox.kept_in(keyspace, clock.epoch());
        inbox.restore(clock.now()).expect("what is kept can be read");
    }
    let inbox = Arc::new(inbox);
    let is_retain_kept = setup.retained_in.is_some() || setup.retained_by.is_some();
    let sessions = Arc::new(post.clone());
    let retain = match (setup.retained_by, setup.retained_in) {
        (Some(Retained { service, keyspace, replicas }), _) => {
            service.connect(keyspace, sessions, replicas);
            service
        }
        (None, kept_in) => {
            let mut retain = RetainService::new(RetainLimits::default()).charged_to(&memory);
            if let Some(keyspace) = kept_in {
                retain = retain.kept_in(keyspace, sessions, clock.epoch());
                retain.restore().expect("what is kept can be read");
            }
            Arc::new(retain)
        }
    };
    let (slow_inbox, slow_retain) =
        setup.store.before(inbox.clone(), retain.clone(), Arc::new(post.clone()));
    // What is kept answers in its own time.
    let kept_inbox: Arc<dyn Inbox> = inbox.clone();
    let kept_retain: Arc<dyn Retain> = retain.clone();
    let session_dict = Arc::new(DictService::new());
    let member = match setup.cluster {
        Some((discovery, host)) => {
            let mut config = ratatosk_relay::Config::new(1);
            config.patience = setup.patience;
            let books = (&memory, dist.clone());
            Some(Member::join(discovery, host, &post, clock, books, config).await)
        }
        None => None,
    };
    let cluster_dict = member.as_ref().map(|member| member.dict.clone());
    let services = Services {
        dist: dist.clone(),
        inbox: if are_sessions_kept { kept_inbox } else { slow_inbox },
        retain: if is_retain_kept { kept_retain } else { slow_retain },
        session_dict: match cluster_dict.clone() {
            Some(dict) => Arc::new(dict),
            None => session_dict.clone(),
        },
        relay: member.as_ref().map(|member| {
            let relay: Arc<dyn Relay> = Arc::new(member.relay.clone());
            relay
        }),
        plugins,
        events: setup.events,
        name: "node".into(),
        memory: memory.clone(),
        clock,
    };
    let running = mqtt.start(services, 7).expect("the data plane starts");
    let serving = member.as_ref().map(|member| {
        let serving = member.relay.serve(running.deliverer(), Arc::new(post.clone()));
        serving.expect("it is announced")
    });
    let (count, refused) = watch::channel(0);
    let (freezes, mut frozen) = mpsc::unbounded_channel();
    let broker = Broker {
        addresses: running.addresses().map(|(_, address)| address).collect(),
        stop: None,
        runtime: None,
        refused,
        stats: running.stats(),
        dist,
        inbox: inbox.clone(),
        retain,
        session_dict,
        cluster_dict,
        relay: member.as_ref().map(|member| member.relay.clone()),
        freezes,
        memory,
    };
    ready.send(broker).expect("the test waits for its broker");
    let mut ticks = tokio::time::interval(EXPIRE_INTERVAL);
    let mut wills = Vec::new();
    let mut stop = stop;
    let stopped = loop {
        tokio::select! {
            // All are cancel-safe: a tick that was not taken comes again.
            stopped = &mut stop => break stopped,
            Some(Freeze { held, begin }) = frozen.recv() => {
                let _ = begin.send(());
                let _ = held.recv();
            }
            _ = ticks.tick() => {
                inbox.expire(clock.now(), usize::MAX, &mut wills);
                for due in wills.drain(..) {
                    post.publish(due);
                }
                count.send_replace(running.refused());
            }
        }
    };
    // A sender that is gone is a test that ended: there is nothing to be graceful about.
    running.stop(stopped.unwrap_or(Duration::ZERO)).await;
    // After those who use it.
    drop(serving);
    drop(member);
}

/// Holds the runtime up until the other end of `held` is dropped.
struct Freeze {
    held: std::sync::mpsc::Receiver<()>,
    begin: SyncSender<()>,
}

/// A node among others.
struct Member {
    dict: ClusterDict,
    relay: HostRelay,
    _listener: Listener,
}

impl Member {
    async fn join(
        discovery: MemoryDiscovery,
        host: HostId,
        post: &Post,
        clock: SystemClock,
        (memory, dist): (&Accountant, Arc<DistService>),
        relay: ratatosk_relay::Config,
    ) -> Member {
        let config = ratatosk_rpc::Config::new(Identity {
            cluster: ClusterId(1),
            environment: Environment::new("test").expect("a name"),
            host,
            version: Version::CURRENT,
        });
        let registry = Registry::new(10);
        let node = Node::new(config, Arc::new(discovery), &registry, 7);
        let any = ([127, 0, 0, 1], 0).into();
        let listener = node.listen(any, None, Permission::Silent).await.expect("a port");
        let config = ClusterConfig { is_server: true, ..ClusterConfig::default() };
        let dict = ClusterDict::start(&node, Arc::new(post.clone()), &registry, clock, config);
        let relay = HostRelay::new(node, &registry, memory, clock, dist, relay);
        Member { dict: dict.expect("there is room"), relay, _listener: listener }
    }
}

/// The runtime's time, for the host of the plugins.
struct RuntimeTimer(SystemClock);

impl Timer for RuntimeTimer {
    fn now(&self) -> Duration {
        self.0.now().since(Instant::ZERO)
    }

    fn sleep(&self, span: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(span))
    }
}
