//! The closed loop: how many messages of a publisher may be under way, end to end.
//!
//! A message is under way until each of the `fanout` subscribers has it. The window moves in order of
//! sequence, so one message that is late holds it back, as one lost at QoS 0 would forever: the driver
//! calls [`Window::forgive`] when nothing has moved for a while.
//! Invariant: `base ≤ sent ≤ base + size`, and every count outside `base..sent` is zero.

/// The window of one publisher.
#[derive(Debug)]
pub(crate) struct Window {
    size: u32,
    fanout: u32,
    base: u64,
    sent: u64,
    /// Deliveries of each message under way, by sequence number modulo the length (a power of two).
    deliveries: Vec<u32>,
}

impl Window {
    /// A window of `size` messages that are each delivered `fanout` times; with a fan-out of zero
    /// nothing is ever under way.
    pub(crate) fn new(size: u32, fanout: u32) -> Self {
        assert!(size > 0, "a window of zero messages never sends");
        let slots = size.next_power_of_two() as usize;
        Self { size, fanout, base: 0, sent: 0, deliveries: vec![0; slots] }
    }

    /// Messages that may be sent now.
    #[inline]
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.size) - (self.sent - self.base)
    }

    /// All messages before this one have been delivered or given up.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Takes note that `count` more messages were sent.
    #[inline]
    pub(crate) fn advance(&mut self, count: u64) {
        assert!(count <= self.room(), "{count} messages sent with room for {}", self.room());
        self.sent += count;
        if self.fanout == 0 {
            self.base = self.sent;
        }
    }

    /// Takes note of one delivery; true if the window moved. What is not under way is ignored.
    #[inline]
    pub(crate) fn deliver(&mut self, sequence: u64) -> bool {
        if sequence < self.base || sequence >= self.sent {
            return false;
        }
        let slot = self.slot(sequence);
        self.deliveries[slot] += 1;
        if sequence != self.base || self.deliveries[slot] < self.fanout {
            return false;
        }
        let mut slot = slot;
        while self.base < self.sent && self.deliveries[slot] >= self.fanout {
            self.deliveries[slot] = 0;
            self.base += 1;
            slot = self.slot(self.base);
        }
        true
    }

    /// Gives up on what is under way; returns how many messages that was.
    pub(crate) fn forgive(&mut self) -> u64 {
        let given_up = self.sent - self.base;
        self.base = self.sent;
        self.deliveries.fill(0);
        given_up
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits choose the slot")]
    fn slot(&self, sequence: u64) -> usize {
        sequence as usize & (self.deliveries.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    #[test]
    fn room_shrinks_by_sending_and_grows_by_delivery() {
        let mut window = Window::new(3, 1);
        assert_eq!(window.room(), 3);
        window.advance(3);
        assert_eq!(window.room(), 0);
        assert!(window.deliver(0));
        assert_eq!(window.room(), 1);
        assert!(!window.deliver(2), "the window moves in order");
        assert_eq!(window.room(), 1);
        assert!(window.deliver(1));
        assert_eq!(window.room(), 3);
    }

    #[test]
    fn fanned_out_message_counts_until_the_last_subscriber_has_it() {
        let mut window = Window::new(2, 3);
        window.advance(2);
        assert!(!window.deliver(0));
        assert!(!window.deliver(1));
        assert!(!window.deliver(0));
        assert_eq!(window.room(), 0);
        assert!(window.deliver(0));
        assert_eq!(window.room(), 1);
    }

    #[test]
    fn duplicates_and_strangers_do_not_open_the_window() {
        let mut window = Window::new(4, 1);
        window.advance(2);
        assert!(window.deliver(0));
        assert!(!window.deliver(0));
        assert!(!window.deliver(7));
        assert_eq!(window.room(), 3);
    }

    #[test]
    fn forgiven_messages_no_longer_count() {
        let mut window = Window::new(4, 2);
        window.advance(4);
        assert!(!window.deliver(1));
        assert_eq!(window.forgive(), 4);
        assert_eq!(window.room(), 4);
        window.advance(4);
        assert!(!window.deliver(1), "of the forgiven");
        assert_eq!(window.room(), 0);
        assert!(!window.deliver(4));
        assert!(window.deliver(4));
        assert_eq!(window.room(), 1);
    }

    #[test]
    fn window_without_subscribers_never_fills() {
        let mut window = Window::new(2, 0);
        window.advance(2);
        assert_eq!(window.room(), 2);
        assert_eq!(window.sent, 2);
    }

    proptest! {
        #[test]
        fn under_way_never_exceeds_the_size(
            size in 1_u32..9,
            picks in prop::collection::vec(0_u64..9, 0..200),
        ) {
            let mut window = Window::new(size, 1);
            let mut delivered = std::collections::BTreeSet::new();
            for pick in picks {
                window.advance(window.room());
                let sequence = (window.sent.saturating_sub(u64::from(size)) + pick)
                    .min(window.sent - 1);
                window.deliver(sequence);
                delivered.insert(sequence);
                let base = (0..).find(|one| !delivered.contains(one)).unwrap();
                assert_eq!(window.room(), u64::from(size) - (window.sent - base));
            }
        }
    }
}
