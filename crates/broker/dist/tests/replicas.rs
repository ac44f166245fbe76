//! Several nodes whose routes are in replicas: whatever is acknowledged at one is seen at all that answer.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use ratatosk_client::Pipe;
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::dist::{
    Dist, InboxRoute, Receiver, Resolution, StoredKey, StoredRoute, TenantRoutes,
};
use ratatosk_contract::{Call, TenantId, inbox::InboxId};
use ratatosk_dist::{DistCoprocessor, DistService, RouteDivision};
use ratatosk_stores::trio::{Kind, Trio};
use ratatosk_stores::{PATIENCE, until};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

const KEYSPACE: &str = "dist.route";
/// All match the topic `t`; between their keys ranges are parted.
const FILTERS: [&str; 3] = ["#", "+", "t"];
const CUTS: [&[u8]; 2] = [b"t\xff+", b"t\xfft"];

/// Three nodes, each with a store and a service.
struct Cluster(Trio<DistService>);

impl Deref for Cluster {
    type Target = Trio<DistService>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Cluster {
    fn new(name: &str) -> Self {
        let kind = Kind {
            keyspace: KEYSPACE,
            service: Box::new(|_| DistService::replicated()),
            coprocessor: |feed| Box::new(DistCoprocessor::feeding(feed)),
            pipe: |router, clock| Pipe::dividing(Box::new(router), KEYSPACE, RouteDivision, clock),
            connect: Box::new(|service: &DistService, pipe, replicas| {
                service.connect(Arc::new(pipe), Box::new(replicas));
            }),
        };
        Cluster(Trio::new(name, kind))
    }

    fn routes(&self, node: usize) -> Arc<dyn TenantRoutes> {
        self.services[node].tenant(&TenantId::new("t"))
    }

    /// Has a session's route come at a node; answers who is told.
    fn ask(&self, node: usize, inbox: u64) -> mpsc::Receiver<bool> {
        let (tell, told) = mpsc::sync_channel(1);
        let receiver = Receiver::Inbox(InboxRoute {
            inbox: InboxId(inbox),
            incarnation: 1,
            options: SubscriptionOptions::new(Qos::AtLeastOnce),
            subscription_id: None,
        });
        let tell = Box::new(move |is_done| {
            let _ = tell.send(is_done);
        });
        let asked = self.routes(node).add_stored(&filter_of(inbox), receiver, tell);
        assert_eq!(asked, Call::Pending);
        told
    }

    /// Has it come, however often it has to be asked for.
    fn add(&self, node: usize, inbox: u64) {
        while self.ask(node, inbox).recv_timeout(2 * PATIENCE) != Ok(true) {}
    }

    /// The stored routes of a node.
    fn stored(&self, node: usize) -> Vec<(Box<str>, u64)> {
        let routes = self.routes(node);
        let (mut found, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = routes.stored(from, &mut found);
        }
        let name = |held: StoredRoute| (held.filter, held.route.inbox.0);
        let mut stored: Vec<_> = found.into_iter().map(name).collect();
        stored.sort();
        stored
    }
}

fn filter_of(inbox: u64) -> TopicFilter<'static> {
    let text = FILTERS[usize::try_from(inbox % 3).expect("few")];
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).expect("a filter")
}

/// How many sessions a publish finds, if its node may answer.
fn publish(routes: &dyn TenantRoutes) -> Option<u64> {
    let epoch = routes.may_answer()?;
    let mut found = Resolution::default();
    routes.resolve(TopicName::parse("t", &TopicLimits::PROTOCOL).expect("a topic"), &mut found);
    (found.epoch == epoch).then_some(found.inboxes.len() as u64)
}

/// Waits until a node may answer; answers how many sessions are found.
fn found(routes: &dyn TenantRoutes) -> u64 {
    until("it may answer", || publish(routes))
}

