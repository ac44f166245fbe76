//! Carries plans out: tells the others what a store has, hears what they have, and does what the planners
//! say for the ranges that it leads.
//!
//! What is refused is planned again in a later round, by what is known then. Nothing here is needed for
//! a range to work on: a keeper that stands still costs evenness, and replacements, and no data. KV-021

mod board;
mod shortages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::RwLock;
use ratatosk_clock::{Instant, SystemClock};
use ratatosk_engine::Weight;
use ratatosk_store::command;
use ratatosk_store::host::{Refusal, Worked};
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::{self, Status};
use ratatosk_store::node::{Handle, Reply};
use ratatosk_telemetry::metric::Registry;

use crate::landscape::{
    Landscape, Leading, Lineage, Load, LogEnd, Progress, Report, Standing, Store, StoreId,
};
use crate::plan::{Action, Alarm, Plan, plan_all};
use crate::rules::RuleBook;
pub use board::Board;
use shortages::Shortages;

/// A range is weighed again when so many bytes were applied to it: what it weighs comes to the disk later.
const WEIGHED_BYTES: u64 = 16 << 20;

/// What stores tell each other of themselves. KV-026
pub trait Words: Send + Sync {
    /// What a store has now, in place of what it said before.
    fn tell(&self, me: StoreId, store: Store);

    /// The latest word of every store that is or was known, and who does not answer.
    fn landscape(&self) -> Landscape;
}

/// How a store is kept.
pub struct Config {
    /// The way to it.
    pub handle: Handle,
    /// Where it tells what it has and hears of others.
    pub words: Arc<dyn Words>,
    /// What the ranges are to be like; others may come at any time. KV-025
    pub rules: Arc<RwLock<RuleBook>>,
    /// Where it stands.
    pub labels: BTreeMap<String, String>,
    /// The keyspaces whose ranges it may vote for.
    pub keyspaces: BTreeSet<String>,
    /// The keyspaces that its node reads.
    pub copies: BTreeSet<String>,
    /// Where is counted.
    pub registry: Registry,
    /// Time between two rounds.
    pub interval: Duration,
}

/// Keeps a store on a thread of its own. Ends when it is dropped.
pub struct Keeper {
    shared: Arc<Shared>,
    rules: Arc<RwLock<RuleBook>>,
    stopping: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    standing: RwLock<Standing>,
    alarms: RwLock<Vec<Alarm>>,
}

/// The state of the thread.
struct Work {
    config: Config,
    shared: Arc<Shared>,
    clock: SystemClock,
    /// What each range had to do by the round before, and since when nothing more.
    before: BTreeMap<GroupId, Seen>,
    shortages: Shortages,
}

#[derive(Clone)]
struct Seen {
    worked: Worked,
    at: Instant,
    idle_since: Instant,
    /// What it weighed, and how many bytes had been applied by then; `None` if nobody has looked.
    weighed: Option<(Weight, u64)>,
}

impl Keeper {
    /// Starts to keep a store.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(config: Config, clock: SystemClock) -> std::io::Result<Self> {
        let (stopping, stops) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared { standing: RwLock::default(), alarms: RwLock::default() });
        let (interval, rules) = (config.interval, Arc::clone(&config.rules));
        let shortages = Shortages::new(&config.registry);
        let before = BTreeMap::new();
        let mut work = Work { config, shared: Arc::clone(&shared), clock, before, shortages };
        let thread = std::thread::Builder::new().name("store-keeper".to_owned()).spawn(move || {
            while stops.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                if !work.round() {
                    break;
                }
            }
        });
        Ok(Self { shared, rules, stopping: Some(stopping), thread: Some(thread?) })
    }

    /// Whether the store is to have anything from now on.
    pub fn stand(&self, standing: Standing) {
        *self.shared.standing.write() = standing;
    }

    /// The rules that it goes by.
    #[must_use]
    pub fn rules(&self) -> Arc<RwLock<RuleBook>> {
        Arc::clone(&self.rules)
    }

    /// What an operator has to look at, by the last round. KV-018
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        self.shared.alarms.read().clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stopping.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was told already.
            let _ = thread.join();
        }
    }
}

impl Work {
    /// Tells, hears, plans, and does; false if the store works no more.
    fn round(&mut self) -> bool {
        let (told, tells) = mpsc::sync_channel(1);
        self.config.handle.ask_status(Box::new(move |groups| drop(told.send(groups))));
        let Ok(groups) = tells.recv() else { return false };
        let (now, me) = (self.clock.now(), self.config.handle.identity().store);
        let store = self.store(now, groups);
        self.config.words.tell(me, store);
        let landscape = self.config.words.landscape();
        let round = plan_all(&self.config.rules.read(), &landscape, now, me);
        for (balancer, plan) in round.plans {
            tracing::debug!(?balancer, ?plan, "a plan");
            self.carry_out(plan);
        }
        *self.shared.alarms.write() = round.alarms;
        for news in self.shortages.heed(now, round.short) {
            news.tell();
        }
        true
    }

