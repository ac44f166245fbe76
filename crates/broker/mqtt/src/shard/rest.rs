//! Whether a shard lets others run before it sleeps.
//!
//! Falling asleep and being woken costs more than a small message does. A shard whose sockets become
//! readable tens of thousands of times a second gains nothing by sleeping in between: it offers its
//! core to whoever is ready to run, and finds what they sent in one look at its sockets. A shard
//! with less to do sleeps at once: to be woken is to be preferred to those who only compute, and a
//! few messages must not wait for a slice of theirs (decision 0009).

use std::{cell::Cell, time::Duration};

use ratatosk_clock::Instant;

/// Over how long turns are counted, at least.
const SPAN_MIN: Duration = Duration::from_millis(5);
/// From how many turns a second on a shard is busy.
const BUSY_TURNS_PER_SECOND: u64 = 50_000;

/// What a shard knows of how busy it is.
#[derive(Debug, Default)]
pub(super) struct Rest {
    since: Cell<Instant>,
    turns: Cell<u64>,
    is_busy: Cell<bool>,
}

impl Rest {
    /// A connection had its turn.
    #[inline]
    pub(super) fn note_turn(&self) {
        self.turns.set(self.turns.get() + 1);
    }

    /// Whether the shard, out of work for now, should let others run before it sleeps.
    pub(super) fn yields(&self, now: Instant) -> bool {
        let span = now.since(self.since.get());
        if span >= SPAN_MIN {
            let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
            let turns = self.turns.take().saturating_mul(1_000_000_000);
            self.is_busy.set(turns / nanos >= BUSY_TURNS_PER_SECOND);
            self.since.set(now);
        }
        self.is_busy.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(rest: &Rest, count: u64) {
        for _ in 0..count {
            rest.note_turn();
        }
    }

    #[test]
    fn a_shard_of_many_turns_yields_before_it_sleeps() {
        let rest = Rest::default();
        turns(&rest, 499);
        assert!(!rest.yields(Instant::from_millis(4)), "too early to tell");
        turns(&rest, 1);
        assert!(rest.yields(Instant::from_millis(10)));
        assert!(rest.yields(Instant::from_millis(11)), "until it is counted again");
    }

    #[test]
    fn a_shard_of_few_turns_sleeps_at_once() {
        let rest = Rest::default();
        turns(&rest, 500);
        assert!(rest.yields(Instant::from_millis(10)));
        turns(&rest, 499);
        assert!(!rest.yields(Instant::from_millis(20)));
    }

    #[test]
    fn a_burst_before_a_long_sleep_does_not_count_as_load() {
        let rest = Rest::default();
        turns(&rest, 10_000);
        assert!(!rest.yields(Instant::from_millis(1_000)));
    }
}
