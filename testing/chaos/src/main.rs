//! Harm at full size: `cargo run --release -p ratatosk-chaos -- --harm kill --rounds 20`.
//!
//! Three nodes in network namespaces (which takes root and `ip`), under the load of `testing/crash`,
//! are harmed again and again; what must not be is counted, and each round is a line. The exit code is
//! 0 only if all holds. `--loopback` takes no namespaces and cannot lose packets; `--alone` takes one
//! process, and shows that clients and oracles are right. `RATATOSK_BIN` names a binary that is built.
//! Of a run in which something does not hold, configurations, data and logs of all nodes stay, and the
//! last lines say where.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use ratatosk_chaos::{Ground, Harm, Plan, report, rounds, takeover};

/// Harm to a cluster under load, again and again: nothing acknowledged may be lost, and who is at
/// another node notices nothing.
#[derive(Debug, Parser)]
struct Options {
    /// What is done to nodes.
    #[arg(long, value_enum, default_value = "kill")]
    harm: Harm,
    /// How often.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// How many nodes there are.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// What decides actions and harm; drawn from the clock if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second of each publisher.
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// The longest time that harm lasts.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// One process stands for all nodes.
    #[arg(long, conflicts_with = "loopback")]
    alone: bool,
    /// The nodes are on the loopback.
    #[arg(long)]
    loopback: bool,
    /// In which folder those of the nodes are made.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[allow(clippy::disallowed_methods, reason = "a test program reads the clock; it does not ship")]
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let ground = match (options.alone, options.loopback) {
        (true, _) => Ground::Alone,
        (false, true) => Ground::Loopback,
        (false, false) => Ground::Namespaces,
    };
    let plan = Plan {
        seed: options.seed.unwrap_or_else(any_seed),
        rounds: options.rounds,
        harm: options.harm,
        ground,
        nodes: options.nodes,
        rate: options.rate,
        span: Duration::try_from_secs_f64(options.seconds)?,
        keep: options.keep.unwrap_or_else(std::env::temp_dir),
    };
    println!("seed {}, {}, {} rounds", plan.seed, plan.harm.name(), plan.rounds);
    if plan.harm == Harm::Takeover {
        return race(&plan);
    }
    let outcome = rounds::run(&plan, &mut |figures| println!("{}", report::line(figures)))?;
    print!("{}", report::summary(&outcome));
    if outcome.is_good() {
        println!("all holds");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", report::breaches(&outcome));
    Ok(ExitCode::FAILURE)
}

fn race(plan: &Plan) -> Result<ExitCode> {
    let outcome = takeover::run(plan, &mut |line| println!("{line}"))?;
    print!("{}", outcome.summary());
    if outcome.is_good() {
        println!("all holds");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", outcome.breaches());
    Ok(ExitCode::FAILURE)
}
