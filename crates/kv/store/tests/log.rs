//! What every log has to do, and what only one on disk does.

use std::sync::Arc;

use proptest::prelude::*;
use ratatosk_store::log::{
    DurableLog, DurableLogConfig, Error, GroupId, LogBatch, LogChange, MemoryLog, RaftLog, Span,
    Sync,
};
use ratatosk_testkit::scratch::Scratch;

use crate::model::{GROUPS, Model, Step, entries, step};

fn config(scratch: &Scratch) -> DurableLogConfig {
    DurableLogConfig {
        folder: scratch.path().join("log"),
        watermark: scratch.path().join("watermark"),
        store: 7,
        is_new: false,
        file_bytes: 1 << 20,
        purge_bytes: 2 << 20,
    }
}

fn open(scratch: &Scratch) -> DurableLog {
    DurableLog::open(&config(scratch)).expect("opens")
}

/// The log is the model: its groups, and every span of their entries.
fn assert_same(log: &dyn RaftLog, model: &Model) {
    let mut states = log.groups().expect("reads");
    // A group that only ever was destroyed, or given up whole, may be told or not.
    states.retain(|state| state.replica > 0 || state.last_index > 0 || state.hard_state.term > 0);
    assert_eq!(states, model.states());
    for (&id, group) in &model.0 {
        let first = group.truncated.index + 1;
        for low in first..=group.last_index() {
            for high in low + 1..=group.last_index() + 1 {
                let mut found = Vec::new();
                log.fetch(Span { group: id, low, high }, usize::MAX, &mut found).expect("reads");
                let place = |index: u64| usize::try_from(index - first).expect("small");
                assert_eq!(found, group.entries[place(low)..place(high)]);
            }
        }
        let mut none = Vec::new();
        let gone = log.fetch(Span { group: id, low: first - 1, high: first }, 1, &mut none);
        assert!(matches!(gone, Err(Error::Missing { .. })), "{gone:?}");
    }
}

fn batches() -> impl Strategy<Value = Vec<Vec<(u64, Step)>>> {
    prop::collection::vec(prop::collection::vec((0..GROUPS, step()), 0..5), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// KV-028: after any batches every log holds what a list would, also when it is opened again.
    #[test]
    fn logs_agree_with_lists(batches in batches()) {
        let scratch = Scratch::new("log");
        let (memory, mut model) = (MemoryLog::default(), Model::default());
        let mut durable = open(&scratch);
        for (number, steps) in batches.iter().enumerate() {
            let batch = model.steps(steps);
            memory.write(batch.clone(), Sync::Wait).expect("writes");
            durable.write(batch, if number % 2 == 0 { Sync::Wait } else { Sync::Later }).expect("writes");
            assert_same(&memory, &model);
            assert_same(&durable, &model);
        }
        drop(durable);
        durable = open(&scratch);
        assert_same(&durable, &model);
    }
}

fn appended(first: u64, count: u8) -> LogBatch {
    let mut batch = LogBatch::new();
    batch.push(GroupId(1), LogChange::Append(entries(first, count, 1, 200)));
    batch
}

#[test]
fn a_fetch_is_bounded_in_bytes_and_never_empty() {
    let scratch = Scratch::new("bytes");
    let logs: [Arc<dyn RaftLog>; 2] = [Arc::new(MemoryLog::default()), Arc::new(open(&scratch))];
    for log in logs {
        log.write(appended(1, 10), Sync::Wait).expect("writes");
        let count = |bytes_max| {
            let mut found = Vec::new();
            let span = Span { group: GroupId(1), low: 1, high: 11 };
            log.fetch(span, bytes_max, &mut found).expect("reads");
            found.len()
        };
        assert_eq!(count(0), 1);
        assert_eq!(count(usize::MAX), 10);
        assert!((1..10).contains(&count(1000)));
    }
}

#[test]
fn a_log_in_use_is_refused() {
    let scratch = Scratch::new("locked");
    let _first = open(&scratch);
    let second = DurableLog::open(&config(&scratch));
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
}

/// KV-012: files of truncated entries are given back, and the group that holds them back is named.
#[test]
fn truncated_entries_give_their_room_back() {
    let scratch = Scratch::new("purge");
    let log = open(&scratch);
    let mut held = LogBatch::new();
    held.push(GroupId(2), LogChange::Append(entries(1, 1, 1, 10)));
    log.write(held, Sync::Later).expect("writes");
    let mut next = 1;
    for _ in 0..400 {
        log.write(appended(next, 100), Sync::Later).expect("writes");
        next += 100;
    }
    let full = log.disk_bytes();
    let mut batch = LogBatch::new();
    let truncated = ratatosk_store::log::Truncated { index: next - 1, term: 1 };
    batch.push(GroupId(1), LogChange::Truncate(truncated));
    log.write(batch, Sync::Wait).expect("writes");
    log.purge().expect("purges");
    assert!(log.disk_bytes() < full / 2, "{} of {full}", log.disk_bytes());
    // What was not truncated is still there.
    let mut found = Vec::new();
    log.fetch(Span { group: GroupId(2), low: 1, high: 2 }, 1, &mut found).expect("reads");
    assert_eq!(found.len(), 1);
}

/// DUR-004: a log whose end was torn off opens with what is whole before it.
#[test]
fn a_torn_tail_is_cut_off() {
    let scratch = Scratch::new("torn");
    let log = open(&scratch);
    for first in 1..=20 {
        log.write(appended(first, 1), Sync::Wait).expect("writes");
    }
    drop(log);
    let file = std::fs::read_dir(config(&scratch).folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "raftlog"))
        .expect("a log file");
    let bytes = std::fs::read(&file).expect("reads");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("something is written");
    for cut in [1, 7, 100, 300, 1000] {
        std::fs::write(&file, &bytes[..end.saturating_sub(cut)]).expect("writes");
        // What was not synced the watermark does not know of.
        std::fs::remove_file(config(&scratch).watermark).expect("it was there");
        let log = open(&scratch);
        let states = log.groups().expect("reads");
        let last = states.first().map_or(0, |state| state.last_index);
        assert!((1..20).contains(&last), "{last} after {cut} bytes were cut off");
        let mut found = Vec::new();
        let span = Span { group: GroupId(1), low: 1, high: last + 1 };
        log.fetch(span, usize::MAX, &mut found).expect("reads");
        assert_eq!(found.len() as u64, last);
        drop(log);
    }
}
