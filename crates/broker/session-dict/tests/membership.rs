//! Servers and nodes come and go.

use std::time::Duration;

use ratatosk_contract::session_dict::{EndCause, Registered, SessionDict};
use ratatosk_rpc::{Discovery, MemoryDiscovery, ServiceName};

use crate::support::{Member, Word, identity, session, three, until};

const CLIENTS: u32 = 300;

fn name(client: u32) -> String {
    format!("c{client}")
}

/// DICT-004: when a server is lost, and when one comes, all sessions are registered anew, all are
/// found meanwhile, and none is ended.
#[tokio::test]
async fn sessions_outlive_the_loss_of_a_server() {
    let discovery = MemoryDiscovery::new();
    let [one, two, three] = three(&discovery).await;
    for client in 0..CLIENTS {
        let node = [&one, &two][usize::from(client % 2 == 1)];
        node.own(&name(client), client).await;
    }
    let identities: Vec<_> = (0..CLIENTS).map(|client| identity(&name(client))).collect();
    let expected: Vec<_> = (0..CLIENTS)
        .map(|client| Some([&one, &two][usize::from(client % 2 == 1)].owner(client)))
        .collect();
    assert_eq!(three.dict.locate(&identities).await, expected);
    let said = [one.desk.count(), two.desk.count()];
    let host = three.host();
    three.die().await;
    discovery.remove_host(host);
    until("the loss is seen", || one.dict.seen() == (2, 1) && two.dict.seen() == (2, 1)).await;
    assert_eq!(one.dict.locate(&identities).await, expected, "while servers are being told");
    for node in [&one, &two] {
        node.settles(2, 1).await;
    }
    until("all is registered", || {
        one.dict.stats().registered + two.dict.stats().registered == identities.len()
    })
    .await;
    assert_eq!(two.dict.locate(&identities).await, expected);
    let four = Member::start(&discovery, 0xD4).await;
    for node in [&one, &two, &four] {
        node.settles(3, 2).await;
    }
    assert_eq!(four.dict.locate(&identities).await, expected);
    assert!(four.dict.stats().registered > 50, "{:?}", four.dict.stats());
    assert_eq!([one.desk.count(), two.desk.count()], said, "nobody was told anything");
    // And whoever comes now finds the owner.
    assert_eq!(four.claim(&name(0), 1_000), Registered::Pending);
    one.desk.hears(session(0), &taken(&one, 0)).await;
    one.remove(&name(0), 0);
    four.desk.hears(session(1_000), &[Word::Granted]).await;
}

fn taken(node: &Member, slot: u32) -> Vec<Word> {
    let mut words = node.desk.words(session(slot));
    words.retain(|word| *word == Word::Granted);
    words.push(Word::Ended(EndCause::TakenOver));
    words
}

/// A session of a node that is dead is free once the cluster says so.
#[tokio::test]
async fn the_sessions_of_a_dead_node_are_free() {
    let discovery = MemoryDiscovery::new();
    let [one, two, three] = three(&discovery).await;
    let clients: Vec<u32> = (0..12).collect();
    for client in &clients {
        three.own(&name(*client), *client).await;
    }
    let host = three.host();
    three.die().await;
    for client in &clients {
        assert_eq!(one.claim(&name(*client), *client), Registered::Pending);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    discovery.remove_host(host);
    for client in &clients {
        one.desk.hears(session(*client), &[Word::Granted]).await;
    }
    for node in [&one, &two] {
        node.settles(2, 1).await;
    }
    let identities: Vec<_> = clients.iter().map(|client| identity(&name(*client))).collect();
    let expected: Vec<_> = clients.iter().map(|client| Some(one.owner(*client))).collect();
    assert_eq!(two.dict.locate(&identities).await, expected);
}

/// A node that is not reached is given up after some seconds, although the cluster has not noticed.
#[tokio::test]
async fn a_node_that_is_not_reached_is_waited_for_for_a_bounded_time() {
    let discovery = MemoryDiscovery::new();
    let [one, _two, three] = three(&discovery).await;
    for client in 0..6 {
        three.own(&name(client), client).await;
    }
    three.die().await;
    for client in 0..6 {
        assert_eq!(one.claim(&name(client), client), Registered::Pending);
    }
    for client in 0..6 {
        one.desk.hears(session(client), &[Word::Granted]).await;
    }
    let stats = one.dict.stats().roster;
    assert!(stats.given_up >= 6 && stats.debts >= 6, "{stats:?}");
}

/// DICT-001: of two owners in parts of a network that did not see each other the newer one is left
/// when they do, in seconds, and sessions of which there is one are left alone.
#[tokio::test]
async fn of_two_owners_that_meet_after_a_partition_the_newer_is_left() {
    let (left, right) = (MemoryDiscovery::new(), MemoryDiscovery::new());
    let one = Member::start(&left, 0xA1).await;
    let two = Member::start(&right, 0xB2).await;
    for client in 0..20 {
        one.own(&name(client), client).await;
    }
    // Stamps are of milliseconds, and the clocks are of one machine.
    tokio::time::sleep(Duration::from_millis(5)).await;
    for client in 10..30 {
        two.own(&name(client), client).await;
    }
    for (from, to) in [(&left, &right), (&right, &left)] {
        for service in ["ratatosk.dict.Directory", "ratatosk.dict.Holders"] {
            let service = ServiceName::new(service).expect("a name");
            let landscape = from.watch(&service).borrow().clone();
            for record in landscape.servers.values() {
                to.announce(record.clone()).expect("room");
            }
        }
    }
    for client in 10..20 {
        one.desk.hears(session(client), &[Word::Ended(EndCause::TakenOver)]).await;
        one.remove(&name(client), client);
    }
    for node in [&one, &two] {
        node.settles(2, 1).await;
    }
    until("all is registered once", || {
        one.dict.stats().registered + two.dict.stats().registered == 30
    })
    .await;
    let identities: Vec<_> = (0..30).map(|client| identity(&name(client))).collect();
    let expected =
        (0..30).map(|client| Some(if client < 10 { one.owner(client) } else { two.owner(client) }));
    assert_eq!(one.dict.locate(&identities).await, expected.collect::<Vec<_>>());
    assert_eq!(two.desk.count(), 0, "the newer one was told nothing");
    assert_eq!(one.desk.count(), 10);
}

/// A node that is no server registers at those that are; one alone has its sessions at once.
#[tokio::test]
async fn a_node_alone_has_its_sessions_at_once() {
    let discovery = MemoryDiscovery::new();
    let one = Member::start(&discovery, 0xA1).await;
    for client in 0..100 {
        assert_eq!(one.claim(&name(client), client), Registered::Alone);
    }
    let two = Member::with(std::sync::Arc::new(discovery.clone()), 0xB2, false).await;
    one.settles(1, 1).await;
    two.settles(1, 1).await;
    assert_eq!(two.claim(&name(0), 200), Registered::Pending);
    one.desk.hears(session(0), &[Word::Ended(EndCause::TakenOver)]).await;
    one.remove(&name(0), 0);
    two.desk.hears(session(200), &[Word::Granted]).await;
    assert_eq!((one.dict.len(), two.dict.len()), (99, 1));
    assert_eq!((one.dict.stats().registered, two.dict.stats().registered), (100, 0));
}
