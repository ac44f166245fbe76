//! A message for one session, and for another member when it came through a group whose member
//! goes.
//!
//! Whoever hands over holds the locks of all partitions, so that messages leave one queue and are
//! in another at one moment, and in one command. A member that is chosen may be gone all the same,
//! for its routes are removed later: then the next is asked.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message, PublisherId, SessionRef, StoredMessage, TenantId,
    dist::{InboxRoute, TenantRoutes},
    group::{Group, Member, MemberTarget},
    inbox::{Claim, DirectDelivery, InboxId, Targets},
    serving::Terms,
    sessions::Delivery,
};
use ratatosk_telemetry::memory::{Account, Share};
use ratatosk_topic::{ORDERED_SHARE_PREFIX, SHARE_PREFIX};
use smallvec::SmallVec;

use crate::{
    InboxService,
    append::partitions_of,
    effect::Target,
    journal::{Change, Effects},
    partition::Partition,
    partitions::{Locks, Sequel, partition_number},
    queue::{Item, Origin, Transfer},
    schema::{Head, MessageRecord, Position},
    session::{Session, Waiting},
};

/// How many members are asked to take over a message. More than one is gone only if several of a
/// group go at the same moment.
const TRIES_MAX: usize = 4;

/// What became of a message for one session.
#[derive(Debug)]
pub(crate) enum Offer {
    /// It is in the queue.
    Queued,
    /// It is QoS 0 and the owner is online.
    Direct(DirectDelivery),
    /// A limit or the lack of a connection made it go; it is counted.
    Dropped,
    /// The session's own message, which it did not want. [MQTT-3.8.3-3]
    NotMeant,
    /// There is no such session; nothing is counted.
    Gone,
}

/// A message on its way into queues: copied when the first queue takes it, shared by all.
pub(crate) struct Parcel<'a> {
    message: Message<'a>,
    stored: Option<Arc<StoredMessage>>,
    /// Entries that the log is to have.
    queued: SmallVec<[Queued; 1]>,
    /// It goes to sessions of this one's range only: in one command with what it leaves.
    source: Option<InboxId>,
}

/// An entry that the log is to have.
struct Queued {
    inbox: InboxId,
    sequence: u64,
    is_qos2: bool,
    retain: bool,
    subscription_id: Option<u32>,
    origin: Option<Box<str>>,
}

/// The session that messages are taken from.
pub(crate) struct Source<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) publisher: PublisherId,
    pub(crate) inbox: InboxId,
    pub(crate) position: Position,
}

impl<'a> Parcel<'a> {
    pub(crate) fn new(message: &Message<'a>) -> Self {
        Parcel { message: *message, stored: None, queued: SmallVec::new(), source: None }
    }

    pub(crate) fn of(stored: &'a Arc<StoredMessage>) -> Self {
        let (message, stored) = (stored.as_message(), Some(Arc::clone(stored)));
        Parcel { message, stored, queued: SmallVec::new(), source: None }
    }

    /// A message that leaves the queue of a session.
    pub(crate) fn from(self, source: InboxId) -> Self {
        Parcel { source: Some(source), ..self }
    }

    pub(crate) fn message(&self) -> &Message<'a> {
        &self.message
    }

    /// Writes what became of it into a command; returns the entries.
    pub(crate) fn write(&self, effects: &mut Effects) -> SmallVec<[(InboxId, u64); 2]> {
        self.write_those(effects, |_| true)
    }

    /// The sessions whose queues have it, as far as the log is told.
    pub(crate) fn inboxes(&self) -> impl Iterator<Item = InboxId> {
        self.queued.iter().map(|queued| queued.inbox)
    }

    /// As [`write`](Self::write), of some sessions.
    pub(crate) fn write_those(
        &self,
        effects: &mut Effects,
        is_meant: impl Fn(InboxId) -> bool,
    ) -> SmallVec<[(InboxId, u64); 2]> {
        let meant = self.queued.iter().filter(|queued| is_meant(queued.inbox));
        let targets: Vec<_> = meant.map(Queued::target).collect();
        let entries = targets.iter().map(|target| (target.inbox, target.sequence)).collect();
        let has_origin = targets.iter().any(|target| target.head.origin.is_some());
        let message = MessageRecord::of(&self.message, effects.epoch(), has_origin);
        effects.append(targets, &message);
        entries
    }

    /// The message as queues share it, charged to their tenant.
    pub(crate) fn stored(&mut self, account: &Account) -> &Arc<StoredMessage> {
        self.stored.get_or_insert_with(|| Arc::new(keep(&self.message, account)))
    }
}

