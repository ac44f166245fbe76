//! A range whose quorum is lost for ever.

use std::sync::Arc;

use raft::eraftpb::Entry;
use ratatosk_engine::{KeyRange, MemoryEngine, Overlay};
use ratatosk_store::command::{self, Commands};
use ratatosk_store::coprocessor::scan_all;
use ratatosk_store::host::{Alone, Done, Host, Refusal, Rest, read_range};
use ratatosk_store::machine::Event;
use ratatosk_store::range::{BEGIN_INDEX, Version};
use ratatosk_stores::counter::counters;
use ratatosk_stores::{Stores, until, wait};

use crate::fixture::{GROUP, SPACE, STORE, descriptor, keyspaces};

const COUNTER: &str = "counter";

/// KV-027: the store that is left goes on with all that it has, what nobody had committed yet among it, when it
/// is told to, and not before; it is given company again, and whoever comes back is none of it.
#[test]
fn a_range_goes_on_with_what_is_left_of_it_when_it_is_told_to() {
    let mut stores = Stores::new("quorum", 3, &[(COUNTER, counters)]);
    let range = stores.whole(COUNTER);
    stores.change(&range, &[1, 2, 3]);
    stores.transfer(range.group, 1);
    let handle = stores.handle(1);
    let held = || handle.ranges(COUNTER).remove(0);
    let entry = |version| {
        let mut commands = Commands::new(version);
        commands.push(b"a");
        commands.into_data()
    };
    let before = held().version;
    let answers = wait(|reply| handle.propose(range.group, entry(before), reply));
    assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    let refused = wait(|reply| handle.recover(range.group, before, reply));
    assert_eq!(refused, Some(Err(Refusal::Led)), "it can help itself");

    stores.kill(2);
    stores.kill(3);
    let (told, tells) = std::sync::mpsc::sync_channel(1);
    let doubt = move |answers| told.send(answers).expect("the test waits");
    handle.propose(range.group, entry(before), Box::new(doubt));
    let above = Version { boundary: before.boundary, config: before.config + 5 };
    until("nobody leads any more", || {
        let answers = wait(|reply| handle.recover(range.group, above, reply));
        (answers != Some(Err(Refusal::Led))).then(|| assert_eq!(answers, Some(Ok(Vec::new()))))
    });
    tells.recv().expect_err("whether it counted is not known to whoever proposed it");
    assert!(held().version > above, "{:?}", held());
    assert_eq!(stores.leader(range.group), 1);
    let now = held().version;
    let answers = wait(|reply| handle.propose(range.group, entry(now), reply));
    assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    assert_eq!(stores.content(1, COUNTER), [("a".to_owned(), 3)]);

    // As after a crash of the one that is left.
    drop(handle);
    stores.kill(1);
    stores.start(1);
    assert_eq!(stores.content(1, COUNTER), [("a".to_owned(), 3)]);
    stores.start(3);
    until("who was lost leaves", || stores.handle(3).ranges(COUNTER).is_empty().then_some(()));
    stores.start(4);
    stores.change(&stores.whole(COUNTER), &[1, 4]);
    until("another has it", || (stores.content(4, COUNTER) == [("a".to_owned(), 3)]).then_some(()));
}

fn entry(index: u64, data: Vec<u8>) -> Entry {
    Entry { index, term: 9, data: data.into(), ..Entry::default() }
}

fn counted(version: Version, name: &str) -> Vec<u8> {
    let mut commands = Commands::new(version);
    commands.push(name.as_bytes());
    commands.into_data()
}

/// KV-027, KV-002: what the log has still counts as it would have counted, with the splits in between; the
/// range itself stays whole, for its other part may be nowhere.
#[test]
fn what_is_left_of_a_log_counts_as_it_would_have() {
    let overlay = Arc::new(Overlay::new(MemoryEngine::new(2), 2));
    let mut host = Host::new(STORE, Arc::clone(&overlay), keyspaces());
    host.open(descriptor()).expect("memory");
    let (whole, parted) = (Version::default(), Version { boundary: 1, config: 0 });
    let said = [
        counted(whole, "a"),
        // Of a version that is not there yet.
        counted(parted, "early"),
        Vec::new(),
        command::split(whole, b"m"),
        // For the range as it was.
        counted(whole, "late"),
        command::split(whole, b"c"),
        counted(parted, "b"),
    ];
    let entries: Vec<_> =
        (BEGIN_INDEX + 1..).zip(said).map(|(index, data)| entry(index, data)).collect();
    let last = BEGIN_INDEX + entries.len() as u64;
    let above = Version { boundary: 0, config: 7 };
    let mut done = Done::default();
    let rest = Rest { group: GROUP, entries, above };
    host.run([Event::Recover { rest, ticket: 1_u64 }], &Alone, &mut done).expect("memory");
    assert_eq!(done.answered[0].answers, Ok(Vec::new()));
    let range = host.ranges().next().expect("it is here").clone();
    assert_eq!(range.version, Version { boundary: 1, config: 8 });
    assert_eq!(range.boundary, KeyRange::all());
    let mut names = Vec::new();
    read_range(&*overlay, SPACE, &KeyRange::all(), &mut |reader| {
        scan_all(reader, &KeyRange::all(), |key, _| {
            names.push(String::from_utf8_lossy(key).into_owned());
            Ok(())
        })
    })
    .expect("memory");
    assert_eq!(names, ["a", "b"]);
    let applied = ratatosk_store::host::checkpoint(&*overlay, [GROUP]).expect("memory");
    assert_eq!(applied, [(GROUP, last)]);
}
