//! A set of packet identifiers.
//!
//! Identifiers that are in use at one time are mostly neighbours, so an identifier's home is its
//! low bits: neighbours lie side by side, and asking costs one look. Grows with what it holds, up
//! to the 65,535 identifiers that there are; an empty set holds no memory worth keeping.
//!
//! `2 × count ≤ slots.len()` whenever something is held, so every search ends.

use ratatosk_codec::PacketId;

/// A set of packet identifiers; zero marks a free slot.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    slots: Vec<u16>,
    count: usize,
}

/// The first table.
const SLOTS_MIN: usize = 16;

/// A table of this size is kept while it is empty, so that one exchange at a time costs nothing.
const SLOTS_KEPT: usize = 64;

impl IdSet {
    /// How many identifiers it holds.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether it holds `id`.
    #[inline]
    pub(crate) fn contains(&self, id: PacketId) -> bool {
        self.count > 0 && self.slots[self.find(id.value())] != 0
    }

    /// Adds `id`; false if it was there.
    pub(crate) fn insert(&mut self, id: PacketId) -> bool {
        if 2 * (self.count + 1) > self.slots.len() {
            self.grow();
        }
        let index = self.find(id.value());
        if self.slots[index] != 0 {
            return false;
        }
        self.slots[index] = id.value();
        self.count += 1;
        true
    }

    /// Takes `id` out; false if it was not there.
    pub(crate) fn remove(&mut self, id: PacketId) -> bool {
        if self.count == 0 {
            return false;
        }
        let mut hole = self.find(id.value());
        if self.slots[hole] == 0 {
            return false;
        }
        self.count -= 1;
        if self.count == 0 && self.slots.len() > SLOTS_KEPT {
            self.slots = Vec::new();
            return true;
        }
        // Those behind that were pushed off their home move up, so that no search stops short.
        let mask = self.slots.len() - 1;
        let mut next = (hole + 1) & mask;
        while self.slots[next] != 0 {
            let home = usize::from(self.slots[next]) & mask;
            let is_reachable = (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask);
            if is_reachable {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[hole] = 0;
        true
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u16>()
    }

    /// The slot that holds `id`, or the free one where it belongs.
    #[inline]
    fn find(&self, id: u16) -> usize {
        let mask = self.slots.len() - 1;
        let mut index = usize::from(id) & mask;
        while self.slots[index] != 0 && self.slots[index] != id {
            index = (index + 1) & mask;
        }
        index
    }

    fn grow(&mut self) {
        let slots = vec![0; (2 * self.slots.len()).max(SLOTS_MIN)];
        for id in std::mem::replace(&mut self.slots, slots) {
            if id != 0 {
                let index = self.find(id);
                self.slots[index] = id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    proptest! {
        /// Identifiers of one home and of neighbouring homes crowd the table.
        #[test]
        fn a_set_holds_what_a_tree_holds(
            steps in proptest::collection::vec((any::<bool>(), 0_u16..8, 0_u16..8), 0..400),
        ) {
            let mut set = IdSet::default();
            let mut tree = BTreeSet::new();
            for (adds, low, high) in steps {
                let value = (high * 1024 + low + 60).max(1);
                if adds {
                    prop_assert_eq!(set.insert(id(value)), tree.insert(value));
                } else {
                    prop_assert_eq!(set.remove(id(value)), tree.remove(&value));
                }
                prop_assert_eq!(set.len(), tree.len());
                for value in 1..9000 {
                    prop_assert_eq!(set.contains(id(value)), tree.contains(&value));
                }
            }
        }
    }

    #[test]
    fn every_identifier_fits_and_an_empty_set_gives_its_memory_back() {
        let mut set = IdSet::default();
        for value in 1..=u16::MAX {
            assert!(set.insert(id(value)));
        }
        assert_eq!(set.len(), 65_535);
        assert_eq!(set.memory_bytes(), 2 * 131_072);
        for value in 1..=u16::MAX {
            assert!(set.remove(id(value)), "{value}");
        }
        assert_eq!((set.len(), set.memory_bytes()), (0, 0));
    }
}
