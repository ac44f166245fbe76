//! Partitions that come to be served here, and go.

use std::sync::Arc;

use ratatosk_clock::Instant;
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call,
    call::Settlement,
    inbox::{
        Attach, Claim, Detach, Inbox as _, NotServed, Sequence, StaleClaim, Subscription, Targets,
        WillId,
    },
    serving::Serving as _,
};

use ratatosk_telemetry::memory::Share;

use crate::{
    InboxStats, ResumeError,
    durable_fixture::{id, reply},
    fake::{BUDGET, Bench, identity, message, owner, payloads, seconds, tenant},
    partitions::{partition_number, partition_of},
    reign_fixture::{GROUP, World, apart, route_to},
    schema::Place,
};

const T0: Instant = Instant::ZERO;
const DONE: Settlement = Settlement::Done;

fn append(bench: &Bench, claims: &[Claim], payload: &str, ticket: u64) -> Call<Settlement> {
    let routes: Vec<_> = claims.iter().map(|claim| route_to(*claim)).collect();
    let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
    let message = message(payload, Qos::AtLeastOnce);
    bench.inbox.append(targets, &message, None, reply(ticket), &mut Vec::new())
}

fn attach_with_will(bench: &Bench, client: &str, delay_s: u32) -> Claim {
    let will = Arc::new(message("gone", Qos::AtMostOnce).to_stored());
    let (identity, limits) = (&identity(client), bench.limits);
    let (owner, expiry_s, will) = (owner(7), Some(100), Some((will, delay_s)));
    let attach = Attach { identity, owner, is_clean: false, expiry_s, limits, will, now: T0 };
    bench.inbox.attach_here(&attach, None).expect("it is served").answer.claim
}

/// INBOX-002: what is not read yet is nobody's.
#[test]
fn a_partition_is_served_once_it_is_read_and_as_long_as_the_reign_lasts() {
    let mut world = World::new(2);
    let place = partition_of(&identity("c"));
    let seats: Arc<parking_lot::Mutex<Vec<usize>>> = Arc::default();
    let its = Arc::clone(&seats);
    world.nodes[0].bench.inbox.watch_seats(Box::new(move |number| its.lock().push(number)));
    let bench = &world.nodes[0].bench;
    assert_eq!(bench.inbox.serves(place), None);
    let (identity, limits) = (&identity("c"), bench.limits);
    let (owner, expiry_s) = (owner(7), Some(100));
    let attach = Attach { identity, owner, is_clean: false, expiry_s, limits, will: None, now: T0 };
    assert_eq!(bench.inbox.attach_here(&attach, None).err(), Some(NotServed));
    assert_eq!(bench.inbox.discard_here(identity, T0, None), Err(NotServed));
    let will = Arc::new(message("gone", Qos::AtMostOnce).to_stored());
    assert_eq!(bench.inbox.keep_will_here(identity, (&will, 0), None), Err(NotServed));
    world.settle(T0);
    assert_eq!(seats.lock().len(), 64);
    let bench = &world.nodes[0].bench;
    let term = bench.inbox.serves(place).expect("it is served");
    let claim = bench.attach("c", T0).claim;
    assert_eq!(append(bench, &[claim], "1", 1), Call::Pending);
    assert_eq!((bench.inbox.len(), bench.inbox.stats().queued), (1, 1));
    world.lead(GROUP, 1, usize::MAX);
    assert_eq!(seats.lock().len(), 128);
    let bench = &world.nodes[0].bench;
    assert_eq!((bench.inbox.serves(place), bench.inbox.len()), (None, 0));
    assert_eq!(bench.inbox.fetch(claim, Sequence(0), BUDGET, &mut Vec::new()), Err(StaleClaim));
    assert_eq!(append(bench, &[claim], "2", 2), Call::Ready(Settlement::Busy));
    let stats = bench.inbox.stats();
    assert_eq!((stats.sessions, stats.queued, stats.left, stats.appended), (0, 0, 1, 1));
    assert_eq!(bench.sessions.take_settled(), [(1, DONE)]);
    world.settle(T0);
    assert!(world.nodes[1].bench.inbox.serves(place).is_some_and(|now| now > term));
    assert_eq!(world.nodes[1].bench.inbox.len(), 1);
}

