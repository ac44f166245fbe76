//! Behaviour of messages that came through a shared group when their member goes.

use std::sync::{Arc, atomic::Ordering};

use ratatosk_clock::Instant;
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    Message,
    call::Promised,
    dist::{InboxRoute, Receiver, TenantRoutes},
    group::{Group, Member, MemberTarget},
    inbox::{Claim, FetchBudget, Inbox, Sequence, SharedRoute},
};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::fake::{BUDGET, Bench, bench, identity, message, owner, payloads, seconds};

const T0: Instant = Instant::ZERO;
const FILTER: &str = "$share/g/a";

fn join(bench: &Bench, client: &str) -> Claim {
    let claim = bench.attach(client, T0).claim;
    bench.subscribe(claim, FILTER, Qos::ExactlyOnce);
    claim
}

fn group(bench: &Bench) -> Arc<Group> {
    Arc::clone(&bench.routes.groups.lock()[0])
}

/// As if the group had chosen the member of `claim`.
fn chosen(bench: &Bench, claim: Claim) -> SharedRoute {
    let group = group(bench);
    let is_meant = |member: &&Member| member.target == MemberTarget::Inbox(claim.inbox);
    let member = group.members.iter().find(is_meant).unwrap();
    let route = InboxRoute {
        inbox: claim.inbox,
        incarnation: member.incarnation,
        options: member.options,
        subscription_id: member.subscription_id,
    };
    SharedRoute { route, group: Arc::clone(&group) }
}

fn append(bench: &Bench, claim: Claim, message: &Message<'_>) {
    bench.append_shared(chosen(bench, claim), message);
}

/// Queues QoS 1, QoS 2, QoS 1 and QoS 2, of which the first two are sent.
fn queue_four(bench: &Bench, claim: Claim) {
    for (payload, qos) in [
        ("sent-1", Qos::AtLeastOnce),
        ("sent-2", Qos::ExactlyOnce),
        ("unsent-1", Qos::AtLeastOnce),
        ("unsent-2", Qos::ExactlyOnce),
    ] {
        append(bench, claim, &message(payload, qos));
    }
    let sent = bench.fetch(claim, Sequence(0), FetchBudget { messages_max: 2, ..BUDGET });
    assert_eq!(payloads(&sent), ["sent-1", "sent-2"]);
}

/// MQTT-087: to another that is online; [MQTT-4.8.2-4] QoS 2 in flight waits for its own member.
#[test]
fn what_was_not_sent_and_qos_1_in_flight_goes_to_another_member() {
    let bench = bench();
    let (c, d) = (join(&bench, "c"), join(&bench, "d"));
    queue_four(&bench, c);
    assert!(bench.fetch_all(d).is_empty());
    bench.detach(c, T0);
    let given = bench.fetch_all(d);
    assert_eq!(payloads(&given), ["sent-1", "unsent-1", "unsent-2"], "in their order");
    assert_eq!(given[2].qos, Qos::ExactlyOnce);
    assert!(bench.sessions.take_ready().contains(&owner(1)), "who waited is woken");
    let c = bench.attach("c", T0).claim;
    assert_eq!(payloads(&bench.fetch_all(c)), ["sent-2"]);
    bench.check_conservation();
}

/// MQTT-087: while nobody else is online, the messages wait for their member.
#[test]
fn messages_stay_while_no_other_member_is_online() {
    let bench = bench();
    let (c, d) = (join(&bench, "c"), join(&bench, "d"));
    bench.detach(d, T0);
    queue_four(&bench, c);
    bench.detach(c, T0);
    let c = bench.attach("c", T0).claim;
    assert_eq!(bench.fetch_all(c).len(), 4);
    bench.check_conservation();
}

/// MQTT-087: [MQTT-4.8.2-5] a session that ends gives what it may, to whoever is there.
#[test]
fn messages_of_a_session_that_ends_go_to_any_member() {
    for way in 0..4 {
        let bench = bench();
        let (c, d) = (join(&bench, "c"), join(&bench, "d"));
        bench.detach(d, T0);
        queue_four(&bench, c);
        match way {
            0 => bench.detach_as(c, T0, Some(0), None),
            1 => assert_eq!(
                bench.inbox.discard_session(&identity("c"), T0, None),
                Promised::kept(true)
            ),
            2 => drop(bench.attach_as("c", T0, true, Some(100))),
            _ => {
                bench.detach_as(c, T0, Some(50), None);
                bench.expire(seconds(50));
            }
        }
        let d = bench.attach("d", seconds(60)).claim;
        assert_eq!(payloads(&bench.fetch_all(d)), ["sent-1", "unsent-1", "unsent-2"], "{way}");
        let stats = bench.inbox.stats();
        assert_eq!((stats.moved, stats.dropped.session_ended), (3, 1), "{way}");
        bench.check_conservation();
    }
}

