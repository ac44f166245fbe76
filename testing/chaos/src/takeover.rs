//! Two clients with one client identifier race to connect at different nodes, again and again, while
//! publishers send to their session, and while now and then a node is cut off.
//!
//! `duel` has the races of one session, `twin` a connection at work, `life` what is written down of it;
//! `verdict` says what must hold, and judges while the run goes on. Each connection does all the time
//! what only an owner can do, and at once whenever another one of its session is let in.

mod duel;
mod life;
mod outcome;
mod twin;
mod verdict;
mod weather;
mod wire;

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatosk_codec::{ProtocolVersion, Qos};
use ratatosk_crash::connection::Persona;
use ratatosk_crash::history::{History, MessageIndex};
use ratatosk_crash::probe;
use ratatosk_crash::publisher::Publisher;
use ratatosk_crash::stage::{Mode, Stage};
use ratatosk_testkit::dice::Dice;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::harm::Act;
use crate::plan::{Ground, Plan};
use crate::rounds::{Scene, among_clients};
use duel::{Duel, Races};
use twin::Twin;
use verdict::{Facts, Judge};

pub use outcome::Outcome;
pub use verdict::{Breach, Kind};

/// Sessions that are raced for at the same time.
const TWINS: usize = 8;
const PUBLISHERS: usize = 4;
/// From one storm to the next.
const BETWEEN_STORMS: [Duration; 2] = [Duration::from_secs(21), Duration::from_secs(32)];
/// The longest storm: a few seconds.
const STORM_MAX: Duration = Duration::from_secs(6);
/// Between two lines.
const LINE: u32 = 100;
const STEP: Duration = Duration::from_millis(200);
/// Everybody is there within this.
const BEGIN_MAX: Duration = Duration::from_secs(60);
/// What does not come after so long without anything new is lost.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// Has the races of a plan run, and tells of each hundred.
///
/// # Errors
/// As [`rounds::run`](crate::rounds::run).
pub fn run(plan: &Plan, tell: &mut (dyn FnMut(String) + Send)) -> Result<Outcome> {
    if let Some(problem) = plan.problem() {
        bail!(problem);
    }
    let mut cluster = Cluster::new(plan)?;
    let outcome = among_clients(&mut cluster, async |cluster| races(cluster, plan, tell).await);
    if !outcome.as_ref().is_ok_and(Outcome::is_good) {
        cluster.keep();
    }
    outcome.with_context(|| format!("seed {}", plan.seed))
}

