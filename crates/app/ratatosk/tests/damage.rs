//! A node whose data is not what it was: it says so in one line, and does not start.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::node::{QUIET, start};
use crate::process::{Ended, Place};

/// A place where a node has run.
fn used() -> Place {
    let place = Place::new();
    let (running, _) = start(&place);
    running.signal(Signal::TERM);
    assert_eq!(running.end().code, Some(0));
    place
}

/// Starts a node after something has happened to its store.
fn after(change: impl FnOnce(&Path)) -> Ended {
    let place = used();
    change(&place.directory.join("d/store"));
    place.run(&QUIET)
}

/// It ends with the code and one line that has the text.
fn refuses(ended: &Ended, code: i32, text: &str) {
    assert_eq!(ended.code, Some(code), "{}{}", ended.out, ended.err);
    let mut lines = ended.err.lines();
    let line = lines.next().unwrap_or_default();
    assert!(line.starts_with("ratatosk: ") && line.contains(text), "{}", ended.err);
    assert_eq!(lines.next(), None, "{}", ended.err);
}

/// DUR-005, OPS-006
#[test]
fn what_is_missing_is_named_and_the_exit_code_is_4() {
    let identity = after(|store| fs::remove_file(store.join("identity")).unwrap());
    refuses(&identity, 4, "identity file is missing");
    let log = after(|store| fs::remove_dir_all(store.join("log")).unwrap());
    refuses(&log, 4, "d/store/log ends at write 0");
    let engine = after(|store| fs::remove_dir_all(store.join("engine")).unwrap());
    refuses(&engine, 4, "the engine is empty");
    assert!(engine.err.contains("Restore the folder from a backup"), "{}", engine.err);
}

/// DUR-005, DUR-011: also when it is whole, and another's.
#[test]
fn what_belongs_to_another_store_is_refused_with_4() {
    let other = used();
    let newer = after(|store| {
        let file = store.join("identity");
        let text = fs::read_to_string(&file).unwrap();
        let written = text.replace("format 4", "format 99");
        assert_ne!(written, text, "the format is another now");
        fs::write(file, written).unwrap();
    });
    refuses(&newer, 4, "use a newer version");
    for (part, text) in [("log", "is the log of store"), ("engine", "the engine is that of store")]
    {
        let ended = after(|store| {
            fs::remove_dir_all(store.join(part)).unwrap();
            fs::rename(other.directory.join("d/store").join(part), store.join(part)).unwrap();
        });
        refuses(&ended, 4, text);
    }
}

/// OPS-006
#[test]
fn a_store_that_is_a_file_is_refused_with_4() {
    let ended = after(|store| {
        fs::remove_dir_all(store).unwrap();
        fs::write(store, "").unwrap();
    });
    refuses(&ended, 4, "d/store");
}

/// Another process may be about to end, so that trying again helps.
#[test]
fn a_store_in_use_is_refused_with_1() {
    let place = Place::new();
    let (_running, _) = start(&place);
    refuses(&place.run(&QUIET), 1, "is used by another process");
}
