//! The node's store: one for all services that keep something.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use ratatosk_client::{Keyspace, Pipe, Reigns};
use ratatosk_clock::SystemClock;
use ratatosk_dist::{DistCoprocessor, DistService, RouteDivision};
use ratatosk_engine::Error as EngineError;
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_remote::node as remote;
use ratatosk_retain::{RetainCoprocessor, RetainDivision, RetainService};
use ratatosk_store::OpenError;
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces};
use ratatosk_store::node::{Config, Handle, Node};
use ratatosk_store::recover::{self, Recovered};
use ratatosk_store::transport::Nobody;
use ratatosk_telemetry::ByteCount;
use tokio::sync::oneshot;

use crate::configuration::Configuration;

/// The folder below the data directory.
const FOLDER: &str = "store";
/// A checkpoint is made this often: what was consumed meanwhile never reaches the disk but in the
/// log, and a restart applies what came since.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3);
/// Or as soon as so much was applied, or a sixteenth of the memory.
const CHECKPOINT_BYTES_MAX: u64 = 64 << 20;
/// The engine's blocks in memory: a sixteenth of it, within bounds.
const CACHE_BYTES_MIN: u64 = 4 << 20;
const CACHE_BYTES_MAX: u64 = 256 << 20;

/// Told why the node can go on no more.
pub(crate) type OnFailure = Arc<dyn Fn(&str) + Send + Sync>;

/// An open store.
pub(crate) struct Store {
    node: Node,
    clock: SystemClock,
}

/// Which keyspace.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Dist,
    Inbox,
    Retain,
}

impl Space {
    pub(crate) const ALL: [Self; 3] = [Self::Dist, Self::Inbox, Self::Retain];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dist => "dist.route",
            Self::Inbox => "inbox.session",
            Self::Retain => "retain.message",
        }
    }

    /// Where the node stands alone.
    fn coprocessor(self) -> Box<dyn Coprocessor> {
        match self {
            Self::Dist => Box::<DistCoprocessor>::default(),
            Self::Inbox => Box::<InboxCoprocessor>::default(),
            Self::Retain => Box::<RetainCoprocessor>::default(),
        }
    }

    /// With what carries its commands out. Every node matches by the routes that it has.
    fn keyspaces(coprocessors: Vec<(Self, Factory)>) -> Keyspaces {
        let named = |(space, factory): (Self, Factory)| (space.name().to_owned(), factory);
        Keyspaces::new(coprocessors.into_iter().map(named).collect())
            .served_by_replicas(Self::Dist.name())
    }
}

/// What a store is like, wherever it is one of.
struct Shape {
    folder: PathBuf,
    cache_bytes: u64,
    checkpoint_bytes: usize,
}

impl Shape {
    fn new(data_dir: &Path, memory_limit: ByteCount) -> Self {
        let share = memory_limit.bytes() / 16;
        let checkpoint_bytes = share.min(CHECKPOINT_BYTES_MAX);
        Self {
            folder: data_dir.join(FOLDER),
            cache_bytes: share.clamp(CACHE_BYTES_MIN, CACHE_BYTES_MAX),
            checkpoint_bytes: usize::try_from(checkpoint_bytes).unwrap_or(usize::MAX),
        }
    }
}

/// A way to tell why the node can go on no more, and where it is told: the process has to end then. The first
/// reason counts.
pub(crate) fn failure() -> (OnFailure, oneshot::Receiver<String>) {
    let (told, failure) = oneshot::channel();
    let told = Mutex::new(Some(told));
    let on_failure = move |reason: &str| {
        if let Some(told) = told.lock().take() {
            // Nobody listens any more: the process ends already.
            let _ = told.send(reason.to_owned());
        }
    };
    (Arc::new(on_failure), failure)
}

/// The same for a store.
fn of_store(on_failure: OnFailure) -> Box<dyn Fn(&str) + Send + Sync> {
    Box::new(move |reason| on_failure(&format!("the store cannot go on: {reason}")))
}

impl Store {
    /// Opens the store below a data directory, or makes one, of a node that stands alone. The receiver is
    /// told when it can go on no more.
    pub(crate) fn open(
        data_dir: &Path,
        memory_limit: ByteCount,
        clock: SystemClock,
    ) -> anyhow::Result<(Self, oneshot::Receiver<String>)> {
        let (on_failure, failure) = failure();
        let node = Node::open(alone(data_dir, memory_limit, random()?, of_store(on_failure)))?;
        Ok((Self { node, clock }, failure))
    }

