//! The ways of services to ranges that are led anywhere in the cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ratatosk_client::{Pipe, Poller, StoreReplicas};
use ratatosk_clock::SystemClock;
use ratatosk_contract::sessions::Sessions;
use ratatosk_dist::{DistService, RouteDivision};
use ratatosk_remote::Node;
use ratatosk_retain::{RetainDivision, RetainService};

use crate::store::Space;

/// While it is kept, commands find their ranges.
pub(super) struct Ways {
    _poller: Poller,
    /// How many changes of retained messages went again.
    pub(super) repeated: Arc<AtomicU64>,
}

impl Ways {
    /// Gives the services that all nodes have together their ways; `sessions` are told what is durable.
    pub(super) fn open(
        node: &Node,
        (dist, retain): (&DistService, &RetainService),
        sessions: Arc<dyn Sessions>,
        clock: SystemClock,
    ) -> std::io::Result<Self> {
        let (router, handle) = (node.router().clone(), node.handle());
        let replicas = |space: Space| Box::new(StoreReplicas::new(handle.clone(), space.name()));
        let ranges = || Box::new(router.clone());
        let routes = Pipe::dividing(ranges(), Space::Dist.name(), RouteDivision, clock);
        // The last message of a topic counts, however often one before it was brought.
        let messages = Pipe::repeating(ranges(), Space::Retain.name(), RetainDivision, clock);
        let pipes = vec![routes.clone(), messages.clone()];
        let poller = Poller::start(router.clone(), pipes)?;
        let repeated = messages.repeated();
        dist.connect(Arc::new(routes), replicas(Space::Dist));
        retain.connect(Arc::new(messages), sessions, replicas(Space::Retain));
        Ok(Self { _poller: poller, repeated })
    }
}
