//! Nodes and servers under a seed: claims race, messages are late, calls break, servers come and
//! go, networks part and heal, processes die. What must hold is checked with every grant, and once
//! all faults have stopped.

mod oracle;
mod play;
mod world;

use world::{Faults, World};

/// Runs some seeds of a kind, and says which one failed.
fn run(seeds: std::ops::Range<u64>, kind: fn(u64) -> Faults) {
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| World::new(seed, kind(seed)).run());
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// DICT-001, MQTT-042: while nothing fails, no session ever has two owners, whoever races.
#[test]
fn a_session_has_one_owner_while_nothing_fails() {
    run(0..300, |_| Faults::default());
}

/// DICT-004: the same while servers and nodes come and go and nobody knows of it at once.
#[test]
fn a_session_has_one_owner_while_servers_come_and_go() {
    run(10_000..10_700, |_| Faults { churn: true, ..Faults::default() });
}

/// DICT-001: the same while every twentieth call breaks, and nobody knows whether it had arrived.
#[test]
fn a_session_has_one_owner_while_calls_break() {
    run(20_000..20_500, |seed| Faults {
        breaks_percent: 5,
        churn: seed % 2 == 1,
        ..Faults::default()
    });
}

/// DICT-001, DICT-004: whatever dies, parts or gets lost: five seconds after the network has healed
/// each session has one owner, who is found, and nobody was ended for whom nobody had come.
#[test]
fn a_session_has_one_owner_again_after_everything_has_healed() {
    run(30_000..30_800, |seed| Faults {
        breaks_percent: seed % 8,
        silences_percent: seed % 3,
        churn: seed % 2 == 1,
        partitions: true,
        deaths: seed % 4 != 0,
    });
}
