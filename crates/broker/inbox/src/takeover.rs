//! What waits at members that are away, for a member that has room.
//!
//! A member that fetches and finds nothing takes over what waits for others of its groups, as much
//! as it may have on its way to the client: so nothing waits while somebody could have it, and
//! those who come back share. A message leaves one queue and is in the other at one moment, and in
//! one command. Locked are the two sessions' partitions, and only if [`Stranded`] has something.
//!
//! Of an ordered group all that waits of one publisher goes together, to the member that is the
//! publisher's now; so it is never in the queues of two members that are away, and what is published
//! meanwhile goes where the older waits ([`InboxService::detour`]). Whoever wants QoS 0 takes over
//! nothing: what waits is to arrive.
//!
//! Nobody misses his chance: whoever waits for a message is woken if one comes to a member that is
//! away ([`InboxService::note_stranded`]), and if he becomes the one for publishers of others.

use std::collections::BTreeMap;

use ratatosk_codec::Qos;
use ratatosk_contract::{
    PublisherId, TenantId,
    dist::{InboxRoute, TenantRoutes},
    group::{Group, Member, MemberTarget},
    inbox::{Claim, FetchBudget, InboxId, Subscription},
};
use ratatosk_topic::{ORDERED_SHARE_PREFIX, SHARE_PREFIX, TopicFilter, TopicLimits};
use smallvec::SmallVec;

use crate::{
    InboxService,
    handover::{PART_BYTES_MAX, Parcel, group_of},
    journal::Change,
    partitions::{Locks, PartitionSet, partition_number},
    queue::{Origin, Queue, Transfer},
    session::{Session, Waiting},
    stranded::{Place, Stranded},
};

/// At most so many messages at once, so that several members that come back share what waits.
const TAKE_MAX: usize = 64;

/// A member with a window takes so many even if less of it is open just now, so that not each
/// acknowledgement costs a command.
const BATCH: usize = 16;

/// What a member that found nothing to fetch would take over.
#[derive(Debug)]
pub(crate) struct Wish {
    claim: Claim,
    tenant: TenantId,
    publisher: PublisherId,
    filters: Vec<Box<str>>,
    messages: usize,
}

/// A member that takes over messages of a group.
struct Taker<'a> {
    route: InboxRoute,
    group: &'a Group,
    origin: &'a Origin,
}

/// How much of what waits in one session is taken.
#[derive(Copy, Clone)]
struct Share<'a> {
    count_max: usize,
    /// Of an ordered group: a publisher's messages are taken even if not all have room.
    is_partial: bool,
    /// Of an ordered group.
    is_wanted: &'a dyn Fn(PublisherId) -> bool,
    /// Where it waits.
    at: Place,
}

/// What was taken.
#[derive(Default)]
struct Taken {
    transfers: Vec<Transfer>,
    /// Something wanted had no room.
    is_short: bool,
}

impl Wish {
    /// What a session takes over that was just handed `handed` messages of a budget and has no
    /// more of its own. `None` if it has no room, or no groups.
    pub(crate) fn of(
        claim: Claim,
        session: &Session,
        budget: &FetchBudget,
        handed: usize,
    ) -> Option<Wish> {
        let open = budget.messages_max.saturating_sub(handed);
        let unsent = session.queue.unsent(TAKE_MAX);
        let window = open.saturating_add(session.queue.len().saturating_sub(unsent));
        let credit = open.max(window.min(BATCH)).min(TAKE_MAX).saturating_sub(unsent);
        let messages = credit.min(session.room());
        if open == 0 || messages == 0 {
            return None;
        }
        let filters: Vec<_> = shared_filters(session.subscriptions()).map(Box::from).collect();
        let (tenant, publisher) = (session.identity.tenant.clone(), session.publisher);
        (!filters.is_empty()).then_some(Wish { claim, tenant, publisher, filters, messages })
    }
}

impl InboxService {
    pub(crate) fn stranded(&self) -> &Stranded {
        &self.partitions.stranded
    }

