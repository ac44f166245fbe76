//! The topic scan against the naive matcher over ordered sets of topics.

use std::collections::BTreeSet;
use std::ops::Bound;

use proptest::prelude::*;

use super::*;
use crate::{TopicLimits, matches};

fn key(topic: &str) -> Vec<u8> {
    TopicKey::encode(TopicName::parse(topic, &TopicLimits::PROTOCOL).unwrap()).into_bytes()
}

fn scan_of(filter: &str) -> FilterScan {
    FilterScan::new(TopicFilter::parse(filter, &TopicLimits::PROTOCOL).unwrap())
}

/// Walks as a cursor does. Returns the topics found and the number of keys looked at.
fn walk(filter: &str, topics: &BTreeSet<Vec<u8>>) -> (Vec<String>, usize) {
    let scan = scan_of(filter);
    let mut found = Vec::new();
    let mut steps = 0;
    let mut lower = Bound::Included(scan.start().into_bytes());
    while let Some(key) = topics.range((lower.clone(), Bound::Unbounded)).next() {
        steps += 1;
        lower = match scan.step(key) {
            Scan::Done => break,
            Scan::SkipTo(bound) => {
                assert!(bound.as_bytes() > &key[..], "{filter}: {key:?} to {bound:?}");
                Bound::Included(bound.into_bytes())
            }
            Scan::Match => {
                found.push(TopicKey::decode(key).unwrap());
                Bound::Included(TopicKey::after(key).into_bytes())
            }
        };
    }
    (found, steps)
}

fn check(filter: &str, topics: &[&str], expected: &[&str]) {
    let keys = topics.iter().map(|topic| key(topic)).collect();
    assert_eq!(walk(filter, &keys).0, expected, "{filter:?}");
}

#[test]
fn keys_decode_to_their_topics() {
    for topic in ["a", "/", "//a/", "a b/ü/🐿", "$SYS/x", "\u{1}/\u{2}"] {
        assert_eq!(TopicKey::decode(&key(topic)).as_deref(), Ok(topic));
    }
    assert_eq!(TopicKey::decode(b""), Err(KeyError::Empty));
    assert_eq!(TopicKey::decode(b"a/b"), Err(KeyError::Slash { at: 1 }));
    assert_eq!(TopicKey::decode(b"a\0\xff"), Err(KeyError::NotUtf8 { valid_up_to: 2 }));
    let mut prefixed = b"tenant:".to_vec();
    TopicKey::encode_into(TopicName::parse("a/b", &TopicLimits::default()).unwrap(), &mut prefixed);
    assert_eq!(prefixed, b"tenant:a\0b");
    let filter = TopicFilter::parse("$share/g/a/+", &TopicLimits::default()).unwrap();
    assert_eq!(TopicKey::encode_filter(filter).as_bytes(), b"a\0+");
}

/// The encoding is stored: it never changes.
#[test]
fn topics_below_a_prefix_are_contiguous() {
    let sorted = ["a", "a/", "a//", "a/\u{1}", "a/b", "a/b/c", "a/b!", "a\u{1}", "a!", "a-", "ab"];
    let keys: Vec<_> = sorted.iter().map(|topic| key(topic)).collect();
    assert!(keys.is_sorted());
    assert_eq!(keys[5], b"a\0b\0c");
}

/// RET-003: wildcards of retained topics obey the rules of matching, `$` and parents included.
#[test]
fn filters_find_their_topics_in_order() {
    let topics = ["$SYS", "$SYS/a", "$x", "%", "/", "/a", "a", "a/", "a/b", "a/b/c", "a/c", "b/b"];
    check("#", &topics, &["/", "/a", "%", "a", "a/", "a/b", "a/b/c", "a/c", "b/b"]);
    check("+", &topics, &["%", "a"]);
    check("+/b", &topics, &["a/b", "b/b"]);
    check("a/#", &topics, &["a", "a/", "a/b", "a/b/c", "a/c"]);
    check("a/+", &topics, &["a/", "a/b", "a/c"]);
    check("a/b", &topics, &["a/b"]);
    check("a/bb", &topics, &[]);
    check("/+", &topics, &["/", "/a"]);
    check("/#", &topics, &["/", "/a"]);
    check("+/#", &topics, &["/", "/a", "%", "a", "a/", "a/b", "a/b/c", "a/c", "b/b"]);
    check("$SYS/#", &topics, &["$SYS", "$SYS/a"]);
    check("$SYS/+", &topics, &["$SYS/a"]);
    check("+/+/c", &topics, &["a/b/c"]);
}

#[test]
fn walks_are_bounded_by_the_literal_levels() {
    let bounds = |filter: &str| {
        let scan = scan_of(filter);
        (scan.start().into_bytes(), scan.end().map(TopicKey::into_bytes))
    };
    assert_eq!(bounds("a/b"), (b"a\0b".to_vec(), Some(b"a\0b\0".to_vec())));
    assert_eq!(bounds("a/b/+"), (b"a\0b\0".to_vec(), Some(b"a\0b\x01".to_vec())));
    assert_eq!(bounds("a/b/#"), (b"a\0b".to_vec(), Some(b"a\0b\x01".to_vec())));
    assert_eq!(bounds("/+"), (b"\0".to_vec(), Some(b"\x01".to_vec())));
    assert_eq!(bounds("/#"), (b"".to_vec(), Some(b"\x01".to_vec())));
    assert_eq!(bounds("+/a"), (b"".to_vec(), None));
    assert_eq!(bounds("#"), (b"".to_vec(), None));
}

