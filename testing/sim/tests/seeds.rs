//! Histories drawn from seeds: whatever happens, what was acknowledged is there.

use ratatosk_sim::{Outcome, Plan, run};

const STEPS: u32 = 300;

fn outcome(seed: u64, steps: u32) -> Outcome {
    match run(Plan { seed, steps, planted: None }) {
        Ok(outcome) => outcome,
        Err(violation) => panic!("{violation}"),
    }
}

fn sum(seeds: std::ops::Range<u64>) -> (u32, u64) {
    seeds.map(|seed| outcome(seed, STEPS)).fold((0, 0), |(crashes, acknowledged), outcome| {
        (crashes + outcome.crashes, acknowledged + outcome.acknowledged)
    })
}

/// DUR-001, DUR-002, DUR-004: nothing acknowledged is lost, whatever part of the unsynced writes is.
#[test]
fn nothing_acknowledged_is_lost_with_what_was_not_synced() {
    let (crashes, acknowledged) = sum(0..60);
    assert!(crashes > 120 && acknowledged > 600, "{crashes} crashes, {acknowledged} acknowledged");
}

/// DUR-003, DUR-010, INBOX-007: queues, exchanges and what was confirmed are as after some decision.
#[test]
fn what_comes_back_is_what_was_decided_in_order() {
    sum(1_000..1_060);
}

/// KV-006, KV-012, RET-006: what is applied is what the whole log makes of nothing.
#[test]
fn what_is_applied_is_the_whole_log_however_it_was_cut() {
    sum(2_000..2_060);
}

/// DIST-014, DUR-002: routes are in a range of their own, which a crash may leave behind that of the
/// sessions, or before it.
#[test]
fn routes_follow_the_sessions_whatever_a_crash_left_of_both() {
    let repaired: u64 = (3_000..3_060).map(|seed| outcome(seed, STEPS).repaired).sum();
    assert!(repaired > 20, "{repaired} routes were repaired");
}

#[test]
fn a_seed_is_one_history() {
    for seed in 0..5 {
        assert_eq!(outcome(seed, STEPS), outcome(seed, STEPS));
    }
    assert_ne!(outcome(1, STEPS).trace_hash, outcome(2, STEPS).trace_hash);
}
