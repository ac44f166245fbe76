//! What is left on a store that is to become empty.

use std::collections::{BTreeMap, BTreeSet};

use ratatosk_clock::Instant;
use ratatosk_store::log::GroupId;

use crate::landscape::{Landscape, Standing, StoreId};
use crate::rules::RuleBook;
use crate::scene::{Range, Scene};

/// What a store still has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Ranges that it leads.
    pub leads: BTreeSet<GroupId>,
    /// Ranges that it has a vote in.
    pub votes: BTreeSet<GroupId>,
    /// Ranges that it learns of.
    pub learns: BTreeSet<GroupId>,
    /// Those of them that do not move by themselves.
    pub stuck: BTreeMap<GroupId, Stuck>,
}

/// Why a range does not leave a store.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// The store was not asked to.
    #[error("the store is not draining")]
    NotDraining,
    /// It overlaps another range; an operator has to decide. KV-018
    #[error("the range overlaps another")]
    InDoubt,
    /// Nobody can change it.
    #[error("the range has no leader")]
    NoLeader,
    /// There is nobody to take it, or the rules do not let it go.
    #[error("no other store can take the range under the rules of its keyspace")]
    NoTaker,
}

impl Drain {
    /// What `store` has left.
    #[must_use]
    pub fn of(rules: &RuleBook, landscape: &Landscape, now: Instant, store: StoreId) -> Self {
        let scene = Scene::new(rules, landscape, now, store);
        let mut left = Self::default();
        for range in scene.ranges.values() {
            let target = range.target();
            let leads = range.leader.is_some_and(|leader| leader.store == store);
            let votes = target.voters.contains(&store);
            let learns = target.learners.contains(&store);
            left.leads.extend(leads.then_some(range.group));
            left.votes.extend(votes.then_some(range.group));
            left.learns.extend(learns.then_some(range.group));
            if (votes || learns)
                && let Some(why) = stuck(&scene, range, store)
            {
                left.stuck.insert(range.group, why);
            }
        }
        let held = landscape.stores.get(&store).into_iter().flat_map(|held| held.replicas.keys());
        let in_doubt = held
            .filter(|group| !scene.ranges.contains_key(group) && !scene.superseded.contains(group));
        left.stuck.extend(in_doubt.map(|group| (*group, Stuck::InDoubt)));
        left
    }

    /// Whether it may be switched off.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.leads.is_empty()
            && self.votes.is_empty()
            && self.learns.is_empty()
            && self.stuck.is_empty()
    }
}

fn stuck(scene: &Scene<'_>, range: &Range<'_>, store: StoreId) -> Option<Stuck> {
    let held = scene.landscape.stores.get(&store);
    if held.is_none_or(|held| held.standing == Standing::Member) {
        return Some(Stuck::NotDraining);
    }
    if range.leader.is_none() {
        return Some(Stuck::NoLeader);
    }
    let goal = &scene.goals.get(&range.group)?.target;
    let stays = goal.voters.contains(&store) || goal.learners.contains(&store);
    stays.then_some(Stuck::NoTaker)
}
