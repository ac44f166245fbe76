//! Ranges that are taken in by their left neighbours, on a store that stands alone; the simulation has
//! several.

use bytes::Bytes;
use ratatosk_store::command::{self, Commands};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Input;
use ratatosk_store::range::{Descriptor, Version};

use crate::fixture::{GROUP, Small};

/// A store with the keys from "a" and those from "m" apart, some in each.
fn split() -> (Small, GroupId) {
    let mut small = Small::new();
    count(&mut small, GROUP, &["a", "b", "m", "z"]);
    let split = small.propose(command::split(Version::default(), b"m"), 7);
    assert!(split[0].answers.is_ok(), "{split:?}");
    let right = small.ranges().into_iter().find(|held| held.group != GROUP).expect("two");
    let group = right.group;
    count(&mut small, group, &["n"]);
    (small, group)
}

fn of(small: &Small, group: GroupId) -> Option<Descriptor> {
    small.ranges().into_iter().find(|held| held.group == group)
}

/// Has some keys counted in a range.
fn count(small: &mut Small, group: GroupId, keys: &[&str]) -> Option<Refusal> {
    let mut commands = Commands::new(of(small, group).expect("it is here").version);
    keys.iter().for_each(|key| commands.push(key.as_bytes()));
    let input = Input::Propose { group, term: None, data: commands.into_data(), ticket: 1 };
    let answered = small.run(vec![input]).answered;
    answered.into_iter().next().expect("an answer").answers.err()
}

fn freeze(small: &mut Small, group: GroupId, expected: Version) {
    let version = of(small, group).expect("it is here").version;
    let data = command::freeze(version, GROUP, expected);
    let done = small.run(vec![Input::Propose { group, term: None, data, ticket: 2 }]);
    assert!(done.answered[0].answers.is_ok(), "{done:?}");
}

fn keys(small: &Small) -> Vec<String> {
    small.counts().into_iter().map(|(key, _)| key).collect()
}

/// KV-015
#[test]
fn a_range_is_taken_in_by_its_left_neighbour_with_all_that_it_has() {
    let (mut small, right) = split();
    let done = small.run(vec![Input::Merge { group: right, expected: None, ticket: 3 }]);
    assert!(done.answered[0].answers.is_ok(), "{done:?}");
    assert_eq!(count(&mut small, right, &["p"]), Some(Refusal::Merging));
    small.wait(1);
    let whole = small.ranges();
    assert_eq!(whole.len(), 1);
    assert!(whole[0].group == GROUP && whole[0].boundary.contains(&Bytes::from_static(b"z")));
    assert_eq!(keys(&small), ["a", "b", "m", "n", "z"]);
    assert_eq!(small.total(), 5, "what is derived of the data is of all of it");
    assert_eq!(count(&mut small, GROUP, &["p"]), None);
    let small = small.crash();
    assert_eq!(keys(&small), ["a", "b", "m", "n", "p", "z"]);
    assert_eq!(small.ranges().len(), 1, "what was taken in does not come back");
}

/// KV-015: a merge that cannot come is given up, and nothing is lost.
#[test]
fn a_range_whose_neighbour_has_changed_meanwhile_goes_on() {
    let (mut small, right) = split();
    freeze(&mut small, right, Version::default());
    assert_eq!(count(&mut small, right, &["p"]), Some(Refusal::Merging));
    small.wait(1);
    assert_eq!(of(&small, right).map(|held| held.frozen), Some(None));
    assert_eq!(count(&mut small, right, &["p"]), None);
    assert_eq!(small.ranges().len(), 2);
    assert_eq!(keys(&small), ["a", "b", "m", "n", "p", "z"]);
}

/// KV-015: the first range of a keyspace has nobody to its left, and a frozen one waits for what it froze
/// for.
#[test]
fn a_merge_that_makes_no_sense_is_refused() {
    let (mut small, right) = split();
    let refused = |small: &mut Small, group| {
        let done = small.run(vec![Input::Merge { group, expected: None, ticket: 3 }]);
        done.answered.into_iter().next().expect("an answer").answers.err()
    };
    assert_eq!(refused(&mut small, GROUP), Some(Refusal::Merging));
    assert_eq!(refused(&mut small, GroupId(77)), Some(Refusal::NotLeader));
    let expected = of(&small, GROUP).expect("it is here").version;
    freeze(&mut small, right, expected);
    assert_eq!(refused(&mut small, right), Some(Refusal::Merging));
    let split = command::split(of(&small, right).expect("it is here").version, b"p");
    let done = small.run(vec![Input::Propose { group: right, term: None, data: split, ticket: 4 }]);
    assert_eq!(done.answered[0].answers, Err(Refusal::Split));
}

/// KV-015, KV-016: whatever was durable when it went down, afterwards it comes to an end.
#[test]
fn a_merge_comes_to_an_end_after_a_crash_at_any_step() {
    for step in 0..6 {
        let (mut small, right) = split();
        if step >= 1 {
            small.checkpoint();
        }
        let expected = of(&small, GROUP).expect("it is here").version;
        if step >= 2 {
            freeze(&mut small, right, expected);
        }
        if step >= 3 {
            small.checkpoint();
        }
        if step >= 4 {
            small.wait(1);
        }
        if step >= 5 {
            small.checkpoint();
        }
        let mut small = small.crash();
        small.wait(2);
        let ranges = if step >= 2 { 1 } else { 2 };
        assert_eq!(small.ranges().len(), ranges, "step {step}");
        assert_eq!(keys(&small), ["a", "b", "m", "n", "z"], "step {step}");
        let group = if ranges == 1 { GROUP } else { right };
        assert_eq!(count(&mut small, group, &["y"]), None, "step {step}");
    }
}
