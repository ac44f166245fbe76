//! The oracle of the keyspace: each key is in one range, and no store has a key that is in none of its
//! ranges. KV-013, KV-018, KV-019

use std::collections::BTreeMap;

use ratatosk_engine::KeyRange;
use ratatosk_store::range::{Descriptor, Fate};

use super::register;
use super::store::Store;

/// The ranges as the stores know them, each as whoever knows it best.
pub(super) fn ranges<'a>(stores: impl Iterator<Item = &'a Store>) -> Vec<Descriptor> {
    of(register::KEYSPACE, stores)
}

/// The same of a keyspace.
pub(super) fn of<'a>(keyspace: &str, stores: impl Iterator<Item = &'a Store>) -> Vec<Descriptor> {
    let mut ranges = all(stores);
    ranges.retain(|range| range.keyspace == keyspace);
    ranges
}

/// The same of all keyspaces.
pub(super) fn all<'a>(stores: impl Iterator<Item = &'a Store>) -> Vec<Descriptor> {
    let mut known: BTreeMap<_, Descriptor> = BTreeMap::new();
    for descriptor in stores.flat_map(Store::ranges) {
        let held = known.get(&descriptor.group);
        if held.is_none_or(|held| held.version < descriptor.version) {
            known.insert(descriptor.group, descriptor.clone());
        }
    }
    let is_over =
        |held: &Descriptor| known.values().any(|other| other.fate_of(held) == Some(Fate::Merged));
    let mut ranges: Vec<_> = known.values().filter(|held| !is_over(held)).cloned().collect();
    ranges.sort_by(|one, two| one.boundary.start.cmp(&two.boundary.start));
    ranges
}

/// Whether the ranges follow each other without a gap, from the first key to the last.
pub(super) fn check<'a>(
    stores: impl Iterator<Item = &'a Store>,
) -> Result<Vec<Descriptor>, String> {
    let ranges = ranges(stores);
    let mut next = Some(bytes::Bytes::new());
    for range in &ranges {
        if next.as_ref() != Some(&range.boundary.start) {
            return Err(format!("after {next:?} comes {range:?}"));
        }
        next.clone_from(&range.boundary.end);
    }
    match next {
        None if !ranges.is_empty() => Ok(ranges),
        _ => Err(format!("the ranges end at {next:?}")),
    }
}

/// Whether a store has data of its ranges only, and all of it: what is left of others would come to
/// light in the next range that has these keys.
pub(super) fn check_data(store: &Store) -> Result<(), String> {
    let content = store.content(register::SPACE, &KeyRange::all());
    let is_range = |range: &&Descriptor| range.keyspace == register::KEYSPACE;
    let ranges: Vec<_> = store.ranges().filter(is_range).collect();
    let is_ranges = |key: &[u8]| ranges.iter().any(|range| range.boundary.contains(key));
    match content.iter().find(|(key, _)| !is_ranges(key)) {
        Some((key, _)) => Err(format!("{key:?} is left in a store: {:?}", store.states())),
        None => register::check(content).map_err(|what| format!("{what}: {:?}", store.states())),
    }
}
