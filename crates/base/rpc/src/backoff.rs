//! How long to wait before the next attempt: twice as long each time, and never all at once.

use std::time::Duration;

/// Delays between attempts. Pure: the draw is an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    base: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// The first delay is at most `base`, none is longer than `limit`.
    pub(crate) const fn new(base: Duration, limit: Duration) -> Self {
        Self { base, limit, failures: 0 }
    }

    /// Begins anew: an attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The delay after one more failure: between half and all of what the failures so far ask
    /// for, at the point that `draw` says, so that peers do not come back in step.
    pub(crate) fn next(&mut self, draw: u64) -> Duration {
        let factor = 1_u32 << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let whole = self.base.saturating_mul(factor).min(self.limit);
        let half_ns = u64::try_from(whole.as_nanos() / 2).unwrap_or(u64::MAX);
        whole / 2 + Duration::from_nanos(draw % half_ns.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_grow_to_the_limit_and_begin_anew(draws in prop::collection::vec(any::<u64>(), 1..40)) {
            let (base, limit) = (Duration::from_millis(100), Duration::from_secs(5));
            let mut backoff = Backoff::new(base, limit);
            for (failures, draw) in draws.iter().enumerate() {
                let whole = base.saturating_mul(1 << failures.min(10)).min(limit);
                let delay = backoff.next(*draw);
                prop_assert!(delay >= whole / 2);
                prop_assert!(delay <= whole);
            }
            backoff.reset();
            prop_assert!(backoff.next(draws[0]) <= base);
        }
    }
}
