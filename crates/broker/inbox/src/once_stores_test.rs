//! A message of QoS 2 for two ranges at three stores, whose leaders are cut off between its commands.

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Call,
    call::Settlement,
    inbox::{Attach, Claim, Targets},
    serving::{Once, Serving as _, Terms},
};
use ratatosk_store::command;
use ratatosk_stores::{until, version_of, wait};

use crate::{
    durable_fixture::{id, reply},
    fake::{identity, message, owner, payloads, tenant},
    partitions::partition_number,
    reign_fixture::{apart, route_to},
    schema::partition_keys,
    stores_fixture::{Cluster, KEYSPACE, STORES},
};

const ROUNDS: u16 = 6;

impl Cluster {
    fn attach_where_served(&mut self, client: &str) -> Claim {
        until("it is served", || {
            let place = crate::partitions::partition_of(&identity(client));
            let (store, ticket) = (self.seat_of(place)?, self.ticket());
            let bench = &self.benches[&store];
            let (identity, limits) = (&identity(client), bench.limits);
            let (owner, now, will) = (owner(1), Instant::ZERO, None);
            let attach =
                Attach { identity, owner, is_clean: false, expiry_s: None, limits, will, now };
            let claim = bench.inbox.attach_here(&attach, reply(ticket)).ok()?.answer.claim;
            (self.outcome(ticket) == Settlement::Done).then_some(claim)
        })
    }

    fn split(&self, place: usize) {
        let (whole, key) = (self.stores.whole(KEYSPACE), partition_keys(place).start);
        until("it is parted", || {
            let handle = self.stores.handle(self.stores.leader_now(whole.group)?);
            let order = command::split(version_of(&handle, &whole)?, &key);
            matches!(wait(|reply| handle.propose(whole.group, order, reply)), Some(Ok(_)))
                .then_some(())
        });
    }

    /// The store that serves a claim, where its owner goes on.
    fn resume_at(&self, claim: Claim) -> Option<u64> {
        let store = self.seat_of(partition_number(claim.inbox.0))?;
        self.benches[&store].inbox.resume(claim, owner(9)).is_ok().then_some(store)
    }

    fn begin(&mut self, claim: Claim, packet_id: u16) -> Once {
        until("it is begun", || {
            let (store, ticket) = (self.resume_at(claim)?, self.ticket());
            let inbox = &self.benches[&store].inbox;
            let begun = inbox.begin((claim, id(packet_id)), 7, &[], reply(ticket)).ok()?;
            (self.outcome(ticket) == Settlement::Done).then_some(begun.answer.once)
        })
    }

    /// Sends a part until it is done; answers by which store.
    fn send(&mut self, to: Claim, exchange: Option<(Claim, u16)>, once: Once) -> u64 {
        until("it is done", || {
            let (store, ticket) = (self.resume_at(to)?, self.ticket());
            let routes = [route_to(to)];
            let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
            let exchange = exchange.map(|(claim, packet_id)| (claim, id(packet_id)));
            let terms = Terms { exchange, once: Some(once), reply_to: reply(ticket) };
            let payload = once.number.to_string();
            let message = message(&payload, Qos::ExactlyOnce);
            let inbox = &self.benches[&store].inbox;
            match inbox.append_on(targets, &message, terms, &mut Vec::new()) {
                Call::Pending => (self.outcome(ticket) == Settlement::Done).then_some(store),
                Call::Ready(_) => None,
            }
        })
    }
}

/// DUR-010, DUR-003: the leader of one range or the other is cut off when the first part of a message is done, or
/// nobody knows; the publisher begins it again, and each session has it once.
#[test]
fn a_leader_that_goes_between_two_parts_has_nobody_get_a_message_twice() {
    let (low, high, place) = apart();
    let mut cluster = Cluster::new();
    let publisher = cluster.attach_where_served(low);
    let other = cluster.attach_where_served(high);
    cluster.split(place);
    let mut expected = Vec::new();
    for round in 1..=ROUNDS {
        let once = cluster.begin(publisher, round);
        let by = cluster.send(other, None, once);
        let cut_off = match round % 3 {
            0 => by,
            1 => until("it is served", || cluster.resume_at(publisher)),
            _ => by % STORES + 1,
        };
        cluster.stores.cut_off(cut_off);
        // What whoever was cut off is asked he does not answer, as long as he believes that he leads.
        for claim in [publisher, other] {
            let place = partition_number(claim.inbox.0);
            until("another leads", || cluster.seat_of(place).filter(|seat| *seat != cut_off));
        }
        assert_eq!(cluster.begin(publisher, round), once, "it is the same message");
        cluster.send(other, None, once);
        cluster.send(publisher, Some((publisher, round)), once);
        cluster.stores.mend(cut_off);
        expected.push(once.number.to_string());
        for claim in [publisher, other] {
            let store = until("it is served", || cluster.resume_at(claim));
            let entries = until("it has all", || {
                let entries = cluster.benches[&store].fetch_all(claim);
                (entries.len() >= expected.len()).then_some(entries)
            });
            assert_eq!(payloads(&entries), expected);
        }
    }
    cluster.stop();
}
