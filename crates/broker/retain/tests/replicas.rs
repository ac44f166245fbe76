//! Several nodes that have the retained messages together, each with a store and replicas in it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use ratatosk_client::{Pipe, Poller, Router, StoreReplicas};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_codec::Qos;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Answer, DueWill};
use ratatosk_contract::retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome, TenantRetained};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{
    Call, Message, PublisherId, ReplyTo, SessionRef, ShardId, TenantId, Ticket,
};
use ratatosk_retain::{RetainCoprocessor, RetainDivision, RetainService};
use ratatosk_store::command;
use ratatosk_store::coprocessor::{Factory, Keyspaces};
use ratatosk_stores::{Stores, until, wait};
use ratatosk_topic::{TopicFilter, TopicLimits};

const KEYSPACE: &str = "retain.message";
/// Keys of the tenant between which its range is parted: about a quarter of the topics each.
const CUTS: [&[u8]; 2] = [b"t\xff\x40", b"t\xff\x80"];

/// Remembers what it is told.
#[derive(Default)]
struct Settled(Mutex<Vec<(u64, Settlement)>>);

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
    fn take(&self, ticket: u64) -> Option<Settlement> {
        let mut settled = self.0.lock().expect("as above");
        let at = settled.iter().position(|(held, _)| *held == ticket)?;
        Some(settled.remove(at).1)
    }
}

/// The services that the coprocessors of a store feed, one life after the other.
type Feeds = Arc<[Mutex<Weak<RetainService>>; 3]>;

/// Three nodes, each with a store and a service.
struct Cluster {
    _poller: Poller,
    router: Router,
    pipe: Pipe,
    clock: SystemClock,
    feeds: Feeds,
    services: Vec<Arc<RetainService>>,
    settled: Arc<Settled>,
    tickets: AtomicU64,
    stores: Stores,
}

impl Cluster {
    fn new(name: &str) -> Self {
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
        stores.live().for_each(|(store, handle)| router.attach(store, Arc::new(handle)));
        let pipe = Pipe::dividing(Box::new(router.clone()), KEYSPACE, RetainDivision, clock);
        let poller = Poller::start(router.clone(), vec![pipe.clone()]).expect("a thread");
        let (settled, tickets) = (Arc::default(), AtomicU64::new(0));
        let cluster = Self {
            _poller: poller,
            router,
            pipe,
            clock,
            feeds,
            services,
            settled,
            tickets,
            stores,
        };
        (0..3).for_each(|node| cluster.connect(node));
        cluster
    }

    fn connect(&self, node: usize) {
        let replicas = StoreReplicas::new(self.stores.handle(store(node)), KEYSPACE);
        let (pipe, settled) = (Arc::new(self.pipe.clone()), self.settled.clone());
        self.services[node].connect(pipe, settled, Box::new(replicas));
    }

    fn tenant(&self, node: usize) -> Arc<dyn TenantRetained> {
        self.services[node].tenant(&TenantId::new("t"))
    }

