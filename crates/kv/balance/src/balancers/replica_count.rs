//! The number of voters and learners. KV-022
//!
//! As many voters as the rules want, or as there are stores for; an odd number, so two stores are a
//! voter and a learner. Stores that drain, or are not of the keyspace any more, lose what they
//! have. While the store of a voter restarts, nothing is changed: it will be back.

use crate::landscape::StoreId;
use crate::placement;
use crate::plan::{Balancer, Plan};
use crate::scene::Scene;

pub(crate) fn plan(scene: &Scene<'_>) -> Vec<Plan> {
    planned_for(scene, Balancer::ReplicaCount)
}

/// The next steps of the ranges that are led, where they are the matter of this balancer.
pub(crate) fn planned_for(scene: &Scene<'_>, balancer: Balancer) -> Vec<Plan> {
    let its = scene.led(balancer).filter(|(range, _)| {
        scene.goals.get(&range.group).is_some_and(|goal| goal.reason == Some(balancer))
    });
    let calm = its.filter(|(range, _)| {
        let keyspace = &range.descriptor.keyspace;
        let is_restarting = |store: &StoreId| scene.is_restarting(keyspace, *store);
        balancer == Balancer::Unreachable || !range.target().voters.iter().any(is_restarting)
    });
    let steps = calm.filter_map(|(range, leader)| {
        let action = placement::step(scene, range, leader)?;
        Some(range.plan(action))
    });
    steps.collect()
}
