//! Behaviour of sessions that are kept in a log: what waits for it, and what is there after a crash.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::{Busy, Done, Fate, Keyspace, Read};
use ratatosk_clock::{Epoch, Timestamp};
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call, Message,
    call::Settlement,
    dist::InboxRoute,
    group::{Group, Member, MemberTarget},
    inbox::{
        Attach, Claim, Detach, FetchBudget, Inbox, Sequence, SharedRoute, SubscribeOutcome,
        Subscription, Targets,
    },
};
use ratatosk_engine::Error;

use crate::{
    durable_fixture::{DONE, Node, T0, coprocessor, epoch, id, node, reply},
    fake::{BUDGET, bench_in, bench_on, identity, message, owner, payloads, seconds, tenant},
    schema::{Key, Place},
};

/// DUR-009: nothing is handed out and nobody is told before the log has it; then all are.
#[test]
fn nothing_is_deliverable_or_settled_before_it_is_durable() {
    let node = node();
    let (c, d) = (node.session("c"), node.session("d"));
    assert!(node.bench.fetch_all(c).is_empty());
    for (ticket, payload) in [(1, "1"), (2, "2")] {
        let call = node.append(&[c, d], &message(payload, Qos::AtLeastOnce), ticket);
        assert_eq!(call, Call::Pending);
    }
    assert!(node.bench.fetch_all(c).is_empty() && node.bench.fetch_all(d).is_empty());
    assert!(node.bench.sessions.take_ready().is_empty());
    node.keyspace.settle_some(1);
    assert_eq!(node.settled(), [(1, DONE)]);
    assert_eq!(node.bench.sessions.take_ready().len(), 2, "both owners waited");
    assert_eq!(payloads(&node.bench.fetch_all(c)), ["1"]);
    node.keyspace.settle();
    assert_eq!(node.settled(), [(2, DONE)]);
    assert_eq!(payloads(&node.bench.fetch_all(c)), ["1", "2"]);
    assert_eq!(payloads(&node.bench.fetch_all(d)), ["1", "2"]);
}

/// DUR-009: each promise is kept once, in its order.
#[test]
fn who_was_promised_something_is_told_once_it_is_durable() {
    let node = node();
    let (identity, limits) = (&identity("c"), node.bench.limits);
    let expiry_s = Some(100);
    let (is_clean, will) = (false, None);
    let attach = Attach { identity, owner: owner(1), is_clean, expiry_s, limits, will, now: T0 };
    let inbox = &node.bench.inbox;
    let attached = inbox.attach_owner(&attach, reply(1));
    let claim = attached.answer.claim;
    let subscription = Subscription {
        filter: "a".into(),
        options: SubscriptionOptions::new(Qos::ExactlyOnce),
        subscription_id: Some(3),
    };
    let told = [
        attached.is_durable,
        inbox.put_subscription(claim, &subscription, reply(2)).is_durable,
        inbox.inbound(claim, id(5), false, reply(3)).unwrap().is_durable,
        inbox.inbound(claim, id(5), true, reply(4)).unwrap().is_durable,
        inbox.unsubscribe(claim, "a", reply(5)).unwrap().is_durable,
        inbox.unsubscribe(claim, "a", reply(6)).unwrap().is_durable,
        inbox
            .detach(claim, Detach { expiry_s: None, will: None, now: T0 }, reply(7))
            .unwrap()
            .is_durable,
        inbox.discard_session(identity, T0, reply(8)).is_durable,
        inbox.discard_session(identity, T0, reply(9)).is_durable,
    ];
    assert_eq!(told, [false; 9], "the second discard waits for the first, too");
    assert!(node.settled().is_empty());
    node.keyspace.settle();
    let tickets: Vec<u64> = node.settled().iter().map(|settled| settled.0).collect();
    assert_eq!(tickets, (1..=9).collect::<Vec<_>>());
    assert!(
        inbox.discard_session(identity, T0, reply(10)).is_durable,
        "there is nothing to wait for"
    );
}

