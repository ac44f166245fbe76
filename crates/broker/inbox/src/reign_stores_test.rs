//! Inboxes at three stores that keep one range, with threads and disks, while leadership moves and leaders
//! are cut off.

use std::collections::BTreeSet;

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Call,
    call::Settlement,
    inbox::{Attach, Claim, Inbox as _, Sequence, Targets},
};
use ratatosk_stores::until;

use crate::{
    durable_fixture::{id, reply},
    fake::{BUDGET, identity, message, owner, tenant},
    partitions::partition_of,
    reign_fixture::{route_to, text},
    stores_fixture::{Cluster, STORES},
};

const ROUNDS: u64 = 10;
const MESSAGES: u64 = 30;

impl Cluster {
    /// The store that serves the client.
    fn seat(&self) -> Option<u64> {
        self.seat_of(partition_of(&identity("c")))
    }

    fn append(&mut self, claim: Claim, payload: &str) -> Option<u64> {
        let (store, ticket) = (self.seat()?, self.ticket());
        let (routes, message) = ([route_to(claim)], message(payload, Qos::AtLeastOnce));
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        let inbox = &self.benches[&store].inbox;
        match inbox.append(targets, &message, None, reply(ticket), &mut Vec::new()) {
            Call::Pending => Some(ticket),
            Call::Ready(settlement) => {
                assert_ne!(settlement, Settlement::Done, "it is not durable yet");
                None
            }
        }
    }

    /// The owner goes on wherever the session is served.
    fn resume(&self, claim: Claim) -> u64 {
        until("it goes on", || {
            let store = self.seat()?;
            self.benches[&store].inbox.resume(claim, owner(9)).is_ok().then_some(store)
        })
    }

    /// Shows a claim everywhere; at how many stores it came to something.
    fn accepted(&mut self, claim: Claim) -> usize {
        let tickets: Vec<_> = (1..=STORES)
            .filter_map(|store| {
                let ticket = self.ticket();
                let inbox = &self.benches[&store].inbox;
                inbox.inbound(claim, id(1), false, reply(ticket)).ok().map(|_| ticket)
            })
            .collect();
        let is_done = |ticket| self.outcome(ticket) == Settlement::Done;
        tickets.into_iter().map(is_done).filter(|is_done| *is_done).count()
    }
}

/// INBOX-002, KV-007, DUR-001: what was acknowledged is there at whichever store serves it next, what was
/// committed does not come again, and a claim holds at one store.
#[test]
fn sessions_go_on_at_whichever_store_leads() {
    let mut cluster = Cluster::new();
    let claim = until("it is served", || {
        let (store, ticket) = (cluster.seat()?, cluster.ticket());
        let bench = &cluster.benches[&store];
        let (identity, limits) = (&identity("c"), bench.limits);
        let (owner, now) = (owner(1), Instant::ZERO);
        let limits = ratatosk_contract::inbox::QueueLimits { messages_max: 10_000, ..limits };
        let attach =
            Attach { identity, owner, is_clean: false, expiry_s: None, limits, will: None, now };
        let claim = bench.inbox.attach_here(&attach, reply(ticket)).ok()?.answer.claim;
        (cluster.outcome(ticket) == Settlement::Done).then_some(claim)
    });
    let (mut acknowledged, mut committed) = (BTreeSet::new(), BTreeSet::new());
    let mut given_up = BTreeSet::new();
    for round in 0..ROUNDS {
        let leader = cluster.stores.leader(cluster.group);
        let mut tickets: Vec<(u64, String)> = Vec::new();
        for number in 0..MESSAGES {
            let payload = format!("{round}/{number}");
            tickets.extend(cluster.append(claim, &payload).map(|ticket| (ticket, payload)));
            if number == MESSAGES / 2 {
                if let Some((ticket, _)) = tickets.last() {
                    // What is on its way then is for the move.
                    cluster.outcome(*ticket);
                }
                match round % 4 {
                    3 => cluster.stores.cut_off(leader),
                    _ => cluster.stores.handle(leader).transfer(cluster.group, leader % STORES + 1),
                }
            }
        }
        if round % 4 == 3 {
            until("another leads", || {
                let other = cluster.seat().filter(|seat| *seat != leader)?;
                // It may have committed what was on its way, but nothing that comes now.
                cluster.benches[&other].inbox.serves(0)
            });
            let payload = format!("{round}/late");
            let ghost = cluster.append(claim, &payload);
            cluster.stores.mend(leader);
            tickets.extend(ghost.map(|ticket| (ticket, payload)));
        }
        for (ticket, payload) in tickets {
            if cluster.outcome(ticket) == Settlement::Done {
                acknowledged.insert(payload);
            }
        }
        let store = cluster.resume(claim);
        assert!(cluster.accepted(claim) <= 1, "a claim holds at one store");
        let mut entries = Vec::new();
        let bench = &cluster.benches[&store];
        if bench.inbox.fetch(claim, Sequence(0), BUDGET, &mut entries).is_err() {
            continue;
        }
        let sequences: Vec<_> = entries.iter().map(|entry| entry.sequence.0).collect();
        assert!(sequences.is_sorted_by(|one, two| one < two));
        let found: Vec<_> = entries.iter().map(|entry| text(&entry.message.payload)).collect();
        for payload in &found {
            assert!(!committed.contains(payload), "{payload} was committed for good");
        }
        let is_there = |payload: &String| found.contains(payload) || given_up.contains(payload);
        let lost: Vec<_> = acknowledged.iter().filter(|payload| !is_there(payload)).collect();
        assert!(lost.is_empty(), "{lost:?} was acknowledged");
        let ticket = cluster.ticket();
        let bench = &cluster.benches[&store];
        let half = sequences.len() / 2;
        let commits = sequences[..half].iter();
        let mut commits = commits.map(|at| bench.inbox.commit(claim, Sequence(*at)).is_ok());
        let are_all = commits.all(|is_ok| is_ok);
        given_up.extend(found[..half].iter().cloned());
        let fence = bench.inbox.inbound(claim, id(1), true, reply(ticket));
        if are_all && fence.is_ok() && cluster.outcome(ticket) == Settlement::Done {
            committed.extend(found[..half].iter().cloned());
        }
    }
    assert!(acknowledged.len() >= 50, "{} of {}", acknowledged.len(), ROUNDS * MESSAGES);
    assert!(!committed.is_empty());
    cluster.stop();
}
