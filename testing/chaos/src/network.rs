//! Network namespaces: one for each node, one for all clients with the bridge that joins them.
//!
//! A packet from one node to another is lost by giving the sender a wrong hardware address for it:
//! no error is seen anywhere, open connections and datagrams alike just fall silent, in one direction.
//! A node is cut off from everybody by taking its port of the bridge down. Neither needs a packet
//! filter. Nothing of it touches the machine's own network: the bridge is in the clients' namespace.
//!
//! Names hold the number of the process that made them; what processes that are gone have left
//! behind is removed before another network is made.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PREFIX: &str = "ratatosk-chaos-";
/// Where `ip netns` keeps them.
const FOLDER: &str = "/var/run/netns";
const BRIDGE: &str = "bridge";
/// A node's end of its wire.
const WIRE: &str = "wire";
/// Nobody's.
const NOWHERE: &str = "02:de:ad:00:00:00";
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
const HOSTS_MAX: u8 = 100;

/// The namespaces; gone when it is dropped.
#[derive(Debug)]
pub struct Network {
    hub: String,
    hosts: Vec<Host>,
}

/// A namespace for a node.
#[derive(Clone, Debug)]
struct Host {
    namespace: String,
    address: Ipv4Addr,
}

impl Network {
    /// A bridge with the clients' address.
    ///
    /// # Errors
    /// If this process may not make namespaces, or has no `ip`.
    pub fn new() -> Result<Network> {
        remove_leftovers()?;
        let hub = format!("{PREFIX}{}-clients", std::process::id());
        ip(&["netns", "add", &hub]).context("network namespaces take root and `ip`")?;
        let network = Network { hub, hosts: Vec::new() };
        let hub = &network.hub;
        ip(&["-n", hub, "link", "set", "lo", "up"])?;
        ip(&["-n", hub, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", hub, "address", "add", &format!("{CLIENTS}/24"), "dev", BRIDGE])?;
        ip(&["-n", hub, "link", "set", BRIDGE, "up"])?;
        Ok(network)
    }

    /// Another namespace on the bridge. Gives its number, from 0.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn add_host(&mut self) -> Result<usize> {
        let index = self.hosts.len();
        let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
        ensure!(number <= HOSTS_MAX, "there are {HOSTS_MAX} hosts already");
        let namespace = format!("{PREFIX}{}-{number}", std::process::id());
        let address = Ipv4Addr::new(10, 77, 0, number);
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(Host { namespace: namespace.clone(), address });
        let (hub, port) = (self.hub.as_str(), port(index));
        let wire = ["type", "veth", "peer", "name", WIRE, "netns", &namespace];
        ip(&[&["-n", hub, "link", "add", &port], &wire[..]].concat())?;
        ip(&["-n", hub, "link", "set", &port, "master", BRIDGE, "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", WIRE])?;
        ip(&["-n", &namespace, "link", "set", WIRE, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(index)
    }

    /// The address of a host.
    #[must_use]
    pub fn address(&self, host: usize) -> Ipv4Addr {
        self.hosts[host].address
    }

    /// The calling thread, and those that it starts, are where the clients are from here on.
    ///
    /// # Errors
    /// If this process may not.
    pub fn enter(&self) -> Result<()> {
        let path = Path::new(FOLDER).join(&self.hub);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(file.as_fd(), kind).context("entering a network namespace")
    }

    /// The same command, to be run in a host's namespace; it is the process that `spawn` starts.
    #[must_use]
    pub fn command(&self, host: usize, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.hosts[host].namespace]);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }

    /// From now on nothing that one host sends to the other arrives.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        let (namespace, to) = (&self.hosts[from].namespace, self.hosts[to].address.to_string());
        let entry =
            ["neighbour", "replace", &to, "lladdr", NOWHERE, "dev", WIRE, "nud", "permanent"];
        ip(&[&["-n", namespace.as_str()], &entry[..]].concat())
    }

    /// What one host sends to the other arrives again.
    ///
    /// # Errors
    /// If it was not cut.
    pub fn mend(&self, from: usize, to: usize) -> Result<()> {
        let (namespace, to) = (&self.hosts[from].namespace, self.hosts[to].address.to_string());
        ip(&["-n", namespace, "neighbour", "delete", &to, "dev", WIRE])
    }

    /// From now on nothing comes to a host, and nothing from it arrives.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn unplug(&self, host: usize) -> Result<()> {
        ip(&["-n", &self.hub, "link", "set", &port(host), "down"])
    }

    /// A host is on the bridge again.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn plug(&self, host: usize) -> Result<()> {
        ip(&["-n", &self.hub, "link", "set", &port(host), "up"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let namespaces = self.hosts.iter().map(|host| &host.namespace).chain([&self.hub]);
        for namespace in namespaces {
            if let Err(error) = remove(namespace) {
                eprintln!("{namespace} stays: {error:#}");
            }
        }
    }
}

/// The bridge's end of a host's wire.
fn port(host: usize) -> String {
    format!("port{}", host + 1)
}

/// Removes what processes have left behind that are gone: they were killed.
fn remove_leftovers() -> Result<()> {
    for namespace in owned(&ip_output(&["netns", "list"])?) {
        let Some(owner) = owner(namespace) else { continue };
        if !Path::new("/proc").join(owner.to_string()).exists() {
            remove(namespace)?;
        }
    }
    Ok(())
}

/// The namespaces of this program in a listing.
fn owned(listing: &str) -> Vec<&str> {
    let names = listing.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

/// The process that made a namespace.
fn owner(namespace: &str) -> Option<u32> {
    namespace.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Ends who is in a namespace, and removes it; its wires go with it.
fn remove(namespace: &str) -> Result<()> {
    for process in ip_output(&["netns", "pids", namespace])?.split_whitespace() {
        // Who is gone already is as good.
        let _ = Command::new("kill").args(["-KILL", process]).stderr(Stdio::null()).status();
    }
    ip(&["netns", "delete", namespace])
}

fn ip(arguments: &[&str]) -> Result<()> {
    ip_output(arguments).map(|_| ())
}

fn ip_output(arguments: &[&str]) -> Result<String> {
    let shown = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).output();
    let output = output.with_context(|| format!("running {}", shown()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", shown(), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_this_program_are_taken_for_leftovers() {
        let listing = "other\nratatosk-chaos-71-clients (id: 3)\nratatosk-chaos-71-2\n";
        let names = owned(listing);
        assert_eq!(names, ["ratatosk-chaos-71-clients", "ratatosk-chaos-71-2"]);
        assert_eq!(names.iter().filter_map(|name| owner(name)).collect::<Vec<_>>(), [71, 71]);
        assert_eq!(owner("ratatosk-chaos-x-1"), None);
    }
}
