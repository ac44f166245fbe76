//! `ratatosk health`: asks a node's management API whether it is ready. Needs no credentials and no
//! other program.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::cause;
use crate::command::{ConfigurationArgs, load};
use crate::exit::Code;

/// Larger answers are cut.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// The address of the management API [default: that of the configuration]
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: Option<SocketAddr>,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

pub(crate) fn run(args: &HealthArgs, before: &ConfigurationArgs) -> anyhow::Result<ExitCode> {
    let address = match args.address {
        Some(address) => address,
        None => load(&[before.clone(), args.configuration.clone()])?.admin.address(),
    };
    match ask(reachable(address), Duration::from_secs(args.timeout)) {
        Ok((true, body)) => {
            print!("{body}");
            Ok(Code::Clean.into())
        }
        Ok((false, body)) => {
            eprint!("{body}");
            Ok(Code::Operator.into())
        }
        Err(error) => {
            eprintln!("not ready: {}", cause::line(&error));
            Ok(Code::Operator.into())
        }
    }
}

/// One cannot connect to "every address".
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

fn ask(address: SocketAddr, timeout: Duration) -> anyhow::Result<(bool, String)> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)
        .with_context(|| format!("nobody answers at {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .with_context(|| format!("no answer from {address}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("what answers at {address} is no http server");
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Ok((true, body.to_owned())),
        "503" => Ok((false, body.to_owned())),
        _ => bail!("{address} answers with status {status:?}"),
    }
}
