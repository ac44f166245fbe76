//! Behaviour of a pipe.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_engine::KeyRange;
use ratatosk_store::command::{Order, parse};
use ratatosk_store::edition::Edition;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Descriptor;

use crate::lane::{BURST_BUDGET, IDLE_PLACES, WAITING_BYTES_MAX};
use crate::pipe::TRIED;
use crate::pipe_fixture::{Fixture, GROUP, applied, descriptor, entries};
use crate::{Busy, Fate, Keyspace as _};

/// SCH-001, SCH-004
#[test]
fn a_lone_command_goes_at_once_and_those_that_wait_go_together() {
    let fixture = Fixture::new();
    for command in ["a", "b", "c", "d", "e"] {
        fixture.submit("k", command);
    }
    assert_eq!(fixture.on_their_way(), entries(&[&["a"], &["b"]]));
    fixture.answer();
    assert_eq!(fixture.on_their_way(), entries(&[&["b"], &["c", "d", "e"]]));
}

/// SCH-002
#[test]
fn each_caller_is_told_its_own_answer_in_order() {
    let fixture = Fixture::new();
    for command in ["a", "b", "c", "d"] {
        fixture.submit("k", command);
    }
    assert_eq!(fixture.told(), []);
    fixture.answer();
    assert_eq!(fixture.told(), [applied("a")]);
    fixture.answer();
    fixture.answer();
    assert_eq!(fixture.told(), [applied("b"), applied("c"), applied("d")]);
}

/// KV-007: nothing of it was carried out, so it goes to whoever leads now, and nothing overtakes it.
#[test]
fn what_nobody_took_is_tried_again_in_its_order() {
    let fixture = Fixture::new();
    for command in ["a", "b", "c"] {
        fixture.submit("k", command);
    }
    fixture.refuse(Refusal::Lost);
    fixture.submit("k", "d");
    assert_eq!(fixture.on_their_way(), entries(&[&["b"]]));
    fixture.refuse(Refusal::NotLeader);
    fixture.pipe.poll();
    assert_eq!(fixture.on_their_way(), [], "it waits until others may lead");
    fixture.clock.go_on(Duration::from_millis(60));
    fixture.pipe.poll();
    assert_eq!(fixture.on_their_way(), entries(&[&["a", "b", "c", "d"]]));
    fixture.answer();
    assert_eq!(fixture.told(), ["a", "b", "c", "d"].map(applied));
}

/// KV-005: who went to a store that is gone is in doubt; the others go on.
#[test]
fn an_entry_without_an_answer_leaves_its_callers_in_doubt_and_the_next_go_on() {
    let fixture = Fixture::new();
    for command in ["a", "b", "c"] {
        fixture.submit("k", command);
    }
    fixture.lose();
    assert_eq!(fixture.told(), [("a", Fate::Unknown)]);
    fixture.lose();
    assert_eq!(fixture.told(), [("b", Fate::Unknown)]);
    fixture.clock.go_on(Duration::from_millis(60));
    fixture.pipe.poll();
    fixture.answer();
    assert_eq!(fixture.told(), [applied("c")]);
}

/// KV-014: a key whose range is not known waits for it, but not for ever.
#[test]
fn a_command_whose_range_is_not_known_waits_for_it() {
    let fixture = Fixture::new();
    let ranges = std::mem::take(&mut fixture.fake.0.lock().ranges);
    fixture.submit("k", "a");
    fixture.refuse(Refusal::NotLeader);
    fixture.clock.go_on(Duration::from_millis(60));
    fixture.pipe.poll();
    fixture.submit("k", "b");
    assert_eq!((fixture.on_their_way(), fixture.told()), (Vec::new(), Vec::new()));
    fixture.clock.go_on(TRIED - Duration::from_secs(1));
    fixture.submit("k", "c");
    fixture.clock.go_on(Duration::from_secs(2));
    fixture.pipe.poll();
    assert_eq!(fixture.told(), [("a", Fate::Refused), ("b", Fate::Refused)]);
    fixture.fake.0.lock().ranges = ranges;
    fixture.clock.go_on(Duration::from_millis(60));
    fixture.pipe.poll();
    fixture.answer();
    assert_eq!(fixture.told(), [applied("c")]);
}

/// KV-002, KV-014
#[test]
fn a_range_that_was_split_gets_its_commands_again_in_their_order() {
    let fixture = Fixture::new();
    let (left, right) = (GROUP, GroupId(2));
    for (key, command) in [("a", "1"), ("x", "2"), ("a", "3"), ("x", "4")] {
        fixture.submit(key, command);
    }
    let middle = Bytes::from_static(b"m");
    let ranges = vec![
        descriptor(left, KeyRange { start: Bytes::new(), end: Some(middle.clone()) }, 2),
        descriptor(right, KeyRange { start: middle, end: None }, 2),
    ];
    fixture.fake.0.lock().ranges.clone_from(&ranges);
    fixture.refuse(Refusal::Version(Box::new(ranges[0].clone())));
    assert_eq!(fixture.on_their_way(), entries(&[&["2"]]), "nothing overtakes what comes back");
    fixture.submit("a", "5");
    fixture.refuse(Refusal::Version(Box::new(ranges[0].clone())));
    let (mut lefts, mut rights) = (Vec::new(), Vec::new());
    while !fixture.fake.0.lock().proposed.is_empty() {
        for (group, commands) in fixture.on_their_way().drain(..1) {
            if group == left { lefts.extend(commands) } else { rights.extend(commands) }
        }
        fixture.answer();
    }
    assert_eq!(lefts, ["1", "3", "5"]);
    assert_eq!(rights, ["2", "4"]);
    assert_eq!(fixture.told().len(), 5);
}

