//! What is over: messages that have expired, and those that an operator ordered to end.
//!
//! Where the store decides it removes them; where the log has to, they are given out and stay until it has.

use std::{ops::Bound, time::Duration};

use hashbrown::HashSet;
use ratatosk_clock::Instant;
use ratatosk_contract::StoredMessage;

use crate::{
    schema::{message::TopicHash, stamp::Stamp},
    store::{Held, Store, VISITS_MAX, topic_key},
};

/// What is to end: a topic, and which message of it.
pub(crate) type Over = (TopicHash, Option<Stamp>);

/// How far an order to end is carried out.
#[derive(Debug)]
pub(crate) struct Ending {
    /// What was stored later is not meant.
    serial: u64,
    /// The key that was looked at last.
    after: Box<[u8]>,
}

impl Held {
    fn over(&self) -> Over {
        (TopicHash::of(&self.message.topic), self.stamp)
    }
}

impl Store {
    /// Whether there is something to collect.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let is_expired = self.due.first_key_value().is_some_and(|(key, _)| key.0 <= now);
        is_expired || !self.stale.is_empty()
    }

    /// Gives out topics whose message expired before the process began, at most `count_max`.
    pub(crate) fn collect_stale(&mut self, count_max: usize) -> Vec<TopicHash> {
        let topics: Vec<_> = self.stale.iter().copied().take(count_max).collect();
        for topic in &topics {
            self.freshen(*topic);
        }
        if self.stale.is_empty() {
            self.stale = HashSet::default();
        }
        self.stats.expired += topics.len() as u64;
        topics
    }

    /// Removes messages that are expired, at most `count_max`, and shows each; returns how many.
    pub(crate) fn collect(
        &mut self,
        now: Instant,
        count_max: usize,
        mut each: impl FnMut(&StoredMessage),
    ) -> usize {
        let mut count = 0;
        while count < count_max {
            let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= now) else {
                break;
            };
            let message = first.remove();
            let key = topic_key(&message.topic);
            let is_taken = key.is_some_and(|key| self.take(key.as_bytes()));
            debug_assert!(is_taken, "what is due is there");
            each(&message);
            self.stats.expired += 1;
            count += 1;
        }
        count
    }

    /// Gives out messages that are expired, at most `count_max`, without removing them. They are looked at
    /// again `after` so long.
    pub(crate) fn due_now(&mut self, now: Instant, count_max: usize, after: Duration) -> Vec<Over> {
        let mut found = Vec::new();
        while found.len() < count_max {
            let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= now) else {
                break;
            };
            let ((_, serial), message) = first.remove_entry();
            if let Some(key) = topic_key(&message.topic)
                && let Some(held) = self.messages.get(key.as_bytes())
            {
                debug_assert_eq!(held.serial, serial, "what is due is there");
                found.push(held.over());
            }
            self.again.insert(serial, now + after);
            self.due.insert((now + after, serial), message);
        }
        found
    }

    /// Orders that all ends that is there; answers how many topics that are.
    pub(crate) fn order_end(&mut self) -> usize {
        self.ending = Some(Ending { serial: self.serial, after: Box::default() });
        self.messages.len()
    }

    /// Whether an order to end is not carried out yet.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Goes on with an order to end: removes at most `count_max` messages, looking at a bounded
    /// number, and shows each; returns how many.
    pub(crate) fn end_some(
        &mut self,
        count_max: usize,
        mut each: impl FnMut(&StoredMessage),
    ) -> usize {
        let keys = self.ending_next(count_max);
        for key in &keys {
            if let Some(held) = self.messages.get(key) {
                each(&held.message);
            }
            self.take(key);
        }
        self.stats.expired += keys.len() as u64;
        keys.len()
    }

    /// Goes on with an order to end where the log has to decide: gives out what is to end, as
    /// [`end_some`](Self::end_some) removes it, and the order's number.
    pub(crate) fn over_next(&mut self, count_max: usize) -> (Vec<Over>, u64) {
        let order = self.ending.as_ref().map_or(0, |ending| ending.serial);
        let keys = self.ending_next(count_max);
        (keys.iter().filter_map(|key| Some(self.messages.get(key)?.over())).collect(), order)
    }

    /// Some of what was given out may not have ended: an order begins again, with those that it meant.
    pub(crate) fn end_again(&mut self, order: u64) {
        let serial = self.ending.take().map_or(order, |ending| ending.serial.max(order));
        self.ending = Some(Ending { serial, after: Box::default() });
    }

    /// The next that an order to end means, at most `count_max`.
    fn ending_next(&mut self, count_max: usize) -> Vec<Box<[u8]>> {
        let Some(ending) = self.ending.take() else { return Vec::new() };
        let mut rest =
            self.messages.range::<[u8], _>((Bound::Excluded(&*ending.after), Bound::Unbounded));
        let (mut keys, mut after) = (Vec::new(), None);
        for (key, held) in rest.by_ref().take(VISITS_MAX) {
            after = Some(key);
            if held.serial <= ending.serial {
                keys.push(key.clone());
            }
            if keys.len() == count_max {
                break;
            }
        }
        if let Some(after) = after.filter(|_| rest.next().is_some()) {
            self.ending = Some(Ending { after: after.clone(), ..ending });
        }
        keys
    }
}
