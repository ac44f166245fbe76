//! What there is, range by range, as operators want to see it.
//!
//! It is made of the same words as the plans, so what it says may be as old as they are.

use std::collections::BTreeMap;

use ratatosk_clock::Instant;
use ratatosk_store::membership::Target;
use ratatosk_store::range::Descriptor;

use crate::landscape::{Landscape, Progress, StoreId};
use crate::plan::{Alarm, Shortage};
use crate::rules::RuleBook;
use crate::scene::{Scene, newest};

/// All ranges that anybody told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// In the order of their keyspaces and keys.
    pub ranges: Vec<Line>,
    /// Ranges that have keys in common, in doubt. KV-018
    pub alarms: Vec<Alarm>,
}

/// A range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The newest one that anybody told of.
    pub descriptor: Descriptor,
    /// What can be said of it.
    pub state: State,
    /// Who leads it, if that store is up.
    pub leader: Option<Lead>,
    /// Who is to keep it, if that is not who does.
    pub goal: Option<Target>,
    /// That it has too few votes of stores that are to vote for it, if it has.
    pub short: Option<Shortage>,
}

/// What can be said of a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is led.
    Led,
    /// Nobody is known to lead it: it takes nothing. It may be about to elect somebody.
    Leaderless,
    /// Others have all its keys; what is left of it goes by itself. KV-018
    Superseded,
    /// It overlaps another one, and nothing proves which of the two is right. KV-018
    InDoubt,
}

/// What a leader knows of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Its store.
    pub store: StoreId,
    /// Its term.
    pub term: u64,
    /// How far the other replicas are.
    pub progress: BTreeMap<StoreId, Progress>,
    /// Bytes of its data.
    pub size_bytes: u64,
    /// Entries that were applied a second, as of late.
    pub entries_per_second: u64,
}

impl Overview {
    /// What a landscape has.
    #[must_use]
    pub fn of(rules: &RuleBook, landscape: &Landscape, now: Instant) -> Self {
        // Who looks makes no difference to what is taken from the scene.
        let scene = Scene::new(rules, landscape, now, 0);
        let lines = newest(landscape).into_iter().map(|(group, range)| {
            let leader = range.leader.map(|leader| Lead {
                store: leader.store,
                term: leader.term,
                progress: leader.leading.progress.clone(),
                size_bytes: leader.leading.load.size_bytes,
                entries_per_second: leader.leading.load.entries_per_second,
            });
            let state = match &leader {
                _ if scene.superseded.contains(&group) => State::Superseded,
                _ if !scene.ranges.contains_key(&group) => State::InDoubt,
                Some(_) => State::Led,
                None => State::Leaderless,
            };
            let goal = scene.goals.get(&group).map(|goal| goal.target.clone());
            let goal = goal.filter(|goal| *goal != range.target());
            let short = scene.ranges.get(&group).and_then(|range| scene.shortage(range));
            Line { descriptor: range.descriptor.clone(), state, leader, goal, short }
        });
        let mut ranges: Vec<Line> = lines.collect();
        ranges.sort_by(|one, other| {
            let place = |line: &Line| {
                let Descriptor { keyspace, boundary, group, .. } = &line.descriptor;
                (keyspace.clone(), boundary.start.clone(), *group)
            };
            place(one).cmp(&place(other))
        });
        Self { ranges, alarms: scene.into_alarms() }
    }

    /// The ranges that are to serve and that nobody is known to lead.
    pub fn leaderless(&self) -> impl Iterator<Item = &Line> {
        self.ranges.iter().filter(|line| line.state == State::Leaderless)
    }
}
