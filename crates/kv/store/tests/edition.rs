//! Editions of a range's commands: when they rise, and what a store does that does not support them.

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft::eraftpb::Entry;
use ratatosk_engine::{Error, KeyRange, Overlay};
use ratatosk_store::OpenError;
use ratatosk_store::command::{self, Commands};
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces, Position, Reader, Writer};
use ratatosk_store::edition::{Edition, Editions};
use ratatosk_store::host::{Alone, Done, Host, Refusal};
use ratatosk_store::machine::{Committed, Event};
use ratatosk_store::membership::{NoStep, Target};
use ratatosk_store::node::Node;
use ratatosk_store::open::{self, Trouble};
use ratatosk_store::range::{Descriptor, Version};
use ratatosk_stores::{Stores, until, wait};

use crate::fixture::{GROUP, STORE, Small, asked};

const KEYSPACE: &str = "counter";
const TWO: Edition = Edition(2);

/// Answers with the edition that is active, and stores it.
struct Dated;

impl Coprocessor for Dated {
    fn reset(&mut self, _boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        let edition = Bytes::from(writer.edition().0.to_be_bytes().to_vec());
        writer.put(command.clone(), edition.clone());
        Ok(edition)
    }

    fn query(&self, question: &Bytes, reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(reader.get(question)?.unwrap_or_default())
    }
}

/// A build that supports these.
fn build(oldest: u64, newest: u64) -> Keyspaces {
    let factory: Factory = Box::new(|| Box::new(Dated));
    let editions = Editions::new(Edition(oldest), Edition(newest));
    Keyspaces::with_editions(vec![(KEYSPACE.to_owned(), editions, factory)])
}

fn range(small: &Small) -> Descriptor {
    small.ranges().remove(0)
}

/// Has a command carried out that was written for an edition; answers which one was active.
fn write(small: &mut Small, written: Edition, key: &str) -> Result<u64, Refusal> {
    let mut commands = Commands::in_edition(range(small).version, written);
    commands.push(key.as_bytes());
    let answered = small.propose(commands.into_data(), 1);
    let answers = answered.into_iter().next().expect("an answer").answers?;
    Ok(crate::fixture::number(&answers[0]))
}

#[test]
fn a_new_range_begins_with_the_newest_edition_of_its_store() {
    for newest in 1..4 {
        let mut small = Small::with(&build(1, newest));
        assert_eq!(range(&small).edition, Edition(newest));
        assert_eq!(write(&mut small, Edition::FIRST, "a"), Ok(newest), "older commands count too");
        let refused = Refusal::Edition { written: Edition(newest + 1), active: Edition(newest) };
        assert_eq!(write(&mut small, Edition(newest + 1), "a"), Err(refused));
    }
}

