//! An interval of keys: from one, inclusive, to another, exclusive, or to the end.

use std::ops::Bound;

use bytes::Bytes;

/// Keys `start ≤ key < end`; without `end` all from `start` on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key that may be in it.
    pub start: Bytes,
    /// The first key behind it.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        // The first key behind them: the prefix with its last byte raised; one of 0xFF carries.
        let kept = prefix.iter().rposition(|byte| *byte != u8::MAX).map(|last| last + 1);
        let end = kept.map(|kept| {
            let mut end = prefix[..kept].to_vec();
            end[kept - 1] += 1;
            Bytes::from(end)
        });
        Self { start: Bytes::copy_from_slice(prefix), end }
    }

    /// Whether it has the key.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The keys that are in both.
    #[must_use]
    pub fn intersection(&self, other: &KeyRange) -> KeyRange {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (Some(one), Some(two)) => Some(one.min(two).clone()),
            (one, two) => one.as_ref().or(two.as_ref()).cloned(),
        };
        KeyRange { start, end }
    }

    /// As bounds of the standard library. Only for one that is not empty: maps panic at bounds that
    /// cross.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = self.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        (Bound::Included(&self.start[..]), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        let check = |prefix: &[u8], end: Option<&[u8]>| {
            let range = KeyRange::prefix(prefix);
            assert_eq!(range.end.as_deref(), end, "{prefix:?}");
            assert!(range.contains(prefix));
        };
        check(b"ab", Some(b"ac"));
        check(b"a\xFF", Some(b"b"));
        check(b"\xFF\xFF", None);
        check(b"", None);
        assert!(!KeyRange::prefix(b"ab").contains(b"ac"));
        assert!(KeyRange::prefix(b"ab").contains(b"ab\xFF\xFF"));
    }

    #[test]
    fn an_intersection_has_what_both_have() {
        let range = |start, end: Option<&'static [u8]>| KeyRange {
            start: Bytes::from_static(start),
            end: end.map(Bytes::from_static),
        };
        let left = range(b"b", Some(b"m"));
        assert_eq!(left.intersection(&KeyRange::all()), left);
        assert_eq!(KeyRange::all().intersection(&left), left);
        assert_eq!(left.intersection(&range(b"f", None)), range(b"f", Some(b"m")));
        assert!(left.intersection(&range(b"x", Some(b"z"))).is_empty());
    }

    #[test]
    fn bounds_that_cross_hold_nothing() {
        let range = |start, end| KeyRange {
            start: Bytes::from_static(start),
            end: Some(Bytes::from_static(end)),
        };
        assert!(range(b"b", b"a").is_empty() && range(b"a", b"a").is_empty());
        assert!(!range(b"a", b"b").is_empty() && !KeyRange::all().is_empty());
    }
}
