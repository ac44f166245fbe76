//! A running host, and the handles that other threads have of it.
//!
//! Handles take the machine's lock for microseconds, and wake the thread that owns the sockets to send
//! what came of it; they never wait for the network.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use ratatosk_clock::SystemClock;

use crate::config::{Config, StartError};
use crate::driver::{Driver, seeds};
use crate::protocol::envelope::environment_tag;
use crate::protocol::identity::{ClusterId, Host, HostId};
use crate::protocol::machine::{Effects, Event, Input, Machine, Member, SendError, Setup, Sources};
use crate::protocol::message::{Audience, Carriage};
use crate::protocol::record::{AgentAddress, AgentName, RecordError};
use crate::protocol::records::Landscape;
use crate::protocol::refusal::Counters;
use crate::protocol::shared_map::{MapError, MapKey};
use crate::protocol::stream::Credentials;
use crate::watch::Watch;

/// Messages that wait for an agent; more are dropped and counted.
pub const INBOX_MAX: usize = 256;
/// Events that wait for a subscriber; more are dropped.
const EVENTS_MAX: usize = 1024;

/// What a space of the shared map has.
pub type Space = BTreeMap<Bytes, Bytes>;

/// A message that an agent got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The agent that sent it.
    pub from: AgentAddress,
    /// What it says.
    pub body: Bytes,
}

/// A running host. Dropped, it stops without a word, as a crash would.
///
/// ```no_run
/// # use std::time::Duration;
/// # use ratatosk_clock::SystemClock;
/// # use ratatosk_cluster::{AgentName, Audience, Carriage, Cluster, Config};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::new(SystemClock::new(), "prod", "10.0.0.1:7883".parse()?);
/// config.seeds = vec!["cluster.example:7883".into()];
/// let cluster = Cluster::start(config)?;
/// let agent = cluster.register(AgentName::new("store", "1")?, "about it".into())?;
/// let stores = cluster.agents("store");
/// stores.wait_until(Duration::from_secs(10), |stores| stores.len() == 3);
/// agent.send(&Audience::Service("store".into()), &"hello".into(), Carriage::Datagram)?;
/// drop(agent);
/// cluster.leave(Duration::from_secs(5));
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// An agent of this host. Dropped, it is taken out of the host's record.
pub struct Agent {
    shared: Arc<Shared>,
    name: AgentName,
    messages: Receiver<Incoming>,
}

/// What the threads of a host share.
pub(crate) struct Shared {
    pub(crate) clock: SystemClock,
    pub(crate) state: Mutex<State>,
    pub(crate) members: Watch<Vec<Member>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) waker: mio::Waker,
    is_stopped: AtomicBool,
    /// Whether the farewell was said, or never will be.
    is_departed: Mutex<bool>,
    departed: Condvar,
}

/// What is changed under the lock.
pub(crate) struct State {
    pub(crate) machine: Machine,
    pub(crate) effects: Effects,
    pub(crate) inboxes: BTreeMap<AgentName, SyncSender<Incoming>>,
    pub(crate) landscapes: BTreeMap<String, Watch<Landscape>>,
    pub(crate) spaces: BTreeMap<String, Watch<Space>>,
    pub(crate) subscribers: Vec<SyncSender<Event>>,
}

