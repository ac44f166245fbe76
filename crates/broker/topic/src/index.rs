//! Many filters against one topic: which of them match.
//!
//! All filters are in a table by text, so a topic finds its exact filter with one probe; filters with
//! wildcards are also in a trie over levels ([`trie`]), whose head states the bounds of a match. Each
//! text is stored once. Removal gives nodes, labels, pages and table space back; nothing here is
//! ever rebuilt as a whole, but a table that doubles or halves moves its 8-byte entries.
//!
//! What a filter stands for (receivers, groups) is not known here: keep it in a table by
//! [`FilterId::index`]. Clients choose topics and filters: the hash is seeded by the owner.

mod arena;
mod hash;
mod labels;
mod slot;
mod trie;

use std::fmt;

use crate::TopicName;
use crate::filter::is_well_formed;
use arena::Arena;
use hash::{Seed, Table, fold};
use slot::{Position, Slot};
use trie::Trie;

/// The number of a filter in its [`FilterIndex`]. It is stable until the filter is removed and then
/// given to another one; the lowest free number is given first, so numbers stay dense.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct FilterId(u32);

impl FilterId {
    /// The number, for tables beside the index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for FilterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A set of topic filters, numbered, that finds those which match a topic.
pub struct FilterIndex {
    seed: Seed,
    slots: Arena<Slot>,
    by_text: Table,
    trie: Trie,
    /// Filters that only the table knows.
    exact_count: usize,
    /// Heap bytes of all texts.
    text_memory: usize,
}

impl FilterIndex {
    /// An empty index. `hash_seed` is a random number that clients must not learn.
    #[must_use]
    pub fn new(hash_seed: u64) -> Self {
        Self {
            seed: Seed::new(hash_seed),
            slots: Arena::new(),
            by_text: Table::default(),
            trie: Trie::new(),
            exact_count: 0,
            text_memory: 0,
        }
    }

    /// The number of `filter`, and whether it is new. The filter is a valid one without share prefix;
    /// one with misplaced wildcards is kept but matches nothing.
    pub fn insert(&mut self, filter: &str) -> (FilterId, bool) {
        let hash = self.text_hash(filter);
        if let Some(id) = self.find_hashed(hash, filter) {
            return (id, false);
        }
        let id = self.slots.insert(Slot { text: filter.into(), ..Slot::default() });
        self.by_text.insert(hash, id);
        self.text_memory += heap_size(filter.len());
        // No topic has a wildcard, so a text that has one is never found as an exact filter.
        let belongs_in_trie = filter.contains(['+', '#']) && is_well_formed(filter);
        if belongs_in_trie {
            self.trie.insert(&self.seed, &mut self.slots, id, filter.as_bytes());
        } else {
            self.exact_count += 1;
        }
        (FilterId(id), true)
    }

    /// The number of `filter`, if it is in the index.
    #[must_use]
    pub fn find(&self, filter: &str) -> Option<FilterId> {
        self.find_hashed(self.text_hash(filter), filter)
    }

    /// Removes a filter; `false` if the number is not taken.
    pub fn remove(&mut self, id: FilterId) -> bool {
        if !self.slots.contains(id.0) {
            return false;
        }
        let slot = self.slots.remove(id.0);
        self.by_text.remove(self.text_hash(&slot.text), id.0);
        self.text_memory -= heap_size(slot.text.len());
        if slot.place.position() == Position::Exact {
            self.exact_count -= 1;
        } else {
            self.trie.remove(&self.seed, id.0, &slot);
        }
        true
    }

    /// The text of a filter; `None` if the number is not taken.
    #[must_use]
    pub fn text(&self, id: FilterId) -> Option<&str> {
        self.slots.get(id.0).map(|slot| &*slot.text)
    }

    /// Appends the filters that match `topic`, each once, in no particular order.
    pub fn matches(&self, topic: TopicName<'_>, found: &mut Vec<FilterId>) {
        self.matches_each(topic, |id| found.push(id));
    }

    /// Calls `found` for each filter that matches `topic`, once. Returns the number of trie nodes
    /// visited: the measure of what the match has cost, at most [`Self::node_count`].
    pub fn matches_each(&self, topic: TopicName<'_>, mut found: impl FnMut(FilterId)) -> usize {
        let topic = topic.as_str();
        if self.exact_count > 0
            && let Some(id) = self.find_hashed(self.text_hash(topic), topic)
        {
            found(id);
        }
        if self.trie.is_empty() {
            return 0;
        }
        self.trie.matches(&self.seed, &self.slots, topic.as_bytes(), |id| found(FilterId(id)))
    }

    /// Number of filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of inner nodes of the trie, at least one.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.trie.node_count()
    }

    /// Bytes of memory, estimated: everything allocated, with the rounding of a usual allocator.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Seed>()
            + self.slots.memory()
            + self.by_text.memory()
            + self.trie.memory()
            + self.text_memory
    }

    /// All filters, by ascending number.
    pub fn iter(&self) -> impl Iterator<Item = (FilterId, &str)> {
        self.slots.iter().map(|(id, slot)| (FilterId(id), &*slot.text))
    }

    /// Panics unless all parts agree. For tests and sampled checks: costs a pass over everything.
    ///
    /// # Panics
    /// If an invariant does not hold, which is a bug of this module.
    pub fn check_invariants(&self) {
        assert_eq!(self.by_text.len(), self.slots.len(), "each filter has one entry by text");
        let mut exact_count = 0;
        let mut text_memory = 0;
        for (id, slot) in self.slots.iter() {
            assert_eq!(self.find(&slot.text), Some(FilterId(id)), "{:?} is found", slot.text);
            exact_count += usize::from(slot.place.position() == Position::Exact);
            text_memory += heap_size(slot.text.len());
        }
        assert_eq!(exact_count, self.exact_count, "exact filters are counted");
        assert_eq!(text_memory, self.text_memory, "bytes of text are counted");
        self.trie.check_invariants(&self.seed, &self.slots);
    }

    #[inline]
    fn text_hash(&self, text: &str) -> u32 {
        fold(self.seed.hash(text.as_bytes()))
    }

    #[inline]
    fn find_hashed(&self, hash: u32, filter: &str) -> Option<FilterId> {
        self.by_text.find(hash, |id| *self.slots[id].text == *filter).map(FilterId)
    }
}

impl fmt::Debug for FilterIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FilterIndex")
            .field("len", &self.len())
            .field("node_count", &self.node_count())
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

/// What an allocator takes for `length` bytes, about: a word of its own, rounded up to two.
fn heap_size(length: usize) -> usize {
    if length == 0 { 0 } else { (length + 8).next_multiple_of(16) }
}

#[cfg(test)]
#[path = "index/index_test.rs"]
mod tests;
