//! Routes that may be behind: while they are read anew no group is found, and nobody may go by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatosk_contract::dist::{
    AddError, Dist, HostRoute, Receiver, ReceiverKey, Resolution, Restored, RouteEpoch, RouteId,
    StoredRoute, TenantRoutes,
};
use ratatosk_contract::group::Group;
use ratatosk_contract::{Call, HostNumber, TenantId};
use ratatosk_dist::DistService;
use ratatosk_topic::{TopicFilter, TopicName};

/// See the module.
pub(crate) struct Lagging {
    pub(crate) dist: DistService,
    pub(crate) is_behind: Arc<AtomicBool>,
}

struct Routes {
    routes: Arc<dyn TenantRoutes>,
    is_behind: Arc<AtomicBool>,
}

impl Routes {
    fn current<T>(&self, found: Option<T>) -> Option<T> {
        found.filter(|_| !self.is_behind.load(Ordering::Relaxed))
    }
}

impl Dist for Lagging {
    fn tenant(&self, tenant: &TenantId) -> Arc<dyn TenantRoutes> {
        Arc::new(Routes {
            routes: self.dist.tenant(tenant),
            is_behind: Arc::clone(&self.is_behind),
        })
    }

    fn tenants(&self) -> Vec<TenantId> {
        self.dist.tenants()
    }
}

impl TenantRoutes for Routes {
    fn epoch(&self) -> RouteEpoch {
        self.routes.epoch()
    }

    fn resolve(&self, topic: TopicName<'_>, found: &mut Resolution) {
        self.routes.resolve(topic, found);
    }

    fn add(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Call<Result<RouteId, AddError>> {
        self.routes.add(filter, receiver)
    }

    fn remove(&self, filter: &TopicFilter<'_>, receiver: &ReceiverKey) -> Call<bool> {
        self.routes.remove(filter, receiver)
    }

    fn remove_route(&self, route: RouteId, receiver: &ReceiverKey) -> Call<bool> {
        self.routes.remove_route(route, receiver)
    }

    fn remove_each(&self, receivers: &[(TopicFilter<'_>, ReceiverKey)]) -> usize {
        self.routes.remove_each(receivers)
    }

    fn may_answer(&self) -> Option<RouteEpoch> {
        self.current(self.routes.may_answer())
    }

    fn host_routes(&self, host: HostNumber) -> Vec<RouteId> {
        self.routes.host_routes(host)
    }

    fn host_routes_count(&self, host: HostNumber) -> usize {
        self.routes.host_routes_count(host)
    }

    fn retain_host(
        &self,
        host: HostNumber,
        filters: &[RouteId],
        keep: &mut dyn FnMut(HostRoute<'_>) -> bool,
    ) -> usize {
        self.routes.retain_host(host, filters, keep)
    }

    fn restore(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Restored {
        self.routes.restore(filter, receiver)
    }

    fn stored(&self, from: usize, found: &mut Vec<StoredRoute>) -> Option<usize> {
        self.routes.stored(from, found)
    }

    fn find(&self, filter: &TopicFilter<'_>) -> Option<RouteId> {
        self.current(self.routes.find(filter))
    }

    fn group(&self, route: RouteId, name: &str, is_ordered: bool) -> Option<Arc<Group>> {
        self.current(self.routes.group(route, name, is_ordered))
    }

    fn filter_text(&self, route: RouteId, text: &mut String) -> bool {
        self.routes.filter_text(route, text)
    }

    fn len(&self) -> usize {
        self.routes.len()
    }
}
