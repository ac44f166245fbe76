//! Ranges with too much to do, or too much in them, become two. KV-023, KV-024
//!
//! The key follows what was observed: where half of the load is on either side. A range whose load
//! is on one key stays whole, as parting it would help nobody. The hottest ranges of a keyspace come
//! first, as many as the rules have room for.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use ratatosk_store::log::GroupId;

use crate::landscape::Load;
use crate::plan::{Action, Balancer, Plan};
use crate::rules;
use crate::scene::{Range, Scene};

/// The part of the load, in percent, that the lighter half gets at least.
const LIGHTER_PERCENT: u64 = 10;

pub(crate) fn plan(scene: &Scene<'_>) -> Vec<Plan> {
    let chosen = chosen(scene);
    let led = scene.led(Balancer::Split);
    let splits = led.filter_map(|(range, _)| {
        let key = chosen.get(&range.group)?.clone();
        Some(range.plan(Action::Split { key }))
    });
    splits.collect()
}

/// All ranges that are to be split now, whoever leads them, each with its key.
fn chosen(scene: &Scene<'_>) -> BTreeMap<GroupId, Bytes> {
    let mut room: BTreeMap<&str, usize> = BTreeMap::new();
    for range in scene.ranges.values() {
        let keyspace = range.descriptor.keyspace.as_str();
        let room = room.entry(keyspace).or_insert_with(|| scene.rules_of(range).ranges_max);
        *room = room.saturating_sub(1);
    }
    let mut hot: Vec<_> =
        scene.ranges.values().filter_map(|range| Some((range, demand(scene, range)?))).collect();
    hot.sort_by_key(|(range, demand)| (Reverse(demand.heat), range.group));
    let mut chosen = BTreeMap::new();
    for (range, demand) in hot {
        let Some(room) = room.get_mut(range.descriptor.keyspace.as_str()) else { continue };
        if *room > 0 {
            *room -= 1;
            chosen.insert(range.group, demand.key);
        }
    }
    chosen
}

/// Why and where a range is to be split.
struct Demand {
    /// How far it is above its limit, in percent of the limit.
    heat: u64,
    key: Bytes,
}

fn demand(scene: &Scene<'_>, range: &Range<'_>) -> Option<Demand> {
    let leader = range.leader?;
    let rules = scene.rules_of(range);
    if !rules.has(Balancer::Split) || !scene.is_settled(range, leader) {
        return None;
    }
    let load = &leader.leading.load;
    let parts = |key: &Bytes| {
        let boundary = &range.descriptor.boundary;
        boundary.contains(key) && *key != boundary.start
    };
    let by_fanout = load.fanout.as_ref().and_then(|fanout| {
        let heat = heat(fanout.receivers, rules.split.fanout_max?)?;
        parts(&fanout.key).then(|| Demand { heat, key: fanout.key.clone() })
    });
    let by_size = heat(load.size_bytes, rules.split.size_bytes_max).and_then(|heat| {
        let key = load.middle.clone().filter(parts)?;
        Some(Demand { heat, key })
    });
    let by_load = work(load, &rules.split).and_then(|heat| {
        let key = middle_of_load(&load.samples, parts)?;
        Some(Demand { heat, key })
    });
    [by_load, by_fanout, by_size].into_iter().flatten().max_by_key(|demand| demand.heat)
}

/// How far a value is above its limit, if it is.
fn heat(value: u64, max: u64) -> Option<u64> {
    (value > max).then(|| value.saturating_mul(100) / max.max(1))
}

/// How far the work is above its limits, where it is furthest.
fn work(load: &Load, rules: &rules::Split) -> Option<u64> {
    let nanos = |span: std::time::Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let limits = [
        (load.io_density, rules.io_density_max),
        (nanos(load.io_latency), nanos(rules.io_latency_max)),
        (load.cpu_permille, rules.cpu_permille_max),
    ];
    limits.into_iter().filter_map(|(value, max)| heat(value, max)).max()
}

/// The key that parts the load most evenly; `None` if one key has too much of it.
fn middle_of_load(samples: &BTreeMap<Bytes, u64>, parts: impl Fn(&Bytes) -> bool) -> Option<Bytes> {
    let total = samples.values().fold(0_u64, |sum, weight| sum.saturating_add(*weight));
    let mut before = 0_u64;
    let mut best: Option<(u64, &Bytes)> = None;
    for (key, weight) in samples {
        let lighter = before.min(total - before.min(total));
        if parts(key) && best.is_none_or(|(known, _)| lighter > known) {
            best = Some((lighter, key));
        }
        before = before.saturating_add(*weight);
    }
    let (lighter, key) = best?;
    let is_enough = lighter > 0 && lighter.saturating_mul(100) / total >= LIGHTER_PERCENT;
    is_enough.then(|| key.clone())
}