/// Refused before anything was changed; what may not be refused goes on.
#[test]
fn a_busy_store_refuses_messages_and_subscriptions() {
    let node = node();
    let claim = node.session("c");
    let before = node.keyspace.log().len();
    node.keyspace.set_busy(true);
    let refused = node.append(&[claim], &message("1", Qos::AtLeastOnce), 1);
    assert_eq!(refused, Call::Ready(Settlement::Busy));
    assert_eq!(node.bench.subscribe(claim, "x", Qos::AtMostOnce), SubscribeOutcome::Busy);
    let exchange = Some((claim, id(9)));
    let targets = Targets { tenant: &tenant(), routes: &[], shared: &[] };
    let qos2 = message("2", Qos::ExactlyOnce);
    let call = node.bench.inbox.append(targets, &qos2, exchange, reply(2), &mut Vec::new());
    assert_eq!(call, Call::Ready(Settlement::Busy));
    assert_eq!(node.keyspace.waiting(), 0);
    assert_eq!(node.append(&[claim], &message("0", Qos::AtMostOnce), 3), Call::Ready(DONE));
    node.bench.detach(claim, T0);
    let attached = node.bench.attach("c", T0);
    assert!(attached.inbound.is_empty());
    assert_eq!(attached.subscriptions.len(), 1);
    node.keyspace.settle();
    assert_eq!(node.keyspace.log().len(), before + 2);
    assert_eq!(node.bench.inbox.stats().queued, 0);
}

/// DUR-010: [MQTT-4.3.3-10] a message that is sent again after a crash is recognised if it was
/// queued, and only then.
#[test]
fn an_exchange_is_accepted_with_its_message_or_not_at_all() {
    let node = node();
    let (publisher, claim) = (node.session("p"), node.session("c"));
    let routes = [node.route(claim)];
    let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
    let qos2 = message("1", Qos::ExactlyOnce);
    let exchange = Some((publisher, id(9)));
    let call = node.bench.inbox.append(targets, &qos2, exchange, reply(1), &mut Vec::new());
    assert_eq!(call, Call::Pending);
    assert_eq!(node.keyspace.waiting(), 1, "one command");
    let lost = node.crash(T0);
    assert!(lost.bench.attach("p", T0).inbound.is_empty());
    assert!(lost.bench.fetch_all(lost.bench.attach("c", T0).claim).is_empty());
    node.keyspace.settle();
    let kept = node.crash(T0);
    assert_eq!(kept.bench.attach("p", T0).inbound, [id(9)]);
    assert_eq!(payloads(&kept.bench.fetch_all(kept.bench.attach("c", T0).claim)), ["1"]);
    // Whoever was taken over puts nothing into queues.
    node.bench.attach("p", T0);
    node.keyspace.settle();
    let call = node.bench.inbox.append(targets, &qos2, exchange, reply(2), &mut Vec::new());
    assert_eq!(call, Call::Ready(Settlement::Unknown));
    assert_eq!(node.keyspace.waiting(), 0);
    assert_eq!(node.bench.inbox.stats().queued, 1);
}

/// MQTT-043, DUR-002: with its subscriptions, their routes, and what it was to get.
#[test]
fn a_session_is_there_after_a_crash() {
    let node = node();
    let claim = node.session("c");
    let options =
        SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtLeastOnce) };
    let shared = Subscription { filter: "$share/g/x".into(), options, subscription_id: Some(77) };
    let _ = node.bench.inbox.put_subscription(claim, &shared, None);
    let deadline = Some(seconds(50));
    node.append(&[claim], &Message { deadline, ..message("1", Qos::AtLeastOnce) }, 1);
    assert!(node.bench.inbox.inbound(claim, id(8), false, None).is_ok());
    node.keyspace.settle();
    for again in [node.crash(seconds(9)), Node::on(node.keyspace.reopen(coprocessor()), seconds(9))]
    {
        assert_eq!(again.bench.inbox.len(), 1);
        assert_eq!(again.bench.inbox.stats().attached, 0);
        assert_eq!(again.bench.routes.inboxes.lock().len(), 1);
        let groups = again.bench.routes.groups.lock().clone();
        assert!(!groups[0].members[0].is_online(), "nobody is connected");
        let back = again.bench.attach("c", seconds(10));
        assert!(back.is_present && back.claim.version > claim.version);
        assert_eq!(back.claim.inbox, claim.inbox);
        assert_eq!(back.inbound, [id(8)]);
        assert_eq!(back.subscriptions.len(), 2);
        assert_eq!(back.subscriptions[0], shared);
        let entries = again.bench.fetch_all(back.claim);
        assert_eq!(payloads(&entries), ["1"]);
        assert_eq!(entries[0].message.deadline, deadline);
        again.bench.check_conservation();
    }
}

