//! What is done to the nodes in one round: drawn from the seed, then done while clients are at work.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ratatosk_crash::history::What;
use ratatosk_crash::stage::Access;
use ratatosk_testkit::dice::Dice;
use tokio::time::Instant;

use crate::api;
use crate::plan::{Harm, Plan};
use crate::roles;
use crate::rounds::Scene;

/// Shorter harm than this is over before anybody finds out.
const SPAN_MIN: Duration = Duration::from_millis(300);
/// A store that is gone is missed by all within this.
const MISSED_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to give it up.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two nodes of a rolling restart.
const BETWEEN: Duration = Duration::from_millis(500);

/// What is done in one round, to nodes by their number from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// kill -9, and a start after so long.
    Kill {
        /// Which node.
        node: usize,
        /// For how long there is none.
        away: Duration,
    },
    /// Some nodes and the others do not hear each other.
    Partition {
        /// The fewer ones.
        minority: Vec<usize>,
        /// They do not reach their clients either, nor each other.
        is_dark: bool,
        /// For how long.
        lasts: Duration,
    },
    /// A node and the others hear each other in one direction only.
    Asymmetric {
        /// Which node.
        node: usize,
        /// It does not hear; otherwise it is not heard.
        is_deaf: bool,
        /// For how long.
        lasts: Duration,
    },
    /// SIGTERM and a start, for all nodes from one on.
    Rolling {
        /// The first one.
        first: usize,
    },
    /// kill -9, and a start without data after so long.
    Replace {
        /// Which node.
        node: usize,
        /// For how long there is none.
        away: Duration,
    },
    /// A node that was not there joins, is drained and goes.
    Grow {
        /// For how long it is there.
        lasts: Duration,
    },
}

impl Act {
    /// What a round does. `leading` says how many ranges each node leads, where that is known.
    #[must_use]
    pub fn draw(
        plan: &Plan,
        round: u32,
        nodes: usize,
        leading: &[Option<u64>],
        dice: &mut Dice,
    ) -> Act {
        // Harm that is over at once, and harm that everybody finds out about.
        let is_short = dice.once_in(3);
        let longest = if is_short { SPAN_MIN * 3 } else { plan.span.max(SPAN_MIN * 3) };
        let span = dice.span(SPAN_MIN, longest);
        let in_turn = round as usize % nodes.max(1);
        let first = if round.is_multiple_of(2) { busiest(leading) } else { None };
        let node = first.filter(|node| *node < nodes).unwrap_or(in_turn);
        match plan.harm {
            Harm::Kill => Act::Kill { node: in_turn, away: span },
            Harm::Roles => Act::Kill { node: roles::turn(round), away: span },
            Harm::Partition => {
                let count = 1 + dice.below((nodes.saturating_sub(1) / 2).max(1));
                let minority = (node..node + count).map(|index| index % nodes).collect();
                Act::Partition { minority, is_dark: dice.once_in(2), lasts: span }
            }
            Harm::Takeover if dice.once_in(2) => {
                Act::Partition { minority: vec![in_turn], is_dark: dice.once_in(2), lasts: span }
            }
            Harm::Asymmetric | Harm::Takeover => {
                Act::Asymmetric { node, is_deaf: dice.once_in(2), lasts: span }
            }
            Harm::Rolling => Act::Rolling { first: in_turn },
            Harm::Replace => Act::Replace { node: in_turn, away: span },
            Harm::Grow => Act::Grow { lasts: span },
        }
    }

