//! What a range is, and how the node writes it down. Described in `docs/formats/store.md`.

mod merge;

use bytes::Bytes;
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_engine::{KeyRange, SpaceId};

pub use merge::{Edges, Fate, Frozen};

use crate::edition::Edition;
use crate::log::GroupId;
use crate::membership::Membership;

/// The space of the engine that is the store's own.
pub(crate) const META: SpaceId = SpaceId(0);

/// The first byte of every record in [`META`].
pub(crate) const FORMAT: u8 = 4;
const DESCRIPTOR: u8 = b'd';
const APPLIED: u8 = b'a';
const TOMBSTONE: u8 = b't';
/// The one key that is not a group's.
const OWNER: &[u8] = b"o";

/// Where the log of a group begins: its first entry is behind this one, which nobody has. So whoever
/// knows nothing of the range cannot be sent entries alone, and gets a snapshot. Groups that come of a
/// split begin here, too, on every replica.
pub const BEGIN_INDEX: u64 = 5;
/// The term of what lies before the first entry.
pub(crate) const BEGIN_TERM: u64 = 5;

/// What a caller believes of a range, and what is true. A command for another version changes
/// nothing. Neither part ever falls, so of two versions of one range the greater one is the later one.
/// KV-002
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Rises with every split and merge.
    pub boundary: u64,
    /// Rises with every change of its members.
    pub config: u64,
}

/// A range: keys of one keyspace, kept by the members of one Raft group. KV-001
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its Raft group, which names the range.
    pub group: GroupId,
    /// The keyspace that it is a part of.
    pub keyspace: String,
    /// Its keys.
    pub boundary: KeyRange,
    /// What made the ends of its boundary.
    pub edges: Edges,
    /// Its version.
    pub version: Version,
    /// Which commands it takes, and what they do.
    pub edition: Edition,
    /// Who keeps it.
    pub membership: Membership,
    /// It waits to be taken in by its left neighbour, and nothing is carried out meanwhile.
    pub frozen: Option<Frozen>,
}

/// The last entry whose effects are in the data.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// The entry that the data came with, where it came from another store; its log begins behind it.
    pub(crate) installed: u64,
}

/// The store that an engine is of.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u64);

/// Of a group that this store has had a part in and has no more: the highest number of its replicas
/// here. None of them comes back, whatever messages are still on their way.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone(pub(crate) u64);

/// In place of a replica's number: the group was taken in by another and has no replica anywhere.
pub(crate) const OVER: u64 = u64::MAX;

impl Descriptor {
    /// All keys of a keyspace, kept by one store, in the first edition.
    #[must_use]
    pub fn whole(group: GroupId, keyspace: String, store: u64) -> Self {
        Self {
            group,
            keyspace,
            boundary: KeyRange::all(),
            edges: Edges::default(),
            version: Version::default(),
            edition: Edition::FIRST,
            membership: Membership::alone(store),
            frozen: None,
        }
    }

    pub(crate) fn key(group: GroupId) -> Bytes {
        meta_key(DESCRIPTOR, group)
    }

