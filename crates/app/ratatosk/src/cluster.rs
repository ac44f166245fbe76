//! A node among others: its store is one of several, and its services are joined with theirs.
//!
//! What is made here in which order follows from who needs whom. Services exist before the store opens, for
//! its ranges feed them; the store is open before there is a way to the ranges; the data plane comes last, and
//! is told of by others from then on. It ends the other way round: nobody is let in any more, what the store
//! leads is handed over, and only then do the services stop serving others.

pub(crate) mod part;
mod rules;
mod seats;
mod watch;
mod ways;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::RwLock;
use ratatosk_client::Reigns;
use ratatosk_clock::SystemClock;
use ratatosk_cluster::Labels;
use ratatosk_contract::relay::{Deliverer, Outcomes};
use ratatosk_contract::retain::RetainLimits;
use ratatosk_dist::DistService;
use ratatosk_inbox::{InboxService, Seating};
use ratatosk_inbox_remote::{ClusterInbox, PARTITION_COUNT, Parts, Serves, Switch};
use ratatosk_relay::{HostRelay, Serving as Delivers};
use ratatosk_remote::bootstrap::council::Pace;
use ratatosk_remote::node::{Config, Keeping, Node, Port};
use ratatosk_retain::RetainService;
use ratatosk_rpc::Permission;
use ratatosk_session_dict::{ClusterConfig, ClusterDict};
use tokio::sync::oneshot;

use self::seats::RangeSeats;
use self::watch::Watch;
use self::ways::Ways;
use crate::configuration::Cluster;
use crate::ground::Base;
use crate::metrics;
use crate::store;

/// Time between two rounds in which it is planned who keeps and leads ranges.
const PLAN_INTERVAL: Duration = Duration::from_secs(1);
/// How long a session waits for its owner once it is served by another node.
const GRACE: Duration = Duration::from_secs(10);
/// How long a start waits to know the others.
const KNOWN_MAX: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);
/// The label of stores with what fails together with them.
const ZONE: &str = "zone";

/// See the module. Dropped, it ends as a crash would: nothing is handed over.
pub(crate) struct Member {
    // In the order in which they have to go, before the node.
    inbox_serves: Option<Serves>,
    delivers: Option<Delivers>,
    inbox: ClusterInbox,
    relay: HostRelay,
    directory: ClusterDict,
    watch: Option<Watch>,
    seating: Option<Seating>,
    reigns: Reigns,
    ways: Option<Ways>,
    node: Option<Node>,
}

/// A member, and its services that the node works with.
pub(crate) struct Joined {
    pub(crate) member: Member,
    pub(crate) dist: Arc<DistService>,
    pub(crate) inbox: Arc<InboxService>,
    pub(crate) retain: Arc<RetainService>,
    /// Told when the store can go on no more.
    pub(crate) failure: oneshot::Receiver<String>,
}

impl Member {
    /// Joins the cluster, or makes it, and joins the services with those of the others. Waits, so it is for a
    /// thread that may.
    pub(crate) fn join(base: &Base, cluster: &Cluster) -> anyhow::Result<Joined> {
        let Base { configuration, registry, accountant, clock, post } = base;
        let clock = *clock;
        let dist = Arc::new(DistService::replicated());
        let origin = crate::broker::random().context("the system gives no random numbers")?;
        let retain = RetainService::replicated(RetainLimits::default(), clock.epoch(), origin);
        let retain = Arc::new(retain.charged_to(accountant));
        let reigns = Reigns::new(clock);
        let (on_failure, failure) = store::failure();
        let fed = store::Among { dist: &dist, retain: &retain, reigns: &reigns };
        let store = fed.config(configuration, Arc::clone(&on_failure));
        let node = Node::start(node_config(base, cluster, store)?)?;
        let sessions = Arc::new(post.clone());
        let ways = Ways::open(&node, (&dist, &retain), sessions.clone(), clock)?;
        metrics::register_repeats(registry, &ways.repeated);
        let switch = Switch::new(sessions);
        let inbox = InboxService::new(dist.clone(), Arc::new(switch.clone()))
            .charged_to(accountant)
            .reigning(clock.epoch(), GRACE);
        let inbox = Arc::new(inbox);
        let seating = inbox.start_seating(clock, |error| {
            tracing::error!(%error, "sessions of a range cannot be served");
        })?;
        let seats = RangeSeats::new(node.router().clone(), node.network().clone());
        inbox.watch_seats(seats.stirrer());
        inbox.follow(&reigns, Arc::new(node.handle()));
        let generation = node.host().host().generation;
        let parts =
            Parts { seats: seats.clone(), local: inbox.clone(), switch, dist: dist.clone() };
        let port = node.port();
        let entered = node.runtime().enter();
        let bounds = ratatosk_inbox_remote::Config::new(generation);
        let of_all = ClusterInbox::new(port.clone(), registry, accountant, clock, parts, bounds);
        let bounds = ratatosk_relay::Config::new(generation);
        let relay = HostRelay::new(port.clone(), registry, accountant, clock, dist.clone(), bounds);
        let part = ClusterConfig {
            is_server: configuration.roles.session_dict,
            ..ClusterConfig::default()
        };
        let directory = ClusterDict::start(port, Arc::new(post.clone()), registry, clock, part)?;
        drop(entered);
        let member = Self {
            inbox_serves: Some(of_all.serve()?),
            delivers: None,
            inbox: of_all,
            relay,
            directory,
            watch: Some(Watch::start(&node, seats, on_failure)),
            seating,
            reigns,
            ways: Some(ways),
            node: Some(node),
        };
        Ok(Joined { member, dist, inbox, retain, failure })
    }

