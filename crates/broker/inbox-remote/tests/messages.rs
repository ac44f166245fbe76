//! Messages for sessions of several hosts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::Call;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{InboxId, Sequence};
use ratatosk_inbox_remote::Config;
use ratatosk_rpc::MemoryDiscovery;
use tokio::time::timeout;

use crate::model::Store;
use crate::support::{Host, partition, stored_so, texts, until};

/// Hosts 1 and 2 serve sessions "near" and "far", which are connected to host 3.
async fn stage() -> (std::sync::Arc<Store>, Vec<Host>, [&'static str; 2]) {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    let (near, far) = ("near", "far");
    assert_ne!(partition(near), partition(far));
    store.set_seat(partition(near), Some(1));
    store.set_seat(partition(far), Some(2));
    let mut hosts = Vec::new();
    for id in 1..=3 {
        let short = |config: &mut Config| config.change_patience = Duration::from_secs(2);
        hosts.push(Host::start_with(&discovery, id, &store, short).await);
    }
    for host in &hosts {
        host.reaches(2).await;
    }
    (store, hosts, [near, far])
}

/// DUR-001: a message for sessions of several hosts is settled once, when all have it.
#[tokio::test]
async fn a_message_for_sessions_of_several_hosts_is_settled_once() {
    let (store, hosts, clients) = stage().await;
    let mut claims = Vec::new();
    for client in clients {
        claims.push(hosts[2].attach(client).await.expect("it is served").0.claim);
    }
    let inboxes: Vec<InboxId> = claims.iter().map(|claim| claim.inbox).collect();
    for (number, host) in hosts.iter().enumerate() {
        let payload = number.to_string();
        let appended = host.append(&inboxes, &payload, Qos::AtLeastOnce, None).await;
        assert_eq!(appended, Settlement::Done);
    }
    for claim in &claims {
        let (mut seen, mut after) = (Vec::new(), Sequence(0));
        while seen.len() < hosts.len() {
            let entries = hosts[2].fetch(*claim, after, 10).await;
            after = entries.last().expect("not empty").sequence;
            seen.extend(texts(&entries));
        }
        assert_eq!(seen, ["0", "1", "2"]);
    }
    // One of them is nowhere for too long: nobody gets it.
    store.set_seat(partition(clients[1]), None);
    hosts[0].reaches(1).await;
    let refused = hosts[0].append(&inboxes, "3", Qos::AtLeastOnce, None).await;
    assert_eq!(refused, Settlement::Busy);
    let near = store.stored(inboxes[0]).expect("it is there");
    assert_eq!(near.queue.len(), 3);
}

/// DUR-010: that a message of QoS 2 was accepted is noted behind what it was for.
#[tokio::test]
async fn an_exchange_is_noted_when_all_others_have_the_message() {
    let (store, hosts, clients) = stage().await;
    let near = hosts[2].attach(clients[0]).await.expect("it is served").0.claim;
    let far = hosts[2].attach(clients[1]).await.expect("it is served").0.claim;
    let all = [near.inbox, far.inbox];
    for (number, inboxes) in [&all[..], &all[..1], &all[1..], &[]].into_iter().enumerate() {
        let id = PacketId::new(u16::try_from(number + 1).expect("small")).expect("not zero");
        let payload = number.to_string();
        let appended = hosts[2].append(inboxes, &payload, Qos::ExactlyOnce, Some((near, id))).await;
        assert_eq!(appended, Settlement::Done);
        assert!(store.stored(near.inbox).expect("it is there").inbound.contains(&id));
    }
    let queued = |inbox| {
        let queue = store.stored(inbox).expect("it is there").queue;
        texts(&queue.into_values().collect::<Vec<_>>())
    };
    assert_eq!(queued(near.inbox), ["0", "1"]);
    assert_eq!(queued(far.inbox), ["0", "2"]);
}

/// QoS 0 goes past the queue to wherever the session is connected, whoever publishes.
#[tokio::test]
async fn qos_0_goes_straight_to_the_connection_of_another_host() {
    let (_store, hosts, clients) = stage().await;
    let (near, owner) = hosts[2].attach(clients[0]).await.expect("it is served");
    for (number, host) in hosts.iter().enumerate() {
        let payload = number.to_string();
        let inboxes = [near.claim.inbox];
        assert_eq!(host.append(&inboxes, &payload, Qos::AtMostOnce, None).await, Settlement::Done);
    }
    let came = until(&hosts[2].home.delivered, |all| all.len() == hosts.len()).await;
    assert!(came.iter().all(|(to, _)| *to == owner));
    let mut texts: Vec<String> = came.into_iter().map(|(_, text)| text).collect();
    texts.sort();
    assert_eq!(texts, ["0", "1", "2"]);
}

/// DIST-015: what waits for a host is bounded; what does not fit is refused at once, and nobody has it.
#[tokio::test]
async fn a_message_that_does_not_fit_is_refused_as_busy() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let _one = Host::start(&discovery, 1, &store).await;
    let bound = |config: &mut Config| {
        (config.lane_bytes_max, config.whole_bytes_max) = (10_000, 100_000);
    };
    let two = Host::start_with(&discovery, 2, &store, bound).await;
    two.reaches(64).await;
    let claim = two.attach("c").await.expect("it is served").0.claim;
    let inboxes = [claim.inbox];
    // Longer than may go to anybody.
    let long = "x".repeat(60_000);
    let refused = two.append(&inboxes, &long, Qos::AtLeastOnce, None).await;
    assert_eq!(refused, Settlement::QuotaExceeded);
    let payload = "x".repeat(6_000);
    let mut replies = Vec::new();
    let refused = loop {
        let reply_to = two.ticket();
        let reply = Some(reply_to);
        match two.begin_append(&inboxes, &payload, Qos::AtLeastOnce, None, reply) {
            Call::Pending => replies.push(reply_to.ticket),
            Call::Ready(settlement) => break settlement,
        }
    };
    assert_eq!(refused, Settlement::Busy);
    let count = replies.len();
    for ticket in replies {
        assert_eq!(two.settled(ticket).await, Settlement::Done);
    }
    let is_there = || store.stored(claim.inbox).is_some_and(|it| it.queue.len() == count);
    stored_so(&store, is_there).await;
}

