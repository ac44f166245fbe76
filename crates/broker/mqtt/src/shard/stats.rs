//! What a shard counts.
//!
//! Plain numbers while a tick runs; copied to where others may read them a few times a second.
//! `received = handed on`, and for each delivery `sent + queued + dropped(reason)`.

use std::sync::atomic::{AtomicU64, Ordering};

use ratatosk_session::DropReason;

macro_rules! stats {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// The counters of one shard.
        #[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$meta])* pub $name: u64,)*
        }

        impl Stats {
            const COUNT: usize = [$(stringify!($name)),*].len();

            /// The counters with their names.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            fn values(&self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            fn add(&mut self, values: &[u64; Self::COUNT]) {
                let mut values = values.iter();
                $(self.$name += values.next().copied().unwrap_or(0);)*
            }
        }
    };
}

stats! {
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

impl Stats {
    pub(crate) fn dropped(&mut self, reason: DropReason) {
        let counter = match reason {
            DropReason::SessionClosed => &mut self.dropped_session_closed,
            DropReason::Overflow => &mut self.dropped_overflow,
            DropReason::NoLocal => &mut self.dropped_no_local,
            DropReason::Expired => &mut self.dropped_expired,
            DropReason::Oversize => &mut self.dropped_oversize,
            DropReason::NoSubPermission => &mut self.dropped_no_permission,
            DropReason::ResourceExhausted => &mut self.dropped_resource,
        };
        *counter += 1;
    }
}

/// The counters of all shards, to be read from anywhere.
#[derive(Debug)]
pub struct NodeStats {
    shards: Vec<[AtomicU64; Stats::COUNT]>,
    /// Connections that no shard saw because memory was short.
    pub(crate) refused_for_memory: AtomicU64,
}

impl NodeStats {
    pub(crate) fn new(shards: usize) -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        NodeStats {
            shards: (0..shards).map(|_| zeros()).collect(),
            refused_for_memory: AtomicU64::new(0),
        }
    }

    pub(crate) fn publish(&self, shard: usize, stats: &Stats) {
        for (cell, value) in self.shards[shard].iter().zip(stats.values()) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// The sum over all shards, as of their last tick.
    pub fn total(&self) -> Stats {
        let mut total = Stats::default();
        for shard in &self.shards {
            let values = std::array::from_fn(|index| shard[index].load(Ordering::Relaxed));
            total.add(&values);
        }
        total
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
