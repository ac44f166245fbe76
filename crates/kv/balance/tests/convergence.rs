//! Whatever happens to a cluster, it comes to rest as the rules want it.
//!
//! Stores come, go, drain and return while ranges get hot and idle, and every store plans on words
//! that are up to three rounds old. Then the trouble ends. What must never be is asserted by the
//! cluster at each plan; what must be in the end is asserted here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use ratatosk_balance::landscape::{Load, Reach, Standing, Store};
use ratatosk_balance::rules::{Learners, Switch};
use ratatosk_balance::{Balancer, StoreId};
use ratatosk_store::membership::Role;

use crate::cluster::{Cluster, KEYSPACE, Range, key, rules, store, target};

const EVERYWHERE: &str = "dist.route";
/// Rounds until rest, whatever there is to do. A replica takes four or five to move.
const ROUNDS_MAX: usize = 120;

#[derive(Clone, Debug)]
enum Event {
    Lose(u64),
    Find(u64),
    Drain(u64),
    GiveUp(u64),
    Undrain(u64),
    Join(usize, usize),
    Recast(u64, usize),
    Heat(usize),
    Rest(usize),
    Switch(usize, bool),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let store = 1..8_u64;
    prop_oneof![
        3 => store.clone().prop_map(Event::Lose),
        3 => store.clone().prop_map(Event::Find),
        1 => store.clone().prop_map(Event::Drain),
        1 => store.clone().prop_map(Event::GiveUp),
        1 => store.clone().prop_map(Event::Undrain),
        1 => (0..4_usize, cast()).prop_map(|(zone, cast)| Event::Join(zone, cast)),
        2 => (store, cast()).prop_map(|(id, cast)| Event::Recast(id, cast)),
        2 => (0..9_usize).prop_map(Event::Heat),
        2 => (0..9_usize).prop_map(Event::Rest),
        1 => (0..7_usize, any::<bool>()).prop_map(|(at, on)| Event::Switch(at, on)),
        3 => (1..400_u64).prop_map(Event::Wait),
    ]
}

/// What a store may vote for, and whether it reads what is to be everywhere: most all, some one of the two, some
/// nothing, some that read and some that do not.
const CASTS: [(&[&str], bool); 8] = [
    (&[KEYSPACE, EVERYWHERE], true),
    (&[KEYSPACE, EVERYWHERE], true),
    (&[KEYSPACE, EVERYWHERE], false),
    (&[KEYSPACE], true),
    (&[KEYSPACE], false),
    (&[EVERYWHERE], false),
    (&[], true),
    (&[], false),
];

fn cast() -> impl Strategy<Value = usize> {
    0..CASTS.len()
}

/// How a cluster begins.
#[derive(Clone, Debug)]
struct Start {
    zones: Vec<usize>,
    casts: Vec<usize>,
    /// For each range, the stores that vote, by bits.
    ranges: Vec<u64>,
}

fn start() -> impl Strategy<Value = Start> {
    let zones = prop::collection::vec(0..4_usize, 1..7);
    (zones, prop::collection::vec(cast(), 7), prop::collection::vec(1..64_u64, 1..7))
        .prop_map(|(zones, casts, ranges)| Start { zones, casts, ranges })
}

fn labelled(zone: usize, cast: usize) -> Store {
    // One of four is without a label.
    let names = ["a", "b", "c"];
    let mut made =
        store(&names.get(zone).map(|name| ("zone", *name)).into_iter().collect::<Vec<_>>());
    recast(&mut made, cast);
    made
}

fn recast(store: &mut Store, cast: usize) {
    let (votes, reads) = CASTS[cast];
    store.keyspaces = votes.iter().map(|name| (*name).to_owned()).collect();
    store.copies = reads.then(|| EVERYWHERE.to_owned()).into_iter().collect();
}

fn cluster(start: &Start) -> Cluster {
    let mut cluster = Cluster::new(0);
    for (at, zone) in start.zones.iter().enumerate() {
        cluster.stores.insert(at as u64 + 1, labelled(*zone, start.casts[at]));
    }
    let quick = |it: &mut ratatosk_balance::Settings| {
        it.merge.idle_min = Duration::from_secs(60);
        it.ranges_max = 8;
    };
    cluster.rules.set(KEYSPACE, rules(quick));
    cluster.rules.set(
        EVERYWHERE,
        rules(|it| {
            quick(it);
            it.learners = Learners::Everywhere;
        }),
    );
    let count = start.zones.len() as u64;
    let starts = ["", "c", "f", "i", "l", "o"];
    for keyspace in [KEYSPACE, EVERYWHERE] {
        for (at, bits) in start.ranges.iter().enumerate() {
            let mut voters: Vec<_> = (1..=count).filter(|id| bits & (1 << (id - 1)) != 0).collect();
            if voters.len() % 2 == 0 {
                voters.pop();
            }
            voters = if voters.is_empty() { vec![1] } else { voters };
            let end = (at + 1 < start.ranges.len()).then(|| key(starts[at + 1]));
            let boundary = ratatosk_engine::KeyRange { start: key(starts[at]), end };
            cluster.insert(keyspace, boundary, &target(&voters, &[]));
        }
    }
    cluster
}

