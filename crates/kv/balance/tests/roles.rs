//! Stores that may have some keyspaces only.

use ratatosk_balance::landscape::Store;
use ratatosk_balance::overview::Overview;
use ratatosk_balance::rules::Learners;
use ratatosk_balance::{Shortage, StoreId};
use ratatosk_store::log::GroupId;

use crate::cluster::{Cluster, ROUND, rules, store, target};

const ROUTES: &str = "dist.route";
const SESSIONS: &str = "inbox.session";

/// What a store may vote for, and what its node reads.
fn of(votes: &[&str], reads: &[&str]) -> Store {
    let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
    Store { keyspaces: names(votes), copies: names(reads), ..store(&[]) }
}

fn front() -> Store {
    of(&[], &[ROUTES])
}

fn keeper() -> Store {
    of(&[SESSIONS], &[ROUTES])
}

fn router() -> Store {
    of(&[ROUTES], &[])
}

/// These stores, the first of which has a range of each keyspace, as who makes a cluster does.
fn made_by_the_first(stores: &[Store]) -> Cluster {
    let mut cluster = Cluster::new(0);
    cluster.stores = (1..).zip(stores.iter().cloned()).collect();
    cluster.rules.set(ROUTES, rules(|it| it.learners = Learners::Everywhere));
    cluster.fill(ROUTES, &[], &target(&[1], &[]));
    cluster.fill(SESSIONS, &[], &target(&[1], &[]));
    cluster
}

fn become_of(cluster: &mut Cluster, number: StoreId, store: &Store) {
    cluster.stores.insert(number, store.clone());
}

fn shortages(cluster: &Cluster) -> Vec<(GroupId, usize, usize)> {
    let overview = Overview::of(&cluster.rules, &cluster.landscape(), cluster.now);
    let lines = overview.ranges.into_iter().filter_map(|line| line.short);
    let seen: Vec<_> = lines.map(|it| (it.group, it.voters, it.wanted)).collect();
    // Whoever leads a range says the same of it.
    let rounds = cluster.rounds(&|_, _| 0).into_iter();
    let told: Vec<Shortage> = rounds.flat_map(|(_, round)| round.short).collect();
    assert_eq!(told.len(), seen.len(), "{told:?} {seen:?}");
    assert!(told.iter().all(|it| seen.contains(&(it.group, it.voters, it.wanted))), "{told:?}");
    seen
}

/// KV-022, CFG-002: whoever made the cluster gives up what is not its own; each range is voted for by stores that
/// are to, and learned of by those that read it.
#[test]
fn a_range_is_kept_by_stores_that_are_to_have_it() {
    for first in [front(), keeper(), router(), of(&[], &[])] {
        let others = [front(), keeper(), keeper(), keeper(), router(), router(), router()];
        let is_front = first == front();
        let is_counted = [first == router(), first == keeper()];
        let mut cluster = made_by_the_first(&[&[first][..], &others].concat());
        cluster.rest(40);
        let (routes, sessions) = (cluster.range(1).target(), cluster.range(2).target());
        match is_counted {
            [true, _] => assert!(routes.voters.contains(&1), "{routes:?}"),
            [_, true] => assert!(sessions.voters.contains(&1), "{sessions:?}"),
            _ => {
                let readers: &[StoreId] = if is_front { &[1, 2, 3, 4, 5] } else { &[2, 3, 4, 5] };
                assert_eq!(routes, target(&[6, 7, 8], readers));
                assert_eq!(sessions, target(&[3, 4, 5], &[]));
            }
        }
        assert_eq!((routes.voters.len(), sessions.voters.len()), (3, 3));
        assert_eq!(shortages(&cluster), []);
        assert!(cluster.leftovers.is_empty());
    }
}

/// KV-022, CFG-002: with too few of them others that have a copy vote, but never a front end; that is said, and
/// over as soon as there are enough.
#[test]
fn too_few_stores_with_the_role_are_helped_out_and_told_of() {
    let stores = [front(), front(), front(), keeper(), keeper(), router(), router()];
    let mut cluster = made_by_the_first(&stores);
    cluster.rest(40);
    // Of the two that help out each has one vote.
    assert_eq!(cluster.range(1).target(), target(&[4, 6, 7], &[1, 2, 3, 5]));
    assert_eq!(cluster.range(2).target(), target(&[5], &[4]), "nobody else reads sessions");
    assert_eq!(shortages(&cluster), [(GroupId(1), 2, 3), (GroupId(2), 1, 3)]);
    cluster.lose(7);
    assert_eq!(cluster.rest(5), 0, "it may only restart");
    cluster.find(7);
    become_of(&mut cluster, 8, &router());
    become_of(&mut cluster, 9, &keeper());
    cluster.rest(40);
    assert_eq!(cluster.range(1).target(), target(&[6, 7, 8], &[1, 2, 3, 4, 5, 9]));
    assert_eq!(cluster.range(2).target(), target(&[4, 5, 9], &[]));
    assert_eq!(shortages(&cluster), []);
    cluster.lose(8);
    cluster.now = cluster.now + 61 * ROUND;
    assert_eq!(shortages(&cluster), [(GroupId(1), 2, 3)], "it is lost");
    cluster.rest(40);
    let voters = cluster.range(1).target().voters;
    assert!(voters.contains(&6) && voters.contains(&7) && voters.len() == 3, "{voters:?}");
    assert!(voters.iter().any(|store| [4, 5, 9].contains(store)), "{voters:?}");
}

/// KV-022, CFG-002: a store that is started without a role it had gives those ranges up, also as their leader.
#[test]
fn a_store_that_loses_a_role_is_relieved_of_its_ranges() {
    let all = of(&[ROUTES, SESSIONS], &[ROUTES]);
    let mut cluster = made_by_the_first(&vec![all; 4]);
    cluster.rest(40);
    for number in 1..=3 {
        let leader = cluster.range(2).leader.expect("it is led");
        become_of(&mut cluster, leader, &front());
        cluster.rest(40);
        let (routes, sessions) = (cluster.range(1).target(), cluster.range(2).target());
        assert!(!sessions.voters.contains(&leader) && !sessions.learners.contains(&leader));
        assert!(!routes.voters.contains(&leader) && routes.learners.contains(&leader));
        assert_eq!(sessions.voters.len(), [3, 1, 1][number - 1]);
    }
    assert_eq!(shortages(&cluster), [(GroupId(1), 1, 3), (GroupId(2), 1, 3)]);
    let last = cluster.range(2).leader.expect("it is led");
    become_of(&mut cluster, last, &front());
    cluster.rest(40);
    assert_eq!(cluster.range(2).target(), target(&[last], &[]), "nobody is to have it: it stays");
    assert_eq!(cluster.range(1).target().learners.len(), 3, "whoever reads it has a copy");
    assert_eq!(shortages(&cluster), [(GroupId(1), 0, 3), (GroupId(2), 0, 3)]);
}