/// DUR-003, INBOX-007: what was committed does not come again, once that is durable; the rest does.
#[test]
fn a_commit_is_for_ever_once_it_is_durable() {
    let node = node();
    let claim = node.session("c");
    for payload in ["1", "2", "3"] {
        node.append(&[claim], &message(payload, Qos::AtLeastOnce), 1);
    }
    node.keyspace.settle();
    node.bench.fetch_all(claim);
    node.bench.inbox.commit(claim, Sequence(2)).unwrap();
    node.keyspace.settle();
    node.bench.inbox.commit(claim, Sequence(1)).unwrap();
    let after = node.crash(T0);
    let back = after.bench.attach("c", T0);
    let entries = after.bench.fetch_all(back.claim);
    assert_eq!(payloads(&entries), ["1", "3"]);
    assert_eq!(entries[1].sequence, Sequence(3), "packet identifiers stay");
    // The next message has a sequence of its own, also when the queue was emptied.
    for sequence in [1, 3] {
        after.bench.inbox.commit(back.claim, Sequence(sequence)).unwrap();
    }
    after.keyspace.settle();
    let empty = after.crash(T0);
    let claim = empty.bench.attach("c", T0).claim;
    empty.append(&[claim], &message("4", Qos::AtLeastOnce), 1);
    empty.keyspace.settle();
    assert_eq!(empty.bench.fetch_all(claim)[0].sequence, Sequence(4));
}

/// MQTT-044: what may have been sent counts as sent; [MQTT-3.3.2-5] but only what surely was
/// outlives its time.
#[test]
fn what_may_have_been_sent_is_a_resend_after_a_crash() {
    let node = node();
    let claim = node.session("c");
    for payload in ["1", "2", "3"] {
        let deadline = Some(seconds(10));
        let qos1 = Message { deadline, ..message(payload, Qos::AtLeastOnce) };
        node.append(&[claim], &qos1, 1);
    }
    node.keyspace.settle();
    node.bench.fetch(claim, Sequence(0), FetchBudget { messages_max: 2, ..BUDGET });
    let after = node.crash(T0);
    assert_eq!(after.bench.attach("c", T0).sent, Sequence(3), "nobody noted how far it was");
    node.bench.detach(claim, T0);
    node.keyspace.settle();
    let detached = node.crash(T0);
    assert_eq!(detached.bench.attach("c", T0).sent, Sequence(2));
    let twice = after.crash(T0);
    assert_eq!(twice.bench.attach("c", T0).sent, Sequence(3), "the first crash is remembered");
    after.keyspace.settle();
    let twice = after.crash(T0);
    let back = twice.bench.attach("c", T0);
    assert_eq!(back.sent, Sequence(3));
    let late = FetchBudget { now: seconds(10), ..BUDGET };
    assert!(twice.bench.fetch(back.claim, Sequence(0), late).is_empty());
    let back = detached.bench.attach("c", T0);
    let entries = detached.bench.fetch(back.claim, Sequence(0), late);
    assert_eq!(payloads(&entries), ["1", "2"], "an exchange that has begun goes on");
}

/// MQTT-045: [MQTT-4.4.0-1] only the PUBREL is owed.
#[test]
fn a_pubrec_survives_a_crash() {
    let node = node();
    let claim = node.session("c");
    node.append(&[claim], &message("1", Qos::ExactlyOnce), 1);
    node.append(&[claim], &message("2", Qos::ExactlyOnce), 2);
    node.keyspace.settle();
    node.bench.fetch_all(claim);
    assert!(!node.bench.inbox.received(claim, Sequence(1), reply(3)).unwrap().is_durable);
    node.keyspace.settle();
    assert_eq!(node.settled().last(), Some(&(3, DONE)));
    let after = node.crash(T0);
    let claim = after.bench.attach("c", T0).claim;
    let entries = after.bench.fetch_all(claim);
    let received: Vec<_> = entries.iter().map(|entry| entry.is_received).collect();
    assert_eq!(received, [true, false]);
    assert_eq!(entries[0].qos, Qos::ExactlyOnce);
    after.bench.inbox.commit(claim, Sequence(1)).unwrap();
    after.keyspace.settle();
    assert_eq!(after.places(claim.inbox).len(), 4, "session, subscription, position, one entry");
}

/// MQTT-046: over the crash of the broker, too.
#[test]
fn inbound_packet_ids_survive_a_crash() {
    let node = node();
    let claim = node.session("c");
    for (value, is_released) in [(7, false), (3, false), (9, false), (3, true)] {
        assert!(node.bench.inbox.inbound(claim, id(value), is_released, None).is_ok());
    }
    node.keyspace.settle();
    assert_eq!(node.crash(T0).bench.attach("c", T0).inbound, [id(7), id(9)]);
}

