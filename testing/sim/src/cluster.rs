//! Several stores under one seed: real machines, hosts, logs and engines, with a made-up network,
//! disks, clock and threads.
//!
//! `run` draws what happens: callers write and read keys (`callers`), stores crash and come back, the
//! network loses, repeats, delays and parts (`network`), ranges split, change their members and their
//! leaders (`orders`), as planners of stores that see little of each other want it, too, whose rules change
//! (`planners`), stores come and are lost or leave (`places`), and are of two builds (`builds`). `store` is one of them, moved turn by turn; `register` is what its ranges do.
//! Then the faults end and everything must come to work again within a bound.
//!
//! The oracles, each in its file: `linear` (every key as if one caller had come after the other, and
//! nothing acknowledged lost), `agreement` (replicas carry out the same entries and come to the same
//! data; one leader a term), `cover` (the ranges have every key once), `serving` (what a replica answers
//! by itself has all that was acknowledged), `inbox` (queues of sessions, behind the real service).

mod agreement;
mod builds;
mod callers;
mod cover;
mod faults;
mod front;
mod inbox;
mod linear;
mod network;
mod orders;
mod places;
mod planners;
mod recovery;
mod register;
mod sabotage;
mod serving;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::Instant;
use ratatosk_engine::SpaceId;
use ratatosk_store::edition::Edition;
use ratatosk_store::log::GroupId;
use ratatosk_store::range::Descriptor;
use ratatosk_store::transport::Packet;
use ratatosk_testkit::dice::Dice;

use crate::cluster::agreement::Agreement;
use crate::cluster::callers::Callers;
use crate::cluster::inbox::Inboxes;
use crate::cluster::network::Network;
use crate::cluster::places::Lot;
use crate::cluster::planners::Planners;
use crate::cluster::serving::Serving;
use crate::cluster::store::{Start, Stopped, Store, Work};
use crate::disk::Disk;
use crate::planted::Planted;
use crate::simulation::{Checked, Violation, panic_text};
use crate::trace::Trace;

/// What is run.
#[derive(Copy, Clone, Debug)]
pub struct ClusterPlan {
    /// Decides everything.
    pub seed: u64,
    /// How long faults last, in simulated time; then the same again without.
    pub span: Duration,
    /// How many stores there are at the beginning.
    pub stores: u64,
    /// What is wrong on purpose.
    pub planted: Option<Planted>,
}

/// What came of a run without a violation.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOutcome {
    /// The same for the same plan.
    pub trace_hash: u64,
    /// Reads and writes that were begun.
    pub operations: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Crashes, failing disks and partings of the network.
    pub faults: u64,
    /// Splits and changes of members that were carried out.
    pub changes: u64,
    /// Merges that a store carried out.
    pub merges: u64,
    /// Ranges whose data came from another store.
    pub snapshots: u64,
    /// Ranges that a start found half there.
    pub interrupted: u64,
    /// Reads that a replica answered by itself.
    pub served: u64,
    /// Those of them that were not at the leader.
    pub served_apart: u64,
    /// Messages that sessions are sure to get, counted for each, and those that they fetched.
    pub messages: u64,
    /// See there.
    pub fetched: u64,
    /// Stores that came while the others worked.
    pub joined: u64,
    /// Stores that were lost for good.
    pub lost: u64,
    /// Stores that were drained, and left.
    pub left: u64,
    /// Stores that went back to an older build.
    pub rollbacks: u64,
    /// Those of them that had to return to the newer one.
    pub returns: u64,
    /// What planners had done, and how often their rules changed.
    pub plans: u64,
    /// See there.
    pub rules: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
}

/// Each has a stream of its own; the numbers belong to the seeds that are known.
const NETWORK: u64 = 11;
const SCHEDULE: u64 = 12;
const CALLERS: u64 = 13;
const FAULTS: u64 = 14;
const ORDERS: u64 = 15;
const CLOCKS: u64 = 16;
const READERS: u64 = 17;
const INBOXES: u64 = 18;
const SHIFTS: u64 = 21;
const BUILDS: u64 = 22;
const PLANNERS: u64 = 23;
const OPERATORS: u64 = 24;

/// See the module.
struct Cluster {
    plan: ClusterPlan,
    now: Instant,
    queue: BTreeMap<(Instant, u64), Happening>,
    number: u64,
    stores: BTreeMap<u64, Place>,
    network: Network,
    callers: Callers,
    serving: Serving,
    inboxes: Inboxes,
    planners: Planners,
    /// The ranges, as callers believe.
    ranges: Vec<Descriptor>,
    agreement: Agreement,
    schedule: Dice,
    faults: Dice,
    orders: Dice,
    shifts: Dice,
    builds: Dice,
    /// That of the store that comes next.
    next_number: u64,
    /// When somebody may come or go again.
    next_shift: Instant,
    /// A range that is to be taken in by its left neighbour, for so many orders.
    wish: Option<(GroupId, u8)>,
    /// Until then the network stays as it is.
    mends_at: Instant,
    is_faulty: bool,
    trace: Trace,
    outcome: ClusterOutcome,
}

