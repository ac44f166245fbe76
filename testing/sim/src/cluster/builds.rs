//! Stores are of older and newer builds, and of another one when they start again: newer ones in a rolling
//! upgrade, older ones if somebody goes back, as long as nothing was raised.
//!
//! Who goes back in the very moment in which a range is raised stops, and is started as the newer build
//! again. Any other store that stops for what it does not support was raised, or brought in, wrongly.

use std::time::Duration;

use ratatosk_clock::Instant;
use ratatosk_store::edition::Edition;
use ratatosk_testkit::dice::Dice;

use super::register::{KEYSPACE, TWO};
use super::store::Store;
use super::{Cluster, cover};
use crate::disk::Crash;
use crate::simulation::Checked;

/// What a store told before it went back may have such consequences for so long: the order of a leader that
/// was given then, and cut off, waits in logs until the network is whole.
const MOMENT: Duration = Duration::from_secs(20);
/// How long a rolling upgrade of all may take, and until all ranges are raised then.
const RAISED: Duration = Duration::from_secs(60);

/// The builds of the stores that are there first.
pub(super) fn first(dice: &mut Dice, count: u64) -> Vec<Edition> {
    // The first makes the ranges. If it is a newer one nothing can go back, and no older one be brought in.
    let are_raised = dice.once_in(5);
    let build = |number| match number {
        1 => are_raised,
        _ => dice.once_in(if are_raised { 2 } else { 3 }),
    };
    (1..=count).map(build).map(|is_new| if is_new { TWO } else { Edition::FIRST }).collect()
}

impl Cluster {
    /// The build of a store that comes new.
    pub(super) fn draw_build(&mut self) -> Edition {
        let most = if self.agreement.raised().next().is_some() { 4 } else { 2 };
        if self.builds.once_in(most) { Edition::FIRST } else { TWO }
    }

    /// A store is about to start again: perhaps as another build.
    pub(super) fn draw_build_again(&mut self, number: u64) {
        let is_raised = self.agreement.raised().next().is_some();
        let (goes_on, goes_back) = (self.builds.once_in(4), self.builds.once_in(4));
        let Some(place) = self.stores.get_mut(&number).filter(|_| self.is_faulty) else { return };
        if place.newest < TWO && goes_on {
            (place.newest, place.rolled_back_at) = (TWO, None);
            self.trace.note(&format!("{number}: is of the newer build now"));
        } else if place.newest == TWO && goes_back && !is_raised {
            (place.newest, place.rolled_back_at) = (Edition::FIRST, Some(self.now));
            self.outcome.rollbacks += 1;
            self.trace.note(&format!("{number}: goes back to the older build"));
        }
    }

    /// One store is stopped to be upgraded.
    pub(super) fn upgrade_one(&mut self) -> Checked {
        let older = |(number, place): (&u64, &super::Place)| {
            (place.newest < TWO && place.store.is_some()).then_some(*number)
        };
        let older: Vec<u64> = self.stores.iter().filter_map(older).collect();
        match self.builds.pick(&older).copied() {
            Some(number) => self.upgrade(number),
            None => Ok(()),
        }
    }

    fn upgrade(&mut self, number: u64) -> Checked {
        if let Some(place) = self.stores.get_mut(&number) {
            (place.newest, place.rolled_back_at) = (TWO, None);
        }
        self.trace.note(&format!("{number}: is upgraded"));
        self.crash_for(number, Crash::Process, Duration::from_millis(50))
    }

    /// A store has stopped for what its build does not support.
    pub(super) fn unsupported(&mut self, number: u64, what: &str) -> Checked {
        let went_back = self.stores.get(&number).and_then(|place| place.rolled_back_at);
        // It may be the first to carry it out.
        let is_moment = |back: Instant| {
            let mut raised = self.agreement.raised().chain([self.now]);
            raised.any(|at| at >= back && at.since(back) <= MOMENT)
        };
        if !went_back.is_some_and(is_moment) {
            return Err(format!("store {number} is given what it does not support: {what}"));
        }
        self.outcome.returns += 1;
        self.upgrade(number)
    }

    /// In the end all stores are upgraded, one after the other, and all ranges are raised.
    pub(super) fn upgrade_all(&mut self) -> Checked {
        let end = self.now + RAISED;
        let is_older =
            |(number, place): (&u64, &super::Place)| (place.newest < TWO).then_some(*number);
        let older: Vec<u64> = self.stores.iter().filter_map(is_older).collect();
        for number in older {
            self.upgrade(number)?;
            let is_up = |cluster: &Self| {
                cluster.stores.get(&number).is_none_or(|place| place.store.is_some())
            };
            self.until(end, is_up)?;
        }
        let are_raised = |cluster: &Self| {
            // The inbox has one edition.
            let is_raised = |range: &ratatosk_store::range::Descriptor| {
                range.keyspace != KEYSPACE || range.edition == TWO
            };
            cover::ranges(cluster.live()).iter().all(is_raised)
                && cluster.live().flat_map(Store::ranges).all(is_raised)
        };
        self.until(end, are_raised)?;
        match are_raised(self) {
            true => Ok(()),
            false => Err(format!("not all ranges are raised: {:#?}", self.states())),
        }
    }
}
