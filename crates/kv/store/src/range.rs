//! What a range is, and how the node writes it down. Described in `docs/formats/store.md`.

use bytes::Bytes;
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_engine::{KeyRange, SpaceId};

use crate::log::GroupId;

/// The space of the engine that is the store's own.
pub(crate) const META: SpaceId = SpaceId(0);

/// The first byte of every record in [`META`].
const FORMAT: u8 = 1;
const DESCRIPTOR: u8 = b'd';
const APPLIED: u8 = b'a';

/// What a caller believes of a range, and what is true. A command for another version changes
/// nothing. KV-002
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
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
    /// Its version.
    pub version: Version,
    /// The stores that vote.
    pub voters: Vec<u64>,
}

/// The last entry whose effects are in the data.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl Descriptor {
    pub(crate) fn key(group: GroupId) -> Bytes {
        meta_key(DESCRIPTOR, group)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut into = vec![FORMAT];
        wire::put_bytes(&mut into, self.keyspace.as_bytes());
        wire::put_bytes(&mut into, &self.boundary.start);
        match &self.boundary.end {
            None => into.push(0),
            Some(end) => {
                into.push(1);
                wire::put_bytes(&mut into, end);
            }
        }
        wire::put_u64(&mut into, self.version.boundary);
        wire::put_u64(&mut into, self.version.config);
        wire::put_u64(&mut into, self.voters.len() as u64);
        self.voters.iter().for_each(|voter| wire::put_u64(&mut into, *voter));
        into.into()
    }

    pub(crate) fn decode(group: GroupId, data: &[u8]) -> Result<Self, Malformed> {
        let mut parser = started(data)?;
        let keyspace = parser.take_str()?.to_owned();
        let start = Bytes::copy_from_slice(parser.take_bytes()?);
        let end = match parser.take_u8()? {
            0 => None,
            1 => Some(Bytes::copy_from_slice(parser.take_bytes()?)),
            _ => return Err(Malformed),
        };
        let version = Version { boundary: parser.take_u64()?, config: parser.take_u64()? };
        let count = parser.take_u64()?;
        let voters: Result<_, _> = (0..count).map(|_| parser.take_u64()).collect();
        let voters = voters?;
        match parser.is_at_end() {
            true => {
                Ok(Self { group, keyspace, boundary: KeyRange { start, end }, version, voters })
            }
            false => Err(Malformed),
        }
    }

    /// The group of a key of [`META`] that is a descriptor's.
    pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
        let group = key.strip_prefix(&[DESCRIPTOR])?;
        Some(GroupId(u64::from_be_bytes(group.try_into().ok()?)))
    }
}

impl Applied {
    pub(crate) fn key(group: GroupId) -> Bytes {
        meta_key(APPLIED, group)
    }

    pub(crate) fn encode(self) -> Bytes {
        let mut into = vec![FORMAT];
        wire::put_u64(&mut into, self.index);
        wire::put_u64(&mut into, self.term);
        into.into()
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut parser = started(data)?;
        let applied = Self { index: parser.take_u64()?, term: parser.take_u64()? };
        if parser.is_at_end() { Ok(applied) } else { Err(Malformed) }
    }
}

fn started(data: &[u8]) -> Result<Parser<'_>, Malformed> {
    let mut parser = Parser::new(data);
    if parser.take_u8()? == FORMAT { Ok(parser) } else { Err(Malformed) }
}

fn meta_key(kind: u8, group: GroupId) -> Bytes {
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
            version: Version { boundary: 2, config: 300 },
            voters: vec![7],
        }
    }

    /// Bytes that a release has written stay readable.
    #[test]
    fn records_have_the_bytes_that_the_format_says() {
        let written = descriptor().encode();
        assert_eq!(&written[..], b"\x01\x03x.y\x01a\x01\x01m\x02\xAC\x02\x01\x07");
        assert_eq!(&Descriptor::key(GroupId(0x0102))[..], b"d\0\0\0\0\0\0\x01\x02");
        let applied = Applied { index: 128, term: 3 };
        assert_eq!(&applied.encode()[..], b"\x01\x80\x01\x03");
        assert_eq!(&Applied::key(GroupId(1))[..], b"a\0\0\0\0\0\0\0\x01");
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
}
