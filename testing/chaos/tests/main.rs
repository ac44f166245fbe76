//! A few rounds with the real binary; the program of this package does more, with any seed.
#![allow(missing_docs, reason = "the names of the tests are sentences")]

use std::time::Duration;

use ratatosk_chaos::{Ground, Harm, Outcome, Plan, report, rounds, takeover};
use ratatosk_crash::oracle::Property;

fn plan(harm: Harm, ground: Ground, nodes: usize, rounds: u32) -> Plan {
    let (span, keep) = (Duration::from_secs(1), std::env::temp_dir());
    Plan { seed: 1, rounds, harm, ground, nodes, rate: 20, span, keep }
}

fn run(ground: Ground, nodes: usize, rounds: u32) -> Outcome {
    rounds::run(&plan(Harm::Kill, ground, nodes, rounds), &mut |_| {}).expect("it runs")
}

/// DUR-002, DUR-003: a broker that is killed under the load of this program loses nothing and sends
/// nothing twice, so that what a cluster loses is not the program's doing.
#[test]
fn one_process_that_is_killed_loses_nothing() {
    let outcome = run(Ground::Alone, 1, 2);
    assert!(outcome.is_good(), "{}{}", report::summary(&outcome), report::breaches(&outcome));
    assert_eq!(outcome.rounds.len(), 2);
    assert!(outcome.rounds.iter().all(|round| round.acked > 100), "that was no load");
}

/// OPS-002, KV-005, DUR-001: three nodes of which one is killed and comes back lose nothing that was
/// acknowledged, and clients find their sessions at another node.
#[test]
fn a_cluster_that_loses_a_node_loses_nothing_acknowledged() {
    let mut outcome = run(Ground::Loopback, 3, 1);
    let promised = [Property::Delivery, Property::Session];
    outcome.violations.retain(|violation| promised.contains(&violation.property));
    assert!(outcome.violations.is_empty(), "{}", report::breaches(&outcome));
    assert!(outcome.rounds.iter().all(|round| round.acked > 100), "that was no load");
}

/// CFG-002, CLU-001, DUR-001: seven nodes, each for one workload, make a cluster, serve, and lose nothing that was
/// acknowledged when one that keeps sessions is killed.
#[test]
fn a_cluster_of_nodes_for_one_workload_each_loses_nothing_acknowledged() {
    let mut outcome = {
        let plan = plan(Harm::Roles, Ground::Loopback, 7, 1);
        rounds::run(&plan, &mut |_| {}).expect("it runs")
    };
    let promised = [Property::Delivery, Property::Session];
    outcome.violations.retain(|violation| promised.contains(&violation.property));
    assert!(outcome.violations.is_empty(), "{}", report::breaches(&outcome));
    assert!(outcome.rounds.iter().all(|round| round.acked > 100), "that was no load");
}

/// DICT-001, INBOX-001, MQTT-042: of clients that race for one session at several nodes one acts, the others
/// are told, and what publishers were acknowledged comes to them, QoS 2 once and all in order.
#[test]
fn of_clients_that_race_for_a_session_at_several_nodes_one_acts() {
    let plan = plan(Harm::Takeover, Ground::Loopback, 3, 40);
    let outcome = takeover::run(&plan, &mut |_| {}).expect("it runs");
    assert!(outcome.is_good(), "{}{}", outcome.summary(), outcome.breaches());
    assert!(outcome.races[0] >= 40 && outcome.replaced[0] >= 20, "{}", outcome.summary());
    assert!(outcome.messages[1] > 50, "that was no load:\n{}", outcome.summary());
}
