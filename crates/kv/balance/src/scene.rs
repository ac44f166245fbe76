//! One look at the landscape, as all balancers of a round share it.
//!
//! Of each range it has the newest descriptor that anybody told of, and the leader of the latest
//! term. Ranges that are superseded are left out of everything but [`Balancer::Redundant`], and
//! those that overlap in doubt out of everything. What does not depend on who looks is the same on
//! all stores with the same landscape.
//!
//! [`Balancer::Redundant`]: crate::plan::Balancer::Redundant

use std::collections::{BTreeMap, BTreeSet};

use ratatosk_clock::Instant;
use ratatosk_store::log::GroupId;
use ratatosk_store::membership::Target;
use ratatosk_store::range::Descriptor;

use crate::landscape::{Landscape, Leading, Lineage, Progress, Reach, Standing, Store, StoreId};
use crate::lineage::Verdict;
use crate::merging;
use crate::placement::{self, Goal};
use crate::plan::{Action, Alarm, Balancer, Plan, Shortage};
use crate::rules::{RuleBook, Rules};

/// A round as one store sees it.
pub(crate) struct Scene<'a> {
    pub(crate) rules: &'a RuleBook,
    pub(crate) landscape: &'a Landscape,
    pub(crate) now: Instant,
    pub(crate) me: StoreId,
    /// Those that are planned for.
    pub(crate) ranges: BTreeMap<GroupId, Range<'a>>,
    /// Those that others have gone on without.
    pub(crate) superseded: BTreeSet<GroupId>,
    /// Idle ranges, each with its right neighbour.
    pub(crate) pairs: BTreeMap<GroupId, GroupId>,
    /// Who is to keep each range.
    pub(crate) goals: BTreeMap<GroupId, Goal>,
    alarms: Vec<Alarm>,
}

/// What a store may have of a keyspace's ranges, the best first.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A vote.
    Vote,
    /// A copy; a vote where there are too few of those above. It votes for other keyspaces.
    Spare,
    /// A copy alone.
    Copy,
}

/// A range, as the newest word of it says.
#[derive(Copy, Clone)]
pub(crate) struct Range<'a> {
    pub(crate) group: GroupId,
    pub(crate) descriptor: &'a Descriptor,
    pub(crate) lineage: &'a Lineage,
    pub(crate) leader: Option<Leader<'a>>,
}

