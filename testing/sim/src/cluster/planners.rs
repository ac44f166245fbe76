//! Planners of the stores, each with rules of its own age and with what it has heard of the others, which may
//! be old: what they want is done beside all other orders. KV-021, KV-025
//!
//! Loads are made up. The rules change at any time, at one store before the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ratatosk_balance::keeper::report;
use ratatosk_balance::landscape::{self, Landscape, Load, Reach, Standing};
use ratatosk_balance::rules::{Learners, Switch};
use ratatosk_balance::{Action, Balancer, Plan, RuleBook, Rules, Settings, plan_all};
use ratatosk_clock::Instant;
use ratatosk_store::command;
use ratatosk_store::machine::{Input, Status};
use ratatosk_testkit::dice::Dice;

use super::callers::{KEYS, ORDER};
use super::register::{self, INBOX, KEYSPACE};
use super::store::{Store, Work};
use super::{Cluster, Happening};
use crate::simulation::Checked;

/// By how much the clock of the planners is ahead: ranges can have been idle for longer than this all takes.
const AHEAD: Duration = Duration::from_secs(3_600);
/// Bytes of a range that is large by all rules here.
const LARGE: u64 = 1_000;
/// So many ranges at most.
const RANGES_MAX: usize = 8;

/// See the module.
pub(super) struct Planners {
    dice: Dice,
    /// What each store has heard of all.
    seen: BTreeMap<u64, Landscape>,
    /// The rules that each goes by.
    books: BTreeMap<u64, RuleBook>,
    /// The rules of those that hear of them next.
    latest: RuleBook,
    /// Operators: another stream, so that what they want leaves the rest as it was.
    operators: Dice,
    /// What operators want of stores.
    standings: BTreeMap<u64, Standing>,
}

impl Planners {
    pub(super) fn new(dice: Dice, operators: Dice) -> Self {
        let (seen, books, standings) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { dice, seen, books, latest: RuleBook::default(), operators, standings }
    }

    /// Now and then an operator has a store emptied, gives one up, or takes that back; whoever plans next
    /// hears of it with the store's word. OPS-003
    fn change_standings(&mut self, stores: &[u64]) {
        let dice = &mut self.operators;
        if !dice.once_in(6) {
            return;
        }
        let Some(store) = dice.pick(stores).copied() else { return };
        let all = [Standing::Member, Standing::Member, Standing::Draining, Standing::GivenUp];
        self.standings.insert(store, all[dice.below(all.len())]);
    }

    /// Other rules for a keyspace.
    fn change_rules(&mut self) {
        let dice = &mut self.dice;
        let keyspace = if dice.once_in(3) { INBOX } else { KEYSPACE };
        if dice.once_in(3) {
            let balancer = dice.pick(&Balancer::ALL).copied().unwrap_or(Balancer::Split);
            let to = if dice.once_in(3) { Switch::On } else { Switch::Off };
            self.latest.switch(keyspace, balancer, to);
            return;
        }
        let voters = [1, 3, 3, 3, 5][dice.below(5)];
        let mut settings = Settings {
            voters,
            learners: if dice.once_in(3) { Learners::Everywhere } else { Learners::None },
            ranges_max: 1 + dice.below(RANGES_MAX),
            unreachable_after: Duration::from_millis(500 + dice.below(4_000) as u64),
            leaders_apart: 1 + dice.below(2),
            ..Settings::default()
        };
        settings.split.size_bytes_max = LARGE / 2;
        settings.merge.size_bytes_max = LARGE / 10;
        settings.merge.idle_min = AHEAD / 2;
        if let Ok(rules) = Rules::try_from(settings) {
            self.latest.set(keyspace, rules);
        }
    }

    /// What a store says of itself now.
    fn word(&mut self, store: &Store, now: Instant) -> landscape::Store {
        let replicas = store.status().into_iter();
        let replicas = replicas.map(|status| (status.group, self.report(status, now)));
        let replicas = replicas.collect();
        let (votes, reads) = cast(store.number, now);
        landscape::Store {
            keyspaces: votes.iter().map(|name| (*name).to_owned()).collect(),
            copies: reads.iter().map(|name| (*name).to_owned()).collect(),
            editions: store.supported(),
            replicas,
            ..landscape::Store::default()
        }
    }

