//! The oracle of agreement: whoever carries out an entry of a group carries out the same, in the same
//! edition, and a group has one leader a term. KV-003

use std::collections::BTreeMap;

use raft::eraftpb::Entry;
use ratatosk_clock::Instant;
use ratatosk_store::edition::Edition;
use ratatosk_store::log::GroupId;

use crate::simulation::Checked;

/// What was seen anywhere.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    entries: BTreeMap<(GroupId, u64), Entry>,
    leaders: BTreeMap<(GroupId, u64), u64>,
    editions: BTreeMap<(GroupId, u64), Edition>,
    /// When groups were first seen in a later edition than the first.
    raised: BTreeMap<GroupId, Instant>,
    pub(super) now: Instant,
}

impl Agreement {
    /// A store carries out an entry.
    pub(super) fn note_entry(&mut self, group: GroupId, entry: &Entry) -> Checked {
        let known = self.entries.entry((group, entry.index)).or_insert_with(|| entry.clone());
        match known == entry {
            true => Ok(()),
            false => {
                Err(format!("{group:?} has two entries {}: {known:?}, {entry:?}", entry.index))
            }
        }
    }

    /// A store leads a group.
    pub(super) fn note_leader(&mut self, group: GroupId, term: u64, store: u64) -> Checked {
        match *self.leaders.entry((group, term)).or_insert(store) {
            known if known == store => Ok(()),
            known => Err(format!("{known} and {store} lead {group:?} in term {term}")),
        }
    }

    /// A store has carried out all up to an entry, which leaves its range in an edition.
    pub(super) fn note_edition(&mut self, group: GroupId, index: u64, edition: Edition) -> Checked {
        if edition > Edition::FIRST {
            self.raised.entry(group).or_insert(self.now);
        }
        match *self.editions.entry((group, index)).or_insert(edition) {
            known if known == edition => Ok(()),
            known => Err(format!("{group:?} is in edition {edition} and {known} at entry {index}")),
        }
    }

    /// A range has come out of another.
    pub(super) fn note_split(&mut self, left: GroupId, right: GroupId) {
        if let Some(at) = self.raised.get(&left).copied() {
            self.raised.entry(right).or_insert(at);
        }
    }

    /// When ranges were raised.
    pub(super) fn raised(&self) -> impl Iterator<Item = Instant> {
        self.raised.values().copied()
    }

    /// Who led a group last.
    pub(super) fn leader(&self, group: GroupId) -> Option<u64> {
        self.leaders.range((group, 0)..=(group, u64::MAX)).next_back().map(|(_, store)| *store)
    }
}
