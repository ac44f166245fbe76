//! What a shard counts.
//!
//! Plain numbers while a tick runs; copied to where others may read them ten times a second, under a
//! lock that only readers share. What concerns messages is counted by tenant ([`Flow`]) and added up
//! here.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ratatosk_contract::TenantId;

use super::flow::Flow;
use crate::tenants::{TenantNumber, Tenants};

/// A struct of counters which can be shown, stored and added up.
macro_rules! counters {
    ($(#[$head:meta])* $type:ident { $($(#[$meta:meta])* $name:ident,)* }) => {
        $(#[$head])*
        #[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
        pub struct $type {
            $($(#[$meta])* pub $name: u64,)*
        }

        impl $type {
            /// The counters with their names.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            /// Adds what another counted.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

pub(super) use counters;

counters! {
    /// The counters of one shard.
    Stats {
        /// Connections that were accepted.
        accepted,
        /// Sessions that became live.
        connected,
        /// Live sessions that ended.
        disconnected,
        /// Connections that ended before they were live.
        refused,
        /// Live sessions now.
        live,
        /// Connections now.
        connections,
        /// Messages that clients published.
        received,
        /// Their payload bytes.
        received_bytes,
        /// Messages that were written to clients.
        sent,
        /// Their payload bytes.
        sent_bytes,
        /// Messages that waited in a session's queue.
        queued,
        /// Not delivered: the session was not live.
        dropped_session_closed,
        /// Not delivered: the client does not keep up.
        dropped_overflow,
        /// Not delivered: published by the client itself.
        dropped_no_local,
        /// Not delivered: its time was over.
        dropped_expired,
        /// Not delivered: too large for the client.
        dropped_oversize,
        /// Not delivered: no longer permitted.
        dropped_no_permission,
        /// Not delivered: memory is short.
        dropped_resource,
        /// Memory was short: caches that were emptied.
        shed_caches,
        /// Memory was short: times that a connection was not read.
        shed_paused,
        /// Memory was short: connections that were ended because it went on while they were not read.
        shed_ended_paused,
        /// Memory was short: connections that were ended because they held the most.
        shed_ended_largest,
        /// Publishes that were refused.
        publish_refused,
        /// Filters that were refused.
        subscribe_refused,
        /// Subscriptions that were made.
        subscribed,
        /// Subscriptions that were ended.
        unsubscribed,
        /// Subscriptions that were ended because they are no longer permitted.
        revoked,
        /// Messages that were retained or cleared.
        retained,
        /// Pages of retained messages that were given out although some of them may be missing or old.
        retained_late,
        /// Wills that were published.
        wills,
        /// Topics found in the cache.
        cache_hits,
        /// Routes that the cache holds now.
        cached_routes,
        /// Topics resolved anew.
        cache_misses,
        /// Bytes read from sockets.
        read_bytes,
        /// Bytes written to sockets.
        written_bytes,
    }
}

/// The counters of all shards, to be read from anywhere.
#[derive(Debug)]
pub struct NodeStats {
    shards: Vec<Mutex<Counted>>,
    tenants: Tenants,
    /// Connections that no shard saw because memory was short.
    pub(crate) refused_for_memory: AtomicU64,
}

/// What a shard counted until its last tick.
#[derive(Debug, Default)]
struct Counted {
    stats: Stats,
    /// By the number of the tenant.
    flows: Vec<Option<Flow>>,
}

impl NodeStats {
    pub(crate) fn new(shards: usize, tenants: Tenants) -> Self {
        NodeStats {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            tenants,
            refused_for_memory: AtomicU64::new(0),
        }
    }

    pub(crate) fn publish<'a>(
        &self,
        shard: usize,
        stats: &Stats,
        flows: impl Iterator<Item = Option<&'a Flow>>,
    ) {
        let mut counted = self.shards[shard].lock();
        counted.stats = *stats;
        counted.flows.clear();
        counted.flows.extend(flows.map(Option::<&Flow>::copied));
    }

    /// The sum over all shards, as of their last tick.
    pub fn total(&self) -> Stats {
        let mut total = Stats::default();
        self.shards.iter().for_each(|shard| total.add(&shard.lock().stats));
        total
    }

    /// What became of the messages of each tenant, as of the last tick of each shard.
    pub fn flows(&self) -> Vec<(TenantId, Flow)> {
        let mut sums: Vec<Flow> = Vec::new();
        for shard in &self.shards {
            let counted = shard.lock();
            let count = sums.len().max(counted.flows.len());
            sums.resize_with(count, Flow::default);
            for (sum, flow) in sums.iter_mut().zip(&counted.flows) {
                flow.iter().for_each(|flow| sum.add(flow));
            }
        }
        let name = |(number, flow)| (self.tenants.name(TenantNumber(number)), flow);
        (0..).zip(sums).map(name).collect()
    }

    /// What became of the messages of one tenant, as of the last tick of each shard.
    pub fn flow(&self, tenant: &TenantId) -> Flow {
        let mut sum = Flow::default();
        let Some(number) = self.tenants.find(tenant) else { return sum };
        for shard in &self.shards {
            if let Some(Some(flow)) = shard.lock().flows.get(number.0 as usize) {
                sum.add(flow);
            }
        }
        sum
    }

    /// How often each step of shedding was taken because memory was short, in the order of the
    /// steps.
    pub fn shed(&self) -> [(&'static str, u64); 6] {
        let total = self.total();
        [
            ("caches", total.shed_caches),
            ("qos0", total.dropped_resource),
            ("pause_reader", total.shed_paused),
            ("end_paused", total.shed_ended_paused),
            ("refuse_connect", self.refused_for_memory.load(Ordering::Relaxed)),
            ("end_largest", total.shed_ended_largest),
        ]
    }
}
