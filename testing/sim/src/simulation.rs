//! One node under one seed, from an empty disk to the last look at what it kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use ratatosk_contract::call::Settlement;
use ratatosk_contract::{ReplyTo, SessionRef, ShardId, Ticket};
use ratatosk_inbox::Repaired;
use ratatosk_testkit::dice::Dice;

use crate::clients::Link;
use crate::concern::Concern;
use crate::disk::{Crash, Disk};
use crate::history::History;
use crate::ledger::{CLIENTS, Ledger};
use crate::node::{Node, SimClock, Start};
use crate::planted::Planted;
use crate::probe;
use crate::replay::Replay;
use crate::shelf::Topics;
use crate::store::Stopped;
use crate::trace::Trace;

/// What is run.
#[derive(Copy, Clone, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// How many steps, before the last crash.
    pub steps: u32,
    /// What is wrong on purpose.
    pub planted: Option<Planted>,
}

/// What came of a run without a violation.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The same for the same plan.
    pub trace_hash: u64,
    /// How often process or machine went down.
    pub crashes: u32,
    /// How many callers were told that what they asked for is durable.
    pub acknowledged: u64,
    /// How many routes were not as the sessions had them, after a crash.
    pub repaired: u64,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The run's.
    pub seed: u64,
    /// At which step it showed.
    pub step: u32,
    /// What it is.
    pub what: String,
    /// The last that happened.
    pub trace: Vec<String>,
}

/// `Err` says what must not be.
pub(crate) type Checked<T = ()> = Result<T, String>;

/// See the module.
pub(crate) struct Simulation {
    pub(crate) plan: Plan,
    pub(crate) clock: SimClock,
    pub(crate) disk: Disk,
    /// `None` while it is down.
    pub(crate) node: Option<Node>,
    pub(crate) replay: Replay,
    pub(crate) schedule: Dice,
    pub(crate) dice: Dice,
    pub(crate) luck: Dice,
    pub(crate) ledgers: History<Ledger>,
    pub(crate) topics: History<Topics>,
    /// Who waits to be told, and what is acknowledged then.
    tickets: BTreeMap<u64, (Keyspace, usize)>,
    /// Never twice the same.
    count: u64,
    pub(crate) links: [Option<Link>; CLIENTS.len()],
    /// What was handed out under a session and sequence.
    pub(crate) delivered: BTreeMap<(u64, u64), String>,
    /// Sessions that there ever were, with the decision that made each.
    pub(crate) inboxes: BTreeMap<u64, usize>,
    /// Those that the last crash left, by their numbers.
    wills: BTreeMap<u64, String>,
    /// Until this step the disk has not answered the log.
    pub(crate) slow_until: u32,
    pub(crate) trace: Trace,
    pub(crate) outcome: Outcome,
}

/// Which history a ticket belongs to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keyspace {
    Inbox,
    Retain,
}

/// When the simulated time begins: long after 1970, so that there is room before.
const BEGIN_MS: u64 = 1_000_000_000;
/// How often a disk that fails at the start is tried again.
const STARTS_MAX: u32 = 50;

/// Runs a plan.
///
/// # Errors
/// The first violation; a panic is one.
pub fn run(plan: Plan) -> Result<Outcome, Box<Violation>> {
    let mut simulation = Simulation::new(plan);
    let ran = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let what = match ran {
        Ok(Ok(())) => {
            let trace_hash = simulation.trace.hash();
            return Ok(Outcome { trace_hash, ..simulation.outcome });
        }
        Ok(Err(what)) => what,
        Err(panic) => format!("a panic: {}", panic_text(&*panic)),
    };
    let (step, trace) = (simulation.trace.step, simulation.trace.lines());
    Err(Box::new(Violation { seed: plan.seed, step, what, trace }))
}

impl Simulation {
    fn new(plan: Plan) -> Self {
        Simulation {
            plan,
            clock: SimClock::at(BEGIN_MS),
            disk: Disk::new(plan.planted),
            node: None,
            replay: Replay::default(),
            schedule: Concern::Schedule.dice(plan.seed),
            dice: Concern::Clients.dice(plan.seed),
            luck: Concern::Disk.dice(plan.seed),
            ledgers: History::new(Ledger::default()),
            topics: History::new(Topics::default()),
            tickets: BTreeMap::new(),
            count: 0,
            links: Default::default(),
            delivered: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            wills: BTreeMap::new(),
            slow_until: 0,
            trace: Trace::new(),
            outcome: Outcome::default(),
        }
    }

