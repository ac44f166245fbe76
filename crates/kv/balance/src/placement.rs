//! Who is to keep each range, and the next safe step there.
//!
//! The balancers that change members share one goal for a range and differ only in whose reason it
//! is; so none undoes what another began. The goal is made in three parts: which replicas go
//! (their store drains, is not of the keyspace, or is lost); how many voters and learners there
//! are; and which one voter moves for the sake of zones and stores. Where too few stores are to vote for the
//! keyspace, others that have a copy of it vote beside them, as long as they vote for anything. It depends on the landscape and
//! the rules alone, and chooses again what it chose before: a learner that waits for its
//! vote is taken first.
//!
//! Steps keep to this: voters are odd in number; nobody is given a vote who has not caught up; a
//! change needs a majority of the voters up before and a majority up and caught up afterwards; a
//! leader that is to go hands over first, where it can.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ratatosk_store::log::GroupId;
use ratatosk_store::membership::Target;

use crate::landscape::StoreId;
use crate::plan::{Action, Balancer};
use crate::rules::{Learners, Rules};
use crate::scene::{Leader, Part, Range, Scene, is_majority};

/// Who is to keep a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Goal {
    /// In the end.
    pub(crate) target: Target,
    /// The first balancer whose matter it is. Whatever else differs waits for it.
    pub(crate) reason: Option<Balancer>,
}

/// Votes by store, as they will be if all goals are reached.
type Votes = BTreeMap<StoreId, usize>;

/// The goal of every range.
pub(crate) fn goals(scene: &Scene<'_>) -> BTreeMap<GroupId, Goal> {
    let follows: BTreeMap<_, _> = scene.pairs.iter().map(|(left, right)| (*right, *left)).collect();
    // Two that are to be one have the votes of one.
    let lasting = || scene.ranges.values().filter(|range| !follows.contains_key(&range.group));
    let mut votes = Votes::new();
    for range in lasting() {
        count(&mut votes, &range.target().voters, &BTreeSet::new());
    }
    let mut goals: BTreeMap<GroupId, Goal> = BTreeMap::new();
    for range in lasting() {
        goals.insert(range.group, goal(scene, range, &mut votes));
    }
    for (right, left) in &follows {
        let (right, left) = (&scene.ranges[right], &goals[left]);
        let now = right.target();
        let is_paused = left.reason.is_some_and(|by| !scene.rules_of(right).has(by));
        let goal = if is_paused {
            // The left one stays as it is not to be; the right one is looked after by itself.
            count(&mut votes, &now.voters, &BTreeSet::new());
            goal(scene, right, &mut votes)
        } else {
            let reason = (left.target != now).then_some(Balancer::Merge);
            Goal { target: left.target.clone(), reason }
        };
        goals.insert(right.group, goal);
    }
    goals
}

/// The next step of a range to its goal; `None` if it is reached, or somebody is waited for.
pub(crate) fn step(scene: &Scene<'_>, range: &Range<'_>, leader: Leader<'_>) -> Option<Action> {
    let goal = &scene.goals.get(&range.group)?.target;
    let now = range.target();
    if !range.is_at_rest() || now == *goal || !scene.has_quorum(leader, &now.voters) {
        return None;
    }
    if now.voters == goal.voters {
        return Some(Action::Change(goal.clone()));
    }
    let is_ready = |store: &StoreId| scene.is_ready(leader, *store);
    let mut newcomers = goal.voters.difference(&now.voters);
    if !newcomers.clone().all(|store| now.learners.contains(store)) {
        let mut staged = now.clone();
        staged.learners.extend(newcomers);
        return Some(Action::Change(staged));
    }
    let ready_count = goal.voters.iter().filter(|store| is_ready(store)).count();
    if !newcomers.all(is_ready) || !is_majority(ready_count, goal.voters.len()) {
        return None;
    }
    if !goal.voters.contains(&leader.store)
        && let Some(to) = now.voters.intersection(&goal.voters).find(|store| is_ready(store))
    {
        return Some(Action::Transfer { to: *to });
    }
    Some(Action::Change(goal.clone()))
}

