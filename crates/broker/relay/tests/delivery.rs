//! Messages reach the sessions of other hosts, in order, and whoever waits is told what became of them.

use std::time::Duration;

use ratatosk_contract::relay::{Addressee, Fate, Outcome, Relay as _, Why};
use ratatosk_rpc::{HostId, MemoryDiscovery};

use crate::support::{Host, Sketch, filter, meet, tenant};

/// A text, and a content type, in the bytes of MQTT 5.0.
const PROPERTIES: &[u8] = b"\x01\x01\x03\x00\x04text";

/// DIST-007: a caller's messages come in its order, each once at each host, with all that they had.
#[tokio::test]
async fn messages_come_in_order_and_whole() {
    let discovery = MemoryDiscovery::new();
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Host::start(&discovery, id).await);
    }
    let [one, two, three] = &hosts[..] else { unreachable!() };
    meet(&[one, two, three]).await;
    let large = vec![7; 1 << 20];
    for number in 0..2_000_u64 {
        let small = number.to_be_bytes();
        let payload = if number == 1_000 { &large[..] } else { &small[..] };
        let life = Some(Duration::from_secs(1_000));
        let sketch = Sketch { properties: PROPERTIES, life, ..Sketch::new(payload) };
        let sent = one.send(&sketch, &[2, 3], Some(number));
        assert_eq!((sent.pending, sent.dropped), (2, 0));
    }
    for host in [two, three] {
        let came = host.sessions.have(2_000).await;
        for (number, (member, message)) in (0..).zip(&came) {
            assert_eq!((*member, &*message.topic), (None, "a"));
            assert_eq!((&*message.properties, message.retain), (PROPERTIES, true));
            assert_eq!(message.publisher.0, 77);
            let left = message.deadline.expect("it has one").since(message.accepted);
            assert!((900..=1_000).contains(&left.as_secs()), "{left:?}");
            if number == 1_000 {
                assert!(message.payload == large);
            } else {
                assert_eq!(message.payload, u64::to_be_bytes(number)[..]);
            }
        }
    }
    let told = one.sessions.settle(4_000).await;
    assert!(told.iter().all(|(_, outcome)| *outcome == Outcome::Taken));
    assert_eq!(told.len(), 4_000);
    ratatosk_telemetry::memory::post_changes();
    assert_eq!(one.accountant.charged().bytes(), 0, "nothing waits");
}

#[tokio::test]
async fn nobody_is_told_of_what_nobody_waits_for() {
    let discovery = MemoryDiscovery::new();
    let [one, two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    meet(&[&one, &two]).await;
    one.send(&Sketch::new(b"x"), &[2], None);
    one.send(&Sketch::new(b"y"), &[2], Some(4));
    two.sessions.have(2).await;
    assert_eq!(one.sessions.settle(1).await, [(4, Outcome::Taken)]);
}

fn to(id: u64) -> Addressee<'static> {
    Addressee::Member { filter: "a", group: "g", is_ordered: false, id, incarnation: 1 }
}

/// A message for a member that has left comes back, so that another one can have it.
#[tokio::test]
async fn a_member_that_is_gone_is_reported() {
    let discovery = MemoryDiscovery::new();
    let [one, two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    meet(&[&one, &two]).await;
    two.sessions.fates.lock().extend([(7, Fate::Gone), (8, Fate::Full)]);
    for id in [7, 8, 9] {
        one.send(&Sketch { to: to(id), ..Sketch::new(b"x") }, &[2], Some(id));
    }
    let full = Outcome::Dropped(Why::Full);
    let told = one.sessions.settle(3).await;
    assert_eq!(told, [(7, Outcome::Gone), (8, full), (9, Outcome::Taken)]);
    assert_eq!(two.sessions.have(1).await[0].0, Some(9));
    let dropped = "ratatosk_relay_dropped_messages_total";
    assert_eq!(one.metric(&[dropped, "tenant=\"t\"", "full"]), 1);
    assert_eq!(one.metric(&[dropped, "gone"]), 0, "whoever waits does with it what is right");
    one.send(&Sketch { to: to(7), ..Sketch::new(b"x") }, &[2], None);
    one.counted(&[dropped, "gone"], |count| count == 1).await;
}

/// DIST-014: whoever waits for a host that goes is told, and others do not feel it.
#[tokio::test]
async fn a_host_that_vanishes_holds_nobody_up() {
    let discovery = MemoryDiscovery::new();
    let mut hosts = Vec::new();
    for id in 1..=3 {
        hosts.push(Host::start(&discovery, id).await);
    }
    let three = hosts.pop().expect("a host");
    let [one, two] = &hosts[..] else { unreachable!() };
    meet(&[one, two, &three]).await;
    // Its process is there no more, and nobody has noticed.
    three.node.stop().await;
    three.relay.stop().await;
    let sent = one.send(&Sketch::new(b"x"), &[2, 3], Some(1));
    assert_eq!(sent.pending, 2);
    assert_eq!(two.sessions.have(1).await.len(), 1);
    discovery.remove_host(HostId(3));
    let mut told = one.sessions.settle(2).await;
    told.sort_by_key(|(_, outcome)| *outcome != Outcome::Taken);
    assert_eq!(told, [(1, Outcome::Taken), (1, Outcome::Dropped(Why::Lost))]);
}

/// What was sent before a stream broke may have come, and what comes after it goes by the next one.
#[tokio::test]
async fn a_host_that_stops_serving_takes_back_what_it_wanted() {
    let discovery = MemoryDiscovery::new();
    let [one, mut two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    meet(&[&one, &two]).await;
    two.sees(two.relay.want(&tenant(), &filter("a"))).await;
    two.serving = None;
    one.knows(&[]).await;
    assert_eq!(one.dist.stats().routes, 0);
}
