//! What balancers plan, and in which order they are asked.
//!
//! A plan is for a range as it was seen; whoever carries it out proposes it with the version that
//! it expects, and the range refuses it if it has another by then. KV-021
//!
//! - Only the leader of a range plans for it; the one plan of somebody else is [`Action::Quit`],
//!   which concerns the planner's own replica alone.
//! - There is one plan a range and round at most, of the first balancer in the order of
//!   [`Balancer::ALL`] that has one. A range that is to be taken in by its neighbour is only brought
//!   to it.
//! - A range that overlaps another in doubt has none: it is left as it is until an operator has
//!   decided. KV-018

use std::collections::BTreeMap;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_engine::KeyRange;
use ratatosk_store::log::GroupId;
use ratatosk_store::membership::Target;
use ratatosk_store::range::Version;

use crate::balancers;
use crate::landscape::{Landscape, StoreId};
use crate::rules::RuleBook;
use crate::scene::Scene;

/// What to do with a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The range.
    pub group: GroupId,
    /// What it has to be like.
    pub expected: Version,
    /// What to do.
    pub action: Action,
}

/// What can be done with a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// One step towards this membership. Planned again until it is reached.
    Change(Target),
    /// Another store is to lead.
    Transfer {
        /// This one.
        to: StoreId,
    },
    /// The keys from this one on become a range of their own.
    Split {
        /// The first of them.
        key: Bytes,
    },
    /// The range takes in its right neighbour.
    Merge {
        /// The neighbour.
        neighbour: GroupId,
        /// What the neighbour has to be like.
        neighbour_expected: Version,
    },
    /// The replica of the planning store goes: others have its keys. The store carries it out once no
    /// merge there can still need it.
    Quit,
    /// The replica of this store goes on as the only voter. Never planned but by
    /// [`recover`](crate::recover::recover).
    Recover {
        /// This one.
        store: StoreId,
    },
}

/// What makes plans. In the order in which they are asked.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Balancer {
    /// Replicas of ranges that have gone on without them quit. KV-018
    Redundant,
    /// Replicas on stores that are lost are replaced. KV-020
    Unreachable,
    /// The number of voters and learners, and what drains. KV-022
    ReplicaCount,
    /// Ranges with too much to do are parted. KV-023
    Split,
    /// Idle neighbours become one.
    Merge,
    /// Voters are spread over zones and stores.
    VoterSpread,
    /// Leaders are spread over stores. KV-022
    LeaderSpread,
}

/// Ranges that have keys in common, and nothing proves which of them is right. KV-018
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Their keyspace.
    pub keyspace: String,
    /// The two.
    pub groups: (GroupId, GroupId),
    /// The keys that both have.
    pub keys: KeyRange,
}

/// A range has fewer votes than its rules want of stores that are to vote for it: there are not enough of these,
/// or they are about to get their votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The range.
    pub group: GroupId,
    /// Its keyspace.
    pub keyspace: String,
    /// Votes of such stores, which are not lost.
    pub voters: usize,
    /// Votes that the rules want.
    pub wanted: usize,
}

/// What one store does in a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// By range.
    pub plans: Vec<(Balancer, Plan)>,
    /// What an operator has to look at, if it is still there in the rounds that follow: a landscape
    /// may know a range and not yet the one in between that it comes from.
    pub alarms: Vec<Alarm>,
    /// The ranges that the store leads and that are short of votes.
    pub short: Vec<Shortage>,
}

impl Balancer {
    /// All, the first one first.
    pub const ALL: [Self; 7] = [
        Self::Redundant,
        Self::Unreachable,
        Self::ReplicaCount,
        Self::Split,
        Self::Merge,
        Self::VoterSpread,
        Self::LeaderSpread,
    ];

    /// What this one alone would have `me` do.
    #[must_use]
    pub fn plan(
        self,
        rules: &RuleBook,
        landscape: &Landscape,
        now: Instant,
        me: StoreId,
    ) -> Vec<Plan> {
        self.plan_in(&Scene::new(rules, landscape, now, me))
    }

    fn plan_in(self, scene: &Scene<'_>) -> Vec<Plan> {
        match self {
            Self::Redundant => balancers::redundant::plan(scene),
            Self::Unreachable => balancers::unreachable::plan(scene),
            Self::ReplicaCount => balancers::replica_count::plan(scene),
            Self::Split => balancers::split::plan(scene),
            Self::Merge => balancers::merge::plan(scene),
            Self::VoterSpread => balancers::voter_spread::plan(scene),
            Self::LeaderSpread => balancers::leader_spread::plan(scene),
        }
    }
}

/// What `me` does in this round.
#[must_use]
pub fn plan_all(rules: &RuleBook, landscape: &Landscape, now: Instant, me: StoreId) -> Round {
    let scene = Scene::new(rules, landscape, now, me);
    let mut plans = BTreeMap::new();
    for balancer in Balancer::ALL {
        for plan in balancer.plan_in(&scene) {
            plans.entry(plan.group).or_insert((balancer, plan));
        }
    }
    let short = scene.short().collect();
    Round { plans: plans.into_values().collect(), short, alarms: scene.into_alarms() }
}
