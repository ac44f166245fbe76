//! How many replicas there are, where, and who leads: scene by scene.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatosk_balance::drain::{Drain, Stuck};
use ratatosk_balance::landscape::{Landscape, Progress, Reach, Standing, Store};
use ratatosk_balance::rules::{Learners, Switch};
use ratatosk_balance::{Action, Balancer, Plan, StoreId, plan_all};
use ratatosk_store::edition::{Edition, Editions};
use ratatosk_store::log::GroupId;
use ratatosk_store::membership::Target;

use crate::cluster::{Cluster, KEYSPACE, ROUND, rules, set, store, target};

/// A cluster of so many stores, with one range.
fn one_range(count: u64, of: &Target) -> Cluster {
    let mut cluster = Cluster::new(count);
    cluster.fill(KEYSPACE, &[], of);
    cluster
}

fn wait(cluster: &mut Cluster, span: Duration) {
    cluster.now = cluster.now + span;
}

/// What the stores would do now.
fn plans(cluster: &Cluster) -> Vec<(Balancer, Plan)> {
    let rounds = cluster.rounds(&|_, _| 0).into_iter();
    rounds.flat_map(|(_, round)| round.plans).collect()
}

fn leaders(cluster: &Cluster) -> BTreeMap<StoreId, usize> {
    let mut counts = BTreeMap::new();
    for range in cluster.ranges.values() {
        *counts.entry(range.leader.expect("it is led")).or_default() += 1;
    }
    counts
}

/// KV-022: one store, two, three: a voter; a voter and a learner; three voters.
#[test]
fn a_range_grows_with_the_cluster() {
    let mut cluster = one_range(1, &target(&[1], &[]));
    assert_eq!(cluster.rest(5), 0);
    for (count, expected) in
        [(2, target(&[1], &[2])), (3, target(&[1, 2, 3], &[])), (4, target(&[1, 2, 3], &[]))]
    {
        cluster.stores.insert(count, store(&[]));
        cluster.rest(10);
        assert_eq!(cluster.range(1).target(), expected);
    }
}

/// KV-022: where learners are wanted everywhere, every store that does not vote is one.
#[test]
fn learners_are_everywhere_where_they_are_wanted() {
    let mut cluster = one_range(5, &target(&[1], &[]));
    cluster.rules.set(KEYSPACE, rules(|it| it.learners = Learners::Everywhere));
    cluster.rest(20);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 3], &[4, 5]));
    cluster.rules.set(KEYSPACE, rules(|it| it.learners = Learners::None));
    cluster.rest(20);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 3], &[]));
}

/// KV-022: nobody gets a vote before it has the data.
#[test]
fn a_vote_waits_for_the_data() {
    let mut cluster = one_range(3, &target(&[1], &[2, 3]));
    let behind = |cluster: &mut Cluster, at| {
        cluster.range_mut(1).leading.progress.insert(3, at);
    };
    for progress in [Progress::Snapshot, Progress::Lagging] {
        behind(&mut cluster, progress);
        assert_eq!(plans(&cluster), []);
    }
    behind(&mut cluster, Progress::CaughtUp);
    let expected = Action::Change(target(&[1, 2, 3], &[]));
    assert_eq!(plans(&cluster)[0].1.action, expected);
}

/// KV-020, KV-022: a store that restarts keeps what it has; after five minutes it is replaced.
#[test]
fn a_restart_is_waited_for_and_a_loss_is_replaced() {
    let mut cluster = one_range(4, &target(&[1, 2, 3], &[]));
    cluster.lose(3);
    wait(&mut cluster, Duration::from_secs(299) - 2 * ROUND);
    assert_eq!(cluster.rest(2), 0, "nothing is done in the first minutes");
    wait(&mut cluster, Duration::from_secs(1));
    cluster.rest(10);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 4], &[]));
    cluster.find(3);
    assert!(cluster.rest(10) > 0, "what is left of it quits");
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 4], &[]), "it is not needed back");
    assert!(cluster.leftovers.is_empty());
}

/// OPS-003, KV-020: a store that an operator has given up is replaced at once, and gets nothing back when it
/// returns; one that is up keeps its word until it has been emptied.
#[test]
fn a_store_that_was_given_up_is_replaced_at_once() {
    let mut cluster = one_range(4, &target(&[1, 2, 3], &[]));
    let stand = |cluster: &mut Cluster, standing| {
        cluster.stores.get_mut(&3).expect("it is there").standing = standing;
    };
    stand(&mut cluster, Standing::GivenUp);
    cluster.rest(10);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 4], &[]), "it was up, and is emptied");
    stand(&mut cluster, Standing::Member);
    cluster.lose(4);
    assert_eq!(cluster.rest(5), 0, "it may only restart");
    cluster.stores.get_mut(&4).expect("it is there").standing = Standing::GivenUp;
    cluster.rest(10);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 3], &[]));
    cluster.find(4);
    cluster.rest(10);
    assert!(cluster.leftovers.is_empty(), "what is left of it quits");
    cluster.lose(1);
    cluster.rest(5);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 3], &[]), "it takes nobody's place");
    let left = Drain::of(&cluster.rules, &cluster.landscape(), cluster.now, 4);
    assert!(left.is_over());
}

