//! Replicas that answer by themselves, from what they have applied, while their leader knows of it.
//! KV-010, DUR-012
//!
//! A replica of a range that is served so asks its leader to be lent to. The leader, once it is sure that
//! it has led since, notes who asked and answers with how far the log is committed. From when it has
//! applied so much the replica may serve, for [`SERVE`] by its own clock from when it *asked*. The leader
//! counts [`WAIT`] by its clock from when it lent, which is longer, however the two go; and until then
//! no caller is answered before the replica has said that it has applied his command.
//! So: answered ≤ what everybody has applied who may serve.
//!
//! - A new leader does not know who was lent to, and has everybody wait for [`WAIT`]. One that leads no
//!   longer lends no more; who waits here for answers waits for those to whom it had lent.
//! - What is lent lives in memory: a store that starts anew has nothing, and what was meant for an
//!   earlier life of it does not count.
//! - Who lags is not lent to again, so that nobody waits for it for long.
//! - A loan that was renewed counts from when all is applied that was committed by then. So whoever serves
//!   has applied what was committed a loan ago, also that the range was split, or froze. The right one of
//!   a split begins with a new leader; behind a merge the left one has everybody wait once more, for
//!   those who serve the right one still.
//! - A range that never had another replica has nobody to wait for.
//!
//! The leader serves by the same rule, and lends to itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ratatosk_clock::Instant;

use super::group::{Borrow, Group};
use super::{Event, Machine, Output, TICK};
use crate::host::Refusal;
use crate::log::{GroupId, RaftLog};

/// How long a replica may serve, by its own clock, from when it asked.
pub const SERVE: Duration = Duration::from_millis(1_000);
/// How long a leader waits for it, by its own clock, from when it lent, which is later.
const WAIT: Duration = Duration::from_millis(1_200);
// Clocks may go as much apart as one that loses one in twenty and one that gains as much, and more.
const _: () = assert!(WAIT.as_millis() * 10 >= SERVE.as_millis() * 12, "the leader waits longer");
/// Until when whoever is alone may serve.
pub(crate) const FOREVER: Instant = Instant::from_nanos(u64::MAX);
/// Whoever was not answered by then asks again.
pub(crate) const ASK_AGAIN: Duration = TICK;
/// So many may wait to serve, each for so long.
const WAITING_MAX: usize = 1_024;
const WAITING_SPAN: Duration = SERVE;
/// Entries that a replica may lack to be lent to.
const LAG_MAX: u64 = 1_024;

/// Comes back with what was lent: when it was asked for, in which life of the store.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Another number after each start of the store.
    pub life: u64,
    /// By the clock of who asked.
    pub asked: Instant,
}

/// What a replica and its leader tell each other.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Loan {
    /// A replica wants to serve.
    Asks {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: u64,
        /// The last entry whose effects are in its data.
        applied: u64,
        /// What comes back.
        token: Token,
    },
    /// It may, from when it has applied an entry.
    Lends {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: u64,
        /// The entry.
        index: u64,
        /// As it came.
        token: Token,
    },
    /// A replica that was lent to has applied an entry.
    Reached {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: u64,
        /// The entry.
        index: u64,
    },
}

/// What a machine has lent and borrowed.
pub(super) struct Loans<T> {
    /// The keyspaces whose ranges are served by replicas.
    pub(super) keyspaces: BTreeSet<String>,
    /// Groups that may have something to settle in this step.
    due: BTreeSet<GroupId>,
    lent: BTreeMap<GroupId, Lent>,
    borrowed: BTreeMap<GroupId, Borrowed<T>>,
}

/// Of a group that this store leads, or has led.
struct Lent {
    /// Until then nobody is answered: others may have lent.
    blind_until: Instant,
    /// Replicas that may serve.
    holders: BTreeMap<u64, Holder>,
    /// Up to which entry the host was told to answer.
    told: u64,
}

/// A replica that may serve.
struct Holder {
    until: Instant,
    /// It has applied this since it serves without a pause.
    from: u64,
    /// The same, since it was lent to last.
    lent_at: u64,
    /// It has said that it has applied this.
    reached: u64,
}

