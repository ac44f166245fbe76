//! From a message to its receivers: the hot path.
//!
//! A publisher mostly publishes to the topic it published to before, so each connection remembers
//! its last topic resolved; two numbers tell whether that still holds. Then the message is
//! appended to the outputs of this shard's sessions, to one batch for each other shard that has
//! some, and handed to one member of each shared group. Nothing on the way is locked, allocated
//! or awaited per message.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use ratatosk_codec::PacketId;
use ratatosk_contract::{
    Call, Message, PublisherId, ReplyTo, SessionRef, ShardId,
    call::Settlement,
    dist::{InboxRoute, Resolution, RouteId},
    group::{Group, Member, MemberTarget as GroupTarget},
    inbox::{Claim, DirectDelivery, InboxId, SharedRoute, Targets},
};
use ratatosk_session::{Delivered, Delivery, DropReason, Origin};
use ratatosk_telemetry::memory::Pressure;
use ratatosk_topic::TopicName;

use super::{
    Shard,
    away::FarMember,
    connection::SharedSubscription,
    outcome::Outcome,
    regroup::Returned,
    topic_cache::{LocalTarget, Resolved},
    wire::MemberTarget,
};
use crate::tenants::TenantNumber;

/// Who publishes a message.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Sender {
    /// The connection that brought it; `None` if none did.
    pub(super) session: Option<SessionRef>,
    /// The exchange of QoS 2 that it belongs to, if its session is persistent.
    pub(super) exchange: Option<(Claim, PacketId)>,
    /// Who waits for what becomes of it.
    pub(super) reply_to: Option<ReplyTo>,
}

impl Shard {
    /// Whether a resolved topic still holds.
    #[inline]
    pub(super) fn is_fresh(&self, tenant: TenantNumber, resolved: &Resolved) -> bool {
        let tenant = self.tenant(tenant);
        resolved.epoch == tenant.routes.epoch() && resolved.local_epoch == tenant.locals.epoch()
    }

    /// The receivers of a topic, from the shard's cache or from dist.
    pub(super) fn resolve(&mut self, number: TenantNumber, topic: TopicName<'_>) -> Rc<Resolved> {
        let known = self.tenant_mut(number).cache.find(topic.as_str());
        if let Some(resolved) = known
            && self.is_fresh(number, &resolved)
        {
            self.stats.cache_hits += 1;
            return resolved;
        }
        self.stats.cache_misses += 1;
        let mut found = std::mem::take(&mut self.found);
        let tenant = self.tenant_mut(number);
        tenant.routes.resolve(topic, &mut found);
        let resolved = Rc::new(self.expand(number, topic, &mut found));
        self.found = found;
        // Caches are not filled again while they are what has to go.
        if self.node.memory.pressure() < Pressure::Caches {
            self.tenant_mut(number).cache.insert(Rc::clone(&resolved));
        }
        resolved
    }

    /// Looks up this shard's own sessions for what dist found.
    fn expand(
        &self,
        number: TenantNumber,
        topic: TopicName<'_>,
        found: &mut Resolution,
    ) -> Resolved {
        let tenant = self.tenant(number);
        let mut locals = Vec::new();
        let mut remote: Vec<(ShardId, Vec<RouteId>)> = Vec::new();
        for transient in &found.transient {
            for shard in transient.shards.iter() {
                if shard == self.id {
                    let sessions = tenant.locals.sessions(transient.route).iter();
                    locals.extend(sessions.map(|subscription| LocalTarget {
                        slot: subscription.slot,
                        subscription_id: subscription.subscription_id,
                        options: subscription.options,
                    }));
                    continue;
                }
                match remote.iter_mut().find(|(known, _)| *known == shard) {
                    Some((_, routes)) => routes.push(transient.route),
                    None => remote.push((shard, vec![transient.route])),
                }
            }
        }
        Resolved {
            topic: topic.as_str().into(),
            epoch: found.epoch,
            local_epoch: tenant.locals.epoch(),
            locals,
            remote,
            inboxes: found.inboxes.clone(),
            groups: std::mem::take(&mut found.groups),
            hosts: found.hosts.clone(),
        }
    }

    /// Hands a message to all receivers of its topic. What may be refused goes first: nobody has
    /// a message that its publisher is going to bring again.
    pub(super) fn distribute(
        &mut self,
        number: TenantNumber,
        resolved: &Resolved,
        message: &Message<'_>,
        sender: Sender,
        outcome: &mut Outcome,
    ) {
        let Sender { exchange, reply_to, .. } = sender;
        let mut members = std::mem::take(&mut self.members);
        let mut shared = std::mem::take(&mut self.shared);
        for group in &resolved.groups {
            match group.choose(message.publisher, None) {
                Some(member) => {
                    self.sort(group, member, message.publisher, &mut members, &mut shared);
                }
                None => self.flow(number).lost(DropReason::SessionClosed),
            }
        }
        let call = self.append(number, (&resolved.inboxes, &shared), message, exchange, reply_to);
        shared.clear();
        let is_refused = reply_to.is_some() && refusal(call).is_some();
        // The publisher's session has another owner, who brings the message again.
        let is_disowned = exchange.is_some() && call == Call::Ready(Settlement::Unknown);
        if is_refused || is_disowned {
            self.away.chosen.clear();
        } else {
            let awaits_exchange = exchange.is_some() && call == Call::Pending;
            let receivers = (resolved, &members[..]);
            let is_withheld = self.withhold(number, receivers, message, sender, awaits_exchange);
            if is_withheld {
                outcome.add_pending(u32::from(reply_to.is_some()));
            } else {
                outcome.add_pending(self.hand_on(number, receivers, message, reply_to));
            }
        }
        members.clear();
        self.members = members;
        self.shared = shared;
        outcome.add(call);
    }

