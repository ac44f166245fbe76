//! A range without its quorum.

use ratatosk_balance::Action;
use ratatosk_balance::landscape::{LogEnd, Reach};
use ratatosk_balance::recover::{Refused, recover};
use ratatosk_store::log::GroupId;

use crate::cluster::{Cluster, KEYSPACE, set, target};

const GROUP: GroupId = GroupId(1);

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(5);
    cluster.fill(KEYSPACE, &[], &target(&[1, 2, 3], &[4]));
    cluster
}

/// KV-027: the longest log of the latest term goes on, whoever has it.
#[test]
fn the_longest_log_goes_on() {
    let check = |logs: [(u64, u64); 2], expected: u64| {
        let mut cluster = cluster();
        cluster.lose(1);
        cluster.lose(2);
        let mut landscape = cluster.landscape();
        for (store, (term, index)) in [3, 4].into_iter().zip(logs) {
            let held = landscape.stores.get_mut(&store).expect("it is there");
            held.replicas.get_mut(&GROUP).expect("it has one").log = LogEnd { term, index };
        }
        let lost = landscape.stores.get_mut(&1).expect("it is there");
        let newest = &mut lost.replicas.get_mut(&GROUP).expect("it had one").descriptor.version;
        newest.config += 2;
        let above = *newest;
        let recovery = recover(&landscape, GROUP).expect("the quorum is lost");
        assert_eq!(recovery.above, above, "what is lost had gone further");
        assert_eq!(recovery.plan.action, Action::Recover { store: expected });
        assert_eq!(recovery.plan.expected, cluster.range(1).descriptor.version);
        assert_eq!((recovery.survivors, recovery.lost), (set(&[3, 4]), set(&[1, 2])));
    };
    check([(7, 30), (7, 29)], 3);
    check([(7, 29), (7, 30)], 4);
    check([(8, 10), (7, 30)], 3);
    check([(7, 30), (7, 30)], 3);
}

/// KV-027: a range that can help itself is left alone, and the answer says who is up.
#[test]
fn a_range_with_a_quorum_is_not_recovered() {
    let mut cluster = cluster();
    cluster.lose(1);
    let refused = recover(&cluster.landscape(), GROUP).expect_err("two of three are up");
    assert_eq!(refused, Refused::QuorumAlive { alive: set(&[2, 3]) });
    assert!(refused.to_string().contains("{2, 3}"), "{refused}");
    assert_eq!(recover(&cluster.landscape(), GroupId(9)), Err(Refused::Unknown(GroupId(9))));
    for store in 2..=4 {
        cluster.lose(store);
    }
    let stores = set(&[1, 2, 3, 4]);
    assert_eq!(recover(&cluster.landscape(), GROUP), Err(Refused::NoSurvivor { stores }));
}

/// KV-027: a joint configuration has a quorum only if both of its halves have one.
#[test]
fn half_a_joint_configuration_is_no_quorum() {
    let mut cluster = cluster();
    let held = &mut cluster.range_mut(1).descriptor.membership;
    *held = held.toward(&target(&[1, 4, 5], &[2, 3])).expect("a step").membership;
    let check = |lost: &[u64], is_refused: bool| {
        let mut cluster = cluster.clone();
        lost.iter().for_each(|store| cluster.lose(*store));
        let answer = recover(&cluster.landscape(), GROUP);
        assert_eq!(answer.is_err(), is_refused, "without {lost:?}");
        assert!(is_refused || answer.is_ok_and(|recovery| recovery.lost == set(lost)));
    };
    check(&[4], true);
    check(&[2, 5], true);
    check(&[4, 5], false);
    check(&[2, 3], false);
}

/// KV-027: a store that is up but has lost its replica counts for nothing.
#[test]
fn a_store_that_lost_its_replica_is_no_survivor() {
    let mut landscape = cluster().landscape();
    for store in [2, 3] {
        landscape.stores.get_mut(&store).expect("it is there").replicas.clear();
    }
    assert!(landscape.stores.values().all(|store| store.reach == Reach::Up));
    let recovery = recover(&landscape, GROUP).expect("one of three is left");
    assert_eq!(recovery.plan.action, Action::Recover { store: 1 });
    assert_eq!(recovery.lost, set(&[2, 3]));
}
