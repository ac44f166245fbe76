//! A hybrid logical clock: stamps that follow the wall clock and still never contradict causality.
//!
//! After Kulkarni, Demirbas, Madappa, Avva and Leone, *Logical Physical Clocks and Consistent
//! Snapshots in Globally Distributed Databases* (2014), with both parts in one number: 48 bits of
//! milliseconds since 1970, 16 bits that count within one. A stamp made after another one was seen is
//! larger than it, whatever the clocks of the two hosts say.

use std::time::Duration;

use ratatosk_clock::Timestamp;

/// When something was written. Ordered; ties are for the writer's id to break.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

/// How far a stamp may be ahead of the own clock: more is an error of somebody's clock, and would keep
/// everybody else from writing until it has come.
pub const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The clock of one writer.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Hlc {
    last: Stamp,
}

impl Stamp {
    /// A stamp by its number.
    pub const fn from_bits(bits: u64) -> Self {
        Stamp(bits)
    }

    /// Its number: milliseconds since 1970 times 65,536, and a count.
    pub const fn as_bits(self) -> u64 {
        self.0
    }

    /// The wall clock that it has, rounded down.
    pub const fn wall(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> 16)
    }

    fn at(wall: Timestamp) -> Stamp {
        Stamp(wall.as_millis().min(u64::MAX >> 16) << 16)
    }

    /// Whether it is so far ahead of `wall` that it is not believed.
    pub(crate) fn is_ahead(self, wall: Timestamp) -> bool {
        let ahead_ms = u64::try_from(AHEAD_MAX.as_millis()).unwrap_or(u64::MAX);
        self.wall().as_millis() > wall.as_millis().saturating_add(ahead_ms)
    }
}

impl Hlc {
    /// A stamp that is larger than all that were made or seen.
    pub(crate) fn tick(&mut self, wall: Timestamp) -> Stamp {
        self.last = Stamp::at(wall).max(Stamp(self.last.0.saturating_add(1)));
        self.last
    }

    /// Sees a stamp of somebody else, which was not too far ahead.
    pub(crate) fn observe(&mut self, stamp: Stamp) {
        self.last = self.last.max(stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_later_than_all_that_were_seen_also_when_the_clock_goes_back() {
        let mut clock = Hlc::default();
        let first = clock.tick(Timestamp::from_millis(1_000));
        let second = clock.tick(Timestamp::from_millis(500));
        assert!(second > first);
        clock.observe(Stamp::at(Timestamp::from_millis(9_000)));
        let third = clock.tick(Timestamp::from_millis(1_001));
        assert_eq!(third.wall(), Timestamp::from_millis(9_000));
        assert_eq!(clock.tick(Timestamp::from_millis(9_001)).wall(), Timestamp::from_millis(9_001));
    }

    #[test]
    fn a_stamp_of_a_day_and_more_ahead_is_not_believed() {
        let wall = Timestamp::from_millis(1_000);
        let day = 24 * 60 * 60 * 1000;
        assert!(!Stamp::at(Timestamp::from_millis(1_000 + day)).is_ahead(wall));
        assert!(Stamp::at(Timestamp::from_millis(1_001 + day)).is_ahead(wall));
    }
}