/// KV-020: without a quorum nothing is removed, and with nobody to take the place the range goes
/// on as one of two stores does, unless the rules keep the voters.
#[test]
fn a_lost_store_is_removed_only_when_that_is_safe() {
    let mut cluster = one_range(4, &target(&[1, 2, 3], &[]));
    let mut silent = cluster.clone();
    cluster.lose(2);
    cluster.lose(3);
    wait(&mut cluster, Duration::from_secs(3600));
    assert_eq!(plans(&cluster), [], "the leader has not noticed, and nobody could commit it");
    assert_eq!(cluster.rest(5), 0, "nobody leads");
    silent.lose(3);
    wait(&mut silent, Duration::from_secs(3600));
    silent.range_mut(1).leading.progress.insert(2, Progress::Silent);
    assert_eq!(plans(&silent), [], "the leader knows better than the landscape who answers");

    let mut cluster = one_range(3, &target(&[1, 2, 3], &[]));
    cluster.rules.set(KEYSPACE, rules(|it| it.voters_kept = 3));
    cluster.lose(3);
    wait(&mut cluster, Duration::from_secs(3600));
    assert_eq!(cluster.rest(5), 0, "the rules keep three voters");
    cluster.rules.set(KEYSPACE, rules(|it| it.voters_kept = 1));
    cluster.rest(10);
    assert_eq!(cluster.range(1).target(), target(&[1], &[2]));
    cluster.find(3);
    cluster.rest(10);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 3], &[]), "it is as it was");
}

/// KV-020: those that are left are alone only once most of them have all that their leader has.
#[test]
fn lost_stores_are_removed_once_most_of_the_others_have_caught_up() {
    let mut cluster = one_range(5, &target(&[1, 2, 3, 4, 5], &[]));
    cluster.rules.set(KEYSPACE, rules(|it| it.voters = 5));
    cluster.lose(4);
    cluster.lose(5);
    wait(&mut cluster, Duration::from_secs(3600));
    for behind in [2, 3] {
        cluster.range_mut(1).leading.progress.insert(behind, Progress::Lagging);
    }
    assert_eq!(plans(&cluster), [], "nobody could commit with it");
    cluster.range_mut(1).leading.progress.insert(2, Progress::CaughtUp);
    let planned = plans(&cluster);
    let actions: Vec<_> = planned.iter().map(|(by, plan)| (*by, plan.action.clone())).collect();
    let change = Action::Change(target(&[1, 2, 3], &[]));
    assert_eq!(actions, [(Balancer::Unreachable, change)]);
}

/// KV-020, KV-025: while lost stores are left alone, the others are cared for as ever.
#[test]
fn a_lost_store_that_is_left_alone_keeps_its_vote() {
    let mut cluster = one_range(5, &target(&[1, 2, 3], &[]));
    cluster.rules.switch(KEYSPACE, Balancer::Unreachable, Switch::Off);
    cluster.lose(3);
    wait(&mut cluster, Duration::from_secs(3600));
    assert_eq!(cluster.rest(5), 0);
    cluster.drain(2);
    cluster.rest(20);
    assert_eq!(cluster.range(1).target(), target(&[1, 3, 4], &[]));
}

/// KV-020: of a store that was never heard of nothing is known but that it is missed.
#[test]
fn a_store_that_was_never_heard_of_is_waited_for() {
    let mut cluster = one_range(4, &target(&[1, 2, 3], &[]));
    let unknown = Store { reach: Reach::Away { since: cluster.now }, ..Store::default() };
    let mut landscape = cluster.landscape();
    landscape.stores.insert(3, unknown.clone());
    let plans = |landscape: &Landscape, after: u64| {
        let now = cluster.now + Duration::from_secs(after);
        plan_all(&cluster.rules, landscape, now, 1).plans
    };
    assert_eq!(plans(&landscape, 299), []);
    assert_eq!(plans(&landscape, 300).len(), 1);
    landscape.stores.remove(&3);
    assert_eq!(plans(&landscape, 3600), [], "nobody has begun to miss it");

    let mut learning = one_range(4, &target(&[1, 2, 3], &[4]));
    learning.rules.set(KEYSPACE, rules(|it| it.learners = Learners::Everywhere));
    let mut landscape = learning.landscape();
    landscape.stores.insert(4, unknown);
    assert_eq!(plan_all(&learning.rules, &landscape, learning.now, 1).plans, []);
    cluster.stores.get_mut(&3).expect("it is there").keyspaces.clear();
    cluster.rest(20);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 4], &[]), "it is asked for no more");
}

