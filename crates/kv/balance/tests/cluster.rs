//! A cluster made up: stores, ranges, and time that goes in rounds.
//!
//! In each round every store plans, on words of the others that may be old, and what it plans is
//! carried out under the rule of versions, as the store would. What a plan must never do is
//! asserted where it is carried out. KV-021

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_balance::landscape::{
    Birth, Landscape, Leading, Lineage, LogEnd, Progress, Reach, Report, Standing, Store, TakenIn,
};
use ratatosk_balance::{Action, Plan, Round, RuleBook, Rules, Settings, StoreId, plan_all};
use ratatosk_clock::Instant;
use ratatosk_engine::KeyRange;
use ratatosk_store::edition::Edition;
use ratatosk_store::log::GroupId;
use ratatosk_store::membership::{Membership, Replica, Role, Target};
use ratatosk_store::range::{Descriptor, Edges, Version};

pub(crate) const KEYSPACE: &str = "inbox.session";
/// Between two rounds.
pub(crate) const ROUND: Duration = Duration::from_secs(5);
/// The oldest landscape that is kept, in rounds.
const AGE_MAX: usize = 4;

/// What is true of a range.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) descriptor: Descriptor,
    pub(crate) leader: Option<StoreId>,
    pub(crate) leading: Leading,
    pub(crate) lineage: Lineage,
    pub(crate) term: u64,
    index: u64,
}

/// What is true of all.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Without replicas, which are in the ranges.
    pub(crate) stores: BTreeMap<StoreId, Store>,
    pub(crate) ranges: BTreeMap<GroupId, Range>,
    /// Replicas that their range has gone on without.
    pub(crate) leftovers: BTreeMap<(StoreId, GroupId), Report>,
    pub(crate) rules: RuleBook,
    pub(crate) now: Instant,
    /// What stores told before they went away.
    last_words: BTreeMap<StoreId, BTreeMap<GroupId, Report>>,
    past: Vec<Landscape>,
    /// Each version of a range is changed once.
    changed: BTreeSet<(GroupId, u64, u64)>,
}

pub(crate) fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn set(stores: &[StoreId]) -> BTreeSet<StoreId> {
    stores.iter().copied().collect()
}

pub(crate) fn target(voters: &[StoreId], learners: &[StoreId]) -> Target {
    Target { voters: set(voters), learners: set(learners) }
}

pub(crate) fn rules(change: impl FnOnce(&mut Settings)) -> Rules {
    let mut settings = Settings::default();
    change(&mut settings);
    Rules::try_from(settings).expect("they make sense")
}

/// A membership that was come to step by step.
pub(crate) fn membership(of: &Target) -> Membership {
    let first = of.voters.first().copied().expect("a voter");
    let mut membership = Membership::alone(first);
    while let Ok(step) = membership.toward(of) {
        membership = step.membership.left();
    }
    membership
}

pub(crate) fn store(labels: &[(&str, &str)]) -> Store {
    Store {
        labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        keyspaces: [KEYSPACE.to_owned()].into(),
        ..Store::default()
    }
}

impl Range {
    pub(crate) fn target(&self) -> Target {
        self.descriptor.membership.target()
    }

    fn is_caught_up(&self, store: StoreId) -> bool {
        self.leader == Some(store) || self.leading.progress.get(&store) == Some(&Progress::CaughtUp)
    }

    pub(crate) fn report(&self, store: StoreId) -> Report {
        let leads = self.leader == Some(store);
        Report {
            descriptor: self.descriptor.clone(),
            term: self.term,
            log: LogEnd { term: self.term, index: self.index },
            lineage: self.lineage.clone(),
            leading: leads.then(|| self.leading.clone()),
        }
    }
}

