//! Behaviour of persistent sessions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos, SubscriptionOptions};
use ratatosk_contract::{
    call::Promised,
    dist::TenantRoutes,
    inbox::{
        Claim, Detach, FetchBudget, Inbox, Sequence, StaleClaim, SubscribeOutcome, Subscription,
    },
};

use crate::fake::{BUDGET, bench, identity, message, owner, payloads, seconds};

const T0: Instant = Instant::ZERO;

/// INBOX-001, INBOX-002: every call of the owner before is refused and changes nothing.
#[test]
fn whoever_attached_before_is_refused() {
    let bench = bench();
    let old = bench.attach("c", T0).claim;
    bench.subscribe(old, "a", Qos::ExactlyOnce);
    bench.append("1", Qos::ExactlyOnce);
    let new = bench.attach("c", T0);
    assert!(new.is_present && new.claim.version > old.version);
    assert_eq!(new.claim.inbox, old.inbox);

    let inbox = &bench.inbox;
    let detach = Detach { expiry_s: Some(0), will: None, now: T0 };
    assert_eq!(inbox.detach(old, detach, None), Err(StaleClaim));
    assert_eq!(bench.subscribe(old, "b", Qos::AtMostOnce), SubscribeOutcome::Stale);
    assert_eq!(inbox.unsubscribe(old, "a", None), Err(StaleClaim));
    let mut entries = Vec::new();
    assert_eq!(inbox.fetch(old, Sequence(0), BUDGET, &mut entries), Err(StaleClaim));
    assert_eq!(inbox.commit(old, Sequence(1)), Err(StaleClaim));
    assert_eq!(inbox.received(old, Sequence(1), None), Err(StaleClaim));
    assert_eq!(inbox.inbound(old, PacketId::FIRST, false, None), Err(StaleClaim));
    assert!(entries.is_empty());
    assert_eq!(inbox.stats().stale, 7);

    assert_eq!(payloads(&bench.fetch_all(new.claim)), ["1"]);
    assert_eq!(bench.attach("c", T0).subscriptions.len(), 1);
}

#[test]
fn an_owner_that_detached_is_refused() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.detach(claim, T0);
    assert_eq!(bench.inbox.commit(claim, Sequence(1)), Err(StaleClaim));
    let detach = Detach { expiry_s: None, will: None, now: T0 };
    assert_eq!(bench.inbox.detach(claim, detach, None), Err(StaleClaim));
}

/// [MQTT-3.1.2-4]: nothing of the session before is left, and it has another name.
#[test]
fn a_clean_attach_begins_anew() {
    let bench = bench();
    let old = bench.attach("c", T0).claim;
    bench.subscribe(old, "a", Qos::AtLeastOnce);
    bench.append("1", Qos::AtLeastOnce);
    assert!(bench.inbox.inbound(old, PacketId::FIRST, false, None).is_ok());
    let new = bench.attach_as("c", T0, true, Some(100));
    assert!(!new.is_present && new.subscriptions.is_empty() && new.inbound.is_empty());
    assert_ne!(new.claim.inbox, old.inbox);
    assert!(bench.routes.is_empty());
    assert!(bench.fetch_all(new.claim).is_empty());
    assert_eq!((bench.inbox.len(), bench.inbox.stats().dropped.session_ended), (1, 1));
    bench.check_conservation();
}

/// INBOX-003, MQTT-049: the time, the will and the expiry that a detach gives decide what follows.
#[test]
fn a_will_is_due_after_its_delay_or_with_its_session() {
    let check = |expiry_s: Option<u32>, delay_s: u32, expected_s: u64| {
        let bench = bench();
        let claim = bench.attach("c", T0).claim;
        bench.detach_as(claim, seconds(10), expiry_s, Some(("w", delay_s)));
        let just_before = seconds(10 + expected_s) - Duration::from_millis(1);
        if expected_s > 0 {
            assert!(bench.expire(just_before).is_empty());
        }
        assert_eq!(bench.expire(seconds(10 + expected_s)), ["w"]);
        assert!(bench.expire(seconds(100_000)).is_empty(), "once");
    };
    check(None, 5, 5);
    check(None, 500, 100);
    check(Some(30), 40, 30);
    check(Some(30), 30, 30);
    check(Some(u32::MAX), 4_000, 4_000);
    check(Some(0), 5, 0);
    check(None, 0, 0);
}

