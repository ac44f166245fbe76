//! Which messages of one stream have arrived: gaps, late arrivals, duplicates.
//!
//! Exact while at most [`GAPS_MAX`] gaps are open; beyond that the oldest gap is counted as lost for
//! good, and a message of it that still arrives counts as a duplicate.
//! Invariant: gaps are sorted, disjoint, not empty, and end at or below `next`.

use std::ops::Range;

/// Open gaps that are remembered.
const GAPS_MAX: usize = 4096;

/// What the arrival of one message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The one that was due, or a later one: those between are missing so far.
    Ahead,
    /// One that was missing.
    Late,
    /// One that had already arrived.
    Duplicate,
}

/// The state of one stream.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tracker {
    next: u64,
    gaps: Vec<Range<u64>>,
    forgotten: u64,
}

impl Tracker {
    /// Takes note of `sequence`.
    #[inline]
    pub(crate) fn observe(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next {
            self.next += 1;
            return Arrival::Ahead;
        }
        self.observe_irregular(sequence)
    }

    /// Messages missing, if `sent` were sent in all.
    pub(crate) fn missing(&self, sent: u64) -> u64 {
        let open: u64 = self.gaps.iter().map(|gap| gap.end - gap.start).sum();
        open + self.forgotten + sent.saturating_sub(self.next)
    }

    #[cold]
    fn observe_irregular(&mut self, sequence: u64) -> Arrival {
        if sequence > self.next {
            if self.gaps.len() == GAPS_MAX {
                let oldest = self.gaps.remove(0);
                self.forgotten += oldest.end - oldest.start;
            }
            self.gaps.push(self.next..sequence);
            self.next = sequence + 1;
            return Arrival::Ahead;
        }
        let index = self.gaps.partition_point(|gap| gap.end <= sequence);
        let Some(gap) = self.gaps.get_mut(index).filter(|gap| gap.contains(&sequence)) else {
            return Arrival::Duplicate;
        };
        let after = sequence + 1..gap.end;
        gap.end = sequence;
        let before_is_empty = gap.is_empty();
        match (before_is_empty, after.is_empty()) {
            (true, true) => drop(self.gaps.remove(index)),
            (true, false) => self.gaps[index] = after,
            (false, true) => {}
            (false, false) => self.gaps.insert(index + 1, after),
        }
        Arrival::Late
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{prop, proptest};

    use super::*;

    fn check(sequences: &[u64], sent: u64, late: usize, duplicates: usize, missing: u64) {
        let mut tracker = Tracker::default();
        let arrivals: Vec<_> = sequences.iter().map(|&one| tracker.observe(one)).collect();
        let count = |wanted| arrivals.iter().filter(|&&arrival| arrival == wanted).count();
        assert_eq!(count(Arrival::Late), late, "{sequences:?}");
        assert_eq!(count(Arrival::Duplicate), duplicates, "{sequences:?}");
        assert_eq!(tracker.missing(sent), missing, "{sequences:?}");
    }

    #[test]
    fn planted_faults_are_found() {
        check(&[0, 1, 2, 3], 4, 0, 0, 0);
        check(&[], 4, 0, 0, 4);
        check(&[0, 1, 3], 4, 0, 0, 1);
        check(&[0, 2, 1, 3], 4, 1, 0, 0);
        check(&[0, 1, 1, 2], 3, 0, 1, 0);
        check(&[0, 5, 2, 2, 0], 6, 1, 2, 3);
        check(&[0, 5, 1, 4, 2, 3], 6, 4, 0, 0);
        check(&[0, 1], 5, 0, 0, 3);
    }

    #[test]
    fn gaps_are_bounded_and_the_forgotten_stay_lost() {
        let mut tracker = Tracker::default();
        let count = GAPS_MAX as u64 + 10;
        for index in 0..count {
            assert_eq!(tracker.observe(index * 2 + 1), Arrival::Ahead);
        }
        assert_eq!(tracker.gaps.len(), GAPS_MAX);
        assert_eq!(tracker.missing(count * 2), count);
        assert_eq!(tracker.observe(0), Arrival::Duplicate);
        assert_eq!(tracker.missing(count * 2), count);
    }

    proptest! {
        #[test]
        fn tracker_agrees_with_a_set(sequences in prop::collection::vec(0_u64..60, 0..120)) {
            let mut tracker = Tracker::default();
            let mut seen = BTreeSet::new();
            for &sequence in &sequences {
                let highest = seen.last().copied();
                let expected = if !seen.insert(sequence) {
                    Arrival::Duplicate
                } else if highest.is_some_and(|highest| highest > sequence) {
                    Arrival::Late
                } else {
                    Arrival::Ahead
                };
                assert_eq!(tracker.observe(sequence), expected);
                assert_eq!(tracker.missing(60), 60 - seen.len() as u64);
            }
        }
    }
}
