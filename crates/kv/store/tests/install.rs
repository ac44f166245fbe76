//! Data that comes from another store or goes, with a crash at every write of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::{Entry, HardState};
use ratatosk_engine::{Batch, Engine, Error, KeyRange, MemoryEngine, Overlay, SpaceId, View};
use ratatosk_store::host::{Arrivals, Done, Host};
use ratatosk_store::log::{
    GroupId, GroupState, LogBatch, LogChange, MemoryLog, RaftLog, Sync, Truncated,
};
use ratatosk_store::machine::{Event, Input};
use ratatosk_store::open::{self, Asked, Found, Trouble};
use ratatosk_store::range::{Descriptor, Version};

use crate::fixture::{GROUP, SPACE, STORE, asked, descriptor, keyspaces};

/// What is done.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Deed {
    /// With data behind the log.
    Install,
    /// With data that the log goes on behind.
    Fill,
    Remove,
}

/// Fails from some write on: the process ends there.
#[derive(Clone)]
struct Mortal {
    engine: Arc<MemoryEngine>,
    left: Arc<AtomicUsize>,
}

impl Mortal {
    fn spend(&self) -> Result<(), Error> {
        let spent = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        spent.map(|_| ()).map_err(|_| Error::Poisoned)
    }
}

impl Engine for Mortal {
    type View = <MemoryEngine as Engine>::View;

    fn write(&self, batch: Batch) -> Result<(), Error> {
        self.spend()?;
        self.engine.write(batch)
    }

    fn persist(&self) -> Result<(), Error> {
        self.spend()
    }

