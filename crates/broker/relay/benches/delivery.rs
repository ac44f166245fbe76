//! What two hosts of one process carry over the loopback, each with its calls on a thread of its own:
//! messages of 32 bytes, as many as go, and one at a time; and how long many routes take to be known and to
//! be forgotten.
//!
//! `cargo bench -p ratatosk-relay --bench delivery` prints messages a second, the time from a caller to the
//! other host's deliverer, and the time of the routes. `-- ROUNDS SECONDS ROUTES` sets how much of each.
#![allow(clippy::disallowed_methods, reason = "a benchmark waits for what it measures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_codec::Qos;
use ratatosk_contract::relay::{
    Addressee, Deliverer, Dispatch, Dispatched, Fate, IsVisible, Outcomes, Parcel, Relay as _,
};
use ratatosk_contract::{
    HostNumber, Message, PublisherId, ReplyTo, SessionRef, ShardId, TenantId, Ticket,
};
use ratatosk_dist::DistService;
use ratatosk_relay::{Config, HostRelay, Serving};
use ratatosk_rpc::{
    ClusterId, Environment, HostId, Identity, Listener, MemoryDiscovery, Node, Permission, Version,
};
use ratatosk_telemetry::memory::Accountant;
use ratatosk_telemetry::metric::Registry;
use ratatosk_topic::{TopicFilter, TopicLimits};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// Bytes of a payload.
const BYTES: usize = 32;
/// Messages that are not answered at a time, in the first part.
const WINDOW: u64 = 20_000;
const ROUNDS: u64 = 3;
const SECONDS: u64 = 3;
const ROUTES: u64 = 200_000;
const LONG: Duration = Duration::from_secs(300);

fn main() {
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let number = |at, or| numbers.get(at).copied().unwrap_or(or);
    let span = Duration::from_secs(number(1, SECONDS));
    let clock = SystemClock::new();
    let discovery = MemoryDiscovery::new();
    let [one, two] = [1, 2].map(|id| Host::start(&discovery, id, clock));
    let host = one.knows(2);
    for _ in 0..number(0, ROUNDS) {
        one.run_all(&two, host, span);
        one.run_single(&two, host, span);
    }
    one.run_routes(&two, &discovery, number(2, ROUTES));
}