fn goal(scene: &Scene<'_>, range: &Range<'_>, votes: &mut Votes) -> Goal {
    let now = range.target();
    let seats = Seats::of(scene, range);
    let base = seats.filled(votes).unwrap_or_else(|| now.clone());
    count(votes, &base.voters, &now.voters);
    if base.voters != now.voters {
        let reason = seats.has_loss().then_some(Balancer::Unreachable);
        return Goal { target: base, reason: reason.or(Some(Balancer::ReplicaCount)) };
    }
    let target = match seats.rules.has(Balancer::VoterSpread) {
        true => seats.spread(&base, votes),
        false => base,
    };
    count(votes, &target.voters, &now.voters);
    let reason = match (&target, seats.has_loss()) {
        (target, _) if *target == now => None,
        (_, true) => Some(Balancer::Unreachable),
        (target, false) if target.voters == now.voters => Some(Balancer::ReplicaCount),
        (_, false) => Some(Balancer::VoterSpread),
    };
    Goal { target, reason }
}

fn count(votes: &mut Votes, more: &BTreeSet<StoreId>, less: &BTreeSet<StoreId>) {
    for store in more.difference(less) {
        *votes.entry(*store).or_default() += 1;
    }
    for store in less.difference(more) {
        *votes.entry(*store).or_default() -= 1;
    }
}

/// The stores that come into question for a range.
struct Seats<'s> {
    scene: &'s Scene<'s>,
    rules: &'s Rules,
    leader: Option<StoreId>,
    now: Target,
    /// Have it, and need not go.
    stay: BTreeMap<StoreId, Part>,
    /// May be given it.
    fit: BTreeMap<StoreId, Part>,
    /// Have it, and are lost.
    lost: BTreeSet<StoreId>,
}

impl<'s> Seats<'s> {
    fn of(scene: &'s Scene<'_>, range: &Range<'_>) -> Self {
        let keyspace = range.descriptor.keyspace.as_str();
        let (rules, now) = (scene.rules_of(range), range.target());
        let held: BTreeSet<_> = now.voters.union(&now.learners).copied().collect();
        let removes_lost = rules.has(Balancer::Unreachable);
        let is_lost = |store: &&StoreId| removes_lost && scene.is_lost(keyspace, **store);
        let lost: BTreeSet<_> = held.iter().filter(is_lost).copied().collect();
        let stay = held.difference(&lost);
        let stay = stay.filter_map(|store| Some((*store, scene.kept(keyspace, *store)?))).collect();
        let fit = scene.fit(range.descriptor);
        let leader = range.leader.map(|leader| leader.store);
        Self { scene, rules, leader, now, stay, fit, lost }
    }

    fn has_loss(&self) -> bool {
        !self.lost.is_empty()
    }

    /// As many voters and learners as there are to be; `None` if it cannot be said yet.
    fn filled(&self, votes: &Votes) -> Option<Target> {
        let mut hosts = self.fit.clone();
        hosts.extend(&self.stay);
        let count = |of: Part| hosts.values().filter(|part| **part == of).count();
        let (own, spare) = (count(Part::Vote), count(Part::Spare));
        let wanted = (own + spare).min(self.rules.voters);
        if wanted == 0 {
            return self.copied(&hosts);
        }
        let voter_count = if wanted % 2 == 1 { wanted } else { wanted - 1 };
        if voter_count < self.rules.voters_kept.min(self.now.voters.len()) {
            return None;
        }
        let spare_max = voter_count.saturating_sub(own);
        let voters = self.voters(voter_count, spare_max, votes)?;
        let others = hosts.keys().filter(|store| !voters.contains(store)).copied();
        let learners = match self.rules.learners {
            Learners::Everywhere => others.collect(),
            Learners::None if wanted == voter_count => BTreeSet::new(),
            Learners::None => {
                let others = others.filter(|store| hosts[store] != Part::Copy).collect();
                self.best_learner(&others, &voters, votes).into_iter().collect()
            }
        };
        Some(Target { voters, learners })
    }

    /// So many voters, so many of them at most that vote only because there are too few others; `None` if it cannot
    /// be said yet.
    fn voters(&self, count: usize, spare_max: usize, votes: &Votes) -> Option<BTreeSet<StoreId>> {
        let is_spare = |store: &StoreId| self.part(*store) == Some(Part::Spare);
        let spares = |voters: &BTreeSet<StoreId>| -> BTreeSet<StoreId> {
            voters.iter().filter(|store| is_spare(store)).copied().collect()
        };
        let may_vote =
            |store: &&StoreId| self.stay.get(store).is_some_and(|part| *part != Part::Copy);
        let mut voters: BTreeSet<_> = self.now.voters.iter().filter(may_vote).copied().collect();
        let mut held = spares(&voters);
        while held.len() > spare_max {
            // The leader hands over if nobody else is left.
            let out = self.worst(&held, votes).or_else(|| held.first().copied())?;
            held.remove(&out);
            voters.remove(&out);
        }
        while voters.len() > count {
            let out = self.worst(&voters, votes)?;
            voters.remove(&out);
        }
        while voters.len() < count {
            let has_room = spares(&voters).len() < spare_max;
            let able = self.fit.iter().filter(|(_, part)| match part {
                Part::Vote => true,
                Part::Spare => has_room,
                Part::Copy => false,
            });
            let able = able.map(|(store, _)| *store).collect();
            // Stores that restart are waited for.
            voters.insert(self.best(&able, &voters, votes)?);
        }
        Some(voters)
    }