/// DUR-001, OPS-001: a message whose sessions nobody serves waits until somebody does, and those for one session
/// keep their order.
#[tokio::test]
async fn messages_wait_for_whoever_serves_next_and_keep_their_order() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Host::start(&discovery, id, &store).await);
    }
    for host in &hosts {
        host.reaches(64).await;
    }
    let claim = hosts[2].attach("c").await.expect("it is served").0.claim;
    let mut sent = Vec::new();
    for seat in [Some(2), Some(3), Some(1)] {
        store.seat_all(None);
        hosts[2].reaches(0).await;
        let mut tickets = Vec::new();
        for _ in 0..50 {
            let (payload, reply_to) = (sent.len().to_string(), hosts[2].ticket());
            let reply = Some(reply_to);
            let begun =
                hosts[2].begin_append(&[claim.inbox], &payload, Qos::AtLeastOnce, None, reply);
            assert_eq!(begun, Call::Pending, "it waits");
            tickets.push(reply_to.ticket);
            sent.push(payload);
        }
        store.seat_all(seat);
        for ticket in tickets {
            assert_eq!(hosts[2].settled(ticket).await, Settlement::Done);
        }
    }
    let queue = store.stored(claim.inbox).expect("it is there").queue;
    assert_eq!(texts(&queue.into_values().collect::<Vec<_>>()), sent);
}

