//! The index against the naive matcher, its bounds on cost, and the memory it gives back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{TopicLimits, matches};

fn name(text: &str) -> TopicName<'_> {
    TopicName::parse(text, &TopicLimits::PROTOCOL).unwrap()
}

fn index_of(filters: &[&str]) -> FilterIndex {
    let mut index = FilterIndex::new(1);
    for filter in filters {
        assert!(index.insert(filter).1, "{filter} is new");
        index.check_invariants();
    }
    index
}

/// The texts that match, sorted; a filter found twice is listed twice.
fn found(index: &FilterIndex, topic: &str) -> Vec<String> {
    let mut ids = Vec::new();
    index.matches(name(topic), &mut ids);
    let mut texts: Vec<String> =
        ids.into_iter().map(|id| index.text(id).unwrap().to_owned()).collect();
    texts.sort();
    texts
}

fn check(filters: &[&str], topic: &str, expected: &[&str]) {
    assert_eq!(found(&index_of(filters), topic), expected, "{filters:?} and {topic:?}");
}

/// MQTT-070: exact filters, `+` and `#`, alone and beside each other.
#[test]
fn filters_of_all_kinds_are_found_together() {
    let filters = ["a/b/c", "a/+/c", "a/#", "#", "+/+/+", "a/b/c/#", "a/b", "a/b/+/d", "/+"];
    check(&filters, "a/b/c", &["#", "+/+/+", "a/#", "a/+/c", "a/b/c", "a/b/c/#"]);
    check(&filters, "a", &["#", "a/#"]);
    check(&filters, "a/b", &["#", "a/#", "a/b"]);
    check(&filters, "/x", &["#", "/+"]);
    check(&filters, "a/b/c/d", &["#", "a/#", "a/b/+/d", "a/b/c/#"]);
    check(&["+", "+/#", "a/+/#"], "a", &["+", "+/#"]);
    check(&["+", "+/#", "a/+/#", "+/+"], "a/", &["+/#", "+/+", "a/+/#"]);
}

/// MQTT-071: filters with a leading wildcard do not find `$` topics [MQTT-4.7.2-1].
#[test]
fn leading_wildcards_are_not_found_for_reserved_topics() {
    let filters = ["#", "+", "+/#", "+/a", "$SYS/#", "$SYS/+", "$SYS/a", "$SYS/+/b/#"];
    check(&filters, "$SYS/a", &["$SYS/#", "$SYS/+", "$SYS/a"]);
    check(&filters, "$SYS", &["$SYS/#"]);
    check(&filters, "$SYS/a/b", &["$SYS/#", "$SYS/+/b/#"]);
    check(&filters, "$", &[]);
    check(&["#"], "$x", &[]);
    check(&["a/+", "a/#"], "a/$x", &["a/#", "a/+"]);
}

#[test]
fn numbers_are_stable_and_given_again_after_removal() {
    let mut index = FilterIndex::new(7);
    let (first, is_new) = index.insert("a/+");
    let (second, _) = index.insert("a/b");
    assert!(is_new);
    assert_eq!((first.index(), second.index()), (0, 1));
    assert_eq!(index.insert("a/+"), (first, false));
    assert_eq!((index.find("a/b"), index.find("a/c")), (Some(second), None));
    assert!(index.remove(first));
    assert!(!index.remove(first));
    assert!(!index.remove(FilterId(u32::MAX)));
    assert_eq!((index.text(first), index.find("a/+"), index.len()), (None, None, 1));
    assert_eq!(index.insert("c/#"), (first, true));
    let all: Vec<_> = index.iter().collect();
    assert_eq!(all, [(first, "c/#"), (second, "a/b")]);
}

#[test]
fn malformed_filters_are_kept_but_match_nothing() {
    let mut index = index_of(&["a+b", "#/a", "", "a/##", "x/+y/#"]);
    for topic in ["a", "a/b", "axb", "/", "x/y", "x/zy/a"] {
        assert!(found(&index, topic).is_empty(), "{topic}");
    }
    let id = index.find("#/a").unwrap();
    assert!(index.remove(id));
    index.check_invariants();
}

