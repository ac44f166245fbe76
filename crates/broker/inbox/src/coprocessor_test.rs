//! Behaviour of the coprocessor: what keys effects leave.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::{Fate, Keyspace, held::HeldKeyspace};
use ratatosk_contract::inbox::InboxId;
use smallvec::smallvec;

use crate::{
    InboxCoprocessor,
    coprocessor::MALFORMED,
    effect::{Effect, End, Target, VERSION},
    schema::{Head, Key, Place, Position},
};

const PLAIN: Head<'static> =
    Head { is_qos2: false, retain: false, subscription_id: None, origin: None };

fn keyspace() -> Arc<HeldKeyspace> {
    HeldKeyspace::new(Box::new(InboxCoprocessor::new()))
}

fn submit(keyspace: &HeldKeyspace, effects: &[Effect<'_>]) {
    let mut command = vec![VERSION];
    effects.iter().for_each(|effect| effect.encode(&mut command));
    let done = |fate| assert_eq!(fate, Fate::Applied(Bytes::new()));
    keyspace.submit(b"", command.into(), Box::new(done));
    keyspace.settle();
}

fn places(keyspace: &HeldKeyspace) -> Vec<(u64, Place)> {
    let parse = |(key, _): &(Bytes, Bytes)| {
        let key = Key::parse(key).unwrap();
        (key.inbox.0, key.place)
    };
    keyspace.content().iter().map(parse).collect()
}

fn fan(inboxes: &[(u64, u64)]) -> Effect<'static> {
    let target = |(inbox, sequence): &(u64, u64)| Target {
        inbox: InboxId(*inbox),
        sequence: *sequence,
        head: PLAIN,
    };
    Effect::Fan { targets: inboxes.iter().map(target).collect(), message: b"\x01\x01am" }
}

fn removed(inbox: u64, sequence: u64) -> Effect<'static> {
    let position = Position { begun: sequence, sent: sequence, last: sequence };
    Effect::Removed { inbox: InboxId(inbox), sequences: smallvec![sequence], position }
}

fn end(inbox: u64, first: u64, count: u32) -> Effect<'static> {
    let (ordinals, inbound) = (Vec::new(), Vec::new());
    Effect::End(End { inbox: InboxId(inbox), first, count, ordinals, inbound })
}

fn bodies(keyspace: &HeldKeyspace) -> usize {
    places(keyspace).iter().filter(|(_, place)| matches!(place, Place::Body(_))).count()
}

/// INBOX-008: whichever goes last, by whatever way, and after a restart, too.
#[test]
fn a_message_of_three_is_stored_once_and_goes_with_the_last() {
    type Way = fn(u64) -> Effect<'static>;
    let commit: Way = |inbox| removed(inbox, 5);
    let receive: Way = |inbox| Effect::Received { inbox: InboxId(inbox), sequence: 5 };
    let end: Way = |inbox| end(inbox, 4, 3);
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        for ways in [[commit; 3], [receive, end, commit], [end, commit, receive], [end; 3]] {
            for restart in 0..4 {
                let mut keyspace = keyspace();
                submit(&keyspace, &[fan(&[(1, 5), (2, 5), (3, 5)])]);
                for (step, (inbox, way)) in order.iter().zip(ways).enumerate() {
                    assert_eq!(bodies(&keyspace), 1, "{order:?}, {step}");
                    if step == restart {
                        keyspace = keyspace.reopen(Box::new(InboxCoprocessor::new()));
                    }
                    submit(&keyspace, &[way(*inbox)]);
                }
                assert_eq!(bodies(&keyspace), 0, "{order:?}");
            }
        }
    }
}

#[test]
fn an_entry_of_one_receiver_has_its_message() {
    let keyspace = keyspace();
    let (inbox, record) = (InboxId(1), &b"\0\x01\x01am"[..]);
    submit(&keyspace, &[Effect::Entry { inbox, sequence: 1, record }]);
    assert_eq!(places(&keyspace), [(1, Place::Entry(1))]);
    assert_eq!(&keyspace.content()[0].1[..], record);
    submit(&keyspace, &[removed(1, 1)]);
    assert_eq!(places(&keyspace), [(1, Place::Position)]);
}

/// The largest of each partition only.
#[test]
fn what_ended_leaves_a_mark_of_its_number() {
    let keyspace = keyspace();
    submit(&keyspace, &[end(65, 1, 0), end(66, 1, 0), end(193, 1, 0)]);
    submit(&keyspace, &[end(129, 1, 0), Effect::WillEnd { will: InboxId(194) }]);
    assert_eq!(places(&keyspace), [(193, Place::Mark), (194, Place::Mark)]);
    let again = keyspace.reopen(Box::new(InboxCoprocessor::new()));
    submit(&again, &[end(257, 1, 0), end(130, 1, 0)]);
    assert_eq!(places(&again), [(257, Place::Mark), (194, Place::Mark)]);
}

#[test]
fn what_is_needed_is_not_swept() {
    let keyspace = keyspace();
    submit(&keyspace, &[fan(&[(1, 5), (2, 5)]), end(65, 1, 0)]);
    let before = keyspace.content();
    let body = Key::new(InboxId(1), Place::Body(5)).to_bytes();
    let mark = Key::new(InboxId(65), Place::Mark).to_bytes();
    submit(&keyspace, &[Effect::Sweep { key: &body }, Effect::Sweep { key: &mark }]);
    assert_eq!(keyspace.content(), before);
    let entry = |inbox| Key::new(InboxId(inbox), Place::Entry(5)).to_bytes();
    submit(&keyspace, &[Effect::Sweep { key: &entry(1) }, Effect::Sweep { key: &entry(2) }]);
    assert_eq!(bodies(&keyspace), 0, "the last reference takes it along");
}

/// All of it or nothing.
#[test]
fn a_command_that_makes_no_sense_changes_nothing() {
    let keyspace = keyspace();
    let mut command = vec![VERSION];
    Effect::Session { inbox: InboxId(1), record: b"r" }.encode(&mut command);
    command.push(0xFF);
    let answer = Fate::Applied(Bytes::from_static(MALFORMED));
    keyspace.submit(b"", command.into(), Box::new(move |fate| assert_eq!(fate, answer)));
    keyspace.settle();
    assert!(keyspace.content().is_empty());
}
