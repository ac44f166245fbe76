//! Replicas on stores that are out of reach for too long. KV-020
//!
//! Another store takes the place of a lost one where there is one; where there is none, the range
//! goes on with fewer voters, if the rules let it. Stores that come back in time keep theirs.

use crate::plan::{Balancer, Plan};
use crate::scene::Scene;

use super::replica_count::planned_for;

pub(crate) fn plan(scene: &Scene<'_>) -> Vec<Plan> {
    planned_for(scene, Balancer::Unreachable)
}
