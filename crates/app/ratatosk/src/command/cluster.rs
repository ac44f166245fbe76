//! `ratatosk cluster …`: what operators see and order of the cluster that a node is in.
//!
//! Stores and ranges can be named by the first digits of their numbers, as far as those tell them apart.

mod show;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use ratatosk_admin::cluster::{
    Cluster, Drain, Leave, Loss, Range, Recover, Recovered, Replace, Store,
};
use ratatosk_clock::SystemClock;

use crate::command::ConfigurationArgs;
use crate::command::api::{Api, ApiArgs, Format, Refused};
use crate::exit::Code;

/// How often is asked what is left.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows nodes and stores; exit code 4 when something needs the operator
    Status(ApiArgs),
    /// Moves leadership and replicas off a store, and waits until it is empty
    Drain(DrainArgs),
    /// Empties the node's store, then ends its process
    Leave(LeaveArgs),
    /// Gives up a store that is away, so that others take its place at once
    Replace(ReplaceArgs),
    /// Brings back ranges that lost their quorum; without --accept-loss-of it shows what would be lost
    Recover(RecoverArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// Which one [default: that of the node that is asked]
    #[arg(long)]
    store: Option<String>,
    /// Lets it have something again, also if it was given up
    #[arg(long)]
    cancel: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Does not wait until it is done
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait until it is done; exit code 4 after that, and the order stays
    #[arg(long, default_value_t = 600, value_name = "SECONDS", conflicts_with = "no_wait")]
    patience: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// The store to give up
    store: String,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// The ranges [default: all without a quorum]
    ranges: Vec<String>,
    /// The stores whose data is given up: those that are shown without this
    #[arg(long, value_name = "STORE", value_delimiter = ',', num_args = 1..)]
    accept_loss_of: Vec<String>,
}

pub(crate) fn run(command: &Command, before: &ConfigurationArgs) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Status(args) => status(args, before),
        Command::Drain(args) => drain(args, before),
        Command::Leave(args) => leave(args, before),
        Command::Replace(args) => replace(args, before),
        Command::Recover(args) => recover(args, before),
    };
    done.map(ExitCode::from)
}

fn status(args: &ApiArgs, before: &ConfigurationArgs) -> anyhow::Result<Code> {
    let (cluster, text) = args.open(before)?.get::<Cluster>("/cluster")?;
    match args.format {
        Format::Json => print!("{text}"),
        Format::Table => print!("{}", show::cluster(&cluster)),
    }
    let is_well = cluster.quorum && cluster.overlapping.is_empty() && cluster.clash.is_none();
    Ok(if is_well { Code::Clean } else { Code::Operator })
}

fn drain(args: &DrainArgs, before: &ConfigurationArgs) -> anyhow::Result<Code> {
    let api = args.api.open(before)?;
    let store = args.store.as_deref().map(|store| find_store(&api, store)).transpose()?;
    let order = Drain { store, cancel: args.cancel };
    let (store, text) = api.post::<Store>("/cluster/drain", &order)?;
    if args.cancel || args.wait.no_wait {
        print_store(&args.api, &store, &text);
        return Ok(Code::Clean);
    }
    wait(&args.api, &api, &args.wait, store, text)
}

fn leave(args: &LeaveArgs, before: &ConfigurationArgs) -> anyhow::Result<Code> {
    let api = args.api.open(before)?;
    let (store, text) = api.post::<Store>("/cluster/leave", &Leave {})?;
    if args.wait.no_wait {
        print_store(&args.api, &store, &text);
        return Ok(Code::Clean);
    }
    wait_for_end(&args.api, &api, &args.wait, &store)
}

fn replace(args: &ReplaceArgs, before: &ConfigurationArgs) -> anyhow::Result<Code> {
    let api = args.api.open(before)?;
    let order = Replace { store: find_store(&api, &args.store)? };
    let (store, text) = api.post::<Store>("/cluster/replace", &order)?;
    print_store(&args.api, &store, &text);
    Ok(Code::Clean)
}

fn recover(args: &RecoverArgs, before: &ConfigurationArgs) -> anyhow::Result<Code> {
    let api = args.api.open(before)?;
    let ranges = find_ranges(&api, &args.ranges)?;
    if args.accept_loss_of.is_empty() {
        let query: Vec<_> = ranges.iter().map(|range| format!("range={range}")).collect();
        let path = format!("/cluster/recover?{}", query.join("&"));
        let (losses, text) = api.get::<Vec<Loss>>(&path)?;
        match args.api.format {
            Format::Json => print!("{text}"),
            Format::Table => print!("{}", show::losses(&losses, &args.ranges)),
        }
        return Ok(Code::Operator);
    }
    let stores = args.accept_loss_of.iter().map(|store| find_store(&api, store));
    let accept_loss_of = stores.collect::<anyhow::Result<_>>()?;
    let order = Recover { ranges, accept_loss_of };
    let (recovered, text) = api.post::<Vec<Recovered>>("/cluster/recover", &order)?;
    match args.api.format {
        Format::Json => print!("{text}"),
        Format::Table => print!("{}", show::recovered(&recovered)),
    }
    let is_done = recovered.iter().all(|range| range.error.is_none());
    Ok(if is_done { Code::Clean } else { Code::Failure })
}