fn happen(cluster: &mut Cluster, event: &Event) {
    let is_known = |cluster: &Cluster, id: &u64| cluster.stores.contains_key(id);
    let stand = |cluster: &mut Cluster, id: u64, standing| {
        if let Some(held) = cluster.stores.get_mut(&id) {
            held.standing = standing;
        }
    };
    let nth = |cluster: &mut Cluster, at: usize, change: &dyn Fn(&mut Range)| {
        let count = cluster.ranges.len();
        cluster.ranges.values_mut().nth(at % count).into_iter().for_each(change);
    };
    let now = cluster.now;
    match event {
        Event::Lose(id) if is_known(cluster, id) => cluster.lose(*id),
        Event::Find(id) if is_known(cluster, id) => cluster.find(*id),
        Event::Lose(_) | Event::Find(_) => {}
        Event::Drain(id) => stand(cluster, *id, Standing::Draining),
        Event::GiveUp(id) => stand(cluster, *id, Standing::GivenUp),
        Event::Undrain(id) => stand(cluster, *id, Standing::Member),
        Event::Join(zone, cast) => {
            let id = cluster.stores.len() as u64 + 1;
            if id < 8 {
                cluster.stores.insert(id, labelled(*zone, *cast));
            }
        }
        Event::Recast(id, cast) => {
            cluster.stores.get_mut(id).into_iter().for_each(|held| recast(held, *cast));
        }
        Event::Heat(at) => nth(cluster, *at, &|range| {
            range.leading.idle_since = None;
            let begin = range.descriptor.boundary.start.clone();
            let longer = |end: u8| -> bytes::Bytes { [&begin[..], &[end]].concat().into() };
            let samples = [(begin.clone(), 5), (longer(b'0'), 5), (longer(b'1'), 5)].into();
            range.leading.load = Load { cpu_permille: 1500, samples, ..Load::default() };
        }),
        Event::Rest(at) => nth(cluster, *at, &|range| {
            range.leading.load = Load::default();
            range.leading.idle_since = Some(now);
        }),
        Event::Switch(at, on) => {
            let to = if *on { Switch::On } else { Switch::Off };
            cluster.rules.switch(KEYSPACE, Balancer::ALL[*at], to);
        }
        Event::Wait(seconds) => cluster.now = now + Duration::from_secs(*seconds),
    }
}

/// The trouble ends: all balancers work, and all stores are back but one that nobody needs.
fn heal(cluster: &mut Cluster, dead: u64) {
    for balancer in Balancer::ALL {
        cluster.rules.switch(KEYSPACE, balancer, Switch::On);
    }
    let ids: Vec<_> = cluster.stores.keys().copied().collect();
    let is_needed = |range: &Range| {
        let membership = &range.descriptor.membership;
        let votes = membership.of_store(dead).is_some_and(|replica| replica.role != Role::Learner);
        votes && (range.target().voters.len() < 3 || membership.is_joint())
    };
    let is_needed = cluster.ranges.values().any(is_needed);
    for id in ids.iter().filter(|id| **id != dead || is_needed) {
        cluster.find(*id);
    }
    let all_drain = cluster
        .stores
        .values()
        .all(|held| held.standing != Standing::Member || held.reach != Reach::Up);
    if all_drain && let Some(held) = cluster.stores.values_mut().find(|it| it.reach == Reach::Up) {
        held.standing = Standing::Member;
    }
    for range in cluster.ranges.values_mut() {
        range.leading.load.cpu_permille = 0;
    }
    cluster.now = cluster.now + Duration::from_secs(301);
}

