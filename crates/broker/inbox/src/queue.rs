//! The queue of one session.
//!
//! QoS 1 and 2 messages have a sequence and a slot each, from `base` on without a gap; what was
//! confirmed out of order leaves an empty slot until all before it have gone. QoS 0 messages are
//! in a line of their own and remember behind which sequence they came.
//!
//! What is not durable yet is held back, and what follows it: a slot says so. `begun` is how far
//! exchanges have begun for sure. It is `sent`, but after a crash: then all that was queued may
//! have been sent, and is sent as a resend; only what surely was outlives its deadline.
//!
//! Invariants: `base + slots = next`; the first slot is not empty; `live` slots are not empty;
//! `begun ≤ sent < next`; what is handed out lies within [`PACKET_IDS`] of `base`, so that no two have one
//! packet identifier; places of QoS 0 rise and are below `next`.

mod restored;
mod shared;

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use hashbrown::HashMap;
use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    StoredMessage,
    inbox::{Entry, FetchBudget, QueueLimits, Sequence},
};
use smallvec::SmallVec;

use crate::schema::Position;

pub(crate) use shared::{Origin, Transfer};

/// Packet identifiers follow from sequences, so many sequences may be in flight at once.
const PACKET_IDS: u64 = 65_535;

/// A full queue is looked through for expired messages at most this often.
const PURGE_INTERVAL: Duration = Duration::from_millis(100);

/// A message for one session.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) message: Arc<StoredMessage>,
    /// At which it is to be delivered.
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) subscription_id: Option<u32>,
    /// Set if the message came to the session as a member of a group.
    pub(crate) origin: Option<Origin>,
}

/// What a fetch found besides the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) end: FetchEnd,
    pub(crate) expired: u64,
    pub(crate) qos0: u64,
    /// The sequences of those that had expired, rising.
    pub(crate) forgotten: SmallVec<[u64; 2]>,
}

/// Why a fetch ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum FetchEnd {
    /// The budget is used.
    Budget,
    /// Nothing more is there.
    Empty,
    /// More is there, but the packet identifiers are used up.
    Window,
}

/// What queueing a message dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Displaced {
    /// The message itself, or for QoS 0 the oldest in its place.
    pub(crate) is_overflow: bool,
    /// Whether the message itself is in the queue.
    pub(crate) is_queued: bool,
    /// Others that had expired.
    pub(crate) expired: u64,
    /// Their sequences, rising, as far as they had one.
    pub(crate) forgotten: SmallVec<[u64; 2]>,
}

/// The queue of one session.
#[derive(Debug)]
pub(crate) struct Queue {
    slots: VecDeque<Slot>,
    base: u64,
    live: usize,
    sent: u64,
    begun: u64,
    qos0: VecDeque<Qos0>,
    /// By sequence, for the few that came through a group.
    origins: Option<Box<HashMap<u64, Origin, foldhash::fast::RandomState>>>,
    /// No message that may still expire does so before.
    deadline_min: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    /// `None`: confirmed, while one before it is not.
    message: Option<Arc<StoredMessage>>,
    /// Zero, which no client may choose, for none.
    subscription_id: u32,
    is_qos2: bool,
    retain: bool,
    is_received: bool,
    /// Not durable yet.
    is_held: bool,
}

const _: () = assert!(size_of::<Slot>() <= 16, "a queue has thousands of them");

impl Slot {
    const EMPTY: Slot = Slot {
        message: None,
        subscription_id: 0,
        is_qos2: false,
        retain: false,
        is_received: false,
        is_held: false,
    };
}

#[derive(Debug)]
struct Qos0 {
    message: Arc<StoredMessage>,
    /// The last sequence when it came.
    place: u64,
    subscription_id: u32,
    retain: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            slots: VecDeque::new(),
            base: 1,
            live: 0,
            sent: 0,
            begun: 0,
            qos0: VecDeque::new(),
            origins: None,
            deadline_min: None,
        }
    }
}

