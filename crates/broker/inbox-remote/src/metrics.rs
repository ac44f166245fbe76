//! What is counted of sessions that are on other hosts. Labels are compiled-in words.

use ratatosk_telemetry::metric::{Counter, Descriptor, Family, Gauge, Registry};

const SERVED: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_served_sessions",
    help: "Sessions that are served here and connected to other hosts.",
};
const SESSIONS: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_connected_sessions",
    help: "Persistent sessions that are connected here, wherever they are served.",
};
const WAITING: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_waiting_bytes",
    help: "Bytes that wait for other hosts, messages without an answer included.",
};
const RESUMED: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_resumed_sessions_total",
    help: "Sessions that went on at another inbox, or by another stream.",
};
const ABANDONED: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_abandoned_sessions_total",
    help: "Sessions that were left because their host was over.",
};
const REFUSED: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_refused_messages_total",
    help: "Messages that were refused before anybody got them, by reason.",
};
const HELD: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_held_messages_total",
    help: "Messages that waited until somebody served their sessions.",
};
const REPEATED: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_repeated_messages_total",
    help: "Messages that were held and sent on, those included that may have been taken before.",
};
const LATE: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_late_answers_total",
    help: "Questions that were not answered in time.",
};
const DROPPED_DIRECT: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_dropped_direct_total",
    help: "QoS 0 messages for sessions that are connected to other hosts, dropped for want of a way.",
};
const BROKEN: Descriptor = Descriptor {
    name: "ratatosk_inbox_remote_broken_streams_total",
    help: "Streams that were given up for what was said in them.",
};

/// See the module.
pub(crate) struct Metrics {
    pub(crate) served: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) resumed: Counter,
    pub(crate) abandoned: Counter,
    refused: Family<Counter>,
    pub(crate) held: Counter,
    pub(crate) repeated: Counter,
    pub(crate) late: Counter,
    pub(crate) dropped_direct: Counter,
    pub(crate) broken: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            served: registry.gauge(SERVED),
            sessions: registry.gauge(SESSIONS),
            waiting: registry.gauge(WAITING),
            resumed: registry.counter(RESUMED),
            abandoned: registry.counter(ABANDONED),
            refused: registry.counters(REFUSED, &["reason"]),
            held: registry.counter(HELD),
            repeated: registry.counter(REPEATED),
            late: registry.counter(LATE),
            dropped_direct: registry.counter(DROPPED_DIRECT),
            broken: registry.counter(BROKEN),
        }
    }

    /// A message was refused.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.with(&[reason]).increment();
    }
}
