//! From committed entries to what the host carries out.

use raft::eraftpb::Entry;

use super::{Committed, Event, Group, Output, changes_members};
use crate::command;
use crate::log::RaftLog;

impl<L: RaftLog, T> Group<L, T> {
    /// Lets go of the memory of entries that are applied up to an index, those first that all replicas have:
    /// only a leader is asked for others.
    pub(in crate::machine) fn release_entries(&mut self, applied: u64) {
        let progress = self.raft.raft.prs();
        let known = match self.leads() {
            true => progress.iter().map(|(_, held)| held.matched).min().unwrap_or(0),
            false => u64::MAX,
        };
        self.raft.mut_store().release(applied, known);
    }

    /// Joins committed entries and the tickets of those that were proposed here.
    pub(super) fn commit(&mut self, entries: Vec<Entry>, output: &mut Output<T>) {
        // Whoever waits for its range takes them from the log again then.
        if entries.is_empty() || self.descriptor.is_none() {
            return;
        }
        let mut lost = Vec::new();
        let mut joined = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut ticket = None;
            while let Some(first) = self.proposals.front() {
                if first.index > entry.index {
                    break;
                }
                let is_it = first.index == entry.index && first.term == entry.term;
                let Some(proposal) = self.proposals.pop_front() else { break };
                match is_it {
                    true => ticket = Some(proposal.ticket),
                    false => lost.push(proposal.ticket),
                }
            }
            joined.push((entry, ticket));
        }
        let is_merge = |(entry, _): &(Entry, Option<T>)| command::is_merge(&entry.data);
        let first = match self.holds() {
            true => 0,
            false => joined.iter().position(is_merge).unwrap_or(joined.len()),
        };
        self.held.extend(joined.drain(first..));
        if joined.iter().any(|(entry, _)| changes_members(entry)) {
            self.changes_members = true;
            self.withhold(output);
        }
        self.handed = joined.last().map_or(self.handed, |(entry, _)| entry.index);
        output.events.push(Event::Committed(Committed { group: self.id, entries: joined, lost }));
    }

    /// Nobody is answered to what follows before it is known whom that has to wait for.
    fn withhold(&self, output: &mut Output<T>) {
        output.events.push(Event::Withhold { group: self.id, behind: 0 });
    }

    /// Whether entries wait for another range.
    pub(in crate::machine) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The merge that they wait behind.
    pub(in crate::machine) fn first_held(&self) -> Option<&Entry> {
        self.held.front().map(|(entry, _)| entry)
    }

    /// Hands over what was held back, up to the next merge.
    pub(in crate::machine) fn release(&mut self, output: &mut Output<T>) {
        let is_merge = |(entry, _): &(Entry, Option<T>)| command::is_merge(&entry.data);
        let next = self.held.iter().skip(1).position(is_merge);
        let count = next.map_or(self.held.len(), |next| next + 1);
        let entries: Vec<_> = self.held.drain(..count).collect();
        self.handed = entries.last().map_or(self.handed, |(entry, _)| entry.index);
        self.changes_members |= entries.iter().any(|(entry, _)| changes_members(entry));
        self.takes_in = true;
        self.withhold(output);
        let committed = Committed { group: self.id, entries, lost: Vec::new() };
        output.events.push(Event::Committed(committed));
    }
}