/// MQTT-037, MQTT-038: a session ends when its time is over and not before; one without an end is
/// there after a hundred years.
#[test]
fn a_session_ends_after_its_expiry_or_never() {
    const YEAR_S: u64 = 365 * 24 * 3600;
    for (expiry_s, last_s) in [(604_800, Some(604_800)), (u32::MAX, None)] {
        let bench = bench();
        let claim = bench.attach("c", T0).claim;
        bench.detach_as(claim, seconds(10), Some(expiry_s), None);
        let before = last_s.map_or(100 * YEAR_S, |last_s| 10 + last_s - 1);
        bench.expire(seconds(before));
        assert_eq!(bench.inbox.stats().sessions, 1, "{expiry_s}");
        bench.expire(seconds(before + 1));
        assert_eq!(bench.inbox.stats().sessions, usize::from(last_s.is_none()), "{expiry_s}");
        assert_eq!(bench.attach("c", seconds(before + 1)).is_present, last_s.is_none());
    }
}

/// INBOX-011, MQTT-050: [MQTT-3.1.3-9] who is back in time has no will published.
#[test]
fn attaching_before_the_delay_cancels_the_will() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.detach_as(claim, T0, None, Some(("w", 5)));
    bench.attach("c", seconds(4));
    assert!(bench.expire(seconds(1_000)).is_empty());

    let claim = bench.attach("c", seconds(1_000)).claim;
    bench.detach_as(claim, seconds(1_000), None, Some(("late", 5)));
    bench.attach("c", seconds(1_005));
    assert_eq!(bench.expire(seconds(1_005)), ["late"], "it was due, though nobody had looked");
    assert!(bench.expire(seconds(9_000)).is_empty());
}

/// INBOX-011: [MQTT-3.1.2-8] the end of the session is early enough, and once is enough.
#[test]
fn a_will_that_waits_is_due_when_its_session_ends() {
    let bench = bench();
    let claim = bench.attach_as("c", T0, false, Some(20)).claim;
    bench.detach_as(claim, T0, None, Some(("c", 50)));
    assert!(bench.expire(seconds(19)).is_empty());
    assert_eq!(bench.expire(seconds(20)), ["c"]);
    assert!(bench.expire(seconds(1_000)).is_empty());
    assert_eq!(
        bench.inbox.discard_session(&identity("c"), seconds(1_000), None),
        Promised::kept(false)
    );
}

/// INBOX-011: [MQTT-3.1.2-8] who comes back within the delay and starts clean has no will
/// published; one that was due before is.
#[test]
fn a_clean_start_discards_a_will_that_waits() {
    for is_discarded in [true, false] {
        let bench = bench();
        let return_at = |now| {
            if is_discarded {
                assert_eq!(
                    bench.inbox.discard_session(&identity("c"), now, None),
                    Promised::kept(true)
                );
            } else {
                bench.attach_as("c", now, true, Some(100));
            }
        };
        let claim = bench.attach_as("c", T0, false, Some(100)).claim;
        bench.detach_as(claim, T0, None, Some(("early", 5)));
        return_at(seconds(4));
        assert!(bench.expire(seconds(1_000)).is_empty(), "discarded: {is_discarded}");
        let claim = bench.attach_as("c", seconds(1_000), false, Some(100)).claim;
        bench.detach_as(claim, seconds(1_000), None, Some(("late", 5)));
        return_at(seconds(1_005));
        assert_eq!(bench.expire(seconds(1_005)), ["late"], "discarded: {is_discarded}");
    }
}

#[test]
fn no_more_is_taken_at_once_than_was_asked_for() {
    let bench = bench();
    for number in 0..20 {
        let claim = bench.attach(&format!("c{number}"), T0).claim;
        bench.detach_as(claim, T0, Some(10), Some(("w", 10)));
    }
    let mut wills = Vec::new();
    let mut left = Vec::new();
    for _ in 0..4 {
        bench.inbox.expire(seconds(10), 7, &mut wills);
        bench.inbox.check_invariants();
        left.push((wills.len(), bench.inbox.len()));
    }
    assert!(left[0].0 <= 7 && left[0].1 >= 13, "{left:?}");
    while bench.inbox.len() > 0 {
        bench.inbox.expire(seconds(10), 7, &mut wills);
    }
    let clients: BTreeSet<_> = wills.iter().map(|will| will.identity.to_string()).collect();
    assert_eq!((wills.len(), clients.len()), (20, 20));
}

