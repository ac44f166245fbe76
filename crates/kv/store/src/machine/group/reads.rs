//! Reads that see all that was acknowledged before they were asked for. KV-009
//!
//! A leader asks its followers whether it leads still, once for all reads that have come meanwhile, and
//! then has them wait until what was committed by then is carried out (section 6.4 of the Raft thesis).
//!
//! Whoever has answered that does not vote for another until an election timeout is over, so for a
//! while the leader need not ask again: it has a lease, from when it asked. It counts by its own clock
//! and ends early, by what clocks may run apart. What makes it safe: followers count whole ticks only;
//! a store that has just started, and does not know whom it had answered, votes for nobody for as
//! long; and in a term in which the leader wanted another in its place, which may vote at once whenever
//! it hears of it, there is no lease.

use std::collections::VecDeque;
use std::time::Duration;

use raft::eraftpb::Message;
use ratatosk_clock::Instant;

use super::{Event, Group, Output, TIMEOUT, ticks};
use crate::host::Refusal;
use crate::log::RaftLog;
use crate::machine::loans::Token;
use crate::range::{Descriptor, Version};

/// A promise to vote for nobody else is good for so long: ticks less the one that had begun, less what
/// clocks may run apart.
pub(in crate::machine) const LEASE: Duration = ticks(TIMEOUT - 2);
/// A store that has started votes for nobody for so long: it may have told a leader so.
pub(in crate::machine) const VOTELESS: Duration = ticks(TIMEOUT);
/// Whoever has not answered by then is asked again.
const ROUND_PATIENCE: Duration = Duration::from_millis(300);

/// A read, and for which version of the range it is meant.
struct Read<T> {
    version: Version,
    ticket: T,
}

/// What only a leader may do that leads still.
enum Wish<T> {
    Read(Read<T>),
    Lend(Borrow),
}

/// A replica wants to answer from what it has. See [`crate::machine::loans`].
#[derive(Copy, Clone, Debug)]
pub(in crate::machine) struct Borrow {
    pub(in crate::machine) store: u64,
    pub(in crate::machine) replica: u64,
    /// The last entry whose effects are in its data.
    pub(in crate::machine) applied: u64,
    pub(in crate::machine) token: Token,
}

/// Followers are asked.
struct Round<T> {
    sent: Instant,
    wishes: Vec<Wish<T>>,
}

/// The reads of a group that this store leads, or is believed to.
pub(in crate::machine) struct Reads<T> {
    /// For which nobody was asked yet.
    waiting: Vec<Wish<T>>,
    round: Option<Round<T>>,
    /// The term that all this is of.
    term: u64,
    /// Of the last round; each has another.
    number: u64,
    /// When the followers were asked who last said that it leads; none if that does not count.
    confirmed: Option<Instant>,
    /// The term in which the leader last wanted another in its place.
    resigned_in: Option<u64>,
    /// What may be read once the entry of this index is handed over.
    granted: VecDeque<(u64, Read<T>)>,
    /// Replicas that may be lent to now.
    borrowers: Vec<Borrow>,
}

impl<T> Default for Reads<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            round: None,
            term: 0,
            number: 0,
            confirmed: None,
            resigned_in: None,
            granted: VecDeque::new(),
            borrowers: Vec::new(),
        }
    }
}

impl<T> Reads<T> {
    /// Nothing of the term before counts any more.
    pub(super) fn begin_term(&mut self, output: &mut Output<T>) {
        for (_, read) in self.granted.drain(..) {
            output.refuse(read.ticket, Refusal::NotLeader);
        }
        let asked = self.round.take().into_iter().flat_map(|round| round.wishes);
        for wish in asked.chain(self.waiting.drain(..)) {
            // Whoever wants to borrow asks again.
            if let Wish::Read(read) = wish {
                output.refuse(read.ticket, Refusal::NotLeader);
            }
        }
        self.borrowers.clear();
        self.confirmed = None;
    }

    pub(super) fn resign(&mut self, term: u64) {
        self.confirmed = None;
        self.resigned_in = Some(term);
    }

    /// Whether something is to be done with time.
    pub(in crate::machine) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none() && self.granted.is_empty()
    }
}

