//! Several stores, drawn from seeds: whatever they and the network do, callers see one order, and
//! afterwards everything works.

use std::time::Duration;

use ratatosk_sim::Planted;
use ratatosk_sim::cluster::{ClusterOutcome, ClusterPlan, run};

const SPAN: Duration = Duration::from_secs(20);

fn outcome(seed: u64, stores: u64) -> ClusterOutcome {
    match run(ClusterPlan { seed, span: SPAN, stores, planted: None }) {
        Ok(outcome) => outcome,
        Err(violation) => panic!("{violation}"),
    }
}

/// Each seed has to see enough to mean something.
fn check(seeds: std::ops::Range<u64>, stores: u64) {
    let (count, mut sum) = (seeds.end - seeds.start, 0);
    let (mut joined, mut taken_in, mut planned) = (0, 0, 0);
    for seed in seeds {
        let ClusterOutcome {
            operations,
            answered,
            faults,
            changes,
            merges,
            snapshots,
            plans,
            rules,
            ..
        } = outcome(seed, stores);
        planned += plans;
        assert!(rules >= 5, "{seed}: the rules changed {rules} times");
        assert!(operations >= 2_000 && faults >= 30, "{seed}: {operations}, {faults} faults");
        assert!(changes >= 5, "{seed}: {changes} changes");
        sum += answered;
        joined += merges;
        taken_in += snapshots;
    }
    assert!(planned > 5 * count, "{planned} plans of {count} seeds");
    assert!(stores == 2 || taken_in > 2 * count, "{taken_in} snapshots of {count} seeds");
    assert!(sum > 200 * count, "{sum} answers of {count} seeds");
    assert!(stores < 3 || 2 * joined > count, "{joined} merges of {count} seeds");
}

/// KV-003, KV-005, KV-009: one leader a term, nothing acknowledged lost with a minority, and no read
/// older than a write that was done.
#[test]
fn callers_see_one_order_whatever_fails() {
    check(0..40, 3);
}

/// KV-004: groups that sleep have another leader within three seconds of the loss of theirs, with nobody
/// asking.
#[test]
fn a_leader_that_is_gone_is_replaced_in_time() {
    check(8_300..8_320, 3);
}

/// KV-004: two asked for votes at once, again and again; one was asked before it missed the leader, and
/// took its time then.
#[test]
fn two_that_look_for_a_leader_do_not_get_in_each_others_way() {
    for seed in [10_156, 10_214] {
        outcome(seed, 3);
    }
    outcome(20_136, 5);
}

/// KV-004: in these two voted for themselves, and waited once more: they had drawn the same timeout, or one
/// had been woken by the other before it missed the leader's store itself.
#[test]
fn voters_that_wake_one_after_the_other_agree_in_time() {
    for (seed, stores) in [(362, 3), (1_015, 5)] {
        outcome(seed, stores);
    }
}

/// KV-004: of two voters the leader's store started anew, and the last word of its former life put the other one
/// to sleep, which gave it no vote then: the range had no leader for ever.
#[test]
fn a_leader_that_starts_anew_gets_the_votes_of_those_that_sleep_behind_it() {
    outcome(900_995, 3);
}

/// KV-011: a store had been made a member of a range anew before it applied the split that makes the range, and
/// a checkpoint of the split's data was taken for one of the new replica's, which has none.
#[test]
fn a_checkpoint_is_of_the_replica_whose_data_it_has() {
    outcome(920_994, 3);
}

/// KV-008: the last voter of before was the only one that knew that it votes no more, and had an entry that the
/// others lacked: they needed its vote and could not get it.
#[test]
fn a_range_that_moves_from_one_voter_to_another_goes_on() {
    outcome(3_235, 3);
}

/// KV-015, KV-018: a store that is behind has two ranges of which the third was made meanwhile, and its data
/// takes their place.
#[test]
fn data_takes_the_place_of_two_neighbours_that_are_a_part_of_it() {
    outcome(20_407, 3);
}

/// KV-006, KV-008, KV-016: members come and go, and stores go down at every step of it.
#[test]
fn a_range_keeps_what_it_has_while_its_members_change() {
    check(1_000..1_040, 5);
}

/// KV-013, KV-014, KV-018: each key is in one range, and found there.
#[test]
fn split_ranges_have_every_key_once() {
    check(2_000..2_040, 4);
}

/// KV-015, KV-016: ranges become one with all that they have, or go on apart, and stores go down at
/// every step of it.
#[test]
fn merged_ranges_have_every_key_once() {
    check(5_000..5_040, 3);
}

/// KV-007, KV-011, KV-019: leaders hand over, whoever is behind is sent the data, and whoever is no
/// member any more goes.
#[test]
fn replicas_come_to_the_same_data_or_go() {
    check(3_000..3_040, 5);
}

/// KV-011, KV-016: stores go down while the data of a range comes or goes, and nothing half of it is
/// seen.
#[test]
fn a_range_that_was_half_there_comes_again() {
    let cut_off: u64 = (6_000..6_030).map(|seed| outcome(seed, 5).interrupted).sum();
    assert!(cut_off > 20, "{cut_off} were cut off");
}