/// KV-022: while one voter restarts, no other one is added or removed.
#[test]
fn a_rolling_restart_changes_nothing() {
    let mut cluster = one_range(5, &target(&[1, 2, 3], &[]));
    for away in 1..=3 {
        cluster.lose(away);
        cluster.drain(5 - away);
        for _ in 0..10 {
            cluster.round(&|_, _| 0);
            assert_eq!(cluster.range(1).target(), target(&[1, 2, 3], &[]));
        }
        cluster.find(away);
        cluster.stores.get_mut(&(5 - away)).expect("it is there").standing = Standing::Member;
    }
}

/// KV-022: all plan at once, and leaders end up even, not all at one store.
#[test]
fn leaders_are_spread_evenly_by_stores_that_plan_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.fill(KEYSPACE, &["b", "c", "d", "e", "f", "g", "h", "i"], &target(&[1, 2, 3], &[]));
    cluster.fill("retain.message", &["b", "c"], &target(&[1, 2, 3], &[]));
    for held in cluster.stores.values_mut() {
        held.keyspaces.insert("retain.message".to_owned());
    }
    assert_eq!(leaders(&cluster), [(1, 12)].into());
    let accepted = cluster.round(&|_, _| 0);
    assert_eq!(accepted, 8, "each move is needed, and all are made in one round");
    assert_eq!(leaders(&cluster), [(1, 4), (2, 4), (3, 4)].into());
    assert_eq!(cluster.rest(1), 0, "nothing is taken back");
}

/// KV-022: a leader goes only where the replica is ready, and never to a store that drains.
#[test]
fn nobody_leads_who_cannot() {
    let mut cluster = Cluster::new(3);
    cluster.fill(KEYSPACE, &["b", "c", "d"], &target(&[1, 2, 3], &[]));
    for group in 1..=4 {
        cluster.range_mut(group).leading.progress.insert(2, Progress::Lagging);
    }
    cluster.rules.switch(KEYSPACE, Balancer::ReplicaCount, Switch::Off);
    cluster.drain(3);
    assert_eq!(plans(&cluster), []);
}

/// KV-022: a store that drains gives up leaders and replicas, and says what is left.
#[test]
fn a_store_drains_until_nothing_is_left() {
    let mut cluster = Cluster::new(4);
    cluster.fill(KEYSPACE, &["b", "c"], &target(&[1, 2, 3], &[]));
    let left = |cluster: &Cluster, store| {
        Drain::of(&cluster.rules, &cluster.landscape(), cluster.now, store)
    };
    assert_eq!(left(&cluster, 1).stuck.get(&GroupId(1)), Some(&Stuck::NotDraining));
    cluster.drain(1);
    let first = left(&cluster, 1);
    assert_eq!((first.leads.len(), first.votes.len(), first.stuck.len()), (3, 3, 0));
    assert!(!first.is_over());
    cluster.rest(20);
    assert!(left(&cluster, 1).is_over());
    for range in cluster.ranges.values() {
        assert_eq!(range.target(), target(&[2, 3, 4], &[]));
    }
}

/// KV-022: the last store has nobody to give its ranges to, and says so.
#[test]
fn a_store_that_nobody_can_relieve_is_stuck() {
    let mut cluster = one_range(2, &target(&[1], &[]));
    cluster.drain(1);
    cluster.drain(2);
    assert_eq!(cluster.rest(5), 0);
    let left = Drain::of(&cluster.rules, &cluster.landscape(), cluster.now, 1);
    assert_eq!(left.stuck, [(GroupId(1), Stuck::NoTaker)].into());
    cluster.stores.get_mut(&2).expect("it is there").standing = Standing::Member;
    cluster.rest(10);
    assert_eq!(cluster.range(1).target(), target(&[2], &[]));
    assert_eq!(cluster.range(1).leader, Some(2));
}

/// KV-022: voters are in distinct zones where there are enough, by one move at a time.
#[test]
fn voters_are_spread_over_zones() {
    let mut cluster = one_range(5, &target(&[1, 2, 3], &[]));
    for (id, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")] {
        cluster.stores.insert(id, store(&[("zone", zone)]));
    }
    let mut seen = vec![cluster.range(1).target().voters];
    for _ in 0..20 {
        cluster.round(&|_, _| 0);
        let voters = cluster.range(1).target().voters;
        if seen.last() != Some(&voters) {
            seen.push(voters);
        }
    }
    assert_eq!(seen, [set(&[1, 2, 3]), set(&[1, 3, 4]), set(&[1, 4, 5])]);
    assert_eq!(cluster.range(1).target().learners, set(&[]));
}

