//! A connection of a shard: its socket, its session, and what the shard knows of it.
//!
//! While its bytes are handled, a connection is taken out of its slot: what it publishes to
//! itself then goes the way of messages from other shards.

use std::{
    collections::VecDeque, hash::BuildHasher as _, net::SocketAddr, rc::Rc, sync::Arc, task::Waker,
};

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, SubscriptionOptions};
use ratatosk_contract::{
    call::Promised,
    dist::RouteId,
    group::MemberState,
    inbox::{Claim, WillId},
    retain::Cursor,
};
use ratatosk_plugin::{host::Exchange, permission::Identity};
use ratatosk_session::Session;
use ratatosk_telemetry::memory::Hold;
use smallvec::SmallVec;
use tokio::net::TcpStream;

use super::{FILED_MAX, shaper::Shapers, shed::Intake, topic_cache::Resolved};
use crate::{acceptor::Listener, ring::Ring, tenants::TenantNumber, transport::Pipeline};

/// What a route of one receiver costs in dist's index and in the shard's table, besides its filter:
/// measured with a hundred thousand of them.
const ROUTE_BYTES: usize = 240;
/// What a connection costs elsewhere: its task, the runtime's registration of its socket, its slot,
/// its identity with the directory's entry, its entry in the wheel. Measured with ten
/// thousand idle ones.
const TASK_BYTES: usize = 640;

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
    /// When CONNECT has to be there; `None` once the session is live or has ended.
    pub(crate) connect_by: Option<Instant>,
    /// When its state ends, if time ends it.
    pub(crate) deadline: Option<Instant>,
    /// What is charged for it, and to whom.
    pub(crate) hold: Hold,
    /// When the timer looks at it next; an entry of the wheel for another time means nothing.
    pub(crate) filed: Option<Instant>,
    pub(crate) intake: Intake,
    /// Waits for its turn behind those that bring less.
    pub(crate) is_deferred: bool,
    /// `None` unless its bandwidth is limited.
    pub(crate) shapers: Option<Box<Shapers>>,
}

const _: () = assert!(
    size_of::<Connection>() <= 512,
    "the allocator gives the next size 640 bytes, and there is one for each of a million clients"
);

/// The layers of a connection and what they hold back.
pub(crate) struct Layered {
    pub(crate) pipeline: Pipeline,
    /// Bytes for the socket.
    pub(crate) wire: Vec<u8>,
    pub(crate) written: usize,
}

impl Layered {
    /// Whether the socket has taken all that the layers said.
    pub(crate) fn is_written(&self) -> bool {
        self.written == self.wire.len()
    }
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
    /// Routes of this session; the first two lie here.
    pub(crate) routes: SmallVec<[RouteId; 2]>,
    /// Bytes of their filters, which dist holds.
    pub(crate) filter_bytes: u32,
    pub(crate) rare: Option<Box<Rare>>,
    /// The topic that was last published to.
    pub(crate) topic: Option<Rc<Resolved>>,
    /// What held when it was permitted.
    pub(crate) topic_permit: Option<Box<TopicPermit>>,
    /// What is owed of retained messages; `None` once nothing is.
    #[expect(
        clippy::box_collection,
        reason = "few connections are owed something: one word in each"
    )]
    pub(crate) retained: Option<Box<VecDeque<RetainedRead>>>,
    /// `None` unless the session is persistent.
    pub(crate) claim: Option<Box<Claim>>,
    /// Changes of the session that are on their way to the disk. Until they are there nothing is
    /// written to the socket: whatever is said may depend on them. DUR-009
    pub(crate) unsaved: u32,
    /// Shared with those who choose among the members of a group, once it is one or may be.
    pub(crate) member: Option<Arc<MemberState>>,
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
    /// Bytes of their filters.
    pub(crate) shared_bytes: usize,
    /// How many shared subscriptions there ever were.
    pub(crate) shared_count: u32,
    /// The filters of a persistent session whose client is subject to permissions.
    pub(crate) persistent: Vec<Box<str>>,
    pub(crate) exchange: Option<Exchange>,
    /// Who the client proved to be by a method: by that method it may prove it again, and no more.
    /// Kept also where nobody asks who it is.
    pub(crate) proven: Option<Arc<Identity>>,
    /// Who the client is to the collectors of events.
    pub(crate) client: Option<Arc<ratatosk_plugin::event::ClientInfo>>,
    /// Who the exchange is about.
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) verdicts: super::permissions::Verdicts,
    pub(crate) route_wait: Option<super::answers::RouteWait>,
    /// Among those that are told when retained messages are all here.
    pub(crate) is_reader_listed: bool,
    pub(crate) ring: Ring,
    /// The QoS 2 message that goes on when its retained copy is durable.
    pub(crate) retaining: Option<Retaining>,
    /// The will of a transient session, as the inbox keeps it.
    pub(crate) will: Option<WillId>,
    /// The claim that waits for the predecessor's end, or for the inbox.
    pub(crate) pending_claim: Option<Box<ratatosk_session::ClaimRequest>>,
    /// Since when it waits for somebody who serves its session.
    pub(crate) claimed_at: Option<Instant>,
    /// Its inbox answers; otherwise a predecessor has not ended.
    pub(crate) is_claim_with_inbox: bool,
    /// Subscriptions that the inbox answers later.
    pub(crate) asked: super::asked::Asked,
    /// What others want of its subscriptions.
    pub(crate) changes: super::on_behalf::Changes,
    /// The directory tells when it has ended, and has it ended; otherwise its shard does.
    pub(crate) is_claim_with_directory: bool,
}

