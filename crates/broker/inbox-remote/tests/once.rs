//! Messages of QoS 2 that go in several commands, and are sent again.

use std::sync::Arc;
use std::time::Duration;

use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::Call;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Claim, InboxId};
use ratatosk_rpc::MemoryDiscovery;
use tokio::time::timeout;

use crate::model::Store;
use crate::support::{Host, partition, stored_so, texts};

const NEAR: &str = "near";
const FAR: &str = "far";

/// Hosts 1, 2 and 3, of which each serves what the store says: the first everything.
async fn stage() -> (Arc<Store>, Vec<Option<Host>>) {
    let (discovery, store) = (MemoryDiscovery::new(), Store::new());
    store.seat_all(Some(1));
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Some(Host::start(&discovery, id, &store).await));
    }
    for host in hosts.iter().flatten() {
        host.reaches(64).await;
    }
    (store, hosts)
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

fn queued(store: &Store, claim: Claim) -> Vec<String> {
    let queue = store.stored(claim.inbox).expect("it is there").queue;
    texts(&queue.into_values().collect::<Vec<_>>())
}

async fn attach(host: &Host) -> [Claim; 2] {
    let near = host.attach(NEAR).await.expect("it is served").0.claim;
    [near, host.attach(FAR).await.expect("it is served").0.claim]
}

fn inboxes(claims: [Claim; 2]) -> [InboxId; 2] {
    claims.map(|claim| claim.inbox)
}

/// DUR-010, DUR-003: a host takes its part of a message and dies before it says so. The part is sent again, to
/// whoever serves its sessions then, and they have it once.
#[tokio::test]
async fn a_part_in_doubt_of_a_message_that_was_begun_is_sent_again() {
    let (store, mut hosts) = stage().await;
    store.set_seat(partition(FAR), Some(2));
    let three = hosts[2].take().expect("it is there");
    let claims = attach(&three).await;
    store.keep_silent(Some(2));
    let reply_to = three.ticket();
    let exchange = Some((claims[0], id(1)));
    let call =
        three.begin_append(&inboxes(claims), "m", Qos::ExactlyOnce, exchange, Some(reply_to));
    assert_eq!(call, Call::Pending);
    stored_so(&store, || queued(&store, claims[1]) == ["m"]).await;
    assert!(queued(&store, claims[0]).is_empty(), "its exchange is noted behind");
    assert_eq!(store.stored(claims[0].inbox).expect("it is there").turn, 1);
    hosts[1] = None;
    store.keep_silent(None);
    store.set_seat(partition(FAR), Some(1));
    assert_eq!(three.settled(reply_to.ticket).await, Settlement::Done);
    assert_eq!(claims.map(|claim| queued(&store, claim)), [["m"], ["m"]]);
    let near = store.stored(claims[0].inbox).expect("it is there");
    assert!(near.inbound.contains(&id(1)) && near.begun.is_empty());
}

/// DUR-010: the host of a publisher dies between the parts of its message, and the publisher brings it again by
/// another one.
#[tokio::test]
async fn a_publisher_brings_again_by_another_host_what_was_begun() {
    let (store, mut hosts) = stage().await;
    store.set_seat(partition(FAR), Some(2));
    let three = hosts[2].take().expect("it is there");
    let claims = attach(&three).await;
    store.keep_silent(Some(2));
    let reply = Some(three.ticket());
    let exchange = Some((claims[0], id(1)));
    let call = three.begin_append(&inboxes(claims), "m", Qos::ExactlyOnce, exchange, reply);
    assert_eq!(call, Call::Pending);
    stored_so(&store, || queued(&store, claims[1]) == ["m"]).await;
    drop(three);
    store.keep_silent(None);
    let one = hosts[0].as_ref().expect("it is there");
    let attached = one.attach(NEAR).await.expect("it is served").0;
    assert!(attached.is_present && attached.inbound.is_empty());
    let exchange = Some((attached.claim, id(1)));
    let appended = one.append(&inboxes(claims), "m", Qos::ExactlyOnce, exchange).await;
    assert_eq!(appended, Settlement::Done);
    // The next one is another message, also if it looks the same.
    let exchange = Some((attached.claim, id(2)));
    let appended = one.append(&inboxes(claims), "m", Qos::ExactlyOnce, exchange).await;
    assert_eq!(appended, Settlement::Done);
    assert_eq!(claims.map(|claim| queued(&store, claim)), [["m", "m"], ["m", "m"]]);
}

/// DUR-010: sessions of one host may be of several ranges; what one range has whole is not begun.
#[tokio::test]
async fn a_message_for_two_ranges_of_one_host_is_begun() {
    let (store, hosts) = stage().await;
    let one = hosts[0].as_ref().expect("it is there");
    let claims = attach(one).await;
    let turn = || store.stored(claims[0].inbox).expect("it is there").turn;
    let exchange = Some((claims[0], id(1)));
    let appended = one.append(&inboxes(claims), "0", Qos::ExactlyOnce, exchange).await;
    assert_eq!((appended, turn()), (Settlement::Done, 0));
    store.set_range(partition(FAR), 5);
    // What is begun, nobody says, and then all of it is served by another one.
    store.keep_silent(Some(1));
    let (reply_to, exchange) = (one.ticket(), Some((claims[0], id(2))));
    let call = one.begin_append(&inboxes(claims), "1", Qos::ExactlyOnce, exchange, Some(reply_to));
    assert_eq!((call, turn()), (Call::Pending, 1));
    store.keep_silent(None);
    store.seat_all(Some(2));
    store.doubt_the_unsaid();
    assert_eq!(one.settled(reply_to.ticket).await, Settlement::Done);
    assert_eq!(turn(), 1, "it is the same message");
    assert_eq!(claims.map(|claim| queued(&store, claim)), [["0", "1"], ["0", "1"]]);
}

