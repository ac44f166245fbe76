//! The directory of a node among others: drives the protocol over `rpc`.
//!
//! One lock holds the roster; whatever it wants done is put into bounded queues, one pair for each
//! other host, or into the mailbox of a connection's shard, before the lock is let go, so that
//! nothing overtakes. A server in the same process is asked at once, under the same lock: a claim
//! that only this node has to know of is granted before [`SessionDict::register`] returns.
//!
//! Locks are taken in this order: roster, directory.

mod calls;
mod change;
mod convert;
mod lookup;
mod metrics;
mod serve;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_clock::SystemClock;
use ratatosk_contract::session_dict::{EndCause, Holders, Registered, SessionDict};
use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, TenantId};
use ratatosk_rpc::{
    AnnounceError, Hosting, Landscape, Node, Registration as Announced, ServerId, ServiceName,
    TaskScope,
};
use ratatosk_telemetry::metric::Registry;
use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use self::calls::{NotAsked, Way};
use crate::entry::{Key, Listed};
use crate::protocol::{
    Directory, Effect, Effects, Host, Question, Roster, RosterStats, Time, Tuning, Verdict, View,
};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use convert::read_any;
pub use lookup::{Killed, Listing, Owner, Victims};

#[expect(unreachable_pub, reason = "it is made for any crate")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/ratatosk.dict.rs"));
}

/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(20);
/// Sessions of the directory that are looked at in one tick, to throw away what does not count.
const SWEEP: usize = 512;

/// How a node takes part.
#[derive(Clone, Debug, Default)]
pub struct ClusterConfig {
    /// It is a server, too.
    pub is_server: bool,
    /// Times and bounds.
    pub tuning: Tuning,
}

/// What a node of the directory has and did.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterStats {
    /// Live sessions of this node.
    pub sessions: usize,
    /// Registrations at this server, of all nodes.
    pub registered: usize,
    /// What was done so far.
    pub roster: RosterStats,
    /// Claims that were refused because there was no room to ask their server.
    pub overloaded: u64,
}

/// The directory of a node among others. Cheap to clone; when the last clone is gone, so are its
/// tasks and what it announced.
#[derive(Clone)]
pub struct ClusterDict {
    inner: Arc<Inner>,
    _end: Arc<End>,
}

/// What goes with the last clone.
struct End {
    _guard: DropGuard,
    _announced: Vec<Announced>,
}

struct Inner {
    me: Host,
    node: Node,
    clock: SystemClock,
    scope: TaskScope,
    holders: Arc<dyn Holders>,
    state: Mutex<State>,
    /// `None` unless this node is a server.
    directory: Option<Mutex<Directory>>,
    directories: wire::DirectoryClient,
    peers: wire::HoldersClient,
}

struct State {
    roster: Roster,
    ways: BTreeMap<Host, Way>,
    tickets: BTreeMap<u64, oneshot::Sender<Verdict>>,
    ticket: u64,
    overloaded: u64,
}

impl ClusterDict {
    /// Takes part as one of the nodes that `node` sees: connections of `holders` are registered
    /// here. Its tasks run on the runtime that it is made on.
    ///
    /// # Errors
    /// If it cannot be announced. Nothing is left running.
    ///
    /// # Panics
    /// Outside of a runtime: a bug of the caller.
    pub fn start(
        node: &Node,
        holders: Arc<dyn Holders>,
        registry: &Registry,
        clock: SystemClock,
        config: ClusterConfig,
    ) -> Result<Self, AnnounceError> {
        let me = Host(node.host().0);
        let scope = TaskScope::new(tokio::runtime::Handle::current());
        let roster = Roster::new(me, config.tuning);
        let state = State {
            roster,
            ways: BTreeMap::new(),
            tickets: BTreeMap::new(),
            ticket: 0,
            overloaded: 0,
        };
        let inner = Arc::new(Inner {
            me,
            node: node.clone(),
            clock,
            scope: scope.clone(),
            holders,
            state: Mutex::new(state),
            directory: config.is_server.then(|| Mutex::new(Directory::new(me))),
            directories: wire::DirectoryClient::new(node),
            peers: wire::HoldersClient::new(node),
        });
        let mut announced = Vec::new();
        let server = Arc::new(serve::Server(Arc::downgrade(&inner)));
        let id = server_id(me);
        announced.push(node.serve(wire::holders_service(&server), Hosting::new(id.clone()))?);
        if config.is_server {
            announced.push(node.serve(wire::directory_service(&server), Hosting::new(id))?);
        }
        inner.see();
        scope.spawn(watch(Arc::downgrade(&inner), node.clone()));
        scope.spawn(tick(Arc::downgrade(&inner)));
        metrics::register(registry, &inner);
        let end = End { _guard: scope.guard(), _announced: announced };
        Ok(Self { inner, _end: Arc::new(end) })
    }