impl Queue {
    /// QoS 1 and 2 messages that are not confirmed.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// QoS 0 messages.
    pub(crate) fn qos0_len(&self) -> usize {
        self.qos0.len()
    }

    /// Messages of QoS 1 and 2 that were not handed out, as far as that is asked.
    pub(crate) fn unsent(&self, count_max: usize) -> usize {
        let unsent = self.sequences().start.max(self.sent + 1)..self.next();
        let is_there = |sequence: &u64| self.slot(*sequence).is_some_and(|it| it.message.is_some());
        unsent.filter(is_there).take(count_max).count()
    }

    /// What its tables take, without the messages.
    pub(crate) fn memory_bytes(&self) -> usize {
        /// An entry of a table that is half full, with the name of its group.
        const ORIGIN_BYTES: usize = 2 * (size_of::<(u64, Origin)>() + 1);
        let origins = self.origins.as_ref().map_or(0, |origins| origins.len() * ORIGIN_BYTES);
        self.slots.capacity() * size_of::<Slot>()
            + self.qos0.capacity() * size_of::<Qos0>()
            + origins
    }

    /// The last sequence that was handed out.
    pub(crate) fn sent(&self) -> Sequence {
        Sequence(self.sent)
    }

    /// Queues a message, or drops it, or the oldest in its place, where the limits say so.
    /// [MQTT3-3.1.2-5]
    pub(crate) fn push(&mut self, item: Item, limits: &QueueLimits) -> Displaced {
        let mut displaced = Displaced { is_queued: true, ..Displaced::default() };
        let is_qos0 = item.qos == Qos::AtMostOnce;
        let count_max = usize::try_from(limits.messages_max).unwrap_or(usize::MAX);
        let count = |queue: &Queue| if is_qos0 { queue.qos0.len() } else { queue.live };
        if count(self) >= count_max {
            displaced.expired = self.purge(item.message.accepted, &mut displaced.forgotten);
        }
        if count(self) >= count_max {
            displaced.is_overflow = true;
            displaced.is_queued = is_qos0 && limits.qos0_drop_oldest && count_max > 0;
            if !displaced.is_queued {
                return displaced;
            }
            self.qos0.pop_front();
        }
        if let Some(deadline) = item.message.deadline {
            self.deadline_min = Some(self.deadline_min.map_or(deadline, |min| min.min(deadline)));
        }
        if is_qos0 {
            self.push_qos0(item);
        } else {
            self.push_slot(item);
        }
        displaced
    }

