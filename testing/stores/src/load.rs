//! Callers that propose one thing after the other, and how long each took: for benchmarks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use ratatosk_clock::{Instant, SystemClock};
use ratatosk_store::command::Commands;
use ratatosk_store::host::Refusal;
use ratatosk_store::log::GroupId;
use ratatosk_store::node::{Handle, Reply};
use ratatosk_store::range::Version;

use crate::{Stores, version_of, wait};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Proposals that were carried out, a second.
    pub per_second: f64,
    /// Milliseconds, in ascending order.
    latencies: Vec<f64>,
}

/// A range, and which of the stores led it when the run began.
#[derive(Clone, Debug)]
pub struct Led {
    /// The place of its leader among the stores.
    pub leader: usize,
    /// The keyspace of which it is the whole.
    pub keyspace: String,
    /// The range.
    pub group: GroupId,
    /// Its version.
    pub version: Version,
}

/// What a caller proposes, one command after the other.
pub type Script = Box<dyn FnMut() -> Vec<u8> + Send>;

impl Figures {
    /// Of so many seconds, from the microseconds that each proposal took.
    #[must_use]
    pub fn new(span: Duration, mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        let per_second = micros.len() as f64 / span.as_secs_f64();
        let latencies = micros.into_iter().map(|micros| f64::from(micros) / 1e3).collect();
        Self { per_second, latencies }
    }

    /// The latency in milliseconds that so many of a thousand do not exceed.
    #[must_use]
    pub fn of(&self, per_mille: usize) -> f64 {
        let place = self.latencies.len() * per_mille / 1_000;
        self.latencies.get(place).or(self.latencies.last()).copied().unwrap_or(f64::NAN)
    }

    /// One line for a person.
    pub fn print(&self, name: &str, groups: usize) {
        let Self { per_second, .. } = self;
        let (middle, most, worst) = (self.of(500), self.of(990), self.of(1_000));
        println!(
            "{name:<10} {groups:>2} groups {per_second:>8.0}/s  p50 {middle:>6.2} ms  p99 {most:>6.2} ms  \
             max {worst:>6.1} ms"
        );
    }
}

impl Stores {
    /// Has every store keep the whole of each keyspace, led by one after the other.
    #[must_use]
    pub fn spread(&self, keyspaces: &[String]) -> Vec<Led> {
        let voters: Vec<_> = self.live().map(|(store, _)| store).collect();
        let led = keyspaces.iter().enumerate().map(|(place, keyspace)| {
            let (whole, leader) = (self.whole(keyspace), place % voters.len());
            self.change(&whole, &voters);
            self.transfer(whole.group, voters[leader]);
            let version = version_of(&self.handle(voters[leader]), &whole).unwrap_or_default();
            Led { leader, keyspace: keyspace.clone(), group: whole.group, version }
        });
        led.collect()
    }

    /// So many callers propose for so long, each again as soon as it has its answer.
    ///
    /// # Panics
    /// If a range changes meanwhile.
    #[must_use]
    pub fn saturate(
        &self,
        led: &[Led],
        callers: usize,
        span: Duration,
        script: impl Fn(usize) -> Script,
    ) -> Figures {
        let running = self.begin(led, callers, u64::MAX, script);
        std::thread::sleep(span);
        running.end()
    }

    /// So many callers propose, each again as soon as it has its answer, until all have proposed so often
    /// together.
    ///
    /// # Panics
    /// If a range changes meanwhile.
    pub fn complete(
        &self,
        led: &[Led],
        callers: usize,
        count: u64,
        script: impl Fn(usize) -> Script,
    ) -> Figures {
        let running = self.begin(led, callers, count, script);
        running.figures()
    }

    fn begin(
        &self,
        led: &[Led],
        callers: usize,
        count: u64,
        script: impl Fn(usize) -> Script,
    ) -> Running {
        let handles: Vec<_> = self.live().map(|(_, handle)| handle).collect();
        let (told, tells) = mpsc::sync_channel(callers);
        let (clock, left) = (SystemClock::new(), AtomicU64::new(count));
        let common = Arc::new(Common { clock, left, refusals: AtomicU64::new(0) });
        for number in 0..callers {
            let range = led[number % led.len()].clone();
            let (script, micros) = (script(number), Vec::with_capacity(1 << 16));
            let (handles, common) = (handles.clone(), Arc::clone(&common));
            Caller { handles, range, script, common, micros }.go_on(told.clone());
        }
        Running { common, tells }
    }
}