    /// Stores at a node, until a moment; answers under which ticket it is told.
    fn ask(&self, node: usize, topic: &str, payload: &str, deadline: Option<Instant>) -> u64 {
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

    /// Stores at a node, however often it has to be asked, until that is durable.
    fn store(&self, node: usize, topic: &str, payload: &str) {
        let is_done = || {
            let ticket = self.ask(node, topic, payload, None);
            let told = until("it is told", || self.settled.take(ticket));
            (told == Settlement::Done).then_some(())
        };
        until("it is stored", is_done);
    }

    /// What a node finds as current by a filter, if it can say.
    fn find(&self, node: usize, filter: &str) -> Option<BTreeSet<(String, String)>> {
        let filter = TopicFilter::parse(filter, &TopicLimits::PROTOCOL).expect("a filter");
        let (mut cursor, mut page) = (Cursor::Start, Page { bytes_max: 99, ..Page::default() });
        while cursor != Cursor::End {
            let now = self.clock.now();
            if !self.tenant(node).scan_current(now, &filter, &mut cursor, &mut page) {
                return None;
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let pair = |held: &Arc<ratatosk_contract::StoredMessage>| {
            (held.topic.to_string(), text(&held.payload))
        };
        Some(page.messages.iter().map(pair).collect())
    }

    /// The same, once it can.
    fn found(&self, node: usize, filter: &str) -> BTreeSet<(String, String)> {
        until("it may answer", || self.find(node, filter))
    }

    fn split(&self, key: &[u8]) {
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
    fn transfer(&self, to: u64) {
        for range in self.stores.handle(1).ranges(KEYSPACE) {
            self.stores.transfer(range.group, to);
        }
    }

    /// Ends a node as a crash would.
    fn kill(&mut self, node: usize) {
        self.router.detach(store(node));
        // It has a way to the store.
        self.services[node] = fresh(&self.feeds, node, self.clock);
        self.stores.kill(store(node));
    }

    /// Starts it again.
    fn start(&mut self, node: usize) {
        self.stores.start(store(node));
        self.router.attach(store(node), Arc::new(self.stores.handle(store(node))));
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

fn pairs(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

/// RET-002, RET-001, RET-006
#[test]
fn a_message_stored_at_one_node_is_found_at_every_other() {
    let cluster = Cluster::new("retain-found");
    cluster.store(0, "a/b", "1");
    cluster.store(1, "a/c", "2");
    cluster.store(2, "b", "3");
    for node in 0..3 {
        assert_eq!(cluster.found(node, "a/b"), pairs(&[("a/b", "1")]), "at node {node}");
        assert_eq!(cluster.found(node, "a/+"), pairs(&[("a/b", "1"), ("a/c", "2")]));
        assert_eq!(cluster.found(node, "#").len(), 3);
    }
    cluster.store(2, "a/b", "4");
    assert_eq!(cluster.found(0, "a/b"), pairs(&[("a/b", "4")]));
    cluster.store(1, "a/b", "");
    (0..3).for_each(|node| assert_eq!(cluster.found(node, "a/#"), pairs(&[("a/c", "2")])));
}

/// KV-010, RET-006: it says nothing before what it lacks is acknowledged, and all of it when it is back.
#[test]
fn a_node_that_is_cut_off_does_not_answer_with_what_is_old() {
    let cluster = Cluster::new("retain-cut");
    cluster.transfer(1);
    cluster.store(0, "a", "old");
    (0..3).for_each(|node| assert_eq!(cluster.found(node, "a"), pairs(&[("a", "old")])));
    cluster.stores.cut_off(3);
    cluster.store(0, "a", "new");
    assert_eq!(cluster.find(2, "a"), None, "it is cut off");
    (0..2).for_each(|node| assert_eq!(cluster.found(node, "a"), pairs(&[("a", "new")])));
    cluster.stores.mend(3);
    assert_eq!(cluster.found(2, "a"), pairs(&[("a", "new")]));
}

/// RET-004: once, and by whoever leads.
#[test]
fn what_has_expired_leaves_all_stores() {
    let cluster = Cluster::new("retain-expired");
    cluster.transfer(2);
    let until_now = cluster.clock.now();
    for (node, topic) in ["a", "b", "c"].into_iter().enumerate() {
        let ticket = cluster.ask(node, topic, "1", Some(until_now));
        until("it is told", || cluster.settled.take(ticket));
    }
    cluster.store(0, "d", "1");
    for node in 0..3 {
        assert_eq!(cluster.found(node, "#"), pairs(&[("d", "1")]));
    }
    until("whoever leads has them removed", || {
        let now = cluster.clock.now();
        for service in &cluster.services {
            service.collect(now, 100);
        }
        let is_gone = |node: &u64| cluster.stores.keys(*node, KEYSPACE).len() == 1;
        (1..=3).all(|node| is_gone(&node)).then_some(())
    });
    assert_eq!(cluster.services[0].stats().expired, 3);
}

/// RET-006: also while ranges part, leaders change, a node is cut off and another starts again.
#[test]
fn nobody_finds_less_than_was_acknowledged_whatever_happens_to_the_ranges() {
    let mut cluster = Cluster::new("retain-storm");
    let acked = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|node| {
            let (tenant, clock) = (cluster.tenant(node), cluster.clock);
            let (acked, is_over) = (Arc::clone(&acked), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut answered = 0_u64;
                while !is_over.load(Ordering::Acquire) {
                    let before = acked.load(Ordering::Acquire);
                    if let Some(found) = count(&*tenant, clock) {
                        assert!(found >= before, "node {node}: {found} of {before}");
                        answered += 1;
                    }
                    std::thread::yield_now();
                }
                answered
            })
        })
        .collect();
    for number in 1..=30 {
        match number {
            5 => cluster.split(CUTS[0]),
            8 => cluster.transfer(2),
            10 => cluster.stores.cut_off(3),
            12 => cluster.split(CUTS[1]),
            14 => cluster.stores.mend(3),
            17 => cluster.kill(2),
            20 => cluster.start(2),
            23 => cluster.transfer(1),
            25 => cluster.stores.cut_off(2),
            28 => cluster.stores.mend(2),
            _ => {}
        }
        let node = if number % 2 == 0 { 0 } else { 1 };
        cluster.store(node, &format!("t/{number}"), "1");
        acked.store(number, Ordering::Release);
    }
    is_over.store(true, Ordering::Release);
    for reader in readers {
        let answered = reader.join().expect("nothing is missing");
        assert!(answered > 0, "every node has answered");
    }
    let first = cluster.found(0, "#");
    assert_eq!(first.len(), 30);
    (1..3).for_each(|node| assert_eq!(cluster.found(node, "#"), first, "at node {node}"));
    assert_eq!(cluster.stores.handle(3).ranges(KEYSPACE).len(), 3);
}

/// RET-001: whoever was last in the log, all say the same.
#[test]
fn nodes_that_store_the_same_topic_at_once_find_the_same() {
    let cluster = Cluster::new("retain-race");
    for round in 0..10 {
        let tickets: Vec<_> =
            (0..3).map(|node| cluster.ask(node, "a", &format!("{round}/{node}"), None)).collect();
        for ticket in tickets {
            assert_eq!(until("it is told", || cluster.settled.take(ticket)), Settlement::Done);
        }
        let first = cluster.found(0, "a");
        (1..3).for_each(|node| assert_eq!(cluster.found(node, "a"), first, "at node {node}"));
    }
}

/// How many messages there are, if it can be said.
fn count(tenant: &dyn TenantRetained, clock: SystemClock) -> Option<u64> {
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
