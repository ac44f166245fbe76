//! Messages into queues: all of one message together, or one after the other.
//!
//! Where there is a log, what one message puts into queues is one command, and the locks of all
//! whom it concerns are held until it is submitted. What is not in the log (everything in memory,
//! QoS 0 everywhere) takes one lock after the other, so that a message for many stops nobody.

use std::sync::Arc;

use ratatosk_codec::{PacketId, Qos};
use ratatosk_contract::{
    Call, Message, TenantId,
    call::Settlement,
    group::{Group, Member, MemberTarget},
    inbox::{Claim, DirectDelivery, InboxId, SharedRoute, StaleClaim, Targets},
    serving::Terms,
};

use crate::{
    InboxService,
    handover::{Offer, Parcel},
    journal::Change,
    partition::Partition,
    partitions::{Locks, PartitionSet, partition_number},
};

impl InboxService {
    /// See [`Serving::append_on`](ratatosk_contract::serving::Serving::append_on).
    pub(crate) fn append_to(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        terms: Terms,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement> {
        let mut change = Change::default();
        let is_logged = message.qos != Qos::AtMostOnce || terms.exchange.is_some();
        let appended = match &self.journal {
            Some(journal) if is_logged => {
                if journal.check().is_err() {
                    return Call::Ready(Settlement::Busy);
                }
                self.append_together(targets, message, terms, (direct, &mut change))
            }
            _ => self.append_one_by_one(targets, message, terms.exchange, (direct, &mut change)),
        };
        self.finish(change);
        appended.unwrap_or(Call::Ready(Settlement::Unknown))
    }

    /// Under all locks at once, into the log.
    fn append_together(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        terms: Terms,
        (direct, change): (&mut Vec<DirectDelivery>, &mut Change),
    ) -> Result<Call<Settlement>, StaleClaim> {
        let mut locks = self.lock_targets(targets, terms.exchange, message);
        if self.is_refused(&mut locks, targets, terms.exchange) {
            return Ok(Call::Ready(Settlement::Busy));
        }
        if let Some((claim, packet_id)) = terms.exchange {
            let session = locks.of(claim.inbox).claimed(claim)?;
            if !session.may_accept(packet_id, terms.once) {
                return Err(StaleClaim);
            }
        }
        let (mut parcel, mut is_astray) = (Parcel::new(message), false);
        let having = self.partitions_having(&mut locks, targets, terms.once);
        let is_due = |inbox: InboxId| !having.has(partition_number(inbox.0));
        for route in targets.routes.iter().filter(|route| is_due(route.inbox)) {
            let partition = locks.of(route.inbox);
            let offer = self.offer(partition, route, None, &mut parcel, change);
            conclude(&offer, partition, targets.tenant, direct);
        }
        for shared in targets.shared.iter().filter(|shared| is_due(shared.route.inbox)) {
            let before = parcel.inboxes().count();
            self.offer_shared(&mut locks, targets.tenant, shared, &mut parcel, (direct, change));
            let taken = parcel.inboxes().skip(before);
            let mut strays = taken.filter(|it| !self.is_one_range(*it, shared.route.inbox));
            is_astray |= strays.next().is_some();
        }
        // What another range took in the stead of a member is another command. Were that lost and this one not,
        // the message would be known here, and be nowhere: so it is not noted, and may come twice.
        let once = terms.once.filter(|_| !is_astray);
        let is_pending = self.post(&mut locks, (&parcel, targets), Terms { once, ..terms });
        drop(locks);
        Ok(if is_pending { Call::Pending } else { Call::Ready(Settlement::Done) })
    }

    /// Whether a partition of some target is served elsewhere, or its store takes no more: then nothing is
    /// queued for anybody, and whoever brings the message again makes no duplicate. The locks of all are
    /// held.
    fn is_refused(
        &self,
        locks: &mut Locks<'_>,
        targets: Targets<'_>,
        exchange: Option<(Claim, PacketId)>,
    ) -> bool {
        let Some(seats) = self.seats() else { return false };
        let mut set = partitions_of(targets);
        // Of a publisher whose partition is gone the claim is stale.
        let at = exchange.map(|(claim, _)| partition_number(claim.inbox.0));
        at.into_iter().filter(|at| seats.serving(*at).is_some()).for_each(|at| set.insert(at));
        // Nor is a group's message dropped here while a member elsewhere could have it.
        let mut has_nobody = |shared: &SharedRoute| {
            let inbox = shared.route.inbox;
            let is_there = locks.of(inbox).sessions.contains_key(&inbox);
            let others = || shared.group.members.iter().filter_map(inbox_of);
            let is_served = |inbox| seats.serving(partition_number(inbox)).is_some();
            !is_there && others().all(|it| it == inbox || !is_served(it.0)) && others().count() > 1
        };
        set.numbers().any(|number| seats.check(number).is_err())
            || targets.shared.iter().any(&mut has_nobody)
    }

    /// Under one lock after the other, for what the log does not have.
    fn append_one_by_one(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        (direct, change): (&mut Vec<DirectDelivery>, &mut Change),
    ) -> Result<Call<Settlement>, StaleClaim> {
        if let Some((claim, packet_id)) = exchange {
            let mut partition = self.partitions.lock_of(claim.inbox);
            partition.claimed(claim)?.note_inbound(packet_id, false);
        }
        let mut parcel = Parcel::new(message);
        for route in targets.routes {
            let partition = &mut *self.partitions.lock_of(route.inbox);
            let offer = self.offer(partition, route, None, &mut parcel, change);
            conclude(&offer, partition, targets.tenant, direct);
        }
        for shared in targets.shared {
            let target = Targets { routes: &[], shared: std::slice::from_ref(shared), ..targets };
            let mut locks = self.lock_targets(target, None, message);
            self.offer_shared(&mut locks, targets.tenant, shared, &mut parcel, (direct, change));
        }
        Ok(Call::Ready(Settlement::Done))
    }

    /// Gives the message to a member of a group, or to whoever takes its place.
    fn offer_shared(
        &self,
        locks: &mut Locks<'_>,
        tenant: &TenantId,
        SharedRoute { route, group }: &SharedRoute,
        parcel: &mut Parcel<'_>,
        (direct, change): (&mut Vec<DirectDelivery>, &mut Change),
    ) {
        let Message { qos, publisher, .. } = *parcel.message();
        let detour = match qos {
            Qos::AtMostOnce => None,
            _ => self.detour(locks, route, group, publisher, change),
        };
        let route = detour.as_ref().unwrap_or(route);
        let partition = locks.of(route.inbox);
        match self.offer(partition, route, Some(group), parcel, change) {
            Offer::Gone => {
                let from = member_of(group, route.inbox);
                self.give(locks, (tenant, group), from, parcel, change);
            }
            offer => conclude(&offer, partition, tenant, direct),
        }
    }

    /// The locks of all whom a message concerns. That is everybody if a member of a group is gone,
    /// for another may take its place.
    fn lock_targets(
        &self,
        targets: Targets<'_>,
        exchange: Option<(Claim, PacketId)>,
        message: &Message<'_>,
    ) -> Locks<'_> {
        let holders = |set: &mut PartitionSet| {
            for SharedRoute { route, group } in targets.shared {
                let holder = self.holder(route, group, message.publisher);
                holder.iter().for_each(|holder| set.insert(partition_number(holder.0)));
            }
        };
        let mut set = PartitionSet::default();
        let routes = targets.routes.iter().map(|route| route.inbox);
        let shared = targets.shared.iter().map(|shared| shared.route.inbox);
        let publisher = exchange.iter().map(|(claim, _)| claim.inbox);
        for inbox in routes.chain(shared).chain(publisher) {
            set.insert(partition_number(inbox.0));
        }
        holders(&mut set);
        let mut locks = self.partitions.lock(set);
        let mut now = set;
        holders(&mut now);
        let mut is_there = |shared: &SharedRoute| {
            let session = locks.of(shared.route.inbox).sessions.get(&shared.route.inbox);
            session.is_some_and(|session| session.is_life(&shared.route))
        };
        if now == set && targets.shared.iter().all(&mut is_there) {
            return locks;
        }
        drop(locks);
        self.partitions.lock(PartitionSet::ALL)
    }
}

