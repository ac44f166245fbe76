//! What waits to be sent to a store: bounded, and the word that this store lives always first.
//!
//! Two lanes lead to each store, each a stream of its own: data of ranges in one, all else in the other.
//! So a snapshot holds up nobody, and who does not read costs a bounded number of bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_store::snapshot::sender::Parcel;
use ratatosk_store::transport::Packet;
use tokio::sync::Notify;

use crate::metrics::LaneMetrics;
use crate::packet;
use ratatosk_rpc::frames::FRAME_BYTES;

/// Which way a packet takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// What stores say to each other.
    Words,
    /// The data of ranges.
    Data,
}

impl Lane {
    pub(crate) const ALL: [Self; 2] = [Self::Words, Self::Data];

    /// The lane of a packet.
    pub(crate) const fn of(packet: &Packet) -> Self {
        match packet {
            Packet::Parcel(Parcel::Piece { .. }) => Self::Data,
            _ => Self::Words,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Data => "data",
        }
    }
}

/// What waits for one lane.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    bytes_max: usize,
    pub(crate) metrics: LaneMetrics,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The last word that this store lives.
    beat: Option<Packet>,
    packets: VecDeque<(usize, Packet)>,
    bytes: usize,
}

impl Queue {
    /// Takes so many bytes of packets.
    pub(crate) fn new(bytes_max: usize, metrics: LaneMetrics) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), filled: Notify::new(), bytes_max, metrics })
    }

    /// Adds packets; those that do not fit are lost.
    pub(crate) fn push(&self, packets: impl IntoIterator<Item = Packet>) {
        let mut lost = 0;
        let mut waiting = self.waiting.lock();
        for packet in packets {
            if matches!(packet, Packet::Beat(_)) {
                // One that was not sent yet says no more than this one.
                waiting.beat = Some(packet);
                continue;
            }
            let weight = packet::weight(&packet);
            // One that is longer than all room there is has to get through at some time.
            if waiting.bytes > 0 && waiting.bytes + weight > self.bytes_max {
                lost += 1;
                continue;
            }
            waiting.bytes += weight;
            waiting.packets.push_back((weight, packet));
        }
        self.metrics.waiting.set(i64::try_from(waiting.bytes).unwrap_or(i64::MAX));
        drop(waiting);
        if lost > 0 {
            self.metrics.full.add(lost);
        }
        self.filled.notify_one();
    }

    /// What goes together: the word that this store lives, then packets in their order. Waits until there
    /// is something. Cancel-safe.
    pub(crate) async fn next(&self) -> Vec<Packet> {
        loop {
            let filled = self.filled.notified();
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
            filled.await;
        }
    }

    fn take(&self) -> Vec<Packet> {
        let mut waiting = self.waiting.lock();
        let (mut batch, mut bytes): (Vec<_>, _) = (waiting.beat.take().into_iter().collect(), 0);
        while let Some((weight, packet)) =
            waiting.packets.pop_front_if(|(weight, _)| bytes == 0 || bytes + *weight <= FRAME_BYTES)
        {
            bytes += weight;
            batch.push(packet);
        }
        waiting.bytes -= bytes;
        self.metrics.waiting.set(i64::try_from(waiting.bytes).unwrap_or(i64::MAX));
        batch
    }

    /// Forgets what waits: the way to the store broke, and what is old is of no use to it.
    pub(crate) fn clear(&self) {
        let mut waiting = self.waiting.lock();
        let lost = std::mem::take(&mut *waiting);
        self.metrics.waiting.set(0);
        drop(waiting);
        self.metrics.broken.add(lost.packets.len() as u64);
    }
}

#[cfg(test)]
#[path = "lane_test.rs"]
mod tests;
