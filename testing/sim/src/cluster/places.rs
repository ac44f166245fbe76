//! Stores come and go while the others work: they join empty, are lost for good with their disks and
//! replaced under new numbers, or are drained and leave.
//!
//! Of no range more than a minority of the voters is lost at a time, nor the only ones that have its data:
//! that is what may be lost. So before a store is lost, or has left, nothing is on its way that could still
//! bring it in somewhere: no order names it for a while, and no log has a change of members that is not
//! carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft::eraftpb::EntryType::EntryNormal;
use ratatosk_clock::Instant;
use ratatosk_store::edition::Edition;
use ratatosk_store::log::{GroupState, RaftLog as _, Span};
use ratatosk_store::membership::{Membership, Role, Target};
use ratatosk_store::range::Descriptor;
use ratatosk_testkit::dice::Dice;

use super::store::{Store, Work};
use super::{Cluster, Happening, Place, cover};
use crate::disk::Disk;
use crate::planted::Planted;
use crate::simulation::Checked;

/// Time between two looks at who is to go.
const LOOK: Duration = Duration::from_millis(100);
/// So many stores more than at the beginning, at most.
const MORE_MAX: usize = 2;
/// So many stay.
const STAY_MIN: usize = 3;
/// No order names a store for so long before it is gone.
const UNNAMED: Duration = Duration::from_millis(1_500);
/// Whoever could not go for so long stays.
const PATIENCE: Duration = Duration::from_secs(6);

/// What is to become of a store.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Lot {
    /// It stays.
    Stays,
    /// It will be lost, and does not know it.
    Lost {
        /// Since when it is not named.
        since: Instant,
    },
    /// It is drained.
    Leaves {
        /// Since when it is not named.
        since: Instant,
    },
}

impl Place {
    pub(super) fn new(planted: Option<Planted>, clock_rate: u32, newest: Edition) -> Self {
        Place {
            disk: Disk::new(planted),
            store: None,
            clock_rate,
            newest,
            rolled_back_at: None,
            lot: Lot::Stays,
            life: 0,
            due: BTreeMap::new(),
            send_at: None,
        }
    }
}

impl Cluster {
    /// Stores that may be given a part in ranges.
    pub(super) fn staying(&self) -> Vec<u64> {
        let staying = self.stores.iter().filter(|(_, place)| place.lot == Lot::Stays);
        staying.map(|(number, _)| *number).collect()
    }

    /// All stores hear which there are.
    pub(super) fn tell_places(&mut self) {
        let all: Vec<u64> = self.stores.keys().copied().collect();
        for (number, place) in &mut self.stores {
            if let Some(store) = &mut place.store {
                store.hear_of(all.iter().copied().filter(|other| other != number).collect());
            }
        }
    }

    /// Somebody comes, or is to go; whoever is to go goes if that is possible.
    pub(super) fn shift(&mut self) -> Checked {
        if self.is_faulty && self.now >= self.next_shift {
            self.next_shift =
                self.now + Duration::from_millis(500 + self.shifts.below(1_500) as u64);
            self.begin_shift()?;
        }
        let going: Vec<(u64, Lot)> =
            self.stores.iter().map(|(number, place)| (*number, place.lot)).collect();
        for (number, lot) in going {
            match lot {
                Lot::Stays => {}
                Lot::Lost { since } if self.may_be_lost(number, since) => self.lose(number),
                Lot::Leaves { since } if self.has_left(number, since) => {
                    self.outcome.left += 1;
                    self.forget(number, "has left");
                }
                Lot::Lost { since } | Lot::Leaves { since } => {
                    let gives_up = self.now.since(since) > PATIENCE;
                    if let Some(place) = self.stores.get_mut(&number).filter(|_| gives_up) {
                        place.lot = Lot::Stays;
                    }
                }
            }
        }
        if self.is_faulty || self.staying().len() < self.stores.len() {
            self.after(LOOK, Happening::Shifts);
        }
        Ok(())
    }

    fn begin_shift(&mut self) -> Checked {
        let (since, staying) = (self.now, self.staying());
        let is_calm = staying.len() == self.stores.len() && !self.misses_somebody();
        let lot = match self.shifts.below(4) {
            0 if self.stores.len() < self.most() => return self.join(),
            1 => return self.upgrade_one(),
            2 if is_calm => Lot::Lost { since },
            3 if is_calm && staying.len() > STAY_MIN => Lot::Leaves { since },
            _ => return Ok(()),
        };
        if let Some(place) = self.shifts.pick(&staying).and_then(|one| self.stores.get_mut(one)) {
            place.lot = lot;
        }
        Ok(())
    }

    fn most(&self) -> usize {
        usize::try_from(self.plan.stores).unwrap_or(usize::MAX).saturating_add(MORE_MAX)
    }

    /// An empty store comes, under a number that no other had.
    pub(super) fn join(&mut self) -> Checked {
        let number = self.next_number;
        self.next_number += 1;
        let (rate, newest) = (clock_rate(&mut self.shifts), self.draw_build());
        self.stores.insert(number, Place::new(self.plan.planted, rate, newest));
        self.outcome.joined += 1;
        self.trace.note(&format!("{number}: joins"));
        self.start(number)
    }

