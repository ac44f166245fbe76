//! What is told of a cluster, for people.

use std::fmt::Write as _;

use ratatosk_admin::cluster::{Cluster, Host, HostState, Loss, Reach, Recovered, Standing, Store};

use crate::cluster::part::ROLES;
use crate::command::table;

pub(super) fn cluster(cluster: &Cluster) -> String {
    let number = cluster.cluster.as_deref().unwrap_or("without a number");
    let quorum = if cluster.quorum { "every range is led" } else { "NOT every range is led" };
    let mut text = format!("cluster {} {number}: {quorum}\n", cluster.name);
    for (what, list) in [
        ("no leader", &cluster.without_leader),
        ("overlap", &cluster.overlapping),
        ("under-replicated", &cluster.under_replicated),
    ] {
        for item in list {
            text.push_str(&format!("  {what}: {item}\n"));
        }
    }
    if let Some(clash) = &cluster.clash {
        text.push_str(&format!("  clash: {clash}\n"));
    }
    if cluster.node.leaving {
        text.push_str("  this node is about to leave\n");
    }
    text.push('\n');
    text.push_str(&hosts(cluster));
    text.push('\n');
    text.push_str(&stores(cluster));
    text
}

fn hosts(cluster: &Cluster) -> String {
    let digits = table::digits(cluster.stores.iter().map(|store| store.id.as_str()));
    let row = |host: &Host| {
        let is_own = host.id == cluster.node.host;
        let state = match host.state {
            HostState::Alive => "alive",
            HostState::Suspect => "suspect",
        };
        let stores: Vec<_> = host.stores.iter().map(|store| table::short(store, digits)).collect();
        [
            format!("{}{}", host.address, if is_own { " *" } else { "" }),
            host.calls.map(|calls| calls.to_string()).unwrap_or_default(),
            state.to_owned(),
            host.zone.clone(),
            host.version.clone(),
            stores.join(" "),
        ]
    };
    let rows: Vec<_> = cluster.hosts.iter().map(row).collect();
    table::render(["NODE", "CALLS", "STATE", "ZONE", "VERSION", "STORE"], &rows)
}

fn stores(cluster: &Cluster) -> String {
    let row = |store: &Store| {
        let host = cluster.hosts.iter().find(|host| Some(&host.id) == store.host.as_ref());
        [
            store.id.clone(),
            host.map(|host| host.address.to_string()).unwrap_or_default(),
            reach(store),
            standing(store.standing).to_owned(),
            store.labels.get(ROLES).cloned().unwrap_or_default(),
            store.leads.to_string(),
            store.votes.to_string(),
            store.learns.to_string(),
        ]
    };
    let rows: Vec<_> = cluster.stores.iter().map(row).collect();
    let head = ["STORE", "NODE", "REACH", "STANDING", "ROLES", "LEADS", "VOTES", "LEARNS"];
    let mut text = table::render(head, &rows);
    for store in &cluster.stores {
        text.push_str(&stuck(store));
    }
    text
}

fn reach(store: &Store) -> String {
    match (store.reach, store.away_seconds) {
        (Reach::Up, _) => "up".to_owned(),
        (Reach::Away, Some(seconds)) => format!("away {seconds} s"),
        (Reach::Away, None) => "away".to_owned(),
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Member => "member",
        Standing::Draining => "draining",
        Standing::GivenUp => "given up",
    }
}

fn stuck(store: &Store) -> String {
    let lines = store
        .stuck
        .iter()
        .map(|stuck| format!("store {} keeps range {}: {}\n", store.id, stuck.range, stuck.why));
    lines.collect()
}

pub(super) fn store(store: &Store) -> String {
    let Store { id, leads, votes, learns, .. } = store;
    let is_empty = leads + votes + learns == 0;
    let has = match is_empty {
        true => "has nothing".to_owned(),
        false => format!("leads {leads}, votes in {votes} and learns of {learns} ranges"),
    };
    format!("store {id} ({}) {has}\n{}", standing(store.standing), stuck(store))
}

/// What would be lost, and how to order it.
pub(super) fn losses(losses: &[Loss], ranges: &[String]) -> String {
    let rows: Vec<_> = losses
        .iter()
        .map(|loss| {
            [
                loss.range.clone(),
                loss.keyspace.clone(),
                loss.survivor.clone(),
                format!("{} of term {}", loss.log_index, loss.log_term),
                loss.lost.join(" "),
            ]
        })
        .collect();
    let head = ["RANGE", "KEYSPACE", "GOES ON WITH STORE", "ITS LAST ENTRY", "LOST WITH STORES"];
    let mut text = table::render(head, &rows);
    let mut lost: Vec<&str> =
        losses.iter().flat_map(|loss| loss.lost.iter().map(String::as_str)).collect();
    lost.sort_unstable();
    lost.dedup();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\nNothing was done. What only those stores have is lost for good: messages, sessions and \
         subscriptions that were acknowledged.\nIf they can be started again, do that instead. To go on \
         without them:\n\n  ratatosk cluster recover {}{}--accept-loss-of {}\n",
        ranges.join(" "),
        if ranges.is_empty() { "" } else { " " },
        lost.join(",")
    );
    text
}

pub(super) fn recovered(recovered: &[Recovered]) -> String {
    let line = |range: &Recovered| match &range.error {
        None => format!("range {} goes on with store {}\n", range.range, range.survivor),
        Some(error) => format!("range {} does not go on: {error}\n", range.range),
    };
    recovered.iter().map(line).collect()
}

#[cfg(test)]
#[path = "show_test.rs"]
mod tests;
