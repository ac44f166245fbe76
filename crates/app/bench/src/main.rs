//! `ratatosk bench` on its own.

use std::process::ExitCode;

use clap::Parser;

/// Load generator with a verdict.
#[derive(Debug, Parser)]
// No version: `-V` is that of the protocol, and the tool goes with the broker's.
#[command(name = "ratatosk-bench")]
struct Cli {
    #[command(flatten)]
    args: ratatosk_bench::Args,
}

fn main() -> anyhow::Result<ExitCode> {
    ratatosk_bench::run(Cli::parse().args)
}
