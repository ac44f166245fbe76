//! The directory of sessions that data planes of several nodes share.

use std::time::{Duration, Instant};

use ratatosk_codec::ReasonCode;
use ratatosk_conformance::{Broker, Client, Event, PATIENCE, Setup};
use ratatosk_contract::TenantId;
use ratatosk_contract::session_dict::SessionDict as _;
use ratatosk_mqtt::Config;
use ratatosk_rpc::{HostId, MemoryDiscovery};
use ratatosk_session_dict::{ClusterDict, Victims};

use crate::cases::{QOS0, standstill};

pub(crate) fn dict(broker: &Broker) -> &ClusterDict {
    broker.cluster_dict.as_ref().expect("it is one of several")
}

pub(crate) fn until(what: &str, is_met: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_met() {
        assert!(Instant::now() < end, "in time: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Nodes that see each other.
pub(crate) fn nodes(count: usize, first: Setup) -> Vec<Broker> {
    let discovery = MemoryDiscovery::new();
    let mut first = Some(first);
    let setup = |number: usize| Setup {
        cluster: Some((discovery.clone(), HostId(0xA0 + number as u128))),
        ..first.take().unwrap_or_default()
    };
    let nodes: Vec<Broker> = (0..count).map(setup).map(Broker::with).collect();
    for node in &nodes {
        until("the nodes see each other", || {
            dict(node).seen() == (count, count - 1) && dict(node).is_synced()
        });
    }
    nodes
}

/// MQTT-042, DICT-001: a session goes from node to node and back, and each owner is told why it ends.
#[test]
fn a_session_is_taken_over_from_another_node() {
    let nodes = nodes(3, Setup::default());
    for number in 0..6 {
        let name = format!("c{number}");
        let mut owner = nodes[0].v5(&name).connect();
        for node in [1, 2, 0, 1] {
            let mut next = nodes[node].v5(&name).connect();
            owner.expect_farewell(ReasonCode::SessionTakenOver);
            next.ping();
            owner = next;
        }
        let mut old = nodes[2].v4(&name).connect();
        owner.expect_farewell(ReasonCode::SessionTakenOver);
        let mut last = nodes[0].v4(&name).connect();
        old.expect_close();
        last.ping();
        last.disconnect(ReasonCode::Success);
    }
    until("nobody is left", || nodes.iter().all(|node| dict(node).is_empty()));
    until("nobody is registered", || nodes.iter().all(|node| dict(node).stats().registered == 0));
}

/// MQTT-042: the new owner hears nothing before the one on the other node has ended.
#[test]
fn a_connection_waits_for_the_owner_on_another_node() {
    let (hold, permission) = standstill();
    let config = Config { shards: 1, ..Config::default() };
    let nodes = nodes(2, Setup { config, permission, ..Setup::default() });
    let mut owner = nodes[0].v5("c").connect();
    let mut blocker = nodes[0].v5("blocker").connect();
    blocker.ping();
    blocker.publish("block", "", QOS0);
    let mut next = nodes[1].v5("c").open();
    until("the other one is claimed", || dict(&nodes[1]).len() == 1);
    // What goes the same way, later, has come back.
    let mut other = nodes[1].v5("other").connect();
    other.ping();
    assert!(is_silent(&next));
    drop(hold);
    assert_eq!(next.connack().reason, ReasonCode::Success);
    owner.expect_farewell(ReasonCode::SessionTakenOver);
    next.ping();
}

/// Whether the broker has said nothing so far.
fn is_silent(client: &Client) -> bool {
    let stream = client.writer();
    stream.set_nonblocking(true).expect("a socket option");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket option");
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// DICT-001: of connections that race on two nodes one is left, and all others are told: those that
/// were let in that they were taken over, the others that they are refused.
#[test]
fn of_connections_that_race_on_two_nodes_one_is_left() {
    let nodes = nodes(2, Setup::default());
    // Few: who is refused is lingered for, as nobody reads it before the end of the round.
    for round in 0..4 {
        let name = format!("r{round}");
        let racers: Vec<Client> = (0..6).map(|number| nodes[number % 2].v5(&name).open()).collect();
        // All have been answered, and those that are to go have gone.
        let answered = 6 * (round + 1);
        until("one is left", || {
            let stats = nodes.iter().map(|node| node.node_stats().total());
            let sums = stats.fold((0, 0, 0), |(told, open, live), stats| {
                let told = told + stats.connected + stats.refused;
                (told, open + stats.connections, live + stats.live)
            });
            sums == (answered, 1, 1)
        });
        let mut left = 0;
        for mut racer in racers {
            let Event::Connack(welcome) = racer.event() else { panic!("it is answered") };
            match welcome.reason {
                ReasonCode::Success if racer.has_more() => {
                    racer.expect_farewell(ReasonCode::SessionTakenOver);
                }
                ReasonCode::Success => {
                    left += 1;
                    racer.disconnect(ReasonCode::Success);
                }
                reason => assert_eq!(reason, ReasonCode::ServerBusy),
            }
        }
        assert_eq!(left, 1);
        until("nobody is left", || nodes.iter().all(|node| dict(node).is_empty()));
    }
}

/// DICT-002, DICT-003: an operator on one node ends the sessions of a tenant on the others.
#[test]
fn an_operator_ends_sessions_on_another_node() {
    let nodes = nodes(2, Setup::default());
    let mut clients: Vec<Client> =
        (0..4).map(|number| nodes[number % 2].v5(&format!("c{number}")).connect()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let victims = Victims::Tenant(TenantId::new("default"));
    let killed = runtime.expect("a runtime").block_on(dict(&nodes[0]).kill(&victims));
    assert_eq!((killed.count, killed.is_whole), (4, true));
    for client in &mut clients {
        client.expect_farewell(ReasonCode::AdministrativeAction);
    }
}
