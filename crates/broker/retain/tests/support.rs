//! Several nodes that have the retained messages together, each with a store and replicas in it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use ratatosk_client::{Pipe, Poller, Router, Store, StoreReplicas};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_codec::Qos;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Answer, DueWill};
use ratatosk_contract::retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome, TenantRetained};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{
    Call, Message, PublisherId, ReplyTo, SessionRef, ShardId, StoredMessage, TenantId, Ticket,
};
use ratatosk_retain::{RetainCoprocessor, RetainDivision, RetainService};
use ratatosk_store::command;
use ratatosk_store::coprocessor::{Factory, Keyspaces};
use ratatosk_store::node::Handle;
use ratatosk_stores::{Stores, until, wait};
use ratatosk_topic::{TopicFilter, TopicLimits};

pub(crate) const KEYSPACE: &str = "retain.message";
/// Keys of the tenant between which its range is parted: about a quarter of the topics each.
pub(crate) const CUTS: [&[u8]; 2] = [b"t\xff\x40", b"t\xff\x80"];

/// Remembers what it is told.
#[derive(Default)]
pub(crate) struct Settled(Mutex<Vec<(u64, Settlement)>>);

impl Sessions for Settled {
    fn inbox_ready(&self, _session: SessionRef) {}

    fn deliver(&self, _session: SessionRef, _delivery: Delivery) {}

    fn settle(&self, _session: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.0.lock().expect("nobody panics with it").push((ticket.0, settlement));
    }

    fn answered(&self, _reply_to: ReplyTo, _answer: Answer) {}

    fn publish(&self, _will: DueWill) {}
}

impl Settled {
    pub(crate) fn take(&self, ticket: u64) -> Option<Settlement> {
        let mut settled = self.0.lock().expect("as above");
        let at = settled.iter().position(|(held, _)| *held == ticket)?;
        Some(settled.remove(at).1)
    }
}

/// The services that the coprocessors of a store feed, one life after the other.
type Feeds = Arc<[Mutex<Weak<RetainService>>; 3]>;

/// Three nodes, each with a store and a service.
pub(crate) struct Cluster {
    _poller: Poller,
    router: Router,
    /// Of each node.
    pipes: Vec<Pipe>,
    pub(crate) clock: SystemClock,
    feeds: Feeds,
    pub(crate) services: Vec<Arc<RetainService>>,
    pub(crate) settled: Arc<Settled>,
    tickets: AtomicU64,
    way: Box<dyn Fn(Handle) -> Arc<dyn Store>>,
    pub(crate) stores: Stores,
}

impl Cluster {
    pub(crate) fn new(name: &str) -> Self {
        Self::over(name, |handle| Arc::new(handle))
    }

    /// With such ways to the stores.
    pub(crate) fn over(name: &str, way: impl Fn(Handle) -> Arc<dyn Store> + 'static) -> Self {
        let clock = SystemClock::new();
        let feeds: Feeds = Arc::default();
        let services: Vec<_> = (0..3).map(|node| fresh(&feeds, node, clock)).collect();
        let held = Arc::clone(&feeds);
        let knows = move |store: u64| {
            let (feeds, node) = (Arc::clone(&held), place(store));
            let factory: Factory = Box::new(move || {
                let service = feeds[node].lock().expect("nobody panics with it").clone();
                Box::new(RetainCoprocessor::feeding(&service))
            });
            Keyspaces::new(vec![(KEYSPACE.to_owned(), factory)]).served_by_replicas(KEYSPACE)
        };
        let stores = Stores::of_each(name, 3, knows);
        stores.change(&stores.whole(KEYSPACE), &[1, 2, 3]);
        let router = Router::new(clock);
        stores.live().for_each(|(store, handle)| router.attach(store, way(handle)));
        let pipe = || Pipe::repeating(Box::new(router.clone()), KEYSPACE, RetainDivision, clock);
        let pipes: Vec<_> = (0..3).map(|_| pipe()).collect();
        let poller = Poller::start(router.clone(), pipes.clone()).expect("a thread");
        let (settled, tickets) = (Arc::default(), AtomicU64::new(0));
        let cluster = Self {
            _poller: poller,
            router,
            pipes,
            clock,
            feeds,
            services,
            settled,
            tickets,
            way: Box::new(way),
            stores,
        };
        (0..3).for_each(|node| cluster.connect(node));
        cluster
    }

    pub(crate) fn connect(&self, node: usize) {
        let replicas = StoreReplicas::new(self.stores.handle(store(node)), KEYSPACE);
        let (pipe, settled) = (Arc::new(self.pipes[node].clone()), self.settled.clone());
        self.services[node].connect(pipe, settled, Box::new(replicas));
    }

    pub(crate) fn tenant(&self, node: usize) -> Arc<dyn TenantRetained> {
        self.services[node].tenant(&TenantId::new("t"))
    }

