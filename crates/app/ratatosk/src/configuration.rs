//! The configuration: from file, environment and flags to checked values that remember where they
//! came from.
//!
//! Layers, the later wins: defaults, the file, `RATATOSK_A__B`, flags. What is returned is valid as
//! a whole; what is refused comes with every problem at once, each with its place. Keys are
//! declared in one table (`schema`).

mod build;
mod effective;
mod environment;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod kind;
mod problem;
#[cfg(test)]
mod reference;
mod resolve;
mod schema;
mod tree;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ratatosk_cluster::KeyRing;
use ratatosk_contract::settings::TenantSettings;
use ratatosk_mqtt::transport;
use ratatosk_rpc::Tls;
use ratatosk_telemetry::{ByteCount, log};

use self::build::Builder;
pub(crate) use self::effective::{Effective, Origins, Scope};
pub(crate) use self::problem::Refused;
use self::problem::{Origin, Problem};
use self::resolve::Fields;
use self::tree::Tree;

/// Where the file is looked for unless it is named.
const FILES: [&str; 2] = ["ratatosk.toml", "/etc/ratatosk/ratatosk.toml"];

/// Everything that a node is told.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) data_dir: PathBuf,
    pub(crate) roles: Roles,
    pub(crate) listeners: Vec<Listener>,
    /// Who is let in; opened once, so its files can be read.
    pub(crate) auth: ratatosk_plugin::config::Config,
    pub(crate) admin: ratatosk_admin::Config,
    pub(crate) mqtt: Mqtt,
    /// `None`: the node stands alone.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) limits: Limits,
    /// What the process may use.
    pub(crate) memory_limit: ByteCount,
    /// Tenants with metrics of their own.
    pub(crate) metrics_tenants_max: usize,
    /// What holds for a tenant unless its own settings say otherwise.
    pub(crate) tenant: TenantSettings,
    pub(crate) log: log::Config,
    /// Each key with its value and origin, for people.
    pub(crate) effective: Effective,
}

/// The services of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) mqtt: bool,
    pub(crate) dist: bool,
    pub(crate) inbox: bool,
    pub(crate) retain: bool,
    pub(crate) session_dict: bool,
    pub(crate) admin: bool,
}

impl Roles {
    /// Each with its word.
    pub(crate) fn all(self) -> [(&'static str, bool); 6] {
        [
            ("mqtt", self.mqtt),
            ("dist", self.dist),
            ("inbox", self.inbox),
            ("retain", self.retain),
            ("session-dict", self.session_dict),
            ("admin", self.admin),
        ]
    }

    /// The words of those that it has.
    pub(crate) fn words(self) -> Vec<&'static str> {
        let all = self.all();
        match all.iter().all(|(_, is_on)| *is_on) {
            true => vec!["all"],
            false => all.into_iter().filter_map(|(word, is_on)| is_on.then_some(word)).collect(),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

/// One address that takes MQTT connections.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    /// The layers between socket and MQTT; checked, its files were read once.
    pub(crate) transport: transport::Config,
    /// Clients without credentials are let in here.
    #[cfg_attr(not(test), allow(dead_code))] // What lets clients in asks `auth` itself.
    pub(crate) anonymous: bool,
    /// A failure to listen stops the start. Not so for the default on `[::1]`: the machine may have
    /// no IPv6.
    pub(crate) required: bool,
}

/// The MQTT service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mqtt {
    /// Threads that own connections, at least one.
    pub(crate) shards: usize,
}

/// How a node is one of several.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Nodes with another one are not heard.
    pub(crate) name: String,
    /// Where nodes find each other.
    pub(crate) address: SocketAddr,
    /// Where they call each other.
    pub(crate) calls: SocketAddr,
    /// Where others reach these two, if that is elsewhere.
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) calls_advertise: Option<SocketAddr>,
    /// Nodes to join, each `host:port`.
    pub(crate) join: Vec<String>,
    /// How many are started at once and find out who makes the cluster.
    pub(crate) expect: Option<usize>,
    /// How long to look for a cluster.
    pub(crate) join_timeout: Duration,
    pub(crate) keys: Option<KeyRing>,
    /// Both addresses may be reached by others without protection.
    pub(crate) is_exposed: bool,
    /// What fails together; empty if unknown.
    pub(crate) zone: String,
    /// Certificates of calls.
    pub(crate) tls: Option<Arc<Tls>>,
}

/// Limits of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `None`: unlimited.
    pub(crate) connections_per_second_max: Option<u64>,
    pub(crate) disconnects_per_second_max: u64,
    pub(crate) connect_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
}

/// What the configuration is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// `--config`: this file and no other.
    pub(crate) file: Option<PathBuf>,
    /// The environment; what is not ours in it is ignored.
    pub(crate) variables: Vec<(String, String)>,
    /// Flags that set keys, in their order.
    pub(crate) overrides: Vec<Override>,
}

/// A flag that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// As it is named in messages, without the value: that may be a secret.
    pub(crate) flag: String,
    pub(crate) path: String,
    pub(crate) value: String,
}

impl Configuration {
    /// Reads and checks everything. Blocks on the disk.
    pub(crate) fn load(sources: &Sources) -> Result<Self, Refused> {
        let (fields, problems) = merge(read_file(sources)?, sources)?;
        Builder::new(fields, problems).build()
    }
}

/// The layers over the file's text, to one value a key and what is wrong with single keys.
fn merge(
    file: Option<(PathBuf, String)>,
    sources: &Sources,
) -> Result<(Fields, Vec<Problem>), Refused> {
    let keys = schema::keys();
    let mut tree = Tree::default();
    if let Some((path, text)) = file {
        tree.add_file(&path, &text)?;
    }
    let mut problems = Vec::new();
    environment::add(&mut tree, &keys, &sources.variables, &mut problems);
    for Override { flag, path, value } in &sources.overrides {
        let origin = Origin::Flag { flag: flag.clone() };
        problems.extend(tree.add_untyped(path, value, &origin).err());
    }
    let fields = resolve::resolve(tree, &keys, &mut problems);
    Ok((fields, problems))
}

/// The file that holds, with its text; `None` when there is none and none was asked for.
fn read_file(sources: &Sources) -> Result<Option<(PathBuf, String)>, Refused> {
    let variable = sources.variables.iter().find(|(name, _)| name == environment::CONFIG);
    let named = sources.file.clone().or_else(|| variable.map(|(_, value)| PathBuf::from(value)));
    if let Some(path) = named {
        return match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) => Err(Refused::unreadable(&path, &error)),
        };
    }
    for path in FILES.map(Path::new) {
        match std::fs::read_to_string(path) {
            Ok(text) => return Ok(Some((path.to_path_buf(), text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Refused::unreadable(path, &error)),
        }
    }
    Ok(None)
}

impl Protocol {
    pub(crate) const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

#[cfg(test)]
mod cluster_test;
#[cfg(test)]
#[path = "configuration_test.rs"]
mod tests;
