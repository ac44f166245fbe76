//! A connection to another host: made when first needed, kept, looked after, made again.
//!
//! ```text
//! idle ── first call ──▶ connecting ──▶ ready ── lost ──▶ connecting
//!                             │  ▲                            │
//!                             ▼  └──── after a delay ◀── down ◀┘
//! ```
//!
//! While a link is down calls are answered at once, and it comes back by itself; the delay grows
//! and is drawn, so that a host that restarts is not met by all at the same time.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{Method, Request, Uri};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::config::{Config, HEADER_BYTES_MAX};
use crate::discovery::Discovery;
use crate::draw::Draws;
use crate::error::{Delivery, Error};
use crate::identity::HostId;
use crate::metrics::{Metrics, Side};
use crate::protocol::Hello;
use crate::scope::TaskScope;
use crate::transport::handshake::{Io, connect_tls, send_hello};
use crate::transport::keepalive;

/// The links of a node, one for each place; those that nobody uses are gone.
#[derive(Debug)]
pub(crate) struct Links {
    common: Arc<Common>,
    links: Mutex<HashMap<Place, Weak<Link>>>,
}

/// Where a link leads; several may lead to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    address: SocketAddr,
    host: HostId,
    number: usize,
}

/// What all links of a node share.
#[derive(Debug)]
struct Common {
    config: Arc<Config>,
    scope: TaskScope,
    metrics: Metrics,
    draws: Draws,
    discovery: Arc<dyn Discovery>,
}

#[derive(Clone)]
enum State {
    Idle,
    Connecting,
    Ready(SendRequest<Bytes>),
    /// The last attempt failed so.
    Down(Error),
}

/// A connection to another host.
pub(crate) struct Link {
    core: Arc<Core>,
    is_started: AtomicBool,
    /// For calls at a time: more would wait without a bound for their turn on the connection.
    room: Arc<Semaphore>,
    closing: CancellationToken,
    _close: DropGuard,
}

/// A stream for a call.
pub(crate) struct Opened {
    /// What the server will answer.
    pub(crate) response: ResponseFuture,
    /// Where the call is written to.
    pub(crate) stream: SendStream<Bytes>,
    /// Kept as long as the answer is read.
    pub(crate) permit: OwnedSemaphorePermit,
}

struct Core {
    common: Arc<Common>,
    place: Place,
    state: watch::Sender<State>,
}

impl Links {
    pub(crate) fn new(
        config: Arc<Config>,
        scope: TaskScope,
        metrics: Metrics,
        draws: Draws,
        discovery: Arc<dyn Discovery>,
    ) -> Self {
        let common = Arc::new(Common { config, scope, metrics, draws, discovery });
        Self { common, links: Mutex::default() }
    }

    /// The links to a host, made idle if there are none yet.
    pub(crate) fn to(&self, address: SocketAddr, host: HostId) -> Box<[Arc<Link>]> {
        let mut links = self.links.lock();
        links.retain(|_, link| link.strong_count() > 0);
        let count = self.common.config.connections_per_host.max(1);
        let places = (0..count).map(|number| Place { address, host, number });
        let link = |place| {
            let known = links.get(&place).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let link = Arc::new(Link::new(&self.common, place));
                links.insert(place, Arc::downgrade(&link));
                link
            })
        };
        places.map(link).collect()
    }
}

impl Link {
    fn new(common: &Arc<Common>, place: Place) -> Self {
        let streams_max = usize::try_from(common.config.streams_max).unwrap_or(usize::MAX);
        let core =
            Core { common: Arc::clone(common), place, state: watch::Sender::new(State::Idle) };
        let closing = CancellationToken::new();
        Self {
            core: Arc::new(core),
            is_started: AtomicBool::new(false),
            room: Arc::new(Semaphore::new(streams_max.min(Semaphore::MAX_PERMITS))),
            _close: closing.clone().drop_guard(),
            closing,
        }
    }

    /// Whether calls would be answered with an error at once.
    pub(crate) fn is_down(&self) -> bool {
        matches!(*self.core.state.borrow(), State::Down(_))
    }

    /// Opens a stream for a call. Whatever fails here, nothing has left. With as many calls under
    /// way as there may be, the answer is [`Error::Busy`] at once.
    pub(crate) async fn open(&self, uri: &Uri, deadline: Instant) -> Result<Opened, Error> {
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| Error::Busy)?;
        let mut states = self.core.state.subscribe();
        let mut sender = loop {
            let sender = self.lend(&mut states, deadline).await?;
            match in_time(deadline, sender.ready()).await? {
                Ok(sender) => break sender,
                // Its last streams end, and there is no telling when.
                Err(error) if error.is_go_away() => return Err(Error::not_sent(error)),
                // It has just ended: whoever looks after it is about to say so.
                Err(_) => in_time(deadline, states.changed()).await?.map_err(Error::not_sent)?,
            }
        };
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        let (response, stream) = sender.send_request(request, false).map_err(Error::not_sent)?;
        Ok(Opened { response, stream, permit })
    }

    async fn lend(
        &self,
        states: &mut watch::Receiver<State>,
        deadline: Instant,
    ) -> Result<SendRequest<Bytes>, Error> {
        loop {
            match &*states.borrow_and_update() {
                State::Ready(sender) => return Ok(sender.clone()),
                State::Down(error) => return Err(error.clone()),
                State::Idle | State::Connecting => {}
            }
            self.start();
            in_time(deadline, states.changed()).await?.map_err(Error::not_sent)?;
        }
    }

    fn start(&self) {
        if self.is_started.swap(true, Ordering::Relaxed) {
            return;
        }
        let (core, closing) = (Arc::clone(&self.core), self.closing.clone());
        self.core.common.scope.spawn(async move { core.run(&closing).await });
    }
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Error> {
    timeout_at(deadline, work).await.map_err(|_| Error::Deadline(Delivery::NotSent))
}

