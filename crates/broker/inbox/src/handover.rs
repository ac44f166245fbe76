//! A message for one session, and for another member when it came through a group whose member
//! goes.
//!
//! No lock is held from one session to the next: a member that is chosen may be gone when its turn
//! comes, and then the next is asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use ratatosk_codec::Qos;
use ratatosk_contract::{
    Message, PublisherId, SessionRef, StoredMessage, TenantId,
    dist::{InboxRoute, TenantRoutes},
    group::{Group, MemberTarget},
    inbox::DirectDelivery,
    sessions::Delivery,
};
use ratatosk_telemetry::memory::{Account, Share};

use crate::{
    InboxService,
    partition::Partition,
    queue::{Item, Origin, Transfer},
    session::{Session, Waiting},
};

/// How many members are asked to take over a message. More than one is gone only if several of a
/// group go at the same moment.
const TRIES_MAX: usize = 4;

/// What became of a message for one session.
#[derive(Debug)]
pub(crate) enum Offer {
    /// It is in the queue; the owner is to be told, if it waited.
    Queued(Option<SessionRef>),
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
}

impl<'a> Parcel<'a> {
    pub(crate) fn new(message: &Message<'a>) -> Self {
        Parcel { message: *message, stored: None }
    }

    pub(crate) fn of(stored: &'a Arc<StoredMessage>) -> Self {
        Parcel { message: stored.as_message(), stored: Some(Arc::clone(stored)) }
    }

    /// The message as queues share it, charged to their tenant.
    pub(crate) fn stored(&mut self, account: &Account) -> &Arc<StoredMessage> {
        self.stored.get_or_insert_with(|| Arc::new(keep(&self.message, account)))
    }
}

/// What the two allocations of a stored message take besides what is in them.
const BOXES_BYTES: usize = 96;

/// A copy that is charged once, until the last queue or receiver drops its payload.
fn keep(message: &Message<'_>, account: &Account) -> StoredMessage {
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

impl InboxService {
    /// Gives the message to one session.
    pub(crate) fn offer(
        &self,
        route: &InboxRoute,
        group: Option<&Group>,
        parcel: &mut Parcel<'_>,
    ) -> Offer {
        let mut partition = self.partition(route.inbox).lock();
        let Partition { sessions, stats, .. } = &mut *partition;
        let session = sessions.get_mut(&route.inbox);
        let Some(session) = session.filter(|held| held.incarnation == route.incarnation) else {
            return Offer::Gone;
        };
        let message = &parcel.message;
        if route.options.no_local && message.publisher == session.publisher {
            return Offer::NotMeant;
        }
        stats.appended += 1;
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
        let item = Item {
            qos,
            retain: message.retain && route.options.retain_as_published,
            subscription_id: route.subscription_id,
            origin: group.filter(|_| qos != Qos::AtMostOnce).map(Origin::of),
            message: Arc::clone(parcel.stored(session.account())),
        };
        let displaced = session.queue.push(item, &session.limits);
        session.recharge();
        session.note_room();
        stats.dropped.expired += displaced.expired;
        let overflow = u64::from(displaced.is_overflow);
        match qos {
            Qos::AtMostOnce => stats.dropped.overflow_qos0 += overflow,
            Qos::AtLeastOnce | Qos::ExactlyOnce => stats.dropped.overflow += overflow,
        }
        if displaced.is_queued {
            return Offer::Queued(session.wake(Waiting::Message));
        }
        Offer::Dropped
    }

    /// Gives messages of groups back for other members than `from`, which must not be locked.
    pub(crate) fn hand_over(&self, tenant: &TenantId, from: PublisherId, transfers: &[Transfer]) {
        if transfers.is_empty() {
            return;
        }
        let routes = self.dist.tenant(tenant);
        for Transfer { origin, message } in transfers {
            match group_of(&*routes, origin) {
                Some(group) => self.give(&group, from.0, message),
                None => self.count_without_member(),
            }
        }
    }

    /// Gives a message to a member other than `from`, or counts that there is none.
    pub(crate) fn give(&self, group: &Arc<Group>, from: u64, message: &Arc<StoredMessage>) {
        let mut parcel = Parcel::of(message);
        let mut without = from;
        for _ in 0..TRIES_MAX {
            let Some(member) = group.choose(message.publisher, Some(without)) else { break };
            let delivery = || Delivery {
                options: member.options,
                subscription_id: member.subscription_id,
                group: Arc::clone(group),
                message: Arc::clone(message),
            };
            let inbox = match member.target {
                MemberTarget::Session(session) => {
                    self.sessions.deliver(session, delivery());
                    return;
                }
                MemberTarget::Inbox(inbox) => inbox,
            };
            let route = InboxRoute {
                inbox,
                incarnation: member.incarnation,
                options: member.options,
                subscription_id: member.subscription_id,
            };
            match self.offer(&route, Some(group), &mut parcel) {
                Offer::Gone => without = member.id,
                Offer::Queued(None) | Offer::Dropped | Offer::NotMeant => return,
                Offer::Queued(Some(owner)) => {
                    self.sessions.inbox_ready(owner);
                    return;
                }
                Offer::Direct(direct) => {
                    self.sessions.deliver(direct.owner, delivery());
                    return;
                }
            }
        }
        self.count_without_member();
    }

    /// Takes out of a session that lost its connection what another member that is online may have.
    /// Called with the session's lock held; dist has none that leads back here.
    pub(crate) fn take_shared(&self, session: &mut Session) -> Vec<Transfer> {
        if !session.queue.has_shared() {
            return Vec::new();
        }
        let routes = self.dist.tenant(&session.identity.tenant);
        let me = session.publisher.0;
        let mut known: BTreeMap<(u32, Arc<str>, bool), bool> = BTreeMap::new();
        let transfers = session.queue.take_shared(|origin| {
            let key = (origin.route.generation, Arc::clone(&origin.name), origin.is_ordered);
            *known.entry(key).or_insert_with(|| {
                let is_other = |group: Arc<Group>| {
                    group.members.iter().any(|member| member.id != me && member.is_online())
                };
                group_of(&*routes, origin).is_some_and(is_other)
            })
        });
        session.note_room();
        transfers
    }

    fn count_without_member(&self) {
        self.without_member.fetch_add(1, Ordering::Relaxed);
    }
}

fn group_of(routes: &dyn TenantRoutes, origin: &Origin) -> Option<Arc<Group>> {
    routes.group(origin.route, &origin.name, origin.is_ordered)
}

/// The connection that a QoS 0 message may go to at once: not past others that are queued.
fn direct_owner(session: &Session) -> Option<SessionRef> {
    session.owner.filter(|_| session.queue.qos0_len() == 0)
}
