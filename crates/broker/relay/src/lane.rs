//! Messages on their way to one host: bounded, in order, each answered once.
//!
//! Whoever sends appends to the last batch; a task takes batches to the host's stream, and settles them in
//! the order in which they went. A batch that has no answer within the bound is answered here, whether it
//! was sent or not; when the stream breaks, so is all that was sent.
//!
//! Invariants: `bytes` is the sum over all batches; what is in flight is at most `in_flight_max` bytes, or
//! one batch; every message with a reply is reported once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_contract::relay::{Dispatched, Fate, Outcome, Why};
use ratatosk_contract::{HostNumber, ReplyTo};
use ratatosk_engine::wire::Malformed;
use ratatosk_telemetry::memory::Share;
use tokio::sync::Notify;

use crate::letter;
use crate::metrics::{Reason, Tenant};
use crate::pause::Pause;

/// A batch is not added to when it has so many bytes.
const BATCH_BYTES: usize = 64 << 10;
/// Or so many messages.
const BATCH_MESSAGES: usize = 4_096;
/// Or is so old: its messages are late together.
const BATCH_SPAN: Duration = Duration::from_millis(20);
/// While the host has not answered what went before, what comes gathers for about so long.
const GATHER_SPAN: Duration = Duration::from_micros(500);
/// What is kept beside a message.
const ITEM_BYTES: usize = size_of::<Item>();

/// The bounds of a lane.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Bounds {
    /// Bytes that wait or are in flight.
    pub(crate) bytes_max: usize,
    /// Bytes that are in flight.
    pub(crate) in_flight_max: usize,
    /// Bytes of one message.
    pub(crate) message_max: usize,
    /// How long a message may be without an answer.
    pub(crate) patience: Duration,
}

/// See the module.
pub(crate) struct Lane {
    pub(crate) host: HostNumber,
    bounds: Bounds,
    queue: Mutex<Queue>,
    filled: Notify,
    /// A batch is whole, and another one waits behind it.
    crowded: Notify,
    stirred: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Batch>,
    in_flight: VecDeque<Sent>,
    bytes: usize,
    in_flight_bytes: usize,
    is_closed: bool,
}

/// Messages that go together.
struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
    first: Instant,
    last: Instant,
}

/// Messages that went together.
struct Sent {
    /// What was charged and counted for them.
    bytes: usize,
    count: usize,
    last: Instant,
    /// None when they were answered as late.
    items: Vec<Item>,
}

struct Item {
    tenant: Arc<Tenant>,
    bytes: usize,
    reply_to: Option<ReplyTo>,
}

/// What is to be told when the lock is not held any more.
pub(crate) type Reports = Vec<Dispatched>;

impl Lane {
    pub(crate) fn new(host: HostNumber, bounds: Bounds) -> Self {
        let (filled, crowded, stirred) = (Notify::new(), Notify::new(), Notify::new());
        Self { host, bounds, queue: Mutex::default(), filled, crowded, stirred }
    }

    /// Adds an encoded message. One that is longer than all room there is gets through alone.
    pub(crate) fn push(
        &self,
        now: Instant,
        tenant: &Arc<Tenant>,
        encoded: &[u8],
        reply_to: Option<ReplyTo>,
    ) -> Result<(), Why> {
        let bytes = encoded.len() + ITEM_BYTES;
        let mut queue = self.queue.lock();
        if queue.is_closed {
            tenant.dropped(Reason::Lost).increment();
            return Err(Why::Lost);
        }
        let is_full = queue.bytes > 0 && queue.bytes + bytes > self.bounds.bytes_max;
        if is_full || encoded.len() > self.bounds.message_max {
            tenant.dropped(Reason::Full).increment();
            return Err(Why::Full);
        }
        let was_idle = queue.bytes == 0;
        let was_empty = queue.waiting.is_empty();
        queue.bytes += bytes;
        let has_room = |batch: &&mut Batch| {
            batch.bytes.len() + encoded.len() <= BATCH_BYTES
                && batch.items.len() < BATCH_MESSAGES
                && now.since(batch.first) < BATCH_SPAN
        };
        let item = Item { tenant: Arc::clone(tenant), bytes, reply_to };
        match queue.waiting.back_mut().filter(has_room) {
            Some(batch) => {
                batch.bytes.extend_from_slice(encoded);
                batch.items.push(item);
                batch.last = now;
            }
            None => {
                let (bytes, items) = (encoded.to_vec(), vec![item]);
                queue.waiting.push_back(Batch { bytes, items, first: now, last: now });
            }
        }
        let is_crowded = queue.waiting.len() > 1;
        drop(queue);
        tenant.account.adjust(Share::Queues, 0, bytes);
        if was_empty {
            self.filled.notify_one();
        } else if is_crowded {
            self.crowded.notify_one();
        }
        if was_idle {
            self.stirred.notify_one();
        }
        Ok(())
    }

    /// What goes to the host next; it is in flight then. Waits until there is something, and room for it,
    /// and a moment for more of it while the host has something to answer: a message alone goes at once,
    /// and many go together, for a wake-up and a write costs more than a message. Cancel-safe.
    pub(crate) async fn next(&self, pause: &Pause) -> Bytes {
        loop {
            let filled = self.filled.notified();
            if self.is_to_gather() {
                tokio::select! {
                    () = pause.wait(GATHER_SPAN) => {}
                    () = self.crowded.notified() => {}
                }
            }
            if let Some(bytes) = self.take() {
                return bytes;
            }
            filled.await;
        }
    }