    fn run(&mut self) -> Checked {
        self.start()?;
        for step in 1..=self.plan.steps {
            self.trace.step = step;
            self.step()?;
        }
        self.trace.step += 1;
        self.finish()
    }

    /// Lets everything come to rest; then all that was decided must be there for ever.
    fn finish(&mut self) -> Checked {
        self.disk.power.mend();
        let Some(node) = &mut self.node else { return Err("the node is down".to_owned()) };
        node.settle(&mut self.replay).map_err(|Stopped(reason)| reason)?;
        self.settle()?;
        if let Some((ticket, _)) = self.tickets.first_key_value() {
            return Err(format!("ticket {ticket} was never settled"));
        }
        self.ledgers.acknowledge(self.ledgers.last());
        self.topics.acknowledge(self.topics.last());
        self.check_replay()?;
        self.check_routes()?;
        self.crash(Crash::Machine)
    }

    /// What was decided about sessions; `ticket` is told when it is durable.
    pub(crate) fn decide(&mut self, ledger: Ledger, ticket: Option<u64>) {
        let number = self.ledgers.push(ledger);
        if let Some(ticket) = ticket {
            self.tickets.insert(ticket, (Keyspace::Inbox, number));
        }
    }

    /// What was decided about retained messages.
    pub(crate) fn decide_topics(&mut self, topics: Topics, ticket: Option<u64>) {
        let number = self.topics.push(topics);
        if let Some(ticket) = ticket {
            self.tickets.insert(ticket, (Keyspace::Retain, number));
        }
    }

    /// A number that was never there before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// A ticket that was never there before, with who is told.
    pub(crate) fn ticket(&mut self) -> (u64, Option<ReplyTo>) {
        let ticket = self.fresh();
        let session = SessionRef { shard: ShardId(0), slot: 9, generation: 0 };
        (ticket, Some(ReplyTo { session, ticket: Ticket(ticket) }))
    }

    /// Takes note of what callers were told.
    pub(crate) fn settle(&mut self) -> Checked {
        let settled = self.node.as_ref().map(Node::take_settled).unwrap_or_default();
        for (Ticket(ticket), settlement) in settled {
            if settlement != Settlement::Done {
                return Err(format!("ticket {ticket} settled with {settlement:?}"));
            }
            let Some((keyspace, number)) = self.tickets.remove(&ticket) else {
                return Err(format!("ticket {ticket} settled twice, or was never given"));
            };
            match keyspace {
                Keyspace::Inbox => self.ledgers.acknowledge(number),
                Keyspace::Retain => self.topics.acknowledge(number),
            }
            self.outcome.acknowledged += 1;
            self.trace.note(&format!("  told {ticket}"));
        }
        Ok(())
    }