/// Of a group that this store has a replica of.
struct Borrowed<T> {
    /// It may serve until then, at the most.
    until: Instant,
    /// The store that has lent.
    lender: u64,
    /// When it asked last, if that is not answered.
    asked: Option<Instant>,
    /// What was lent and does not count yet: from which entry on, and until when.
    coming: VecDeque<(u64, Instant)>,
    /// Who waits to serve, each since when.
    waiting: Vec<(Instant, T)>,
}

impl<T> Default for Loans<T> {
    fn default() -> Self {
        let (lent, borrowed) = (BTreeMap::new(), BTreeMap::new());
        Self { keyspaces: BTreeSet::new(), due: BTreeSet::new(), lent, borrowed }
    }
}

impl<T> Loans<T> {
    /// Whether time matters.
    pub(super) fn wait(&self) -> bool {
        let waits = |held: &Borrowed<T>| held.until != FOREVER || !held.waiting.is_empty();
        !self.lent.is_empty() || self.borrowed.values().any(waits)
    }

    /// A group was at work and may have something to settle; most never have.
    pub(super) fn note<L: RaftLog>(&mut self, held: &Group<L, T>) {
        if held.is_served || held.takes_in || held.changes_members {
            self.due.insert(held.id);
        }
    }

    /// Takes note of whether replicas serve the range of a group, once it is known.
    pub(super) fn mark<L: RaftLog>(&self, held: &mut Group<L, T>) {
        let range = held.descriptor.as_ref();
        held.is_served = range.is_some_and(|range| self.keyspaces.contains(&range.keyspace));
    }

    /// A replica is no more here.
    pub(super) fn forget(&mut self, group: GroupId, output: &mut Output<T>) {
        let gone = self.borrowed.remove(&group).into_iter().flat_map(|held| held.waiting);
        gone.for_each(|(_, ticket)| output.refuse(ticket, Refusal::NotLeader));
    }
}

impl<L: RaftLog, T> Machine<L, T> {
    /// Lets replicas serve the ranges of these keyspaces.
    #[must_use]
    pub fn served_by_replicas(mut self, keyspaces: BTreeSet<String>) -> Self {
        self.loans.keyspaces = keyspaces;
        let Self { loans, groups, .. } = &mut self;
        groups.values_mut().for_each(|held| loans.mark(held));
        self
    }

    /// Somebody here wants to serve, or goes on to.
    pub(super) fn serve(&mut self, group: GroupId, ticket: Option<T>, output: &mut Output<T>) {
        let is_served = self.is_served(group);
        let now = self.now;
        if !is_served {
            ticket.into_iter().for_each(|ticket| output.refuse(ticket, Refusal::NotLeader));
            return;
        }
        let held = self.loans.borrowed.entry(group).or_default();
        if held.waiting.len() < WAITING_MAX {
            held.waiting.extend(ticket.map(|ticket| (now, ticket)));
        } else {
            ticket.into_iter().for_each(|ticket| output.refuse(ticket, Refusal::NotLeader));
        }
        if held.asked.is_none_or(|asked| now.since(asked) >= ASK_AGAIN) {
            self.borrow(group, output);
        }
    }

