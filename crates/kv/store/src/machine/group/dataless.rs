//! A replica whose data was about to be replaced when the process went down, or that waits in vain for a
//! split: it has a log and a vote, and no data. Or one that is to take in such a one, and lacks that data.
//!
//! What it has acknowledged it keeps, and so it takes part in elections. It acknowledges what its leader
//! may need to come to know what is committed, but no change of the members: that could make it the
//! only one who may lead, and it has no data to lead with. Nor that the range freezes: whoever takes it
//! in needs the data on every store.

use raft::Storage as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Group, changes_members, described};
use crate::command::{self, Order};
use crate::log::{RaftLog, Truncated};
use crate::membership::Role;
use crate::range::Descriptor;

impl<L: RaftLog, T> Group<L, T> {
    /// Leaves out of a message what is not acknowledged without data.
    pub(super) fn wait_for_data(&mut self, message: &mut Message) {
        if self.needs_data.is_none() || message.get_msg_type() != MessageType::MsgAppend {
            return;
        }
        // The library would take nothing while it has asked for a snapshot.
        self.raft.raft.pending_request_snapshot = raft::INVALID_INDEX;
        let commit = message.commit;
        let is_left_out =
            |entry: &Entry| changes_members(entry) && entry.index > commit || freezes(entry);
        if let Some(place) = message.entries.iter().position(is_left_out) {
            message.entries.truncate(place);
        }
    }

    /// From now on nothing but a snapshot helps, which has the effects of an entry.
    pub(in crate::machine) fn need_data(&mut self, least: u64) {
        self.needs_data = Some(self.needs_data.unwrap_or(0).max(least));
        self.ask_for_data();
    }

    /// Has the library ask for the data, with the leader's next heartbeat.
    pub(super) fn ask_for_data(&mut self) {
        if self.needs_data.is_some() && self.data_begins() > 0 && !self.has_snapshot() {
            self.raft.raft.pending_request_snapshot = self.data_begins();
        }
    }

    /// Whether data that comes may have its place below the log.
    fn takes_data(&self) -> bool {
        self.descriptor.is_none() || self.needs_data.is_some()
    }

    /// Hands its office to another, if it leads: it cannot carry out what comes.
    pub(in crate::machine) fn step_aside(&mut self) {
        let members = self.descriptor.as_ref().map(|descriptor| descriptor.membership.replicas());
        let others = members.unwrap_or_default().iter().filter(|other| other.id != self.replica);
        let next = others.filter(|other| other.role == Role::Voter).map(|other| other.id).next();
        if let Some(next) = next.filter(|_| self.leads()) {
            self.hand_over(next);
        }
    }

    /// The first entry that its data may end with: behind it there is a log.
    fn data_begins(&self) -> u64 {
        let state = self.raft.store().state();
        let least = self.needs_data.unwrap_or(0);
        state.truncated.index.max(state.durable_applied).max(least)
    }

    /// Whether a snapshot ends before what this replica has said to have, and asked for: the library
    /// would give up the entries behind it.
    pub(super) fn has_more_than(&self, message: &Message) -> bool {
        if message.get_msg_type() != MessageType::MsgSnapshot || !self.takes_data() {
            return false;
        }
        let metadata = message.get_snapshot().get_metadata();
        let log = &self.raft.raft.raft_log;
        metadata.index < log.last_index() && log.match_term(metadata.index, metadata.term)
    }

    /// If the log goes on behind a snapshot, and there is no data: what is to be taken in below it.
    pub(in crate::machine) fn begin_filling(
        &mut self,
        message: &Message,
    ) -> Option<(Descriptor, Truncated)> {
        if message.get_msg_type() != MessageType::MsgSnapshot || !self.takes_data() {
            return None;
        }
        let metadata = message.get_snapshot().get_metadata();
        let at = Truncated { index: metadata.index, term: metadata.term };
        // What is not written yet is forgotten, and was told to nobody.
        let (begin, last) = (self.data_begins(), self.raft.store().state().last_index);
        let is_in_log = begin > 0
            && (begin..=last).contains(&at.index)
            && self.raft.store().term(at.index).is_ok_and(|term| term == at.term);
        let descriptor = described(self.id, message.get_snapshot()).filter(|_| is_in_log)?;
        self.filling = Some(at);
        self.incoming = Some(descriptor.clone());
        Some((descriptor, at))
    }

    /// The last entry whose effects the data has that was taken in below the log.
    pub(in crate::machine) fn filled_to(&self) -> Option<u64> {
        self.filling.map(|at| at.index)
    }
}

fn freezes(entry: &Entry) -> bool {
    matches!(command::parse(&entry.data), Ok((_, Order::Freeze { .. })))
}
