//! Landscapes that make no sense: what stores tell need not fit together.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use ratatosk_balance::drain::Drain;
use ratatosk_balance::landscape::{
    Birth, Landscape, Leading, Lineage, Load, LogEnd, Progress, Reach, Report, Standing, Store,
    TakenIn,
};
use ratatosk_balance::recover::recover;
use ratatosk_balance::{Action, Balancer, RuleBook, plan_all};
use ratatosk_clock::Instant;
use ratatosk_engine::KeyRange;
use ratatosk_store::edition::{Edition, Supported};
use ratatosk_store::log::GroupId;
use ratatosk_store::range::{Descriptor, Edges, Version};

use crate::cluster::{KEYSPACE, key, membership, target};

const NOW: Instant = Instant::from_millis(10_000_000);

fn version() -> impl Strategy<Value = Version> {
    (0..4_u64, 0..4_u64).prop_map(|(boundary, config)| Version { boundary, config })
}

fn group() -> impl Strategy<Value = GroupId> {
    prop_oneof![(1..5_u64).prop_map(GroupId), (1..3_u64).prop_map(|id| GroupId(id).born(7))]
}

fn descriptor(group: GroupId) -> impl Strategy<Value = Descriptor> {
    let bound = || 0..5_usize;
    let sets = (1..32_u64, 0..32_u64, any::<bool>());
    (bound(), bound(), version(), sets).prop_map(
        move |(start, end, version, (bits, others, is_joint))| {
            let bound = |at: usize| key(["", "c", "f", "i", "l"][at]);
            let stores =
                |bits: u64| (1..=5).filter(|id| bits & (1 << (id - 1)) != 0).collect::<Vec<_>>();
            let mut held = membership(&target(&stores(bits), &stores(others & !bits)));
            if is_joint && let Ok(step) = held.toward(&target(&stores(32 - bits), &[])) {
                held = step.membership;
            }
            let end = (end > 0).then(|| bound(end));
            let boundary = KeyRange { start: bound(start), end };
            let keyspace = KEYSPACE.to_owned();
            Descriptor {
                group,
                keyspace,
                boundary,
                edges: Edges::default(),
                version,
                edition: Edition(1 + bits % 2),
                membership: held,
                frozen: None,
            }
        },
    )
}

fn lineage() -> impl Strategy<Value = Lineage> {
    let birth =
        || {
            prop::option::of((group(), 0..8_u64, 0..4_u64).prop_map(|(parent, index, boundary)| {
                Birth { parent, index: index.max(6), boundary }
            }))
        };
    let taken = (version(), birth(), 0..4_u64).prop_map(|(version, birth, boundary)| TakenIn {
        version,
        birth,
        boundary,
    });
    (birth(), prop::collection::btree_map(group(), taken, 0..3))
        .prop_map(|(birth, taken_in)| Lineage { birth, taken_in })
}

fn leading() -> impl Strategy<Value = Leading> {
    let progress = prop::sample::select(vec![
        Progress::CaughtUp,
        Progress::CaughtUp,
        Progress::Lagging,
        Progress::Snapshot,
        Progress::Silent,
    ]);
    let samples = prop::collection::btree_map("[a-z]{0,2}", any::<u64>(), 0..4);
    let idle = prop::option::of((0..10_000_000_u64).prop_map(Instant::from_millis));
    let load =
        (samples, 0..2_000_u64, any::<u64>()).prop_map(|(samples, cpu_permille, size_bytes)| {
            Load {
                cpu_permille,
                size_bytes: size_bytes >> (cpu_permille % 64),
                samples: samples.into_iter().map(|(text, weight)| (key(&text), weight)).collect(),
                ..Load::default()
            }
        });
    (prop::collection::btree_map(1..6_u64, progress, 0..6), load, idle)
        .prop_map(|(progress, load, idle_since)| Leading { progress, load, idle_since })
}

