//! What is written down of a range while its data comes or goes in more than one batch. Described in
//! `docs/formats/store.md`.
//!
//! While a group has a mark it has no descriptor, so nobody is served from what is half there. What a
//! mark calls unclean may have any part of the data, and is cleared before the store works again.

use bytes::Bytes;
use ratatosk_engine::wire::{self, Malformed};
use ratatosk_engine::{Error, KeyRange, View};

use crate::log::GroupId;
use crate::range::{Applied, FORMAT, group_of, meta_key, put_boundary, started, take_boundary};

const INSTALLING: u8 = b'i';
const REMOVING: u8 = b'r';

/// Data of another store is about to take the place of what is there; or was, when the process went
/// down, and the group waits for it to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installing {
    /// Which replica this store is.
    pub(crate) replica: u64,
    pub(crate) keyspace: String,
    /// How far the data had come that was there before: the log has not lost what was promised then.
    pub(crate) applied: Applied,
    /// What is to be cleared.
    pub(crate) unclean: Vec<KeyRange>,
}

/// The data of a group that was left is about to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removing {
    pub(crate) keyspace: String,
    pub(crate) boundary: KeyRange,
}

impl Installing {
    pub(crate) fn key(group: GroupId) -> Bytes {
        meta_key(INSTALLING, group)
    }

    pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
        group_of(INSTALLING, key)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut into = vec![FORMAT];
        wire::put_u64(&mut into, self.replica);
        wire::put_bytes(&mut into, self.keyspace.as_bytes());
        self.applied.put(&mut into);
        wire::put_u64(&mut into, self.unclean.len() as u64);
        self.unclean.iter().for_each(|keys| put_boundary(&mut into, keys));
        into.into()
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut parser = started(data)?;
        let replica = parser.take_u64()?;
        let keyspace = parser.take_str()?.to_owned();
        let applied = Applied::take(&mut parser)?;
        let count = parser.take_u64()?;
        let unclean = (0..count).map(|_| take_boundary(&mut parser)).collect::<Result<_, _>>()?;
        match parser.is_at_end() {
            true => Ok(Self { replica, keyspace, applied, unclean }),
            false => Err(Malformed),
        }
    }

    /// The mark of a group, if it has one.
    pub(crate) fn read(view: &impl View, group: GroupId) -> Result<Option<Self>, Error> {
        let Some(found) = view.get(crate::range::META, &Self::key(group))? else { return Ok(None) };
        let unreadable = |_| Error::Corrupt {
            detail: format!("how the data of group {} comes is not readable", group.0),
        };
        Self::decode(&found).map(Some).map_err(unreadable)
    }
}

impl Removing {
    pub(crate) fn key(group: GroupId) -> Bytes {
        meta_key(REMOVING, group)
    }

    pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
        group_of(REMOVING, key)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut into = vec![FORMAT];
        wire::put_bytes(&mut into, self.keyspace.as_bytes());
        put_boundary(&mut into, &self.boundary);
        into.into()
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut parser = started(data)?;
        let keyspace = parser.take_str()?.to_owned();
        let boundary = take_boundary(&mut parser)?;
        if parser.is_at_end() { Ok(Self { keyspace, boundary }) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(start: &'static [u8], end: Option<&'static [u8]>) -> KeyRange {
        KeyRange { start: Bytes::from_static(start), end: end.map(Bytes::from_static) }
    }

    fn installing() -> Installing {
        Installing {
            replica: 3,
            keyspace: "x.y".to_owned(),
            applied: Applied { index: 128, term: 3, installed: 100 },
            unclean: vec![keys(b"a", Some(b"m")), keys(b"a", None)],
        }
    }

    fn removing() -> Removing {
        Removing { keyspace: "x.y".to_owned(), boundary: keys(b"a", Some(b"m")) }
    }

    /// Bytes that a release has written stay readable.
    #[test]
    fn marks_have_the_bytes_that_the_format_says() {
        let written = installing().encode();
        assert_eq!(&written[..], b"\x04\x03\x03x.y\x80\x01\x03\x64\x02\x01a\x01\x01m\x01a\x00");
        assert_eq!(&Installing::key(GroupId(1))[..], b"i\0\0\0\0\0\0\0\x01");
        assert_eq!(&removing().encode()[..], b"\x04\x03x.y\x01a\x01\x01m");
        assert_eq!(&Removing::key(GroupId(1))[..], b"r\0\0\0\0\0\0\0\x01");
    }

    #[test]
    fn a_mark_that_is_cut_or_has_more_is_refused() {
        let (coming, going) = (installing().encode(), removing().encode());
        assert_eq!(Installing::decode(&coming), Ok(installing()));
        assert_eq!(Removing::decode(&going), Ok(removing()));
        for length in 0..coming.len() {
            assert!(Installing::decode(&coming[..length]).is_err(), "{length} bytes");
        }
        for length in 0..going.len() {
            assert!(Removing::decode(&going[..length]).is_err(), "{length} bytes");
        }
        assert!(Installing::decode(&[&coming[..], b"\0"].concat()).is_err());
        assert!(Removing::decode(&[&going[..], b"\0"].concat()).is_err());
    }
}
