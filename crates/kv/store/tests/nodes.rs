//! Several stores of one process, each with threads and a disk of its own.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_engine::KeyRange;
use ratatosk_store::OpenError;
use ratatosk_store::command::{self, Commands};
use ratatosk_store::coprocessor::scan_all;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::membership::{NoStep, Target};
use ratatosk_store::node::{Config, Handle, Node, Reply};
use ratatosk_store::range::{Descriptor, Version};
use ratatosk_store::transport::Exchange;
use ratatosk_testkit::scratch::Scratch;

use crate::fixture::{keyspaces, number};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: u64 = 77;

/// What became of what was asked; `None` if the store stopped before it knew.
type Answers = Option<Result<Vec<Bytes>, Refusal>>;

/// Stores 1 to n in one process. The first makes the cluster, the others join it.
struct Stores {
    scratch: Scratch,
    exchange: Arc<Exchange>,
    nodes: Vec<Option<Node>>,
    starts: u64,
}

impl Stores {
    fn new(name: &str, count: usize) -> Self {
        let (scratch, exchange) = (Scratch::new(name), Exchange::new());
        let nodes = (0..count).map(|_| None).collect();
        let mut stores = Self { scratch, exchange, nodes, starts: 0 };
        (1..=count).for_each(|store| stores.start(store));
        stores
    }

    fn folder(&self, store: usize) -> PathBuf {
        self.scratch.path().join(store.to_string())
    }

    fn config(&mut self, store: usize) -> Config {
        self.starts += 1;
        let join = (store > 1).then_some(CLUSTER);
        Config {
            folder: self.folder(store),
            keyspaces: keyspaces(),
            cache_bytes: 1 << 20,
            checkpoint_interval: Duration::from_millis(200),
            checkpoint_bytes: usize::MAX,
            random: [store as u64, if store == 1 { CLUSTER } else { self.starts << 8 }],
            join,
            transport: self.exchange.transport(store as u64),
            on_failure: Box::new(|reason| panic!("the store failed: {reason}")),
        }
    }

    fn start(&mut self, store: usize) {
        let config = self.config(store);
        let node = Node::open(config).expect("the store opens");
        self.exchange.attach(store as u64, &node.handle().receiver());
        self.nodes[store - 1] = Some(node);
    }

    /// Ends a store as a crash of its process would: nothing is handed over.
    fn kill(&mut self, store: usize) {
        self.nodes[store - 1] = None;
    }

    fn live(&self) -> impl Iterator<Item = (usize, Handle)> {
        let places = self.nodes.iter().enumerate();
        places.filter_map(|(place, node)| Some((place + 1, node.as_ref()?.handle())))
    }

    fn handle(&self, store: usize) -> Handle {
        self.nodes[store - 1].as_ref().expect("it is up").handle()
    }

    /// Who leads a group, once somebody does.
    fn leader(&self, group: GroupId) -> usize {
        until("a leader", || {
            self.live().find(|(_, handle)| handle.leads().contains(&group)).map(|(store, _)| store)
        })
    }

    /// Takes steps towards these members until they are reached.
    fn change(&self, group: GroupId, voters: &[u64]) {
        let target = Target { voters: voters.iter().copied().collect(), learners: BTreeSet::new() };
        until("the members", || {
            let handle = self.handle(self.leader(group));
            let version = version_of(&handle, group)?;
            let answers = wait(|reply| handle.change(group, version, target.clone(), reply));
            matches!(answers, Some(Err(Refusal::Step(NoStep::Reached)))).then_some(())
        });
    }

    /// Counts a name, whoever leads; answers how often it tried. A try whose fate is not known may have
    /// counted.
    fn count(&self, name: &str) -> u64 {
        let mut tries = 0;
        until("it is counted", || {
            let range = |handle: &Handle| {
                let ranges = handle.ranges("counter").into_iter();
                ranges.into_iter().find(|range| range.boundary.contains(name.as_bytes()))
            };
            let found = self.live().find_map(|(_, handle)| range(&handle))?;
            let handle = self.handle(self.leader(found.group));
            let range = range(&handle)?;
            let mut commands = Commands::new(range.version);
            commands.push(name.as_bytes());
            let data = commands.into_data();
            match wait(|reply| handle.propose(range.group, data, reply)) {
                Some(Ok(_)) => {
                    tries += 1;
                    Some(tries)
                }
                // Nothing of it was carried out.
                Some(Err(_)) => None,
                None => {
                    tries += 1;
                    None
                }
            }
        })
    }

