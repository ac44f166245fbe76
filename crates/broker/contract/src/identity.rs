//! Who is who: tenants, sessions, connections, publishers.
//!
//! A session belongs to (tenant, user segment, client id). The user segment is empty unless the
//! tenant asks for it, because users of other brokers expect the client id alone to identify a
//! session. The tenant comes from authentication, never from the client.

use std::{fmt, sync::Arc};

/// A tenant's name. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The tenant called `name`.
    pub fn new(name: &str) -> Self {
        TenantId(Arc::from(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A client identifier, as the client or the server chose it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// The client identifier `text`.
    pub fn new(text: &str) -> Self {
        ClientId(Arc::from(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What identifies a session: MQTT-035, [MQTT-3.1.3-2].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIdentity {
    /// Whose session it is.
    pub tenant: TenantId,
    /// The user segment: `None` unless the tenant makes users part of the identity.
    pub user: Option<Arc<str>>,
    /// The client identifier.
    pub client: ClientId,
}

impl SessionIdentity {
    /// The identity as a number that is the same on every host: for no-local, for the ordered
    /// choice of a shared group, and to tell publishers apart where a name would be too long.
    pub fn publisher(&self) -> PublisherId {
        // FNV-1a over the segments, each closed by a byte that UTF-8 never contains, then mixed.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |part: &str| {
            for byte in part.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        add(self.tenant.as_str());
        add(self.user.as_deref().unwrap_or(""));
        add(self.client.as_str());
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        PublisherId(hash ^ (hash >> 29))
    }
}

impl fmt::Display for SessionIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(out, "{}/{}/{}", self.tenant, user, self.client),
            None => write!(out, "{}/{}", self.tenant, self.client),
        }
    }
}

/// A session as the author of messages. Equal for all connections of one session identity.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublisherId(pub u64);

/// One thread of the data plane. A node has at most [`ShardId::COUNT_MAX`].
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u8);

impl ShardId {
    /// Shards fit the bits of a [`ShardSet`].
    pub const COUNT_MAX: usize = 64;

    /// The shard as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of shards.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShardSet(u64);

impl ShardSet {
    /// No shard.
    pub const EMPTY: ShardSet = ShardSet(0);

    /// Adds a shard; false if it was there.
    pub fn insert(&mut self, shard: ShardId) -> bool {
        debug_assert!(shard.index() < ShardId::COUNT_MAX, "shard {} is out of range", shard.0);
        let before = self.0;
        self.0 |= 1 << shard.0;
        self.0 != before
    }

    /// Takes a shard out; false if it was not there.
    pub fn remove(&mut self, shard: ShardId) -> bool {
        let before = self.0;
        self.0 &= !(1 << shard.0);
        self.0 != before
    }

    /// Whether the shard is in the set.
    pub fn contains(self, shard: ShardId) -> bool {
        self.0 & (1 << shard.0) != 0
    }

    /// Whether no shard is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards, lowest first.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            #[expect(clippy::cast_possible_truncation, reason = "at most 63")]
            let shard = ShardId(rest.trailing_zeros() as u8);
            rest &= rest - 1;
            Some(shard)
        })
    }
}

/// A life of another host, as this process numbers it: a host that starts again, or comes back
/// after it was given up, gets another number. Never given twice while the process lives.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostNumber(pub u32);

/// A live connection of this node: its shard, its slot there, and which of the slot's successive
/// connections it is. A reference that has outlived its connection is recognised.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionRef {
    /// The shard that owns the connection.
    pub shard: ShardId,
    /// The connection's slot in its shard.
    pub slot: u32,
    /// Rises with every connection that uses the slot.
    pub generation: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_differ_when_a_boundary_between_segments_moves() {
        let identity = |tenant: &str, user: Option<&str>, client: &str| SessionIdentity {
            tenant: TenantId::new(tenant),
            user: user.map(Arc::from),
            client: ClientId::new(client),
        };
        let publisher = identity("ab", None, "c").publisher();
        assert_eq!(publisher, identity("ab", None, "c").publisher());
        assert_ne!(publisher, identity("a", None, "bc").publisher());
        assert_ne!(publisher, identity("ab", Some("c"), "").publisher());
        assert_eq!(publisher.0, 0xe60d_2de8_7fdb_0faa, "the same on every host and release");
    }

    #[test]
    fn a_shard_set_lists_what_was_put_in() {
        let mut set = ShardSet::EMPTY;
        assert!(set.insert(ShardId(63)));
        assert!(set.insert(ShardId(0)));
        assert!(!set.insert(ShardId(0)));
        assert_eq!(set.iter().collect::<Vec<_>>(), [ShardId(0), ShardId(63)]);
        assert!(set.remove(ShardId(0)));
        assert!(!set.contains(ShardId(0)));
        assert!(!set.is_empty());
    }
}
