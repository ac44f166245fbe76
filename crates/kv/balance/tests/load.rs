//! What parts ranges, and what joins them.

use std::time::Duration;

use ratatosk_balance::landscape::{Fanout, Load, Progress};
use ratatosk_balance::rules::Switch;
use ratatosk_balance::{Action, Balancer, Settings};
use ratatosk_clock::Instant;
use ratatosk_engine::KeyRange;
use ratatosk_store::edition::Edition;
use ratatosk_store::log::{GroupId, Truncated};
use ratatosk_store::range::{Frozen, Version};

use crate::cluster::{Cluster, KEYSPACE, key, rules, target};

/// Three stores with these ranges.
fn cluster(keys: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.fill(KEYSPACE, keys, &target(&[1, 2, 3], &[]));
    cluster.rules.set(KEYSPACE, rules(|it| it.leaders_apart = 100));
    cluster
}

/// As much work as is allowed, on these keys.
fn load(samples: &[(&str, u64)]) -> Load {
    let rules = Settings::default().split;
    Load {
        io_density: rules.io_density_max,
        io_latency: rules.io_latency_max,
        cpu_permille: rules.cpu_permille_max,
        size_bytes: rules.size_bytes_max,
        middle: Some(key("m")),
        samples: samples.iter().map(|(text, weight)| (key(text), *weight)).collect(),
        ..Load::default()
    }
}

/// Where the first range of a cluster would be split.
fn split_key(cluster: &Cluster) -> Option<bytes::Bytes> {
    let rounds = cluster.rounds(&|_, _| 0).into_iter();
    let mut plans = rounds.flat_map(|(_, round)| round.plans);
    plans.find_map(|(_, plan)| match plan.action {
        Action::Split { key } if plan.group.0 == 1 => Some(key),
        _ => None,
    })
}

/// KV-023: each limit that is passed splits, and none that is only reached.
#[test]
fn a_range_above_a_limit_is_split() {
    fn check(change: impl Fn(&mut Load), expected: Option<&str>) {
        let mut cluster = cluster(&[]);
        let mut load = load(&[("a", 5), ("k", 5)]);
        change(&mut load);
        cluster.range_mut(1).leading.load = load;
        assert_eq!(split_key(&cluster), expected.map(key));
    }
    check(|_| {}, None);
    check(|load| load.io_density += 1, Some("k"));
    check(|load| load.io_latency += Duration::from_nanos(1), Some("k"));
    check(|load| load.cpu_permille += 1, Some("k"));
    check(|load| load.size_bytes += 1, Some("m"));
}

/// KV-024: the key has as much of the load on one side as on the other, and none is made up.
#[test]
fn the_key_follows_the_load() {
    fn check(samples: &[(&str, u64)], expected: Option<&str>) {
        let mut cluster = cluster(&["x"]);
        let mut load = load(samples);
        load.cpu_permille = 900;
        load.middle = None;
        cluster.range_mut(1).leading.load = load;
        assert_eq!(split_key(&cluster), expected.map(key), "{samples:?}");
    }
    check(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)], Some("c"));
    check(&[("a", 1), ("b", 1), ("c", 8)], Some("c"));
    check(&[("a", 8), ("b", 1), ("c", 1)], Some("b"));
    check(&[("a", 100)], None);
    check(&[("a", 95), ("b", 1)], None);
    check(&[("", 5), ("z", 100)], None);
    check(&[], None);
}

/// KV-024: where a service counts receivers, many of them are a reason, and the key is its own.
#[test]
fn a_fan_out_above_its_limit_is_split_where_the_service_says() {
    let mut cluster = cluster(&[]);
    let fanout = Fanout { receivers: 100_001, key: key("f") };
    cluster.range_mut(1).leading.load = Load { fanout: Some(fanout), ..Load::default() };
    assert_eq!(split_key(&cluster), None);
    cluster.rules.set(KEYSPACE, rules(|it| it.split.fanout_max = Some(100_000)));
    assert_eq!(split_key(&cluster), Some(key("f")));
}

/// KV-023: the hottest are split, and no more than there is room for.
#[test]
fn splits_keep_to_the_most_ranges() {
    let mut cluster = cluster(&["b", "c"]);
    for (group, cpu_permille, at) in [(1, 900, "a1"), (2, 2000, "b1"), (3, 1000, "c1")] {
        let samples = &[("a0", 1), ("a1", 1), ("b0", 1), ("b1", 1), ("c0", 1), ("c1", 1)];
        let held = &mut cluster.range_mut(group).leading.load;
        *held = Load { cpu_permille, ..load(samples) };
        held.samples.retain(|sample, _| sample[0] == at.as_bytes()[0]);
    }
    cluster.rules.set(KEYSPACE, rules(|it| (it.ranges_max, it.leaders_apart) = (4, 100)));
    cluster.rest(5);
    let mut starts = cluster.ranges.values().map(|range| &range.descriptor.boundary.start);
    assert_eq!(cluster.ranges.len(), 4);
    assert!(starts.any(|start| *start == key("b1")), "the hottest one");
}