/// Callers at work.
struct Running {
    common: Arc<Common>,
    tells: Receiver<Vec<u32>>,
}

impl Running {
    fn end(self) -> Figures {
        self.common.left.store(0, Ordering::Relaxed);
        self.figures()
    }

    fn figures(self) -> Figures {
        let micros = self.tells.into_iter().flatten().collect();
        let refusals = self.common.refusals.load(Ordering::Relaxed);
        if refusals > 0 {
            println!("leaders changed: {refusals} calls went to others");
        }
        Figures::new(self.common.clock.now().since(Instant::ZERO), micros)
    }
}

/// A caller that proposes at its times, and not sooner, on the thread of whoever calls, until `is_over`.
/// Answers each time, counted from the start, with the microseconds to its answer, so that whoever is late
/// counts.
///
/// # Panics
/// If the range has another leader.
pub fn pace(
    handle: &Handle,
    range: &Led,
    interval: Duration,
    is_over: &AtomicBool,
    mut script: Script,
) -> Vec<(Duration, u32)> {
    let (clock, mut range) = (SystemClock::new(), range.clone());
    let (mut due, mut took) = (clock.now(), Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let now = clock.now();
        if now < due {
            std::thread::sleep(due.since(now));
        }
        loop {
            let data = range.entry(&script());
            match wait(|reply| handle.propose(range.group, data, reply)) {
                Some(Ok(_)) => break,
                // Its members change meanwhile.
                Some(Err(Refusal::Version(now))) => range.version = now.version,
                other => panic!("nobody else leads the range: {other:?}"),
            }
        }
        let micros = u32::try_from(clock.now().since(due).as_micros());
        took.push((due.since(Instant::ZERO), micros.unwrap_or(u32::MAX)));
        due = due + interval;
    }
    took
}

impl Led {
    /// The entry with a command.
    fn entry(&self, command: &[u8]) -> Vec<u8> {
        let mut commands = Commands::new(self.version);
        commands.push(command);
        commands.into_data()
    }
}

struct Common {
    clock: SystemClock,
    /// So many proposals are still to be made.
    left: AtomicU64,
    /// How often somebody asked a store that did not lead.
    refusals: AtomicU64,
}

impl Common {
    fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// Proposes again as soon as it has an answer.
struct Caller {
    handles: Vec<Handle>,
    range: Led,
    script: Script,
    common: Arc<Common>,
    micros: Vec<u32>,
}

impl Caller {
    /// Proposes the next, if there is one, or tells what it saw.
    fn go_on(mut self, told: SyncSender<Vec<u32>>) {
        if !self.common.take() {
            return drop(told.send(self.micros));
        }
        let data = self.range.entry(&(self.script)());
        let begun = self.common.clock.now();
        self.propose(data, begun, told);
    }

    fn propose(self, data: Vec<u8>, begun: Instant, told: SyncSender<Vec<u32>>) {
        let handle = self.handles[self.range.leader].clone();
        let (group, again) = (self.range.group, data.clone());
        let reply: Reply = Box::new(move |answers| match answers {
            Ok(_) => self.answered(begun, told),
            Err(Refusal::NotLeader | Refusal::Lost) => self.elsewhere(again, begun, told),
            Err(refusal) => panic!("nobody changes the range: {refusal:?}"),
        });
        handle.propose(group, data, reply);
    }

    fn answered(mut self, begun: Instant, told: SyncSender<Vec<u32>>) {
        let micros = self.common.clock.now().since(begun).as_micros();
        self.micros.push(u32::try_from(micros).unwrap_or(u32::MAX));
        self.go_on(told);
    }

    /// Tries another store; what that costs counts.
    fn elsewhere(mut self, data: Vec<u8>, begun: Instant, told: SyncSender<Vec<u32>>) {
        self.common.refusals.fetch_add(1, Ordering::Relaxed);
        self.range.leader = (self.range.leader + 1) % self.handles.len();
        self.propose(data, begun, told);
    }
}