#[test]
fn messages_of_the_last_member_go_with_it() {
    let bench = bench();
    let c = join(&bench, "c");
    queue_four(&bench, c);
    bench.detach_as(c, T0, Some(0), None);
    let dropped = bench.inbox.stats().dropped;
    assert_eq!((dropped.no_member, dropped.session_ended), (3, 1));
    bench.check_conservation();
}

#[test]
fn messages_of_plain_subscriptions_stay_with_their_session() {
    let bench = bench();
    let (c, d) = (join(&bench, "c"), join(&bench, "d"));
    bench.subscribe(c, "a", Qos::AtLeastOnce);
    bench.append("plain", Qos::AtLeastOnce);
    append(&bench, c, &message("shared", Qos::AtLeastOnce));
    bench.inbox.commit(c, Sequence(1)).unwrap();
    bench.append("plain", Qos::AtLeastOnce);
    append(&bench, c, &message("shared", Qos::AtLeastOnce));
    bench.detach(c, T0);
    assert_eq!(payloads(&bench.fetch_all(d)), ["shared", "shared"]);
    let c = bench.attach("c", T0).claim;
    assert_eq!(payloads(&bench.fetch_all(c)), ["plain"]);
}

#[test]
fn a_transient_member_gets_the_message_through_its_connection() {
    let bench = bench();
    let c = join(&bench, "c");
    let filter = TopicFilter::parse(FILTER, &TopicLimits::PROTOCOL).unwrap();
    let member = Member {
        id: 77,
        incarnation: 1,
        target: MemberTarget::Session(owner(500)),
        options: SubscriptionOptions::new(Qos::AtMostOnce),
        subscription_id: Some(9),
        state: Arc::default(),
    };
    bench
        .routes
        .add(&filter, Receiver::Member { member, members_max: 9 })
        .ready()
        .unwrap()
        .unwrap();
    append(&bench, c, &message("1", Qos::AtLeastOnce));
    bench.detach(c, T0);
    let delivered = bench.sessions.take_delivered();
    assert_eq!(delivered.len(), 1);
    let (to, delivery) = &delivered[0];
    assert_eq!(
        (*to, delivery.subscription_id, &*delivery.message.payload),
        (owner(500), Some(9), &b"1"[..])
    );
    assert_eq!(&*delivery.group.name, "g");
    bench.check_conservation();
}

#[test]
fn an_online_member_that_wants_qos_0_gets_it_through_its_connection() {
    let bench = bench();
    let c = join(&bench, "c");
    let d = bench.attach("d", T0).claim;
    bench.subscribe(d, FILTER, Qos::AtMostOnce);
    append(&bench, c, &message("1", Qos::AtLeastOnce));
    bench.detach(c, T0);
    let delivered = bench.sessions.take_delivered();
    assert_eq!((delivered.len(), delivered[0].0), (1, owner(1)));
    bench.check_conservation();
}

/// Whoever was chosen and is gone when the message comes is replaced.
#[test]
fn a_message_for_a_member_that_is_gone_goes_to_another() {
    let bench = bench();
    let (c, d) = (join(&bench, "c"), join(&bench, "d"));
    let late = chosen(&bench, c);
    let _ = bench.inbox.discard_session(&identity("c"), T0, None);
    bench.append_shared(late, &message("1", Qos::AtLeastOnce));
    assert_eq!(payloads(&bench.fetch_all(d)), ["1"]);
    bench.inbox.commit(d, Sequence(1)).unwrap();
    let late = chosen(&bench, d);
    let _ = bench.inbox.discard_session(&identity("d"), T0, None);
    bench.append_shared(late, &message("2", Qos::AtLeastOnce));
    assert_eq!(bench.inbox.stats().dropped.no_member, 1);
    bench.check_conservation();
}

#[test]
fn members_are_known_to_be_online_while_they_are() {
    let bench = bench();
    let c = join(&bench, "c");
    let state = Arc::clone(&group(&bench).members[0].state);
    let is_offline = || state.offline.load(Ordering::Relaxed);
    assert!(!is_offline());
    state.congested.store(true, Ordering::Relaxed);
    bench.detach(c, T0);
    assert!(is_offline());
    assert!(!state.congested.load(Ordering::Relaxed), "who is away is not busy");
    let back = bench.attach("c", T0);
    assert!(!is_offline());
    assert!(Arc::ptr_eq(&state, &back.member));
}
