//! A range that has lost its quorum, brought back by order of an operator. KV-027
//!
//! The replica that has most of what was acknowledged goes on alone, and the balancers give it
//! company again. What only lost replicas had is lost; so this is never planned without an order,
//! and refused while the voters that are up can decide by themselves.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use ratatosk_store::log::GroupId;
use ratatosk_store::membership::Role;
use ratatosk_store::range::Version;

use crate::landscape::{Landscape, LogEnd, StoreId};
use crate::plan::{Action, Plan};
use crate::scene::is_majority;

/// What brings a range back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// For the store that the action names.
    pub plan: Plan,
    /// The end of the log that is gone on with.
    pub log: LogEnd,
    /// The newest version that anybody told of. The range has to go on with a newer one, so that
    /// replicas that come back know it for its successor.
    pub above: Version,
    /// Stores that have a replica and are up, the chosen one among them.
    pub survivors: BTreeSet<StoreId>,
    /// Stores of voters that are not. What they alone have is lost.
    pub lost: BTreeSet<StoreId>,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody told of it.
    #[error("no store knows the range {0:?}")]
    Unknown(GroupId),
    /// It will elect a leader by itself.
    #[error("the voters on {alive:?} are up, which is a quorum of the range")]
    QuorumAlive {
        /// Stores of voters that are up.
        alive: BTreeSet<StoreId>,
    },
    /// Nobody is there to go on.
    #[error("no store with a replica of the range is up; it was on {stores:?}")]
    NoSurvivor {
        /// Stores with a replica.
        stores: BTreeSet<StoreId>,
    },
}

/// What would bring a range back.
///
/// # Errors
/// [`Refused`]; nothing is to be done then.
pub fn recover(landscape: &Landscape, group: GroupId) -> Result<Recovery, Refused> {
    let told: Vec<_> = landscape.reports().filter(|(_, of, _)| *of == group).collect();
    let newest = told.iter().max_by_key(|(_, _, report)| report.descriptor.version);
    let (_, _, newest) = newest.ok_or(Refused::Unknown(group))?;
    let membership = &newest.descriptor.membership;
    let stores_of = |roles: &[Role]| -> BTreeSet<StoreId> {
        let held = membership.replicas().iter().filter(|replica| roles.contains(&replica.role));
        held.map(|replica| replica.store).collect()
    };
    let is_alive = |store: &StoreId| {
        let told = landscape.stores.get(store).and_then(|held| held.replicas.get(&group));
        landscape.is_up(*store) && told.is_some()
    };
    let decides = |voters: &BTreeSet<StoreId>| {
        is_majority(voters.iter().filter(|store| is_alive(store)).count(), voters.len())
    };
    let voters = stores_of(&[Role::Voter, Role::Joining, Role::Demoting]);
    // A joint configuration needs both of its majorities.
    let before = stores_of(&[Role::Voter, Role::Demoting]);
    let after = stores_of(&[Role::Voter, Role::Joining]);
    let (alive, lost) = voters.iter().copied().partition(|store| is_alive(store));
    if decides(&before) && decides(&after) {
        return Err(Refused::QuorumAlive { alive });
    }
    let stores = membership.replicas().iter().map(|replica| replica.store).collect::<BTreeSet<_>>();
    let survivors: BTreeSet<_> = stores.iter().copied().filter(is_alive).collect();
    let chosen = told
        .iter()
        .filter(|(store, _, _)| survivors.contains(store))
        .max_by_key(|(store, _, report)| (report.log, alive.contains(store), Reverse(*store)));
    let Some((store, _, report)) = chosen else { return Err(Refused::NoSurvivor { stores }) };
    let expected = report.descriptor.version;
    let plan = Plan { group, expected, action: Action::Recover { store: *store } };
    let above = newest.descriptor.version;
    Ok(Recovery { plan, log: report.log, above, survivors, lost })
}
