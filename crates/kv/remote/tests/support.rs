//! Nodes of one process, each with a host, a port, a store and a keeper; and what is watched of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use ratatosk_balance::RuleBook;
use ratatosk_balance::landscape::Landscape;
use ratatosk_client::{Fate, Keyspace as _, Pipe, Poller};
use ratatosk_clock::SystemClock;
use ratatosk_cluster::Tuning;
use ratatosk_remote::bootstrap::council::Pace;
use ratatosk_remote::node::{Config, Keeping, Node, Port, StartError, Store};
use ratatosk_rpc::Permission;
use ratatosk_store::coprocessor::Keyspaces;
use ratatosk_stores::counter::{counters, number};
use ratatosk_stores::{PATIENCE, until};
use ratatosk_telemetry::metric::Registry;
use ratatosk_testkit::scratch::Scratch;

pub(crate) const KEYSPACES: [&str; 2] = ["k", "l"];

/// Nodes by their numbers, which are those of their stores.
pub(crate) struct World {
    scratch: Scratch,
    pub(crate) clock: SystemClock,
    pub(crate) rules: Arc<RwLock<RuleBook>>,
    nodes: BTreeMap<u64, Member>,
}

/// A node, and what a service would have of it.
pub(crate) struct Member {
    // Before the node: it has a way to its store.
    _poller: Poller,
    pub(crate) pipe: Pipe,
    pub(crate) registry: Registry,
    pub(crate) node: Node,
}

/// How hosts are to find each other in a test: fast.
pub(crate) fn tuning() -> Tuning {
    Tuning {
        probe_interval: Duration::from_millis(500),
        probe_timeout: Duration::from_millis(200),
        suspicion: Duration::from_millis(800),
        announce_alone: Duration::from_millis(200),
        ..Tuning::default()
    }
}

/// How fast councils of tests are.
pub(crate) const PACE: Pace = Pace {
    settle: Duration::from_millis(1_500),
    round: Duration::from_millis(1_400),
    again: Duration::from_millis(100),
};

impl World {
    /// Without nodes, below a folder with a name.
    pub(crate) fn new(name: &str) -> Self {
        let (nodes, rules) = (BTreeMap::new(), Arc::new(RwLock::new(RuleBook::default())));
        let (scratch, clock) = (Scratch::new(name), SystemClock::new());
        Self { scratch, clock, rules, nodes }
    }

    pub(crate) fn folder(&self, number: u64) -> PathBuf {
        self.scratch.path().join(number.to_string())
    }

    /// The addresses of the hosts that are up.
    pub(crate) fn seeds(&self) -> Vec<String> {
        self.nodes.values().map(|member| member.node.host().address().to_string()).collect()
    }

    /// How a node is started: the first one makes the cluster, the others join it.
    pub(crate) fn config(&self, number: u64) -> Config {
        static STARTS: AtomicU64 = AtomicU64::new(0);
        let start = STARTS.fetch_add(1, Ordering::Relaxed) + 1;
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut host = ratatosk_cluster::Config::new(self.clock, "test", any);
        (host.seeds, host.tuning) = (self.seeds(), tuning());
        let keyspaces = KEYSPACES.map(|name| (name.to_owned(), counters()));
        Config {
            clock: self.clock,
            registry: Registry::new(9),
            // A store's number is the random one of the first start.
            random: [77 + start, start << 8, start, number],
            host,
            expect: None,
            pace: PACE,
            patience: PATIENCE,
            port: Port {
                address: any,
                advertised: None,
                permission: Permission::Silent,
                tls: None,
            },
            store: Store {
                folder: self.folder(number),
                keyspaces: Keyspaces::new(keyspaces.into()),
                cache_bytes: 8 << 20,
                checkpoint_interval: Duration::from_millis(200),
                checkpoint_bytes: 64 << 20,
                on_failure: Box::new(|reason| panic!("the store failed: {reason}")),
            },
            keeping: Keeping {
                labels: BTreeMap::new(),
                keyspaces: KEYSPACES.map(str::to_owned).into(),
                copies: [].into(),
                rules: Arc::clone(&self.rules),
                interval: Duration::from_millis(100),
            },
            adjust: |calls, bounds| {
                calls.reconnect_delay = (Duration::from_millis(10), Duration::from_millis(200));
                bounds.silence_max = Duration::from_secs(2);
            },
        }
    }

    pub(crate) fn start(&mut self, number: u64) {
        let config = self.config(number);
        self.start_with(number, config).unwrap_or_else(|error| panic!("node {number}: {error}"));
    }

    pub(crate) fn start_with(&mut self, number: u64, config: Config) -> Result<(), StartError> {
        let registry = config.registry.clone();
        let node = Node::start(config)?;
        self.add(number, node, registry);
        Ok(())
    }