    /// Hands out what follows `after`, as far as the budget goes.
    pub(crate) fn fetch(
        &mut self,
        after: Sequence,
        budget: &FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Fetched {
        let mut room = Room::of(budget);
        let (end, forgotten) = (FetchEnd::Empty, SmallVec::new());
        let mut fetched = Fetched { end, expired: 0, qos0: 0, forgotten };
        let window_end = self.base.saturating_add(PACKET_IDS);
        let mut next = after.0.saturating_add(1).max(self.base);
        loop {
            if !self.fetch_qos0(next, &mut room, &mut fetched, entries) {
                fetched.end = FetchEnd::Budget;
                break;
            }
            if next >= self.next() {
                break;
            }
            if next >= window_end {
                fetched.end = FetchEnd::Window;
                break;
            }
            let is_begun = next <= self.begun;
            let Some(slot) = self.slot(next) else {
                next += 1;
                continue;
            };
            let Some(message) = &slot.message else {
                next += 1;
                continue;
            };
            if slot.is_held {
                break;
            }
            // [MQTT-3.3.2-5] But an exchange that has begun is not broken off. MQTT-096
            if !is_begun && message.as_message().is_expired(budget.now) {
                self.empty_slot(next);
                fetched.expired += 1;
                fetched.forgotten.push(next);
                next += 1;
                continue;
            }
            if !room.take(message) {
                fetched.end = FetchEnd::Budget;
                break;
            }
            entries.push(Entry {
                sequence: Sequence(next),
                qos: if slot.is_qos2 { Qos::ExactlyOnce } else { Qos::AtLeastOnce },
                retain: slot.retain,
                is_received: slot.is_received,
                subscription_id: given(slot.subscription_id),
                message: Arc::clone(message),
            });
            self.begun = self.begun.max(next);
            self.sent = self.sent.max(next);
            next += 1;
        }
        self.trim();
        fetched
    }

    /// Forgets a message; false if it is not there.
    pub(crate) fn commit(&mut self, sequence: Sequence) -> bool {
        let is_there = self.slot(sequence.0).is_some_and(|slot| slot.message.is_some());
        if is_there {
            self.empty_slot(sequence.0);
            self.trim();
        }
        is_there
    }

    /// Where the window of packet identifiers begins.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Notes that only a PUBREL is owed; false if that cannot be. MQTT-092
    pub(crate) fn receive(&mut self, sequence: Sequence) -> bool {
        let is_sent = sequence.0 <= self.sent;
        let Some(slot) = self.slot_mut(sequence.0) else { return false };
        let is_exchange = is_sent && slot.is_qos2 && slot.message.is_some();
        slot.is_received |= is_exchange;
        is_exchange
    }

    /// Holds the entry that was queued last back until it is [released](Self::release).
    pub(crate) fn hold_last(&mut self) -> u64 {
        if let Some(slot) = self.slots.back_mut() {
            slot.is_held = true;
        }
        self.next() - 1
    }

    /// An entry is durable; false if it is gone.
    pub(crate) fn release(&mut self, sequence: u64) -> bool {
        let Some(slot) = self.slot_mut(sequence) else { return false };
        slot.is_held = false;
        slot.message.is_some()
    }

    /// How far it is.
    pub(crate) fn position(&self) -> Position {
        Position { begun: self.begun, sent: self.sent, last: self.next() - 1 }
    }

    /// Where the entries are.
    pub(crate) fn sequences(&self) -> Range<u64> {
        self.base..self.next()
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let live = self.slots.iter().filter(|slot| slot.message.is_some()).count();
        assert_eq!(live, self.live);
        assert!(self.slots.front().is_none_or(|slot| slot.message.is_some()), "trimmed");
        assert!(self.sent < self.next(), "{} < {}", self.sent, self.next());
        assert!(self.begun <= self.sent, "{} ≤ {}", self.begun, self.sent);
        assert!(self.sent < self.base + PACKET_IDS, "packet identifiers are unique");
        assert!(self.qos0.iter().is_sorted_by_key(|entry| entry.place));
        assert!(self.qos0.back().is_none_or(|entry| entry.place < self.next()));
        for sequence in self.origins.iter().flat_map(|origins| origins.keys()) {
            assert!(self.slot(*sequence).is_some_and(|slot| slot.message.is_some()));
        }
    }

    /// The sequence of the next message.
    fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    fn push_qos0(&mut self, item: Item) {
        self.qos0.push_back(Qos0 {
            message: item.message,
            place: self.next() - 1,
            subscription_id: item.subscription_id.unwrap_or(0),
            retain: item.retain,
        });
    }

    fn push_slot(&mut self, item: Item) {
        if let Some(origin) = item.origin {
            let sequence = self.next();
            self.origins.get_or_insert_default().insert(sequence, origin);
        }
        self.slots.push_back(Slot {
            message: Some(item.message),
            subscription_id: item.subscription_id.unwrap_or(0),
            is_qos2: item.qos == Qos::ExactlyOnce,
            retain: item.retain,
            is_received: false,
            is_held: false,
        });
        self.live += 1;
    }

    /// Hands out the QoS 0 messages that came before `next`; false if the budget is used first.
    fn fetch_qos0(
        &mut self,
        next: u64,
        room: &mut Room,
        fetched: &mut Fetched,
        entries: &mut Vec<Entry>,
    ) -> bool {
        while let Some(entry) = self.qos0.front().filter(|entry| entry.place < next) {
            let is_expired = entry.message.as_message().is_expired(room.now);
            if !is_expired && !room.take(&entry.message) {
                return false;
            }
            let Some(entry) = self.qos0.pop_front() else { break };
            if is_expired {
                fetched.expired += 1;
                continue;
            }
            fetched.qos0 += 1;
            entries.push(Entry {
                sequence: Sequence(entry.place),
                qos: Qos::AtMostOnce,
                retain: entry.retain,
                is_received: false,
                subscription_id: given(entry.subscription_id),
                message: entry.message,
            });
        }
        if self.qos0.is_empty() {
            self.qos0.shrink_to(0);
        }
        true
    }

    /// Drops what expired before it was sent; returns how many. Looks only if there may be some.
    fn purge(&mut self, now: Instant, forgotten: &mut SmallVec<[u64; 2]>) -> u64 {
        if self.deadline_min.is_none_or(|deadline| deadline > now) {
            return 0;
        }
        let (mut count, mut deadline_min) = (0, None::<Instant>);
        let mut is_over = |message: &StoredMessage| match message.deadline {
            Some(deadline) if deadline <= now => true,
            Some(deadline) => {
                deadline_min = Some(deadline_min.map_or(deadline, |min| min.min(deadline)));
                false
            }
            None => false,
        };
        for sequence in self.base.max(self.begun + 1)..self.next() {
            let message = self.slot(sequence).and_then(|slot| slot.message.as_deref());
            if message.is_some_and(&mut is_over) {
                self.empty_slot(sequence);
                forgotten.push(sequence);
                count += 1;
            }
        }
        let before = self.qos0.len();
        self.qos0.retain(|entry| !is_over(&entry.message));
        count += (before - self.qos0.len()) as u64;
        self.deadline_min = deadline_min.map(|deadline| deadline.max(now + PURGE_INTERVAL));
        self.trim();
        count
    }

    fn slot(&self, sequence: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(sequence.checked_sub(self.base)?).ok()?)
    }

