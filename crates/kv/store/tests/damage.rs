//! Whatever happens to one file of a store: it opens with all that was acknowledged, or is refused.
//!
//! `RATATOSK_DAMAGE_CASES` is how many cuts and flipped bits each file gets; more than the few that
//! find a place in every run find more.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;
use std::{cell::Cell, panic};

use ratatosk_store::OpenError;
use ratatosk_store::node::{Config, Node};
use ratatosk_store::transport::Nobody;
use ratatosk_testkit::scratch::Scratch;

use crate::fixture::keyspaces;
use crate::node::{count, counts};

const CASES: usize = 1;
const BLOCK: usize = 512;
const CLOSED: &str = "damage-closed";
const HOUR: Duration = Duration::from_hours(1);
/// The ones of this many files at least have to be looked at: fewer were not found.
const FILES_MIN: usize = 8;

/// What happens to a file.
#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Zeroed(usize),
    Flipped(usize, u8),
    Deleted,
    Replaced,
    Longer,
}

thread_local! {
    /// A store is opened by this thread: what panics then is caught, and its trace would take longer
    /// than all else.
    static IS_OPENING: Cell<bool> = const { Cell::new(false) };
}

/// What became of a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Whole,
    Refused,
    Wrong(String),
}

fn config(folder: &Path, store: u64, checkpoint_interval: Duration) -> Config {
    Config {
        folder: folder.to_owned(),
        keyspaces: keyspaces(),
        cache_bytes: 1 << 20,
        checkpoint_interval,
        checkpoint_bytes: usize::MAX,
        random: [store, 8],
        join: None,
        transport: Arc::new(Nobody),
        on_failure: Box::new(|_| {}),
    }
}

/// Counts, and waits for checkpoints between: the log gives up what they have.
fn fill(node: &Node, is_checkpointed: bool) {
    for round in 0..3 {
        for name in ["a", "b", "c"] {
            count(node, &[name, &format!("{name}{round}")]);
        }
        while is_checkpointed && node.handle().overlay_bytes() > 0 {
            std::thread::yield_now();
        }
    }
}

/// A store as it is after a good stop.
fn closed(folder: &Path, store: u64) {
    let node = Node::open(config(folder, store, Duration::ZERO)).expect("opens");
    fill(&node, true);
    node.stop();
}

/// A store as kill -9 leaves it.
fn killed(folder: &Path, store: u64, is_checkpointed: bool) {
    let life = folder.with_extension("life");
    if is_checkpointed {
        closed(&life, store);
    }
    let node = Node::open(config(&life, store, HOUR)).expect("opens");
    fill(&node, false);
    copy(&life, folder);
    drop(node);
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        match path.is_dir() {
            true => copy(&path, &to.join(name)),
            false => drop(std::fs::copy(&path, to.join(name)).expect("copies")),
        }
    }
}

pub(crate) fn files(folder: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder.join(below)).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = below.join(entry.file_name());
        match entry.path().is_dir() {
            true => files(folder, &path, found),
            false => found.push(path),
        }
    }
    found.sort();
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % count.max(1) as u64).expect("below")
    }
}

/// How many were asked for, if it is a long run.
fn cases_asked() -> Option<usize> {
    std::env::var_os("RATATOSK_DAMAGE_CASES")?.to_str()?.parse().ok()
}

fn damages(bytes: &[u8], dice: &mut Dice) -> Vec<Damage> {
    let cases = cases_asked().unwrap_or(CASES);
    let mut list = vec![Damage::Deleted, Damage::Replaced, Damage::Longer];
    // What follows is room that was made in advance.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if used == 0 {
        return list;
    }
    list.extend([Damage::Cut(0), Damage::Cut(used - 1), Damage::Cut(used / 2)]);
    list.extend([Damage::Zeroed(0), Damage::Zeroed(used / 2), Damage::Flipped(used - 1, 1)]);
    for _ in 0..cases {
        list.push(Damage::Cut(dice.below(used)));
        let bit = u8::try_from(dice.below(8)).expect("small");
        list.push(Damage::Flipped(dice.below(used), 1 << bit));
    }
    list
}

