//! The servers of one service as a node knows them, and the rules that share out the tenants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::identity::{Group, HostId, ServerId, ServiceName, Version};
use crate::traffic::Rules;

/// One server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRecord {
    /// What it serves.
    pub service: ServiceName,
    /// Its name among the servers of that service.
    pub id: ServerId,
    /// The process that it lives in.
    pub host: HostId,
    /// Where that process listens. `None`: it does not, and only it can call its servers.
    pub address: Option<SocketAddr>,
    /// The groups that it belongs to; none means the default group.
    pub groups: BTreeSet<Group>,
    /// What else its clients may want to know, such as a zone. Opaque here.
    pub attributes: BTreeMap<String, String>,
    /// What it speaks.
    pub version: Version,
}

/// What is known of one service at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landscape {
    /// Its servers, by name.
    pub servers: BTreeMap<ServerId, ServerRecord>,
    /// Which tenants its groups of servers work for.
    pub rules: Rules,
}