/// DUR-012, KV-010, DIST-005
#[test]
fn a_route_acknowledged_at_one_node_is_seen_by_a_publish_at_every_other() {
    let cluster = Cluster::new("dist-seen");
    for inbox in 1..=12 {
        let node = usize::try_from(inbox % 3).expect("few");
        cluster.add(node, inbox);
        for node in 0..3 {
            assert_eq!(found(&*cluster.routes(node)), inbox, "at node {node}");
        }
    }
    let key = StoredKey { inbox: InboxId(12), incarnation: 1, member: None };
    let (tell, told) = mpsc::sync_channel(1);
    let tell = Box::new(move |is_done| {
        let _ = tell.send(is_done);
    });
    let asked = cluster.routes(1).remove_stored(&[(filter_of(12), key)], tell);
    assert_eq!((asked, told.recv_timeout(PATIENCE)), (Call::Pending, Ok(true)));
    (0..3).for_each(|node| assert_eq!(found(&*cluster.routes(node)), 11, "at node {node}"));
}

/// DUR-012: it answers no more before what it lacks is acknowledged, and again when it has it.
#[test]
fn a_node_that_is_cut_off_does_not_answer_past_what_it_lacks() {
    let cluster = Cluster::new("dist-cut");
    cluster.transfer(1);
    cluster.add(0, 1);
    (0..3).for_each(|node| assert_eq!(found(&*cluster.routes(node)), 1));
    cluster.stores.cut_off(3);
    let told = cluster.ask(0, 2);
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
    assert_eq!(publish(&*cluster.routes(2)), None, "it is cut off");
    (0..2).for_each(|node| assert_eq!(found(&*cluster.routes(node)), 2));
    cluster.stores.mend(3);
    assert_eq!(found(&*cluster.routes(2)), 2);
}

/// DIST-016: whichever it is, and what changes meanwhile is acknowledged and matched by, too.
#[test]
fn publishes_are_routed_and_routes_come_with_one_node_of_three_lost() {
    for lost in 0..3 {
        let mut cluster = Cluster::new("dist-lost");
        cluster.split(CUTS[0]);
        cluster.transfer(1);
        (1..=6).for_each(|inbox| cluster.add(0, inbox));
        let left: Vec<usize> = (0..3).filter(|node| *node != lost).collect();
        cluster.0.kill(lost);
        for node in &left {
            assert_eq!(found(&*cluster.routes(*node)), 6, "at node {node}, without {lost}");
        }
        for (inbox, node) in (7..=12).zip(left.iter().cycle()) {
            cluster.add(*node, inbox);
            for node in &left {
                assert_eq!(found(&*cluster.routes(*node)), inbox, "at node {node}, without {lost}");
            }
        }
    }
}

/// DUR-012, DIST-004: while ranges part, leaders change and a node is cut off.
#[test]
fn no_publish_misses_what_was_acknowledged_before_it_whatever_happens_to_the_ranges() {
    let cluster = Cluster::new("dist-storm");
    let (acked, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let publishers: Vec<_> = (0..3)
        .map(|node| {
            let routes = cluster.routes(node);
            let (acked, is_over) = (Arc::clone(&acked), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut answered = 0_u64;
                while !is_over.load(Ordering::Acquire) {
                    let before = acked.load(Ordering::Acquire);
                    if let Some(found) = publish(&*routes) {
                        assert!(found >= before, "node {node}: {found} of {before}");
                        answered += 1;
                    }
                    std::thread::yield_now();
                }
                answered
            })
        })
        .collect();
    for inbox in 1..=30 {
        match inbox {
            5 => cluster.split(CUTS[0]),
            10 => cluster.transfer(2),
            12 => cluster.stores.cut_off(3),
            15 => cluster.split(CUTS[1]),
            18 => cluster.stores.mend(3),
            22 => cluster.transfer(1),
            25 => cluster.stores.cut_off(2),
            28 => cluster.stores.mend(2),
            _ => {}
        }
        cluster.add(if inbox % 2 == 0 { 0 } else { 1 }, inbox);
        acked.store(inbox, Ordering::Release);
    }
    (0..3).for_each(|node| assert_eq!(found(&*cluster.routes(node)), 30, "at node {node}"));
    is_over.store(true, Ordering::Release);
    for publisher in publishers {
        let answered = publisher.join().expect("no publish misses anything");
        assert!(answered > 0, "every node has answered");
    }
    let first = cluster.stored(0);
    assert_eq!(first.len(), 30);
    (1..3).for_each(|node| assert_eq!(cluster.stored(node), first, "at node {node}"));
}
