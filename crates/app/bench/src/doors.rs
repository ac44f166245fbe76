//! The nodes of one broker, and at which of them a client is.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::load::Role;

/// Where clients connect: one address, or one of each node of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    addresses: Vec<SocketAddr>,
    /// The publisher and the subscriber of one number are at the same node; otherwise the subscriber is
    /// at the one behind it.
    are_pairs_together: bool,
}

impl Doors {
    /// The broker that answers on `host` and `port`.
    pub(crate) fn new(host: &str, port: u16) -> anyhow::Result<Self> {
        Ok(Self { addresses: vec![resolve(host, port)?], are_pairs_together: false })
    }

    /// Further nodes of it, as `host:port`: clients are spread over all.
    pub(crate) fn add(&mut self, nodes: &[String], are_pairs_together: bool) -> anyhow::Result<()> {
        for node in nodes {
            let parts =
                node.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
            let Some((host, port)) = parts else {
                bail!("{node} is no address of a node: give it as HOST:PORT");
            };
            self.addresses.push(resolve(host, port)?);
        }
        self.are_pairs_together = are_pairs_together;
        Ok(())
    }

    /// The node of a client.
    pub(crate) fn of(&self, role: Role) -> SocketAddr {
        let number = match role {
            Role::Publisher(index) => index,
            Role::Subscriber(index) if self.are_pairs_together => index,
            Role::Subscriber(index) => index + 1,
        };
        self.addresses[number % self.addresses.len()]
    }
}

/// The first address of the name that answers, or the only one.
fn resolve(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("the host name {host:?} cannot be resolved"))?
        .collect();
    if let [only] = addresses[..] {
        return Ok(only);
    }
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, Duration::from_secs(3)) {
            Ok(_) => return Ok(address),
            Err(error) => last = Some((address, error)),
        }
    }
    match last {
        Some((address, error)) => Err(error).with_context(|| format!("connecting to {address}")),
        None => bail!("the host name {host:?} has no address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(doors: &Doors, role: Role) -> u16 {
        doors.of(role).port()
    }

    #[test]
    fn the_two_of_a_pair_are_at_neighbouring_nodes_unless_they_are_to_be_together() {
        let others = ["127.0.0.1:2".to_owned(), "127.0.0.1:3".to_owned()];
        let mut doors = Doors::new("127.0.0.1", 1).expect("an address");
        assert_eq!((port(&doors, Role::Publisher(4)), port(&doors, Role::Subscriber(4))), (1, 1));
        doors.add(&others, false).expect("addresses");
        assert_eq!((port(&doors, Role::Publisher(4)), port(&doors, Role::Subscriber(4))), (2, 3));
        assert_eq!((port(&doors, Role::Publisher(5)), port(&doors, Role::Subscriber(5))), (3, 1));
        doors.are_pairs_together = true;
        assert_eq!((port(&doors, Role::Publisher(5)), port(&doors, Role::Subscriber(5))), (3, 3));
    }

    #[test]
    fn what_is_no_address_is_said() {
        let mut doors = Doors::new("127.0.0.1", 1).expect("an address");
        for node in ["here", "here:", "127.0.0.1:70000"] {
            let error = doors.add(&[node.to_owned()], false).expect_err("no address");
            assert!(error.to_string().contains(node), "{error}");
        }
    }
}
