//! What a shard gives up while memory is short, in the documented order.
//!
//! Caches are emptied and not refilled; QoS 0 is not queued for a client that does not read; who
//! brought or holds back much is not read, and closed after five seconds; the acceptor refuses new
//! connections; and when all that is not enough, the connections that hold the most are ended.
//! Each of it is counted. Who sends little and takes what he gets notices nothing.
//!
//! Every tick looks at a bounded number of connections.

use std::{collections::VecDeque, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{Message, SessionRef};
use ratatosk_session::Farewell;
use ratatosk_telemetry::memory::{Account, Hold, Pressure, Share, post_changes};

use super::{
    READ_BYTES, Shard,
    connection::{Connection, Flow},
    mailbox::LANE_BYTES_MAX,
};

/// How long a connection is left unread when memory is short, before it is closed. MQTT-103
const STARVE_MAX: Duration = Duration::from_secs(5);
/// How many slots are looked at for the largest connections in one tick.
const LOOK_MAX: usize = 2048;
/// How many connections are read again in one tick.
const WOKEN_MAX: usize = 64;
/// How many connections are ended at once, and how long that may take.
const ENDED_MAX: usize = 64;
const END_SPAN_MAX: Duration = Duration::from_millis(20);
/// How long to wait for what an end gave back to be seen in the size of the process.
const END_INTERVAL: Duration = Duration::from_millis(300);
/// Who holds less is not worth ending.
const LARGE_BYTES_MIN: usize = 8 * 1024;

/// What a shard remembers of its shedding.
#[derive(Debug, Default)]
pub(super) struct Shed {
    /// Connections that are not read.
    starved: VecDeque<SessionRef>,
    /// The slot to look at next for large connections.
    cursor: usize,
    /// When connections were last ended.
    ended: Instant,
}

/// What receivers were given since they were last charged, which happens when they are written: one
/// message may be copied for thousands of them, and memory may be short before their turn comes.
#[derive(Debug)]
pub(super) struct Given {
    bytes: usize,
    hold: Hold,
}

/// So much is told at once.
const GIVEN_STEP_BYTES: usize = 64 * 1024;

impl Given {
    pub(super) fn new(account: &Account) -> Self {
        Given { bytes: 0, hold: account.hold(Share::Queues, 0) }
    }

    /// Takes note of a message that was copied for one more.
    #[inline]
    pub(super) fn note(&mut self, message: &Message<'_>) {
        let payload = if message.shared.is_some() { 0 } else { message.payload.len() };
        self.bytes += message.topic.len() + message.properties.len() + payload;
        if self.bytes > self.hold.bytes() + GIVEN_STEP_BYTES {
            self.hold.resize(self.bytes);
        }
    }

    /// Of `before` receivers only `left` are not charged yet.
    pub(super) fn settle(&mut self, before: usize, left: usize) {
        self.bytes = if left == 0 { 0 } else { self.bytes / before.max(1) * left.min(before) };
        if self.bytes < self.hold.bytes() {
            self.hold.resize(self.bytes);
        }
    }
}

/// How many bytes a connection brought of late: all of this second and half of what was before.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Intake {
    second: u32,
    bytes: u32,
}

impl Intake {
    /// Takes note of bytes that were read.
    #[inline]
    pub(super) fn note(&mut self, now: Instant, bytes: usize) {
        self.turn(now);
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    pub(super) fn recent(mut self, now: Instant) -> usize {
        self.turn(now);
        self.bytes as usize
    }

    #[inline]
    fn turn(&mut self, now: Instant) {
        // A number that wraps after a lifetime only lets one second count anew.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        let second = (now.as_nanos() >> 30) as u32;
        let passed = second.wrapping_sub(self.second);
        if passed > 0 {
            self.second = second;
            self.bytes = self.bytes.checked_shr(passed).unwrap_or(0);
        }
    }
}

/// What a connection may bring and hold back before it is left unread.
struct Patience {
    partial_bytes: usize,
    intake_bytes: usize,
}

impl Patience {
    fn at(pressure: Pressure) -> Option<Self> {
        match pressure {
            Pressure::None | Pressure::Caches | Pressure::Qos0 => None,
            Pressure::PauseReaders => {
                Some(Patience { partial_bytes: 16 * 1024, intake_bytes: 64 * 1024 })
            }
            Pressure::RefuseConnect => {
                Some(Patience { partial_bytes: 4 * 1024, intake_bytes: 16 * 1024 })
            }
        }
    }
}

/// How much may lie in a lane to a shard, by what must be shed.
pub(crate) fn lane_max(pressure: Pressure) -> usize {
    match pressure {
        Pressure::None => LANE_BYTES_MAX,
        _ => LANE_BYTES_MAX / 64,
    }
}

impl Shard {
    /// Whether memory is so short that this connection's bytes are left in the kernel. MQTT-103
    pub(super) fn is_starved(&mut self, session: SessionRef, connection: &mut Connection) -> bool {
        let Some(patience) = Patience::at(self.node.memory.pressure()) else { return false };
        // Who only has much to receive is read: what he confirms is what frees memory.
        let is_large = connection.partial.len() > patience.partial_bytes
            || connection.intake.recent(self.now) > patience.intake_bytes;
        if !is_large {
            return false;
        }
        connection.state = Flow::Starved;
        let deadline = self.now + STARVE_MAX;
        connection.deadline = Some(deadline);
        self.file_in_hands(session, connection, deadline);
        self.shed.starved.push_back(session);
        self.stats.shed_paused += 1;
        true
    }

