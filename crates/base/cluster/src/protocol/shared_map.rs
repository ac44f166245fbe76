//! A small map that every host may write: rules and settings that have no owner.
//!
//! The last writer wins, by the stamp of a hybrid logical clock, then by its id. What is removed leaves
//! a tombstone for a day, so that a host that was away for less does not bring it back. Hosts compare
//! what they have by a digest for each of 64 buckets of keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Timestamp;

use super::hlc::{Hlc, Stamp};
use super::identity::HostId;
use super::record::NAME_MAX;
use super::refusal::Refusal;
use super::wire::{Malformed, Reader, put_long, put_medium, put_short};

/// Entries, removed ones included.
pub const ENTRIES_MAX: usize = 4096;
/// Bytes of a key.
pub const KEY_MAX: usize = 256;
/// Bytes of a value.
pub const VALUE_MAX: usize = 16 * 1024;
/// Bytes of all keys and values.
pub const MAP_MAX: usize = 8 * 1024 * 1024;
/// How many buckets are compared.
pub(crate) const BUCKETS: usize = 64;

/// A key, in the space of those who use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapKey {
    space: String,
    key: Bytes,
}

/// Which of two writes wins.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written {
    pub(crate) stamp: Stamp,
    pub(crate) writer: HostId,
}

/// A value, or that it was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) written: Written,
    pub(crate) value: Option<Bytes>,
}

/// The caller asked for something that the map cannot hold; nothing was changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The space has another length than 1 to [`NAME_MAX`] bytes.
    #[error("a space has 1 to {NAME_MAX} bytes, this one has {length}")]
    Space {
        /// Its bytes.
        length: usize,
    },
    /// The key has more than [`KEY_MAX`] bytes.
    #[error("a key has at most {KEY_MAX} bytes, this one has {length}")]
    Key {
        /// Its bytes.
        length: usize,
    },
    /// The value has more than [`VALUE_MAX`] bytes.
    #[error("a value has at most {VALUE_MAX} bytes, this one has {length}")]
    Value {
        /// Its bytes.
        length: usize,
    },
    /// There are [`ENTRIES_MAX`] entries or [`MAP_MAX`] bytes.
    #[error("the map is full: {ENTRIES_MAX} entries or {MAP_MAX} bytes")]
    Full,
}

impl MapKey {
    /// A key of at most [`KEY_MAX`] bytes in a space of 1 to [`NAME_MAX`].
    ///
    /// # Errors
    /// If one of them has another length.
    pub fn new(space: &str, key: &[u8]) -> Result<MapKey, MapError> {
        if space.is_empty() || space.len() > NAME_MAX {
            return Err(MapError::Space { length: space.len() });
        }
        if key.len() > KEY_MAX {
            return Err(MapError::Key { length: key.len() });
        }
        Ok(MapKey { space: space.to_owned(), key: Bytes::copy_from_slice(key) })
    }

    /// Whose it is.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Which it is there.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_short(out, self.space.as_bytes());
        put_medium(out, &self.key);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<MapKey, Malformed> {
        MapKey::new(reader.text()?, reader.medium()?).map_err(|_| Malformed)
    }
}

impl Written {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.stamp.as_bits().to_be_bytes());
        out.extend_from_slice(self.writer.as_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Written, Malformed> {
        let stamp = Stamp::from_bits(reader.u64()?);
        Ok(Written { stamp, writer: HostId::from_bytes(reader.array()?) })
    }
}

/// Appends an entry with its key.
pub(crate) fn encode_entry(key: &MapKey, entry: &Entry, out: &mut Vec<u8>) {
    key.encode(out);
    entry.written.encode(out);
    match &entry.value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put_long(out, value);
        }
    }
}

/// Reads an entry with its key.
pub(crate) fn decode_entry(reader: &mut Reader<'_>) -> Result<(MapKey, Entry), Malformed> {
    let key = MapKey::decode(reader)?;
    let written = Written::decode(reader)?;
    let value = match reader.u8()? {
        0 => None,
        1 => Some(reader.long()?),
        _ => return Err(Malformed),
    };
    if value.is_some_and(|value| value.len() > VALUE_MAX) {
        return Err(Malformed);
    }
    Ok((key, Entry { written, value: value.map(Bytes::copy_from_slice) }))
}

/// The map as one host has it.
#[derive(Debug, Default)]
pub(crate) struct SharedMap {
    entries: BTreeMap<MapKey, Entry>,
    bytes: usize,
    clock: Hlc,
}

