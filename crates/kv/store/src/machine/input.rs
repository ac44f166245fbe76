//! What a machine is told: by callers, by other stores, by the host, by checkpoints.

use raft::eraftpb::{ConfChangeV2, Message, Snapshot};

use super::loans::Loan;
use super::merge::{Ask, Verdict};
use super::sleep::Sleep;
use super::support::Beat;
use crate::log::GroupId;
use crate::membership::Target;
use crate::range::{Descriptor, Version};

/// A message of one store for another.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The group.
    pub group: GroupId,
    /// What the library says; it addresses replicas.
    pub message: Message,
}

impl<T> Input<T> {
    /// Whether it says that there are other ranges now, or that one is another.
    pub(crate) fn reshapes(&self) -> bool {
        matches!(
            self,
            Input::Configured { .. }
                | Input::Described { .. }
                | Input::Split { .. }
                | Input::Merged { .. }
                | Input::Installed { .. }
                | Input::Recovered { .. }
                | Input::Removed { .. }
        )
    }
}

/// What a step works on.
#[derive(Debug)]
pub enum Input<T> {
    /// Write this to a group's log.
    Propose {
        /// The group.
        group: GroupId,
        /// The term in which this store has to lead, if it matters: for whoever has proposed before in it,
        /// and wants nothing to take the place of what went before.
        term: Option<u64>,
        /// What [`Commands::into_data`](crate::command::Commands::into_data) or
        /// [`split`](crate::command::split) gave.
        data: Vec<u8>,
        /// Comes back with the entry, or refused.
        ticket: T,
    },
    /// Answer when all that was acknowledged before is visible here, if this store leads. KV-009
    Read {
        /// The group.
        group: GroupId,
        /// For which version of the range the read is meant.
        version: Version,
        /// Comes back from the host without answers, or refused.
        ticket: T,
    },
    /// Answer when this replica may serve its range from what it has; or see to it that it goes on to.
    /// KV-010
    Serve {
        /// The group.
        group: GroupId,
        /// Comes back from the host without answers, or refused; `None` if nobody waits.
        ticket: Option<T>,
    },
    /// Another store says something of what replicas are lent.
    Loan {
        /// The store.
        from: u64,
        /// What it says.
        loan: Loan,
    },
    /// Take the next step to these members.
    Change {
        /// The group.
        group: GroupId,
        /// What version the range has to have, if whoever wants it goes by one.
        expected: Option<Version>,
        /// Who is to keep the range.
        target: Target,
        /// Comes back with the entry, or refused.
        ticket: T,
    },
    /// Let another store lead, if it can.
    Transfer {
        /// The group.
        group: GroupId,
        /// The store.
        to: u64,
    },
    /// Have a range that has lost its quorum go on with this replica alone. KV-027
    Recover {
        /// The group.
        group: GroupId,
        /// The range is to have a newer version than this one.
        above: Version,
        /// Comes back when that is so, durably, or refused.
        ticket: T,
    },
    /// Another store lives.
    Beat {
        /// The store.
        from: u64,
        /// What it tells.
        beat: Beat,
    },
    /// Another store wants to know what this one supports.
    Inquired {
        /// The store.
        from: u64,
    },
    /// A leader has nothing to do.
    Sleep {
        /// Its store.
        from: u64,
        /// Who else has nothing to do.
        sleep: Sleep,
    },
    /// A message of another store.
    Message {
        /// The store that sent it.
        from: u64,
        /// What it says.
        envelope: Box<Envelope>,
    },
    /// Have a range taken in by its left neighbour. KV-015
    Merge {
        /// The group of the right one.
        group: GroupId,
        /// What version it has to have, if whoever wants it goes by one.
        expected: Option<Version>,
        /// Comes back with the entry that freezes it, or refused.
        ticket: T,
    },
    /// The leader of another range wants this in a group's log.
    Urged {
        /// The group.
        group: GroupId,
        /// The entry.
        order: Vec<u8>,
    },
    /// A replica of another store asks what became of it.
    Asked {
        /// Its store.
        from: u64,
        /// What it knows.
        ask: Ask,
    },
    /// Another store says what became of a replica of this one.
    Told {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: u64,
        /// What it says.
        verdict: Verdict,
    },
    /// A snapshot that was wished for is at hand.
    Snapshot {
        /// The group.
        group: GroupId,
        /// Where it stands and, as its data, what the range is.
        snapshot: Box<Snapshot>,
    },
    /// A snapshot has arrived with its data, or got lost.
    SnapshotSent {
        /// The group.
        group: GroupId,
        /// The replica that it was for.
        to: u64,
        /// Whether it arrived.
        arrived: bool,
    },
    /// A group's entries up to here are in the data that readers see.
    Applied {
        /// The group.
        group: GroupId,
        /// The last of them.
        index: u64,
    },
    /// An entry has changed the members of a group.
    Configured {
        /// What the library has to be told.
        change: Box<ConfChangeV2>,
        /// The range from then on.
        descriptor: Box<Descriptor>,
    },
    /// An entry has changed what a range is, but for its members and where it begins.
    Described {
        /// The range from then on.
        descriptor: Box<Descriptor>,
    },
    /// An entry has split a range.
    Split {
        /// The range with the keys before.
        left: Box<Descriptor>,
        /// The one with the others; `None` if this store has left it already.
        right: Option<Box<Descriptor>>,
    },
    /// An entry has had a range take in another, durably.
    Merged {
        /// The range from then on.
        whole: Box<Descriptor>,
        /// The group of the other.
        right: GroupId,
    },
    /// The host has taken in a snapshot, durably.
    Installed {
        /// The range.
        descriptor: Box<Descriptor>,
    },
    /// The host has carried out all that the log has, and goes on with this replica alone, durably.
    Recovered {
        /// The range.
        descriptor: Box<Descriptor>,
        /// The last entry of the log.
        applied: u64,
    },
    /// The host has removed what it had of a group, durably.
    Removed {
        /// The group.
        group: GroupId,
        /// The replica that it was.
        replica: u64,
    },
    /// A group's data up to here is durable without the log.
    Checkpointed {
        /// The group.
        group: GroupId,
        /// The last entry in it.
        index: u64,
    },
}