/// KV-010, DUR-012: whatever a replica answers by itself has everything that was acknowledged anywhere
/// before, and whoever is cut off or late answers nothing. It answers much.
#[test]
fn replicas_serve_what_was_acknowledged_or_nothing() {
    for (seeds, stores) in [(9_000..9_020, 3), (9_100..9_110, 5)] {
        let (count, mut sum) = (seeds.end - seeds.start, 0);
        for seed in seeds {
            let ClusterOutcome { served, served_apart, .. } = outcome(seed, stores);
            assert!(served >= 100, "{seed}: {served} reads");
            sum += served_apart;
        }
        assert!(sum > 500 * count, "{sum} reads apart from the leader of {count} seeds");
    }
}

/// DUR-001, DUR-003: queues of sessions have neither gap nor duplicate, whoever leads; what was
/// acknowledged is there, and what was committed does not come again.
#[test]
fn queues_of_sessions_survive_their_leaders() {
    let outcomes: Vec<_> = (7_000..7_040).map(|seed| outcome(seed, 3)).collect();
    let sum = |of: fn(&ClusterOutcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (messages, fetched) = (sum(|outcome| outcome.messages), sum(|outcome| outcome.fetched));
    assert!(messages > 200 * 40, "{messages} acknowledged");
    assert!(fetched > messages, "{fetched} fetched of {messages}");
}

/// KV-002, KV-008: stores of two builds work side by side, go on and back; ranges are raised when all
/// support it, and in the end all are. Stores join, are lost for good, or leave.
#[test]
fn stores_of_two_builds_come_and_go() {
    let outcomes: Vec<_> = (7_000..7_030).map(|seed| outcome(seed, 5)).collect();
    let sum = |of: fn(&ClusterOutcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (joined, lost, left) = (sum(|it| it.joined), sum(|it| it.lost), sum(|it| it.left));
    assert!(joined > 60 && lost > 10 && left > 5, "{joined} joined, {lost} lost, {left} left");
    let rollbacks = sum(|it| it.rollbacks);
    assert!(rollbacks > 20, "{rollbacks} rollbacks");
}

/// KV-017: a store alone makes the ranges, those that join it never do, also after it has left them all.
#[test]
fn a_cluster_is_made_once() {
    check(4_000..4_020, 2);
}

#[test]
fn a_seed_is_one_history() {
    for seed in 0..3 {
        assert_eq!(outcome(seed, 3), outcome(seed, 3));
    }
    assert_ne!(outcome(1, 3).trace_hash, outcome(2, 3).trace_hash);
}

/// So many histories at most until a fault is found.
const SEEDS_MAX: u64 = 200;

fn is_found(planted: Planted) {
    let plan = |seed| ClusterPlan { seed, span: SPAN, stores: 3, planted: Some(planted) };
    let found = (0..SEEDS_MAX).find_map(|seed| run(plan(seed)).err());
    let violation =
        found.unwrap_or_else(|| panic!("{planted:?} is not found by {SEEDS_MAX} seeds"));
    assert!(!violation.trace.is_empty(), "it says what happened");
}

#[test]
fn an_fsync_that_a_replica_skips_is_found() {
    is_found(Planted::FsyncSkipped);
}

#[test]
fn a_commit_that_is_forgotten_with_a_change_of_members_is_found() {
    is_found(Planted::CommitForgotten);
}

#[test]
fn a_store_that_forgets_which_replica_it_is_is_found() {
    is_found(Planted::ReplicaForgotten);
}

/// KV-009
#[test]
fn a_lease_that_is_longer_than_what_was_promised_is_found() {
    is_found(Planted::LeaseLong);
}

/// DUR-012
#[test]
fn a_leader_that_does_not_wait_for_those_who_serve_is_found() {
    is_found(Planted::HoldersForgotten);
}

/// DUR-012
#[test]
fn a_new_leader_that_does_not_wait_for_those_who_may_serve_is_found() {
    is_found(Planted::LeaderHasty);
}

/// DUR-012
#[test]
fn a_replica_that_serves_from_when_the_loan_came_is_found() {
    is_found(Planted::LoanLate);
}

/// DUR-001, DUR-003
#[test]
fn an_inbox_that_is_read_back_before_all_is_there_is_found() {
    is_found(Planted::RestoredEarly);
}

#[test]
fn a_command_that_forgets_the_version_it_was_meant_for_is_found() {
    is_found(Planted::VersionForgotten);
}

#[test]
fn a_range_that_thaws_without_proof_is_found() {
    is_found(Planted::ThawUnproven);
}

#[test]
fn a_merge_that_not_all_know_of_is_found() {
    is_found(Planted::MergeUnchecked);
}

/// KV-016: a store that takes the old range for whole would serve what is left of it.
#[test]
fn an_install_without_its_mark_is_found() {
    is_found(Planted::InstallUnmarked);
}

/// DUR-004: the log is given up for data that a power loss takes.
#[test]
fn an_install_that_counts_before_it_is_synced_is_found() {
    is_found(Planted::InstallUnsynced);
}

/// KV-016, KV-019: what is left shows in the next range with these keys.
#[test]
fn a_removal_without_its_mark_is_found() {
    is_found(Planted::RemovalUnmarked);
}

/// Nothing is carried out by a store that does not support it, or by two in two ways.
#[test]
fn a_range_that_is_raised_too_early_is_found() {
    is_found(Planted::GateIgnored);
}

/// KV-008
#[test]
fn a_store_that_is_brought_in_unchecked_is_found() {
    is_found(Planted::NewcomerUnchecked);
}
