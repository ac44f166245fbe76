//! Runs many seeds of the simulation: `seeds FIRST COUNT HOSTS [MODE] [keys] [no-reannounce] [no-sync]`.
//!
//! Modes: `chaos` (the default) and `heal` say how long it takes until all agree once trouble, or a
//! partition of a minute, is over; `kill` how long until all know of a dead host; `idle` what hosts send
//! that have nothing to say. `no-…` takes a part of the protocol away: that has to be found.
#![allow(dead_code, reason = "the tests use all of what is shared with them")]

#[path = "../tests/chaos.rs"]
mod chaos;
#[path = "../tests/healing.rs"]
mod healing;
#[path = "../tests/simulator.rs"]
mod simulator;

use std::time::Duration;

use ratatosk_cluster::Count;
use simulator::World;

const USAGE: &str =
    "usage: seeds FIRST COUNT HOSTS [chaos|heal|kill|idle] [keys] [no-reannounce] [no-sync]";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(first), Some(count), Some(hosts)) = (number(0), number(1), number(2)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let is_said = |word: &str| arguments.iter().any(|argument| argument == word);
    let never = Duration::from_secs(1_000_000);
    let tune = |world: &mut World| {
        for slot in &mut world.slots {
            if is_said("no-reannounce") {
                slot.setup.tuning.reannounce = false;
                slot.setup.tuning.seed_interval = never;
            }
            if is_said("no-sync") {
                slot.setup.tuning.sync_interval = never;
            }
            slot.setup.keys = is_said("keys").then(|| simulator::key("one")).flatten();
        }
    };
    let hosts = usize::try_from(hosts).unwrap_or(usize::MAX);
    let mut times = Vec::new();
    let mut failed = 0;
    for seed in first..first + count {
        let outcome = if is_said("heal") {
            healing::heal(seed, hosts, tune).ok_or_else(|| "never healed".to_owned())
        } else if is_said("kill") {
            Ok(kill(seed, hosts, tune))
        } else if is_said("idle") {
            Ok(idle(seed, hosts, tune))
        } else {
            chaos::run(seed, hosts, tune).map(|report| report.healing)
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
    let at = |permille: usize| {
        let index = (times.len() * permille / 1000).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or_default()
    };
    println!(
        "n = {hosts}: {count} seeds, {failed} failed; p50 {:?}, p99 {:?}, max {:?}",
        at(500),
        at(990),
        at(1000),
    );
}

/// How long until all know that a host died.
fn kill(seed: u64, hosts: usize, tune: impl Fn(&mut World)) -> Duration {
    let mut world = World::new(seed, hosts);
    tune(&mut world);
    world.form();
    world.crash(hosts - 1);
    let time = world.run_while(Duration::from_secs(600), |world| !world.agrees());
    time.expect("is noticed")
}

/// What a host sends in a second, and how much of it; the answer is how long forming took.
fn idle(seed: u64, hosts: usize, tune: impl Fn(&mut World)) -> Duration {
    let mut world = World::new(seed, hosts);
    tune(&mut world);
    (0..hosts).for_each(|index| world.start(index));
    let formed = world.run_while(Duration::from_secs(600), |world| !world.agrees());
    world.run(Duration::from_secs(20));
    let before = (world.count(Count::DatagramsSent), world.count(Count::BytesSent));
    world.run(Duration::from_secs(300));
    let after = (world.count(Count::DatagramsSent), world.count(Count::BytesSent));
    let a_second = |sent: u64| sent as f64 / 300.0 / hosts as f64;
    let (datagrams, bytes) = (a_second(after.0 - before.0), a_second(after.1 - before.1));
    println!(
        "n = {hosts}, seed {seed}: {datagrams:.1} datagrams, {bytes:.0} bytes a second and host"
    );
    formed.expect("is formed")
}
