//! The oracle of agreement: whoever carries out an entry of a group carries out the same, and a group
//! has one leader a term. KV-003

use std::collections::BTreeMap;

use raft::eraftpb::Entry;
use ratatosk_store::log::GroupId;

use crate::simulation::Checked;

/// What was seen anywhere.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    entries: BTreeMap<(GroupId, u64), Entry>,
    leaders: BTreeMap<(GroupId, u64), u64>,
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

    /// Who led a group last.
    pub(super) fn leader(&self, group: GroupId) -> Option<u64> {
        self.leaders.range((group, 0)..=(group, u64::MAX)).next_back().map(|(_, store)| *store)
    }
}