/// What the two allocations of a stored message take besides what is in them.
const BOXES_BYTES: usize = 96;

/// What is handed over together holds about so much, so that a command stays small.
pub(crate) const PART_BYTES_MAX: usize = 1 << 20;

/// How many go together: one at least.
fn fitting(transfers: &[Transfer]) -> usize {
    let mut bytes = 0;
    let fits = |transfer: &&Transfer| {
        let has_room = bytes < PART_BYTES_MAX;
        bytes += transfer.message.size_bytes();
        has_room
    };
    transfers.iter().take_while(fits).count()
}

/// A copy that is charged once, until the last queue or receiver drops its payload.
pub(crate) fn keep(message: &Message<'_>, account: &Account) -> StoredMessage {
    let held = BOXES_BYTES + message.stored_bytes();
    message.to_stored_as(match message.shared {
        // The bytes have been charged when they came to be shared.
        Some(shared) => account.keep(Share::Queues, shared.clone(), held),
        None => {
            let held = held + message.payload.len();
            account.keep(Share::Queues, message.payload.to_vec(), held)
        }
    })
}

/// The same of a message whose payload is a part of what was read from the store: a long one stays there.
pub(crate) fn keep_found(message: &Message<'_>, read: &Bytes, account: &Account) -> StoredMessage {
    if message.payload.len() < StoredMessage::SHARED_FROM_BYTES {
        return keep(message, account);
    }
    let held = BOXES_BYTES + message.stored_bytes() + message.payload.len();
    message.to_stored_as(account.keep(Share::Queues, read.slice_ref(message.payload), held))
}

impl InboxService {
    /// Gives the message to one session, whose partition is locked.
    pub(crate) fn offer(
        &self,
        partition: &mut Partition,
        route: &InboxRoute,
        group: Option<&Group>,
        parcel: &mut Parcel<'_>,
        change: &mut Change,
    ) -> Offer {
        let Partition { sessions, tallies, .. } = partition;
        let session = sessions.get_mut(&route.inbox);
        let Some(session) = session.filter(|held| held.is_life(route)) else {
            return Offer::Gone;
        };
        let message = &parcel.message;
        let stats = tallies.at(session.tally);
        stats.appended += 1;
        if route.options.no_local && message.publisher == session.publisher {
            stats.dropped.no_local += 1;
            return Offer::NotMeant;
        }
        let qos = message.qos.min(route.options.qos);
        if qos == Qos::AtMostOnce {
            match direct_owner(session) {
                Some(owner) => {
                    stats.direct += 1;
                    let (options, subscription_id) = (route.options, route.subscription_id);
                    return Offer::Direct(DirectDelivery { owner, options, subscription_id });
                }
                None if session.owner.is_none() && !session.limits.qos0_when_offline => {
                    stats.dropped.offline_qos0 += 1;
                    return Offer::Dropped;
                }
                None => {}
            }
        }
        let stored = Arc::clone(parcel.stored(session.account()));
        let item = item_of(stored, qos, route, group);
        let (retain, subscription_id) = (item.retain, item.subscription_id);
        let displaced = session.queue.push(item, &session.limits);
        session.recharge();
        session.note_room();
        stats.dropped.note(&displaced, qos);
        // What has no place of its own is not in the log.
        let sequence = match displaced.is_queued && qos != Qos::AtMostOnce && self.is_durable() {
            true => Some(session.queue.hold_last()),
            false => None,
        };
        self.forget(route.inbox, session.queue.position(), displaced.forgotten);
        if !displaced.is_queued {
            return Offer::Dropped;
        }
        if let Some(group) = group.filter(|_| session.is_away() && qos != Qos::AtMostOnce) {
            self.note_stranded(route.inbox, session, group, parcel.message.publisher, change);
        }
        match sequence {
            // The owner is told when it may have it.
            Some(sequence) => {
                let is_qos2 = qos == Qos::ExactlyOnce;
                let origin = group.and_then(|group| self.origin(&session.identity.tenant, group));
                let inbox = route.inbox;
                let queued = Queued { inbox, sequence, is_qos2, retain, subscription_id, origin };
                parcel.queued.push(queued);
            }
            None => change.ready.extend(session.wake(Waiting::Message)),
        }
        Offer::Queued
    }

