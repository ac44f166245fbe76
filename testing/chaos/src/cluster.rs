//! The nodes together: which of them are members, how they are started, who leads.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ratatosk_testkit::scratch::Scratch;
use ratatosk_testkit::{binary, ports};
use tokio::time::{Instant, sleep};

use crate::api;
use crate::network::Network;
use crate::node::{Addresses, Membership, Node};
use crate::plan::{Ground, Plan};

/// Ports in a namespace, where nobody else is.
const PORTS: [u16; 4] = [1883, 18083, 7883, 7884];
/// How many ranges a node's store leads.
const LEADING: &str = "ratatosk_store_leading_ranges";
/// Leadership is handed over one range after the other.
const EVEN_MAX: Duration = Duration::from_secs(60);
const EVEN_POLL: Duration = Duration::from_millis(250);

/// All nodes. Their processes end when it is dropped, then their network goes, then their folders.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of their doors.
    pub nodes: Vec<Node>,
    ground: Ground,
    network: Option<Network>,
    folder: Scratch,
}

impl Cluster {
    /// Folders and addresses for the nodes of a plan; none is started.
    ///
    /// # Errors
    /// If there is no binary, no port, or no way to make network namespaces.
    pub fn new(plan: &Plan) -> Result<Cluster> {
        // Built before anybody waits for a start.
        binary::path()?;
        std::fs::create_dir_all(&plan.keep)
            .with_context(|| format!("making {}", plan.keep.display()))?;
        let network = match plan.ground {
            Ground::Namespaces => Some(Network::new()?),
            Ground::Alone | Ground::Loopback => None,
        };
        let folder = Scratch::within(&plan.keep, "chaos");
        let mut cluster = Cluster { nodes: Vec::new(), ground: plan.ground, network, folder };
        let count = if plan.ground == Ground::Alone { 1 } else { plan.nodes };
        for _ in 0..count {
            cluster.add()?;
        }
        Ok(cluster)
    }

    /// Another node, which is not started.
    ///
    /// # Errors
    /// If there is no place for it.
    pub fn add(&mut self) -> Result<usize> {
        let (index, number) = (self.nodes.len(), self.nodes.len() + 1);
        let (addresses, host) = match &mut self.network {
            Some(network) => {
                let host = network.add_host()?;
                (Addresses::new(network.address(host), PORTS), Some(host))
            }
            None => {
                let last = u8::try_from(number).context("so many nodes")?;
                let address = Ipv4Addr::new(127, 0, 0, last);
                (Addresses::new(address, ports::free()?), None)
            }
        };
        self.nodes.push(Node::new(number, addresses, self.folder.path(), host)?);
        Ok(index)
    }

    /// The calling thread is from now on where clients are.
    ///
    /// # Errors
    /// If it may not.
    pub fn enter(&self) -> Result<()> {
        self.network.as_ref().map_or(Ok(()), Network::enter)
    }

    /// Where nodes listen for MQTT.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.addresses.mqtt).collect()
    }

    /// Starts all nodes at once, and waits until they are ready.
    ///
    /// # Errors
    /// If one does not become ready.
    pub async fn found(&mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            let seeds = self.others(index);
            let expect = self.nodes.len();
            let membership = match self.ground {
                Ground::Alone => Membership::Alone,
                Ground::Loopback | Ground::Namespaces => Membership::Founder { expect, seeds },
            };
            self.nodes[index].start(&membership, self.network.as_ref())?;
        }
        for index in 0..self.nodes.len() {
            self.ready(index).await?;
        }
        Ok(())
    }

    /// Starts one node on its data, or as an empty one that joins the others.
    ///
    /// # Errors
    /// If it runs, or the system does not start it.
    pub fn start(&mut self, index: usize) -> Result<()> {
        let membership = match self.ground {
            Ground::Alone => Membership::Alone,
            Ground::Loopback | Ground::Namespaces => {
                Membership::Joiner { seeds: self.others(index) }
            }
        };
        self.nodes[index].start(&membership, self.network.as_ref())
    }

    /// Waits until a node is ready, and sees meanwhile that none ends.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn ready(&mut self, index: usize) -> Result<()> {
        self.nodes[index].ready().await
    }

    fn others(&self, index: usize) -> Vec<SocketAddr> {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != index);
        others.map(|(_, node)| node.addresses.gossip).collect()
    }

    /// The network, if there is one that can be harmed.
    ///
    /// # Errors
    /// If there is none.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("nodes on the loopback cannot be cut off")
    }

    /// That no node has ended by itself.
    ///
    /// # Errors
    /// Names one that has, with the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::check_alive)
    }

    /// How many ranges each node leads that is there; `None` for one that does not say.
    pub async fn leading(&self) -> Vec<Option<u64>> {
        let mut counts = Vec::new();
        for node in self.nodes.iter().filter(|node| node.is_started()) {
            let metrics = node.get("/metrics").await.unwrap_or_default();
            let count = api::metric(&metrics, LEADING);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            counts.push(count.map(|count| count.max(0.0) as u64));
        }
        counts
    }

    /// Waits until no node leads more than one range more than another one, and says how long that took;
    /// `None` if nobody says what it leads, or it does not come about within a minute.
    ///
    /// # Errors
    /// If a node ends.
    pub async fn evened(&mut self) -> Result<Option<Duration>> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let counts = self.leading().await;
            if counts.contains(&None) || started.elapsed() > EVEN_MAX {
                return Ok(None);
            }
            if is_even(&counts) {
                return Ok(Some(started.elapsed()));
            }
            sleep(EVEN_POLL).await;
        }
    }

    /// Lines that say that something in a node panicked.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        let of = |node: &Node| {
            let number = node.number;
            node.panics().into_iter().map(move |line| format!("node {number} says {line:?}"))
        };
        self.nodes.iter().flat_map(of).collect()
    }

    /// Where the folders of the nodes are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folders of the nodes stay.
    pub fn keep(&mut self) {
        self.folder.keep();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Before the namespaces that they run in.
        self.nodes.clear();
    }
}

fn is_even(counts: &[Option<u64>]) -> bool {
    let known = || counts.iter().copied().flatten();
    known().max().unwrap_or(0) - known().min().unwrap_or(0) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_are_even_if_no_node_has_two_more_than_another() {
        assert!(is_even(&[Some(2), Some(3), Some(2)]));
        assert!(!is_even(&[Some(2), Some(4), Some(3)]));
        assert!(is_even(&[]));
    }
}
