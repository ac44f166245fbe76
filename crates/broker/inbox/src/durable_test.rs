//! Behaviour of sessions that are kept in a log: what waits for it, and what is there after a crash.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::{Busy, Done, Fate, Keyspace, Read, held::HeldKeyspace};
use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_codec::{PacketId, Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call, Message, ReplyTo, Ticket,
    call::Settlement,
    dist::InboxRoute,
    group::{Group, Member, MemberTarget},
    inbox::{
        Attach, Attached, Claim, Detach, FetchBudget, Inbox, InboxId, Sequence, SharedRoute,
        SubscribeOutcome, Subscription, Targets,
    },
};

use ratatosk_engine::Error;

use crate::{
    InboxCoprocessor,
    effect::{Effect, Target, VERSION},
    fake::{BUDGET, Bench, bench_in, bench_on, identity, message, owner, payloads, seconds},
    schema::{Head, Key, Place},
};

const T0: Instant = Instant::ZERO;
const DONE: Settlement = Settlement::Done;

/// A service whose log is in the hands of the test.
struct Node {
    bench: Bench,
    keyspace: Arc<HeldKeyspace>,
}

fn epoch() -> Epoch {
    Epoch::new(T0, Timestamp::from_millis(1_700_000_000_000))
}

fn coprocessor() -> Box<InboxCoprocessor> {
    Box::new(InboxCoprocessor::new())
}

fn node() -> Node {
    Node::on(HeldKeyspace::new(coprocessor()), T0)
}

