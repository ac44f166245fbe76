//! The races for one session: who connects where and when, and what is waited for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ratatosk_codec::ReasonCode;
use ratatosk_crash::connection::Incoming;
use ratatosk_crash::stage::{Access, Stage};
use ratatosk_testkit::dice::Dice;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::life::{End, Life};
use super::twin::{Link, Twin};
use super::weather::Weather;
use super::wire::Wire;

/// The longest time between two races for one session.
const PAUSE: Duration = Duration::from_millis(900);
/// The longest time that the second of two contenders waits after the first.
const HANDICAP: Duration = Duration::from_millis(6);
/// A node that is cut off is not reached.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// In a storm nobody waits longer for an answer, or for an end.
const STORM_MAX: Duration = Duration::from_secs(5);
/// Otherwise nobody has to wait so long.
pub(super) const CALM_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(250);

/// What all races share.
pub(super) struct Races {
    pub(super) stage: Rc<Stage>,
    pub(super) weather: Weather,
    /// Whether they may begin.
    pub(super) gate: watch::Sender<bool>,
    /// How many there are to be.
    pub(super) count: u32,
    /// How many have begun.
    pub(super) begun: Cell<u32>,
    /// How many are over.
    pub(super) done: Cell<u32>,
    /// How many of them were over in calm.
    pub(super) calm: Cell<u32>,
    /// Nodes that could not be reached at all.
    pub(super) unreached: Cell<u32>,
    /// From CONNECT to CONNACK, of whoever took a session over in calm.
    pub(super) spans: RefCell<Vec<Duration>>,
    /// What must not be, as the contenders saw it.
    pub(super) faults: RefCell<Vec<String>>,
}

impl Races {
    pub(super) fn new(stage: &Rc<Stage>, count: u32) -> Races {
        Races {
            stage: Rc::clone(stage),
            weather: Weather::default(),
            gate: watch::channel(false).0,
            count,
            begun: Cell::new(0),
            done: Cell::new(0),
            calm: Cell::new(0),
            unreached: Cell::new(0),
            spans: RefCell::default(),
            faults: RefCell::default(),
        }
    }
}

/// The races for one session.
pub(super) struct Duel {
    races: Rc<Races>,
    twin: Rc<Twin>,
    dice: Dice,
    doors: usize,
    links: RefCell<JoinSet<()>>,
    /// How connections are given up, by life.
    leave: RefCell<HashMap<usize, watch::Sender<bool>>>,
}

impl Duel {
    pub(super) fn new(races: &Rc<Races>, twin: &Rc<Twin>, dice: Dice, doors: usize) -> Duel {
        Duel {
            races: Rc::clone(races),
            twin: Rc::clone(twin),
            dice,
            doors,
            links: RefCell::new(JoinSet::new()),
            leave: RefCell::default(),
        }
    }

    /// Takes the session for the first time, races as often as there are races left, and takes at the end
    /// whatever comes, until it is dropped.
    pub(super) async fn run(mut self) {
        self.hold().await;
        let mut gate = self.races.gate.subscribe();
        // The sender lives as long as the races.
        let _ = gate.wait_for(|is_open| *is_open).await;
        while self.races.begun.get() < self.races.count {
            self.races.begun.set(self.races.begun.get() + 1);
            let round = self.races.begun.get();
            self.race(round).await;
            self.races.done.set(self.races.done.get() + 1);
            let pause = self.dice.span(Duration::ZERO, PAUSE);
            sleep(pause).await;
        }
        loop {
            self.hold().await;
            sleep(LOOK).await;
        }
    }

    /// Sees that somebody has the session.
    async fn hold(&mut self) {
        while self.twin.alive().is_empty() {
            let door = self.dice.below(self.doors);
            if let Some(wire) = self.open(door).await {
                self.contend(self.races.begun.get(), door, wire, Duration::ZERO).await;
            }
        }
    }

    async fn race(&mut self, round: u32) {
        let began = self.races.stage.elapsed();
        let held = self.twin.alive();
        let first = self.draw_door(&held);
        let is_double = self.dice.once_in(2);
        if is_double {
            let second = (first + 1 + self.dice.below(self.doors - 1)) % self.doors;
            let handicap = match self.dice.once_in(3) {
                true => Duration::ZERO,
                false => self.dice.span(Duration::ZERO, HANDICAP),
            };
            let (one, other) = tokio::join!(self.open(first), self.open(second));
            if self.dice.once_in(3) {
                // One of the two had the session, and its network failed.
                self.give_up(&held);
            }
            let one = async {
                if let Some(wire) = one {
                    self.contend(round, first, wire, Duration::ZERO).await;
                }
            };
            let other = async {
                if let Some(wire) = other {
                    self.contend(round, second, wire, handicap).await;
                }
            };
            tokio::join!(one, other);
        } else if let Some(wire) = self.open(first).await {
            self.contend(round, first, wire, Duration::ZERO).await;
        }
        self.settle(round, began).await;
        let is_calm = self.races.weather.is_calm(began, self.races.stage.elapsed());
        self.races.calm.set(self.races.calm.get() + u32::from(is_calm));
    }

