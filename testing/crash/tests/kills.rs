//! Five rounds of load and kill -9, judged property by property: one run for all tests.

use std::sync::OnceLock;
use std::time::Duration;

use ratatosk_crash::oracle::Property;
use ratatosk_crash::{Blow, Outcome, Plan, torture};

const PLAN: Plan =
    Plan { seed: 1, rounds: 5, span: Duration::from_secs(3), rate: 40, blow: Blow::Kill };

#[track_caller]
fn check(properties: &[Property]) {
    static OUTCOME: OnceLock<Result<Outcome, String>> = OnceLock::new();
    let outcome = OUTCOME.get_or_init(|| torture::run(PLAN).map_err(|error| format!("{error:#}")));
    let outcome = outcome.as_ref().unwrap_or_else(|error| panic!("{error}"));
    let report = outcome.report(properties);
    assert!(report.is_empty(), "{report}");
}

/// DUR-002, INBOX-007: what was acknowledged to publishers reaches every persistent subscriber,
/// in order, and what these have not acknowledged comes again.
#[test]
fn kill_9_loses_no_acknowledged_message() {
    check(&[Property::Delivery, Property::Order]);
}

/// DUR-003, DUR-010: a message of QoS 2 comes once, whatever publishers send again.
#[test]
fn qos_2_is_exactly_once_over_kills() {
    check(&[Property::ExactlyOnce]);
}

/// DUR-002: sessions are there again, with their subscriptions and without those given up.
#[test]
fn sessions_and_subscriptions_come_back_as_they_were() {
    check(&[Property::Session, Property::Unsubscribed, Property::Conduct]);
}

/// RET-006, DUR-002: retained messages are the last acknowledged ones, or later ones.
#[test]
fn retained_messages_come_back_as_they_were() {
    check(&[Property::Retained]);
}

/// INBOX-011, INBOX-012, INBOX-013: wills of clients that were connected when the broker died, and
/// those that waited, are sent; that of a client which came back is not.
#[test]
fn wills_outlive_the_broker() {
    check(&[Property::Will]);
}