fn size(key: &MapKey, entry: &Entry) -> usize {
    key.space.len() + key.key.len() + entry.value.as_ref().map_or(0, Bytes::len)
}

/// FNV-1a of the parts with their lengths, mixed: the same on all hosts and in all builds.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for part in parts {
        part.iter().for_each(|byte| feed(*byte));
        (part.len() as u64).to_be_bytes().into_iter().for_each(&mut feed);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The bucket that a key is in.
pub(crate) fn bucket(key: &MapKey) -> usize {
    let hash = hash(&[key.space.as_bytes(), &key.key]);
    usize::try_from(hash % BUCKETS as u64).unwrap_or(0)
}

impl SharedMap {
    /// The values of a space.
    pub(crate) fn space(&self, space: &str) -> BTreeMap<Bytes, Bytes> {
        let first = MapKey { space: space.to_owned(), key: Bytes::new() };
        let of_space = self.entries.range(first..).take_while(|(key, _)| key.space == space);
        let values = of_space.filter_map(|(key, entry)| {
            entry.value.as_ref().map(|value| (key.key.clone(), value.clone()))
        });
        values.collect()
    }

    pub(crate) fn entry(&self, key: &MapKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries, removed ones too.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&MapKey, &Entry)> {
        self.entries.iter()
    }

    /// Writes or removes, on behalf of this host.
    pub(crate) fn write(
        &mut self,
        wall: Timestamp,
        writer: HostId,
        key: &MapKey,
        value: Option<Bytes>,
    ) -> Result<(), MapError> {
        let length = value.as_ref().map_or(0, Bytes::len);
        if length > VALUE_MAX {
            return Err(MapError::Value { length });
        }
        let written = Written { stamp: self.clock.tick(wall), writer };
        self.put(key, Entry { written, value }).map_err(|_| MapError::Full)
    }

    /// Takes what another host has; true if it is new.
    pub(crate) fn offer(
        &mut self,
        wall: Timestamp,
        memory: Duration,
        key: &MapKey,
        entry: Entry,
    ) -> Result<bool, Refusal> {
        if entry.written.stamp.is_ahead(wall) {
            return Err(Refusal::Ahead);
        }
        let is_new = self.entries.get(key).is_none_or(|known| known.written < entry.written);
        if !is_new || is_forgotten(&entry, wall, memory) {
            return Ok(false);
        }
        self.clock.observe(entry.written.stamp);
        self.put(key, entry).map(|()| true)
    }

    fn put(&mut self, key: &MapKey, entry: Entry) -> Result<(), Refusal> {
        let old = self.entries.get(key).map(|old| size(key, old));
        let bytes = self.bytes - old.unwrap_or(0) + size(key, &entry);
        let is_full = old.is_none() && self.entries.len() >= ENTRIES_MAX;
        if is_full || bytes > MAP_MAX {
            return Err(Refusal::Full);
        }
        self.bytes = bytes;
        self.entries.insert(key.clone(), entry);
        Ok(())
    }

    /// Forgets what was removed long ago.
    pub(crate) fn expire(&mut self, wall: Timestamp, memory: Duration) {
        let bytes = &mut self.bytes;
        self.entries.retain(|key, entry| {
            let is_forgotten = is_forgotten(entry, wall, memory);
            *bytes -= if is_forgotten { size(key, entry) } else { 0 };
            !is_forgotten
        });
    }

    /// A digest of each bucket; equal if the buckets are.
    pub(crate) fn digest(&self) -> [u64; BUCKETS] {
        let mut digest = [0; BUCKETS];
        for (key, Entry { written, .. }) in &self.entries {
            let stamp = written.stamp.as_bits().to_be_bytes();
            let parts = [key.space.as_bytes(), &key.key, &stamp, written.writer.as_bytes()];
            digest[bucket(key)] ^= hash(&parts);
        }
        digest
    }
}