/// A store's disk, and what runs on it.
struct Place {
    disk: Disk,
    store: Option<Store>,
    /// How many microseconds its clock goes on in a millisecond.
    clock_rate: u32,
    /// The last edition that its build supports.
    newest: Edition,
    /// When it went back to an older build, if it has.
    rolled_back_at: Option<Instant>,
    lot: Lot,
    /// Rises with every crash: what was on its way inside is gone.
    life: u64,
    /// Work that is due, and when.
    due: BTreeMap<Work, Instant>,
    /// When it is to go on with the snapshots that it sends.
    send_at: Option<Instant>,
}

/// What is to come.
enum Happening {
    Arrives { to: u64, from: u64, packet: Box<Packet> },
    Works { store: u64, life: u64, work: Work },
    Starts { store: u64 },
    Calls { caller: usize },
    Reads { reader: usize },
    Inbox,
    Fails,
    Mends,
    Orders,
    Shifts,
    Joins,
    Plans,
}

/// Runs a plan.
///
/// # Errors
/// The first violation; a panic is one.
pub fn run(plan: ClusterPlan) -> Result<ClusterOutcome, Box<Violation>> {
    let mut cluster = Cluster::new(plan);
    let ran = catch_unwind(AssertUnwindSafe(|| cluster.run()));
    let what = match ran {
        Ok(Ok(())) => {
            let (trace_hash, simulated_ms) = (cluster.trace.hash(), cluster.millis());
            return Ok(ClusterOutcome { trace_hash, simulated_ms, ..cluster.outcome });
        }
        Ok(Err(what)) => what,
        Err(panic) => format!("a panic: {}", panic_text(&*panic)),
    };
    let step = u32::try_from(cluster.millis()).unwrap_or(u32::MAX);
    Err(Box::new(Violation { seed: plan.seed, step, what, trace: cluster.trace.lines() }))
}

impl Cluster {
    fn new(plan: ClusterPlan) -> Self {
        let (mut clocks, mut builds) = (Dice::new(plan.seed, CLOCKS), Dice::new(plan.seed, BUILDS));
        let place = |newest| Place::new(plan.planted, places::clock_rate(&mut clocks), newest);
        let places = builds::first(&mut builds, plan.stores).into_iter().map(place);
        let stores = (1..).zip(places).collect();
        Cluster {
            plan,
            now: Instant::from_millis(1_000),
            queue: BTreeMap::new(),
            number: 0,
            stores,
            network: Network::new(Dice::new(plan.seed, NETWORK)),
            callers: Callers::new(Dice::new(plan.seed, CALLERS)),
            serving: Serving::new(Dice::new(plan.seed, READERS)),
            inboxes: Inboxes::new(Dice::new(plan.seed, INBOXES)),
            planners: Planners::new(
                Dice::new(plan.seed, PLANNERS),
                Dice::new(plan.seed, OPERATORS),
            ),
            ranges: Vec::new(),
            agreement: Agreement::default(),
            schedule: Dice::new(plan.seed, SCHEDULE),
            faults: Dice::new(plan.seed, FAULTS),
            orders: Dice::new(plan.seed, ORDERS),
            shifts: Dice::new(plan.seed, SHIFTS),
            builds,
            next_number: plan.stores + 1,
            next_shift: Instant::from_millis(2_000),
            wish: None,
            mends_at: Instant::ZERO,
            is_faulty: true,
            trace: Trace::new(),
            outcome: ClusterOutcome::default(),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.now.since(Instant::from_millis(1_000)).as_millis()).unwrap_or(u64::MAX)
    }

    fn run(&mut self) -> Checked {
        // The first makes the cluster, the others are to be joined to it. KV-017
        for number in 1..=self.plan.stores {
            self.start(number)?;
        }
        for caller in 0..self.callers.len() {
            self.after(Duration::from_millis(500), Happening::Calls { caller });
        }
        for reader in 0..self.serving.readers() {
            self.after(Duration::from_millis(700), Happening::Reads { reader });
        }
        self.after(Duration::from_millis(600), Happening::Inbox);
        self.after(Duration::from_millis(300), Happening::Orders);
        self.after(Duration::from_millis(1_500), Happening::Fails);
        self.after(Duration::from_millis(1_000), Happening::Shifts);
        self.after(Duration::from_millis(900), Happening::Plans);
        let end = self.now + self.plan.span;
        self.until(end, |_| false)?;
        self.heal()?;
        self.recover()?;
        self.check_end()
    }

