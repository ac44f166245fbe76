//! The retained messages of one tenant, for one writer or many readers.
//!
//! Where several nodes change them, this is what one of them shows: a topic has the newest change that this
//! node has asked for, while the log has not decided it, or what was applied ([`pending`](crate::pending)).
//!
//! Invariants: a message with a deadline is in `due` under its serial and its deadline, or a later time at
//! which it is looked at again, and nothing else is; `bytes` is the sum over the messages, and `alone` that
//! of what is charged with the store, which is all but large payloads; no topic is both in `messages` and
//! `stale`.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashSet};
use ratatosk_clock::Instant;
use ratatosk_contract::{
    StoredMessage,
    retain::{Cursor, Page, RetainLimits},
};
use ratatosk_telemetry::memory::Hold;
use ratatosk_topic::{FilterScan, Scan, TopicKey, TopicLimits, TopicName};

use crate::{
    RetainStats,
    over::Ending,
    pending::Pendings,
    schema::{message::TopicHash, stamp::Stamp},
};

/// How many topics one page looks at, matching or not: as long may a writer have to wait.
pub(crate) const VISITS_MAX: usize = 4_096;

/// The messages of one tenant by the key of their topic.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) messages: BTreeMap<Box<[u8]>, Held>,
    /// What expires, soonest first. The serial keeps messages of one deadline apart.
    pub(crate) due: BTreeMap<(Instant, u64), Arc<StoredMessage>>,
    /// By serial, when a message is looked at again whose end others have to decide.
    pub(crate) again: HashMap<u64, Instant, RandomState>,
    pub(crate) serial: u64,
    /// Topics whose change the log has not decided.
    pub(crate) pending: Pendings,
    /// What expired before the process began: kept durably, and to be removed there.
    pub(crate) stale: HashSet<TopicHash, RandomState>,
    /// An operator ordered that what was there ends.
    pub(crate) ending: Option<Ending>,
    limits: RetainLimits,
    pub(crate) stats: RetainStats,
    pub(crate) alone: usize,
    hold: Hold,
}

/// A message, as the store has it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) serial: u64,
    /// Which change it came by, where several nodes make them.
    pub(crate) stamp: Option<Stamp>,
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
    pub(crate) fn alone_bytes(&self, key: &[u8]) -> usize {
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
    pub(crate) fn push(
        &mut self,
        key: TopicKey,
        message: Arc<StoredMessage>,
        stamp: Option<Stamp>,
    ) {
        let held = Held { message, serial: self.messages.len() as u64 + 1, stamp };
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

    /// All but what is stale, one by one.
    pub(crate) fn into_messages(self) -> Vec<(Box<[u8]>, Held)> {
        self.messages
    }
}

impl Store {
    pub(crate) fn new(limits: RetainLimits, hold: Hold) -> Self {
        Store {
            messages: BTreeMap::new(),
            due: BTreeMap::new(),
            again: HashMap::default(),
            serial: 0,
            pending: Pendings::default(),
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
        !self.messages.is_empty() || !self.stale.is_empty() || !self.pending.is_empty()
    }

    /// Whether it never had anything.
    pub(crate) fn is_new(&self) -> bool {
        self.serial == 0 && !self.is_used()
    }

    /// Some messages behind a key, in order.
    pub(crate) fn behind(
        &self,
        key: &[u8],
        count_max: usize,
    ) -> Vec<(Box<[u8]>, Arc<StoredMessage>)> {
        let rest = self.messages.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded));
        let some = rest.take(count_max);
        some.map(|(key, held)| (key.clone(), Arc::clone(&held.message))).collect()
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
        let held = Held { message, serial: self.serial + 1, stamp: None };
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

    /// A message that has just come.
    pub(crate) fn fresh(&mut self, message: Arc<StoredMessage>, stamp: Option<Stamp>) -> Held {
        self.serial += 1;
        Held { message, serial: self.serial, stamp }
    }

    /// Whether a limit allows a message to be the one of a topic.
    pub(crate) fn has_room(&self, key: &[u8], message: &StoredMessage) -> bool {
        let before = self.messages.get(key);
        let bytes_before = before.map_or(0, |before| before.bytes(key));
        let bytes = self.stats.bytes - bytes_before + (key.len() + message.size_bytes()) as u64;
        let topics = self.messages.len() as u64;
        bytes <= self.limits.bytes_max && (before.is_some() || topics < self.limits.topics_max)
    }

    /// Makes a message the one of a topic, or none, whatever the limits, and counts nothing.
    pub(crate) fn show(&mut self, key: &[u8], held: Option<Held>) {
        let Some(held) = held else {
            self.take(key);
            return;
        };
        if self.messages.get(key).is_some_and(|before| before.serial == held.serial) {
            return;
        }
        self.stats.bytes += held.bytes(key);
        self.alone += held.alone_bytes(key);
        if let Some(due_key) = held.due_key() {
            self.due.insert(due_key, Arc::clone(&held.message));
        }
        match self.messages.get_mut(key) {
            Some(place) => {
                let old = std::mem::replace(place, held);
                self.gone(key, &old);
            }
            None => {
                self.messages.insert(key.into(), held);
            }
        }
        self.charge();
    }

    pub(crate) fn take(&mut self, key: &[u8]) -> bool {
        let Some(held) = self.messages.remove(key) else {
            return false;
        };
        self.gone(key, &held);
        self.charge();
        true
    }

    /// A message is not among them any more.
    fn gone(&mut self, key: &[u8], held: &Held) {
        self.stats.bytes -= held.bytes(key);
        self.alone -= held.alone_bytes(key);
        if let Some((deadline, serial)) = held.due_key() {
            let due = self.again.remove(&serial).unwrap_or(deadline);
            self.due.remove(&(due, serial));
        }
    }

    /// Charges what is kept by now.
    pub(crate) fn charge(&mut self) {
        self.hold.resize(self.alone);
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let sum: u64 = self.messages.iter().map(|(key, held)| held.bytes(key)).sum();
        assert_eq!(self.stats.bytes, sum);
        let alone: usize = self.messages.iter().map(|(key, held)| held.alone_bytes(key)).sum();
        let alone = alone + self.stale.len() * STALE_BYTES + self.check_pending();
        assert_eq!((self.alone, self.hold.bytes()), (alone, alone));
        let due = self.messages.values().filter_map(Held::due_key);
        let due = due.map(|(at, serial)| (*self.again.get(&serial).unwrap_or(&at), serial));
        let due = due.collect::<Vec<_>>();
        assert_eq!(due.len(), self.due.len());
        assert!(self.again.keys().all(|serial| due.iter().any(|key| key.1 == *serial)));
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
