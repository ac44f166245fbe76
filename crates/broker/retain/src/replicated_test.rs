//! Behaviour of retained messages that several nodes have together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ratatosk_client::{Fate, Keyspace};
use ratatosk_clock::{Epoch, Instant};
use ratatosk_codec::Qos;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::retain::{Cursor, Page, Retain, RetainLimits, StoreOutcome};
use ratatosk_contract::{Call, Message, PublisherId, TenantId};
use ratatosk_telemetry::memory::{Share, post_changes};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::RetainService;
use crate::durable_fixture::{message, pairs, reply_to};
use crate::effect::Draft;
use crate::replicated_fixture::{Node, World, at, stamp};
use crate::schema::message::{Record, TopicHash, key};

const DONE: &[u8] = &[0];

impl World {
    fn store(&self, node: usize, topic: &str, payload: &str, ticket: u64) -> Call<StoreOutcome> {
        let reply_to = (ticket > 0).then(|| reply_to(ticket));
        self.nodes[node].tenant("t").store(&message(topic, payload, None), reply_to)
    }

    fn store_until(&self, node: usize, topic: &str, payload: &str, until_ms: u64) {
        let message = message(topic, payload, Some(at(until_ms)));
        assert_eq!(self.nodes[node].tenant("t").store(&message, None), Call::Pending);
    }

    fn shown(&self, node: usize) -> Vec<(String, String)> {
        self.nodes[node].shown("t", Instant::ZERO)
    }

    /// What a node submitted first is in the log, and it is told.
    fn commit_and_tell(&mut self, node: usize) {
        let (_, done) = self.commit(node).expect("something was submitted");
        done(Fate::Applied(Bytes::from_static(DONE)));
    }
}

/// RET-001, DUR-009: with whom it was stored it shows at once, elsewhere once it is applied.
#[test]
fn a_message_shows_where_it_is_stored_and_then_everywhere() {
    let mut world = World::new(2);
    assert_eq!(world.store(0, "a", "1", 7), Call::Pending);
    assert_eq!((world.shown(0), world.shown(1)), (pairs(&[("a", "1")]), pairs(&[])));
    assert!(world.nodes[0].told.take().is_empty());
    world.commit_and_tell(0);
    assert_eq!(world.nodes[0].told.take(), [(7, Settlement::Done)]);
    assert_eq!(world.shown(1), []);
    assert!(world.apply(1));
    assert_eq!(world.shown(1), pairs(&[("a", "1")]));
    assert_eq!(world.store(1, "a", "", 8), Call::Pending);
    assert_eq!((world.shown(0), world.shown(1)), (pairs(&[("a", "1")]), pairs(&[])));
    world.settle();
    assert_eq!((world.shown(0), world.shown(1)), (pairs(&[]), pairs(&[])));
}

/// RET-001: each shows its own while the log has not decided.
#[test]
fn two_nodes_that_store_at_once_end_with_what_the_log_has_last() {
    for first in [0, 1] {
        let mut world = World::new(3);
        assert_eq!(world.store(0, "a", "0", 1), Call::Pending);
        assert_eq!(world.store(1, "a", "1", 2), Call::Pending);
        world.commit_and_tell(first);
        (0..3).for_each(|node| assert!(world.apply(node)));
        assert_eq!((world.shown(0), world.shown(1)), (pairs(&[("a", "0")]), pairs(&[("a", "1")])));
        assert_eq!(world.shown(2), pairs(&[("a", if first == 0 { "0" } else { "1" })]));
        world.settle();
        let last = if first == 0 { "1" } else { "0" };
        (0..3).for_each(|node| assert_eq!(world.shown(node), pairs(&[("a", last)])));
    }
}

/// DUR-002: nobody is shown for ever what may not be stored.
#[test]
fn a_change_that_came_to_nothing_is_taken_back() {
    let fates = [
        (Fate::Unknown, Settlement::Unknown),
        (Fate::Refused, Settlement::Busy),
        (Fate::Applied(Bytes::from_static(&[1])), Settlement::Unknown),
        (Fate::Applied(Bytes::from_static(&[2])), Settlement::Unknown),
    ];
    for (fate, settlement) in fates {
        let mut world = World::new(1);
        let _ = world.store(0, "a", "1", 0);
        world.settle();
        let lost = [("a", "2"), ("a", ""), ("b", "3")];
        for (ticket, (topic, payload)) in (1..).zip(lost) {
            assert_eq!(world.store(0, topic, payload, ticket), Call::Pending);
        }
        assert_eq!(world.shown(0), pairs(&[("b", "3")]));
        let expected = [&[("b", "3")][..], &[("a", "1"), ("b", "3")], &[("a", "1")]];
        for expected in expected {
            let lost = world.nodes[0].way.waiting.lock().pop_front();
            (lost.expect("it was submitted").1)(fate.clone());
            assert_eq!(world.shown(0), pairs(expected));
        }
        let told: Vec<_> = (1..=3).map(|ticket| (ticket, settlement)).collect();
        assert_eq!(world.nodes[0].told.take(), told);
        world.nodes[0].service.check_invariants();
    }
}