    /// Hands a message to transient sessions: to those of its topic, to members of groups that were
    /// chosen here, and to those on other hosts. Answers for how many hosts its publisher waits.
    pub(super) fn hand_on(
        &mut self,
        number: TenantNumber,
        (resolved, members): (&Resolved, &[(ShardId, MemberTarget)]),
        message: &Message<'_>,
        reply_to: Option<ReplyTo>,
    ) -> u32 {
        self.flow(number).copies += (resolved.locals.len() + members.len()) as u64;
        for target in &resolved.locals {
            self.deliver_local(number, target, message);
        }
        for (shard, routes) in &resolved.remote {
            self.outbound[shard.index()].push_routed(number, routes, message);
            self.has_outbound = true;
        }
        for (shard, target) in members {
            self.send_member(number, *shard, target, message);
        }
        if resolved.hosts.is_empty() && self.away.chosen.is_empty() {
            return 0;
        }
        self.send_away(number, &resolved.hosts, message, reply_to)
    }

    /// Puts a member that was chosen among those of its kind.
    fn sort(
        &mut self,
        group: &Arc<Group>,
        member: &Member,
        publisher: PublisherId,
        members: &mut Vec<(ShardId, MemberTarget)>,
        shared: &mut Vec<SharedRoute>,
    ) {
        match member.target {
            GroupTarget::Session(session) => {
                members.push((session.shard, member_target(group, session, 0)));
            }
            GroupTarget::Inbox(inbox) => shared.push(shared_route(group, member, inbox)),
            GroupTarget::Host(host) => match other_with_room(group, member, publisher) {
                Some(other) if other.host().is_none() => {
                    self.sort(group, other, publisher, members, shared);
                }
                other => {
                    let host = other.and_then(Member::host).unwrap_or(host);
                    let member = other.unwrap_or(member);
                    self.away.chosen.push(FarMember::new(group, member, host, 0));
                }
            },
        }
    }