    /// What it does, for people, who count nodes from 1.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Act::Kill { node, away } => format!("kill node {} for {away:.1?}", node + 1),
            Act::Partition { minority, is_dark, lasts } => {
                let nodes: Vec<String> =
                    minority.iter().map(|node| (node + 1).to_string()).collect();
                let clients = if *is_dark { ", with clients" } else { "" };
                format!("cut node {} off for {lasts:.1?}{clients}", nodes.join(" and "))
            }
            Act::Asymmetric { node, is_deaf, lasts } => {
                let how = if *is_deaf { "deaf" } else { "mute" };
                format!("node {} is {how} for {lasts:.1?}", node + 1)
            }
            Act::Rolling { first } => format!("restart all from node {} on", first + 1),
            Act::Replace { node, away } => {
                format!("node {} comes back empty after {away:.1?}", node + 1)
            }
            Act::Grow { lasts } => format!("one more node for {lasts:.1?}"),
        }
    }

    /// Nodes whose clients lose them at once.
    #[must_use]
    pub fn victims(&self) -> Vec<usize> {
        match self {
            Act::Kill { node, .. } | Act::Replace { node, .. } => vec![*node],
            Act::Partition { .. }
            | Act::Asymmetric { .. }
            | Act::Rolling { .. }
            | Act::Grow { .. } => Vec::new(),
        }
    }

    /// Does it, and makes good again what can be made good. Nodes are ready afterwards.
    ///
    /// # Errors
    /// If a node does not do as it is told, or ends by itself.
    pub(crate) async fn inflict(&self, scene: &mut Scene<'_>) -> Result<()> {
        scene.stage.record_broker(What::Harmed(self.words()));
        match self {
            Act::Kill { node, away } => revive(scene, *node, *away, false).await?,
            Act::Replace { node, away } => revive(scene, *node, *away, true).await?,
            Act::Partition { minority, is_dark, lasts } => {
                let (access, wires) = match is_dark {
                    true => (Access::Dark, Vec::new()),
                    false => (Access::Harmed, between(minority, scene.cluster.nodes.len())),
                };
                let plugs: &[usize] = if *is_dark { minority } else { &[] };
                cut_for(scene, minority, access, (plugs, &wires), *lasts).await?;
            }
            Act::Asymmetric { node, is_deaf, lasts } => {
                let count = scene.cluster.nodes.len();
                let wires = between(&[*node], count).into_iter();
                let wires: Vec<_> = wires.filter(|(_, to)| (*to == *node) == *is_deaf).collect();
                cut_for(scene, &[*node], Access::Harmed, (&[], &wires), *lasts).await?;
            }
            Act::Rolling { first } => roll(scene, *first).await?,
            Act::Grow { lasts } => grow(scene, *lasts).await?,
        }
        scene.stage.record_broker(What::Healed(self.words()));
        Ok(())
    }
}

/// Who leads most, if that is known and more than others do.
fn busiest(leading: &[Option<u64>]) -> Option<usize> {
    let known: Option<Vec<u64>> = leading.iter().copied().collect();
    let known = known?;
    let most = *known.iter().max()?;
    let is_one = known.iter().filter(|count| **count == most).count() == 1;
    known.iter().position(|count| *count == most).filter(|_| is_one)
}

/// All ways between some nodes and the others, in both directions.
fn between(some: &[usize], count: usize) -> Vec<(usize, usize)> {
    let others = || (0..count).filter(|node| !some.contains(node));
    let pairs = some.iter().flat_map(|one| others().map(|other| (*one, other)));
    pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect()
}

async fn revive(scene: &mut Scene<'_>, node: usize, away: Duration, is_empty: bool) -> Result<()> {
    let store = scene.cluster.store(node).await;
    if scene.cluster.nodes[node].workload.has_clients() {
        scene.stage.shut(node, Access::Closed);
    }
    scene.cluster.nodes[node].kill()?;
    if is_empty {
        scene.cluster.nodes[node].wipe()?;
    }
    scene.pause(away).await?;
    scene.cluster.start(node)?;
    scene.ready(node).await?;
    if is_empty {
        // Its old store does not come back: it is given up without waiting for that to be clear.
        let store = store.context("nobody knew the node's store")?;
        let other = (node + 1) % scene.cluster.nodes.len();
        let admin = scene.cluster.nodes[other].addresses.admin;
        let body = format!("{{\"store\":\"{store}\"}}");
        let started = Instant::now();
        while let Err(error) = order(admin, "/cluster/replace", &body).await {
            // It has to be missed before it is given up.
            ensure!(started.elapsed() < MISSED_MAX, "{error:#}");
            scene.pause(AGAIN).await?;
        }
    }
    Ok(())
}

