//! A service whose log is in the hands of the test: what the tests of durable sessions share.

use std::sync::Arc;

use ratatosk_client::held::HeldKeyspace;
use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::{
    Call, Message, ReplyTo, Ticket,
    call::Settlement,
    dist::InboxRoute,
    inbox::{Claim, Inbox, InboxId, SubscribeOutcome, Targets},
};

use crate::{
    InboxCoprocessor,
    fake::{Bench, bench_in, owner, tenant},
    schema::{Key, Place},
};

pub(crate) const T0: Instant = Instant::ZERO;
pub(crate) const DONE: Settlement = Settlement::Done;

/// A service whose log is in the hands of the test.
pub(crate) struct Node {
    pub(crate) bench: Bench,
    pub(crate) keyspace: Arc<HeldKeyspace>,
}

pub(crate) fn epoch() -> Epoch {
    Epoch::new(T0, Timestamp::from_millis(1_700_000_000_000))
}

pub(crate) fn coprocessor() -> Box<InboxCoprocessor> {
    Box::new(InboxCoprocessor::new())
}

/// A node with nothing in it.
pub(crate) fn node() -> Node {
    Node::on(HeldKeyspace::new(coprocessor()), T0)
}

pub(crate) fn reply(ticket: u64) -> Option<ReplyTo> {
    Some(ReplyTo { session: owner(900), ticket: Ticket(ticket) })
}

pub(crate) fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

impl Node {
    pub(crate) fn on(keyspace: Arc<HeldKeyspace>, now: Instant) -> Self {
        let bench = bench_in(&keyspace, epoch(), now);
        Node { bench, keyspace }
    }

    /// What is there after a crash at this moment.
    pub(crate) fn crash(&self, now: Instant) -> Node {
        Node::on(self.keyspace.crash(coprocessor()), now)
    }

    /// A session with a subscription of its own, both durable.
    pub(crate) fn session(&self, client: &str) -> Claim {
        let claim = self.bench.attach(client, T0).claim;
        let outcome = self.bench.subscribe(claim, client, Qos::ExactlyOnce);
        assert!(matches!(outcome, SubscribeOutcome::Done { .. }));
        self.keyspace.settle();
        claim
    }

    pub(crate) fn route(&self, claim: Claim) -> InboxRoute {
        let routes = self.bench.routes.inboxes.lock();
        routes.iter().find(|held| held.1.inbox == claim.inbox).unwrap().1
    }

    pub(crate) fn append(
        &self,
        claims: &[Claim],
        message: &Message<'_>,
        ticket: u64,
    ) -> Call<Settlement> {
        let routes: Vec<_> = claims.iter().map(|claim| self.route(*claim)).collect();
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        self.bench.inbox.append(targets, message, None, reply(ticket), &mut Vec::new())
    }

    pub(crate) fn settled(&self) -> Vec<(u64, Settlement)> {
        self.bench.sessions.take_settled()
    }

    /// The keys of a session that are left.
    pub(crate) fn places(&self, inbox: InboxId) -> Vec<Place> {
        let keys = self.keyspace.content();
        let keys = keys.iter().map(|(key, _)| Key::parse(key).unwrap());
        keys.filter(|key| key.inbox == inbox).map(|key| key.place).collect()
    }
}