/// INBOX-010: with its subscriptions, its routes and its memberships.
#[test]
fn an_expired_session_is_removed_with_its_routes() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a/+", Qos::AtLeastOnce);
    bench.subscribe(claim, "$share/g/a", Qos::AtLeastOnce);
    bench.append("1", Qos::AtLeastOnce);
    bench.expire(seconds(100_000));
    assert_eq!(bench.inbox.len(), 1, "who is attached does not expire");
    bench.detach(claim, seconds(10));
    bench.expire(seconds(109));
    assert_eq!((bench.inbox.len(), bench.routes.len()), (1, 2));
    bench.expire(seconds(110));
    assert_eq!((bench.inbox.len(), bench.routes.len()), (0, 0));
    assert_eq!(bench.inbox.stats().expired_sessions, 1);
    assert!(!bench.attach("c", seconds(111)).is_present);
    bench.check_conservation();
}

/// INBOX-010: whether somebody looked for it in time or not.
#[test]
fn a_session_whose_time_was_over_is_not_resumed() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    bench.detach(claim, T0);
    let back = bench.attach("c", seconds(99));
    assert!(back.is_present);
    bench.detach(back.claim, seconds(99));
    assert!(!bench.attach("c", seconds(199)).is_present);
    assert!(bench.routes.is_empty());
}

#[test]
fn a_session_of_expiry_zero_ends_with_its_connection() {
    let bench = bench();
    let claim = bench.attach_as("c", T0, false, Some(0)).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    bench.detach(claim, T0);
    assert!(bench.inbox.is_empty() && bench.routes.is_empty());
    for for_ever in [None, Some(u32::MAX)] {
        let claim = bench.attach_as("d", T0, false, for_ever).claim;
        bench.detach(claim, T0);
        bench.expire(Instant::from_nanos(u64::MAX));
        assert_eq!(bench.inbox.len(), 1);
    }
}

/// INBOX-014: others may be replaced and exchanged.
#[test]
fn a_session_holds_as_many_filters_as_it_may() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    for number in 0..10 {
        let outcome = bench.subscribe(claim, &format!("f/{number}"), Qos::AtMostOnce);
        assert!(matches!(outcome, SubscribeOutcome::Done { existed: false, .. }));
    }
    let refused = SubscribeOutcome::TooManyFilters;
    assert_eq!(bench.subscribe(claim, "g", Qos::AtMostOnce), refused);
    let outcome = bench.subscribe(claim, "f/3", Qos::ExactlyOnce);
    assert!(matches!(outcome, SubscribeOutcome::Done { existed: true, .. }));
    assert_eq!(bench.inbox.unsubscribe(claim, "f/4", None), Ok(Promised::kept(true)));
    assert_eq!(bench.inbox.unsubscribe(claim, "f/4", None), Ok(Promised::kept(false)));
    assert!(matches!(
        bench.subscribe(claim, "g", Qos::AtMostOnce),
        SubscribeOutcome::Done { existed: false, .. }
    ));
    assert_eq!(bench.routes.len(), 10);
}

/// INBOX-015: with the same options or others, which then replace the first.
#[test]
fn the_same_filter_is_recognised() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    let first = bench.subscribe(claim, "a", Qos::AtMostOnce);
    let SubscribeOutcome::Done { route, existed: false } = first else { panic!("{first:?}") };
    let again = SubscribeOutcome::Done { route, existed: true };
    assert_eq!(bench.subscribe(claim, "a", Qos::AtMostOnce), again);
    assert_eq!(bench.subscribe(claim, "a", Qos::ExactlyOnce), again);
    let subscriptions = bench.attach("c", T0).subscriptions;
    assert_eq!(subscriptions.len(), 1);
    assert_eq!(subscriptions[0].options.qos, Qos::ExactlyOnce);
    assert_eq!(bench.routes.inboxes.lock()[0].1.options.qos, Qos::ExactlyOnce);
}

