//! What is looked at again and again while a node is a member: who leads what, and whether it can go on.

use std::sync::Arc;
use std::time::Duration;

use ratatosk_cluster::Cluster as Host;
use ratatosk_remote::{Network, Node};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::seats::RangeSeats;
use crate::store::OnFailure;

/// How often.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until it is dropped.
pub(super) struct Watch(JoinHandle<()>);

impl Watch {
    pub(super) fn start(node: &Node, seats: Arc<RangeSeats>, on_failure: OnFailure) -> Self {
        let (host, network) = (Arc::clone(node.host()), node.network().clone());
        Self(node.runtime().spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                seats.look();
                if let Some(why) = end_of(&host, &network) {
                    return on_failure(&why);
                }
            }
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a node cannot be a member any longer, if it cannot.
fn end_of(host: &Host, network: &Network) -> Option<String> {
    if let Some(clash) = network.clash_now() {
        return Some(clash.to_string());
    }
    let has_stopped = "this host takes no part in the cluster any more";
    (!host.is_running()).then(|| has_stopped.to_owned())
}
