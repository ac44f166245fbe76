//! The services over ranges that three stores keep: what one process has written is what the next one
//! finds, at another store, whatever became of the ranges meanwhile.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver as Told};

use ratatosk_client::{Pipe, Poller, Router};
use ratatosk_clock::{Epoch, Instant, SystemClock, Timestamp};
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::dist::{Dist as _, InboxRoute, Receiver, Resolution};
use ratatosk_contract::inbox::{Answer, Attach, DueWill, Inbox as _, InboxId, QueueLimits};
use ratatosk_contract::retain::{Cursor, Page, Retain as _, RetainLimits};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{
    ClientId, Message, PublisherId, ReplyTo, SessionIdentity, SessionRef, ShardId, TenantId, Ticket,
};
use ratatosk_dist::{DistCoprocessor, DistService, RouteDivision};
use ratatosk_inbox::{InboxCoprocessor, InboxService};
use ratatosk_retain::{RetainCoprocessor, RetainDivision, RetainService};
use ratatosk_store::command;
use ratatosk_store::coprocessor::Factory;
use ratatosk_store::node::Handle;
use ratatosk_stores::{PATIENCE, Stores, until, version_of, wait};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

const DIST: &str = "dist.route";
const INBOX: &str = "inbox.session";
const RETAIN: &str = "retain.message";

/// Three stores that keep one range for each service, and a way to them.
struct Cluster {
    // Before the stores: it has handles to them.
    pollers: Vec<Poller>,
    router: Router,
    clock: SystemClock,
    stores: Stores,
}

/// Remembers what it is told.
struct Listener(mpsc::SyncSender<(u64, Settlement)>);

impl Sessions for Listener {
    fn inbox_ready(&self, _session: SessionRef) {}

    fn deliver(&self, _session: SessionRef, _delivery: Delivery) {}

    fn settle(&self, _session: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.0.send((ticket.0, settlement)).expect("the test lives");
    }

    fn answered(&self, _reply_to: ReplyTo, _answer: Answer) {}

    fn publish(&self, _will: DueWill) {}
}

fn listener() -> (Arc<Listener>, Told<(u64, Settlement)>) {
    let (told, tells) = mpsc::sync_channel(100);
    (Arc::new(Listener(told)), tells)
}

fn dist() -> Factory {
    Box::new(|| Box::new(DistCoprocessor::new()))
}

fn inbox() -> Factory {
    Box::new(|| Box::new(InboxCoprocessor::new()))
}

fn retain() -> Factory {
    Box::new(|| Box::new(RetainCoprocessor::new()))
}

impl Cluster {
    fn new(name: &str) -> Self {
        let clock = SystemClock::new();
        let stores = Stores::new(name, 3, &[(DIST, dist), (INBOX, inbox), (RETAIN, retain)]);
        for keyspace in [DIST, INBOX, RETAIN] {
            stores.change(&stores.whole(keyspace), &[1, 2, 3]);
        }
        let router = Router::new(clock);
        stores.live().for_each(|(store, handle)| router.attach(store, Arc::new(handle)));
        Self { pollers: Vec::new(), router, clock, stores }
    }

    /// What a service writes to.
    fn pipe(&mut self, keyspace: &str) -> Arc<Pipe> {
        let ranges = Box::new(self.router.clone());
        let pipe = match keyspace {
            DIST => Pipe::dividing(ranges, keyspace, RouteDivision, self.clock),
            RETAIN => Pipe::dividing(ranges, keyspace, RetainDivision, self.clock),
            _ => Pipe::new(ranges, keyspace, self.clock),
        };
        let poller = Poller::start(self.router.clone(), vec![pipe.clone()]);
        self.pollers.push(poller.expect("a thread"));
        Arc::new(pipe)
    }

    /// What a service at one of the stores begins with.
    fn pipe_at(&self, store: u64, keyspace: &str) -> Arc<Pipe> {
        Arc::new(Pipe::new(Box::new(self.stores.handle(store)), keyspace, self.clock))
    }

    /// Parts the one range of a keyspace at a key.
    fn split(&self, keyspace: &str, key: &[u8]) {
        let whole = self.stores.whole(keyspace);
        until("it is parted", || {
            let handle = self.stores.handle(self.stores.leader_now(whole.group)?);
            let order = command::split(version_of(&handle, &whole)?, key);
            let answers = wait(|reply| handle.propose(whole.group, order, reply));
            matches!(answers, Some(Ok(_))).then_some(())
        });
        until("all know it", || {
            let has_two = |(_, handle): (u64, Handle)| handle.ranges(keyspace).len() == 2;
            self.stores.live().all(has_two).then_some(())
        });
    }

