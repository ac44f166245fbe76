//! The attacks at full size, with figures: `cargo run --release -p ratatosk-hostile -- --help`.
#![allow(clippy::disallowed_methods, reason = "a test program reads the clock; it does not ship")]

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use ratatosk_hostile::{Neighbours, Served, Target, mutation, nuisance, siege, target::Listener};

#[derive(Debug, Parser)]
struct Options {
    /// Connections of the attack on memory; 0 skips it.
    #[arg(long, default_value_t = 9_000)]
    connections: usize,
    /// The broker's memory.limit.
    #[arg(long, default_value = "512MiB")]
    memory: String,
    /// Seconds of the attack on memory and of that on patience.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The only kind of attacker on memory, 0 to 5, to find out what it does.
    #[arg(long)]
    only: Option<usize>,
    /// Nuisances of each kind; 0 skips them.
    #[arg(long, default_value_t = 100)]
    nuisances: usize,
    /// Mutated packets; 0 skips them.
    #[arg(long, default_value_t = 1_000_000)]
    mutants: u64,
    /// What decides the mutations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn show(served: &Served) {
    let (count, failures) = (served.round_trips.len(), served.failures.len());
    let (median, late, max) = (served.at(500), served.at(990), served.max());
    println!(
        "  neighbours: {count} round trips, p50 {median:?}, p99 {late:?}, max {max:?}, {failures} failures"
    );
    for (at, trip) in served.slow.iter().take(12) {
        println!("    {trip:?} until {at:?}");
    }
    for failure in served.failures.iter().take(3) {
        println!("    {failure}");
    }
}

fn besiege(options: &Options) -> Result<()> {
    let mut target = Target::start(&options.memory, &[])?;
    println!("siege by {} connections, limit {}", options.connections, options.memory);
    let span = Duration::from_secs(options.seconds);
    let plan = siege::Plan {
        connections: options.connections,
        span,
        span_max: span,
        neighbours: 8,
        only: options.only,
    };
    let outcome = siege::run(&target, plan)?;
    let curve: Vec<String> =
        outcome.curve.iter().map(|bytes| format!("{:.0}", mebibytes(*bytes))).collect();
    println!("  resident each second [MiB]: {}", curve.join(" "));
    let (before, max, after) =
        (outcome.resident_before, outcome.resident_max, outcome.resident_after);
    println!(
        "  resident before {:.1}, max {:.1}, after {:.1} MiB",
        mebibytes(before),
        mebibytes(max),
        mebibytes(after)
    );
    let (charged, resident) = outcome.charged_and_resident;
    println!("  charged {charged:.0} of {resident:.0} resident bytes at the last look");
    println!(
        "  connections at most {}, after {}; descriptors {:?}",
        outcome.connections_max, outcome.connections_after, outcome.descriptors
    );
    let (paused, ended) = outcome.paused_and_ended;
    println!("  paused {paused}, ended {ended}, messages dropped {}", outcome.dropped);
    let steps = outcome.shed.iter().map(|(step, count)| format!("{step} {count}"));
    println!("  shed: {}", steps.collect::<Vec<_>>().join(", "));
    show(&outcome.served);
    target.check_alive()
}

fn annoy(options: &Options) -> Result<()> {
    let mut target = Target::start(&options.memory, &[])?;
    println!("nuisances, {} of each of 7 kinds", options.nuisances);
    let neighbours = Neighbours::start(target.address(Listener::Tcp), 8)?;
    let before = (target.resident()?, target.descriptors()?);
    nuisance::run(&target, options.nuisances, Duration::from_secs(options.seconds))?;
    let is_left = |target: &Target| {
        target.metric("ratatosk_mqtt_open_connections").is_ok_and(|open| open <= 8.0)
    };
    let is_over = target.until(Duration::from_secs(30), is_left);
    let accepted = target.metric("ratatosk_mqtt_accepted_connections_total")?;
    println!("  {accepted} connections were accepted; all gone: {is_over}");
    let after = (target.resident()?, target.descriptors()?);
    println!(
        "  resident {:.1} then {:.1} MiB, descriptors {} then {}",
        mebibytes(before.0),
        mebibytes(after.0),
        before.1,
        after.1
    );
    show(&neighbours.finish()?);
    target.check_alive()
}

fn mutate(options: &Options) -> Result<()> {
    let mut target = Target::start(&options.memory, &[])?;
    println!("{} mutated packets, seed {}", options.mutants, options.seed);
    let neighbours = Neighbours::start(target.address(Listener::Tcp), 8)?;
    let started = Instant::now();
    let address = target.address(Listener::Tcp);
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (seed, count) = (options.seed * 1_000 + number, options.mutants / 8);
            std::thread::spawn(move || mutation::run(address, seed, count))
        })
        .collect();
    let mut connections = 0;
    for thread in threads {
        connections += thread.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
    }
    println!("  {connections} connections in {:?}", started.elapsed());
    show(&neighbours.finish()?);
    target.check_alive()
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.connections > 0 {
        besiege(&options)?;
    }
    if options.nuisances > 0 {
        annoy(&options)?;
    }
    if options.mutants > 0 {
        mutate(&options)?;
    }
    Ok(())
}
