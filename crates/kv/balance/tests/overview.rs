//! What operators see of the ranges.

use ratatosk_balance::landscape::{Progress, Store};
use ratatosk_balance::overview::{Overview, State};
use ratatosk_store::log::GroupId;

use crate::cluster::{Cluster, KEYSPACE, key, set, target};

fn look(cluster: &Cluster) -> Overview {
    Overview::of(&cluster.rules, &cluster.landscape(), cluster.now)
}

/// KV-026: by keyspace and keys, each with who leads it, how far the others are, and who is to keep it.
#[test]
fn ranges_are_seen_in_order_with_leaders_and_goals() {
    let mut cluster = Cluster::new(4);
    cluster.fill(KEYSPACE, &["m"], &target(&[2, 3, 4], &[]));
    cluster.fill("dist.route", &[], &target(&[1], &[]));
    let of_all = |store: &mut Store| store.keyspaces.insert("dist.route".to_owned());
    assert!(cluster.stores.values_mut().all(of_all));
    cluster.range_mut(1).leading.progress.insert(3, Progress::Lagging);
    cluster.range_mut(1).leading.load.size_bytes = 77;
    let seen = look(&cluster);
    let groups: Vec<_> = seen.ranges.iter().map(|line| line.descriptor.group).collect();
    assert_eq!(groups, [GroupId(3), GroupId(1), GroupId(2)]);
    assert!(seen.ranges.iter().all(|line| line.state == State::Led) && seen.alarms.is_empty());
    let lead = seen.ranges[1].leader.as_ref().expect("it is led");
    assert_eq!((lead.store, lead.term, lead.size_bytes), (2, 6, 77));
    assert_eq!(lead.progress[&3], Progress::Lagging);
    assert_eq!(lead.progress[&4], Progress::CaughtUp);
    let goal = seen.ranges[0].goal.as_ref().expect("three are to keep it");
    assert_eq!(goal.voters.len(), 3);
    cluster.rest(20);
    assert!(look(&cluster).ranges.iter().all(|line| line.goal.is_none()), "all is as it is to be");
}

/// KV-018, KV-027: what nobody leads is named; what overlaps is in doubt.
#[test]
fn ranges_without_a_leader_and_ranges_in_doubt_are_told_apart() {
    let mut cluster = Cluster::new(3);
    cluster.fill(KEYSPACE, &["m"], &target(&[1, 2, 3], &[]));
    cluster.lose(1);
    let seen = look(&cluster);
    assert_eq!(seen.leaderless().count(), 2, "what a lost store said of its lead counts no more");
    cluster.find(1);
    cluster.range_mut(1).descriptor.boundary.end = Some(key("p"));
    let seen = look(&cluster);
    assert!(seen.ranges.iter().all(|line| line.state == State::InDoubt), "{seen:?}");
    assert_eq!(seen.alarms.len(), 1);
    assert_eq!(seen.leaderless().count(), 0);
    let keepers = &seen.ranges[0].descriptor.membership.target().voters;
    assert_eq!(*keepers, set(&[1, 2, 3]));
}