    pub(crate) fn add(&mut self, number: u64, node: Node, registry: Registry) {
        let router = node.router().clone();
        let pipe = Pipe::new(Box::new(router.clone()), KEYSPACES[0], self.clock);
        let poller = Poller::start(router, vec![pipe.clone()]).expect("a thread");
        self.nodes.insert(number, Member { _poller: poller, pipe, registry, node });
    }

    /// Ends a node as a crash would.
    pub(crate) fn kill(&mut self, number: u64) {
        self.nodes.remove(&number);
    }

    /// Takes a node out, to be stopped.
    pub(crate) fn take(&mut self, number: u64) -> Node {
        self.nodes.remove(&number).expect("it is up").node
    }

    pub(crate) fn member(&self, number: u64) -> &Member {
        &self.nodes[&number]
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.nodes.iter().map(|(number, member)| (*number, member))
    }

    /// Waits until what a node sees of all stores is as wanted.
    pub(crate) fn sees(&self, number: u64, what: &str, is_so: impl Fn(&Landscape) -> bool) {
        let words = self.member(number).node.network().words();
        let end = self.clock.now() + PATIENCE;
        until(what, || {
            let seen = words.landscape();
            assert!(self.clock.now() < end, "node {number}, not yet {what}: {}", shown(&seen));
            is_so(&seen).then_some(())
        });
    }

    /// Waits until every node sees each range kept by just these.
    pub(crate) fn spread(&self, voters: &[u64]) {
        for number in self.nodes.keys() {
            self.sees(*number, "the voters of each range", |seen| is_spread(seen, voters));
        }
    }
}

/// Whether each range is kept by just these voters, by what its leader says.
pub(crate) fn is_spread(seen: &Landscape, voters: &[u64]) -> bool {
    let led = seen.reports().filter(|(.., report)| report.leading.is_some());
    let led: Vec<_> = led.map(|(.., report)| &report.descriptor.membership).collect();
    led.len() == KEYSPACES.len()
        && led.iter().all(|members| {
            let target = members.target();
            !members.is_joint() && target.learners.is_empty() && target.voters.iter().eq(voters)
        })
}

fn shown(seen: &Landscape) -> String {
    let store = |(number, store): (&u64, &ratatosk_balance::landscape::Store)| {
        let ranges = store.replicas.values().map(|report| {
            let members = report.descriptor.membership.target();
            let progress = report.leading.as_ref().map(|leading| &leading.progress);
            format!("{} {members:?} {progress:?}", report.descriptor.keyspace)
        });
        format!("{number} {:?}: {:?}", store.reach, ranges.collect::<Vec<_>>())
    };
    seen.stores.iter().map(store).collect::<Vec<_>>().join("\n")
}

impl Member {
    /// Counts a key so often from a number on, all on their way at once. The last number.
    pub(crate) fn count(&self, key: &'static str, from: u64, times: u64) -> u64 {
        let mut tally = Tally { last: from, in_doubt: 0 };
        tally.count(&self.pipe, key, times);
        tally.last
    }

    /// The sum of the metrics with these words in their lines.
    pub(crate) fn metric(&self, words: &[&str]) -> u64 {
        metric(&self.registry, words)
    }
}

/// How far a key was counted, by what was heard.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) last: u64,
    /// Commands since then that may have counted.
    pub(crate) in_doubt: u64,
}

impl Tally {
    /// Counts a key so often, all on their way at once: the answers are in order, each one more than the
    /// one before but for what was in doubt.
    pub(crate) fn count(&mut self, pipe: &Pipe, key: &'static str, times: u64) {
        let (told, answers) = mpsc::sync_channel(usize::try_from(times).expect("few"));
        for _ in 0..times {
            let told = told.clone();
            let done = Box::new(move |fate| told.send(fate).expect("there is room"));
            pipe.submit(key.as_bytes(), Bytes::from_static(key.as_bytes()), done);
        }
        for _ in 0..times {
            match answers.recv_timeout(PATIENCE).expect("an answer") {
                Fate::Applied(answer) => {
                    let now = number(&answer);
                    let most = self.last + 1 + self.in_doubt;
                    assert!((self.last + 1..=most).contains(&now), "{key}: {now} after {self:?}");
                    self.in_doubt -= now - self.last - 1;
                    self.last = now;
                }
                // It counts for nothing.
                Fate::Refused => {}
                Fate::Unknown => self.in_doubt += 1,
            }
        }
    }
}

pub(crate) fn metric(registry: &Registry, words: &[&str]) -> u64 {
    let page = registry.render();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let matching = lines.filter(|line| words.iter().all(|word| line.contains(word)));
    matching.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