/// INBOX-013, DUR-003: an owner goes on where his session is served now, under the same claim.
#[test]
fn an_owner_goes_on_at_the_next_node_with_what_he_has_not_committed() {
    let mut world = World::served(2);
    let bench = &world.nodes[0].bench;
    let claim = bench.attach("c", T0).claim;
    for text in ["1", "2", "3"] {
        assert_eq!(append(bench, &[claim], text, 1), Call::Pending);
    }
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!(payloads(&bench.fetch_all(claim)), ["1", "2", "3"]);
    bench.inbox.commit(claim, Sequence(1)).expect("it is the owner");
    world.settle(T0);
    world.lead(GROUP, 1, 0);
    world.settle(T0);
    let (before, now) = (&world.nodes[0].bench, &world.nodes[1].bench);
    assert_eq!(before.inbox.resume(claim, owner(9)).err(), Some(ResumeError::NotServed));
    let stale = Claim { version: claim.version - 1, ..claim };
    assert_eq!(now.inbox.resume(stale, owner(9)).err(), Some(ResumeError::Stale));
    assert_eq!(now.inbox.fetch(claim, Sequence(0), BUDGET, &mut Vec::new()), Err(StaleClaim));
    assert!(now.inbox.is_awaited(claim) && !now.inbox.is_awaited(stale));
    assert!(!before.inbox.is_awaited(claim), "it is served elsewhere");
    let stats = now.inbox.stats();
    assert_eq!((stats.sessions, stats.attached), (1, 0), "neither here nor away");
    let attached = now.inbox.resume(claim, owner(9)).expect("he is the owner");
    assert_eq!((attached.claim, attached.is_present), (claim, true));
    assert!(!now.inbox.is_awaited(claim));
    assert_eq!(payloads(&now.fetch(claim, Sequence(2), BUDGET)), ["3"]);
    assert_eq!(payloads(&now.fetch_all(claim)), ["2", "3"], "what was committed is gone");
    let _ = append(now, &[claim], "4", 2);
    world.settle(T0);
    assert_eq!(world.nodes[1].bench.sessions.take_ready(), [owner(9)]);
    world.nodes[1].bench.expire(seconds(1_000));
    assert_eq!(world.nodes[1].bench.inbox.stats().attached, 1, "he is there");
    world.nodes[1].bench.detach(claim, seconds(1_000));
    let gone = world.nodes[1].bench.inbox.resume(claim, owner(9)).err();
    assert_eq!(gone, Some(ResumeError::Stale), "his connection has ended");
}

/// INBOX-003, INBOX-012: who leaves his session where it is served now need not go on there before; nobody
/// else can.
#[test]
fn an_owner_who_is_awaited_leaves_his_session() {
    let mut world = World::served(2);
    let claim = attach_with_will(&world.nodes[0].bench, "c", 0);
    world.settle(T0);
    world.lead(GROUP, 1, 0);
    world.settle(T0);
    let now = &world.nodes[1].bench;
    let stale = Claim { version: claim.version - 1, ..claim };
    let detach = || Detach { expiry_s: Some(100), will: None, now: T0 };
    assert_eq!(now.inbox.detach(stale, detach(), None).err(), Some(StaleClaim));
    let _ = now.inbox.detach(claim, detach(), None).expect("he is the owner");
    world.settle(T0);
    let now = &world.nodes[1].bench;
    assert!(now.expire(seconds(50)).is_empty(), "he said goodbye: there is no will");
    assert_eq!(now.inbox.resume(claim, owner(9)).err(), Some(ResumeError::Stale));
    assert!(now.attach("c", seconds(60)).is_present);
}

