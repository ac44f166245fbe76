//! Which sessions of this shard have which route.
//!
//! Dist knows that a shard has sessions for a filter, and the shard knows which. The first
//! session of a filter makes dist send messages here, the last one to go ends it. DIST-009

use std::collections::HashMap;

use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::dist::RouteId;
use smallvec::SmallVec;

/// A session's subscription to a route.
#[derive(Copy, Clone, Debug)]
pub(crate) struct LocalSubscription {
    pub(crate) slot: u32,
    /// Zero: none.
    pub(crate) subscription_id: u32,
    pub(crate) options: SubscriptionOptions,
}

/// The local sessions by route, of one tenant.
#[derive(Debug, Default)]
pub(crate) struct LocalRoutes {
    routes: HashMap<RouteId, SmallVec<[LocalSubscription; 1]>, foldhash::fast::RandomState>,
    /// Rises with every change, so that what was resolved before is recognised as stale.
    epoch: u64,
}

impl LocalRoutes {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Adds a session to a route.
    pub(crate) fn insert(&mut self, route: RouteId, subscription: LocalSubscription) {
        self.epoch += 1;
        self.routes.entry(route).or_default().push(subscription);
    }

    /// Replaces the options of a session that has the route. MQTT-078
    pub(crate) fn replace(&mut self, route: RouteId, subscription: LocalSubscription) {
        self.epoch += 1;
        let subscriptions = self.routes.get_mut(&route).map_or(&mut [][..], |all| &mut all[..]);
        if let Some(known) = subscriptions.iter_mut().find(|known| known.slot == subscription.slot)
        {
            *known = subscription;
        }
    }

    /// Takes a session from a route.
    pub(crate) fn remove(&mut self, route: RouteId, slot: u32) -> Removed {
        let Some(subscriptions) = self.routes.get_mut(&route) else { return Removed::Unknown };
        let Some(index) = subscriptions.iter().position(|known| known.slot == slot) else {
            return Removed::Unknown;
        };
        self.epoch += 1;
        subscriptions.swap_remove(index);
        if !subscriptions.is_empty() {
            return Removed::Others;
        }
        self.routes.remove(&route);
        if self.routes.capacity() > 64 && self.routes.len() * 4 < self.routes.capacity() {
            self.routes.shrink_to(self.routes.len() * 2);
        }
        Removed::Last
    }

    /// The sessions of a route.
    pub(crate) fn sessions(&self, route: RouteId) -> &[LocalSubscription] {
        self.routes.get(&route).map_or(&[], |subscriptions| &subscriptions[..])
    }
}

/// What is left of a route after a session went.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// The session did not have it.
    Unknown,
    /// Others have it.
    Others,
    /// Nobody has it: dist may forget this shard.
    Last,
}
