//! A connection of a shard: its socket, its session, and what the shard knows of it.
//!
//! While its bytes are handled, a connection is taken out of its slot: what it publishes to
//! itself then goes the way of messages from other shards.

use std::{net::SocketAddr, rc::Rc, sync::Arc, task::Waker};

use ratatosk_clock::Instant;
use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::{dist::RouteId, group::MemberState, inbox::Claim, retain::Cursor};
use ratatosk_plugin::{host::Exchange, permission::Identity};
use ratatosk_session::Session;
use ratatosk_telemetry::memory::Account;
use tokio::net::TcpStream;

use super::topic_cache::Resolved;
use crate::{acceptor::Listener, ring::Ring, tenants::TenantNumber, transport::Pipeline};

/// One connection.
pub(crate) struct Connection {
    pub(crate) session: Session,
    pub(crate) stream: TcpStream,
    /// TLS, WebSocket, PROXY; `None` for plain TCP.
    pub(crate) pipeline: Option<Box<Layered>>,
    pub(crate) local: Local,
    pub(crate) state: Flow,
    /// Bytes that were read and not taken.
    pub(crate) partial: Vec<u8>,
    /// They hold whole packets, for which the session was not ready.
    pub(crate) has_leftover: bool,
    /// The length of the packet that they begin, if it is known.
    pub(crate) wanted: usize,
    /// Wakes the connection's task.
    pub(crate) waker: Option<Waker>,
    pub(crate) is_dirty: bool,
    /// The socket takes no more; the task waits until it does.
    pub(crate) is_write_blocked: bool,
    pub(crate) listener: Arc<Listener>,
    pub(crate) peer: SocketAddr,
    /// When CONNECT has to be there, or the lingering ends, or reading goes on.
    pub(crate) deadline: Option<Instant>,
    /// Whose memory it is.
    pub(crate) account: Account,
    /// Bytes charged to it.
    pub(crate) charged: usize,
}

/// The layers of a connection and what they hold back.
pub(crate) struct Layered {
    pub(crate) pipeline: Pipeline,
    /// Bytes for the socket.
    pub(crate) wire: Vec<u8>,
    pub(crate) written: usize,
}

/// What a connection does with its socket.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Reads as bytes come.
    Reading,
    /// Reads nothing until an answer comes.
    Waiting,
    /// Reads nothing until something that was asked for is known.
    Retrying,
    /// Reads nothing until the deadline.
    Throttled,
    /// Reads nothing while another shard does not keep up.
    BackPressured,
    /// Reads nothing while memory is short; closed at the deadline.
    Starved,
    /// Said farewell; reads and forgets until the peer closes or the deadline, so that the
    /// farewell is not lost to a reset.
    Lingering,
}

/// What a connection has in the broker.
#[derive(Default)]
pub(crate) struct Local {
    pub(crate) tenant: Option<TenantNumber>,
    /// Who the client is, for permissions. None while everything is permitted to everyone.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Routes of this session.
    pub(crate) routes: Vec<RouteId>,
    pub(crate) rare: Option<Box<Rare>>,
    /// The topic that was last published to.
    pub(crate) topic: Option<Rc<Resolved>>,
    /// What held when it was permitted.
    pub(crate) topic_permit: Option<TopicPermit>,
    pub(crate) claim: Option<Claim>,
    /// Which life of the session this is: of a transient one the connection's, of a persistent
    /// one its inbox's.
    pub(crate) incarnation: u64,
}

/// A publish that was permitted.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicPermit {
    pub(crate) epoch: u64,
    pub(crate) until: Instant,
    pub(crate) qos: ratatosk_codec::Qos,
    pub(crate) retain: bool,
}

/// What few connections have.
#[derive(Default)]
pub(crate) struct Rare {
    pub(crate) shared: Vec<SharedSubscription>,
    /// How many shared subscriptions there ever were.
    pub(crate) shared_count: u32,
    pub(crate) retained: std::collections::VecDeque<RetainedRead>,
    pub(crate) member: Option<Arc<MemberState>>,
    pub(crate) exchange: Option<Exchange>,
    /// Who the exchange is about.
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) verdicts: super::permissions::Verdicts,
    pub(crate) ring: Ring,
    /// The claim that waits for the predecessor's end.
    pub(crate) pending_claim: Option<Box<ratatosk_session::ClaimRequest>>,
}

/// A subscription of this session to a shared group.
#[derive(Clone, Debug)]
pub(crate) struct SharedSubscription {
    /// Names it within the session; never reused.
    pub(crate) number: std::num::NonZeroU32,
    /// The whole filter, as the client wrote it.
    pub(crate) filter: Box<str>,
    pub(crate) route: RouteId,
    /// Tells the groups of one filter apart.
    pub(crate) group: u32,
    pub(crate) options: SubscriptionOptions,
    pub(crate) subscription_id: Option<u32>,
}

/// Retained messages that a new subscription has yet to get.
#[derive(Clone, Debug)]
pub(crate) struct RetainedRead {
    pub(crate) filter: Box<str>,
    pub(crate) options: SubscriptionOptions,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) cursor: Cursor,
    /// When the subscription became effective: what was accepted later it gets live.
    pub(crate) since: Instant,
    /// How many more it may get.
    pub(crate) left: u32,
}

impl Local {
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(Box::default)
    }

    /// How many filters the session has.
    pub(crate) fn filters(&self) -> usize {
        self.routes.len() + self.rare.as_ref().map_or(0, |rare| rare.shared.len())
    }

    pub(crate) fn has_retained(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.retained.is_empty())
    }
}

impl Connection {
    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Whether everything that was said is on its way.
    pub(crate) fn is_flushed(&mut self) -> bool {
        self.session.output_len() == 0
            && self.pipeline.as_ref().is_none_or(|layers| layers.written == layers.wire.len())
    }

    /// When the timer has to look at it again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match (self.deadline, self.session.deadline()) {
            (Some(own), Some(session)) => Some(own.min(session)),
            (one, other) => one.or(other),
        }
    }

    /// About how many bytes the connection holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.session.memory_bytes()
            + self.partial.capacity()
            + self.local.routes.capacity() * size_of::<RouteId>()
            + self.pipeline.as_ref().map_or(0, |layers| {
                size_of::<Layered>() + layers.wire.capacity() + layers.pipeline.memory()
            })
    }
}