    /// Fulfils a wish as far as something waits. Called without a lock. MQTT-087
    pub(crate) fn take_over(&self, wish: &Wish) {
        let (mut change, mut left) = (Change::default(), wish.messages);
        let (routes, inbox) = (self.dist.tenant(&wish.tenant), wish.claim.inbox);
        for filter in &wish.filters {
            let Some(origin) = origin_of(&*routes, filter) else { continue };
            if !self.stranded().has(&origin) {
                continue;
            }
            let Some(group) = group_of(&*routes, &origin) else { continue };
            let Some(route) = route_of(&group, inbox) else { continue };
            if route.options.qos == Qos::AtMostOnce || route.options.no_local {
                continue;
            }
            let me = wish.publisher.0;
            let is_mine =
                |publisher| group.choose(publisher, None).is_some_and(|member| member.id == me);
            let taker = Taker { route, group: &group, origin: &origin };
            let mut behind = None;
            while left > 0
                && let Some(place) = self.stranded().next(&origin, behind, is_mine)
            {
                behind = Some(place);
                let share =
                    Share { count_max: left, is_partial: false, is_wanted: &is_mine, at: place };
                match self.take_from(wish.claim, &taker, &share, &mut change) {
                    Some(count) => left = left.saturating_sub(count),
                    None => break,
                }
            }
        }
        self.finish(change);
    }

    /// Takes over what waits in one session; `None` if the taker has gone itself.
    fn take_from(
        &self,
        claim: Claim,
        taker: &Taker<'_>,
        share: &Share<'_>,
        change: &mut Change,
    ) -> Option<usize> {
        let mut set = PartitionSet::of(partition_number(claim.inbox.0));
        set.insert(partition_number(share.at.inbox.0));
        let mut locks = self.partitions.lock(set);
        if !self.is_one_range(claim.inbox, share.at.inbox) {
            return Some(0);
        }
        let session = locks.of(claim.inbox).sessions.get(&claim.inbox)?;
        if session.version != claim.version || session.owner.is_none() {
            return None;
        }
        // What cannot go in parts may, once there is nothing else.
        let is_partial = session.queue.len() == 0;
        Some(self.move_shared(&mut locks, taker, &Share { is_partial, ..*share }, change))
    }

    /// Moves messages from a session that is away to another; both are locked. Returns how many.
    fn move_shared(
        &self,
        locks: &mut Locks<'_>,
        taker: &Taker<'_>,
        share: &Share<'_>,
        change: &mut Change,
    ) -> usize {
        let (inbox, source) = (taker.route.inbox, share.at.inbox);
        let session = locks.of(inbox).sessions.get(&inbox);
        let Some(session) = session.filter(|held| held.is_life(&taker.route)) else {
            return 0;
        };
        let room = session.room();
        let partition = locks.of(source);
        // It may be back, or have ended.
        let Some(giver) = partition.sessions.get_mut(&source).filter(|held| held.is_away()) else {
            return 0;
        };
        let Taken { transfers, is_short } = self.take(giver, taker.origin, share, room);
        let position = giver.queue.position();
        giver.recharge();
        giver.note_room();
        let place = giver.tally;
        partition.tallies.at(place).moved += transfers.len() as u64;
        let mut effects = self.effects();
        if let Some(effects) = &mut effects
            && !transfers.is_empty()
        {
            effects.removed(source, &transfers, position);
        }
        let partition = locks.of(inbox);
        let mut entries = SmallVec::new();
        for Transfer { message, .. } in &transfers {
            let mut parcel = Parcel::of(message);
            self.offer(partition, &taker.route, Some(taker.group), &mut parcel, change);
            if let Some(effects) = &mut effects {
                entries.extend(parcel.write(effects));
            }
        }
        if let Some(session) = partition.sessions.get_mut(&inbox) {
            session.is_short |= is_short;
        }
        self.submit_moved(source, effects, entries);
        transfers.len()
    }

    /// Takes out of a session what has room elsewhere, and notes what is not there any more.
    fn take(&self, giver: &mut Session, origin: &Origin, share: &Share<'_>, room: usize) -> Taken {
        let (stranded, source) = (self.stranded(), share.at.inbox);
        let Session { queue, noted, .. } = giver;
        if !origin.is_ordered {
            let mut bytes = 0;
            let transfers = queue.take_shared(share.count_max.min(room), |held, message| {
                let is_wanted = held == origin && bytes < PART_BYTES_MAX;
                bytes += if is_wanted { message.size_bytes() } else { 0 };
                is_wanted
            });
            if !queue.shared().any(|(_, held, _)| held == origin) {
                stranded.forget(source, noted, origin, PublisherId(0));
            }
            return Taken { transfers, is_short: room == 0 };
        }
        let (chosen, is_short) = publishers(queue, origin, share, room);
        let mut left = chosen.clone();
        let transfers = queue.take_shared(room, |held, message| {
            held == origin
                && left.get_mut(&message.publisher).is_some_and(|left| {
                    *left = left.saturating_sub(1);
                    true
                })
        });
        for (publisher, _) in left.iter().filter(|(_, left)| **left == 0) {
            stranded.forget(source, noted, origin, *publisher);
        }
        // It was noted there, but has expired.
        if let Some(publisher) = share.at.publisher.filter(|at| !chosen.contains_key(at))
            && !queue.shared().any(|(_, held, it)| held == origin && it.publisher == publisher)
        {
            stranded.forget(source, noted, origin, publisher);
        }
        Taken { transfers, is_short }
    }

