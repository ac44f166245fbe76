//! The rounds: load, kill -9 at a moment that the seed draws, restart; at the end all is drained,
//! and the broker is killed once more, after which nothing may come again.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use ratatosk_power::Order;
use ratatosk_testkit::dice::Dice;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep};

use crate::broker::Broker;
use crate::connection::Persona;
use crate::drain::{DRAIN_MAX, QUIET, check_clients, drained, is_something_missing};
use crate::history::{History, What};
use crate::mortal::Survivors;
use crate::oracle::{Property, Violation};
use crate::stage::{Access, Mode, Stage};
use crate::{cast, mortal, probe, report};

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What decides actions and kills.
    pub seed: u64,
    /// How often the broker is killed under load.
    pub rounds: u32,
    /// The longest time from a start to its kill.
    pub span: Duration,
    /// Messages a second of each publisher.
    pub rate: u32,
    /// What happens to the broker.
    pub blow: Blow,
}

/// What ends a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// kill -9.
    Kill,
    /// kill -9, and what was not synced is lost, or some of it.
    Power,
    /// The same with a disk that does not sync what it says that it did: an acknowledgement is worth
    /// nothing then, and who does not notice proves nothing.
    Lie,
    /// All connections fail and the broker lives: what even one without a disk has to withstand,
    /// so that a violation means that the clients here are wrong.
    Cut,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// All that happened.
    pub history: History,
    /// What must not have happened.
    pub violations: Vec<Violation>,
    /// How often the broker was killed.
    pub kills: u32,
    /// Changes of files and names that were not synced when the power failed.
    pub uncertain: usize,
    /// How long it took until all was taken.
    pub drained_in: Duration,
    seed: u64,
}

impl Outcome {
    /// The violations of some properties, for people; nothing if there are none.
    #[must_use]
    pub fn report(&self, properties: &[Property]) -> String {
        let is_meant = |violation: &&Violation| properties.contains(&violation.property);
        let violations: Vec<_> = self.violations.iter().filter(is_meant).cloned().collect();
        report::report(&self.history, &violations, self.seed)
    }
}

/// The one broker.
const DOOR: usize = 0;
/// A round without this is no load.
const SPAN_MIN: Duration = Duration::from_millis(100);
const SHORT: Duration = Duration::from_millis(400);
/// In so long nearly every process has begun, and many have not finished to begin.
const STARTING_MAX: Duration = Duration::from_millis(300);
/// The longest that a subscriber's acknowledgement may be on its way to the disk.
const SETTLE: Duration = Duration::from_secs(1);

/// Does what is planned. The folder of the broker is kept if something is wrong.
///
/// # Errors
/// If the broker does not start, or ends by itself.
pub fn run(plan: Plan) -> Result<Outcome> {
    let mut broker = Broker::new()?;
    if matches!(plan.blow, Blow::Power | Blow::Lie) {
        broker.watch()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, torture(&mut broker, plan));
    let outcome = outcome.and_then(|mut outcome| {
        if plan.blow == Blow::Power {
            broker.stop_and_compare()?;
        }
        if let Err(error) = broker.check_log() {
            outcome.violations.push(Violation::of_broker(&outcome.history, error.to_string()));
        }
        Ok(outcome)
    });
    if outcome.as_ref().map_or(true, |outcome| !outcome.violations.is_empty()) {
        broker.keep();
    }
    outcome.with_context(|| format!("seed {}", plan.seed))
}

/// A run that is under way.
struct Run<'a> {
    broker: &'a mut Broker,
    stage: Rc<Stage>,
    probe: Persona,
    /// Topics that are retained.
    kept: Vec<String>,
    dice: Dice,
    kills: u32,
    uncertain: usize,
    blow: Blow,
}

async fn torture(broker: &mut Broker, plan: Plan) -> Result<Outcome> {
    let stage = Rc::new(Stage::new(History::default(), &[broker.address()]));
    // Dropped at the end, and its clients with it.
    let mut tasks = JoinSet::new();
    let kept = cast::enter(&stage, &mut tasks, plan.seed, plan.rate);
    let probe = probe::persona(&stage);
    let dice = Dice::new(plan.seed, 0);
    let mut run = Run { broker, stage, probe, kept, dice, kills: 0, uncertain: 0, blow: plan.blow };
    run.broker.start()?;
    // Everybody has subscribed before the first message.
    run.begin(Mode::Drain).await?;
    run.stage.quiet(QUIET, DRAIN_MAX).await;
    if plan.blow == Blow::Lie {
        run.broker.order(Order::SkipSync)?;
    }
    run.stage.turn(Mode::Load);
    for round in 1..=plan.rounds {
        // Some kills meet everybody on the way back.
        let longest = if run.dice.once_in(3) { SHORT } else { plan.span };
        let span = run.dice.span(SPAN_MIN, longest);
        for mortal in mortal::generation(&run.stage, &mut run.dice, round, span, Survivors::None) {
            tasks.spawn_local(mortal);
        }
        sleep(span).await;
        check_clients(&mut tasks)?;
        run.strike()?;
        while plan.blow != Blow::Cut && run.dice.once_in(4) {
            sleep(run.dice.span(Duration::ZERO, STARTING_MAX)).await;
            run.strike()?;
        }
        run.begin(Mode::Load).await?;
    }
    run.stage.turn(Mode::Drain);
    let started = Instant::now();
    let mut violations = run.drained().await?;
    let drained_in = started.elapsed();
    if !is_something_missing(&violations) {
        // All is taken, and the broker had the time to settle it: from now on nothing comes.
        run.stage.quiet(SETTLE, DRAIN_MAX).await;
        run.stage.record_broker(What::Drained);
        run.strike()?;
        run.begin(Mode::Drain).await?;
        violations = run.drained().await?;
    }
    check_clients(&mut tasks)?;
    let history = run.stage.history.borrow().clone();
    let Run { kills, uncertain, .. } = run;
    Ok(Outcome { history, violations, kills, uncertain, drained_in, seed: plan.seed })
}

impl Run<'_> {
    /// Waits for the broker, looks at what is retained, and lets everybody in.
    async fn begin(&mut self, mode: Mode) -> Result<()> {
        self.broker.ready().await?;
        self.stage.record_broker(What::Started);
        self.stage.turn(Mode::Inspect);
        self.stage.reopen(DOOR);
        probe::look(&self.stage, &self.probe, DOOR, &self.kept).await.context("the probe")?;
        self.stage.turn(mode);
        Ok(())
    }

    /// Ends the round; afterwards a broker is there or begins.
    fn strike(&mut self) -> Result<()> {
        self.stage.shut(DOOR, Access::Closed);
        if self.blow == Blow::Cut {
            self.stage.record_broker(What::NetworkFailed);
            return self.broker.check_alive();
        }
        match self.blow {
            Blow::Power | Blow::Lie => {
                self.uncertain += self.broker.cut_power(&mut |bound| self.dice.below(bound))?;
            }
            Blow::Kill | Blow::Cut => self.broker.kill()?,
        }
        self.stage.record_broker(What::Killed);
        self.kills += 1;
        self.broker.start()
    }

    /// Waits until nothing is missing, or what is missing does not come any more.
    async fn drained(&mut self) -> Result<Vec<Violation>> {
        // All who are there from the beginning; mortals come after the probe.
        let (stage, end) = (Rc::clone(&self.stage), self.probe.client);
        drained(&stage, end, &mut || self.broker.check_alive()).await
    }
}