/// A QoS 2 message of a persistent session that is to be retained. That it was accepted is noted
/// only afterwards: whoever sends it again after a crash in between is not known yet, and it is
/// retained then. DUR-010
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retaining {
    pub(crate) packet_id: PacketId,
    pub(crate) is_done: bool,
}

impl Rare {
    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.shared.len() * (size_of::<SharedSubscription>() + ROUTE_BYTES)
            + self.shared_bytes
            + self.verdicts.memory_bytes()
            + self.asked.memory_bytes()
            + self.changes.memory_bytes()
            + self.ring.memory_bytes()
    }
}

/// A filter with its hash: among thousands of long ones with the same beginning, which a client
/// may choose, one is found without comparing their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    hash: u64,
    text: Box<str>,
}

impl Filter {
    pub(crate) fn new(seed: u64, text: &str) -> Self {
        let hash = foldhash::fast::FixedState::with_seed(seed).hash_one(text);
        Filter { hash, text: text.into() }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// A subscription of this session to a shared group.
#[derive(Clone, Debug)]
pub(crate) struct SharedSubscription {
    /// Names it within the session; never reused.
    pub(crate) number: std::num::NonZeroU32,
    /// The whole filter, as the client wrote it.
    pub(crate) filter: Filter,
    pub(crate) route: RouteId,
    /// Tells the groups of one filter apart.
    pub(crate) group: u32,
    pub(crate) options: SubscriptionOptions,
    pub(crate) subscription_id: Option<u32>,
}

/// Retained messages that a new subscription has yet to get.
#[derive(Clone, Debug)]
pub(crate) struct RetainedRead {
    pub(crate) filter: Filter,
    pub(crate) options: SubscriptionOptions,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) cursor: Cursor,
    /// When the subscription became effective: what was accepted later it gets live.
    pub(crate) since: Instant,
    /// How many more it may get.
    pub(crate) left: u32,
    /// What it waits for before its next page, or did.
    pub(crate) wait: Option<super::retained::ReadWait>,
}

impl Local {
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(Box::default)
    }

    /// Takes note of a change that holds and may have to be waited for.
    pub(super) fn promised<T>(&mut self, promised: Promised<T>) -> T {
        self.unsaved += u32::from(!promised.is_durable);
        promised.answer
    }

    /// How many filters the session has.
    pub(crate) fn filters(&self) -> usize {
        self.routes.len() + self.rare.as_ref().map_or(0, |rare| rare.shared.len())
    }

