//! The naive model of a log, and what is done to it and to the real ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};
use ratatosk_store::log::{GroupId, GroupState, LogBatch, LogChange, Truncated};

pub(crate) const GROUPS: u64 = 3;

/// A group as a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) replica: u64,
    pub(crate) hard_state: HardState,
    pub(crate) truncated: Truncated,
    pub(crate) durable_applied: u64,
    pub(crate) entries: Vec<Entry>,
}

/// What is done to a group. Numbers are taken within what is possible then.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// So many entries, replacing so many of the last.
    Append {
        count: u8,
        replaced: u8,
        bytes: u8,
    },
    Vote {
        term: u8,
    },
    /// Gives up so many.
    Truncate {
        count: u8,
    },
    /// Begins anew behind an entry, so many further than where it began.
    Restart {
        ahead: u8,
    },
    /// Becomes another replica.
    Meet,
    Destroy,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..5_u8, 0..4_u8, any::<u8>())
            .prop_map(|(count, replaced, bytes)| Step::Append { count, replaced, bytes }),
        // Who votes does so in a term.
        2 => (1..=u8::MAX).prop_map(|term| Step::Vote { term }),
        2 => (1..6_u8).prop_map(|count| Step::Truncate { count }),
        1 => (0..9_u8).prop_map(|ahead| Step::Restart { ahead }),
        1 => Just(Step::Meet),
        1 => Just(Step::Destroy),
    ]
}

pub(crate) fn entries(first: u64, count: u8, term: u64, bytes: u8) -> Vec<Entry> {
    let entry = |number: u64| Entry {
        index: first + number,
        term,
        data: vec![bytes; bytes.into()].into(),
        ..Entry::default()
    };
    (0..u64::from(count)).map(entry).collect()
}

impl Group {
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.truncated.index, |entry| entry.index)
    }

    fn last_term(&self) -> u64 {
        self.entries.last().map_or(self.truncated.term, |entry| entry.term)
    }

    /// Does a step; answers what has to be written, if anything.
    pub(crate) fn step(&mut self, step: &Step) -> Option<LogChange> {
        match *step {
            Step::Append { count, replaced, bytes } => {
                let term = self.last_term() + u64::from(replaced > 0);
                let kept = self.entries.len().saturating_sub(replaced.into());
                self.entries.truncate(kept);
                let new = entries(self.last_index() + 1, count, term.max(1), bytes);
                self.entries.extend(new.iter().cloned());
                Some(LogChange::Append(new))
            }
            Step::Vote { term } => {
                let term = self.hard_state.term + u64::from(term);
                self.hard_state = HardState { term, vote: 1, ..HardState::default() };
                Some(LogChange::HardState(self.hard_state.clone()))
            }
            Step::Truncate { count } => {
                let count = usize::from(count).min(self.entries.len());
                let last = self.entries.drain(..count).next_back()?;
                self.truncated = Truncated { index: last.index, term: last.term };
                Some(LogChange::Truncate(self.truncated))
            }
            Step::Restart { ahead } => {
                let index = self.truncated.index + 1 + u64::from(ahead);
                self.truncated = Truncated { index, term: self.last_term() + 1 };
                self.entries.clear();
                Some(LogChange::Restart(self.truncated))
            }
            Step::Meet => {
                self.replica += 1;
                Some(LogChange::Replica(self.replica))
            }
            Step::Destroy => {
                *self = Self::default();
                Some(LogChange::Destroy)
            }
        }
    }

    fn is_known(&self) -> bool {
        self.replica > 0 || self.last_index() > 0 || self.hard_state != HardState::default()
    }
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model(pub(crate) BTreeMap<GroupId, Group>);

impl Model {
    /// Does the steps; answers the batch that says the same.
    pub(crate) fn steps(&mut self, steps: &[(u64, Step)]) -> LogBatch {
        let mut batch = LogBatch::new();
        let mut seen = BTreeSet::new();
        for (group, step) in steps {
            let group = GroupId(*group + 1);
            if !seen.insert(group) && matches!(step, Step::Restart { .. }) {
                continue;
            }
            if let Some(change) = self.0.entry(group).or_default().step(step) {
                batch.push(group, change);
            }
        }
        batch
    }

    pub(crate) fn states(&self) -> Vec<GroupState> {
        let known = self.0.iter().filter(|(_, group)| group.is_known());
        let state = |(id, group): (&GroupId, &Group)| GroupState {
            group: *id,
            replica: group.replica,
            hard_state: group.hard_state.clone(),
            truncated: group.truncated,
            last_index: group.last_index(),
            durable_applied: group.durable_applied,
        };
        known.map(state).collect()
    }
}
