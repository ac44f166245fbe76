//! `ratatosk sub`: prints what arrives, until told to stop.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use ratatosk_clock::SystemClock;
use ratatosk_codec::Qos;

use crate::client::{Client, ConnectionArgs, Message, topic_filter};
use crate::exit::Code;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct SubscribeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Topic filter to subscribe to; can be repeated
    #[arg(short, long = "topic", required = true, value_parser = topic_filter)]
    topics: Vec<String>,
    /// Highest quality of service
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Print the topic before each message
    #[arg(short, long)]
    verbose: bool,
    /// End after so many messages
    #[arg(short = 'C', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds; with -C it is a failure not to have got all
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Print no line end after each message
    #[arg(short = 'N', long)]
    no_line_end: bool,
}

pub(crate) fn run(args: &SubscribeArgs) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.connection)?;
    let qos = Qos::try_from(args.qos).unwrap_or_default();
    let answers = client.subscribe(&args.topics, qos)?;
    let refused = args.topics.iter().zip(&answers).find(|(_, code)| code.is_error());
    if let Some((filter, code)) = refused {
        bail!("subscription to {filter} refused: {}", code.text());
    }
    let clock = SystemClock::new();
    let deadline = args.timeout.map(|seconds| clock.now() + Duration::from_secs(seconds));
    let mut received = 0;
    while args.count.is_none_or(|count| received < count) {
        let patience = deadline.map(|deadline| deadline.since(clock.now()));
        let Some(message) = client.next(patience)? else {
            let Some(count) = args.count else { break };
            bail!("{received} of {count} messages came in time");
        };
        received += 1;
        if let Err(error) = print(args, &message) {
            // Whoever read it has seen enough.
            if error.kind() == io::ErrorKind::BrokenPipe {
                break;
            }
            return Err(error.into());
        }
    }
    client.disconnect()?;
    Ok(Code::Clean.into())
}

fn print(args: &SubscribeArgs, message: &Message) -> io::Result<()> {
    let mut line = Vec::with_capacity(message.topic.len() + message.payload.len() + 2);
    if args.verbose {
        line.extend_from_slice(message.topic.as_bytes());
        line.push(b' ');
    }
    line.extend_from_slice(&message.payload);
    if !args.no_line_end {
        line.push(b'\n');
    }
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
