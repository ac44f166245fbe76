//! The nodes together: which of them are members, how they are started, who leads.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatosk_admin::cluster::{
    Following, Host, HostState, Range, RangeState, Reach, Standing, Store,
};
use ratatosk_testkit::scratch::Scratch;
use ratatosk_testkit::{binary, ports};
use tokio::time::{Instant, sleep};

use crate::network::Network;
use crate::node::{Addresses, Membership, Node};
use crate::plan::{Ground, Harm, Plan};
use crate::roles::{self, Workload};

/// Ports in a namespace, where nobody else is.
const PORTS: [u16; 4] = [1883, 18083, 7883, 7884];
/// Voters of a range, where there are as many stores.
const VOTERS: usize = 3;
/// Replicas are made and leadership is handed over one range after the other.
const SETTLED_MAX: Duration = Duration::from_secs(120);
const SETTLED_POLL: Duration = Duration::from_millis(250);

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
        let workloads = match (plan.ground, plan.harm) {
            (Ground::Alone, _) => vec![Workload::All],
            (_, Harm::Roles) => roles::NODES.to_vec(),
            _ => vec![Workload::All; plan.nodes],
        };
        for workload in workloads {
            let index = cluster.add()?;
            cluster.nodes[index].workload = workload;
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

    /// Where nodes listen for MQTT, those that do. They are the first ones.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let doors = self.nodes.iter().filter(|node| node.workload.has_clients());
        doors.map(|node| node.addresses.mqtt).collect()
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

    /// What the first node that answers says of the cluster; `None` if it is alone, or none answers.
    async fn view(&self) -> Option<View> {
        if self.ground == Ground::Alone {
            return None;
        }
        for node in self.nodes.iter().filter(|node| node.is_started()) {
            let (Ok(cluster), Ok(ranges)) = (node.get("/cluster").await, node.get("/ranges").await)
            else {
                continue;
            };
            let cluster = serde_json::from_str(&cluster).ok();
            let ranges = serde_json::from_str(&ranges).ok();
            if let (Some(cluster), Some(ranges)) = (cluster, ranges) {
                return Some(View { cluster, ranges });
            }
        }
        None
    }

    /// How many ranges each node leads; `None` where that is not known.
    pub async fn leading(&self) -> Vec<Option<u64>> {
        let view = self.view().await;
        let leads = |node: &Node| {
            let store = view.as_ref()?.store(node)?;
            u64::try_from(store.leads).ok()
        };
        self.nodes.iter().map(leads).collect()
    }

    /// The store of a node, as the cluster has it.
    pub async fn store(&self, index: usize) -> Option<String> {
        let view = self.view().await?;
        view.store(&self.nodes[index]).map(|store| store.id.clone())
    }

    /// Waits until every range has all its replicas, and no store that leads one leads more than one range more than
    /// another one that could, and says how long that took; `None` if there is one node alone.
    ///
    /// # Errors
    /// If a node ends, or it does not come about within two minutes; says what is missing.
    pub async fn settled(&mut self) -> Result<Option<Duration>> {
        let started = Instant::now();
        if self.ground == Ground::Alone {
            return Ok(None);
        }
        loop {
            self.check_alive()?;
            let view = self.view().await;
            // Who knows few of the others sees nothing that is missing.
            let nodes = self.nodes.iter().filter(|node| node.is_started()).count();
            let of_view = |view: View| view.unknown(nodes).or_else(|| view.missing());
            let Some(missing) = view.map_or(Some("nobody says".to_owned()), of_view) else {
                return Ok(Some(started.elapsed()));
            };
            if started.elapsed() > SETTLED_MAX {
                bail!("not all is as it should be {SETTLED_MAX:?} later: {missing}");
            }
            sleep(SETTLED_POLL).await;
        }
    }

    /// Waits until another node says that the store of this one is to become empty, and is.
    ///
    /// # Errors
    /// If a node ends, or it does not come about within two minutes; says what it still has.
    pub async fn emptied(&mut self, index: usize) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let view = self.view().await;
            let store = view.as_ref().and_then(|view| view.any_store(&self.nodes[index]));
            if store.is_some_and(is_empty) {
                return Ok(());
            }
            if started.elapsed() > SETTLED_MAX {
                bail!("a node is not empty {SETTLED_MAX:?} after it was ordered to be: {store:?}");
            }
            sleep(SETTLED_POLL).await;
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

/// The cluster and its ranges, as a node sees them.
#[derive(Clone, Debug)]
struct View {
    cluster: ratatosk_admin::cluster::Cluster,
    ranges: Vec<Range>,
}

impl View {
    /// The store of a node that lives, if it is to have something.
    fn store(&self, node: &Node) -> Option<&Store> {
        let store = self.any_store(node)?;
        self.members().find(|member| member.id == store.id)
    }

    /// The store of a node that lives.
    fn any_store(&self, node: &Node) -> Option<&Store> {
        let is_it =
            |host: &&Host| host.address == node.addresses.gossip && host.state == HostState::Alive;
        let host = self.cluster.hosts.iter().find(is_it)?;
        self.cluster.stores.iter().find(|store| host.stores.contains(&store.id))
    }

    /// The stores that are to have something.
    fn members(&self) -> impl Iterator<Item = &Store> {
        let is_member =
            |store: &&Store| store.reach == Reach::Up && store.standing == Standing::Member;
        self.cluster.stores.iter().filter(is_member)
    }

    /// That not so many stores are known as there are nodes.
    fn unknown(&self, nodes: usize) -> Option<String> {
        let up = self.cluster.stores.iter().filter(|store| store.reach == Reach::Up).count();
        (up < nodes || self.ranges.is_empty())
            .then(|| format!("{up} stores of {nodes} are known to be up"))
    }

    /// What is not as it should be when all is quiet.
    fn missing(&self) -> Option<String> {
        let members: Vec<&Store> = self.members().collect();
        let voters = VOTERS.min(members.len());
        for range in &self.ranges {
            let name = || format!("range {} of {}", range.id, range.keyspace);
            if range.state != RangeState::Led {
                return Some(format!("{} is {:?}", name(), range.state));
            }
            if range.goal.is_some() {
                return Some(format!("{} is on its way", name()));
            }
            let is_up = |id: &String| members.iter().any(|store| store.id == *id);
            let count = range.keepers.voters.iter().filter(|id| is_up(id)).count();
            if count < voters || count < range.keepers.voters.len() {
                return Some(format!("{} has {count} voters that are up", name()));
            }
            let is_behind =
                |(_, following): &(&String, &Following)| **following != Following::CaughtUp;
            if let Some((store, following)) = range.following.iter().find(is_behind) {
                return Some(format!("{} is {following:?} at {store}", name()));
            }
        }
        self.ranges.iter().find_map(|range| {
            let leads = |id: &String| members.iter().find(|it| it.id == *id).map(|it| it.leads);
            let most = leads(&range.leader.as_ref()?.store)?;
            let least = range.keepers.voters.iter().filter_map(leads).min()?;
            let text = || format!("one store leads {most} ranges, another one {least}");
            (most > least + 1).then(text)
        })
    }
}

/// Whether a store that is to become empty has nothing.
fn is_empty(store: &Store) -> bool {
    let is_member = store.standing == Standing::Member;
    !is_member && store.leads == 0 && store.votes == 0 && store.learns == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"{"cluster":"01","name":"chaos","node":{"host":"h1","store":"a","leaving":false},
        "quorum":true,"without_leader":[],"overlapping":[],"clash":null,"hosts":[],"stores":[
        {"id":"a","host":"h1","reach":"up","standing":"member","labels":{},"leads":1,"votes":1,"learns":0},
        {"id":"b","host":"h2","reach":"up","standing":"member","labels":{},"leads":LEADS,"votes":1,"learns":0},
        {"id":"c","host":null,"reach":"away","standing":"member","labels":{},"leads":0,"votes":0,"learns":0}]}"#;
    const RANGES: &str = r#"[{"id":"0c","keyspace":"inbox","keys":{"from":"","to":null},
        "version":{"boundary":1,"config":7},"edition":1,"state":"led",
        "leader":{"store":"b","host":null,"term":9},"keepers":{"voters":[VOTERS],"learners":[]},
        "goal":null,"following":{"b":"caught_up"},"size_bytes":77,"entries_per_second":0}]"#;

    fn missing(leads: &str, voters: &str) -> Option<String> {
        let cluster = serde_json::from_str(&CLUSTER.replace("LEADS", leads)).expect("it is one");
        let ranges =
            serde_json::from_str(&RANGES.replace("VOTERS", voters)).expect("they are some");
        View { cluster, ranges }.missing()
    }

    #[test]
    fn all_is_well_if_every_range_has_its_voters_and_leaders_are_even() {
        assert_eq!(missing("2", r#""a","b""#), None);
        for (leads, voters, said) in [
            ("2", r#""a""#, "has 1 voters"),
            ("2", r#""a","b","c""#, "has 2 voters"),
            ("3", r#""a","b""#, "leads 3 ranges"),
        ] {
            let missing = missing(leads, voters).expect("something is missing");
            assert!(missing.contains(said), "{missing}");
        }
    }
}
