//! Idle neighbours become one range.
//!
//! The right one first goes where the left one is (its leader plans that), then the left one takes
//! it in. Only small ranges are merged, and only after a long time without work, so that what is
//! merged is far from being split; the rules see to the distance.

use crate::plan::{Action, Balancer, Plan};
use crate::scene::{Leader, Range, Scene};

use super::replica_count::planned_for;

pub(crate) fn plan(scene: &Scene<'_>) -> Vec<Plan> {
    let mut plans = planned_for(scene, Balancer::Merge);
    let led = scene.led(Balancer::Merge);
    plans.extend(led.filter_map(|(range, leader)| take_in(scene, range, leader)));
    plans
}

fn take_in(scene: &Scene<'_>, range: &Range<'_>, leader: Leader<'_>) -> Option<Plan> {
    let right = scene.ranges.get(scene.pairs.get(&range.group)?)?;
    let is_aligned = range.target() == right.target();
    let are_settled = scene.is_settled(range, leader) && scene.is_settled(right, right.leader?);
    (is_aligned && are_settled).then(|| {
        range.plan(Action::Merge {
            neighbour: right.group,
            neighbour_expected: right.descriptor.version,
        })
    })
}
