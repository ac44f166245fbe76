//! What a routing service or one of its tenants holds.

/// A count of routes and receivers.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct DistStats {
    /// Tenants with a table.
    pub tenants: usize,
    /// Filters that have a receiver.
    pub routes: usize,
    /// Receivers that are shards.
    pub shards: usize,
    /// Receivers that are persistent sessions.
    pub inboxes: usize,
    /// Receivers that are other hosts.
    pub hosts: usize,
    /// Shared groups.
    pub groups: usize,
    /// Members of shared groups.
    pub members: usize,
}

impl DistStats {
    /// Adds what another counted.
    pub(crate) fn add(&mut self, other: &DistStats) {
        self.tenants += other.tenants;
        self.routes += other.routes;
        self.shards += other.shards;
        self.inboxes += other.inboxes;
        self.hosts += other.hosts;
        self.groups += other.groups;
        self.members += other.members;
    }
}
