//! The retained messages of one tenant, for one writer or many readers.
//!
//! Invariants: a message with a deadline is in `due` under its deadline and serial, and nothing
//! else is; `bytes` is the sum over the messages, and `alone` that of what is charged with the store,
//! which is all but large payloads.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use ratatosk_clock::Instant;
use ratatosk_contract::{
    StoredMessage,
    retain::{Cursor, Page, RetainLimits, StoreOutcome},
};
use ratatosk_telemetry::memory::Hold;
use ratatosk_topic::{FilterScan, Scan, TopicKey, TopicLimits, TopicName};

use crate::RetainStats;

/// How many topics one page looks at, matching or not: as long may a writer have to wait.
const VISITS_MAX: usize = 4_096;

/// The messages of one tenant by the key of their topic.
#[derive(Debug)]
pub(crate) struct Store {
    messages: BTreeMap<Box<[u8]>, Held>,
    /// What expires, soonest first. The serial keeps messages of one deadline apart.
    due: BTreeMap<(Instant, u64), Arc<StoredMessage>>,
    serial: u64,
    limits: RetainLimits,
    stats: RetainStats,
    alone: usize,
    hold: Hold,
}

#[derive(Debug)]
struct Held {
    message: Arc<StoredMessage>,
    serial: u64,
}

impl Held {
    /// Its place among what expires.
    fn due_key(&self) -> Option<(Instant, u64)> {
        Some((self.message.deadline?, self.serial))
    }
}

impl Store {
    pub(crate) fn new(limits: RetainLimits, hold: Hold) -> Self {
        Store {
            messages: BTreeMap::new(),
            due: BTreeMap::new(),
            serial: 0,
            limits,
            stats: RetainStats { tenants: 1, ..RetainStats::default() },
            alone: 0,
            hold,
        }
    }

    pub(crate) fn set_limits(&mut self, limits: RetainLimits) {
        self.limits = limits;
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn stats(&self) -> RetainStats {
        RetainStats { topics: self.messages.len(), ..self.stats }
    }

    /// Makes `message` the one of the topic, whatever its QoS [MQTT3-3.3.1-7] and however long its
    /// publisher stays [MQTT3-3.1.2-7], or leaves all as it was and counts the refusal.
    pub(crate) fn put(&mut self, key: TopicKey, message: Arc<StoredMessage>) -> StoreOutcome {
        let (bytes, topics) = (held_bytes(key.as_bytes(), &message), self.messages.len() as u64);
        let before = self.messages.get_mut(key.as_bytes());
        let bytes_before =
            before.as_ref().map_or(0, |held| held_bytes(key.as_bytes(), &held.message));
        let bytes_after = self.stats.bytes - bytes_before + bytes;
        let has_room = before.is_some() || topics < self.limits.topics_max;
        if !has_room || bytes_after > self.limits.bytes_max {
            self.stats.refused += 1;
            return StoreOutcome::Refused;
        }
        self.serial += 1;
        self.alone += alone_bytes(key.as_bytes(), &message);
        let held = Held { message, serial: self.serial };
        if let Some(due_key) = held.due_key() {
            self.due.insert(due_key, Arc::clone(&held.message));
        }
        match before {
            Some(place) => {
                let old = std::mem::replace(place, held);
                self.alone -= alone_bytes(key.as_bytes(), &old.message);
                old.due_key().map(|due_key| self.due.remove(&due_key));
            }
            None => {
                self.messages.insert(key.into_bytes().into_boxed_slice(), held);
            }
        }
        self.stats.bytes = bytes_after;
        self.stats.stored += 1;
        self.hold.resize(self.alone);
        StoreOutcome::Stored
    }

    /// Leaves the topic without a message. [MQTT-3.3.1-6]
    pub(crate) fn clear(&mut self, key: &TopicKey) -> StoreOutcome {
        self.stats.cleared += u64::from(self.take(key.as_bytes()));
        StoreOutcome::Cleared
    }

    /// Removes messages that are expired, at most `count_max`; returns how many.
    pub(crate) fn collect(&mut self, now: Instant, count_max: usize) -> usize {
        let mut count = 0;
        while count < count_max {
            let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= now) else {
                break;
            };
            let message = first.remove();
            let key = topic_key(&message.topic);
            let is_taken = key.is_some_and(|key| self.take(key.as_bytes()));
            debug_assert!(is_taken, "what is due is there");
            self.stats.expired += 1;
            count += 1;
        }
        count
    }

