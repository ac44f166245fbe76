//! What the keyspace holds of sessions: nothing twice, nothing that belongs to nobody, and little more
//! than users wrote.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::Keyspace;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message,
    inbox::{Inbox, InboxId, Sequence},
};

use crate::{
    durable_fixture::{Node, T0, coprocessor, id, node},
    effect::{Effect, Target, VERSION},
    fake::{BUDGET, identity, message, owner, payloads, seconds},
    schema::{Head, Key, Place},
};

/// INBOX-010: however it ends.
#[test]
fn every_key_of_an_ended_session_is_gone() {
    for way in 0..4 {
        let node = node();
        let (claim, other) = (node.session("c"), node.session("d"));
        for filter in ["x", "y", "$share/g/z"] {
            node.bench.subscribe(claim, filter, Qos::AtLeastOnce);
        }
        assert!(node.bench.inbox.unsubscribe(claim, "x", None).is_ok());
        assert!(node.bench.inbox.inbound(claim, id(1), false, None).is_ok());
        for payload in ["1", "2", "3"] {
            node.append(&[claim], &message(payload, Qos::ExactlyOnce), 1);
        }
        node.append(&[other, claim], &message("both", Qos::AtLeastOnce), 1);
        node.keyspace.settle();
        node.bench.fetch_all(claim);
        assert!(node.bench.inbox.received(claim, Sequence(2), None).is_ok());
        node.bench.inbox.commit(claim, Sequence(1)).unwrap();
        match way {
            0 => node.bench.detach_as(claim, T0, Some(0), None),
            1 => assert!(node.bench.inbox.discard_session(&identity("c"), T0, None).answer),
            2 => drop(node.bench.attach_as("c", T0, true, Some(100))),
            _ => {
                node.bench.detach_as(claim, T0, Some(50), None);
                node.bench.expire(seconds(50));
            }
        }
        node.keyspace.settle();
        assert_eq!(node.places(claim.inbox), [Place::Mark], "{way}");
        let after = node.crash(seconds(60));
        let d = after.bench.attach("d", seconds(60)).claim;
        assert_eq!(payloads(&after.bench.fetch_all(d)), ["both"], "{way}");
        node.bench.inbox.commit(other, Sequence(1)).unwrap();
    }
}

/// INBOX-008: as long as one of them has it.
#[test]
fn a_message_for_many_is_stored_once() {
    let node = node();
    let claims: Vec<_> = ["c", "d", "e"].iter().map(|client| node.session(client)).collect();
    let payload = "x".repeat(1_000);
    node.append(&claims, &message(&payload, Qos::AtLeastOnce), 1);
    node.keyspace.settle();
    let holding = |node: &Node| {
        let content = node.keyspace.content();
        content.iter().filter(|(_, value)| value.len() >= 1_000).count()
    };
    assert_eq!(holding(&node), 1);
    let after = node.crash(T0);
    let back: Vec<_> =
        ["c", "d", "e"].iter().map(|client| after.bench.attach(client, T0).claim).collect();
    let entries: Vec<_> = back.iter().flat_map(|claim| after.bench.fetch_all(*claim)).collect();
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| Arc::ptr_eq(&entry.message, &entries[0].message)));
    for (count, claim) in back.iter().enumerate() {
        assert_eq!(holding(&after), 1, "{count} have it behind them");
        after.bench.inbox.commit(*claim, Sequence(1)).unwrap();
        after.keyspace.settle();
    }
    assert_eq!(holding(&after), 0);
}

