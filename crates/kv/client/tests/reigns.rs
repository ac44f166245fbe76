//! Owners of reigns at several stores, while leadership moves: each knows all that came before it, and
//! nobody's command comes between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::{Fate, Keyspace as _, Owner, ReignHook, ReignPipe, Reigns};
use ratatosk_clock::SystemClock;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::command;
use ratatosk_store::coprocessor::{
    Coprocessor, Keyspaces, Position, Reader, Reign, Writer, scan_all,
};
use ratatosk_stores::counter::{Counter, number};
use ratatosk_stores::{PATIENCE, Stores, until, version_of, wait};

const COUNTER: &str = "counter";
const STORES: u64 = 3;

/// Counts, and passes on what it is told of its reigns.
struct Counting(ReignHook);

impl Coprocessor for Counting {
    fn reset(&mut self, boundary: &KeyRange, reader: &dyn Reader) -> Result<(), Error> {
        Counter.reset(boundary, reader)
    }

    fn apply(
        &mut self,
        position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        Counter.apply(position, command, writer)
    }

    fn query(&self, question: &Bytes, reader: &dyn Reader) -> Result<Bytes, Error> {
        Counter.query(question, reader)
    }

    fn lead(&mut self, reign: Option<&Reign>) {
        self.0.lead(reign);
    }
}

/// Has the reigns of one store.
#[derive(Default)]
struct Crown(Mutex<Vec<ReignPipe>>);

impl Owner for Crown {
    fn begins(&self, reign: &ReignPipe) {
        let mut reigns = self.0.lock();
        let group = reign.range().group;
        assert!(reigns.iter().all(|held| held.range().group != group), "one at a time");
        reigns.push(reign.clone());
    }

    fn ends(&self, reign: &ReignPipe) {
        let mut reigns = self.0.lock();
        let before = reigns.len();
        reigns.retain(|held| !held.is(reign));
        assert_eq!(reigns.len() + 1, before, "it had begun");
    }
}

/// Three stores that keep one range, each with an owner.
struct Cluster {
    reigns: BTreeMap<u64, Reigns>,
    crowns: BTreeMap<u64, Arc<Crown>>,
    stores: Stores,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let reigns: BTreeMap<u64, Reigns> =
            (1..=STORES).map(|store| (store, Reigns::new(SystemClock::new()))).collect();
        let known = reigns.clone();
        let stores = Stores::of_each(name, STORES, move |store| {
            let reigns = known[&store].clone();
            let made = move || -> Box<dyn Coprocessor> { Box::new(Counting(reigns.hook())) };
            Keyspaces::new(vec![(COUNTER.to_owned(), Box::new(made))])
        });
        let crowns: BTreeMap<u64, Arc<Crown>> =
            (1..=STORES).map(|store| (store, Arc::default())).collect();
        for (store, handle) in stores.live() {
            reigns[&store].bind(Arc::new(handle), crowns[&store].clone());
        }
        stores.change(&stores.whole(COUNTER), &[1, 2, 3]);
        Self { reigns, crowns, stores }
    }

    /// The reign over a key, once there is one. A leader may have refused what came while it was to be another
    /// one, and lead on: it is asked whether it takes anything, as its owner would.
    fn reign(&self, key: &str) -> ReignPipe {
        until("a reign", || {
            self.reigns.values().for_each(|reigns| {
                reigns.poll();
            });
            let reigns = self.crowns.values().flat_map(|crown| crown.0.lock().clone());
            let mut reigns: Vec<_> = reigns.collect();
            reigns.retain(|reign| reign.range().boundary.contains(key.as_bytes()));
            reigns.into_iter().max_by_key(ReignPipe::term)
        })
    }
}

/// What a key was counted to where a reign begins; `None` if it is over already.
fn begin(reign: &ReignPipe, key: &str) -> Option<u64> {
    until("it is read, or over", || {
        let mut count = 0;
        let is_whole = reign.read_keys(&reign.range().boundary, &mut |reader| {
            scan_all(reader, &KeyRange::all(), |held, value| {
                count = if held == key.as_bytes() { number(value) } else { count };
                Ok(())
            })
        });
        let is_whole = is_whole.expect("the engine reads");
        (is_whole || reign.is_over()).then_some(is_whole.then_some(count))
    })
    .filter(|_| !reign.is_over())
}

/// Counts under a reign, many on their way, until it is over or so many are done; answers how far.
fn count_on(reign: &ReignPipe, key: &'static str, from: u64, count: u64) -> u64 {
    let (told, tells) = mpsc::sync_channel(usize::try_from(count).expect("few"));
    for _ in 0..count {
        let told = told.clone();
        let done = Box::new(move |fate| told.send(fate).expect("there is room"));
        reign.submit(key.as_bytes(), Bytes::from_static(key.as_bytes()), done);
    }
    let (mut last, mut is_over) = (from, false);
    for _ in 0..count {
        match tells.recv_timeout(PATIENCE).expect("a fate") {
            Fate::Applied(answer) => {
                assert!(!is_over, "nothing is carried out behind what is in doubt");
                last += 1;
                assert_eq!(number(&answer), last, "nobody else counts meanwhile");
            }
            Fate::Refused | Fate::Unknown => is_over = true,
        }
    }
    last
}

/// KV-003, KV-007, DUR-001: from the data that it began with a reign goes on by its own commands only,
/// and what it was told to be done is in the data of the next.
#[test]
fn between_the_data_of_a_reign_and_its_commands_is_nobody_elses() {
    let cluster = Cluster::new("reigns-move");
    let group = cluster.stores.whole(COUNTER).group;
    let (mut known, mut terms) = (0, Vec::new());
    for round in 0..12 {
        let reign = cluster.reign("a");
        let Some(from) = begin(&reign, "a") else { continue };
        assert!(from >= known, "{from} after {known} were done");
        terms.push(reign.term());
        // It moves while commands are on their way.
        let leader = cluster.stores.leader_now(group);
        if let Some(leader) = leader {
            cluster.stores.handle(leader).transfer(group, (leader + round) % STORES + 1);
        }
        known = count_on(&reign, "a", from, 200);
    }
    let reign = until("a reign that lasts", || {
        let reign = cluster.reign("a");
        known = begin(&reign, "a")?;
        (count_on(&reign, "a", known, 1) == known + 1).then_some(reign)
    });
    assert!(terms.is_sorted() && reign.term() > terms[0], "{terms:?}");
}

/// KV-013, KV-014: a part of the range has its own reign; what was on its way over the whole is in doubt,
/// and none of it is carried out later.
#[test]
fn a_split_begins_reigns_over_the_parts() {
    let cluster = Cluster::new("reigns-split");
    let whole = cluster.stores.whole(COUNTER);
    let reign = cluster.reign("a");
    let from = begin(&reign, "z").expect("it lasts");
    assert_eq!(count_on(&reign, "z", from, 10), 10);
    until("it is parted", || {
        let handle = cluster.stores.handle(cluster.stores.leader_now(whole.group)?);
        let order = command::split(version_of(&handle, &whole)?, b"m");
        matches!(wait(|reply| handle.propose(whole.group, order, reply)), Some(Ok(_))).then_some(())
    });
    until("it is over", || reign.is_over().then_some(()));
    assert_eq!(count_on(&reign, "z", 10, 5), 10, "nothing of it is done");
    for (key, known) in [("a", 0), ("z", 10)] {
        let parted = cluster.reign(key);
        assert!(!parted.range().boundary.contains(if key == "a" { b"z" } else { b"a" }));
        assert_eq!(begin(&parted, key), Some(known));
        assert_eq!(count_on(&parted, key, known, 50), known + 50);
    }
}