    /// Whether part of a batch waits, and something is in flight.
    fn is_to_gather(&self) -> bool {
        let queue = self.queue.lock();
        queue.waiting.len() == 1 && !queue.in_flight.is_empty()
    }

    fn take(&self) -> Option<Bytes> {
        let mut queue = self.queue.lock();
        let bytes_of = |batch: &Batch| batch.items.iter().map(|item| item.bytes).sum::<usize>();
        let bytes = bytes_of(queue.waiting.front()?);
        let is_crowded = queue.in_flight_bytes + bytes > self.bounds.in_flight_max;
        if is_crowded && !queue.in_flight.is_empty() {
            return None;
        }
        let Batch { bytes: data, items, last, .. } = queue.waiting.pop_front()?;
        queue.in_flight_bytes += bytes;
        queue.in_flight.push_back(Sent { bytes, count: items.len(), last, items });
        Some(data.into())
    }

    /// The host has answered the batch that went first.
    ///
    /// # Errors
    /// The answer makes no sense, or there was no question: the stream is of no use. Nothing is settled.
    pub(crate) fn settle(&self, receipt: &[u8], reports: &mut Reports) -> Result<(), Malformed> {
        let mut queue = self.queue.lock();
        let sent = queue.in_flight.front().ok_or(Malformed)?;
        let refused = letter::take_receipt(receipt, sent.count)?;
        let sent = queue.in_flight.pop_front().ok_or(Malformed)?;
        queue.in_flight_bytes -= sent.bytes;
        queue.bytes -= sent.bytes;
        let is_waited_for = !queue.waiting.is_empty();
        drop(queue);
        if is_waited_for {
            self.filled.notify_one();
        }
        let mut refused = refused.into_iter().peekable();
        release(&sent.items);
        for (at, item) in sent.items.iter().enumerate() {
            let fate = refused.next_if(|(refused, _)| *refused == at);
            let outcome = match fate.map(|(_, fate)| fate) {
                None | Some(Fate::Taken) => Outcome::Taken,
                Some(Fate::Gone) => Outcome::Gone,
                Some(Fate::Full) => Outcome::Dropped(Why::Full),
            };
            self.report(item, outcome, reports);
        }
        Ok(())
    }

    /// Answers what is late.
    pub(crate) fn expire(&self, now: Instant, reports: &mut Reports) {
        let is_late = |last: Instant| now.since(last) >= self.bounds.patience;
        let mut late = Vec::new();
        let mut queue = self.queue.lock();
        let queue = &mut *queue;
        // What was sent keeps its place, and its room, until it is answered or the stream breaks.
        for sent in queue.in_flight.iter_mut().take_while(|sent| is_late(sent.last)) {
            late.append(&mut sent.items);
        }
        while let Some(batch) = queue.waiting.pop_front_if(|batch| is_late(batch.last)) {
            let bytes: usize = batch.items.iter().map(|item| item.bytes).sum();
            queue.bytes -= bytes;
            late.extend(batch.items);
        }
        release(&late);
        late.iter().for_each(|item| self.report(item, Outcome::Dropped(Why::Late), reports));
    }

    /// The stream broke: nobody knows what became of what was sent.
    pub(crate) fn lose(&self, reports: &mut Reports) {
        let mut queue = self.queue.lock();
        let lost = std::mem::take(&mut queue.in_flight);
        queue.bytes -= std::mem::take(&mut queue.in_flight_bytes);
        drop(queue);
        self.filled.notify_one();
        for sent in lost {
            release(&sent.items);
            let lost = Outcome::Dropped(Why::Lost);
            sent.items.iter().for_each(|item| self.report(item, lost, reports));
        }
    }

    /// The host is gone: nothing waits for it any more, and nothing more is taken.
    pub(crate) fn close(&self, reports: &mut Reports) {
        self.lose(reports);
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        queue.bytes = 0;
        drop(queue);
        for batch in waiting {
            release(&batch.items);
            let lost = Outcome::Dropped(Why::Lost);
            batch.items.iter().for_each(|item| self.report(item, lost, reports));
        }
    }

    /// Bytes that wait or are in flight.
    pub(crate) fn bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    /// Waits until something is on its way. Cancel-safe.
    pub(crate) async fn stirred(&self) {
        loop {
            let stirred = self.stirred.notified();
            if self.bytes() > 0 {
                return;
            }
            stirred.await;
        }
    }

    fn report(&self, item: &Item, outcome: Outcome, reports: &mut Reports) {
        let reason = match (outcome, item.reply_to) {
            (Outcome::Taken, _) | (Outcome::Gone, Some(_)) => None,
            (Outcome::Gone, None) => Some(Reason::Gone),
            (Outcome::Dropped(Why::Full), _) => Some(Reason::Full),
            (Outcome::Dropped(Why::Late), _) => Some(Reason::Late),
            (Outcome::Dropped(Why::Lost), _) => Some(Reason::Lost),
        };
        if let Some(reason) = reason {
            item.tenant.dropped(reason).increment();
        }
        if let Some(reply_to) = item.reply_to {
            reports.push(Dispatched { reply_to, host: self.host, outcome });
        }
    }
}

/// Takes the charges back.
fn release(items: &[Item]) {
    items.iter().for_each(|item| item.tenant.account.adjust(Share::Queues, item.bytes, 0));
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.close(&mut Reports::new());
    }
}

#[cfg(test)]
#[path = "lane_test.rs"]
mod tests;