/// RET-001, KV-005: whoever brings a change again, with what is behind it, has the last one show in the end.
#[test]
fn a_change_that_is_in_the_log_twice_shows_once_and_gives_way_to_what_came_behind_it() {
    let mut world = World::new(2);
    for payload in ["1", "2"] {
        let _ = world.store(0, "a", payload, 0);
    }
    let again: Vec<_> = (0..2)
        .map(|_| {
            let (command, done) = world.commit(0).expect("it was submitted");
            (0..2).for_each(|node| assert!(world.apply(node)));
            (command, done)
        })
        .collect();
    world.nodes[0].way.waiting.lock().extend(again);
    world.commit_and_tell(0);
    (0..2).for_each(|node| assert!(world.apply(node)));
    world.settle();
    (0..2).for_each(|node| assert_eq!(world.shown(node), pairs(&[("a", "2")])));
    world.nodes[0].service.check_invariants();
}

/// RET-006: what it was told to be done it shows until it knows what came later.
#[test]
fn a_done_change_shows_until_the_replicas_have_it() {
    let mut world = World::new(2);
    let _ = world.store(0, "a", "0", 0);
    world.commit_and_tell(0);
    let _ = world.store(1, "a", "1", 0);
    world.commit_and_tell(1);
    assert_eq!(world.shown(0), pairs(&[("a", "0")]));
    // The data come without the log: "0" is not seen again.
    world.jump(0);
    assert_eq!(world.shown(0), pairs(&[("a", "0")]));
    world.nodes[0].hands.set(true);
    let messages = world.nodes[0].messages("t", Instant::ZERO).expect("it may answer");
    assert_eq!(&messages[0].payload[..], b"1");
    world.nodes[0].service.check_invariants();
}

/// KV-010, RET-006: nothing is read, nor is the cursor moved, and whoever waits is told.
#[test]
fn a_node_that_may_lack_something_reads_nothing_as_current() {
    let world = World::new(1);
    let _ = world.store(0, "a", "1", 0);
    let retained = world.nodes[0].tenant("t");
    let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).unwrap();
    let (mut cursor, mut page) = (Cursor::Start, Page::default());
    assert!(!retained.scan_current(Instant::ZERO, &filter, &mut cursor, &mut page));
    assert_eq!((&cursor, page.messages.len()), (&Cursor::Start, 0));
    let told = Arc::new(AtomicUsize::new(0));
    let tell = Arc::clone(&told);
    retained.when_current(Box::new(move || {
        tell.fetch_add(1, Ordering::Relaxed);
    }));
    assert_eq!(told.load(Ordering::Relaxed), 0);
    world.nodes[0].hands.set(true);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert!(retained.scan_current(Instant::ZERO, &filter, &mut cursor, &mut page));
    assert_eq!(page.messages.len(), 1);
}

/// RET-001: only what is known to be clear everywhere is not written.
#[test]
fn a_topic_that_another_node_may_have_set_is_cleared_in_the_log() {
    let mut world = World::new(2);
    let _ = world.store(0, "a", "1", 0);
    world.commit_and_tell(0);
    assert_eq!(world.store(1, "a", "", 1), Call::Pending, "node 1 has not applied it");
    world.settle();
    assert_eq!((world.shown(0), world.shown(1)), (pairs(&[]), pairs(&[])));
    assert_eq!(world.store(1, "a", "", 2), Call::Ready(StoreOutcome::Cleared));
    let _ = world.store(1, "a", "2", 3);
    assert_eq!(world.store(1, "a", "", 4), Call::Pending);
    assert_eq!(world.store(1, "a", "", 5), Call::Pending, "it is not cleared yet");
    world.nodes[1].hands.set(false);
    world.settle();
    world.nodes[1].hands.set(false);
    assert_eq!(world.store(1, "a", "", 6), Call::Pending, "nobody knows");
}

