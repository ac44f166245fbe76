//! Which editions of their commands stores support, and when a range may come to a newer one.
//!
//! Stores tell it with each beat, so what is lost is told again. The leader of a range that is behind
//! has it raised once all its replicas, whatever their role, say that they support what is newer, and have
//! said nothing else for a while: a word may be an old one that was long on its way. The order is for one
//! version of the range, so it is void if a member came meanwhile. A store is brought in only if it
//! supports what is active; one that has no part here yet is asked first, and the change waits for its
//! answer. KV-002, KV-008
//!
//! Nothing of this keeps a store from being started as an older build after it has told what it
//! supports. It stops then, before it carries out what it does not understand: see
//! [`Host`](crate::host::Host).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ratatosk_clock::Instant;

use super::{Machine, Output};
use crate::command;
use crate::edition::{Edition, Editions, Supported, supports};
use crate::host::Refusal;
use crate::log::{GroupId, RaftLog};
use crate::membership::{NoStep, Target};
use crate::range::{Descriptor, Version};

/// Time between two looks at ranges that are behind.
const LOOK: Duration = Duration::from_millis(200);
/// A word counts for so long.
const FRESH: Duration = Duration::from_millis(1_000);
/// So long all replicas must have said the same before their range is raised.
const SETTLED: Duration = Duration::from_millis(1_000);
/// How long a change of members waits for the word of a store, and how often that is asked.
const PATIENCE: Duration = Duration::from_millis(1_000);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// So many changes wait at once; more are refused, and come again.
const WAITING_MAX: usize = 64;

/// What a store tells others of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The number that it has since it started.
    pub life: u64,
    /// The editions that it supports.
    pub supported: Arc<Supported>,
}

/// What a machine knows of what stores support; `T` is what a change carries to be answered.
pub(super) struct Support<T> {
    /// By this store.
    mine: Arc<Supported>,
    /// By those that have a part in groups of this one, or were asked.
    told: BTreeMap<u64, Told>,
    /// Changes of members that wait for a word.
    waiting: Vec<Waiting<T>>,
    /// Groups whose range is in an older edition than this store supports.
    behind: BTreeSet<GroupId>,
    /// In which term and version each of them was to be raised: once is enough.
    raised: BTreeMap<GroupId, (u64, Version)>,
    /// Ranges are others since that was found out.
    pub(super) is_stale: bool,
    next_look: Instant,
}

struct Told {
    beat: Beat,
    /// Since when it has said nothing else.
    since: Instant,
    heard: Instant,
}

/// A change that somebody wants.
pub(super) struct Change<T> {
    pub(super) group: GroupId,
    pub(super) expected: Option<Version>,
    pub(super) target: Target,
    pub(super) ticket: T,
}

struct Waiting<T> {
    change: Change<T>,
    until: Instant,
    asks_at: Instant,
}

/// What is known of those that a change would bring in.
enum Newcomers {
    /// They support what is active.
    Fit,
    /// Nothing is known of these.
    Unheard(Vec<u64>),
    /// One does not.
    Unfit(NoStep),
}

impl<T> Default for Support<T> {
    fn default() -> Self {
        Self {
            mine: Arc::default(),
            told: BTreeMap::new(),
            waiting: Vec::new(),
            behind: BTreeSet::new(),
            raised: BTreeMap::new(),
            is_stale: true,
            next_look: Instant::ZERO,
        }
    }
}

impl<T> Support<T> {
    pub(super) fn new(mine: Supported) -> Self {
        Self { mine: Arc::new(mine), ..Self::default() }
    }

    pub(super) fn mine(&self) -> Arc<Supported> {
        Arc::clone(&self.mine)
    }

    /// When something is to be done without an input.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let looks = self.is_stale || !self.behind.is_empty();
        let looks = looks.then_some(self.next_look);
        let waits = self.waiting.iter().map(|waiting| waiting.until.min(waiting.asks_at)).min();
        looks.into_iter().chain(waits).min()
    }

    fn note(&mut self, now: Instant, from: u64, beat: &Beat) {
        let told = self.told.entry(from).or_insert_with(|| Told {
            beat: beat.clone(),
            since: now,
            heard: now,
        });
        if told.beat != *beat {
            (told.beat, told.since) = (beat.clone(), now);
        }
        told.heard = now;
    }

    /// What a store said last, if that counts still.
    fn word(&self, now: Instant, store: u64) -> Option<&Told> {
        self.told.get(&store).filter(|told| now.since(told.heard) <= FRESH)
    }

    fn has_asked(&self, store: u64) -> bool {
        let target = |waiting: &Waiting<T>| {
            let Target { voters, learners } = &waiting.change.target;
            voters.contains(&store) || learners.contains(&store)
        };
        self.waiting.iter().any(target)
    }
}

impl<L: RaftLog, T> Machine<L, T> {
    /// Another store says what it supports.
    pub(super) fn note_support(&mut self, from: u64, beat: &Beat) {
        if self.peers.knows(from) || self.support.has_asked(from) {
            self.support.note(self.now, from, beat);
        }
    }

    /// What this store tells.
    pub(super) fn word(&self) -> Beat {
        Beat { life: self.peers.life, supported: self.support.mine() }
    }

    /// Takes the next step to other members, once it is known whether those that it brings in support
    /// what is active.
    pub(super) fn change(&mut self, change: Change<T>, output: &mut Output<T>) {
        match self.newcomers(&change) {
            Newcomers::Fit => self.take_step(change, output),
            Newcomers::Unfit(reason) => output.refuse(change.ticket, Refusal::Step(reason)),
            Newcomers::Unheard(stores) => {
                if self.support.waiting.len() >= WAITING_MAX {
                    output.refuse(change.ticket, Refusal::Step(unheard(&stores)));
                    return;
                }
                output.inquiries.extend(stores);
                let (until, asks_at) = (self.now + PATIENCE, self.now + ASK_AGAIN);
                self.support.waiting.push(Waiting { change, until, asks_at });
            }
        }
    }

