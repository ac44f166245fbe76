//! Hybrid time: the wall clock while it advances, a counter while it does not.
//!
//! Invariant: each stamp of a clock is greater than all that it gave or observed before, even
//! when the wall clock jumps back.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The low bits, which count stamps within one millisecond.
const COUNTER_BITS: u32 = 16;

/// A point in hybrid time: milliseconds since 1970 and a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HybridTime(u64);

impl HybridTime {
    /// The first stamp of a millisecond since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis << COUNTER_BITS)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The stamp as one number that sorts like the stamp.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The stamp of a number from `as_u64`.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.as_millis(), self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

/// Gives rising stamps. One per node, shared by its threads.
#[derive(Debug, Default)]
pub struct HybridClock(AtomicU64);

impl HybridClock {
    /// A clock that has given no stamp.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The next stamp, when the wall clock says `wall_millis`.
    pub fn stamp(&self, wall_millis: u64) -> HybridTime {
        let wall = HybridTime::from_millis(wall_millis).0;
        let next = |last: u64| wall.max(last.saturating_add(1));
        let last = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)))
            .unwrap_or_else(|last| last);
        HybridTime(next(last))
    }

    /// Takes note of a stamp of another node: later stamps are greater.
    pub fn observe(&self, seen: HybridTime) {
        self.0.fetch_max(seen.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EVT-001: hybrid stamps rise, whatever the wall clock does.
    #[test]
    fn stamps_rise_when_the_wall_clock_stands_or_jumps_back() {
        let clock = HybridClock::new();
        let walls = [100, 100, 100, 40, 101, 99, 2_000];
        let stamps: Vec<_> = walls.iter().map(|wall| clock.stamp(*wall)).collect();
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{stamps:?}");
        assert_eq!(stamps[0], HybridTime::from_millis(100));
        assert_eq!(stamps[4].as_millis(), 101);
        assert_eq!(stamps[6], HybridTime::from_millis(2_000));
    }

    #[test]
    fn an_observed_stamp_is_passed() {
        let clock = HybridClock::new();
        clock.observe(HybridTime::from_millis(500));
        assert!(clock.stamp(100) > HybridTime::from_millis(500));
    }
}
