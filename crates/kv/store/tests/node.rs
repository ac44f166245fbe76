//! The store on threads and disks.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_engine::KeyRange;
use ratatosk_store::OpenError;
use ratatosk_store::coprocessor::scan_all;
use ratatosk_store::node::{Config, Node};
use ratatosk_store::transport::Nobody;
use ratatosk_testkit::scratch::Scratch;

use crate::fixture::{commands, counters, keyspaces, number};

fn config(folder: &Path) -> Config {
    Config {
        folder: folder.to_owned(),
        keyspaces: keyspaces(),
        cache_bytes: 1 << 20,
        checkpoint_interval: Duration::from_hours(1),
        checkpoint_bytes: usize::MAX,
        random: [7, 8],
        join: None,
        transport: Arc::new(Nobody),
        on_failure: Box::new(|reason| panic!("the store failed: {reason}")),
    }
}

fn open(folder: &Path) -> Node {
    Node::open(config(folder)).expect("the store opens")
}

/// Proposes and waits.
pub(crate) fn count(node: &Node, names: &[&str]) -> Vec<u64> {
    let (told, tells) = mpsc::sync_channel(1);
    let handle = node.handle();
    let group = handle.ranges("counter")[0].group;
    handle.propose(
        group,
        commands(names),
        Box::new(move |answers| told.send(answers).expect("waits")),
    );
    let answers = tells.recv().expect("an answer").expect("carried out");
    answers.iter().map(|answer| number(answer)).collect()
}

pub(crate) fn counts(node: &Node) -> Vec<(String, u64)> {
    let found = Mutex::new(Vec::new());
    let handle = node.handle();
    let group = handle.ranges("counter")[0].group;
    let read = handle.read(group, &mut |reader| {
        scan_all(reader, &KeyRange::all(), |key, value| {
            found.lock().push((String::from_utf8_lossy(key).into_owned(), number(value)));
            Ok(())
        })
    });
    read.expect("the engine reads");
    found.into_inner()
}

/// DUR-001, KV-017
#[test]
fn what_was_answered_is_there_when_the_store_is_opened_again() {
    let scratch = Scratch::new("node");
    let node = open(scratch.path());
    let identity = node.handle().identity();
    assert_eq!(node.handle().ranges("counter").len(), 1, "one range has every key");
    assert_eq!(count(&node, &["a", "b", "a"]), [1, 2, 3]);
    // Without a checkpoint: the log alone has it.
    drop(node);
    let node = open(scratch.path());
    assert_eq!(node.handle().identity(), identity);
    assert_eq!(counts(&node), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(count(&node, &["a"]), [4]);
    node.stop();
    let node = open(scratch.path());
    assert_eq!(counts(&node), [("a".to_owned(), 3), ("b".to_owned(), 1)]);
}

/// DUR-007
#[test]
fn proposals_of_many_threads_are_answered_each_once() {
    let scratch = Scratch::new("node-threads");
    let node = Arc::new(open(scratch.path()));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let node = Arc::clone(&node);
            std::thread::spawn(move || (0..50).map(|_| count(&node, &["x"])[0]).collect::<Vec<_>>())
        })
        .collect();
    let mut all: Vec<u64> =
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=400).collect::<Vec<_>>());
}

#[test]
fn two_stores_on_one_folder_are_refused() {
    let scratch = Scratch::new("node-locked");
    let _first = open(scratch.path());
    let refused = Node::open(config(scratch.path())).expect_err("it is in use");
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
}

/// DUR-005, DUR-011
#[test]
fn a_store_that_lost_a_part_says_so_and_does_not_start() {
    let lose = |what: &str| {
        let scratch = Scratch::new("node-lost");
        let node = open(scratch.path());
        count(&node, &["a"]);
        node.stop();
        let place = scratch.path().join(what);
        match place.is_dir() {
            true => std::fs::remove_dir_all(&place),
            false => std::fs::remove_file(&place),
        }
        .expect("it was there");
        let refused = Node::open(config(scratch.path())).expect_err("something is missing");
        assert!(matches!(refused, OpenError::Damaged { .. }), "without {what}: {refused}");
        refused.to_string()
    };
    assert!(lose("log").contains("ends at write 0 and was on disk up to write"));
    assert!(lose("engine").contains("the engine is empty"));
    assert!(lose("identity").contains("identity file is missing"));
}

/// OPS-005: the format of a store is checked before anything in it is read.
#[test]
fn another_format_is_refused_by_name() {
    for (format, advice) in [("99", "use a newer version"), ("3", "before the first release")] {
        let scratch = Scratch::new("node-format");
        open(scratch.path()).stop();
        let file = scratch.path().join("identity");
        let text = std::fs::read_to_string(&file).expect("it is there");
        let other = text.replace("format 4", &format!("format {format}"));
        std::fs::write(&file, other).expect("writable");
        let refused = Node::open(config(scratch.path())).expect_err("another format");
        assert!(matches!(refused, OpenError::Version { .. }), "{refused}");
        assert!(refused.to_string().contains(advice), "{refused}");
    }
}

/// A folder of a build with fewer services: the keyspace that it lacks is made, the others are as they were.
#[test]
fn a_keyspace_that_is_missing_is_made_beside_the_others() {
    let scratch = Scratch::new("node-keyspace");
    let node = open(scratch.path());
    assert_eq!(count(&node, &["a", "b"]), [1, 2]);
    node.stop();
    for expected in [3, 4] {
        let mut config = config(scratch.path());
        config.keyspaces = counters(&["another", "counter"]);
        let node = Node::open(config).expect("the store opens");
        assert_eq!(node.handle().ranges("another").len(), 1);
        assert_eq!(count(&node, &["a"]), [expected]);
    }
}