/// KV-014: each range gets its part, and the caller one answer when both are done, the worse one.
#[test]
fn a_command_for_keys_of_two_ranges_is_cut_and_answered_once() {
    let fixture = Fixture::dividing();
    fixture.part(2);
    let fixture = fixture.again();
    for (key, command) in [("a", "axby"), ("z", "z"), ("x", "xa"), ("b", "b")] {
        fixture.submit(key, command);
    }
    let parts = [(GROUP, "ab"), (GroupId(2), "xy"), (GroupId(2), "z"), (GROUP, "a")];
    let parts = parts.map(|(group, command)| (group, vec![command.to_owned()]));
    assert_eq!(fixture.on_their_way(), parts);
    fixture.answer();
    assert_eq!(fixture.told(), [], "a part is still on its way");
    fixture.answer();
    let worse = |answer| Fate::Applied(Bytes::from_static(answer));
    assert_eq!(fixture.told(), [("axby", worse(b"xy"))]);
    while !fixture.on_their_way().is_empty() {
        fixture.answer();
    }
    // Of the range behind `m` the last part was submitted last.
    assert_eq!(fixture.told(), [applied("z"), applied("b"), ("xa", worse(b"x"))]);
}

/// KV-014: what was whole when it was submitted is cut when its range was split meanwhile; a part in doubt
/// leaves the whole in doubt.
#[test]
fn a_command_that_returns_from_a_split_range_is_cut() {
    let fixture = Fixture::dividing();
    fixture.submit("a", "ax");
    assert_eq!(fixture.on_their_way(), entries(&[&["ax"]]));
    fixture.part(2);
    let now = fixture.fake.0.lock().ranges[0].clone();
    fixture.refuse(Refusal::Version(Box::new(now)));
    let parts = [(GROUP, "a"), (GroupId(2), "x")];
    let parts = parts.map(|(group, command)| (group, vec![command.to_owned()]));
    assert_eq!(fixture.on_their_way(), parts);
    fixture.answer();
    fixture.lose();
    assert_eq!(fixture.told(), [("ax", Fate::Unknown)]);
}

/// SCH-003, DUR-006
#[test]
fn a_store_that_is_short_or_full_is_busy_before_anything_is_submitted() {
    let fixture = Fixture::new();
    assert_eq!(fixture.pipe.check(), Ok(()));
    fixture.fake.0.lock().is_short = true;
    assert_eq!(fixture.pipe.check(), Err(Busy));
    fixture.fake.0.lock().is_short = false;
    let lanes = &fixture.pipe.shared.lanes;
    lanes.lock().known[0].waiting_bytes = WAITING_BYTES_MAX + 1;
    assert_eq!(fixture.pipe.check(), Err(Busy));
    lanes.lock().known[0].waiting_bytes = 0;
    assert_eq!(fixture.pipe.check(), Ok(()));
}

/// SCH-003
#[test]
fn a_command_that_waits_beyond_the_budget_makes_the_store_busy() {
    let fixture = Fixture::new();
    fixture.submit("k", "a");
    let now = fixture.pipe.shared.clock.now() + Duration::from_mins(1);
    let lane = &mut fixture.pipe.shared.lanes.lock().known[0];
    let is_busy = |now| lane.is_busy(now, BURST_BUDGET);
    assert!(is_busy(now) && !is_busy(now - Duration::from_secs(58)));
}

/// SCH-005
#[test]
fn an_idle_lane_keeps_no_memory_of_its_burst() {
    let fixture = Fixture::new();
    for _ in 0..10_000 {
        fixture.submit("k", "a");
    }
    let places = || fixture.pipe.shared.lanes.lock().known[0].waiting.capacity();
    assert!(places() >= 9_000, "{} places", places());
    while !fixture.fake.0.lock().proposed.is_empty() {
        fixture.answer();
    }
    assert!(places() <= 2 * IDLE_PLACES, "{} places", places());
    assert_eq!(fixture.told().len(), 10_000);
}

/// A range may be raised between the question and the command; an entry is of one edition, and in order.
#[test]
fn a_service_learns_the_edition_and_its_commands_carry_theirs() {
    let fixture = Fixture::new();
    assert_eq!(fixture.pipe.edition(b"a"), Edition::FIRST);
    let two = Edition(2);
    let raised = Descriptor { edition: two, ..descriptor(GROUP, KeyRange::all(), 2) };
    fixture.fake.0.lock().ranges = vec![raised.clone()];
    fixture.submit("a", "1");
    fixture.refuse(Refusal::Version(Box::new(raised)));
    assert_eq!(fixture.pipe.edition(b"a"), two);
    for command in ["2", "3"] {
        let told = Arc::clone(&fixture.told);
        let done = Box::new(move |fate| told.lock().push((command, fate)));
        fixture.pipe.submit_in(two, b"a", Bytes::from_static(command.as_bytes()), done);
    }
    fixture.submit("a", "4");
    let edition_of = || {
        let (_, data, _) = &fixture.fake.0.lock().proposed[0];
        match parse(&data.clone().into()) {
            Ok((_, Order::Commands { edition, .. })) => edition,
            other => panic!("not what was proposed: {other:?}"),
        }
    };
    let mut editions = Vec::new();
    while !fixture.on_their_way().is_empty() {
        editions.push((fixture.on_their_way()[0].1.clone(), edition_of()));
        fixture.answer();
    }
    let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let first = Edition::FIRST;
    let expected = [
        (names(&["1"]), first),
        (names(&["2"]), two),
        (names(&["3"]), two),
        (names(&["4"]), first),
    ];
    assert_eq!(editions, expected);
}
