//! Runs a client script against a broker and reads its `ok NAME` lines.
//!
//! `cargo xtask clients` installs the interpreters' packages under `<target>/clients`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::broker::{Broker, Transport};
use crate::process::finish;

const SCRIPT_MAX: Duration = Duration::from_mins(4);
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

/// A set of cases in one script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// paho-mqtt, Python.
    Paho,
    /// aiomqtt, Python.
    Aiomqtt,
    /// MQTT.js, Node.
    MqttJs,
}

/// Runs every case of a suite over one transport; returns the names of those that held.
///
/// # Errors
/// If the client is not installed, or any case fails; the error holds the script's output.
pub fn run(suite: Suite, broker: &Broker, transport: Transport) -> Result<Vec<String>> {
    let clients = installed_clients()?;
    let python = clients.join("python").join("bin").join("python");
    let node_modules = clients.join("node").join("node_modules");
    let (mut command, script) = match suite {
        Suite::Paho => (Command::new(&python), "paho_suite.py"),
        Suite::Aiomqtt => (Command::new(&python), "aiomqtt_suite.py"),
        Suite::MqttJs => (Command::new("node"), "mqttjs_suite.mjs"),
    };
    let needed = match suite {
        Suite::Paho | Suite::Aiomqtt => &python,
        Suite::MqttJs => &node_modules,
    };
    if !needed.exists() {
        bail!("{} is not there: run `cargo xtask clients`", needed.display());
    }
    command
        .arg(Path::new(CLIENTS).join(script))
        .args(["--host", "localhost", "--transport", transport.name(), "--port"])
        .arg(broker.port(transport).to_string())
        .arg("--ca")
        .arg(broker.authority())
        .env("RATATOSK_E2E_NODE", clients.join("node"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = finish(command, &broker.file(script), SCRIPT_MAX)?;
    let held: Vec<String> =
        output.lines().filter_map(|line| line.strip_prefix("ok ")).map(str::to_owned).collect();
    if held.is_empty() {
        bail!("{script} ran no case:\n{output}");
    }
    Ok(held)
}

/// `<target>/clients`, beside the profile that this test was built in.
fn installed_clients() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("RATATOSK_E2E_CLIENTS") {
        return Ok(PathBuf::from(folder));
    }
    let test = std::env::current_exe().context("where is this test?")?;
    let target = test.ancestors().nth(3).context("the test lies in <target>/<profile>/deps")?;
    Ok(target.join("clients"))
}
