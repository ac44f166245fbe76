//! Routes that all nodes have: who subscribes waits for them, and what may be wrong is looked at again.

use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    call::{Promised, Settlement},
    inbox::{Claim, Inbox, SubscribeOutcome, Subscription},
};

use crate::{
    durable_fixture::{DONE, Node, T0, node, reply},
    fake::seconds,
};

const UNKNOWN: Settlement = Settlement::Unknown;
const DONE_LATE: SubscribeOutcome = SubscribeOutcome::Done { route: None, existed: false };

/// A node whose routes come and go later.
fn late() -> (Node, Claim) {
    let node = node();
    *node.bench.routes.late.lock() = Some(Vec::new());
    let claim = node.bench.attach("c", T0).claim;
    node.keyspace.settle();
    (node, claim)
}

fn subscribe(node: &Node, claim: Claim, filter: &str, ticket: u64) -> Promised<SubscribeOutcome> {
    let options = SubscriptionOptions::new(Qos::AtLeastOnce);
    let subscription = Subscription { filter: filter.into(), options, subscription_id: None };
    node.bench.inbox.put_subscription(claim, &subscription, reply(ticket))
}

fn filters(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let routes = &*node.bench.routes;
    let _ = ratatosk_contract::dist::TenantRoutes::stored(routes, 0, &mut found);
    found.into_iter().map(|held| held.filter.into()).collect()
}

/// Lets everything that is on its way be done, until nothing is.
fn settle(node: &Node) {
    while node.bench.routes.asked() > 0 || node.keyspace.waiting() > 0 {
        node.keyspace.settle();
        if node.bench.routes.asked() > 0 {
            node.bench.routes.answer(true, true);
        }
    }
}

/// Nobody knows what became of what is on its way to the routes.
fn doubt(node: &Node, is_carried_out: bool) {
    while node.bench.routes.asked() > 0 {
        node.bench.routes.answer(is_carried_out, false);
    }
}

/// A turn of the housekeeping for each partition.
fn mind(node: &Node) {
    (0..64).for_each(|_| node.bench.inbox.mind_routes(T0));
}

/// DUR-012, MQTT-077: whichever is done last, once.
#[test]
fn a_subscription_is_acknowledged_when_its_record_and_its_route_are_there() {
    for is_route_first in [true, false] {
        for filter in ["a", "$share/g/a"] {
            let (node, claim) = late();
            let promised = subscribe(&node, claim, filter, 7);
            assert_eq!(promised, Promised::later(DONE_LATE));
            if is_route_first {
                node.bench.routes.answer(true, true);
                assert_eq!(node.settled(), []);
                node.keyspace.settle();
            } else {
                node.keyspace.settle();
                assert_eq!(node.settled(), []);
                node.bench.routes.answer(true, true);
            }
            assert_eq!(node.settled(), [(7, DONE)]);
            assert_eq!(filters(&node), [filter]);
            let left = node.bench.inbox.unsubscribe(claim, filter, reply(8));
            assert_eq!(left, Ok(Promised::later(true)));
            node.keyspace.settle();
            assert_eq!(node.settled(), [], "others may match by it still");
            node.bench.routes.answer(true, true);
            assert_eq!(node.settled(), [(8, DONE)]);
            assert!(filters(&node).is_empty());
        }
    }
}

/// DIST-014, KV-010: the session says what is right, whatever became of the command; whoever waits for the route
/// waits until it is so, and is not told meanwhile that nobody knows.
#[test]
fn what_is_not_known_to_be_done_is_asked_for_again_before_it_is_acknowledged() {
    for is_carried_out in [true, false] {
        for filter in ["a", "$share/g/a"] {
            let (node, claim) = late();
            let _ = subscribe(&node, claim, filter, 7);
            node.keyspace.settle();
            for _ in 0..3 {
                doubt(&node, is_carried_out);
                assert_eq!(node.settled(), []);
                mind(&node);
                assert_ne!(node.bench.routes.asked(), 0, "also if it is here: others may lack it");
            }
            settle(&node);
            assert_eq!((node.settled(), filters(&node)), (vec![(7, DONE)], vec![filter.into()]));

            let _ = node.bench.inbox.unsubscribe(claim, filter, reply(8));
            node.keyspace.settle();
            doubt(&node, is_carried_out);
            assert_eq!(node.settled(), []);
            mind(&node);
            settle(&node);
            assert_eq!((node.settled(), filters(&node)), (vec![(8, DONE)], vec![]));
        }
    }
}

