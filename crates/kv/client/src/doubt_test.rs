//! Behaviour of a pipe whose commands may be carried out twice, in front of a store that does not say what became
//! of them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_engine::KeyRange;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;

use crate::lane::{BURST_BUDGET, FAILOVER_BUDGET, WAITING_BYTES_MAX};
use crate::pipe::TRIED;
use crate::pipe_fixture::{Fixture, GROUP, applied, descriptor, entries};
use crate::{Busy, Fate, Keyspace as _, Outcome};

fn repeated(fixture: &Fixture) -> u64 {
    fixture.pipe.repeated().load(Ordering::Relaxed)
}

/// KV-005
#[test]
fn what_is_in_doubt_goes_again_with_all_that_is_behind_it() {
    let fixture = Fixture::repeating();
    for command in ["a", "b", "c"] {
        fixture.submit("k", command);
    }
    fixture.lose();
    assert_eq!(fixture.on_their_way(), entries(&[&["b"]]), "nothing overtakes what comes back");
    fixture.lose();
    assert_eq!((fixture.told(), repeated(&fixture)), (Vec::new(), 0));
    fixture.try_again();
    assert_eq!(fixture.on_their_way(), entries(&[&["a", "b", "c"]]));
    fixture.answer();
    assert_eq!(fixture.told(), ["a", "b", "c"].map(applied));
    assert_eq!(repeated(&fixture), 2);
}

/// KV-005: or the older one would take its place after it was acknowledged.
#[test]
fn what_was_carried_out_behind_something_in_doubt_is_not_acknowledged_but_goes_again() {
    let back: [fn(&Fixture); 2] = [Fixture::lose, |fixture| fixture.refuse(Refusal::NotLeader)];
    for comes_back in back {
        let fixture = Fixture::repeating();
        for command in ["a", "b", "c"] {
            fixture.submit("k", command);
        }
        comes_back(&fixture);
        fixture.answer();
        assert_eq!(fixture.told(), []);
        fixture.try_again();
        assert_eq!(fixture.on_their_way(), entries(&[&["a", "b", "c"]]));
        fixture.answer();
        assert_eq!(fixture.told(), ["a", "b", "c"].map(applied));
    }
}

/// SCH-002, KV-005: whoever is answered early waits for those before him.
#[test]
fn an_answer_that_overtakes_another_is_not_told_before_that() {
    let fixture = Fixture::repeating();
    for command in ["a", "b", "c"] {
        fixture.submit("k", command);
    }
    fixture.answer_at(1);
    assert_eq!((fixture.told(), fixture.on_their_way()), (Vec::new(), entries(&[&["a"]])));
    fixture.answer();
    assert_eq!(fixture.told(), ["a", "b"].map(applied));
    fixture.submit("k", "d");
    assert_eq!(fixture.on_their_way(), entries(&[&["c"], &["d"]]));
    fixture.answer_at(1);
    fixture.lose();
    assert_eq!(fixture.told(), []);
    fixture.try_again();
    assert_eq!(fixture.on_their_way(), entries(&[&["c", "d"]]));
}

/// SCH-003, RET-006: while nobody leads a range it takes more, for as long as a leader may be missing; then there is
/// back-pressure, and an end of what waits.
#[test]
fn what_waits_for_a_leader_makes_the_store_busy_late_and_is_given_up_in_the_end() {
    let fixture = Fixture::repeating();
    fixture.submit("k", "a");
    fixture.lose();
    assert_eq!(fixture.pipe.check(), Ok(()));
    fixture.clock.go_on(FAILOVER_BUDGET);
    fixture.pipe.poll();
    assert_eq!(fixture.on_their_way(), entries(&[&["a"]]), "it is tried again");
    assert_eq!(fixture.pipe.check(), Ok(()), "and its range has not taken it");
    fixture.clock.go_on(Duration::from_millis(1));
    assert_eq!(fixture.pipe.check(), Err(Busy), "it would take as long for others");
    fixture.submit("k", "b");
    fixture.refuse(Refusal::NotLeader);
    fixture.refuse(Refusal::NotLeader);
    fixture.clock.go_on(TRIED - FAILOVER_BUDGET);
    fixture.pipe.poll();
    assert_eq!(fixture.told(), [("a", Fate::Unknown)]);
    fixture.refuse(Refusal::NotLeader);
    fixture.clock.go_on(FAILOVER_BUDGET + Duration::from_millis(1));
    fixture.pipe.poll();
    assert_eq!(fixture.told(), [("b", Fate::Refused)], "nobody ever took it");
    assert_eq!((fixture.on_their_way(), fixture.pipe.check()), (Vec::new(), Ok(())));
}

