//! Sessions whose partition is served by another host than before, and hosts that come and go.

use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::Call;
use ratatosk_contract::call::{Promised, Settlement};
use ratatosk_contract::inbox::{Answer, Detach, Inbox as _, Sequence, SubscribeOutcome};
use ratatosk_rpc::MemoryDiscovery;

use crate::model::Store;
use crate::support::{Host, partition, stored_so, subscription, texts, until};

/// INBOX-006, INBOX-007: a session goes on wherever its partition is served next: what its client confirmed
/// meanwhile is gone, what it was not handed comes, and nothing comes twice.
#[tokio::test]
async fn a_session_goes_on_when_its_partition_moves() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Host::start(&discovery, id, &store).await);
    }
    for host in &hosts {
        host.reaches(64).await;
    }
    let claim = hosts[1].attach("c").await.expect("it is served").0.claim;
    let (mut after, mut sent) = (Sequence(0), 0);
    let mut seen: Vec<String> = Vec::new();
    // To another host, to nobody, to the one that has the connection, and away from it.
    for seat in [Some(1), Some(3), None, Some(2), None, Some(1), Some(2), Some(3)] {
        store.seat_all(seat);
        if seat.is_none() {
            hosts[1].reaches(0).await;
            for number in after.0.saturating_sub(5)..=after.0 {
                hosts[1].inbox.commit(claim, Sequence(number)).expect("it is the owner");
            }
            continue;
        }
        for host in &hosts {
            host.reaches(64).await;
        }
        for _ in 0..100 {
            let payload = sent.to_string();
            let mut appended = Settlement::Busy;
            while appended == Settlement::Busy {
                appended =
                    hosts[sent % 3].append(&[claim.inbox], &payload, Qos::AtLeastOnce, None).await;
            }
            assert_eq!(appended, Settlement::Done);
            sent += 1;
        }
        // The last ones stay open, as with a client that takes its time.
        while seen.len() + 10 < sent {
            let entries = hosts[1].fetch(claim, after, 10).await;
            seen.extend(texts(&entries));
            for entry in &entries {
                after = entry.sequence;
                if entry.sequence.0 % 10 != 0 {
                    hosts[1].inbox.commit(claim, entry.sequence).expect("it is the owner");
                }
            }
        }
    }
    while seen.len() < sent {
        let entries = hosts[1].fetch(claim, after, 10).await;
        seen.extend(texts(&entries));
        after = entries.last().expect("not empty").sequence;
    }
    let all: Vec<String> = (0..sent).map(|number| number.to_string()).collect();
    assert_eq!(seen, all);
    for sequence in 1..=after.0 {
        hosts[1].inbox.commit(claim, Sequence(sequence)).expect("it is the owner");
    }
    stored_so(&store, || store.stored(claim.inbox).is_some_and(|it| it.queue.is_empty())).await;
    assert_eq!(store.stored(claim.inbox).map(|_| ()), Some(()));
}

/// What a session changes while nobody serves it is done, in its order, by whoever does next.
#[tokio::test]
async fn changes_of_a_session_wait_until_somebody_serves_it() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let _one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    for next in [Some(1), Some(2)] {
        store.seat_all(Some(1));
        two.reaches(64).await;
        let claim = two.attach("c").await.expect("it is served").0.claim;
        store.seat_all(None);
        two.reaches(0).await;
        let ids = [1, 2].map(|id| PacketId::new(id).expect("not zero"));
        let mut tickets = Vec::new();
        for (id, is_released) in [(ids[0], false), (ids[1], false), (ids[0], true)] {
            let reply_to = two.ticket();
            let noted = two.inbox.inbound(claim, id, is_released, Some(reply_to));
            assert!(!noted.expect("it owns it").is_durable);
            tickets.push(reply_to.ticket);
        }
        store.seat_all(next);
        for ticket in tickets {
            assert_eq!(two.settled(ticket).await, Settlement::Done);
        }
        let inbound = store.stored(claim.inbox).expect("it is there").inbound;
        assert_eq!(inbound.into_iter().collect::<Vec<_>>(), ids[1..]);
    }
}

