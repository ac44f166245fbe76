//! Every entry that was ever committed, and what it makes of an empty store.
//!
//! Oracles: an entry that was committed is never another one later; what is applied is what all
//! entries from the first on make of nothing, whatever checkpoints and crashes came between.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Entry;
use ratatosk_engine::{MemoryEngine, Overlay, SpaceId};
use ratatosk_store::host::{Alone, Done, Host};
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::{Committed, Event};
use ratatosk_store::range::{BEGIN_INDEX, Descriptor};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Of each group, from index 1 on.
    entries: BTreeMap<GroupId, Vec<Entry>>,
    is_ignored: bool,
}

impl Replay {
    /// One that notes nothing: for a store that is only looked at.
    pub(crate) fn ignored() -> Self {
        Replay { is_ignored: true, ..Replay::default() }
    }

    /// Takes in what was committed.
    pub(crate) fn note<T>(
        &mut self,
        group: GroupId,
        entries: &[(Entry, Option<T>)],
    ) -> Result<(), String> {
        if self.is_ignored {
            return Ok(());
        }
        let known = self.entries.entry(group).or_default();
        for (entry, _) in entries {
            let place = usize::try_from(entry.index - BEGIN_INDEX - 1).unwrap_or(usize::MAX);
            match known.get(place) {
                None if place == known.len() => known.push(entry.clone()),
                None => return Err(format!("entry {} follows none", entry.index)),
                Some(before) if before == entry => {}
                Some(_) => return Err(format!("entry {} was another one", entry.index)),
            }
        }
        Ok(())
    }

    /// What the entries of a range up to `applied` make of nothing.
    pub(crate) fn content(
        &self,
        descriptor: &Descriptor,
        space: SpaceId,
        applied: u64,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        let spaces = crate::engine::SPACES;
        let overlay = Arc::new(Overlay::new(MemoryEngine::new(spaces), spaces));
        let mut host = Host::new(0, Arc::clone(&overlay), crate::store::keyspaces());
        host.open(descriptor.clone()).map_err(|error| error.to_string())?;
        let group = descriptor.group;
        let known = self.entries.get(&group).map(Vec::as_slice).unwrap_or_default();
        let entries = known.iter().take_while(|entry| entry.index <= applied);
        let entries: Vec<_> = entries.map(|entry| (entry.clone(), None::<()>)).collect();
        if entries.len() as u64 + BEGIN_INDEX != applied {
            return Err(format!("{applied} entries were applied, {} committed", entries.len()));
        }
        let committed = Committed { group, entries, lost: Vec::new() };
        let run = host.run([Event::Committed(committed)], &Alone, &mut Done::default());
        run.map_err(|error| error.to_string())?;
        Ok(crate::engine::content(&overlay.view(), space))
    }
}
