//! Sessions that are connected to one host and served by another.

use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Detach, Inbox as _, NotServed, Sequence, SubscribeOutcome};
use ratatosk_rpc::MemoryDiscovery;

use crate::model::Store;
use crate::support::{Host, identity, stored, stored_so, text, texts};

/// INBOX-001, INBOX-006: a session is taken over at the host that serves it, and handed what is there in its
/// order, as much as it wants at a time; what it confirms is gone there.
#[tokio::test]
async fn a_session_is_handed_its_queue_from_another_host() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    two.reaches(64).await;
    let (attached, _) = two.attach("c").await.expect("it is served");
    assert!(!attached.is_present && attached.subscriptions.is_empty());
    let claim = attached.claim;
    let count = 500;
    for number in 0..count {
        let host = if number % 2 == 0 { &one } else { &two };
        let payload = number.to_string();
        let appended = host.append(&[claim.inbox], &payload, Qos::AtLeastOnce, None).await;
        assert_eq!(appended, Settlement::Done);
    }
    let (mut after, mut seen) = (Sequence(0), Vec::new());
    while seen.len() < count {
        let entries = two.fetch(claim, after, 7).await;
        assert!(entries.len() <= 7);
        // What was given back for want of room is handed out again.
        assert_eq!(texts(&two.fetch(claim, after, 7).await)[..1], texts(&entries)[..1]);
        seen.extend(texts(&entries));
        after = entries.last().expect("not empty").sequence;
        for entry in entries {
            two.inbox.commit(claim, entry.sequence).expect("it is the owner");
        }
    }
    let all: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(seen, all);
    stored_so(&store, || store.stored(claim.inbox).is_some_and(|it| it.queue.is_empty())).await;
    assert_eq!(one.inbox.served(), 1);
}

/// INBOX-014, INBOX-015: what a session has is known where it is connected.
#[tokio::test]
async fn filters_of_a_session_are_known_where_it_is_connected() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let _one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    two.reaches(64).await;
    let claim = two.attach("c").await.expect("it is served").0.claim;
    let existed = |outcome| match outcome {
        SubscribeOutcome::Done { existed, .. } => existed,
        other => panic!("{other:?}"),
    };
    assert!(!existed(two.subscribe(claim, "a").await));
    assert!(existed(two.subscribe(claim, "a").await));
    assert!(!existed(two.subscribe(claim, "b/#").await));
    assert_eq!(two.subscribe(claim, "c").await, SubscribeOutcome::TooManyFilters);
    for (filter, existed) in [("b/#", true), ("b/#", false), ("x", false)] {
        let reply_to = two.ticket();
        let removed = two.inbox.unsubscribe(claim, filter, Some(reply_to)).expect("it owns it");
        assert_eq!(removed.answer, existed);
        assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    }
    let held = store.stored(claim.inbox).expect("it is there").subscriptions;
    assert_eq!(held.iter().map(|held| &*held.filter).collect::<Vec<_>>(), ["a"]);
    // Who comes back finds them.
    let again = two.attach("c").await.expect("it is served").0;
    assert_eq!((again.is_present, again.subscriptions.len()), (true, 1));
    assert!(existed(two.subscribe(again.claim, "a").await));
}

/// INBOX-002: a session that is taken over at another host is nobody else's.
#[tokio::test]
async fn a_session_that_is_taken_over_elsewhere_is_stale() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    let three = Host::start(&discovery, 3, &store).await;
    two.reaches(64).await;
    three.reaches(64).await;
    let first = two.attach("c").await.expect("it is served").0.claim;
    let second = three.attach("c").await.expect("it is served").0.claim;
    assert_eq!((second.inbox, second.version), (first.inbox, first.version + 1));
    two.is_stale(first).await;
    assert!(two.inbox.commit(first, Sequence(1)).is_err());
    // At home, too.
    let third = one.attach("c").await.expect("it is served").0.claim;
    assert_eq!(third.version, second.version + 1);
    let mut reply_to = three.ticket();
    if let Ok(promised) = three.inbox.received(second, Sequence(1), Some(reply_to)) {
        assert!(!promised.is_durable);
        assert_eq!(three.settled(reply_to.ticket).await, Settlement::Unknown);
    }
    three.is_stale(second).await;
    reply_to = one.ticket();
    assert!(one.inbox.received(third, Sequence(1), Some(reply_to)).is_ok());
}

/// INBOX-003, MQTT-040: how a session is left, and that it is discarded, comes to the host that serves it.
#[tokio::test]
async fn a_session_is_left_and_discarded_at_another_host() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    two.reaches(64).await;
    let claim = two.attach("c").await.expect("it is served").0.claim;
    let will = Some((std::sync::Arc::new(stored("will", "", Qos::AtLeastOnce)), 0));
    let now = ratatosk_clock::Instant::ZERO;
    let detach = Detach { expiry_s: Some(5), will, now };
    assert!(two.inbox.detach(claim, detach, None).expect("it owns it").is_durable);
    stored_so(&store, || !store.is_attached(claim.inbox)).await;
    let left = store.stored(claim.inbox).expect("it is there");
    assert_eq!(left.will.as_deref(), Some("will"));
    assert_eq!(one.inbox.served(), 0);
    for existed in [true, false] {
        let reply_to = two.ticket();
        assert!(two.inbox.discard(&identity("c"), now, Some(reply_to)).ready().is_none());
        let answer = two.answer(reply_to.ticket).await;
        let is_so =
            matches!(answer, ratatosk_contract::inbox::Answer::Discarded(Ok(it)) if it == existed);
        assert!(is_so, "{answer:?}");
    }
}