impl Cluster {
    /// Starts a host. It has found nobody yet when this returns.
    ///
    /// # Errors
    /// If the configuration makes no sense, its address cannot be listened on, or the system refuses a
    /// thread. Nothing is left running.
    pub fn start(config: Config) -> Result<Cluster, StartError> {
        config.check()?;
        let clock = config.clock;
        let (sockets, waker) = Driver::bind(&config)?;
        let address = sockets.advertised(&config)?;
        if config.keys.is_none() && !address.ip().is_loopback() {
            tracing::warn!(%address, "the cluster has no key: whoever reaches it is believed");
        }
        let mut seed = [0; 32];
        let mut id = [0; 16];
        for bytes in [&mut seed[..], &mut id[..]] {
            getrandom::fill(bytes).map_err(|error| StartError::System(io::Error::other(error)))?;
        }
        let default_sources = if config.keys.is_some() { Sources::Any } else { Sources::Exact };
        let generation = clock.wall().as_millis();
        let counters = Arc::new(Counters::default());
        let credentials = Credentials {
            environment: environment_tag(&config.environment),
            cluster: config.cluster,
            keys: config.keys.clone(),
        };
        let stream_time = config.tuning.stream_time;
        let setup = Setup {
            host: Host { address, generation, id: HostId::from_bytes(id) },
            environment: config.environment,
            cluster: config.cluster,
            keys: config.keys,
            sources: config.sources.unwrap_or(default_sources),
            labels: config.labels,
            tuning: config.tuning,
            seed,
            epoch: clock.epoch(),
            counters: counters.clone(),
        };
        let state = State {
            machine: Machine::new(clock.now(), setup)?,
            effects: Effects::default(),
            inboxes: BTreeMap::new(),
            landscapes: BTreeMap::new(),
            spaces: BTreeMap::new(),
            subscribers: Vec::new(),
        };
        let shared = Arc::new(Shared {
            clock,
            state: Mutex::new(state),
            members: Watch::new(Vec::new()),
            counters,
            waker,
            is_stopped: AtomicBool::new(false),
            is_departed: Mutex::new(false),
            departed: Condvar::new(),
        });
        let mut cluster = Cluster { shared: shared.clone(), threads: Vec::new() };
        let driver = Driver::new(shared.clone(), sockets, credentials, stream_time);
        cluster.spawn("cluster", move || driver.run())?;
        if !config.seeds.is_empty() {
            cluster.spawn("cluster-seeds", move || seeds::run(&shared, config.seeds))?;
        }
        Ok(cluster)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(StartError::System)?);
        Ok(())
    }

    /// This host as it calls itself now.
    pub fn host(&self) -> Host {
        self.shared.state.lock().machine.host()
    }

    /// Where others reach this host.
    pub fn address(&self) -> SocketAddr {
        self.host().address
    }

    /// The cluster that this host is in, if it knows.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.shared.state.lock().machine.cluster()
    }

    /// Says in which cluster this host is, which had none: whoever makes a cluster calls this.
    ///
    /// # Errors
    /// The cluster that it is in already, if that is another one; nothing was changed.
    pub fn set_cluster_id(&self, cluster: ClusterId) -> Result<(), ClusterId> {
        self.shared.order(|state, _| state.machine.set_cluster(cluster))
    }

    /// Whether its threads run. They end before the host is stopped only if something in them is broken:
    /// the cluster is then seen no longer as it is.
    pub fn is_running(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// How well this host itself does: 0, healthy, to 4. CLU-006
    pub fn health(&self) -> u8 {
        self.shared.state.lock().machine.score()
    }

    /// The other hosts that count as alive, by id.
    pub fn members(&self) -> Watch<Vec<Member>> {
        self.shared.members.clone()
    }

    /// What happens from now on. Who is slow to take it loses some; members and landscapes are whole
    /// in their watches.
    pub fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(EVENTS_MAX);
        self.shared.state.lock().subscribers.push(sender);
        receiver
    }

    /// The agents of a service on all hosts that count as alive, those of this host included.
    pub fn agents(&self, service: &str) -> Watch<Landscape> {
        let mut state = self.shared.state.lock();
        let first = state.machine.landscape(service);
        let watch = state.landscapes.entry(service.to_owned());
        watch.or_insert_with(|| Watch::new(first)).clone()
    }

    /// What a space of the shared map has.
    pub fn space(&self, space: &str) -> Watch<Space> {
        let mut state = self.shared.state.lock();
        let first = state.machine.space(space);
        let watch = state.spaces.entry(space.to_owned());
        watch.or_insert_with(|| Watch::new(first)).clone()
    }

    /// Writes an entry of the shared map, or removes it. The last writer wins.
    ///
    /// # Errors
    /// If the value is too long or the map is full; nothing was changed.
    pub fn write(&self, key: &MapKey, value: Option<Bytes>) -> Result<(), MapError> {
        let now = self.shared.clock.now();
        self.shared.order(|state, effects| state.machine.write(now, key, value, effects))
    }

    /// Puts an agent into this host's record, and tells the cluster. CLU-010
    ///
    /// # Errors
    /// If this host has one of that name, or would tell too much; nothing was changed.
    pub fn register(&self, name: AgentName, metadata: Bytes) -> Result<Agent, RecordError> {
        let (sender, messages) = sync_channel(INBOX_MAX);
        let now = self.shared.clock.now();
        self.shared.order(|state, effects| {
            state.machine.register(now, &name, metadata, effects)?;
            state.inboxes.insert(name.clone(), sender);
            Ok(())
        })?;
        Ok(Agent { shared: self.shared.clone(), name, messages })
    }

    /// Says that a host is dead, for its ports refuse connections: nobody listens there any more. It counts as
    /// dead at once, in the whole cluster; if it lives, it refutes that. Nothing happens if it counts as dead
    /// already.
    pub fn report_dead(&self, host: HostId) {
        let now = self.shared.clock.now();
        self.shared.order(|state, effects| state.machine.report_dead(now, host, effects));
    }

    /// What was counted.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// Tells all members that this host goes, so that nobody takes it for dead, and stops. False if that
    /// could not be told within `timeout`. CLU-007
    pub fn leave(self, timeout: Duration) -> bool {
        self.depart(timeout)
    }

    /// The same for who shares the host: what is left of it says and hears nothing any more.
    pub fn depart(&self, timeout: Duration) -> bool {
        let now = self.shared.clock.now();
        self.shared.order(|state, effects| state.machine.leave(now, effects));
        let mut is_departed = self.shared.is_departed.lock();
        self.shared.departed.wait_while_for(&mut is_departed, |departed| !*departed, timeout);
        *is_departed
    }

    /// Stops without a word, for who shares the host: the others notice by themselves.
    pub fn halt(&self) {
        self.shared.stop();
    }

    /// Stops without a word: the others notice by themselves.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the cluster panicked");
            }
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Cluster").field("host", &self.host()).finish_non_exhaustive()
    }
}