fn is_forgotten(entry: &Entry, wall: Timestamp, memory: Duration) -> bool {
    let written_ms = entry.written.stamp.wall().as_millis();
    let memory_ms = u64::try_from(memory.as_millis()).unwrap_or(u64::MAX);
    entry.value.is_none() && wall.as_millis().saturating_sub(written_ms) > memory_ms
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn key(index: u8) -> MapKey {
        MapKey::new("rules", &[index]).expect("a key")
    }

    fn entry() -> impl Strategy<Value = (MapKey, Entry)> {
        (0..5_u8, 1..50_u8, 0..4_u8).prop_map(|(index, millis, writer)| {
            // A writer writes one value at one stamp.
            let is_there = (millis + writer) % 4 > 0;
            let value = is_there.then(|| Bytes::from(vec![writer, millis]));
            let millis = u64::from(millis);
            let stamp = Stamp::from_bits((1_000_000_000 - millis) << 16);
            let writer = HostId::from_bytes([writer; 16]);
            (key(index), Entry { written: Written { stamp, writer }, value })
        })
    }

    proptest! {
        /// REPL-003, REPL-004: what is heard twice, and in whatever order, comes to the same.
        #[test]
        fn hosts_agree_whatever_the_order_in_which_they_hear(
            entries in prop::collection::vec(entry(), 0..40), seed in any::<prop::sample::Index>(),
        ) {
            let (mut one, mut two) = (SharedMap::default(), SharedMap::default());
            for (key, entry) in &entries {
                one.offer(NOW, DAY, key, entry.clone()).expect("room");
            }
            let mut turned = entries.clone();
            turned.reverse();
            if !turned.is_empty() {
                let by = seed.index(turned.len());
                turned.rotate_left(by);
            }
            for (key, entry) in turned.iter().chain(&entries) {
                two.offer(NOW, DAY, key, entry.clone()).expect("room");
            }
            prop_assert_eq!(&one.entries, &two.entries);
            prop_assert_eq!(one.digest(), two.digest());
            prop_assert_eq!(one.bytes, one.entries.iter().map(|(key, it)| size(key, it)).sum());
        }

        #[test]
        fn an_entry_is_read_as_it_was_written((key, entry) in entry()) {
            let mut bytes = Vec::new();
            encode_entry(&key, &entry, &mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(decode_entry(&mut reader), Ok((key, entry)));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    /// REPL-004: what was removed does not come back.
    #[test]
    fn a_write_is_later_than_what_was_seen_and_a_removal_is_forgotten_after_its_time() {
        let (me, other) = (HostId::from_bytes([1; 16]), HostId::from_bytes([2; 16]));
        let mut map = SharedMap::default();
        let stamp = Stamp::from_bits((NOW.as_millis() + 5_000) << 16);
        let theirs = Entry { written: Written { stamp, writer: other }, value: None };
        assert_eq!(map.offer(NOW, DAY, &key(1), theirs.clone()), Ok(true));
        assert_eq!(map.offer(NOW, DAY, &key(1), theirs), Ok(false));
        map.write(NOW, me, &key(1), Some(Bytes::from_static(b"v"))).expect("room");
        assert_eq!(map.space("rules").len(), 1);
        assert_eq!(map.space("rule").len() + map.space("rules2").len(), 0);
        map.write(NOW, me, &key(1), None).expect("room");
        assert_eq!((map.space("rules").len(), map.entries.len()), (0, 1));
        let wall = Timestamp::from_millis(NOW.as_millis() + 86_400_000 + 5_001);
        let old = map.entries[&key(1)].clone();
        map.expire(wall, DAY);
        assert_eq!((map.entries.len(), map.bytes), (0, 0));
        assert_eq!(map.offer(wall, DAY, &key(1), old), Ok(false));
    }

    #[test]
    fn the_map_has_its_bounds() {
        let me = HostId::from_bytes([1; 16]);
        let mut map = SharedMap::default();
        let long = vec![0; VALUE_MAX + 1].into();
        let refused = map.write(NOW, me, &key(1), Some(long));
        assert_eq!(refused, Err(MapError::Value { length: VALUE_MAX + 1 }));
        assert_eq!(MapKey::new("", b""), Err(MapError::Space { length: 0 }));
        assert_eq!(MapKey::new("a", &[0; 257]), Err(MapError::Key { length: 257 }));
        let ahead = Stamp::from_bits((NOW.as_millis() + 86_400_001) << 16);
        let entry = Entry { written: Written { stamp: ahead, writer: me }, value: None };
        assert_eq!(map.offer(NOW, DAY, &key(1), entry), Err(Refusal::Ahead));
        for index in 0..ENTRIES_MAX {
            let key = MapKey::new("many", &(index as u64).to_be_bytes()).expect("a key");
            map.write(NOW, me, &key, Some(Bytes::new())).expect("room");
        }
        assert_eq!(map.write(NOW, me, &key(1), None), Err(MapError::Full));
        let mut map = SharedMap::default();
        let value = Bytes::from(vec![0; VALUE_MAX]);
        let fits = (0..600_u64).take_while(|index| {
            let key = MapKey::new("big", &index.to_be_bytes()).expect("a key");
            map.write(NOW, me, &key, Some(value.clone())).is_ok()
        });
        assert!(fits.count() * VALUE_MAX <= MAP_MAX);
    }
}
