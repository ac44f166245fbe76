//! What three replicas in one process carry out, with threads and disks: proposals of 256 bytes, 256 on
//! their way at any time, for one group and for 32 with their leaders spread.
//!
//! `cargo bench -p ratatosk-store --bench replicas` prints proposals a second and their latencies, in
//! turns with a yardstick that does nothing but consensus (`yardstick`). `-- ROUNDS SECONDS` sets how many
//! turns and how long each.

mod yardstick;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use ratatosk_clock::{Instant, SystemClock};
use ratatosk_store::command::Commands;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::{Handle, Reply};
use ratatosk_stores::counter::nothings;
use ratatosk_stores::{Make, Stores};
use ratatosk_testkit::scratch::Scratch;

/// Bytes of a proposal.
const BYTES: usize = 256;
/// Proposals on their way.
const CALLERS: usize = 256;
const STORES: usize = 3;
const ROUNDS: u64 = 3;
const SECONDS: u64 = 4;

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

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    if std::env::args().any(|word| word == "--list" || word == "--test") {
        return;
    }
    let rounds = numbers.first().copied().unwrap_or(ROUNDS);
    let span = Duration::from_secs(numbers.get(1).copied().unwrap_or(SECONDS));
    for groups in [1, 32] {
        for _ in 0..rounds {
            let scratch = Scratch::new("bench-yardstick");
            let yardstick = yardstick::run(scratch.path(), groups, span);
            yardstick.print("yardstick", groups);
            let store = run(groups, span);
            store.print("store", groups);
            println!("{:.0} % of the yardstick", 100.0 * store.per_second / yardstick.per_second);
        }
    }
}

fn run(groups: usize, span: Duration) -> Figures {
    let names: Vec<_> = (0..groups).map(|number| number.to_string()).collect();
    let keyspaces: Vec<_> = names.iter().map(|name| (name.as_str(), nothings as Make)).collect();
    let stores = Stores::new("bench-store", STORES as u64, &keyspaces);
    let handles: Vec<_> = stores.live().map(|(_, handle)| handle).collect();
    let voters: Vec<_> = stores.live().map(|(store, _)| store).collect();
    let led = names.iter().enumerate().map(|(place, name)| {
        let (whole, leader) = (stores.whole(name), place % handles.len());
        stores.change(&whole, &voters);
        stores.transfer(whole.group, voters[leader]);
        (leader, name.clone(), whole.group)
    });
    let led: Vec<(usize, String, GroupId)> = led.collect();
    let (told, tells) = mpsc::sync_channel(CALLERS);
    let (clock, is_over, refusals) =
        (SystemClock::new(), AtomicBool::new(false), AtomicU64::new(0));
    let common = Arc::new(Common { clock, is_over, refusals });
    let start = common.clock.now();
    for number in 0..CALLERS {
        let (leader, name, group) = led[number % led.len()].clone();
        let handle = &handles[leader];
        let mut commands = Commands::new(handle.ranges(&name)[0].version);
        commands.push(&[7; BYTES]);
        let (data, micros) = (commands.into_data(), Vec::with_capacity(1 << 16));
        let (handles, common) = (handles.clone(), Arc::clone(&common));
        let begun = common.clock.now();
        Caller { handles, leader, group, data, common, micros }.call(begun, told.clone());
    }
    std::thread::sleep(span);
    common.is_over.store(true, Ordering::Relaxed);
    let span = common.clock.now().since(start);
    drop(told);
    let micros = tells.into_iter().flatten().collect();
    let refusals = common.refusals.load(Ordering::Relaxed);
    if refusals > 0 {
        println!("leaders changed: {refusals} calls went to others");
    }
    Figures::new(span, micros)
}

struct Common {
    clock: SystemClock,
    is_over: AtomicBool,
    /// How often somebody asked a store that did not lead.
    refusals: AtomicU64,
}

/// Proposes again as soon as it has an answer.
struct Caller {
    handles: Vec<Handle>,
    /// Who led when it was last answered.
    leader: usize,
    group: GroupId,
    data: Vec<u8>,
    common: Arc<Common>,
    micros: Vec<u32>,
}

impl Caller {
    fn call(self, begun: Instant, told: SyncSender<Vec<u32>>) {
        let (handle, group, data) =
            (self.handles[self.leader].clone(), self.group, self.data.clone());
        let reply: Reply = Box::new(move |answers| match answers {
            Ok(_) => self.answered(begun, told),
            Err(Refusal::NotLeader | Refusal::Lost) => self.elsewhere(begun, told),
            Err(refusal) => panic!("nobody changes the range: {refusal:?}"),
        });
        handle.propose(group, data, reply);
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

    /// Tries another store; what that costs counts.
    fn elsewhere(mut self, begun: Instant, told: SyncSender<Vec<u32>>) {
        self.common.refusals.fetch_add(1, Ordering::Relaxed);
        self.leader = (self.leader + 1) % self.handles.len();
        match self.common.is_over.load(Ordering::Relaxed) {
            true => drop(told.send(self.micros)),
            false => self.call(begun, told),
        }
    }
}
