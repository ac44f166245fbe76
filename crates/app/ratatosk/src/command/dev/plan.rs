//! What is to be started, and what stands in its way.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::DevArgs;

/// The ports of the first node; those of the others follow.
const MQTT: u16 = 1883;
const ADMIN: u16 = 18_083;
const GOSSIP: u16 = 7883;
/// Between two nodes' ports for each other: room for those of calls.
const GOSSIP_STEP: u16 = 10;
/// Looks for a port that is free for UDP and TCP at most so often.
const TRIES_MAX: usize = 64;

/// What is written into the configuration file of all nodes, for who wants to add to it.
const CONFIGURATION: &str =
    "# Settings of every node that `ratatosk dev` starts here. Addresses and data are set by it.\n";

/// A node that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Which one, from 0 on.
    pub(super) place: usize,
    /// How it is called.
    pub(super) name: String,
    /// Where it listens.
    pub(super) ports: Ports,
    configuration: String,
    data_dir: String,
    settings: Vec<(String, String)>,
}

/// Where a node listens, on the loopback.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    mqtt: u16,
    admin: u16,
    gossip: u16,
    calls: u16,
}

/// What is to be started. Nothing stands in its way; folder and configuration file are there.
pub(super) fn nodes(args: &DevArgs) -> anyhow::Result<Vec<Node>> {
    let count = usize::from(args.nodes);
    refuse_fewer(&args.data_dir, count)?;
    let ports = match args.free_ports {
        true => (0..count).map(|_| Ports::free()).collect::<anyhow::Result<Vec<_>>>()?,
        false => (0..args.nodes).map(Ports::fixed).collect(),
    };
    refuse_taken(&ports)?;
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("cannot make the folder {}", args.data_dir.display()))?;
    let configuration = args.data_dir.join("ratatosk.toml");
    if !configuration.exists() {
        std::fs::write(&configuration, CONFIGURATION)
            .with_context(|| format!("cannot write {}", configuration.display()))?;
    }
    let node = |(place, own): (usize, &Ports)| Node {
        place,
        name: name(place),
        ports: *own,
        configuration: configuration.display().to_string(),
        data_dir: args.data_dir.join(name(place)).display().to_string(),
        settings: settings(own, &ports, &args.set),
    };
    Ok(ports.iter().enumerate().map(node).collect())
}

fn name(place: usize) -> String {
    format!("node-{}", place + 1)
}

/// Nodes that were there before and are not started any more would be missed: their ranges may have no
/// quorum.
fn refuse_fewer(folder: &Path, count: usize) -> anyhow::Result<()> {
    let before = (count..9).rev().find(|place| folder.join(name(*place)).exists());
    let Some(place) = before else { return Ok(()) };
    let (was, folder) = (place + 1, folder.display());
    bail!(
        "{folder} has the data of {was} nodes: start as many (--nodes {was}), choose another --data-dir, or \
         remove the folder"
    )
}

