//! A store that is refused opens again once what is damaged was set aside, with as much of the rest
//! as there is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_engine::KeyRange;
use ratatosk_store::OpenError;
use ratatosk_store::coprocessor::scan_all;
use ratatosk_store::node::{Config, Node};
use ratatosk_store::recover::{Recovered, recover};
use ratatosk_store::transport::Nobody;
use ratatosk_testkit::{dice::Dice, scratch::Scratch};

use crate::damage::{copy, files};
use crate::fixture::{commands, counters, number};

const KEYSPACES: [&str; 2] = ["first", "second"];
const HOUR: Duration = Duration::from_hours(1);
/// Small, so that tables are written.
const CHECKPOINT_BYTES: usize = 64 << 10;

type Counts = Vec<(String, u64)>;

fn config(folder: &Path, store: u64, checkpoint_interval: Duration) -> Config {
    Config {
        folder: folder.to_owned(),
        keyspaces: counters(&KEYSPACES),
        cache_bytes: 1 << 20,
        checkpoint_interval,
        checkpoint_bytes: CHECKPOINT_BYTES,
        random: [store, 8],
        join: None,
        transport: Arc::new(Nobody),
        on_failure: Box::new(|_| {}),
    }
}

fn count(node: &Node, keyspace: &str, names: &[&str]) {
    let (told, tells) = mpsc::sync_channel(1);
    let handle = node.handle();
    let group = handle.ranges(keyspace)[0].group;
    let reply = move |answers: Result<_, _>| told.send(answers.is_ok()).expect("waits");
    handle.propose(group, commands(names), Box::new(reply));
    assert_eq!(tells.recv(), Ok(true), "carried out");
}

fn counts(node: &Node, keyspace: &str) -> Counts {
    let found = Mutex::new(Counts::new());
    let handle = node.handle();
    let group = handle.ranges(keyspace)[0].group;
    let read = handle.read(group, &mut |reader| {
        scan_all(reader, &KeyRange::all(), |key, value| {
            found.lock().push((String::from_utf8_lossy(key).into_owned(), number(value)));
            Ok(())
        })
    });
    read.expect("the engine reads");
    found.into_inner()
}

/// What a folder's store has of each keyspace, and its number.
fn open(folder: &Path) -> ([Counts; 2], u64) {
    let node = Node::open(config(folder, 99, HOUR)).expect("opens");
    (KEYSPACES.map(|keyspace| counts(&node, keyspace)), node.handle().identity().store)
}

fn recovered(folder: &Path) -> Recovered {
    let done = recover(&|| config(folder, 55, HOUR)).expect("recovers");
    for path in &done.set_aside {
        assert!(path.exists(), "{}", path.display());
        assert_eq!(path.extension().and_then(|end| end.to_str()), Some("bad"));
    }
    done
}

/// A store that has both keyspaces in a checkpoint, and more in its log than there.
fn killed(folder: &Path) {
    let life = folder.with_extension("life");
    for round in ["checkpointed", "logged"] {
        let node = Node::open(config(&life, 7, HOUR)).expect("opens");
        for keyspace in KEYSPACES {
            count(&node, keyspace, &["every", round]);
        }
        match round {
            "checkpointed" => node.stop(),
            _ => copy(&life, folder),
        }
    }
}