    fn take_step(&mut self, change: Change<T>, output: &mut Output<T>) {
        let Change { group, expected, target, ticket } = change;
        match self.called_on(group) {
            Some(held) => held.change(expected, &target, ticket, output),
            None => output.refuse(ticket, Refusal::NotLeader),
        }
    }

    /// Goes on with the changes that waited for a word; called once a step.
    pub(super) fn go_on_with_changes(&mut self, output: &mut Output<T>) {
        for mut waiting in std::mem::take(&mut self.support.waiting) {
            match self.newcomers(&waiting.change) {
                Newcomers::Fit => self.take_step(waiting.change, output),
                Newcomers::Unfit(reason) => {
                    output.refuse(waiting.change.ticket, Refusal::Step(reason));
                }
                Newcomers::Unheard(stores) if self.now >= waiting.until => {
                    output.refuse(waiting.change.ticket, Refusal::Step(unheard(&stores)));
                }
                Newcomers::Unheard(stores) => {
                    if self.now >= waiting.asks_at {
                        waiting.asks_at = self.now + ASK_AGAIN;
                        output.inquiries.extend(stores);
                    }
                    self.support.waiting.push(waiting);
                }
            }
        }
    }

    /// Whoever is not to be asked for a step refuses it by itself.
    fn newcomers(&self, change: &Change<T>) -> Newcomers {
        let held = self.groups.get(&change.group).filter(|held| held.leads());
        let held = held.filter(|held| held.is_other_than(change.expected).is_none());
        let Some(range) = held.and_then(|held| held.descriptor.as_ref()) else {
            return Newcomers::Fit;
        };
        let Ok(step) = range.membership.toward(&change.target) else { return Newcomers::Fit };
        let Descriptor { keyspace, edition, membership, .. } = range;
        let after = step.membership.replicas().iter().map(|replica| replica.store);
        let mut unheard = Vec::new();
        for store in after.filter(|store| membership.of_store(*store).is_none()) {
            match self.support.word(self.now, store) {
                Some(told) if supports(&told.beat.supported, keyspace, *edition) => {}
                Some(_) => {
                    let edition = *edition;
                    return Newcomers::Unfit(NoStep::Unsupported { store, edition });
                }
                None if store == self.store => {}
                None => unheard.push(store),
            }
        }
        if unheard.is_empty() { Newcomers::Fit } else { Newcomers::Unheard(unheard) }
    }

    /// Has the ranges raised that this store leads and that are behind what all their replicas support.
    pub(super) fn raise_editions(&mut self) {
        let support = &mut self.support;
        if support.behind.is_empty() && !support.is_stale || self.now < support.next_look {
            return;
        }
        support.next_look = self.now + LOOK;
        if std::mem::take(&mut support.is_stale) {
            self.find_behind();
        }
        for group in self.support.behind.clone() {
            let Some((term, range, edition)) = self.may_raise(group) else { continue };
            let version = range.version;
            let order = command::upgrade(version, edition);
            // A leader that hands over its office takes nothing.
            if self.propose(group, order) {
                self.support.raised.insert(group, (term, version));
            }
        }
    }

    fn find_behind(&mut self) {
        let support = &mut self.support;
        let mine = &support.mine;
        let is_behind = |range: &Descriptor| {
            mine.get(&range.keyspace).is_some_and(|editions| editions.newest() > range.edition)
        };
        let ranges = self.groups.values().filter_map(|held| held.descriptor.as_ref());
        support.behind = ranges.filter(|range| is_behind(range)).map(|range| range.group).collect();
        support.raised.retain(|group, _| support.behind.contains(group));
        // Of strangers nothing is kept.
        let (now, peers) = (self.now, &self.peers);
        support.told.retain(|store, told| peers.knows(*store) || now.since(told.heard) <= FRESH);
    }

    /// If a range may be raised now: in which term this store leads it, and to what.
    fn may_raise(&self, group: GroupId) -> Option<(u64, &Descriptor, Edition)> {
        let held = self.groups.get(&group).filter(|held| held.leads() && held.is_at_work())?;
        let range = held.descriptor.as_ref().filter(|range| range.frozen.is_none())?;
        let term = held.raft.raft.term;
        if self.support.raised.get(&group) == Some(&(term, range.version)) {
            return None;
        }
        let stores = range.membership.replicas().iter().map(|replica| replica.store);
        let editions = stores.map(|store| self.settled(store, &range.keyspace));
        let editions: Vec<Editions> = editions.collect::<Option<_>>()?;
        let edition = editions.iter().map(|editions| editions.newest()).min()?;
        let is_common = editions.iter().all(|editions| editions.contains(edition));
        (is_common && edition > range.edition).then_some((term, range, edition))
    }

    /// What a store supports, if that is beyond doubt.
    fn settled(&self, store: u64, keyspace: &str) -> Option<Editions> {
        if store == self.store {
            return self.support.mine.get(keyspace).copied();
        }
        let told = self.support.word(self.now, store)?;
        let is_settled = self.now.since(told.since) >= SETTLED;
        told.beat.supported.get(keyspace).copied().filter(|_| is_settled)
    }
}

fn unheard(stores: &[u64]) -> NoStep {
    NoStep::Unheard { store: stores.first().copied().unwrap_or_default() }
}