    /// Its bytes, without its group.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut into = vec![FORMAT];
        wire::put_bytes(&mut into, self.keyspace.as_bytes());
        put_boundary(&mut into, &self.boundary);
        wire::put_u64(&mut into, self.version.boundary);
        wire::put_u64(&mut into, self.version.config);
        wire::put_u64(&mut into, self.edition.0);
        self.membership.encode(&mut into);
        wire::put_u64(&mut into, self.edges.start);
        wire::put_u64(&mut into, self.edges.end);
        Frozen::encode(self.frozen, &mut into);
        into.into()
    }

    /// The one of these bytes and this group.
    ///
    /// # Errors
    /// [`Malformed`] if they are not what [`encode`](Self::encode) gives.
    pub fn decode(group: GroupId, data: &[u8]) -> Result<Self, Malformed> {
        let mut parser = started(data)?;
        let keyspace = parser.take_str()?.to_owned();
        let boundary = take_boundary(&mut parser)?;
        let version = Version { boundary: parser.take_u64()?, config: parser.take_u64()? };
        let edition = Edition(parser.take_u64()?);
        let membership = Membership::decode(&mut parser)?;
        let edges = Edges { start: parser.take_u64()?, end: parser.take_u64()? };
        let frozen = Frozen::decode(&mut parser)?;
        match parser.is_at_end() {
            true => {
                Ok(Self { group, keyspace, boundary, edges, version, edition, membership, frozen })
            }
            false => Err(Malformed),
        }
    }

    /// What a split at `key` makes of it by entry `index` of its log: the range with the keys before,
    /// which is still this one, and a new one with the others. `None` if the key does not part it.
    /// KV-013
    #[must_use]
    pub(crate) fn split(&self, key: &Bytes, index: u64) -> Option<(Self, Self)> {
        let is_within = self.boundary.contains(key) && *key != self.boundary.start;
        // Who keeps the new range has to be one answer.
        if !is_within || !self.is_at_rest() {
            return None;
        }
        let (mut left, mut right) = (self.raised(), self.raised());
        left.boundary.end = Some(key.clone());
        left.edges.end = left.version.boundary;
        right.group = self.group.born(index);
        right.boundary.start = key.clone();
        right.edges.start = right.version.boundary;
        Some((left, right))
    }

    /// The range in a newer edition; `None` if it is in that already, or about to be taken in. What was
    /// meant for the version before is void, so whoever is a member in this one was when it was asked
    /// what all of them support.
    #[must_use]
    pub(crate) fn upgrade(&self, edition: Edition) -> Option<Self> {
        let may = edition > self.edition && self.frozen.is_none();
        may.then(|| Self { edition, ..self.raised() })
    }

    /// Whether the two have a key in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.keyspace == other.keyspace && !self.boundary.intersection(&other.boundary).is_empty()
    }

    /// The group of a key of [`META`] that is a descriptor's.
    pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
        group_of(DESCRIPTOR, key)
    }
}

impl Applied {
    pub(crate) fn key(group: GroupId) -> Bytes {
        meta_key(APPLIED, group)
    }

    pub(crate) fn encode(self) -> Bytes {
        let mut into = vec![FORMAT];
        self.put(&mut into);
        into.into()
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut parser = started(data)?;
        let applied = Self::take(&mut parser)?;
        if parser.is_at_end() { Ok(applied) } else { Err(Malformed) }
    }

    pub(crate) fn put(self, into: &mut Vec<u8>) {
        for number in [self.index, self.term, self.installed] {
            wire::put_u64(into, number);
        }
    }

    pub(crate) fn take(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            index: parser.take_u64()?,
            term: parser.take_u64()?,
            installed: parser.take_u64()?,
        })
    }
}

impl Owner {
    pub(crate) fn key() -> Bytes {
        Bytes::from_static(OWNER)
    }

    pub(crate) fn encode(self) -> Bytes {
        one_number(self.0)
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        the_number(data).map(Self)
    }
}

impl Tombstone {
    pub(crate) fn key(group: GroupId) -> Bytes {
        meta_key(TOMBSTONE, group)
    }

    /// The group of a key of [`META`] that is a tombstone's.
    pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
        group_of(TOMBSTONE, key)
    }

    pub(crate) fn encode(self) -> Bytes {
        one_number(self.0)
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        the_number(data).map(Self)
    }
}

fn one_number(number: u64) -> Bytes {
    let mut into = vec![FORMAT];
    wire::put_u64(&mut into, number);
    into.into()
}

fn the_number(data: &[u8]) -> Result<u64, Malformed> {
    let mut parser = started(data)?;
    let number = parser.take_u64()?;
    if parser.is_at_end() { Ok(number) } else { Err(Malformed) }
}

/// Appends the keys of a range: the first, and the one behind the last.
pub(crate) fn put_boundary(into: &mut Vec<u8>, boundary: &KeyRange) {
    wire::put_bytes(into, &boundary.start);
    match &boundary.end {
        None => into.push(0),
        Some(end) => {
            into.push(1);
            wire::put_bytes(into, end);
        }
    }
}

pub(crate) fn take_boundary(parser: &mut Parser<'_>) -> Result<KeyRange, Malformed> {
    let start = Bytes::copy_from_slice(parser.take_bytes()?);
    let end = match parser.take_u8()? {
        0 => None,
        1 => Some(Bytes::copy_from_slice(parser.take_bytes()?)),
        _ => return Err(Malformed),
    };
    Ok(KeyRange { start, end })
}

