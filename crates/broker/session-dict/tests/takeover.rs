//! A session goes from node to node.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatosk_contract::session_dict::{EndCause, Registered, SessionDict};
use ratatosk_rpc::MemoryDiscovery;

use crate::support::{Word, identity, session, three};

const TAKEN: Word = Word::Ended(EndCause::TakenOver);

/// DICT-001, MQTT-042: whoever has a session on another node is told to end, and only when it has is
/// the new connection told that the session is its own.
#[tokio::test]
async fn a_claim_waits_until_the_owner_on_another_node_has_ended() {
    let discovery = MemoryDiscovery::new();
    let nodes = three(&discovery).await;
    // Sessions of every server, and each pair of nodes.
    for (number, (from, to)) in [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1)].iter().enumerate()
    {
        for sub in 0..4 {
            let client = format!("c{number}-{sub}");
            let slot = u32::try_from(number * 10 + sub).expect("small") * 2;
            let (from, to) = (&nodes[*from], &nodes[*to]);
            from.own(&client, slot).await;
            assert_eq!(to.claim(&client, slot + 1), Registered::Pending);
            from.desk.hears(session(slot), &from.told(slot, TAKEN)).await;
            // It is slow to end, and the other one hears nothing meanwhile.
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(to.desk.words(session(slot + 1)), []);
            assert!(from.remove(&client, slot));
            to.desk.hears(session(slot + 1), &[Word::Granted]).await;
            let found = nodes[0].dict.locate(&[identity(&client)]).await;
            assert_eq!(found, [Some(to.owner(slot + 1))]);
        }
    }
}

impl crate::support::Member {
    /// What a connection has heard, and one word more.
    fn told(&self, slot: u32, word: Word) -> Vec<Word> {
        let mut words = self.desk.words(session(slot));
        words.retain(|heard| *heard != word);
        words.push(word);
        words
    }
}

/// An owner that takes longer to end than an answer may take is waited for all the same.
#[tokio::test]
async fn a_claim_waits_for_an_owner_that_is_slow_to_end() {
    let discovery = MemoryDiscovery::new();
    let [one, two, _three] = three(&discovery).await;
    one.own("c", 1).await;
    assert_eq!(two.claim("c", 2), Registered::Pending);
    one.desk.hears(session(1), &one.told(1, TAKEN)).await;
    // Longer than a node may be silent.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(two.desk.words(session(2)), []);
    one.remove("c", 1);
    two.desk.hears(session(2), &[Word::Granted]).await;
    assert_eq!(two.dict.stats().roster.given_up, 0);
}

/// A claim whose client has gone while it waited leaves the session to its owner's end.
#[tokio::test]
async fn a_claim_that_gives_up_is_forgotten() {
    let discovery = MemoryDiscovery::new();
    let [one, two, three] = three(&discovery).await;
    one.own("c", 1).await;
    assert_eq!(two.claim("c", 2), Registered::Pending);
    one.desk.hears(session(1), &one.told(1, TAKEN)).await;
    assert!(two.remove("c", 2));
    // Who comes next waits for the owner, too.
    assert_eq!(three.claim("c", 3), Registered::Pending);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(three.desk.words(session(3)), []);
    one.remove("c", 1);
    three.desk.hears(session(3), &[Word::Granted]).await;
    assert_eq!(two.desk.words(session(2)), []);
}

/// DICT-001: of claims that race on all nodes one is left for each session, and all the others were
/// told to end.
#[tokio::test]
async fn of_racing_claims_one_is_left() {
    const CLIENTS: u32 = 20;
    const ROUNDS: u32 = 6;
    let discovery = MemoryDiscovery::new();
    let nodes = three(&discovery).await;
    let name = |client: u32| format!("c{client}");
    let slot = |client: u32, round: u32, node: u32| (client * ROUNDS + round) * 3 + node;
    let mut obediences = Vec::new();
    for (number, node) in (0..).zip(&nodes) {
        let slots = (0..CLIENTS).flat_map(|client| {
            (0..ROUNDS)
                .map(move |round| (session(slot(client, round, number)), identity(&name(client))))
        });
        obediences.push(node.obey(slots.collect::<BTreeMap<_, _>>()));
    }
    let mut at_once = Vec::new();
    for round in 0..ROUNDS {
        for client in 0..CLIENTS {
            for (number, node) in (0..).zip(&nodes) {
                let slot = slot(client, round, number);
                if node.claim(&name(client), slot) == Registered::Alone {
                    at_once.push((number, slot));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 4)).await;
    }
    for client in 0..CLIENTS {
        for (number, node) in (0..).zip(&nodes) {
            for round in 0..ROUNDS {
                let slot = slot(client, round, number);
                let mut changes = node.desk.watch();
                let said = changes.wait_for(|_| {
                    at_once.contains(&(number, slot)) || !node.desk.words(session(slot)).is_empty()
                });
                let in_time = tokio::time::timeout(crate::support::LONG, said).await;
                assert!(in_time.is_ok(), "{client} {number} {slot}");
            }
        }
        // Ends that were told are under way.
        crate::support::until("one is left", || {
            let identity = identity(&name(client));
            nodes.iter().filter(|node| node.dict.find(&identity).is_some()).count() == 1
        })
        .await;
        let found = nodes[0].dict.locate(&[identity(&name(client))]).await;
        let holder = nodes.iter().find_map(|node| {
            let session = node.dict.find(&identity(&name(client)))?;
            Some(ratatosk_session_dict::Owner { host: node.host(), session })
        });
        assert_eq!(found, [holder]);
    }
}