    /// Where nobody is to vote, whoever votes goes on, and who reads has a copy; `None` if there is nobody at all.
    fn copied(&self, hosts: &BTreeMap<StoreId, Part>) -> Option<Target> {
        let voters = self.now.voters.clone();
        let others = hosts.keys().filter(|store| !voters.contains(store)).copied().collect();
        let is_everywhere = self.rules.learners == Learners::Everywhere && !hosts.is_empty();
        is_everywhere.then_some(Target { voters, learners: others })
    }

    fn part(&self, store: StoreId) -> Option<Part> {
        self.stay.get(&store).or_else(|| self.fit.get(&store)).copied()
    }

    /// The voter that is missed least.
    fn worst(&self, voters: &BTreeSet<StoreId>, votes: &Votes) -> Option<StoreId> {
        let others = voters.iter().filter(|store| Some(**store) != self.leader);
        others.copied().max_by_key(|store| {
            let is_away = !self.scene.is_up(*store);
            let part = self.part(*store);
            (part, is_away, self.zone_count(*store, voters), votes.get(store).copied(), *store)
        })
    }

    /// Who votes best beside those who do.
    fn best(
        &self,
        of: &BTreeSet<StoreId>,
        voters: &BTreeSet<StoreId>,
        votes: &Votes,
    ) -> Option<StoreId> {
        of.difference(voters).copied().min_by_key(|store| {
            let is_new = !self.now.learners.contains(store);
            let count = votes.get(store).copied().unwrap_or(0);
            (self.part(*store), self.zone_count(*store, voters), is_new, count, *store)
        })
    }

    /// Who has the copy beside voters of an odd number: whoever has one already.
    fn best_learner(
        &self,
        of: &BTreeSet<StoreId>,
        voters: &BTreeSet<StoreId>,
        votes: &Votes,
    ) -> Option<StoreId> {
        let held = of.iter().filter(|store| self.stay.contains_key(store)).copied().collect();
        self.best(&held, voters, votes).or_else(|| self.best(of, voters, votes))
    }

    /// With one voter at a better place, if there is one: first by zones, then by stores.
    fn spread(&self, base: &Target, votes: &Votes) -> Target {
        let is_away = |store: &StoreId| !self.scene.is_up(*store);
        if base.voters.iter().any(is_away) {
            return base.clone();
        }
        let votes_of = |store: StoreId| votes.get(&store).copied().unwrap_or(0);
        let outs = base.voters.iter().copied().filter(|store| Some(*store) != self.leader);
        let ins = || self.fit.keys().filter(|store| !base.voters.contains(store));
        let moves = outs.flat_map(|out| ins().map(move |into| (out, *into)));
        let moves = moves.filter(|(out, into)| self.part(*out) == self.part(*into));
        let better = moves.filter_map(|(out, into)| {
            let mut voters = base.voters.clone();
            voters.remove(&out);
            let (before, after) = (self.zone_count(out, &voters), self.zone_count(into, &voters));
            let is_evener = votes_of(out) >= votes_of(into) + 2;
            let is_better = after < before || (after == before && is_evener);
            let is_new = !self.now.learners.contains(&into);
            let gain = (before.saturating_sub(after), votes_of(out).saturating_sub(votes_of(into)));
            is_better.then_some(((Reverse(gain.0), is_new, Reverse(gain.1), out, into), out, into))
        });
        let Some((_, out, into)) = better.min() else { return base.clone() };
        let mut target = base.clone();
        target.voters.remove(&out);
        target.voters.insert(into);
        if target.learners.remove(&into) || self.rules.learners == Learners::Everywhere {
            target.learners.insert(out);
        }
        target
    }

    /// How many of the voters are in the zone of a store.
    fn zone_count(&self, store: StoreId, voters: &BTreeSet<StoreId>) -> usize {
        let others = voters.iter().filter(|other| **other != store);
        others.filter(|other| self.zone(**other) == self.zone(store)).count()
    }

    fn zone(&self, store: StoreId) -> Option<&str> {
        let label = self.rules.zone_label.as_ref()?;
        self.scene.landscape.stores.get(&store)?.labels.get(label).map(String::as_str)
    }
}
