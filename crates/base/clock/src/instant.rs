//! Points in time: monotonic for deadlines, wall-clock for what is stored or shown.
//!
//! Both are plain numbers, so they can be made up by tests, compared and stored in four or eight
//! bytes. Arithmetic saturates: a deadline past the end of time is the end of time.

use std::{
    fmt,
    num::NonZeroU64,
    ops::{Add, Sub},
    time::Duration,
};

/// Nanoseconds since the process started. Never goes back; means nothing in another process.
///
/// Counted from one, so that there is a number left for `None`: every connection has several
/// deadlines that it may not have.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

const _: () = assert!(size_of::<Option<Instant>>() == 8, "an optional deadline is one word");

impl Instant {
    /// The start of the process's time.
    pub const ZERO: Instant = Instant(NonZeroU64::MIN);

    /// A point `nanos` nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// A point `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        Instant::from_nanos(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Whole milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.as_nanos() / 1_000_000
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Instant::ZERO
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Instant").field(&self.as_nanos()).finish()
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, span: Duration) -> Instant {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, span: Duration) -> Instant {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(self.as_nanos().saturating_sub(nanos))
    }
}

/// Milliseconds since 1970-01-01T00:00Z, as the host's clock has it. May jump.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A stamp of `millis` milliseconds since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// When the process's time began, by the wall clock: what turns deadlines into stamps that outlive
/// the process, and back.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch(Timestamp);

impl Epoch {
    /// The epoch of a process in which it is `now`, and `wall` by the wall clock.
    pub const fn new(now: Instant, wall: Timestamp) -> Self {
        Epoch(Timestamp(wall.0.saturating_sub(now.as_millis())))
    }

    /// The stamp of a point, rounded up to milliseconds: nothing stored is due before its time.
    pub const fn stamp(self, instant: Instant) -> Timestamp {
        Timestamp(self.0.0.saturating_add(instant.as_nanos().div_ceil(1_000_000)))
    }

    /// The point of a stamp; the start of the process for what is older.
    pub const fn instant(self, stamp: Timestamp) -> Instant {
        Instant::from_millis(stamp.0.saturating_sub(self.0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends_of_time() {
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::from_nanos(u64::MAX) + Duration::MAX, Instant::from_nanos(u64::MAX));
        assert_eq!(Instant::ZERO.since(Instant::from_millis(5)), Duration::ZERO);
    }

    #[test]
    fn a_deadline_survives_the_process_as_a_stamp() {
        let before = Epoch::new(Instant::from_millis(5_000), Timestamp::from_millis(1_000_000));
        let stamp = before.stamp(Instant::from_millis(9_000));
        assert_eq!(before.instant(stamp), Instant::from_millis(9_000));
        let after = Epoch::new(Instant::ZERO, Timestamp::from_millis(1_001_500));
        assert_eq!(after.instant(stamp), Instant::from_millis(2_500));
        let late = Epoch::new(Instant::ZERO, Timestamp::from_millis(2_000_000));
        assert_eq!(late.instant(stamp), Instant::ZERO);
    }

    #[test]
    fn a_span_added_is_the_span_measured() {
        let start = Instant::from_millis(7);
        let span = Duration::from_micros(1_234_567);
        assert_eq!((start + span).since(start), span);
    }
}
