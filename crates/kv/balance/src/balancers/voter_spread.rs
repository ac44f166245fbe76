//! Voters in distinct zones, and evenly over stores.
//!
//! One voter of a range moves at a time, and never the leader. A zone counts before a store. What a
//! store without the label is in counts as one zone.

use crate::plan::{Balancer, Plan};
use crate::scene::Scene;

use super::replica_count::planned_for;

pub(crate) fn plan(scene: &Scene<'_>) -> Vec<Plan> {
    planned_for(scene, Balancer::VoterSpread)
}