/// Who leads a range, and what it knows.
#[derive(Copy, Clone)]
pub(crate) struct Leader<'a> {
    pub(crate) store: StoreId,
    pub(crate) term: u64,
    pub(crate) leading: &'a Leading,
    /// Whether its own descriptor is the newest one.
    is_abreast: bool,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(
        rules: &'a RuleBook,
        landscape: &'a Landscape,
        now: Instant,
        me: StoreId,
    ) -> Self {
        let mut ranges = newest(landscape);
        let Verdict { superseded, alarms } = Verdict::of(&ranges);
        let in_doubt = |group: &GroupId| {
            alarms.iter().any(|alarm| alarm.groups.0 == *group || alarm.groups.1 == *group)
        };
        ranges.retain(|group, _| !superseded.contains(group) && !in_doubt(group));
        let (pairs, goals) = (BTreeMap::new(), BTreeMap::new());
        let mut scene =
            Self { rules, landscape, now, me, ranges, superseded, pairs, goals, alarms };
        scene.pairs = merging::pairs(&scene);
        scene.goals = placement::goals(&scene);
        scene
    }

    pub(crate) fn into_alarms(self) -> Vec<Alarm> {
        self.alarms
    }

    pub(crate) fn rules_of(&self, range: &Range<'_>) -> &'a Rules {
        self.rules.of(&range.descriptor.keyspace)
    }

    /// The ranges that `me` leads and knows as well as anybody, of keyspaces where the balancer
    /// works.
    pub(crate) fn led(&self, balancer: Balancer) -> impl Iterator<Item = (&Range<'a>, Leader<'a>)> {
        let led = self.ranges.values().filter_map(|range| Some((range, range.leader?)));
        led.filter(move |(range, leader)| {
            leader.store == self.me && leader.is_abreast && self.rules_of(range).has(balancer)
        })
    }

    /// The ranges that `me` leads and that are short of votes.
    pub(crate) fn short(&self) -> impl Iterator<Item = Shortage> {
        let is_led =
            |range: &&Range<'_>| range.leader.is_some_and(|leader| leader.store == self.me);
        self.ranges.values().filter(is_led).filter_map(|range| self.shortage(range))
    }

    pub(crate) fn is_up(&self, store: StoreId) -> bool {
        self.landscape.is_up(store)
    }

    /// The stores that a range may be given to, and what of it.
    pub(crate) fn fit(&self, range: &Descriptor) -> BTreeMap<StoreId, Part> {
        let up = self.landscape.stores.iter().filter(|(_, store)| store.reach == Reach::Up);
        let fit = up.filter(|(_, store)| store.supports(range));
        fit.filter_map(|(id, store)| Some((*id, part(store, &range.keyspace)?))).collect()
    }

    /// What a store that has something of a keyspace may keep; `None` if it was asked to give that up. One that is
    /// away may be known by its number only, or by what it was before it was started anew: it keeps what it has.
    pub(crate) fn kept(&self, keyspace: &str, store: StoreId) -> Option<Part> {
        let Some(store) = self.landscape.stores.get(&store) else { return Some(Part::Vote) };
        let part = part(store, keyspace);
        match store.reach {
            Reach::Away { .. } if store.standing == Standing::Member => {
                Some(part.unwrap_or(Part::Vote))
            }
            Reach::Up | Reach::Away { .. } => part,
        }
    }

    /// Whether a store was asked to give up what it has of a keyspace.
    pub(crate) fn is_unwanted(&self, keyspace: &str, store: StoreId) -> bool {
        self.kept(keyspace, store).is_none()
    }

    /// A range that has fewer votes than its rules want of stores that are to vote for it.
    pub(crate) fn shortage(&self, range: &Range<'_>) -> Option<Shortage> {
        let keyspace = range.descriptor.keyspace.as_str();
        let is_own = |store: &StoreId| {
            self.kept(keyspace, *store) == Some(Part::Vote) && !self.is_lost(keyspace, *store)
        };
        let voters = range.target().voters.into_iter().filter(is_own).count();
        let wanted = self.rules_of(range).voters;
        let (group, keyspace) = (range.group, keyspace.to_owned());
        (voters < wanted).then_some(Shortage { group, keyspace, voters, wanted })
    }

    /// Whether a store is taken for lost: after a time, or because an operator says so. KV-020
    pub(crate) fn is_lost(&self, keyspace: &str, store: StoreId) -> bool {
        let after = self.rules.of(keyspace).unreachable_after;
        self.landscape.stores.get(&store).is_some_and(|store| match store.reach {
            Reach::Up => false,
            Reach::Away { since } => {
                store.standing == Standing::GivenUp || self.now.since(since) >= after
            }
        })
    }

    /// Whether a store is expected back.
    pub(crate) fn is_restarting(&self, keyspace: &str, store: StoreId) -> bool {
        !self.is_up(store) && !self.is_lost(keyspace, store)
    }

    /// Whether most of the voters answer.
    pub(crate) fn has_quorum(&self, leader: Leader<'_>, voters: &BTreeSet<StoreId>) -> bool {
        let answers = |store: &&StoreId| {
            let is_silent = leader.leading.progress.get(store) == Some(&Progress::Silent);
            self.is_up(**store) && !is_silent
        };
        is_majority(voters.iter().filter(answers).count(), voters.len())
    }

    /// Whether a store could lead or vote at once.
    pub(crate) fn is_ready(&self, leader: Leader<'_>, store: StoreId) -> bool {
        let progress = leader.leading.progress.get(&store);
        self.is_up(store) && (store == leader.store || progress == Some(&Progress::CaughtUp))
    }

    /// Whether the range is kept by whom it is to be, all of them ready.
    pub(crate) fn is_settled(&self, range: &Range<'_>, leader: Leader<'_>) -> bool {
        let voters = &range.target().voters;
        let is_wanted =
            self.goals.get(&range.group).is_some_and(|goal| goal.target.voters == *voters);
        let is_whole = voters.iter().all(|store| self.is_ready(leader, *store));
        range.is_at_rest() && is_wanted && is_whole
    }
}

impl Range<'_> {
    pub(crate) fn target(&self) -> Target {
        self.descriptor.membership.target()
    }

    /// Whether nothing is underway: it is between no two configurations and waits for no merge.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.descriptor.is_at_rest()
    }

    pub(crate) fn plan(&self, action: Action) -> Plan {
        Plan { group: self.group, expected: self.descriptor.version, action }
    }
}

/// Whether so many of all are more than half.
pub(crate) fn is_majority(count: usize, all: usize) -> bool {
    count > all / 2
}

fn part(store: &Store, keyspace: &str) -> Option<Part> {
    match store {
        Store { standing, .. } if *standing != Standing::Member => None,
        Store { keyspaces, .. } if keyspaces.contains(keyspace) => Some(Part::Vote),
        Store { copies, .. } if !copies.contains(keyspace) => None,
        Store { keyspaces, .. } if keyspaces.is_empty() => Some(Part::Copy),
        Store { .. } => Some(Part::Spare),
    }
}

pub(crate) fn newest(landscape: &Landscape) -> BTreeMap<GroupId, Range<'_>> {
    let mut ranges: BTreeMap<GroupId, Range<'_>> = BTreeMap::new();
    for (_, group, report) in landscape.reports() {
        let (descriptor, lineage) = (&report.descriptor, &report.lineage);
        let range =
            ranges.entry(group).or_insert(Range { group, descriptor, lineage, leader: None });
        if descriptor.version > range.descriptor.version {
            (range.descriptor, range.lineage) = (descriptor, lineage);
        }
    }
    for (store, group, report) in landscape.reports() {
        let (Some(leading), true) = (&report.leading, landscape.is_up(store)) else { continue };
        let Some(range) = ranges.get_mut(&group) else { continue };
        let is_later = range.leader.is_none_or(|known| report.term > known.term);
        if is_later {
            let is_abreast = report.descriptor.version == range.descriptor.version;
            range.leader = Some(Leader { store, term: report.term, leading, is_abreast });
        }
    }
    ranges
}
