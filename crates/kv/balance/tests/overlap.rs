//! Ranges that have keys in common: which goes, and which calls for an operator.

use ratatosk_balance::landscape::{Birth, Landscape, Lineage, Report, TakenIn};
use ratatosk_balance::rules::Switch;
use ratatosk_balance::{Action, Balancer, Round, plan_all};
use ratatosk_engine::KeyRange;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Version;

use crate::cluster::{Cluster, KEYSPACE, key, target};

fn keys(start: &str, end: Option<&str>) -> KeyRange {
    KeyRange { start: key(start), end: end.map(key) }
}

/// Store 4 still has a range that the others, on stores 1 to 3, have gone on without; it knows it
/// with version 5. `lineage` is of the first of the others.
fn scene(others: &[KeyRange], lineage: Lineage) -> Landscape {
    let mut cluster = Cluster::new(4);
    for boundary in others {
        cluster.insert(KEYSPACE, boundary.clone(), &target(&[1, 2, 3], &[]));
    }
    cluster.range_mut(1).lineage = lineage;
    for range in cluster.ranges.values_mut() {
        range.descriptor.version.boundary = 9;
    }
    let mut old = Cluster::new(4);
    old.insert(KEYSPACE, keys("c", Some("g")), &target(&[4], &[]));
    let mut report: Report = old.range(1).report(4);
    report.descriptor.group = OLD;
    report.descriptor.version = Version { boundary: 5, config: 1 };
    report.leading = None;
    cluster.leftovers.insert((4, OLD), report);
    cluster.landscape()
}

const OLD: GroupId = GroupId(77);

fn taken(boundary: u64) -> Lineage {
    let version = Version { boundary, config: 1 };
    let taken = TakenIn { version, birth: None, boundary: 7 };
    Lineage { birth: None, taken_in: [(OLD, taken)].into() }
}

fn round(landscape: &Landscape, me: u64) -> Round {
    let cluster = Cluster::new(4);
    plan_all(&cluster.rules, landscape, cluster.now, me)
}

fn quits(round: &Round) -> bool {
    let mut plans = round.plans.iter();
    plans.any(|(by, plan)| {
        (*by, plan.group, &plan.action) == (Balancer::Redundant, OLD, &Action::Quit)
    })
}

/// KV-018: whoever was taken in, as new as it is, has nothing that the other has not.
#[test]
fn a_range_that_was_taken_in_quits() {
    let landscape = scene(&[keys("", None)], taken(5));
    for me in 1..=3 {
        assert!(!quits(&round(&landscape, me)), "it is not theirs to remove");
    }
    let round = round(&landscape, 4);
    assert!(quits(&round) && round.alarms.is_empty());
}

/// KV-018: whoever has the first key of another in a later version has taken it in.
#[test]
fn a_later_range_with_the_first_key_has_taken_the_other_in() {
    let round = round(&scene(&[keys("", None)], Lineage::default()), 4);
    assert!(quits(&round) && round.alarms.is_empty());
}

/// KV-018: without proof nothing is removed or changed, and the alarm names the keys.
#[test]
fn an_overlap_without_proof_is_an_alarm_and_nothing_else() {
    let unproven = [
        Lineage::default(),
        // It was taken in, but has had keys since.
        taken(4),
        // A birth that the number does not follow from.
        Lineage {
            birth: Some(Birth { parent: OLD, index: 12, boundary: 8 }),
            ..Lineage::default()
        },
    ];
    for lineage in unproven {
        let landscape = scene(&[keys("e", None), keys("", Some("c"))], lineage);
        for me in 1..=4 {
            let round = round(&landscape, me);
            let [alarm] = &round.alarms[..] else { panic!("one alarm: {:?}", round.alarms) };
            assert_eq!(alarm.groups, (GroupId(1), OLD));
            assert_eq!(alarm.keys, keys("e", Some("g")));
            let in_doubt = |group| group == OLD || group == GroupId(1);
            assert!(!round.plans.iter().any(|(_, plan)| in_doubt(plan.group)), "{round:?}");
        }
    }
}

