//! Real stores of one process, each with a keeper: ranges find their stores by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use ratatosk_balance::keeper::{Board, Config, Keeper, Words};
use ratatosk_balance::landscape::{Landscape, Standing};
use ratatosk_balance::rules::Split;
use ratatosk_balance::{RuleBook, Rules, Settings, StoreId};
use ratatosk_clock::SystemClock;
use ratatosk_store::command::Commands;
use ratatosk_stores::counter::counters;
use ratatosk_stores::{Make, PATIENCE, Stores, until, version_of, wait};
use ratatosk_telemetry::metric::Registry;

const INTERVAL: Duration = Duration::from_millis(50);
/// Who says nothing for so long is away.
const SILENCE: Duration = Duration::from_millis(500);
const RANGES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Stores with a keeper each, and with as many keyspaces as there are ranges.
struct Cluster {
    stores: Stores,
    keepers: BTreeMap<StoreId, Keeper>,
    clock: SystemClock,
    board: Arc<Board>,
    rules: Arc<RwLock<RuleBook>>,
}

impl Cluster {
    fn new(name: &str, count: u64, rules: Settings) -> Self {
        let (clock, mut book) = (SystemClock::new(), RuleBook::default());
        let rules = Rules::try_from(rules).expect("they make sense");
        RANGES.iter().for_each(|name| book.set(name, rules.clone()));
        let mut cluster = Self {
            stores: Stores::new(name, 0, &RANGES.map(|name| (name, counters as Make))),
            keepers: BTreeMap::new(),
            clock,
            board: Arc::new(Board::new(clock, SILENCE)),
            rules: Arc::new(RwLock::new(book)),
        };
        (1..=count).for_each(|store| cluster.start(store));
        cluster
    }

    fn start(&mut self, store: StoreId) {
        self.stores.start(store);
        let config = Config {
            handle: self.stores.handle(store),
            words: Arc::clone(&self.board) as Arc<dyn Words>,
            rules: Arc::clone(&self.rules),
            labels: BTreeMap::new(),
            keyspaces: RANGES.into_iter().map(str::to_owned).collect(),
            copies: [].into(),
            registry: Registry::new(1),
            interval: INTERVAL,
        };
        let keeper = Keeper::start(config, self.clock).expect("a thread");
        self.keepers.insert(store, keeper);
    }

    fn kill(&mut self, store: StoreId) {
        self.keepers.remove(&store);
        self.stores.kill(store);
    }

    /// Waits until what the stores tell is as wanted.
    fn until(&self, what: &str, is_so: impl Fn(&Landscape) -> bool) {
        let mut seen = Landscape::default();
        let end = self.clock.now() + PATIENCE;
        until(what, || {
            seen = self.board.landscape();
            assert!(self.clock.now() < end, "not yet {what}: {:?}", at_work(&seen));
            is_so(&seen).then_some(())
        });
    }
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

/// What is told of ranges that are not at rest.
fn at_work(landscape: &Landscape) -> Vec<String> {
    let restless = places(landscape);
    let mut lines = vec![format!("{restless:?}")];
    for (store, group, report) in landscape.reports() {
        let membership = &report.descriptor.membership;
        if !membership.target().learners.is_empty() || membership.is_joint() {
            let progress = report.leading.as_ref().map(|leading| &leading.progress);
            let log = report.log;
            lines.push(format!("{store} of {group:?}: {membership:?} {progress:?} {log:?}"));
        }
    }
    lines
}

/// Whether every range has just these voters, and each of them leads as many, give or take one.
fn is_even(landscape: &Landscape, voters: &[StoreId]) -> bool {
    let places = places(landscape);
    let mut leads: BTreeMap<StoreId, usize> = voters.iter().map(|store| (*store, 0)).collect();
    places.iter().for_each(|(store, _)| *leads.entry(*store).or_default() += 1);
    let apart = leads.values().max().zip(leads.values().min()).map(|(most, least)| most - least);
    places.len() == RANGES.len()
        && places.iter().all(|(_, held)| held.iter().eq(voters))
        && apart.is_some_and(|apart| apart <= 1)
}

/// KV-022, KV-026: what one store made is kept by three, and each leads as much as the others.
#[test]
fn ranges_are_given_to_the_stores_that_join_and_their_leaders_evened() {
    let cluster = Cluster::new("keeper-spread", 3, rules());
    cluster.until("three voters and two leaders each", |seen| is_even(seen, &[1, 2, 3]));
    assert!(cluster.keepers.values().all(|keeper| keeper.alarms().is_empty()));
}

/// KV-020: a store that is lost for long is replaced by another.
#[test]
fn a_store_that_is_lost_is_replaced() {
    let mut cluster = Cluster::new("keeper-lost", 3, rules());
    cluster.until("three voters", |seen| is_even(seen, &[1, 2, 3]));
    cluster.kill(2);
    cluster.start(4);
    cluster.until("another in its place", |seen| is_even(seen, &[1, 3, 4]));
}

/// KV-022: a store that drains becomes empty.
#[test]
fn a_store_that_drains_becomes_empty() {
    let cluster = Cluster::new("keeper-drain", 4, rules());
    cluster.until("three voters each", |seen| {
        let places = places(seen);
        places.len() == RANGES.len() && places.iter().all(|(_, voters)| voters.len() == 3)
    });
    cluster.keepers[&1].stand(Standing::Draining);
    cluster.until("it is empty", |seen| {
        is_even(seen, &[2, 3, 4]) && seen.stores[&1].replicas.is_empty()
    });
}

/// KV-023, KV-024: a range with much to do is parted by its keeper, at a key that it works on.
#[test]
fn a_range_with_much_to_do_is_parted_where_its_work_is() {
    let split = Split { io_density_max: 4, ..Settings::default().split };
    let cluster = Cluster::new("keeper-split", 1, Settings { split, ..rules() });
    let whole = cluster.stores.whole("a");
    let handle = cluster.stores.handle(1);
    let mut round = 0_u32;
    let parted = until("it is parted", || {
        let mut commands = Commands::new(version_of(&handle, &whole)?);
        (0..64_u32).for_each(|number| commands.push(&(round + number).to_be_bytes()));
        round = (round + 64) % 1_024;
        // Whether it was parted already does not matter.
        let _ = wait(|reply| handle.propose(whole.group, commands.into_data(), reply));
        let ranges = handle.ranges("a");
        (ranges.len() > 1).then_some(ranges)
    });
    let key = &parted[1].boundary.start;
    let number = u32::from_be_bytes(key[..].try_into().expect("a key that was worked on"));
    assert!((1..1_024).contains(&number), "{number}");
    assert_eq!(handle.ranges("b").len(), 1, "who has nothing to do stays whole");
}
