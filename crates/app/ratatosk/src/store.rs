//! The node's store: one for all services that keep something.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use ratatosk_client::{Keyspace, Pipe};
use ratatosk_clock::SystemClock;
use ratatosk_dist::{DistCoprocessor, RouteDivision};
use ratatosk_engine::Error as EngineError;
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_retain::RetainCoprocessor;
use ratatosk_store::OpenError;
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces};
use ratatosk_store::node::{Config, Handle, Node};
use ratatosk_store::recover::{self, Recovered};
use ratatosk_store::transport::Nobody;
use ratatosk_telemetry::ByteCount;
use tokio::sync::oneshot;

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
    const ALL: [Self; 3] = [Self::Dist, Self::Inbox, Self::Retain];

    fn name(self) -> &'static str {
        match self {
            Self::Dist => "dist.route",
            Self::Inbox => "inbox.session",
            Self::Retain => "retain.message",
        }
    }

    fn coprocessor(self) -> Box<dyn Coprocessor> {
        match self {
            Self::Dist => Box::<DistCoprocessor>::default(),
            Self::Inbox => Box::<InboxCoprocessor>::default(),
            Self::Retain => Box::<RetainCoprocessor>::default(),
        }
    }
}

/// A keyspace's name, with what carries its commands out.
fn keyspace(space: Space) -> (String, Factory) {
    (space.name().to_owned(), Box::new(move || space.coprocessor()))
}

impl Store {
    /// Opens the store below a data directory, or makes one. The receiver is told when it can go on
    /// no more: the process has to end then.
    pub(crate) fn open(
        data_dir: &Path,
        memory_limit: ByteCount,
        clock: SystemClock,
    ) -> anyhow::Result<(Self, oneshot::Receiver<String>)> {
        let (told, failure) = oneshot::channel();
        let told = Mutex::new(Some(told));
        let on_failure = move |reason: &str| {
            if let Some(told) = told.lock().take() {
                // Nobody listens any more: the process ends already.
                let _ = told.send(reason.to_owned());
            }
        };
        let random = || super::broker::random().context("the system gives no random numbers");
        let random = [random()?, random()?];
        let node = Node::open(config(data_dir, memory_limit, random, Box::new(on_failure)))?;
        Ok((Self { node, clock }, failure))
    }

    /// A service's way to its data.
    pub(crate) fn keyspace(&self, space: Space) -> Arc<dyn Keyspace> {
        let (ranges, name) = (Box::new(self.node.handle()), space.name());
        Arc::new(match space {
            Space::Dist => Pipe::dividing(ranges, name, RouteDivision, self.clock),
            Space::Inbox | Space::Retain => Pipe::new(ranges, name, self.clock),
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

/// Sees that the store below a data directory opens, and sets aside what keeps it from that.
pub(crate) fn recover(data_dir: &Path, memory_limit: ByteCount) -> anyhow::Result<Recovered> {
    let random = || super::broker::random().context("the system gives no random numbers");
    let random = [random()?, random()?];
    let make = || config(data_dir, memory_limit, random, Box::new(|_| {}));
    Ok(recover::recover(&make)?)
}

fn config(
    data_dir: &Path,
    memory_limit: ByteCount,
    random: [u64; 2],
    on_failure: Box<dyn Fn(&str) + Send + Sync>,
) -> Config {
    let share = memory_limit.bytes() / 16;
    let checkpoint_bytes = share.min(CHECKPOINT_BYTES_MAX);
    Config {
        folder: data_dir.join(FOLDER),
        // Every node matches by the routes that it has.
        keyspaces: Keyspaces::new(Space::ALL.map(keyspace).into())
            .served_by_replicas(Space::Dist.name()),
        cache_bytes: share.clamp(CACHE_BYTES_MIN, CACHE_BYTES_MAX),
        checkpoint_interval: CHECKPOINT_INTERVAL,
        checkpoint_bytes: usize::try_from(checkpoint_bytes).unwrap_or(usize::MAX),
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
