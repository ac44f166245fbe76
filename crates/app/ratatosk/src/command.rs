//! The command line: what an operator can ask for.
//!
//! Without a command the node is started. In `pub`, `sub` and `bench`, `-h` is the host, as
//! everywhere in this field.

mod api;
mod cluster;
mod completions;
mod config;
mod dev;
mod health;
mod passwd;
mod publish;
mod ranges;
mod recover;
mod start;
mod subscribe;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::cause;
use crate::configuration::{Configuration, Override, Refused, Sources};
use crate::exit::Code;

/// A multi-tenant MQTT broker. Without a command it starts.
#[derive(Debug, Parser)]
#[command(name = "ratatosk", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the node (the default).
    Start(ConfigurationArgs),
    /// Sets aside what is damaged in the data directory, so that a node can start with the rest.
    Recover(ConfigurationArgs),
    /// Checks or shows the configuration.
    Config {
        #[command(subcommand)]
        command: config::Command,
    },
    /// Asks a running node whether it is ready; exit code 4 when it is not.
    Health(health::HealthArgs),
    /// Shows and orders what concerns the cluster that a node is in.
    Cluster {
        #[command(subcommand)]
        command: cluster::Command,
    },
    /// Shows the ranges of the cluster that a node is in; exit code 4 when one has no leader.
    Ranges(ranges::RangesArgs),
    /// Runs a cluster on this machine, for trying out and for tests.
    Dev(dev::DevArgs),
    /// A node of `dev`, which ends with it.
    #[command(name = dev::NODE_COMMAND, hide = true)]
    DevNode(ConfigurationArgs),
    /// Writes the file of users and passwords
    Passwd(passwd::PasswdArgs),
    /// Sends messages to a broker
    Pub(Box<publish::PublishArgs>),
    /// Prints the messages that a broker sends
    Sub(Box<subscribe::SubscribeArgs>),
    /// Drives a broker with a load and judges what comes back
    Bench(Box<ratatosk_bench::Args>),
    /// Prints a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// What a configuration is made of.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigurationArgs {
    /// The configuration file [default: ./ratatosk.toml, then /etc/ratatosk/ratatosk.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the data is kept; the same as --set data_dir=DIR
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// A node of the cluster to join; can be repeated; the same as --set cluster.join=HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    join: Vec<String>,
    /// Lets clients in without credentials, also from the network
    #[arg(long)]
    allow_anonymous: bool,
    /// Sets a key of the configuration; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

/// Parses the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => start::run(&sources(&[cli.configuration])),
        Some(Command::Start(args)) => start::run(&sources(&[cli.configuration, args])),
        Some(Command::Recover(args)) => recover::run(&sources(&[cli.configuration, args])),
        Some(Command::Config { command }) => config::run(&command, &cli.configuration),
        Some(Command::Health(args)) => health::run(&args, &cli.configuration),
        Some(Command::Cluster { command }) => cluster::run(&command, &cli.configuration),
        Some(Command::Ranges(args)) => ranges::run(&args, &cli.configuration),
        Some(Command::Dev(args)) => dev::run(&args),
        Some(Command::DevNode(args)) => dev::run_node(&sources(&[cli.configuration, args])),
        Some(Command::Passwd(args)) => passwd::run(&args),
        Some(Command::Pub(args)) => publish::run(&args),
        Some(Command::Sub(args)) => subscribe::run(&args),
        Some(Command::Bench(args)) => ratatosk_bench::run(*args),
        Some(Command::Completions(args)) => completions::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        let code = match error.downcast_ref::<Refused>() {
            Some(_) => Code::Configuration,
            None => Code::Failure,
        };
        eprintln!("ratatosk: {}", cause::line(&error));
        code.into()
    })
}

/// The sources of the configuration: arguments before and after the command, and the environment.
fn sources(arguments: &[ConfigurationArgs]) -> Sources {
    let mut sources = Sources { variables: environment(), ..Sources::default() };
    for args in arguments {
        sources.file = args.config.clone().or(sources.file);
        let data_dir = args.data_dir.iter().map(|dir| ("--data-dir", "data_dir", dir.as_str()));
        let anonymous =
            args.allow_anonymous.then_some(("--allow-anonymous", "auth.anonymous", "true"));
        for (flag, path, value) in data_dir.chain(anonymous) {
            let (flag, path, value) = (flag.to_owned(), path.to_owned(), value.to_owned());
            sources.overrides.push(Override { flag, path, value });
        }
        if !args.join.is_empty() {
            let (flag, path, value) =
                ("--join".to_owned(), "cluster.join".to_owned(), args.join.join(","));
            sources.overrides.push(Override { flag, path, value });
        }
        let set = args.set.iter().map(|(path, value)| Override {
            flag: format!("--set {path}"),
            path: path.clone(),
            value: value.clone(),
        });
        sources.overrides.extend(set);
    }
    sources
}

fn load(arguments: &[ConfigurationArgs]) -> Result<Configuration, Refused> {
    Configuration::load(&sources(arguments))
}

/// The environment. Names and values that are no text are none of ours.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("write KEY=VALUE, such as admin.address=127.0.0.1:18083".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
