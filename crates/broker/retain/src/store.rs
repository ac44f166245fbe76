//! The retained messages of one tenant, for one writer or many readers.
//!
//! Invariants: a message with a deadline is in `due` under its deadline and serial, and nothing
//! else is; `bytes` is the sum over the messages, and `alone` that of what is charged with the store,
//! which is all but large payloads; no topic is both in `messages` and `stale`.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use foldhash::quality::RandomState;
use hashbrown::HashSet;
use ratatosk_clock::Instant;
use ratatosk_contract::{
    StoredMessage,
    retain::{Cursor, Page, RetainLimits},
};
use ratatosk_telemetry::memory::Hold;
use ratatosk_topic::{FilterScan, Scan, TopicKey, TopicLimits, TopicName};

use crate::{RetainStats, schema::message::TopicHash};

/// How many topics one page looks at, matching or not: as long may a writer have to wait.
const VISITS_MAX: usize = 4_096;

/// The messages of one tenant by the key of their topic.
#[derive(Debug)]
pub(crate) struct Store {
    messages: BTreeMap<Box<[u8]>, Held>,
    /// What expires, soonest first. The serial keeps messages of one deadline apart.
    due: BTreeMap<(Instant, u64), Arc<StoredMessage>>,
    serial: u64,
    /// What expired before the process began: kept durably, and to be removed there.
    stale: HashSet<TopicHash, RandomState>,
    /// An operator ordered that what was there ends.
    ending: Option<Ending>,
    limits: RetainLimits,
    stats: RetainStats,
    alone: usize,
    hold: Hold,
}

/// How far an order to end is carried out.
#[derive(Debug)]
struct Ending {
    /// What was stored later is not meant.
    serial: u64,
    /// The key that was looked at last.
    after: Box<[u8]>,
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

    /// What counts for the limit of bytes.
    fn bytes(&self, key: &[u8]) -> u64 {
        (key.len() + self.message.size_bytes()) as u64
    }

    /// What is charged with the store.
    fn alone_bytes(&self, key: &[u8]) -> usize {
        let payload = self.message.payload.len();
        let apart = if is_apart(payload) { payload } else { 0 };
        ENTRY_BYTES + key.len() + self.message.size_bytes() - apart
    }
}

/// What was kept durably, as it was read, each topic once: what a store takes in as a whole.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    messages: Vec<(Box<[u8]>, Held)>,
    due: Vec<((Instant, u64), Arc<StoredMessage>)>,
    stale: Vec<TopicHash>,
    bytes: u64,
    alone: usize,
}

impl Kept {
    /// Adds the message of a topic.
    pub(crate) fn push(&mut self, key: TopicKey, message: Arc<StoredMessage>) {
        let held = Held { message, serial: self.messages.len() as u64 + 1 };
        let key = key.into_bytes().into_boxed_slice();
        self.bytes += held.bytes(&key);
        self.alone += held.alone_bytes(&key);
        if let Some(due_key) = held.due_key() {
            self.due.push((due_key, Arc::clone(&held.message)));
        }
        self.messages.push((key, held));
    }

    /// Adds a topic whose message has expired.
    pub(crate) fn push_stale(&mut self, topic: TopicHash) {
        self.stale.push(topic);
    }
}