/// A million topics that do not match are not visited: here 200,000 stand for them.
#[test]
fn topics_beside_the_filter_are_skipped() {
    let mut topics = BTreeSet::new();
    for device in 0..200 {
        for metric in 0..1_000 {
            topics.insert(key(&format!("site/{device:03}/m/{metric}")));
        }
        topics.insert(key(&format!("site/{device:03}/status")));
    }
    let (found, steps) = walk("site/+/status", &topics);
    assert_eq!(found.len(), 200);
    assert!(steps <= 200 + 2 * 200 + 1, "{steps} steps");
    let (found, steps) = walk("site/007/m/#", &topics);
    assert_eq!((found.len(), steps), (1_000, 1_001));
    let (found, steps) = walk("site/007/m/7", &topics);
    assert_eq!((found.len(), steps), (1, 2));
}

/// Damaged keys neither stop the walk nor send it back.
#[test]
fn bytes_that_are_no_key_are_passed_over() {
    let keys: BTreeSet<Vec<u8>> =
        [&b""[..], b"\0", b"\xff\xff", b"a/b", b"a\0\xff", b"a\0b"].map(<[u8]>::to_vec).into();
    for filter in ["a/b", "+/b", "/#", "a/+/c", "#", "b"] {
        let scan = scan_of(filter);
        for key in &keys {
            if let Scan::SkipTo(bound) = scan.step(key) {
                assert!(bound.as_bytes() > &key[..], "{filter}: {key:?} to {bound:?}");
            }
        }
        assert_ne!(scan.step(b""), Scan::Match, "{filter}");
    }
}

fn path(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), 1..6)
        .prop_map(|parts| parts.join("/"))
        .prop_filter("topics are not empty", |text| !text.is_empty())
}

fn any_filter() -> impl Strategy<Value = String> {
    let plain = path(&["a", "b", "ab", "", "+", "+", "$x", "\u{1}"]);
    (plain, 0..4_u8).prop_map(|(text, end)| match end {
        0 => text + "/#",
        1 if text.len() == 1 => "#".to_owned(),
        _ => text,
    })
}

/// How many choices of values there are for the `+` levels of `filter`, shorter ones included: the
/// prefixes of topics that the filter's levels up to some `+` match, without the rule about `$`.
fn choices(filter: &str, topics: &BTreeSet<String>) -> usize {
    let levels: Vec<&str> = filter.split('/').collect();
    let mut prefixes = BTreeSet::new();
    for topic in topics {
        let values: Vec<&str> = topic.split('/').collect();
        for (index, (level, value)) in levels.iter().zip(&values).enumerate() {
            if *level == "+" {
                prefixes.insert(values[..=index].join("/"));
            } else if level != value {
                break;
            }
        }
    }
    prefixes.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// RET-003: the walk finds what the naive matcher finds, in order, and visits no more than
    /// promised.
    #[test]
    fn scan_agrees_with_brute_force(
        topics in prop::collection::btree_set(path(&["a", "b", "ab", "", "c", "$x", "\u{1}"]), 0..60),
        filter in any_filter(),
    ) {
        let keys: BTreeSet<Vec<u8>> = topics.iter().map(|topic| key(topic)).collect();
        let expected: Vec<String> = keys
            .iter()
            .map(|key| TopicKey::decode(key).unwrap())
            .filter(|topic| matches(&filter, topic))
            .collect();
        let (found, steps) = walk(&filter, &keys);
        let most = expected.len() + 2 * choices(&filter, &topics) + 2;
        prop_assert!(steps <= most, "{} steps, {} allowed", steps, most);
        prop_assert_eq!(found, expected);
    }

    /// RET-003: what each single answer promises holds for all keys, and so do the bounds.
    #[test]
    fn every_step_keeps_its_promise(
        topics in prop::collection::btree_set(path(&["a", "b", "", "c", "$x"]), 1..40),
        filter in any_filter(),
    ) {
        let scan = scan_of(&filter);
        let keys: Vec<(Vec<u8>, bool)> =
            topics.iter().map(|topic| (key(topic), matches(&filter, topic))).collect();
        let (start, end) = (scan.start(), scan.end());
        for (key, is_match) in &keys {
            let is_inside = start.as_bytes() <= &key[..]
                && end.as_ref().is_none_or(|end| &key[..] < end.as_bytes());
            prop_assert!(is_inside || !is_match);
            let skipped_to = match scan.step(key) {
                Scan::Match => {
                    prop_assert!(is_match);
                    continue;
                }
                Scan::SkipTo(bound) => Some(bound),
                Scan::Done => None,
            };
            for (other, is_match) in &keys {
                let is_skipped = other >= key
                    && skipped_to.as_ref().is_none_or(|bound| &other[..] < bound.as_bytes());
                prop_assert!(!(is_skipped && *is_match), "{:?} skips {:?}", key, other);
            }
        }
    }
}