/// KV-023: a range that changes, or has not all of its replicas, stays whole.
#[test]
fn a_range_that_is_not_whole_is_not_split() {
    let mut hot = cluster(&[]);
    hot.range_mut(1).leading.load = Load { cpu_permille: 900, ..load(&[("a", 1), ("k", 1)]) };
    assert_eq!(split_key(&hot), Some(key("k")));
    let check = |change: fn(&mut Cluster)| {
        let mut cluster = hot.clone();
        change(&mut cluster);
        assert_eq!(split_key(&cluster), None);
    };
    check(|it| it.lose(2));
    check(|it| {
        it.range_mut(1).leading.progress.insert(2, Progress::Lagging);
    });
    check(|it| {
        let held = &mut it.range_mut(1).descriptor.membership;
        *held = held.toward(&target(&[1, 2], &[])).expect("a step").membership;
    });
    check(|it| {
        let (into, at) = (GroupId(9), Truncated { index: 9, term: 6 });
        let frozen = Frozen { into, expected: Version::default(), at };
        it.range_mut(1).descriptor.frozen = Some(frozen);
    });
    check(|it| it.rules.switch(KEYSPACE, Balancer::Split, Switch::Off));
    check(|it| it.rules.set(KEYSPACE, rules(|rules| rules.ranges_max = 1)));
}

fn idle(cluster: &mut Cluster, size_bytes: u64) {
    for range in cluster.ranges.values_mut() {
        range.leading.idle_since = Some(Instant::ZERO);
        range.leading.load.size_bytes = size_bytes;
    }
}

/// KV-015: a row of idle ranges becomes one, with every key, and stays one.
#[test]
fn idle_neighbours_become_one() {
    let mut cluster = cluster(&["b", "c", "d", "e", "f", "g"]);
    cluster.rest(5);
    assert_eq!(cluster.ranges.len(), 7, "none is idle");
    idle(&mut cluster, 1 << 20);
    cluster.rest(20);
    let left: Vec<_> = cluster.ranges.values().map(|range| &range.descriptor.boundary).collect();
    assert_eq!(left, [&KeyRange::all()]);
}

/// KV-015: what is large, busy or idle for a short time only stays apart; so does what a split
/// has just made.
#[test]
fn neighbours_that_would_soon_be_split_stay_apart() {
    let hour = Settings::default().merge.idle_min;
    let check = |change: fn(&mut Cluster), expected: usize| {
        let mut cluster = cluster(&["b"]);
        idle(&mut cluster, 1 << 20);
        cluster.now = Instant::ZERO + Duration::from_secs(7200);
        change(&mut cluster);
        cluster.rest(20);
        assert_eq!(cluster.ranges.len(), expected);
    };
    assert_eq!(hour, Duration::from_secs(3600));
    check(|_| {}, 1);
    check(|it| idle(it, 129 << 20), 2);
    check(|it| it.range_mut(2).leading.idle_since = None, 2);
    check(|it| it.range_mut(2).descriptor.edition = Edition(2), 2);
    check(|it| it.range_mut(2).leading.idle_since = Some(it.now), 2);
    check(|it| it.rules.switch(KEYSPACE, Balancer::Merge, Switch::Off), 2);
    let fan_out = |it: &mut Cluster| {
        it.rules.set(KEYSPACE, rules(|rules| rules.split.fanout_max = Some(100)));
        let fanout = Some(Fanout { receivers: 13, key: key("b1") });
        it.range_mut(2).leading.load.fanout.clone_from(&fanout);
        it.range_mut(1).leading.load.fanout = fanout;
    };
    check(fan_out, 2);
}

/// KV-015: a neighbour on other stores comes first, and is taken in then.
#[test]
fn neighbours_on_different_stores_are_brought_together() {
    let mut cluster = Cluster::new(6);
    cluster.insert(
        KEYSPACE,
        KeyRange { end: Some(key("k")), ..KeyRange::all() },
        &target(&[1, 2, 3], &[]),
    );
    cluster.insert(KEYSPACE, KeyRange { start: key("k"), end: None }, &target(&[4, 5, 6], &[]));
    assert_eq!(cluster.rest(5), 0, "nothing to do while they have work");
    idle(&mut cluster, 1 << 20);
    cluster.rest(30);
    assert_eq!(cluster.ranges.len(), 1);
    assert_eq!(cluster.range(1).target(), target(&[1, 2, 3], &[]));
}

/// KV-025: while the number of replicas is left alone, nobody is brought to a neighbour that has too
/// few of them.
#[test]
fn a_neighbour_that_is_kept_as_it_is_draws_nobody() {
    let mut cluster = Cluster::new(6);
    let left = KeyRange { end: Some(key("k")), ..KeyRange::all() };
    cluster.insert(KEYSPACE, left, &target(&[1], &[]));
    cluster.insert(KEYSPACE, KeyRange { start: key("k"), end: None }, &target(&[4, 5, 6], &[]));
    idle(&mut cluster, 1 << 20);
    cluster.rules.switch(KEYSPACE, Balancer::ReplicaCount, Switch::Off);
    assert_eq!(cluster.rest(5), 0);
    cluster.rules.switch(KEYSPACE, Balancer::ReplicaCount, Switch::On);
    cluster.rest(40);
    assert_eq!(cluster.ranges.len(), 1);
}
