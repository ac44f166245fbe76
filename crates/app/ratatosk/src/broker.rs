//! The broker within the node: the services joined with the data plane and with what clients are judged by.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use ratatosk_admin::Expiry;
use ratatosk_clock::SystemClock;
use ratatosk_contract::{
    TenantId, inbox::Inbox as _, retain::Retain as _, sessions::Sessions as _,
};
use ratatosk_inbox::InboxService;
use ratatosk_mqtt::{ListenerConfig, Mqtt, Running, Services};
use ratatosk_plugin::{
    answer::BoxFuture,
    config::Registries,
    event::EventCollectors,
    host::{Host, Timer},
};
use ratatosk_retain::RetainService;
use ratatosk_telemetry::{memory::Accountant, metric::Registry};
use tokio::sync::oneshot;

use crate::ground::{Base, Ground, Made};
use crate::metrics;
use crate::operations::Operations;
use crate::{cause, configuration::Configuration};

/// How often what has expired is looked for.
const EXPIRE_INTERVAL: Duration = Duration::from_millis(500);
/// How much of it goes at once, so that others get a turn.
const EXPIRED_MAX: usize = 10_000;
/// How many retained messages go at once because an operator ordered it.
const ORDERED_MAX: usize = 500;
/// Retained messages are looked through for expired ones this often. RET-004
const COLLECT_INTERVAL: Duration = Duration::from_secs(60);

/// Orders that something of a tenant ends: how much that is, or why it is not ordered.
type Expire = dyn Fn(&str, Expiry) -> Result<usize, String> + Send + Sync;

/// The services at work.
pub(crate) struct Broker {
    running: Running,
    plugins: Host,
    housekeeping: tokio::task::JoinSet<()>,
    ground: Ground,
    expiry: Arc<Expire>,
    operations: Option<Operations>,
    /// Told when the store can go on no more.
    failure: Option<oneshot::Receiver<String>>,
}

impl Broker {
    /// Builds and starts everything. Nothing is left running if it fails. A node that joins others waits for
    /// them; who does not want to wait any longer drops this, and lets the process end.
    pub(crate) async fn start(
        configuration: &Configuration,
        registry: &Registry,
        accountant: &Accountant,
    ) -> anyhow::Result<Self> {
        let clock = SystemClock::new();
        let plugins = plugins(configuration, clock)?;
        plugins.start()?;
        let mqtt = Mqtt::new(mqtt_config(configuration));
        let post = mqtt.post();
        let base = Base {
            configuration: configuration.clone(),
            registry: registry.clone(),
            accountant: accountant.clone(),
            clock,
            post: post.clone(),
        };
        let made = Made::new(&base).await?;
        let Made { dist, inbox, sessions, retain, directory, relay, mut ground, failure } = made;
        let services = Services {
            dist: dist.clone(),
            inbox: sessions,
            retain: retain.clone(),
            session_dict: directory,
            relay,
            plugins: plugins.clone(),
            events: EventCollectors::default(),
            name: "ratatosk".into(),
            memory: accountant.clone(),
            clock,
        };
        let seed = random().context("the system gives no random numbers")?;
        let running = mqtt.start(services, seed)?;
        if let Ground::Among(member) = &mut ground {
            member.deliver(running.deliverer(), Arc::new(post.clone()))?;
        }
        for (name, address) in running.addresses() {
            tracing::info!(listener = name, %address, "listening");
        }
        metrics::register(registry, &running, &dist, &inbox, &retain, &plugins);
        metrics::register_store(registry, &ground.store());
        let mut housekeeping = tokio::task::JoinSet::new();
        let expiry = Arc::new(expiry(&inbox, &retain, clock));
        housekeeping.spawn(expire(inbox, post, clock));
        housekeeping.spawn(expire_retained(Arc::clone(&retain)));
        housekeeping.spawn(collect(retain, clock));
        let operations = match (&ground, &configuration.cluster) {
            (Ground::Among(member), Some(cluster)) => {
                Some(Operations::new(member.node(), cluster, clock))
            }
            _ => None,
        };
        let failure = Some(failure);
        Ok(Broker { running, plugins, housekeeping, ground, expiry, operations, failure })
    }

    /// Takes over what a reload may change.
    pub(crate) fn reload(&self, configuration: &Configuration) {
        self.plugins.replace_defaults(configuration.tenant.clone());
        let mut problems = self.plugins.reload();
        problems.extend(self.running.reload());
        for problem in problems {
            tracing::error!(problem = cause::line(&problem), "not reloaded");
        }
    }

    /// The files whose change is worth a reload of certificates.
    pub(crate) fn watched_files(&self) -> Vec<std::path::PathBuf> {
        self.running.watched_files()
    }

    /// Reads certificates anew.
    pub(crate) fn reload_certificates(&self) {
        for problem in self.running.reload() {
            tracing::error!(problem = cause::line(&problem), "not reloaded");
        }
    }