/// OPS-001: of what a host had on its way for its own sessions when it lost their partition nobody knows what became:
/// it is done by whoever serves them next, and their clients notice nothing.
#[tokio::test]
async fn what_is_in_doubt_where_a_session_was_served_is_done_where_it_is_served_next() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    one.reaches(64).await;
    two.reaches(64).await;
    let claim = one.attach("c").await.expect("it is served").0.claim;
    store.keep_silent(Some(1));
    let id = PacketId::new(7).expect("not zero");
    let (noted, appended) = (one.ticket(), one.ticket());
    let asked = one.inbox.inbound(claim, id, false, Some(noted)).expect("it owns it");
    assert!(!asked.is_durable);
    let inboxes = [claim.inbox];
    let begun = one.begin_append(&inboxes, "1", Qos::AtLeastOnce, None, Some(appended));
    assert_eq!(begun, Call::Pending);
    store.seat_all(None);
    one.reaches(0).await;
    store.keep_silent(None);
    store.doubt_the_unsaid();
    store.seat_all(Some(2));
    for ticket in [noted.ticket, appended.ticket] {
        assert_eq!(one.settled(ticket).await, Settlement::Done);
    }
    let stored = store.stored(claim.inbox).expect("it is there");
    assert!(stored.inbound.contains(&id));
    assert_eq!(texts(&stored.queue.into_values().collect::<Vec<_>>()), ["1", "1"]);
}

/// OPS-001, DUR-009: so it is with a subscription, wherever its client is connected and wherever the session is served
/// next: nobody is refused or disconnected, and nobody is told before it is durable.
#[tokio::test]
async fn a_subscription_in_doubt_is_made_where_its_session_is_served_next() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Host::start(&discovery, id, &store).await);
    }
    let done = SubscribeOutcome::Done { route: None, existed: false };
    // Which host has the connection, which one serves its session, and then.
    for (at, before, next) in [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (1, 2, 3)] {
        let name = format!("{at}-{before}-{next}");
        store.seat_all(Some(before));
        for host in &hosts {
            host.reaches(64).await;
        }
        let host = &hosts[at - 1];
        let claim = host.attach(&name).await.expect("it is served").0.claim;
        store.keep_silent(Some(before));
        let (subscription, reply_to) = (subscription("a"), host.ticket());
        let asked = host.inbox.subscribe(claim, &subscription, Some(reply_to));
        stored_so(&store, || store.unsaid() == 1).await;
        store.seat_all(None);
        for host in &hosts {
            host.reaches(0).await;
        }
        store.doubt_the_unsaid();
        store.unsubscribe_all(claim.inbox);
        // Nor is it said before it is durable there.
        store.keep_silent(Some(next));
        store.seat_all(Some(next));
        stored_so(&store, || store.unsaid() == 1).await;
        assert!(!host.is_told(reply_to.ticket), "{name}");
        store.say_the_unsaid();
        store.keep_silent(None);
        match asked {
            Call::Ready(promised) => {
                assert_eq!(promised, Promised::later(done), "{name}");
                assert_eq!(host.settled(reply_to.ticket).await, Settlement::Done, "{name}");
            }
            Call::Pending => {
                let answer = host.answer(reply_to.ticket).await;
                assert!(matches!(answer, Answer::Subscribed(outcome) if outcome == done), "{name}");
            }
        }
        assert_eq!(store.stored(claim.inbox).expect("it is there").subscriptions.len(), 1);
        store.seat_all(None);
        for host in &hosts {
            host.reaches(0).await;
        }
    }
}

