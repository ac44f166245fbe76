//! A shard: one thread of the data plane, and the connections that it owns.
//!
//! A connection stays on its shard from accept to close. All that the shard touches per packet is
//! its own: nothing in here is locked or shared but the mailboxes, which are handed over once a
//! tick, and the routes, which are asked once a topic. The shard runs on a current-thread
//! runtime; its futures are one task per connection, the flusher, the mailbox and the timer.
//!
//! A tick: tasks of readable sockets read, decode, route and append to outputs; then the flusher
//! hands the batches for other shards over and writes every dirty connection once.

mod answers;
mod asked;
pub(crate) mod away;
mod claim;
mod close;
pub(crate) mod connection;
mod events;
pub(crate) mod flow;
mod flush;
mod hands;
mod incoming;
mod link;
mod local_routes;
pub(crate) mod mailbox;
mod membership;
pub(crate) mod on_behalf;
mod outcome;
pub(crate) mod permissions;
pub(crate) mod publish;
mod read;
mod recheck;
pub(crate) mod regroup;
mod rest;
mod retained;
pub(crate) mod runner;
pub(crate) mod served;
mod shaper;
pub(crate) mod shed;
pub(crate) mod stats;
mod timer;
pub(crate) mod topic_cache;
mod turns;
mod wills;
pub(crate) mod wire;
mod withheld;

use std::{collections::HashMap, sync::Arc, task::Waker};

use ratatosk_clock::{Instant, Wheel};
use ratatosk_contract::{
    SessionRef, ShardId, TenantId,
    dist::{Resolution, TenantRoutes},
    inbox::{DirectDelivery, SharedRoute},
    retain::TenantRetained,
};
use ratatosk_telemetry::memory::{Account, Hold, Share};

use connection::Connection;
use local_routes::LocalRoutes;
use mailbox::Batch;
use stats::Stats;
use topic_cache::TopicCache;

use crate::{node::Node, tenants::TenantNumber};

/// How long a connection waits for its timer at the finest.
const TICK: std::time::Duration = std::time::Duration::from_millis(100);
/// Deadlines beyond this come up early and are filed again.
const HORIZON_TICKS: usize = 1200;
/// Nothing is filed further ahead, so that an entry never comes up before its time.
const FILED_MAX: std::time::Duration = std::time::Duration::from_secs(100);
const _: () = assert!(FILED_MAX.as_millis() < TICK.as_millis() * (HORIZON_TICKS as u128 - 2));
/// The buffer into which all connections of the shard read.
const READ_BYTES: usize = 64 * 1024;

/// A shard's state.
pub(crate) struct Shard {
    id: ShardId,
    node: Arc<Node>,
    /// The time of the batch that is being handled.
    now: Instant,
    /// Counts what connections brought at once.
    batch: u64,
    slots: Vec<Slot>,
    free: Vec<u32>,
    connections: usize,
    tenants: Vec<Option<Box<TenantShard>>>,
    /// Connections with something to write.
    dirty: Vec<u32>,
    /// Messages for each shard, this one included, to be handed over at the end of the tick.
    outbound: Vec<Batch>,
    has_outbound: bool,
    /// Connections that read nothing until a lane has room.
    back_pressured: Vec<SessionRef>,
    flusher: Option<Waker>,
    /// `None` while it turns.
    wheel: Option<Wheel<SessionRef>>,
    /// What was filed while the wheel turned.
    filings: Vec<(SessionRef, Instant)>,
    shed: shed::Shed,
    given: shed::Given,
    turns: turns::Turns,
    /// Connections that ended while they waited for a session.
    orphans: HashMap<SessionRef, claim::Orphan>,
    read_buffer: Box<[u8]>,
    found: Resolution,
    direct: Vec<DirectDelivery>,
    /// The members that were chosen for one message.
    members: Vec<(ShardId, wire::MemberTarget)>,
    shared: Vec<SharedRoute>,
    away: away::Away,
    withheld: withheld::Withheld,
    wills: wills::Wills,
    stats: Stats,
    drain: Option<Drain>,
    recheck: recheck::Recheck,
    /// How many questions about subscriptions inboxes were asked.
    questions: u64,
}