/// Waits until a store has nothing any more.
fn wait(
    args: &ApiArgs,
    api: &Api,
    patience: &WaitArgs,
    mut store: Store,
    mut text: String,
) -> anyhow::Result<Code> {
    let (clock, patience) = (SystemClock::new(), Duration::from_secs(patience.patience));
    let begun = clock.now();
    let is_empty = |store: &Store| store.leads + store.votes + store.learns == 0;
    while !is_empty(&store) || !store.stuck.is_empty() {
        if clock.now().since(begun) > patience {
            print_store(args, &store, &text);
            eprintln!("ratatosk: not empty after {patience:?}; the order stays");
            return Ok(Code::Operator);
        }
        std::thread::sleep(LOOK);
        let (cluster, _) = api.get::<Cluster>("/cluster")?;
        let Some(now) = cluster.stores.into_iter().find(|now| now.id == store.id) else { break };
        text = serde_json::to_string(&now)? + "\n";
        store = now;
    }
    print_store(args, &store, &text);
    Ok(Code::Clean)
}

/// Waits until nobody answers any more: the process ends when its store is empty.
fn wait_for_end(
    args: &ApiArgs,
    api: &Api,
    patience: &WaitArgs,
    store: &Store,
) -> anyhow::Result<Code> {
    let (clock, patience) = (SystemClock::new(), Duration::from_secs(patience.patience));
    let begun = clock.now();
    loop {
        let now = match api.get::<Cluster>("/cluster") {
            Ok((cluster, _)) => cluster.stores.into_iter().find(|now| now.id == store.id),
            Err(error) if error.is::<Refused>() => return Err(error),
            Err(error) if has_ended(&error) => {
                match args.format {
                    Format::Json => println!("{{\"left\":\"{}\"}}", store.id),
                    Format::Table => println!("store {} has left the cluster", store.id),
                }
                return Ok(Code::Clean);
            }
            // It may be about to end.
            Err(_) => None,
        };
        if clock.now().since(begun) > patience {
            let now = now.unwrap_or_else(|| store.clone());
            print_store(args, &now, &(serde_json::to_string(&now)? + "\n"));
            eprintln!("ratatosk: the node has not ended after {patience:?}; the order stays");
            return Ok(Code::Operator);
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether nobody listens there any more.
fn has_ended(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.into_iter().any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn print_store(args: &ApiArgs, store: &Store, text: &str) {
    match args.format {
        Format::Json => print!("{text}"),
        Format::Table => print!("{}", show::store(store)),
    }
}

/// The store whose number begins so.
fn find_store(api: &Api, digits: &str) -> anyhow::Result<String> {
    let (cluster, _) = api.get::<Cluster>("/cluster")?;
    find("store", digits, cluster.stores.into_iter().map(|store| store.id))
}

fn find_ranges(api: &Api, digits: &[String]) -> anyhow::Result<Vec<String>> {
    if digits.is_empty() {
        return Ok(Vec::new());
    }
    let (ranges, _) = api.get::<Vec<Range>>("/ranges")?;
    let known: Vec<String> = ranges.into_iter().map(|range| range.id).collect();
    digits.iter().map(|digits| find("range", digits, known.iter().cloned())).collect()
}

fn find(what: &str, digits: &str, known: impl Iterator<Item = String>) -> anyhow::Result<String> {
    let mut found: Vec<String> = known.filter(|number| number.starts_with(digits)).collect();
    found.sort();
    found.dedup();
    match &found[..] {
        [number] => Ok(number.clone()),
        [] => bail!("no {what} is known whose number begins with {digits:?}"),
        many => bail!("{digits:?} may be {what} {}: write more digits", many.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_digits_are_enough_where_they_tell_numbers_apart() {
        let check = |digits: &str| {
            let known = ["ab12", "ab34", "cd12", "cd12"].map(str::to_owned);
            find("store", digits, known.into_iter()).map_err(|error| error.to_string())
        };
        assert_eq!(check("c"), Ok("cd12".to_owned()));
        assert_eq!(check("ab34"), Ok("ab34".to_owned()));
        assert_eq!(check("ab").unwrap_err(), "\"ab\" may be store ab12 or ab34: write more digits");
        assert_eq!(check("x").unwrap_err(), "no store is known whose number begins with \"x\"");
    }
}
