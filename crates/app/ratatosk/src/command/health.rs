//! `ratatosk health`: asks a node's management API whether it is ready. Needs no credentials and no
//! other program.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::cause;
use crate::command::api::{Answer, Api};
use crate::command::{ConfigurationArgs, load};
use crate::exit::Code;

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
    match ask(&Api::at(address, Duration::from_secs(args.timeout))) {
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

/// Whether the node is ready, and what it says.
fn ask(api: &Api) -> anyhow::Result<(bool, String)> {
    let Answer { status, body } = api.ask("GET", "/readyz", None)?;
    match status {
        200 => Ok((true, body)),
        503 => Ok((false, body)),
        _ => bail!("{} answers with status {status}", api.origin),
    }
}
