//! Messages for transient sessions that wait for an exchange of their publisher.
//!
//! A publisher with a persistent session that loses its node brings a message of QoS 2 again, at another
//! one, unless its exchange was durable. Transient sessions of hosts that live would have it twice, and
//! nobody could tell. So among several hosts it goes to transient sessions once its exchange is durable; to
//! those of this host, too, because a publisher may leave a host that lives. DUR-003
//!
//! What the same connection publishes meanwhile waits behind it, whatever its QoS: nobody overtakes. If it
//! is not known whether the exchange was accepted, the publisher loses its connection and brings again what
//! has no answer: so nobody is given what has none. Whoever has no queue may lack a message then, but
//! has none twice.
//!
//! A host that stands alone takes its transient sessions with it, and withholds nothing.
//!
//! `bytes` is the sum of the queues'. A connection that has [`QUEUE_BYTES_MAX`] withheld, or anything while the
//! shard has [`SHARD_LANES`] lanes' worth, brings nothing more until an exchange of its own has settled.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message, ReplyTo, SessionRef, ShardId, StoredMessage, Ticket, call::Settlement, group::Group,
};
use ratatosk_session::DropReason;
use ratatosk_telemetry::memory::{Hold, Share};
use ratatosk_topic::{TopicLimits, TopicName};

use super::{
    Shard,
    away::FarMember,
    publish::{Sender, group_key},
    topic_cache::Resolved,
    wire::MemberTarget,
};
use crate::tenants::TenantNumber;

/// How much one connection may have withheld before it is not read.
const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// How much a shard withholds before those that it withholds from are not read, as a multiple of what a
/// lane may hold, which is less while memory is short.
const SHARD_LANES: usize = 2;

/// What a shard withholds.
#[derive(Default)]
pub(super) struct Withheld {
    queues: HashMap<SessionRef, Queue, foldhash::fast::RandomState>,
    bytes: usize,
}

/// What one connection published, in its order.
#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
}

struct Item {
    tenant: TenantNumber,
    message: StoredMessage,
    /// That of the publisher, which waits for as long as the message is here; of QoS 0 nobody waits.
    ticket: Option<Ticket>,
    /// Its exchange is not durable.
    awaits_exchange: bool,
    members: Vec<(ShardId, MemberTarget)>,
    chosen: Vec<FarMember>,
    /// What it takes, with its payload.
    bytes: usize,
    /// A payload that is shared is charged where it came from.
    _hold: Hold,
    _owed: Owed,
}

/// Something that is owed, and counts for whoever stops the node.
pub(super) struct Owed(Arc<AtomicUsize>);

