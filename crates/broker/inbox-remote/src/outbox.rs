//! Words that wait for a stream, in their order.
//!
//! Whoever has something to say appends it to the last batch; the task of the stream takes batches. What is
//! waiting is charged to the process; who meets the bound is asked by whoever appends.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_telemetry::memory::{Account, Hold, Share};
use tokio::sync::Notify;

/// A batch is not added to when it has so many bytes.
const BATCH_BYTES: usize = 64 << 10;

/// See the module.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

struct Queue {
    batches: VecDeque<Vec<u8>>,
    bytes: usize,
    hold: Hold,
}

impl Outbox {
    pub(crate) fn new(account: &Account) -> Self {
        let hold = account.hold(Share::Queues, 0);
        let queue = Queue { batches: VecDeque::new(), bytes: 0, hold };
        Self { queue: Mutex::new(queue), filled: Notify::new() }
    }

    /// Appends what `write` writes, which is whole words.
    pub(crate) fn put(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut queue = self.queue.lock();
        let Queue { batches, bytes, hold } = &mut *queue;
        let was_empty = batches.is_empty();
        if batches.back().is_none_or(|batch| batch.len() >= BATCH_BYTES) {
            batches.push_back(Vec::new());
        }
        if let Some(batch) = batches.back_mut() {
            let before = batch.len();
            write(batch);
            *bytes += batch.len() - before;
        }
        hold.resize(*bytes);
        drop(queue);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// The next batch. Waits until there is one. Cancel-safe.
    pub(crate) async fn next(&self) -> Bytes {
        loop {
            let filled = self.filled.notified();
            if let Some(batch) = self.take_now() {
                return batch;
            }
            filled.await;
        }
    }

    pub(crate) fn take_now(&self) -> Option<Bytes> {
        let mut queue = self.queue.lock();
        let batch = queue.batches.pop_front()?;
        queue.bytes -= batch.len();
        let bytes = queue.bytes;
        queue.hold.resize(bytes);
        Some(batch.into())
    }

    /// Forgets what waits.
    pub(crate) fn clear(&self) {
        let mut queue = self.queue.lock();
        queue.batches.clear();
        queue.bytes = 0;
        queue.hold.resize(0);
    }

    /// How many bytes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.queue.lock().bytes
    }
}