    /// Orders that something of a tenant ends, for the management API.
    pub(crate) fn expiry(&self) -> Arc<Expire> {
        Arc::clone(&self.expiry)
    }

    /// What the management API says and does of the cluster that this node is in, if it is in one.
    pub(crate) fn operations(&self) -> Option<Operations> {
        self.operations.clone()
    }

    /// Memory of the store: what was applied and not handed down to the engine, and the engine's own.
    pub(crate) fn store_bytes(&self) -> usize {
        let store = self.ground.store();
        store.overlay_bytes() + usize::try_from(store.engine_bytes()).unwrap_or(usize::MAX)
    }

    /// What to wait for: it tells why the store can go on no more. The first time only.
    pub(crate) fn failure(&mut self) -> Option<oneshot::Receiver<String>> {
        self.failure.take()
    }

    /// Stops in phases; who is left at the deadline is cut off.
    pub(crate) async fn stop(mut self, deadline: Duration) {
        self.running.stop(deadline).await;
        self.housekeeping.shutdown().await;
        self.plugins.stop();
        // Last: what the others left is carried out.
        self.ground.close(deadline).await;
    }
}

fn plugins(configuration: &Configuration, clock: SystemClock) -> anyhow::Result<Host> {
    let config = &configuration.auth;
    let listeners: Vec<(String, bool)> = configuration
        .listeners
        .iter()
        .map(|listener| (name_of(listener), listener.address.ip().is_loopback()))
        .collect();
    let providers = config.open(&listeners, &Registries::default())?;
    let timer: Arc<dyn Timer> = Arc::new(RuntimeTimer(clock));
    Ok(Host::new(providers, configuration.tenant.clone(), &timer, config.limits()))
}

fn mqtt_config(configuration: &Configuration) -> ratatosk_mqtt::Config {
    // A node without clients still sends what it has for those of others: wills that are due here.
    let listeners = if configuration.roles.mqtt { &configuration.listeners[..] } else { &[] };
    let listeners = listeners.iter().map(|listener| ListenerConfig {
        name: name_of(listener),
        address: listener.address,
        layers: listener.transport.clone(),
        is_required: listener.required,
    });
    let limits = configuration.limits;
    let per_second = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    ratatosk_mqtt::Config {
        listeners: listeners.collect(),
        shards: configuration.mqtt.shards,
        connect_timeout: limits.connect_timeout,
        connections_per_second_max: limits.connections_per_second_max.map(per_second),
        disconnects_per_second: per_second(limits.disconnects_per_second_max),
        ..ratatosk_mqtt::Config::default()
    }
}

fn name_of(listener: &crate::configuration::Listener) -> String {
    format!("{}://{}", listener.protocol.name(), listener.address)
}

pub(crate) fn random() -> Result<u64, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Ends persistent sessions whose time is over, and sends wills that are due.
async fn expire(inbox: Arc<InboxService>, post: ratatosk_mqtt::Post, clock: SystemClock) {
    let mut ticks = tokio::time::interval(EXPIRE_INTERVAL);
    let mut wills = Vec::new();
    loop {
        ticks.tick().await;
        inbox.expire(clock.now(), EXPIRED_MAX, &mut wills);
        for due in wills.drain(..) {
            post.publish(due);
        }
    }
}

/// Orders that something of a tenant ends.
fn expiry(
    inbox: &Arc<InboxService>,
    retain: &Arc<RetainService>,
    clock: SystemClock,
) -> impl Fn(&str, Expiry) -> Result<usize, String> + Send + Sync + use<> {
    let (inbox, retain) = (Arc::clone(inbox), Arc::clone(retain));
    move |tenant, expiry| {
        let tenant = TenantId::new(tenant);
        match expiry {
            Expiry::InactiveSessions { away_min } => inbox
                .expire_inactive(&tenant, away_min, clock.now())
                .map_err(|refused| refused.to_string()),
            Expiry::RetainedMessages => Ok(retain.tenant(&tenant).expire_all()),
        }
    }
}

/// Drops retained messages that were ordered to end, little by little. RET-009
async fn expire_retained(retain: Arc<RetainService>) {
    let mut ticks = tokio::time::interval(EXPIRE_INTERVAL);
    loop {
        ticks.tick().await;
        retain.expire_ordered(ORDERED_MAX);
    }
}

/// Drops retained messages whose time is over.
async fn collect(retain: Arc<RetainService>, clock: SystemClock) {
    let mut ticks = tokio::time::interval(COLLECT_INTERVAL);
    loop {
        ticks.tick().await;
        while retain.collect(clock.now(), EXPIRED_MAX) == EXPIRED_MAX {
            tokio::task::yield_now().await;
        }
    }
}

/// The runtime's time, for the host of the plugins.
struct RuntimeTimer(SystemClock);

impl Timer for RuntimeTimer {
    fn now(&self) -> Duration {
        self.0.now().since(ratatosk_clock::Instant::ZERO)
    }

    fn sleep(&self, span: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(span))
    }
}
