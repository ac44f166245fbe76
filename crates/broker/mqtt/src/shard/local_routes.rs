//! Which sessions of this shard have which route.
//!
//! Dist knows that a shard has sessions for a filter, and the shard knows which. The first
//! session of a filter makes dist send messages here, the last one to go ends it. DIST-009

use std::collections::{HashMap, hash_map};

use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::dist::RouteId;

/// A session's subscription to a route.
#[derive(Copy, Clone, Debug)]
pub(crate) struct LocalSubscription {
    pub(crate) slot: u32,
    /// Zero: none.
    pub(crate) subscription_id: u32,
    pub(crate) options: SubscriptionOptions,
}

/// From how many sessions of one route on their places are remembered, so that the last of a
/// hundred thousand goes as fast as the first.
const INDEX_FROM: usize = 32;

/// The sessions of one route, at least one. Most have one only, and there are as many as routes.
#[derive(Debug)]
enum Sessions {
    One(LocalSubscription),
    Many(Box<Many>),
}

const _: () = assert!(size_of::<Sessions>() <= 16, "there is one for each of millions of routes");

/// More sessions than one.
#[derive(Debug, Default)]
struct Many {
    list: Vec<LocalSubscription>,
    /// The place in the list by slot; made when there are [`INDEX_FROM`] sessions.
    places: HashMap<u32, u32, foldhash::fast::RandomState>,
}

impl Sessions {
    fn as_slice(&self) -> &[LocalSubscription] {
        match self {
            Sessions::One(subscription) => std::slice::from_ref(subscription),
            Sessions::Many(many) => &many.list,
        }
    }

    fn push(&mut self, subscription: LocalSubscription) {
        match self {
            Sessions::One(first) => {
                let list = vec![*first, subscription];
                *self = Sessions::Many(Box::new(Many { list, ..Many::default() }));
            }
            Sessions::Many(many) => many.push(subscription),
        }
    }

    fn find_mut(&mut self, slot: u32) -> Option<&mut LocalSubscription> {
        match self {
            Sessions::One(subscription) => Some(subscription).filter(|known| known.slot == slot),
            Sessions::Many(many) => {
                let place = many.find(slot)?;
                many.list.get_mut(place)
            }
        }
    }

    fn remove(&mut self, slot: u32) -> Removed {
        match self {
            Sessions::One(subscription) if subscription.slot == slot => Removed::Last,
            Sessions::One(_) => Removed::Unknown,
            Sessions::Many(many) => {
                if !many.remove(slot) {
                    return Removed::Unknown;
                }
                if let [only] = many.list[..] {
                    *self = Sessions::One(only);
                }
                Removed::Others
            }
        }
    }
}

impl Many {
    fn push(&mut self, subscription: LocalSubscription) {
        self.list.push(subscription);
        if self.has_places() {
            self.places.insert(subscription.slot, place_of(self.list.len() - 1));
        } else if self.list.len() == INDEX_FROM {
            let all = self.list.iter().enumerate();
            self.places = all.map(|(place, known)| (known.slot, place_of(place))).collect();
        }
    }

    fn find(&self, slot: u32) -> Option<usize> {
        if self.has_places() {
            return self.places.get(&slot).map(|place| *place as usize);
        }
        self.list.iter().position(|known| known.slot == slot)
    }

    fn has_places(&self) -> bool {
        !self.places.is_empty()
    }

    fn remove(&mut self, slot: u32) -> bool {
        let Some(place) = self.find(slot) else { return false };
        self.list.swap_remove(place);
        if self.has_places() {
            self.places.remove(&slot);
            if let Some(moved) = self.list.get(place) {
                self.places.insert(moved.slot, place_of(place));
            }
        }
        if self.list.len() < INDEX_FROM / 2 {
            self.places = HashMap::default();
        }
        if self.list.capacity() > INDEX_FROM && self.list.len() * 4 < self.list.capacity() {
            self.list.shrink_to_fit();
        }
        true
    }
}

