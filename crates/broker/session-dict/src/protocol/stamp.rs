//! Hosts, and the order of registrations.
//!
//! A stamp is a hybrid logical time: it follows the wall clock, and is larger than every stamp that
//! was seen before it was made. Two registrations of one session are ordered by (stamp, host).

use std::fmt;
use std::time::Duration;

use ratatosk_clock::{Instant, Timestamp};

/// One life of one process of the cluster.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub u128);

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:x}", self.0)
    }
}

/// When it is, by both clocks of a host.
#[derive(Copy, Clone, Debug)]
pub struct Time {
    /// For deadlines.
    pub now: Instant,
    /// For stamps.
    pub wall: Timestamp,
}

/// When a session was registered: 48 bits of milliseconds since 1970, and 16 that count.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// How far a stamp of another host may be ahead of the own clock.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Stamp {
    fn at(wall: Timestamp) -> Self {
        Self(wall.as_millis().min(u64::MAX >> 16) << 16)
    }

    /// Whether it is one that a sane host could have made by now. Others must not be seen: they
    /// would be ahead of all that comes for as long.
    #[must_use]
    pub fn is_sane(self, wall: Timestamp) -> bool {
        let ahead_ms = u64::try_from(AHEAD_MAX.as_millis()).unwrap_or(u64::MAX);
        self.0 >> 16 <= wall.as_millis().saturating_add(ahead_ms)
    }
}

/// Makes stamps.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct StampClock {
    last: Stamp,
}

impl StampClock {
    /// A stamp that is larger than all that were made or seen.
    pub(crate) fn tick(&mut self, wall: Timestamp) -> Stamp {
        self.last = Stamp::at(wall).max(Stamp(self.last.0.saturating_add(1)));
        self.last
    }

    /// Sees a stamp of somebody else.
    pub(crate) fn observe(&mut self, stamp: Stamp) {
        self.last = self.last.max(stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_larger_than_all_that_were_seen_whatever_the_clock_says() {
        let mut clock = StampClock::default();
        let first = clock.tick(Timestamp::from_millis(1_000));
        assert!(clock.tick(Timestamp::from_millis(500)) > first);
        clock.observe(Stamp::at(Timestamp::from_millis(9_000)));
        let third = clock.tick(Timestamp::from_millis(1_001));
        assert!(third > Stamp::at(Timestamp::from_millis(9_000)));
        assert_eq!(
            clock.tick(Timestamp::from_millis(9_001)),
            Stamp::at(Timestamp::from_millis(9_001))
        );
    }

    #[test]
    fn a_stamp_of_more_than_a_day_ahead_is_not_sane() {
        let (wall, day_ms) = (Timestamp::from_millis(1_000), 24 * 60 * 60 * 1_000);
        assert!(Stamp::at(Timestamp::from_millis(1_000 + day_ms)).is_sane(wall));
        assert!(!Stamp::at(Timestamp::from_millis(1_001 + day_ms)).is_sane(wall));
        assert!(!Stamp(u64::MAX).is_sane(wall));
    }
}
