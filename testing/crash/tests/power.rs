//! Rounds that end with a power loss: what the broker did not sync is lost, or some of it.

use std::time::Duration;

use ratatosk_crash::oracle::Property;
use ratatosk_crash::{Blow, Plan, torture};

/// DUR-004: twenty power losses under load and at starts lose nothing acknowledged, and a broker whose
/// last write was torn starts by itself. What its processes did to the folder was noticed, so that
/// nothing was spared unduly.
#[test]
fn power_losses_lose_nothing_acknowledged() {
    let span = Duration::from_millis(1200);
    let plan = Plan { seed: 4, rounds: 18, span, rate: 40, blow: Blow::Power };
    let outcome = torture::run(plan).expect("it runs");
    assert!(outcome.violations.is_empty(), "{}", outcome.report(&Property::ALL));
    assert!(outcome.kills >= 20, "{} power losses", outcome.kills);
    assert!(outcome.uncertain > 0, "there was nothing to lose");
}

/// DUR-001: a disk that does not sync is found out, by what is lost or by a broker that does not start.
#[test]
fn a_sync_that_is_skipped_is_found() {
    let span = Duration::from_millis(1200);
    let plan = Plan { seed: 5, rounds: 3, span, rate: 40, blow: Blow::Lie };
    let is_found = torture::run(plan).map_or(true, |outcome| !outcome.violations.is_empty());
    assert!(is_found, "nobody noticed");
}
