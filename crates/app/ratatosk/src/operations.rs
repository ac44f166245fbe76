//! What operators are told of the cluster that this node is in, and what they order of it, for the management
//! API.
//!
//! What is told follows from what stores tell each other: it is as old as that, some seconds at most. Orders
//! that concern a store are marks that all nodes heed (decision 0029); only bringing a range back is a call to
//! the store that goes on.

mod leaving;
mod readiness;
mod sketch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use ratatosk_admin::Check;
use ratatosk_admin::cluster::{
    self as view, Drain as DrainOrder, Later, Loss, Range, Recover, Recovered, Refused, Replace,
    Store,
};
use ratatosk_balance::RuleBook;
use ratatosk_balance::drain::{Drain, Stuck};
use ratatosk_balance::keeper::{Keeper, Words};
use ratatosk_balance::landscape::{Landscape, Reach, Standing, StoreId};
use ratatosk_balance::overview::Overview;
use ratatosk_balance::recover::{self, Recovery};
use ratatosk_clock::SystemClock;
use ratatosk_cluster::Cluster as Host;
use ratatosk_remote::{Network, Node};
use ratatosk_store::log::GroupId;

use self::leaving::Leaving;
use self::sketch::{name, range_name};
use crate::configuration::Cluster as Settings;
use crate::store::Space;

/// How long a store is given to bring a range back.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Operations(Arc<Parts>);

struct Parts {
    clock: SystemClock,
    name: String,
    zone: String,
    host: Arc<Host>,
    network: Network,
    words: Arc<dyn Words>,
    rules: Arc<RwLock<RuleBook>>,
    leaving: Mutex<Option<Leaving>>,
}

impl Operations {
    /// Of a node that was started with these settings and this clock.
    pub(crate) fn new(node: &Node, settings: &Settings, clock: SystemClock) -> Self {
        let rules = node.keeper().map(Keeper::rules).unwrap_or_default();
        Self(Arc::new(Parts {
            clock,
            name: settings.name.clone(),
            zone: settings.zone.clone(),
            host: Arc::clone(node.host()),
            network: node.network().clone(),
            words: node.network().words(),
            rules,
            leaving: Mutex::new(None),
        }))
    }
}

impl view::Operations for Operations {
    fn cluster(&self) -> view::Cluster {
        self.0.cluster()
    }

    fn ranges(&self) -> Vec<Range> {
        let roll = self.0.network.roll().borrow().clone();
        self.0
            .overview(&self.0.words.landscape())
            .ranges
            .iter()
            .map(|line| sketch::range(line, &roll))
            .collect()
    }

    fn checks(&self) -> Later<Vec<Check>> {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.checks().await })
    }

    fn drain(&self, order: &DrainOrder) -> Result<Store, Refused> {
        let parts = &self.0;
        let store = match &order.store {
            Some(store) => number(store, "store")?,
            None => parts.own()?,
        };
        let landscape = parts.words.landscape();
        // A node that has just joined is known to itself first.
        if parts.network.store() != Some(store) {
            known(&landscape, store)?;
        }
        if order.cancel {
            if parts.network.store() == Some(store) {
                drop(parts.leaving.lock().take());
            }
            return parts.stand(landscape, store, Standing::Member);
        }
        parts.refuse_stuck(&landscape, store)?;
        parts.stand(landscape, store, Standing::Draining)
    }

    fn leave(&self) -> Result<Store, Refused> {
        let parts = &self.0;
        let store = parts.own()?;
        let landscape = parts.words.landscape();
        parts.refuse_stuck(&landscape, store)?;
        let mut leaving = parts.leaving.lock();
        if leaving.is_none() {
            *leaving = Some(Leaving::start(Arc::downgrade(parts), store)?);
        }
        // It leaves only once it is marked.
        parts.stand(landscape, store, Standing::Draining).inspect_err(|_| drop(leaving.take()))
    }

    fn replace(&self, order: &Replace) -> Result<Store, Refused> {
        let parts = &self.0;
        let store = number(&order.store, "store")?;
        let landscape = parts.words.landscape();
        if known(&landscape, store)?.reach == Reach::Up {
            return Err(Refused::Conflict(format!(
                "store {store:016x} answers: only one that is away is given up; to empty it, order it to \
                 drain (`ratatosk cluster drain --store {store:016x}`)"
            )));
        }
        parts.stand(landscape, store, Standing::GivenUp)
    }

    fn losses(&self, ranges: &[String]) -> Result<Vec<Loss>, Refused> {
        let landscape = self.0.words.landscape();
        let recoveries = self.0.recoveries(&landscape, ranges)?;
        let overview = self.0.overview(&landscape);
        Ok(recoveries.iter().filter_map(|recovery| sketch::loss(recovery, &overview)).collect())
    }

    fn recover(&self, order: Recover) -> Later<Result<Vec<Recovered>, Refused>> {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.recover(order).await })
    }
}