impl Owed {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Owed(Arc::clone(count))
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Withheld {
    fn push(&mut self, session: SessionRef, item: Item) {
        let queue = self.queues.entry(session).or_default();
        self.bytes += item.bytes;
        queue.bytes += item.bytes;
        queue.items.push_back(item);
    }

    /// Takes the first of a connection's messages, if it waits for nothing.
    fn pop(&mut self, session: SessionRef) -> Option<Item> {
        let queue = self.queues.get_mut(&session)?;
        let item = queue.items.pop_front_if(|item| !item.awaits_exchange)?;
        queue.bytes -= item.bytes;
        self.bytes -= item.bytes;
        if queue.items.is_empty() {
            self.queues.remove(&session);
        }
        Some(item)
    }

    /// The exchange of a message has its outcome, if one is awaited under this ticket.
    fn settle(&mut self, session: SessionRef, ticket: Ticket, is_accepted: bool) -> Settled {
        let Some(queue) = self.queues.get_mut(&session) else { return Settled::Nothing };
        let is_it = |item: &Item| item.awaits_exchange && item.ticket == Some(ticket);
        let Some(at) = queue.items.iter().position(is_it) else { return Settled::Nothing };
        if !is_accepted {
            return Settled::Refused { at };
        }
        queue.items[at].awaits_exchange = false;
        Settled::Accepted
    }

    /// Takes members of some groups from whom a message is withheld under this ticket; answers how many
    /// and whose they are.
    fn spare(
        &mut self,
        session: SessionRef,
        ticket: Ticket,
        groups: &[Arc<Group>],
    ) -> Option<(TenantNumber, usize)> {
        let queue = self.queues.get_mut(&session)?;
        let is_it = |item: &&mut Item| item.awaits_exchange && item.ticket == Some(ticket);
        let item = queue.items.iter_mut().find(is_it)?;
        let before = item.members.len() + item.chosen.len();
        let is_of = |route, key| {
            let key_of = |group: &Group| group_key(&group.name, group.is_ordered);
            groups.iter().any(|group| group.route == route && key_of(group) == key)
        };
        item.members.retain(|(_, member)| !is_of(member.route, member.group));
        item.chosen.retain(|FarMember { group, .. }| {
            !is_of(group.route, group_key(&group.name, group.is_ordered))
        });
        Some((item.tenant, before - item.members.len() - item.chosen.len()))
    }

    /// Takes a message out of its line, and with `all` what is behind it and has a publisher that waits.
    fn take_back(&mut self, session: SessionRef, at: usize, all: bool) -> Vec<Item> {
        let Some(queue) = self.queues.get_mut(&session) else { return Vec::new() };
        let behind = queue.items.split_off(at);
        let is_taken = |(place, item): &(usize, Item)| *place == 0 || all && item.ticket.is_some();
        let (taken, left): (Vec<_>, Vec<_>) = behind.into_iter().enumerate().partition(is_taken);
        queue.items.extend(left.into_iter().map(|(_, item)| item));
        let taken: Vec<Item> = taken.into_iter().map(|(_, item)| item).collect();
        let bytes: usize = taken.iter().map(|item| item.bytes).sum();
        queue.bytes -= bytes;
        self.bytes -= bytes;
        if queue.items.is_empty() {
            self.queues.remove(&session);
        }
        taken
    }
}

/// What an outcome was to what is withheld.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Settled {
    Nothing,
    Accepted,
    /// The message at this place has to come again, if at all.
    Refused {
        at: usize,
    },
}

impl Shard {
    /// Withholds a message from transient sessions if it has to wait, or to stay behind one that waits.
    /// Its publisher, if it waits, waits for one outcome then. What was chosen on other hosts goes with it.
    #[inline]
    pub(super) fn withhold(
        &mut self,
        number: TenantNumber,
        (resolved, members): (&Resolved, &[(ShardId, MemberTarget)]),
        message: &Message<'_>,
        sender: Sender,
        awaits_exchange: bool,
    ) -> bool {
        let Some(session) = sender.session else { return false };
        let is_due = (awaits_exchange && self.node.relay.is_some())
            || (!self.withheld.queues.is_empty() && self.withheld.queues.contains_key(&session));
        let has_locals = !(resolved.locals.is_empty() && resolved.remote.is_empty());
        let is_wanted = has_locals
            || !(members.is_empty() && resolved.hosts.is_empty() && self.away.chosen.is_empty());
        if !is_due || !is_wanted {
            return false;
        }
        let ticket = sender.reply_to.map(|reply_to| reply_to.ticket);
        let bytes = message.stored_bytes() + message.payload.len();
        let own = if message.shared.is_some() { message.stored_bytes() } else { bytes };
        let item = Item {
            tenant: number,
            message: message.to_stored(),
            ticket,
            awaits_exchange,
            members: members.to_vec(),
            chosen: std::mem::take(&mut self.away.chosen),
            bytes,
            _hold: self.tenant(number).account.hold(Share::Queues, own),
            _owed: Owed::new(&self.node.owed),
        };
        self.withheld.push(session, item);
        true
    }

    /// Whether so much of a connection is withheld that it is to bring nothing more. An exchange of its own
    /// that settles has it brought again.
    #[inline]
    pub(super) fn withholds_enough(&self, session: SessionRef) -> bool {
        if self.withheld.queues.is_empty() {
            return false;
        }
        let is_crowded = self.withheld.bytes > SHARD_LANES * self.lane_max();
        let queue = self.withheld.queues.get(&session);
        queue.is_some_and(|queue| is_crowded || queue.bytes > QUEUE_BYTES_MAX)
    }

