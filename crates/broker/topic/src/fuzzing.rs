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
    let names: Vec<TopicName<'_>> =
        texts.iter().filter_map(|text| TopicName::parse(text, &limits).ok()).collect();
    let filters: Vec<TopicFilter<'_>> =
        texts.iter().filter_map(|text| TopicFilter::parse(text, &limits).ok()).collect();
    check_index(&names, &filters);
    check_keys(&names);
    check_scans(&names, &filters);
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
fn check_index(names: &[TopicName<'_>], filters: &[TopicFilter<'_>]) {
    let mut index = FilterIndex::new(7);
    let mut present = BTreeSet::new();
    for filter in filters {
        let (id, is_new) = index.insert(filter.filter());
        assert_eq!(is_new, present.insert(filter.filter()));
        assert_eq!(index.text(id), Some(filter.filter()));
    }
    check_matches(&index, names, &present);
    for filter in filters.iter().step_by(2) {
        let id = index.find(filter.filter());
        assert_eq!(id.is_some(), present.remove(filter.filter()));
        assert!(id.is_none_or(|id| index.remove(id)), "{filter} was there");
    }
    check_matches(&index, names, &present);
}

fn check_matches(index: &FilterIndex, names: &[TopicName<'_>], present: &BTreeSet<&str>) {
    index.check_invariants();
    assert_eq!(index.len(), present.len());
    for name in names {
        let mut found = Vec::new();
        index.matches(*name, &mut found);
        let mut texts: Vec<&str> = found.iter().filter_map(|id| index.text(*id)).collect();
        texts.sort_unstable();
        let expected: Vec<&str> =
            present.iter().copied().filter(|filter| matches(filter, name.as_str())).collect();
        assert_eq!(texts, expected, "filters of {name}");
    }
}

/// Keys are read back, and sort as the levels do.
fn check_keys(names: &[TopicName<'_>]) {
    for name in names {
        let key = TopicKey::encode(*name);
        assert_eq!(TopicKey::decode(key.as_bytes()).as_deref(), Ok(name.as_str()));
        assert!(key < TopicKey::after(key.as_bytes()));
        for other in names {
            let by_level = name.levels().cmp(other.levels());
            assert_eq!(key.cmp(&TopicKey::encode(*other)), by_level, "{name:?} and {other:?}");
        }
    }
}

/// The scan against brute force: it finds what matches, in order, and always gets on.
fn check_scans(names: &[TopicName<'_>], filters: &[TopicFilter<'_>]) {
    let keys: BTreeSet<Vec<u8>> =
        names.iter().map(|name| TopicKey::encode(*name).into_bytes()).collect();
    for filter in filters {
        let expected: Vec<&Vec<u8>> = keys
            .iter()
            .filter(|key| {
                let topic = TopicKey::decode(key).expect("a topic's key");
                let is_match = matches(filter.filter(), &topic);
                let name = TopicName::parse(&topic, &TopicLimits::default()).expect("a name");
                assert_eq!(filter.matches(name), is_match, "{filter} and {topic}");
                is_match
            })
            .collect();
        let scan = FilterScan::new(*filter);
        let (mut found, mut cursor) = (Vec::new(), scan.start().into_bytes());
        while let Some(key) = keys.range(cursor.clone()..).next() {
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