async fn cut_for(
    scene: &mut Scene<'_>,
    nodes: &[usize],
    access: Access,
    (plugs, wires): (&[usize], &[(usize, usize)]),
    lasts: Duration,
) -> Result<()> {
    nodes.iter().for_each(|node| scene.stage.shut(*node, access));
    let network = scene.cluster.network()?;
    plugs.iter().try_for_each(|node| network.unplug(*node))?;
    wires.iter().try_for_each(|(from, to)| network.cut(*from, *to))?;
    scene.pause(lasts).await?;
    let network = scene.cluster.network()?;
    plugs.iter().try_for_each(|node| network.plug(*node))?;
    wires.iter().try_for_each(|(from, to)| network.mend(*from, *to))?;
    for node in nodes {
        scene.ready(*node).await?;
    }
    Ok(())
}

async fn roll(scene: &mut Scene<'_>, first: usize) -> Result<()> {
    let count = scene.cluster.nodes.len();
    for node in (first..first + count).map(|node| node % count) {
        scene.stage.shut(node, Access::Closed);
        scene.cluster.nodes[node].stop().await?;
        scene.cluster.start(node)?;
        scene.ready(node).await?;
        scene.pause(BETWEEN).await?;
    }
    Ok(())
}

async fn grow(scene: &mut Scene<'_>, lasts: Duration) -> Result<()> {
    let node = scene.cluster.add()?;
    let door = scene.stage.add_door(scene.cluster.nodes[node].addresses.mqtt);
    ensure!(door == node, "doors and nodes have the same order");
    scene.cluster.start(node)?;
    scene.ready(node).await?;
    scene.pause(lasts).await?;
    let admin = scene.cluster.nodes[node].addresses.admin;
    order(admin, "/cluster/drain", "{}").await?;
    // Nobody has heard of the order yet.
    scene.cluster.emptied(node).await?;
    scene.cluster.settled().await.with_context(|| format!("draining node {}", node + 1))?;
    scene.stage.shut(node, Access::Closed);
    scene.cluster.nodes[node].stop().await
}

/// Has a node carry out an order.
async fn order(admin: SocketAddr, path: &str, body: &str) -> Result<()> {
    let answer = api::send(admin, "POST", path, body).await?;
    let is_accepted = (200..300).contains(&answer.status);
    ensure!(is_accepted, "POST {path} is answered with {}: {}", answer.status, answer.body);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Ground;

    fn plan(harm: Harm) -> Plan {
        let (ground, keep) = (Ground::Namespaces, std::path::PathBuf::new());
        let span = Duration::from_secs(9);
        Plan { seed: 3, rounds: 4, harm, ground, nodes: 3, rate: 1, span, keep }
    }

    fn acts(harm: Harm, seed: u64) -> Vec<Act> {
        let mut dice = Dice::new(seed, 0);
        (1..=6).map(|round| Act::draw(&plan(harm), round, 3, &[None; 3], &mut dice)).collect()
    }

    #[test]
    fn a_seed_decides_what_is_done() {
        for harm in [Harm::Kill, Harm::Partition, Harm::Asymmetric] {
            assert_eq!(acts(harm, 1), acts(harm, 1));
            assert_ne!(acts(harm, 1), acts(harm, 2));
        }
    }

    #[test]
    fn each_node_is_killed_in_turn() {
        let mut killed: Vec<usize> = acts(Harm::Kill, 1).iter().flat_map(Act::victims).collect();
        killed[..3].sort_unstable();
        assert_eq!(killed[..3], [0, 1, 2]);
    }

    #[test]
    fn every_other_round_meets_who_leads_most_if_there_is_one() {
        assert_eq!(busiest(&[Some(1), Some(4), Some(2)]), Some(1));
        assert_eq!(busiest(&[Some(4), Some(4), Some(2)]), None);
        assert_eq!(busiest(&[Some(4), None, Some(2)]), None);
        let mut dice = Dice::new(1, 0);
        let leading = [Some(1), Some(4), Some(2)];
        let act = Act::draw(&plan(Harm::Asymmetric), 2, 3, &leading, &mut dice);
        assert!(matches!(act, Act::Asymmetric { node: 1, .. }), "{act:?}");
    }

    #[test]
    fn all_ways_between_a_minority_and_the_others_are_cut() {
        assert_eq!(between(&[1], 3), [(1, 0), (0, 1), (1, 2), (2, 1)]);
        assert_eq!(between(&[0, 1], 5).len(), 12);
    }
}