    /// Other members of some groups have a message that waits for its exchange. DUR-010
    pub(super) fn spare_withheld(
        &mut self,
        session: SessionRef,
        ticket: Ticket,
        groups: &[Arc<Group>],
    ) {
        if let Some((tenant, count)) = self.withheld.spare(session, ticket, groups) {
            let flow = self.flow(tenant);
            flow.copies += count as u64;
            flow.stored += count as u64;
        }
    }

    /// An exchange may have its outcome: what waited for it goes on, or is given up.
    #[inline]
    pub(super) fn settle_withheld(
        &mut self,
        session: SessionRef,
        ticket: Ticket,
        settlement: Settlement,
    ) {
        if self.withheld.queues.is_empty() {
            return;
        }
        match self.withheld.settle(session, ticket, settlement == Settlement::Done) {
            Settled::Nothing => return,
            Settled::Accepted => {}
            Settled::Refused { at } => {
                // Who is not known to be accepted loses the connection, and brings again what has no
                // answer: what is behind would come out of order.
                let all = settlement == Settlement::Unknown;
                for item in self.withheld.take_back(session, at, all) {
                    self.flow(item.tenant).lost(DropReason::SessionClosed);
                    item.ticket.into_iter().for_each(|ticket| self.tell(session, ticket));
                }
            }
        }
        while let Some(item) = self.withheld.pop(session) {
            self.hand_on_withheld(session, item);
        }
    }

    fn hand_on_withheld(&mut self, session: SessionRef, item: Item) {
        let message = item.message.as_message();
        let Ok(topic) = TopicName::parse(message.topic, &TopicLimits::PROTOCOL) else { return };
        // As they are now: who had a place in this shard then may have left it to somebody else.
        let resolved = self.resolve(item.tenant, topic);
        debug_assert!(self.away.chosen.is_empty(), "what is chosen for a message goes with it");
        self.away.chosen = item.chosen;
        let reply_to = item.ticket.map(|ticket| ReplyTo { session, ticket });
        let receivers = (&*resolved, &item.members[..]);
        let parts = self.hand_on(item.tenant, receivers, &message, reply_to);
        if let Some(ticket) = item.ticket {
            debug_assert!(message.qos != Qos::AtMostOnce, "nobody waits for QoS 0");
            if let Some(connection) = self.connection(session) {
                connection.session.expect(ticket, parts);
            }
            self.tell(session, ticket);
        }
    }

