//! Hosts with a port, a dist and made-up sessions each; and what is watched of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::dist::{Dist as _, Resolution};
use ratatosk_contract::group::{Member, MemberState, MemberTarget};
use ratatosk_contract::relay::{
    Addressee, Deliverer, Dispatch, Dispatched, Fate, IsVisible, Outcome, Outcomes, Parcel,
    Relay as _, Sent, TableSequence,
};
use ratatosk_contract::{
    Call, HostNumber, Message, PublisherId, ReplyTo, SessionRef, ShardId, StoredMessage, TenantId,
    Ticket,
};
use ratatosk_dist::DistService;
use ratatosk_relay::{Config, HostRelay, Serving};
use ratatosk_rpc::{
    ClusterId, Discovery, Environment, HostId, Identity, Listener, Node, Permission, Version,
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_telemetry::metric::Registry;
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long an event may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The service as anybody could call it.
pub(crate) mod raw {
    #![allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/ratatosk.broker.rs"));
}

/// A host.
pub(crate) struct Host {
    pub(crate) serving: Option<Serving>,
    pub(crate) relay: HostRelay,
    pub(crate) dist: Arc<DistService>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) node: Node,
    pub(crate) registry: Registry,
    pub(crate) accountant: Accountant,
    pub(crate) address: SocketAddr,
    clock: SystemClock,
    _listener: Listener,
}

/// A node without a relay.
pub(crate) async fn node(
    discovery: Arc<dyn Discovery>,
    host: HostId,
    at: &str,
) -> (Node, Registry, Listener) {
    let mut config = ratatosk_rpc::Config::new(Identity {
        cluster: ClusterId(7),
        environment: Environment::new("test").expect("a name"),
        host,
        version: Version::CURRENT,
    });
    config.reconnect_delay = (Duration::from_millis(5), Duration::from_millis(50));
    let registry = Registry::new(9);
    let node = Node::new(config, discovery, &registry, 7);
    let at = at.parse().expect("an address");
    let listener = node.listen(at, None, Permission::Silent).await.expect("a port");
    (node, registry, listener)
}

impl Host {
    /// A host of this name, with the usual bounds but for those that `adjust` changes.
    pub(crate) async fn start_at(
        discovery: Arc<dyn Discovery>,
        id: HostId,
        at: &str,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let (node, registry, listener) = node(discovery, id, at).await;
        let (accountant, clock) = (Accountant::default(), SystemClock::new());
        let dist = Arc::new(DistService::new());
        let mut config = Config::new(1);
        // On a busy machine an answer may take its time.
        config.patience = LONG;
        config.visible_max = LONG;
        config.look_interval = Duration::from_millis(10);
        adjust(&mut config);
        let (to_dist, books) = (Arc::clone(&dist), &accountant);
        let relay = HostRelay::new(node.clone(), &registry, books, clock, to_dist as _, config);
        let sessions = Arc::new(Sessions::default());
        let serving = relay.serve(Arc::clone(&sessions) as _, Arc::clone(&sessions) as _);
        let serving = Some(serving.expect("it is announced"));
        let address = listener.address();
        Self {
            serving,
            relay,
            dist,
            sessions,
            node,
            registry,
            accountant,
            address,
            clock,
            _listener: listener,
        }
    }

