//! How a range is taken in by its left neighbour.
//!
//! The right one freezes: nothing is carried out in it any more, and no member changes. Its leader waits
//! until every replica has that in its log, and has the left one asked to take it in. Whether that comes
//! to pass the left one's log alone decides, by the version that the freezing named: a merge that it
//! carries out at another version changes nothing. So a left range that has another version now and ends
//! where it did has not taken the right one in and never will, and the right one may thaw. KV-015
//!
//! Two rules make it possible to tell from any two ranges which of them lives. Where there is a key in
//! both, the higher boundary version is the later one, for all who give or take keys raise it. And a
//! group keeps its first key for life, so that whoever has it, and is later, has taken the group in.
//! Each edge between two ranges has a number, the version that made it: the same key may part two ranges
//! again after it has ceased to. KV-018

use ratatosk_engine::wire::{self, Malformed, Parser};

use super::{Descriptor, Version};
use crate::log::{GroupId, Truncated};
use crate::membership::{Membership, Role};

/// What is noted of a range that waits to be taken in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The group of the left neighbour.
    pub into: GroupId,
    /// The one version in which that one may take it in.
    pub expected: Version,
    /// The entry that froze it.
    pub at: Truncated,
}

/// The boundary versions that made the ends of a range; 0 for those that were there from the start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// Of its first key.
    pub start: u64,
    /// Of the key behind its last.
    pub end: u64,
}

/// What a range tells of another.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The other was taken in, and is no more.
    Merged,
    /// The other is frozen, and will not be taken in.
    Apart,
}

impl Descriptor {
    /// The range, frozen by entry `at` to be taken in; `None` if that is not possible now.
    #[must_use]
    pub(crate) fn freeze(&self, into: GroupId, expected: Version, at: Truncated) -> Option<Self> {
        let may = !self.boundary.start.is_empty() && self.is_at_rest() && into != self.group;
        let frozen = Some(Frozen { into, expected, at });
        may.then(|| Self { frozen, ..self.raised() })
    }

    /// The range at work again; `None` if it is.
    #[must_use]
    pub(crate) fn thaw(&self) -> Option<Self> {
        self.frozen.map(|_| Self { frozen: None, ..self.raised() })
    }

    /// The same, so that nothing that was meant for its version before is carried out.
    #[must_use]
    pub(crate) fn raised(&self) -> Self {
        let boundary = self.version.boundary + 1;
        Self { version: Version { boundary, ..self.version }, ..self.clone() }
    }

    /// Whether nothing is underway that one has to wait for before it changes its boundary.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.frozen.is_none() && !self.membership.is_joint()
    }

    /// Whether the other is what follows, with the same members and in the same edition: the one that is
    /// behind has to be raised first.
    #[must_use]
    pub fn may_take_in(&self, right: &Self) -> bool {
        self.is_followed_by(right)
            && self.edition == right.edition
            && have_same_members(&self.membership, &right.membership)
    }

    /// Whether the other begins where this one ends, at an edge that both know.
    #[must_use]
    pub(crate) fn is_followed_by(&self, right: &Self) -> bool {
        self.keyspace == right.keyspace
            && self.boundary.end.as_ref() == Some(&right.boundary.start)
            && self.edges.end == right.edges.start
    }

    /// The range with the keys of its right neighbour, which froze for this; `None` if it is another.
    #[must_use]
    pub(crate) fn take_in(&self, right: &Self) -> Option<Self> {
        let froze = right.frozen.filter(|frozen| frozen.into == self.group)?;
        if froze.expected != self.version || !self.is_at_rest() || !self.may_take_in(right) {
            return None;
        }
        let boundary = self.version.boundary.max(right.version.boundary) + 1;
        let mut whole = Self { version: Version { boundary, ..self.version }, ..self.clone() };
        whole.boundary.end.clone_from(&right.boundary.end);
        whole.edges.end = right.edges.end;
        whole.membership = whole.membership.with_past_of(&right.membership);
        Some(whole)
    }

    /// What is known of the other range by this one, which some store has as it was applied.
    #[must_use]
    pub fn fate_of(&self, other: &Self) -> Option<Fate> {
        if self.group == other.group || self.keyspace != other.keyspace {
            return None;
        }
        let is_later = |than: Version| self.version.boundary > than.boundary;
        if self.boundary.contains(&other.boundary.start) {
            return is_later(other.version).then_some(Fate::Merged);
        }
        let frozen = other.frozen?;
        let has_moved_on = match self.group == frozen.into {
            true => {
                let (now, then) = (self.version, frozen.expected);
                now.boundary > then.boundary || now.config > then.config
            }
            // That one was split, or taken in itself.
            false => is_later(frozen.expected),
        };
        (self.is_followed_by(other) && has_moved_on).then_some(Fate::Apart)
    }
}