    fn report(&mut self, status: Status, now: Instant) -> landscape::Report {
        let dice = &mut self.dice;
        let is_idle = dice.once_in(2);
        let mut load = Load { size_bytes: dice.below(50) as u64, ..Load::default() };
        // Sessions of the inbox here all belong to one range.
        if status.descriptor.keyspace == KEYSPACE && dice.once_in(5) {
            load.size_bytes = LARGE;
            let middle = dice.pick(&KEYS).map(|key| register::place(key));
            load.middle = middle.map(Bytes::copy_from_slice);
        }
        load.entries_per_second = u64::from(!is_idle);
        report(status, load, if is_idle { Instant::ZERO } else { now })
    }

    /// What a store knows of others by now: of itself all, of others what it has just heard or once had.
    fn landscape(
        &mut self,
        me: u64,
        words: &BTreeMap<u64, landscape::Store>,
        now: Instant,
    ) -> Landscape {
        let seen = self.seen.entry(me).or_default();
        for (number, word) in words {
            let hears = *number == me || self.dice.once_in(2);
            if hears || !seen.stores.contains_key(number) {
                seen.stores.insert(*number, word.clone());
            }
        }
        for (number, held) in &mut seen.stores {
            held.reach = match (words.contains_key(number), held.reach) {
                (true, _) => Reach::Up,
                (false, away @ Reach::Away { .. }) => away,
                (false, Reach::Up) => Reach::Away { since: now },
            };
            // Which may be news of a store that says nothing itself.
            if self.operators.once_in(2) {
                held.standing = self.standings.get(number).copied().unwrap_or_default();
            }
        }
        seen.clone()
    }
}

/// What a store may vote for, and what its node reads: all of most stores, and of some something else every few
/// seconds, as if they had been started with other roles. CFG-002
fn cast(number: u64, now: Instant) -> (&'static [&'static str], &'static [&'static str]) {
    let spell = now.since(Instant::ZERO).as_secs() / 3;
    match (number + spell) % 7 {
        1 => (&[INBOX], &[KEYSPACE]),
        3 => (&[KEYSPACE], &[]),
        5 => (&[], &[KEYSPACE]),
        _ => (&[KEYSPACE, INBOX], &[KEYSPACE]),
    }
}

impl Cluster {
    /// Some store plans, and has done what it wants; perhaps by other rules than before.
    pub(super) fn plan_ranges(&mut self) -> Checked {
        if !self.is_faulty {
            return Ok(());
        }
        if self.planners.dice.once_in(4) {
            self.planners.change_rules();
            self.outcome.rules += 1;
        }
        let now = self.now + AHEAD;
        let mut words = BTreeMap::new();
        for (number, place) in &self.stores {
            if let Some(store) = &place.store {
                words.insert(*number, self.planners.word(store, now));
            }
        }
        let live: Vec<u64> = words.keys().copied().collect();
        let all: Vec<u64> = self.stores.keys().copied().collect();
        self.planners.change_standings(&all);
        if let Some(me) = self.planners.dice.pick(&live).copied() {
            let landscape = self.planners.landscape(me, &words, now);
            if self.planners.dice.once_in(2) || !self.planners.books.contains_key(&me) {
                self.planners.books.insert(me, self.planners.latest.clone());
            }
            let round = plan_all(&self.planners.books[&me], &landscape, now, me);
            for (_, plan) in round.plans {
                self.carry_out(me, plan);
            }
        }
        let span = Duration::from_millis(30 + self.planners.dice.below(200) as u64);
        self.after(span, Happening::Plans);
        Ok(())
    }

    fn carry_out(&mut self, me: u64, plan: Plan) {
        let Plan { group, expected, action } = plan;
        let staying: BTreeSet<u64> = self.staying().into_iter().collect();
        let input = match action {
            // Nobody is named who is about to be gone for good: see `places`.
            Action::Change(target) => {
                if !target.voters.union(&target.learners).all(|store| staying.contains(store)) {
                    return;
                }
                Input::Change { group, expected: Some(expected), target, ticket: ORDER }
            }
            Action::Transfer { to } => Input::Transfer { group, to },
            Action::Split { key } => {
                let data = command::split(expected, &key);
                Input::Propose { group, term: None, data, ticket: ORDER }
            }
            Action::Merge { neighbour, neighbour_expected } => {
                let expected = Some(neighbour_expected);
                Input::Merge { group: neighbour, expected, ticket: ORDER }
            }
            // As with the keeper.
            Action::Quit | Action::Recover { .. } => return,
        };
        let held = self.stores.get_mut(&me).and_then(|place| place.store.as_mut());
        if let Some(store) = held {
            self.outcome.plans += 1;
            store.ask(input);
            self.wake(me, Work::Log);
        }
    }
}
