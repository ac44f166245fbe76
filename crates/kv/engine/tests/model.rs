//! The naive model that everything here is compared with, and what is done to both.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proptest::prelude::*;
use ratatosk_engine::{Batch, KeyRange, SpaceId, View};

pub(crate) const SPACES: u8 = 2;

/// A map a space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    spaces: [BTreeMap<Vec<u8>, Vec<u8>>; SPACES as usize],
}

/// One change of a few short keys, so that they meet often.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Put(u8, Vec<u8>, u8),
    Remove(u8, Vec<u8>),
}

pub(crate) fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0), Just(0xFF)], 1..4)
}

pub(crate) fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let space = 0..SPACES;
    let put =
        (space.clone(), key(), any::<u8>()).prop_map(|(at, key, value)| Edit::Put(at, key, value));
    let remove = (space, key()).prop_map(|(at, key)| Edit::Remove(at, key));
    prop::collection::vec(prop_oneof![3 => put, 2 => remove], 0..12)
}

pub(crate) fn range() -> impl Strategy<Value = KeyRange> {
    (key(), prop::option::of(key()))
        .prop_map(|(start, end)| KeyRange { start: start.into(), end: end.map(Bytes::from) })
}

impl Model {
    /// Makes the edits; answers the batch that says the same. Keys that are not there are inserted
    /// as new ones.
    pub(crate) fn edit(&mut self, edits: &[Edit]) -> Batch {
        let mut batch = Batch::new();
        for edit in edits {
            match edit {
                Edit::Put(space, key, value) => {
                    let value = vec![*value; 3];
                    let id = SpaceId(*space);
                    let before = self.spaces[id.index()].insert(key.clone(), value.clone());
                    match before {
                        Some(_) => batch.put(id, key.clone(), value),
                        None => batch.insert(id, key.clone(), value),
                    }
                }
                Edit::Remove(space, key) => {
                    self.spaces[SpaceId(*space).index()].remove(key);
                    batch.remove(SpaceId(*space), key.clone());
                }
            }
        }
        batch
    }

    pub(crate) fn scan(&self, space: SpaceId, range: &KeyRange) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = self.spaces[space.index()].iter().filter(|(key, _)| range.contains(key));
        all.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// What a view shows of a range, at most so many keys of it.
pub(crate) fn scanned(
    view: &impl View,
    space: SpaceId,
    range: &KeyRange,
    count: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut seen, mut has_ended) = (Vec::new(), false);
    let mut visit = |key: &[u8], value: &Bytes| {
        assert!(!has_ended, "it goes on after the end");
        if seen.len() == count {
            has_ended = true;
            return ControlFlow::Break(());
        }
        seen.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    view.scan(space, range, &mut visit).expect("scans");
    seen
}

/// The view is the model: whole, in a range, cut short, and key by key.
pub(crate) fn assert_same(view: &impl View, model: &Model, range: &KeyRange, keys: &[Vec<u8>]) {
    for space in (0..SPACES).map(SpaceId) {
        let all = KeyRange::all();
        assert_eq!(scanned(view, space, &all, usize::MAX), model.scan(space, &all));
        let part = model.scan(space, range);
        assert_eq!(scanned(view, space, range, usize::MAX), part, "{range:?}");
        assert_eq!(scanned(view, space, range, 2), part[..part.len().min(2)], "{range:?}");
        for key in keys {
            let expected = model.spaces[space.index()].get(key);
            let found = view.get(space, key).expect("reads");
            assert_eq!(found.as_deref(), expected.map(Vec::as_slice), "{key:?}");
        }
    }
}
