//! Many seeds: `cargo run --release -p ratatosk-sim -- --help`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ratatosk_clock::SystemClock;
use ratatosk_sim::cluster::{self, ClusterOutcome, ClusterPlan};
use ratatosk_sim::{Plan, Planted, Violation, run};

/// A node, or several stores, under seed after seed: crashes, lost writes, late answers.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Steps of each.
    #[arg(long, default_value_t = 300)]
    steps: u32,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Several stores instead of a node: how many.
    #[arg(long)]
    stores: Option<u64>,
    /// How long the faults of several stores last, in simulated seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// A fault to be put in, which is to be found.
    #[arg(long)]
    planted: Option<Planted>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.stores {
        None => nodes(&options),
        Some(stores) => clusters(&options, stores),
    };
    match done {
        Ok(told) => {
            println!("{} seeds from {}: {told}", options.seeds, options.seed);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            print!("{violation}");
            ExitCode::FAILURE
        }
    }
}

fn nodes(options: &Options) -> Result<String, Box<Violation>> {
    let Options { seeds, steps, seed: first, planted, .. } = *options;
    let (mut crashes, mut acknowledged, mut hash) = (0_u64, 0, 0_u64);
    for seed in first..first.saturating_add(seeds) {
        let outcome = run(Plan { seed, steps, planted })?;
        crashes += u64::from(outcome.crashes);
        acknowledged += outcome.acknowledged;
        hash = hash.rotate_left(1) ^ outcome.trace_hash;
    }
    Ok(format!("{crashes} crashes, {acknowledged} acknowledged: all kept; history {hash:016x}"))
}

fn clusters(options: &Options, stores: u64) -> Result<String, Box<Violation>> {
    let (span, planted) = (Duration::from_secs(options.seconds), options.planted);
    let (mut sum, mut least) = (ClusterOutcome::default(), ClusterOutcome::default());
    let clock = SystemClock::new();
    let begun = clock.now();
    for (number, seed) in (options.seed..options.seed.saturating_add(options.seeds)).enumerate() {
        let one = cluster::run(ClusterPlan { seed, span, stores, planted })?;
        if number == 0 {
            least = one;
        }
        least.operations = least.operations.min(one.operations);
        least.faults = least.faults.min(one.faults);
        least.changes = least.changes.min(one.changes);
        sum.operations += one.operations;
        sum.answered += one.answered;
        sum.faults += one.faults;
        sum.changes += one.changes;
        sum.merges += one.merges;
        sum.snapshots += one.snapshots;
        sum.interrupted += one.interrupted;
        sum.served += one.served;
        sum.messages += one.messages;
        sum.fetched += one.fetched;
        sum.served_apart += one.served_apart;
        least.served_apart = least.served_apart.min(one.served_apart);
        sum.joined += one.joined;
        sum.lost += one.lost;
        sum.left += one.left;
        sum.rollbacks += one.rollbacks;
        sum.returns += one.returns;
        sum.plans += one.plans;
        sum.rules += one.rules;
        least.plans = least.plans.min(one.plans);
        sum.simulated_ms += one.simulated_ms;
        sum.trace_hash = sum.trace_hash.rotate_left(1) ^ one.trace_hash;
    }
    let real_ms = u64::try_from(clock.now().since(begun).as_millis()).unwrap_or(u64::MAX).max(1);
    Ok(format!(
        "{} operations ({} answered; at least {} a seed), {} faults ({}), {} changes of ranges ({}), \
         {} merges, {} snapshots taken in and {} cut off, {} reads served, {} of them apart from the \
         leader ({}), {} messages of sessions ({} fetched), {} stores joined, {} lost and {} left, \
         {} rollbacks ({} in vain), {} plans carried out ({}) by rules that changed {} times, {} times \
         real time; history {:016x}",
        sum.operations,
        sum.answered,
        least.operations,
        sum.faults,
        least.faults,
        sum.changes,
        least.changes,
        sum.merges,
        sum.snapshots,
        sum.interrupted,
        sum.served,
        sum.served_apart,
        least.served_apart,
        sum.messages,
        sum.fetched,
        sum.joined,
        sum.lost,
        sum.left,
        sum.rollbacks,
        sum.returns,
        sum.plans,
        least.plans,
        sum.rules,
        sum.simulated_ms / real_ms,
        sum.trace_hash,
    ))
}
