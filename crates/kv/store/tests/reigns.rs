//! What coprocessors are told of the reigns of their replica, on a store that stands alone.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command::{self, Commands};
use ratatosk_store::coprocessor::{Coprocessor, Keyspaces, Position, Reader, Reign, Writer};
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Input;
use ratatosk_store::range::{Descriptor, Version};

use crate::fixture::{Counter, GROUP, Small};

/// What coprocessors were told, of all ranges: the group, and the boundary of a reign that begins.
type Notes = Arc<Mutex<Vec<(u64, Option<KeyRange>)>>>;

/// Notes its reigns, and is parted at single letters only.
struct Watched {
    counter: Counter,
    boundary: KeyRange,
    now: Option<Reign>,
    notes: Notes,
}

impl Coprocessor for Watched {
    fn reset(&mut self, boundary: &KeyRange, reader: &dyn Reader) -> Result<(), Error> {
        assert_eq!(self.now, None, "the reign over the keys that were is over");
        self.boundary = boundary.clone();
        self.counter.reset(boundary, reader)
    }

    fn apply(
        &mut self,
        position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        self.counter.apply(position, command, writer)
    }

    fn query(&self, question: &Bytes, reader: &dyn Reader) -> Result<Bytes, Error> {
        self.counter.query(question, reader)
    }

    fn lead(&mut self, reign: Option<&Reign>) {
        let before = std::mem::replace(&mut self.now, reign.cloned());
        assert!(before.is_none() || reign.is_none(), "one is over before the next begins");
        let told = reign.or(before.as_ref()).expect("what is over has begun");
        assert!(reign.is_none() || told.range.boundary == self.boundary);
        let begun = reign.map(|reign| reign.range.boundary.clone());
        self.notes.lock().push((told.range.group.0, begun));
    }

    fn parting(&self, boundary: &KeyRange, key: &Bytes) -> Option<Bytes> {
        Some(key.slice(..1)).filter(|key| boundary.contains(key))
    }
}

fn small() -> (Small, Notes) {
    let notes = Notes::default();
    let its = Arc::clone(&notes);
    let factory = move || -> Box<dyn Coprocessor> {
        let (counter, boundary) = (Counter::default(), KeyRange::all());
        Box::new(Watched { counter, boundary, now: None, notes: Arc::clone(&its) })
    };
    (Small::with(&Keyspaces::new(vec![("counter".to_owned(), Box::new(factory))])), notes)
}

fn take(notes: &Notes) -> Vec<(u64, Option<KeyRange>)> {
    std::mem::take(&mut notes.lock())
}

fn keys(start: &'static str, end: Option<&'static str>) -> Option<KeyRange> {
    let end = end.map(|end| Bytes::from_static(end.as_bytes()));
    Some(KeyRange { start: Bytes::from_static(start.as_bytes()), end })
}

fn of(small: &Small, group: GroupId) -> Descriptor {
    small.ranges().into_iter().find(|held| held.group == group).expect("it is here")
}

/// A store whose range is parted at "m".
fn parted() -> (Small, Notes, GroupId) {
    let (mut small, notes) = small();
    let done = small.propose(command::split(Version::default(), b"m"), 1);
    assert!(done[0].answers.is_ok(), "{done:?}");
    let right = small.ranges().into_iter().find(|held| held.group != GROUP).expect("two").group;
    (small, notes, right)
}

fn count(small: &mut Small, group: GroupId, key: &str) -> Option<Refusal> {
    let mut commands = Commands::new(of(small, group).version);
    commands.push(key.as_bytes());
    let input = Input::Propose { group, term: None, data: commands.into_data(), ticket: 2 };
    small.run(vec![input]).answered.remove(0).answers.err()
}

/// KV-003, KV-013: each part has a reign of its own, over its keys, once it has a leader.
#[test]
fn a_split_ends_a_reign_and_begins_one_for_each_part() {
    let (mut small, notes, right) = parted();
    let told = take(&notes);
    let (left, right) = (GROUP.0, right.0);
    assert_eq!(told[..2], [(left, keys("", None)), (left, None)]);
    assert_eq!(told[2..], [(left, keys("", Some("m"))), (right, keys("m", None))]);
    assert_eq!(count(&mut small, GROUP, "a"), None);
    assert_eq!(take(&notes), [], "nothing else ends a reign");
}

/// KV-015: nothing is decided for a range that is frozen, nor for one that was taken in.
#[test]
fn a_frozen_range_has_no_reign_until_it_thaws_or_is_taken_in() {
    let (mut small, notes, right) = parted();
    take(&notes);
    let version = of(&small, right).version;
    // Nobody takes in what another version of the left one is to take in.
    let stale = Version { boundary: 0, config: 0 };
    let data = command::freeze(version, GROUP, stale);
    let done = small.run(vec![Input::Propose { group: right, term: None, data, ticket: 3 }]);
    assert!(done.answered[0].answers.is_ok(), "{done:?}");
    small.wait(1);
    assert_eq!(take(&notes), [(right.0, None), (right.0, keys("m", None))], "it thawed");
    let done = small.run(vec![Input::Merge { group: right, expected: None, ticket: 4 }]);
    assert!(done.answered[0].answers.is_ok(), "{done:?}");
    small.wait(60);
    let merged = [(right.0, None), (GROUP.0, None), (GROUP.0, keys("", None))];
    assert_eq!(take(&notes), merged);
    assert_eq!(count(&mut small, GROUP, "z"), None);
}

/// KV-019: where the data goes nobody reigns any more.
#[test]
fn a_replica_that_goes_ends_its_reign() {
    let (small, notes, right) = parted();
    take(&notes);
    drop(small);
    assert_eq!(take(&notes), [(GROUP.0, None), (right.0, None)]);
}

/// KV-013, KV-024: a service may have its ranges parted in some places only.
#[test]
fn a_range_is_parted_where_its_coprocessor_has_it_only() {
    let (mut small, notes) = small();
    let done = small.propose(command::split(Version::default(), b"mm"), 1);
    assert_eq!(done[0].answers, Err(Refusal::Split));
    assert_eq!((small.ranges().len(), take(&notes).len()), (1, 1));
    assert_eq!(count(&mut small, GROUP, "z"), None);
}
