//! The body of the fuzz target `topic_filter`, so that its corpus is replayed by plain tests.
//!
//! Each line of the input is taken as a filter and as a name. What parses goes into the index and
//! the ordered map, whose answers are compared with looking at every pair.

use std::collections::BTreeSet;

use crate::{
    FilterIndex, FilterScan, Scan, TopicFilter, TopicKey, TopicLimits, TopicName, matches,
};

/// Pairs are looked at, so there are not too many lines.
const LINES_MAX: usize = 48;

const SMALL: TopicLimits = TopicLimits { length_max: 12, levels_max: 4, level_length_max: 5 };

/// Names and filters, one a line.
pub fn lines_any(data: &[u8]) {
    let texts: Vec<&str> = data
        .split(|byte| *byte == b'\n')
        .take(LINES_MAX)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    texts.iter().for_each(|text| check_text(text));
    let limits = TopicLimits::default();
    let names = texts.iter().filter_map(|text| TopicName::parse(text, &limits).ok());
    let filters: Vec<TopicFilter<'_>> =
        texts.iter().filter_map(|text| TopicFilter::parse(text, &limits).ok()).collect();
    let pairs = Pairs::new(names, &filters);
    check_index(&pairs, &filters);
    check_keys(&pairs.names);
    check_scans(&pairs);
}

/// Brute force: each name with each filter, looked at once.
struct Pairs<'a> {
    /// In the order of their levels, each once.
    names: Vec<TopicName<'a>>,
    /// Without their share prefix, in the order of their texts, each once.
    filters: Vec<TopicFilter<'a>>,
    /// By name, then by filter.
    matched: Vec<Vec<bool>>,
}

impl<'a> Pairs<'a> {
    fn new(names: impl Iterator<Item = TopicName<'a>>, filters: &[TopicFilter<'a>]) -> Self {
        let mut names: Vec<TopicName<'a>> = names.collect();
        names.sort_by(|one, other| one.levels().cmp(other.levels()));
        names.dedup_by_key(|name| name.as_str());
        let mut filters = filters.to_vec();
        filters.sort_by_key(|filter| filter.filter());
        filters.dedup_by_key(|filter| filter.filter());
        let look = |name: &TopicName<'a>, filter: &TopicFilter<'a>| {
            let is_match = matches(filter.filter(), name.as_str());
            assert_eq!(filter.matches(*name), is_match, "{filter} and {name}");
            is_match
        };
        let row = |name| filters.iter().map(|filter| look(name, filter)).collect();
        let matched = names.iter().map(row).collect();
        Self { names, filters, matched }
    }
}

/// What a text says of itself as a name and as a filter.
fn check_text(text: &str) {
    let limits = TopicLimits::default();
    let (name, filter) = (TopicName::parse(text, &limits), TopicFilter::parse(text, &limits));
    if let Ok(name) = name {
        assert_eq!(name.as_str(), text);
        assert!(name.levels().eq(text.split('/')), "no level is lost");
        let filter = filter.clone().expect("a name is a filter");
        assert!(!filter.has_wildcard() && filter.share().is_none(), "{text:?} is plain");
        assert!(filter.matches(name) && matches(text, text), "{text:?} matches itself");
    }
    if let Ok(filter) = &filter {
        assert_eq!(filter.as_str(), text);
        let rebuilt = match filter.share() {
            None => filter.filter().to_owned(),
            Some(share) => {
                let prefix = if share.ordered { "$oshare" } else { "$share" };
                format!("{prefix}/{}/{}", share.group, filter.filter())
            }
        };
        assert_eq!(rebuilt, text, "prefix, group and filter are the whole text");
        let is_plain = filter.share().is_none() && !filter.has_wildcard();
        assert_eq!(is_plain, name.is_ok(), "a filter that asks for one topic is a name: {text:?}");
    }
    // Smaller limits only refuse.
    assert!(TopicName::parse(text, &SMALL).is_err() || name.is_ok());
    assert!(TopicFilter::parse(text, &SMALL).is_err() || filter.is_ok());
    if TopicName::parse(text, &SMALL).is_ok() {
        assert!(text.len() <= 12 && text.split('/').count() <= 4);
        assert!(text.split('/').all(|level| level.len() <= 5), "{text:?}");
    }
}