    fn view(&self) -> Self::View {
        self.engine.view()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// So many pairs.
struct Come(usize);

impl Arrivals for Come {
    fn read(
        &self,
        _group: GroupId,
        _at: Truncated,
        visit: &mut dyn FnMut(Bytes, Bytes) -> Result<(), Error>,
    ) -> Result<(), Error> {
        (0..self.0)
            .try_for_each(|key| visit(format!("new {key:03}").into(), Bytes::from_static(&[0; 8])))
    }
}

/// A store's disk.
struct Disk {
    engine: Arc<MemoryEngine>,
    log: MemoryLog,
}

/// What the range is that comes: it has fewer keys than the one that is here.
fn coming() -> Descriptor {
    let end = Some(Bytes::from_static(b"t"));
    Descriptor { boundary: KeyRange { start: Bytes::new(), end }, ..descriptor() }
}

impl Disk {
    /// With a range of so many keys, at entry 9, and entries up to 12.
    fn new(keys: usize) -> Self {
        let disk = Self { engine: Arc::new(MemoryEngine::new(2)), log: MemoryLog::default() };
        disk.find(true).expect("it is new");
        let mut batch = Batch::new();
        for key in 0..keys {
            batch.put(SPACE, format!("old {key:03}"), vec![0; 8]);
            batch.put(SPACE, format!("zzz {key:03}"), vec![0; 8]);
        }
        // As the format says: at entry 9 of term 6, begun behind 5.
        batch.put(
            SpaceId(0),
            Bytes::from_static(b"a\0\0\0\0\0\0\0\x01"),
            Bytes::from_static(b"\x04\x09\x06\x05"),
        );
        self::write(&disk.engine, batch);
        let entries = (6..=12).map(|index| Entry { index, term: 6, ..Entry::default() }).collect();
        let mut batch = LogBatch::new();
        batch.push(GROUP, LogChange::Append(entries));
        batch.push(
            GROUP,
            LogChange::HardState(HardState {
                term: 7,
                vote: 1,
                commit: 10,
                ..HardState::default()
            }),
        );
        batch.push(GROUP, LogChange::DurableApplied(9));
        disk.log.write(batch, Sync::Wait).expect("memory");
        disk
    }

    fn find(&self, is_new: bool) -> Result<Found, Trouble> {
        open::find(&self.log, &*self.engine, Asked { is_new, ..asked(&keyspaces()) })
    }

    fn host(&self, writes: usize) -> Host<Mortal> {
        let engine = Mortal { engine: Arc::clone(&self.engine), left: Arc::new(writes.into()) };
        let overlay = Arc::new(Overlay::new(engine, 2));
        Host::new(STORE, overlay, keyspaces()).with_batches(30)
    }

    /// A process that ends at that write; true if it came to its end before.
    fn run(&self, deed: Deed, keys: usize, writes: usize) -> bool {
        let mut host = self.host(writes);
        let found = self.find(false).expect("whole");
        for descriptor in found.groups.into_iter().filter_map(|opened| opened.descriptor) {
            host.open(descriptor).expect("memory");
        }
        let event = match deed {
            Deed::Install | Deed::Fill => {
                let keeps_log = deed == Deed::Fill;
                let (index, term) = if keeps_log { (11, 6) } else { (20, 7) };
                let (descriptor, at) = (Box::new(coming()), Truncated { index, term });
                Event::<u64>::Install { descriptor, at, keeps_log }
            }
            Deed::Remove => Event::Remove { group: GROUP, replica: 1 },
        };
        let mut done = Done::default();
        let ran = host.run([event], &Come(keys), &mut done);
        let is_told = done
            .inputs
            .iter()
            .any(|input| matches!(input, Input::Installed { .. } | Input::Removed { .. }));
        assert_eq!(ran.is_ok(), is_told, "the machine hears of what is done");
        is_told
    }

    fn keys(&self) -> Vec<Bytes> {
        let mut keys = Vec::new();
        let scanned = self.engine.view().scan(SPACE, &KeyRange::all(), &mut |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            std::ops::ControlFlow::Continue(())
        });
        scanned.expect("memory");
        keys
    }

    /// Starts, with a crash after so many writes of clearing up, and once more.
    fn restart(&self, writes: usize) -> Found {
        let _ = self.host(writes).clear_leftovers();
        let found = self.find(false).expect("nothing counts as lost");
        self.host(usize::MAX).clear_leftovers().expect("memory");
        found
    }

    fn log(&self) -> Option<GroupState> {
        self.log.groups().expect("memory").into_iter().find(|state| state.group == GROUP)
    }
}

fn write(engine: &MemoryEngine, batch: Batch) {
    engine.write(batch).expect("memory");
}

proptest! {
    // Each is a crash at every write.
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// DUR-011, KV-011, KV-016: all of the old data, or all of the new, or none and a group that asks
    /// for it; the log and the vote are what they were.
    #[test]
    fn a_crash_while_data_comes_leaves_no_half_of_it(old in 0_usize..12, new in 0_usize..12, again in 0_usize..6, is_fill: bool) {
        let deed = if is_fill { Deed::Fill } else { Deed::Install };
        for writes in 0.. {
            let disk = Disk::new(old);
            let before = disk.log();
            let is_done = disk.run(deed, new, writes);
            let found = disk.restart(again);
            prop_assert_eq!(found.groups.len(), 1);
            let opened = &found.groups[0];
            match &opened.descriptor {
                Some(held) if *held == coming() => {
                    prop_assert_eq!(disk.keys().len(), new);
                    let expected = if is_fill { (11, 12) } else { (20, 20) };
                    prop_assert_eq!((opened.applied, opened.state.last_index), expected);
                    prop_assert!(opened.state.hard_state.vote == 1 && opened.state.hard_state.term == 7);
                }
                Some(_) => {
                    prop_assert_eq!(disk.keys().len(), 2 * old);
                    prop_assert!(!is_done && opened.applied == 9);
                    prop_assert_eq!(Some(&opened.state), before.as_ref());
                }
                None => {
                    prop_assert!(opened.is_interrupted && disk.keys().is_empty());
                    prop_assert_eq!(Some(&opened.state), before.as_ref());
                    // What it waits for comes, or it goes.
                    prop_assert!(disk.run(deed, new, usize::MAX));
                    prop_assert_eq!(disk.keys().len(), new);
                }
            }
            if is_done {
                return Ok(());
            }
        }
    }

    /// KV-016, KV-019: it is there, or it is gone for ever, with all that it had.
    #[test]
    fn a_crash_while_data_goes_leaves_none_of_it(old in 0_usize..12, again in 0_usize..6) {
        for writes in 0.. {
            let disk = Disk::new(old);
            let is_done = disk.run(Deed::Remove, 0, writes);
            let found = disk.restart(again);
            match found.groups.first() {
                Some(opened) => {
                    prop_assert!(!is_done && opened.descriptor.is_some());
                    prop_assert_eq!(disk.keys().len(), 2 * old);
                }
                None => {
                    prop_assert_eq!(&found.left[..], &[(GROUP, 1)]);
                    prop_assert!(disk.keys().is_empty() && disk.log().is_none());
                }
            }
            if is_done {
                return Ok(());
            }
        }
    }
}

/// The first write that leaves a mark, and what it leaves.
fn interrupted() -> Disk {
    let marked = (0..).map(|writes| {
        let disk = Disk::new(3);
        disk.run(Deed::Install, 3, writes);
        disk
    });
    let is_marked =
        |disk: &Disk| disk.find(false).is_ok_and(|found| found.groups[0].is_interrupted);
    let disk = marked.into_iter().find(is_marked).expect("one does");
    disk.host(usize::MAX).clear_leftovers().expect("memory");
    disk
}

/// KV-016, KV-018: a range that has taken in another elsewhere comes, and that one is no more.
#[test]
fn a_crash_while_a_whole_takes_the_place_of_its_part_leaves_one_of_them() {
    for writes in 0.. {
        let disk = Disk::new(5);
        let mut host = disk.host(writes);
        host.open(descriptor()).expect("memory");
        let version = Version { boundary: 5, ..Version::default() };
        let whole = Descriptor { group: GroupId(2), version, ..descriptor() };
        let (descriptor, at) = (Box::new(whole), Truncated { index: 20, term: 7 });
        let event = Event::<u64>::Install { descriptor, at, keeps_log: false };
        let mut done = Done::default();
        let is_done = host.run([event], &Come(4), &mut done).is_ok();
        // No replica of the part ever comes again.
        let told = |input: &Input<u64>| {
            matches!(input, Input::Removed { group: GROUP, replica: u64::MAX })
        };
        assert_eq!(done.inputs.iter().any(told), is_done);
        let found = disk.restart(usize::MAX);
        let [opened] = &found.groups[..] else { panic!("{found:?}") };
        if opened.state.group == GROUP {
            assert!(!is_done && disk.keys().len() == 10);
        } else {
            assert_eq!(found.left, [(GROUP, u64::MAX)]);
            let expected = if opened.is_interrupted { 0 } else { 4 };
            assert_eq!(disk.keys().len(), expected);
        }
        if is_done {
            return;
        }
    }
}

/// DUR-011: data that is half there excuses no log that has lost what was acknowledged.
#[test]
fn a_log_that_lost_entries_is_refused_also_while_data_comes() {
    let disk = interrupted();
    let mut batch = LogBatch::new();
    batch.push(GROUP, LogChange::Destroy);
    disk.log.write(batch, Sync::Wait).expect("memory");
    assert!(matches!(disk.find(false), Err(Trouble::Lost(_))));
}

/// KV-016, KV-019
#[test]
fn a_group_that_waits_for_its_data_can_be_left() {
    let disk = interrupted();
    assert!(disk.run(Deed::Remove, 0, usize::MAX));
    let found = disk.restart(usize::MAX);
    assert!(found.groups.is_empty() && disk.log().is_none());
    assert_eq!(found.left, [(GROUP, 1)]);
}

/// KV-018: what is cleared is cleared once, for others may come to where it was.
#[test]
fn what_was_cleared_is_not_cleared_again() {
    let disk = interrupted();
    let mut batch = Batch::new();
    batch.put(SPACE, Bytes::from_static(b"old 001"), Bytes::from_static(b"of another"));
    write(&disk.engine, batch);
    disk.restart(usize::MAX);
    assert_eq!(disk.keys(), ["old 001"]);
}

/// KV-018: rather stop than take the keys of another range.
#[test]
fn data_that_would_take_the_place_of_another_range_is_refused() {
    let disk = Disk::new(3);
    let mut host = disk.host(usize::MAX);
    host.open(descriptor()).expect("memory");
    let other = Descriptor { group: GroupId(2), ..coming() };
    let at = Truncated { index: 20, term: 7 };
    let event = Event::<u64>::Install { descriptor: Box::new(other), at, keeps_log: false };
    let ran = host.run([event], &Come(3), &mut Done::default());
    assert!(matches!(ran, Err(Error::Corrupt { .. })));
    assert_eq!(disk.keys().len(), 6, "nothing was changed");
}