pub(crate) fn started(data: &[u8]) -> Result<Parser<'_>, Malformed> {
    let mut parser = Parser::new(data);
    if parser.take_u8()? == FORMAT { Ok(parser) } else { Err(Malformed) }
}

pub(crate) fn group_of(kind: u8, key: &[u8]) -> Option<GroupId> {
    let group = key.strip_prefix(&[kind])?;
    Some(GroupId(u64::from_be_bytes(group.try_into().ok()?)))
}

pub(crate) fn meta_key(kind: u8, group: GroupId) -> Bytes {
    let mut key = vec![kind];
    key.extend_from_slice(&group.0.to_be_bytes());
    key.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> Descriptor {
        Descriptor {
            group: GroupId(0x0102),
            keyspace: "x.y".to_owned(),
            boundary: KeyRange {
                start: Bytes::from_static(b"a"),
                end: Some(Bytes::from_static(b"m")),
            },
            edges: Edges { start: 1, end: 2 },
            version: Version { boundary: 2, config: 300 },
            edition: Edition(9),
            membership: Membership::alone(7),
            frozen: None,
        }
    }

    /// Bytes that a release has written stay readable.
    #[test]
    fn records_have_the_bytes_that_the_format_says() {
        let written = descriptor().encode();
        let expected = b"\x04\x03x.y\x01a\x01\x01m\x02\xAC\x02\x09\x02\x01\x01\x07\0\x01\x02\0";
        assert_eq!(&written[..], expected);
        assert_eq!(&Descriptor::key(GroupId(0x0102))[..], b"d\0\0\0\0\0\0\x01\x02");
        let applied = Applied { index: 128, term: 3, installed: 100 };
        assert_eq!(&applied.encode()[..], b"\x04\x80\x01\x03\x64");
        assert_eq!(&Applied::key(GroupId(1))[..], b"a\0\0\0\0\0\0\0\x01");
        assert_eq!(&Owner(9).encode()[..], b"\x04\x09");
        assert_eq!(&Owner::key()[..], b"o");
        assert_eq!(&Tombstone(9).encode()[..], b"\x04\x09");
        assert_eq!(&Tombstone::key(GroupId(1))[..], b"t\0\0\0\0\0\0\0\x01");
        assert_eq!(Tombstone::decode(&Tombstone(9).encode()), Ok(Tombstone(9)));
    }

    #[test]
    fn what_is_cut_or_has_more_is_refused() {
        let written = descriptor().encode();
        assert_eq!(Descriptor::decode(GroupId(0x0102), &written), Ok(descriptor()));
        for length in 0..written.len() {
            assert!(Descriptor::decode(GroupId(1), &written[..length]).is_err(), "{length} bytes");
        }
        let longer = [&written[..], b"\0"].concat();
        assert!(Descriptor::decode(GroupId(1), &longer).is_err());
        assert_eq!(Descriptor::group_of(&Descriptor::key(GroupId(9))), Some(GroupId(9)));
        assert_eq!(Descriptor::group_of(&Applied::key(GroupId(9))), None);
    }

    /// KV-002, KV-013: each key is in one of the two, and whoever believes in the old one is told.
    #[test]
    fn a_split_parts_the_keys_and_raises_the_version() {
        let whole = descriptor();
        let (left, right) = whole.split(&Bytes::from_static(b"f"), 9).expect("it parts");
        assert_eq!(
            (&left.boundary.start[..], left.boundary.end.as_deref()),
            (&b"a"[..], Some(&b"f"[..]))
        );
        assert_eq!(
            (&right.boundary.start[..], right.boundary.end.as_deref()),
            (&b"f"[..], Some(&b"m"[..]))
        );
        assert_eq!(left.version, Version { boundary: 3, config: 300 });
        assert_eq!((left.version, &left.membership), (right.version, &right.membership));
        assert_eq!(left.group, whole.group);
        assert!(whole.overlaps(&left) && whole.overlaps(&right) && !left.overlaps(&right));
        for key in ["a", "m", "z", "A"] {
            assert_eq!(whole.split(&Bytes::from_static(key.as_bytes()), 9), None, "{key}");
        }
    }
}