/// SCH-003: a leader that takes commands and does not carry them out is slow.
#[test]
fn what_waits_behind_a_leader_makes_the_store_busy_soon() {
    let fixture = Fixture::repeating();
    fixture.submit("k", "a");
    fixture.refuse(Refusal::NotLeader);
    fixture.try_again();
    fixture.answer();
    fixture.submit("k", "b");
    fixture.clock.go_on(BURST_BUDGET);
    assert_eq!(fixture.pipe.check(), Ok(()));
    fixture.clock.go_on(Duration::from_millis(1));
    assert_eq!(fixture.pipe.check(), Err(Busy));
    fixture.answer();
    assert_eq!(fixture.pipe.check(), Ok(()));
}

/// SCH-003: also of what belongs to no range that is known.
#[test]
fn what_waits_for_a_range_is_bounded_in_bytes() {
    let fixture = Fixture::repeating();
    fixture.fake.0.lock().ranges.clear();
    fixture.submit("k", "a");
    fixture.lose();
    fixture.try_again();
    assert_eq!(fixture.pipe.check(), Ok(()), "one waits for a range");
    let large = Bytes::from(vec![b'a'; WAITING_BYTES_MAX]);
    fixture.pipe.submit(b"k", large, Box::new(|_| {}));
    assert_eq!(fixture.pipe.check(), Err(Busy));
    fixture.fake.0.lock().ranges = vec![descriptor(GROUP, KeyRange::all(), 1)];
    fixture.try_again();
    fixture.answer();
    assert_eq!(fixture.pipe.check(), Ok(()));
}

/// KV-014, KV-015: a part of a command that is in doubt goes again, and the whole is answered once.
#[test]
fn a_part_in_doubt_goes_again_alone() {
    let fixture = Fixture::repeating();
    fixture.submit("a", "ax");
    fixture.part(2);
    let now = fixture.fake.0.lock().ranges[0].clone();
    fixture.refuse(Refusal::Version(Box::new(now)));
    fixture.answer();
    fixture.lose();
    assert_eq!(fixture.told(), []);
    fixture.try_again();
    assert_eq!(fixture.on_their_way(), [(GroupId(2), vec!["x".to_owned()])]);
    fixture.answer();
    assert_eq!(fixture.told(), [("ax", Fate::Applied(Bytes::from_static(b"x")))]);
}

/// KV-015, KV-002: what is on its way to a range goes before what is submitted for the range that took that in.
#[test]
fn nothing_overtakes_what_is_on_its_way_to_a_range_that_was_taken_in() {
    let fixture = Fixture::repeating();
    fixture.part(2);
    let now = fixture.fake.0.lock().ranges[0].clone();
    fixture.submit("a", "a");
    fixture.refuse(Refusal::Version(Box::new(now)));
    fixture.answer();
    fixture.submit("x", "x");
    fixture.submit("b", "b");
    // The left one takes the right one in, and says so first.
    fixture.fake.0.lock().ranges = vec![descriptor(GROUP, KeyRange::all(), 3)];
    let whole = fixture.fake.0.lock().ranges[0].clone();
    let (_, _, answer) = fixture.fake.0.lock().proposed.remove(1).expect("that of `b`");
    answer(Outcome::Refused(Refusal::Version(Box::new(whole))));
    fixture.submit("x", "xx");
    let of_x = |(group, commands): &(GroupId, Vec<String>)| {
        assert_eq!(commands == &["b"], *group == GROUP, "{commands:?}");
    };
    fixture.on_their_way().iter().for_each(of_x);
    while let Some((group, _)) = fixture.on_their_way().first() {
        match *group == GROUP {
            true => fixture.answer(),
            false => fixture.lose(),
        }
    }
    fixture.try_again();
    assert_eq!(fixture.on_their_way(), entries(&[&["x", "xx"]]));
}
