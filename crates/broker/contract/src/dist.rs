//! Subscriptions and routing: what dist offers.
//!
//! A route is (tenant, filter, receiver). The transient sessions of one filter on one shard share
//! one route, which the shard expands to its own sessions; a persistent session and a member of
//! a shared group have a route each.
//!
//! The packet path asks [`TenantRoutes::resolve`] once per topic and keeps the answer while
//! [`TenantRoutes::epoch`] stays as it was.
//!
//! Where several nodes match, routes of persistent sessions are the same on all of them: each has a
//! replica, which may be behind. So these routes come and go by [`TenantRoutes::add_stored`] and
//! [`TenantRoutes::remove_stored`], which are done later, and whoever publishes asks
//! [`TenantRoutes::may_answer`] first.

use std::sync::Arc;

use ratatosk_codec::SubscriptionOptions;
use ratatosk_topic::{TopicFilter, TopicName};

use crate::{
    Call, HostNumber, ShardId, TenantId,
    group::{Group, Member},
    identity::ShardSet,
    inbox::InboxId,
};

/// Names one (tenant, filter) while it has a receiver. Never reused while the process lives.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId {
    /// Where the filter stands in its tenant's index.
    pub index: u32,
    /// Tells successive filters at one index apart.
    pub generation: u32,
}

/// Rises with every change of a tenant's routes that a resolution could show.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteEpoch(pub u64);

/// The incarnation of every session that an earlier process left: older than every life of this one.
pub const RESTORED_LIFE: u64 = 1;

/// The routing service of a node.
pub trait Dist: Send + Sync {
    /// The routes of one tenant; made when first asked for.
    fn tenant(&self, tenant: &TenantId) -> Arc<dyn TenantRoutes>;

    /// The tenants that have routes.
    fn tenants(&self) -> Vec<TenantId>;
}

/// The routes of one tenant.
pub trait TenantRoutes: Send + Sync {
    /// The current epoch. A resolution is good while this is what it was resolved at.
    fn epoch(&self) -> RouteEpoch;

