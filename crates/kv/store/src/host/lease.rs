//! Until when a replica may serve its range from what it has, for whoever asks on any thread. KV-010
//!
//! The thread that applies is the only one to change it. It ends what was lent before the data goes, or
//! becomes another's: whoever looks, reads, and finds it the same lease still has read what it may.

use std::sync::atomic::{AtomicU64, Ordering};

use ratatosk_clock::Instant;

use crate::machine::{ASK_AGAIN, FOREVER, SERVE};

/// See the module. The times are those of the store's clock.
#[derive(Debug, Default)]
pub struct Lease {
    /// In nanoseconds; 0 while there is none.
    until: AtomicU64,
    /// When somebody asked for more last, in nanoseconds.
    asked: AtomicU64,
    /// How often it ended.
    ends: AtomicU64,
}

impl Lease {
    /// Whether the replica may serve: what it has now holds whatever was acknowledged before.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        self.until.load(Ordering::Acquire) > now.as_nanos()
    }

    /// Whether whoever serves is to ask for more. To one of all who look within a while it says so.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        let half = u64::try_from(SERVE.as_nanos()).unwrap_or(u64::MAX) / 2;
        let rest = self.until.load(Ordering::Relaxed).saturating_sub(now.as_nanos());
        let asked = self.asked.load(Ordering::Relaxed);
        let again = Instant::from_nanos(asked) + ASK_AGAIN;
        let is_due = rest < half && (asked == 0 || now >= again);
        let now = now.as_nanos().max(1);
        is_due
            && self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How often it ended: what was read between two looks that find the same was the range's.
    pub(crate) fn ends(&self) -> u64 {
        self.ends.load(Ordering::Acquire)
    }

    pub(super) fn extend(&self, until: Instant) {
        self.until.fetch_max(until.as_nanos(), Ordering::AcqRel);
    }

    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
        self.ends.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether others wait for what is applied here, as far as is known.
    pub(super) fn is_lent(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && until != FOREVER.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_all_who_look_asks_for_more_once_half_of_it_is_over() {
        let lease = Lease::default();
        let at = Instant::from_millis;
        lease.extend(at(2_000));
        assert!(lease.holds(at(1_999)) && !lease.holds(at(2_000)));
        assert!(!lease.is_due(at(1_400)), "much is left");
        assert!(lease.is_due(at(1_600)) && !lease.is_due(at(1_601)));
        assert!(lease.is_due(at(1_701)), "nobody answered");
        lease.extend(at(2_600));
        assert!(lease.holds(at(2_100)) && !lease.is_due(at(2_000)));
        lease.end();
        assert!(!lease.holds(at(2_100)) && lease.is_due(at(2_100)));
    }

    #[test]
    fn whoever_is_alone_asks_once() {
        let lease = Lease::default();
        assert!(lease.is_due(Instant::ZERO) && !lease.is_due(Instant::ZERO));
        lease.extend(FOREVER);
        let late = Instant::from_millis(1 << 40);
        assert!(lease.holds(late) && !lease.is_due(late));
    }
}
