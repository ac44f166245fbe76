//! Real stores of one process, each with a keeper: ranges find their stores by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use ratatosk_balance::keeper::{Board, Config, Keeper, Words};
use ratatosk_balance::landscape::{Landscape, Standing};
use ratatosk_balance::{RuleBook, Rules, Settings, StoreId};
use ratatosk_clock::SystemClock;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces, Position, Reader, Writer};
use ratatosk_store::node::{self, Node};
use ratatosk_store::transport::Exchange;
use ratatosk_testkit::scratch::Scratch;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(50);
/// Who says nothing for so long is away.
const SILENCE: Duration = Duration::from_millis(500);
const CLUSTER: u64 = 5;
const RANGES: usize = 6;

/// Takes commands and does nothing.
struct Nothing;

impl Coprocessor for Nothing {
    fn reset(&mut self, _boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        _command: &Bytes,
        _writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }

    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }
}

/// Stores, each with a keyspace of one range for each name.
struct Cluster {
    scratch: Scratch,
    exchange: Arc<Exchange>,
    clock: SystemClock,
    board: Arc<Board>,
    rules: Arc<RwLock<RuleBook>>,
    stores: BTreeMap<StoreId, (Keeper, Node)>,
}

impl Cluster {
    fn new(name: &str, stores: u64, rules: Settings) -> Self {
        let (clock, mut book) = (SystemClock::new(), RuleBook::default());
        let rules = Rules::try_from(rules).expect("they make sense");
        names().iter().for_each(|name| book.set(name, rules.clone()));
        let mut cluster = Self {
            scratch: Scratch::new(name),
            exchange: Exchange::new(),
            clock,
            board: Arc::new(Board::new(clock, SILENCE)),
            rules: Arc::new(RwLock::new(book)),
            stores: BTreeMap::new(),
        };
        (1..=stores).for_each(|store| cluster.start(store));
        cluster
    }

    fn start(&mut self, store: StoreId) {
        let names = names();
        let factory = || -> Factory { Box::new(|| Box::new(Nothing)) };
        let node = Node::open(node::Config {
            folder: self.scratch.path().join(store.to_string()),
            keyspaces: Keyspaces::new(names.iter().map(|name| (name.clone(), factory())).collect()),
            cache_bytes: 1 << 20,
            checkpoint_interval: Duration::from_millis(500),
            checkpoint_bytes: usize::MAX,
            random: [store, CLUSTER],
            join: (store > 1).then_some(CLUSTER),
            transport: self.exchange.transport(store),
            on_failure: Box::new(|reason| panic!("the store failed: {reason}")),
        });
        let node = node.expect("the store opens");
        self.exchange.attach(store, &node.handle().receiver());
        let config = Config {
            handle: node.handle(),
            words: Arc::clone(&self.board) as Arc<dyn Words>,
            rules: Arc::clone(&self.rules),
            labels: BTreeMap::new(),
            keyspaces: names.into_iter().collect(),
            interval: INTERVAL,
        };
        let keeper = Keeper::start(config, self.clock).expect("a thread");
        self.stores.insert(store, (keeper, node));
    }

    /// Waits until what the stores tell is as wanted.
    fn until(&self, what: &str, is_so: impl Fn(&Landscape) -> bool) {
        let start = self.clock.now();
        loop {
            let landscape = self.board.landscape();
            if is_so(&landscape) {
                return;
            }
            let span = self.clock.now().since(start);
            assert!(span < PATIENCE, "not in {PATIENCE:?}: {what}: {:?}", places(&landscape));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn names() -> Vec<String> {
    (0..RANGES).map(|number| number.to_string()).collect()
}

fn rules() -> Settings {
    Settings { unreachable_after: Duration::from_secs(1), ..Settings::default() }
}

/// The voters of each range, as its leader has them, and the leader.
fn places(landscape: &Landscape) -> Vec<(StoreId, BTreeSet<StoreId>)> {
    let led = landscape.reports().filter(|(.., report)| report.leading.is_some());
    led.map(|(store, _, report)| {
        let membership = &report.descriptor.membership;
        let is_at_rest = membership.target().learners.is_empty() && !membership.is_joint();
        let voters = membership.target().voters;
        (store, if is_at_rest { voters } else { BTreeSet::new() })
    })
    .collect()
}

/// Whether every range has just these voters, and each of them leads as many, give or take one.
fn is_even(landscape: &Landscape, voters: &[StoreId]) -> bool {
    let places = places(landscape);
    let mut leads: BTreeMap<StoreId, usize> = voters.iter().map(|store| (*store, 0)).collect();
    places.iter().for_each(|(store, _)| *leads.entry(*store).or_default() += 1);
    let apart = leads.values().max().zip(leads.values().min()).map(|(most, least)| most - least);
    places.len() == RANGES
        && places.iter().all(|(_, held)| held.iter().eq(voters))
        && apart.is_some_and(|apart| apart <= 1)
}

/// KV-022, KV-026: what one store made is kept by three, and each leads as much as the others.
#[test]
fn ranges_are_given_to_the_stores_that_join_and_their_leaders_evened() {
    let cluster = Cluster::new("keeper-spread", 3, rules());
    cluster.until("three voters and two leaders each", |seen| is_even(seen, &[1, 2, 3]));
    assert!(cluster.stores.values().all(|(keeper, _)| keeper.alarms().is_empty()));
}

/// KV-020: a store that is lost for long is replaced by another.
#[test]
fn a_store_that_is_lost_is_replaced() {
    let mut cluster = Cluster::new("keeper-lost", 3, rules());
    cluster.until("three voters", |seen| is_even(seen, &[1, 2, 3]));
    cluster.stores.remove(&2);
    cluster.start(4);
    cluster.until("another in its place", |seen| is_even(seen, &[1, 3, 4]));
}

/// KV-022: a store that drains becomes empty.
#[test]
fn a_store_that_drains_becomes_empty() {
    let cluster = Cluster::new("keeper-drain", 4, rules());
    cluster.until("three voters each", |seen| {
        let places = places(seen);
        places.len() == RANGES && places.iter().all(|(_, voters)| voters.len() == 3)
    });
    cluster.stores[&1].0.stand(Standing::Draining);
    cluster.until("it is empty", |seen| {
        is_even(seen, &[2, 3, 4]) && seen.stores[&1].replicas.is_empty()
    });
}
