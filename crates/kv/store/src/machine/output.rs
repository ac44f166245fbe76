//! What a machine says: to other stores, and to the host.

use raft::eraftpb::Entry;
use ratatosk_clock::Instant;

use super::{Ask, Beat, Envelope, Loan, Sleep, Verdict};
use crate::host::{Refusal, Rest};
use crate::log::{GroupId, Truncated};
use crate::range::{Descriptor, Version};

/// What came of a step.
#[derive(Debug)]
pub struct Output<T> {
    /// For other stores, each with the store.
    pub messages: Vec<(u64, Envelope)>,
    /// Replicas of this store that want to know what became of them: every store is to be asked.
    pub asks: Vec<Ask>,
    /// What is known of those that asked: the store, the group, the replica.
    pub verdicts: Vec<(u64, GroupId, u64, Verdict)>,
    /// What another store is to have in a group's log, if it leads it.
    pub urges: Vec<(u64, GroupId, Vec<u8>)>,
    /// The stores that are to hear that this one lives, and what of it.
    pub beats: Vec<(u64, Beat)>,
    /// The stores that are to say what they support.
    pub inquiries: Vec<u64>,
    /// Replicas of other stores that have nothing to do, each with its store.
    pub sleeps: Vec<(u64, Sleep)>,
    /// What replicas of other stores are lent, or ask for, each with its store.
    pub loans: Vec<(u64, Loan)>,
    /// Groups of which a snapshot is wished for: what a checkpoint has will do.
    pub snapshots: Vec<GroupId>,
    /// For the host, in this order.
    pub events: Vec<Event<T>>,
}

/// What a host is told.
#[derive(Debug)]
pub enum Event<T> {
    /// Entries are durable on a majority of the group's voters: apply them.
    Committed(Committed<T>),
    /// A read is to be answered, of what the events before have made.
    Read {
        /// The group.
        group: GroupId,
        /// For which version of the range it is meant.
        version: Version,
        /// The read's.
        ticket: T,
    },
    /// This replica may serve its range from what it has then, until a moment of its clock, if the range
    /// has this version. KV-010
    Serve {
        /// The group.
        group: GroupId,
        /// The version.
        version: Version,
        /// Until when.
        until: Instant,
        /// Those of whoever waited for it.
        tickets: Vec<T>,
    },
    /// Nobody counts on it any more.
    Lapsed {
        /// The group.
        group: GroupId,
    },
    /// Whoever proposed an entry behind this one is not answered before this is taken back: some replica
    /// serves that may not have it. DUR-012
    Withhold {
        /// The group.
        group: GroupId,
        /// The entry.
        behind: u64,
    },
    /// A proposal is not in the log and never will be.
    Refused {
        /// The proposal's.
        ticket: T,
        /// Why.
        refusal: Refusal,
    },
    /// This store leads the group, from when the entry of `index` is applied.
    Leads {
        /// The group.
        group: GroupId,
        /// Since when it does.
        term: u64,
        /// Its first entry as the leader.
        index: u64,
    },
    /// This store leads the group no longer.
    Follows {
        /// The group.
        group: GroupId,
    },
    /// The data of another store takes the place of what is there.
    Install {
        /// The range.
        descriptor: Box<Descriptor>,
        /// The last entry whose effects are in the data.
        at: Truncated,
        /// The log has the entries behind it, and is not to begin anew.
        keeps_log: bool,
    },
    /// Carry out what the log has still, and go on with this replica alone.
    Recover {
        /// The log.
        rest: Rest,
        /// Of whoever wants it.
        ticket: T,
    },
    /// This store is no member of the group any more: what it has of it goes.
    Remove {
        /// The group.
        group: GroupId,
        /// The replica that it was.
        replica: u64,
    },
}

/// Entries of a group in a row.
#[derive(Debug)]
pub struct Committed<T> {
    /// The group.
    pub group: GroupId,
    /// The entries, each with the ticket of a proposal of this store.
    pub entries: Vec<(Entry, Option<T>)>,
    /// Tickets of proposals in whose place another entry was committed.
    pub lost: Vec<T>,
}

impl<T> Default for Output<T> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            asks: Vec::new(),
            verdicts: Vec::new(),
            urges: Vec::new(),
            beats: Vec::new(),
            inquiries: Vec::new(),
            sleeps: Vec::new(),
            loans: Vec::new(),
            snapshots: Vec::new(),
            events: Vec::new(),
        }
    }
}

impl<T> Output<T> {
    pub(super) fn refuse(&mut self, ticket: T, refusal: Refusal) {
        self.events.push(Event::Refused { ticket, refusal });
    }
}