impl Frozen {
    pub(super) fn encode(held: Option<Self>, into: &mut Vec<u8>) {
        let Some(frozen) = held else { return into.push(0) };
        into.push(1);
        let Self { into: left, expected, at } = frozen;
        for number in [left.0, expected.boundary, expected.config, at.index, at.term] {
            wire::put_u64(into, number);
        }
    }

    pub(super) fn decode(parser: &mut Parser<'_>) -> Result<Option<Self>, Malformed> {
        match parser.take_u8()? {
            0 => Ok(None),
            1 => Ok(Some(Self {
                into: GroupId(parser.take_u64()?),
                expected: Version { boundary: parser.take_u64()?, config: parser.take_u64()? },
                at: Truncated { index: parser.take_u64()?, term: parser.take_u64()? },
            })),
            _ => Err(Malformed),
        }
    }
}

/// Whether the same stores keep both, each as the same.
fn have_same_members(one: &Membership, two: &Membership) -> bool {
    let is_same =
        |store: u64, role: Role| two.of_store(store).is_some_and(|held| held.role == role);
    one.replicas().len() == two.replicas().len()
        && one.replicas().iter().all(|replica| is_same(replica.store, replica.role))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::edition::Edition;

    fn whole() -> Descriptor {
        Descriptor::whole(GroupId(1), "k".to_owned(), 1)
    }

    fn key(key: &'static str) -> Bytes {
        Bytes::from_static(key.as_bytes())
    }

    const AT: Truncated = Truncated { index: 9, term: 2 };

    fn frozen(left: &Descriptor, right: &Descriptor) -> Descriptor {
        right.freeze(left.group, left.version, AT).expect("it has a left neighbour")
    }

    /// KV-015, KV-018
    #[test]
    fn who_has_the_first_key_of_a_range_and_is_later_has_taken_it_in() {
        let (left, right) = whole().split(&key("m"), 5).expect("it parts");
        let frozen = frozen(&left, &right);
        let taken = left.take_in(&frozen).expect("it froze for it");
        assert_eq!((&taken.boundary, taken.edges), (&whole().boundary, whole().edges));
        for of in [&right, &frozen] {
            assert_eq!(taken.fate_of(of), Some(Fate::Merged));
        }
        // The range as it was before the split is older than what came of it.
        assert_eq!((whole().fate_of(&right), whole().fate_of(&frozen)), (None, None));
        // One that has only keys from behind the first of a range that has not heard of the split.
        let (_, last) = right.split(&key("t"), 6).expect("it parts");
        assert_eq!(last.fate_of(&right), None);
    }

    /// KV-015
    #[test]
    fn a_left_range_of_another_version_that_ends_as_before_has_not_taken_the_right_one_in() {
        let (left, right) = whole().split(&key("m"), 5).expect("it parts");
        let frozen = frozen(&left, &right);
        assert_eq!(left.fate_of(&frozen), None, "it may come to it still");
        assert_eq!(left.raised().fate_of(&frozen), Some(Fate::Apart));
        assert_eq!(left.raised().take_in(&frozen), None);
        assert_eq!(left.raised().fate_of(&right), None, "it did not freeze");
        // What is next to it now is another group.
        let (_, middle) = left.split(&key("f"), 6).expect("it parts");
        assert_eq!(middle.fate_of(&frozen), Some(Fate::Apart));
        // It was taken in, and then the two were parted at the same key.
        let taken = left.take_in(&frozen).expect("it froze for it");
        let (again, other) = taken.split(&key("m"), 7).expect("it parts");
        assert_eq!(again.fate_of(&frozen), None);
        assert_eq!(other.fate_of(&frozen), Some(Fate::Merged));
    }

    #[test]
    fn only_neighbours_with_the_same_members_become_one() {
        let (left, right) = whole().split(&key("m"), 5).expect("it parts");
        let elsewhere = Descriptor { membership: Membership::alone(2), ..right.clone() };
        assert!(left.may_take_in(&right) && !left.may_take_in(&elsewhere));
        let newer = right.upgrade(Edition(2)).expect("it is in the first");
        assert!(!left.may_take_in(&newer), "one of them is behind");
        assert_eq!(left.take_in(&self::frozen(&left, &newer)), None);
        assert!(!right.may_take_in(&left));
        assert_eq!(left.take_in(&right), None, "it has to freeze first");
        assert_eq!(left.freeze(right.group, right.version, AT), None, "nothing is before it");
        let frozen = frozen(&left, &right);
        assert_eq!(frozen.freeze(left.group, left.version, AT), None);
        let thawed = frozen.thaw().expect("it was frozen");
        assert!(thawed.is_at_rest() && thawed.version.boundary == frozen.version.boundary + 1);
        assert_eq!(thawed.thaw(), None);
        assert_eq!(Descriptor::decode(frozen.group, &frozen.encode()), Ok(frozen));
    }
}
