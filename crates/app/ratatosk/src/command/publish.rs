//! `ratatosk pub`: sends messages and waits for their acknowledgements.

use std::io::{BufRead as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use ratatosk_codec::Qos;

use crate::client::{Client, ConnectionArgs, Outgoing, topic_name};
use crate::exit::Code;

/// Payloads are not larger than a packet can be.
const PAYLOAD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Lines read ahead of the broker.
const LINES_AHEAD: usize = 64;

/// How often the standard input's silence is interrupted to look after the connection.
const IDLE_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
#[command(group = ArgGroup::new("payload").required(true).multiple(false))]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Topic to publish to
    #[arg(short, long, value_parser = topic_name)]
    topic: String,
    /// The message
    #[arg(short, long, group = "payload")]
    message: Option<String>,
    /// Send the content of a file; - is the standard input
    #[arg(short, long, group = "payload")]
    file: Option<PathBuf>,
    /// Send each line of the standard input as a message
    #[arg(short = 'l', long = "stdin-line", group = "payload")]
    lines: bool,
    /// Send the whole standard input as one message
    #[arg(short, long = "stdin-file", group = "payload")]
    stdin: bool,
    /// Send an empty message
    #[arg(short, long = "null-message", group = "payload")]
    null: bool,
    /// Quality of service
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The broker keeps the message for later subscribers
    #[arg(short, long)]
    retain: bool,
}

pub(crate) fn run(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    // Before connecting, so that a missing file disturbs nobody.
    let payload = payload(args)?;
    let mut client = Client::connect(&args.connection)?;
    let qos = Qos::try_from(args.qos).unwrap_or_default();
    let send = |client: &mut Client, payload: &[u8]| {
        client.publish(Outgoing { topic: &args.topic, payload, qos, retain: args.retain })
    };
    match payload {
        Some(payload) => send(&mut client, &payload)?,
        None => {
            let lines = read_lines()?;
            loop {
                match lines.recv_timeout(client.ping_due().unwrap_or(IDLE_MAX)) {
                    Ok(line) => send(&mut client, &line.context("cannot read standard input")?)?,
                    Err(RecvTimeoutError::Timeout) => client.ping()?,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        }
    }
    client.settle(0)?;
    client.disconnect()?;
    Ok(Code::Clean.into())
}

/// The one message; `None` when each line is one.
fn payload(args: &PublishArgs) -> anyhow::Result<Option<Vec<u8>>> {
    if args.lines {
        return Ok(None);
    }
    if let Some(message) = &args.message {
        return Ok(Some(message.clone().into_bytes()));
    }
    match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            bounded(file).with_context(|| format!("cannot read {}", path.display())).map(Some)
        }
        None if args.null => Ok(Some(Vec::new())),
        _ => bounded(std::io::stdin().lock()).context("cannot read standard input").map(Some),
    }
}

fn bounded(source: impl std::io::Read) -> anyhow::Result<Vec<u8>> {
    let mut payload = Vec::new();
    source.take(PAYLOAD_BYTES_MAX).read_to_end(&mut payload)?;
    if payload.len() as u64 == PAYLOAD_BYTES_MAX {
        bail!("it has more than {PAYLOAD_BYTES_MAX} bytes");
    }
    Ok(payload)
}

/// Reads lines on a thread of its own: a silent input must not keep the client from its pings.
fn read_lines() -> anyhow::Result<Receiver<anyhow::Result<Vec<u8>>>> {
    let (sender, lines) = sync_channel(LINES_AHEAD);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let line = read_line(&mut input);
            let Some(line) = line.transpose() else { return };
            let failed = line.is_err();
            if sender.send(line).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(lines)
}

/// The next line without its end; `None` at the end of the input.
fn read_line(input: &mut impl std::io::BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let length = input.take(PAYLOAD_BYTES_MAX).read_until(b'\n', &mut line)?;
    if length == 0 {
        return Ok(None);
    }
    if length as u64 == PAYLOAD_BYTES_MAX {
        bail!("a line has more than {PAYLOAD_BYTES_MAX} bytes");
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some(line))
}