    /// Puts what became of a message into the log; false if there is nothing to wait for. Called
    /// with the locks of all who have it.
    pub(crate) fn post(
        &self,
        locks: &mut Locks<'_>,
        (parcel, targets): (&Parcel<'_>, Targets<'_>),
        terms: Terms,
    ) -> bool {
        let Some(journal) = &self.journal else { return false };
        if let Some(seats) = journal.seats() {
            let asked = partitions_of(targets);
            return self.post_apart((journal, seats), locks, (parcel, asked), terms);
        }
        let mut effects = Effects::new(journal.epoch);
        accept_in(locks, terms, &mut effects);
        let entries = parcel.write(&mut effects);
        let first = entries.first().map(|entry| entry.0);
        let Some(at) = first.or(terms.exchange.map(|(claim, _)| claim.inbox)) else { return false };
        let reply_to = terms.reply_to;
        journal.submit(at, effects, Sequel { entries, reply_to, ..Sequel::default() });
        true
    }

    /// Gives messages of groups back for other members than that of `source`. All are locked.
    pub(crate) fn hand_over(
        &self,
        locks: &mut Locks<'_>,
        source: &Source<'_>,
        transfers: &[Transfer],
        change: &mut Change,
    ) {
        if transfers.is_empty() {
            return;
        }
        let routes = self.dist.tenant(source.tenant);
        let mut rest = transfers;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(fitting(rest));
            rest = behind;
            let mut effects = self.effects();
            if let Some(effects) = &mut effects {
                effects.removed(source.inbox, part, source.position);
            }
            let mut entries = SmallVec::new();
            for Transfer { origin, message, .. } in part {
                let mut parcel = Parcel::of(message).from(source.inbox);
                match group_of(&*routes, origin) {
                    Some(group) => {
                        let (of, from) = ((source.tenant, &group), source.publisher.0);
                        self.give(locks, of, from, &mut parcel, change);
                    }
                    None => count_without_member(locks, source.tenant),
                }
                if let Some(effects) = &mut effects {
                    entries.extend(parcel.write(effects));
                }
            }
            self.submit_moved(source.inbox, effects, entries);
        }
    }

    /// Puts messages that changed queues into the log. Called with the locks of all.
    pub(crate) fn submit_moved(
        &self,
        source: InboxId,
        effects: Option<Effects>,
        entries: SmallVec<[(InboxId, u64); 2]>,
    ) {
        let (Some(journal), Some(effects)) = (&self.journal, effects) else { return };
        if !effects.is_empty() {
            let at = entries.first().map_or(source, |first| first.0);
            journal.submit(at, effects, Sequel { entries, ..Sequel::default() });
        }
    }

    /// Gives a message to a member other than `from`, or counts that there is none. All are locked.
    pub(crate) fn give(
        &self,
        locks: &mut Locks<'_>,
        (tenant, group): (&TenantId, &Arc<Group>),
        from: u64,
        parcel: &mut Parcel<'_>,
        change: &mut Change,
    ) {
        let message = Arc::clone(parcel.stored(&self.memory.account(tenant.as_str())));
        let mut without = from;
        for _ in 0..TRIES_MAX {
            let chosen = group.choose(message.publisher, Some(without));
            let is_within = |member: &&Member| self.may_have(parcel.source, member.target);
            let other = || group.members.iter().find(|held| held.id != without && is_within(held));
            let Some(member) = chosen.filter(is_within).or_else(other) else { break };
            let delivery = || Delivery {
                tenant: tenant.clone(),
                options: member.options,
                subscription_id: member.subscription_id,
                group: Arc::clone(group),
                message: Arc::clone(&message),
            };
            let inbox = match member.target {
                MemberTarget::Session(session) => {
                    locks.at(0).tallies.of(tenant).passed_on += 1;
                    change.deliveries.push((session, delivery()));
                    return;
                }
                MemberTarget::Inbox(inbox) => inbox,
                // Nothing is handed to other hosts from here.
                MemberTarget::Host(_) => {
                    without = member.id;
                    continue;
                }
            };
            let route = InboxRoute {
                inbox,
                incarnation: member.incarnation,
                options: member.options,
                subscription_id: member.subscription_id,
            };
            match self.offer(locks.of(inbox), &route, Some(group), parcel, change) {
                Offer::Gone => without = member.id,
                Offer::Queued | Offer::Dropped | Offer::NotMeant => return,
                Offer::Direct(direct) => {
                    change.deliveries.push((direct.owner, delivery()));
                    return;
                }
            }
        }
        count_without_member(locks, tenant);
    }

    /// Takes out of a session that lost its connection what another member that is online may have.
    /// Called with the session's lock held; dist has none that leads back here.
    pub(crate) fn take_shared(&self, inbox: InboxId, session: &mut Session) -> Vec<Transfer> {
        if !session.queue.has_shared() {
            return Vec::new();
        }
        let routes = self.dist.tenant(&session.identity.tenant);
        let (me, source) = (session.publisher.0, Some(inbox));
        let mut known: BTreeMap<(u32, Arc<str>, bool), bool> = BTreeMap::new();
        let transfers = session.queue.take_shared(usize::MAX, |origin, _| {
            let key = (origin.route.generation, Arc::clone(&origin.name), origin.is_ordered);
            *known.entry(key).or_insert_with(|| {
                let is_other = |group: Arc<Group>| {
                    let mut others = group.members.iter().filter(|member| member.id != me);
                    others.any(|it| it.is_online() && self.may_have(source, it.target))
                };
                group_of(&*routes, origin).is_some_and(is_other)
            })
        });
        session.note_room();
        transfers
    }

    /// Whether a member can be given what leaves another session, or came for none: under reigns those
    /// whose queue is of the same range, so that it is in one queue at each moment; the others find what
    /// is left once that is so.
    fn may_have(&self, source: Option<InboxId>, target: MemberTarget) -> bool {
        match (self.seats(), target) {
            (Some(seats), MemberTarget::Inbox(inbox)) => match source {
                Some(source) => seats.is_one_reign(source, inbox),
                None => seats.serving(partition_number(inbox.0)).is_some(),
            },
            (Some(_), MemberTarget::Host(_)) => false,
            _ => true,
        }
    }

    /// The shared filter of a group, while it has a route.
    fn origin(&self, tenant: &TenantId, group: &Group) -> Option<Box<str>> {
        let prefix = if group.is_ordered { ORDERED_SHARE_PREFIX } else { SHARE_PREFIX };
        let mut text = format!("{prefix}{}/", group.name);
        let is_there = self.dist.tenant(tenant).filter_text(group.route, &mut text);
        is_there.then(|| text.into_boxed_str())
    }
}