/// INBOX-012, MQTT-049: whose owner does not come has lost his connection when the time for that is over.
#[test]
fn a_session_that_nobody_resumes_is_abandoned_after_a_while() {
    let mut world = World::served(2);
    let claims = ["c", "d"].map(|client| attach_with_will(&world.nodes[0].bench, client, 20));
    world.settle(T0);
    world.lead(GROUP, 1, 0);
    world.settle(seconds(50));
    let bench = &world.nodes[1].bench;
    bench.inbox.resume(claims[0], owner(9)).expect("he is the owner");
    assert_eq!(bench.expire(seconds(59)), Vec::<String>::new());
    assert!(bench.inbox.resume(claims[1], owner(10)).is_ok(), "there is time yet");
    world.lead(GROUP, 0, 0);
    world.settle(seconds(60));
    let bench = &world.nodes[0].bench;
    bench.inbox.resume(claims[0], owner(9)).expect("he is the owner");
    assert_eq!(bench.expire(seconds(70)), Vec::<String>::new());
    assert_eq!(bench.inbox.resume(claims[1], owner(10)).err(), Some(ResumeError::Stale));
    assert_eq!(bench.expire(seconds(89)), Vec::<String>::new());
    assert_eq!(bench.expire(seconds(90)), ["gone"], "the delay begins when it is abandoned");
    assert_eq!(bench.expire(seconds(171)), Vec::<String>::new());
    assert_eq!(bench.inbox.len(), 1, "the other's time was over");
    world.settle(seconds(171));
    assert_eq!(world.keys_of(claims[1].inbox), [Place::Mark]);
}

/// INBOX-012, INBOX-013: who is known to be gone is not waited for, and what became of him is stored.
#[test]
fn an_abandoned_session_leaves_its_will_to_whoever_serves_it_then() {
    let mut world = World::served(2);
    let claim = attach_with_will(&world.nodes[0].bench, "c", 20);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    bench.inbox.abandon(claim, seconds(5)).expect("he was the owner");
    assert_eq!(bench.inbox.abandon(claim, seconds(5)), Err(ResumeError::Stale));
    assert_eq!(bench.inbox.resume(claim, owner(9)).err(), Some(ResumeError::Stale));
    world.settle(seconds(5));
    world.lead(GROUP, 1, 0);
    world.settle(seconds(6));
    let bench = &world.nodes[1].bench;
    assert_eq!(bench.expire(seconds(24)), Vec::<String>::new());
    assert_eq!(bench.expire(seconds(25)), ["gone"]);
    let attached = bench.attach("c", seconds(26));
    assert!(attached.is_present && attached.claim.version > claim.version);
    assert_eq!(attached.claim.inbox, claim.inbox);
}

/// INBOX-011: the will of a transient session moves with its partition.
#[test]
fn the_will_of_a_transient_session_waits_for_its_host() {
    let mut world = World::served(2);
    let will = Arc::new(message("gone", Qos::AtMostOnce).to_stored());
    let keep = |world: &World, client: &str| -> WillId {
        let inbox = &world.nodes[0].bench.inbox;
        inbox.keep_will_here(&identity(client), (&will, 3), None).expect("it is served").answer
    };
    let wills = ["a", "b", "c", "d"].map(|client| keep(&world, client));
    world.settle(T0);
    world.lead(GROUP, 1, 0);
    world.settle(seconds(10));
    let inbox = &world.nodes[1].bench.inbox;
    assert_eq!(inbox.resume_will(wills[0]), Ok(()));
    inbox.withdraw_will(wills[1]);
    assert_eq!(inbox.abandon_will(wills[2], seconds(11)), Ok(()));
    assert_eq!(inbox.resume_will(wills[2]), Err(ResumeError::Stale));
    let bench = &world.nodes[1].bench;
    assert_eq!(bench.expire(seconds(13)), Vec::<String>::new());
    assert_eq!(bench.expire(seconds(14)), ["gone"], "that of whoever is known to be gone");
    assert_eq!(bench.expire(seconds(20)), Vec::<String>::new());
    assert_eq!(bench.expire(seconds(23)), ["gone"], "that of whoever did not come");
    assert_eq!(bench.expire(seconds(1_000)), Vec::<String>::new());
    world.settle(seconds(1_000));
    assert_eq!(world.keys_of(crate::partitions::number_of(wills[0])), [Place::Will]);
    assert_eq!(world.keys_of(crate::partitions::number_of(wills[1])), [Place::Mark]);
}

