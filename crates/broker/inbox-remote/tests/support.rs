//! Hosts with a port and a made-up inbox each, and what their data planes are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ratatosk_clock::SystemClock;
use ratatosk_codec::{PacketId, Qos, SubscriptionOptions};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::dist::{Dist as _, InboxRoute, Receiver, ReceiverKey};
use ratatosk_contract::group::{Group, Member, MemberTarget};
use ratatosk_contract::inbox::{
    Answer, Attach, Attached, Claim, DueWill, Entry, FetchBudget, Inbox as _, InboxId, NotServed,
    QueueLimits, Sequence, SharedRoute, SubscribeOutcome, Subscription, Targets,
};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{
    Call, ClientId, Message, PublisherId, ReplyTo, SessionIdentity, SessionRef, ShardId,
    StoredMessage, TenantId, Ticket,
};
use ratatosk_dist::DistService;
use ratatosk_inbox_remote::{ClusterInbox, Config, PARTITION_COUNT, Parts, Serves, Switch};
use ratatosk_rpc::{
    ClusterId, Environment, HostId, Identity, Listener, MemoryDiscovery, Node, Permission, Version,
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_telemetry::metric::Registry;
use ratatosk_topic::{TopicFilter, TopicLimits};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::lagging::Lagging;
use crate::model::{Model, Store};

/// How long an event may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What the data plane of a host is told.
#[derive(Default)]
pub(crate) struct Home {
    answers: watch::Sender<BTreeMap<u64, Answer>>,
    settled: watch::Sender<BTreeMap<u64, Settlement>>,
    ready: watch::Sender<Vec<SessionRef>>,
    pub(crate) delivered: watch::Sender<Vec<(SessionRef, String)>>,
    pub(crate) published: watch::Sender<Vec<String>>,
    /// Whose groups others had messages, by the ticket.
    pub(crate) chosen_before: watch::Sender<Vec<(u64, String)>>,
}

/// Waits until something holds of what is watched.
pub(crate) async fn until<T: Clone>(
    watched: &watch::Sender<T>,
    is_so: impl FnMut(&T) -> bool,
) -> T {
    let mut watched = watched.subscribe();
    let found = timeout(LONG, watched.wait_for(is_so)).await;
    found.expect("in time").expect("it goes on").clone()
}

impl Sessions for Home {
    fn inbox_ready(&self, session: SessionRef) {
        self.ready.send_modify(|ready| ready.push(session));
    }

    fn deliver(&self, session: SessionRef, delivery: Delivery) {
        let payload = text(&delivery.message);
        self.delivered.send_modify(|delivered| delivered.push((session, payload)));
    }

    fn settle(&self, _: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.settled.send_modify(|settled| {
            let before = settled.insert(ticket.0, settlement);
            assert_eq!(before, None, "ticket {ticket:?} settles once");
        });
    }

    fn chosen_before(&self, _: SessionRef, ticket: Ticket, groups: Vec<Arc<Group>>) {
        let is_settled = self.settled.borrow().contains_key(&ticket.0);
        assert!(!is_settled, "ticket {ticket:?} is not settled before");
        let named = groups.iter().map(|group| (ticket.0, group.name.to_string()));
        self.chosen_before.send_modify(|all| all.extend(named));
    }

    fn answered(&self, reply_to: ReplyTo, answer: Answer) {
        self.answers.send_modify(|answers| {
            let before = answers.insert(reply_to.ticket.0, answer);
            assert!(before.is_none(), "ticket {:?} is answered once", reply_to.ticket);
        });
    }

    fn publish(&self, will: DueWill) {
        let topic = will.message.topic.to_string();
        self.published.send_modify(|published| published.push(topic));
    }
}

/// A host.
pub(crate) struct Host {
    pub(crate) serves: Option<Serves>,
    pub(crate) inbox: ClusterInbox,
    pub(crate) home: Arc<Home>,
    /// What it knows of routes.
    dist: Arc<Lagging>,
    /// Whether that is behind.
    pub(crate) is_behind: Arc<AtomicBool>,
    tickets: AtomicU64,
    clock: SystemClock,
    _node: Node,
    _listener: Listener,
}

impl Host {
    pub(crate) async fn start(discovery: &MemoryDiscovery, id: u128, store: &Arc<Store>) -> Host {
        Host::start_with(discovery, id, store, |_| {}).await
    }

    pub(crate) async fn start_with(
        discovery: &MemoryDiscovery,
        id: u128,
        store: &Arc<Store>,
        adjust: impl FnOnce(&mut Config),
    ) -> Host {
        let mut config = ratatosk_rpc::Config::new(Identity {
            cluster: ClusterId(7),
            environment: Environment::new("test").expect("a name"),
            host: HostId(id),
            version: Version::CURRENT,
        });
        config.reconnect_delay = (Duration::from_millis(5), Duration::from_millis(50));
        let registry = Registry::new(9);
        let node = Node::new(config, Arc::new(discovery.clone()), &registry, 7);
        let any = ([127, 0, 0, 1], 0).into();
        let listener = node.listen(any, None, Permission::Silent).await.expect("a port");
        let (home, clock) = (Arc::<Home>::default(), SystemClock::new());
        let switch = Switch::new(Arc::clone(&home) as _);
        let local = Arc::new(Model {
            host: HostId(id),
            store: Arc::clone(store),
            sessions: Arc::new(switch.clone()),
        });
        let is_behind = Arc::<AtomicBool>::default();
        let lagging = Lagging { dist: DistService::new(), is_behind: Arc::clone(&is_behind) };
        let (seats, routes) = (Arc::clone(store) as _, Arc::new(lagging));
        let dist = Arc::clone(&routes) as _;
        let parts = Parts { seats, local, switch, dist };
        let mut config = Config::new(1);
        // On a busy machine an answer may take its time.
        (config.claim_patience, config.change_patience) = (LONG, LONG);
        adjust(&mut config);
        let books = Accountant::default();
        let inbox = ClusterInbox::new(node.clone(), &registry, &books, clock, parts, config);
        let serves = Some(inbox.serve().expect("it is announced"));
        let tickets = AtomicU64::new(0);
        Host {
            serves,
            inbox,
            home,
            dist: routes,
            is_behind,
            tickets,
            clock,
            _node: node,
            _listener: listener,
        }
    }

    /// Waits until it reaches somebody for so many partitions.
    pub(crate) async fn reaches(&self, count: usize) {
        let looking = async {
            while self.inbox.reached() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, looking).await.expect("in time");
    }

    pub(crate) fn ticket(&self) -> ReplyTo {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        ReplyTo { session: owner(u32::try_from(number).expect("few")), ticket: Ticket(number) }
    }

    pub(crate) async fn answer(&self, ticket: Ticket) -> Answer {
        let mut answers = until(&self.home.answers, |all| all.contains_key(&ticket.0)).await;
        answers.remove(&ticket.0).expect("it is there")
    }

    pub(crate) async fn settled(&self, ticket: Ticket) -> Settlement {
        until(&self.home.settled, |all| all.contains_key(&ticket.0)).await[&ticket.0]
    }

    /// Whether whoever has a ticket was told anything.
    pub(crate) fn is_told(&self, ticket: Ticket) -> bool {
        self.home.answers.borrow().contains_key(&ticket.0)
            || self.home.settled.borrow().contains_key(&ticket.0)
    }

    /// Takes a session over; its owner has the number of the ticket.
    pub(crate) async fn attach(&self, client: &str) -> Result<(Attached, SessionRef), NotServed> {
        self.attach_with(client, None).await
    }

    pub(crate) async fn attach_with(
        &self,
        client: &str,
        will: Option<&str>,
    ) -> Result<(Attached, SessionRef), NotServed> {
        let identity = identity(client);
        let reply_to = self.ticket();
        let attach = Attach {
            identity: &identity,
            owner: reply_to.session,
            is_clean: false,
            expiry_s: Some(100),
            limits: QueueLimits {
                messages_max: 100_000,
                filters_max: 2,
                members_max: 10,
                qos0_drop_oldest: false,
                qos0_when_offline: false,
            },
            will: will.map(|topic| (Arc::new(stored(topic, "", Qos::AtLeastOnce)), 0)),
            now: self.clock.now(),
        };
        let attached = match self.inbox.attach(&attach, Some(reply_to)) {
            Call::Ready(attached) => {
                let promised = attached?;
                if !promised.is_durable {
                    assert_eq!(self.settled(reply_to.ticket).await, Settlement::Done);
                }
                promised.answer
            }
            Call::Pending => match self.answer(reply_to.ticket).await {
                Answer::Attached(attached) => *attached?,
                other => panic!("another question was answered: {other:?}"),
            },
        };
        Ok((attached, reply_to.session))
    }

    pub(crate) async fn subscribe(&self, claim: Claim, filter: &str) -> SubscribeOutcome {
        let (subscription, reply_to) = (subscription(filter), self.ticket());
        match self.inbox.subscribe(claim, &subscription, Some(reply_to)) {
            Call::Ready(promised) => promised.answer,
            Call::Pending => match self.answer(reply_to.ticket).await {
                Answer::Subscribed(outcome) => outcome,
                other => panic!("another question was answered: {other:?}"),
            },
        }
    }

    /// Appends a message for some sessions; what becomes of it.
    pub(crate) async fn append(
        &self,
        inboxes: &[InboxId],
        payload: &str,
        qos: Qos,
        exchange: Option<(Claim, PacketId)>,
    ) -> Settlement {
        let reply_to = (qos != Qos::AtMostOnce).then(|| self.ticket());
        match (self.begin_append(inboxes, payload, qos, exchange, reply_to), reply_to) {
            (Call::Ready(settlement), _) => settlement,
            (Call::Pending, Some(reply_to)) => self.settled(reply_to.ticket).await,
            (Call::Pending, None) => panic!("nobody waits"),
        }
    }

    pub(crate) fn begin_append(
        &self,
        inboxes: &[InboxId],
        payload: &str,
        qos: Qos,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Settlement> {
        let routes: Vec<InboxRoute> = inboxes.iter().copied().map(route_of).collect();
        let tenant = tenant();
        let targets = Targets { tenant: &tenant, routes: &routes, shared: &[] };
        let message = stored("a", payload, qos);
        let mut direct = Vec::new();
        let message = message.as_message();
        let call = self.inbox.append(targets, &message, exchange, reply_to, &mut direct);
        for delivery in direct {
            self.home.delivered.send_modify(|all| all.push((delivery.owner, payload.to_owned())));
        }
        call
    }

    /// Learns that a session is a member of `$share/g/a`.
    pub(crate) fn learn_member(&self, inbox: InboxId) {
        let route = route_of(inbox);
        let member = Member {
            id: inbox.0,
            incarnation: route.incarnation,
            target: MemberTarget::Inbox(inbox),
            options: route.options,
            subscription_id: route.subscription_id,
            state: Arc::default(),
        };
        let receiver = Receiver::Member { member, members_max: 9 };
        let added = self.dist.tenant(&tenant()).add(&group_filter(), receiver);
        assert!(matches!(added, Call::Ready(Ok(_))), "{added:?}");
    }

    /// Learns that a session is no member any more.
    pub(crate) fn forget_member(&self, inbox: InboxId) {
        let key = ReceiverKey::Member { id: inbox.0, incarnation: inbox.0 };
        let removed = self.dist.tenant(&tenant()).remove(&group_filter(), &key);
        assert_eq!(removed, Call::Ready(true));
    }

    /// Brings a message of QoS 2 for some sessions and, if one was chosen, a member of the group.
    pub(crate) fn begin_append_once(
        &self,
        (inboxes, member): (&[InboxId], Option<InboxId>),
        payload: &str,
        exchange: (Claim, PacketId),
    ) -> ReplyTo {
        let (tenant, reply_to) = (tenant(), self.ticket());
        let shared: Vec<SharedRoute> =
            member.map(|inbox| self.shared_route(inbox)).into_iter().collect();
        let routes: Vec<InboxRoute> = inboxes.iter().copied().map(route_of).collect();
        let targets = Targets { tenant: &tenant, routes: &routes, shared: &shared };
        let message = stored("a", payload, Qos::ExactlyOnce);
        let (message, reply) = (message.as_message(), Some(reply_to));
        let call = self.inbox.append(targets, &message, Some(exchange), reply, &mut Vec::new());
        assert_eq!(call, Call::Pending);
        reply_to
    }

    fn shared_route(&self, inbox: InboxId) -> SharedRoute {
        let routes = self.dist.tenant(&tenant());
        let route = routes.find(&group_filter()).expect("it is known");
        let group = routes.group(route, "g", false).expect("it is known");
        SharedRoute { route: route_of(inbox), group }
    }

    /// Brings a message for a member of the group.
    pub(crate) fn begin_append_shared(&self, inbox: InboxId, payload: &str) -> ReplyTo {
        let (tenant, reply_to) = (tenant(), self.ticket());
        let shared = [self.shared_route(inbox)];
        let targets = Targets { tenant: &tenant, routes: &[], shared: &shared };
        let message = stored("a", payload, Qos::AtLeastOnce);
        let message = message.as_message();
        let call = self.inbox.append(targets, &message, None, Some(reply_to), &mut Vec::new());
        assert_eq!(call, Call::Pending);
        reply_to
    }

    /// What a session is handed next, as soon as there is something.
    pub(crate) async fn fetch(&self, claim: Claim, after: Sequence, max: usize) -> Vec<Entry> {
        loop {
            let mut ready = self.home.ready.subscribe();
            ready.mark_unchanged();
            let mut entries = Vec::new();
            let budget =
                FetchBudget { now: self.clock.now(), messages_max: max, bytes_max: usize::MAX };
            self.inbox.fetch(claim, after, budget, &mut entries).expect("it is the owner");
            if !entries.is_empty() {
                return entries;
            }
            timeout(LONG, ready.changed()).await.expect("in time").expect("it goes on");
        }
    }

    /// Waits until a session has another owner.
    pub(crate) async fn is_stale(&self, claim: Claim) {
        let mut ready = self.home.ready.subscribe();
        let is_stale = |_: &Vec<SessionRef>| {
            let now = self.clock.now();
            let budget = FetchBudget { now, messages_max: 1, bytes_max: 1 };
            self.inbox.fetch(claim, Sequence(0), budget, &mut Vec::new()).is_err()
        };
        timeout(LONG, ready.wait_for(is_stale)).await.expect("in time").expect("it goes on");
    }
}

/// Waits until something holds of what is stored.
pub(crate) async fn stored_so(store: &Store, is_so: impl Fn() -> bool) {
    until(&store.stirred, |_| is_so()).await;
}

pub(crate) fn subscription(filter: &str) -> Subscription {
    let options = SubscriptionOptions::new(Qos::ExactlyOnce);
    Subscription { filter: filter.into(), options, subscription_id: Some(7) }
}

fn route_of(inbox: InboxId) -> InboxRoute {
    let options = SubscriptionOptions::new(Qos::ExactlyOnce);
    InboxRoute { inbox, incarnation: inbox.0, options, subscription_id: Some(3) }
}

fn group_filter() -> TopicFilter<'static> {
    TopicFilter::parse("$share/g/a", &TopicLimits::PROTOCOL).expect("a filter")
}

pub(crate) fn owner(slot: u32) -> SessionRef {
    SessionRef { shard: ShardId(0), slot, generation: 0 }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("t")
}

pub(crate) fn identity(client: &str) -> SessionIdentity {
    SessionIdentity { tenant: tenant(), user: None, client: ClientId::new(client) }
}

pub(crate) fn partition(client: &str) -> usize {
    let publisher = identity(client).publisher().0;
    usize::try_from(publisher % PARTITION_COUNT as u64).expect("small")
}

pub(crate) fn stored(topic: &str, payload: &str, qos: Qos) -> StoredMessage {
    let message = Message {
        topic,
        payload: payload.as_bytes(),
        shared: None,
        properties: &[],
        qos,
        retain: false,
        publisher: PublisherId(77),
        accepted: ratatosk_clock::Instant::ZERO,
        deadline: None,
    };
    message.to_stored()
}

pub(crate) fn text(message: &StoredMessage) -> String {
    String::from_utf8(message.payload.to_vec()).expect("the payload is text")
}

pub(crate) fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| text(&entry.message)).collect()
}
