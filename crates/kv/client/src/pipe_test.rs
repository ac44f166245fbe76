//! A pipe in front of a store that the test plays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::SystemClock;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command::{Order, parse};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::Reply;
use ratatosk_store::range::{Descriptor, Version};

use crate::pipe::{IDLE_PLACES, WAITING_BYTES_MAX};
use crate::{Busy, Fate, Keyspace as _, Pipe, Ranges, Read};

const GROUP: GroupId = GroupId(1);

/// A store whose entries are answered by the test.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    ranges: Vec<Descriptor>,
    proposed: VecDeque<(GroupId, Vec<u8>, Reply)>,
    is_short: bool,
}

impl Ranges for Fake {
    fn ranges(&self, _keyspace: &str) -> Vec<Descriptor> {
        self.0.lock().ranges.clone()
    }

    fn propose(&self, group: GroupId, data: Vec<u8>, reply: Reply) {
        self.0.lock().proposed.push_back((group, data, reply));
    }

    fn is_short(&self) -> bool {
        self.0.lock().is_short
    }

    fn read(&self, _group: GroupId, _read: &mut Read<'_>) -> Result<(), Error> {
        Ok(())
    }
}

fn commands_of(data: Vec<u8>) -> Vec<Bytes> {
    match parse(&data.into()) {
        Ok((_, Order::Commands(commands))) => commands,
        other => panic!("not what was proposed: {other:?}"),
    }
}

fn descriptor(group: GroupId, boundary: KeyRange, version: u64) -> Descriptor {
    let version = Version { boundary: version, config: 0 };
    Descriptor { boundary, version, ..Descriptor::whole(group, "k".to_owned(), 1) }
}

struct Fixture {
    fake: Fake,
    pipe: Pipe,
    /// Which commands were done, and how.
    told: Arc<Mutex<Vec<(&'static str, Fate)>>>,
}

impl Fixture {
    fn new() -> Self {
        let fake = Fake::default();
        fake.0.lock().ranges = vec![descriptor(GROUP, KeyRange::all(), 1)];
        let pipe = Pipe::new(Box::new(fake.clone()), "k", SystemClock::new());
        Self { fake, pipe, told: Arc::default() }
    }

    fn submit(&self, key: &str, command: &'static str) {
        let told = Arc::clone(&self.told);
        let done = move |fate| told.lock().push((command, fate));
        self.pipe.submit(key.as_bytes(), Bytes::from_static(command.as_bytes()), Box::new(done));
    }

    /// The commands of each entry on its way.
    fn on_their_way(&self) -> Vec<(GroupId, Vec<String>)> {
        let state = self.fake.0.lock();
        let entry = |(group, data, _): &(GroupId, Vec<u8>, Reply)| {
            let commands = commands_of(data.clone());
            let text = |command: &Bytes| String::from_utf8_lossy(command).into_owned();
            (*group, commands.iter().map(text).collect())
        };
        state.proposed.iter().map(entry).collect()
    }

    /// Answers the oldest entry: each command by its own text.
    fn answer(&self) {
        let (_, data, reply) = self.fake.0.lock().proposed.pop_front().expect("one on its way");
        let commands = commands_of(data);
        reply(Ok(commands));
    }

    fn refuse(&self, refusal: Refusal) {
        let (_, _, reply) = self.fake.0.lock().proposed.pop_front().expect("one on its way");
        reply(Err(refusal));
    }

    fn told(&self) -> Vec<(&'static str, Fate)> {
        std::mem::take(&mut *self.told.lock())
    }
}

fn applied(command: &'static str) -> (&'static str, Fate) {
    (command, Fate::Applied(Bytes::from_static(command.as_bytes())))
}

fn entries(expected: &[&[&str]]) -> Vec<(GroupId, Vec<String>)> {
    let entry = |commands: &&[&str]| commands.iter().map(|command| (*command).to_owned()).collect();
    expected.iter().map(|commands| (GROUP, entry(commands))).collect()
}

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

#[test]
fn an_entry_whose_place_another_took_leaves_its_callers_in_doubt_and_the_next_go_on() {
    let fixture = Fixture::new();
    for command in ["a", "b", "c"] {
        fixture.submit("k", command);
    }
    fixture.refuse(Refusal::Lost);
    assert_eq!(fixture.told(), [("a", Fate::Unknown)]);
    fixture.answer();
    fixture.answer();
    assert_eq!(fixture.told(), [applied("b"), applied("c")]);
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

/// SCH-003, DUR-006
#[test]
fn a_store_that_is_short_or_full_is_busy_before_anything_is_submitted() {
    let fixture = Fixture::new();
    assert_eq!(fixture.pipe.check(), Ok(()));
    fixture.fake.0.lock().is_short = true;
    assert_eq!(fixture.pipe.check(), Err(Busy));
    fixture.fake.0.lock().is_short = false;
    let lanes = &fixture.pipe.shared.lanes;
    lanes.lock()[0].waiting_bytes = WAITING_BYTES_MAX + 1;
    assert_eq!(fixture.pipe.check(), Err(Busy));
    lanes.lock()[0].waiting_bytes = 0;
    assert_eq!(fixture.pipe.check(), Ok(()));
}

/// SCH-003
#[test]
fn a_command_that_waits_beyond_the_budget_makes_the_store_busy() {
    let fixture = Fixture::new();
    fixture.submit("k", "a");
    let now = fixture.pipe.shared.clock.now() + Duration::from_mins(1);
    let lane = &mut fixture.pipe.shared.lanes.lock()[0];
    assert!(lane.is_busy(now) && !lane.is_busy(now - Duration::from_secs(58)));
}

/// SCH-005
#[test]
fn an_idle_lane_keeps_no_memory_of_its_burst() {
    let fixture = Fixture::new();
    for _ in 0..10_000 {
        fixture.submit("k", "a");
    }
    let places = || fixture.pipe.shared.lanes.lock()[0].waiting.capacity();
    assert!(places() >= 9_000, "{} places", places());
    while !fixture.fake.0.lock().proposed.is_empty() {
        fixture.answer();
    }
    assert!(places() <= 2 * IDLE_PLACES, "{} places", places());
    assert_eq!(fixture.told().len(), 10_000);
}