    /// What a call of the store gave; if the disk failed, the node goes down.
    pub(crate) fn survive<T>(&mut self, result: Result<T, Stopped>) -> Checked<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Stopped(reason)) if self.disk.power.is_gone() => {
                self.trace.note(&format!("  the store stops: {reason}"));
                let crash = if self.luck.once_in(2) { Crash::Process } else { Crash::Machine };
                self.crash(crash)?;
                Ok(None)
            }
            Err(Stopped(reason)) => Err(format!("the store stops: {reason}")),
        }
    }

    /// Goes down and comes back.
    pub(crate) fn crash(&mut self, crash: Crash) -> Checked {
        self.go_down(crash);
        self.start()
    }

    fn go_down(&mut self, crash: Crash) {
        self.node = None;
        self.tickets.clear();
        self.links = Default::default();
        self.slow_until = 0;
        let lost = self.disk.crash(crash, &mut self.luck);
        self.outcome.crashes += 1;
        self.trace.note(&format!("  down: {crash:?}{lost}"));
    }

    /// Compares what is on the disk with what was acknowledged, and opens it.
    fn start(&mut self) -> Checked {
        for _ in 0..STARTS_MAX {
            self.clock.pass(self.luck.below(5_000) as u64);
            if self.outcome.crashes > 0 {
                self.compare()?;
            }
            if self.luck.once_in(12) {
                self.disk.power.arm(self.luck.below(8));
            }
            let began_ms = self.clock.millis();
            let (clock, planted) = (self.clock.clone(), self.plan.planted);
            let is_hasty = self.luck.once_in(3);
            let start = Start { clock, began_ms, is_hasty, planted };
            match Node::open(&mut self.disk, start, &mut self.replay) {
                Ok(node) => {
                    let Repaired { added, removed } = node.repaired;
                    self.outcome.repaired += (added + removed) as u64;
                    self.trace.note(&format!("  routes: {added} added, {removed} removed"));
                    self.node = Some(node);
                    self.note_restored();
                    self.check_routes()?;
                    return self.check_replay();
                }
                Err(Stopped(reason)) if self.disk.power.is_gone() => {
                    self.trace.note(&format!("  does not start: {reason}"));
                    let crash = if self.luck.once_in(2) { Crash::Process } else { Crash::Machine };
                    self.go_down(crash);
                }
                Err(Stopped(reason)) => return Err(format!("the store does not open: {reason}")),
            }
        }
        Err("the store does not start however often it is tried".to_owned())
    }

    /// The oracle: what is on the disk is what was there after some decision, none before the last
    /// that was acknowledged.
    fn compare(&mut self) -> Checked {
        let now_ms = self.clock.millis();
        let candidates = self.ledgers.candidates();
        let moments = candidates.flat_map(|(_, ledger)| ledger.moments(now_ms)).collect();
        let seen = probe::look(&self.disk, now_ms, &moments)
            .map_err(|Stopped(reason)| format!("the store does not open: {reason}"))?;
        let Some(number) = probe::explain(&seen, &self.ledgers, now_ms) else {
            let (floor, last) = (self.ledgers.floor(), self.ledgers.last());
            let (kept, now) = (self.ledgers.kept(), self.ledgers.now());
            return Err(format!(
                "no decision of {floor} to {last} explains the sessions\n{seen:#?}\n\
                 acknowledged: {kept:#?}\nlast: {now:#?}"
            ));
        };
        self.ledgers.return_to(number);
        let expected = self.ledgers.now().routes();
        if let Some(routes) = seen.routes.iter().find(|routes| **routes != expected) {
            return Err(format!("the routes are {routes:?}, the sessions have {expected:?}"));
        }
        // Nobody was told of what is gone, or came and went: its numbers may be given again.
        let (floor, ledger) = (self.ledgers.floor(), self.ledgers.now());
        let is_there = |inbox| ledger.sessions.values().any(|session| session.inbox == inbox);
        self.inboxes.retain(|inbox, made| *made <= floor || is_there(*inbox));
        let is_it = |topics: &Topics| topics.shelf(0) == seen.retained;
        let Some((number, _)) = self.topics.candidates().find(|(_, topics)| is_it(topics)) else {
            let (kept, now) = (self.topics.kept(), self.topics.now());
            let seen = seen.retained;
            return Err(format!(
                "no decision explains what is retained\n{seen:#?}\nacknowledged: {kept:#?}\n\
                 last: {now:#?}"
            ));
        };
        self.topics.return_to(number);
        self.trace.note(&format!("  as after {} and {number}", self.ledgers.last()));
        self.wills = seen.wills.into_iter().map(|(text, number)| (number, text)).collect();
        Ok(())
    }

    /// What services decide when they begin: who was connected is not any more, and when wills are
    /// due.
    fn note_restored(&mut self) {
        let now_ms = self.clock.millis();
        let mut ledger = self.ledgers.now().restarted(now_ms);
        self.decide(ledger.clone(), None);
        let is_attached = |(client, session): (&usize, &Rc<crate::ledger::Session>)| {
            session.detached_ms.is_none().then_some((session.inbox, *client))
        };
        let attached: BTreeSet<_> = ledger.sessions.iter().filter_map(is_attached).collect();
        for (_, client) in attached {
            if let Some(session) = ledger.session(client) {
                session.detached_ms = Some(now_ms);
            }
            self.decide(ledger.clone(), None);
        }
        for text in std::mem::take(&mut self.wills).into_values() {
            if let Some(will) = ledger.wills.get_mut(&text) {
                will.stored_due_ms = will.due_ms;
            }
            self.decide(ledger.clone(), None);
        }
        self.trace.note(&format!("  up at {now_ms}"));
    }

    pub(crate) fn check_replay(&self) -> Checked {
        match &self.node {
            Some(node) => node.store.check_replay(&self.replay),
            None => Ok(()),
        }
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it says nothing".to_owned())
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, step, what, trace } = self;
        writeln!(out, "seed {seed}, step {step}: {what}\nthe last that happened:")?;
        trace.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}
