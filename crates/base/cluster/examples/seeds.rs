//! Runs many seeds of the simulation: `seeds FIRST COUNT HOSTS [chaos|heal] [keys] [no-reannounce]`.
//!
//! Prints what failed, and how long all took to agree. For more seeds than a test has time for.
#![allow(dead_code, reason = "the tests use all of what is shared with them")]

#[path = "../tests/chaos.rs"]
mod chaos;
#[path = "../tests/healing.rs"]
mod healing;
#[path = "../tests/simulator.rs"]
mod simulator;

use std::time::Duration;

use simulator::World;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(first), Some(count), Some(hosts)) = (number(0), number(1), number(2)) else {
        eprintln!("usage: seeds FIRST COUNT HOSTS [chaos|heal] [keys] [no-reannounce]");
        std::process::exit(2);
    };
    let is_said = |word: &str| arguments.iter().any(|argument| argument == word);
    let tune = |world: &mut World| {
        for slot in &mut world.slots {
            if is_said("no-reannounce") {
                slot.setup.tuning.reannounce = false;
                slot.setup.tuning.seed_interval = Duration::from_secs(1_000_000);
            }
            slot.setup.keys = is_said("keys").then(|| simulator::key("one")).flatten();
        }
    };
    let hosts = usize::try_from(hosts).unwrap_or(usize::MAX);
    let mut times = Vec::new();
    let mut simulated = Duration::ZERO;
    let mut failed = 0;
    for seed in first..first + count {
        let outcome = if is_said("heal") {
            healing::heal(seed, hosts, tune).ok_or_else(|| "never healed".to_owned())
        } else {
            chaos::run(seed, hosts, tune).map(|report| {
                simulated += report.time;
                report.healing
            })
        };
        match outcome {
            Ok(time) => times.push(time),
            Err(what) => {
                failed += 1;
                println!("n = {hosts}, seed {seed}: {what}");
            }
        }
    }
    times.sort();
    let at = |permille: usize| times.get(times.len() * permille / 1000).copied();
    println!(
        "n = {hosts}: {count} seeds, {failed} failed; agreed after p50 {:?}, p99 {:?}, max {:?}; {} s simulated",
        at(500).unwrap_or_default(),
        at(990).unwrap_or_default(),
        times.last().copied().unwrap_or_default(),
        simulated.as_secs(),
    );
}
