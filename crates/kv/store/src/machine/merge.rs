//! How a range is taken in by its left neighbour: what the stores do, see [`crate::range::Frozen`].
//!
//! The leader of a frozen range asks, again and again, for what is to be next: the leader of the left
//! neighbour to take it in, once every replica has in its log that it froze; after some time to give
//! up on it; and itself to thaw, once it is known that it is not taken in. All of it may be lost, come
//! twice, or come too late. KV-015
//!
//! Who carries out a merge needs the right range as it froze. Its log has it, on every member, so the
//! entries of the left range wait until the right one has come so far.

use super::{Group, Machine, Output};
use crate::command::{self, Order};
use crate::host::Refusal;
use crate::log::{GroupId, RaftLog};
use crate::range::{Descriptor, Fate, OVER, Version};

/// Ticks between two times that a frozen range asks.
const URGE_TICKS: usize = 3;
/// Ticks after which it does not want to be taken in any more.
const PATIENCE_TICKS: usize = 50;

/// A replica asks what became of it: one that hears of no leader, or leads a frozen range.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: u64,
    /// The range as it knows it.
    pub descriptor: Option<Box<Descriptor>>,
}

/// What a store knows of one that asked.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The replica is no member any more. KV-019
    Removed,
    /// The range was taken in by another.
    Merged,
    /// The range froze in vain.
    Apart,
}

impl<L: RaftLog, T> Machine<L, T> {
    /// Freezes a range for its left neighbour, if there is one here with the same members.
    pub(super) fn freeze(
        &mut self,
        group: GroupId,
        expected: Option<Version>,
        ticket: T,
        output: &mut Output<T>,
    ) {
        if let Some(other) = self.groups.get(&group).and_then(|held| held.is_other_than(expected)) {
            output.refuse(ticket, Refusal::Version(other));
            return;
        }
        let held = self.groups.get(&group).and_then(|held| held.descriptor.as_ref());
        let right = held.filter(|right| right.is_at_rest());
        let left = right.and_then(|right| {
            let mut ranges = self.descriptors();
            ranges.find(|left| left.may_take_in(right) && left.is_at_rest())
        });
        let order = left
            .zip(right)
            .map(|(left, right)| command::freeze(right.version, left.group, left.version));
        match (self.called_on(group), order) {
            (Some(held), Some(order)) => held.propose(None, order, ticket, output),
            (Some(held), None) if held.leads() => output.refuse(ticket, Refusal::Merging),
            _ => output.refuse(ticket, Refusal::NotLeader),
        }
    }