#[test]
fn a_full_group_is_told_and_nothing_recorded() {
    let mut bench = bench();
    bench.limits.members_max = 1;
    let (c, d) = (bench.attach("c", T0).claim, bench.attach("d", T0).claim);
    assert!(matches!(
        bench.subscribe(c, "$share/g/a", Qos::AtMostOnce),
        SubscribeOutcome::Done { .. }
    ));
    assert_eq!(bench.subscribe(d, "$share/g/a", Qos::AtMostOnce), SubscribeOutcome::GroupFull);
    assert!(bench.attach("d", T0).subscriptions.is_empty());
}

/// INBOX-004: and no further, and what was queued is there after the resume.
#[test]
fn messages_for_a_detached_session_are_queued_up_to_the_limit() {
    let mut bench = bench();
    bench.limits.messages_max = 3;
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::ExactlyOnce);
    bench.detach(claim, T0);
    for number in 0..5 {
        bench.append(&format!("q1-{number}"), Qos::AtLeastOnce);
        bench.append(&format!("q0-{number}"), Qos::AtMostOnce);
    }
    let claim = bench.attach("c", T0).claim;
    let entries = bench.fetch_all(claim);
    assert_eq!(payloads(&entries), ["q1-0", "q0-0", "q1-1", "q0-1", "q1-2", "q0-2"]);
    let dropped = bench.inbox.stats().dropped;
    assert_eq!((dropped.overflow, dropped.overflow_qos0, dropped.sum()), (2, 2, 4));
    bench.check_conservation();
}

/// INBOX-009
#[test]
fn the_oldest_of_qos_0_is_dropped_where_the_tenant_asks_for_it() {
    let mut bench = bench();
    bench.limits.messages_max = 2;
    bench.limits.qos0_drop_oldest = true;
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    bench.detach(claim, T0);
    for payload in ["1", "2", "3"] {
        bench.append(payload, Qos::AtMostOnce);
        bench.append(payload, Qos::AtLeastOnce);
    }
    let claim = bench.attach("c", T0).claim;
    let entries = bench.fetch_all(claim);
    let of = |qos| {
        let entries: Vec<_> = entries.iter().filter(|entry| entry.qos == qos).cloned().collect();
        payloads(&entries).join(" ")
    };
    assert_eq!((of(Qos::AtMostOnce).as_str(), of(Qos::AtLeastOnce).as_str()), ("2 3", "1 2"));
    bench.check_conservation();
}

#[test]
fn qos_0_is_not_queued_offline_unless_the_tenant_asks_for_it() {
    let mut bench = bench();
    bench.limits.qos0_when_offline = false;
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    bench.detach(claim, T0);
    assert!(bench.append("1", Qos::AtMostOnce).is_empty());
    let claim = bench.attach("c", T0).claim;
    assert!(bench.fetch_all(claim).is_empty());
    assert_eq!(bench.inbox.stats().dropped.offline_qos0, 1);
}

/// INBOX-005: each kind keeps its order, and a direct message does not pass the queued.
#[test]
fn qos_0_goes_straight_to_the_connection_but_not_past_its_queue() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    let direct = bench.append("1", Qos::AtMostOnce);
    assert_eq!((direct.len(), direct[0].owner), (1, owner(0)));
    bench.detach(claim, T0);
    bench.append("2", Qos::AtMostOnce);
    bench.append("a", Qos::AtLeastOnce);
    let claim = bench.attach("c", T0).claim;
    assert!(bench.append("3", Qos::AtMostOnce).is_empty(), "another is queued");
    bench.append("b", Qos::AtLeastOnce);
    let entries = bench.fetch_all(claim);
    assert_eq!(payloads(&entries), ["2", "a", "3", "b"]);
    assert_eq!(entries.iter().map(|entry| entry.sequence.0).collect::<Vec<_>>(), [0, 1, 1, 2]);
    assert_eq!(bench.append("4", Qos::AtMostOnce).len(), 1);
    assert_eq!(payloads(&bench.fetch_all(claim)), ["a", "b"], "QoS 0 is handed out once");
    bench.check_conservation();
}

