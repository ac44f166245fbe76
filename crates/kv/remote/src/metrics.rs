//! What is counted of other stores. Labels are numbers of stores, lanes and compiled-in words.

use ratatosk_telemetry::metric::{Counter, Descriptor, Family, Gauge, Registry};

use crate::lane::Lane;

const PACKETS: Descriptor = Descriptor {
    name: "ratatosk_remote_packets_total",
    help: "Packets that went to other stores and came from them.",
};
const BYTES: Descriptor = Descriptor {
    name: "ratatosk_remote_packet_bytes_total",
    help: "Bytes of packets that went to other stores and came from them.",
};
const LOST: Descriptor = Descriptor {
    name: "ratatosk_remote_lost_packets_total",
    help: "Packets for other stores that were not sent, by reason.",
};
const WAITING: Descriptor = Descriptor {
    name: "ratatosk_remote_waiting_bytes",
    help: "Bytes of packets that wait to be sent to another store.",
};
const OPEN: Descriptor =
    Descriptor { name: "ratatosk_remote_open_lanes", help: "Lanes to other stores that are open." };
const REFUSED: Descriptor = Descriptor {
    name: "ratatosk_remote_refused_total",
    help: "What was refused of what other stores and clients sent, by reason.",
};
const UNKNOWN: Descriptor = Descriptor {
    name: "ratatosk_remote_unknown_packets_total",
    help: "Packets of a later version that were passed over.",
};

/// The metrics of a network. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    packets: Family<Counter>,
    bytes: Family<Counter>,
    lost: Family<Counter>,
    waiting: Family<Gauge>,
    open: Family<Gauge>,
    refused: Family<Counter>,
    pub(crate) unknown: Counter,
}

/// The metrics of one lane to a store.
#[derive(Debug)]
pub(crate) struct LaneMetrics {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
    /// There was no room.
    pub(crate) full: Counter,
    /// The connection was lost, or there was none for long.
    pub(crate) broken: Counter,
    pub(crate) waiting: Gauge,
    pub(crate) open: Gauge,
}

/// The metrics of what comes of a store.
#[derive(Debug)]
pub(crate) struct InboundMetrics {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            packets: registry.counters(PACKETS, &["store", "lane", "direction"]),
            bytes: registry.counters(BYTES, &["store", "lane", "direction"]),
            lost: registry.counters(LOST, &["store", "lane", "reason"]),
            waiting: registry.gauges(WAITING, &["store", "lane"]),
            open: registry.gauges(OPEN, &["store", "lane"]),
            refused: registry.counters(REFUSED, &["reason"]),
            unknown: registry.counter(UNKNOWN),
        }
    }

    pub(crate) fn lane(&self, store: u64, lane: Lane) -> LaneMetrics {
        let (store, lane) = (format!("{store:016x}"), lane.word());
        LaneMetrics {
            packets: self.packets.with(&[&store, lane, "out"]),
            bytes: self.bytes.with(&[&store, lane, "out"]),
            full: self.lost.with(&[&store, lane, "full"]),
            broken: self.lost.with(&[&store, lane, "broken"]),
            waiting: self.waiting.with(&[&store, lane]),
            open: self.open.with(&[&store, lane]),
        }
    }

    pub(crate) fn inbound(&self, store: u64, lane: Lane) -> InboundMetrics {
        let (store, lane) = (format!("{store:016x}"), lane.word());
        InboundMetrics {
            packets: self.packets.with(&[&store, lane, "in"]),
            bytes: self.bytes.with(&[&store, lane, "in"]),
        }
    }

    /// Something was not taken.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.with(&[reason]).increment();
    }
}