    /// What this node has and did.
    #[must_use]
    pub fn stats(&self) -> ClusterStats {
        self.inner.stats()
    }

    /// Whether the servers that this node sees have all that it holds.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.inner.state.lock().roster.is_synced()
    }

    /// How many servers and how many other nodes this one sees.
    #[must_use]
    pub fn seen(&self) -> (usize, usize) {
        let state = self.inner.state.lock();
        (state.roster.view().servers().len(), state.roster.peers().len())
    }

    /// Ends its tasks and waits until they are gone; what is registered is asked no more.
    pub async fn stop(&self) {
        self.inner.scope.end().await;
    }
}

impl SessionDict for ClusterDict {
    fn register(&self, identity: &Arc<SessionIdentity>, owner: SessionRef) -> Registered {
        let mut state = self.inner.state.lock();
        let mut effects = Effects::new();
        let time = self.inner.time();
        let was_alone = state.roster.claim(time, identity, owner, &mut effects);
        let is_granted = self.inner.perform(&mut state, effects, Some(owner));
        if was_alone || is_granted { Registered::Alone } else { Registered::Pending }
    }

    fn remove(&self, identity: &SessionIdentity, owner: SessionRef) -> bool {
        let mut effects = Effects::new();
        let mut state = self.inner.state.lock();
        let was_known = state.roster.remove(self.inner.time(), identity, owner, &mut effects);
        self.inner.perform(&mut state, effects, None);
        was_known
    }

    fn find(&self, identity: &SessionIdentity) -> Option<SessionRef> {
        self.inner.state.lock().roster.find(identity)
    }

    fn find_many(&self, identities: &[SessionIdentity], found: &mut Vec<Option<SessionRef>>) {
        let state = self.inner.state.lock();
        found.extend(identities.iter().map(|identity| state.roster.find(identity)));
    }

    fn list(
        &self,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> Vec<(SessionIdentity, SessionRef)> {
        let after = after.map(Key::of);
        let mut lowest: BinaryHeap<Listed> = BinaryHeap::new();
        let state = self.inner.state.lock();
        for (identity, owner) in of_tenant(&state.roster, tenant) {
            let key = Key::of(identity);
            if after.is_some_and(|after| key <= after) || count_max == 0 {
                continue;
            }
            if lowest.len() >= count_max {
                if lowest.peek().is_some_and(|top| key >= Key::of(&top.identity)) {
                    continue;
                }
                lowest.pop();
            }
            lowest.push(Listed { identity: (**identity).clone(), owner });
        }
        let listed = lowest.into_sorted_vec();
        listed.into_iter().map(|listed| (listed.identity, listed.owner)).collect()
    }

    fn len(&self) -> usize {
        self.inner.state.lock().roster.len()
    }
}

/// The sessions of a tenant at this node.
fn of_tenant<'a>(
    roster: &'a Roster,
    tenant: &'a TenantId,
) -> impl Iterator<Item = (&'a Arc<SessionIdentity>, SessionRef)> {
    let first = first_of(tenant);
    // The bound is only looked at here.
    let sessions = roster.sessions(Bound::Included(&first));
    let of_it = sessions.take_while(|(identity, _)| identity.tenant == *tenant);
    of_it.collect::<Vec<_>>().into_iter()
}

/// Not behind any session of a tenant.
fn first_of(tenant: &TenantId) -> SessionIdentity {
    SessionIdentity { tenant: tenant.clone(), user: None, client: ClientId::new("") }
}

impl Inner {
    fn time(&self) -> Time {
        Time { now: self.clock.now(), wall: self.clock.wall() }
    }