/// INBOX-006: by the budget of messages and of bytes, each once, and the owner is woken for more.
#[test]
fn fetching_goes_on_behind_what_was_handed_out() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    for payload in ["1", "2", "3", "4", "5"] {
        bench.append(payload, Qos::AtLeastOnce);
    }
    let fetch = |after, messages_max, bytes_max| {
        let budget = FetchBudget { messages_max, bytes_max, ..BUDGET };
        bench.fetch(claim, Sequence(after), budget)
    };
    assert_eq!(payloads(&fetch(0, 2, 99)), ["1", "2"]);
    assert_eq!(payloads(&fetch(2, 9, 5)), ["3", "4"], "two bytes each, and half of one is left");
    bench.append("6", Qos::AtLeastOnce);
    assert!(bench.sessions.take_ready().is_empty(), "the budget was used up");
    assert_eq!(payloads(&fetch(4, 9, 0)), ["5"], "one is handed out, however large");
    assert_eq!(payloads(&fetch(5, 9, 99)), ["6"]);
    bench.append("7", Qos::AtLeastOnce);
    bench.append("8", Qos::AtLeastOnce);
    assert_eq!(bench.sessions.take_ready(), [owner(0)], "once, until it fetches again");
    assert_eq!(payloads(&fetch(6, 9, 99)), ["7", "8"]);
    bench.detach(claim, T0);
    bench.append("9", Qos::AtLeastOnce);
    assert!(bench.sessions.take_ready().is_empty(), "nobody is there to be woken");
}

/// [MQTT-4.4.0-1] out of order, too; what is not confirmed is there again on resume.
#[test]
fn commit_removes_only_what_was_confirmed() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    for payload in ["1", "2", "3", "4"] {
        bench.append(payload, Qos::AtLeastOnce);
    }
    let before = bench.fetch(claim, Sequence(0), FetchBudget { messages_max: 3, ..BUDGET });
    bench.inbox.commit(claim, Sequence(2)).unwrap();
    bench.inbox.commit(claim, Sequence(2)).unwrap();
    bench.inbox.commit(claim, Sequence(99)).unwrap();
    let back = bench.attach("c", T0);
    assert_eq!(back.sent, Sequence(3));
    let after = bench.fetch_all(back.claim);
    assert_eq!(payloads(&after), ["1", "3", "4"]);
    assert_eq!(after[0].sequence.packet_id(), before[0].sequence.packet_id());
    assert_eq!(after[1].sequence.packet_id(), before[2].sequence.packet_id());
    assert_eq!(bench.inbox.stats().committed, 1);
    bench.check_conservation();
}

/// From its PUBREC on only the PUBREL of a message is owed, over a resume.
#[test]
fn a_received_message_is_known_as_such_after_a_resume() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::ExactlyOnce);
    bench.append("1", Qos::ExactlyOnce);
    bench.append("2", Qos::AtLeastOnce);
    assert!(bench.inbox.received(claim, Sequence(1), None).is_ok());
    assert!(!bench.fetch_all(claim)[0].is_received, "what was not sent was not received");
    assert!(bench.inbox.received(claim, Sequence(1), None).is_ok());
    assert!(bench.inbox.received(claim, Sequence(2), None).is_ok());
    bench.detach(claim, T0);
    let claim = bench.attach("c", T0).claim;
    let received: Vec<_> = bench.fetch_all(claim).iter().map(|entry| entry.is_received).collect();
    assert_eq!(received, [true, false], "QoS 1 knows no PUBREC");
    bench.inbox.commit(claim, Sequence(1)).unwrap();
    assert_eq!(payloads(&bench.fetch_all(claim)), ["2"]);
}

/// Accepted and not released, over resumes.
#[test]
fn inbound_packet_ids_survive_a_reconnect() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    let id = |value| PacketId::new(value).unwrap();
    for (value, is_released) in
        [(7, false), (3, false), (7, false), (9, false), (3, true), (4, true)]
    {
        assert!(bench.inbox.inbound(claim, id(value), is_released, None).is_ok());
    }
    bench.detach(claim, T0);
    assert_eq!(bench.attach("c", T0).inbound, [id(7), id(9)]);
}

