//! Whether a node of a cluster takes part: it has joined, its store is to have something, and what it keeps is
//! led. One that has lost its quorum stays up and says what it waits for.

use std::time::Duration;

use ratatosk_admin::Check;
use ratatosk_balance::landscape::Standing;
use ratatosk_balance::overview::{Overview, State};
use ratatosk_store::machine::Status;
use tokio::sync::oneshot;

use super::sketch::range_name;
use super::{Parts, keyspaces};

/// How long the store is given to say how it is.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Ranges that are named; of more it is said how many.
const NAMED_MAX: usize = 8;

impl Parts {
    pub(super) async fn checks(&self) -> Vec<Check> {
        let (told, tells) = oneshot::channel();
        // Whoever asked may have gone.
        self.network.ask_status(Box::new(move |groups| drop(told.send(groups))));
        let groups = match tokio::time::timeout(ANSWER_MAX, tells).await {
            Ok(Ok(groups)) => Ok(groups),
            Ok(Err(_)) => Err("the store is not served".to_owned()),
            Err(_) => Err(format!("the store does not answer within {ANSWER_MAX:?}")),
        };
        let ranges = groups.and_then(|groups| match groups.is_empty() {
            true => covered(&self.overview(&self.words.landscape())),
            false => led(&groups),
        });
        let check = |name: &str, state| Check { name: name.to_owned(), state };
        vec![check("cluster", self.joined()), check("ranges", ranges), check("store", self.stays())]
    }

    fn joined(&self) -> Result<(), String> {
        if let Some(clash) = self.network.clash_now() {
            return Err(clash.to_string());
        }
        match (self.host.cluster_id(), self.network.store()) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err("this node has not joined".to_owned()),
        }
    }

    fn stays(&self) -> Result<(), String> {
        let standing = self.network.store().map(|store| self.network.standing(store));
        match standing {
            Some(Standing::Member) | None => Ok(()),
            Some(Standing::Draining | Standing::GivenUp) => Err(
                "it is to become empty, by order (`ratatosk cluster drain --cancel` takes that back)"
                    .to_owned(),
            ),
        }
    }
}

/// Whether all that is kept here is led.
pub(super) fn led(groups: &[Status]) -> Result<(), String> {
    let leaderless = groups.iter().filter(|status| status.leader.is_none());
    let names: Vec<_> = leaderless.map(|status| range_name(&status.descriptor)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    Err(match names.len().saturating_sub(NAMED_MAX) {
        0 => format!("no leader, for want of a quorum: {shown}"),
        more => format!("no leader, for want of a quorum: {shown} and {more} more"),
    })
}

/// Of a node that keeps nothing, whether it knows who does.
pub(super) fn covered(overview: &Overview) -> Result<(), String> {
    let is_known = |keyspace: &&str| {
        let led = overview.ranges.iter().filter(|line| line.state == State::Led);
        led.into_iter().any(|line| line.descriptor.keyspace == **keyspace)
    };
    let unknown: Vec<_> = keyspaces().filter(|keyspace| !is_known(keyspace)).collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(format!("nobody is known to lead any range of {}", unknown.join(", "))),
    }
}
