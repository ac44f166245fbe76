//! Topics and their receivers, as one shard sees them.
//!
//! A resolved topic holds while neither the tenant's routes nor the shard's own subscriptions
//! changed: two numbers are compared, nothing is locked. The cache has two generations; what is
//! used moves to the young one, and the old one is dropped whole when the young one is full or
//! has aged: so it is bounded, and what nobody publishes to any more goes. DIST-006

use std::{collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::{
    HostNumber, ShardId,
    dist::{InboxRoute, RouteEpoch, RouteId},
    group::Group,
};

/// How long a generation lasts at the most.
const GENERATION: Duration = Duration::from_secs(60);

/// Routes that the caches of one tenant on one shard hold, both generations together.
pub(crate) const ROUTES_MAX: usize = 200_000;

/// A topic with its receivers.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) topic: Box<str>,
    pub(crate) epoch: RouteEpoch,
    pub(crate) local_epoch: u64,
    /// Sessions of this shard.
    pub(crate) locals: Vec<LocalTarget>,
    /// Other shards, with the routes that they expand.
    pub(crate) remote: Vec<(ShardId, Vec<RouteId>)>,
    /// Persistent sessions.
    pub(crate) inboxes: Vec<InboxRoute>,
    /// Shared groups.
    pub(crate) groups: Vec<Arc<Group>>,
    /// Other hosts, which find their transient sessions themselves.
    pub(crate) hosts: Vec<HostNumber>,
}

/// A session of this shard and the subscription that matched.
#[derive(Copy, Clone, Debug)]
pub(crate) struct LocalTarget {
    pub(crate) slot: u32,
    pub(crate) subscription_id: u32,
    pub(crate) options: SubscriptionOptions,
}

impl Resolved {
    /// Whether anybody receives it.
    pub(crate) fn is_matched(&self) -> bool {
        !(self.locals.is_empty()
            && self.remote.is_empty()
            && self.inboxes.is_empty()
            && self.groups.is_empty()
            && self.hosts.is_empty())
    }

    /// About how many bytes it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        let remote =
            self.remote.iter().map(|(_, routes)| 40 + routes.capacity() * 8).sum::<usize>();
        size_of::<Self>()
            + self.topic.len()
            + self.locals.capacity() * size_of::<LocalTarget>()
            + remote
            + self.inboxes.capacity() * size_of::<InboxRoute>()
            + self.groups.capacity() * size_of::<Arc<Group>>()
            + self.hosts.capacity() * size_of::<HostNumber>()
    }

    fn routes(&self) -> usize {
        1 + self.locals.len()
            + self.remote.iter().map(|(_, routes)| routes.len()).sum::<usize>()
            + self.inboxes.len()
            + self.groups.len()
            + self.hosts.len()
    }
}

/// The cache of one tenant.
#[derive(Debug)]
pub(crate) struct TopicCache {
    young: HashMap<Box<str>, Rc<Resolved>, foldhash::fast::RandomState>,
    old: HashMap<Box<str>, Rc<Resolved>, foldhash::fast::RandomState>,
    young_routes: usize,
    young_bytes: usize,
    old_bytes: usize,
    /// At most so many: what moved to the young generation still counts.
    old_routes: usize,
    turned: Instant,
}

impl TopicCache {
    pub(crate) fn new(now: Instant) -> Self {
        TopicCache {
            young: HashMap::default(),
            old: HashMap::default(),
            young_routes: 0,
            young_bytes: 0,
            old_bytes: 0,
            old_routes: 0,
            turned: now,
        }
    }

    /// What is known of a topic, be it stale or not.
    pub(crate) fn find(&mut self, topic: &str) -> Option<Rc<Resolved>> {
        if let Some(resolved) = self.young.get(topic) {
            return Some(Rc::clone(resolved));
        }
        let (name, resolved) = self.old.remove_entry(topic)?;
        self.young_routes += resolved.routes();
        let bytes = entry_bytes(&resolved);
        self.young_bytes += bytes;
        self.old_bytes = self.old_bytes.saturating_sub(bytes);
        self.young.insert(name, Rc::clone(&resolved));
        Some(resolved)
    }

    /// Remembers a topic in place of what was known of it.
    pub(crate) fn insert(&mut self, resolved: Rc<Resolved>) {
        let routes = resolved.routes();
        if self.young_routes + routes > ROUTES_MAX / 2 {
            self.turn();
        }
        self.young_routes += routes;
        self.young_bytes += entry_bytes(&resolved);
        if let Some(before) = self.young.insert(resolved.topic.clone(), resolved) {
            self.young_routes = self.young_routes.saturating_sub(before.routes());
            self.young_bytes = self.young_bytes.saturating_sub(entry_bytes(&before));
        }
    }

    /// Drops what has not been used for a generation or two.
    pub(crate) fn age(&mut self, now: Instant) {
        if now.since(self.turned) >= GENERATION {
            self.turned = now;
            self.turn();
        }
    }

    /// Drops everything: memory is short.
    pub(crate) fn clear(&mut self) {
        self.turn();
        self.turn();
    }

    /// How many routes it holds.
    pub(crate) fn routes(&self) -> usize {
        self.young_routes + self.old_routes
    }

    /// About how many bytes it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.young_bytes + self.old_bytes
    }

    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.old_bytes = std::mem::take(&mut self.young_bytes);
        self.old_routes = std::mem::take(&mut self.young_routes);
    }
}

/// What a topic costs in a cache: itself, its key and its place.
fn entry_bytes(resolved: &Resolved) -> usize {
    resolved.memory_bytes() + resolved.topic.len() + 64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(topic: &str, locals: usize) -> Rc<Resolved> {
        let target = LocalTarget {
            slot: 0,
            subscription_id: 0,
            options: SubscriptionOptions::new(ratatosk_codec::Qos::AtMostOnce),
        };
        Rc::new(Resolved {
            topic: topic.into(),
            epoch: RouteEpoch(0),
            local_epoch: 0,
            locals: vec![target; locals],
            remote: Vec::new(),
            inboxes: Vec::new(),
            groups: Vec::new(),
            hosts: Vec::new(),
        })
    }

    /// DIST-006: bounded per tenant, and idle entries expire after 60 s.
    #[test]
    fn a_cache_stays_within_its_bound_and_forgets_what_is_idle() {
        let mut cache = TopicCache::new(Instant::ZERO);
        for number in 0..3 * ROUTES_MAX {
            cache.insert(resolved(&format!("t/{number}"), number % 3));
            if number % 10_000 == 0 {
                assert!(cache.routes() <= ROUTES_MAX, "{} routes are cached", cache.routes());
            }
        }
        cache.clear();
        cache.insert(resolved("used", 1));
        cache.insert(resolved("idle", 1));
        for step in 1..=3 {
            assert!(cache.find("used").is_some());
            cache.age(Instant::ZERO + GENERATION * step);
        }
        assert!(cache.find("used").is_some());
        assert!(cache.find("idle").is_none());
    }
}