impl Agent {
    /// Its address, by which others send to it.
    pub fn address(&self) -> AgentAddress {
        let host = self.shared.state.lock().machine.host().id;
        AgentAddress { host, name: self.name.clone() }
    }

    /// Changes what it tells of itself.
    ///
    /// # Errors
    /// If this host would tell too much; nothing was changed.
    pub fn update(&self, metadata: Bytes) -> Result<(), RecordError> {
        let now = self.shared.clock.now();
        self.shared.order(|state, effects| state.machine.update(now, &self.name, metadata, effects))
    }

    /// Sends to one agent, to all of a name, or to all of a service; never to itself. CLU-010
    ///
    /// # Errors
    /// If it is too long, or no agent that counts as alive is meant. Otherwise it is on its way, which
    /// says nothing of its arrival.
    pub fn send(
        &self,
        audience: &Audience,
        body: &Bytes,
        carriage: Carriage,
    ) -> Result<(), SendError> {
        self.shared.order(|state, effects| {
            state.machine.send_message(&self.name, audience, body, carriage, effects)
        })
    }

    /// What it gets, in the order in which it came. Of what nobody takes, [`INBOX_MAX`] wait.
    pub fn messages(&self) -> &Receiver<Incoming> {
        &self.messages
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        self.shared.order(|state, effects| {
            state.inboxes.remove(&self.name);
            // A host that has left has no agents.
            let _ = state.machine.deregister(now, &self.name, effects);
        });
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Agent").field(&self.name).finish()
    }
}

impl Shared {
    /// Lets the machine do something, and has the driver carry out what came of it.
    fn order<T>(&self, order: impl FnOnce(&mut State, &mut Effects) -> T) -> T {
        let done = {
            let mut state = self.state.lock();
            let mut effects = std::mem::take(&mut state.effects);
            let done = order(&mut state, &mut effects);
            state.effects = effects;
            done
        };
        self.wake();
        done
    }

    /// Lets the machine take something; the driver carries out what came of it with its next turn.
    pub(crate) fn step(&self, input: Input<'_>) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let mut effects = std::mem::take(&mut state.effects);
        state.machine.step(self.clock.now(), input, &mut effects);
        let reply = effects.reply.take();
        state.effects = effects;
        reply
    }

    /// Has the driver look at the machine.
    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the cluster's thread cannot be woken");
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.depart();
        self.wake();
    }

    /// The farewell was said.
    pub(crate) fn depart(&self) {
        *self.is_departed.lock() = true;
        self.departed.notify_all();
    }

    /// Waits until the host stops, but no longer than `timeout`.
    pub(crate) fn wait_stop(&self, timeout: Duration) {
        let mut is_departed = self.is_departed.lock();
        let goes_on = |_: &mut bool| !self.is_stopped();
        self.departed.wait_while_for(&mut is_departed, goes_on, timeout);
    }
}