/// DUR-010: what became of a message is not known when its host is over. It is brought to whoever serves its
/// sessions next, where it may be twice if its QoS is 1, and is once if it is 2.
#[tokio::test]
async fn a_message_in_doubt_is_brought_again_where_its_exchange_is_known() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let one = Host::start(&discovery, 1, &store).await;
    let two = Host::start(&discovery, 2, &store).await;
    two.reaches(64).await;
    let claim = two.attach("c").await.expect("it is served").0.claim;
    // The first host takes everything and answers nothing any more.
    store.keep_silent(Some(1));
    let id = |number| PacketId::new(number).expect("not zero");
    let kinds = [
        (Qos::AtLeastOnce, None, Settlement::Done),
        (Qos::ExactlyOnce, Some((claim, id(1))), Settlement::Done),
        (Qos::ExactlyOnce, None, Settlement::Unknown),
    ];
    let mut waiting = Vec::new();
    for (number, (qos, exchange, expected)) in kinds.into_iter().enumerate() {
        let (payload, reply_to) = (number.to_string(), two.ticket());
        let begun = two.begin_append(&[claim.inbox], &payload, qos, exchange, Some(reply_to));
        assert_eq!(begun, Call::Pending);
        waiting.push((reply_to.ticket, expected));
    }
    let has_all = || store.stored(claim.inbox).is_some_and(|it| it.queue.len() == kinds.len());
    stored_so(&store, has_all).await;
    drop(one);
    store.keep_silent(None);
    store.seat_all(Some(2));
    for (ticket, expected) in waiting {
        assert_eq!(two.settled(ticket).await, expected);
    }
    let queue = store.stored(claim.inbox).expect("it is there").queue;
    assert_eq!(texts(&queue.into_values().collect::<Vec<_>>()), ["0", "1", "2", "0"]);
}

/// MQTT-054, OPS-001: whatever moves while messages are under way, one that comes later does not overtake.
/// [MQTT-4.6.0-6]
#[tokio::test]
async fn no_message_overtakes_another_while_partitions_move() {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Host::start(&discovery, id, &store).await);
    }
    for host in &hosts {
        host.reaches(64).await;
    }
    let clients = ["a", "b", "c", "d"];
    let mut inboxes = Vec::new();
    for client in clients {
        inboxes.push(hosts[2].attach(client).await.expect("it is served").0.claim.inbox);
    }
    let (mut tickets, mut draw) = (Vec::new(), 7_u64);
    for number in 0..2_000_u32 {
        let reply_to = hosts[1].ticket();
        let payload = number.to_string();
        let begun =
            hosts[1].begin_append(&inboxes, &payload, Qos::AtLeastOnce, None, Some(reply_to));
        assert_eq!(begun, Call::Pending);
        tickets.push(reply_to.ticket);
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (what, which) = (draw >> 60, usize::try_from(draw >> 40).expect("it fits"));
        if number % 20 == 0 {
            let seat = [Some(1), Some(2), Some(3), None][usize::try_from(what % 4).expect("small")];
            store.set_seat(partition(clients[which % 4]), seat);
        }
        if what == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
    store.seat_all(Some(3));
    for ticket in tickets {
        assert_eq!(hosts[1].settled(ticket).await, Settlement::Done);
    }
    for inbox in inboxes {
        let queue = store.stored(inbox).expect("it is there").queue;
        let mut first = Vec::new();
        for text in texts(&queue.into_values().collect::<Vec<_>>()) {
            let number: u32 = text.parse().expect("a number");
            if first.last().is_none_or(|last| *last < number) {
                first.push(number);
            }
        }
        let all: Vec<u32> = (0..2_000).collect();
        assert_eq!(first, all, "each came, none before one that was sent earlier");
    }
}