/// MQTT-046, MQTT-092: what an exchange of QoS 2 needs is noted in its order at the other host.
#[tokio::test]
async fn exchanges_are_noted_at_another_host() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let _one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    two.reaches(64).await;
    let claim = two.attach("c").await.expect("it is served").0.claim;
    let ids: Vec<PacketId> = (1..=3).filter_map(PacketId::new).collect();
    for (id, is_released) in [(0, false), (1, false), (0, true), (2, false)] {
        let reply_to = two.ticket();
        let noted = two.inbox.inbound(claim, ids[id], is_released, Some(reply_to));
        assert!(!noted.expect("it owns it").is_durable);
        assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    }
    let appended = two.append(&[claim.inbox], "1", Qos::ExactlyOnce, None).await;
    assert_eq!(appended, Settlement::Done);
    let sequence = two.fetch(claim, Sequence(0), 10).await[0].sequence;
    let reply_to = two.ticket();
    let _ = two.inbox.received(claim, sequence, Some(reply_to)).expect("it owns it");
    assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    let held = store.stored(claim.inbox).expect("it is there");
    assert_eq!(held.inbound.into_iter().collect::<Vec<_>>(), ids[1..]);
    assert!(held.queue[&sequence.0].is_received);
}

/// MQTT-045, INBOX-007: of a message whose PUBREC came its next owner at another host is told that, although
/// nothing else is left of it.
#[tokio::test]
async fn a_message_that_was_received_is_told_of_without_its_content() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let _one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    two.reaches(64).await;
    let claim = two.attach("c").await.expect("it is served").0.claim;
    for payload in ["1", "2"] {
        let appended = two.append(&[claim.inbox], payload, Qos::ExactlyOnce, None).await;
        assert_eq!(appended, Settlement::Done);
    }
    let sequence = two.fetch(claim, Sequence(0), 10).await[0].sequence;
    let reply_to = two.ticket();
    let _ = two.inbox.received(claim, sequence, Some(reply_to)).expect("it owns it");
    assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    let claim = two.attach("c").await.expect("it is served").0.claim;
    let mut entries = two.fetch(claim, Sequence(0), 10).await;
    while entries.len() < 2 {
        let after = entries.last().map_or(Sequence(0), |entry| entry.sequence);
        entries.extend(two.fetch(claim, after, 10).await);
    }
    assert!(entries[0].is_received && !entries[1].is_received);
    assert_eq!(text(&entries[1].message), "2");
}

/// INBOX-012: the will of a transient session is kept at another host, and forgotten by the name that it has
/// there; if its host is over it is due.
#[tokio::test]
async fn wills_of_transient_sessions_are_kept_at_another_host() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let _one = Host::start(&discovery, 1, &store).await;
    let mut two = Host::start(&discovery, 2, &store).await;
    let _three = Host::start(&discovery, 3, &store).await;
    two.reaches(64).await;
    let will = std::sync::Arc::new(stored("will", "", Qos::AtLeastOnce));
    let mut wills = Vec::new();
    for _ in 0..2 {
        let reply_to = two.ticket();
        let owner = reply_to.session;
        let kept = two.inbox.keep_will(&identity("c"), owner, &will, 0, Some(reply_to));
        wills.push(kept.expect("it is served").answer);
        assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    }
    assert_eq!(store.wills(), (2, 0, 0));
    two.inbox.withdraw_will(wills[0]);
    stored_so(&store, || store.wills() == (1, 0, 0)).await;
    // Their partition moves, and who has them then is told that they are wanted.
    store.seat_all(Some(3));
    stored_so(&store, || store.wills() == (1, 1, 0)).await;
    two.serves = None;
    stored_so(&store, || store.wills() == (0, 1, 1)).await;
}

/// Where nobody serves a session its client is refused, and so are messages for it, after a while.
#[tokio::test]
async fn a_session_that_nobody_serves_is_refused() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    let short = |config: &mut ratatosk_inbox_remote::Config| {
        config.change_patience = std::time::Duration::from_millis(300);
    };
    let one = Host::start_with(&discovery, 1, &store, short).await;
    assert_eq!(one.attach("c").await.map(|_| ()), Err(NotServed));
    store.seat_all(Some(9));
    assert_eq!(one.attach("c").await.map(|_| ()), Err(NotServed));
    let settled = one.append(&[ratatosk_contract::inbox::InboxId(1)], "1", Qos::AtLeastOnce, None);
    assert_eq!(settled.await, Settlement::Busy);
}