/// What the rules want of a cluster at rest.
fn assert_kept(cluster: &Cluster) {
    let mut leaders: BTreeMap<StoreId, usize> = BTreeMap::new();
    for range in cluster.ranges.values() {
        let leader = range.leader.unwrap_or_else(|| panic!("nobody leads {range:?}"));
        *leaders.entry(leader).or_default() += 1;
    }
    let fit: BTreeSet<_> = cluster
        .stores
        .iter()
        .filter_map(|(id, held)| {
            (held.reach == Reach::Up && held.standing == Standing::Member).then_some(*id)
        })
        .collect();
    if fit.is_empty() {
        return;
    }
    let zone = |id: &StoreId| cluster.stores[id].labels.get("zone").cloned();
    for range in cluster.ranges.values() {
        let (held, keyspace) = (range.target(), range.descriptor.keyspace.as_str());
        let of = |is_it: &dyn Fn(&Store) -> bool| -> BTreeSet<StoreId> {
            fit.iter().filter(|id| is_it(&cluster.stores[id])).copied().collect()
        };
        let own = of(&|store| store.keyspaces.contains(keyspace));
        let readers = of(&|store| store.copies.contains(keyspace));
        let spare = of(&|store| store.copies.contains(keyspace) && !store.keyspaces.is_empty());
        let able: BTreeSet<_> = own.union(&spare).copied().collect();
        let is_everywhere = keyspace == EVERYWHERE;
        if able.is_empty() {
            let has_all =
                readers.iter().all(|id| held.learners.contains(id) || held.voters.contains(id));
            assert!(has_all || !is_everywhere, "{held:?} of {readers:?}");
            continue;
        }
        let voter_count = if able.len() < 3 { 1 } else { 3 };
        assert_eq!(held.voters.len(), voter_count, "{held:?} of {able:?}");
        assert!(held.voters.is_subset(&able), "{held:?} of {able:?}");
        let own_count = held.voters.intersection(&own).count();
        assert_eq!(own_count, own.len().min(voter_count), "{held:?} of {own:?}");
        let others: BTreeSet<_> = readers.union(&own).copied().collect();
        let others: BTreeSet<_> = others.difference(&held.voters).copied().collect();
        match is_everywhere {
            true => assert_eq!(held.learners, others),
            false => assert_eq!(held.learners.len(), usize::from(able.len() == 2), "{held:?}"),
        }
        if own_count == 3 {
            let zones: BTreeSet<_> = held.voters.iter().map(zone).collect();
            let all: BTreeSet<_> = own.iter().map(zone).collect();
            assert_eq!(zones.len(), all.len().min(3), "{held:?}");
        }
        let leader = range.leader.expect("it is led");
        assert!(held.voters.contains(&leader));
        for other in &held.voters {
            let count = |id: &StoreId| leaders.get(id).copied().unwrap_or(0);
            assert!(count(&leader) <= count(other) + 1, "{leaders:?}");
        }
    }
    assert!(cluster.leftovers.is_empty(), "{:?}", cluster.leftovers);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// KV-021, KV-022, KV-020: no trouble and no old word leads to contradictions, to a range that
    /// cannot decide, or to plans without end.
    #[test]
    fn a_cluster_comes_to_rest_as_its_rules_want_it(
        start in start(),
        events in prop::collection::vec(event(), 0..40),
        ages in prop::collection::vec(0..4_usize, 64),
        dead in 1..8_u64,
    ) {
        let mut cluster = cluster(&start);
        for (round, event) in events.iter().enumerate() {
            happen(&mut cluster, event);
            cluster.round(&|me, of| {
                let at = usize::try_from(me * 13 + of * 7).expect("small") + round;
                ages[at % ages.len()]
            });
        }
        heal(&mut cluster, dead);
        cluster.rest(ROUNDS_MAX);
        assert_kept(&cluster);
    }

    /// KV-021: words that stay old keep nobody from coming to rest.
    #[test]
    fn old_words_delay_rest_and_do_not_prevent_it(start in start(), age in 1..4_usize) {
        let mut cluster = cluster(&start);
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            quiet = if cluster.round(&|_, _| age) == 0 { quiet + 1 } else { 0 };
        }
        prop_assert!(quiet > 10, "{:#?}", cluster.rounds(&|_, _| age));
        prop_assert_eq!(cluster.rest(1), 0);
        assert_kept(&cluster);
    }

    /// KV-021, KV-025: stores with the same landscape have the same picture, and all paused plan
    /// nothing.
    #[test]
    fn paused_balancers_leave_everything_as_it_is(
        start in start(),
        events in prop::collection::vec(event(), 0..20),
    ) {
        let mut cluster = cluster(&start);
        for event in events.iter().filter(|event| !matches!(event, Event::Switch(..))) {
            happen(&mut cluster, event);
            for keyspace in [KEYSPACE, EVERYWHERE] {
                for balancer in Balancer::ALL {
                    cluster.rules.switch(keyspace, balancer, Switch::Off);
                }
            }
            let before: Vec<_> = cluster.ranges.values().map(Range::target).collect();
            prop_assert_eq!(cluster.round(&|_, _| 1), 0);
            let after: Vec<_> = cluster.ranges.values().map(Range::target).collect();
            prop_assert_eq!(before, after);
        }
    }
}