/// DUR-001: what a term did not get to carry out is in doubt for whoever waits; what it did is there.
#[test]
fn a_move_leaves_what_is_on_its_way_done_or_in_doubt() {
    let mut world = World::served(2);
    let claim = world.nodes[0].bench.attach("c", T0).claim;
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!(append(bench, &[claim], "1", 1), Call::Pending);
    assert_eq!(append(bench, &[claim], "2", 2), Call::Pending);
    assert_eq!(append(bench, &[claim], "3", 3), Call::Pending);
    world.lead_silently(GROUP, 1, 1);
    // It believes that it is served still, but comes to nothing.
    let bench = &world.nodes[0].bench;
    assert_eq!(append(bench, &[claim], "4", 4), Call::Pending);
    assert!(bench.inbox.inbound(claim, id(5), false, reply(5)).is_ok());
    world.settle(T0);
    let settled = world.nodes[0].bench.sessions.take_settled();
    let doubt = |ticket: u64| (ticket, Settlement::Unknown);
    assert_eq!(settled, [(1, DONE), doubt(2), doubt(3), doubt(4), doubt(5)]);
    let bench = &world.nodes[1].bench;
    let attached = bench.inbox.resume(claim, owner(9)).expect("he is the owner");
    assert!(attached.inbound.is_empty());
    assert_eq!(payloads(&bench.fetch_all(claim)), ["1"]);
    assert_eq!(append(bench, &[claim], "5", 6), Call::Pending);
    world.settle(T0);
    let entries = world.nodes[1].bench.fetch_all(claim);
    assert_eq!(payloads(&entries), ["1", "5"]);
    assert_eq!(entries[1].sequence, Sequence(2), "no place is skipped, and none is given twice");
}

/// KV-013, INBOX-008: one message for sessions of two ranges is a command for each, and one answer.
#[test]
fn a_message_for_two_ranges_is_done_when_both_have_it() {
    let (low, high, place) = apart();
    let mut world = World::served(2);
    let claims = [low, high].map(|client| world.nodes[0].bench.attach(client, T0).claim);
    world.settle(T0);
    let right = world.split(GROUP, place);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    claims.iter().for_each(|claim| drop(bench.inbox.resume(*claim, owner(9)).expect("his")));
    assert_eq!(append(bench, &claims, "1", 1), Call::Pending);
    world.carry_out(GROUP, 1);
    assert!(world.nodes[0].bench.sessions.take_settled().is_empty());
    world.carry_out(right, 1);
    let bench = &world.nodes[0].bench;
    assert_eq!(bench.sessions.take_settled(), [(1, DONE)]);
    claims.iter().for_each(|claim| assert_eq!(payloads(&bench.fetch_all(*claim)), ["1"]));
    // Elsewhere, one of them is.
    world.lead(right, 1, 0);
    let bench = &world.nodes[0].bench;
    assert_eq!(append(bench, &claims, "2", 2), Call::Ready(Settlement::Busy));
    assert_eq!(payloads(&bench.fetch_all(claims[0])), ["1"], "nothing for anybody");
    assert_eq!(append(bench, &claims[..1], "3", 3), Call::Pending);
    world.settle(T0);
    let elsewhere = &world.nodes[1].bench;
    elsewhere.inbox.resume(claims[1], owner(9)).expect("he is the owner");
    assert_eq!(append(elsewhere, &claims[1..], "4", 4), Call::Pending);
    world.settle(T0);
    assert_eq!(payloads(&world.nodes[0].bench.fetch_all(claims[0])), ["1", "3"]);
    assert_eq!(payloads(&world.nodes[1].bench.fetch_all(claims[1])), ["1", "4"]);
}

