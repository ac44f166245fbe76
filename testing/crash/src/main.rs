//! The rounds at full size: `cargo run --release -p ratatosk-crash -- --help`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use ratatosk_crash::history::What;
use ratatosk_crash::oracle::Property;
use ratatosk_crash::{Blow, Outcome, Plan, torture};

/// kill -9 of the broker under load, again and again: nothing acknowledged may be lost.
#[derive(Debug, Parser)]
struct Options {
    /// How often the broker is killed under load.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// The longest time from a start of the broker to its kill.
    #[arg(long, default_value_t = 2.0)]
    seconds_per_round: f64,
    /// What decides actions and kills; drawn from the clock if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second of each publisher.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Cut all connections instead of killing the broker: it must pass this without a disk too.
    #[arg(long, conflicts_with = "power")]
    spare: bool,
    /// With each kill, lose what was not synced, or some of it, as a power loss does.
    #[arg(long)]
    power: bool,
}

#[allow(clippy::disallowed_methods, reason = "a test program reads the clock; it does not ship")]
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
}

fn show(outcome: &Outcome) {
    let history = &outcome.history;
    let count = |is_meant: fn(&What) -> bool| {
        history.events.iter().filter(|event| is_meant(&event.what)).count()
    };
    println!(
        "{} kills; {} messages sent, {} times again, {} acknowledged; {} delivered, {} repeated",
        outcome.kills,
        history.messages.len(),
        count(|what| matches!(what, What::Sent { is_again: true, .. })),
        count(|what| matches!(what, What::Acked(_))),
        count(|what| matches!(what, What::Delivered { .. })),
        count(|what| matches!(what, What::Repeated(_))),
    );
    if outcome.uncertain > 0 {
        println!("{} changes of files and names were not synced", outcome.uncertain);
    }
    println!(
        "{} sessions resumed, {} subscriptions, {} given up, {} looks at retained, {} wills, {} again; \
         drained in {:?}",
        count(|what| matches!(what, What::Connected { is_present: true })),
        count(|what| matches!(what, What::Subscribed(_))),
        count(|what| matches!(what, What::Unsubscribed(_))),
        count(|what| matches!(what, What::Retained { .. })),
        count(|what| matches!(what, What::WillDelivered(_))),
        history.wills_again(),
        outcome.drained_in,
    );
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(any_seed);
    println!("seed {seed}, {} rounds", options.rounds);
    let span = Duration::try_from_secs_f64(options.seconds_per_round)?;
    let blow = match (options.spare, options.power) {
        (true, _) => Blow::Cut,
        (false, true) => Blow::Power,
        (false, false) => Blow::Kill,
    };
    let Options { rounds, rate, .. } = options;
    let outcome = torture::run(Plan { seed, rounds, span, rate, blow })?;
    show(&outcome);
    if outcome.violations.is_empty() {
        println!("nothing acknowledged was lost");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", outcome.report(&Property::ALL));
    Ok(ExitCode::FAILURE)
}