/// A leaf is unfolded by the levels that it shares with the newcomer, and works in both shapes.
#[test]
fn shared_levels_unfold_and_vanish_again() {
    let mut index = index_of(&["d/1/+/t/#"]);
    assert_eq!(index.node_count(), 1);
    let (second, _) = index.insert("d/1/+/u/#");
    index.check_invariants();
    assert_eq!(index.node_count(), 4, "root, d, 1 and +");
    assert_eq!(found(&index, "d/1/x/t"), ["d/1/+/t/#"]);
    assert_eq!(found(&index, "d/1/x/u/v"), ["d/1/+/u/#"]);
    index.remove(second);
    index.check_invariants();
    assert_eq!(found(&index, "d/1/x/t/y"), ["d/1/+/t/#"]);
    assert!(found(&index, "d/1/x/u/v").is_empty());
    let first = index.find("d/1/+/t/#").unwrap();
    index.remove(first);
    index.check_invariants();
    assert_eq!((index.node_count(), index.len()), (1, 0));
}

/// No recursion, no quadratic cost: 30,000 levels are walked, unfolded and pruned in order.
#[test]
fn topics_and_filters_of_thirty_thousand_levels_are_handled() {
    const LEVELS: usize = 30_000;
    let topic = vec!["a"; LEVELS].join("/");
    let plus = vec!["+"; LEVELS].join("/");
    let hash = format!("{topic}/#");
    let last = format!("{}/+", &topic[..topic.len() - 2]);
    let mut index = FilterIndex::new(3);
    for filter in [&topic, &plus, &hash, &last] {
        index.insert(filter);
    }
    index.check_invariants();
    let mut expected = vec![topic.clone(), plus.clone(), hash.clone(), last.clone()];
    expected.sort();
    assert_eq!(found(&index, &topic), expected);
    assert!(found(&index, &topic[2..]).is_empty());
    let visited = index.matches_each(name(&topic), |_| {});
    assert!(visited <= LEVELS + 1, "{visited} nodes visited for one branch of {LEVELS}");
    for filter in [&last, &plus, &topic, &hash] {
        let id = index.find(filter).unwrap();
        assert!(index.remove(id));
    }
    index.check_invariants();
    assert_eq!(index.node_count(), 1);
}

/// DIST-003: 2^12 branches of `a` and `+` are each walked once, however many lead to one topic.
#[test]
fn every_node_is_visited_at_most_once() {
    const LEVELS: u32 = 12;
    let mut index = FilterIndex::new(5);
    for pattern in 0..1_u32 << LEVELS {
        let levels: Vec<&str> =
            (0..LEVELS).map(|bit| if pattern >> bit & 1 == 1 { "+" } else { "a" }).collect();
        index.insert(&levels.join("/"));
    }
    let topic = vec!["a"; LEVELS as usize].join("/");
    let mut ids = Vec::new();
    let visited = index.matches_each(name(&topic), |id| ids.push(id));
    assert!(visited <= index.node_count(), "{visited} of {}", index.node_count());
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (1 << LEVELS, 1 << LEVELS));
    let deep = format!("{topic}/a");
    assert!(index.matches_each(name(&deep), |_| unreachable!("no filter is as long")) > 0);
}