/// DUR-010: that a message of QoS 2 was accepted is known only once it is in every queue.
#[test]
fn an_exchange_over_two_ranges_is_accepted_when_the_queues_have_it() {
    let (low, high, place) = apart();
    let mut world = World::served(2);
    let claims = [low, high].map(|client| world.nodes[0].bench.attach(client, T0).claim);
    world.settle(T0);
    let right = world.split(GROUP, place);
    world.settle(T0);
    let publish = |world: &World, packet_id: u16, ticket: u64| {
        let inbox = &world.nodes[0].bench.inbox;
        let routes = [route_to(claims[1])];
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        let message = message("m", Qos::ExactlyOnce);
        let exchange = Some((claims[0], id(packet_id)));
        inbox.append(targets, &message, exchange, reply(ticket), &mut Vec::new())
    };
    let inbox = &world.nodes[0].bench.inbox;
    claims.iter().for_each(|claim| drop(inbox.resume(*claim, owner(9)).expect("his")));
    assert_eq!(publish(&world, 1, 1), Call::Pending);
    world.carry_out(GROUP, usize::MAX);
    let inbound = || vec![Place::Session, Place::Inbound(id(1))];
    assert_eq!(world.keys_of(claims[0].inbox), inbound()[..1], "not before the queue has it");
    world.carry_out(right, usize::MAX);
    assert!(world.nodes[0].bench.sessions.take_settled().is_empty());
    world.carry_out(GROUP, usize::MAX);
    assert_eq!(world.keys_of(claims[0].inbox), inbound());
    assert_eq!(world.nodes[0].bench.sessions.take_settled(), [(1, DONE)]);
    // What may not be in the queue is not accepted.
    assert_eq!(publish(&world, 2, 2), Call::Pending);
    world.lead(right, 1, 0);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!(bench.sessions.take_settled(), [(2, Settlement::Unknown)]);
    assert_eq!(world.keys_of(claims[0].inbox), inbound());
    assert_eq!(bench.inbox.resume(claims[0], owner(9)).expect("his").inbound, [id(1)]);
}

/// KV-013: what one range has needs nothing of another, so it can be parted between any two partitions.
#[test]
fn a_message_is_stored_once_in_each_partition() {
    let (low, high, place) = apart();
    let mut world = World::served(1);
    let claims = [low, high].map(|client| world.nodes[0].bench.attach(client, T0).claim);
    let _ = append(&world.nodes[0].bench, &claims, "1", 1);
    world.settle(T0);
    let right = world.split(GROUP, place);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    for claim in claims {
        bench.inbox.resume(claim, owner(9)).expect("he is the owner");
        assert_eq!(payloads(&bench.fetch_all(claim)), ["1"]);
        bench.inbox.commit(claim, Sequence(1)).expect("he is the owner");
    }
    world.settle(T0);
    world.merge(GROUP, right);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!((bench.inbox.len(), bench.inbox.stats().queued), (2, 0));
    assert_eq!(bench.inbox.serves(place), bench.inbox.serves(0), "it is one reign again");
}

/// DIST-011: a group's message goes to members whose queue is of the same range; else it waits.
#[test]
fn what_a_member_leaves_goes_to_members_of_its_range() {
    let (low, high, place) = apart();
    let mut world = World::served(1);
    let subscribe = |world: &World, claim: Claim| {
        let _ = world.nodes[0].bench.subscribe(claim, "$share/g/a", Qos::AtLeastOnce);
    };
    let claims = [low, high].map(|client| world.nodes[0].bench.attach(client, T0).claim);
    claims.iter().for_each(|claim| subscribe(&world, *claim));
    let offer = |world: &World, payload: &str| {
        let bench = &world.nodes[0].bench;
        let group = Arc::clone(&bench.routes.groups.lock()[0]);
        let shared = ratatosk_contract::inbox::SharedRoute { route: route_to(claims[0]), group };
        bench.append_shared(shared, &message(payload, Qos::AtLeastOnce));
    };
    offer(&world, "1");
    world.settle(T0);
    let right = world.split(GROUP, place);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    claims.iter().for_each(|claim| drop(bench.inbox.resume(*claim, owner(9)).expect("his")));
    bench.detach(claims[0], T0);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!(bench.fetch_all(claims[1]).len(), 0, "it waits where it is");
    bench.check_conservation();
    world.merge(GROUP, right);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    bench.inbox.resume(claims[1], owner(9)).expect("he is the owner");
    assert!(bench.fetch_all(claims[1]).is_empty());
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!(payloads(&bench.fetch_all(claims[1])), ["1"], "and is taken over");
    bench.check_conservation();
}

