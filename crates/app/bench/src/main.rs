//! `ratatosk bench` on its own.

use std::process::ExitCode;

use clap::Parser;

/// Load generator with a verdict.
#[derive(Debug, Parser)]
#[command(name = "ratatosk-bench", version)]
struct Cli {
    #[command(flatten)]
    args: ratatosk_bench::Args,
}

fn main() -> anyhow::Result<ExitCode> {
    ratatosk_bench::run(Cli::parse().args)
}