    fn is_served(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|held| held.is_served)
    }

    /// Asks the leader of a group.
    fn borrow(&mut self, group: GroupId, output: &mut Output<T>) {
        let token = Token { life: self.peers.life, asked: self.now };
        let Some(held) = self.groups.get(&group) else { return };
        let (replica, applied) = (held.replica, held.applied());
        match held.leader() {
            None => return,
            Some(leader) if leader == self.store => {
                let borrow = Borrow { store: leader, replica, applied, token };
                self.lend_soon(group, borrow, output);
            }
            Some(leader) => {
                output.loans.push((leader, Loan::Asks { group, replica, applied, token }));
            }
        }
        if let Some(held) = self.loans.borrowed.get_mut(&group) {
            held.asked = Some(self.now);
        }
    }

    /// Another store says something of what is lent.
    pub(super) fn hear_of_loan(&mut self, from: u64, loan: Loan, output: &mut Output<T>) {
        match loan {
            Loan::Asks { group, replica, applied, token } => {
                let borrow = Borrow { store: from, replica, applied, token };
                self.lend_soon(group, borrow, output);
            }
            Loan::Lends { group, replica, index, token } => {
                let is_it = self.groups.get(&group).is_some_and(|held| held.replica == replica);
                if is_it && token.life == self.peers.life && token.asked <= self.now {
                    self.take_loan(from, group, index, token.asked + SERVE);
                }
            }
            Loan::Reached { group, replica, index } => {
                let Some(lent) = self.loans.lent.get_mut(&group) else { return };
                if let Some(holder) = lent.holders.get_mut(&replica) {
                    holder.reached = holder.reached.max(index);
                }
                lent.tell(group, self.now, output);
            }
        }
    }

    /// Has a group lend once it is sure that it may.
    fn lend_soon(&mut self, group: GroupId, borrow: Borrow, output: &mut Output<T>) {
        if self.is_served(group)
            && let Some(held) = self.called_on(group)
        {
            held.ask_to_borrow(borrow, output);
        }
    }

    /// Something was lent to this store.
    fn take_loan(&mut self, lender: u64, group: GroupId, index: u64, until: Instant) {
        let Some(held) = self.loans.borrowed.get_mut(&group) else { return };
        held.asked = None;
        if until > self.now {
            held.lender = lender;
            held.until = if held.until == FOREVER { until } else { held.until.max(until) };
            held.coming.push_back((index, until));
            self.loans.due.insert(group);
        }
    }

    /// Tells the lender how far the data has come.
    pub(super) fn tell_lender(&self, group: GroupId, index: u64, output: &mut Output<T>) {
        let Some(borrowed) = self.loans.borrowed.get(&group) else { return };
        let Some(held) = self.groups.get(&group) else { return };
        if borrowed.until > self.now && borrowed.lender != self.store {
            let reached = Loan::Reached { group, replica: held.replica, index };
            output.loans.push((borrowed.lender, reached));
        }
    }

    /// Lends, waits, and hands over, as what the groups have done makes it possible or needful. To be
    /// called before the host hears of what they did.
    pub(super) fn settle_loans(&mut self, output: &mut Output<T>) {
        for id in std::mem::take(&mut self.loans.due) {
            self.note_reshaping(id, output);
            self.lend(id, output);
            self.hand_over_loans(id, output);
        }
    }

    /// A new leader waits for those that others have lent to; and whoever has answers waits for those that
    /// serve a range which is a part of this one now.
    fn note_reshaping(&mut self, id: GroupId, output: &mut Output<T>) {
        let is_served = self.is_served(id);
        let Some(held) = self.groups.get_mut(&id) else { return };
        let was_told_to_wait = held.takes_in || held.changes_members;
        let is_blind = held.is_blinded() && is_served;
        if is_blind {
            let lent = self.loans.lent.entry(id).or_default();
            lent.blind_until = self.now + WAIT;
        }
        if was_told_to_wait || is_blind {
            match self.loans.lent.get_mut(&id) {
                Some(lent) => {
                    lent.told = if was_told_to_wait { 0 } else { lent.told };
                    lent.tell(id, self.now, output);
                }
                None => output.events.push(Event::Withhold { group: id, behind: u64::MAX }),
            }
        }
    }

    fn lend(&mut self, id: GroupId, output: &mut Output<T>) {
        let Some(held) = self.groups.get_mut(&id) else { return };
        let (index, is_alone) = (held.committed(), held.is_alone());
        let (me, leads) = (held.replica, held.leads());
        for borrow in held.take_borrowers().into_iter().filter(|_| leads) {
            let Borrow { store, replica, applied, token } = borrow;
            if replica == me {
                // Nobody else can come to lead as long as it has this version.
                let until = if is_alone { FOREVER } else { token.asked + SERVE };
                self.take_loan(self.store, id, index, until);
                continue;
            }
            let lent = self.loans.lent.entry(id).or_default();
            if lent.lend(replica, applied, index, self.now) {
                output.loans.push((store, Loan::Lends { group: id, replica, index, token }));
            }
            lent.tell(id, self.now, output);
        }
    }

    /// What was lent counts once the host has been handed so much; it carries out things in order.
    fn hand_over_loans(&mut self, id: GroupId, output: &mut Output<T>) {
        let Some(borrowed) = self.loans.borrowed.get_mut(&id) else { return };
        let Some(held) = self.groups.get(&id) else { return };
        let Some(version) = held.descriptor.as_ref().map(|range| range.version) else { return };
        let handed = held.handed();
        let mut latest = None;
        while let Some((_, until)) = borrowed.coming.pop_front_if(|(index, _)| *index <= handed) {
            latest = latest.max(Some(until));
        }
        if let Some(until) = latest.filter(|until| *until > self.now) {
            let tickets = borrowed.waiting.drain(..).map(|(_, ticket)| ticket).collect();
            output.events.push(Event::Serve { group: id, version, until, tickets });
        }
    }

    /// What was lent ends, and whoever waits asks again; called once a tick.
    pub(super) fn pass_loan_time(&mut self, output: &mut Output<T>) {
        let now = self.now;
        self.loans.lent.retain(|group, lent| {
            lent.tell(*group, now, output);
            lent.told != u64::MAX
        });
        let mut asking = Vec::new();
        self.loans.borrowed.retain(|group, held| {
            let late = |(since, _): &mut (Instant, T)| now.since(*since) > WAITING_SPAN;
            for (_, ticket) in held.waiting.extract_if(.., late) {
                output.refuse(ticket, Refusal::NotLeader);
            }
            if !held.waiting.is_empty() && held.asked.is_none_or(|at| now.since(at) >= ASK_AGAIN) {
                asking.push(*group);
            }
            let is_asking = held.asked.is_some_and(|asked| now.since(asked) < SERVE);
            let is_over = held.until <= now && held.waiting.is_empty() && !is_asking;
            if is_over {
                output.events.push(Event::Lapsed { group: *group });
            }
            !is_over
        });
        asking.into_iter().for_each(|group| self.borrow(group, output));
    }
}