    fn slot_mut(&mut self, sequence: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(sequence.checked_sub(self.base)?).ok()?)
    }

    /// Empties a slot, which [`Queue::trim`] then may remove.
    fn empty_slot(&mut self, sequence: u64) -> Option<Arc<StoredMessage>> {
        let message = self.slot_mut(sequence)?.message.take()?;
        self.live -= 1;
        if let Some(origins) = &mut self.origins {
            origins.remove(&sequence);
            if origins.is_empty() {
                self.origins = None;
            }
        }
        Some(message)
    }

    /// Removes empty slots from the front, and gives memory back when nothing is left.
    fn trim(&mut self) {
        while self.slots.pop_front_if(|slot| slot.message.is_none()).is_some() {
            self.base += 1;
        }
        /// A queue that works keeps this much; one that was long gives its memory back.
        const KEPT: usize = 64;
        if self.slots.is_empty() && self.slots.capacity() > KEPT {
            self.slots.shrink_to(KEPT);
        }
    }
}

/// What a fetch may still hand out.
struct Room {
    now: Instant,
    messages: usize,
    bytes: usize,
    is_untouched: bool,
}

impl Room {
    fn of(budget: &FetchBudget) -> Self {
        let (messages, bytes) = (budget.messages_max, budget.bytes_max);
        Room { now: budget.now, messages, bytes, is_untouched: true }
    }

    /// Whether there is room for the message, which it then takes; the first may be too large.
    fn take(&mut self, message: &StoredMessage) -> bool {
        let size = message.as_message().size_bytes();
        let has_room = self.messages > 0 && (self.is_untouched || size <= self.bytes);
        if has_room {
            self.messages -= 1;
            self.bytes = self.bytes.saturating_sub(size);
            self.is_untouched = false;
        }
        has_room
    }
}

fn given(subscription_id: u32) -> Option<u32> {
    (subscription_id != 0).then_some(subscription_id)
}
