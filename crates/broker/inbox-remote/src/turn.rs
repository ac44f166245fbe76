//! The order of a host's messages, where some are refused and come again.
//!
//! Behind a message that was refused, or is in doubt, none for the same partitions is taken before it, unless it
//! comes no more. So each says which one it is, and one that comes again also which is the first that may still
//! come for its partitions. Whoever refused one for a partition takes there what is not behind it, and what is
//! behind it once it is over. MQTT-054

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::jobs::JobId;

/// The place of a message among those of its host.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Which one it is: counts up, and is kept when it comes again. 0: it never does.
    pub(crate) number: u64,
    /// If it comes again: the first without an outcome for its partitions, itself or one before it.
    pub(crate) first: Option<u64>,
}

/// The partitions for which whoever is asked refuses messages.
#[derive(Default)]
pub(crate) struct Closed {
    /// A bit for each.
    set: AtomicU64,
    /// The first that was refused, by partition.
    since: Mutex<BTreeMap<u32, u64>>,
}

/// The messages without an outcome of whoever asks, by partition, and in how many parts they are.
#[derive(Default)]
pub(crate) struct Due(BTreeMap<u32, BTreeMap<u64, u32>>);

impl Turn {
    pub(crate) fn new(job: JobId, first: Option<u64>) -> Self {
        Turn { number: job.0, first }
    }

    /// Whether it comes again and need not wait for one that was refused.
    fn passes(&self, refused: u64) -> bool {
        self.first.is_some_and(|first| refused >= self.number || refused < first)
    }
}

impl Closed {
    /// Whether a message for these partitions is refused. If not, what is behind it may come, too.
    pub(crate) fn refuses(&self, set: u64, turn: Turn) -> bool {
        if self.set.load(Ordering::Acquire) & set == 0 {
            return false;
        }
        let mut since = self.since.lock();
        let passes = |number| since.get(&number).is_none_or(|refused| turn.passes(*refused));
        if !numbers(set).all(passes) {
            self.note(&mut since, set, turn);
            return true;
        }
        numbers(set).for_each(|number| {
            since.remove(&number);
        });
        self.set.fetch_and(!set, Ordering::AcqRel);
        false
    }

    /// Refuses what is behind a message from now on.
    pub(crate) fn close(&self, set: u64, turn: Turn) {
        self.note(&mut self.since.lock(), set, turn);
    }

    fn note(&self, since: &mut BTreeMap<u32, u64>, set: u64, Turn { number: turn, .. }: Turn) {
        if turn == 0 {
            return;
        }
        for number in numbers(set) {
            let refused = since.entry(number).or_insert(turn);
            *refused = turn.min(*refused);
        }
        self.set.fetch_or(set, Ordering::AcqRel);
    }
}

impl Due {
    /// A part of a message is for these partitions.
    pub(crate) fn add(&mut self, message: u64, set: u64) {
        for number in numbers(set) {
            *self.0.entry(number).or_default().entry(message).or_default() += 1;
        }
    }

    /// It has its outcome, or is cut anew.
    pub(crate) fn remove(&mut self, message: u64, set: u64) {
        for number in numbers(set) {
            let Some(due) = self.0.get_mut(&number) else { continue };
            if let Some(count) = due.get_mut(&message) {
                *count -= 1;
                if *count == 0 {
                    due.remove(&message);
                }
            }
        }
    }

    /// The first of all that have a part for one of these partitions.
    pub(crate) fn first(&self, set: u64) -> Option<u64> {
        let first = |number| self.0.get(&number)?.keys().next().copied();
        numbers(set).filter_map(first).min()
    }
}

/// The numbers of the partitions in a set.
fn numbers(set: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |number| set & (1 << number) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(number: u64) -> Turn {
        Turn { number, first: None }
    }

    fn again(number: u64, first: u64) -> Turn {
        Turn { number, first: Some(first) }
    }

    /// MQTT-054: behind a message that is refused none for the same partitions is taken, nor for those of what
    /// was refused for it, until it comes again.
    #[test]
    fn behind_what_is_refused_nothing_is_taken_until_it_comes_again() {
        let closed = Closed::default();
        assert!(!closed.refuses(0b001, new(1)));
        closed.close(0b001, new(2));
        assert!(closed.refuses(0b011, new(3)), "it shares a partition");
        assert!(closed.refuses(0b010, new(4)), "it would overtake the one before");
        assert!(!closed.refuses(0b100, new(5)));
        assert!(closed.refuses(0b011, again(3, 2)), "the first was not taken yet");
        assert!(!closed.refuses(0b001, again(2, 2)));
        assert!(!closed.refuses(0b001, new(6)));
        assert!(closed.refuses(0b010, again(4, 3)));
        assert!(!closed.refuses(0b011, again(3, 3)));
        assert!(!closed.refuses(0b010, again(4, 4)));
        closed.close(0b001, new(0));
        assert!(!closed.refuses(0b001, new(7)), "what never comes again keeps nobody");
    }

    /// MQTT-054: a message that is refused again keeps those behind it, and one that has its outcome elsewhere
    /// does not.
    #[test]
    fn what_is_behind_one_that_comes_no_more_goes_on() {
        let closed = Closed::default();
        closed.close(0b011, new(2));
        closed.close(0b001, again(2, 2));
        assert!(closed.refuses(0b001, again(3, 2)));
        assert!(!closed.refuses(0b001, again(3, 3)), "the first is over");
        assert!(closed.refuses(0b010, new(4)));
        assert!(!closed.refuses(0b010, again(4, 4)));
        closed.close(0b001, new(9));
        assert!(!closed.refuses(0b001, again(8, 8)), "it was sent before");
    }

    /// MQTT-054: a message is due for a partition until the last of its parts has its outcome.
    #[test]
    fn the_first_that_is_due_is_known_by_partition() {
        let mut due = Due::default();
        assert_eq!(due.first(0b111), None);
        due.add(4, 0b011);
        due.add(4, 0b001);
        due.add(6, 0b110);
        assert_eq!([0b001, 0b100, 0b111].map(|set| due.first(set)), [Some(4), Some(6), Some(4)]);
        due.remove(4, 0b011);
        assert_eq!([0b001, 0b010].map(|set| due.first(set)), [Some(4), Some(6)]);
        due.remove(4, 0b001);
        assert_eq!([0b001, 0b010].map(|set| due.first(set)), [None, Some(6)]);
    }
}