/// And the retain flag only as published, the identifier of the subscription that
/// matched, and one entry per subscription.
#[test]
fn an_entry_says_how_its_subscription_wants_it() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    for (filter, qos, retain_as_published, subscription_id) in
        [("a", Qos::AtLeastOnce, true, Some(5)), ("+", Qos::ExactlyOnce, false, None)]
    {
        let options = SubscriptionOptions { retain_as_published, ..SubscriptionOptions::new(qos) };
        let subscription = Subscription { filter: filter.into(), options, subscription_id };
        let _ = bench.inbox.put_subscription(claim, &subscription, None);
    }
    let retained = ratatosk_contract::Message { retain: true, ..message("1", Qos::ExactlyOnce) };
    bench.append_message(&retained);
    let told: Vec<_> = bench
        .fetch_all(claim)
        .iter()
        .map(|entry| (entry.qos, entry.retain, entry.subscription_id))
        .collect();
    let expected = [(Qos::AtLeastOnce, true, Some(5)), (Qos::ExactlyOnce, false, None)];
    assert_eq!(told, expected);
}

/// [MQTT-3.8.3-3]
#[test]
fn a_session_that_asked_for_it_is_spared_its_own_messages() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    let no_local =
        SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(Qos::AtLeastOnce) };
    let subscription =
        Subscription { filter: "a".into(), options: no_local, subscription_id: None };
    let _ = bench.inbox.put_subscription(claim, &subscription, None);
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let publisher = identity("c").publisher();
        let own = ratatosk_contract::Message { publisher, ..message("own", qos) };
        assert!(bench.append_message(&own).is_empty());
    }
    bench.append("other", Qos::AtLeastOnce);
    assert_eq!(payloads(&bench.fetch_all(claim)), ["other"]);
    bench.check_conservation();
}

#[test]
fn a_message_is_stored_once_for_all_its_sessions() {
    let bench = bench();
    let claims: Vec<Claim> = (0..10)
        .map(|number| {
            let claim = bench.attach(&format!("c{number}"), T0).claim;
            bench.subscribe(claim, "a", Qos::AtLeastOnce);
            claim
        })
        .collect();
    bench.append("1", Qos::AtLeastOnce);
    let entries: Vec<_> = claims.iter().flat_map(|claim| bench.fetch_all(*claim)).collect();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().all(|entry| Arc::ptr_eq(&entry.message, &entries[0].message)));
}

#[test]
fn a_route_of_a_session_that_is_gone_or_reborn_queues_nothing() {
    let bench = bench();
    let claim = bench.attach("c", T0).claim;
    bench.subscribe(claim, "a", Qos::AtLeastOnce);
    let stale = bench.routes.inboxes.lock().clone();
    let new = bench.attach_as("c", T0, true, Some(100)).claim;
    bench.routes.inboxes.lock().extend(stale);
    bench.append("1", Qos::AtLeastOnce);
    assert!(bench.fetch_all(new).is_empty());
    assert_eq!(bench.inbox.stats().dropped.session_gone, 1);
    bench.check_conservation();
}

#[test]
fn lives_are_numbered_by_the_clock_and_never_alike() {
    let bench = bench();
    let mut lives = Vec::new();
    for now in [5, 5, 9, 1] {
        let claim = bench.attach_as("c", seconds(now), true, Some(100)).claim;
        bench.subscribe(claim, "a", Qos::AtLeastOnce);
        lives.push(bench.routes.inboxes.lock()[0].1.incarnation);
    }
    assert!(lives.is_sorted_by(|a, b| a < b), "{lives:?}");
    assert_eq!((lives[0], lives[2]), (seconds(5).as_nanos(), seconds(9).as_nanos()));
}

/// INBOX-001: of many who attach at once the last holds the session, and nobody else.
#[test]
fn of_racing_owners_one_is_left() {
    let bench = bench();
    let claims: Vec<Claim> = std::thread::scope(|scope| {
        let attach = || (0..200).map(|_| bench.attach("c", T0).claim).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(attach)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let versions: BTreeSet<_> = claims.iter().map(|claim| claim.version).collect();
    assert_eq!(versions.len(), 800);
    let accepted: Vec<_> = claims
        .iter()
        .filter(|claim| bench.inbox.commit(**claim, Sequence(1)).is_ok())
        .map(|claim| claim.version)
        .collect();
    assert_eq!(accepted, [*versions.last().unwrap()]);
    assert_eq!(bench.inbox.len(), 1);
}