/// Neither within a process nor in a later one, also where nothing of them is left.
#[test]
fn numbers_and_lives_are_never_given_again() {
    let mut node = node();
    let mut known: Vec<(InboxId, u64)> = Vec::new();
    for round in 0..5 {
        let now = seconds(round);
        let attached = node.bench.attach_as("c", now, true, Some(100));
        let will = Arc::new(message("w", Qos::AtMostOnce).to_stored());
        let kept =
            node.bench.inbox.keep_will(&identity("c"), owner(1), &will, 0, None).unwrap().answer;
        node.bench.inbox.withdraw_will(kept);
        known.push((InboxId(kept.0), 0));
        known.push((attached.claim.inbox, attached.incarnation));
        if round % 2 == 0 {
            let _ = node.bench.inbox.discard_session(&identity("c"), now, None);
        }
        node.keyspace.settle();
        node = if round < 3 {
            node.crash(T0)
        } else {
            Node::on(node.keyspace.reopen(coprocessor()), T0)
        };
    }
    let numbers: std::collections::BTreeSet<_> = known.iter().map(|known| known.0).collect();
    assert_eq!(numbers.len(), known.len());
    let lives: Vec<_> = known.iter().map(|known| known.1).filter(|life| *life != 0).collect();
    assert!(lives.is_sorted_by(|one, other| one < other), "{lives:?}");
}

/// Of two sessions of one identity the later is right.
#[test]
fn what_belongs_to_nobody_is_swept() {
    let node = node();
    let inbox = node.session("c").inbox;
    let (older, loose) = (InboxId(inbox.0 + 640), InboxId(inbox.0 + 641));
    let newer = InboxId(inbox.0 + 6_400);
    let session = |number| {
        let content = node.keyspace.content();
        let record =
            content.iter().find(|(key, _)| *key == Key::new(inbox, Place::Session).to_bytes());
        let mut command = vec![VERSION];
        let record = &record.unwrap().1;
        Effect::Session { inbox: number, record }.encode(&mut command);
        command
    };
    let mut command = session(older);
    let head = Head { is_qos2: false, retain: false, subscription_id: None, origin: None };
    let target = |inbox| Target { inbox, sequence: 1, head };
    let targets = vec![target(older), target(loose)];
    Effect::Fan { targets, message: b"\x01\x01am" }.encode(&mut command);
    Effect::Accepted { inbox: loose, packet_id: id(1) }.encode(&mut command);
    command.extend(&session(newer)[1..]);
    node.keyspace.submit(b"", command.into(), Box::new(|_| {}));
    node.keyspace.settle();
    let after = node.crash(T0);
    after.keyspace.settle();
    assert_eq!(after.bench.inbox.len(), 1);
    assert_eq!(after.places(newer), [Place::Session, Place::Position]);
    let left: Vec<_> =
        after.keyspace.content().iter().map(|held| Key::parse(&held.0).unwrap()).collect();
    let others = left.iter().filter(|key| key.inbox != newer && key.place != Place::Mark);
    assert_eq!(others.count(), 0, "{left:?}");
    assert_eq!(after.bench.attach("c", T0).claim.inbox, newer);
    let clean = after.bench.attach_as("c", T0, true, Some(1)).claim.inbox;
    assert!(clean > newer, "numbers go on behind the largest");
}

/// What is written to the disk for each byte of a user.
#[test]
fn a_message_costs_little_more_than_its_bytes() {
    let node = node();
    let claim = node.session("c");
    let before: usize = node.keyspace.log().iter().map(Bytes::len).sum();
    let payload = "x".repeat(256);
    const COUNT: u64 = 1_000;
    for number in 1..=COUNT {
        let topic = "sensors/building/7/temp";
        let deadline = Some(seconds(1_000));
        let qos1 = Message { topic, deadline, ..message(&payload, Qos::AtLeastOnce) };
        node.append(&[claim], &qos1, number);
        node.keyspace.settle();
        node.bench.fetch(claim, Sequence(number - 1), BUDGET);
        node.bench.inbox.commit(claim, Sequence(number)).unwrap();
    }
    node.keyspace.settle();
    let written: usize = node.keyspace.log().iter().map(Bytes::len).sum::<usize>() - before;
    let user = 256 * usize::try_from(COUNT).unwrap();
    assert!(written * 100 <= user * 123, "{written} bytes for {user}");
}
