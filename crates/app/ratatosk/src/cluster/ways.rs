//! The ways of services to ranges that are led anywhere in the cluster.

use std::sync::Arc;

use ratatosk_client::{Pipe, Poller};
use ratatosk_clock::SystemClock;
use ratatosk_dist::{DistService, RouteDivision, StoreReplicas};
use ratatosk_remote::Node;

use crate::store::Space;

/// While it is kept, commands find their ranges.
pub(super) struct Ways {
    _poller: Poller,
}

impl Ways {
    /// Gives a service of routes its way.
    pub(super) fn open(
        node: &Node,
        dist: &DistService,
        clock: SystemClock,
    ) -> std::io::Result<Self> {
        let (router, name) = (node.router().clone(), Space::Dist.name());
        let pipe = Pipe::dividing(Box::new(router.clone()), name, RouteDivision, clock);
        let poller = Poller::start(router, vec![pipe.clone()])?;
        dist.connect(Arc::new(pipe), Box::new(StoreReplicas::new(node.handle(), name)));
        Ok(Self { _poller: poller })
    }
}