/// INBOX-013: who was connected has all of his time, who was not the rest of it.
#[test]
fn expiry_goes_on_after_a_crash() {
    let node = node();
    node.session("c");
    let d = node.session("d");
    node.bench.detach(d, seconds(10));
    node.keyspace.settle();
    let after = node.crash(seconds(60));
    after.keyspace.settle();
    // A process that begins later, whose time begins at zero.
    let late = Epoch::new(T0, Timestamp::from_millis(1_700_000_000_000 + 100_000));
    let keyspace = after.keyspace.crash(coprocessor());
    let bench = bench_in(&keyspace, late, T0);
    bench.expire(seconds(9));
    assert_eq!(bench.inbox.len(), 2);
    bench.expire(seconds(10));
    assert_eq!(bench.inbox.len(), 1, "100 s after it was detached");
    bench.expire(seconds(59));
    assert_eq!(bench.inbox.len(), 1);
    bench.expire(seconds(60));
    assert_eq!(bench.inbox.len(), 0, "100 s after the first crash");
    keyspace.settle();
    let kinds: Vec<_> =
        keyspace.content().iter().map(|(key, _)| Key::parse(key).unwrap().place).collect();
    assert!(kinds.iter().all(|place| *place == Place::Mark), "{kinds:?}");
}

fn group(node: &Node) -> Arc<Group> {
    Arc::clone(&node.bench.routes.groups.lock()[0])
}

fn append_shared(node: &Node, claim: Claim, payload: &str) {
    let group = group(node);
    let is_meant = |member: &&Member| member.target == MemberTarget::Inbox(claim.inbox);
    let member = group.members.iter().find(is_meant).unwrap();
    let route = InboxRoute {
        inbox: claim.inbox,
        incarnation: member.incarnation,
        options: member.options,
        subscription_id: member.subscription_id,
    };
    let shared = SharedRoute { route, group: Arc::clone(&group) };
    node.bench.append_shared(shared, &message(payload, Qos::AtLeastOnce));
}

/// MQTT-087: in one moment out of one queue and in the other, and a crash knows it, too.
#[test]
fn a_message_that_is_handed_over_is_in_one_queue_at_each_moment() {
    let node = node();
    let claims: Vec<_> = ["c", "d"]
        .iter()
        .map(|client| {
            let claim = node.bench.attach(client, T0).claim;
            node.bench.subscribe(claim, "$share/g/a", Qos::AtLeastOnce);
            claim
        })
        .collect();
    for payload in ["1", "2", "3"] {
        append_shared(&node, claims[0], payload);
    }
    node.keyspace.settle();
    // What came through a group is known as such after a crash.
    let node = node.crash(T0);
    let d = node.bench.attach("d", T0).claim;
    let c = node.bench.attach("c", T0).claim;
    node.keyspace.settle();
    node.bench.detach_as(c, T0, Some(0), None);
    assert!(node.keyspace.waiting() >= 2, "what it hands over, and its end");
    loop {
        let after = node.crash(T0);
        let back = ["c", "d"].map(|client| after.bench.attach(client, T0).claim);
        // The first takes over what waits at the other, and has it once that is durable.
        back.iter().for_each(|claim| drop(after.bench.fetch_all(*claim)));
        after.keyspace.settle();
        let mut all = Vec::new();
        for claim in back {
            let entries = after.bench.fetch_all(claim);
            all.extend(payloads(&entries).iter().map(|text| (*text).to_owned()));
        }
        all.sort();
        assert_eq!(all, ["1", "2", "3"]);
        if node.keyspace.waiting() == 0 {
            break;
        }
        node.keyspace.settle_some(1);
    }
    assert_eq!(payloads(&node.bench.fetch_all(d)), ["1", "2", "3"]);
    assert_eq!(node.places(c.inbox), [Place::Mark]);
    node.bench.check_conservation();
}

/// A store that has stopped: what becomes of a command nobody knows.
#[derive(Default)]
struct Stopped {
    owed: parking_lot::Mutex<Vec<ratatosk_client::Done>>,
}

impl Keyspace for Stopped {
    fn check(&self) -> Result<(), Busy> {
        Ok(())
    }

    fn submit(&self, _: &[u8], _: Bytes, done: Done) {
        self.owed.lock().push(done);
    }

    fn read(&self, _: &mut Read<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// The publisher is told that nobody knows, and the message is not handed out.
#[test]
fn what_may_be_lost_is_not_delivered() {
    let keyspace = Arc::new(Stopped::default());
    let bench = bench_on(Arc::clone(&keyspace) as _, epoch(), T0);
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    let routes = [bench.routes.inboxes.lock()[0].1];
    let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
    let qos1 = message("1", Qos::AtLeastOnce);
    let call = bench.inbox.append(targets, &qos1, None, reply(1), &mut Vec::new());
    assert_eq!(call, Call::Pending);
    let owed = std::mem::take(&mut *keyspace.owed.lock());
    owed.into_iter().for_each(|done| done(Fate::Unknown));
    assert_eq!(bench.sessions.take_settled(), [(1, Settlement::Unknown)]);
    assert!(bench.fetch_all(claim).is_empty());
}