/// INBOX-001: numbers of sessions rise over moves, whatever a former leader gave.
#[test]
fn a_number_is_never_given_twice() {
    let mut world = World::served(2);
    let mut last = None;
    for round in 0..6 {
        let node = round % 2;
        let bench = &world.nodes[node].bench;
        let claim = bench.attach_as("c", T0, true, Some(100)).claim;
        assert!(last.is_none_or(|last| claim.inbox > last), "{claim:?} after {last:?}");
        assert_eq!(partition_number(claim.inbox.0), partition_of(&identity("c")));
        last = Some(claim.inbox);
        world.settle(T0);
        world.lead(GROUP, 1 - node, 0);
        world.settle(T0);
    }
}

/// Nothing is kept of what is served elsewhere.
#[test]
fn what_is_served_elsewhere_takes_no_memory() {
    let mut world = World::served(2);
    let claim = world.nodes[0].bench.attach("c", T0).claim;
    let subscription = Subscription {
        filter: "a/b".into(),
        options: SubscriptionOptions::new(Qos::AtLeastOnce),
        subscription_id: None,
    };
    let _ = world.nodes[0].bench.inbox.put_subscription(claim, &subscription, None);
    let payload = "x".repeat(4_000);
    for _ in 0..20 {
        assert_eq!(append(&world.nodes[0].bench, &[claim], &payload, 1), Call::Pending);
    }
    world.settle(T0);
    let held = |world: &World| {
        world.nodes[0].bench.inbox.memory.account("t").charged().charged[Share::Queues.index()]
            .bytes()
    };
    assert!(held(&world) > 80_000);
    world.lead(GROUP, 1, 0);
    world.settle(T0);
    // Threads may keep a little to themselves.
    assert!(held(&world) < 20_000);
    let stats = InboxStats { left: 20, appended: 20, ..InboxStats::default() };
    assert_eq!(world.nodes[0].bench.inbox.stats(), stats);
}

/// DIST-014: what was to go when its record had gone stays.
#[test]
fn who_subscribes_again_before_his_route_goes_keeps_it() {
    let mut world = World::served(1);
    let bench = &world.nodes[0].bench;
    *bench.routes.late.lock() = Some(Vec::new());
    let claim = bench.attach("c", T0).claim;
    let subscribe = |bench: &Bench, ticket| {
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        let subscription = Subscription { filter: "a".into(), options, subscription_id: None };
        let _ = bench.inbox.put_subscription(claim, &subscription, reply(ticket));
        bench.routes.answer(true, true);
    };
    subscribe(bench, 1);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    for ticket in [2, 3] {
        let _ = bench.inbox.unsubscribe(claim, "a", reply(ticket));
    }
    subscribe(bench, 4);
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!(bench.routes.asked(), 0, "nothing is removed");
    assert_eq!(bench.sessions.take_settled(), [1, 2, 3, 4].map(|ticket| (ticket, DONE)));
    let _ = bench.inbox.unsubscribe(claim, "a", reply(5));
    world.settle(T0);
    let bench = &world.nodes[0].bench;
    assert_eq!((bench.routes.asked(), bench.sessions.take_settled()), (1, vec![]));
    bench.routes.answer(true, true);
    assert_eq!(bench.sessions.take_settled(), [(5, DONE)]);
}