    /// A service's way to its data.
    pub(crate) fn keyspace(&self, space: Space) -> Arc<dyn Keyspace> {
        let (ranges, name) = (Box::new(self.node.handle()), space.name());
        Arc::new(match space {
            Space::Dist => Pipe::dividing(ranges, name, RouteDivision, self.clock),
            Space::Inbox => Pipe::new(ranges, name, self.clock),
            Space::Retain => Pipe::dividing(ranges, name, RetainDivision, self.clock),
        })
    }

    /// A way to it for metrics.
    pub(crate) fn handle(&self) -> Handle {
        self.node.handle()
    }

    /// Finishes what was begun, and makes a last checkpoint.
    pub(crate) fn close(self) {
        self.node.stop();
    }
}

/// Whom the ranges of a store feed that is one of several.
pub(crate) struct Among<'a> {
    pub(crate) dist: &'a Arc<DistService>,
    pub(crate) retain: &'a Arc<RetainService>,
    pub(crate) reigns: &'a Reigns,
}

impl Among<'_> {
    /// The store of a node among others. It can have everything, whatever the roles of the node: who makes the
    /// cluster has all of it until those are there that are to, and what a role was taken from goes step by step.
    pub(crate) fn config(
        &self,
        configuration: &Configuration,
        on_failure: OnFailure,
    ) -> remote::Store {
        let shape = Shape::new(&configuration.data_dir, configuration.memory_limit);
        let (dist, hook) = (Arc::downgrade(self.dist), self.reigns.hook());
        let routes: Factory = Box::new(move || Box::new(DistCoprocessor::feeding(&dist)));
        let retain = Arc::downgrade(self.retain);
        let messages: Factory = Box::new(move || Box::new(RetainCoprocessor::feeding(&retain)));
        let sessions: Factory =
            Box::new(move || Box::new(InboxCoprocessor::reigning(hook.clone())));
        let coprocessors =
            vec![(Space::Dist, routes), (Space::Retain, messages), (Space::Inbox, sessions)];
        remote::Store {
            folder: shape.folder,
            // Clients read what their node has.
            keyspaces: Space::keyspaces(coprocessors).served_by_replicas(Space::Retain.name()),
            cache_bytes: shape.cache_bytes,
            checkpoint_interval: CHECKPOINT_INTERVAL,
            checkpoint_bytes: shape.checkpoint_bytes,
            on_failure: of_store(on_failure),
        }
    }
}

/// Sees that the store below a data directory opens, and sets aside what keeps it from that.
pub(crate) fn recover(data_dir: &Path, memory_limit: ByteCount) -> anyhow::Result<Recovered> {
    let random = random()?;
    let make = || alone(data_dir, memory_limit, random, Box::new(|_| {}));
    Ok(recover::recover(&make)?)
}

fn random() -> anyhow::Result<[u64; 2]> {
    let random = || super::broker::random().context("the system gives no random numbers");
    Ok([random()?, random()?])
}

fn alone(
    data_dir: &Path,
    memory_limit: ByteCount,
    random: [u64; 2],
    on_failure: Box<dyn Fn(&str) + Send + Sync>,
) -> Config {
    let shape = Shape::new(data_dir, memory_limit);
    let factory =
        |space: Space| -> (Space, Factory) { (space, Box::new(move || space.coprocessor())) };
    Config {
        folder: shape.folder,
        keyspaces: Space::keyspaces(Space::ALL.map(factory).into()),
        cache_bytes: shape.cache_bytes,
        checkpoint_interval: CHECKPOINT_INTERVAL,
        checkpoint_bytes: shape.checkpoint_bytes,
        random,
        join: None,
        transport: Arc::new(Nobody),
        on_failure,
    }
}

/// Whether the operator has to see to the data before a start can work. Exit code 4. A folder that
/// another process uses is none of it: that one may be about to end.
pub(crate) fn needs_operator(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let is_open = cause
            .downcast_ref::<OpenError>()
            .is_some_and(|open| !matches!(open, OpenError::Locked { .. }));
        // What a service cannot read of what is its own.
        is_open || cause.is::<EngineError>()
    })
}
