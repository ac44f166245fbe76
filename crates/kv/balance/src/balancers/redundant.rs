//! Replicas that their range has gone on without. KV-018
//!
//! A replica quits if the newest word of its range does not list its store, or if other ranges have
//! all keys of its range by proof (`lineage.rs`) and are led. It concerns the own replica alone, so
//! no leader is needed: the range may have none any more.

use ratatosk_store::log::GroupId;

use crate::landscape::Report;
use crate::plan::{Action, Balancer, Plan};
use crate::scene::Scene;

pub(crate) fn plan(scene: &Scene<'_>) -> Vec<Plan> {
    let Some(mine) = scene.landscape.stores.get(&scene.me) else { return Vec::new() };
    let redundant = mine.replicas.iter().filter(|(group, report)| {
        let rules = scene.rules.of(&report.descriptor.keyspace);
        rules.has(Balancer::Redundant)
            && (scene.superseded.contains(group) || is_removed(scene, **group, report))
    });
    let quit = redundant.map(|(group, report)| Plan {
        group: *group,
        expected: report.descriptor.version,
        action: Action::Quit,
    });
    quit.collect()
}

/// Whether the range, as others know it, has no replica here any more.
fn is_removed(scene: &Scene<'_>, group: GroupId, report: &Report) -> bool {
    scene.ranges.get(&group).is_some_and(|range| {
        let is_older = report.descriptor.version < range.descriptor.version;
        is_older && range.descriptor.membership.of_store(scene.me).is_none()
    })
}