/// RES-009: judged by what shows here; what others stored is there all the same.
#[test]
fn a_limit_holds_for_what_a_node_stores_itself() {
    let mut world = World::new(2);
    let limits = RetainLimits { topics_max: 2, ..RetainLimits::default() };
    let limited = world.nodes[0].tenant("t");
    limited.set_limits(limits);
    let _ = world.store(0, "a", "1", 0);
    for topic in ["b", "c"] {
        let _ = world.store(1, topic, "1", 0);
    }
    world.settle();
    assert_eq!(world.shown(0).len(), 3);
    assert_eq!(world.store(0, "d", "1", 1), Call::Ready(StoreOutcome::Refused));
    assert_eq!(world.store(0, "a", "2", 2), Call::Pending, "it has a place");
    let bytes = world.nodes[0].service.stats().bytes;
    limited.set_limits(RetainLimits { bytes_max: bytes, ..RetainLimits::default() });
    assert_eq!(world.store(0, "a", "22", 3), Call::Ready(StoreOutcome::Refused));
    assert_eq!((world.shown(0).len(), world.nodes[0].service.stats().refused), (3, 2));
}

/// RET-004: whoever leads has what expired removed, and no newer message with it.
#[test]
fn what_has_expired_is_ended_by_one_node_and_nothing_newer_is() {
    let mut world = World::new(3);
    world.store_until(1, "a", "old", 1_000);
    world.store_until(1, "b", "old", 1_000);
    world.settle();
    assert!((0..3).all(|node| world.shown(node).len() == 2));
    assert!((0..3).all(|node| world.nodes[node].shown("t", at(1_000)).is_empty()));
    for node in 0..3 {
        assert_eq!(world.nodes[node].service.collect(at(1_000), 10), 2, "it looked at them");
        assert_eq!(world.nodes[node].service.collect(at(1_000), 10), 0);
        let expected = usize::from(node == 0);
        assert_eq!(world.nodes[node].way.waiting.lock().len(), expected, "at node {node}");
    }
    // Another message comes before the end of the first.
    let _ = world.store(2, "a", "new", 0);
    world.commit_and_tell(2);
    world.settle();
    for node in &world.nodes {
        assert_eq!(node.shown("t", at(2_000)), pairs(&[("a", "new")]));
        assert_eq!((node.data().len(), node.service.stats().topics), (1, 1));
        assert_eq!(node.service.stats().expired, 1);
    }
}

/// RET-004: what was lost on its way, or another node did not end, is looked at again.
#[test]
fn an_end_that_was_lost_is_asked_for_again() {
    let mut world = World::new(2);
    world.store_until(0, "a", "1", 1_000);
    world.settle();
    (0..2).for_each(|node| assert_eq!(world.nodes[node].service.collect(at(1_000), 10), 1));
    let lost = world.nodes[0].way.waiting.lock().pop_front();
    (lost.expect("it was submitted").1)(Fate::Unknown);
    world.lead(1);
    assert_eq!(world.nodes[1].service.collect(at(10_999), 10), 0);
    assert_eq!(world.nodes[1].service.collect(at(11_000), 10), 1);
    world.settle();
    assert!(world.nodes.iter().all(|node| node.data().is_empty()));
}

/// RET-009: what was there when the order came ends, and nothing that was stored later, at whichever node.
#[test]
fn an_order_to_end_ends_what_was_there() {
    let mut world = World::new(2);
    for topic in ["a", "b", "c"] {
        let _ = world.store(1, topic, "1", 0);
    }
    world.settle();
    let _ = world.store(0, "d", "1", 0);
    assert_eq!(world.nodes[0].tenant("t").expire_all(), 4);
    let _ = world.store(1, "a", "2", 0);
    world.commit_and_tell(1);
    let _ = world.store(0, "b", "2", 0);
    for given_out in [2, 1, 0] {
        assert_eq!(world.nodes[0].service.expire_ordered(2), given_out);
    }
    assert_eq!(world.shown(0).len(), 4, "until the log has it");
    // Behind what was stored meanwhile both commands of it are lost: it begins again.
    world.commit_and_tell(0);
    world.commit_and_tell(0);
    for _ in 0..2 {
        let lost = world.nodes[0].way.waiting.lock().pop_front();
        (lost.expect("it was submitted").1)(Fate::Unknown);
    }
    for _ in 0..9 {
        world.nodes[0].service.expire_ordered(2);
        world.settle();
    }
    (0..2).for_each(|node| assert_eq!(world.shown(node), pairs(&[("a", "2"), ("b", "2")])));
}