fn report() -> impl Strategy<Value = (GroupId, Report)> {
    let descriptor = group().prop_flat_map(descriptor);
    let parts = (descriptor, 0..4_u64, lineage(), prop::option::of(leading()));
    parts.prop_map(|(descriptor, term, lineage, leading)| {
        let log = LogEnd { term, index: term };
        (descriptor.group, Report { descriptor, term, log, lineage, leading })
    })
}

fn landscape() -> impl Strategy<Value = Landscape> {
    let reach = prop_oneof![
        3 => Just(Reach::Up),
        1 => (0..10_000_000_u64).prop_map(|at| Reach::Away { since: Instant::from_millis(at) }),
    ];
    let standing = prop_oneof![
        3 => Just(Standing::Member),
        1 => Just(Standing::Draining),
        1 => Just(Standing::GivenUp),
    ];
    let replicas = prop::collection::vec(report(), 0..4).prop_map(|all| all.into_iter().collect());
    let store =
        (reach, standing, replicas, 0..3_usize).prop_map(|(reach, standing, replicas, zone)| {
            Store {
                labels: [("zone".to_owned(), zone.to_string())].into(),
                reach,
                standing,
                keyspaces: (zone > 0).then(|| KEYSPACE.to_owned()).into_iter().collect(),
                copies: (zone < 2).then(|| KEYSPACE.to_owned()).into_iter().collect(),
                editions: Supported::new(),
                replicas,
            }
        });
    prop::collection::btree_map(1..6_u64, store, 0..6).prop_map(|stores| Landscape { stores })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// KV-021, KV-018: whatever stores tell, two that heard the same never plan for one range, and
    /// nobody plans for one that is not its own or is in doubt.
    #[test]
    fn nobody_contradicts_whoever_heard_the_same(landscape in landscape()) {
        let rules = RuleBook::default();
        let mut planned = BTreeSet::new();
        for me in 1..6_u64 {
            let round = plan_all(&rules, &landscape, NOW, me);
            let mine = landscape.stores.get(&me);
            for (_, plan) in &round.plans {
                let report = mine.and_then(|held| held.replicas.get(&plan.group));
                let report = report.expect("it has a replica");
                prop_assert_eq!(report.descriptor.version, plan.expected);
                if plan.action == Action::Quit {
                    continue;
                }
                prop_assert!(report.leading.is_some(), "{:?}", plan);
                prop_assert!(planned.insert(plan.group), "two plans: {:?}", plan);
                let in_doubt = round.alarms.iter().any(|alarm| {
                    alarm.groups.0 == plan.group || alarm.groups.1 == plan.group
                });
                prop_assert!(!in_doubt, "{:?}", plan);
                if let Action::Merge { neighbour, .. } = plan.action {
                    prop_assert!(planned.insert(neighbour), "two plans: {:?}", plan);
                }
            }
            let again = plan_all(&rules, &landscape, NOW, me);
            prop_assert_eq!(&round, &again);
            let left = Drain::of(&rules, &landscape, NOW + Duration::from_secs(1), me);
            prop_assert!(!left.is_over() || left.votes.is_empty());
        }
    }

    /// KV-021: each balancer alone keeps to one plan a range, too.
    #[test]
    fn a_balancer_has_one_plan_a_range(landscape in landscape()) {
        for balancer in Balancer::ALL {
            let plans = balancer.plan(&RuleBook::default(), &landscape, NOW, 1);
            let groups: BTreeSet<_> = plans.iter().map(|plan| plan.group).collect();
            prop_assert_eq!(groups.len(), plans.len());
        }
    }

    /// KV-027: what is recovered is on a store that is up and has a replica.
    #[test]
    fn a_recovery_is_of_a_replica_that_is_there(landscape in landscape(), group in group()) {
        if let Ok(recovery) = recover(&landscape, group) {
            let Action::Recover { store } = recovery.plan.action else { panic!("{recovery:?}") };
            prop_assert!(recovery.survivors.contains(&store) && landscape.is_up(store));
            prop_assert!(landscape.stores[&store].replicas.contains_key(&group));
            prop_assert!(!recovery.lost.contains(&store));
        }
    }
}