/// DUR-010: while a range changes hands, its partitions are told of one after the other. What was one command is
/// in doubt then, and goes again when it is one again.
#[tokio::test]
async fn a_message_in_doubt_waits_until_its_range_is_in_one_place() {
    let (store, hosts) = stage().await;
    let three = hosts[2].as_ref().expect("it is there");
    let claims = attach(three).await;
    store.keep_silent(Some(1));
    let (reply_to, exchange) = (three.ticket(), Some((claims[0], id(1))));
    let call =
        three.begin_append(&inboxes(claims), "m", Qos::ExactlyOnce, exchange, Some(reply_to));
    assert_eq!(call, Call::Pending);
    stored_so(&store, || queued(&store, claims[0]) == ["m"]).await;
    store.keep_silent(None);
    store.set_seat(partition(NEAR), Some(2));
    store.doubt_the_unsaid();
    let settled = timeout(Duration::from_millis(100), three.settled(reply_to.ticket)).await;
    assert_eq!(settled.ok(), None, "it is brought again");
    store.seat_all(Some(2));
    assert_eq!(three.settled(reply_to.ticket).await, Settlement::Done);
    assert_eq!(claims.map(|claim| queued(&store, claim)), [["m"], ["m"]]);
}

/// DUR-010: whoever takes two ranges for one is told, and begins what he did not begin.
#[tokio::test]
async fn a_host_that_does_not_know_of_a_range_begins_when_it_does() {
    let (store, hosts) = stage().await;
    let three = hosts[2].as_ref().expect("it is there");
    let claims = attach(three).await;
    store.set_range(partition(FAR), 5);
    let (reply_to, exchange) = (three.ticket(), Some((claims[0], id(1))));
    let call =
        three.begin_append(&inboxes(claims), "m", Qos::ExactlyOnce, exchange, Some(reply_to));
    assert_eq!(call, Call::Pending);
    store.set_seat(partition(FAR), Some(1));
    assert_eq!(three.settled(reply_to.ticket).await, Settlement::Done);
    assert_eq!(store.stored(claims[0].inbox).expect("it is there").turn, 1);
    assert_eq!(claims.map(|claim| queued(&store, claim)), [["m"], ["m"]]);
}

/// DUR-010: a message whose publisher has another connection is not begun, and nobody has it.
#[tokio::test]
async fn a_publisher_that_was_taken_over_begins_nothing() {
    let (store, hosts) = stage().await;
    store.set_seat(partition(FAR), Some(2));
    let three = hosts[2].as_ref().expect("it is there");
    let claims = attach(three).await;
    let _ = hosts[1].as_ref().expect("it is there").attach(NEAR).await.expect("it is served");
    for host in hosts.iter().flatten() {
        let exchange = Some((claims[0], id(1)));
        let appended = host.append(&inboxes(claims), "m", Qos::ExactlyOnce, exchange).await;
        assert_eq!(appended, Settlement::Unknown);
    }
    assert!(claims.iter().all(|claim| queued(&store, *claim).is_empty()));
}

/// DUR-010, DUR-003: over moves, answers that nobody says, and publishers that turn to other hosts, each session
/// has each message once, in the order in which they were published.
#[tokio::test]
async fn what_is_sent_again_over_moves_comes_once_and_in_order() {
    const CLIENTS: [&str; 3] = [NEAR, FAR, "other"];
    let (store, hosts) = stage().await;
    let hosts: Vec<Host> = hosts.into_iter().flatten().collect();
    let mut dice = 88_172_645_463_325_252_u64;
    let mut below = move |bound: u64| {
        // Xorshift: what happens is the same each time, as far as tasks let it.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % bound
    };
    let mut all = Vec::new();
    for client in CLIENTS {
        all.push(hosts[0].attach(client).await.expect("it is served").0.claim);
    }
    let inboxes: Vec<InboxId> = all.iter().map(|claim| claim.inbox).collect();
    let (mut at, mut claim, mut sent) = (0, all[0], Vec::new());
    for number in 1..=60_u16 {
        let payload = number.to_string();
        let mut reseat = |silent: Option<u128>| {
            for client in CLIENTS {
                store.set_seat(partition(client), Some(1 + u128::from(below(3))));
                store.set_range(partition(client), below(3));
            }
            store.keep_silent(silent);
            (below(3), below(4))
        };
        let (silent, _) = reseat(None);
        store.keep_silent(Some(1 + u128::from(silent)));
        let first = hosts[at].ticket();
        let exchange = Some((claim, id(number)));
        let call =
            hosts[at].begin_append(&inboxes, &payload, Qos::ExactlyOnce, exchange, Some(first));
        let (next, what) = reseat(None);
        store.doubt_the_unsaid();
        if what > 0 {
            let settled = match call {
                Call::Pending => hosts[at].settled(first.ticket).await,
                Call::Ready(settlement) => settlement,
            };
            assert_eq!(settled, Settlement::Done);
        } else {
            // Its publisher does not wait for it.
            at = usize::try_from(next).expect("small");
            let attached = loop {
                // Whoever served it may just have ceased to.
                match hosts[at].attach(NEAR).await {
                    Ok((attached, _)) => break attached,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            claim = attached.claim;
            if !attached.inbound.contains(&id(number)) {
                let exchange = Some((claim, id(number)));
                let again = hosts[at].append(&inboxes, &payload, Qos::ExactlyOnce, exchange).await;
                assert_eq!(again, Settlement::Done);
            }
        }
        sent.push(payload);
    }
    for claim in all {
        assert_eq!(queued(&store, claim), sent);
    }
}
