//! Seeded hashing, and a hash table of numbers whose keys lie elsewhere.
//!
//! Entries carry 32 bits of their hash: growth never touches the keys, and a probe looks at a key
//! only when all 32 bits agree. Equality is always decided by the key itself.

use std::hash::Hasher;
use std::mem::size_of;

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use hashbrown::HashTable;

/// The secret of one index. All of the hash's constants derive from it: with the library's fixed
/// ones, clients could choose levels that collide under every seed.
pub(super) struct Seed {
    shared: SharedSeed,
    start: u64,
}

impl Seed {
    pub(super) fn new(seed: u64) -> Self {
        Self { shared: SharedSeed::from_u64(seed), start: seed.rotate_left(32) }
    }

    #[inline]
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.start, &self.shared);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// The 32 bits of a hash that a [`Table`] works with.
#[inline]
pub(super) fn fold(hash: u64) -> u32 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    (hash.wrapping_mul(ODD) >> 32) as u32
}

#[derive(Copy, Clone)]
struct Entry {
    hash: u32,
    value: u32,
}

/// From hash to number. A value stands under one hash at most once; that is the caller's duty.
#[derive(Default)]
pub(super) struct Table {
    entries: HashTable<Entry>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value under `hash` whose key is the wanted one, as `is_wanted` decides.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let found =
            self.entries.find(spread(hash), |entry| entry.hash == hash && is_wanted(entry.value));
        found.map(|entry| entry.value)
    }

    pub(super) fn insert(&mut self, hash: u32, value: u32) {
        self.entries.insert_unique(spread(hash), Entry { hash, value }, |entry| spread(entry.hash));
    }

    /// Puts `new` where `old` is.
    pub(super) fn replace(&mut self, hash: u32, old: u32, new: u32) {
        let entry = self.entries.find_mut(spread(hash), |entry| entry.value == old);
        let entry = entry.expect("the caller has found the value under this hash");
        entry.value = new;
    }

    /// Removes `value`, and gives memory back when three quarters are unused.
    pub(super) fn remove(&mut self, hash: u32, value: u32) {
        let entry = self.entries.find_entry(spread(hash), |entry| entry.value == value);
        let Ok(entry) = entry else {
            unreachable!("value {value} is not under hash {hash:#x}");
        };
        entry.remove();
        if self.entries.is_empty() {
            self.entries = HashTable::new();
        } else if self.entries.len() < self.entries.capacity() / 4 {
            // Twice the need: the next growth is as far away as the next shrinking.
            self.entries.shrink_to(self.entries.len() * 2, |entry| spread(entry.hash));
        }
    }

    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.entries.allocation_size()
    }
}

/// The table takes its bucket from the low bits and its tag from the top ones.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