/// Notes in a command that the exchange of its message was accepted, if there is one. Its session is locked,
/// and the claim on it holds.
pub(crate) fn accept_in(locks: &mut Locks<'_>, terms: Terms, effects: &mut Effects) {
    let Some((Claim { inbox, .. }, packet_id)) = terms.exchange else { return };
    if let Some(session) = locks.of(inbox).sessions.get_mut(&inbox) {
        let was_begun = session.accept(packet_id);
        effects.accepted(inbox, packet_id, was_begun);
    }
}

/// Counts that a group had nobody for a message. All are locked.
fn count_without_member(locks: &mut Locks<'_>, tenant: &TenantId) {
    let tally = locks.at(0).tallies.of(tenant);
    tally.appended += 1;
    tally.dropped.no_member += 1;
}

impl Queued {
    fn target(&self) -> Target<'_> {
        let head = Head {
            is_qos2: self.is_qos2,
            retain: self.retain,
            subscription_id: self.subscription_id,
            origin: self.origin.as_deref(),
        };
        Target { inbox: self.inbox, sequence: self.sequence, head }
    }
}

pub(crate) fn group_of(routes: &dyn TenantRoutes, origin: &Origin) -> Option<Arc<Group>> {
    routes.group(origin.route, &origin.name, origin.is_ordered)
}

/// A message as the queue of a session has it.
fn item_of(
    message: Arc<StoredMessage>,
    qos: Qos,
    route: &InboxRoute,
    group: Option<&Group>,
) -> Item {
    Item {
        qos,
        retain: message.retain && route.options.retain_as_published,
        subscription_id: route.subscription_id.filter(|number| *number != 0),
        origin: group.filter(|_| qos != Qos::AtMostOnce).map(Origin::of),
        message,
    }
}

/// The connection that a QoS 0 message may go to at once: not past others that are queued.
fn direct_owner(session: &Session) -> Option<SessionRef> {
    session.owner.filter(|_| session.queue.qos0_len() == 0)
}
