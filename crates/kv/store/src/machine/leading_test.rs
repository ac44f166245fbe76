//! What a leader says to who follows it: one machine, and what others answer.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType, Snapshot};

use super::fixture::{GROUP, Small, machine_of, machine_with, range, step};
use super::*;
use crate::command::{self, Commands, Order};
use crate::log::{MemoryLog, RaftLog as _, Truncated};
use crate::membership::Target;
use crate::range::{BEGIN_INDEX, BEGIN_TERM, Version};

/// The entry with which store 1 begins to lead.
const FIRST: u64 = BEGIN_INDEX + 1;

fn proposal(ticket: u64) -> Input<u64> {
    let mut commands = Commands::new(Version::default());
    commands.push(b"x");
    Input::Propose { group: GROUP, term: None, data: commands.into_data(), ticket }
}

/// What store 2 says.
fn says(kind: MessageType, index: u64) -> Message {
    let mut message = Message { from: 2, to: 1, index, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn heard(term: u64, message: Message) -> Input<u64> {
    let envelope = Box::new(Envelope { group: GROUP, message: Message { term, ..message } });
    Input::Message { from: 2, envelope }
}

fn applied(index: u64) -> Input<u64> {
    Input::Applied { group: GROUP, index }
}

/// The data up to the first entry.
fn snapshot(term: u64) -> Input<u64> {
    let (range, mut snapshot) = (range(&[1], &[2]), Snapshot::default());
    snapshot.set_data(range.encode());
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (FIRST, term);
    metadata.set_conf_state(range.membership.conf_state());
    Input::Snapshot { group: GROUP, snapshot: Box::new(snapshot) }
}

fn checkpointed(index: u64) -> Input<u64> {
    Input::Checkpointed { group: GROUP, index }
}

/// How many entries each message for store 2 has.
fn appended(output: &Output<u64>) -> Vec<usize> {
    let messages = output.messages.iter().map(|(_, envelope)| &envelope.message);
    let appends = messages.filter(|message| message.get_msg_type() == MessageType::MsgAppend);
    appends.map(|append| append.entries.len()).filter(|count| *count > 0).collect()
}

/// Store 1 leads since a second, and store 2 has what it has; with its term.
fn leader(log: &Arc<MemoryLog>) -> (Small, u64) {
    let mut machine = machine_with(Arc::clone(log), &[1], &[2]).keep_entries(0);
    let output = step(&mut machine, 1_000, Vec::new());
    let term = output.events.iter().find_map(|event| match event {
        Event::Leads { term, .. } => Some(*term),
        _ => None,
    });
    let term = term.expect("the only voter leads");
    (machine, term)
}

/// SCH-004: many that propose at one moment cost a follower one packet, and one fsync.
#[test]
fn what_is_proposed_in_one_step_is_one_message_to_each_follower() {
    let (mut machine, term) = leader(&Arc::default());
    let has_it = heard(term, says(MessageType::MsgAppendResponse, FIRST));
    step(&mut machine, 1_010, vec![has_it]);
    let output = step(&mut machine, 1_020, (1..=40).map(proposal).collect());
    assert_eq!(appended(&output), [40]);
    let committed = output.events.iter().filter_map(|event| match event {
        Event::Committed(committed) => Some(committed),
        _ => None,
    });
    let tickets = committed.flat_map(|committed| &committed.entries).map(|(_, ticket)| *ticket);
    assert_eq!(tickets.collect::<Vec<_>>(), (1..=40).map(Some).collect::<Vec<_>>());
}

/// What is heard between two proposals concerns what was proposed before it only.
#[test]
fn what_was_gathered_is_proposed_before_anything_else_happens_to_its_group() {
    let (mut machine, term) = leader(&Arc::default());
    let has_it = heard(term, says(MessageType::MsgAppendResponse, FIRST));
    step(&mut machine, 1_010, vec![has_it]);
    let later = heard(term + 1, says(MessageType::MsgHeartbeat, 0));
    let output = step(&mut machine, 1_020, vec![proposal(1), later, proposal(2)]);
    assert_eq!(appended(&output), [1], "the second came when it did not lead any more");
    let refused = output.events.iter().filter_map(|event| match event {
        Event::Refused { ticket, refusal: Refusal::NotLeader } => Some(*ticket),
        _ => None,
    });
    assert_eq!(refused.collect::<Vec<_>>(), [2]);
}

/// Store 2 has nothing, and what it would need first is not in the log any more: it is sent a snapshot of
/// the first entry, at the moment that is returned.
fn send_snapshot(machine: &mut Small, term: u64) -> u64 {
    step(machine, 1_010, vec![applied(FIRST)]);
    let behind = Message { reject: true, ..says(MessageType::MsgAppendResponse, BEGIN_INDEX) };
    step(machine, 1_020, vec![checkpointed(FIRST), heard(term, behind)]);
    let is_wished = |millis: &u64| step(machine, *millis, Vec::new()).snapshots == [GROUP];
    let at = (1_100..3_000).step_by(100).find(is_wished).expect("soon");
    let lives = heard(term, says(MessageType::MsgHeartbeatResponse, 0));
    let output = step(machine, at + 10, vec![snapshot(term), lives]);
    let is_snapshot = |message: &Message| message.get_msg_type() == MessageType::MsgSnapshot;
    assert!(output.messages.iter().any(|(_, envelope)| is_snapshot(&envelope.message)));
    let arrived = Input::SnapshotSent { group: GROUP, to: 2, arrived: true };
    step(machine, at + 20, vec![arrived]);
    at + 20
}

/// KV-011: without the log from there on it would need another snapshot after this one, and so on.
#[test]
fn the_log_is_kept_for_a_replica_that_takes_in_a_snapshot_and_no_longer() {
    let log = Arc::<MemoryLog>::default();
    let (mut machine, term) = leader(&log);
    let begins_at = || log.groups().expect("memory").remove(0).truncated.index;
    let at = send_snapshot(&mut machine, term);
    let last = FIRST + 20;
    step(&mut machine, at + 10, (1..=20).map(proposal).collect());
    step(&mut machine, at + 20, vec![applied(last), checkpointed(last)]);
    assert_eq!(begins_at(), FIRST, "it is still taking in what stands there");
    let has_it = heard(term, says(MessageType::MsgAppendResponse, FIRST));
    step(&mut machine, at + 30, vec![has_it]);
    step(&mut machine, at + 200, vec![checkpointed(last)]);
    assert_eq!(begins_at(), last, "it is through, and is sent what it lacks");
}

/// KV-011
#[test]
fn a_replica_that_never_takes_in_its_snapshot_keeps_the_log_for_minutes_and_not_for_ever() {
    let log = Arc::<MemoryLog>::default();
    let (mut machine, term) = leader(&log);
    let begins_at = || log.groups().expect("memory").remove(0).truncated.index;
    let at = send_snapshot(&mut machine, term);
    let minutes = |minutes: u64| at + 20 + minutes * 60_000;
    let mut last = FIRST;
    let mut write_until = |from: u64, until: u64| {
        for millis in (from..until).step_by(100) {
            last += 1;
            step(&mut machine, millis, vec![proposal(last)]);
            step(&mut machine, millis, vec![applied(last)]);
        }
        step(&mut machine, until, vec![checkpointed(last)]);
        last
    };
    write_until(minutes(0), minutes(9));
    assert_eq!(begins_at(), FIRST);
    let last = write_until(minutes(9), minutes(11));
    assert_eq!(begins_at(), last);
}

/// KV-012: whatever others have, this store needs what its own data does not have durably.
#[test]
fn the_log_is_cut_only_below_what_is_durably_applied_here() {
    let log = Arc::<MemoryLog>::default();
    let (mut machine, term) = leader(&log);
    let begins_at = || log.groups().expect("memory").remove(0).truncated.index;
    let last = FIRST + 4;
    step(&mut machine, 1_010, vec![heard(term, says(MessageType::MsgAppendResponse, FIRST))]);
    step(&mut machine, 1_020, (1..=4).map(proposal).collect());
    let has_it = heard(term, says(MessageType::MsgAppendResponse, last));
    step(&mut machine, 1_030, vec![has_it, applied(last), checkpointed(FIRST)]);
    assert_eq!(begins_at(), FIRST);
    step(&mut machine, 1_040, vec![checkpointed(last)]);
    assert_eq!(begins_at(), last);
}

/// KV-019: whoever asks what became of it and is no member any more is told so.
#[test]
fn a_replica_that_was_removed_hears_of_it_when_it_asks() {
    let shared = range(&[1], &[2]);
    let alone = Target { voters: [1].into(), ..Target::default() };
    let membership = shared.membership.toward(&alone).expect("a step").membership.left();
    let mut machine = machine_of(Arc::default(), vec![Descriptor { membership, ..shared }]);
    let asks = |replica| {
        let ask = Ask { group: GROUP, replica, descriptor: None };
        Input::Asked { from: 2, ask }
    };
    let output = step(&mut machine, 1_000, vec![asks(2), asks(3)]);
    assert_eq!(output.verdicts, [(2, GROUP, 2, Verdict::Removed)], "the third is to come");
}

/// KV-015: a range that is not taken in for long has its left neighbour come to another version, in which it
/// cannot be any more.
#[test]
fn a_merge_that_does_not_come_is_given_up() {
    let parted = range(&[1], &[2]).split(&Bytes::from_static(b"m"), BEGIN_INDEX);
    let (left, right) = parted.expect("it parts");
    let (at, version) = (Truncated { index: BEGIN_INDEX, term: BEGIN_TERM }, left.version);
    let frozen = right.freeze(left.group, version, at).expect("it is at rest");
    // Store 2 does not say that it has in its log that the range froze.
    let mut machine = machine_of(Arc::default(), vec![left, frozen]);
    let is_given_up = |millis: &u64| {
        let output = step(&mut machine, *millis, Vec::new());
        let committed = output.events.iter().filter_map(|event| match event {
            Event::Committed(committed) if committed.group == GROUP => Some(committed),
            _ => None,
        });
        let mut entries = committed.flat_map(|committed| &committed.entries);
        entries.any(|(entry, _)| match command::parse(&entry.data) {
            Ok((meant, order)) => meant == version && matches!(order, Order::Raise),
            Err(_) => false,
        })
    };
    let at = (1_000..20_000).step_by(100).find(is_given_up).expect("it has patience, and an end");
    assert!((6_000..6_600).contains(&at), "after {at} ms");
}