struct Host {
    relay: HostRelay,
    sessions: Arc<Sessions>,
    dist: Arc<DistService>,
    clock: SystemClock,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

type Parts = (HostRelay, Serving, Listener, Node);

impl Host {
    fn start(discovery: &MemoryDiscovery, id: u128, clock: SystemClock) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let dist = Arc::new(DistService::new());
        let sessions = Arc::new(Sessions::new(clock));
        let parts: Parts = runtime.block_on(parts(discovery, id, clock, &dist, &sessions));
        let relay = parts.0.clone();
        let end = CancellationToken::new();
        let until = end.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(until.cancelled());
            drop(parts);
        });
        Self { relay, sessions, dist, clock, end, thread: Some(thread) }
    }

    fn knows(&self, id: u128) -> HostNumber {
        until("the other host", || self.relay.hosts().borrow().get(&HostId(id)).copied())
    }

    /// As many as go, with a bounded number on their way.
    fn run_all(&self, other: &Host, host: HostNumber, span: Duration) {
        let (tenant, payload) = (TenantId::new("t"), [7; BYTES]);
        let base = self.sessions.settled.load(Ordering::Relaxed);
        let received = other.sessions.came.load(Ordering::Relaxed);
        let begun = self.clock.now();
        let mut sent = 0;
        while self.clock.now().since(begun) < span {
            if sent - (self.sessions.settled.load(Ordering::Relaxed) - base) > WINDOW {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            for _ in 0..100 {
                let dispatch = dispatch(&tenant, &payload, self.clock.now());
                sent += self.relay.send(&dispatch, &[host], Some(reply())).pending as u64;
            }
        }
        until("the last answer", || {
            (self.sessions.settled.load(Ordering::Relaxed) - base == sent).then_some(())
        });
        let took = self.clock.now().since(begun);
        let came = other.sessions.came.load(Ordering::Relaxed) - received;
        println!(
            "all       {:>9.0} messages/s, {came} of {sent} came",
            came as f64 / took.as_secs_f64()
        );
    }

    /// One at a time: each is sent when the one before has come.
    fn run_single(&self, other: &Host, host: HostNumber, span: Duration) {
        let (tenant, payload) = (TenantId::new("t"), [7; BYTES]);
        let (told, tells) = mpsc::sync_channel(1);
        *other.sessions.told.lock() = Some(told);
        other.sessions.is_timed.store(true, Ordering::Relaxed);
        let begun = self.clock.now();
        let mut micros = Vec::with_capacity(1 << 20);
        while self.clock.now().since(begun) < span {
            let sent = self.clock.now();
            self.relay.send(&dispatch(&tenant, &payload, sent), &[host], None);
            let came = tells.recv_timeout(LONG).expect("it comes");
            micros.push(came.since(sent).as_nanos() as f64 / 1_000.0);
        }
        other.sessions.is_timed.store(false, Ordering::Relaxed);
        *other.sessions.told.lock() = None;
        micros.sort_by(f64::total_cmp);
        let at = |percent: usize| micros[(micros.len() - 1) * percent / 100];
        let (p50, p99) = (at(50), at(99));
        println!("single    p50 {p50:.1} us, p99 {p99:.1} us, {} messages", micros.len());
    }

    /// How long it takes until another host knows many routes, and has forgotten them.
    fn run_routes(&self, other: &Host, discovery: &MemoryDiscovery, count: u64) {
        let tenant = TenantId::new("t");
        let begun = self.clock.now();
        for number in 0..count {
            let text = format!("devices/{number}/commands/+");
            let filter = TopicFilter::parse(&text, &TopicLimits::PROTOCOL).expect("a filter");
            other.relay.want(&tenant, &filter);
        }
        let wanted = self.clock.now();
        let count = usize::try_from(count).expect("few");
        let known =
            |count| until("the routes", || (self.dist.stats().hosts == count).then_some(()));
        known(count);
        let followed = self.clock.now();
        discovery.remove_host(HostId(2));
        known(0);
        let gone = self.clock.now();
        println!(
            "routes    {count}: wanted in {:?}, known {:?} later, forgotten in {:?}",
            wanted.since(begun),
            followed.since(wanted),
            gone.since(followed)
        );
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn parts(
    discovery: &MemoryDiscovery,
    id: u128,
    clock: SystemClock,
    dist: &Arc<DistService>,
    sessions: &Arc<Sessions>,
) -> Parts {
    let identity = Identity {
        cluster: ClusterId(7),
        environment: Environment::new("bench").expect("a name"),
        host: HostId(id),
        version: Version::CURRENT,
    };
    let (registry, books) = (Registry::new(9), Accountant::default());
    let discovery = Arc::new(discovery.clone());
    let node = Node::new(ratatosk_rpc::Config::new(identity), discovery, &registry, 7);
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = node.listen(any, None, Permission::Silent).await.expect("a port");
    let mut config = Config::new(1);
    config.patience = LONG;
    let dist = Arc::clone(dist) as _;
    let relay = HostRelay::new(node.clone(), &registry, &books, clock, dist, config);
    let serving = relay.serve(Arc::clone(sessions) as _, Arc::clone(sessions) as _);
    (relay, serving.expect("it is announced"), listener, node)
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LONG.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what} did not come");
}

fn reply() -> ReplyTo {
    let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
    ReplyTo { session, ticket: Ticket(0) }
}

fn dispatch<'a>(tenant: &'a TenantId, payload: &'a [u8], now: Instant) -> Dispatch<'a> {
    let message = Message {
        topic: "devices/17/commands/start",
        payload,
        shared: None,
        properties: &[],
        qos: Qos::AtLeastOnce,
        retain: false,
        publisher: PublisherId(7),
        accepted: now,
        deadline: None,
    };
    Dispatch { tenant, to: Addressee::Sessions, message }
}

/// Counts what comes.
struct Sessions {
    clock: SystemClock,
    came: AtomicU64,
    settled: AtomicU64,
    is_timed: AtomicBool,
    told: Mutex<Option<SyncSender<Instant>>>,
}

impl Sessions {
    fn new(clock: SystemClock) -> Self {
        let (came, settled) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { clock, came, settled, is_timed: AtomicBool::new(false), told: Mutex::new(None) }
    }
}

impl Deliverer for Sessions {
    fn deliver(&self, parcels: &[Parcel<'_>], fates: &mut Vec<Fate>) {
        fates.extend(parcels.iter().map(|_| Fate::Taken));
        self.came.fetch_add(parcels.len() as u64, Ordering::Relaxed);
        if self.is_timed.load(Ordering::Relaxed)
            && let Some(told) = &*self.told.lock()
        {
            // Who measured this one has ended.
            let _ = told.try_send(self.clock.now());
        }
    }
}

impl Outcomes for Sessions {
    fn settled(&self, dispatched: &[Dispatched]) {
        self.settled.fetch_add(dispatched.len() as u64, Ordering::Relaxed);
    }

    fn visible(&self, _reply_to: ReplyTo, _is_visible: IsVisible) {}
}