fn pairs(pairs: &[(&str, u64)]) -> Counts {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// DUR-005: without the log there is what the last checkpoint has, under another number; what is lost
/// is told. DUR-011
#[test]
fn a_store_without_its_log_goes_on_from_its_checkpoint() {
    let scratch = Scratch::new("recover-log");
    let folder = scratch.path().join("store");
    killed(&folder);
    fs::remove_dir_all(folder.join("log")).expect("was there");
    let refused = Node::open(config(&folder, 99, HOUR)).expect_err("refused");
    assert!(matches!(&refused, OpenError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("`ratatosk recover`"), "{refused}");
    let done = recovered(&folder);
    assert!(done.damage.is_some() && done.lost.len() == 2, "{done:?}");
    for (lost, keyspace) in done.lost.iter().zip(KEYSPACES) {
        assert!(lost.contains(keyspace) && lost.contains("after entry"), "{lost}");
    }
    let ([first, second], store) = open(&folder);
    assert_eq!(first, pairs(&[("checkpointed", 1), ("every", 1)]));
    assert_eq!((second, store), (first, 55));
    assert_eq!(recovered(&folder), Recovered::default(), "it is whole now");
}

/// DUR-005: nothing is lost with the file that says who the store is, or with what only tells how
/// far the log went.
#[test]
fn what_the_log_has_survives_the_files_beside_it() {
    for part in ["identity", "watermark"] {
        let scratch = Scratch::new("recover-beside");
        let folder = scratch.path().join("store");
        killed(&folder);
        fs::write(folder.join(part), "what is none of it").expect("writes");
        assert!(Node::open(config(&folder, 99, HOUR)).is_err(), "{part}");
        let done = recovered(&folder);
        assert!(done.set_aside.contains(&folder.join(format!("{part}.bad"))), "{done:?}");
        let ([first, second], store) = open(&folder);
        assert_eq!(first, pairs(&[("checkpointed", 1), ("every", 2), ("logged", 1)]), "{part}");
        assert_eq!(second, first);
        assert_eq!(store, if part == "identity" { 7 } else { 55 });
    }
}

/// DUR-005: a keyspace whose table cannot be read goes alone.
#[test]
fn a_damaged_table_costs_its_keyspace_only() {
    let scratch = Scratch::new("recover-table");
    let folder = scratch.path().join("store");
    let node = Node::open(config(&folder, 7, Duration::ZERO)).expect("opens");
    count(&node, "first", &["kept"]);
    let mut dice = Dice::new(7, 0);
    let mut part = || format!("{:016x}", dice.below(usize::MAX));
    let names: Vec<String> = (0..20_000).map(|_| (0..6).map(|_| part()).collect()).collect();
    for names in names.chunks(1_000) {
        count(&node, "second", &names.iter().map(String::as_str).collect::<Vec<_>>());
        while node.handle().overlay_bytes() > 0 {
            std::thread::yield_now();
        }
    }
    node.stop();
    assert_eq!(recovered(&folder), Recovered::default(), "large, and whole");
    let mut found = Vec::new();
    files(&folder, Path::new("engine/keyspaces"), &mut found);
    found.retain(|file| file.components().any(|part| part.as_os_str() == "tables"));
    let bytes = |file: &PathBuf| fs::metadata(folder.join(file)).map_or(0, |found| found.len());
    let largest = folder.join(found.iter().max_by_key(|file| bytes(file)).expect("tables"));
    let mut table = fs::read(&largest).expect("reads");
    assert!(table.len() > CHECKPOINT_BYTES, "{} bytes", table.len());
    let middle = table.len() / 2;
    table[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(&largest, table).expect("writes");

    let done = recovered(&folder);
    assert!(done.set_aside.contains(&folder.join("engine.bad")), "{done:?}");
    assert!(done.lost.contains(&"all of second is lost".to_owned()), "{done:?}");
    let ([first, second], _) = open(&folder);
    assert_eq!((first, second), (pairs(&[("kept", 1)]), Counts::new()));
}

/// DUR-005, DUR-011: whatever is damaged, the store opens afterwards, has nothing that it had not,
/// and all of it if nothing was set aside.
#[test]
fn a_store_opens_whatever_was_damaged() {
    let scratch = Scratch::new("recover-any");
    let (whole, tried) = (scratch.path().join("whole"), scratch.path().join("tried"));
    killed(&whole);
    let probe = scratch.path().join("probe");
    copy(&whole, &probe);
    let (expected, _) = open(&probe);
    let mut found = Vec::new();
    files(&whole, Path::new(""), &mut found);
    for file in &found {
        for is_deleted in [true, false] {
            let _ = fs::remove_dir_all(&tried);
            copy(&whole, &tried);
            let path = tried.join(file);
            let bytes = fs::read(&path).expect("reads");
            match is_deleted {
                true => fs::remove_file(&path).expect("removes"),
                false => fs::write(&path, &bytes[..bytes.len() / 2]).expect("writes"),
            }
            let done = recovered(&tried);
            let (found, _) = open(&tried);
            let context = format!("{}, deleted: {is_deleted}, {done:?}", file.display());
            if done.damage.is_none() {
                assert_eq!(found, expected, "{context}");
                assert!(done.set_aside.is_empty() && done.lost.is_empty(), "{context}");
            }
            for (found, expected) in found.iter().zip(&expected) {
                let had = |name: &String| expected.iter().find(|(known, _)| known == name);
                let is_had =
                    |(name, count): &(String, u64)| had(name).is_some_and(|had| *count <= had.1);
                assert!(found.iter().all(is_had), "{context}: {found:?}");
            }
            assert_eq!(recovered(&tried), Recovered::default(), "{context}");
        }
    }
}