    /// How much one read may bring: little while memory is short, so that thousands who all bring
    /// something do not bring more than is left before anybody looks again.
    #[inline]
    pub(super) fn read_max(&self) -> usize {
        match self.node.memory.pressure() {
            Pressure::None | Pressure::Caches => READ_BYTES,
            Pressure::Qos0 => 16 * 1024,
            Pressure::PauseReaders => 4 * 1024,
            Pressure::RefuseConnect => 2 * 1024,
        }
    }

    /// Whether a QoS 0 message is given up because its receiver does not read and memory is short.
    #[inline]
    pub(super) fn gives_up(
        memory: &ratatosk_telemetry::memory::Accountant,
        connection: &Connection,
        qos: Qos,
    ) -> bool {
        connection.is_write_blocked && qos == Qos::AtMostOnce && memory.pressure() >= Pressure::Qos0
    }

    /// How much may lie in a lane to another shard before publishers wait: what lies there is copied
    /// for each receiver at one go.
    pub(super) fn lane_max(&self) -> usize {
        lane_max(self.node.memory.pressure())
    }

    /// Frees memory while it is short; once a tick.
    pub(super) fn relieve(&mut self) {
        let pressure = self.node.memory.pressure();
        if pressure >= Pressure::Caches {
            for tenant in self.tenants.iter_mut().flatten() {
                self.stats.shed_caches += u64::from(tenant.cache.routes() > 0);
                tenant.cache.clear();
            }
        }
        if pressure < Pressure::PauseReaders {
            self.wake_starved();
        }
        if pressure >= Pressure::RefuseConnect {
            self.end_largest();
        }
    }

    fn wake_starved(&mut self) {
        let now = self.now;
        // All at once would bring the next shortage at once.
        for _ in 0..WOKEN_MAX {
            let Some(session) = self.shed.starved.pop_front() else { return };
            let Some(connection) = self.connection(session) else { continue };
            if connection.state == Flow::Starved {
                connection.read_on(now);
            }
        }
    }

    /// Ends the connections that hold most, as many as it takes, when nothing else helped.
    fn end_largest(&mut self) {
        let mut excess = usize::try_from(self.node.memory.excess().bytes()).unwrap_or(usize::MAX);
        excess /= self.node.mailboxes.len().max(1);
        if self.slots.is_empty() || excess == 0 || self.now.since(self.shed.ended) < END_INTERVAL {
            return;
        }
        let mut largest: Vec<(usize, SessionRef)> = Vec::new();
        let count = self.slots.len();
        for step in 0..count.min(LOOK_MAX) {
            let index = (self.shed.cursor + step) % count;
            let place = &self.slots[index];
            let Some(connection) = &place.connection else { continue };
            let weight = connection.weight_bytes();
            if weight < LARGE_BYTES_MIN {
                continue;
            }
            let Ok(slot) = u32::try_from(index) else { continue };
            largest.push((weight, self.reference(slot)));
        }
        self.shed.cursor = (self.shed.cursor + LOOK_MAX) % count;
        largest.sort_unstable_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        for (weight, session) in largest.into_iter().take(ENDED_MAX) {
            if excess == 0 || self.has_ended_enough() {
                break;
            }
            excess = excess.saturating_sub(weight);
            self.shed.ended = self.now;
            self.cut_off(session);
        }
    }

    /// Whether this tick took so long that others must have their turn.
    pub(super) fn has_ended_enough(&self) -> bool {
        self.node.clock.now().since(self.now) > END_SPAN_MAX
    }

    /// Ends a connection at once, without waiting for its farewell to be read.
    pub(super) fn cut_off(&mut self, session: SessionRef) {
        self.stats.shed_ended_largest += 1;
        self.end(session, Farewell::MemoryPressure);
        self.forget(session);
    }

    /// Tells the accountant what the connection holds now. What changes a little and often is added
    /// up by the thread: nothing that threads share is touched.
    #[inline]
    pub(super) fn recharge(connection: &mut Connection) {
        let held = connection.memory_bytes();
        connection.hold.resize(held);
    }

    /// Tells the accountant what the caches hold now, and all that was added up; once a tick.
    pub(super) fn charge_caches(&mut self) {
        for tenant in self.tenants.iter_mut().flatten() {
            tenant.cache_hold.resize(tenant.cache.memory_bytes());
        }
        post_changes();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ratatosk_contract::PublisherId;
    use ratatosk_telemetry::memory::Accountant;

    use super::*;

    /// MEM-001: a message that is copied for thousands is charged while it is, not when their turn
    /// to be written comes; a shared payload is none of it.
    #[test]
    fn what_receivers_were_given_is_charged_before_they_are_written() {
        let accountant = Accountant::default();
        let charged = || accountant.charged().bytes();
        let mut given = Given::new(&accountant.account("t"));
        let payload = Bytes::from(vec![0; 2_000]);
        let mut message = Message {
            topic: "t",
            payload: &payload,
            shared: None,
            properties: b"",
            qos: Qos::AtLeastOnce,
            retain: false,
            publisher: PublisherId(1),
            accepted: Instant::ZERO,
            deadline: None,
        };
        (0..10_000).for_each(|_| given.note(&message));
        assert!(charged() > 19_800_000, "{}", charged());
        given.settle(10_000, 2_500);
        assert!((4_800_000..5_100_000).contains(&charged()), "{}", charged());
        given.settle(2_500, 0);
        post_changes();
        assert_eq!(charged(), 0);
        message.shared = Some(&payload);
        (0..10_000).for_each(|_| given.note(&message));
        post_changes();
        assert_eq!(charged(), 0);
    }
}
