//! The data plane as a service: listeners, shards, and how they stop.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use ratatosk_contract::{
    ShardId,
    relay::{Deliverer, Relay},
};
use tokio::sync::watch;

use crate::{
    Config, NodeStats, Post, Services,
    acceptor::{self, Limits, ListenError, Listener},
    arrivals::Arrivals,
    node::Node,
    shard::{
        mailbox::{Mailbox, Note},
        runner,
    },
};

/// How often whoever stops looks at what is left.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a stop waits for other hosts to take what is on its way: longer than their answers are
/// waited for.
const AWAY_MAX: Duration = Duration::from_secs(1);

/// The data plane before it runs: its mailboxes exist, so that services can be made that reach
/// its sessions.
#[derive(Debug)]
pub struct Mqtt {
    config: Config,
    mailboxes: Arc<[Mailbox]>,
}

/// Why the data plane did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread or a runtime.
    #[error("a thread of the data plane does not start: {0}")]
    Thread(#[from] std::io::Error),
}

impl Mqtt {
    /// Prepares the data plane.
    ///
    /// # Panics
    /// If the number of shards is zero or above [`ShardId::COUNT_MAX`].
    pub fn new(config: Config) -> Self {
        assert!(config.shards > 0, "at least one shard");
        assert!(config.shards <= ShardId::COUNT_MAX, "{} shards are too many", config.shards);
        let mailboxes = (0..config.shards).map(|_| Mailbox::new(config.shards)).collect();
        Mqtt { config, mailboxes }
    }

    /// How services reach the sessions.
    pub fn post(&self) -> Post {
        Post { mailboxes: Arc::clone(&self.mailboxes) }
    }

    /// Opens the listeners and starts the shards. To be called within a runtime, on which the
    /// listeners accept.
    pub fn start(self, services: Services, seed: u64) -> Result<Running, StartError> {
        let mut opened = Vec::new();
        for config in &self.config.listeners {
            match Listener::open(config) {
                Ok(listener) => opened.push(listener),
                Err(error) if config.is_required => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "listener left out"),
            }
        }
        let node = Arc::new(Node::new(services, self.mailboxes, &self.config, seed));
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for index in 0..node.mailboxes.len() {
            let shard = ShardId(u8::try_from(index).expect("at most 64 shards"));
            let (node, stopped) = (Arc::clone(&node), stopped.clone());
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || runner::run(shard, &node, stopped))?;
            threads.push(thread);
        }
        let limits = Limits {
            per_second: self.config.connections_per_second_max,
            count: self.config.connections_max,
        };
        let mut acceptors = tokio::task::JoinSet::new();
        let mut listeners = Vec::new();
        for (socket, listener) in opened {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let listener = Arc::new(listener);
            listeners.push(Arc::clone(&listener));
            acceptors.spawn(acceptor::accept(socket, listener, Arc::clone(&node), limits));
        }
        let disconnects_per_second = self.config.disconnects_per_second;
        Ok(Running { node, stop, threads, acceptors, listeners, disconnects_per_second })
    }
}

/// The data plane at work. Dropping it stops it at once.
pub struct Running {
    node: Arc<Node>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
    acceptors: tokio::task::JoinSet<()>,
    listeners: Vec<Arc<Listener>>,
    disconnects_per_second: u32,
}

impl Running {
    /// Where it listens: name and address, the port as the system gave it.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, std::net::SocketAddr)> {
        self.listeners.iter().map(|listener| (&*listener.name, listener.address))
    }

    /// Who takes what other hosts send to the sessions of this node. It keeps nothing of the data plane
    /// running; what it is given after a stop is dropped.
    pub fn deliverer(&self) -> Arc<dyn Deliverer> {
        Arc::new(Arrivals::new(&self.node))
    }

    /// The counters.
    pub fn stats(&self) -> Arc<NodeStats> {
        Arc::clone(&self.node.stats)
    }

    /// How many connections were refused before a shard saw them.
    pub fn refused(&self) -> u64 {
        self.node.refused.load(Ordering::Relaxed)
    }

    /// Reads certificates and keys anew; those that are wrong stay as they were.
    pub fn reload(&self) -> Vec<anyhow::Error> {
        let reload = |listener: &Arc<Listener>| {
            let result = listener.layers.reload();
            result.err().map(|error| {
                anyhow::Error::new(error)
                    .context(format!("listener {:?} keeps its certificate", &*listener.name))
            })
        };
        self.listeners.iter().filter_map(reload).collect()
    }

    /// The files whose change is worth a reload.
    pub fn watched_files(&self) -> Vec<std::path::PathBuf> {
        self.listeners.iter().flat_map(|listener| listener.layers.watched_files()).collect()
    }

    /// Stops gracefully: no new connections, all sessions are told at a bounded rate, then the
    /// shards end, once what they took over is on its way. Takes no longer than `deadline`; who is left then is cut off. MQTT-015
    pub async fn stop(mut self, deadline: Duration) {
        self.acceptors.shutdown().await;
        let shards = u32::try_from(self.node.mailboxes.len()).unwrap_or(1);
        let per_second = (self.disconnects_per_second / shards).max(1);
        for mailbox in self.node.mailboxes.iter() {
            mailbox.note(Note::Drain { per_second });
        }
        let drained = async {
            while self.node.connections() > 0 || self.node.owed.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            // What was taken over for sessions of other hosts has nobody who brings it again.
            let is_idle = || self.node.relay.as_deref().is_none_or(Relay::is_idle);
            let _ = tokio::time::timeout(AWAY_MAX, async {
                while !is_idle() {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
            })
            .await;
        };
        if tokio::time::timeout(deadline, drained).await.is_err() {
            let left = self.node.connections();
            tracing::warn!(left, "connections are cut off at the end of the grace period");
        }
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}
