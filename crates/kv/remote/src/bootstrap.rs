//! Which cluster a node is in, found out before its store is opened.
//!
//! - A folder that has been a store belongs to its cluster, whatever else is said; a seed that is of another
//!   one is an error.
//! - A node with seeds and without a cluster takes that of whom it meets, and never makes one. KV-017
//! - A node with neither makes a cluster.
//! - With `expect = n`, of `n` nodes that are started at once one makes the cluster and the others join it;
//!   [`council`] says how, and why it is never two.
//!
//! All of it waits, so it is for a thread that may, before anything is served.

pub mod council;

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_cluster::{
    AgentName, Audience, Carriage, Cluster, ClusterId, Event, HostId, KeyRing, RecordError,
    ask_cluster,
};
use ratatosk_store::{Identity, OpenError};

use council::{Council, Message, Pace};

/// How long a seed is given to say in which cluster it is.
const ASK_MAX: Duration = Duration::from_secs(1);
/// How long a node that was in a cluster before waits for somebody of it.
const MEET_MAX: Duration = Duration::from_secs(3);
/// How often the council looks at who is there.
const LOOK: Duration = Duration::from_millis(50);
/// The agents of the council.
const SERVICE: &str = "ratatosk.bootstrap";
const INSTANCE: &str = "1";

/// What is to be found out.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The store's folder.
    pub folder: PathBuf,
    /// The seeds that the host was started with.
    pub seeds: Vec<String>,
    /// How many nodes are started at once, if they are to find out who makes the cluster.
    pub expect: Option<usize>,
    /// The environment and the keys that the host was started with.
    pub environment: String,
    /// See above.
    pub keys: Option<KeyRing>,
    /// How long to wait for an answer.
    pub patience: Duration,
    /// How fast the council is.
    pub pace: Pace,
    /// A random number, for a cluster that is made.
    pub random: u64,
}

/// The cluster of a node.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Belonging {
    /// Which.
    pub cluster: ClusterId,
    /// Whether this node makes it: its store is opened without `join`. Only when that has been written to
    /// disk the host may say so, by [`Cluster::set_cluster_id`].
    pub is_new: bool,
}

/// Nothing is known, and nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] OpenError),
    /// A seed is of another cluster than the folder. KV-017
    #[error(
        "seed {seed} belongs to cluster {theirs}, and the data in {} to cluster {ours}: choose other \
         seeds or another data directory", folder.display()
    )]
    Foreign {
        /// Which seed.
        seed: String,
        /// Its cluster.
        theirs: ClusterId,
        /// The folder's.
        ours: ClusterId,
        /// The folder.
        folder: PathBuf,
    },
    /// Nobody with a cluster was met.
    #[error("no seed answered: {}", said.join("; "))]
    NoSeed {
        /// What became of each.
        said: Vec<String>,
    },
    /// Not as many were met as are expected.
    #[error(
        "{known} of {expect} nodes that are expected have been met, this one included: no cluster was made"
    )]
    Expected {
        /// How many were to be met.
        expect: usize,
        /// How many were.
        known: usize,
    },
    /// The host cannot take part.
    #[error("this host cannot take part in making a cluster: {0}")]
    Agent(#[from] RecordError),
    /// The host has stopped.
    #[error("the host has stopped")]
    Stopped,
}

/// The cluster that a host is to be started with: that of the folder.
///
/// # Errors
/// The folder has an identity that cannot be read.
pub fn cluster_of(folder: &std::path::Path) -> Result<Option<ClusterId>, OpenError> {
    let identity = Identity::of(folder)?;
    Ok(identity.and_then(|identity| ClusterId::from_number(identity.cluster)))
}

/// Finds out which cluster the node of a host is in. The host was started with [`cluster_of`] the folder.
///
/// # Errors
/// See [`JoinError`].
pub fn find(host: &Cluster, clock: SystemClock, wanted: &Wanted) -> Result<Belonging, JoinError> {
    if let Some(ours) = cluster_of(&wanted.folder)? {
        refuse_foreign(ours, wanted)?;
        if !wanted.seeds.is_empty() {
            meet_members(host, clock);
        }
        return Ok(Belonging { cluster: ours, is_new: false });
    }
    let made = || ClusterId::from_number(wanted.random.max(1)).expect("it is not 0");
    match wanted.expect {
        Some(expect) if expect > 1 => meet(host, clock, wanted, expect),
        _ if wanted.seeds.is_empty() => Ok(Belonging { cluster: made(), is_new: true }),
        _ => join(host, clock, wanted),
    }
}

