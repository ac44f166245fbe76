//! Numbered places in pages: stable numbers, lowest free one first, memory given back page by page.
//!
//! Pages do not move when others are added, so that growth copies nothing; the free tail of a page
//! is given back. Since the lowest free number is taken first, churn empties the high pages.

use std::collections::BTreeSet;
use std::mem::{size_of, take};
use std::ops::{Index, IndexMut};

/// Places a page.
const PAGE: u32 = 512;
const WORDS: usize = PAGE as usize / 64;

/// Numbers are below this: users keep a bit of their own beside them.
pub(super) const NUMBER_MAX: u32 = (1 << 31) - 2;

pub(super) struct Arena<T> {
    pages: Vec<Page<T>>,
    /// Pages with a free place, freed pages among them.
    open: BTreeSet<u32>,
    len: usize,
}

struct Page<T> {
    /// Up to the last taken place; free places hold the default value.
    places: Vec<T>,
    taken: [u64; WORDS],
    live: u32,
}

impl<T: Default> Arena<T> {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), open: BTreeSet::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Stores `value` under the lowest free number.
    ///
    /// # Panics
    /// If 2³¹ numbers are taken, which needs some 100 GB before.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let page_number = self.open.first().copied().unwrap_or_else(|| self.add_page());
        let page = &mut self.pages[page_number as usize];
        // The first page grows slowly: most indexes are small. Later ones are sure to be filled.
        if page.places.is_empty() && page_number > 0 {
            page.places.reserve_exact(PAGE as usize);
        }
        let place = page.insert(value);
        if page.live == PAGE {
            self.open.remove(&page_number);
        }
        self.len += 1;
        page_number * PAGE + place
    }

    /// Frees the number `id`, which must be taken.
    pub(super) fn remove(&mut self, id: u32) -> T {
        assert!(self.contains(id), "number {id} is not taken");
        let page_number = id / PAGE;
        let page = &mut self.pages[page_number as usize];
        let value = page.remove(id % PAGE);
        self.open.insert(page_number);
        self.len -= 1;
        if page.live == 0 {
            self.drop_last_pages();
        }
        value
    }

    #[inline]
    pub(super) fn contains(&self, id: u32) -> bool {
        self.pages.get((id / PAGE) as usize).is_some_and(|page| page.is_taken(id % PAGE))
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.contains(id).then(|| &self[id])
    }

    /// All taken numbers, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.pages).flat_map(|(page_number, page)| {
            let taken = (0..PAGE).zip(&page.places).filter(|(place, _)| page.is_taken(*place));
            taken.map(move |(place, value)| (page_number * PAGE + place, value))
        })
    }

    /// Bytes of the pages; what the values own is for the caller to count.
    pub(super) fn memory(&self) -> usize {
        let places: usize = self.pages.iter().map(|page| page.places.capacity()).sum();
        size_of::<Self>()
            + places * size_of::<T>()
            + self.pages.capacity() * size_of::<Page<T>>()
            + self.open.len() * 8
    }

    fn add_page(&mut self) -> u32 {
        let number = u32::try_from(self.pages.len()).expect("pages are fewer than numbers");
        assert!(number < NUMBER_MAX / PAGE, "all {NUMBER_MAX} numbers are taken");
        self.pages.push(Page { places: Vec::new(), taken: [0; WORDS], live: 0 });
        self.open.insert(number);
        number
    }

    fn drop_last_pages(&mut self) {
        while self.pages.last().is_some_and(|page| page.live == 0) {
            self.pages.pop();
        }
        if self.pages.len() < self.pages.capacity() / 4 {
            self.pages.shrink_to(self.pages.len() * 2);
        }
        let end = u32::try_from(self.pages.len()).expect("pages are fewer than numbers");
        self.open.split_off(&end);
    }
}

impl<T: Default> Page<T> {
    fn insert(&mut self, value: T) -> u32 {
        let free = self.taken.iter().position(|word| *word != u64::MAX);
        let word = free.expect("an open page has a free place");
        let bit = self.taken[word].trailing_ones();
        self.taken[word] |= 1 << bit;
        self.live += 1;
        let place = word * 64 + bit as usize;
        if place == self.places.len() {
            self.places.push(value);
        } else {
            self.places[place] = value;
        }
        u32::try_from(place).expect("a place is below the page size")
    }

    fn remove(&mut self, place: u32) -> T {
        self.taken[place as usize / 64] &= !(1 << (place % 64));
        self.live -= 1;
        let value = take(&mut self.places[place as usize]);
        // The tail that is free goes: each place popped was pushed once, so this costs nothing more.
        while self.places.last().is_some() && !self.is_taken_at(self.places.len() - 1) {
            self.places.pop();
        }
        if self.places.len() < self.places.capacity() / 4 {
            self.places.shrink_to(self.places.len() * 2);
        }
        value
    }
}

impl<T> Page<T> {
    #[inline]
    fn is_taken(&self, place: u32) -> bool {
        self.is_taken_at(place as usize)
    }

    #[inline]
    fn is_taken_at(&self, place: usize) -> bool {
        self.taken[place / 64] & (1 << (place % 64)) != 0
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        &self.pages[(id / PAGE) as usize].places[(id % PAGE) as usize]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.pages[(id / PAGE) as usize].places[(id % PAGE) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_free_number_is_taken_first() {
        let mut arena = Arena::new();
        let ids: Vec<u32> = (0..2_000_u32).map(|value| arena.insert(value)).collect();
        assert_eq!(ids, (0..2_000).collect::<Vec<_>>());
        for id in [1_700, 3, 600] {
            assert_eq!(arena.remove(id), id);
            assert_eq!(arena.get(id), None);
        }
        assert_eq!([arena.insert(7), arena.insert(8), arena.insert(9)], [3, 600, 1_700]);
        assert_eq!(arena.insert(10), 2_000);
        assert_eq!(arena.len(), 2_001);
        assert_eq!((arena[600], arena.get(9_999)), (8, None));
        assert_eq!(arena.iter().count(), 2_001);
    }

    #[test]
    fn empty_pages_are_given_back() {
        let mut arena = Arena::new();
        for value in 0..100_000_u32 {
            arena.insert(value);
        }
        let full = arena.memory();
        for id in 0..99_999 {
            arena.remove(id);
        }
        assert!(arena.memory() < full / 10, "one number keeps one page, not {}", arena.memory());
        assert_eq!(arena[99_999], 99_999);
        assert_eq!(arena.insert(5), 0);
        arena.remove(0);
        arena.remove(99_999);
        assert!(arena.memory() < 256, "{}", arena.memory());
        assert_eq!((arena.len(), arena.iter().count()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "number 1 is not taken")]
    fn freeing_a_free_number_is_a_bug() {
        let mut arena = Arena::new();
        arena.insert(0_u32);
        arena.remove(1);
    }
}
