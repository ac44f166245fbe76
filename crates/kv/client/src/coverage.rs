//! Which keys the ranges of this node have, for a service whose memory follows its replicas.
//!
//! The memory has what is stored under keys that are covered, as it was applied, and nothing else. So
//! a range that takes keys over which another one has has nothing to read, and one that gives keys up
//! which another one has takes nothing away: that is how a split and a merge go without anything that is
//! missing for a moment.

use bytes::Bytes;
use ratatosk_engine::KeyRange;

/// See the module. By the numbers of the ranges' coprocessors.
#[derive(Debug, Default)]
pub struct Coverage {
    held: Vec<(u64, KeyRange)>,
}

/// What becomes of the memory when a range has other keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Keys that nobody had: what is stored under them is to be read.
    pub came: Vec<KeyRange>,
    /// Keys that nobody has: what was read of them is to go.
    pub went: Vec<KeyRange>,
}

impl Coverage {
    /// A range has these keys from now on, or none at all.
    pub fn set(&mut self, number: u64, keys: Option<&KeyRange>) -> Change {
        let mut change = Change::default();
        if let Some(keys) = keys {
            change.came = self.without_held(keys);
        }
        let before = self.held.extract_if(.., |(held, _)| *held == number).next();
        self.held.extend(keys.map(|keys| (number, keys.clone())));
        if let Some((_, before)) = before {
            change.went = self.without_held(&before);
        }
        change
    }

    /// What is left of an interval without what is held.
    fn without_held(&self, keys: &KeyRange) -> Vec<KeyRange> {
        let mut left = vec![keys.clone()];
        for (_, held) in &self.held {
            left = left.into_iter().flat_map(|keys| without(&keys, held)).collect();
        }
        left.retain(|keys| !keys.is_empty());
        left
    }
}

/// The parts of an interval before and behind another; either may be empty.
fn without(keys: &KeyRange, other: &KeyRange) -> Vec<KeyRange> {
    if keys.is_empty() || keys.intersection(other).is_empty() {
        return vec![keys.clone()];
    }
    let before = KeyRange { start: keys.start.clone(), end: Some(other.start.clone()) };
    let behind = other.end.as_ref().map(|end| KeyRange {
        start: Bytes::clone(end).max(keys.start.clone()),
        end: keys.end.clone(),
    });
    std::iter::once(before).chain(behind).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = KeyRange> {
        (0..12_u8, prop::option::of(0..12_u8)).prop_map(|(start, end)| KeyRange {
            start: if start == 0 { Bytes::new() } else { Bytes::from(vec![start]) },
            end: end.map(|end| Bytes::from(vec![end])),
        })
    }

    fn has(all: &[KeyRange], key: u8) -> bool {
        all.iter().any(|keys| keys.contains(&[key]))
    }

    proptest! {
        /// DIST-004, RET-006: against a naive set of keys.
        #[test]
        fn what_comes_and_goes_is_what_nobody_else_has(
            steps in prop::collection::vec((0..4_u64, prop::option::weighted(0.7, keys())), 0..24),
        ) {
            let (mut coverage, mut naive) = (Coverage::default(), BTreeMap::new());
            for (number, keys) in steps {
                let held = |naive: &BTreeMap<u64, KeyRange>, key: u8| {
                    naive.values().any(|keys| keys.contains(&[key]))
                };
                let before: Vec<bool> = (0..14).map(|key| held(&naive, key)).collect();
                match &keys {
                    Some(keys) => drop(naive.insert(number, keys.clone())),
                    None => drop(naive.remove(&number)),
                }
                let change = coverage.set(number, keys.as_ref());
                for (key, was_held) in (0..14).zip(before) {
                    let is_held = held(&naive, key);
                    prop_assert_eq!(has(&change.came, key), is_held && !was_held);
                    prop_assert_eq!(has(&change.went, key), was_held && !is_held);
                }
            }
        }
    }
}