impl Lent {
    /// Notes that a replica may serve; false if it lags too much to be waited for.
    fn lend(&mut self, replica: u64, applied: u64, index: u64, now: Instant) -> bool {
        let until = now + WAIT;
        if let Some(holder) = self.holders.get_mut(&replica).filter(|holder| now < holder.until) {
            holder.reached = holder.reached.max(applied);
            if holder.reached < holder.lent_at {
                return false;
            }
            (holder.lent_at, holder.until) = (index, until);
            return true;
        }
        let is_close = index.saturating_sub(applied) <= LAG_MAX;
        if is_close {
            let holder = Holder { until, from: index, lent_at: index, reached: applied };
            self.holders.insert(replica, holder);
        }
        is_close
    }

    /// Tells the host up to which entry it may answer, if that is another than before.
    fn tell<T>(&mut self, group: GroupId, now: Instant, output: &mut Output<T>) {
        self.holders.retain(|_, holder| now < holder.until);
        let reached = self.holders.values().map(|holder| holder.from.max(holder.reached));
        let behind = match now < self.blind_until {
            true => 0,
            false => reached.min().unwrap_or(u64::MAX),
        };
        if std::mem::replace(&mut self.told, behind) != behind {
            output.events.push(Event::Withhold { group, behind });
        }
    }
}

impl Default for Lent {
    fn default() -> Self {
        Self { blind_until: Instant::ZERO, holders: BTreeMap::new(), told: u64::MAX }
    }
}

impl<T> Default for Borrowed<T> {
    fn default() -> Self {
        Self {
            until: Instant::ZERO,
            lender: 0,
            asked: None,
            coming: VecDeque::new(),
            waiting: Vec::new(),
        }
    }
}

impl<L: RaftLog, T> Group<L, T> {
    /// Whether since this was asked last it has come about that others may serve of whom this store does
    /// not know: it leads anew; it was alone and has, or had, another member; or it takes in another range.
    fn is_blinded(&mut self) -> bool {
        let (has_joined, has_members) = (self.takes_in, self.changes_members);
        (self.takes_in, self.changes_members) = (false, false);
        let was_alone = self.descriptor.as_ref().is_some_and(|held| held.membership.is_unshared());
        let term = self.raft.raft.term;
        let leads_anew = self.leads() && self.lends_in != term;
        if self.leads() {
            self.lends_in = term;
        }
        has_joined || has_members && was_alone || leads_anew && !was_alone
    }
}

#[cfg(test)]
#[path = "loans_test.rs"]
mod tests;
