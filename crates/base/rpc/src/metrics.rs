//! What is counted: calls by method and side, and what became of connections.
//!
//! Labels are bounded by what is compiled in: services, methods, the kinds of errors, the words
//! for refusals. A call within the process counts at both sides, as one over the network does.

use std::sync::Arc;

use ratatosk_telemetry::metric::{
    Buckets, Counter, Descriptor, Family, Gauge, Histogram, Registry,
};
use tokio::time::Instant;

use crate::error::Error;

const CALLS: Descriptor = Descriptor {
    name: "ratatosk_rpc_calls_total",
    help: "Calls between services that ended, and messages of their pipelines.",
};
const ERRORS: Descriptor = Descriptor {
    name: "ratatosk_rpc_errors_total",
    help: "Calls that ended without an answer, by what became of them.",
};
const IN_FLIGHT: Descriptor =
    Descriptor { name: "ratatosk_rpc_in_flight_calls", help: "Calls that are under way." };
const BYTES: Descriptor = Descriptor {
    name: "ratatosk_rpc_frame_bytes_total",
    help: "Bytes of frames of calls, as encoded; none for calls within the process.",
};
const LATENCY: Descriptor = Descriptor {
    name: "ratatosk_rpc_call_seconds",
    help: "Time from the beginning of a call to its answer.",
};
const REFUSED: Descriptor = Descriptor {
    name: "ratatosk_rpc_refused_connections_total",
    help: "Connections of peers that were not let in, or thrown out, by reason.",
};
const CONNECTIONS: Descriptor = Descriptor {
    name: "ratatosk_rpc_open_connections",
    help: "Connections between nodes, by who made them.",
};
const MOVES: Descriptor = Descriptor {
    name: "ratatosk_rpc_moves_total",
    help: "Pipelines and streams that went to another server.",
};

/// What became of a call that its caller gave up.
const CANCELLED: &str = "cancelled";

/// Which end of a call counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who calls.
    Client,
    /// Who answers.
    Server,
}

impl Side {
    const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// The metrics of a node.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    calls: Family<Counter>,
    errors: Family<Counter>,
    in_flight: Family<Gauge>,
    bytes: Family<Counter>,
    latency: Family<Histogram>,
    refused: Family<Counter>,
    connections: Family<Gauge>,
    moves: Family<Counter>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            calls: registry.counters(CALLS, &["service", "method", "side"]),
            errors: registry.counters(ERRORS, &["service", "method", "side", "kind"]),
            in_flight: registry.gauges(IN_FLIGHT, &["service", "method", "side"]),
            bytes: registry.counters(BYTES, &["service", "method", "side", "direction"]),
            latency: registry.histograms(LATENCY, Buckets::LATENCY, &["service", "method", "side"]),
            refused: registry.counters(REFUSED, &["reason"]),
            connections: registry.gauges(CONNECTIONS, &["side"]),
            moves: registry.counters(MOVES, &["service", "method"]),
        }
    }

    /// The metrics of one method. Keep what it returns: this takes locks.
    pub(crate) fn method(&self, service: &str, method: &str, side: Side) -> Arc<MethodMetrics> {
        let labels = [service, method, side.word()];
        let bytes = |way| self.bytes.with(&[service, method, side.word(), way]);
        let error = |kind| (kind, self.errors.with(&[service, method, side.word(), kind]));
        Arc::new(MethodMetrics {
            calls: self.calls.with(&labels),
            errors: Error::KINDS.iter().chain(&[CANCELLED]).map(|kind| error(*kind)).collect(),
            in_flight: self.in_flight.with(&labels),
            bytes_in: bytes("in"),
            bytes_out: bytes("out"),
            latency: self.latency.with(&labels),
            moves: self.moves.with(&[service, method]),
        })
    }

    /// A peer was not let in, or thrown out.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.with(&[reason]).increment();
    }

    /// A connection; it counts until the guard is dropped.
    pub(crate) fn connection(&self, side: Side) -> Counted {
        let gauge = self.connections.with(&[side.word()]);
        gauge.add(1);
        Counted { gauge }
    }
}

/// Something that a gauge counts while it is there.
#[derive(Debug)]
pub(crate) struct Counted {
    gauge: Gauge,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.add(-1);
    }
}

/// The metrics of one method at one side.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    calls: Counter,
    errors: Box<[(&'static str, Counter)]>,
    in_flight: Gauge,
    /// Bytes of frames that came.
    pub(crate) bytes_in: Counter,
    /// Bytes of frames that were handed to the connection.
    pub(crate) bytes_out: Counter,
    latency: Histogram,
    /// Pipelines and streams that went to another server.
    pub(crate) moves: Counter,
}

impl MethodMetrics {
    /// A call begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Measured {
        self.begin_at(Instant::now())
    }

    /// A call began, for who has just looked at the clock.
    pub(crate) fn begin_at(self: &Arc<Self>, began: Instant) -> Measured {
        self.in_flight.add(1);
        Measured { metrics: Arc::clone(self), began, is_ended: false }
    }

    fn fail(&self, kind: &str) {
        if let Some((_, counter)) = self.errors.iter().find(|(name, _)| *name == kind) {
            counter.increment();
        }
    }
}

/// A call that is under way; dropped before its end, it counts as cancelled.
#[derive(Debug)]
pub(crate) struct Measured {
    metrics: Arc<MethodMetrics>,
    began: Instant,
    is_ended: bool,
}

impl Measured {
    /// The call ended so.
    pub(crate) fn end<T>(mut self, result: &Result<T, Error>) {
        self.is_ended = true;
        if let Err(error) = result {
            self.metrics.fail(error.kind());
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if !self.is_ended {
            self.metrics.fail(CANCELLED);
        }
        self.metrics.calls.increment();
        self.metrics.in_flight.add(-1);
        let elapsed_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.metrics.latency.observe(elapsed_ns);
    }
}