/// KV-018: a range of which only a part has gone elsewhere stays, without an alarm.
#[test]
fn a_range_that_is_not_wholly_covered_stays() {
    let landscape = scene(&[keys("d", None), keys("", Some("c"))], taken(5));
    let round = round(&landscape, 4);
    assert!(!quits(&round) && round.alarms.is_empty());
}

/// KV-018: nobody quits in favour of a range that nobody leads.
#[test]
fn a_successor_without_leader_is_no_reason_to_quit() {
    let mut landscape = scene(&[keys("", None)], taken(5));
    for store in landscape.stores.values_mut() {
        for report in store.replicas.values_mut() {
            report.leading = None;
        }
    }
    assert!(!quits(&round(&landscape, 4)));
}

/// KV-018: the halves of a split prove that they are of the whole, which somebody still tells of.
#[test]
fn an_old_word_of_a_range_that_was_split_is_no_alarm() {
    let mut cluster = Cluster::new(3);
    cluster.fill(KEYSPACE, &[], &target(&[1, 2, 3], &[]));
    let before = cluster.landscape();
    let whole = cluster.range(1).clone();
    let plan = |at: &str, range: &crate::cluster::Range| ratatosk_balance::Plan {
        group: range.descriptor.group,
        expected: range.descriptor.version,
        action: Action::Split { key: key(at) },
    };
    assert!(cluster.carry_out(1, &plan("g", &whole)));
    let right = cluster.ranges.values().nth(1).expect("the other half").clone();
    assert!(cluster.carry_out(1, &plan("p", &right)));
    assert_eq!(cluster.ranges.len(), 3);
    let mut mixed = cluster.landscape();
    for store in mixed.stores.values_mut() {
        // Everybody has forgotten what became of the left half.
        store.replicas.insert(GroupId(1), before.stores[&1].replicas[&GroupId(1)].clone());
    }
    for me in 1..=3 {
        assert_eq!(round(&mixed, me).alarms, []);
    }
}

/// KV-018: what is born of the taker, after it had taken the other in, has its keys by right.
#[test]
fn a_part_of_the_taker_is_a_successor_too() {
    let mut landscape = scene(&[keys("", Some("e"))], taken(5));
    let add = |landscape: &mut Landscape, boundary: u64| {
        let birth = Birth { parent: GroupId(1), index: 40, boundary };
        let group = GroupId(1).born(40);
        for store in 1..=3 {
            let replicas = &mut landscape.stores.get_mut(&store).expect("it is there").replicas;
            let mut report = replicas[&GroupId(1)].clone();
            report.descriptor.group = group;
            report.descriptor.boundary = keys("e", None);
            report.lineage = Lineage { birth: Some(birth), ..Lineage::default() };
            replicas.insert(group, report);
        }
    };
    add(&mut landscape, 8);
    let after = round(&landscape, 4);
    assert!(quits(&after) && after.alarms.is_empty(), "{after:?}");
    add(&mut landscape, 7);
    let before = round(&landscape, 4);
    assert!(!quits(&before) && before.alarms.len() == 1, "it went before: {before:?}");
}

/// KV-018, KV-019, KV-025: whoever is no member any more quits, unless told not to.
#[test]
fn a_replica_that_its_range_has_removed_quits() {
    let mut cluster = Cluster::new(4);
    cluster.fill(KEYSPACE, &[], &target(&[1, 2, 3, 4], &[]));
    let old = cluster.range(1).report(4);
    let mut cluster = Cluster::new(4);
    cluster.fill(KEYSPACE, &[], &target(&[1, 2, 3], &[]));
    cluster.range_mut(1).descriptor.version.config = 3;
    cluster.leftovers.insert((4, GroupId(1)), old);
    let mut paused = cluster.clone();
    paused.rules.switch(KEYSPACE, Balancer::Redundant, Switch::Off);
    paused.rest(2);
    assert_eq!(paused.leftovers.len(), 1);
    cluster.rest(2);
    assert!(cluster.leftovers.is_empty());
}