async fn races(
    cluster: &mut Cluster,
    plan: &Plan,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<Outcome> {
    let stage = Rc::new(Stage::new(History::default(), &cluster.addresses()));
    let probe = probe::persona(&stage);
    let (tasks, dice) = (JoinSet::new(), Dice::new(plan.seed, 0));
    let (kept, known) = (Vec::new(), HashSet::new());
    let doors = cluster.nodes.len();
    let mut scene = Scene { cluster, stage: Rc::clone(&stage), tasks, probe, kept, dice, known };
    scene.begin().await?;
    let races = Rc::new(Races::new(&stage, plan.rounds));
    let new = |number| Rc::new(Twin::new(&stage, number));
    let twins: Vec<Rc<Twin>> = (0..TWINS).map(new).collect();
    for twin in &twins {
        let dice = Dice::new(plan.seed, 1 + twin.number as u64);
        scene.tasks.spawn_local(Duel::new(&races, twin, dice, doors).run());
    }
    let mut show = Show::new(&races, &twins);
    show.await_subscriptions(&mut scene).await?;
    publish(&mut scene, &twins, plan);
    stage.turn(Mode::Load);
    races.gate.send_replace(true);
    let mut storms = 0;
    while !show.is_over() {
        let calm = scene.dice.span(BETWEEN_STORMS[0], BETWEEN_STORMS[1]);
        show.watch(&mut scene, calm, tell).await?;
        if plan.ground != Ground::Namespaces || show.is_over() {
            continue;
        }
        storms += 1;
        let leading = scene.cluster.leading().await;
        let plan = Plan { span: plan.span.min(STORM_MAX), ..plan.clone() };
        let act = Act::draw(&plan, storms, doors, &leading, &mut scene.dice);
        races.weather.begin(stage.elapsed());
        act.inflict(&mut scene).await.with_context(|| act.words())?;
        races.weather.end(stage.elapsed());
    }
    stage.turn(Mode::Drain);
    show.drain(&mut scene).await?;
    Ok(show.outcome(&scene, (plan.seed, storms)))
}

/// Who sends to all sessions.
fn publish(scene: &mut Scene<'_>, twins: &[Rc<Twin>], plan: &Plan) {
    for number in 0..PUBLISHERS {
        let name = format!("publisher-{number}");
        let client = scene.stage.history.borrow_mut().add_client(&name, true);
        let version = ProtocolVersion::V5;
        let persona = Persona { client, name, version, is_persistent: true, will: None };
        let dice = Dice::new(plan.seed, 100 + number as u64);
        let mut publisher = Publisher::new(&scene.stage, persona, dice);
        let qos = [Qos::AtLeastOnce, Qos::ExactlyOnce];
        let topics = twins.iter().flat_map(|twin| qos.map(|qos| (twin.topic(qos), qos)));
        publisher.topics = topics.collect();
        publisher.pause = Duration::from_secs(1) / plan.rate.max(1);
        scene.tasks.spawn_local(publisher.run());
    }
}

/// What was seen so far.
struct Show {
    races: Rc<Races>,
    twins: Vec<Rc<Twin>>,
    judges: Vec<Judge>,
    facts: Facts,
    told: u32,
}

impl Show {
    fn new(races: &Rc<Races>, twins: &[Rc<Twin>]) -> Show {
        let judges = twins.iter().map(|twin| Judge::new(twin.name())).collect();
        let (races, twins) = (Rc::clone(races), twins.to_vec());
        Show { races, twins, judges, facts: Facts::default(), told: 0 }
    }

    fn is_over(&self) -> bool {
        self.races.done.get() >= self.races.count
    }

    /// Waits until every session has its subscription.
    async fn await_subscriptions(&self, scene: &mut Scene<'_>) -> Result<()> {
        let started = Instant::now();
        while !self.twins.iter().all(|twin| twin.is_subscribed.get()) {
            if started.elapsed() > BEGIN_MAX {
                bail!("not all have subscribed within {BEGIN_MAX:?}");
            }
            scene.pause(STEP).await?;
        }
        Ok(())
    }

    /// Looks on for a while, and tells of each hundred races.
    async fn watch(
        &mut self,
        scene: &mut Scene<'_>,
        span: Duration,
        tell: &mut (dyn FnMut(String) + Send),
    ) -> Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end && !self.is_over() {
            scene.pause(STEP).await?;
            let hundreds = self.races.done.get() / LINE;
            if hundreds > self.told {
                self.told = hundreds;
                self.judge(false);
                tell(outcome::line(&self.races, &self.judges));
            }
        }
        Ok(())
    }

    fn judge(&mut self, is_end: bool) {
        let Races { stage, weather, .. } = &*self.races;
        let (history, now) = (stage.history.borrow(), stage.elapsed());
        self.facts.follow(&history);
        for (judge, twin) in self.judges.iter_mut().zip(&self.twins) {
            judge.judge(&twin.lives.borrow(), (&history, &self.facts), weather, now, is_end);
        }
    }

    /// Waits until publishers wait for nothing, and all that was acknowledged has come.
    async fn drain(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.twins.iter().for_each(|twin| twin.is_quiet.set(true));
        let (mut before, mut changed) = (usize::MAX, Instant::now());
        loop {
            scene.pause(STEP * 2).await?;
            let history = self.races.stage.history.borrow();
            self.facts.follow(&history);
            let missing = self.missing(&history).len() + history.open;
            if missing != before {
                (before, changed) = (missing, Instant::now());
            }
            if missing == 0 || changed.elapsed() > LOST_AFTER {
                return Ok(());
            }
        }
    }

    /// What was acknowledged and did not come to its session.
    fn missing(&self, history: &History) -> Vec<(usize, MessageIndex)> {
        let came: Vec<HashSet<_>> = self.twins.iter().map(|twin| twin.received()).collect();
        let of = |topic: &str| topic.split('/').nth(1)?.parse::<usize>().ok();
        let acked = self
            .facts
            .acked()
            .filter_map(|message| Some((of(&history.message(message).topic)?, message)));
        acked.filter(|(twin, message)| !came[*twin].contains(message)).collect()
    }

    fn outcome(mut self, scene: &Scene<'_>, (seed, storms): (u64, u32)) -> Outcome {
        self.judge(true);
        let history = self.races.stage.history.borrow();
        for (twin, message) in self.missing(&history) {
            let (judge, weather) = (&mut self.judges[twin], &self.races.weather);
            let sent = self.facts.sent(message).unwrap_or_default();
            let text = format!("{message:?}, sent at {sent:?}: {:?}", history.message(message));
            judge.breach(Kind::Lost, weather, (sent, sent), &text);
        }
        let panics = scene.cluster.panics();
        Outcome::new(&self.races, &self.judges, &history, (seed, storms, panics))
    }
}
