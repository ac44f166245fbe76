//! A replica that has a log and a vote, and no data.

use std::sync::Arc;

use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType, Snapshot};
use ratatosk_clock::Instant;
use ratatosk_store::log::{LogBatch, LogChange, MemoryLog, RaftLog, Sync, Truncated};
use ratatosk_store::machine::{Envelope, Event, Input, Machine, Opened, Output};
use ratatosk_store::snapshot::depart;

use crate::fixture::{GROUP, STORE, Small, descriptor, keyspaces};

/// The leader's replica, and its store.
const LEADER: u64 = 2;
const FROM: u64 = 8;
const TERM: u64 = 6;

fn entry(index: u64, kind: EntryType) -> Entry {
    let mut entry = Entry { index, term: TERM, ..Entry::default() };
    entry.set_entry_type(kind);
    entry
}

/// One of which the log has the entries 6 to 9, of which a crash has left no data.
fn opened() -> (Arc<MemoryLog>, Machine<MemoryLog, u64>) {
    opened_with_commit(7)
}

/// The same, with how far the log says that it is committed.
fn opened_with_commit(commit: u64) -> (Arc<MemoryLog>, Machine<MemoryLog, u64>) {
    let log = Arc::new(MemoryLog::default());
    let entries = (6..=9).map(|index| entry(index, EntryType::EntryNormal)).collect();
    let mut batch = LogBatch::new();
    batch.push(GROUP, LogChange::Restart(Truncated { index: 5, term: 5 }));
    batch.push(GROUP, LogChange::Replica(1));
    batch.push(GROUP, LogChange::Append(entries));
    let hard_state = HardState { term: TERM, vote: LEADER, commit, ..HardState::default() };
    batch.push(GROUP, LogChange::HardState(hard_state));
    log.write(batch, Sync::Wait).expect("memory");
    let state = log.groups().expect("memory").remove(0);
    let group = Opened { state, descriptor: None, applied: 0, is_interrupted: true };
    let machine = Machine::open(Arc::clone(&log), STORE, [group], []).expect("whole");
    (log, machine)
}

fn message(kind: MessageType) -> Message {
    let mut message = Message { from: LEADER, to: 1, term: TERM, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn step(machine: &mut Machine<MemoryLog, u64>, input: Input<u64>) -> Output<u64> {
    let mut output = Output::default();
    machine.step(Instant::from_millis(1), [input], &mut output).expect("memory");
    output
}

fn hear(machine: &mut Machine<MemoryLog, u64>, message: Message) -> Output<u64> {
    let envelope = Box::new(Envelope { group: GROUP, message });
    step(machine, Input::Message { from: FROM, envelope })
}

fn snapshot(at: Truncated) -> Message {
    let small = Small::new();
    let departure = depart(&small.overlay, &keyspaces(), GROUP).expect("memory").expect("here");
    let mut snapshot: Snapshot = departure.snapshot();
    (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (at.index, at.term);
    let mut message = message(MessageType::MsgSnapshot);
    message.set_snapshot(snapshot);
    message
}

/// KV-016: or it could become the only one who may lead.
#[test]
fn a_replica_without_data_acknowledges_no_change_of_members() {
    let (_log, mut machine) = opened();
    let kinds = [EntryType::EntryNormal, EntryType::EntryConfChangeV2, EntryType::EntryNormal];
    let entries: Vec<Entry> = (10..).zip(kinds).map(|(index, kind)| entry(index, kind)).collect();
    let mut append = message(MessageType::MsgAppend);
    (append.index, append.log_term, append.commit) = (9, TERM, 8);
    append.set_entries(entries.into());
    let output = hear(&mut machine, append.clone());
    let [(FROM, told)] = &output.messages[..] else { panic!("{:?}", output.messages) };
    assert_eq!((told.message.index, told.message.reject), (10, false));
    append.commit = 11;
    let output = hear(&mut machine, append);
    let [(FROM, told)] = &output.messages[..] else { panic!("{:?}", output.messages) };
    assert_eq!(told.message.index, 12, "it is committed without this one");
}

/// DUR-011, KV-016: the data goes below the log, of which nothing is given up.
#[test]
fn a_replica_without_data_asks_for_it_and_keeps_its_log() {
    let (log, mut machine) = opened();
    let append = Message { index: 9, log_term: TERM, ..message(MessageType::MsgAppend) };
    hear(&mut machine, append);
    let output = hear(&mut machine, message(MessageType::MsgHeartbeat));
    let [(FROM, asked)] = &output.messages[..] else { panic!("{:?}", output.messages) };
    assert_eq!((asked.message.reject, asked.message.request_snapshot), (true, 5));
    let early = hear(&mut machine, snapshot(Truncated { index: 4, term: 4 }));
    assert!(early.events.is_empty(), "between it and the log something is missing");
    let at = Truncated { index: 8, term: TERM };
    let output = hear(&mut machine, snapshot(at));
    let [Event::Install { at: place, keeps_log: true, .. }] = &output.events[..] else {
        panic!("{:?}", output.events)
    };
    assert_eq!(*place, at);
    let output = step(&mut machine, Input::Installed { descriptor: Box::new(descriptor()) });
    let is_led = |event: &Event<u64>| matches!(event, Event::Leads { .. });
    assert!(output.events.iter().any(is_led), "it is the only member, and can lead now");
    let mut applied = Vec::new();
    for event in output.events {
        if let Event::Committed(committed) = event {
            applied.extend(committed.entries.into_iter().map(|(entry, _)| entry.index));
        }
    }
    assert!(applied.is_empty() || applied[0] == 9, "{applied:?}");
    let state = log.groups().expect("memory").remove(0);
    assert_eq!((state.truncated.index, state.replica), (5, 1));
    assert!(state.last_index >= 9 && state.hard_state.term > TERM);
}

/// KV-011: its log has another entry there, which was never committed.
#[test]
fn a_log_that_is_not_that_of_the_snapshot_begins_anew() {
    let (_log, mut machine) = opened();
    let output = hear(&mut machine, snapshot(Truncated { index: 8, term: 5 }));
    let [Event::Install { keeps_log: false, .. }] = &output.events[..] else {
        panic!("{:?}", output.events)
    };
}

/// KV-016: what the log gave up was in the data, and so committed, also if nobody has written that since the
/// last start.
#[test]
fn what_the_log_gave_up_counts_as_committed() {
    let (_log, mut machine) = opened_with_commit(3);
    let output = step(&mut machine, Input::Inquired { from: FROM });
    assert_eq!(output.beats.len(), 1, "it works");
}
