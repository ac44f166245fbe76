//! A node: the real binary with a folder and addresses of its own, started, killed and stopped.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ratatosk_testkit::binary;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::api;
use crate::network::Network;
use crate::roles::Workload;

const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
const LOG_LINES: usize = 30;

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// MQTT.
    pub mqtt: SocketAddr,
    /// The management API.
    pub admin: SocketAddr,
    /// Gossip.
    pub gossip: SocketAddr,
    /// Calls.
    pub calls: SocketAddr,
}

impl Addresses {
    /// An address with four ports: MQTT, API, gossip, calls.
    #[must_use]
    pub fn new(address: Ipv4Addr, [mqtt, admin, gossip, calls]: [u16; 4]) -> Addresses {
        let at = |port| SocketAddr::from((address, port));
        Addresses { mqtt: at(mqtt), admin: at(admin), gossip: at(gossip), calls: at(calls) }
    }
}

/// How a node that has no data comes to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It has none.
    Alone,
    /// It is one of so many that are started at once, and knows where.
    Founder {
        /// How many.
        expect: usize,
        /// Gossip addresses of the others.
        seeds: Vec<SocketAddr>,
    },
    /// It joins those who are there.
    Joiner {
        /// Their gossip addresses.
        seeds: Vec<SocketAddr>,
    },
}

/// A node's folder, and its process while there is one, which is killed when this is dropped.
#[derive(Debug)]
pub struct Node {
    /// For people, from 1.
    pub number: usize,
    /// Where it listens.
    pub addresses: Addresses,
    /// What it is for.
    pub workload: Workload,
    folder: PathBuf,
    /// Its namespace in the network, if there is one.
    host: Option<usize>,
    child: Option<Child>,
}