    /// When the next message expires.
    pub(crate) fn due_next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|(key, _)| key.0)
    }

    /// Reads on from `from` until the page is full; returns how far it came.
    pub(crate) fn scan(
        &self,
        now: Instant,
        filter: &FilterScan,
        from: Bound<&[u8]>,
        page: &mut Page,
    ) -> Cursor {
        let mut room = Room::of(page);
        let mut range = self.messages.range::<[u8], _>((from, Bound::Unbounded));
        for visit in 1..=VISITS_MAX {
            let Some((key, held)) = range.next() else {
                return Cursor::End;
            };
            match filter.step(key) {
                Scan::Match if !held.message.as_message().is_expired(now) => {
                    room.take(&held.message);
                    page.messages.push(Arc::clone(&held.message));
                }
                Scan::Match => {}
                Scan::SkipTo(bound) => {
                    // Often the next topic is the one, and to look at it costs less than to seek.
                    let next = range.clone().next();
                    if next.is_some_and(|(next, _)| **next < *bound.as_bytes()) {
                        let from = Bound::Included(bound.as_bytes());
                        range = self.messages.range::<[u8], _>((from, Bound::Unbounded));
                    }
                }
                Scan::Done => return Cursor::End,
            }
            if room.is_used() || visit == VISITS_MAX {
                return Cursor::After(key.clone());
            }
        }
        unreachable!("the last visit returns")
    }

    fn take(&mut self, key: &[u8]) -> bool {
        let Some(held) = self.messages.remove(key) else {
            return false;
        };
        self.stats.bytes -= held_bytes(key, &held.message);
        self.alone -= alone_bytes(key, &held.message);
        self.hold.resize(self.alone);
        if let Some(due_key) = held.due_key() {
            self.due.remove(&due_key);
        }
        true
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let sum: u64 = self.messages.iter().map(|(key, held)| held_bytes(key, &held.message)).sum();
        assert_eq!(self.stats.bytes, sum);
        let alone = self.messages.iter().map(|(key, held)| alone_bytes(key, &held.message)).sum();
        assert_eq!((self.alone, self.hold.bytes()), (alone, alone));
        let due = self.messages.values().filter_map(Held::due_key).collect::<Vec<_>>();
        assert_eq!(due.len(), self.due.len());
        assert!(due.iter().all(|key| self.due.contains_key(key)));
        for (key, held) in &self.messages {
            assert_eq!(topic_key(&held.message.topic).unwrap().as_bytes(), &**key);
        }
    }
}

/// The key of a topic that was checked when it came in; `None` if it was not a topic after all.
pub(crate) fn topic_key(topic: &str) -> Option<TopicKey> {
    TopicName::parse(topic, &TopicLimits::PROTOCOL).ok().map(TopicKey::encode)
}

/// What a page still takes.
struct Room {
    messages: usize,
    bytes: usize,
}

impl Room {
    fn of(page: &Page) -> Self {
        let used = page.messages.iter().map(|message| message.size_bytes()).sum();
        Room {
            messages: page.messages_max.saturating_sub(page.messages.len()).max(1),
            bytes: page.bytes_max.saturating_sub(used).max(1),
        }
    }

    fn take(&mut self, message: &StoredMessage) {
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(message.size_bytes());
    }

    fn is_used(&self) -> bool {
        self.messages == 0 || self.bytes == 0
    }
}

/// What the tables take for a message besides its key: a node of the tree is two thirds full.
const ENTRY_BYTES: usize = 64;

/// Whether a payload is charged by itself, because others may have it for longer.
pub(crate) fn is_apart(payload_len: usize) -> bool {
    payload_len >= StoredMessage::SHARED_FROM_BYTES
}

/// What of a message is charged with the store.
fn alone_bytes(key: &[u8], message: &StoredMessage) -> usize {
    let apart = if is_apart(message.payload.len()) { message.payload.len() } else { 0 };
    ENTRY_BYTES + key.len() + message.size_bytes() - apart
}

fn held_bytes(key: &[u8], message: &StoredMessage) -> u64 {
    (key.len() + message.size_bytes()) as u64
}
