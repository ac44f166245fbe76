//! What a retain service or one of its tenants holds and did.

/// What is there, and what happened so far.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainStats {
    /// Tenants known.
    pub tenants: usize,
    /// Topics with a retained message.
    pub topics: usize,
    /// Bytes of the retained messages and their keys.
    pub bytes: u64,
    /// Messages stored so far.
    pub stored: u64,
    /// Messages cleared by an empty one so far.
    pub cleared: u64,
    /// Messages refused by a limit so far.
    pub refused: u64,
    /// Messages collected after their expiry so far.
    pub expired: u64,
}

impl RetainStats {
    /// Adds what another counted.
    pub(crate) fn add(&mut self, other: &RetainStats) {
        self.tenants += other.tenants;
        self.topics += other.topics;
        self.bytes += other.bytes;
        self.stored += other.stored;
        self.cleared += other.cleared;
        self.refused += other.refused;
        self.expired += other.expired;
    }
}