    /// A store is no more, and neither is its disk; another one comes soon.
    fn lose(&mut self, number: u64) {
        self.outcome.lost += 1;
        self.forget(number, "is lost for good");
        let span = Duration::from_millis(50 + self.shifts.below(1_000) as u64);
        self.after(span, Happening::Joins);
    }

    fn forget(&mut self, number: u64, how: &str) {
        self.stores.remove(&number);
        self.trace.note(&format!("{number}: {how}"));
        self.tell_places();
    }

    /// Whether a range has a member that is gone, or goes.
    pub(super) fn misses(&self, range: &Descriptor) -> bool {
        let mut members = range.membership.replicas().iter();
        members.any(|replica| !self.remains(replica.store))
    }

    /// Whether some range does.
    pub(super) fn misses_somebody(&self) -> bool {
        cover::all(self.live()).iter().any(|range| self.misses(range))
    }

    /// Whether a store is there, and is not asked to leave.
    fn remains(&self, number: u64) -> bool {
        let place = self.stores.get(&number);
        place.is_some_and(|place| !matches!(place.lot, Lot::Leaves { .. }))
    }

    /// The members of a range without those that are gone or leave, and others in their places.
    pub(super) fn repaired(&mut self, range: &Descriptor) -> Target {
        let now = range.membership.target();
        let keep = |stores: &BTreeSet<u64>| -> BTreeSet<u64> {
            stores.iter().copied().filter(|store| self.remains(*store)).collect()
        };
        let (mut voters, learners) = (keep(&now.voters), keep(&now.learners));
        let fits = |store: &u64| {
            let is_new = !voters.contains(store) && !learners.contains(store);
            let newest = self.stores.get(store).map(|place| place.newest);
            is_new && newest >= Some(range.edition)
        };
        let mut others: Vec<u64> = self.staying().into_iter().filter(fits).collect();
        while voters.len() < now.voters.len() && !others.is_empty() {
            voters.insert(others.swap_remove(self.orders.below(others.len())));
        }
        Target { voters, learners }
    }

    /// Whether others have what a store has, and nothing brings it in any more. It is up itself, or nobody
    /// might know what it alone has.
    fn may_be_lost(&self, number: u64, since: Instant) -> bool {
        let are_up = self.stores.values().all(|place| place.store.is_some());
        let is_enough = |range: &Descriptor| {
            let has_data = |other: &u64| *other != number && self.has(*other, range);
            configurations(&range.membership).iter().all(|voters| {
                let alive = voters.iter().filter(|other| has_data(other)).count();
                alive * 2 > voters.len()
            })
        };
        self.now.since(since) >= UNNAMED
            && are_up
            && self.is_quiet()
            && cover::all(self.live()).iter().all(is_enough)
    }

    /// Whether a store has a range's data.
    fn has(&self, number: u64, range: &Descriptor) -> bool {
        let store = self.stores.get(&number).and_then(|place| place.store.as_ref());
        store.is_some_and(|store| store.applied(range.group).is_some())
    }

    /// Whether a store that was drained has nothing any more, and nothing brings it in.
    fn has_left(&self, number: u64, since: Instant) -> bool {
        let store = self.stores.get(&number).and_then(|place| place.store.as_ref());
        let mut known = self.live().flat_map(Store::ranges);
        self.now.since(since) >= UNNAMED
            && store.is_some_and(|store| store.ranges().next().is_none())
            && known.all(|range| range.membership.of_store(number).is_none())
            && self.is_quiet()
    }

    /// Whether no log has a change of members that its store has not carried out.
    fn is_quiet(&self) -> bool {
        self.stores.values().all(|place| {
            let store = place.store.as_ref();
            let applied = |group| store.and_then(|store| store.applied(group)).unwrap_or(0);
            let is_quiet = |state: GroupState| {
                let GroupState { group, truncated, last_index, .. } = state;
                let low = applied(group).max(truncated.index) + 1;
                let (mut entries, span) = (Vec::new(), Span { group, low, high: last_index + 1 });
                let is_read = low > last_index
                    || place.disk.log.fetch(span, usize::MAX, &mut entries).is_ok();
                is_read && entries.iter().all(|entry| entry.get_entry_type() == EntryNormal)
            };
            let groups = place.disk.log.groups().unwrap_or_default();
            store.is_none_or(|store| !store.is_writing()) && groups.into_iter().all(is_quiet)
        })
    }

    /// Nobody is lost any more; who leaves does.
    pub(super) fn settle_lots(&mut self) {
        for place in self.stores.values_mut() {
            if matches!(place.lot, Lot::Lost { .. }) {
                place.lot = Lot::Stays;
            }
        }
    }

    /// Has every store work.
    pub(super) fn wake_all(&mut self) {
        for number in self.stores.keys().copied().collect::<Vec<_>>() {
            self.wake(number, Work::Log);
        }
    }
}

/// How many microseconds a clock goes on in a millisecond.
pub(super) fn clock_rate(dice: &mut Dice) -> u32 {
    950 + u32::try_from(dice.below(101)).unwrap_or(0)
}

/// The voters of what is, and of what is left, if it is.
fn configurations(membership: &Membership) -> [BTreeSet<u64>; 2] {
    let of = |roles: [Role; 2]| {
        let held = membership.replicas().iter().filter(|replica| roles.contains(&replica.role));
        held.map(|replica| replica.store).collect()
    };
    [of([Role::Voter, Role::Joining]), of([Role::Voter, Role::Demoting])]
}