    /// Where a message of an ordered group goes that was meant for `route`: to a member that is away
    /// if older ones of its publisher wait there, so that none overtakes another. `None`: nothing
    /// waits, or all of it was moved to `route`. The partitions of both are locked.
    pub(crate) fn detour(
        &self,
        locks: &mut Locks<'_>,
        route: &InboxRoute,
        group: &Group,
        publisher: PublisherId,
        change: &mut Change,
    ) -> Option<InboxRoute> {
        let holder = self.holder(route, group, publisher)?;
        // It became one just now.
        let holder = Some(holder).filter(|holder| locks.has(*holder))?;
        let is_one_range = self.is_one_range(holder, route.inbox);
        let other = route_of(group, holder).filter(|other| other.options.qos != Qos::AtMostOnce)?;
        let away = locks.of(holder).sessions.get(&holder)?;
        if away.room() == 0 && is_one_range {
            // There is none for the new one: the older go to it.
            let origin = Origin::of(group);
            let taker = Taker { route: *route, group, origin: &origin };
            let is_wanted = |other| other == publisher;
            let at = Place { publisher: Some(publisher), inbox: holder };
            let (count_max, is_partial) = (usize::MAX, true);
            let share = Share { count_max, is_partial, is_wanted: &is_wanted, at };
            self.move_shared(locks, &taker, &share, change);
            let is_there = self.stranded().holder(&origin, publisher) == Some(holder);
            let room = locks.of(route.inbox).sessions.get(&route.inbox).map(|held| held.room());
            if !is_there && room.is_none_or(|room| room > 0) {
                return None;
            }
        }
        change.nudges.push(route.inbox);
        Some(other)
    }

    /// Where older messages wait of the publisher of a message that is meant for `route`.
    pub(crate) fn holder(
        &self,
        route: &InboxRoute,
        group: &Group,
        publisher: PublisherId,
    ) -> Option<InboxId> {
        // Whoever wants QoS 0 never takes them over. (No-local and groups exclude each other.)
        let takes_none = route.options.qos == Qos::AtMostOnce || route.options.no_local;
        if !group.is_ordered || takes_none || self.stranded().is_empty() {
            return None;
        }
        let holder = self.stranded().holder(&Origin::of(group), publisher);
        holder.filter(|holder| *holder != route.inbox)
    }

    /// A message waits at a member that is away: if that is new, whoever is there and waits is told.
    pub(crate) fn note_stranded(
        &self,
        inbox: InboxId,
        session: &mut Session,
        group: &Group,
        publisher: PublisherId,
        change: &mut Change,
    ) {
        /// So many entries may be of messages that have expired, besides as many as wait.
        const STALE_MAX: usize = 64;
        let Session { queue, noted, .. } = session;
        if !self.stranded().note(inbox, noted, &Origin::of(group), publisher) {
            return;
        }
        if noted.len() > STALE_MAX + 2 * queue.len() {
            self.stranded().note_all(inbox, noted, queue);
        }
        if group.is_ordered {
            let chosen = group.choose(publisher, None);
            change.nudges.extend(chosen.and_then(online_inbox));
            return;
        }
        change.nudges.extend(group.members.iter().filter_map(online_inbox));
    }

    /// A session left its ordered groups, or its connection: others may be the ones for publishers
    /// whose messages wait. Called with or without its lock.
    pub(crate) fn nudge_heirs<'a>(
        &self,
        tenant: &TenantId,
        filters: impl Iterator<Item = &'a str>,
        change: &mut Change,
    ) {
        if self.stranded().is_empty() {
            return;
        }
        let routes = self.dist.tenant(tenant);
        for filter in filters.filter(|filter| filter.starts_with(ORDERED_SHARE_PREFIX)) {
            let origin = origin_of(&*routes, filter).filter(|origin| self.stranded().has(origin));
            let Some(group) = origin.and_then(|origin| group_of(&*routes, &origin)) else {
                continue;
            };
            change.nudges.extend(group.members.iter().filter_map(online_inbox));
        }
    }

    /// Wakes those that wait for a message. Called without a lock.
    pub(crate) fn wake_nudged(&self, change: &mut Change) {
        for inbox in std::mem::take(&mut change.nudges) {
            let mut partition = self.partitions.lock_of(inbox);
            let session = partition.sessions.get_mut(&inbox);
            change.ready.extend(session.and_then(|session| session.wake(Waiting::Message)));
        }
    }
}

