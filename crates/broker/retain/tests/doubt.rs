//! Stores that do not say what became of a change, say it late, or have gone elsewhere.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_client::Store;
use ratatosk_clock::SystemClock;
use ratatosk_contract::call::Settlement;
use ratatosk_contract::retain::TenantRetained;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::{Handle, Reply, Told};
use ratatosk_store::range::Version;
use ratatosk_stores::until;

use crate::support::{CUTS, Cluster, find};

/// How many changes of each topic there are.
const ROUNDS: u64 = 40;
/// Two of each node.
const TOPICS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// How many of each topic are on their way at once.
const AHEAD: usize = 3;

/// A way to a store on which things go wrong, in turns.
struct Flaky {
    handle: Handle,
    turns: Arc<AtomicU64>,
    /// What is said later than it is known.
    late: Arc<Mutex<Vec<Late>>>,
}

type Late = Box<dyn FnOnce() + Send>;

impl Flaky {
    fn late(&self, tell: impl FnOnce() + Send + 'static) {
        self.late.lock().push(Box::new(tell));
    }
}

impl Store for Flaky {
    fn ask_status(&self, told: Told) {
        let late = std::mem::take(&mut *self.late.lock());
        late.into_iter().for_each(|tell| tell());
        Store::ask_status(&self.handle, told);
    }

    fn propose(&self, term: u64, group: GroupId, data: Vec<u8>, reply: Reply) {
        match self.turns.fetch_add(1, Ordering::Relaxed) % 11 {
            // It is carried out, and nobody says so.
            2 => Store::propose(&self.handle, term, group, data, Box::new(|_| drop(reply))),
            // It is lost on its way.
            4 => drop(reply),
            // The same, but later ones are answered before that is noticed.
            6 => self.late(move || drop(reply)),
            // Somebody else leads by now.
            8 => self.late(move || reply(Err(Refusal::NotLeader))),
            // It is carried out, and that is said later.
            10 => {
                let late = Arc::clone(&self.late);
                let tell = move |answers| late.lock().push(Box::new(move || reply(answers)));
                Store::propose(&self.handle, term, group, data, Box::new(tell));
            }
            _ => Store::propose(&self.handle, term, group, data, reply),
        }
    }

    fn query(&self, group: GroupId, version: Version, question: Bytes, reply: Reply) {
        Store::query(&self.handle, group, version, question, reply);
    }

    fn is_short(&self) -> bool {
        Store::is_short(&self.handle)
    }
}

/// The changes of one topic that are on their way.
#[derive(Default)]
struct Changes {
    /// Their tickets and numbers.
    waiting: VecDeque<(u64, u64)>,
}

impl Changes {
    /// Waits until there are so few; each is done, and the last number is written down.
    fn wait(&mut self, cluster: &Cluster, few: usize, acked: &AtomicU64) {
        while self.waiting.len() > few {
            let Some((ticket, number)) = self.waiting.pop_front() else { return };
            let told = until("it is told", || cluster.settled.take(ticket));
            assert_eq!(told, Settlement::Done, "change {number}");
            acked.store(number, Ordering::Release);
        }
    }
}

/// Reads until it is over that no topic shows less than was acknowledged; answers how often it could.
fn read(
    tenant: &dyn TenantRetained,
    clock: SystemClock,
    acked: &[AtomicU64; TOPICS.len()],
    is_over: &AtomicBool,
) -> u64 {
    let mut answered = 0;
    while !is_over.load(Ordering::Acquire) {
        for (topic, acked) in TOPICS.iter().zip(acked) {
            let before = acked.load(Ordering::Acquire);
            if let Some(shown) = shown(tenant, clock, topic) {
                assert!(shown >= before, "{topic} shows {shown}, and {before} was acknowledged");
                answered += 1;
            }
        }
        std::thread::yield_now();
    }
    answered
}

/// What a topic shows as a number, if it can be said.
fn shown(tenant: &dyn TenantRetained, clock: SystemClock, topic: &str) -> Option<u64> {
    let found = find(tenant, clock, topic)?;
    Some(found.first().map_or(0, |(_, payload)| payload.parse().expect("a number")))
}

/// RET-001, RET-006, KV-005: also while ranges part and are led by others, every publisher is answered that its
/// message is durable, and it is not lost, nor does an older one take its place.
#[test]
fn what_stores_leave_in_doubt_goes_again_and_nothing_acknowledged_gives_way_to_it() {
    let turns: Arc<AtomicU64> = Arc::default();
    let cluster = Cluster::over("retain-doubt", move |handle| {
        Arc::new(Flaky { handle, turns: Arc::clone(&turns), late: Arc::default() })
    });
    let acked: Arc<[AtomicU64; TOPICS.len()]> = Arc::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|node| {
            let (tenant, clock) = (cluster.tenant(node), cluster.clock);
            let (acked, is_over) = (Arc::clone(&acked), Arc::clone(&is_over));
            std::thread::spawn(move || read(&*tenant, clock, &acked, &is_over))
        })
        .collect();
    let mut changes: [Changes; TOPICS.len()] = Default::default();
    for number in 1..=ROUNDS {
        match number {
            10 => cluster.split(CUTS[0]),
            17 => cluster.transfer(2),
            24 => cluster.split(CUTS[1]),
            31 => cluster.transfer(3),
            _ => {}
        }
        for (place, changes) in changes.iter_mut().enumerate() {
            let ticket = cluster.ask(place / 2, TOPICS[place], &number.to_string(), None);
            changes.waiting.push_back((ticket, number));
            changes.wait(&cluster, AHEAD, &acked[place]);
        }
    }
    for (changes, acked) in changes.iter_mut().zip(&*acked) {
        changes.wait(&cluster, 0, acked);
    }
    is_over.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().expect("nothing is missing") > 0, "every node has answered");
    }
    let last: BTreeSet<_> =
        TOPICS.iter().map(|topic| ((*topic).to_owned(), ROUNDS.to_string())).collect();
    (0..3).for_each(|node| assert_eq!(cluster.found(node, "#"), last, "at node {node}"));
    assert!(cluster.repeated() > 0, "something went again");
}
