//! Faults that are put in: a simulation that misses one proves nothing.

use ratatosk_sim::{Plan, Planted, run};

/// So many histories at most until a fault is found.
const SEEDS_MAX: u64 = 40;

fn is_found(planted: Planted) {
    let found = (0..SEEDS_MAX)
        .find_map(|seed| run(Plan { seed, steps: 300, planted: Some(planted) }).err());
    let violation =
        found.unwrap_or_else(|| panic!("{planted:?} is not found by {SEEDS_MAX} seeds"));
    assert!(!violation.trace.is_empty(), "it says what happened");
}

#[test]
fn an_fsync_that_is_skipped_is_found() {
    is_found(Planted::FsyncSkipped);
}

#[test]
fn a_log_that_is_cut_too_far_is_found() {
    is_found(Planted::TruncatedAhead);
}

#[test]
fn an_answer_before_the_commit_is_found() {
    is_found(Planted::AnsweredEarly);
}

#[test]
fn an_applied_index_apart_from_its_data_is_found() {
    is_found(Planted::AppliedApart);
}

#[test]
fn a_will_that_is_kept_late_is_found() {
    is_found(Planted::WillLate);
}

#[test]
fn an_exchange_that_is_forgotten_is_found() {
    is_found(Planted::ExchangeForgotten);
}

/// DIST-014: a repair at the next start would hide it.
#[test]
fn a_route_that_is_forgotten_is_found() {
    is_found(Planted::RouteForgotten);
}
