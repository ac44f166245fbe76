//! Routes against the sessions that they follow from.
//!
//! The records of sessions are the truth. A crash may have kept a record and lost its route, or the
//! other way round, for they are in two ranges: so what dist took over at the start is compared. What
//! is as it should be is not written again. DIST-014

use std::sync::Arc;

use ratatosk_contract::{
    Call, PublisherId, TenantId,
    dist::{Dist, StoredKey, StoredRoute},
    inbox::InboxId,
};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    InboxService,
    partition::Ended,
    partitions::{PartitionSet, partition_number},
    routing::{Both, Routing},
    session::Session,
};

/// How many routes were not as the sessions have them.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// They were missing, or said something else.
    pub added: usize,
    /// No session has them.
    pub removed: usize,
}

impl InboxService {
    /// Removes the routes that no session has, when all sessions of some partitions are there; answers how
    /// many.
    pub(crate) fn remove_stale_routes(&self, partitions: PartitionSet) -> usize {
        let mut count = 0;
        for tenant in self.dist.tenants() {
            let routes = self.dist.tenant(&tenant);
            let (mut found, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                found.clear();
                next = routes.stored(from, &mut found);
                let is_meant =
                    |held: &StoredRoute| partitions.has(partition_number(held.route.inbox.0));
                found.retain(|held| is_meant(held) && !self.has_subscription(&tenant, held));
                let stale = found.iter().filter_map(|held| {
                    let filter = TopicFilter::parse(&held.filter, &TopicLimits::PROTOCOL);
                    Some((filter.ok()?, held.stored_key()))
                });
                let stale: Vec<_> = stale.collect();
                count += match self.routing.remove(&*self.dist, &tenant, &stale, None) {
                    Call::Ready(count) => count,
                    Call::Pending => stale.len(),
                };
            }
        }
        count
    }

    pub(crate) fn has_subscription(&self, tenant: &TenantId, stored: &StoredRoute) -> bool {
        let inbox = stored.route.inbox;
        let mut partition = self.partitions.lock_of(inbox);
        let session = partition.sessions.get(&inbox);
        let has_it = session.is_some_and(|session| {
            session.identity.tenant == *tenant
                && stored.member.is_none_or(|id| id == session.publisher.0)
                && session.subscription(&stored.filter).is_some()
        });
        // Its session went with a crash: the number is not given again, wherever it occurs.
        partition.note_number(inbox.0);
        has_it
    }
}

/// What sessions that ended leave in dist.
#[derive(Debug)]
pub(crate) struct LeftRoutes {
    tenant: TenantId,
    inbox: InboxId,
    publisher: PublisherId,
    incarnation: u64,
    filters: Vec<Box<str>>,
}

impl LeftRoutes {
    pub(crate) fn of(ended: &Ended) -> Self {
        LeftRoutes {
            tenant: ended.tenant.clone(),
            inbox: ended.inbox,
            publisher: ended.publisher,
            incarnation: ended.incarnation,
            filters: ended.subscriptions.iter().map(|held| held.filter.clone()).collect(),
        }
    }

    /// That of one subscription which a session gave up.
    pub(crate) fn of_one(inbox: InboxId, session: &Session, filter: Box<str>) -> Self {
        LeftRoutes {
            tenant: session.identity.tenant.clone(),
            inbox,
            publisher: session.publisher,
            incarnation: session.incarnation,
            filters: vec![filter],
        }
    }

    pub(crate) fn inbox(&self) -> InboxId {
        self.inbox
    }

    /// Leaves out what the session has subscribed to. To be removed under the session's lock.
    pub(crate) fn spare(&mut self, session: &Session) {
        self.filters.retain(|filter| session.subscription(filter).is_none());
    }

    /// Removes them, and tells whoever waits for that as well. What is not there any more is as good.
    pub(crate) fn remove(&self, dist: &dyn Dist, routing: &Routing, both: Option<Arc<Both>>) {
        let routes = self.filters.iter().filter_map(|held| {
            let filter = TopicFilter::parse(held, &TopicLimits::PROTOCOL).ok()?;
            let member = filter.share().map(|_| self.publisher.0);
            let (inbox, incarnation) = (self.inbox, self.incarnation);
            Some((filter, StoredKey { inbox, incarnation, member }))
        });
        let routes: Vec<_> = routes.collect();
        let removed = match routes.is_empty() {
            true => Call::Ready(0),
            false => routing.remove(dist, &self.tenant, &routes, both.clone()),
        };
        if let (Some(both), Call::Ready(_)) = (both, removed) {
            both.add(true);
        }
    }
}