/// KV-025: each balancer that is paused plans nothing, and goes on where it was.
#[test]
fn a_paused_balancer_plans_nothing() {
    let scenes: [(Balancer, fn() -> Cluster); 4] = [
        (Balancer::ReplicaCount, || one_range(3, &target(&[1], &[]))),
        (Balancer::Unreachable, || {
            let mut cluster = one_range(4, &target(&[1, 2, 3], &[]));
            cluster.lose(3);
            wait(&mut cluster, Duration::from_secs(301));
            cluster
        }),
        (Balancer::VoterSpread, || {
            let mut cluster = one_range(4, &target(&[1, 2, 3], &[]));
            for (id, zone) in [(1, "a"), (2, "b"), (3, "b"), (4, "c")] {
                cluster.stores.insert(id, store(&[("zone", zone)]));
            }
            cluster
        }),
        (Balancer::LeaderSpread, || {
            let mut cluster = Cluster::new(3);
            cluster.fill(KEYSPACE, &["b", "c"], &target(&[1, 2, 3], &[]));
            cluster
        }),
    ];
    for (balancer, scene) in scenes {
        let mut cluster = scene();
        assert!(plans(&cluster).iter().any(|(by, _)| *by == balancer), "{balancer:?}");
        cluster.rules.switch(KEYSPACE, balancer, Switch::Off);
        assert_eq!(plans(&cluster), [], "{balancer:?} is paused");
        assert_eq!(cluster.rest(2), 0);
        cluster.rules.switch(KEYSPACE, balancer, Switch::On);
        assert!(cluster.rest(20) > 0, "{balancer:?} goes on");
    }
}

/// KV-021: what a store plans is for ranges that it leads, and at most one thing for each.
#[test]
fn only_the_leader_plans_for_a_range() {
    let mut cluster = Cluster::new(4);
    cluster.fill(KEYSPACE, &["b", "c"], &target(&[1, 2], &[]));
    cluster.range_mut(2).leader = Some(2);
    for (me, round) in cluster.rounds(&|_, _| 0) {
        let groups: Vec<_> = round.plans.iter().map(|(_, plan)| plan.group.0).collect();
        assert_eq!(
            groups,
            match me {
                1 => vec![1, 3],
                2 => vec![2],
                _ => vec![],
            }
        );
    }
}

/// KV-021: of two that say that they lead, the one of the later term plans.
#[test]
fn a_leader_that_was_deposed_plans_nothing() {
    let mut cluster = one_range(4, &target(&[1, 2], &[]));
    let before = cluster.landscape();
    cluster.range_mut(1).leader = Some(2);
    cluster.range_mut(1).term += 1;
    let mut both = cluster.landscape();
    let mine = before.stores[&1].replicas[&GroupId(1)].clone();
    both.stores.get_mut(&1).expect("it is there").replicas.insert(GroupId(1), mine);
    let count = |me| plan_all(&cluster.rules, &both, cluster.now, me).plans.len();
    assert_eq!((count(1), count(2)), (0, 1));
}

/// KV-021: whoever leads and has heard of a newer version of its range waits until it has it.
#[test]
fn a_leader_that_is_behind_plans_nothing() {
    let mut cluster = one_range(4, &target(&[1, 2], &[]));
    let before = cluster.landscape();
    cluster.range_mut(1).descriptor.version.config += 1;
    let mut mixed = cluster.landscape();
    assert_eq!(plan_all(&cluster.rules, &mixed, cluster.now, 1).plans.len(), 1);
    mixed.stores.insert(1, before.stores[&1].clone());
    assert_eq!(plan_all(&cluster.rules, &mixed, cluster.now, 1).plans, []);
}

/// KV-021, KV-022: nothing is planned that a store would refuse, for it is of an older build.
#[test]
fn a_range_is_not_given_to_a_store_that_does_not_support_its_edition() {
    let two = Edition(2);
    let mut cluster = one_range(4, &target(&[1], &[]));
    cluster.range_mut(1).descriptor.edition = two;
    let mut support = |store: u64, newest: Edition| {
        let editions = Editions::new(Edition::FIRST, newest);
        let held = cluster.stores.get_mut(&store).expect("it is there");
        held.editions.insert(KEYSPACE.to_owned(), editions);
    };
    support(1, two);
    support(2, two);
    support(3, Edition::FIRST);
    cluster.rest(20);
    assert_eq!(cluster.range(1).target(), target(&[1], &[2]), "the fourth does not say more");
    for store in [3, 4] {
        let editions = Editions::new(Edition::FIRST, two);
        let held = cluster.stores.get_mut(&store).expect("it is there");
        held.editions.insert(KEYSPACE.to_owned(), editions);
    }
    cluster.rest(20);
    assert_eq!(cluster.range(1).target().voters.len(), 3);
}
