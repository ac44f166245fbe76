//! Rounds that end with all connections cut while the broker lives: nothing is violated, so that
//! what is violated after a kill is the broker's doing.

use std::time::Duration;

use ratatosk_crash::oracle::Property;
use ratatosk_crash::{Blow, Plan, torture};

/// INBOX-006, INBOX-011: nothing is lost or out of order when all connections fail at once, again
/// and again, QoS 2 comes once, and wills are sent.
#[test]
fn failing_connections_lose_nothing() {
    let span = Duration::from_secs(1);
    let plan = Plan { seed: 1, rounds: 4, span, rate: 40, blow: Blow::Cut };
    let outcome = torture::run(plan).expect("it runs");
    assert!(outcome.violations.is_empty(), "{}", outcome.report(&Property::ALL));
    assert!(outcome.history.messages.len() > 100, "that was no load");
}
