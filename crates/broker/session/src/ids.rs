//! A set of packet identifiers.
//!
//! Identifiers that are in use at one time are mostly neighbours, so they are bits of a few pages.
//! Every operation takes the same time whatever the client chose: 65,535 identifiers are at most
//! sixteen pages. Empty pages but one are given back.
//!
//! `count` is the number of bits that are set.

use ratatosk_codec::PacketId;

/// A set of packet identifiers.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    pages: Vec<Page>,
    count: usize,
}

/// The identifiers from `number * PAGE_IDS` on.
#[derive(Debug)]
struct Page {
    number: u16,
    count: u16,
    bits: Box<[u64; WORDS]>,
}

const PAGE_IDS: u16 = 4096;
const WORDS: usize = PAGE_IDS as usize / 64;

impl IdSet {
    /// How many identifiers it holds.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether it holds `id`.
    #[inline]
    pub(crate) fn contains(&self, id: PacketId) -> bool {
        if self.count == 0 {
            return false;
        }
        let (number, word, bit) = place(id);
        self.pages.iter().any(|page| page.number == number && page.bits[word] & bit != 0)
    }

    /// Adds `id`; false if it was there.
    pub(crate) fn insert(&mut self, id: PacketId) -> bool {
        let (number, word, bit) = place(id);
        let page = self.page(number);
        if page.bits[word] & bit != 0 {
            return false;
        }
        page.bits[word] |= bit;
        page.count += 1;
        self.count += 1;
        true
    }

    /// Takes `id` out; false if it was not there.
    pub(crate) fn remove(&mut self, id: PacketId) -> bool {
        let (number, word, bit) = place(id);
        let Some(page) = self.pages.iter_mut().find(|page| page.number == number) else {
            return false;
        };
        if page.bits[word] & bit == 0 {
            return false;
        }
        page.bits[word] &= !bit;
        page.count -= 1;
        self.count -= 1;
        if self.count == 0 {
            // One is kept, so that one exchange at a time allocates nothing.
            self.pages.truncate(1);
        }
        true
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Page>() + self.pages.len() * size_of::<[u64; WORDS]>()
    }

    fn page(&mut self, number: u16) -> &mut Page {
        let index = match self.pages.iter().position(|page| page.number == number) {
            Some(index) => index,
            None => {
                self.pages.retain(|page| page.count > 0);
                self.pages.push(Page { number, count: 0, bits: Box::new([0; WORDS]) });
                self.pages.len() - 1
            }
        };
        &mut self.pages[index]
    }
}

/// Page, word and bit of an identifier.
#[inline]
fn place(id: PacketId) -> (u16, usize, u64) {
    let within = id.value() % PAGE_IDS;
    (id.value() / PAGE_IDS, usize::from(within / 64), 1 << (within % 64))
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
        /// Identifiers of several pages, and of one word.
        #[test]
        fn a_set_holds_what_a_tree_holds(
            steps in proptest::collection::vec((any::<bool>(), 0_u16..8, 0_u16..8), 0..400),
        ) {
            let mut set = IdSet::default();
            let mut tree = BTreeSet::new();
            for (adds, low, high) in steps {
                let value = high * 4095 + low + 1;
                if adds {
                    prop_assert_eq!(set.insert(id(value)), tree.insert(value));
                } else {
                    prop_assert_eq!(set.remove(id(value)), tree.remove(&value));
                }
                prop_assert_eq!(set.len(), tree.len());
                prop_assert_eq!(set.contains(id(value)), tree.contains(&value));
                prop_assert!(set.pages.len() <= 8);
            }
        }
    }

    #[test]
    fn every_identifier_fits_and_empty_pages_are_given_back() {
        let mut set = IdSet::default();
        for value in 1..=u16::MAX {
            assert!(set.insert(id(value)));
        }
        assert_eq!((set.len(), set.pages.len()), (65_535, 16));
        for value in 1..=u16::MAX {
            assert!(set.remove(id(value)), "{value}");
            assert!(!set.contains(id(value)));
        }
        for turn in 0..100 {
            assert!(set.insert(id(turn * 600 + 1)));
            assert!(set.remove(id(turn * 600 + 1)));
        }
        assert_eq!((set.len(), set.pages.len()), (0, 1));
    }
}
