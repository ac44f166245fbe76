//! Behaviour of wills that are kept in a log: when they are due after a crash, and how often.

use std::sync::Arc;

use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message,
    inbox::{Attach, Attached, Inbox},
};

use crate::{
    durable_fixture::{DONE, Node, T0, node, reply},
    fake::{identity, message, owner, seconds},
};

fn attach_with(node: &Node, client: &str, will: Option<&str>) -> Attached {
    let will = will.map(|payload| {
        let deadline = Some(seconds(30));
        let will = Message { deadline, ..message(payload, Qos::AtMostOnce) };
        (Arc::new(will.to_stored()), 5)
    });
    let (identity, limits) = (&identity(client), node.bench.limits);
    let expiry_s = Some(100);
    let attach =
        Attach { identity, owner: owner(7), is_clean: false, expiry_s, limits, will, now: T0 };
    node.bench.inbox.attach_owner(&attach, None).answer
}

/// MQTT-051, INBOX-011: from the crash on; MQTT-050: not if the client is back in time.
#[test]
fn the_will_of_a_connection_is_published_if_the_node_dies() {
    let node = node();
    let claim = attach_with(&node, "c", Some("w")).claim;
    node.keyspace.settle();
    let after = node.crash(seconds(60));
    assert!(after.bench.expire(seconds(64)).is_empty());
    assert_eq!(after.bench.expire(seconds(65)), ["w"]);
    assert!(after.bench.expire(seconds(99)).is_empty(), "who has it has it once");
    let again = after.crash(seconds(99));
    assert_eq!(again.bench.expire(seconds(199)), ["w"], "nobody said that it was published");

    let back = node.crash(seconds(60));
    attach_with(&back, "c", None);
    assert!(back.bench.expire(seconds(64)).is_empty());
    back.keyspace.settle();
    assert!(back.crash(seconds(70)).bench.expire(seconds(1_000)).is_empty());

    node.bench.detach(claim, T0);
    node.keyspace.settle();
    assert!(node.crash(T0).bench.expire(seconds(1_000)).is_empty(), "it left in order");
}

/// Its time to live begins when it is due.
#[test]
fn the_deadline_of_a_will_counts_from_when_it_is_due() {
    let node = node();
    attach_with(&node, "c", Some("w"));
    node.keyspace.settle();
    let after = node.crash(seconds(60));
    let mut wills = Vec::new();
    after.bench.inbox.expire(seconds(65), 9, &mut wills);
    assert_eq!(wills[0].message.deadline, Some(seconds(95)));
    after.bench.inbox.will_sent(wills[0].id);
    after.keyspace.settle();
    assert!(after.crash(seconds(70)).bench.expire(seconds(1_000)).is_empty(), "once");
}

/// MQTT-049, INBOX-011: a will that waits goes on waiting, and is due with its session at last.
#[test]
fn a_will_that_waits_survives_a_crash() {
    let node = node();
    for (client, delay_s) in [("c", 20), ("d", 5_000)] {
        let claim = attach_with(&node, client, None).claim;
        node.bench.detach_as(claim, seconds(10), Some(50), Some((client, delay_s)));
    }
    node.keyspace.settle();
    let after = node.crash(seconds(20));
    assert!(after.bench.expire(seconds(29)).is_empty());
    assert_eq!(after.bench.expire(seconds(30)), ["c"]);
    assert_eq!(after.bench.expire(seconds(60)), ["d"]);
    after.keyspace.settle();
    let mut again = after.crash(seconds(61)).bench.expire(seconds(61));
    again.sort();
    assert_eq!(again, ["c", "d"], "neither was said to be published");
    // A clean start takes a will that waits along. [MQTT-3.1.2-8]
    let clean = node.crash(seconds(20));
    let _ = clean.bench.inbox.discard_session(&identity("c"), seconds(20), None);
    clean.keyspace.settle();
    assert_eq!(clean.crash(seconds(20)).bench.expire(seconds(100)), ["d"]);
}

/// DUR-002: a will that was due, and not yet published when the client came back, is not put off by
/// the next crash, and does not take the place of the will that the client has now.
#[test]
fn a_will_keeps_its_time_over_a_second_crash() {
    let node = node();
    attach_with(&node, "c", Some("first"));
    node.keyspace.settle();
    let back = node.crash(seconds(60));
    let second = Arc::new(message("second", Qos::AtMostOnce).to_stored());
    let attach = Attach {
        identity: &identity("c"),
        owner: owner(7),
        is_clean: false,
        expiry_s: Some(100),
        limits: back.bench.limits,
        will: Some((second, 20)),
        now: seconds(70),
    };
    let _ = back.bench.inbox.attach_owner(&attach, None);
    back.keyspace.settle();
    let after = back.crash(seconds(80));
    assert_eq!(after.bench.expire(seconds(80)), ["first"], "it was due at 65");
    assert!(after.bench.expire(seconds(99)).is_empty());
    assert_eq!(after.bench.expire(seconds(100)), ["second"]);
}

#[test]
fn the_will_of_a_transient_session_is_kept_until_it_is_withdrawn() {
    let node = node();
    let inbox = &node.bench.inbox;
    let keep = |client: &str, delay_s, ticket| {
        let will = Arc::new(message(client, Qos::AtMostOnce).to_stored());
        inbox.keep_will(&identity(client), owner(1), &will, delay_s, reply(ticket)).unwrap()
    };
    let (c, d) = (keep("c", 0, 1), keep("d", 3, 2));
    assert!(!c.is_durable && node.settled().is_empty());
    node.keyspace.settle();
    assert_eq!(node.settled(), [(1, DONE), (2, DONE)]);
    assert!(inbox.is_empty() && node.bench.expire(seconds(100)).is_empty(), "they live");
    let after = node.crash(seconds(10));
    assert_eq!(after.bench.expire(seconds(10)), ["c"]);
    assert_eq!(after.bench.expire(seconds(13)), ["d"]);
    inbox.withdraw_will(c.answer);
    inbox.withdraw_will(d.answer);
    node.keyspace.settle();
    assert!(node.crash(T0).bench.expire(seconds(100)).is_empty());
}