fn refuse_taken(ports: &[Ports]) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for (place, own) in ports.iter().enumerate() {
        for (what, address, is_free) in [
            ("MQTT", own.mqtt(), free_tcp(own.mqtt())),
            ("the management API", own.admin(), free_tcp(own.admin())),
            (
                "the cluster",
                own.gossip(),
                free_tcp(own.gossip()).and_then(|()| free_udp(own.gossip())),
            ),
            ("the cluster's calls", own.calls(), free_tcp(own.calls())),
        ] {
            if let Err(error) = is_free {
                taken.push(format!("{address}, for {what} of {}: {error}", name(place)));
            }
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    bail!(
        "these addresses cannot be listened on: {}; stop what is there, or start with --free-ports",
        taken.join("; ")
    )
}

fn free_tcp(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(drop)
}

fn free_udp(address: SocketAddr) -> std::io::Result<()> {
    UdpSocket::bind(address).map(drop)
}

impl Ports {
    /// Those that can be told beforehand.
    fn fixed(place: u16) -> Self {
        let gossip = GOSSIP + place * GOSSIP_STEP;
        Self { mqtt: MQTT + place, admin: ADMIN + place, gossip, calls: gossip + 1 }
    }

    /// Some that are free now.
    fn free() -> anyhow::Result<Self> {
        // Held until all are chosen, so that they differ.
        let mut held = Vec::new();
        let mut take = || -> anyhow::Result<u16> {
            let listener = TcpListener::bind(loopback(0)).context("no port is free")?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let (mqtt, admin, calls) = (take()?, take()?, take()?);
        for _ in 0..TRIES_MAX {
            let gossip = take()?;
            if free_udp(loopback(gossip)).is_ok() {
                return Ok(Self { mqtt, admin, gossip, calls });
            }
        }
        bail!("no port is free for UDP and TCP")
    }

    pub(super) fn mqtt(&self) -> SocketAddr {
        loopback(self.mqtt)
    }

    pub(super) fn admin(&self) -> SocketAddr {
        loopback(self.admin)
    }

    fn gossip(&self) -> SocketAddr {
        loopback(self.gossip)
    }

    fn calls(&self) -> SocketAddr {
        loopback(self.calls)
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn settings(own: &Ports, all: &[Ports], more: &[(String, String)]) -> Vec<(String, String)> {
    let mut settings = vec![
        ("listener.0.protocol", "mqtt".to_owned()),
        ("listener.0.address", own.mqtt().to_string()),
        ("admin.address", own.admin().to_string()),
        ("cluster.name", "dev".to_owned()),
        ("cluster.address", own.gossip().to_string()),
        ("cluster.calls_address", own.calls().to_string()),
        ("log.format", "text".to_owned()),
        // Where all stop at once, the last ones have nobody to hand over to, and need not wait for it.
        ("limits.shutdown_timeout_seconds", "3".to_owned()),
    ];
    if all.len() > 1 {
        let join: Vec<_> = all.iter().map(|ports| ports.gossip().to_string()).collect();
        settings.push(("cluster.join", join.join(",")));
        settings.push(("cluster.expect", all.len().to_string()));
    }
    let mut settings: Vec<_> =
        settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    settings.extend_from_slice(more);
    settings
}

impl Node {
    /// What it is started with.
    pub(super) fn arguments(&self, command: &str) -> Vec<String> {
        let mut arguments = vec![command.to_owned()];
        for (flag, value) in [("--config", &self.configuration), ("--data-dir", &self.data_dir)] {
            arguments.extend([flag.to_owned(), value.clone()]);
        }
        for (key, value) in &self.settings {
            arguments.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        arguments
    }

    /// The command that starts it by itself.
    pub(super) fn line(&self) -> String {
        let arguments = self.arguments("start");
        let quoted = arguments.iter().map(|argument| quoted(argument));
        format!("ratatosk {}", quoted.collect::<Vec<_>>().join(" "))
    }
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    match !argument.is_empty() && argument.bytes().all(is_plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

/// What to do with them, once they are ready; each with the number of its process.
pub(super) fn welcome(nodes: &[Node], processes: &[u32], took: Duration) -> String {
    let tenths = took.as_millis() / 100;
    let count = match nodes.len() {
        1 => "1 node is".to_owned(),
        count => format!("{count} nodes are"),
    };
    let mut text = format!("\n{count} ready after {}.{} s:\n\n", tenths / 10, tenths % 10);
    for (node, process) in nodes.iter().zip(processes) {
        let (name, mqtt, admin) = (&node.name, node.ports.mqtt(), node.ports.admin());
        text.push_str(&format!("  {name}  mqtt {mqtt}  api http://{admin}  process {process}\n"));
    }
    let [Some(first), Some(last)] = [nodes.first(), nodes.last()] else { return text };
    text.push_str(&format!(
        "\nTo see a message go from the first to the last:\n\n  \
         ratatosk sub -h 127.0.0.1 -p {} -t 'hello/#'\n  \
         ratatosk pub -h 127.0.0.1 -p {} -t hello/world -m hi\n  \
         ratatosk cluster status --api http://{}\n\nCtrl-C stops all.\n\n",
        last.ports.mqtt,
        first.ports.mqtt,
        first.ports.admin(),
    ));
    text
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