/// A place for a connection.
#[derive(Default)]
struct Slot {
    generation: u32,
    /// The connection is in somebody's hands.
    is_at_work: bool,
    connection: Option<Box<Connection>>,
}

/// What the shard knows of a tenant.
struct TenantShard {
    id: TenantId,
    routes: Arc<dyn TenantRoutes>,
    /// Where replicas have the routes.
    answers: Option<Box<answers::Answers>>,
    retained: Arc<dyn TenantRetained>,
    readers: retained::Readers,
    locals: LocalRoutes,
    cache: TopicCache,
    account: Account,
    /// What is charged for the cache.
    cache_hold: Hold,
    flow: flow::Flow,
}

/// A graceful stop on its way.
struct Drain {
    per_second: u32,
    owed: f64,
    last: Instant,
    /// The slot to go on with.
    next: usize,
}

impl Shard {
    pub(crate) fn new(id: ShardId, node: Arc<Node>) -> Self {
        let now = node.clock.now();
        let shards = node.mailboxes.len();
        Shard {
            id,
            now,
            batch: 0,
            slots: Vec::new(),
            free: Vec::new(),
            connections: 0,
            tenants: Vec::new(),
            dirty: Vec::new(),
            outbound: (0..shards).map(|_| Batch::default()).collect(),
            has_outbound: false,
            back_pressured: Vec::new(),
            flusher: None,
            wheel: Some(Wheel::new(now, TICK, HORIZON_TICKS)),
            filings: Vec::new(),
            shed: shed::Shed::default(),
            given: shed::Given::new(&node.unknown_account),
            turns: turns::Turns::default(),
            orphans: HashMap::new(),
            read_buffer: vec![0; READ_BYTES].into_boxed_slice(),
            found: Resolution::default(),
            direct: Vec::new(),
            members: Vec::new(),
            shared: Vec::new(),
            away: away::Away::default(),
            withheld: withheld::Withheld::default(),
            wills: wills::Wills::default(),
            stats: Stats::default(),
            drain: None,
            recheck: recheck::Recheck::default(),
            questions: 0,
            node,
        }
    }

