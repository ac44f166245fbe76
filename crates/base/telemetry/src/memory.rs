//! Memory: the one accountant of the process, and what the machine offers.
//!
//! Every byte that a client's doing makes the process keep is charged to a [`Share`] of a tenant's
//! [`Account`]. From the sum and the real resident size follows the [`Pressure`], which says what
//! must be shed in a fixed order. The accountant is logic and atomics; [`machine`] reads the
//! kernel's files; the driver of the node calls [`Accountant::observe_rss`] some times a second.

mod account;
mod accountant;
mod batch;
mod hold;
pub mod machine;
mod pressure;
mod report;

pub use account::Account;
pub use accountant::{Accountant, NODE_TENANT, Snapshot, TenantCharge};
pub use batch::post_changes;
pub use hold::Hold;
pub use pressure::Pressure;
pub use report::register;

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// Connections: their state, buffers, aliases, in-flight tables.
    Connections,
    /// Messages that wait for a receiver.
    Queues,
    /// What can be recomputed: match results, permissions, settings.
    Caches,
    /// Retained messages and their index.
    Retained,
    /// Raft entries between log and apply.
    RaftEntries,
    /// Applied and not yet checkpointed, and what the engine below has in memory.
    Overlay,
    /// The process itself, before anybody came: code, stacks, tables.
    Process,
}

/// How many shares there are.
pub const SHARES: usize = 7;

impl Share {
    /// All, in the order of [`Share::index`].
    pub const ALL: [Self; SHARES] = [
        Self::Connections,
        Self::Queues,
        Self::Caches,
        Self::Retained,
        Self::RaftEntries,
        Self::Overlay,
        Self::Process,
    ];

    /// Its place in tables by share.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Queues => "queues",
            Self::Caches => "caches",
            Self::Retained => "retained",
            Self::RaftEntries => "raft_entries",
            Self::Overlay => "overlay",
            Self::Process => "process",
        }
    }
}
