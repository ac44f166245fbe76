//! The services of a node and what they stand on: a store alone, or a store among those of other nodes.
//!
//! The one place that chooses which implementation stands behind each contract.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ratatosk_clock::SystemClock;
use ratatosk_contract::inbox::Inbox;
use ratatosk_contract::relay::Relay;
use ratatosk_contract::retain::RetainLimits;
use ratatosk_contract::session_dict::SessionDict;
use ratatosk_dist::DistService;
use ratatosk_inbox::{InboxService, Repaired};
use ratatosk_mqtt::Post;
use ratatosk_retain::RetainService;
use ratatosk_session_dict::DictService;
use ratatosk_store::node::Handle;
use ratatosk_telemetry::memory::Accountant;
use ratatosk_telemetry::metric::Registry;
use tokio::sync::oneshot;

use crate::cluster::{Joined, Member};
use crate::configuration::{Cluster, Configuration};
use crate::metrics;
use crate::store::{Space, Store};

/// What to do when a part of the store opens and cannot be read.
const UNREADABLE: &str =
    "restore the data from a backup, or have `ratatosk recover` set aside what is damaged";

/// What there is before the services.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) configuration: Configuration,
    pub(crate) registry: Registry,
    pub(crate) accountant: Accountant,
    pub(crate) clock: SystemClock,
    /// The way to the sessions of this node.
    pub(crate) post: Post,
}

/// The services.
pub(crate) struct Made {
    pub(crate) dist: Arc<DistService>,
    /// The persistent sessions that are served here.
    pub(crate) inbox: Arc<InboxService>,
    /// All, wherever they are served.
    pub(crate) sessions: Arc<dyn Inbox>,
    pub(crate) retain: Arc<RetainService>,
    pub(crate) directory: Arc<dyn SessionDict>,
    pub(crate) relay: Option<Arc<dyn Relay>>,
    pub(crate) ground: Ground,
    /// Told when the store can go on no more.
    pub(crate) failure: oneshot::Receiver<String>,
}

/// What they stand on.
pub(crate) enum Ground {
    /// A store alone.
    Alone(Store),
    /// A node among others.
    Among(Box<Member>),
}

impl Made {
    /// Makes all of it. Nothing is left running if it fails. A node that joins others waits for them; who does
    /// not want to wait any longer drops this, and lets the process end.
    pub(crate) async fn new(base: &Base) -> anyhow::Result<Self> {
        match base.configuration.cluster.clone() {
            None => alone(base),
            Some(cluster) => among(base.clone(), cluster).await,
        }
    }
}

impl Ground {
    /// A way to the store.
    pub(crate) fn store(&self) -> Handle {
        match self {
            Self::Alone(store) => store.handle(),
            Self::Among(member) => member.node().handle(),
        }
    }

    /// Finishes what was begun. Others lead then what was led here, if that is possible until the deadline.
    pub(crate) async fn close(self, deadline: Duration) {
        match self {
            Self::Alone(store) => store.close(),
            Self::Among(member) => {
                waiting("leave", move || member.leave(deadline)).await;
            }
        }
    }
}

/// Alone, with what is stored read back before anybody is let in.
fn alone(base: &Base) -> anyhow::Result<Made> {
    let Base { configuration, registry, accountant, clock, post } = base;
    let (store, failure) =
        Store::open(&configuration.data_dir, configuration.memory_limit, *clock)?;
    let dist = Arc::new(DistService::new().kept_in(store.keyspace(Space::Dist)));
    let sessions = Arc::new(post.clone());
    let inbox = InboxService::new(dist.clone(), sessions.clone())
        .charged_to(accountant)
        .kept_in(store.keyspace(Space::Inbox), clock.epoch());
    let retain = RetainService::new(RetainLimits::default()).charged_to(accountant).kept_in(
        store.keyspace(Space::Retain),
        sessions,
        clock.epoch(),
    );
    // Routes first: the sessions correct them.
    dist.restore().context(format!("routes cannot be read: {UNREADABLE}"))?;
    let repaired = inbox
        .restore(clock.now())
        .context(format!("persistent sessions cannot be read: {UNREADABLE}"))?;
    if repaired != Repaired::default() {
        let Repaired { added, removed } = repaired;
        tracing::info!(added, removed, "routes were not as the sessions have them: corrected");
    }
    retain.restore().context(format!("retained messages cannot be read: {UNREADABLE}"))?;
    let (inbox, directory) = (Arc::new(inbox), Arc::new(DictService::new()));
    metrics::register_directory(registry, &directory);
    Ok(Made {
        dist,
        sessions: inbox.clone(),
        inbox,
        retain: Arc::new(retain),
        directory,
        relay: None,
        ground: Ground::Alone(store),
        failure,
    })
}

/// Among others.
async fn among(base: Base, cluster: Cluster) -> anyhow::Result<Made> {
    let joined = waiting("join", move || Member::join(&base, &cluster)).await;
    let Joined { member, dist, inbox, retain, failure } =
        joined.context("the start was given up")??;
    member.come_to_know().await;
    Ok(Made {
        dist,
        inbox,
        sessions: Arc::new(member.inbox().clone()),
        retain,
        directory: Arc::new(member.directory().clone()),
        relay: Some(Arc::new(member.relay().clone())),
        ground: Ground::Among(Box::new(member)),
        failure,
    })
}

/// Has something done on a thread that may wait; `None` if it panicked, which was told already.
async fn waiting<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, is_done) = oneshot::channel();
    let work = move || {
        // Who does not wait for it any longer lets the process end.
        let _ = done.send(work());
    };
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::error!(%error, "cannot start a thread");
        return None;
    }
    is_done.await.ok()
}
