//! A few rounds with the real binary; the program of this package does more, with any seed.
#![allow(missing_docs, reason = "the names of the tests are sentences")]

use std::time::Duration;

use ratatosk_chaos::{Ground, Harm, Plan, report, rounds};

/// DUR-002, DUR-003: a broker that is killed under the load of this program loses nothing and sends
/// nothing twice, so that what a cluster loses is not the program's doing.
#[test]
fn one_process_that_is_killed_loses_nothing() {
    let plan = Plan {
        seed: 1,
        rounds: 2,
        harm: Harm::Kill,
        ground: Ground::Alone,
        nodes: 1,
        rate: 20,
        span: Duration::from_secs(1),
        keep: std::env::temp_dir(),
    };
    let outcome = rounds::run(&plan, &mut |_| {}).expect("it runs");
    assert!(outcome.is_good(), "{}{}", report::summary(&outcome), report::breaches(&outcome));
    assert_eq!(outcome.rounds.len(), 2);
    assert!(outcome.rounds.iter().all(|round| round.acked > 100), "that was no load");
}