/// MQTT-084, DIST-014: the member that was chosen of a group may be served where the group is not known yet, since
/// that host has just come back. Its message waits until it is.
#[tokio::test]
async fn a_message_for_a_group_waits_until_its_host_knows_the_group() {
    let (store, hosts, [near, _]) = stage().await;
    let [one, _, two] = &hosts[..] else { panic!("three hosts") };
    let member = two.attach(near).await.expect("it is served").0.claim;
    two.learn_member(member.inbox);
    let reply_to = two.begin_append_shared(member.inbox, "m");
    let behind = two.begin_append_shared(member.inbox, "n");
    let settled = timeout(Duration::from_millis(100), two.settled(reply_to.ticket)).await;
    assert_eq!(settled.ok(), None, "nobody has it");
    one.learn_member(member.inbox);
    assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    assert_eq!(two.settled(behind.ticket).await, Settlement::Done);
    let queue = store.stored(member.inbox).expect("it is there").queue;
    assert_eq!(texts(&queue.into_values().collect::<Vec<_>>()), ["m", "n"]);
}

/// MQTT-054, DIST-014: behind a message that waits where its group is not known yet, one for the same partition
/// comes as often as it may, and does not overtake. [MQTT-4.6.0-6]
#[tokio::test]
async fn nothing_overtakes_a_message_that_waits_for_its_group() {
    let (store, hosts, [near, _]) = stage().await;
    let [one, _, two] = &hosts[..] else { panic!("three hosts") };
    let member = two.attach(near).await.expect("it is served").0.claim;
    two.learn_member(member.inbox);
    let first = two.begin_append_shared(member.inbox, "m");
    let mut behind = Vec::new();
    for payload in ["n", "o"] {
        let (inboxes, reply) = ([member.inbox], two.ticket());
        let call = two.begin_append(&inboxes, payload, Qos::AtLeastOnce, None, Some(reply));
        assert_eq!(call, Call::Pending);
        behind.push(reply);
    }
    let settled = timeout(Duration::from_millis(150), two.settled(behind[0].ticket)).await;
    assert_eq!(settled.ok(), None, "it waits for the one before");
    one.learn_member(member.inbox);
    for reply_to in [first, behind[0], behind[1]] {
        assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    }
    let queue = store.stored(member.inbox).expect("it is there").queue;
    assert_eq!(texts(&queue.into_values().collect::<Vec<_>>()), ["m", "n", "o"]);
}

/// DIST-014, MQTT-084: the routes of the host that has a message are read anew while the message waits: its group
/// is missing then, or known by another route.
#[tokio::test]
async fn a_message_for_a_group_outlives_the_routes_that_it_was_chosen_by() {
    for is_missing in [false, true] {
        let (store, hosts, [near, _]) = stage().await;
        let [one, _, two] = &hosts[..] else { panic!("three hosts") };
        let member = two.attach(near).await.expect("it is served").0.claim;
        two.learn_member(member.inbox);
        let reply_to = two.begin_append_shared(member.inbox, "m");
        if is_missing {
            two.is_behind.store(true, Ordering::Relaxed);
        } else {
            two.forget_member(member.inbox);
            two.learn_member(member.inbox);
        }
        let settled = timeout(Duration::from_millis(100), two.settled(reply_to.ticket)).await;
        assert_eq!(settled.ok(), None, "it waits");
        one.learn_member(member.inbox);
        assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
        let queue = store.stored(member.inbox).expect("it is there").queue;
        assert_eq!(texts(&queue.into_values().collect::<Vec<_>>()), ["m"]);
    }
}

/// DIST-014: a group that is gone for good keeps nobody: its message is for nobody.
#[tokio::test]
async fn a_message_for_a_group_that_is_gone_is_given_up() {
    let (store, hosts, [near, _]) = stage().await;
    let [_, _, two] = &hosts[..] else { panic!("three hosts") };
    let member = two.attach(near).await.expect("it is served").0.claim;
    two.learn_member(member.inbox);
    let reply_to = two.begin_append_shared(member.inbox, "m");
    two.forget_member(member.inbox);
    assert_eq!(two.settled(reply_to.ticket).await, Settlement::Done);
    assert!(store.stored(member.inbox).expect("it is there").queue.is_empty());
}
