//! The command line of `ratatosk bench`.
//!
//! `-h` is the host, as with every MQTT client; help is `--help` only. Units are in the values or in
//! the help, and what cannot be understood is refused before anything connects.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Subcommand, ValueEnum};

use crate::machine::assertion::{Assertion, parse_list};
use crate::machine::wire::Version;

/// Drive a broker with a load and judge what comes back.
#[derive(Debug, Clone, clap::Args)]
#[command(disable_help_flag = true, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do other than a run.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Subcommands.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// The ideal forwarder: the floor of what any broker costs.
    Forwarder(ForwarderArgs),
    /// Start brokers afresh and measure them side by side.
    Compare(CompareArgs),
}

/// A run against one target.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// Print help.
    #[arg(long, action = ArgAction::Help, global = true)]
    pub(crate) help: Option<bool>,
    /// Named scenarios, in turn: S1, S2, S2b, S2v5, S3, S3b, S4, S5, S5b, S5k, S6, S7, S8, S9, k1, F1,
    /// R1, C1. Without it the run is made of the options under "Free form".
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) scenario: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) frame: FrameArgs,
    #[command(flatten)]
    pub(crate) free: FreeArgs,
    /// Only this half of S5b, S5k or R1; the broker may be restarted in between.
    #[arg(long, value_enum)]
    pub(crate) phase: Option<Phase>,
    /// The verdict: exit code 1 unless all hold. Example: 'p99<20ms,loss=0,rate>100k'.
    #[arg(long = "assert", value_name = "LIST", value_parser = parse_assertions)]
    pub(crate) assertions: Option<Assertions>,
    /// One line per second, even when the output is not a terminal.
    #[arg(long)]
    pub(crate) live: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// Where the broker is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TargetArgs {
    /// Host of the broker.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port of the broker.
    #[arg(short, long, default_value_t = 1883)]
    pub(crate) port: u16,
    /// Another node of a cluster (repeatable): clients are spread over all, and the subscriber of a
    /// publisher's number is at the node behind the publisher's.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) also: Vec<String>,
    /// The publisher and the subscriber of one number are at the same node.
    #[arg(long, requires = "also")]
    pub(crate) together: bool,
    /// User name.
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password.
    #[arg(short = 'P', long)]
    pub(crate) password: Option<String>,
    /// Process of the broker on this machine, for its CPU time and memory.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Count the descendants of the process too.
    #[arg(long, requires = "pid")]
    pub(crate) children: bool,
    /// Directory of the broker on this machine, for the space that it takes.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Version and lengths.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FrameArgs {
    /// Protocol version: 3.1.1 or 5 [default: the scenario's].
    #[arg(short = 'V', long = "protocol-version", value_parser = parse_version)]
    pub(crate) protocol: Option<Version>,
    /// Seconds measured.
    #[arg(long, default_value = "5", value_parser = parse_seconds, value_name = "SECONDS")]
    pub(crate) duration: Duration,
    /// Seconds before that.
    #[arg(long, default_value = "1", value_parser = parse_seconds, value_name = "SECONDS")]
    pub(crate) warmup: Duration,
    /// Messages of S5b, S5k, S9, F1 and R1, and of a round of C1 [default: the scenario's].
    #[arg(long)]
    pub(crate) messages: Option<u64>,
    /// Sessions of F1 and R1, and of a round of C1 [default: the scenario's].
    #[arg(long)]
    pub(crate) sessions: Option<usize>,
    /// Retained messages of R1, and of a round of C1 [default: the scenario's].
    #[arg(long)]
    pub(crate) retained: Option<u64>,
    /// Bytes of a payload of a named scenario, at least 24 [default: the scenario's].
    #[arg(long)]
    pub(crate) payload: Option<usize>,
}