/// MQTT-077: sessions that are not kept have routes all the same.
#[test]
fn an_inbox_that_keeps_nothing_waits_for_its_routes() {
    let bench = crate::fake::bench();
    *bench.routes.late.lock() = Some(Vec::new());
    let claim = bench.attach("c", T0).claim;
    let options = SubscriptionOptions::new(Qos::AtLeastOnce);
    let subscription = Subscription { filter: "a".into(), options, subscription_id: None };
    let promised = bench.inbox.put_subscription(claim, &subscription, reply(7));
    assert_eq!(promised, Promised::later(DONE_LATE));
    assert_eq!(bench.sessions.take_settled(), []);
    bench.routes.answer(true, true);
    assert_eq!(bench.sessions.take_settled(), [(7, DONE)]);
}

/// DIST-014: a route that is in doubt for long is waited for no longer, and asked for still.
#[test]
fn a_route_in_doubt_is_waited_for_within_a_bound() {
    let (node, claim) = late();
    let _ = subscribe(&node, claim, "a", 7);
    node.keyspace.settle();
    for second in [1, 10, 20, 22] {
        assert_eq!(node.settled(), []);
        doubt(&node, false);
        node.bench.inbox.mind_routes(seconds(second));
    }
    assert_eq!(node.settled(), [(7, UNKNOWN)]);
    settle(&node);
    assert_eq!((node.settled(), filters(&node)), (vec![], vec!["a".to_owned()]));
}

/// DIST-014, INBOX-003
#[test]
fn routes_of_a_session_that_ended_are_removed_until_they_are_gone() {
    let (node, claim) = late();
    let _ = subscribe(&node, claim, "a", 1);
    let _ = subscribe(&node, claim, "$share/g/b", 2);
    settle(&node);
    node.bench.detach_as(claim, T0, Some(0), None);
    for _ in 0..3 {
        assert_ne!(node.bench.routes.asked(), 0, "it is asked for again");
        (0..node.bench.routes.asked()).for_each(|_| node.bench.routes.answer(false, false));
        assert_eq!(filters(&node).len(), 2);
        node.bench.expire(seconds(1));
    }
    settle(&node);
    assert!(filters(&node).is_empty());
}

/// DIST-014: what a command brought or took that came late.
#[test]
fn what_no_failure_tells_of_is_found_by_comparing() {
    let (node, claim) = late();
    let _ = subscribe(&node, claim, "a", 1);
    let _ = subscribe(&node, claim, "b", 2);
    settle(&node);
    mind(&node);
    assert_eq!(node.bench.routes.asked(), 0, "all is right");
    // A route goes, and one comes that nobody has.
    let held = node.bench.routes.inboxes.lock().remove(0);
    mind(&node);
    settle(&node);
    assert_eq!(filters(&node), ["b", "a"]);
    let _ = node.bench.inbox.unsubscribe(claim, "a", reply(3));
    settle(&node);
    node.bench.routes.inboxes.lock().push(held);
    mind(&node);
    settle(&node);
    assert_eq!(filters(&node), ["b"]);
}

/// DIST-014: under the session's lock, so what it decides later stands.
#[test]
fn who_subscribed_again_keeps_the_route_that_was_to_go() {
    let (node, claim) = late();
    let _ = subscribe(&node, claim, "a", 1);
    settle(&node);
    let _ = node.bench.inbox.unsubscribe(claim, "a", reply(2));
    node.bench.routes.answer(true, false);
    let _ = subscribe(&node, claim, "a", 3);
    mind(&node);
    settle(&node);
    assert_eq!(filters(&node), ["a"]);
}

/// MQTT-077: whoever repeats it, perhaps by another connection, is answered when the route is gone. [MQTT-3.10.4-2]
#[test]
fn whoever_unsubscribes_again_waits_for_the_route_as_well() {
    for is_known in [true, false] {
        let (node, claim) = late();
        let _ = subscribe(&node, claim, "a", 1);
        settle(&node);
        node.settled();
        let _ = node.bench.inbox.unsubscribe(claim, "a", reply(2));
        let claim = node.bench.attach("c", T0).claim;
        let again = node.bench.inbox.unsubscribe(claim, "a", reply(3));
        assert_eq!(again, Ok(Promised::later(false)));
        node.keyspace.settle();
        assert_eq!((node.settled(), filters(&node)), (vec![], vec!["a".to_owned()]));
        node.bench.routes.answer(is_known, is_known);
        assert_eq!(node.settled(), Vec::from_iter(is_known.then_some((2, DONE))));
        node.bench.routes.answer(true, true);
        assert_eq!((node.settled(), filters(&node)), (vec![(3, DONE)], vec![]));
        mind(&node);
        settle(&node);
        assert_eq!(node.settled(), Vec::from_iter((!is_known).then_some((2, DONE))));
    }
}
