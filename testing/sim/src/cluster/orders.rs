//! What is asked of the ranges themselves: to split, to have other members, another leader.

use std::collections::BTreeSet;
use std::time::Duration;

use ratatosk_store::command;
use ratatosk_store::edition::Edition;
use ratatosk_store::machine::Input;
use ratatosk_store::membership::Target;
use ratatosk_store::range::Descriptor;

use super::callers::{KEYS, ORDER};
use super::register;
use super::store::{Ticket, Work};
use super::{Cluster, Happening, cover};
use crate::simulation::Checked;

/// So many ranges at most.
const RANGES_MAX: usize = 8;
/// So many orders in a row go to two ranges that are to become one.
const WISH_ORDERS: u8 = 20;
/// Members that vote, of any number of stores.
const VOTERS_MAX: usize = 3;

impl Cluster {
    /// One order, to whoever may lead.
    pub(super) fn order(&mut self) -> Checked {
        let ranges = cover::ranges(self.live());
        let mut missing = cover::all(self.live());
        missing.retain(|range| self.misses(range));
        if self.callers.is_finished() && missing.is_empty() && !self.is_faulty {
            return Ok(());
        }
        let repaired = self.repair(&missing);
        let wished = repaired.or_else(|| self.wish_on(&ranges));
        let of_inbox = wished.is_none() && self.orders.once_in(6);
        let order = match of_inbox {
            true => self.inbox_order(),
            false => wished.or_else(|| self.any_order(&ranges)),
        };
        if let Some((range, input)) = order {
            self.give(&range, input);
        }
        let span = Duration::from_millis(20 + self.orders.below(120) as u64);
        self.after(span, Happening::Orders);
        Ok(())
    }

    /// Has a range come to healthy members that has one which is gone, or leaves.
    fn repair(&mut self, missing: &[Descriptor]) -> Option<(Descriptor, Input<Ticket>)> {
        let is_now = !self.is_faulty || self.orders.once_in(2);
        let range = self.orders.pick(missing).filter(|_| is_now)?.clone();
        let target = self.repaired(&range);
        let input = Input::Change { group: range.group, expected: None, target, ticket: ORDER };
        Some((range, input))
    }

    /// An order to any range.
    fn any_order(&mut self, ranges: &[Descriptor]) -> Option<(Descriptor, Input<Ticket>)> {
        let range = self.orders.pick(ranges).cloned()?;
        let group = range.group;
        let input = match self.orders.below(8) {
            0 if ranges.len() < RANGES_MAX && self.is_faulty => {
                let key = self.orders.pick(&KEYS).map_or(&b""[..], |key| register::place(key));
                let data = command::split(range.version, key);
                Input::Propose { group, term: None, data, ticket: ORDER }
            }
            // A leader that has wanted to hand over has no lease any more.
            1 if self.orders.once_in(4) => {
                let to = self.orders.pick(&self.staying()).copied().unwrap_or(1);
                Input::Transfer { group, to }
            }
            2..=3 if self.is_faulty => {
                self.wish = Some((group, WISH_ORDERS));
                Input::Merge { group, expected: None, ticket: ORDER }
            }
            _ if self.is_faulty => {
                let target = self.target(range.edition);
                Input::Change { group, expected: None, target, ticket: ORDER }
            }
            _ => Input::Change {
                group,
                expected: None,
                target: range.membership.target(),
                ticket: ORDER,
            },
        };
        Some((range, input))
    }

    /// An order to the range of the inbox: other members, or another leader.
    fn inbox_order(&mut self) -> Option<(Descriptor, Input<Ticket>)> {
        let range = cover::of(register::INBOX, self.live()).pop()?;
        let group = range.group;
        let target = match self.is_faulty {
            true => self.target(range.edition),
            false => range.membership.target(),
        };
        let input = match self.orders.once_in(4) {
            true => {
                let places: Vec<u64> = self.stores.keys().copied().collect();
                Input::Transfer { group, to: self.orders.pick(&places).copied().unwrap_or(1) }
            }
            false => Input::Change { group, expected: None, target, ticket: ORDER },
        };
        Some((range, input))
    }

    /// What brings a range closer to be taken in by its left neighbour: that they have the same members,
    /// or the merge itself.
    fn wish_on(&mut self, ranges: &[Descriptor]) -> Option<(Descriptor, Input<Ticket>)> {
        let (group, left) = self.wish.take().filter(|_| self.is_faulty)?;
        let range = ranges.iter().find(|range| range.group == group)?;
        let end = Some(&range.boundary.start);
        let neighbour = ranges.iter().find(|left| left.boundary.end.as_ref() == end)?;
        self.wish = left.checked_sub(1).map(|left| (group, left));
        let target = neighbour.membership.target();
        let staying = self.staying();
        let mut wanted = target.voters.union(&target.learners);
        if !wanted.all(|store| staying.contains(store)) {
            return None;
        }
        let input = match range.membership.target() == target && !range.membership.is_joint() {
            true => Input::Merge { group, expected: None, ticket: ORDER },
            false => Input::Change { group, expected: None, target, ticket: ORDER },
        };
        Some((range.clone(), input))
    }

    /// Gives an order to whoever may lead the range; whoever does not refuses.
    fn give(&mut self, range: &Descriptor, input: Input<Ticket>) {
        let replicas: Vec<_> =
            range.membership.replicas().iter().map(|replica| replica.store).collect();
        let known = self.callers.leader(range.group).filter(|_| !self.orders.once_in(4));
        let store = known.or_else(|| self.orders.pick(&replicas).copied());
        let place = store.and_then(|store| self.stores.get_mut(&store));
        if let (Some(store), Some(held)) = (store, place.and_then(|held| held.store.as_mut())) {
            held.ask(input);
            self.wake(store, Work::Log);
        }
    }

    /// Some stores as voters, perhaps others as learners; mostly such as support what is active.
    fn target(&mut self, edition: Edition) -> Target {
        let mut stores = self.staying();
        if !self.orders.once_in(4) {
            stores.retain(|store| self.stores[store].newest >= edition);
        }
        let mut take = |count: usize, orders: &mut ratatosk_testkit::dice::Dice| {
            let mut taken = BTreeSet::new();
            while taken.len() < count && !stores.is_empty() {
                taken.insert(stores.swap_remove(orders.below(stores.len())));
            }
            taken
        };
        let voters = match self.orders.once_in(2) {
            true => VOTERS_MAX,
            false => 1 + self.orders.below(VOTERS_MAX),
        };
        let voters = take(voters, &mut self.orders);
        let learners = self.orders.below(2);
        Target { voters, learners: take(learners, &mut self.orders) }
    }
}