    fn store(&mut self, now: Instant, groups: Vec<Status>) -> Store {
        let before = std::mem::take(&mut self.before);
        let mut replicas = BTreeMap::new();
        for status in groups {
            let group = status.group;
            let is_leader = status.followers.is_some();
            let (load, seen) = self.look(now, group, is_leader, before.get(&group));
            let idle_since = seen.idle_since;
            self.before.insert(group, seen);
            replicas.insert(group, report(status, load, idle_since));
        }
        Store {
            labels: self.config.labels.clone(),
            standing: *self.shared.standing.read(),
            keyspaces: self.config.keyspaces.clone(),
            copies: self.config.copies.clone(),
            editions: self.config.handle.supported(),
            replicas,
            ..Store::default()
        }
    }

    /// What a range had to do as of late, and, if this store leads it, what it has.
    fn look(
        &self,
        now: Instant,
        group: GroupId,
        is_leader: bool,
        before: Option<&Seen>,
    ) -> (Load, Seen) {
        let handle = &self.config.handle;
        let worked = handle.worked(group).unwrap_or_default();
        let is_idle = before.is_some_and(|before| before.worked == worked);
        let idle_since = before.filter(|_| is_idle).map_or(now, |before| before.idle_since);
        let mut load = before.map(|before| load_of(now, worked, before)).unwrap_or_default();
        let mut weighed = before.and_then(|before| before.weighed.clone());
        if is_leader {
            let is_old =
                |(_, bytes): &(Weight, u64)| worked.bytes.abs_diff(*bytes) >= WEIGHED_BYTES;
            if weighed.as_ref().is_none_or(is_old) {
                weighed = Some((handle.weigh(group), worked.bytes));
            }
            let weight = weighed.as_ref().map(|(weight, _)| weight.clone()).unwrap_or_default();
            (load.size_bytes, load.middle) = (weight.bytes, weight.middle);
            if !is_idle {
                load.samples = handle.look_at_keys(group);
            }
        }
        (load, Seen { worked, at: now, idle_since, weighed })
    }

    fn carry_out(&self, plan: Plan) {
        let Plan { group, expected, action } = plan;
        let handle = &self.config.handle;
        let reply = move |what: &'static str| -> Reply {
            Box::new(move |answers: Result<_, Refusal>| {
                if let Err(refusal) = answers {
                    tracing::debug!(group = group.0, what, ?refusal, "a plan is refused");
                }
            })
        };
        match action {
            Action::Change(target) => handle.change(group, expected, target, reply("members")),
            Action::Transfer { to } => handle.transfer(group, to),
            Action::Split { key } => {
                // The service may have its range parted in some places only.
                if let Some(key) = handle.parting(group, &key) {
                    handle.propose(group, command::split(expected, &key), reply("split"));
                }
            }
            // The right one's leader has it taken in; it was brought here for that.
            Action::Merge { neighbour, neighbour_expected } => {
                handle.merge(neighbour, neighbour_expected, reply("merge"));
            }
            // The store finds out by itself that a replica is of no use, and whether it still is: it
            // asks the others. And a quorum is given up by operators alone.
            Action::Quit | Action::Recover { .. } => {}
        }
    }
}

/// What a range had to do since the round before.
fn load_of(now: Instant, worked: Worked, before: &Seen) -> Load {
    let millis = u64::try_from(now.since(before.at).as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |count: u64| count.saturating_mul(1_000) / millis;
    let entries = worked.entries.saturating_sub(before.worked.entries);
    let operations = worked.operations.saturating_sub(before.worked.operations);
    let busy = worked.busy.saturating_sub(before.worked.busy);
    let busy_us = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
    Load {
        entries_per_second: rate(entries),
        written_bytes_per_second: rate(worked.bytes.saturating_sub(before.worked.bytes)),
        io_density: operations.checked_div(entries).unwrap_or(0),
        io_latency: u32::try_from(operations)
            .ok()
            .and_then(|count| busy.checked_div(count))
            .unwrap_or_default(),
        // Microseconds of a millisecond are thousandths.
        cpu_permille: busy_us / millis,
        ..Load::default()
    }
}

/// What a store tells of a replica: what its machine knows, and what it had to do. `idle_since` counts only
/// where it has had nothing to do.
#[must_use]
pub fn report(status: Status, load: Load, idle_since: Instant) -> Report {
    let Status { descriptor, term, last, followers, .. } = status;
    let is_idle = load.entries_per_second == 0;
    let leading = followers.map(|followers| Leading {
        progress: followers.into_iter().map(|(store, held)| (store, progress(held))).collect(),
        load,
        idle_since: Some(idle_since).filter(|_| is_idle),
    });
    let log = LogEnd { term: last.0, index: last.1 };
    Report { descriptor, term, log, lineage: Lineage::default(), leading }
}

fn progress(held: machine::Progress) -> Progress {
    match held {
        machine::Progress::CaughtUp => Progress::CaughtUp,
        machine::Progress::Lagging => Progress::Lagging,
        machine::Progress::Snapshot => Progress::Snapshot,
        machine::Progress::Silent => Progress::Silent,
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Config").field("handle", &self.handle).finish_non_exhaustive()
    }
}
