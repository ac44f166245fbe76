//! What tests put in the place of dist and of the live sessions, and shorthands.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use parking_lot::Mutex;
use ratatosk_client::{Keyspace, held::HeldKeyspace};
use ratatosk_clock::{Epoch, Instant};
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    Call, ClientId, HostNumber, Message, PublisherId, ReplyTo, SessionIdentity, SessionRef,
    ShardId, TenantId, Ticket,
    call::{Promised, Settlement},
    dist::{
        AddError, Dist, HostRoute, InboxRoute, Receiver, ReceiverKey, Resolution, Restored,
        RouteEpoch, RouteId, RouteTold, StoredKey, StoredRoute, TenantRoutes,
    },
    group::{Group, Member, MemberTarget},
    inbox::{
        Answer, Attach, Attached, Claim, Detach, DirectDelivery, DueWill, Entry, FetchBudget,
        Inbox, QueueLimits, Sequence, SharedRoute, SubscribeOutcome, Subscription, Targets,
    },
    sessions::{Delivery, Sessions},
};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::InboxService;

/// Routes as a list. A route's number is its place in `filters`.
#[derive(Default)]
pub(crate) struct FakeRoutes {
    filters: Mutex<Vec<String>>,
    pub(crate) inboxes: Mutex<Vec<(RouteId, InboxRoute)>>,
    pub(crate) groups: Mutex<Vec<Arc<Group>>>,
    /// What was asked for, where all nodes have the routes.
    pub(crate) late: Mutex<Option<Vec<Asked>>>,
}

/// A change of routes that is on its way.
pub(crate) struct Asked {
    what: Vec<(String, Result<Receiver, ReceiverKey>)>,
    told: RouteTold,
}

/// One tenant's routes, whoever asks.
#[derive(Clone, Default)]
pub(crate) struct FakeDist(pub(crate) Arc<FakeRoutes>);

impl Dist for FakeDist {
    fn tenant(&self, _: &TenantId) -> Arc<dyn TenantRoutes> {
        Arc::clone(&self.0) as Arc<dyn TenantRoutes>
    }

    fn tenants(&self) -> Vec<TenantId> {
        vec![TenantId::new("t")]
    }
}

impl FakeRoutes {
    fn route(&self, filter: &TopicFilter<'_>) -> RouteId {
        let mut filters = self.filters.lock();
        let at = filters.iter().position(|held| held == filter.filter()).unwrap_or_else(|| {
            filters.push(filter.filter().to_owned());
            filters.len() - 1
        });
        RouteId { index: u32::try_from(at).unwrap(), generation: 1 }
    }

    fn change_group(
        &self,
        filter: &TopicFilter<'_>,
        change: impl FnOnce(&mut Vec<Member>) -> bool,
    ) -> bool {
        let (route, share) = (self.route(filter), filter.share().unwrap());
        let mut groups = self.groups.lock();
        let at = groups.iter().position(|group| {
            (group.route, &*group.name, group.is_ordered) == (route, share.group, share.ordered)
        });
        let mut members = at.map(|at| groups.remove(at).members.clone()).unwrap_or_default();
        let is_changed = change(&mut members);
        if !members.is_empty() {
            groups.push(Arc::new(Group {
                name: share.group.into(),
                is_ordered: share.ordered,
                route,
                members,
                cursor: AtomicU32::new(0),
            }));
        }
        is_changed
    }

    /// Takes note of a change that is to come; false where changes come at once.
    fn ask(&self, asked: Asked) -> bool {
        let mut late = self.late.lock();
        late.as_mut().map(|late| late.push(asked)).is_some()
    }

    /// Carries out the first change that was asked for, or not, and tells what became of it.
    pub(crate) fn answer(&self, is_carried_out: bool, is_known: bool) {
        let Asked { what, told } = self.late.lock().as_mut().unwrap().remove(0);
        for (filter, change) in what.into_iter().filter(|_| is_carried_out) {
            let filter = TopicFilter::parse(&filter, &TopicLimits::PROTOCOL).unwrap();
            match change {
                Ok(receiver) => drop(self.add(&filter, receiver)),
                Err(key) => drop(self.remove(&filter, &key)),
            }
        }
        told(is_known);
    }