    fn after(&mut self, span: Duration, happening: Happening) {
        self.number += 1;
        self.queue.insert((self.now + span, self.number), happening);
    }

    /// Lets things happen until a moment, or until `is_done`.
    fn until(&mut self, end: Instant, is_done: impl Fn(&Self) -> bool) -> Checked {
        while let Some((&(at, number), _)) = self.queue.first_key_value() {
            if at > end || is_done(self) {
                break;
            }
            self.now = at;
            self.trace.step = u32::try_from(self.millis()).unwrap_or(u32::MAX);
            if let Some(happening) = self.queue.remove(&(at, number)) {
                self.happen(happening)?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Arrives { to, from, packet } => self.arrive(to, from, *packet),
            Happening::Works { store, life, work } => self.work(store, life, work),
            Happening::Starts { store } => {
                self.draw_build_again(store);
                self.start(store)
            }
            Happening::Calls { caller } => self.call(caller),
            Happening::Reads { reader } => self.read_anywhere(reader),
            Happening::Inbox => self.use_inbox(),
            Happening::Fails => self.fail(),
            Happening::Mends if self.now < self.mends_at => Ok(()),
            Happening::Mends => {
                self.network.mend();
                self.trace.note("the network is whole");
                Ok(())
            }
            Happening::Orders => self.order(),
            Happening::Shifts => self.shift(),
            Happening::Joins => self.join(),
            Happening::Plans => self.plan_ranges(),
        }
    }

    /// Has a store do some work soon. What is due already is not due twice, and not sooner as long as there
    /// are callers: a store works on what has come together.
    fn wake(&mut self, number: u64, work: Work) {
        let span = Duration::from_micros(self.schedule.below(3_000) as u64);
        self.wake_after(number, work, span);
    }

    fn wake_after(&mut self, number: u64, work: Work, span: Duration) {
        let at = self.now + span;
        let Some(place) = self.stores.get_mut(&number) else { return };
        let is_idle = self.callers.is_finished();
        let is_sooner = place.due.get(&work).is_none_or(|known| is_idle && at < *known);
        if place.store.is_some() && is_sooner {
            place.due.insert(work, at);
            let life = place.life;
            self.after(span, Happening::Works { store: number, life, work });
        }
    }

    fn arrive(&mut self, to: u64, from: u64, packet: Packet) -> Checked {
        let Some(place) = self.stores.get_mut(&to) else { return Ok(()) };
        let Some(store) = &mut place.store else { return Ok(()) };
        let life = place.life;
        let is_receipt = matches!(packet, Packet::Receipt(_));
        if let Some(told) = store.receive(self.now, from, packet) {
            // The one who sends a snapshot hears how far it has come.
            self.send(to, from, &told);
        }
        self.wake(to, Work::Log);
        if is_receipt { self.work(to, life, Work::Send) } else { Ok(()) }
    }

    fn send(&mut self, from: u64, to: u64, packet: &Packet) {
        let slower = sabotage::slower(self.plan.planted, packet);
        for span in self.network.carry(from, to, self.is_faulty) {
            let packet = Box::new(packet.clone());
            self.after(span + slower, Happening::Arrives { to, from, packet });
        }
    }

    fn work(&mut self, number: u64, life: u64, work: Work) -> Checked {
        let now = self.now;
        self.agreement.now = now;
        let Some(place) = self.stores.get_mut(&number) else { return Ok(()) };
        let is_due = work == Work::Send || place.due.get(&work) == Some(&now);
        if place.life != life || !is_due {
            return Ok(());
        }
        place.due.remove(&work);
        let Some(store) = &mut place.store else { return Ok(()) };
        let did = match work {
            Work::Log => store.log(local(now, place.clock_rate)),
            Work::Apply => {
                let count = 1 + self.schedule.below(6);
                if self.is_faulty && store.moves_data(count) && self.faults.once_in(4) {
                    // Somewhere in the middle of it.
                    place.disk.power.arm(self.faults.below(12));
                }
                store.apply(count, &mut self.agreement)
            }
            Work::Checkpoint => store.checkpoint(),
            Work::Send => {
                place.send_at = None;
                store.send(now)
            }
        };
        let did = match did {
            Ok(did) => did,
            Err(stopped) if place.disk.power.is_gone() => {
                self.trace.note(&format!("{number}: stops: {stopped}"));
                return self.crash(number);
            }
            Err(Stopped::Unsupported(what)) => return self.unsupported(number, &what),
            Err(stopped) => return Err(format!("store {number} stops: {stopped}")),
        };
        for (to, packet) in did.packets {
            self.send(number, to, &packet);
        }
        for line in did.notes {
            self.trace.note(&format!("{number}: {line}"));
        }
        self.outcome.changes += did.changes;
        self.outcome.merges += did.merges;
        self.outcome.snapshots += did.snapshots;
        for (group, term) in did.leads {
            self.comes_to_lead(number, group, term)?;
        }
        for (ticket, answers) in did.answered {
            self.answered(ticket, answers)?;
        }
        if work == Work::Checkpoint {
            let span = Duration::from_millis(300 + self.schedule.below(2_500) as u64);
            self.wake_after(number, Work::Checkpoint, span);
        }
        self.go_on(number);
        Ok(())
    }

    /// Has a store go on with what it has to do.
    fn go_on(&mut self, number: u64) {
        let Some(place) = self.stores.get(&number) else { return };
        let Some(store) = &place.store else { return };
        let (real, rate) = (self.now, place.clock_rate);
        let now = local(real, rate);
        let (has_events, has_inputs, next) =
            (store.has_events(), store.has_inputs(), store.next_tick());
        let send_at = store.next_send(real);
        if has_events {
            self.wake(number, Work::Apply);
        }
        if has_inputs {
            self.wake(number, Work::Log);
        } else if let Some(next) = next {
            // A little more, so that it is not too early by what the division loses.
            let span = next.since(now) * 1_000 / rate + Duration::from_micros(10);
            self.wake_after(number, Work::Log, span);
        }
        let Some(place) = self.stores.get_mut(&number) else { return };
        if let Some(at) = send_at.filter(|at| place.send_at.is_none_or(|known| *at < known)) {
            place.send_at = Some(at);
            let life = place.life;
            let span = at.since(real) + Duration::from_micros(50);
            self.after(span, Happening::Works { store: number, life, work: Work::Send });
        }
    }

    fn start(&mut self, number: u64) -> Checked {
        let ClusterPlan { planted, .. } = self.plan;
        let Some(place) = self.stores.get_mut(&number) else { return Ok(()) };
        place.due.clear();
        let (newest, life) = (place.newest, place.life);
        let start = Start { number, newest, now: self.now, life, planted };
        match Store::open(start, &mut place.disk) {
            Ok(store) => {
                let cut_off = store.cut_off();
                self.outcome.interrupted += cut_off.len() as u64;
                self.trace.note(&format!("{number}: up, cut off are {cut_off:?}"));
                cover::check_data(&store)?;
                place.store = Some(store);
                self.tell_places();
                self.wake(number, Work::Log);
                self.wake_after(number, Work::Checkpoint, Duration::from_millis(700));
                Ok(())
            }
            Err(stopped) if place.disk.power.is_gone() => {
                self.trace.note(&format!("{number}: does not start: {stopped}"));
                self.crash(number)
            }
            Err(stopped) => Err(format!("store {number} does not open: {stopped}")),
        }
    }

    fn states(&self) -> Vec<String> {
        let stores = self.stores.values().filter_map(|place| place.store.as_ref());
        stores.flat_map(Store::states).collect()
    }

    fn live(&self) -> impl Iterator<Item = &Store> {
        self.stores.values().filter_map(|place| place.store.as_ref())
    }

    fn check_end(&mut self) -> Checked {
        let ranges = cover::check(self.live())?;
        self.live().try_for_each(cover::check_data)?;
        let mut contents = VecDeque::new();
        for descriptor in &ranges {
            contents.extend(self.even_content(register::SPACE, descriptor)?);
        }
        for descriptor in &cover::of(register::INBOX, self.live()) {
            self.even_content(register::INBOX_SPACE, descriptor)?;
        }
        linear::check(self.callers.history(), &register::lists(contents)?)
    }
}

impl Cluster {
    /// What all replicas of a range have.
    fn even_content(
        &self,
        space: SpaceId,
        descriptor: &Descriptor,
    ) -> Checked<Vec<(Bytes, Bytes)>> {
        let mut first = None;
        for replica in descriptor.membership.replicas() {
            let place = self.stores.get(&replica.store);
            let Some(store) = place.and_then(|place| place.store.as_ref()) else { continue };
            let content = store.content(space, &descriptor.boundary);
            match &first {
                None => first = Some(content),
                Some(known) if *known == content => {}
                Some(_) => return Err(format!("replicas of {descriptor:?} differ")),
            }
        }
        Ok(first.unwrap_or_default())
    }
}

/// What a clock shows that goes on by so many microseconds a millisecond.
fn local(now: Instant, rate: u32) -> Instant {
    Instant::ZERO + now.since(Instant::ZERO) * rate / 1_000
}