impl Store {
    pub(crate) fn new(limits: RetainLimits, hold: Hold) -> Self {
        Store {
            messages: BTreeMap::new(),
            due: BTreeMap::new(),
            serial: 0,
            stale: HashSet::default(),
            ending: None,
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

    /// Whether it has anything that must not be forgotten.
    pub(crate) fn is_used(&self) -> bool {
        !self.messages.is_empty() || !self.stale.is_empty()
    }

    /// Takes in what was kept durably. Counts none of it as stored, and asks for no limit: what is
    /// there stays.
    ///
    /// # Panics
    /// If there is something already: it would be newer.
    pub(crate) fn restore(&mut self, kept: Kept) {
        assert!(!self.is_used(), "what was kept comes before what is stored");
        self.serial = kept.messages.len() as u64;
        self.messages = kept.messages.into_iter().collect();
        self.due = kept.due.into_iter().collect();
        self.stale = kept.stale.into_iter().collect();
        self.stats.bytes = kept.bytes;
        self.alone = kept.alone + self.stale.len() * STALE_BYTES;
        self.hold.resize(self.alone);
    }

    /// The topic is not what is to be removed durably any more.
    pub(crate) fn freshen(&mut self, topic: TopicHash) {
        if self.stale.remove(&topic) {
            self.alone -= STALE_BYTES;
            self.hold.resize(self.alone);
        }
    }

    /// Counts a message that is not kept.
    pub(crate) fn refuse(&mut self) {
        self.stats.refused += 1;
    }

    /// Makes `message` the one of the topic, whatever its QoS [MQTT3-3.3.1-7] and however long its
    /// publisher stays [MQTT3-3.1.2-7]; or says no, leaves all as it was and counts the refusal.
    pub(crate) fn put(&mut self, key: TopicKey, message: Arc<StoredMessage>) -> bool {
        let held = Held { message, serial: self.serial + 1 };
        let topics = self.messages.len() as u64;
        let before = self.messages.get_mut(key.as_bytes());
        let bytes_before = before.as_ref().map_or(0, |before| before.bytes(key.as_bytes()));
        let bytes_after = self.stats.bytes - bytes_before + held.bytes(key.as_bytes());
        let has_room = before.is_some() || topics < self.limits.topics_max;
        if !has_room || bytes_after > self.limits.bytes_max {
            self.refuse();
            return false;
        }
        self.serial += 1;
        self.alone += held.alone_bytes(key.as_bytes());
        if let Some(due_key) = held.due_key() {
            self.due.insert(due_key, Arc::clone(&held.message));
        }
        match before {
            Some(place) => {
                let old = std::mem::replace(place, held);
                self.alone -= old.alone_bytes(key.as_bytes());
                old.due_key().map(|due_key| self.due.remove(&due_key));
            }
            None => {
                self.messages.insert(key.into_bytes().into_boxed_slice(), held);
            }
        }
        self.stats.bytes = bytes_after;
        self.stats.stored += 1;
        self.hold.resize(self.alone);
        true
    }

    /// Leaves the topic without a message, and tells whether it had one. [MQTT-3.3.1-6]
    pub(crate) fn clear(&mut self, key: &TopicKey) -> bool {
        let is_cleared = self.take(key.as_bytes());
        self.stats.cleared += u64::from(is_cleared);
        is_cleared
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
        let Some(ending) = self.ending.take() else { return 0 };
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
        for key in &keys {
            if let Some(held) = self.messages.get(key) {
                each(&held.message);
            }
            self.take(key);
        }
        self.stats.expired += keys.len() as u64;
        keys.len()
    }

    /// Whether there is something to collect.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let is_expired = self.due.first_key_value().is_some_and(|(key, _)| key.0 <= now);
        is_expired || !self.stale.is_empty()
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
        self.stats.bytes -= held.bytes(key);
        self.alone -= held.alone_bytes(key);
        self.hold.resize(self.alone);
        if let Some(due_key) = held.due_key() {
            self.due.remove(&due_key);
        }
        true
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let sum: u64 = self.messages.iter().map(|(key, held)| held.bytes(key)).sum();
        assert_eq!(self.stats.bytes, sum);
        let alone: usize = self.messages.iter().map(|(key, held)| held.alone_bytes(key)).sum();
        let alone = alone + self.stale.len() * STALE_BYTES;
        assert_eq!((self.alone, self.hold.bytes()), (alone, alone));
        let due = self.messages.values().filter_map(Held::due_key).collect::<Vec<_>>();
        assert_eq!(due.len(), self.due.len());
        assert!(due.iter().all(|key| self.due.contains_key(key)));
        for (key, held) in &self.messages {
            assert_eq!(topic_key(&held.message.topic).unwrap().as_bytes(), &**key);
            assert!(!self.stale.contains(&TopicHash::of(&held.message.topic)));
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
/// What a topic takes whose message expired before the process began, in a table that is not full.
const STALE_BYTES: usize = 2 * TopicHash::BYTES;

/// Whether a payload is charged by itself, because others may have it for longer.
pub(crate) fn is_apart(payload_len: usize) -> bool {
    payload_len >= StoredMessage::SHARED_FROM_BYTES
}