/// KV-002: what was meant for the range before is void, and the coprocessor learns of it in the order of the log.
#[test]
fn a_store_that_stands_alone_raises_its_ranges_when_its_build_does_more() {
    let mut small = Small::with(&build(1, 1));
    assert_eq!(write(&mut small, Edition::FIRST, "a"), Ok(1));
    let before = range(&small);
    let mut small = small.crash_to(&build(1, 2));
    small.wait(5);
    let now = range(&small);
    assert_eq!((now.edition, now.version.boundary), (TWO, before.version.boundary + 1));
    let mut stale = Commands::new(before.version);
    stale.push(b"a");
    let answered = small.propose(stale.into_data(), 1);
    assert_eq!(answered[0].answers, Err(Refusal::Version(Box::new(now))));
    assert_eq!(write(&mut small, TWO, "b"), Ok(2));
    // All of the log is carried out again, each part in the edition of its time.
    let small = small.crash_to(&build(1, 2));
    assert_eq!(small.counts(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    assert_eq!(range(&small).edition, TWO);
}

#[test]
fn both_parts_of_a_range_keep_its_edition() {
    let mut small = Small::with(&build(1, 2));
    let split = small.propose(command::split(range(&small).version, b"m"), 1);
    assert!(split[0].answers.is_ok(), "{split:?}");
    let ranges = small.ranges();
    assert_eq!(ranges.iter().map(|range| range.edition).collect::<Vec<_>>(), [TWO, TWO]);
}

#[test]
fn an_edition_never_comes_twice_and_never_falls() {
    let mut small = Small::with(&build(1, 2));
    for written in [Edition::FIRST, TWO] {
        let before = range(&small);
        let answered = small.propose(command::upgrade(before.version, written), 1);
        assert_eq!(answered[0].answers, Err(Refusal::Edition { written, active: TWO }));
        assert_eq!(range(&small), before);
    }
}

/// Nothing is carried out by a build that does not know what it is to do.
#[test]
fn a_build_that_is_too_old_or_too_new_is_refused_and_changes_nothing() {
    for (oldest, newest) in [(1, 1), (3, 4)] {
        let small = Small::with(&build(1, 2));
        let (log, engine) = small.left();
        let refused = open::find(&*log, &engine, asked(&build(oldest, newest)));
        let Err(Trouble::Version(detail)) = refused else { panic!("{refused:?}") };
        let supported = if oldest == newest { "1".to_owned() } else { "3 to 4".to_owned() };
        for part in ["range 1 of counter", "edition 2", &format!("supports {supported}:")] {
            assert!(detail.contains(part), "{detail}");
        }
        // Nor by a way around.
        let descriptor =
            Descriptor { edition: TWO, ..Descriptor::whole(GROUP, KEYSPACE.to_owned(), STORE) };
        let mut host = Host::new(STORE, Arc::new(Overlay::new(engine, 2)), build(oldest, newest));
        let opened = host.open(descriptor);
        assert!(matches!(opened, Err(Error::Unsupported { .. })), "{opened:?}");
    }
}

/// A log that was written by a later build, and not carried out by it.
#[test]
fn an_older_build_stops_before_it_carries_out_that_a_range_is_raised() {
    let mut small = Small::with(&build(1, 1));
    assert_eq!(write(&mut small, Edition::FIRST, "a"), Ok(1));
    let data = command::upgrade(range(&small).version, TWO).into();
    let entry = Entry { index: 90, term: 9, data, ..Entry::default() };
    let entries = vec![(entry, None)];
    let events = [Event::Committed(Committed { group: GROUP, entries, lost: Vec::new() })];
    let mut done = Done::<u64>::default();
    let (_, engine) = small.left();
    let mut host = Host::new(STORE, Arc::new(Overlay::new(engine, 2)), build(1, 1));
    host.open(Descriptor::whole(GROUP, KEYSPACE.to_owned(), STORE)).expect("it is in the first");
    let ran = host.run(events, &Alone, &mut done);
    assert!(matches!(ran, Err(Error::Unsupported { .. })), "{ran:?}");
    assert!(host.ranges().all(|range| range.edition == Edition::FIRST));
}

/// Builds by the number of their newest edition, for stores on disks.
fn builds(newest: u64) -> Keyspaces {
    build(1, newest)
}

fn editions(stores: &Stores) -> Vec<Edition> {
    let ranges = stores.live().flat_map(|(_, handle)| handle.ranges(KEYSPACE));
    ranges.map(|range| range.edition).collect()
}

/// Waits until nobody has had anything to do for some seconds, and all have slept.
fn rest(stores: &Stores) {
    until("all sleep", || {
        let (told, tells) = mpsc::sync_channel(8);
        for (_, handle) in stores.live() {
            let told = told.clone();
            handle.ask_status(Box::new(move |groups| drop(told.send(groups))));
        }
        drop(told);
        let mut groups = tells.iter().flatten();
        groups.all(|group| group.is_asleep).then_some(())
    });
}

/// Three stores of one build that keep one range.
fn three(name: &str, newest: u64) -> Stores {
    let stores = Stores::of_builds(name, 3, builds, newest);
    stores.change(&stores.whole(KEYSPACE), &[1, 2, 3]);
    stores
}

/// KV-002: two builds serve side by side, and nothing is raised before the last of them is of the newer one.
#[test]
fn a_range_is_raised_when_the_last_of_its_stores_supports_it() {
    let mut stores = three("edition-rolling", 1);
    for store in [1, 2] {
        stores.restart_as(store, 2);
        // The two agree for long enough.
        until("they have heard of each other", || {
            let ranges = stores.live().map(|(_, handle)| handle.ranges(KEYSPACE).len());
            (ranges.sum::<usize>() == 3).then_some(())
        });
    }
    rest(&stores);
    assert_eq!(editions(&stores), [Edition::FIRST; 3]);
    stores.restart_as(3, 2);
    until("it is raised", || (editions(&stores) == [TWO; 3]).then_some(()));
    // Once is enough.
    let version = stores.whole(KEYSPACE).version;
    rest(&stores);
    assert_eq!(stores.whole(KEYSPACE).version, version);
}

/// KV-008
#[test]
fn a_store_that_does_not_support_what_is_active_is_not_brought_in() {
    let mut stores = Stores::of_builds("edition-newcomer", 3, builds, 2);
    let range = stores.whole(KEYSPACE);
    stores.restart_as(3, 1);
    stores.change(&range, &[1, 2]);
    let change = |stores: &Stores, target: Target| {
        let handle = stores.handle(stores.leader(range.group));
        let version = stores.whole(KEYSPACE).version;
        wait(|reply| handle.change(range.group, version, target, reply))
    };
    let refused = Some(Err(Refusal::Step(NoStep::Unsupported { store: 3, edition: TWO })));
    let voters = Target { voters: [1, 2, 3].into(), ..Target::default() };
    let learner = Target { voters: [1, 2].into(), learners: [3].into() };
    for target in [voters, learner] {
        until("it is refused", || (change(&stores, target.clone()) == refused).then_some(()));
    }
    stores.kill(3);
    let target = Target { voters: [1, 2].into(), learners: [3].into() };
    let unheard = Some(Err(Refusal::Step(NoStep::Unheard { store: 3 })));
    until("nobody answers", || (change(&stores, target.clone()) == unheard).then_some(()));
    stores.start(3);
    stores.restart_as(3, 2);
    stores.change(&range, &[1, 2, 3]);
}

/// DUR-011: nothing of it counts as damaged, or would be set aside.
#[test]
fn an_older_build_does_not_start_with_a_range_that_was_raised() {
    let mut stores = three("edition-back", 2);
    until("all have it", || (editions(&stores) == [TWO; 3]).then_some(()));
    stores.kill(3);
    let config = stores.config_as(3, 1);
    let refused = Node::open(config).expect_err("it does not support it");
    assert!(matches!(refused, OpenError::Version { .. }), "{refused}");
    assert!(refused.to_string().contains("start a version that supports edition 2"), "{refused}");
    stores.start(3);
    assert_eq!(editions(&stores), [TWO; 3]);
}

/// The log of a store that stands alone has it, and the engine does not yet.
#[test]
fn an_older_build_does_not_start_with_a_log_in_which_a_range_is_raised() {
    let mut stores = Stores::of_builds("edition-log", 1, builds, 1);
    let range = stores.whole(KEYSPACE);
    let told = Arc::new(Mutex::new(String::new()));
    let reasons = Arc::clone(&told);
    stores.kill(1);
    let mut config = stores.config_as(1, 1);
    config.checkpoint_interval = std::time::Duration::from_hours(1);
    config.on_failure = Box::new(move |reason| reason.clone_into(&mut reasons.lock()));
    let node = Node::open(config).expect("it is whole");
    let order = command::upgrade(Version::default(), TWO);
    let answers = wait(|reply| node.handle().propose(range.group, order, reply));
    assert_eq!(answers, None, "it stops");
    until("it says why", || told.lock().contains("edition 2").then_some(()));
    drop(node);
    let mut config = stores.config_as(1, 1);
    config.on_failure = Box::new(|_| {});
    let refused = Node::open(config).expect_err("it does not support it");
    assert!(matches!(refused, OpenError::Version { .. }), "{refused}");
    let node = Node::open(stores.config_as(1, 2)).expect("this build does");
    assert_eq!(node.handle().ranges(KEYSPACE)[0].edition, TWO);
}