impl Parts {
    fn overview(&self, landscape: &Landscape) -> Overview {
        Overview::of(&self.rules.read(), landscape, self.clock.now())
    }

    fn drain(&self, landscape: &Landscape, store: StoreId) -> Drain {
        Drain::of(&self.rules.read(), landscape, self.clock.now(), store)
    }

    fn cluster(&self) -> view::Cluster {
        let landscape = self.words.landscape();
        let overview = self.overview(&landscape);
        let roll = self.network.roll().borrow().clone();
        let without_leader: Vec<_> =
            overview.leaderless().map(|line| range_name(&line.descriptor)).collect();
        let overlapping = overview.alarms.iter().map(|alarm| {
            let (one, other) = alarm.groups;
            format!("{} {:016x} and {:016x}", alarm.keyspace, one.0, other.0)
        });
        let own = self.network.store();
        let node = view::Node {
            host: self.host.host().id.to_string(),
            store: own.map(name),
            leaving: self.leaving.lock().is_some(),
        };
        let me = sketch::Own { host: self.host.host(), zone: &self.zone };
        let stores = landscape.stores.iter().map(|(store, held)| {
            let sketched = sketch::store(*store, held, &overview, &roll, self.clock.now());
            self.with_stuck(&landscape, *store, sketched)
        });
        let stores = stores.filter(|store| !sketch::is_over(store));
        view::Cluster {
            cluster: self.host.cluster_id().map(|cluster| name(cluster.number())),
            name: self.name.clone(),
            node,
            quorum: without_leader.is_empty() && !overview.ranges.is_empty(),
            without_leader,
            under_replicated: overview.ranges.iter().filter_map(sketch::under_replicated).collect(),
            overlapping: overlapping.collect(),
            clash: self.network.clash_now().map(|clash| clash.to_string()),
            hosts: sketch::hosts(&me, &self.host.members().current(), &roll),
            stores: stores.collect(),
        }
    }

    /// A store with what does not leave it, if it is to become empty.
    fn with_stuck(&self, landscape: &Landscape, store: StoreId, sketched: Store) -> Store {
        if sketched.standing == view::Standing::Member {
            return sketched;
        }
        let stuck = self.drain(landscape, store).stuck.into_iter();
        let stuck =
            stuck.map(|(group, why)| view::Stuck { range: name(group.0), why: why.to_string() });
        Store { stuck: stuck.collect(), ..sketched }
    }

    fn own(&self) -> Result<StoreId, Refused> {
        let none =
            "this node serves no store now: it is about to stop, or another process has its store";
        self.network.store().ok_or_else(|| Refused::Unavailable(none.to_owned()))
    }

    /// Refuses to empty a store whose ranges have nowhere to go.
    fn refuse_stuck(&self, landscape: &Landscape, store: StoreId) -> Result<(), Refused> {
        let mut emptied = landscape.clone();
        if let Some(held) = emptied.stores.get_mut(&store) {
            held.standing = held.standing.max(Standing::Draining);
        }
        let left = self.drain(&emptied, store);
        let mut stuck = left.stuck.iter().filter(|(_, why)| **why == Stuck::NoTaker);
        let Some((range, why)) = stuck.next() else { return Ok(()) };
        Err(Refused::Conflict(format!(
            "store {store:016x} cannot be emptied: range {:016x}, and {} more: {why}; start another node first",
            range.0,
            stuck.count()
        )))
    }

    /// Marks a store; what is told of it has the mark already.
    fn stand(
        &self,
        mut landscape: Landscape,
        store: StoreId,
        standing: Standing,
    ) -> Result<Store, Refused> {
        let unavailable = |error: ratatosk_remote::StandError| {
            Refused::Unavailable(format!("the order cannot be told to the cluster: {error}"))
        };
        self.network.stand(store, standing).map_err(unavailable)?;
        let held = landscape.stores.entry(store).or_default();
        held.standing = standing;
        let held = held.clone();
        let overview = self.overview(&landscape);
        let roll = self.network.roll().borrow().clone();
        let sketched = sketch::store(store, &held, &overview, &roll, self.clock.now());
        Ok(self.with_stuck(&landscape, store, sketched))
    }