    /// Does what the roster wants; whether the session that is being claimed was granted.
    fn perform(
        self: &Arc<Self>,
        state: &mut State,
        mut effects: Effects,
        claimed: Option<SessionRef>,
    ) -> bool {
        let mut is_granted = false;
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Ask(server, question) => self.ask(state, server, question, &mut effects),
                Effect::Meet(host, meeting) => {
                    let met = match state.ways.get(&host) {
                        Some(way) => way.meet(meeting),
                        None => Err(meeting),
                    };
                    if let Err(meeting) = met {
                        state.roster.met(self.time(), host, &meeting, None, &mut effects);
                    }
                }
                Effect::Answer(ticket, verdict) => {
                    if let Some(asker) = state.tickets.remove(&ticket) {
                        // Who gave up is not told.
                        let _ = asker.send(verdict);
                    }
                }
                Effect::End(session) => self.holders.end(session, EndCause::TakenOver),
                Effect::Grant(session) if claimed == Some(session) => is_granted = true,
                Effect::Grant(session) => self.holders.grant(session),
            }
        }
        is_granted
    }

    fn ask(&self, state: &mut State, server: Host, question: Question, effects: &mut Effects) {
        let time = self.time();
        if let Some(directory) = self.directory.as_ref().filter(|_| server == self.me) {
            let reply = directory.lock().step(time, self.me, &question);
            state.roster.replied(time, server, &question, Some(reply), effects);
            return;
        }
        let way = state.ways.get(&server);
        let asked = match way {
            Some(way) => way.ask(question),
            None => Err(NotAsked { question, is_full: false }),
        };
        let Err(NotAsked { question, is_full }) = asked else { return };
        if is_full && let Question::Register { session, is_claim: true, .. } = &question {
            state.overloaded += 1;
            self.holders.end(*session, EndCause::Overloaded);
        }
        state.roster.replied(time, server, &question, None, effects);
    }

    /// Something was heard of another host.
    fn hear(self: &Arc<Self>, what: impl FnOnce(&mut Roster, Time, &mut Effects)) {
        let mut state = self.state.lock();
        let mut effects = Effects::new();
        what(&mut state.roster, self.time(), &mut effects);
        self.perform(&mut state, effects, None);
    }

    /// Takes to heart which servers and nodes there are.
    fn see(self: &Arc<Self>) {
        let discovery = self.node.discovery();
        let hosts = |service: &str| {
            let landscape = discovery.watch(&service_name(service)).borrow().clone();
            hosts_of(&landscape)
        };
        let servers = hosts(wire::DirectoryClient::SERVICE);
        let nodes = hosts(wire::HoldersClient::SERVICE);
        let view = View::new(&servers, &nodes);
        if let Some(directory) = &self.directory {
            directory.lock().set_members(view.clone(), &nodes);
        }
        let mut state = self.state.lock();
        let others: BTreeSet<Host> =
            servers.union(&nodes).copied().filter(|host| *host != self.me).collect();
        state.ways.retain(|host, _| others.contains(host));
        for host in others {
            state.ways.entry(host).or_insert_with(|| Way::open(self, host));
        }
        let mut effects = Effects::new();
        state.roster.set_members(self.time(), view, &nodes, &mut effects);
        self.perform(&mut state, effects, None);
    }

    fn stats(&self) -> ClusterStats {
        let (sessions, roster, overloaded) = {
            let state = self.state.lock();
            (state.roster.len(), state.roster.stats(), state.overloaded)
        };
        let registered = self.directory.as_ref().map_or(0, |directory| directory.lock().len());
        ClusterStats { sessions, registered, roster, overloaded }
    }
}

fn hosts_of(landscape: &Landscape) -> BTreeSet<Host> {
    landscape.servers.values().map(|server| Host(server.host.0)).collect()
}

/// What a host's server is called.
fn server_id(host: Host) -> ServerId {
    ServerId::new(&host.to_string()).expect("32 digits are a name")
}

fn service_name(name: &str) -> ServiceName {
    ServiceName::new(name).expect("it is the name of a service")
}

/// Follows who is there.
async fn watch(inner: std::sync::Weak<Inner>, node: Node) {
    let mut servers = node.discovery().watch(&service_name(wire::DirectoryClient::SERVICE));
    let mut nodes = node.discovery().watch(&service_name(wire::HoldersClient::SERVICE));
    loop {
        servers.mark_unchanged();
        nodes.mark_unchanged();
        let Some(inner) = inner.upgrade() else { return };
        inner.see();
        drop(inner);
        // Both are cancel-safe.
        let changed = tokio::select! {
            changed = servers.changed() => changed,
            changed = nodes.changed() => changed,
        };
        if changed.is_err() {
            // A discovery that has ended says nothing more.
            return std::future::pending().await;
        }
    }
}

/// Lets time pass.
async fn tick(inner: std::sync::Weak<Inner>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        inner.hear(Roster::tick);
        if let Some(directory) = &inner.directory {
            directory.lock().sweep(SWEEP);
        }
    }
}

impl std::fmt::Debug for ClusterDict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ClusterDict").field("me", &self.inner.me).finish_non_exhaustive()
    }
}