    /// How many changes are on their way.
    pub(crate) fn asked(&self) -> usize {
        self.late.lock().as_ref().map_or(0, Vec::len)
    }
}

impl TenantRoutes for FakeRoutes {
    fn add_stored(
        &self,
        filter: &TopicFilter<'_>,
        receiver: Receiver,
        told: RouteTold,
    ) -> Call<Result<RouteId, AddError>> {
        let what = vec![(filter.as_str().to_owned(), Ok(receiver.clone()))];
        if self.ask(Asked { what, told }) {
            return Call::Pending;
        }
        self.add(filter, receiver)
    }

    fn remove_stored(
        &self,
        routes: &[(TopicFilter<'_>, StoredKey)],
        told: RouteTold,
    ) -> Call<usize> {
        let keys: Vec<_> = routes.iter().map(|(filter, key)| (*filter, key.receiver())).collect();
        let what = keys.iter().map(|(filter, key)| (filter.as_str().to_owned(), Err(*key)));
        if self.ask(Asked { what: what.collect(), told }) {
            return Call::Pending;
        }
        Call::Ready(self.remove_each(&keys))
    }

    fn is_replicated(&self) -> bool {
        self.late.lock().is_some()
    }

    fn epoch(&self) -> RouteEpoch {
        RouteEpoch(0)
    }

    fn resolve(&self, _: TopicName<'_>, _: &mut Resolution) {
        unreachable!("the inbox does not resolve")
    }

    fn add(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Call<Result<RouteId, AddError>> {
        let route = self.route(filter);
        match receiver {
            Receiver::Shard(_) | Receiver::Host(_) => unreachable!("the inbox is neither"),
            Receiver::Inbox(inbox) => {
                let mut inboxes = self.inboxes.lock();
                inboxes.retain(|held| (held.0, held.1.inbox) != (route, inbox.inbox));
                inboxes.push((route, inbox));
            }
            Receiver::Member { member, members_max } => {
                let is_added = self.change_group(filter, |members| {
                    members.retain(|held| held.id != member.id);
                    let has_room = members.len() < members_max as usize;
                    members.extend(has_room.then_some(member));
                    has_room
                });
                if !is_added {
                    return Call::Ready(Err(AddError::GroupFull { members_max }));
                }
            }
        }
        Call::Ready(Ok(route))
    }

    fn remove(&self, filter: &TopicFilter<'_>, receiver: &ReceiverKey) -> Call<bool> {
        let route = self.route(filter);
        Call::Ready(match *receiver {
            ReceiverKey::Shard(_) | ReceiverKey::Host(_) | ReceiverKey::HostMember { .. } => {
                unreachable!("the inbox is none of them")
            }
            ReceiverKey::Inbox { inbox, incarnation } => {
                let mut inboxes = self.inboxes.lock();
                let before = inboxes.len();
                inboxes.retain(|(held, inbox_route)| {
                    *held != route
                        || inbox_route.inbox != inbox
                        || inbox_route.incarnation > incarnation
                });
                inboxes.len() < before
            }
            ReceiverKey::Member { id, incarnation } => self.change_group(filter, |members| {
                let before = members.len();
                members.retain(|held| held.id != id || held.incarnation > incarnation);
                members.len() < before
            }),
        })
    }

    fn remove_route(&self, _: RouteId, _: &ReceiverKey) -> Call<bool> {
        unreachable!("the inbox removes by filter")
    }

    fn remove_each(&self, receivers: &[(TopicFilter<'_>, ReceiverKey)]) -> usize {
        let is_removed = |filter, key| self.remove(filter, key) == Call::Ready(true);
        receivers.iter().filter(|(filter, key)| is_removed(filter, key)).count()
    }

    fn host_routes(&self, _: HostNumber) -> Vec<RouteId> {
        Vec::new()
    }

    fn host_routes_count(&self, _: HostNumber) -> usize {
        0
    }

    fn retain_host(
        &self,
        _: HostNumber,
        _: &[RouteId],
        _: &mut dyn FnMut(HostRoute<'_>) -> bool,
    ) -> usize {
        unreachable!("the inbox knows no hosts")
    }

    fn restore(&self, filter: &TopicFilter<'_>, receiver: Receiver) -> Restored {
        let stored = || {
            let mut found = Vec::new();
            assert_eq!(self.stored(0, &mut found), None);
            found
        };
        let before = stored();
        if self.is_replicated() {
            let is_it = |held: &StoredRoute| match &receiver {
                Receiver::Inbox(route) => held.route == *route && held.member.is_none(),
                Receiver::Member { member, .. } => held.member == Some(member.id),
                Receiver::Shard(_) | Receiver::Host(_) => false,
            };
            let text = filter.as_str();
            if before.iter().any(|held| &*held.filter == text && is_it(held)) {
                return Restored::Known;
            }
            let what = vec![(text.to_owned(), Ok(receiver))];
            self.ask(Asked { what, told: Box::new(drop) });
            return Restored::Repaired;
        }
        let added = self.add(filter, receiver);
        assert!(matches!(added, Call::Ready(Ok(_))), "{added:?}");
        let is_known = stored().iter().all(|held| before.contains(held));
        if is_known { Restored::Known } else { Restored::Repaired }
    }

    fn stored(&self, _: usize, found: &mut Vec<StoredRoute>) -> Option<usize> {
        let filters = self.filters.lock();
        let text = |route: RouteId| &*filters[route.index as usize];
        for (route, inbox) in self.inboxes.lock().iter() {
            found.push(StoredRoute { filter: text(*route).into(), route: *inbox, member: None });
        }
        for group in self.groups.lock().iter() {
            let share = if group.is_ordered { "$oshare" } else { "$share" };
            let filter = format!("{share}/{}/{}", group.name, text(group.route));
            for member in &group.members {
                let MemberTarget::Inbox(inbox) = member.target else { continue };
                let Member { incarnation, options, subscription_id, .. } = *member;
                let route = InboxRoute { inbox, incarnation, options, subscription_id };
                let (filter, member) = (filter.as_str().into(), Some(member.id));
                found.push(StoredRoute { filter, route, member });
            }
        }
        None
    }

    fn find(&self, filter: &TopicFilter<'_>) -> Option<RouteId> {
        Some(self.route(filter))
    }

    fn group(&self, route: RouteId, name: &str, is_ordered: bool) -> Option<Arc<Group>> {
        let groups = self.groups.lock();
        let is_meant = |group: &&Arc<Group>| {
            (group.route, &*group.name, group.is_ordered) == (route, name, is_ordered)
        };
        groups.iter().find(is_meant).cloned()
    }

    fn filter_text(&self, route: RouteId, text: &mut String) -> bool {
        text.push_str(&self.filters.lock()[route.index as usize]);
        true
    }

    fn len(&self) -> usize {
        self.inboxes.lock().len() + self.groups.lock().len()
    }
}

/// Notes what it is told.
#[derive(Default)]
pub(crate) struct FakeSessions {
    ready: Mutex<Vec<SessionRef>>,
    delivered: Mutex<Vec<(SessionRef, Delivery)>>,
    settled: Mutex<Vec<(u64, Settlement)>>,
}

impl FakeSessions {
    pub(crate) fn take_ready(&self) -> Vec<SessionRef> {
        std::mem::take(&mut self.ready.lock())
    }

    pub(crate) fn take_delivered(&self) -> Vec<(SessionRef, Delivery)> {
        std::mem::take(&mut self.delivered.lock())
    }

    /// Tickets, in the order in which they were settled.
    pub(crate) fn take_settled(&self) -> Vec<(u64, Settlement)> {
        std::mem::take(&mut self.settled.lock())
    }
}

impl Sessions for FakeSessions {
    fn inbox_ready(&self, session: SessionRef) {
        self.ready.lock().push(session);
    }

    fn deliver(&self, session: SessionRef, delivery: Delivery) {
        self.delivered.lock().push((session, delivery));
    }

    fn settle(&self, _: SessionRef, ticket: Ticket, settlement: Settlement) {
        self.settled.lock().push((ticket.0, settlement));
    }

    fn answered(&self, _: ReplyTo, _: Answer) {
        unreachable!("the service answers at once")
    }

    fn publish(&self, _: DueWill) {
        unreachable!("wills are handed to who expires")
    }
}

/// A service between fakes.
pub(crate) struct Bench {
    pub(crate) inbox: Arc<InboxService>,
    pub(crate) routes: Arc<FakeRoutes>,
    pub(crate) sessions: Arc<FakeSessions>,
    pub(crate) limits: QueueLimits,
    owners: AtomicU32,
}

pub(crate) fn bench() -> Bench {
    bench_of(|inbox| inbox)
}

/// A service between fakes that has taken over what a keyspace has.
pub(crate) fn bench_in(keyspace: &Arc<HeldKeyspace>, epoch: Epoch, now: Instant) -> Bench {
    bench_on(Arc::clone(keyspace) as _, epoch, now)
}

/// As [`bench_in`], on any keyspace.
pub(crate) fn bench_on(keyspace: Arc<dyn Keyspace>, epoch: Epoch, now: Instant) -> Bench {
    let bench = bench_of(|inbox| inbox.kept_in(keyspace, epoch));
    bench.inbox.restore(now).unwrap();
    bench.inbox.check_invariants();
    bench
}

pub(crate) fn bench_of(make: impl FnOnce(InboxService) -> InboxService) -> Bench {
    let (dist, sessions) = (FakeDist::default(), Arc::new(FakeSessions::default()));
    let routes = Arc::clone(&dist.0);
    let inbox = InboxService::new(Arc::new(dist), Arc::clone(&sessions) as Arc<dyn Sessions>);
    Bench::around(make(inbox), routes, sessions)
}

pub(crate) fn seconds(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1_000)
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("t")
}

pub(crate) fn identity(client: &str) -> SessionIdentity {
    SessionIdentity { tenant: tenant(), user: None, client: ClientId::new(client) }
}

pub(crate) fn owner(slot: u32) -> SessionRef {
    SessionRef { shard: ShardId(0), slot, generation: 0 }
}

pub(crate) const BUDGET: FetchBudget =
    FetchBudget { now: Instant::ZERO, messages_max: usize::MAX, bytes_max: usize::MAX };

/// A message without a deadline of `payload`.
pub(crate) fn message(payload: &str, qos: Qos) -> Message<'_> {
    Message {
        topic: "a",
        payload: payload.as_bytes(),
        shared: None,
        properties: &[],
        qos,
        retain: false,
        publisher: PublisherId(1),
        accepted: Instant::ZERO,
        deadline: None,
    }
}

pub(crate) fn payloads(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| std::str::from_utf8(&entry.message.payload).unwrap()).collect()
}

impl Bench {
    pub(crate) fn around(
        inbox: InboxService,
        routes: Arc<FakeRoutes>,
        sessions: Arc<FakeSessions>,
    ) -> Self {
        let limits = QueueLimits {
            messages_max: 100,
            filters_max: 10,
            members_max: 10,
            qos0_drop_oldest: false,
            qos0_when_offline: true,
        };
        let inbox = Arc::new(inbox);
        Bench { inbox, routes, sessions, limits, owners: AtomicU32::new(0) }
    }

    /// Attaches at `now` with a session that lives for 100 s.
    pub(crate) fn attach(&self, client: &str, now: Instant) -> Attached {
        self.attach_as(client, now, false, Some(100))
    }

    pub(crate) fn attach_as(
        &self,
        client: &str,
        now: Instant,
        is_clean: bool,
        expiry_s: Option<u32>,
    ) -> Attached {
        let owner = owner(self.owners.fetch_add(1, Ordering::Relaxed));
        let (identity, limits) = (&identity(client), self.limits);
        let attach = Attach { identity, owner, is_clean, expiry_s, limits, will: None, now };
        self.inbox.attach_owner(&attach, None).answer
    }

    pub(crate) fn detach(&self, claim: Claim, now: Instant) {
        self.detach_as(claim, now, None, None);
    }

    pub(crate) fn detach_as(
        &self,
        claim: Claim,
        now: Instant,
        expiry_s: Option<u32>,
        will: Option<(&str, u32)>,
    ) {
        let will = will.map(|(payload, delay_s)| {
            (Arc::new(message(payload, Qos::AtMostOnce).to_stored()), delay_s)
        });
        let outcome = self.inbox.detach(claim, Detach { expiry_s, will, now }, None);
        assert!(outcome.is_ok());
        self.inbox.check_invariants();
    }

    pub(crate) fn subscribe(&self, claim: Claim, filter: &str, qos: Qos) -> SubscribeOutcome {
        let options = SubscriptionOptions::new(qos);
        let subscription = Subscription { filter: filter.into(), options, subscription_id: None };
        self.inbox.put_subscription(claim, &subscription, None).answer
    }

    /// To every session with a route of its own.
    pub(crate) fn append_message(&self, message: &Message<'_>) -> Vec<DirectDelivery> {
        let routes: Vec<_> = self.routes.inboxes.lock().iter().map(|held| held.1).collect();
        let mut direct = Vec::new();
        let targets = Targets { tenant: &tenant(), routes: &routes, shared: &[] };
        let outcome = self.inbox.append(targets, message, None, None, &mut direct);
        assert!(matches!(outcome, Call::Ready(Settlement::Done) | Call::Pending), "{outcome:?}");
        direct
    }

    /// To one member of a group only.
    pub(crate) fn append_shared(&self, shared: SharedRoute, message: &Message<'_>) {
        let mut direct = Vec::new();
        let targets = Targets { tenant: &tenant(), routes: &[], shared: &[shared] };
        let outcome = self.inbox.append(targets, message, None, None, &mut direct);
        assert!(matches!(outcome, Call::Ready(Settlement::Done) | Call::Pending), "{outcome:?}");
        assert!(direct.is_empty());
    }

    pub(crate) fn append(&self, payload: &str, qos: Qos) -> Vec<DirectDelivery> {
        self.append_message(&message(payload, qos))
    }

    pub(crate) fn fetch(&self, claim: Claim, after: Sequence, budget: FetchBudget) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.inbox.fetch(claim, after, budget, &mut entries).unwrap();
        self.inbox.check_invariants();
        entries
    }

    /// All that is there, from the beginning.
    pub(crate) fn fetch_all(&self, claim: Claim) -> Vec<Entry> {
        self.fetch(claim, Sequence(0), BUDGET)
    }

    pub(crate) fn expire(&self, now: Instant) -> Vec<String> {
        let mut wills: Vec<DueWill> = Vec::new();
        self.inbox.expire(now, usize::MAX, &mut wills);
        self.inbox.check_invariants();
        let text = |will: &DueWill| String::from_utf8(will.message.payload.to_vec()).unwrap();
        wills.iter().map(text).collect()
    }

    /// Every message that came is somewhere.
    pub(crate) fn check_conservation(&self) {
        let stats = self.inbox.stats();
        let gone = stats.direct + stats.fetched_qos0 + stats.committed + stats.moved + stats.left;
        let here = stats.queued + stats.queued_qos0;
        assert_eq!(stats.appended, gone + here + stats.dropped.sum(), "{stats:?}");
    }
}

/// Of a service that serves all there is.
impl InboxService {
    pub(crate) fn attach_owner(
        &self,
        attach: &Attach<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Promised<Attached> {
        self.attach_here(attach, reply_to).expect("it is served")
    }

    pub(crate) fn discard_session(
        &self,
        identity: &SessionIdentity,
        now: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Promised<bool> {
        self.discard_here(identity, now, reply_to).expect("it is served")
    }
}