    /// What a store has applied.
    fn content(&self, store: usize) -> Vec<(String, u64)> {
        let handle = self.handle(store);
        let mut found = Vec::new();
        for range in handle.ranges("counter") {
            let read = handle.read(range.group, &mut |reader| {
                scan_all(reader, &KeyRange::all(), |key, value| {
                    found.push((String::from_utf8_lossy(key).into_owned(), number(value)));
                    Ok(())
                })
            });
            read.expect("the engine reads");
        }
        found
    }

    /// Waits until all that are up have applied the same.
    fn settle(&self) -> Vec<(String, u64)> {
        until("all have the same", || {
            let mut contents: Vec<_> = self.live().map(|(store, _)| self.content(store)).collect();
            let first = contents.pop()?;
            contents.iter().all(|content| *content == first).then_some(first)
        })
    }

    fn whole(&self) -> Descriptor {
        self.handle(1).ranges("counter").remove(0)
    }
}

/// What a store has applied of a range's changes.
fn version_of(handle: &Handle, group: GroupId) -> Option<Version> {
    let ranges = handle.ranges("counter");
    ranges.iter().find(|range| range.group == group).map(|range| range.version)
}

/// Asks and waits for the answer.
fn wait(ask: impl FnOnce(Reply)) -> Answers {
    let (told, tells) = mpsc::sync_channel(1);
    // Whoever asked may wait no longer.
    ask(Box::new(move |answers| drop(told.send(answers))));
    match tells.recv_timeout(PATIENCE) {
        Ok(answers) => Some(answers),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("no answer in {PATIENCE:?}"),
    }
}

/// Asks again and again, for what no store tells by itself.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(clock.now().since(Instant::ZERO) < PATIENCE, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// KV-005, KV-006, KV-008: three keep a range; one may be lost, and all may go down and come back.
#[test]
fn what_three_stores_acknowledged_survives_the_loss_of_one_and_a_crash_of_all() {
    let mut stores = Stores::new("nodes-three", 3);
    let group = stores.whole().group;
    stores.count("a");
    stores.change(group, &[1, 2, 3]);
    assert_eq!(stores.count("a"), 1);
    assert_eq!(stores.settle(), [("a".to_owned(), 2)]);
    let leader = stores.leader(group);
    stores.kill(leader);
    let more = stores.count("a");
    stores.start(leader);
    let found = stores.settle();
    assert!((3..=2 + more).contains(&found[0].1), "{found:?} after {more} tries");
    for store in 1..=3 {
        stores.kill(store);
    }
    (1..=3).for_each(|store| stores.start(store));
    assert_eq!(stores.settle(), found);
    assert_eq!(stores.count("b"), 1);
    assert_eq!(stores.settle().last(), Some(&("b".to_owned(), 1)));
}

/// KV-011: a store without the range gets the data of another, and goes on from there with the log.
#[test]
fn a_store_that_joins_late_gets_the_data_and_then_the_log() {
    let stores = Stores::new("nodes-late", 2);
    let group = stores.whole().group;
    // More than is kept for others.
    let handle = stores.handle(1);
    let mut commands = Commands::new(stores.whole().version);
    (0..200).for_each(|number| commands.push(format!("key{number:03}").as_bytes()));
    let data = commands.into_data();
    for _ in 0..100 {
        let answers = wait(|reply| handle.propose(group, data.clone(), reply));
        assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    }
    stores.change(group, &[1, 2]);
    let found = stores.settle();
    assert_eq!((found.len(), found[7].1), (200, 100));
    stores.count("key007");
    assert_eq!(stores.settle()[7].1, 101);
}