    /// Stores at a node, until a moment; answers under which ticket it is told.
    pub(crate) fn ask(
        &self,
        node: usize,
        topic: &str,
        payload: &str,
        deadline: Option<Instant>,
    ) -> u64 {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let message = Message {
            topic,
            payload: payload.as_bytes(),
            shared: None,
            properties: b"",
            qos: Qos::AtLeastOnce,
            retain: true,
            publisher: PublisherId(1),
            accepted: self.clock.now(),
            deadline,
        };
        let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
        let reply_to = ReplyTo { session, ticket: Ticket(ticket) };
        until("the log takes it", || match self.tenant(node).store(&message, Some(reply_to)) {
            Call::Pending => Some(()),
            Call::Ready(StoreOutcome::Busy) => None,
            other => panic!("there is room, and something to do: {other:?}"),
        });
        ticket
    }

    /// Stores at a node, whatever becomes of ranges and stores meanwhile.
    pub(crate) fn store(&self, node: usize, topic: &str, payload: &str) {
        let ticket = self.ask(node, topic, payload, None);
        let told = until("it is told", || self.settled.take(ticket));
        assert_eq!(told, Settlement::Done, "{topic} {payload}");
    }

    /// What a node finds as current by a filter, if it can say.
    pub(crate) fn find(&self, node: usize, filter: &str) -> Option<BTreeSet<(String, String)>> {
        find(&*self.tenant(node), self.clock, filter)
    }

    /// The same, once it can.
    pub(crate) fn found(&self, node: usize, filter: &str) -> BTreeSet<(String, String)> {
        until("it may answer", || self.find(node, filter))
    }

    /// How many changes went again that were in doubt.
    pub(crate) fn repeated(&self) -> u64 {
        self.pipes.iter().map(|pipe| pipe.repeated().load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn split(&self, key: &[u8]) {
        until("it is parted", || {
            let handle = self.stores.handle(1);
            let ranges = handle.ranges(KEYSPACE);
            let range = ranges.iter().find(|range| range.boundary.contains(key))?;
            if range.boundary.start == key {
                return Some(());
            }
            let handle = self.stores.handle(self.stores.leader_now(range.group)?);
            let order = command::split(range.version, key);
            let _ = wait(|reply| handle.propose(range.group, order, reply));
            None
        });
    }

    /// Moves the lead of all ranges.
    pub(crate) fn transfer(&self, to: u64) {
        for range in self.stores.handle(1).ranges(KEYSPACE) {
            self.stores.transfer(range.group, to);
        }
    }

    /// Ends a node as a crash would.
    pub(crate) fn kill(&mut self, node: usize) {
        self.router.detach(store(node));
        // It has a way to the store.
        self.services[node] = fresh(&self.feeds, node, self.clock);
        self.stores.kill(store(node));
    }

    /// Starts it again.
    pub(crate) fn start(&mut self, node: usize) {
        self.stores.start(store(node));
        self.router.attach(store(node), (self.way)(self.stores.handle(store(node))));
        self.connect(node);
    }
}

/// The service of a node's next life.
fn fresh(feeds: &Feeds, node: usize, clock: SystemClock) -> Arc<RetainService> {
    static ORIGINS: OnceLock<AtomicU64> = OnceLock::new();
    let origin = ORIGINS.get_or_init(AtomicU64::default).fetch_add(1 << 40, Ordering::Relaxed);
    let limits = RetainLimits::default();
    let service = Arc::new(RetainService::replicated(limits, clock.epoch(), origin));
    *feeds[node].lock().expect("nobody panics with it") = Arc::downgrade(&service);
    service
}

fn store(node: usize) -> u64 {
    node as u64 + 1
}

fn place(store: u64) -> usize {
    usize::try_from(store - 1).expect("few")
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

/// What is found as current by a filter, if that can be said.
pub(crate) fn find(
    tenant: &dyn TenantRetained,
    clock: SystemClock,
    filter: &str,
) -> Option<BTreeSet<(String, String)>> {
    let filter = TopicFilter::parse(filter, &TopicLimits::PROTOCOL).expect("a filter");
    let (mut cursor, mut page) = (Cursor::Start, Page { bytes_max: 99, ..Page::default() });
    while cursor != Cursor::End {
        if !tenant.scan_current(clock.now(), &filter, &mut cursor, &mut page) {
            return None;
        }
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let pair = |held: &Arc<StoredMessage>| (held.topic.to_string(), text(&held.payload));
    Some(page.messages.iter().map(pair).collect())
}

/// How many messages there are, if it can be said.
pub(crate) fn count(tenant: &dyn TenantRetained, clock: SystemClock) -> Option<u64> {
    let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).expect("a filter");
    let (mut cursor, mut page) = (Cursor::Start, Page { messages_max: 7, ..Page::default() });
    let mut found = 0;
    while cursor != Cursor::End {
        page.bytes_max = usize::MAX;
        if !tenant.scan_current(clock.now(), &filter, &mut cursor, &mut page) {
            return None;
        }
        found += page.messages.drain(..).len() as u64;
    }
    Some(found)
}