    /// Finds the receivers of `topic`, into `found`, whose old content is dropped.
    fn resolve(&self, topic: TopicName<'_>, found: &mut Resolution);

    /// Adds a receiver to a filter. Repeating it changes nothing, or replaces the options of the
    /// same receiver. A receiver of an older incarnation than the one that is there is ignored.
    ///
    /// Once ready, every resolution sees it. A persistent session's route that replicas have is refused:
    /// see [`TenantRoutes::add_stored`].
    fn add(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Call<Result<RouteId, AddError>>;

    /// Takes a receiver from a filter; false if it was not there, or if the one that is there is
    /// of a newer incarnation. A persistent session's route that replicas have is left alone: see
    /// [`TenantRoutes::remove_stored`].
    fn remove(&self, filter: &TopicFilter<'_>, receiver: &ReceiverKey) -> Call<bool>;

    /// Takes a receiver from the filter of `route`, as [`TenantRoutes::remove`] does. A route does
    /// not name a group: members are removed by their filter, here the answer is false.
    fn remove_route(&self, route: RouteId, receiver: &ReceiverKey) -> Call<bool>;

    /// Takes each receiver from its filter, as [`TenantRoutes::remove`] does, and answers how many
    /// were there. What is stored of them goes together.
    fn remove_each(&self, receivers: &[(TopicFilter<'_>, ReceiverKey)]) -> usize;

    /// As [`TenantRoutes::add`], for a persistent session. If the answer is `Pending`, which it is where
    /// replicas have the routes, `told` hears once what became of it, on a thread that others wait for;
    /// otherwise nobody does. It is never called before this returns.
    ///
    /// What is asked again is done again. Whether a group has room is judged by what is here. MQTT-086
    fn add_stored(
        &self,
        filter: &TopicFilter<'_>,
        receiver: Receiver,
        told: RouteTold,
    ) -> Call<Result<RouteId, AddError>> {
        drop(told);
        self.add(filter, receiver)
    }

    /// Takes routes of persistent sessions away, as [`TenantRoutes::remove_each`] does, and tells as
    /// [`TenantRoutes::add_stored`]. A later life of a session keeps its routes. Never refused.
    fn remove_stored(
        &self,
        routes: &[(TopicFilter<'_>, StoredKey)],
        told: RouteTold,
    ) -> Call<usize> {
        drop(told);
        let keys = routes.iter().map(|(filter, key)| (*filter, key.receiver()));
        Call::Ready(self.remove_each(&keys.collect::<Vec<_>>()))
    }

    /// Whether replicas have the routes of persistent sessions, so that whoever resolves has to ask
    /// [`TenantRoutes::may_answer`] first. Never changes.
    fn is_replicated(&self) -> bool {
        false
    }

    /// The epoch as of which the routes here have every route of a persistent session that was acknowledged
    /// anywhere before this was asked; `None` if that is not known now. What is resolved at this
    /// epoch may be acted upon, for what came before the question. A look at the clock and at a few
    /// numbers: to be asked once for all that was read at once. DUR-012, KV-010
    fn may_answer(&self) -> Option<RouteEpoch> {
        Some(self.epoch())
    }

    /// Has `told` called once it is worth asking [`TenantRoutes::may_answer`] again, on any thread; never
    /// before this returns, and perhaps never, so that whoever waits looks by himself from time to
    /// time.
    fn when_may_answer(&self, told: Box<dyn FnOnce() + Send>) {
        drop(told);
    }

    /// The filters with a route of a host: what [`TenantRoutes::retain_host`] is to look at, in pages
    /// of its caller's choice.
    fn host_routes(&self, host: HostNumber) -> Vec<RouteId>;

    /// How many they are.
    fn host_routes_count(&self, host: HostNumber) -> usize;

    /// Takes away the routes that a host has at some filters, but for those that `keep` wants; answers
    /// how many went. Every resolution that begins later lacks them. DIST-014
    fn retain_host(
        &self,
        host: HostNumber,
        filters: &[RouteId],
        keep: &mut dyn FnMut(HostRoute<'_>) -> bool,
    ) -> usize;

    /// Adds a receiver that a session's record says is there, whatever the limits and the room in
    /// the store. For the start, before anybody is let in; where replicas have the routes, for whoever
    /// serves the session, at any time. DIST-014
    fn restore(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Restored;

    /// Appends routes of persistent sessions to `found`, from the place `from` on; answers where to
    /// go on, `None` at the end. What comes or goes meanwhile may be missing.
    fn stored(&self, from: usize, found: &mut Vec<StoredRoute>) -> Option<usize>;

    /// The route of a filter, without its share prefix, if it has one.
    fn find(&self, filter: &TopicFilter<'_>) -> Option<RouteId>;

    /// The members, as of now, of one shared group of a route.
    fn group(&self, route: RouteId, name: &str, is_ordered: bool) -> Option<Arc<Group>>;

    /// The filter of a route, without its share prefix, appended to `text`; false if the route is
    /// gone.
    fn filter_text(&self, route: RouteId, text: &mut String) -> bool;

    /// How many filters have a receiver.
    fn len(&self) -> usize;

    /// Whether no filter has a receiver.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a receiver was not added. Nothing was changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// MQTT-086
    #[error("the shared group has {members_max} members already")]
    GroupFull {
        /// The tenant's limit.
        members_max: u32,
    },
    /// The store of the routes takes no more at the moment. MQTT-077
    #[error("the route store is busy")]
    Busy,
}

/// Who receives the messages of a filter.
#[derive(Clone, Debug)]
pub enum Receiver {
    /// A shard, for its transient sessions.
    Shard(ShardId),
    /// A persistent session.
    Inbox(InboxRoute),
    /// Another host, for its transient sessions.
    Host(HostNumber),
    /// A member of the shared group that the filter names, of this host or another one.
    Member {
        /// The member.
        member: Member,
        /// The most members that the group may have.
        members_max: u32,
    },
}

/// Which receiver is meant, without what is known of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ReceiverKey {
    /// A shard.
    Shard(ShardId),
    /// A persistent session, up to an incarnation.
    Inbox {
        /// The session.
        inbox: InboxId,
        /// Only a route of this or an older incarnation is meant.
        incarnation: u64,
    },
    /// A member of the filter's shared group that is of no other host, up to an incarnation.
    Member {
        /// See [`Member::id`].
        id: u64,
        /// Only a member of this or an older incarnation is meant.
        incarnation: u64,
    },
    /// Another host.
    Host(HostNumber),
    /// A member of the filter's shared group on another host, of whatever incarnation.
    HostMember {
        /// Where it is.
        host: HostNumber,
        /// See [`Member::id`].
        id: u64,
    },
}

/// A route of another host.
#[derive(Copy, Clone, Debug)]
pub enum HostRoute<'a> {
    /// Its transient sessions with one filter.
    Filter(RouteId),
    /// A member of a shared group.
    Member {
        /// The group.
        group: &'a Group,
        /// See [`Member::id`].
        id: u64,
    },
}

/// A persistent session's subscription.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct InboxRoute {
    /// The session.
    pub inbox: InboxId,
    /// Which life of the session asked; a later one wins. Where replicas have the routes it is the number
    /// of the inbox.
    pub incarnation: u64,
    /// Granted options.
    pub options: SubscriptionOptions,
    /// The subscription identifier, if the client gave one.
    pub subscription_id: Option<u32>,
}

/// What became of a receiver that a session's record has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The route was stored just so, or nothing is stored.
    Known,
    /// It was not, and is again.
    Repaired,
}

/// A route of a persistent session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRoute {
    /// The filter as the client wrote it, with its share prefix.
    pub filter: Box<str>,
    /// The session and what it asked for.
    pub route: InboxRoute,
    /// The session's number as a member, if the filter is shared.
    pub member: Option<u64>,
}

impl StoredRoute {
    /// The route, to be removed.
    pub fn stored_key(&self) -> StoredKey {
        let InboxRoute { inbox, incarnation, .. } = self.route;
        StoredKey { inbox, incarnation, member: self.member }
    }

    /// The receiver, to be removed.
    pub fn key(&self) -> ReceiverKey {
        self.stored_key().receiver()
    }
}

/// A route of a persistent session, to be removed wherever it is kept.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The session.
    pub inbox: InboxId,
    /// Which life of it, as this process counts them.
    pub incarnation: u64,
    /// The session's number as a member, if the filter is shared.
    pub member: Option<u64>,
}

impl StoredKey {
    /// The receiver.
    pub fn receiver(&self) -> ReceiverKey {
        let StoredKey { inbox, incarnation, member } = *self;
        match member {
            None => ReceiverKey::Inbox { inbox, incarnation },
            Some(id) => ReceiverKey::Member { id, incarnation },
        }
    }
}

/// Told what became of a change of stored routes. True: it is durable, and every replica that may answer
/// has it. False: it may come yet, or never; who wants it asks again.
pub type RouteTold = Box<dyn FnOnce(bool) + Send>;

/// One route's transient receivers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TransientRoute {
    /// The route; each shard knows its sessions.
    pub route: RouteId,
    /// Shards that have sessions for it.
    pub shards: ShardSet,
}

/// The receivers of one topic.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// The epoch as of which this holds.
    pub epoch: RouteEpoch,
    /// Routes with transient receivers.
    pub transient: Vec<TransientRoute>,
    /// Subscriptions of persistent sessions.
    pub inboxes: Vec<InboxRoute>,
    /// Shared groups; each takes the message once.
    pub groups: Vec<Arc<Group>>,
    /// Other hosts with transient sessions for it, rising: each once, however many filters match.
    pub hosts: Vec<HostNumber>,
}

impl Resolution {
    /// Forgets all receivers and keeps the allocations.
    pub fn clear(&mut self) {
        self.transient.clear();
        self.inboxes.clear();
        self.groups.clear();
        self.hosts.clear();
    }

    /// Whether nothing matches.
    pub fn is_empty(&self) -> bool {
        self.transient.is_empty()
            && self.inboxes.is_empty()
            && self.groups.is_empty()
            && self.hosts.is_empty()
    }
}
