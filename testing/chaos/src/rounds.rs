//! The rounds: load, harm, load, and a pause in which everything is taken, looked at and judged.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatosk_crash::connection::Persona;
use ratatosk_crash::drain::{DRAIN_MAX, QUIET, check_clients, drained, is_something_missing};
use ratatosk_crash::history::History;
use ratatosk_crash::mortal::Survivors;
use ratatosk_crash::oracle::{Property, Violation, judge};
use ratatosk_crash::stage::{Access, Mode, Stage};
use ratatosk_crash::{cast, mortal, probe};
use ratatosk_testkit::dice::Dice;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::figures::{Figures, Window, is_refusal};
use crate::harm::Act;
use crate::plan::Plan;
use crate::report;

/// Load before the harm, so that there is something to harm.
const BEFORE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Load after it: clients have come back long before.
const AFTER: Duration = Duration::from_secs(3);
/// Clients that do not come back and were not at a victim go at the latest so long after.
const MORTALS_LAST: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);
/// A node lets new clients in within this, when all is quiet.
const ENTRY_MAX: Duration = Duration::from_secs(15);

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// All that happened.
    pub history: History,
    /// What must not have happened.
    pub violations: Vec<Violation>,
    /// Of each round.
    pub rounds: Vec<Figures>,
    /// What decided.
    pub seed: u64,
}

impl Outcome {
    /// Whether all holds that must hold.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.rounds.iter().all(Figures::is_good)
    }
}

/// Does what is planned, and tells of each round. Ends early if something is missing that a later round
/// would wait for in vain. If something does not hold, or anything else is wrong, the folders of the nodes
/// are kept.
///
/// # Errors
/// If the plan cannot be done, a node does not start or ends by itself, or a signal ends it.
pub fn run(plan: &Plan, tell: &mut (dyn FnMut(&Figures) + Send)) -> Result<Outcome> {
    if let Some(problem) = plan.problem() {
        bail!(problem);
    }
    let mut cluster = Cluster::new(plan)?;
    let outcome = among_clients(&mut cluster, async |cluster| rounds(cluster, plan, tell).await);
    if !outcome.as_ref().is_ok_and(Outcome::is_good) {
        cluster.keep();
    }
    if let Ok(outcome) = &outcome
        && !outcome.is_good()
    {
        let path = cluster.folder().join("history");
        std::fs::write(&path, report::history(outcome))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    outcome.with_context(|| format!("seed {}", plan.seed))
}

/// Has a run done by a thread of its own, which is where clients are, until a signal ends it.
pub(crate) fn among_clients<T: Send>(
    cluster: &mut Cluster,
    run: impl AsyncFnOnce(&mut Cluster) -> Result<T> + Send,
) -> Result<T> {
    let until_told = async |cluster: &mut Cluster| {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = run(cluster) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cluster.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, until_told(cluster))
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn rounds(
    cluster: &mut Cluster,
    plan: &Plan,
    tell: &mut (dyn FnMut(&Figures) + Send),
) -> Result<Outcome> {
    let stage = Rc::new(Stage::new(History::default(), &cluster.addresses()));
    let mut tasks = JoinSet::new();
    let kept = cast::enter(&stage, &mut tasks, plan.seed, plan.rate);
    let probe = probe::persona(&stage);
    let dice = Dice::new(plan.seed, 0);
    let known = HashSet::new();
    let mut scene = Scene { cluster, stage, tasks, probe, kept, dice, known };
    scene.begin().await?;
    let (mut all, mut violations) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        let (figures, found) = scene.round(plan, round).await?;
        tell(&figures);
        all.push(figures);
        let is_over = is_something_missing(&found);
        violations.extend(found);
        if is_over {
            break;
        }
    }
    let history = scene.stage.history.borrow().clone();
    Ok(Outcome { history, violations, rounds: all, seed: plan.seed })
}

/// A run that is under way.
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) stage: Rc<Stage>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) probe: Persona,
    /// Topics that are retained.
    pub(crate) kept: Vec<String>,
    pub(crate) dice: Dice,
    /// What did not hold in earlier rounds.
    pub(crate) known: HashSet<String>,
}

