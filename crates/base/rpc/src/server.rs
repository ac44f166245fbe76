//! The listener of a node: who is let in, and their connections.
//!
//! Limits on peers: connections at a time, the time and bytes of the handshake, calls at a time
//! on a connection, the length of headers and messages, and the time in which a peer must answer
//! a ping. Who meets one is refused and counted; nobody else notices.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::config::HEADER_BYTES_MAX;
use crate::identity::HostId;
use crate::metrics::Side;
use crate::node::{Node, Shared};
use crate::serve::{Arrival, serve};
use crate::transport::{Io, Rejection, accept_tls, keepalive, receive_hello};

/// What waits to be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener at work. Dropped, it accepts nobody any more, and its connections end with the
/// calls that are under way.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    _node: Node,
    _close: DropGuard,
}

impl Listener {
    /// Binds and begins to accept.
    pub(crate) async fn bind(node: &Node, address: SocketAddr) -> io::Result<Self> {
        let shared = &node.shared;
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let closing = CancellationToken::new();
        let acceptor = Acceptor {
            room: Arc::new(Semaphore::new(shared.config.connections_max)),
            shared: Arc::clone(shared),
            closing: closing.clone(),
        };
        shared.scope.spawn(acceptor.run(socket));
        info!(%address, "nodes are listened to");
        Ok(Self { address, _node: node.clone(), _close: closing.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Acceptor {
    shared: Arc<Shared>,
    closing: CancellationToken,
    room: Arc<Semaphore>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        loop {
            // Both are cancel-safe.
            let accepted = tokio::select! {
                () = self.closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of file descriptors, mostly: some will be free again.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                self.shared.metrics.refuse("connections");
                continue;
            };
            let (shared, closing) = (Arc::clone(&self.shared), self.closing.clone());
            self.shared.scope.spawn(async move {
                welcome(&shared, socket, &closing).await;
                drop(permit);
            });
        }
    }
}

/// A connection from its beginning to its end.
async fn welcome(shared: &Arc<Shared>, socket: TcpStream, closing: &CancellationToken) {
    let peer = socket.peer_addr().ok();
    let limit = shared.config.handshake_timeout;
    let (io, host) = match timeout(limit, introduce(shared, socket)).await {
        Ok(Ok(introduced)) => introduced,
        Ok(Err(rejection)) => {
            shared.metrics.refuse(rejection.word());
            debug!(?peer, %rejection, "a peer is refused");
            return;
        }
        Err(_) => {
            shared.metrics.refuse("timeout");
            debug!(?peer, "a peer took too long to say who it is");
            return;
        }
    };
    let _counted = shared.metrics.connection(Side::Server);
    if let Err(reason) = converse(shared, io, host, closing).await {
        shared.metrics.refuse(reason);
        debug!(?peer, %host, reason, "a connection is given up");
    }
}

async fn introduce(shared: &Shared, socket: TcpStream) -> Result<(Box<dyn Io>, HostId), Rejection> {
    socket.set_nodelay(true)?;
    let mut io: Box<dyn Io> = match &shared.config.tls {
        Some(tls) => accept_tls(socket, tls).await?,
        None => Box::new(socket),
    };
    let host = receive_hello(&mut *io, &shared.config.identity).await?;
    Ok((io, host))
}

/// Serves calls until the peer closes; or the word for why it was thrown out.
async fn converse(
    shared: &Arc<Shared>,
    io: Box<dyn Io>,
    host: HostId,
    closing: &CancellationToken,
) -> Result<(), &'static str> {
    let config = &shared.config;
    let handshake = h2::server::Builder::new()
        .initial_window_size(config.window_bytes.0)
        .initial_connection_window_size(config.window_bytes.1)
        .max_concurrent_streams(config.streams_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .handshake::<_, Bytes>(io);
    let handshake = timeout(config.handshake_timeout, handshake).await;
    let mut connection = handshake.map_err(|_| "timeout")?.map_err(|_| "protocol")?;
    let pings = connection.ping_pong().ok_or("protocol")?;
    let silence = keepalive(pings, config.keepalive_interval, config.keepalive_timeout);
    tokio::pin!(silence);
    let mut is_closing = false;
    loop {
        // All three are cancel-safe; `silence` goes on in the next round.
        tokio::select! {
            accepted = connection.accept() => match accepted {
                None => return Ok(()),
                Some(Ok((request, answer))) => {
                    let arrival = Arrival { request, answer, host };
                    shared.scope.spawn(serve(Arc::clone(shared), arrival));
                }
                Some(Err(error)) if is_farewell(&error) => return Ok(()),
                Some(Err(_)) => return Err("protocol"),
            },
            () = &mut silence => return Err("silent"),
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Whether a connection ended as connections do: the socket did, or the peer said goodbye.
fn is_farewell(error: &h2::Error) -> bool {
    error.is_io() || error.reason() == Some(Reason::NO_ERROR)
}
