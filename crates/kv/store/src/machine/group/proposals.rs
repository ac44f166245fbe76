//! What is proposed: gathered while nothing else happens to the group, so that it is one message to each
//! follower, and one answer.
//!
//! The library sends together what one message proposes. Its own way to that, `batch_append`, stays off: it
//! puts entries behind a message that has none without looking whether they belong there, and a follower
//! acknowledges what it does not have.

use raft::eraftpb::{Entry, Message, MessageType};

use super::{Group, Output, Proposal};
use crate::host::Refusal;
use crate::log::RaftLog;

/// From so many bytes on they go: a message of the library has at most twice as many.
const TOGETHER_BYTES: usize = 1 << 19;

/// What is to be proposed.
pub(super) struct Gathered<T> {
    proposals: Vec<(Option<u64>, Vec<u8>, T)>,
    bytes: usize,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self { proposals: Vec::new(), bytes: 0 }
    }
}

impl<L: RaftLog, T> Group<L, T> {
    /// Proposes with what comes next, if this leads then, in this term if it is given.
    pub(in crate::machine) fn gather(
        &mut self,
        term: Option<u64>,
        data: Vec<u8>,
        ticket: T,
        output: &mut Output<T>,
    ) {
        self.gathered.bytes += data.len();
        self.gathered.proposals.push((term, data, ticket));
        if self.gathered.bytes >= TOGETHER_BYTES {
            self.propose_gathered(output);
        }
    }

    /// Proposes what was gathered, before anything else happens to the group.
    pub(in crate::machine) fn propose_gathered(&mut self, output: &mut Output<T>) {
        self.gathered.bytes = 0;
        let may = self.leads() && !self.is_leaving;
        let now = self.raft.raft.term;
        let (mut entries, mut tickets) = (Vec::new(), Vec::new());
        for (term, data, ticket) in self.gathered.proposals.drain(..) {
            // The library would pass it on to the leader, and nobody here would hear of it.
            if !may || term.is_some_and(|term| term != now) {
                output.refuse(ticket, Refusal::NotLeader);
                continue;
            }
            entries.push(Entry { data: data.into(), ..Entry::default() });
            tickets.push(ticket);
        }
        if tickets.is_empty() {
            return;
        }
        let mut message = Message { from: self.replica, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        let first = self.raft.raft.raft_log.last_index() + 1;
        if self.raft.raft.step(message).is_err() {
            tickets.into_iter().for_each(|ticket| output.refuse(ticket, Refusal::NotLeader));
            return;
        }
        let noted = (first..).zip(tickets);
        self.proposals.extend(noted.map(|(index, ticket)| Proposal { index, term: now, ticket }));
    }

    /// Proposes one thing, at once.
    pub(in crate::machine) fn propose(
        &mut self,
        term: Option<u64>,
        data: Vec<u8>,
        ticket: T,
        output: &mut Output<T>,
    ) {
        self.gather(term, data, ticket, output);
        self.propose_gathered(output);
    }

    pub(super) fn note_proposal(&mut self, ticket: T) {
        let (index, term) = (self.raft.raft.raft_log.last_index(), self.raft.raft.term);
        self.proposals.push_back(Proposal { index, term, ticket });
    }
}
