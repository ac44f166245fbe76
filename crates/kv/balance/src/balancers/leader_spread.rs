//! Leaders evenly over stores. KV-022
//!
//! Every store works out the same moves for all ranges, one after the other, each with the ones
//! before in mind, and makes those that are its own: so not everybody turns to the same store at
//! once. A move is made only if it leaves the two stores nearer to each other, so none is taken
//! back. Stores that drain give up all that they lead. A range that is about to be taken in by its
//! neighbour moves for that reason only.

use std::collections::BTreeMap;

use ratatosk_store::log::GroupId;

use crate::landscape::StoreId;
use crate::plan::{Action, Balancer, Plan};
use crate::scene::{Leader, Range, Scene};

pub(crate) fn plan(scene: &Scene<'_>) -> Vec<Plan> {
    let moves = moves(scene);
    let led = scene.led(Balancer::LeaderSpread);
    let transfers = led.filter_map(|(range, _)| {
        let to = *moves.get(&range.group)?;
        Some(range.plan(Action::Transfer { to }))
    });
    transfers.collect()
}

/// Where each leader that moves goes to.
fn moves(scene: &Scene<'_>) -> BTreeMap<GroupId, StoreId> {
    let mut counts: BTreeMap<StoreId, usize> = BTreeMap::new();
    let mut movable = Vec::new();
    for range in scene.ranges.values() {
        let Some(leader) = range.leader else { continue };
        *counts.entry(leader.store).or_default() += 1;
        let rules = scene.rules_of(range);
        if range.is_at_rest() && rules.has(Balancer::LeaderSpread) {
            movable.push((range, leader, rules.leaders_apart));
        }
    }
    // What drains comes first: it leaves a store to which nothing comes.
    movable.sort_by_key(|(range, leader, _)| (!drains(scene, range, *leader), range.group));
    let mut moves = BTreeMap::new();
    for (range, leader, apart) in movable {
        let count = |store: StoreId| counts.get(&store).copied().unwrap_or(0);
        let goal = scene.goals.get(&range.group).map(|goal| &goal.target.voters);
        let fit = scene.fit(range.descriptor);
        let heirs = range.target().voters.into_iter().filter(|store| {
            let stays = goal.is_none_or(|voters| voters.contains(store));
            *store != leader.store
                && stays
                && fit.contains_key(store)
                && scene.is_ready(leader, *store)
        });
        let Some(to) = heirs.min_by_key(|store| (count(*store), *store)) else { continue };
        let lasts = !scene.pairs.values().any(|right| *right == range.group);
        let is_evener = lasts && count(leader.store) > count(to) + apart;
        if is_evener || drains(scene, range, leader) {
            *counts.entry(leader.store).or_default() -= 1;
            *counts.entry(to).or_default() += 1;
            moves.insert(range.group, to);
        }
    }
    moves
}

fn drains(scene: &Scene<'_>, range: &Range<'_>, leader: Leader<'_>) -> bool {
    scene.is_unwanted(&range.descriptor.keyspace, leader.store)
}