impl Scene<'_> {
    /// Founds the cluster, and has everybody subscribe before the first message.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.cluster.found().await?;
        // Before that a range may have one replica.
        self.cluster.settled().await?;
        (0..self.cluster.addresses().len()).for_each(|door| self.stage.open(door));
        self.stage.turn(Mode::Drain);
        self.stage.quiet(QUIET, DRAIN_MAX).await;
        self.cluster.check_alive()
    }

    async fn round(&mut self, plan: &Plan, round: u32) -> Result<(Figures, Vec<Violation>)> {
        let begin = self.events();
        self.stage.turn(Mode::Load);
        let leading = self.cluster.leading().await;
        let nodes = self.cluster.nodes.iter().filter(|node| node.is_started()).count();
        let act = Act::draw(plan, round, nodes, &leading, &mut self.dice);
        let before = self.dice.span(BEFORE[0], BEFORE[1]);
        let survivors = Survivors::Go(before + MORTALS_LAST);
        for mortal in mortal::generation(&self.stage, &mut self.dice, round, before, survivors) {
            self.tasks.spawn_local(mortal);
        }
        self.pause(before).await?;
        let harm = self.events();
        act.inflict(self).await.with_context(|| act.words())?;
        let settled = self.cluster.settled().await.with_context(|| act.words())?;
        self.pause(AFTER).await?;
        let calm = self.events();
        let violations = self.calm_down().await?;
        check_clients(&mut self.tasks)?;
        let history = self.stage.history.borrow();
        let window = Window { begin, harm, calm, end: history.events.len() };
        let figures = Figures::of(&history, window, &act.victims(), &violations);
        let words = act.words();
        Ok((Figures { round, act: words, settled, ..figures }, violations))
    }

    /// Has everything taken, looks at what is retained at each node, and judges.
    async fn calm_down(&mut self) -> Result<Vec<Violation>> {
        self.stage.turn(Mode::Drain);
        // All who are there from the beginning; mortals come after the probe.
        let (stage, end) = (Rc::clone(&self.stage), self.probe.client);
        let cluster = &mut *self.cluster;
        let mut violations = drained(&stage, end, &mut || cluster.check_alive()).await?;
        let mut shut_out = Vec::new();
        for door in 0..self.cluster.addresses().len() {
            if self.stage.door(door).access == Access::Open {
                shut_out.extend(self.look(door).await.err());
            }
        }
        let history = self.stage.history.borrow();
        violations.extend(shut_out.into_iter().map(|text| Violation::of_broker(&history, text)));
        let is_late = |it: &Violation| it.property == Property::Retained;
        violations.retain(|violation| !is_late(violation));
        violations.extend(judge(&history).into_iter().filter(is_late));
        let panics = self.cluster.panics().into_iter();
        violations.extend(panics.map(|text| Violation::of_broker(&history, text)));
        violations.retain(|violation| !is_refusal(&history, violation));
        violations.retain(|violation| self.known.insert(format!("{violation:?}")));
        Ok(violations)
    }

    /// Looks at what is retained at a node.
    ///
    /// # Errors
    /// Says why a new client is not let in there, long after the harm.
    async fn look(&self, door: usize) -> Result<(), String> {
        let started = Instant::now();
        loop {
            match probe::look(&self.stage, &self.probe, door, &self.kept).await {
                Ok(()) => return Ok(()),
                Err(error) if started.elapsed() > ENTRY_MAX => {
                    return Err(format!("a new client at node {}: {error:#}", door + 1));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    fn events(&self) -> usize {
        self.stage.history.borrow().events.len()
    }

    /// Lets clients work, and sees meanwhile that no node ends and no client comes to grief.
    pub(crate) async fn pause(&mut self, span: Duration) -> Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            sleep(LOOK.min(end - Instant::now())).await;
            self.cluster.check_alive()?;
            check_clients(&mut self.tasks)?;
        }
        Ok(())
    }

    /// Waits for a node, and sends clients there.
    pub(crate) async fn ready(&mut self, node: usize) -> Result<()> {
        self.cluster.ready(node).await?;
        if self.cluster.nodes[node].workload.has_clients() {
            self.stage.open(node);
        }
        Ok(())
    }
}