    /// Puts a connection into a free slot.
    fn insert(&mut self, connection: Box<Connection>) -> SessionRef {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer than four billion connections")
        });
        let place = &mut self.slots[slot as usize];
        debug_assert!(place.connection.is_none(), "a free slot is empty");
        place.connection = Some(connection);
        self.connections += 1;
        SessionRef { shard: self.id, slot, generation: place.generation }
    }

    /// Empties a slot; whoever still refers to its connection is recognised from now on.
    fn remove(&mut self, session: SessionRef) -> Option<Box<Connection>> {
        let place = &mut self.slots[session.slot as usize];
        if place.generation != session.generation {
            return None;
        }
        let connection = place.connection.take()?;
        place.generation = place.generation.wrapping_add(1);
        place.is_at_work = false;
        self.free.push(session.slot);
        self.connections -= 1;
        Some(connection)
    }

    /// The connection that is meant, if it is still the one and nobody has it in hands.
    fn connection(&mut self, session: SessionRef) -> Option<&mut Connection> {
        let place = self.slots.get_mut(session.slot as usize)?;
        if place.generation != session.generation {
            return None;
        }
        place.connection.as_deref_mut()
    }

    /// Takes a connection into hands, to be given back with [`Shard::put`].
    fn take(&mut self, session: SessionRef) -> Option<Box<Connection>> {
        let place = self.slots.get_mut(session.slot as usize)?;
        if place.generation != session.generation {
            return None;
        }
        let connection = place.connection.take()?;
        place.is_at_work = true;
        Some(connection)
    }

    fn put(&mut self, session: SessionRef, connection: Box<Connection>) {
        let place = &mut self.slots[session.slot as usize];
        debug_assert!(place.is_at_work, "what is put back was taken");
        place.is_at_work = false;
        place.connection = Some(connection);
    }

    fn reference(&self, slot: u32) -> SessionRef {
        SessionRef { shard: self.id, slot, generation: self.slots[slot as usize].generation }
    }

    #[inline]
    fn tenant(&self, number: TenantNumber) -> &TenantShard {
        self.tenants[number.0 as usize].as_deref().expect("a tenant is opened before it is used")
    }

    #[inline]
    fn tenant_mut(&mut self, number: TenantNumber) -> &mut TenantShard {
        self.tenants[number.0 as usize].as_deref_mut().expect("see tenant")
    }

    /// Makes a tenant known to this shard.
    fn open_tenant(&mut self, number: TenantNumber) {
        let index = number.0 as usize;
        if self.tenants.len() <= index {
            self.tenants.resize_with(index + 1, || None);
        }
        if self.tenants[index].is_none() {
            let name = self.node.tenants.name(number);
            let account = self.node.memory.account(name.as_str());
            let routes = self.node.dist.tenant(&name);
            self.tenants[index] = Some(Box::new(TenantShard {
                answers: routes.is_replicated().then(Box::default),
                routes,
                retained: self.node.retain.tenant(&name),
                readers: retained::Readers::default(),
                locals: LocalRoutes::default(),
                cache: TopicCache::new(self.now),
                cache_hold: account.hold(Share::Caches, 0),
                account,
                flow: flow::Flow::default(),
                id: name,
            }));
        }
    }

    /// Sees to it that the timer looks at a connection at `due`.
    fn file(&mut self, session: SessionRef, due: Instant) {
        let now = self.now;
        let Some(connection) = self.connection(session) else { return };
        if let Some(due) = connection.next_filing(now, due) {
            self.file_at(session, due);
        }
    }

    /// As [`Shard::file`], for a connection that is in hands.
    fn file_in_hands(&mut self, session: SessionRef, connection: &mut Connection, due: Instant) {
        if let Some(due) = connection.next_filing(self.now, due) {
            self.file_at(session, due);
        }
    }

    fn file_at(&mut self, session: SessionRef, due: Instant) {
        match &mut self.wheel {
            Some(wheel) => wheel.insert(session, due),
            None => self.filings.push((session, due)),
        }
    }

    /// Marks a connection as having something to write.
    fn mark_dirty(&mut self, session: SessionRef, connection: &mut Connection) {
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(session.slot);
        }
    }

    /// Lets the flusher run behind the tasks that are ready now.
    fn wake_flusher(&mut self) {
        if (self.has_outbound || !self.dirty.is_empty() || self.turns.is_waited_for())
            && let Some(waker) = self.flusher.take()
        {
            waker.wake();
        }
    }
}

impl Shard {
    /// Takes a connection over from the acceptor.
    fn accept(&mut self, accepted: crate::acceptor::Accepted) {
        let listener = accepted.listener;
        let load = &self.node.loads[self.id.index()];
        let Ok(stream) = tokio::net::TcpStream::from_std(accepted.stream) else {
            load.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            return;
        };
        let pipeline = (!listener.layers.is_plain()).then(|| {
            Box::new(connection::Layered {
                pipeline: crate::transport::Pipeline::new(&listener.layers, accepted.peer),
                wire: Vec::new(),
                written: 0,
            })
        });
        let settings = Arc::clone(&self.node.settings_unknown);
        let connect_by = self.now + self.node.connect_timeout;
        let connection = Box::new(Connection {
            session: ratatosk_session::Session::new(self.now, &self.node.session, settings),
            stream,
            pipeline,
            local: connection::Local::default(),
            state: connection::Flow::Reading,
            partial: Vec::new(),
            has_leftover: false,
            wanted: 0,
            waker: None,
            is_dirty: false,
            is_write_blocked: false,
            listener,
            peer: accepted.peer,
            connect_by: Some(connect_by),
            deadline: None,
            hold: self.node.unknown_account.hold(Share::Connections, 0),
            filed: None,
            is_deferred: false,
            intake: shed::Intake::default(),
            shapers: None,
        });
        self.stats.accepted += 1;
        let session = self.insert(connection);
        self.file(session, connect_by);
        runner::serve(session);
    }
}