    /// Waits until this node knows who the others are and who serves what, so that nobody is let in too
    /// early; not for long, as others may be down.
    pub(crate) async fn come_to_know(&self) {
        let is_known = || {
            let others = self.node().host().members().current().len();
            self.directory.is_synced()
                && self.directory.seen().1 >= others
                && self.inbox.reached() == PARTITION_COUNT
        };
        let clock = SystemClock::new();
        let begun = clock.now();
        while !is_known() && clock.now().since(begun) < KNOWN_MAX {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// From now on others send what is for the sessions of this node.
    pub(crate) fn deliver(
        &mut self,
        deliverer: Arc<dyn Deliverer>,
        outcomes: Arc<dyn Outcomes>,
    ) -> anyhow::Result<()> {
        let delivers = self.relay.serve(deliverer, outcomes);
        self.delivers = Some(delivers.context("this node cannot be announced to the others")?);
        Ok(())
    }

    /// All persistent sessions.
    pub(crate) fn inbox(&self) -> &ClusterInbox {
        &self.inbox
    }

    /// The way to transient sessions of others.
    pub(crate) fn relay(&self) -> &HostRelay {
        &self.relay
    }

    /// Who has which session.
    pub(crate) fn directory(&self) -> &ClusterDict {
        &self.directory
    }

    /// # Panics
    /// Never: it has one until it leaves.
    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("a member has a node until it leaves")
    }

    /// Leaves for now: what this node leads is led by others then, as far as that is possible until the
    /// deadline. Waits, so it is for a thread that may.
    pub(crate) fn leave(mut self, deadline: Duration) {
        let Some(mut node) = self.node.take() else { return };
        if !node.hand_over(deadline) {
            tracing::warn!("not all ranges could be handed over to other nodes");
        }
        drop(self.inbox_serves.take());
        drop(self.delivers.take());
        drop(self.watch.take());
        node.runtime().block_on(async {
            self.inbox.stop().await;
            self.relay.stop().await;
            self.directory.stop().await;
        });
        drop(self.seating.take());
        self.reigns.unbind();
        drop(self.ways.take());
        if !node.stop(deadline) {
            tracing::warn!("the other nodes were not told in time that this one leaves");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.watch.take());
        drop(self.seating.take());
        self.reigns.unbind();
        drop(self.ways.take());
        // It waits for its own runtime, which must not be done on a thread of another one.
        if let Some(node) = self.node.take() {
            let dropping = std::thread::spawn(move || drop(node));
            // Its panic was told already.
            let _ = dropping.join();
        }
    }
}

fn node_config(
    base: &Base,
    cluster: &Cluster,
    store: ratatosk_remote::node::Store,
) -> anyhow::Result<Config> {
    let (clock, registry, roles) = (base.clock, base.registry.clone(), base.configuration.roles);
    let random = || crate::broker::random().context("the system gives no random numbers");
    let mut host = ratatosk_cluster::Config::new(clock, &cluster.name, cluster.address);
    host.advertise = cluster.advertise;
    host.seeds.clone_from(&cluster.join);
    host.keys.clone_from(&cluster.keys);
    host.labels =
        Labels { zone: cluster.zone.clone(), software: env!("CARGO_PKG_VERSION").to_owned() };
    let permission = match cluster.is_exposed {
        true => Permission::Exposed,
        false => Permission::Silent,
    };
    Ok(Config {
        clock,
        registry,
        random: [random()?, random()?, random()?, random()?],
        host,
        expect: cluster.expect,
        pace: Pace::default(),
        patience: cluster.join_timeout,
        port: Port {
            address: cluster.calls,
            advertised: cluster.calls_advertise,
            permission,
            tls: cluster.tls.clone(),
        },
        store,
        keeping: Keeping {
            labels: part::labels(&cluster.zone, roles),
            keyspaces: part::voted(roles),
            copies: part::read(roles),
            rules: Arc::new(RwLock::new(rules::of_all())),
            interval: PLAN_INTERVAL,
        },
        adjust: |_, _| {},
    })
}