    pub(crate) async fn start(discovery: &(impl Discovery + Clone + 'static), id: u128) -> Self {
        Self::start_at(Arc::new(discovery.clone()), HostId(id), "127.0.0.1:0", |_| {}).await
    }

    /// Waits until it knows just these hosts.
    pub(crate) async fn knows(&self, hosts: &[u128]) {
        let mut known = self.relay.hosts();
        let is_so =
            known.wait_for(|known| known.keys().copied().eq(hosts.iter().map(|id| HostId(*id))));
        drop(timeout(LONG, is_so).await.expect("in time").expect("it goes on"));
    }

    pub(crate) fn number(&self, host: u128) -> HostNumber {
        self.relay.hosts().borrow()[&HostId(host)]
    }

    pub(crate) fn want(&self, text: &str) -> TableSequence {
        self.relay.want(&tenant(), &filter(text))
    }

    /// Waits until all others have applied a change.
    pub(crate) async fn is_visible(&self, sequence: TableSequence) -> IsVisible {
        let reply_to = reply(self.sessions.visible.borrow().len() as u64 + 1_000);
        match self.relay.when_visible(sequence, reply_to) {
            Call::Ready(answer) => answer,
            Call::Pending => {
                let mut told = self.sessions.visible.subscribe();
                let is_told = told.wait_for(|told| told.contains_key(&reply_to.ticket));
                let told = timeout(LONG, is_told).await.expect("in time").expect("it goes on");
                told[&reply_to.ticket]
            }
        }
    }

    pub(crate) async fn sees(&self, sequence: TableSequence) {
        assert_eq!(self.is_visible(sequence).await, IsVisible::Yes);
    }

    pub(crate) fn resolve(&self, text: &str) -> Resolution {
        let mut found = Resolution::default();
        let topic = TopicName::parse(text, &TopicLimits::PROTOCOL).expect("a topic");
        self.dist.tenant(&tenant()).resolve(topic, &mut found);
        found
    }

    /// The hosts that want a topic, by their names.
    pub(crate) fn hosts_of(&self, topic: &str) -> Vec<u128> {
        let known = self.relay.hosts().borrow().clone();
        let names: BTreeMap<_, _> = known.iter().map(|(host, number)| (*number, host.0)).collect();
        let mut hosts: Vec<u128> =
            self.resolve(topic).hosts.iter().map(|number| names[number]).collect();
        hosts.sort_unstable();
        hosts
    }

    pub(crate) fn send(&self, sketch: &Sketch<'_>, to: &[u128], ticket: Option<u64>) -> Sent {
        let hosts: Vec<HostNumber> = to.iter().map(|host| self.number(*host)).collect();
        self.send_to(sketch, &hosts, ticket)
    }

    pub(crate) fn send_to(
        &self,
        sketch: &Sketch<'_>,
        hosts: &[HostNumber],
        ticket: Option<u64>,
    ) -> Sent {
        let now = self.clock.now();
        let message = sketch.message(now);
        let tenant = tenant();
        let dispatch = Dispatch { tenant: &tenant, to: sketch.to, message };
        self.relay.send(&dispatch, hosts, ticket.map(reply))
    }

    pub(crate) fn metric(&self, words: &[&str]) -> u64 {
        let page = self.registry.render();
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let matching = lines.filter(|line| words.iter().all(|word| line.contains(word)));
        matching.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Waits until what is counted is as wanted.
    pub(crate) async fn counted(&self, words: &[&str], is_so: impl Fn(u64) -> bool) {
        let looking = async {
            while !is_so(self.metric(words)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let is_counted = timeout(LONG, looking).await;
        assert!(is_counted.is_ok(), "{words:?}: {}", self.registry.render());
    }
}

/// Waits until hosts know each other.
pub(crate) async fn meet(hosts: &[&Host]) {
    for host in hosts {
        let others = hosts.iter().map(|other| other.node.host().0);
        let mut others: Vec<u128> = others.filter(|id| *id != host.node.host().0).collect();
        others.sort_unstable();
        host.knows(&others).await;
    }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("t")
}

pub(crate) fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).expect("a filter")
}

pub(crate) fn reply(ticket: u64) -> ReplyTo {
    let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
    ReplyTo { session, ticket: Ticket(ticket) }
}

/// A transient session as a member of a group.
pub(crate) fn member(id: u64, state: &Arc<MemberState>) -> Member {
    Member {
        id,
        incarnation: 1,
        target: MemberTarget::Session(reply(0).session),
        options: SubscriptionOptions::new(Qos::AtLeastOnce),
        subscription_id: Some(5),
        state: Arc::clone(state),
    }
}

/// A message.
#[derive(Copy, Clone)]
pub(crate) struct Sketch<'a> {
    pub(crate) to: Addressee<'a>,
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) properties: &'a [u8],
    pub(crate) life: Option<Duration>,
}

impl<'a> Sketch<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { to: Addressee::Sessions, topic: "a", payload, properties: &[], life: None }
    }

    fn message(&self, now: Instant) -> Message<'_> {
        Message {
            topic: self.topic,
            payload: self.payload,
            shared: None,
            properties: self.properties,
            qos: Qos::AtLeastOnce,
            retain: true,
            publisher: PublisherId(77),
            accepted: now,
            deadline: self.life.map(|life| now + life),
        }
    }
}

/// The sessions of a host: they keep what they are told.
#[derive(Default)]
pub(crate) struct Sessions {
    pub(crate) came: watch::Sender<Vec<(Option<u64>, StoredMessage)>>,
    pub(crate) told: watch::Sender<Vec<Dispatched>>,
    pub(crate) visible: watch::Sender<BTreeMap<Ticket, IsVisible>>,
    /// What they say to members, by number, and to the rest.
    pub(crate) fates: Mutex<BTreeMap<u64, Fate>>,
}

impl Sessions {
    /// Waits until so many messages have come.
    pub(crate) async fn have(&self, count: usize) -> Vec<(Option<u64>, StoredMessage)> {
        let mut came = self.came.subscribe();
        let all = timeout(LONG, came.wait_for(|came| came.len() >= count)).await;
        all.expect("in time").expect("it goes on").clone()
    }

    /// Waits until so many messages are settled.
    pub(crate) async fn settle(&self, count: usize) -> Vec<(u64, Outcome)> {
        let mut told = self.told.subscribe();
        let all = timeout(LONG, told.wait_for(|told| told.len() >= count)).await;
        let all = all.expect("in time").expect("it goes on");
        all.iter().map(|told| (told.reply_to.ticket.0, told.outcome)).collect()
    }
}

impl Deliverer for Sessions {
    fn deliver(&self, parcels: &[Parcel<'_>], fates: &mut Vec<Fate>) {
        let said = self.fates.lock();
        for parcel in parcels {
            assert_eq!(*parcel.tenant, tenant());
            let member = match parcel.to {
                Addressee::Sessions => None,
                Addressee::Member { id, .. } => Some(id),
            };
            let fate = member.and_then(|id| said.get(&id)).copied().unwrap_or(Fate::Taken);
            fates.push(fate);
            if fate == Fate::Taken {
                let message = parcel.message.to_stored();
                self.came.send_modify(|came| came.push((member, message)));
            }
        }
    }
}

impl Outcomes for Sessions {
    fn settled(&self, dispatched: &[Dispatched]) {
        self.told.send_modify(|told| told.extend_from_slice(dispatched));
    }

    fn visible(&self, reply_to: ReplyTo, is_visible: IsVisible) {
        self.visible.send_modify(|told| {
            told.insert(reply_to.ticket, is_visible);
        });
    }
}