impl Damage {
    fn apply(&self, file: &Path, other: &Path) {
        let mut bytes = std::fs::read(file).expect("reads");
        match self {
            Self::Cut(at) => bytes.truncate(*at),
            Self::Zeroed(at) => {
                let end = bytes.len().min(at + BLOCK);
                bytes[*at..end].fill(0);
            }
            Self::Flipped(at, bits) => bytes[*at] ^= bits,
            Self::Longer => bytes.extend(*b"what does not belong here"),
            Self::Deleted => return std::fs::remove_file(file).expect("removes"),
            Self::Replaced => match std::fs::read(other) {
                Ok(found) => bytes = found,
                Err(_) => return,
            },
        }
        std::fs::write(file, bytes).expect("writes");
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Cut(_) => "cut",
            Self::Zeroed(_) => "zeroed",
            Self::Flipped(..) => "flipped",
            Self::Deleted => "deleted",
            Self::Replaced => "replaced",
            Self::Longer => "longer",
        }
    }
}

fn outcome(folder: &Path, expected: &[(String, u64)]) -> Outcome {
    IS_OPENING.set(true);
    let opened = catch_unwind(AssertUnwindSafe(|| Node::open(config(folder, 99, HOUR))));
    IS_OPENING.set(false);
    match opened {
        Err(_) => Outcome::Wrong("it panicked".to_owned()),
        Ok(Err(OpenError::Damaged { .. } | OpenError::Version { .. })) => Outcome::Refused,
        Ok(Err(other)) => Outcome::Wrong(other.to_string()),
        Ok(Ok(node)) => {
            let found = counts(&node);
            drop(node);
            match found == expected {
                true => Outcome::Whole,
                false => Outcome::Wrong(format!("it has {found:?}")),
            }
        }
    }
}

/// Damages every file of a store in every way, one at a time.
fn check(name: &str, make: impl Fn(&Path, u64)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_OPENING.get() {
                before(info);
            }
        }));
    });
    let scratch = Scratch::new(name);
    let (whole, other) = (scratch.path().join("whole"), scratch.path().join("other"));
    make(&whole, 7);
    make(&other, 70);
    let probe = scratch.path().join("probe");
    copy(&whole, &probe);
    let expected = counts(&Node::open(config(&probe, 99, HOUR)).expect("it is whole"));
    assert_eq!(expected.len(), 12, "{expected:?}");
    let (mut dice, mut found) = (Dice(0x5EED), Vec::new());
    files(&whole, Path::new(""), &mut found);
    assert!(found.len() >= FILES_MIN, "{found:?}");
    let mut table: BTreeMap<(PathBuf, &str, bool), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    if name != CLOSED && cases_asked().is_none() {
        // What checkpoints write, a closed store has as well.
        found.retain(|file| !file.starts_with("engine/keyspaces"));
    }
    // Folders that can be lost as a whole.
    for folder in ["log", "engine", "engine/keyspaces", "engine/keyspaces/0", "engine/keyspaces/2"]
    {
        let tried = scratch.path().join("tried");
        let _ = std::fs::remove_dir_all(&tried);
        copy(&whole, &tried);
        std::fs::remove_dir_all(tried.join(folder)).expect("it was there");
        for start in 1..=2 {
            let found = outcome(&tried, &expected);
            assert_eq!(found, Outcome::Refused, "{name} without {folder}, start {start}");
        }
    }
    for file in &found {
        let bytes = std::fs::read(whole.join(file)).expect("reads");
        for damage in damages(&bytes, &mut dice) {
            let tried = scratch.path().join("tried");
            let _ = std::fs::remove_dir_all(&tried);
            copy(&whole, &tried);
            damage.apply(&tried.join(file), &other.join(file));
            // A second start must not be fooled by what the first one did.
            for start in 1..=2 {
                match outcome(&tried, &expected) {
                    Outcome::Wrong(what) => {
                        wrong.push(format!("{} {damage:?}, start {start}: {what}", file.display()));
                    }
                    good => {
                        let is_whole = good == Outcome::Whole;
                        *table.entry((file.clone(), damage.name(), is_whole)).or_default() += 1;
                        if is_whole {
                            break;
                        }
                    }
                }
            }
        }
    }
    for ((file, damage, is_whole), times) in table {
        let outcome = if is_whole { "whole" } else { "refused" };
        println!("{name}\t{}\t{damage}\t{outcome}\t{times}", file.display());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// DUR-005, DUR-011
#[test]
fn a_damaged_file_of_a_closed_store_is_noticed() {
    check(CLOSED, closed);
}

/// DUR-004, DUR-005, DUR-011: also where the log alone has the last of it.
#[test]
fn a_damaged_file_of_a_killed_store_is_noticed() {
    check("damage-killed", |folder, store| killed(folder, store, true));
}

/// DUR-004, DUR-005, DUR-011
#[test]
fn a_damaged_file_of_a_store_without_a_checkpoint_is_noticed() {
    check("damage-log", |folder, store| killed(folder, store, false));
}
