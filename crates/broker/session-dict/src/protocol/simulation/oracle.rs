//! What must hold of the owners of sessions.

use std::collections::{BTreeMap, BTreeSet};

/// A connection: its node, and its number, which no other has.
pub(super) type Connection = (usize, u32);

/// A connection as it went.
#[derive(Debug)]
struct Known {
    client: u32,
    claimed: u64,
    removed: Option<u64>,
    was_told_to_end: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    known: BTreeMap<Connection, Known>,
    owners: BTreeMap<u32, BTreeSet<Connection>>,
    /// Whether two owners are a failure at once.
    pub(super) is_strict: bool,
    pub(super) granted: u64,
}

impl Oracle {
    pub(super) fn new(is_strict: bool) -> Self {
        Self { is_strict, ..Self::default() }
    }

    pub(super) fn claimed(&mut self, now: u64, client: u32, connection: Connection) {
        let known = Known { client, claimed: now, removed: None, was_told_to_end: false };
        assert!(self.known.insert(connection, known).is_none());
    }

    pub(super) fn granted(&mut self, now: u64, connection: Connection) {
        let known = &self.known[&connection];
        assert!(!known.was_told_to_end && known.removed.is_none(), "{connection:?} {known:?}");
        let owners = self.owners.entry(known.client).or_default();
        if self.is_strict {
            assert!(
                owners.is_empty(),
                "{now}: {connection:?} and {owners:?} have {}",
                known.client
            );
        }
        owners.insert(connection);
        self.granted += 1;
    }

    /// A connection is told to end: somebody must have come for it.
    pub(super) fn told_to_end(&mut self, now: u64, connection: Connection) {
        let known = self.known.get_mut(&connection).expect("it was claimed");
        assert!(!known.was_told_to_end, "{now}: {connection:?} is told twice");
        known.was_told_to_end = true;
        let known = &self.known[&connection];
        if !self.owns(connection) {
            return;
        }
        let is_reason = |(other, reason): (&Connection, &Known)| {
            *other != connection
                && reason.client == known.client
                && reason.removed.is_none_or(|removed| removed > known.claimed)
        };
        assert!(self.known.iter().any(is_reason), "{now}: nobody came for {connection:?}");
    }

    pub(super) fn removed(&mut self, now: u64, connection: Connection) {
        let known = self.known.get_mut(&connection).expect("it was claimed");
        known.removed = Some(now);
        if let Some(owners) = self.owners.get_mut(&known.client) {
            owners.remove(&connection);
        }
    }

    pub(super) fn died(&mut self, now: u64, node: usize) {
        let of_node =
            self.known.iter().filter(|((at, _), known)| *at == node && known.removed.is_none());
        let gone: Vec<_> = of_node.map(|(connection, _)| *connection).collect();
        for connection in gone {
            self.removed(now, connection);
        }
    }

    pub(super) fn owns(&self, connection: Connection) -> bool {
        let client = self.known[&connection].client;
        self.owners.get(&client).is_some_and(|owners| owners.contains(&connection))
    }

    pub(super) fn has_ended(&self, connection: Connection) -> bool {
        self.known[&connection].removed.is_some()
    }

    /// Connections that neither own a session nor have ended.
    pub(super) fn waiting(&self) -> Vec<Connection> {
        let waits = |(connection, known): &(&Connection, &Known)| {
            known.removed.is_none() && !self.owns(**connection)
        };
        self.known.iter().filter(waits).map(|(connection, _)| *connection).collect()
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = (u32, &BTreeSet<Connection>)> {
        self.owners.iter().map(|(client, owners)| (*client, owners))
    }
}