impl std::fmt::Debug for Link {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Link").field("place", &self.core.place).finish_non_exhaustive()
    }
}

impl Core {
    async fn run(&self, closing: &CancellationToken) {
        let (base, limit) = self.common.config.reconnect_delay;
        let mut backoff = Backoff::new(base, limit);
        self.state.send_replace(State::Connecting);
        while !closing.is_cancelled() {
            match self.connect().await {
                Ok((sender, connection)) => {
                    backoff.reset();
                    self.state.send_replace(State::Ready(sender));
                    let _counted = self.common.metrics.connection(Side::Client);
                    self.look_after(connection, closing).await;
                    self.state.send_replace(State::Connecting);
                }
                Err(error) => {
                    self.go_down(&error);
                    let delay = backoff.next(self.common.draws.next());
                    // Both are cancel-safe.
                    tokio::select! {
                        () = closing.cancelled() => {}
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
        self.state.send_replace(State::Down(Error::not_sent("the server is no longer there")));
    }

    /// Tells callers, and the operator of what only an operator can help, once.
    fn go_down(&self, error: &Error) {
        let needs_operator = matches!(error, Error::Refused { .. } | Error::Version { .. });
        let before = self.state.send_replace(State::Down(error.clone()));
        let is_known = matches!(&before, State::Down(known) if known == error);
        if needs_operator && !is_known {
            warn!(address = %self.place.address, %error, "a node refuses this one");
        }
    }

    /// Until the connection is gone. When nobody wants the link any more, what is under way may
    /// still end.
    async fn look_after(
        &self,
        mut connection: Connection<Box<dyn Io>, Bytes>,
        closing: &CancellationToken,
    ) {
        let config = &self.common.config;
        let (interval, patience) = (config.keepalive_interval, config.keepalive_timeout);
        let pings = connection.ping_pong();
        let silence = async {
            match pings {
                Some(pings) => keepalive(pings, interval, patience).await,
                None => std::future::pending().await,
            }
        };
        let unwanted = async {
            closing.cancelled().await;
            // Without our handle the connection ends with its last stream.
            self.state.send_replace(State::Down(Error::not_sent("the server is no longer there")));
            tokio::time::sleep(config.drain_timeout).await;
        };
        let address = self.place.address;
        // Each is polled to its end or dropped for good.
        tokio::select! {
            ended = connection => debug!(%address, ?ended, "the connection ended"),
            () = silence => warn!(%address, "a node does not answer, its connection is given up"),
            () = unwanted => debug!(%address, "the connection is no longer wanted"),
        }
    }

    async fn connect(&self) -> Result<(SendRequest<Bytes>, Connection<Box<dyn Io>, Bytes>), Error> {
        let limit = self.common.config.connect_timeout;
        let connected = timeout(limit, self.connect_in_time()).await;
        connected.unwrap_or_else(|_| Err(Error::not_sent("no connection in time")))
    }

    async fn connect_in_time(
        &self,
    ) -> Result<(SendRequest<Bytes>, Connection<Box<dyn Io>, Bytes>), Error> {
        let config = &self.common.config;
        let own = &config.identity;
        let socket = TcpStream::connect(self.place.address).await.map_err(|error| {
            if error.kind() == ErrorKind::ConnectionRefused {
                self.common.discovery.refused(self.place.host);
            }
            Error::not_sent(error)
        })?;
        socket.set_nodelay(true).map_err(Error::not_sent)?;
        let mut io: Box<dyn Io> = match &config.tls {
            Some(tls) => {
                connect_tls(socket, tls).await.map_err(|rejection| rejection.error(own))?
            }
            None => Box::new(socket),
        };
        let hello = Hello { identity: own.clone(), expected: self.place.host };
        send_hello(&mut *io, &hello).await.map_err(|rejection| rejection.error(own))?;
        let handshake = h2::client::Builder::new()
            .initial_window_size(config.window_bytes.0)
            .initial_connection_window_size(config.window_bytes.1)
            .max_header_list_size(HEADER_BYTES_MAX)
            .initial_max_send_streams(usize::try_from(config.streams_max).unwrap_or(usize::MAX))
            .enable_push(false)
            .handshake(io)
            .await;
        handshake.map_err(|error| match error.reason() {
            Some(Reason::NO_ERROR) | None => Error::not_sent(error),
            Some(_) => Error::refused(error),
        })
    }
}