    /// Ends the store that leads a keyspace's first range, as a crash would; answers another.
    fn kill_leader(&mut self, keyspace: &str) -> u64 {
        let leader = self.stores.leader(self.stores.whole(keyspace).group);
        self.router.detach(leader);
        self.stores.kill(leader);
        leader % 3 + 1
    }
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).expect("a filter")
}

fn tenant() -> TenantId {
    TenantId::new("t")
}

fn message<'a>(topic: &'a str, payload: &'a str) -> Message<'a> {
    Message {
        topic,
        payload: payload.as_bytes(),
        shared: None,
        properties: &[],
        qos: Qos::AtLeastOnce,
        retain: true,
        publisher: PublisherId(1),
        accepted: Instant::ZERO,
        deadline: None,
    }
}

fn session() -> SessionRef {
    SessionRef { shard: ShardId(0), slot: 0, generation: 0 }
}

fn epoch() -> Epoch {
    Epoch::new(Instant::ZERO, Timestamp::from_millis(1_700_000_000_000))
}

/// The inboxes that a message to a topic goes to.
fn matches(service: &DistService, topic: &str) -> Vec<u64> {
    let mut found = Resolution::default();
    let topic = TopicName::parse(topic, &TopicLimits::PROTOCOL).expect("a topic");
    service.tenant(&tenant()).resolve(topic, &mut found);
    let mut inboxes: Vec<_> = found.inboxes.iter().map(|route| route.inbox.0).collect();
    inboxes.sort_unstable();
    inboxes
}

/// DIST-004: the routes of a tenant are in two ranges, and a message finds those of both.
#[test]
fn a_publish_reaches_the_routes_of_all_ranges() {
    let mut cluster = Cluster::new("stores-dist");
    let service = DistService::new().kept_in(cluster.pipe(DIST));
    let routes = service.tenant(&tenant());
    let add = |text: &str, inbox: u64| {
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        let (inbox, subscription_id) = (InboxId(inbox), None);
        let route = InboxRoute { inbox, incarnation: 1, options, subscription_id };
        let added = routes.add(&filter(text), Receiver::Inbox(route));
        assert!(added.ready().is_some_and(|added| added.is_ok()));
    };
    (0..20).for_each(|number| add(&format!("{}/+", char::from(b'a' + number)), u64::from(number)));
    until("they are stored", || (cluster.stores.keys(1, DIST).len() == 20).then_some(()));
    let middle = cluster.stores.keys(1, DIST).remove(10);
    cluster.split(DIST, &middle);
    (0..20).for_each(|number| {
        let text = format!("{}/#", char::from(b'a' + number));
        add(&text, 100 + u64::from(number));
    });
    add("#", 1_000);
    until("they are stored", || (cluster.stores.keys(1, DIST).len() == 41).then_some(()));
    let other = cluster.kill_leader(DIST);
    until("it has applied all", || {
        let next = DistService::new().kept_in(cluster.pipe_at(other, DIST));
        next.restore().expect("it reads what was written");
        let finds = |number: u8| {
            let topic = format!("{}/x", char::from(b'a' + number));
            matches(&next, &topic) == [u64::from(number), 100 + u64::from(number), 1_000]
        };
        (0..20).all(finds).then_some(())
    });
}

/// RET-006: what was acknowledged is there after a split, another leader, and a start at another store.
#[test]
fn retained_messages_survive_a_split_and_another_leader() {
    let mut cluster = Cluster::new("stores-retain");
    let (listener, told) = listener();
    let service = RetainService::new(RetainLimits::default()).kept_in(
        cluster.pipe(RETAIN),
        listener,
        epoch(),
    );
    service.restore().expect("there is nothing yet");
    let store = |topic: &str, payload: &str, ticket: u64| {
        let reply = ReplyTo { session: session(), ticket: Ticket(ticket) };
        let call = service.tenant(&tenant()).store(&message(topic, payload), Some(reply));
        assert!(call.ready().is_none(), "it waits until it is durable");
        let settled = told.recv_timeout(PATIENCE).expect("an answer");
        assert_eq!(settled, (ticket, Settlement::Done));
    };
    let topics: Vec<_> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
    (0..).zip(&topics).for_each(|(ticket, topic)| store(topic, "1", ticket));
    let middle = cluster.stores.keys(1, RETAIN).remove(13);
    cluster.split(RETAIN, &middle);
    (100..).zip(&topics[..20]).for_each(|(ticket, topic)| store(topic, "2", ticket));
    let other = cluster.kill_leader(RETAIN);
    (200..).zip(&topics[..10]).for_each(|(ticket, topic)| store(topic, "3", ticket));
    let expected = |place: usize| {
        if place < 10 {
            "3"
        } else if place < 20 {
            "2"
        } else {
            "1"
        }
    };
    let expected: Vec<_> = (0..26).map(|place| (topics[place].clone(), expected(place))).collect();
    until("it has applied all", || {
        let (listener, _told) = self::listener();
        let next = RetainService::new(RetainLimits::default());
        let next = next.kept_in(cluster.pipe_at(other, RETAIN), listener, epoch());
        next.restore().expect("it reads what was written");
        let mut page = Page { messages_max: 100, bytes_max: usize::MAX, ..Page::default() };
        let mut cursor = Cursor::Start;
        while cursor != Cursor::End {
            let retained = next.tenant(&tenant());
            retained.scan(Instant::ZERO, &filter("#"), &mut cursor, &mut page);
        }
        let text = |held: &[u8]| String::from_utf8_lossy(held).into_owned();
        let found = page.messages.iter().map(|held| (held.topic.to_string(), text(&held.payload)));
        let mut found: Vec<_> = found.collect();
        found.sort();
        let is_it = found.iter().map(|(topic, payload)| (topic.as_str(), payload.as_str()));
        is_it.eq(expected.iter().map(|(topic, payload)| (topic.as_str(), *payload))).then_some(())
    });
}