/// The index against brute force, while filters come and go.
fn check_index(pairs: &Pairs<'_>, filters: &[TopicFilter<'_>]) {
    let mut index = FilterIndex::new(7);
    let mut present = BTreeSet::new();
    for filter in filters {
        let (id, is_new) = index.insert(filter.filter());
        assert_eq!(is_new, present.insert(filter.filter()));
        assert_eq!(index.text(id), Some(filter.filter()));
    }
    check_matches(&index, pairs, &present);
    for filter in filters.iter().step_by(2) {
        let id = index.find(filter.filter());
        assert_eq!(id.is_some(), present.remove(filter.filter()));
        assert!(id.is_none_or(|id| index.remove(id)), "{filter} was there");
    }
    check_matches(&index, pairs, &present);
}

fn check_matches(index: &FilterIndex, pairs: &Pairs<'_>, present: &BTreeSet<&str>) {
    index.check_invariants();
    assert_eq!(index.len(), present.len());
    let is_present: Vec<bool> =
        pairs.filters.iter().map(|filter| present.contains(filter.filter())).collect();
    for (name, matched) in pairs.names.iter().zip(&pairs.matched) {
        let mut found = Vec::new();
        index.matches(*name, &mut found);
        let mut texts: Vec<&str> = found.iter().filter_map(|id| index.text(*id)).collect();
        texts.sort_unstable();
        let both = is_present.iter().zip(matched).map(|(present, matched)| *present && *matched);
        let expected = pairs.filters.iter().zip(both).filter(|(_, both)| *both);
        let expected: Vec<&str> = expected.map(|(filter, _)| filter.filter()).collect();
        assert_eq!(texts, expected, "filters of {name}");
    }
}

/// Keys are read back, and sort as the levels do: the order of both is total, so neighbours tell
/// it of all.
fn check_keys(names: &[TopicName<'_>]) {
    let mut last: Option<TopicKey> = None;
    for name in names {
        let key = TopicKey::encode(*name);
        assert_eq!(TopicKey::decode(key.as_bytes()).as_deref(), Ok(name.as_str()));
        assert!(key < TopicKey::after(key.as_bytes()));
        assert!(last.is_none_or(|last| last < key), "{name:?} sorts before its predecessor");
        last = Some(key);
    }
}

/// The scan against brute force: it finds what matches, in order, and always gets on.
fn check_scans(pairs: &Pairs<'_>) {
    let keys: Vec<Vec<u8>> =
        pairs.names.iter().map(|name| TopicKey::encode(*name).into_bytes()).collect();
    for (column, filter) in pairs.filters.iter().enumerate() {
        let expected: Vec<&Vec<u8>> = keys
            .iter()
            .zip(&pairs.matched)
            .filter(|(_, row)| row[column])
            .map(|(key, _)| key)
            .collect();
        let scan = FilterScan::new(*filter);
        let (mut found, mut cursor) = (Vec::new(), scan.start().into_bytes());
        while let Some(key) = keys.get(keys.partition_point(|key| *key < cursor)) {
            match scan.step(key) {
                Scan::Match => {
                    found.push(key);
                    cursor = TopicKey::after(key).into_bytes();
                }
                Scan::SkipTo(bound) => {
                    assert!(bound.as_bytes() > key.as_slice(), "{filter} stays at {key:?}");
                    cursor = bound.into_bytes();
                }
                Scan::Done => break,
            }
        }
        assert_eq!(found, expected, "topics of {filter}");
        let end = scan.end();
        let is_within = |key: &[u8]| end.as_ref().is_none_or(|end| key < end.as_bytes());
        assert!(found.iter().all(|key| is_within(key)), "{filter} ends where it says");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_stored_names_and_filters_agree_with_brute_force() {
        let corpus =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus/topic_filter");
        let entries = std::fs::read_dir(corpus).expect("the corpus is part of the repository");
        let count = entries
            .map(|entry| {
                lines_any(&std::fs::read(entry.expect("readable").path()).expect("readable"));
            })
            .count();
        assert!(count >= 4, "{count} seeds");
    }
}
