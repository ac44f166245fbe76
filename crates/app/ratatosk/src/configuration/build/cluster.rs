//! `[cluster]`: whether a node is one of several, and what of that contradicts itself.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ratatosk_cluster::KeyRing;
use ratatosk_rpc::{Tls, TlsMaterial};

use super::{Builder, is_loopback, loopback, to_usize};
use crate::configuration::Cluster;
use crate::configuration::kind::Value;

/// The port where nodes find each other, unless another one is set.
const PORT: u16 = 7883;

impl Builder {
    /// `None`: the node stands alone.
    pub(super) fn cluster(&mut self) -> Option<Cluster> {
        if !self.fields.has_section("cluster") {
            return None;
        }
        let address = self.address("cluster.address").unwrap_or_else(|| loopback(PORT));
        let calls = self.calls_address(address);
        let advertise = self.advertised("cluster.advertise", address);
        let beside = advertise.map(|advertise| SocketAddr::new(advertise.ip(), calls.port()));
        let calls_advertise = self.address("cluster.calls_advertise").or(beside);
        let tls = self.cluster_tls();
        let cluster = Cluster {
            name: self.text("cluster.name").unwrap_or_default(),
            address,
            calls,
            advertise,
            calls_advertise,
            join: self.seeds(address),
            expect: Some(to_usize(self.count("cluster.expect"))).filter(|expect| *expect > 1),
            join_timeout: Duration::from_secs(self.count("cluster.join_timeout_seconds")),
            keys: self.keys(),
            is_exposed: self.flag("cluster.exposed").unwrap_or(false),
            zone: self.text("cluster.zone").unwrap_or_default(),
            tls,
        };
        self.judge_exposure(&cluster);
        Some(cluster)
    }

    fn calls_address(&mut self, address: SocketAddr) -> SocketAddr {
        if let Some(calls) = self.address("cluster.calls_address") {
            if calls == address && calls.port() != 0 {
                self.complain("cluster.calls_address", "is the same as cluster.address");
            }
            return calls;
        }
        let port = match address.port() {
            // A free one.
            0 => Some(0),
            port => port.checked_add(1),
        };
        if port.is_none() {
            let what = "is missing: there is no port after that of cluster.address";
            self.complain("cluster.calls_address", what);
        }
        SocketAddr::new(address.ip(), port.unwrap_or_default())
    }

    fn advertised(&mut self, key: &str, address: SocketAddr) -> Option<SocketAddr> {
        let advertise = self.address(key);
        if advertise.is_none() && address.ip().is_unspecified() {
            let what = format!(
                "is missing: cluster.address is {address}, which is every address of this machine; \
                 set the one by which other nodes reach it"
            );
            self.complain(key, what);
        }
        if advertise.is_some_and(|advertise| advertise.ip().is_unspecified()) {
            self.complain(key, "is no address that others reach");
        }
        advertise
    }

    fn seeds(&mut self, address: SocketAddr) -> Vec<String> {
        let seeds = match self.fields.value("cluster.join") {
            Some(Value::Texts(seeds)) => seeds.clone(),
            _ => return Vec::new(),
        };
        if seeds.len() > ratatosk_cluster::SEED_NAMES_MAX {
            let (count, max) = (seeds.len(), ratatosk_cluster::SEED_NAMES_MAX);
            self.complain("cluster.join", format!("{count} nodes are too many; at most {max}"));
        }
        for seed in &seeds {
            let parts = seed.rsplit_once(':');
            let is_seed = parts.is_some_and(|(name, port)| {
                !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
            });
            if !is_seed {
                self.complain("cluster.join", format!("{seed:?} is no node: write host:port"));
            }
            let is_elsewhere = seed.parse().is_ok_and(|seed: SocketAddr| !is_loopback(seed))
                && is_loopback(address);
            if is_elsewhere {
                let what = format!(
                    "{address} cannot be reached from {seed}, which is to be joined: set the address by \
                     which it reaches this machine"
                );
                self.complain("cluster.address", what);
            }
        }
        seeds
    }

    fn keys(&mut self) -> Option<KeyRing> {
        let path = self.path("cluster.key_file")?;
        let text = self.read("cluster.key_file", &path)?;
        let ring = KeyRing::parse(&String::from_utf8_lossy(&text));
        ring.inspect_err(|error| {
            self.complain("cluster.key_file", format!("{}: {error}", path.display()));
        })
        .ok()
    }

    fn cluster_tls(&mut self) -> Option<Arc<Tls>> {
        if !self.fields.has_section("cluster.tls") {
            return None;
        }
        let [chain, key, authorities] = ["certificate", "key", "ca"].map(|name| {
            let key = format!("cluster.tls.{name}");
            let path = self.required_path(&key);
            self.read(&key, &path).unwrap_or_default()
        });
        if !self.problems.is_empty() {
            return None;
        }
        let material = TlsMaterial { chain: &chain, key: &key, authorities: &authorities };
        let name = self.text("cluster.tls.peer_name").unwrap_or_default();
        let tls = Tls::new(material, &name);
        tls.inspect_err(|error| self.complain("cluster.tls.certificate", error.to_string()))
            .ok()
            .map(Arc::new)
    }

    fn read(&mut self, key: &str, path: &Path) -> Option<Vec<u8>> {
        std::fs::read(path)
            .inspect_err(|error| {
                self.complain(key, format!("cannot read {}: {error}", path.display()));
            })
            .ok()
    }

    /// Who reaches an unprotected address of the cluster may do everything in it.
    fn judge_exposure(&mut self, cluster: &Cluster) {
        if cluster.is_exposed {
            return;
        }
        let remedy = "or allow it knowingly (cluster.exposed = true)";
        if !is_loopback(cluster.address) && cluster.keys.is_none() {
            let what = format!(
                "{} can be reached from other machines and nothing protects it: give the cluster a key \
                 (`openssl rand -hex 32 > cluster.key`, then cluster.key_file = \"cluster.key\", the same on \
                 all nodes), {remedy}",
                cluster.address
            );
            self.complain("cluster.address", what);
        }
        if !is_loopback(cluster.calls) && cluster.tls.is_none() && self.problems.is_empty() {
            let what = format!(
                "{} can be reached from other machines and nothing protects it: give the node a certificate \
                 (cluster.tls.certificate, .key and .ca), {remedy}",
                cluster.calls
            );
            self.complain("cluster.calls_address", what);
        }
    }
}