/// RET-009, KV-014: one command ends what is in several ranges.
#[test]
fn an_order_to_end_retained_messages_is_carried_out_in_every_range() {
    let mut cluster = Cluster::new("stores-retain-ended");
    let (listener, told) = listener();
    let service = RetainService::new(RetainLimits::default()).kept_in(
        cluster.pipe(RETAIN),
        listener,
        epoch(),
    );
    let retained = service.tenant(&tenant());
    let store = |topic: &str, payload: &str, ticket: u64| {
        let reply = ReplyTo { session: session(), ticket: Ticket(ticket) };
        assert!(retained.store(&message(topic, payload), Some(reply)).ready().is_none());
        let settled = told.recv_timeout(PATIENCE).expect("an answer");
        assert_eq!(settled, (ticket, Settlement::Done));
    };
    let topics: Vec<_> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
    (0..).zip(&topics).for_each(|(ticket, topic)| store(topic, "1", ticket));
    let middle = cluster.stores.keys(1, RETAIN).remove(13);
    cluster.split(RETAIN, &middle);
    assert_eq!((retained.expire_all(), service.expire_ordered(100)), (26, 26));
    // Whoever clears is told once the order is carried out, too.
    store("a", "", 100);
    until("all have carried it out", || cluster.stores.keys(1, RETAIN).is_empty().then_some(()));
}

/// INBOX-013: a session expires, and its will is published, at whichever store leads by then.
#[test]
fn what_is_due_is_due_at_the_next_leader() {
    let mut cluster = Cluster::new("stores-inbox");
    let (listener, told) = listener();
    let (routes, pipe) = (Arc::new(DistService::new()), cluster.pipe(INBOX));
    let service = InboxService::new(routes, listener).kept_in(pipe, epoch());
    let limits = QueueLimits {
        messages_max: 100,
        filters_max: 10,
        members_max: 10,
        qos0_drop_oldest: false,
        qos0_when_offline: false,
    };
    let identity = SessionIdentity { tenant: tenant(), user: None, client: ClientId::new("c") };
    let will = Some((Arc::new(message("will", "gone").to_stored()), 20));
    let (owner, expiry_s) = (session(), Some(100));
    let attach = Attach {
        identity: &identity,
        owner,
        is_clean: false,
        expiry_s,
        limits,
        will,
        now: Instant::ZERO,
    };
    let reply = ReplyTo { session: owner, ticket: Ticket(1) };
    let _attached = service.attach(&attach, Some(reply));
    let settled = told.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(settled, (1, Settlement::Done));
    let other = cluster.kill_leader(INBOX);
    until("it has applied all", || {
        let (listener, _told) = self::listener();
        let next = InboxService::new(Arc::new(DistService::new()), listener);
        let next = next.kept_in(cluster.pipe_at(other, INBOX), epoch());
        next.restore(Instant::from_millis(60_000)).expect("it reads what was written");
        if next.len() == 0 {
            return None;
        }
        let due = |seconds: u64| {
            let mut wills = Vec::new();
            next.expire(Instant::from_millis(seconds * 1_000), 10, &mut wills);
            wills.iter().map(|will| will.message.topic.to_string()).collect::<Vec<_>>()
        };
        assert_eq!((due(79), next.len()), (Vec::new(), 1));
        assert_eq!((due(80), next.len()), (vec!["will".to_owned()], 1));
        assert_eq!((due(161), next.len()), (Vec::new(), 0), "so is its session");
        Some(())
    });
}
