//! Listening, and giving each connection to the shard that has the fewest.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ratatosk_telemetry::memory::Pressure;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{ListenerConfig, node::Node, shard::mailbox::Note, transport::Layers};

/// How many connections the kernel holds for us.
const BACKLOG: i32 = 4096;
/// How long accepting rests after an error that is not one connection's own.
const ERROR_REST: Duration = Duration::from_millis(100);

/// A listener that is open.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
    pub(crate) layers: Layers,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<Listener>,
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the port, or the address is not this host's.
    #[error("listener {name:?} cannot listen on {address}: {source}{}", hint(source, *address))]
    Bind {
        /// The listener.
        name: String,
        /// Where it wanted to listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Certificates or keys.
    #[error("listener {name:?}: {source}")]
    Layers {
        /// The listener.
        name: String,
        /// What is wrong.
        source: crate::transport::ConfigError,
    },
}

fn hint(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; another program uses port {}: stop it, or choose another port under [[listener]]",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => {
            "; this host has no such address: use one of its own, or 0.0.0.0 for all".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose a higher one".to_owned()
        }
        _ => String::new(),
    }
}

impl Listener {
    /// Opens a listener.
    pub(crate) fn open(config: &ListenerConfig) -> Result<(TcpListener, Listener), ListenError> {
        let bind = |source| ListenError::Bind {
            name: config.name.clone(),
            address: config.address,
            source,
        };
        let layers = Layers::open(&config.layers)
            .map_err(|source| ListenError::Layers { name: config.name.clone(), source })?;
        let socket = listen(config.address).map_err(bind)?;
        let address = socket.local_addr().map_err(bind)?;
        Ok((socket, Listener { name: config.name.as_str().into(), address, layers }))
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // [::] and 0.0.0.0 are two listeners, so that each can be chosen.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the task is dropped.
pub(crate) async fn accept(
    socket: tokio::net::TcpListener,
    listener: Arc<Listener>,
    node: Arc<Node>,
    limits: Limits,
) {
    let mut gate = Gate { limits, second: 0, taken: 0 };
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                if let Err(why) = gate.admit(&node) {
                    node.refuse(why);
                    continue;
                }
                let stream = stream.into_std().and_then(|stream| {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                });
                let Ok(stream) = stream else { continue };
                let listener = Arc::clone(&listener);
                node.give(Accepted { stream, peer, listener });
            }
            // The connection was gone before it was taken.
            Err(error) if is_own(&error) => {}
            Err(error) => {
                tracing::warn!(listener = &*listener.name, %error, "accepting rests for a moment");
                tokio::time::sleep(ERROR_REST).await;
            }
        }
    }
}

fn is_own(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// How many connections are let in.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) per_second: Option<u32>,
    pub(crate) count: Option<usize>,
}

struct Gate {
    limits: Limits,
    second: u64,
    taken: u32,
}

impl Gate {
    /// MQTT-011
    fn admit(&mut self, node: &Node) -> Result<(), &'static str> {
        if node.memory.pressure() >= Pressure::RefuseConnect {
            node.stats.refused_for_memory.fetch_add(1, Ordering::Relaxed);
            return Err("memory is short");
        }
        if self.limits.count.is_some_and(|max| node.connections() >= max) {
            return Err("there are as many connections as are allowed");
        }
        let Some(per_second) = self.limits.per_second else { return Ok(()) };
        let second = node.clock.now().as_millis() / 1000;
        if second != self.second {
            self.second = second;
            self.taken = 0;
        }
        if self.taken >= per_second {
            return Err("more connections came in this second than are allowed");
        }
        self.taken += 1;
        Ok(())
    }
}

impl Node {
    /// Gives a connection to the shard that has the fewest.
    fn give(&self, accepted: Accepted) {
        let load = |shard: &usize| self.loads[*shard].load(Ordering::Relaxed);
        let shard = (0..self.loads.len()).min_by_key(load).unwrap_or(0);
        self.loads[shard].fetch_add(1, Ordering::Relaxed);
        self.mailboxes[shard].note(Note::Accept(Box::new(accepted)));
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    fn refuse(&self, why: &'static str) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed);
        // One line tells it; a storm of refusals is not to become a storm of lines.
        if refused.is_power_of_two() {
            tracing::warn!(refused = refused + 1, why, "connection refused");
        }
    }
}
