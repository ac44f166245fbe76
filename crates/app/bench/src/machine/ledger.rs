//! The account of a run: every message that was sent, and every copy of it that arrived.
//!
//! Loss is expected copies minus distinct copies. Order is judged per publisher and subscriber where
//! MQTT promises it [MQTT-4.6.0-6]: within one topic. In a shared group order holds among what one
//! member gets; where each message has a topic of its own, order is not judged at all.

use crate::machine::tracker::{Arrival, Tracker};

/// Which publisher's messages reach which subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routing {
    /// Publisher i to subscriber i.
    Pairs,
    /// Every publisher to every subscriber.
    FanOut,
    /// Every message to one of the subscribers, one topic per publisher.
    Shared,
    /// Every message to one subscriber, a different topic each time.
    Scattered,
    /// Every message to the one subscriber, in any order; each publisher sends as many as this.
    Stored(u64),
    /// Each publisher has an equal share of the subscribers and sends to them in turn.
    Dealt,
}

/// The copies that have arrived.
#[derive(Debug)]
pub(crate) struct Ledger {
    routing: Routing,
    publishers: usize,
    subscribers: usize,
    trackers: Vec<Tracker>,
    /// For shared groups: one more than the last sequence, by subscriber and publisher.
    last: Vec<u64>,
    /// For stored messages: one bit each, by publisher and sequence.
    seen: Vec<u64>,
    /// Distinct copies.
    pub(crate) unique: u64,
    /// Copies of what had already arrived.
    pub(crate) duplicates: u64,
    /// Copies that arrived after a later one of the same stream.
    pub(crate) out_of_order: u64,
    /// Copies that reached a subscriber that should not have got them.
    pub(crate) misrouted: u64,
}

/// Streams that are watched; more would take too much memory.
pub(crate) const STREAMS_MAX: usize = 4_000_000;

impl Ledger {
    /// An empty account; `None` if it would have more than [`STREAMS_MAX`] streams.
    pub(crate) fn new(routing: Routing, publishers: usize, subscribers: usize) -> Option<Self> {
        let streams = match routing {
            Routing::Pairs | Routing::Dealt => subscribers,
            Routing::FanOut => publishers.checked_mul(subscribers)?,
            Routing::Shared | Routing::Scattered => publishers,
            Routing::Stored(_) => 0,
        };
        let seen = match routing {
            Routing::Stored(each) => {
                let bits = each.checked_mul(u64::try_from(publishers).ok()?)?;
                usize::try_from(bits.div_ceil(64)).ok()?
            }
            _ => 0,
        };
        let last = match routing {
            Routing::Shared => publishers.checked_mul(subscribers)?,
            _ => 0,
        };
        if streams.max(last).max(seen) > STREAMS_MAX {
            return None;
        }
        Some(Self {
            routing,
            publishers,
            subscribers,
            trackers: vec![Tracker::default(); streams],
            last: vec![0; last],
            seen: vec![0; seen],
            unique: 0,
            duplicates: 0,
            out_of_order: 0,
            misrouted: 0,
        })
    }

    /// Copies that one message should have.
    pub(crate) fn fanout(&self) -> u32 {
        match self.routing {
            Routing::Pairs => u32::from(self.subscribers > 0),
            Routing::FanOut => u32::try_from(self.subscribers).unwrap_or(u32::MAX),
            Routing::Shared | Routing::Scattered | Routing::Stored(_) | Routing::Dealt => 1,
        }
    }

    /// Takes note of a copy at `subscriber`; true if it is a new one where it belongs.
    #[inline]
    pub(crate) fn observe(&mut self, subscriber: usize, publisher: usize, sequence: u64) -> bool {
        if publisher >= self.publishers || subscriber >= self.subscribers {
            self.misrouted += 1;
            return false;
        }
        let (stream, sequence) = match self.routing {
            Routing::Pairs if subscriber != publisher => {
                self.misrouted += 1;
                return false;
            }
            Routing::Dealt => {
                let share = self.share();
                let (round, turn) = (sequence / share, sequence % share);
                if subscriber as u64 != publisher as u64 * share + turn {
                    self.misrouted += 1;
                    return false;
                }
                (subscriber, round)
            }
            Routing::Pairs => (subscriber, sequence),
            Routing::FanOut => (subscriber * self.publishers + publisher, sequence),
            Routing::Shared | Routing::Scattered => (publisher, sequence),
            Routing::Stored(each) => return self.observe_stored(each, publisher, sequence),
        };
        let arrival = self.trackers[stream].observe(sequence);
        if arrival == Arrival::Duplicate {
            self.duplicates += 1;
            return false;
        }
        self.unique += 1;
        let late = match self.routing {
            Routing::Pairs | Routing::FanOut | Routing::Dealt => arrival == Arrival::Late,
            Routing::Shared => {
                let last = &mut self.last[subscriber * self.publishers + publisher];
                let late = sequence + 1 < *last;
                *last = (*last).max(sequence + 1);
                late
            }
            Routing::Scattered | Routing::Stored(_) => false,
        };
        self.out_of_order += u64::from(late);
        true
    }

    /// Copies that have not arrived, when publisher i sent `sent(i)` messages.
    pub(crate) fn missing(&self, sent: impl Fn(usize) -> u64) -> u64 {
        let publishers = self.publishers;
        if let Routing::Stored(_) = self.routing {
            return (0..publishers).map(sent).sum::<u64>().saturating_sub(self.unique);
        }
        (0..self.trackers.len()).map(|stream| self.missing_in(stream, &sent)).sum()
    }

