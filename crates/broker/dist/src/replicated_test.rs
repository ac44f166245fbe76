//! Routes that all nodes have: asked for, applied, seen.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::held::HeldKeyspace;
use ratatosk_contract::dist::{
    AddError, Dist, Receiver, ReceiverKey, Resolution, Restored, StoredKey, StoredRoute,
    TenantRoutes,
};
use ratatosk_contract::group::{Group, MemberState};
use ratatosk_contract::inbox::InboxId;
use ratatosk_contract::{Call, ShardId, TenantId};
use ratatosk_engine::KeyRange;
use ratatosk_topic::{TopicLimits, TopicName};

use crate::durable_fixture::{Life, filter};
use crate::{DistCoprocessor, DistService, Loan, Replica, Replicas};

const ONE: Life = Life { member: 9, inbox: 65, incarnation: 1_000 };
const TWO: Life = Life { member: 8, inbox: 66, incarnation: 2_000 };

/// A range's first key, and whether it may be answered for.
type Start = (&'static [u8], Arc<AtomicBool>);
type Told = Box<dyn FnOnce() + Send>;

/// Replicas in the hands of the test.
#[derive(Clone, Default)]
struct Looks {
    /// By the first key.
    loans: Arc<Mutex<Vec<Start>>>,
    asked: Arc<AtomicUsize>,
    waiting: Arc<Mutex<Vec<Told>>>,
}

struct Look {
    may: Arc<AtomicBool>,
    looks: Looks,
}

impl Loan for Look {
    fn may_answer(&self) -> bool {
        self.may.load(Ordering::Relaxed)
    }

    fn wait(&self, told: Told) {
        self.looks.waiting.lock().push(told);
    }
}

impl Looks {
    fn of(starts: &[&'static [u8]]) -> Self {
        let looks = Self::default();
        *looks.loans.lock() = starts.iter().map(|start| (*start, Arc::default())).collect();
        looks
    }

    fn set(&self, at: usize, may: bool) {
        self.loans.lock()[at].1.store(may, Ordering::Relaxed);
    }
}

impl Replicas for Looks {
    fn look(&self) -> Vec<Replica> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let loans = self.loans.lock();
        let end = |at: usize| loans.get(at + 1).map(|(start, _)| Bytes::from_static(start));
        let replica = |(at, (start, may)): (usize, &Start)| Replica {
            keys: KeyRange { start: Bytes::from_static(start), end: end(at) },
            loan: Box::new(Look { may: Arc::clone(may), looks: self.clone() }),
        };
        loans.iter().enumerate().map(replica).collect()
    }
}

/// A service, and the log that it asks and follows.
struct Node {
    keyspace: Arc<HeldKeyspace>,
    service: Arc<DistService>,
    looks: Looks,
}

impl Node {
    fn new() -> Self {
        let service = Arc::new(DistService::replicated());
        let coprocessor = DistCoprocessor::feeding(&Arc::downgrade(&service));
        let keyspace = HeldKeyspace::new(Box::new(coprocessor));
        let looks = Looks::of(&[b""]);
        service.connect(Arc::clone(&keyspace) as _, Box::new(looks.clone()));
        Self { keyspace, service, looks }
    }

    fn routes(&self) -> Arc<dyn TenantRoutes> {
        self.service.tenant(&TenantId::new("t"))
    }

    /// Asks for a route; what is told comes by the channel.
    fn add(&self, text: &str, receiver: Receiver) -> (Option<AddError>, mpsc::Receiver<bool>) {
        let (tell, told) = mpsc::sync_channel(1);
        let tell = Box::new(move |is_done| {
            let _ = tell.send(is_done);
        });
        match self.routes().add_stored(&filter(text), receiver, tell) {
            Call::Pending => (None, told),
            Call::Ready(Err(error)) => (Some(error), told),
            Call::Ready(Ok(_)) => panic!("nothing is decided here"),
        }
    }

    fn remove(&self, routes: &[(&str, Life)]) -> mpsc::Receiver<bool> {
        let (tell, told) = mpsc::sync_channel(2);
        let tell = Box::new(move |is_done| {
            let _ = tell.send(is_done);
        });
        let keys = routes.iter().map(|(text, life)| (filter(text), key(text, *life)));
        assert_eq!(self.routes().remove_stored(&keys.collect::<Vec<_>>(), tell), Call::Pending);
        told
    }

    fn resolve(&self, topic: &str) -> Resolution {
        let mut found = Resolution::default();
        let topic = TopicName::parse(topic, &TopicLimits::PROTOCOL).expect("a topic");
        self.routes().resolve(topic, &mut found);
        found
    }

    fn inboxes(&self, topic: &str) -> Vec<u64> {
        self.resolve(topic).inboxes.iter().map(|route| route.inbox.0).collect()
    }

    fn group(&self) -> Option<Arc<Group>> {
        self.resolve("a").groups.pop()
    }
}

fn key(text: &str, life: Life) -> StoredKey {
    let Life { member, inbox, incarnation } = life;
    let member = filter(text).share().map(|_| member);
    StoredKey { inbox: InboxId(inbox), incarnation, member }
}

/// DIST-005: nothing is decided here; what was told to be there is seen.
#[test]
fn a_route_is_seen_once_it_is_applied_and_then_its_session_is_told() {
    let node = Node::new();
    let (refused, told) = node.add("a", ONE.receiver("a", 1));
    assert_eq!(refused, None);
    assert_eq!(node.inboxes("a"), []);
    assert!(told.try_recv().is_err(), "it is on its way");
    let epoch = node.routes().epoch();
    node.keyspace.settle();
    assert_eq!(told.recv(), Ok(true));
    assert_eq!(node.inboxes("a"), [65]);
    assert!(node.routes().epoch() > epoch);

    let told = node.remove(&[("a", ONE), ("b", ONE)]);
    assert_eq!(node.inboxes("a"), [65]);
    node.keyspace.settle();
    assert_eq!((told.recv(), told.recv().ok()), (Ok(true), None), "once");
    assert_eq!(node.inboxes("a"), []);
}

/// DIST-001, DUR-006: what is there is asked for again, whatever the room, for others may lack it.
#[test]
fn who_asks_for_what_he_has_waits_for_the_log_and_is_not_refused() {
    let node = Node::new();
    let _ = node.add("a", ONE.receiver("a", 1));
    node.keyspace.settle();
    node.keyspace.set_busy(true);
    let (refused, told) = node.add("a", ONE.receiver("a", 1));
    assert_eq!((refused, node.keyspace.waiting()), (None, 1));
    assert!(told.try_recv().is_err());
    let epoch = node.routes().epoch();
    node.keyspace.settle();
    assert_eq!((told.recv(), node.routes().epoch()), (Ok(true), epoch));
    assert_eq!(node.add("a", ONE.receiver("a", 2)).0, Some(AddError::Busy));
    assert_eq!(node.add("b", ONE.receiver("b", 1)).0, Some(AddError::Busy));
    let told = node.remove(&[("a", ONE)]);
    node.keyspace.settle();
    assert_eq!(told.recv(), Ok(true), "removals are never refused");
}

/// MQTT-086
#[test]
fn a_group_is_full_by_what_is_here() {
    let node = Node::new();
    let limited = |life: Life| match life.receiver("$share/g/a", 1) {
        Receiver::Member { member, .. } => Receiver::Member { member, members_max: 1 },
        other => other,
    };
    assert_eq!(node.add("$share/g/a", limited(ONE)).0, None);
    node.keyspace.settle();
    let full = Some(AddError::GroupFull { members_max: 1 });
    assert_eq!(node.add("$share/g/a", limited(TWO)).0, full);
    assert_eq!(node.add("$share/g/a", limited(ONE)).0, None, "it is a member");
    let nobody = match ONE.receiver("$share/h/a", 1) {
        Receiver::Member { member, .. } => Receiver::Member { member, members_max: 0 },
        other => other,
    };
    assert_eq!(node.add("$share/h/a", nobody).0, Some(AddError::GroupFull { members_max: 0 }));
}

/// DIST-002, DIST-013: neither takes the other away, whichever comes or goes first.
#[test]
fn a_persistent_member_has_a_place_beside_a_transient_one_of_its_identity() {
    let node = Node::new();
    let text = "$share/g/a";
    let transient = Life { inbox: 0, ..ONE };
    let member = ReceiverKey::Member { id: ONE.member, incarnation: u64::MAX };
    let _ = node.add(text, ONE.receiver(text, 1));
    node.keyspace.settle();
    let added = node.routes().add(&filter(text), transient.transient());
    assert!(matches!(added, Call::Ready(Ok(_))));
    assert_eq!(node.group().map(|group| group.members.len()), Some(2));
    let _ = node.remove(&[(text, ONE)]);
    node.keyspace.settle();
    assert_eq!(node.group().map(|group| group.members.len()), Some(1));
    let _ = node.add(text, ONE.receiver(text, 1));
    node.keyspace.settle();
    assert_eq!(node.routes().remove(&filter(text), &member), Call::Ready(true));
    let left = node.group().expect("the persistent one is there");
    assert_eq!(left.members[0].incarnation, ONE.inbox);
    assert_eq!(node.routes().remove(&filter(text), &member), Call::Ready(false));
}

#[test]
fn stored_routes_come_and_go_by_the_log_alone() {
    let node = Node::new();
    let _ = node.add("a", ONE.receiver("a", 1));
    node.keyspace.settle();
    let routes = node.routes();
    let added = routes.add(&filter("b"), ONE.receiver("b", 1));
    assert_eq!(added, Call::Ready(Err(AddError::Busy)));
    let receiver = ReceiverKey::Inbox { inbox: InboxId(65), incarnation: u64::MAX };
    assert_eq!(routes.remove(&filter("a"), &receiver), Call::Ready(false));
    let route = routes.find(&filter("a")).expect("it is there");
    assert_eq!(routes.remove_route(route, &receiver), Call::Ready(false));
    assert_eq!(routes.remove_each(&[(filter("a"), receiver)]), 0);
    assert_eq!((node.keyspace.waiting(), node.inboxes("a")), (0, vec![65]));
}

/// DIST-014: whoever serves the session says what is right.
#[test]
fn a_repair_writes_what_is_missing_and_nothing_else() {
    let node = Node::new();
    let restore = |text: &str| node.routes().restore(&filter(text), ONE.receiver(text, 1));
    assert_eq!(restore("a"), Restored::Repaired);
    node.keyspace.settle();
    assert_eq!((restore("a"), node.keyspace.waiting()), (Restored::Known, 0));
    let mut found: Vec<StoredRoute> = Vec::new();
    assert_eq!(node.routes().stored(0, &mut found), None);
    let key = found[0].stored_key();
    assert_eq!((key.inbox, key.incarnation, key.member), (InboxId(65), 65, None));
}

/// DIST-011: what the inbox knows of a member that it serves, publishers of its node know.
#[test]
fn a_member_that_is_served_here_is_known_by_its_state() {
    let node = Node::new();
    let text = "$share/g/a";
    let state = Arc::<MemberState>::default();
    let served = || match ONE.receiver(text, 1) {
        Receiver::Member { mut member, members_max } => {
            member.state = Arc::clone(&state);
            Receiver::Member { member, members_max }
        }
        other => other,
    };
    let _ = node.add(text, ONE.receiver(text, 1));
    let _ = node.add(text, TWO.receiver(text, 1));
    node.keyspace.settle();
    let is_online = || {
        let group = node.group().expect("it has members");
        let of = |id| group.members.iter().find(|held| held.id == id).expect("it is one");
        (of(ONE.member).is_online(), of(TWO.member).is_online())
    };
    assert_eq!(is_online(), (true, true));
    // Its inbox is served here from now on.
    assert_eq!(node.routes().restore(&filter(text), served()), Restored::Known);
    state.offline.store(true, Ordering::Relaxed);
    assert_eq!(is_online(), (false, true));
    // Applied again, it is the same.
    let _ = node.add(text, served());
    node.keyspace.settle();
    assert_eq!(is_online(), (false, true));
}

/// KV-010, DUR-012
#[test]
fn nothing_is_answered_unless_all_replicas_of_the_tenant_may() {
    let node = Node::new();
    let routes = node.routes();
    assert!(routes.is_replicated());
    assert_eq!(routes.may_answer(), None);
    node.looks.set(0, true);
    assert_eq!(routes.may_answer(), Some(routes.epoch()));
    let asked = node.looks.asked.load(Ordering::Relaxed);
    assert_eq!(routes.may_answer(), Some(routes.epoch()));
    assert_eq!(node.looks.asked.load(Ordering::Relaxed), asked, "what is known is good");

    // It is parted within the tenant's keys. Of the whole one nothing may be answered any more.
    let whole = Arc::clone(&node.looks.loans.lock()[0].1);
    let parted = Looks::of(&[b"", b"t\xffm", b"z"]);
    *node.looks.loans.lock() = std::mem::take(&mut *parted.loans.lock());
    whole.store(false, Ordering::Relaxed);
    node.looks.set(0, true);
    assert_eq!(routes.may_answer(), None);
    node.looks.set(1, true);
    assert_eq!(routes.may_answer(), Some(routes.epoch()), "the last one has no key of it");
    // One is gone.
    let gone = node.looks.loans.lock().remove(0).1;
    gone.store(false, Ordering::Relaxed);
    assert_eq!(routes.may_answer(), None);
}

#[test]
fn who_waits_is_told_by_the_replica_that_is_late_or_when_ranges_come() {
    let node = Node::new();
    let told = Arc::new(AtomicUsize::new(0));
    let wait = || {
        let told = Arc::clone(&told);
        node.routes().when_may_answer(Box::new(move || {
            told.fetch_add(1, Ordering::Relaxed);
        }));
    };
    assert_eq!(node.routes().may_answer(), None);
    wait();
    node.looks.set(0, true);
    assert_eq!(node.routes().may_answer(), Some(node.routes().epoch()));
    wait();
    assert_eq!(node.looks.waiting.lock().len(), 2, "also if it may by now");
    let waiting = std::mem::take(&mut *node.looks.waiting.lock());
    waiting.into_iter().for_each(|told| told());
    assert_eq!(told.load(Ordering::Relaxed), 2);

    node.looks.set(0, false);
    node.looks.loans.lock().clear();
    assert_eq!(node.routes().may_answer(), None);
    wait();
    assert!(node.looks.waiting.lock().is_empty() && told.load(Ordering::Relaxed) == 2);
    node.service.uncover(77);
    assert_eq!(told.load(Ordering::Relaxed), 3);
}

#[test]
fn what_is_not_connected_takes_nothing_and_answers_nothing() {
    let service = DistService::replicated();
    let routes = service.tenant(&TenantId::new("t"));
    let told = || -> Box<dyn FnOnce(bool) + Send> { Box::new(|_| panic!("nobody is told")) };
    let added = routes.add_stored(&filter("a"), ONE.receiver("a", 1), told());
    assert_eq!(added, Call::Ready(Err(AddError::Busy)));
    let removed = routes.remove_stored(&[(filter("a"), key("a", ONE))], told());
    assert_eq!(removed, Call::Ready(0));
    assert_eq!(routes.may_answer(), None);
    let transient = routes.add(&filter("a"), Receiver::Shard(ShardId(0)));
    assert!(matches!(transient, Call::Ready(Ok(_))));
}