/// Whose messages are taken of what waits in a queue, whole publishers in the order of their oldest
/// messages, with how many each has; and whether somebody's had no room.
fn publishers(
    queue: &Queue,
    origin: &Origin,
    share: &Share<'_>,
    room: usize,
) -> (BTreeMap<PublisherId, usize>, bool) {
    let mut order: Vec<(PublisherId, usize, usize)> = Vec::new();
    let mut places: BTreeMap<PublisherId, usize> = BTreeMap::new();
    for (_, held, message) in queue.shared() {
        if held == origin {
            let at = *places.entry(message.publisher).or_insert(order.len());
            if at == order.len() {
                order.push((message.publisher, 0, 0));
            }
            order[at].1 += 1;
            order[at].2 += message.size_bytes();
        }
    }
    let (mut chosen, mut is_short) = (BTreeMap::new(), false);
    let (mut count_all, mut bytes_all) = (0, 0);
    for (publisher, count, bytes) in order {
        if count_all >= share.count_max.min(room) || bytes_all >= PART_BYTES_MAX {
            is_short |= room == 0;
            break;
        }
        if !(share.is_wanted)(publisher) {
            continue;
        }
        if count_all + count > room && !(share.is_partial && count_all == 0) {
            is_short = true;
            continue;
        }
        chosen.insert(publisher, count);
        (count_all, bytes_all) = (count_all + count, bytes_all + bytes);
    }
    (chosen, is_short)
}

/// The shared ones of a session's filters, which rise.
pub(crate) fn shared_filters(subscriptions: &[Subscription]) -> impl Iterator<Item = &str> {
    [ORDERED_SHARE_PREFIX, SHARE_PREFIX].into_iter().flat_map(|prefix| {
        let from = subscriptions.partition_point(|held| *held.filter < *prefix);
        let filters = subscriptions[from..].iter().map(|held| &*held.filter);
        filters.take_while(move |filter| filter.starts_with(prefix))
    })
}

/// The group of a shared filter, if it has members.
fn origin_of(routes: &dyn TenantRoutes, filter: &str) -> Option<Origin> {
    let filter = TopicFilter::parse(filter, &TopicLimits::PROTOCOL).ok()?;
    let share = filter.share()?;
    let route = routes.find(&filter)?;
    Some(Origin { route, name: share.group.into(), is_ordered: share.ordered })
}

/// A member of a group as a receiver.
fn route_of(group: &Group, inbox: InboxId) -> Option<InboxRoute> {
    let is_it = |member: &&Member| member.target == MemberTarget::Inbox(inbox);
    let member = group.members.iter().find(is_it)?;
    Some(InboxRoute {
        inbox,
        incarnation: member.incarnation,
        options: member.options,
        subscription_id: member.subscription_id,
    })
}

fn online_inbox(member: &Member) -> Option<InboxId> {
    match member.target {
        MemberTarget::Inbox(inbox) if member.is_online() => Some(inbox),
        MemberTarget::Inbox(_) | MemberTarget::Session(_) | MemberTarget::Host(_) => None,
    }
}

#[cfg(test)]
impl InboxService {
    /// Panics unless the invariants of the index hold.
    pub(crate) fn check_stranded(&self) {
        let mut locks = self.partitions.lock(PartitionSet::ALL);
        let noted = self.stranded().contents();
        for (_, place) in &noted {
            let session = locks.of(place.inbox).sessions.get(&place.inbox);
            assert!(session.is_some_and(|session| session.is_away()), "{place:?} is away");
        }
        for number in 0..crate::partition::PARTITION_COUNT {
            let sessions = locks.at(number).sessions.iter();
            for (inbox, session) in sessions.filter(|(_, session)| session.is_away()) {
                for (_, origin, message) in session.queue.shared() {
                    let publisher = origin.is_ordered.then_some(message.publisher);
                    let place = (origin.clone(), Place { publisher, inbox: *inbox });
                    assert!(noted.contains(&place), "{place:?} is noted");
                }
            }
        }
    }
}