    /// Copies that have not arrived in one stream, which is a subscriber unless several publishers
    /// send to it.
    pub(crate) fn missing_in(&self, stream: usize, sent: impl Fn(usize) -> u64) -> u64 {
        let Some(tracker) = self.trackers.get(stream) else { return 0 };
        let due = match self.routing {
            Routing::FanOut => sent(stream % self.publishers),
            Routing::Dealt => {
                let (share, stream) = (self.share(), stream as u64);
                let sent = usize::try_from(stream / share).map_or(0, sent);
                // Of the last round only those whose turn had come.
                (sent + share - 1 - stream % share) / share
            }
            _ => sent(stream),
        };
        tracker.missing(due)
    }

    /// Subscribers of each publisher.
    fn share(&self) -> u64 {
        ((self.subscribers / self.publishers.max(1)) as u64).max(1)
    }

    /// Copies that were overtaken and have not arrived; in shared groups some are only under way.
    pub(crate) fn overtaken(&self) -> u64 {
        self.trackers.iter().map(|tracker| tracker.missing(0)).sum()
    }

    fn observe_stored(&mut self, each: u64, publisher: usize, sequence: u64) -> bool {
        if sequence >= each {
            self.misrouted += 1;
            return false;
        }
        let bit = publisher as u64 * each + sequence;
        let Some(word) = usize::try_from(bit / 64).ok().and_then(|at| self.seen.get_mut(at)) else {
            return false;
        };
        let mask = 1 << (bit % 64);
        if *word & mask != 0 {
            self.duplicates += 1;
            return false;
        }
        *word |= mask;
        self.unique += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ledger: &Ledger) -> (u64, u64, u64, u64) {
        (ledger.unique, ledger.duplicates, ledger.out_of_order, ledger.misrouted)
    }

    #[test]
    fn pairs_notice_loss_duplicate_disorder_and_misrouting() {
        let mut ledger = Ledger::new(Routing::Pairs, 2, 2).unwrap();
        for sequence in [0, 1, 3, 2, 2, 6] {
            ledger.observe(0, 0, sequence);
        }
        ledger.observe(1, 0, 4);
        ledger.observe(0, 9, 0);
        assert_eq!(counts(&ledger), (5, 1, 1, 2));
        assert_eq!(ledger.missing(|publisher| [8, 3][publisher]), 3 + 3);
    }

    #[test]
    fn fan_out_expects_a_copy_at_each_subscriber() {
        let mut ledger = Ledger::new(Routing::FanOut, 2, 3).unwrap();
        assert_eq!(ledger.fanout(), 3);
        for subscriber in 0..3 {
            assert!(ledger.observe(subscriber, 1, 0));
        }
        assert!(!ledger.observe(0, 1, 0));
        assert_eq!(counts(&ledger), (3, 1, 0, 0));
        assert_eq!(ledger.missing(|publisher| [0, 2][publisher]), 3);
    }

    #[test]
    fn shared_group_may_interleave_but_each_member_sees_order() {
        let mut ledger = Ledger::new(Routing::Shared, 1, 2).unwrap();
        ledger.observe(0, 0, 1);
        ledger.observe(1, 0, 0);
        ledger.observe(0, 0, 2);
        assert_eq!(counts(&ledger), (3, 0, 0, 0));
        ledger.observe(1, 0, 5);
        ledger.observe(1, 0, 3);
        assert_eq!(counts(&ledger), (5, 0, 1, 0));
        assert!(!ledger.observe(0, 0, 3), "the other member has it");
        assert_eq!(counts(&ledger), (5, 1, 1, 0));
        assert_eq!(ledger.missing(|_| 6), 1);
    }

    #[test]
    fn scattered_messages_have_no_order_but_are_all_expected() {
        let mut ledger = Ledger::new(Routing::Scattered, 1, 2).unwrap();
        for sequence in [3, 0, 2] {
            ledger.observe(1, 0, sequence);
        }
        assert_eq!(counts(&ledger), (3, 0, 0, 0));
        assert_eq!(ledger.missing(|_| 4), 1);
    }

    #[test]
    fn stored_messages_arrive_in_any_order_once() {
        let mut ledger = Ledger::new(Routing::Stored(100), 2, 1).unwrap();
        for (publisher, sequence) in [(1, 99), (0, 3), (0, 0), (1, 99), (1, 100)] {
            ledger.observe(0, publisher, sequence);
        }
        assert_eq!(counts(&ledger), (3, 1, 0, 1));
        assert_eq!(ledger.missing(|_| 100), 197);
    }

    #[test]
    fn dealt_messages_reach_the_subscribers_in_turn() {
        let mut ledger = Ledger::new(Routing::Dealt, 2, 6).unwrap();
        assert_eq!(ledger.fanout(), 1);
        // Publisher 1 has the subscribers 3, 4 and 5.
        for (subscriber, sequence) in [(3, 0), (4, 1), (5, 2), (3, 6), (3, 3), (4, 1), (5, 3)] {
            ledger.observe(subscriber, 1, sequence);
        }
        ledger.observe(0, 1, 0);
        assert_eq!(counts(&ledger), (5, 1, 1, 2));
        assert_eq!(ledger.missing_in(3, |_| 7), 0);
        assert_eq!(ledger.missing_in(4, |_| 7), 1);
        assert_eq!(ledger.missing(|publisher| [0, 7][publisher]), 2);
        assert_eq!(ledger.missing(|publisher| [1, 8][publisher]), 4);
    }

    #[test]
    fn too_many_streams_are_refused() {
        assert!(Ledger::new(Routing::FanOut, 10_000, 10_000).is_none());
        assert!(Ledger::new(Routing::Pairs, 10_000, 10_000).is_some());
    }
}