fn reply(ticket: u64) -> Option<ReplyTo> {
    Some(ReplyTo { session: owner(900), ticket: Ticket(ticket) })
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

impl Node {
    fn on(keyspace: Arc<HeldKeyspace>, now: Instant) -> Self {
        let bench = bench_in(&keyspace, epoch(), now);
        Node { bench, keyspace }
    }

    /// What is there after a crash at this moment.
    fn crash(&self, now: Instant) -> Node {
        Node::on(self.keyspace.crash(coprocessor()), now)
    }

    /// A session with a subscription of its own, both durable.
    fn session(&self, client: &str) -> Claim {
        let claim = self.bench.attach(client, T0).claim;
        let outcome = self.bench.subscribe(claim, client, Qos::ExactlyOnce);
        assert!(matches!(outcome, SubscribeOutcome::Done { .. }));
        self.keyspace.settle();
        claim
    }

    fn route(&self, claim: Claim) -> InboxRoute {
        let routes = self.bench.routes.inboxes.lock();
        routes.iter().find(|held| held.1.inbox == claim.inbox).unwrap().1
    }

    fn append(&self, claims: &[Claim], message: &Message<'_>, ticket: u64) -> Call<Settlement> {
        let routes: Vec<_> = claims.iter().map(|claim| self.route(*claim)).collect();
        let targets = Targets { routes: &routes, shared: &[] };
        self.bench.inbox.append(targets, message, None, reply(ticket), &mut Vec::new())
    }

    fn settled(&self) -> Vec<(u64, Settlement)> {
        self.bench.sessions.take_settled()
    }

    /// The keys of a session that are left.
    fn places(&self, inbox: InboxId) -> Vec<Place> {
        let keys = self.keyspace.content();
        let keys = keys.iter().map(|(key, _)| Key::parse(key).unwrap());
        keys.filter(|key| key.inbox == inbox).map(|key| key.place).collect()
    }
}

fn attach_with(node: &Node, client: &str, will: Option<&str>) -> Attached {
    let will = will.map(|payload| {
        let deadline = Some(seconds(30));
        let will = Message { deadline, ..message(payload, Qos::AtMostOnce) };
        (Arc::new(will.to_stored()), 5)
    });
    let (identity, limits) = (&identity(client), node.bench.limits);
    let expiry_s = Some(100);
    let attach =
        Attach { identity, owner: owner(7), is_clean: false, expiry_s, limits, will, now: T0 };
    node.bench.inbox.attach(&attach, None).answer
}

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
    let attached = inbox.attach(&attach, reply(1));
    let claim = attached.answer.claim;
    let subscription = Subscription {
        filter: "a".into(),
        options: SubscriptionOptions::new(Qos::ExactlyOnce),
        subscription_id: Some(3),
    };
    let told = [
        attached.is_durable,
        inbox.subscribe(claim, &subscription, reply(2)).is_durable,
        inbox.inbound(claim, id(5), false, reply(3)).unwrap().is_durable,
        inbox.inbound(claim, id(5), true, reply(4)).unwrap().is_durable,
        inbox.unsubscribe(claim, "a", reply(5)).unwrap().is_durable,
        inbox.unsubscribe(claim, "a", reply(6)).unwrap().is_durable,
        inbox
            .detach(claim, Detach { expiry_s: None, will: None, now: T0 }, reply(7))
            .unwrap()
            .is_durable,
        inbox.discard(identity, T0, reply(8)).is_durable,
        inbox.discard(identity, T0, reply(9)).is_durable,
    ];
    assert_eq!(told, [false; 9], "the second discard waits for the first, too");
    assert!(node.settled().is_empty());
    node.keyspace.settle();
    let tickets: Vec<u64> = node.settled().iter().map(|settled| settled.0).collect();
    assert_eq!(tickets, (1..=9).collect::<Vec<_>>());
    assert!(inbox.discard(identity, T0, reply(10)).is_durable, "there is nothing to wait for");
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
    let targets = Targets::default();
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
    let targets = Targets { routes: &routes, shared: &[] };
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
    let _ = node.bench.inbox.subscribe(claim, &shared, None);
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
            1 => assert!(node.bench.inbox.discard(&identity("c"), T0, None).answer),
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
        let kept = node.bench.inbox.keep_will(&identity("c"), owner(1), &will, 0, None).answer;
        node.bench.inbox.withdraw_will(kept);
        known.push((InboxId(kept.0), 0));
        known.push((attached.claim.inbox, attached.incarnation));
        if round % 2 == 0 {
            let _ = node.bench.inbox.discard(&identity("c"), now, None);
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

/// MQTT-049, INBOX-011: from the crash on; MQTT-050: not if the client is back in time.
#[test]
fn the_will_of_a_connection_is_published_if_the_node_dies() {
    let node = node();
    let claim = attach_with(&node, "c", Some("w")).claim;
    node.keyspace.settle();
    let after = node.crash(seconds(60));
    assert!(after.bench.expire(seconds(64)).is_empty());
    assert_eq!(after.bench.expire(seconds(65)), ["w"]);
    assert!(after.bench.expire(seconds(99)).is_empty(), "who has it has it once");
    let again = after.crash(seconds(99));
    assert_eq!(again.bench.expire(seconds(199)), ["w"], "nobody said that it was published");

    let back = node.crash(seconds(60));
    attach_with(&back, "c", None);
    assert!(back.bench.expire(seconds(64)).is_empty());
    back.keyspace.settle();
    assert!(back.crash(seconds(70)).bench.expire(seconds(1_000)).is_empty());

    node.bench.detach(claim, T0);
    node.keyspace.settle();
    assert!(node.crash(T0).bench.expire(seconds(1_000)).is_empty(), "it left in order");
}

/// Its time to live begins when it is due.
#[test]
fn the_deadline_of_a_will_counts_from_when_it_is_due() {
    let node = node();
    attach_with(&node, "c", Some("w"));
    node.keyspace.settle();
    let after = node.crash(seconds(60));
    let mut wills = Vec::new();
    after.bench.inbox.expire(seconds(65), 9, &mut wills);
    assert_eq!(wills[0].message.deadline, Some(seconds(95)));
    after.bench.inbox.will_sent(wills[0].id);
    after.keyspace.settle();
    assert!(after.crash(seconds(70)).bench.expire(seconds(1_000)).is_empty(), "once");
}

/// MQTT-049, INBOX-011: a will that waits goes on waiting, and is due with its session at last.
#[test]
fn a_will_that_waits_survives_a_crash() {
    let node = node();
    for (client, delay_s) in [("c", 20), ("d", 5_000)] {
        let claim = attach_with(&node, client, None).claim;
        node.bench.detach_as(claim, seconds(10), Some(50), Some((client, delay_s)));
    }
    node.keyspace.settle();
    let after = node.crash(seconds(20));
    assert!(after.bench.expire(seconds(29)).is_empty());
    assert_eq!(after.bench.expire(seconds(30)), ["c"]);
    assert_eq!(after.bench.expire(seconds(60)), ["d"]);
    after.keyspace.settle();
    let mut again = after.crash(seconds(61)).bench.expire(seconds(61));
    again.sort();
    assert_eq!(again, ["c", "d"], "neither was said to be published");
    // A clean start takes a will that waits along. [MQTT-3.1.2-8]
    let clean = node.crash(seconds(20));
    let _ = clean.bench.inbox.discard(&identity("c"), seconds(20), None);
    clean.keyspace.settle();
    assert_eq!(clean.crash(seconds(20)).bench.expire(seconds(100)), ["d"]);
}

/// DUR-002: a will that was due, and not yet published when the client came back, is not put off by
/// the next crash, and does not take the place of the will that the client has now.
#[test]
fn a_will_keeps_its_time_over_a_second_crash() {
    let node = node();
    attach_with(&node, "c", Some("first"));
    node.keyspace.settle();
    let back = node.crash(seconds(60));
    let second = Arc::new(message("second", Qos::AtMostOnce).to_stored());
    let attach = Attach {
        identity: &identity("c"),
        owner: owner(7),
        is_clean: false,
        expiry_s: Some(100),
        limits: back.bench.limits,
        will: Some((second, 20)),
        now: seconds(70),
    };
    let _ = back.bench.inbox.attach(&attach, None);
    back.keyspace.settle();
    let after = back.crash(seconds(80));
    assert_eq!(after.bench.expire(seconds(80)), ["first"], "it was due at 65");
    assert!(after.bench.expire(seconds(99)).is_empty());
    assert_eq!(after.bench.expire(seconds(100)), ["second"]);
}

#[test]
fn the_will_of_a_transient_session_is_kept_until_it_is_withdrawn() {
    let node = node();
    let inbox = &node.bench.inbox;
    let keep = |client: &str, delay_s, ticket| {
        let will = Arc::new(message(client, Qos::AtMostOnce).to_stored());
        inbox.keep_will(&identity(client), owner(1), &will, delay_s, reply(ticket))
    };
    let (c, d) = (keep("c", 0, 1), keep("d", 3, 2));
    assert!(!c.is_durable && node.settled().is_empty());
    node.keyspace.settle();
    assert_eq!(node.settled(), [(1, DONE), (2, DONE)]);
    assert!(inbox.is_empty() && node.bench.expire(seconds(100)).is_empty(), "they live");
    let after = node.crash(seconds(10));
    assert_eq!(after.bench.expire(seconds(10)), ["c"]);
    assert_eq!(after.bench.expire(seconds(13)), ["d"]);
    inbox.withdraw_will(c.answer);
    inbox.withdraw_will(d.answer);
    node.keyspace.settle();
    assert!(node.crash(T0).bench.expire(seconds(100)).is_empty());
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
    assert!(node.keyspace.waiting() >= 4);
    loop {
        let after = node.crash(T0);
        let mut all = Vec::new();
        for client in ["c", "d"] {
            let back = after.bench.attach(client, T0);
            all.extend(
                payloads(&after.bench.fetch_all(back.claim)).iter().map(|text| (*text).to_owned()),
            );
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
    let targets = Targets { routes: &routes, shared: &[] };
    let qos1 = message("1", Qos::AtLeastOnce);
    let call = bench.inbox.append(targets, &qos1, None, reply(1), &mut Vec::new());
    assert_eq!(call, Call::Pending);
    let owed = std::mem::take(&mut *keyspace.owed.lock());
    owed.into_iter().for_each(|done| done(Fate::Unknown));
    assert_eq!(bench.sessions.take_settled(), [(1, Settlement::Unknown)]);
    assert!(bench.fetch_all(claim).is_empty());
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
