//! `ratatosk start`: what a process needs before it is a node.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ratatosk_telemetry::log;

use crate::cause;
use crate::configuration::{Configuration, Listener, Scope, Sources};
use crate::exit::Code;
use crate::node::{self, Surroundings};
use crate::rlimit;
use crate::store;
use crate::systemd::Manager;

/// How long the last log lines may take.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(sources: &Sources) -> anyhow::Result<ExitCode> {
    let configuration = Configuration::load(sources)?;
    let log = log::install(&configuration.log)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ratatosk starts");
    log_configuration(&configuration);
    if let Some(advice) = advice(&configuration) {
        tracing::info!("{advice}");
    }
    match rlimit::raise_descriptors() {
        Ok(descriptors) => tracing::debug!(descriptors, "descriptor limit"),
        Err(error) => tracing::warn!(%error, "the descriptor limit cannot be raised"),
    }
    if let Err(error) = prepare(&configuration.data_dir) {
        log_unless_seen(&error, "the data directory cannot be used");
        log.flush(LOG_PATIENCE);
        eprintln!("ratatosk: {}", cause::line(&error));
        return Ok(Code::Operator.into());
    }
    let notify = sources.variables.iter().find(|(name, _)| name == "NOTIFY_SOCKET");
    let manager = Manager::connect(notify.map(|(_, address)| address.as_str()));
    let surroundings = Surroundings { sources: sources.clone(), log: log.clone(), manager };
    let outcome = node::run(configuration, &surroundings);
    if let Err(error) = &outcome {
        log_unless_seen(error, "ratatosk ends");
    }
    log.flush(LOG_PATIENCE);
    match outcome {
        Err(error) if store::needs_operator(&error) => {
            eprintln!("ratatosk: {}", cause::line(&error));
            Ok(Code::Operator.into())
        }
        outcome => outcome,
    }
}

/// Says what is in force: all of it in a log for machines, what differs from the defaults in one
/// for people. CFG-008
fn log_configuration(configuration: &Configuration) {
    let scope = match configuration.log.format.resolve(std::io::stdout().is_terminal()) {
        log::Format::Json => Scope::All,
        log::Format::Auto | log::Format::Text => Scope::Chosen,
    };
    for (section, values) in configuration.effective.log_lines(scope) {
        tracing::info!(section, values = %values, "configuration");
    }
    if scope == Scope::Chosen {
        tracing::info!("all else is at its default: `ratatosk config show --origin` prints it");
    }
}

/// What ends the process also goes to the log, except where the log and the standard error are one
/// terminal: there it would be read twice.
fn log_unless_seen(error: &anyhow::Error, message: &'static str) {
    if !std::io::stdout().is_terminal() {
        tracing::error!(error = cause::line(error), "{message}");
    }
}

/// How to let others in safely, for who sees the node for the first time.
fn advice(configuration: &Configuration) -> Option<&'static str> {
    let only_here = |listener: &Listener| listener.address.ip().to_canonical().is_loopback();
    configuration.listeners.iter().all(only_here).then_some(
        "only this machine can connect; to let others in: `ratatosk passwd users.txt NAME`, then start with \
         --set auth.password_file=users.txt --set listener.0.address=0.0.0.0:1883",
    )
}

/// Makes the data directory if it is missing and sees that it can be written.
fn prepare(directory: &Path) -> anyhow::Result<()> {
    let name = directory.display();
    std::fs::create_dir_all(directory).with_context(|| {
        format!("cannot make the data directory {name}: make it, or choose another (--data-dir)")
    })?;
    let probe = directory.join(".writable");
    std::fs::write(&probe, b"ratatosk").and_then(|()| std::fs::remove_file(&probe)).with_context(
        || format!("cannot write to the data directory {name}: check its owner and free space"),
    )
}