/// RET-006: while ranges part, join, go and come nothing is missing that another range has.
#[test]
fn messages_come_and_go_with_their_keys() {
    let mut world = World::new(2);
    for topic in ["a", "b", "c", "d"] {
        let _ = world.store(0, topic, "1", 0);
    }
    world.settle();
    let mut keys = ["a", "b", "c", "d"].map(|topic| (key("t", TopicHash::of(topic)), topic));
    keys.sort();
    world.nodes[1].split(&keys[2].0);
    assert_eq!(world.shown(1).len(), 4);
    world.nodes[1].leave(0);
    let mut left: Vec<_> = keys[2..].iter().map(|(_, topic)| (*topic, "1")).collect();
    left.sort_unstable();
    assert_eq!(world.shown(1), pairs(&left));
    assert_eq!(world.nodes[1].messages("t", Instant::ZERO), None, "a range is not here");
    world.come(1, 0);
    assert_eq!(world.shown(1).len(), 4);
    world.nodes[1].merge(0);
    assert_eq!(world.shown(1), world.shown(0));
    world.restart(1);
    assert_eq!(world.shown(1), world.shown(0));
    world.nodes[1].service.check_invariants();
}

/// RET-004, RET-006: a store that a single node began is gone on with.
#[test]
fn what_a_single_node_wrote_is_followed() {
    let mut world = World::new(2);
    let write = |world: &mut World, draft: Draft| {
        world.nodes[0].way.submit(&[], draft.finish(), Box::new(|_| {}));
        world.settle();
    };
    let record = |topic, deadline: Option<u64>| Record {
        stamp: None,
        topic,
        payload: b"1",
        properties: b"",
        qos: Qos::AtMostOnce,
        publisher: PublisherId(1),
        accepted: stamp(0),
        deadline: deadline.map(stamp),
    };
    let draft = Draft::of("t").put(&record("a", None)).put(&record("b", Some(1_000)));
    write(&mut world, draft);
    assert!((0..2).all(|node| world.shown(node) == pairs(&[("a", "1"), ("b", "1")])));
    let topic = TopicHash::of("a");
    write(&mut world, Draft::of("t").removed(topic));
    assert!((0..2).all(|node| world.shown(node) == pairs(&[("b", "1")])));
    write(&mut world, Draft::of("t").removed(topic));
    let _ = world.store(1, "a", "2", 0);
    world.settle();
    assert_eq!(world.nodes[0].service.collect(at(1_000), 9), 1);
    world.settle();
    assert!((0..2).all(|node| world.shown(node) == pairs(&[("a", "2")])));
    assert_eq!(world.nodes[0].data().len(), 1);
}

/// RET-005: clocks of nodes do not compare, so a message of another node is older than any subscription.
#[test]
fn times_of_other_nodes_are_not_compared() {
    let mut world = World::new(2);
    let accepted = Instant::from_millis(9_000);
    let message = Message { accepted, ..message("a", "1", Some(at(20_000))) };
    assert_eq!(world.nodes[0].tenant("t").store(&message, None), Call::Pending);
    world.settle();
    let of = |node: &Node| node.messages("t", accepted).expect("it may answer").remove(0);
    assert_eq!(of(&world.nodes[0]).accepted, accepted);
    assert_eq!(of(&world.nodes[1]).accepted, Instant::ZERO);
    assert_eq!(of(&world.nodes[1]).deadline, Some(at(20_000)));
}

/// MEM-002: what is hidden is charged as long as it is kept.
#[test]
fn what_waits_for_the_log_is_charged() {
    let mut world = World::new(2);
    let charged = |node: &Node| {
        post_changes();
        node.memory.account("t").charged().charged[Share::Retained.index()].bytes()
    };
    let large = "x".repeat(10_000);
    let _ = world.store(0, "a", &large, 0);
    world.settle();
    let settled = charged(&world.nodes[0]);
    assert_eq!(settled, charged(&world.nodes[1]));
    let _ = world.store(0, "a", &large, 0);
    let _ = world.store(0, "a", &large, 0);
    assert!(charged(&world.nodes[0]) > 3 * 10_000);
    world.settle();
    assert_eq!(charged(&world.nodes[0]), settled);
}

/// MQTT-056
#[test]
fn what_is_not_connected_or_has_no_room_takes_nothing() {
    let service = RetainService::replicated(RetainLimits::default(), Epoch::default(), 1);
    let retained = service.tenant(&TenantId::new("t"));
    assert_eq!(retained.store(&message("a", "1", None), None), Call::Ready(StoreOutcome::Busy));
    let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).unwrap();
    let (mut cursor, mut page) = (Cursor::Start, Page::default());
    assert!(!retained.scan_current(Instant::ZERO, &filter, &mut cursor, &mut page));

    let world = World::new(1);
    *world.nodes[0].way.is_busy.lock() = true;
    assert_eq!(world.store(0, "a", "1", 1), Call::Ready(StoreOutcome::Busy));
    assert_eq!(world.store(0, "a", "", 1), Call::Ready(StoreOutcome::Busy));
    assert_eq!((world.shown(0), world.nodes[0].way.waiting.lock().len()), (pairs(&[]), 0));
}