    /// A publisher that waits for what was withheld waits for the rest only.
    fn tell(&mut self, session: SessionRef, ticket: Ticket) {
        self.drive(session, |machine, _, _| machine.settle(ticket, Settlement::Done));
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_clock::Instant;
    use ratatosk_contract::{HostNumber, PublisherId, dist::RouteId};
    use ratatosk_telemetry::memory::Accountant;

    use super::*;
    use crate::shard::publish::member_target;

    const SESSION: SessionRef = SessionRef { shard: ShardId(0), slot: 1, generation: 2 };

    /// Messages in their order: `e` waits for its exchange, `1` is behind and has a publisher that waits, `0`
    /// has none.
    fn withheld(kinds: &str) -> Withheld {
        let accountant = Accountant::default();
        let mut withheld = Withheld::default();
        for (number, kind) in (1..).zip(kinds.chars()) {
            let message = Message {
                topic: "t",
                payload: b"x",
                shared: None,
                properties: b"",
                qos: if kind == '0' { Qos::AtMostOnce } else { Qos::ExactlyOnce },
                retain: false,
                publisher: PublisherId(1),
                accepted: Instant::ZERO,
                deadline: None,
            };
            let item = Item {
                tenant: TenantNumber(0),
                message: message.to_stored(),
                ticket: (kind != '0').then_some(Ticket(number)),
                awaits_exchange: kind == 'e',
                members: Vec::new(),
                chosen: Vec::new(),
                bytes: 10,
                _hold: accountant.account("t").hold(Share::Queues, 0),
                _owed: Owed::new(&Arc::default()),
            };
            withheld.push(SESSION, item);
        }
        withheld
    }

    /// The tickets of those that go now; 0 for one that has none.
    fn go(withheld: &mut Withheld) -> Vec<u64> {
        let next = || withheld.pop(SESSION).map(|item| item.ticket.map_or(0, |ticket| ticket.0));
        std::iter::from_fn(next).collect()
    }

    /// DUR-003, MQTT-069: what is behind a message goes with it, and not before.
    #[test]
    fn a_message_goes_when_its_exchange_is_settled_and_those_before_it() {
        let mut withheld = withheld("e01e1e");
        assert!(go(&mut withheld).is_empty());
        assert_eq!(withheld.settle(SESSION, Ticket(3), true), Settled::Nothing, "it has none");
        assert_eq!(withheld.settle(SESSION, Ticket(4), true), Settled::Accepted);
        assert!(go(&mut withheld).is_empty());
        assert_eq!(withheld.settle(SESSION, Ticket(1), true), Settled::Accepted);
        assert_eq!(go(&mut withheld), [1, 0, 3, 4, 5]);
        assert_eq!(withheld.bytes, 10);
        let other = SessionRef { generation: 3, ..SESSION };
        assert_eq!(withheld.settle(other, Ticket(6), true), Settled::Nothing);
        assert_eq!(withheld.settle(SESSION, Ticket(6), true), Settled::Accepted);
        assert_eq!(go(&mut withheld), [6]);
        assert!(withheld.bytes == 0 && withheld.queues.is_empty());
    }

    /// DUR-003: behind a message of which nobody knows whether it was accepted nobody is given what its publisher
    /// brings again; what is before it, and what comes once only, is.
    #[test]
    fn a_message_that_comes_again_takes_those_behind_it_along() {
        let mut behind = withheld("e0e01e");
        assert_eq!(behind.settle(SESSION, Ticket(3), false), Settled::Refused { at: 2 });
        let taken = behind.take_back(SESSION, 2, true);
        let tickets: Vec<_> = taken.iter().map(|item| item.ticket).collect();
        assert_eq!(tickets, [Some(Ticket(3)), Some(Ticket(5)), Some(Ticket(6))]);
        assert_eq!(behind.settle(SESSION, Ticket(6), true), Settled::Nothing);
        assert_eq!(behind.settle(SESSION, Ticket(1), true), Settled::Accepted);
        assert_eq!(go(&mut behind), [1, 0, 0]);
        assert_eq!(behind.bytes, 0);

        let mut refused = withheld("ee");
        assert_eq!(refused.settle(SESSION, Ticket(1), false), Settled::Refused { at: 0 });
        assert_eq!(refused.take_back(SESSION, 0, false).len(), 1);
        assert_eq!(refused.settle(SESSION, Ticket(2), true), Settled::Accepted);
        assert_eq!(go(&mut refused), [2], "it is another message");
        assert_eq!(refused.bytes, 0);
    }

    /// DUR-010, DIST-011: of groups whose other members have a message no transient one is given it, here or
    /// elsewhere; those of other groups are.
    #[test]
    fn members_are_spared_what_others_of_their_group_have() {
        let mut withheld = withheld("1e");
        let group = |index, name: &str| {
            let route = RouteId { index, generation: 0 };
            let (members, cursor) = (Vec::new(), 0.into());
            Arc::new(Group { name: name.into(), is_ordered: false, route, members, cursor })
        };
        let groups = [group(1, "g"), group(1, "h"), group(2, "g")];
        for item in &mut withheld.queues.get_mut(&SESSION).unwrap().items {
            for group in &groups {
                item.members.push((ShardId(0), member_target(group, SESSION, 0)));
                let (host, group) = (HostNumber(3), Arc::clone(group));
                item.chosen.push(FarMember { host, id: 7, incarnation: 1, group, hops: 0 });
            }
        }
        let mut spare = |ticket, groups| withheld.spare(SESSION, Ticket(ticket), groups);
        assert_eq!(spare(2, &groups[1..2]), Some((TenantNumber(0), 2)));
        assert_eq!(spare(2, &groups[1..2]), Some((TenantNumber(0), 0)));
        assert_eq!(spare(1, &groups[..]), None, "it waits for no exchange");
        let left = |item: &Item| (item.members.len(), item.chosen.len());
        let items = &withheld.queues[&SESSION].items;
        assert_eq!(items.iter().map(left).collect::<Vec<_>>(), [(3, 3), (2, 2)]);
        assert!(items[1].chosen.iter().all(|member| &*member.group.name == "g"));
    }
}