    /// How the named ranges would be brought back, or all that can be and have to.
    fn recoveries(
        &self,
        landscape: &Landscape,
        ranges: &[String],
    ) -> Result<Vec<Recovery>, Refused> {
        if !ranges.is_empty() {
            let groups = ranges.iter().map(|range| Ok(GroupId(number(range, "range")?)));
            let groups: BTreeSet<GroupId> = groups.collect::<Result<_, Refused>>()?;
            return groups.into_iter().map(|group| recovery(landscape, group)).collect();
        }
        let overview = self.overview(landscape);
        let tried = overview.leaderless().map(|line| recovery(landscape, line.descriptor.group));
        let (able, unable): (Vec<_>, Vec<_>) = tried.partition(Result::is_ok);
        let able: Vec<Recovery> = able.into_iter().flatten().collect();
        match unable.into_iter().find_map(Result::err) {
            Some(refused) if able.is_empty() => Err(refused),
            None if able.is_empty() => {
                let none =
                    "every range that this node knows is led: there is nothing to bring back";
                Err(Refused::Conflict(none.to_owned()))
            }
            _ => Ok(able),
        }
    }

    async fn recover(&self, order: Recover) -> Result<Vec<Recovered>, Refused> {
        let recoveries = self.recoveries(&self.words.landscape(), &order.ranges)?;
        judge_acceptance(&recoveries, &order.accept_loss_of)?;
        let orders = self.network.orders();
        let mut done = Vec::new();
        for recovery in recoveries {
            let (group, survivor) = (recovery.plan.group, sketch::survivor(&recovery));
            tracing::warn!(range = %name(group.0), survivor = %name(survivor), lost = ?recovery.lost, "a range is brought back");
            let given = orders.recover(survivor, group, recovery.above);
            let error = match tokio::time::timeout(RECOVERY_MAX, given).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {RECOVERY_MAX:?}: it may go on later")),
            };
            done.push(Recovered { range: name(group.0), survivor: name(survivor), error });
        }
        Ok(done)
    }
}

/// Nothing is given up but what the operator has named.
fn judge_acceptance(recoveries: &[Recovery], accepted: &[String]) -> Result<(), Refused> {
    let accepted = accepted.iter().map(|store| number(store, "store"));
    let accepted: BTreeSet<StoreId> = accepted.collect::<Result<_, _>>()?;
    let lost: BTreeSet<StoreId> =
        recoveries.iter().flat_map(|recovery| recovery.lost.iter().copied()).collect();
    if accepted == lost {
        return Ok(());
    }
    let names = |stores: &BTreeSet<StoreId>| match stores.is_empty() {
        true => "no store".to_owned(),
        false => stores.iter().map(|store| name(*store)).collect::<Vec<_>>().join(", "),
    };
    Err(Refused::Conflict(format!(
        "what would be lost is what {} alone has, and the order accepts the loss of {}: name exactly those",
        names(&lost),
        names(&accepted)
    )))
}

fn recovery(landscape: &Landscape, group: GroupId) -> Result<Recovery, Refused> {
    recover::recover(landscape, group).map_err(|error| {
        let range = name(group.0);
        match error {
            recover::Refused::Unknown(_) => Refused::Unknown(format!(
                "no store knows range {range}: `ratatosk ranges` lists those that there are"
            )),
            recover::Refused::QuorumAlive { alive } => Refused::Conflict(format!(
                "range {range} has a quorum and elects a leader by itself: its voters on {} are up",
                alive.iter().map(|store| name(*store)).collect::<Vec<_>>().join(", ")
            )),
            recover::Refused::NoSurvivor { stores } => Refused::Conflict(format!(
                "no store with a replica of range {range} is up: start one of {}",
                stores.iter().map(|store| name(*store)).collect::<Vec<_>>().join(", ")
            )),
        }
    })
}

fn known(
    landscape: &Landscape,
    store: StoreId,
) -> Result<&ratatosk_balance::landscape::Store, Refused> {
    landscape.stores.get(&store).ok_or_else(|| {
        Refused::Unknown(format!(
            "nobody knows store {store:016x}: `ratatosk cluster status` lists those that there are"
        ))
    })
}

/// Reads a number as it is written everywhere.
fn number(text: &str, of: &str) -> Result<u64, Refused> {
    let is_written = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(text, 16).ok().filter(|_| is_written);
    number.ok_or_else(|| {
        let list = if of == "store" { "ratatosk cluster status" } else { "ratatosk ranges" };
        Refused::Senseless(format!(
            "{text:?} is no {of}: write its number, 16 digits, as `{list}` lists it"
        ))
    })
}

/// The names of the keyspaces, of each of which a member needs a range.
fn keyspaces() -> impl Iterator<Item = &'static str> {
    Space::ALL.into_iter().map(Space::name)
}

#[cfg(test)]
#[path = "operations_test.rs"]
mod tests;
