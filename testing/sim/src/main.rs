//! Many seeds: `cargo run --release -p ratatosk-sim -- --help`.

use std::process::ExitCode;

use clap::Parser;
use ratatosk_sim::{Plan, Planted, run};

/// A node under seed after seed: crashes, lost writes, late answers.
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
    /// A fault to be put in, which is to be found.
    #[arg(long)]
    planted: Option<Planted>,
}

fn main() -> ExitCode {
    let Options { seeds, steps, seed: first, planted } = Options::parse();
    let (mut crashes, mut acknowledged, mut hash) = (0_u64, 0, 0_u64);
    for seed in first..first.saturating_add(seeds) {
        match run(Plan { seed, steps, planted }) {
            Ok(outcome) => {
                crashes += u64::from(outcome.crashes);
                acknowledged += outcome.acknowledged;
                hash = hash.rotate_left(1) ^ outcome.trace_hash;
            }
            Err(violation) => {
                print!("{violation}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "{seeds} seeds from {first}, {crashes} crashes, {acknowledged} acknowledged: all kept; \
         history {hash:016x}"
    );
    ExitCode::SUCCESS
}