/// A run of one's own.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Free form")]
pub(crate) struct FreeArgs {
    /// Connections that publish.
    #[arg(long, default_value_t = 1)]
    pub(crate) publishers: usize,
    /// Connections that subscribe.
    #[arg(long, default_value_t = 1)]
    pub(crate) subscribers: usize,
    /// Quality of service of both.
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Bytes of a payload, at least 24.
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
    /// Messages per second of all publishers together, evenly spaced [default: as fast as it goes].
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Messages of a publisher that are not yet delivered end to end (without --rate).
    #[arg(long, default_value_t = 256)]
    pub(crate) window: u32,
    /// Messages of a publisher that are not yet acknowledged (QoS 1 and 2).
    #[arg(long, default_value_t = 64)]
    pub(crate) inflight: u16,
    /// Topic; with {i} one per pair [default: bench/{i} if there are as many publishers as subscribers,
    /// else bench/all].
    #[arg(short, long)]
    pub(crate) topic: Option<String>,
    /// Subscribe as this shared group.
    #[arg(long, value_name = "GROUP")]
    pub(crate) share: Option<String>,
    /// Subscribers keep their sessions.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Publish retained messages.
    #[arg(long)]
    pub(crate) retain: bool,
}

/// Where the forwarder listens.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ForwarderArgs {
    /// Address to listen on.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on.
    #[arg(short, long, default_value_t = 1883)]
    pub(crate) port: u16,
}

/// What is compared.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompareArgs {
    /// A broker: its name and the command that starts it, without a shell. {port} and {dir} (a fresh,
    /// empty directory) are replaced; the command "forwarder" alone is the ideal forwarder. The first
    /// target is what the others are compared with.
    #[arg(long = "target", required = true, value_name = "NAME=COMMAND")]
    pub(crate) targets: Vec<String>,
    /// Named scenarios, in turn.
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAME")]
    pub(crate) scenario: Vec<String>,
    /// Runs of each scenario and target, alternating.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Port that the brokers are told.
    #[arg(short, long, default_value_t = 18830)]
    pub(crate) port: u16,
    /// Seconds that a broker may take to answer on its port.
    #[arg(long, default_value = "15", value_parser = parse_seconds, value_name = "SECONDS")]
    pub(crate) start_timeout: Duration,
    #[command(flatten)]
    pub(crate) frame: FrameArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Half of a queueing scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// Sessions are made and leave, messages are published to them.
    Fill,
    /// The sessions return and get their messages.
    Drain,
}

/// A list of assertions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Assertions(pub(crate) Vec<Assertion>);

fn parse_assertions(text: &str) -> Result<Assertions, String> {
    parse_list(text).map(Assertions).map_err(|error| error.to_string())
}

fn parse_version(text: &str) -> Result<Version, String> {
    match text {
        "3.1.1" | "311" | "mqttv311" => Ok(Version::V311),
        "5" | "5.0" | "mqttv5" => Ok(Version::V5),
        _ => Err(format!("{text:?} is not a version of MQTT that this speaks: 3.1.1 or 5")),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(format!("{seconds} seconds is not between 0 and 86400"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    /// As a subcommand of the main binary.
    #[derive(Debug, Parser)]
    struct Whole {
        #[command(subcommand)]
        command: Verb,
    }

    #[derive(Debug, Subcommand)]
    enum Verb {
        Bench(Args),
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Alone::try_parse_from(line.split_whitespace()).map(|alone| alone.args)
    }

    #[test]
    fn command_line_is_well_formed() {
        Alone::command().debug_assert();
        Whole::command().debug_assert();
    }

    #[test]
    fn short_h_is_the_host_everywhere() {
        let args = parse("bench -h example.org -p 1 -V 5 -u a -P b --scenario S1,S2").unwrap();
        assert_eq!(args.run.target.host, "example.org");
        assert_eq!(args.run.target.password.as_deref(), Some("b"));
        assert_eq!(args.run.frame.protocol, Some(Version::V5));
        assert_eq!(args.run.scenario, ["S1", "S2"]);
        let words = "ratatosk bench -h example.org".split_whitespace();
        let Verb::Bench(args) = Whole::try_parse_from(words).unwrap().command;
        assert_eq!(args.run.target.host, "example.org");
        let args = parse("bench forwarder -h ::1 -p 7").unwrap();
        assert!(matches!(args.command, Some(Command::Forwarder(one)) if one.host == "::1"));
    }

    #[test]
    fn help_has_only_its_long_form() {
        for line in ["bench --help", "bench forwarder --help", "bench compare --help"] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{line}");
        }
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in [
            "bench --assert p99",
            "bench -V 4",
            "bench -q 3",
            "bench --duration x",
            "bench --children",
            "bench compare --scenario S1",
            "bench --scenario S1 forwarder",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