    /// Another node than the one that has the session, if one has it.
    fn draw_door(&mut self, held: &[usize]) -> usize {
        let at = held.last().map(|life| self.twin.lives.borrow()[*life].door);
        match at {
            Some(at) => (at + 1 + self.dice.below(self.doors - 1)) % self.doors,
            None => self.dice.below(self.doors),
        }
    }

    fn give_up(&self, lives: &[usize]) {
        let leave = self.leave.borrow();
        for life in lives {
            if let Some(leave) = leave.get(life) {
                leave.send_replace(true);
            }
        }
    }

    /// A connection to a node, for which nothing was said yet.
    async fn open(&self, door: usize) -> Option<Wire> {
        let door = self.races.stage.door(door);
        let opened = match door.access {
            Access::Dark | Access::Closed => None,
            _ => timeout(OPEN_MAX, Wire::open(door.address)).await.ok().and_then(Result::ok),
        };
        if opened.is_none() {
            self.races.unreached.set(self.races.unreached.get() + 1);
            sleep(LOOK).await;
        }
        opened
    }

    /// One tries to get the session, and works with it from then on.
    async fn contend(&self, round: u32, door: usize, mut wire: Wire, handicap: Duration) {
        if !handicap.is_zero() {
            sleep(handicap).await;
        }
        let (stage, twin) = (&self.races.stage, &self.twin);
        let sent = stage.elapsed();
        let had = !twin.alive().is_empty();
        let life = twin.add_life(Life::new(round, door, sent));
        wire.connect(&twin.name()).await;
        let end = match self.answer(&mut wire, sent).await {
            Ok(()) => {
                let at = stage.elapsed();
                if had && self.races.weather.is_calm(sent, at) {
                    self.races.spans.borrow_mut().push(at - sent);
                }
                let (leave, left) = watch::channel(false);
                let mut all = self.leave.borrow_mut();
                all.retain(|_, leave| !leave.is_closed());
                all.insert(life, leave);
                drop(all);
                twin.crown(life, at);
                let link = Link::new(stage, twin, (life, wire), left);
                let mut links = self.links.borrow_mut();
                while links.try_join_next().is_some() {}
                links.spawn_local(link.live());
                return;
            }
            Err(end) => end,
        };
        let at = stage.elapsed();
        twin.change(life, |life| life.end = Some((at, end)));
    }

    /// Waits for CONNACK.
    async fn answer(&self, wire: &mut Wire, sent: Duration) -> Result<(), End> {
        let started = Instant::now();
        loop {
            match timeout(LOOK, wire.next()).await {
                Ok(Ok(Some(Incoming::Connack { reason: ReasonCode::Success, .. }))) => {
                    return Ok(());
                }
                Ok(_) => return Err(End::Refused),
                Err(_) => {}
            }
            let is_calm = self.races.weather.is_calm(sent, self.races.stage.elapsed());
            if !is_calm && started.elapsed() > STORM_MAX {
                return Err(End::Unanswered);
            }
            if started.elapsed() > CALM_MAX {
                let name = self.twin.name();
                self.fault(format!("{name}: no CONNACK within {CALM_MAX:?}, sent at {sent:?}"));
                return Err(End::Unanswered);
            }
        }
    }

    /// Waits until one connection is left, and is served.
    async fn settle(&self, round: u32, began: Duration) {
        let started = Instant::now();
        let mut pulse = self.twin.follow();
        while let Some(missing) = self.missing(round) {
            let now = self.races.stage.elapsed();
            let is_calm = self.races.weather.is_calm(began, now);
            if !is_calm && started.elapsed() > STORM_MAX {
                return;
            }
            if started.elapsed() > CALM_MAX {
                return self.fault(format!("{}, race {round}: {missing}", self.twin.name()));
            }
            // Either end is as good.
            let _ = timeout(LOOK, pulse.changed()).await;
        }
    }

    /// What is not yet as it has to become.
    fn missing(&self, round: u32) -> Option<String> {
        let alive = self.twin.alive();
        let lives = self.twin.lives.borrow();
        let latest = lives.iter().rev().take_while(|life| life.round == round);
        let crowned = latest.filter_map(|life| life.connack).max()?;
        match &alive[..] {
            [] => None,
            [one] => {
                let life = &lives[*one];
                let deeds = life.deeds.iter().rev();
                let mut late = deeds.take_while(|deed| deed.started >= crowned);
                let is_served = late.any(|deed| deed.acked.is_some());
                (!is_served).then(|| format!("who has the session is not served: {one}"))
            }
            several => Some(format!("{} connections live", several.len())),
        }
    }

    fn fault(&self, text: String) {
        self.races.faults.borrow_mut().push(text);
    }
}