impl<L: RaftLog, T> Group<L, T> {
    pub(in crate::machine) fn read(&mut self, version: Version, ticket: T, output: &mut Output<T>) {
        self.follow_term(output);
        match self.leads() {
            true => self.reads.waiting.push(Wish::Read(Read { version, ticket })),
            false => output.refuse(ticket, Refusal::NotLeader),
        }
    }

    /// A replica of the group asks to borrow; whoever does not lead says nothing.
    pub(in crate::machine) fn ask_to_borrow(&mut self, borrow: Borrow, output: &mut Output<T>) {
        self.follow_term(output);
        let is_it = |held: &Descriptor| {
            held.membership.replica(borrow.replica).is_some_and(|is| is.store == borrow.store)
        };
        if self.leads() && self.descriptor.as_ref().is_some_and(is_it) {
            self.reads.waiting.push(Wish::Lend(borrow));
        }
    }

    /// Those that may be lent to: since they asked this store has led.
    pub(in crate::machine) fn take_borrowers(&mut self) -> Vec<Borrow> {
        std::mem::take(&mut self.reads.borrowers)
    }

    /// Finds out for the reads that wait whether this store leads still.
    pub(in crate::machine) fn serve_reads(
        &mut self,
        now: Instant,
        lease: Duration,
        output: &mut Output<T>,
    ) {
        self.follow_term(output);
        // Until an entry of its own is committed a leader does not know how far others had come.
        if self.reads.is_empty() || !self.raft.raft.commit_to_current_term() {
            return;
        }
        let is_alone = self.raft.raft.prs().is_singleton();
        if is_alone || self.reads.confirmed.is_some_and(|sent| now.since(sent) < lease) {
            let wishes = std::mem::take(&mut self.reads.waiting);
            self.grant(self.raft.raft.raft_log.committed, wishes);
        } else {
            self.ask_followers(now);
        }
        self.hand_over_reads(output);
    }

    /// What was found out in another term, or as a leader that is none any more, does not count.
    fn follow_term(&mut self, output: &mut Output<T>) {
        let term = self.raft.raft.term;
        if self.reads.term != term || !self.leads() {
            self.reads.begin_term(output);
            self.reads.term = term;
        }
    }

    fn ask_followers(&mut self, now: Instant) {
        let reads = &mut self.reads;
        if reads.round.as_ref().is_some_and(|round| now.since(round.sent) > ROUND_PATIENCE) {
            let unanswered = reads.round.take().map(|round| round.wishes);
            reads.waiting.extend(unanswered.into_iter().flatten());
        }
        if reads.round.is_none() && !reads.waiting.is_empty() {
            reads.number += 1;
            reads.round = Some(Round { sent: now, wishes: std::mem::take(&mut reads.waiting) });
            self.raft.read_index(reads.number.to_be_bytes().to_vec());
        }
    }

    /// A majority says that this store leads still, or did when it was asked.
    pub(super) fn confirm(&mut self, states: Vec<raft::ReadState>) {
        for state in states {
            let reads = &mut self.reads;
            // An earlier round was given up: what it has to say is of less use.
            if state.request_ctx != reads.number.to_be_bytes() {
                continue;
            }
            let Some(round) = reads.round.take() else { continue };
            if reads.resigned_in != Some(self.raft.raft.term) {
                reads.confirmed = Some(round.sent);
            }
            self.grant(state.index, round.wishes);
        }
    }

    fn grant(&mut self, index: u64, wishes: Vec<Wish<T>>) {
        for wish in wishes {
            match wish {
                Wish::Read(read) => self.reads.granted.push_back((index, read)),
                Wish::Lend(borrow) => self.reads.borrowers.push(borrow),
            }
        }
    }

    /// Has the host answer the reads behind what they have to see.
    pub(super) fn hand_over_reads(&mut self, output: &mut Output<T>) {
        while let Some((_, Read { version, ticket })) =
            self.reads.granted.pop_front_if(|(index, _)| *index <= self.handed)
        {
            output.events.push(Event::Read { group: self.id, version, ticket });
        }
    }
}

/// Whether somebody wants to lead who was not asked to by the leader.
pub(in crate::machine) fn asks_for_vote(message: &Message) -> bool {
    use raft::eraftpb::MessageType as Kind;
    let kind = message.get_msg_type();
    matches!(kind, Kind::MsgRequestVote | Kind::MsgRequestPreVote)
        && message.context[..] != *b"CampaignTransfer"
}
