//! A large range gets a new replica while it is written to: how long that takes, and what the writers
//! feel of it.
//!
//! `cargo bench -p ratatosk-store --bench snapshot -- MEGABYTES WRITES` fills a range of three replicas,
//! writes to it so many times a second for a while, and then has a fourth store keep it, too. It prints
//! the latencies of the writes before, meanwhile and afterwards. All stores are in one process, so the
//! writers also feel that the new replica works on the same cores and the same disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mimalloc::MiMalloc;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_store::machine::Progress;
use ratatosk_store::node::Handle;
use ratatosk_stores::counter::keepers;
use ratatosk_stores::load::{self, Figures, Led, Script};
use ratatosk_stores::{Make, Stores, until_for};

/// As the broker has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const MEGABYTES: u64 = 1_024;
/// Writes a second beside the snapshot.
const WRITES: u64 = 2_000;
/// Who writes them.
const WRITERS: u64 = 40;
/// Bytes of a value.
const BYTES: usize = 1_000;
/// How long the writers are looked at before and afterwards.
const SPAN: Duration = Duration::from_secs(10);
/// How long after it was filled.
const REST: Duration = Duration::from_secs(20);
/// How long filling or the snapshot may take.
const PATIENCE: Duration = Duration::from_secs(600);
const KEYSPACE: &str = "large";

fn main() {
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let megabytes = numbers.first().copied().unwrap_or(MEGABYTES);
    let writes = numbers.get(1).copied().unwrap_or(WRITES);
    let mut stores = Stores::of_brokers("bench-snapshot", 3, &[(KEYSPACE, keepers as Make)]);
    let led = stores.spread(&[KEYSPACE.to_owned()]);
    let clock = SystemClock::new();
    fill(&stores, &led, megabytes);
    let span = clock.now().since(Instant::ZERO);
    println!("filled with {megabytes} MB after {:.1} s", span.as_secs_f64());
    // What was filled in comes to rest on the disks.
    thread::sleep(REST);

    let handle = stores.handle(1);
    let writers = Writers::start(&handle, &led[0], writes);
    thread::sleep(SPAN);
    writers.end().print("before", 1);

    stores.start(4);
    let (writers, begun) = (Writers::start(&handle, &led[0], writes), clock.now());
    stores.change(&stores.whole(KEYSPACE), &[1, 2, 3, 4]);
    until_for(PATIENCE, "the fourth has everything", || has_everything(&handle, 4).then_some(()));
    let span = clock.now().since(begun);
    println!("the fourth replica has everything after {:.1} s", span.as_secs_f64());
    writers.end().print("meanwhile", 1);

    let writers = Writers::start(&handle, &led[0], writes);
    thread::sleep(SPAN);
    writers.end().print("afterwards", 1);
}

/// Many callers put in what the range is to have, each key once.
fn fill(stores: &Stores, led: &[Led], megabytes: u64) {
    let count = megabytes * 1_000_000 / BYTES as u64;
    const CALLERS: usize = 64;
    let script = |number: usize| script(number as u64, CALLERS as u64);
    stores.complete(led, CALLERS, count, script);
}

/// Writes one key after the other, from the `first` on, in steps.
fn script(first: u64, step: u64) -> Script {
    let mut next = first;
    Box::new(move || {
        let mut command = next.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec();
        command.resize(command.len() + BYTES, next.to_be_bytes()[7]);
        next += step;
        command
    })
}

fn has_everything(handle: &Handle, store: u64) -> bool {
    let (told, tells) = std::sync::mpsc::sync_channel(1);
    handle.ask_status(Box::new(move |status| drop(told.send(status))));
    let groups = tells.recv().unwrap_or_default();
    let mut followers = groups.iter().filter_map(|group| group.followers.as_ref()).flatten();
    followers.any(|follower| *follower == (store, Progress::CaughtUp))
}

/// The worst of each second, in milliseconds: when it was that something stood still.
fn print_seconds(took: &[(Duration, u32)]) {
    let mut worst = BTreeMap::<u64, u32>::new();
    for (due, micros) in took {
        let held = worst.entry(due.as_secs()).or_default();
        *held = (*micros).max(*held);
    }
    let worst: Vec<_> = worst.values().map(|micros| (micros / 1_000).to_string()).collect();
    println!("  worst of each second, ms: {}", worst.join(" "));
}

/// Callers that write at their times.
struct Writers {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<(Duration, u32)>>>,
    begun: SystemClock,
}

impl Writers {
    fn start(handle: &Handle, range: &Led, writes: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let interval = Duration::from_secs(1) * u32::try_from(WRITERS).unwrap_or(1)
            / u32::try_from(writes.max(1)).unwrap_or(u32::MAX);
        let threads = (0..WRITERS).map(|number| {
            let (handle, range) = (handle.clone(), range.clone());
            let is_over = Arc::clone(&is_over);
            // Other keys than those of others, which come again in each phase.
            let script = script(u64::MAX / 2 + number, WRITERS);
            thread::spawn(move || load::pace(&handle, &range, interval, &is_over, script))
        });
        let threads = threads.collect();
        Self { is_over, threads, begun: SystemClock::new() }
    }

    fn end(self) -> Figures {
        self.is_over.store(true, Ordering::Relaxed);
        let span = self.begun.now().since(Instant::ZERO);
        let threads = self.threads.into_iter();
        let took: Vec<_> = threads.flat_map(|thread| thread.join().expect("no panic")).collect();
        print_seconds(&took);
        Figures::new(span, took.into_iter().map(|(_, micros)| micros).collect())
    }
}