/// Counts what is left to count, and notes what goes straight to a connection.
fn conclude(
    offer: &Offer,
    partition: &mut Partition,
    tenant: &TenantId,
    direct: &mut Vec<DirectDelivery>,
) {
    match offer {
        Offer::Direct(delivery) => direct.push(*delivery),
        Offer::Queued | Offer::Dropped | Offer::NotMeant => {}
        Offer::Gone => {
            let tally = partition.tallies.of(tenant);
            tally.appended += 1;
            tally.dropped.session_gone += 1;
        }
    }
}

/// The partitions of those whom a message is meant for.
pub(crate) fn partitions_of(targets: Targets<'_>) -> PartitionSet {
    let mut set = PartitionSet::default();
    let routes = targets.routes.iter().map(|route| route.inbox);
    let shared = targets.shared.iter().map(|shared| shared.route.inbox);
    routes.chain(shared).for_each(|inbox| set.insert(partition_number(inbox.0)));
    set
}

fn inbox_of(member: &Member) -> Option<InboxId> {
    match member.target {
        MemberTarget::Inbox(inbox) => Some(inbox),
        MemberTarget::Session(_) | MemberTarget::Host(_) => None,
    }
}

/// The member that a session was.
fn member_of(group: &Arc<Group>, gone: InboxId) -> u64 {
    let is_gone = |member: &&Member| member.target == MemberTarget::Inbox(gone);
    group.members.iter().find(is_gone).map_or(0, |member| member.id)
}