    /// What the ranges are that are here.
    fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.groups.values().filter_map(|held| held.descriptor.as_ref())
    }

    /// What the ranges that are here tell of another.
    fn fate_of(&self, other: &Descriptor) -> Option<Fate> {
        self.descriptors().find_map(|held| held.fate_of(other))
    }

    /// Has the frozen ranges that this store leads ask for what is to be next; called once a tick.
    pub(super) fn urge(&mut self, output: &mut Output<T>) {
        let is_due = |held: &Group<L, T>| {
            held.frozen_ticks > 0 && held.frozen_ticks % URGE_TICKS == 1 && held.is_at_work()
        };
        let due: Vec<GroupId> = self
            .awake
            .iter()
            .filter(|id| self.groups.get(id).is_some_and(is_due))
            .copied()
            .collect();
        for id in due {
            let Some(held) = self.groups.get(&id) else { continue };
            let Some(right) = &held.descriptor else { continue };
            let Some(frozen) = right.frozen else { continue };
            match self.fate_of(right) {
                Some(Fate::Merged) => {}
                Some(Fate::Apart) => {
                    let order = command::thaw(right.version);
                    self.propose(id, order);
                }
                None if self.groups.contains_key(&frozen.into) => {
                    let order = match held.frozen_ticks > PATIENCE_TICKS {
                        true => Some(command::raise(frozen.expected)),
                        false if held.all_have(frozen.at.index) => {
                            Some(command::merge(frozen.expected, right))
                        }
                        false => None,
                    };
                    if let Some(order) = order {
                        self.pass_on(frozen.into, order, output);
                    }
                }
                None => output.asks.push(held.ask()),
            }
        }
    }

    /// Has the leader of a group propose an order, if it is known here.
    fn pass_on(&mut self, group: GroupId, order: Vec<u8>, output: &mut Output<T>) {
        match self.groups.get(&group).and_then(Group::leader) {
            Some(store) if store == self.store => self.urged(group, order),
            Some(store) => output.urges.push((store, group, order)),
            None => {}
        }
    }

    /// Proposes an order that the leader of another range wants, if it makes sense still.
    pub(super) fn urged(&mut self, group: GroupId, order: Vec<u8>) {
        let Some(held) = self.groups.get(&group).filter(|held| held.leads()) else { return };
        let Some(descriptor) = &held.descriptor else { return };
        let Ok((version, parsed)) = command::parse(&order.clone().into()) else { return };
        let makes_sense = version == descriptor.version
            && match parsed {
                // Whoever has the range at all can carry it out: the right one is on the same stores.
                Order::Merge(right) => descriptor.take_in(&right).is_some() && held.all_have(1),
                Order::Raise => true,
                _ => false,
            };
        if makes_sense {
            self.propose(group, order);
        }
    }

    /// Puts an order into a group's log; false if it is not taken now: it has to come again.
    pub(super) fn propose(&mut self, group: GroupId, order: Vec<u8>) -> bool {
        let held = self.called_on(group).filter(|held| held.leads());
        held.is_some_and(|held| held.raft.propose(Vec::new(), order).is_ok())
    }

    /// Somebody asks what became of a replica.
    pub(super) fn asked(&mut self, from: u64, ask: Ask, output: &mut Output<T>) {
        let Ask { group, replica, descriptor } = ask;
        let held = self.groups.get(&group).and_then(|held| held.descriptor.as_ref());
        let is_removed = held.is_some_and(|held| held.membership.has_removed(replica));
        let is_over = self.left.get(&group) == Some(&OVER);
        let known = || descriptor.as_ref().and_then(|other| self.fate_of(other));
        let fate = || if is_over { Some(Fate::Merged) } else { known() };
        let verdict = match is_removed {
            true => Some(Verdict::Removed),
            false => fate().map(|fate| match fate {
                Fate::Merged => Verdict::Merged,
                Fate::Apart => Verdict::Apart,
            }),
        };
        output.verdicts.extend(verdict.map(|verdict| (from, group, replica, verdict)));
        // It was not told to sleep, or lacks data, and has no vote with which it would wake the leader.
        if self.groups.get(&group).is_some_and(|held| held.is_asleep && held.leads()) {
            self.wake(group);
        }
    }

    /// A store says what became of a replica of this one.
    pub(super) fn told(
        &mut self,
        group: GroupId,
        replica: u64,
        verdict: Verdict,
        output: &mut Output<T>,
    ) {
        let Some(held) = self.groups.get(&group) else { return };
        match verdict {
            Verdict::Removed => self.leave(group, replica, output),
            Verdict::Merged => {
                if !held.descriptor.as_ref().is_some_and(|held| self.may_be_needed(held)) {
                    self.leave(group, replica, output);
                }
            }
            Verdict::Apart => {
                // Answers may be late: whether it is still of this version the log says.
                let frozen = held.descriptor.as_ref().filter(|held| held.frozen.is_some());
                if let Some(order) = frozen.map(|held| command::thaw(held.version)) {
                    self.propose(group, order);
                }
            }
        }
    }

    /// Whether a range that was taken in elsewhere may be needed here for that: by one to its left, which
    /// is behind, or by one of which nothing is known yet.
    fn may_be_needed(&self, right: &Descriptor) -> bool {
        self.groups.iter().any(|(id, held)| match &held.descriptor {
            _ if !held.is_at_work() => true,
            None => self.announced.get(id).is_none_or(|left| {
                // It takes in what lies to its right only, and what it has had no part in yet.
                let (start, other) = (&left.boundary.start, &right.boundary.start);
                start < other && !left.boundary.contains(other)
            }),
            Some(left) => left.is_followed_by(right),
        })
    }

    /// Whether a range here ends where another begins, and may still have to take it in; but for that of
    /// a group that comes as a whole, and those that are a part of this.
    pub(super) fn is_awaited(&self, right: &Descriptor, whole: &Descriptor) -> bool {
        let goes_on = |left: &Descriptor| {
            left.group != whole.group && whole.fate_of(left) != Some(Fate::Merged)
        };
        self.descriptors().any(|left| goes_on(left) && left.is_followed_by(right))
    }

    /// Has those go whose data a range has that has come, and that were a part of it elsewhere.
    pub(super) fn outlive(&mut self, whole: &Descriptor, output: &mut Output<T>) {
        let parts =
            self.announced.iter().filter(|(_, part)| whole.fate_of(part) == Some(Fate::Merged));
        for group in parts.map(|(group, _)| *group).collect::<Vec<_>>() {
            let held = self.groups.get(&group).filter(|held| held.descriptor.is_none());
            if let Some(replica) = held.map(|held| held.replica) {
                self.leave(group, replica, output);
            }
        }
    }

    /// Hands over the entries that waited for another range to come so far.
    pub(super) fn release(&mut self, output: &mut Output<T>) {
        for id in self.holding.clone() {
            while self.may_go_on(id) {
                if let Some(held) = self.groups.get_mut(&id) {
                    held.release(output);
                    self.loans.note(held);
                }
            }
            if !self.groups.get(&id).is_some_and(Group::holds) {
                self.holding.remove(&id);
            }
        }
    }

    /// Whether a group that holds a merge back can carry it out now. The right range is told that it is
    /// committed so far, which all its replicas have in their logs.
    fn may_go_on(&mut self, id: GroupId) -> bool {
        let Some(held) = self.groups.get(&id) else { return false };
        let Some(merge) = held.first_held() else { return false };
        let index = merge.index;
        if held.applied() + 1 < index {
            return false;
        }
        let Ok((version, Order::Merge(right))) = command::parse(&merge.data) else { return true };
        let left = held.descriptor.as_ref();
        let is_void =
            left.is_none_or(|left| left.version != version || left.take_in(&right).is_none());
        let Some(frozen) = right.frozen.filter(|_| !is_void) else { return true };
        let other = self.groups.get_mut(&right.group);
        if other.as_ref().is_some_and(|other| !other.is_at_work() || other.has_snapshot()) {
            return false;
        }
        let Some(other) = other.filter(|other| other.descriptor.is_some()) else {
            // It lost its data when it had agreed already, or has made room for what it became a part of.
            // Others carry the merge out, and send the whole.
            self.announced.insert(right.group, *right);
            if let Some(held) = self.groups.get_mut(&id) {
                held.step_aside();
                held.need_data(index);
            }
            return false;
        };
        if other.applied() >= frozen.at.index {
            // It is the host's from here on.
            other.is_leaving = true;
            return true;
        }
        other.raft.raft.raft_log.maybe_commit(frozen.at.index, frozen.at.term);
        self.dirty.insert(right.group);
        false
    }
}
