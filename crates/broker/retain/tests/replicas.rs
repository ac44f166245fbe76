//! Retained messages that several nodes have together, as clients find them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ratatosk_contract::call::Settlement;
use ratatosk_stores::until;

use crate::support::{CUTS, Cluster, KEYSPACE, count, pairs};

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
            16 => cluster.transfer(3),
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