impl Node {
    /// A node with a new folder below another one; it is not started.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(
        number: usize,
        addresses: Addresses,
        parent: &Path,
        host: Option<usize>,
    ) -> Result<Node> {
        let folder = parent.join(format!("node-{number}"));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let workload = Workload::All;
        Ok(Node { number, addresses, workload, folder, host, child: None })
    }

    /// Starts the process; that it serves is not waited for.
    ///
    /// # Errors
    /// If it runs already, or the system does not start it.
    pub fn start(&mut self, membership: &Membership, network: Option<&Network>) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.number);
        let path = self.folder.join("ratatosk.toml");
        fs::write(&path, configuration(&self.addresses, self.workload, membership))?;
        let log = self.open_log()?;
        let mut command = binary::ratatosk()?;
        command.arg("--config").arg(path);
        command.arg("--data-dir").arg(self.data()).current_dir(&self.folder);
        let mut command = match (network, self.host) {
            (Some(network), Some(host)) => network.command(host, &command),
            _ => command,
        };
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("starting node {}", self.number))?);
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn open_log(&self) -> Result<File> {
        let path = self.log_path();
        let open = OpenOptions::new().append(true).create(true).open(&path);
        open.with_context(|| format!("opening {}", path.display()))
    }

    /// Waits until it says that it is ready, and listens if it has clients.
    ///
    /// # Errors
    /// If it ends instead, or is not ready within 90 s.
    pub async fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let said = match api::ask(self.addresses.admin, "GET", "/readyz?verbose").await {
                Ok(answer) if answer.status == 200 => break,
                Ok(answer) => answer.body,
                Err(error) => format!("{error:#}"),
            };
            if started.elapsed() > START_MAX {
                let (number, log) = (self.number, self.log());
                bail!("node {number} is not ready within {START_MAX:?}; it says {said:?}:\n{log}");
            }
            sleep(POLL).await;
        }
        if !self.workload.has_clients() {
            return Ok(());
        }
        let mqtt = self.addresses.mqtt;
        TcpStream::connect(mqtt)
            .await
            .with_context(|| format!("{mqtt} of a node that is ready"))?;
        Ok(())
    }

    /// Whether it runs, as far as is known.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it has not ended by itself, if it was started.
    ///
    /// # Errors
    /// Says how it ended, with the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            bail!("node {} ended by itself, with {status}:\n{}", self.number, self.log());
        }
        Ok(())
    }

    /// kill -9; returns when the process is gone.
    ///
    /// # Errors
    /// If it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.check_alive()?;
        let mut child = self.child.take().context("the node was not started")?;
        child.kill().with_context(|| format!("killing node {}", self.number))?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM; returns when the process has ended well.
    ///
    /// # Errors
    /// If it had ended before, does not end within a minute, or says that it failed.
    pub async fn stop(&mut self) -> Result<()> {
        self.check_alive()?;
        let child = self.child.as_ref().context("the node was not started")?;
        let id = child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status()?;
        ensure!(status.success(), "kill ended with {status}");
        let status = self.ended().await?;
        let (number, log) = (self.number, self.log());
        ensure!(status.success(), "node {number} was stopped and ended with {status}:\n{log}");
        Ok(())
    }

    async fn ended(&mut self) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            let child = self.child.as_mut().context("the node was not started")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            let (number, log) = (self.number, self.log());
            ensure!(
                started.elapsed() < STOP_MAX,
                "node {number} does not end within {STOP_MAX:?} of SIGTERM:\n{log}"
            );
            sleep(POLL).await;
        }
    }

    /// Its disk is lost; the process is gone.
    ///
    /// # Errors
    /// If the process is there, or the folder cannot be removed.
    pub fn wipe(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs", self.number);
        fs::remove_dir_all(self.data()).with_context(|| format!("node {}'s data", self.number))
    }

    /// Asks its API for a path.
    ///
    /// # Errors
    /// If it does not answer with 200.
    pub async fn get(&self, path: &str) -> Result<String> {
        let answer = api::ask(self.addresses.admin, "GET", path).await?;
        let (number, status) = (self.number, answer.status);
        ensure!(status == 200, "node {number} answers {status} to GET {path}: {}", answer.body);
        Ok(answer.body)
    }

    /// Lines of its log that say that something in it panicked.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let is_panic = |line: &&str| line.contains("panicked at");
        text.lines().filter(is_panic).map(str::to_owned).collect()
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The configuration of a node, as it stands in its file.
fn configuration(addresses: &Addresses, workload: Workload, membership: &Membership) -> String {
    let Addresses { mqtt, admin, gossip, calls } = addresses;
    // Visitors stay away for long, and nothing is to be dropped because their queue is full. Wills of
    // clients that do not come back are sent however their node ended.
    let own = format!(
        "{}[[listener]]\nprotocol = \"mqtt\"\naddress = \"{mqtt}\"\n\
         [auth]\nanonymous = true\n\
         [admin]\naddress = \"{admin}\"\ntoken = \"{}\"\n\
         [tenant]\nsession_inbox_size = 10000000\n\
         no_lwt_when_server_shutting_down = false\n",
        workload.roles(),
        api::TOKEN
    );
    let (expect, seeds) = match membership {
        Membership::Alone => return own,
        Membership::Founder { expect, seeds } => (format!("expect = {expect}\n"), seeds),
        Membership::Joiner { seeds } => (String::new(), seeds),
    };
    let seeds: Vec<String> = seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
    let seeds = seeds.join(", ");
    format!(
        "{own}[cluster]\nname = \"chaos\"\naddress = \"{gossip}\"\ncalls_address = \"{calls}\"\n\
         join = [{seeds}]\n{expect}exposed = true\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_how_a_node_comes_to_its_cluster() {
        let addresses = Addresses::new(Ipv4Addr::new(10, 77, 0, 1), [1, 2, 3, 4]);
        let seeds = vec!["10.77.0.2:3".parse().unwrap()];
        let configuration = |of: &Membership| configuration(&addresses, Workload::Store, of);
        let alone = configuration(&Membership::Alone);
        assert!(
            alone.starts_with("roles = [\"inbox\", ")
                && alone.contains("10.77.0.1:1")
                && !alone.contains("[cluster]"),
            "{alone}"
        );
        let founder = Membership::Founder { expect: 3, seeds: seeds.clone() };
        let founder = configuration(&founder);
        for part in ["expect = 3", "join = [\"10.77.0.2:3\"]", "calls_address = \"10.77.0.1:4\""] {
            assert!(founder.contains(part), "{part} in {founder}");
        }
        let joiner = configuration(&Membership::Joiner { seeds });
        assert!(joiner.contains("10.77.0.2:3") && !joiner.contains("expect"), "{joiner}");
    }
}
