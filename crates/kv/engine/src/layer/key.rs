//! A key that carries its first bytes beside it, so that most comparisons follow no pointer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;

use crate::KeyRange;

const HEAD_BYTES: usize = size_of::<u128>();

/// See the module. Ordered as its bytes are.
#[derive(Debug)]
pub(super) struct Key {
    /// The first bytes, as a number; with zeros where there are fewer.
    head: u128,
    pub(super) bytes: Bytes,
}

/// What a map of such keys is asked with.
pub(super) struct Probe<'a> {
    head: u128,
    bytes: &'a [u8],
}

impl Key {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { head: head(&bytes), bytes }
    }
}

impl<'a> Probe<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { head: head(bytes), bytes }
    }

    /// Where a range begins and ends, which is not empty: maps panic at bounds that cross.
    pub(super) fn bounds(range: &'a KeyRange) -> (Bound<Self>, Bound<Self>) {
        let end = range.end.as_ref();
        let end = end.map_or(Bound::Unbounded, |end| Bound::Excluded(Self::new(end)));
        (Bound::Included(Self::new(&range.start)), end)
    }
}

fn head(bytes: &[u8]) -> u128 {
    if let Some(first) = bytes.first_chunk() {
        return u128::from_be_bytes(*first);
    }
    let mut padded = [0; HEAD_BYTES];
    padded[..bytes.len()].copy_from_slice(bytes);
    u128::from_be_bytes(padded)
}

/// What both have, so that a map of the one can be asked with the other.
pub(super) trait Ordered {
    fn parts(&self) -> (u128, &[u8]);
}

impl Ordered for Key {
    fn parts(&self) -> (u128, &[u8]) {
        (self.head, &self.bytes)
    }
}

impl Ordered for Probe<'_> {
    fn parts(&self) -> (u128, &[u8]) {
        (self.head, self.bytes)
    }
}

/// Heads that differ are as far apart as their keys; equal ones say nothing: a zero may be a byte or none.
fn compare(one: (u128, &[u8]), two: (u128, &[u8])) -> Ordering {
    one.0.cmp(&two.0).then_with(|| one.1.cmp(two.1))
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.parts(), other.parts())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

impl<'a> Borrow<dyn Ordered + 'a> for Key {
    fn borrow(&self) -> &(dyn Ordered + 'a) {
        self
    }
}

impl Ord for dyn Ordered + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.parts(), other.parts())
    }
}

impl PartialOrd for dyn Ordered + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Ordered + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Ordered + '_ {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of keys with zeros at the end, short ones, and long ones that differ behind what is carried.
    #[test]
    fn keys_are_in_the_order_of_their_bytes() {
        let long = |last: &[u8]| [&[7; HEAD_BYTES][..], last].concat();
        let mut keys = vec![vec![], vec![0], vec![0, 0], vec![0, 1], vec![1], vec![255; 40]];
        keys.extend([vec![0; HEAD_BYTES], vec![0; HEAD_BYTES + 1], vec![7; HEAD_BYTES - 1]]);
        keys.extend([long(b""), long(b"\0"), long(b"a"), long(b"b")]);
        for one in &keys {
            for two in &keys {
                let [key, other] = [one, two].map(|key| Key::new(Bytes::from(key.clone())));
                assert_eq!(key.cmp(&other), one.cmp(two), "{one:?} and {two:?}");
                let (probe, key): (&dyn Ordered, &dyn Ordered) = (&Probe::new(one), &other);
                assert_eq!(probe.cmp(key), one.cmp(two), "{one:?} and {two:?}");
            }
        }
    }
}