    /// About how many bytes it holds, its part of what dist holds for it included.
    #[inline]
    fn memory_bytes(&self) -> usize {
        let topic = self.topic.as_ref();
        self.routes.len() * ROUTE_BYTES
            + self.filter_bytes as usize
            // Their filters are those of subscriptions, counted there.
            + self.retained.as_ref().map_or(0, |reads| reads.capacity() * size_of::<RetainedRead>())
            + topic.map_or(0, |topic| topic.memory_bytes() / Rc::strong_count(topic))
            + self.rare.as_ref().map_or(0, |rare| rare.memory_bytes())
    }

    pub(crate) fn has_retained(&self) -> bool {
        self.retained.is_some()
    }

    /// Whether a SUBSCRIBE waits for the session's inbox.
    pub(crate) fn is_subscribing(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.asked.is_waited_for())
    }
}

impl Connection {
    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Reads again. What came meanwhile lies unread, so its peer was not silent.
    pub(super) fn read_on(&mut self, now: Instant) {
        self.state = Flow::Reading;
        self.deadline = None;
        self.session.excuse(now);
        self.wake();
    }

    /// Whether what its peer sends is left in the socket for now.
    pub(super) fn is_unread(&self) -> bool {
        !matches!(self.state, Flow::Reading | Flow::Lingering)
    }

    /// Tells those who choose among the members of a group how this one is doing.
    #[inline]
    pub(super) fn note_member(&self) {
        let Some(state) = &self.local.member else { return };
        MemberState::note(&state.congested, self.session.is_congested());
        if !self.session.is_persistent() {
            MemberState::note(&state.full, self.session.is_full());
        }
    }

    /// Whether there is anything to write to the socket.
    pub(super) fn has_output(&mut self) -> bool {
        match &self.pipeline {
            Some(layers) => layers.written < layers.wire.len(),
            None => !self.session.output().is_empty(),
        }
    }

    /// When its bandwidth lets it write again, if it has to wait for that.
    pub(super) fn write_at(&self) -> Option<Instant> {
        self.shapers.as_ref()?.write_at
    }

    /// Whether everything that was said is on its way.
    pub(crate) fn is_flushed(&mut self) -> bool {
        self.session.output_len() == 0
            && self.pipeline.as_ref().is_none_or(|layers| layers.is_written())
    }

    /// When the timer has to look at it again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let write_at = self.shapers.as_ref().and_then(|shapers| shapers.write_at);
        let read_at = self.local.read_at();
        let deadlines =
            [self.connect_by, self.deadline, self.session.deadline(), write_at, read_at];
        deadlines.into_iter().flatten().min()
    }

    /// When an entry of the wheel is to be made so that the timer looks at the connection at
    /// `due`; `None` if there is one for that time or an earlier one.
    #[inline]
    pub(super) fn next_filing(&mut self, now: Instant, due: Instant) -> Option<Instant> {
        if self.filed.is_some_and(|filed| filed <= due) {
            return None;
        }
        let due = due.min(now + FILED_MAX);
        self.filed = Some(due);
        Some(due)
    }

    /// A large buffer is larger than what came; what nothing was written to yet is no memory. What
    /// was counts twice: so much does the allocator spend while buffers of many sizes come and go.
    #[inline]
    fn partial_bytes(&self) -> usize {
        self.partial.capacity().min(super::READ_BYTES.max(2 * self.partial.len()))
    }

    /// What its end would give back, about: with the payloads that it shares with others, if it is
    /// one of those who keep them alive by not taking them.
    pub(super) fn weight_bytes(&self) -> usize {
        let shared = if self.is_write_blocked { self.session.shared_bytes() } else { 0 };
        self.hold.bytes() + shared
    }

    /// About how many bytes the connection holds alone.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + TASK_BYTES
            + self.session.memory_bytes()
            + self.partial_bytes()
            + self.local.memory_bytes()
            + self.shapers.as_ref().map_or(0, |_| size_of::<Shapers>())
            + self.pipeline.as_ref().map_or(0, |layers| {
                size_of::<Layered>() + layers.wire.capacity() + layers.pipeline.memory()
            })
    }
}
