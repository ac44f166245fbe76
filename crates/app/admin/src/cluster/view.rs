//! What is said of a cluster, as it stands in JSON: written by a node, read by its operator's commands.
//!
//! Numbers of stores, ranges and clusters are 16 hexadecimal digits, those of hosts 32. A reader passes over
//! fields that it does not know.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A cluster, as one of its nodes sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its number, once there is one.
    pub cluster: Option<String>,
    /// Its name: `cluster.name`.
    pub name: String,
    /// Who says this.
    pub node: Node,
    /// Whether every range that this node knows is led.
    pub quorum: bool,
    /// The ranges that are not, with their keyspaces.
    pub without_leader: Vec<String>,
    /// The ranges that have too few voters on stores with the role for them, each with how many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub under_replicated: Vec<String>,
    /// Pairs of ranges that overlap in doubt: an operator has to look.
    pub overlapping: Vec<String>,
    /// Another process that has this node's store, if there is one.
    pub clash: Option<String>,
    /// The hosts that count as alive.
    pub hosts: Vec<Host>,
    /// The stores that are known, also those that do not answer.
    pub stores: Vec<Store>,
}

/// The node that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its host.
    pub host: String,
    /// Its store, while that is served.
    pub store: Option<String>,
    /// Whether it was ordered to leave.
    pub leaving: bool,
}

/// A process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// New at each start.
    pub id: String,
    /// Where it hears of others: `cluster.address`.
    pub address: SocketAddr,
    /// Where it is called: `cluster.calls_address`.
    pub calls: Option<SocketAddr>,
    /// Whether it answers.
    pub state: HostState,
    /// What fails together with it; empty if unknown.
    pub zone: String,
    /// Its build; empty if unknown.
    pub version: String,
    /// The stores that it serves.
    pub stores: Vec<String>,
}

/// Whether a host answers. One that is dead is not listed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// It does.
    Alive,
    /// Somebody did not reach it, and it has not refuted that.
    Suspect,
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Its number; it belongs to its data directory.
    pub id: String,
    /// The host that serves it, as far as that is known.
    pub host: Option<String>,
    /// Whether it answers.
    pub reach: Reach,
    /// For how long it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away_seconds: Option<u64>,
    /// Whether it is to have anything.
    pub standing: Standing,
    /// Where it stands.
    pub labels: BTreeMap<String, String>,
    /// Ranges that it leads.
    pub leads: usize,
    /// Ranges that it has a vote in.
    pub votes: usize,
    /// Ranges that it learns of without a vote.
    pub learns: usize,
    /// Of what it is to give up, what does not move by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<Stuck>,
}

/// Whether a store answers.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// It does.
    Up,
    /// It does not.
    Away,
}

/// Whether a store is to have anything.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is.
    Member,
    /// It is to become empty.
    Draining,
    /// It was given up.
    GivenUp,
}

/// A range that does not leave a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Which.
    pub range: String,
    /// Why not.
    pub why: String,
}

/// A range of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The number of its group.
    pub id: String,
    /// What it is a part of.
    pub keyspace: String,
    /// Its keys.
    pub keys: Bounds,
    /// Its version.
    pub version: Version,
    /// Which commands it takes.
    pub edition: u64,
    /// What can be said of it.
    pub state: RangeState,
    /// Who leads it, if anybody is known to.
    pub leader: Option<Leader>,
    /// Who keeps it.
    pub keepers: Keepers,
    /// Who is to keep it, if that is not who does.
    pub goal: Option<Keepers>,
    /// That too few stores with the role for it vote, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_replicated: Option<UnderReplicated>,
    /// How far the others are, by its leader.
    pub following: BTreeMap<String, Following>,
    /// Bytes of its data, by its leader.
    pub size_bytes: Option<u64>,
    /// Entries that were applied a second as of late, by its leader.
    pub entries_per_second: Option<u64>,
}

/// Votes in a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderReplicated {
    /// Of stores that have the role for it, and are not lost.
    pub voters: usize,
    /// Wanted.
    pub wanted: usize,
}

/// Keys from one on, up to another, as text: bytes that are no printable ASCII, and `\`, are `\xNN`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The first one; empty is below all.
    pub from: String,
    /// The one behind the last; none is above all.
    pub to: Option<String>,
}

/// The version of a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Rises with splits and merges.
    pub boundary: u64,
    /// Rises with changes of members.
    pub config: u64,
}

/// What can be said of a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeState {
    /// It is led.
    Led,
    /// Nobody is known to lead it: it takes nothing.
    Leaderless,
    /// Others have its keys; what is left of it goes by itself.
    Superseded,
    /// It overlaps another one: an operator has to look.
    InDoubt,
}

/// Who leads a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its store.
    pub store: String,
    /// The host that serves that.
    pub host: Option<String>,
    /// Its term.
    pub term: u64,
}

/// Stores that keep a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepers {
    /// With a vote.
    pub voters: Vec<String>,
    /// Without.
    pub learners: Vec<String>,
}

impl Keepers {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.voters.iter().chain(&self.learners).map(String::as_str)
    }
}

/// How far a replica is.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Following {
    /// It has what its leader has.
    CaughtUp,
    /// It is sent what it lacks.
    Lagging,
    /// It is sent all the data.
    Snapshot,
    /// It does not answer.
    Silent,
}

/// What bringing a range back would come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The range.
    pub range: String,
    /// What it is a part of.
    pub keyspace: String,
    /// Its keys.
    pub keys: Bounds,
    /// The store that would go on alone: of those that are up, the one that has most.
    pub survivor: String,
    /// The term of the last entry that it has.
    pub log_term: u64,
    /// The index of that.
    pub log_index: u64,
    /// Stores with a vote that do not answer. What they alone have is lost.
    pub lost: Vec<String>,
}

/// What became of a range that was to be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The range.
    pub range: String,
    /// The store that goes on.
    pub survivor: String,
    /// Why it does not, or may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
