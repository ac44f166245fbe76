//! The host's clocks, read by drivers only.
//!
//! The one place of the workspace that asks the operating system for the time.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Epoch, Instant, Timestamp};

/// Where a driver reads the time that is drawn from a seed in a simulation.
pub trait Clock: Send + Sync {
    /// The time since the clock was made.
    fn now(&self) -> Instant;
}

/// The process's clock. Copies of one clock agree; two clocks made apart do not.
#[derive(Copy, Clone, Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// Starts the process's time. Made once, in the binary, and handed to every driver.
    #[expect(clippy::new_without_default, reason = "a clock is started on purpose, not by default")]
    #[expect(clippy::disallowed_methods, reason = "the seam that the ban points to")]
    pub fn new() -> Self {
        SystemClock { start: std::time::Instant::now() }
    }

    /// The time since the clock was made. Costs about 20 ns.
    #[expect(clippy::disallowed_methods, reason = "the seam that the ban points to")]
    pub fn now(&self) -> Instant {
        let elapsed = std::time::Instant::now().saturating_duration_since(self.start);
        Instant::ZERO + elapsed
    }

    /// When this process's time began, by the wall clock as it is now.
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.now(), self.wall())
    }

    /// The wall clock, for what is stored or shown. A clock set before 1970 reads as 1970.
    #[expect(clippy::disallowed_methods, reason = "the seam that the ban points to")]
    pub fn wall(&self) -> Timestamp {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        SystemClock::now(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_one_clock_share_their_start_and_never_go_back() {
        let clock = SystemClock::new();
        let copy = clock;
        let first = clock.now();
        let second = copy.now();
        assert!(second >= first);
    }
}
