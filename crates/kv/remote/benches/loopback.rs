//! What three nodes of one process carry out over the loopback, with threads, disks and sockets: proposals
//! of 256 bytes, 256 on their way at any time, for one group and for 32 with their leaders spread; once by
//! callers at the leader, and once by callers at a node that does not lead.
//!
//! `cargo bench -p ratatosk-remote --bench loopback` prints proposals a second and their latencies.
//! `-- ROUNDS SECONDS` sets how many turns and how long each. To be held against `--bench replicas` of
//! `ratatosk-store`, where packets go by a function call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use parking_lot::RwLock;
use ratatosk_balance::RuleBook;
use ratatosk_client::{Outcome, Ranges as _, Route, Router};
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_remote::bootstrap::council::Pace;
use ratatosk_remote::node::{Config, Keeping, Node, Port, Store};
use ratatosk_rpc::Permission;
use ratatosk_store::command::Commands;
use ratatosk_store::coprocessor::Keyspaces;
use ratatosk_store::log::GroupId;
use ratatosk_stores::counter::nothings;
use ratatosk_stores::until;
use ratatosk_telemetry::metric::Registry;
use ratatosk_testkit::scratch::Scratch;

/// Bytes of a proposal.
const BYTES: usize = 256;
/// Proposals on their way.
const CALLERS: usize = 256;
const NODES: u64 = 3;
const ROUNDS: u64 = 3;
const SECONDS: u64 = 4;
/// How often routers are polled.
const POLL: Duration = Duration::from_millis(20);

/// Which callers there are.
#[derive(Copy, Clone)]
enum Place {
    Leader,
    Elsewhere,
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let rounds = numbers.first().copied().unwrap_or(ROUNDS);
    let span = Duration::from_secs(numbers.get(1).copied().unwrap_or(SECONDS));
    for groups in [1, 32] {
        let world = World::start(groups);
        for _ in 0..rounds {
            for (name, place) in [("leader", Place::Leader), ("elsewhere", Place::Elsewhere)] {
                world.run(place, span).print(name, groups);
            }
        }
    }
}

/// Nodes that keep every range, with leaders spread.
struct World {
    clock: SystemClock,
    nodes: Vec<Node>,
    names: Vec<String>,
    _scratch: Scratch,
}

impl World {
    fn start(groups: usize) -> Self {
        let (scratch, clock) = (Scratch::new("bench-remote"), SystemClock::new());
        let names: Vec<String> = (0..groups).map(|number| number.to_string()).collect();
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=NODES {
            let seeds = nodes.iter().map(|node| node.host().address().to_string()).collect();
            let folder = scratch.path().join(number.to_string());
            let config = config(clock, number, seeds, folder, &names);
            nodes.push(Node::start(config).unwrap_or_else(|error| panic!("{number}: {error}")));
        }
        let world = Self { clock, nodes, names, _scratch: scratch };
        until("every range is kept by all, and led evenly", || {
            let led = world.nodes.iter().map(|node| node.handle().leads().len());
            let led: Vec<usize> = led.collect();
            let are_all_kept = world.names.iter().all(|name| {
                let ranges = world.nodes.iter().map(|node| node.handle().ranges(name));
                ranges.flatten().filter(|range| range.membership.target().voters.len() == 3).count()
                    == 3
            });
            let apart = led.iter().max()? - led.iter().min()?;
            (are_all_kept && led.iter().sum::<usize>() == groups && apart <= 1).then_some(())
        });
        world
    }

    fn run(&self, place: Place, span: Duration) -> Figures {
        let (told, tells) = mpsc::sync_channel(CALLERS);
        let common = Arc::new(Common {
            clock: self.clock,
            is_over: AtomicBool::new(false),
            refusals: AtomicU64::new(0),
        });
        let start = self.clock.now();
        for number in 0..CALLERS {
            let name = &self.names[number % self.names.len()];
            let (node, route) = until("a route", || {
                self.nodes.iter().for_each(|node| node.router().poll());
                self.route(place, name)
            });
            let (data, micros) = (data_for(&route), Vec::with_capacity(1 << 16));
            let router = self.nodes[node].router().clone();
            let (common, name) = (Arc::clone(&common), name.clone());
            let begun = common.clock.now();
            let group = route.descriptor.group;
            Caller { router, name, group, route, data, common, micros }.call(begun, told.clone());
        }
        while self.clock.now().since(start) < span {
            std::thread::sleep(POLL);
            self.nodes.iter().for_each(|node| node.router().poll());
        }
        common.is_over.store(true, Ordering::Relaxed);
        let span = self.clock.now().since(start);
        drop(told);
        let micros = tells.into_iter().flatten().collect();
        let refusals = common.refusals.load(Ordering::Relaxed);
        if refusals > 0 {
            println!("leaders changed: {refusals} calls went to others");
        }
        Figures::new(span, micros)
    }