fn place_of(index: usize) -> u32 {
    u32::try_from(index).expect("fewer sessions than slots")
}

/// The local sessions by route, of one tenant.
#[derive(Debug, Default)]
pub(crate) struct LocalRoutes {
    routes: HashMap<RouteId, Sessions, foldhash::fast::RandomState>,
    /// Rises with every change, so that what was resolved before is recognised as stale.
    epoch: u64,
}

impl LocalRoutes {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Adds a session to a route that it does not have; true if it is the first.
    pub(crate) fn insert(&mut self, route: RouteId, subscription: LocalSubscription) -> bool {
        self.epoch += 1;
        match self.routes.entry(route) {
            hash_map::Entry::Occupied(mut sessions) => {
                sessions.get_mut().push(subscription);
                false
            }
            hash_map::Entry::Vacant(place) => {
                place.insert(Sessions::One(subscription));
                true
            }
        }
    }

    /// Replaces the options of a session that has the route. MQTT-078
    pub(crate) fn replace(&mut self, route: RouteId, subscription: LocalSubscription) {
        self.epoch += 1;
        let Some(sessions) = self.routes.get_mut(&route) else { return };
        if let Some(known) = sessions.find_mut(subscription.slot) {
            *known = subscription;
        }
    }

    /// Takes a session from a route.
    pub(crate) fn remove(&mut self, route: RouteId, slot: u32) -> Removed {
        let Some(sessions) = self.routes.get_mut(&route) else { return Removed::Unknown };
        let removed = sessions.remove(slot);
        if removed == Removed::Unknown {
            return removed;
        }
        self.epoch += 1;
        if removed == Removed::Others {
            return removed;
        }
        self.routes.remove(&route);
        if self.routes.capacity() > 64 && self.routes.len() * 4 < self.routes.capacity() {
            self.routes.shrink_to(self.routes.len() * 2);
        }
        Removed::Last
    }

    /// The sessions of a route.
    pub(crate) fn sessions(&self, route: RouteId) -> &[LocalSubscription] {
        self.routes.get(&route).map_or(&[], Sessions::as_slice)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(slot: u32) -> LocalSubscription {
        let options = SubscriptionOptions::new(ratatosk_codec::Qos::AtMostOnce);
        LocalSubscription { slot, subscription_id: 0, options }
    }

    fn slots(routes: &LocalRoutes, route: RouteId) -> Vec<u32> {
        let mut slots: Vec<u32> = routes.sessions(route).iter().map(|known| known.slot).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn sessions_come_and_go_in_any_order_and_number() {
        let route = RouteId { index: 1, generation: 1 };
        let mut routes = LocalRoutes::default();
        let mut model = std::collections::BTreeSet::new();
        // Ups and downs across the number from which on there is an index.
        for step in 0_u32..4_000 {
            let slot = step.wrapping_mul(2_654_435_761) % 97;
            let is_growing = (step / 200) % 2 == 0;
            if is_growing && model.insert(slot) {
                let is_first = routes.insert(route, subscription(slot));
                assert_eq!(is_first, model.len() == 1, "step {step}");
            } else if !is_growing {
                let expected = match (model.remove(&slot), model.is_empty()) {
                    (false, _) => Removed::Unknown,
                    (true, false) => Removed::Others,
                    (true, true) => Removed::Last,
                };
                assert_eq!(routes.remove(route, slot), expected, "step {step}");
            }
            assert_eq!(slots(&routes, route), model.iter().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_sessions_of_one_filter_leave_in_little_time() {
        const COUNT: u32 = 200_000;
        let route = RouteId { index: 1, generation: 1 };
        let mut routes = LocalRoutes::default();
        for slot in 0..COUNT {
            routes.insert(route, subscription(slot));
        }
        // The oldest last: a search from the front would look at 20 billion entries.
        for slot in (0..COUNT).rev() {
            let expected = if slot == 0 { Removed::Last } else { Removed::Others };
            assert_eq!(routes.remove(route, slot), expected);
        }
    }
}
