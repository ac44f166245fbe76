//! What is counted of other hosts. Labels are tenants and compiled-in words.

use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use parking_lot::RwLock;
use ratatosk_contract::TenantId;
use ratatosk_telemetry::memory::{Account, Accountant};
use ratatosk_telemetry::metric::{Counter, Descriptor, Family, Gauge, Registry, TENANT};

const SENT: Descriptor = Descriptor {
    name: "ratatosk_relay_sent_messages_total",
    help: "Messages that were to go to other hosts: one for each host.",
};
const DROPPED: Descriptor = Descriptor {
    name: "ratatosk_relay_dropped_messages_total",
    help: "Messages for other hosts that were dropped, by reason.",
};
const RECEIVED: Descriptor = Descriptor {
    name: "ratatosk_relay_received_messages_total",
    help: "Messages that came from other hosts, by what became of them.",
};
const REFUSED: Descriptor = Descriptor {
    name: "ratatosk_relay_refused_streams_total",
    help: "Streams of other hosts that were given up for what they said, by reason.",
};
const HOSTS: Descriptor =
    Descriptor { name: "ratatosk_relay_hosts", help: "Other hosts that count as alive." };
const WAITING: Descriptor = Descriptor {
    name: "ratatosk_relay_waiting_bytes",
    help: "Bytes of messages that wait for other hosts, sent and unanswered ones included.",
};
const WISHES: Descriptor = Descriptor {
    name: "ratatosk_relay_table_entries",
    help: "Filters and members of groups that this host tells of.",
};
const BEGINNINGS: Descriptor = Descriptor {
    name: "ratatosk_relay_snapshots_total",
    help: "How often another host was told everything that this one wants.",
};

/// Why a message was dropped, for [`Tenant::dropped`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Full = 0,
    Late = 1,
    Lost = 2,
    /// The member was gone, and nobody waits for it.
    Gone = 3,
}

impl Reason {
    const WORDS: [&'static str; 4] = ["full", "late", "lost", "gone"];
}

/// The metrics of a relay, and what is known of its tenants.
pub(crate) struct Metrics {
    sent: Family<Counter>,
    dropped: Family<Counter>,
    received: Family<Counter>,
    refused: Family<Counter>,
    pub(crate) hosts: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) wishes: Gauge,
    pub(crate) beginnings: Counter,
    accountant: Accountant,
    tenants: RwLock<Tenants>,
}

#[derive(Default)]
struct Tenants {
    by_id: HashMap<TenantId, Arc<Tenant>, RandomState>,
    /// How many there may be before the next look for unused ones.
    look_at: usize,
}

/// What is kept of a tenant whose messages go to other hosts.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) account: Account,
    pub(crate) sent: Counter,
    dropped: [Counter; 4],
}

impl Tenant {
    pub(crate) fn dropped(&self, reason: Reason) -> &Counter {
        &self.dropped[reason as usize]
    }
}

/// How many tenants there are at least before a look for unused ones.
const LOOK_MIN: usize = 64;

impl Metrics {
    pub(crate) fn new(registry: &Registry, accountant: Accountant) -> Self {
        Self {
            sent: registry.counters(SENT, &[TENANT]),
            dropped: registry.counters(DROPPED, &[TENANT, "reason"]),
            received: registry.counters(RECEIVED, &["fate"]),
            refused: registry.counters(REFUSED, &["reason"]),
            hosts: registry.gauge(HOSTS),
            waiting: registry.gauge(WAITING),
            wishes: registry.gauge(WISHES),
            beginnings: registry.counter(BEGINNINGS),
            accountant,
            tenants: RwLock::default(),
        }
    }

    /// What is kept of a tenant.
    pub(crate) fn tenant(&self, id: &TenantId) -> Arc<Tenant> {
        if let Some(tenant) = self.tenants.read().by_id.get(id) {
            return Arc::clone(tenant);
        }
        let mut tenants = self.tenants.write();
        if tenants.by_id.len() >= tenants.look_at.max(LOOK_MIN) {
            // Whoever holds one got it under this lock.
            tenants.by_id.retain(|_, tenant| Arc::strong_count(tenant) > 1);
            tenants.look_at = tenants.by_id.len() * 2;
        }
        let tenant = tenants.by_id.entry(id.clone()).or_insert_with(|| {
            let name = id.as_str();
            Arc::new(Tenant {
                account: self.accountant.account(name),
                sent: self.sent.with(&[name]),
                dropped: Reason::WORDS.map(|word| self.dropped.with(&[name, word])),
            })
        });
        Arc::clone(tenant)
    }

    /// The counter of messages that came and had this fate.
    pub(crate) fn received(&self, fate: &'static str) -> Counter {
        self.received.with(&[fate])
    }

    /// A stream was given up.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.with(&[reason]).increment();
    }
}
