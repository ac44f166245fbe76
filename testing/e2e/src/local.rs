//! A cluster on this machine, as `ratatosk dev` runs it, and its operator's commands.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatosk_admin::cluster::{Cluster, Range, RangeState};
use ratatosk_testkit::binary;

use crate::place::Place;
use crate::process::{Outcome, Process, until};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(90);

/// Nodes of one `ratatosk dev`. All end when this is dropped.
#[derive(Debug)]
pub struct Local {
    dev: Process,
    nodes: Vec<Node>,
    place: Place,
}

/// A node, as `dev` tells of it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its port for MQTT.
    pub mqtt: String,
    /// Its API, with scheme.
    pub api: String,
    /// Its process.
    pub process: String,
}

impl Local {
    /// Starts so many nodes on free ports, and waits until they are ready.
    ///
    /// # Errors
    /// If they are not within a minute; the error holds what was told.
    pub fn start(count: usize) -> Result<Local> {
        let place = Place::new()?;
        let mut command = binary::ratatosk()?;
        let count = count.to_string();
        command.args(["dev", "--free-ports", "--nodes", &count]).current_dir(place.folder());
        let dev = Process::start(command, &place.path("dev.log"))?;
        dev.wait_for_output("Ctrl-C stops all.", PATIENCE)?;
        let nodes = nodes(&dev.output()?);
        Ok(Local { dev, nodes, place })
    }

    /// A node, from 1 on.
    #[must_use]
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// Its folder, for commands.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The process of `dev`.
    pub fn dev(&mut self) -> &mut Process {
        &mut self.dev
    }

    /// Runs a command for the API of a node.
    ///
    /// # Errors
    /// As [`Place::ratatosk`].
    pub fn order(&self, number: usize, arguments: &[&str]) -> Result<Outcome> {
        let api = ["--api", self.node(number).api.as_str()];
        self.place.ratatosk(&[arguments, &api].concat(), "")
    }

    /// The cluster as a node sees it.
    ///
    /// # Errors
    /// If it does not say.
    pub fn cluster(&self, number: usize) -> Result<Cluster> {
        let outcome = self.order(number, &["cluster", "status", "--format", "json"])?;
        serde_json::from_str(&outcome.output).with_context(|| outcome.output.clone())
    }

    /// The ranges as a node sees them.
    ///
    /// # Errors
    /// If it does not say.
    pub fn ranges(&self, number: usize) -> Result<Vec<Range>> {
        let outcome = self.order(number, &["ranges", "--format", "json"])?;
        serde_json::from_str(&outcome.output).with_context(|| outcome.output.clone())
    }

    /// The store of a node.
    ///
    /// # Errors
    /// If it has none, or does not say.
    pub fn store(&self, number: usize) -> Result<String> {
        self.cluster(number)?.node.store.context("a node serves a store")
    }

    /// Waits until the ranges that a node sees are all led and as wanted.
    ///
    /// # Errors
    /// If they are not in time; the error holds what they are.
    pub fn wait_for_ranges(&self, number: usize, wanted: impl Fn(&Range) -> bool) -> Result<()> {
        let mut last = Vec::new();
        let seen = until(PATIENCE, || {
            last = self.ranges(number)?;
            let are_led = last.iter().all(|range| range.state == RangeState::Led);
            Ok((!last.is_empty() && are_led && last.iter().all(&wanted)).then_some(()))
        })?;
        if seen.is_none() {
            bail!("the ranges are not as wanted: {last:#?}\n{}", self.dev.last_output());
        }
        Ok(())
    }

    /// Waits until a node is ready, or is not for a reason with these words.
    ///
    /// # Errors
    /// If that is not so in time; the error holds what it says.
    pub fn wait_for_health(&self, number: usize, code: i32, words: &str) -> Result<()> {
        let address = self.node(number).api.trim_start_matches("http://").to_owned();
        let mut last = String::new();
        let seen = until(PATIENCE, || {
            let outcome = self.place.ratatosk(&["health", "--address", &address], "")?;
            let is_so = outcome.code == Some(code) && outcome.output.contains(words);
            last = outcome.output;
            Ok(is_so.then_some(()))
        })?;
        seen.with_context(|| format!("node {number} says {last:?}\n{}", self.dev.last_output()))
    }

    /// Sends messages by one node until one has come to a subscriber at another.
    ///
    /// # Errors
    /// If none comes in time.
    pub fn deliver(&self, from: usize, to: usize, topic: &str) -> Result<()> {
        let output = self.place.fresh_file("subscriber");
        let mut subscribe = binary::ratatosk()?;
        subscribe.args(["sub", "-h", "127.0.0.1", "-p", &self.node(to).mqtt, "-t", topic]);
        let subscriber = Process::start(subscribe, &output)?;
        let port = self.node(from).mqtt.as_str();
        let publish = ["pub", "-h", "127.0.0.1", "-p", port, "-t", topic, "-m", "hi", "-q", "1"];
        let arrived = until(PATIENCE, || {
            let outcome = self.place.ratatosk(&publish, "")?;
            let is_there = outcome.code == Some(0) && subscriber.output()?.contains("hi");
            Ok(is_there.then_some(()))
        })?;
        arrived.with_context(|| {
            let said = subscriber.last_output();
            format!("nothing came from node {from} to {to}: {said}\n{}", self.dev.last_output())
        })
    }
}

/// What `dev` tells of its nodes.
fn nodes(output: &str) -> Vec<Node> {
    let lines = output.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "mqtt", mqtt, "api", api, "process", process] = words[..] else { return None };
        let (_, port) = mqtt.rsplit_once(':')?;
        Some(Node { mqtt: port.to_owned(), api: api.to_owned(), process: process.to_owned() })
    });
    lines.collect()
}