/// Whether a seed says that it is of another cluster. Who does not answer may be about to start.
fn refuse_foreign(ours: ClusterId, wanted: &Wanted) -> Result<(), JoinError> {
    for seed in &wanted.seeds {
        let said = ask_cluster(seed, &wanted.environment, wanted.keys.as_ref(), ASK_MAX);
        if let Ok(Some(theirs)) = said
            && theirs != ours
        {
            let (seed, folder) = (seed.clone(), wanted.folder.clone());
            return Err(JoinError::Foreign { seed, theirs, ours, folder });
        }
    }
    Ok(())
}

/// Waits until the host has met somebody and knows what all whom it has met tell of themselves; not for
/// long, as nobody else may be up.
fn meet_members(host: &Cluster, clock: SystemClock) {
    let (members, deadline) = (host.members(), clock.now() + MEET_MAX);
    let mut seen = 0;
    while let Some((number, met)) = members.wait_newer(seen, deadline.since(clock.now())) {
        if !met.is_empty() && met.iter().all(|member| member.labels.is_some()) {
            return;
        }
        seen = number;
    }
}

/// Waits until the host has met somebody with a cluster.
fn join(host: &Cluster, clock: SystemClock, wanted: &Wanted) -> Result<Belonging, JoinError> {
    let events = host.subscribe();
    let deadline = clock.now() + wanted.patience;
    loop {
        if let Some(cluster) = host.cluster_id() {
            return Ok(Belonging { cluster, is_new: false });
        }
        let left = deadline.since(clock.now());
        if left.is_zero() {
            return Err(JoinError::NoSeed { said: what_seeds_say(wanted) });
        }
        match events.recv_timeout(left) {
            Ok(Event::Adopted(cluster)) => return Ok(Belonging { cluster, is_new: false }),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(JoinError::Stopped),
        }
    }
}

fn what_seeds_say(wanted: &Wanted) -> Vec<String> {
    let say = |seed: &String| {
        let said = ask_cluster(seed, &wanted.environment, wanted.keys.as_ref(), ASK_MAX);
        let said = match said {
            Ok(Some(cluster)) => {
                format!("it is of cluster {cluster}, but its datagrams do not come here")
            }
            Ok(None) => "it has no cluster itself".to_owned(),
            Err(error) => error.to_string(),
        };
        format!("{seed}: {said}")
    };
    wanted.seeds.iter().map(say).collect()
}

/// Takes part in the council until somebody has made the cluster.
fn meet(
    host: &Cluster,
    clock: SystemClock,
    wanted: &Wanted,
    expect: usize,
) -> Result<Belonging, JoinError> {
    let metadata = Bytes::copy_from_slice(&u32::try_from(expect).unwrap_or(u32::MAX).to_be_bytes());
    let agent = host.register(AgentName::new(SERVICE, INSTANCE)?, metadata.clone())?;
    let landscape = host.agents(SERVICE);
    let begun = clock.now();
    let mut council = Council::new(host.host().id, expect, begun, wanted.pace);
    loop {
        if let Some(cluster) = host.cluster_id() {
            return Ok(Belonging { cluster, is_new: false });
        }
        if !host.is_running() {
            return Err(JoinError::Stopped);
        }
        let now = clock.now();
        let (mut known, mut is_agreed) = (vec![council.me()], true);
        for (address, said) in &*landscape.current() {
            known.push(address.host);
            is_agreed &= said.bytes == metadata;
        }
        let known = known.into_iter().collect();
        let mut out = council.look(now, if is_agreed { known } else { [council.me()].into() });
        if let Ok(incoming) = agent.messages().recv_timeout(LOOK)
            && let Some(message) = Message::decode(&incoming.body)
        {
            out.extend(council.hear(clock.now(), incoming.from.host, message));
        }
        send(&agent, out);
        if council.is_maker() {
            let cluster = ClusterId::from_number(wanted.random.max(1)).expect("it is not 0");
            return Ok(Belonging { cluster, is_new: true });
        }
        if is_over(clock.now(), begun, wanted.patience) {
            return Err(JoinError::Expected { expect, known: council.known() });
        }
    }
}

fn is_over(now: Instant, begun: Instant, patience: Duration) -> bool {
    now.since(begun) > patience
}

fn send(agent: &ratatosk_cluster::Agent, messages: Vec<(HostId, Message)>) {
    for (host, message) in messages {
        let Ok(name) = AgentName::new(SERVICE, INSTANCE) else { return };
        let to = Audience::One(ratatosk_cluster::AgentAddress { host, name });
        // Who is gone is asked again if it comes back.
        let _ = agent.send(&to, &message.encode(), Carriage::Stream);
    }
}