/// KV-007, KV-009: leadership is handed over, and the new leader's reads have all that the old one
/// acknowledged.
#[test]
fn a_read_of_a_new_leader_has_what_was_acknowledged_before() {
    let stores = Stores::new("nodes-read", 3);
    let group = stores.whole().group;
    stores.change(group, &[1, 2, 3]);
    for round in 0..6_u64 {
        assert_eq!(stores.count("a"), 1);
        let old = stores.leader(group);
        let new = old % 3 + 1;
        stores.handle(old).transfer(group, new as u64);
        until("it leads", || stores.handle(new).leads().contains(&group).then_some(()));
        let handle = stores.handle(new);
        let version = handle.ranges("counter")[0].version;
        match wait(|reply| handle.ask_to_read(group, version, reply)) {
            Some(Ok(_)) => assert_eq!(stores.content(new), [("a".to_owned(), round + 1)]),
            refused => panic!("{refused:?}"),
        }
    }
}

/// KV-013, KV-015: ranges part and join on all their stores, and nothing is lost by it.
#[test]
fn ranges_part_and_join_on_all_stores() {
    let stores = Stores::new("nodes-parts", 3);
    let whole = stores.whole();
    stores.change(whole.group, &[1, 2, 3]);
    ["a", "m", "z"].iter().for_each(|name| assert_eq!(stores.count(name), 1));
    let handle = stores.handle(stores.leader(whole.group));
    let order = command::split(handle.ranges("counter")[0].version, b"m");
    let answers = wait(|reply| handle.propose(whole.group, order, reply));
    assert!(matches!(answers, Some(Ok(_))), "{answers:?}");
    let parts = |count: usize| {
        let have = |(_, handle): (usize, Handle)| handle.ranges("counter").len() == count;
        until("its parts", || stores.live().all(have).then_some(()));
    };
    parts(2);
    ["a", "m", "z"].iter().for_each(|name| assert_eq!(stores.count(name), 1));
    let right = handle.ranges("counter").remove(1).group;
    until("they join", || {
        let leader = stores.live().find(|(_, handle)| handle.leads().contains(&right));
        if let Some((leader, version)) = leader
            .and_then(|(_, leader)| version_of(&leader, right).map(|version| (leader, version)))
        {
            let _ = wait(|reply| leader.merge(right, version, reply));
        }
        (handle.ranges("counter").len() == 1).then_some(())
    });
    parts(1);
    ["a", "m", "z"].iter().for_each(|name| assert_eq!(stores.count(name), 1));
    let all: Vec<_> = ["a", "m", "z"].map(|name| (name.to_owned(), 3)).into();
    assert_eq!(stores.settle(), all);
}

/// KV-017: a store that is to join makes no range, and keeps to the cluster that it joined.
#[test]
fn a_store_that_joins_makes_nothing_and_is_of_one_cluster() {
    let mut stores = Stores::new("nodes-join", 2);
    assert_eq!(stores.handle(2).identity().cluster, CLUSTER);
    assert!(stores.handle(2).ranges("counter").is_empty());
    stores.kill(2);
    let other = Config { join: Some(CLUSTER + 1), ..stores.config(2) };
    let refused = Node::open(other).expect_err("it is of another cluster");
    assert!(matches!(refused, OpenError::Cluster { is_of: CLUSTER, .. }), "{refused}");
    // Nor does it become a cluster of its own by mistake.
    let alone = Config { join: None, ..stores.config(2) };
    let node = Node::open(alone).expect("it is whole");
    assert!(node.handle().ranges("counter").is_empty());
}

/// KV-019: a store that has no part in a range any more has nothing of it.
#[test]
fn a_store_that_left_has_no_range() {
    let stores = Stores::new("nodes-leave", 3);
    let group = stores.whole().group;
    stores.change(group, &[1, 2, 3]);
    stores.count("a");
    stores.settle();
    stores.handle(stores.leader(group)).transfer(group, 1);
    stores.change(group, &[1, 2]);
    until("it left", || stores.handle(3).ranges("counter").is_empty().then_some(()));
    stores.count("a");
    assert_eq!((stores.content(1), stores.content(3).len()), (vec![("a".to_owned(), 2)], 0));
}