impl Cluster {
    /// Stores 1 to `count`, without ranges.
    pub(crate) fn new(count: u64) -> Self {
        Self {
            stores: (1..=count).map(|id| (id, store(&[]))).collect(),
            ranges: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            rules: RuleBook::default(),
            now: Instant::from_millis(10_000_000),
            last_words: BTreeMap::new(),
            past: Vec::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Ranges of a keyspace that meet at these keys, all kept by the same stores, led by the first.
    pub(crate) fn fill(&mut self, keyspace: &str, keys: &[&str], of: &Target) {
        let mut starts = vec![Bytes::new()];
        starts.extend(keys.iter().map(|text| key(text)));
        for (at, start) in starts.iter().enumerate() {
            let boundary = KeyRange { start: start.clone(), end: starts.get(at + 1).cloned() };
            self.insert(keyspace, boundary, of);
        }
    }

    /// One more range.
    pub(crate) fn insert(&mut self, keyspace: &str, boundary: KeyRange, of: &Target) -> GroupId {
        let group = GroupId(self.ranges.len() as u64 + 1);
        let descriptor = Descriptor {
            group,
            keyspace: keyspace.to_owned(),
            boundary,
            edges: Edges::default(),
            version: Version { boundary: 1, config: 1 },
            edition: Edition::FIRST,
            membership: membership(of),
            frozen: None,
        };
        let leader = of.voters.first().copied();
        let followers = of.voters.union(&of.learners).filter(|store| Some(**store) != leader);
        let progress = followers.map(|store| (*store, Progress::CaughtUp)).collect();
        let leading = Leading { progress, ..Leading::default() };
        let lineage = Lineage::default();
        let range = Range { descriptor, leader, leading, lineage, term: 6, index: 10 };
        self.ranges.insert(group, range);
        group
    }

    pub(crate) fn range(&self, group: u64) -> &Range {
        &self.ranges[&GroupId(group)]
    }

    pub(crate) fn range_mut(&mut self, group: u64) -> &mut Range {
        self.ranges.get_mut(&GroupId(group)).expect("there is such a range")
    }

    pub(crate) fn lose(&mut self, store: StoreId) {
        let words = self.landscape().stores.remove(&store).expect("there is such a store");
        self.last_words.entry(store).or_insert(words.replicas);
        let held = self.stores.get_mut(&store).expect("there is such a store");
        if held.reach == Reach::Up {
            held.reach = Reach::Away { since: self.now };
        }
    }

    pub(crate) fn find(&mut self, store: StoreId) {
        self.stores.get_mut(&store).expect("there is such a store").reach = Reach::Up;
        for (group, report) in self.last_words.remove(&store).unwrap_or_default() {
            let range = self.ranges.get(&group);
            let kept = range.and_then(|range| range.descriptor.membership.of_store(store));
            if kept.is_none() {
                self.leftovers.insert((store, group), Report { leading: None, ..report });
            }
        }
    }

    pub(crate) fn drain(&mut self, store: StoreId) {
        self.stores.get_mut(&store).expect("there is such a store").standing = Standing::Draining;
    }

    fn is_up(&self, store: StoreId) -> bool {
        self.stores.get(&store).is_some_and(|held| held.reach == Reach::Up)
    }

    /// What all tell, at this moment.
    pub(crate) fn landscape(&self) -> Landscape {
        let mut stores = self.stores.clone();
        for (group, range) in &self.ranges {
            for replica in range.descriptor.membership.replicas() {
                let is_blank =
                    range.leading.progress.get(&replica.store) == Some(&Progress::Snapshot);
                if let (Some(held), false) = (stores.get_mut(&replica.store), is_blank) {
                    held.replicas.insert(*group, range.report(replica.store));
                }
            }
        }
        for (store, words) in &self.last_words {
            stores.get_mut(store).expect("there is such a store").replicas.clone_from(words);
        }
        for ((store, group), report) in &self.leftovers {
            if let Some(held) = stores.get_mut(store) {
                held.replicas.entry(*group).or_insert_with(|| report.clone());
            }
        }
        Landscape { stores }
    }

    /// What `me` knows, if the word of each other store is as old as `age` says, in rounds.
    fn seen_by(&self, me: StoreId, fresh: &Landscape, age: &dyn Fn(StoreId) -> usize) -> Landscape {
        let told = |store: StoreId| {
            let age = if store == me { 0 } else { age(store) };
            let back = self.past.len().checked_sub(age)?;
            self.past.get(back).and_then(|past| past.stores.get(&store)).cloned()
        };
        let stores = fresh
            .stores
            .iter()
            .map(|(store, held)| (*store, told(*store).unwrap_or_else(|| held.clone())));
        Landscape { stores: stores.collect() }
    }

    /// What every store that is up plans, on what it knows.
    pub(crate) fn rounds(&self, age: &dyn Fn(StoreId, StoreId) -> usize) -> Vec<(StoreId, Round)> {
        let fresh = self.landscape();
        let up = self.stores.keys().filter(|store| self.is_up(**store));
        up.map(|me| {
            let seen = self.seen_by(*me, &fresh, &|store| age(*me, store));
            (*me, plan_all(&self.rules, &seen, self.now, *me))
        })
        .collect()
    }

    /// Time goes on, every store plans and all is carried out. How many plans were accepted.
    pub(crate) fn round(&mut self, age: &dyn Fn(StoreId, StoreId) -> usize) -> usize {
        self.settle();
        let rounds = self.rounds(age);
        self.past.push(self.landscape());
        if self.past.len() > AGE_MAX {
            self.past.remove(0);
        }
        let plans = rounds
            .into_iter()
            .flat_map(|(me, round)| round.plans.into_iter().map(move |(_, plan)| (me, plan)));
        let accepted = plans.filter(|(me, plan)| self.carry_out(*me, plan)).count();
        self.check_coverage();
        accepted
    }

    /// Rounds with fresh words until nobody plans anything. How many there were.
    pub(crate) fn rest(&mut self, rounds_max: usize) -> usize {
        for round in 0..rounds_max {
            let is_busy = self.round(&|_, _| 0) > 0;
            let is_moving = self.ranges.values().any(|range| self.is_moving(range));
            if !is_busy && !is_moving {
                assert_eq!(self.round(&|_, _| 0), 0, "rest is rest");
                return round;
            }
        }
        panic!("no rest after {rounds_max} rounds: {:?} {:?}", self.rounds(&|_, _| 0), self.ranges);
    }

    /// Whether a range has something to do by itself.
    fn is_moving(&self, range: &Range) -> bool {
        let up = self.stores.keys().copied().filter(|id| self.is_up(*id)).collect();
        let mut progress = range.leading.progress.iter();
        let is_behind = progress.any(|(id, at)| *at != Progress::CaughtUp && self.is_up(*id));
        let decides = decides(&range.descriptor.membership, &up);
        is_behind || (decides && (range.leader.is_none() || range.descriptor.membership.is_joint()))
    }

    /// What ranges do by themselves: elect, leave joint configurations, catch up.
    fn settle(&mut self) {
        self.now = self.now + ROUND;
        let up: BTreeSet<_> = self.stores.keys().copied().filter(|id| self.is_up(*id)).collect();
        for (group, range) in &mut self.ranges {
            let decides = decides(&range.descriptor.membership, &up);
            if range.descriptor.membership.is_joint() && decides {
                range.descriptor.membership = range.descriptor.membership.left();
                range.descriptor.version.config += 1;
                range.index += 1;
            }
            let voters = range.target().voters;
            let leads = |store: &StoreId| up.contains(store) && voters.contains(store);
            if !range.leader.as_ref().is_some_and(leads) || !decides {
                elect(range, &up, decides);
            }
            for (store, progress) in &mut range.leading.progress {
                *progress = match (up.contains(store), *progress) {
                    (true, Progress::Snapshot) => {
                        // A replica that it had before gives way to the one that it has now.
                        self.leftovers.remove(&(*store, *group));
                        Progress::Lagging
                    }
                    (true, Progress::Silent) => Progress::Lagging,
                    (true, _) => Progress::CaughtUp,
                    (false, Progress::Snapshot) => Progress::Snapshot,
                    (false, _) => Progress::Silent,
                };
            }
        }
    }

    /// Whether the plan was accepted.
    pub(crate) fn carry_out(&mut self, me: StoreId, plan: &Plan) -> bool {
        if plan.action == Action::Quit {
            let left_over = self.leftovers.get(&(me, plan.group));
            let is_left_over =
                left_over.is_some_and(|report| report.descriptor.version == plan.expected);
            let kept = self.ranges.get(&plan.group).filter(|range| {
                let is_member = range.descriptor.membership.of_store(me).is_some();
                is_member && range.descriptor.version == plan.expected
            });
            assert!(kept.is_none(), "a replica that is needed quits: {plan:?}");
            if is_left_over {
                self.leftovers.remove(&(me, plan.group));
            }
            return is_left_over;
        }
        let Some(range) = self.ranges.get(&plan.group) else { return false };
        let is_as_expected = range.leader == Some(me) && range.descriptor.version == plan.expected;
        if !is_as_expected {
            return false;
        }
        let is_accepted = match &plan.action {
            Action::Change(target) => self.change(plan.group, target),
            Action::Transfer { to } => self.transfer(plan.group, *to),
            Action::Split { key } => self.split(plan.group, key),
            Action::Merge { neighbour, neighbour_expected } => {
                self.merge(plan.group, *neighbour, *neighbour_expected)
            }
            Action::Quit | Action::Recover { .. } => panic!("nobody plans this: {plan:?}"),
        };
        let changes = is_accepted && !matches!(plan.action, Action::Transfer { .. });
        let Version { boundary, config } = plan.expected;
        let is_first = !changes || self.changed.insert((plan.group, boundary, config));
        assert!(is_first, "two plans for one version: {plan:?}");
        is_accepted
    }

    fn change(&mut self, group: GroupId, target: &Target) -> bool {
        let up: BTreeSet<_> = self.stores.keys().copied().filter(|id| self.is_up(*id)).collect();
        let range = self.ranges.get_mut(&group).expect("it was found");
        let Ok(step) = range.descriptor.membership.toward(target) else { return false };
        let before = range.target();
        let able: BTreeSet<_> =
            up.iter().copied().filter(|store| range.is_caught_up(*store)).collect();
        assert!(decides(&range.descriptor.membership, &up), "nobody could commit it");
        let is_safe = target.voters == before.voters || decides(&step.membership.left(), &able);
        assert!(is_safe, "no quorum afterwards: {target:?}");
        assert!(target.voters.len() % 2 == 1 || target.voters == before.voters, "{target:?}");
        range.descriptor.membership = step.membership;
        range.descriptor.version.config += 1;
        range.index += 1;
        let held = range.descriptor.membership.replicas();
        let held: BTreeSet<_> = held.iter().map(|replica| replica.store).collect();
        range.leading.progress.retain(|store, _| held.contains(store));
        for store in held.into_iter().filter(|store| Some(*store) != range.leader) {
            range.leading.progress.entry(store).or_insert(Progress::Snapshot);
        }
        true
    }

    fn transfer(&mut self, group: GroupId, to: StoreId) -> bool {
        let is_up = self.is_up(to);
        let range = self.ranges.get_mut(&group).expect("it was found");
        // It may have gone down since the planner heard of it; then the leader stays.
        if !is_up {
            return false;
        }
        assert!(range.is_caught_up(to), "{to} cannot lead yet");
        assert!(range.target().voters.contains(&to), "{to} does not vote");
        hand_over(range, to);
        true
    }

    fn split(&mut self, group: GroupId, at: &Bytes) -> bool {
        let range = self.ranges.get_mut(&group).expect("it was found");
        let boundary = &range.descriptor.boundary;
        assert!(!range.descriptor.membership.is_joint(), "who keeps the other half?");
        assert!(boundary.contains(at) && *at != boundary.start, "{at:?} parts nothing");
        range.index += 1;
        range.descriptor.version.boundary += 1;
        let mut other = range.clone();
        let id = group.born(range.index);
        other.descriptor.group = id;
        other.descriptor.boundary.start = at.clone();
        other.lineage = Lineage::default();
        let boundary = range.descriptor.version.boundary;
        other.lineage.birth = Some(Birth { parent: group, index: range.index, boundary });
        range.descriptor.boundary.end = Some(at.clone());
        for half in [&mut *range, &mut other] {
            half.leading.load.size_bytes /= 2;
            half.leading.load.samples.clear();
            half.leading.load.cpu_permille /= 2;
        }
        self.ranges.insert(id, other);
        true
    }

    fn merge(&mut self, group: GroupId, neighbour: GroupId, expected: Version) -> bool {
        let Some(right) = self.ranges.get(&neighbour).cloned() else { return false };
        let left = self.ranges.get_mut(&group).expect("it was found");
        if right.descriptor.version != expected {
            return false;
        }
        let are_joint = [&*left, &right].map(|range| range.descriptor.membership.is_joint());
        assert_eq!(are_joint, [false; 2]);
        assert_eq!(left.target(), right.target(), "neighbours on other stores");
        assert_eq!(left.descriptor.boundary.end.as_ref(), Some(&right.descriptor.boundary.start));
        let boundary = left.descriptor.version.boundary.max(expected.boundary) + 1;
        left.descriptor.version.boundary = boundary;
        left.descriptor.boundary.end = right.descriptor.boundary.end;
        left.lineage.taken_in.extend(right.lineage.taken_in);
        let taken = TakenIn { version: expected, birth: right.lineage.birth, boundary };
        left.lineage.taken_in.insert(neighbour, taken);
        left.leading.load.size_bytes += right.leading.load.size_bytes;
        self.ranges.remove(&neighbour);
        true
    }

    /// Every key of a keyspace is in one range.
    fn check_coverage(&self) {
        let mut sorted: Vec<_> = self.ranges.values().map(|range| &range.descriptor).collect();
        sorted.sort_by_key(|range| (&range.keyspace, &range.boundary.start));
        let mut open: BTreeMap<&str, Option<Bytes>> = BTreeMap::new();
        for range in sorted {
            let next = open.entry(&range.keyspace).or_insert(Some(Bytes::new()));
            assert_eq!(next.as_ref(), Some(&range.boundary.start), "{range:?}");
            next.clone_from(&range.boundary.end);
        }
        assert!(open.values().all(Option::is_none), "{open:?}");
    }
}

/// Whether these stores can decide for a range, in both configurations of a joint one.
fn decides(membership: &Membership, able: &BTreeSet<StoreId>) -> bool {
    [[Role::Voter, Role::Demoting], [Role::Voter, Role::Joining]].iter().all(|roles| {
        let is_voter = |replica: &&Replica| roles.contains(&replica.role);
        let voters: Vec<_> = membership.replicas().iter().filter(is_voter).collect();
        voters.iter().filter(|voter| able.contains(&voter.store)).count() > voters.len() / 2
    })
}

fn elect(range: &mut Range, up: &BTreeSet<StoreId>, decides: bool) {
    let heirs = range.target().voters.into_iter();
    let mut heirs = heirs.filter(|store| up.contains(store) && range.is_caught_up(*store));
    match heirs.next() {
        Some(heir) if decides => hand_over(range, heir),
        _ => {
            // Whoever led has all, and is among those who may lead next.
            if let Some(former) = range.leader.take() {
                range.leading.progress.insert(former, Progress::CaughtUp);
            }
        }
    }
}

fn hand_over(range: &mut Range, to: StoreId) {
    let former = range.leader.replace(to);
    range.leading.progress.remove(&to);
    range.term += 1;
    let kept = former.filter(|former| range.descriptor.membership.of_store(*former).is_some());
    if let Some(former) = kept.filter(|former| *former != to) {
        range.leading.progress.insert(former, Progress::CaughtUp);
    }
}