    /// The node from where a range is called, and the way.
    fn route(&self, place: Place, name: &str) -> Option<(usize, Route)> {
        let group = self.nodes[0].handle().ranges(name).first()?.group;
        let leads = |node: &Node| node.handle().leads().contains(&group);
        let leader = self.nodes.iter().position(leads)?;
        let node = match place {
            Place::Leader => leader,
            Place::Elsewhere => (leader + 1) % self.nodes.len(),
        };
        let route = self.nodes[node].router().routes(name).pop()?;
        let store = self.nodes[leader].handle().identity().store;
        route.leader.filter(|leader| leader.store == store)?;
        let ranges = self.nodes[leader].handle().ranges(name);
        ranges.first().filter(|range| range.version == route.descriptor.version)?;
        Some((node, route))
    }
}

fn config(
    clock: SystemClock,
    number: u64,
    seeds: Vec<String>,
    folder: std::path::PathBuf,
    names: &[String],
) -> Config {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut host = ratatosk_cluster::Config::new(clock, "bench", any);
    host.seeds = seeds;
    let keyspaces = names.iter().map(|name| (name.clone(), nothings())).collect();
    Config {
        clock,
        registry: Registry::new(1),
        random: [77, number, number, number],
        host,
        expect: None,
        pace: Pace::default(),
        patience: Duration::from_secs(30),
        port: Port { address: any, advertised: None, permission: Permission::Silent, tls: None },
        store: Store {
            folder,
            keyspaces: Keyspaces::new(keyspaces),
            cache_bytes: 8 << 20,
            checkpoint_interval: Duration::from_millis(200),
            checkpoint_bytes: 64 << 20,
            on_failure: Box::new(|reason| panic!("the store failed: {reason}")),
        },
        keeping: Keeping {
            labels: BTreeMap::new(),
            keyspaces: names.iter().cloned().collect(),
            copies: [].into(),
            rules: Arc::new(RwLock::new(RuleBook::default())),
            interval: Duration::from_millis(200),
        },
        adjust: |_, _| {},
    }
}

struct Common {
    clock: SystemClock,
    is_over: AtomicBool,
    /// How often somebody asked a store that did not lead.
    refusals: AtomicU64,
}

/// Proposes again as soon as it has an answer.
struct Caller {
    router: Router,
    name: String,
    group: GroupId,
    route: Route,
    data: Vec<u8>,
    common: Arc<Common>,
    micros: Vec<u32>,
}

impl Caller {
    fn call(self, begun: Instant, told: SyncSender<Vec<u32>>) {
        let (router, route, data) = (self.router.clone(), self.route.clone(), self.data.clone());
        router.propose(
            &route,
            data,
            Box::new(move |outcome| match outcome {
                Outcome::Applied(_) => self.answered(begun, told),
                Outcome::Refused(_) | Outcome::Unknown => self.elsewhere(begun, told),
            }),
        );
    }

    fn answered(mut self, begun: Instant, told: SyncSender<Vec<u32>>) {
        let now = self.common.clock.now();
        let micros = now.since(begun).as_micros();
        self.micros.push(u32::try_from(micros).unwrap_or(u32::MAX));
        match self.common.is_over.load(Ordering::Relaxed) {
            true => drop(told.send(self.micros)),
            false => self.call(now, told),
        }
    }

    /// Goes by what is known now; what that costs counts.
    fn elsewhere(mut self, begun: Instant, told: SyncSender<Vec<u32>>) {
        self.common.refusals.fetch_add(1, Ordering::Relaxed);
        let known = self.router.routes(&self.name).into_iter();
        let known = known.filter(|route| route.descriptor.group == self.group).last();
        self.route = known.unwrap_or(self.route);
        self.data = data_for(&self.route);
        match self.common.is_over.load(Ordering::Relaxed) {
            true => drop(told.send(self.micros)),
            false => self.call(begun, told),
        }
    }
}

/// A proposal for a range as it is known.
fn data_for(route: &Route) -> Vec<u8> {
    let mut commands = Commands::new(route.descriptor.version);
    commands.push(&[7; BYTES]);
    commands.into_data()
}

/// What a run came to.
struct Figures {
    per_second: f64,
    /// Milliseconds, in ascending order.
    latencies: Vec<f64>,
}

impl Figures {
    /// Of so many seconds, from the microseconds that each proposal took.
    fn new(span: Duration, mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        let per_second = micros.len() as f64 / span.as_secs_f64();
        let latencies = micros.into_iter().map(|micros| f64::from(micros) / 1e3).collect();
        Self { per_second, latencies }
    }

    /// The latency that so many of a thousand do not exceed.
    fn of(&self, per_mille: usize) -> f64 {
        let place = self.latencies.len() * per_mille / 1_000;
        self.latencies.get(place).or(self.latencies.last()).copied().unwrap_or(f64::NAN)
    }

    fn print(&self, name: &str, groups: usize) {
        let Self { per_second, .. } = self;
        let (middle, most, worst) = (self.of(500), self.of(990), self.of(1_000));
        println!(
            "{name:<10} {groups:>2} groups {per_second:>8.0}/s  p50 {middle:>6.2} ms  p99 {most:>6.2} ms  \
             max {worst:>6.1} ms"
        );
    }
}