/// Filters of all shapes come and go; what is left is what an index of the rest would need.
#[test]
fn churn_gives_memory_back() {
    let mut index = FilterIndex::new(11);
    let empty = index.memory();
    let filter = |round: u32, number: u32| match number % 4 {
        0 => format!("round{round}/site{number}/+/temperature"),
        1 => format!("round{round}/site{number}/device"),
        2 => format!("round{round}/site{}/+/pressure/#", number - 2),
        _ => format!("round{round}/+/x{number}/#"),
    };
    let mut full = 0;
    for round in 0..4 {
        for number in 0..20_000 {
            index.insert(&filter(round, number));
        }
        if round == 0 {
            full = index.memory();
        }
        // The new round is there before the old one goes: the indexes overlap.
        if round > 0 {
            for number in 0..20_000 {
                let id = index.find(&filter(round - 1, number)).unwrap();
                assert!(index.remove(id));
            }
        }
        assert!(index.memory() < full * 3, "round {round}: {} of {full}", index.memory());
    }
    index.check_invariants();
    assert_eq!(index.len(), 20_000);
    for number in (0..20_000).filter(|number| number % 50 != 0) {
        let id = index.find(&filter(3, number)).unwrap();
        assert!(index.remove(id));
    }
    index.check_invariants();
    let ids: Vec<FilterId> = index.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 400);
    for id in ids {
        assert!(index.remove(id));
    }
    index.check_invariants();
    assert!(index.memory() <= empty + 128, "{} of {empty} when new", index.memory());
    assert_eq!((index.len(), index.node_count()), (0, 1));
}

/// 100,000 filters of one wildcard pattern need at most 100 bytes each, text included.
#[test]
fn filters_are_stored_lean() {
    let mut index = FilterIndex::new(13);
    for number in 0..100_000 {
        index.insert(&format!("d/{number}/+/t/#"));
    }
    let each = index.memory() / index.len();
    assert!(each <= 100, "{each} bytes a filter");
}

#[derive(Clone, Debug)]
enum Action {
    Insert(String),
    Remove(prop::sample::Index),
    Match(String),
}

fn path(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), 1..6)
        .prop_map(|parts| parts.join("/"))
        .prop_filter("topics are not empty", |text| !text.is_empty())
}

fn any_filter() -> impl Strategy<Value = String> {
    let plain = path(&["a", "b", "ab", "", "+", "+", "$x", "ü"]);
    (plain, 0..4_u8).prop_map(|(text, end)| match end {
        0 => text + "/#",
        1 if text.len() == 1 => "#".to_owned(),
        _ => text,
    })
}

fn any_topic() -> impl Strategy<Value = String> {
    path(&["a", "b", "ab", "", "c", "$x", "ü"])
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => any_filter().prop_map(Action::Insert),
        2 => any::<prop::sample::Index>().prop_map(Action::Remove),
        4 => any_topic().prop_map(Action::Match),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// DIST-003, MQTT-070, MQTT-071: after any changes the index finds what the naive matcher finds.
    #[test]
    fn index_agrees_with_brute_force(seed: u64, actions in prop::collection::vec(action(), 1..120)) {
        let mut index = FilterIndex::new(seed);
        let mut model: BTreeMap<FilterId, String> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Insert(filter) => {
                    let known = model.values().any(|text| *text == filter);
                    let (id, is_new) = index.insert(&filter);
                    prop_assert_eq!(is_new, !known);
                    let previous = model.insert(id, filter.clone());
                    prop_assert_eq!(previous, known.then_some(filter));
                }
                Action::Remove(which) if !model.is_empty() => {
                    let id = *model.keys().nth(which.index(model.len())).unwrap();
                    model.remove(&id);
                    prop_assert!(index.remove(id));
                    index.check_invariants();
                }
                Action::Remove(_) => prop_assert!(index.is_empty()),
                Action::Match(topic) => {
                    let mut expected: Vec<String> =
                        model.values().filter(|text| matches(text, &topic)).cloned().collect();
                    expected.sort();
                    prop_assert_eq!(found(&index, &topic), expected);
                }
            }
            prop_assert_eq!(index.len(), model.len());
        }
        index.check_invariants();
        for id in model.into_keys() {
            index.remove(id);
        }
        index.check_invariants();
        prop_assert_eq!(index.node_count(), 1);
    }
}
