//! Which idle neighbours are to become one: found before anything else is planned, because the right
//! one of a pair goes where the left one is.
//!
//! Pairs are found from the left, and no range is in two of them: a row of idle ranges halves with
//! each round.

use std::collections::BTreeMap;

use ratatosk_store::log::GroupId;

use crate::plan::Balancer;
use crate::rules::MERGED_PART;
use crate::scene::{Range, Scene};

/// The left one of each pair, with its right one.
pub(crate) fn pairs(scene: &Scene<'_>) -> BTreeMap<GroupId, GroupId> {
    let mut sorted: Vec<_> = scene.ranges.values().collect();
    sorted.sort_by_key(|range| (&range.descriptor.keyspace, &range.descriptor.boundary.start));
    let mut pairs = BTreeMap::new();
    let mut rest = &sorted[..];
    while let [left, right, behind @ ..] = rest {
        if are_mergeable(scene, left, right) {
            pairs.insert(left.group, right.group);
            rest = behind;
        } else {
            rest = &rest[1..];
        }
    }
    pairs
}

fn are_mergeable(scene: &Scene<'_>, left: &Range<'_>, right: &Range<'_>) -> bool {
    let rules = scene.rules_of(left);
    let are_neighbours = left.descriptor.keyspace == right.descriptor.keyspace
        && left.descriptor.boundary.end.as_ref() == Some(&right.descriptor.boundary.start);
    let (Some(one), Some(two)) = (left.leader, right.leader) else { return false };
    let is_idle = |since| scene.now.since(since) >= rules.merge.idle_min;
    let are_idle =
        one.leading.idle_since.is_some_and(is_idle) && two.leading.idle_since.is_some_and(is_idle);
    let (one, two) = (&one.leading.load, &two.leading.load);
    let size_bytes = one.size_bytes.saturating_add(two.size_bytes);
    let receivers = [one, two].map(|load| load.fanout.as_ref().map_or(0, |it| it.receivers));
    let is_split_again = rules
        .split
        .fanout_max
        .is_some_and(|max| receivers[0].saturating_add(receivers[1]) > max / MERGED_PART);
    // The one that is behind is raised first.
    let are_alike = left.descriptor.edition == right.descriptor.edition;
    rules.has(Balancer::Merge)
        && are_neighbours
        && are_alike
        && are_idle
        && size_bytes <= rules.merge.size_bytes_max
        && !is_split_again
}