    #[inline]
    fn deliver_local(&mut self, number: TenantNumber, target: &LocalTarget, message: &Message<'_>) {
        let id = target.subscription_id;
        let delivery = Delivery {
            message,
            options: target.options,
            subscription_id: (id != 0).then_some(id),
            is_retained: false,
            origin: None,
        };
        let Some(connection) = self.slots[target.slot as usize].connection.as_deref_mut() else {
            // The publisher itself: its session is at work.
            let generation = self.slots[target.slot as usize].generation;
            let address = (target.slot, generation);
            let subscription_id = delivery.subscription_id;
            let own = &mut self.outbound[self.id.index()];
            own.push_direct(number, address, target.options, subscription_id, message);
            self.has_outbound = true;
            return;
        };
        let qos = message.qos.min(target.options.qos);
        let delivered = if Shard::gives_up(&self.node.memory, connection, qos) {
            Delivered::Dropped(DropReason::ResourceExhausted)
        } else {
            connection.session.deliver(self.now, &delivery)
        };
        if is_kept(delivered) && !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(target.slot);
        }
        self.count(number, delivered, message);
    }

    /// Gives a message to a member of a shared group that is a transient session.
    pub(super) fn send_member(
        &mut self,
        number: TenantNumber,
        shard: ShardId,
        target: &MemberTarget,
        message: &Message<'_>,
    ) {
        if shard == self.id && self.deliver_member(number, target, message) {
            return;
        }
        self.outbound[shard.index()].push_member(number, target, message);
        self.has_outbound = true;
    }

    /// Delivers to a member of this shard; false if its session is at work, so that the message
    /// has to come by the mailbox.
    pub(super) fn deliver_member(
        &mut self,
        number: TenantNumber,
        target: &MemberTarget,
        message: &Message<'_>,
    ) -> bool {
        let slot = &mut self.slots[target.slot as usize];
        if slot.generation == target.generation && slot.is_at_work {
            return false;
        }
        let is_same = slot.generation == target.generation;
        let connection = slot.connection.as_deref_mut().filter(|_| is_same);
        let found = connection.and_then(|connection| {
            let shared = find_shared(&connection.local.rare.as_ref()?.shared, target)?;
            Some((connection, shared))
        });
        let Some((connection, (origin, options, subscription_id))) = found else {
            // It left after it was chosen.
            let returned = Returned { by: None, reason: DropReason::SessionClosed };
            self.regroup(number, target, returned, message);
            return true;
        };
        let delivery = Delivery {
            message,
            options,
            subscription_id,
            is_retained: false,
            origin: Some(origin),
        };
        let qos = message.qos.min(options.qos);
        let delivered = if Shard::gives_up(&self.node.memory, connection, qos) {
            Delivered::Dropped(DropReason::ResourceExhausted)
        } else {
            connection.session.deliver(self.now, &delivery)
        };
        connection.note_member();
        if is_kept(delivered) && !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(target.slot);
        }
        if let Delivered::Dropped(reason @ (DropReason::Overflow | DropReason::ResourceExhausted)) =
            delivered
        {
            let returned = Returned { by: Some(connection.session.publisher().0), reason };
            self.regroup(number, target, returned, message);
            return true;
        }
        self.count(number, delivered, message);
        true
    }

    /// Queues a message for persistent sessions, and notes the exchange of QoS 2 that it belongs to
    /// if its publisher is one. What is refused and nobody asks for is dropped.
    pub(super) fn append(
        &mut self,
        number: TenantNumber,
        (routes, shared): (&[InboxRoute], &[SharedRoute]),
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Settlement> {
        let count = routes.len() + shared.len();
        if count == 0 && exchange.is_none() {
            return Call::Ready(Settlement::Done);
        }
        let mut direct = std::mem::take(&mut self.direct);
        direct.clear();
        let targets = Targets { tenant: &self.tenant(number).id, routes, shared };
        let call = self.node.inbox.append(targets, message, exchange, reply_to, &mut direct);
        self.deliver_direct(number, &direct, message);
        self.direct = direct;
        let is_asked_for = reply_to.is_some();
        let flow = self.flow(number);
        match (call, refusal(call)) {
            // The publisher brings it again.
            (_, Some(_)) if is_asked_for => {}
            (_, Some(reason)) => (0..count).for_each(|_| flow.lost(reason)),
            // The publisher's session has another owner, and nobody has it.
            (Call::Ready(Settlement::Unknown), None) => {
                (0..count).for_each(|_| flow.lost(DropReason::SessionClosed));
            }
            (_, None) => {
                flow.copies += count as u64;
                flow.stored += count as u64;
            }
        }
        call
    }

    /// QoS 0 for persistent sessions that are online.
    pub(super) fn deliver_direct(
        &mut self,
        number: TenantNumber,
        direct: &[DirectDelivery],
        message: &Message<'_>,
    ) {
        let flow = self.flow(number);
        flow.copies += direct.len() as u64;
        flow.handed_back += direct.len() as u64;
        for delivery in direct {
            let owner = delivery.owner;
            let batch = &mut self.outbound[owner.shard.index()];
            let address = (owner.slot, owner.generation);
            batch.push_direct(number, address, delivery.options, delivery.subscription_id, message);
            self.has_outbound = true;
        }
    }
}

/// Whether the session holds more than before: then it is written, and charged for it.
#[inline]
pub(super) fn is_kept(delivered: Delivered) -> bool {
    matches!(delivered, Delivered::Sent | Delivered::Queued)
}

/// Why a message is dropped that was refused, if it was.
pub(super) fn refusal(call: Call<Settlement>) -> Option<DropReason> {
    match call {
        Call::Ready(Settlement::Busy) => Some(DropReason::ResourceExhausted),
        Call::Ready(Settlement::QuotaExceeded) => Some(DropReason::Overflow),
        Call::Ready(Settlement::Done | Settlement::Unknown) | Call::Pending => None,
    }
}

/// Who takes a message in place of a member that has no room on another host: there it could go to
/// members of that host only.
fn other_with_room<'a>(
    group: &'a Group,
    member: &Member,
    publisher: PublisherId,
) -> Option<&'a Member> {
    let is_full = member.state.full.load(Ordering::Relaxed);
    is_full.then(|| group.choose_with_room(publisher, Some(member.id))).flatten()
}

/// A member that is a transient session of this host.
pub(super) fn member_target(group: &Group, session: SessionRef, hops: u8) -> MemberTarget {
    MemberTarget {
        slot: session.slot,
        generation: session.generation,
        route: group.route,
        group: group_key(&group.name, group.is_ordered),
        hops,
    }
}

/// A member that is a persistent session.
pub(super) fn shared_route(group: &Arc<Group>, member: &Member, inbox: InboxId) -> SharedRoute {
    let route = InboxRoute {
        inbox,
        incarnation: member.incarnation,
        options: member.options,
        subscription_id: member.subscription_id,
    };
    SharedRoute { route, group: Arc::clone(group) }
}

/// Tells the groups of one filter apart.
pub(crate) fn group_key(name: &str, is_ordered: bool) -> u32 {
    let mut hash = if is_ordered { 0x811c_9dc5_u32 } else { 0x050c_5d1f };
    for byte in name.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash
}

fn find_shared(
    shared: &[SharedSubscription],
    target: &MemberTarget,
) -> Option<(Origin, ratatosk_codec::SubscriptionOptions, Option<u32>)> {
    let is_it =
        |known: &SharedSubscription| known.route == target.route && known.group == target.group;
    let known = shared.iter().find(|known| is_it(known))?;
    Some((Origin(known.number), known.options, known.subscription_id))
}