/// INBOX-013, DICT-004: what a client does while its session is being read anew does not end it: it was told to
/// nobody else, wherever it is connected.
#[tokio::test]
async fn an_owner_who_has_not_gone_on_yet_is_not_refused() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    one.reaches(64).await;
    two.reaches(64).await;
    for (host, name) in [(&one, "here"), (&two, "there")] {
        let claim = host.attach(name).await.expect("it is served").0.claim;
        let at = partition(name);
        for number in 1..=20 {
            // The host of the session knows nothing of it before it has asked.
            store.set_seat(at, Some(1));
            let id = PacketId::new(number).expect("not zero");
            let (noted, appended) = (host.ticket(), host.ticket());
            let asked = host.inbox.inbound(claim, id, false, Some(noted)).expect("it owns it");
            host.inbox.commit(claim, Sequence(1)).expect("it owns it");
            let exchange = Some((claim, PacketId::new(100 + number).expect("not zero")));
            let begun = host.begin_append(&[], "1", Qos::ExactlyOnce, exchange, Some(appended));
            assert!(!asked.is_durable && begun == Call::Pending);
            for ticket in [noted.ticket, appended.ticket] {
                assert_eq!(host.settled(ticket).await, Settlement::Done, "{name} {number}");
            }
        }
        assert_eq!(store.stored(claim.inbox).expect("it is there").inbound.len(), 40);
        store.set_seat(at, Some(1));
        let left = host.ticket();
        let now = ratatosk_clock::Instant::ZERO;
        let detach = Detach { expiry_s: Some(5), will: None, now };
        let promised = host.inbox.detach(claim, detach, Some(left)).expect("it owns it");
        assert!(promised.is_durable || host.settled(left.ticket).await == Settlement::Done);
        assert!(!store.is_attached(claim.inbox), "{name}");
    }
}

/// MQTT-051: a message for which nobody waits, as a will, still waits for whoever serves its sessions next.
#[tokio::test]
async fn a_will_reaches_sessions_that_nobody_served_when_it_was_due() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    one.reaches(64).await;
    let claim = one.attach("c").await.expect("it is served").0.claim;
    store.seat_all(None);
    one.reaches(0).await;
    let begun = one.begin_append(&[claim.inbox], "will", Qos::AtLeastOnce, None, None);
    assert_eq!(begun, Call::Ready(Settlement::Done));
    store.seat_all(Some(1));
    let is_there = || store.stored(claim.inbox).is_some_and(|it| it.queue.len() == 1);
    stored_so(&store, is_there).await;
}

/// A change that nobody can answer any more settles as unknown, within the bound.
#[tokio::test]
async fn what_nobody_answers_settles_as_unknown() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let _one = Host::start(&discovery, 1, &store).await;
    let short = |config: &mut ratatosk_inbox_remote::Config| {
        config.change_patience = std::time::Duration::from_millis(300);
        config.claim_patience = std::time::Duration::from_millis(300);
    };
    let two = Host::start_with(&discovery, 2, &store, short).await;
    two.reaches(64).await;
    let claim = loop {
        if let Ok((attached, _)) = two.attach("c").await {
            break attached.claim;
        }
    };
    store.seat_all(None);
    two.reaches(0).await;
    let reply_to = two.ticket();
    let noted = two.inbox.received(claim, Sequence(1), Some(reply_to)).expect("it owns it");
    assert!(!noted.is_durable);
    assert_eq!(two.settled(reply_to.ticket).await, Settlement::Unknown);
    let subscribed = two.subscribe(claim, "a").await;
    assert_eq!(subscribed, ratatosk_contract::inbox::SubscribeOutcome::Busy);
}

/// INBOX-012: the sessions of a host that is over are left at once, with their wills; those of others stay.
#[tokio::test]
async fn sessions_of_a_host_that_is_over_are_left() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    let mut two = Host::start(&discovery, 2, &store).await;
    let three = Host::start(&discovery, 3, &store).await;
    two.reaches(64).await;
    three.reaches(64).await;
    let lost = two.attach_with("lost", Some("will")).await.expect("it is served").0.claim;
    let kept = three.attach_with("kept", Some("will")).await.expect("it is served").0.claim;
    assert_eq!(one.inbox.served(), 2);
    two.serves = None;
    stored_so(&store, || !store.is_attached(lost.inbox)).await;
    let left = store.stored(lost.inbox).expect("it is there");
    assert_eq!(left.will.as_deref(), Some("will"));
    assert!(store.is_attached(kept.inbox));
    assert_eq!(one.inbox.served(), 1);
    drop(two);
    let appended = three.append(&[kept.inbox, lost.inbox], "1", Qos::AtLeastOnce, None).await;
    assert_eq!(appended, Settlement::Done);
    let entries = three.fetch(kept, Sequence(0), 5).await;
    assert_eq!(texts(&entries), ["1"]);
    assert!(until(&one.home.published, |_| true).await.is_empty(), "it is the inbox that has it");
}
