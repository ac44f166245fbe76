//! Routes that all nodes have: waited for, asked for again, and compared.
//!
//! Where replicas have the routes a change of one is done later, and may fail. So a SUBACK waits for two
//! commands, the session's and the route's; and what is not known to be done is looked at again: the
//! session, under its lock, says whether its route is to be there. Whoever waits for it waits on meanwhile, for a
//! bounded time: a range of routes whose leader died is no reason to disconnect clients. What no failure tells
//! of, as a command of whoever served the session before that came late, is found by comparing, a part
//! with each turn. DIST-014

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_contract::{
    Call, ReplyTo, TenantId,
    call::Settlement,
    dist::{AddError, Dist, Restored, RouteTold, StoredKey, StoredRoute, TenantRoutes},
    inbox::InboxId,
    sessions::Sessions,
};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    InboxService, partitions::partition_number, repair::Repaired, session::Session,
    subscribing::receiver,
};

/// How many routes may wait to be looked at again; what is beyond is found by comparing.
const UNSURE_MAX: usize = 65_536;
/// How long a route is asked for again before whoever waits for it is told that nobody knows.
const ASKED_AGAIN: Duration = Duration::from_secs(20);

/// Two commands that one answer waits for.
pub(crate) struct Both {
    open: AtomicUsize,
    is_done: AtomicBool,
    reply_to: Option<ReplyTo>,
    sessions: Arc<dyn Sessions>,
}

impl Both {
    pub(crate) fn new(reply_to: Option<ReplyTo>, sessions: &Arc<dyn Sessions>) -> Arc<Self> {
        let (open, is_done) = (AtomicUsize::new(2), AtomicBool::new(true));
        Arc::new(Both { open, is_done, reply_to, sessions: Arc::clone(sessions) })
    }

    /// Whether anybody is to be told.
    pub(crate) fn is_awaited(&self) -> bool {
        self.reply_to.is_some()
    }

    /// One of the two is done, or not known to be.
    pub(crate) fn add(&self, is_done: bool) {
        self.is_done.fetch_and(is_done, Ordering::AcqRel);
        if self.open.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let is_done = self.is_done.load(Ordering::Acquire);
        let settlement = if is_done { Settlement::Done } else { Settlement::Unknown };
        if let Some(ReplyTo { session, ticket }) = self.reply_to {
            self.sessions.settle(session, ticket, settlement);
        }
    }
}

impl std::fmt::Debug for Both {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Both").field("open", &self.open).finish_non_exhaustive()
    }
}

/// A route of which it is not known whether it is as its session has it.
#[derive(Clone, Debug)]
pub(crate) struct Unsure {
    pub(crate) tenant: TenantId,
    pub(crate) filter: Box<str>,
    pub(crate) key: StoredKey,
    wait: Option<Wait>,
}

impl Unsure {
    pub(crate) fn new(tenant: TenantId, filter: Box<str>, key: StoredKey) -> Self {
        Unsure { tenant, filter, key, wait: None }
    }
}

/// Somebody waits for a route.
#[derive(Clone, Debug)]
struct Wait {
    both: Arc<Both>,
    /// When it was asked for again first.
    since: Option<Instant>,
}

/// What came of a look at a route.
enum Settled {
    /// It is as its session has it.
    Right,
    /// It was asked for.
    Asked,
    /// It could not be asked for now.
    Busy,
    /// It cannot be as its session has it, or nobody here knows how that is.
    Unknown,
}

/// What is to be looked at again, and how far the comparison is.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    unsure: Arc<Mutex<Vec<Unsure>>>,
    comparing: Mutex<Comparing>,
}

#[derive(Debug, Default)]
struct Comparing {
    partition: usize,
    /// The tenant whose stored routes are looked at, and from which place on.
    tenant: Option<(TenantId, usize)>,
}

impl Routing {
    /// Told what became of a route's change: if it is not known it is looked at again, and only then does whoever
    /// waits hear of it.
    pub(crate) fn watch(&self, mut unsure: Vec<Unsure>, both: Option<Arc<Both>>) -> RouteTold {
        debug_assert!(both.is_none() || unsure.len() == 1, "one waits for one route");
        let list = Arc::clone(&self.unsure);
        Box::new(move |is_done| {
            let first = unsure.first_mut().filter(|_| !is_done);
            match (first, both) {
                (Some(first), Some(both)) => first.wait = Some(Wait { both, since: None }),
                (_, Some(both)) => both.add(is_done),
                (_, None) => {}
            }
            if !is_done {
                look_again(&list, unsure);
            }
        })
    }

    /// The same for one that was looked at before.
    fn watch_again(&self, unsure: Unsure) -> RouteTold {
        let list = Arc::clone(&self.unsure);
        Box::new(move |is_done| match (is_done, unsure.wait) {
            (true, Some(Wait { both, .. })) => both.add(true),
            (true, None) => {}
            (false, wait) => look_again(&list, vec![Unsure { wait, ..unsure }]),
        })
    }

    /// Takes routes away that no session has any more. What is not known to be done is looked at again.
    pub(crate) fn remove(
        &self,
        dist: &dyn Dist,
        tenant: &TenantId,
        keys: &[(TopicFilter<'_>, StoredKey)],
        both: Option<Arc<Both>>,
    ) -> Call<usize> {
        let routes = dist.tenant(tenant);
        let unsure = |(filter, key): &(TopicFilter<'_>, StoredKey)| {
            Unsure::new(tenant.clone(), filter.as_str().into(), *key)
        };
        let unsure = match routes.is_replicated() {
            true => keys.iter().map(unsure).collect(),
            false => Vec::new(),
        };
        routes.remove_stored(keys, self.watch(unsure, both))
    }
}

impl InboxService {
    /// Looks again at routes that may not be as their sessions have them, and compares some others. To be
    /// called from time to time; does nothing where nobody else has the routes.
    pub(crate) fn mind_routes(&self, now: Instant) {
        let unsure = std::mem::take(&mut *self.routing.unsure.lock());
        for mut unsure in unsure {
            let routes = self.dist.tenant(&unsure.tenant);
            if let Some(wait) = &mut unsure.wait
                && now.since(*wait.since.get_or_insert(now)) > ASKED_AGAIN
            {
                wait.both.add(false);
                unsure.wait = None;
            }
            let settled = self.settle_route(&*routes, &unsure);
            match (settled, unsure.wait.take()) {
                (Settled::Asked, _) | (_, None) => {}
                (Settled::Right, Some(Wait { both, .. })) => both.add(true),
                (Settled::Unknown, Some(Wait { both, .. })) => both.add(false),
                (Settled::Busy, wait) => {
                    look_again(&self.routing.unsure, vec![Unsure { wait, ..unsure }]);
                }
            }
        }
        let _ = self.compare_routes();
    }

    /// Compares the sessions of one partition with their routes, and a page of stored routes with their
    /// sessions; answers what was not right, and is asked for. The next call goes on with others.
    pub(crate) fn compare_routes(&self) -> Repaired {
        let mut repaired = Repaired::default();
        let mut comparing = self.routing.comparing.lock();
        let number = comparing.partition % self.partitions.iter().count();
        comparing.partition = number + 1;
        let inboxes: Vec<InboxId> =
            self.partitions.lock_one(number).at(number).sessions.keys().copied().collect();
        for inbox in inboxes {
            repaired.added += self.compare_session(inbox);
        }
        repaired.removed = self.compare_page(&mut comparing);
        repaired
    }

    fn compare_session(&self, inbox: InboxId) -> usize {
        let partition = self.partitions.lock_of(inbox);
        let Some(session) = partition.sessions.get(&inbox) else { return 0 };
        if !self.is_served(inbox) || session.subscriptions().is_empty() {
            return 0;
        }
        let routes = self.dist.tenant(&session.identity.tenant);
        // Who is behind would ask for what is there.
        if !routes.is_replicated() || routes.may_answer().is_none() {
            return 0;
        }
        let asked = session.subscriptions().iter().filter(|held| {
            let filter = TopicFilter::parse(&held.filter, &TopicLimits::PROTOCOL);
            filter.is_ok_and(|filter| is_repaired(&*routes, session, inbox, &filter))
        });
        asked.count()
    }

    fn compare_page(&self, comparing: &mut Comparing) -> usize {
        let (tenant, from) = match comparing.tenant.take() {
            Some(place) => place,
            None => match self.dist.tenants().into_iter().min() {
                Some(first) => (first, 0),
                None => return 0,
            },
        };
        let routes = self.dist.tenant(&tenant);
        if !routes.is_replicated() {
            return 0;
        }
        let mut found = Vec::new();
        let next = routes.stored(from, &mut found);
        let stale = found.iter().filter(|stored| {
            let StoredRoute { filter, .. } = stored;
            let unsure = Unsure::new(tenant.clone(), filter.clone(), stored.stored_key());
            self.is_served(unsure.key.inbox)
                && !self.has_subscription(&tenant, stored)
                && matches!(self.settle_route(&*routes, &unsure), Settled::Asked)
        });
        let count = stale.count();
        comparing.tenant = match next {
            Some(from) => Some((tenant, from)),
            None => {
                let later = self.dist.tenants().into_iter().filter(|other| *other > tenant);
                later.min().map(|next| (next, 0))
            }
        };
        count
    }

    /// Whether the sessions with such a number are served here.
    fn is_served(&self, inbox: InboxId) -> bool {
        self.serves(partition_number(inbox.0)).is_some()
    }

    /// Has a route be as its session has it. Under the session's lock: what it decides later is submitted later.
    fn settle_route(&self, routes: &dyn TenantRoutes, unsure: &Unsure) -> Settled {
        let Unsure { tenant, filter: text, key, wait } = unsure;
        let Ok(filter) = TopicFilter::parse(text, &TopicLimits::PROTOCOL) else {
            return Settled::Unknown;
        };
        let partition = self.partitions.lock_of(key.inbox);
        // Whoever serves it now compares it.
        if !self.is_served(key.inbox) {
            return Settled::Unknown;
        }
        let session = partition.sessions.get(&key.inbox);
        let session = session.filter(|session| {
            session.identity.tenant == *tenant && session.subscription(text).is_some()
        });
        match session {
            // That it is here does not tell that it is everywhere.
            Some(session) if wait.is_some() => self.ask_again(routes, session, &filter, unsure),
            Some(session) => match is_repaired(routes, session, key.inbox, &filter) {
                true => Settled::Asked,
                false => Settled::Right,
            },
            None => {
                let told = self.routing.watch_again(unsure.clone());
                match routes.remove_stored(&[(filter, *key)], told) {
                    Call::Pending => Settled::Asked,
                    Call::Ready(_) => Settled::Right,
                }
            }
        }
    }

    /// Asks for a route for which somebody waits.
    fn ask_again(
        &self,
        routes: &dyn TenantRoutes,
        session: &Session,
        filter: &TopicFilter<'_>,
        unsure: &Unsure,
    ) -> Settled {
        let Some(subscription) = session.subscription(filter.as_str()) else {
            return Settled::Unknown;
        };
        let members_max = session.limits.members_max;
        let receiver = receiver(session, unsure.key.inbox, filter, subscription, members_max);
        match routes.add_stored(filter, receiver, self.routing.watch_again(unsure.clone())) {
            Call::Pending => Settled::Asked,
            Call::Ready(Ok(_)) => Settled::Right,
            Call::Ready(Err(AddError::Busy)) => Settled::Busy,
            Call::Ready(Err(AddError::GroupFull { .. })) => Settled::Unknown,
        }
    }
}

/// Has routes looked at again. Whoever waits for one that nobody will look at is told.
fn look_again(list: &Mutex<Vec<Unsure>>, mut unsure: Vec<Unsure>) {
    let mut list = list.lock();
    let room = UNSURE_MAX.saturating_sub(list.len());
    let left = unsure.split_off(room.min(unsure.len()));
    list.append(&mut unsure);
    drop(list);
    for Wait { both, .. } in left.into_iter().filter_map(|unsure| unsure.wait) {
        both.add(false);
    }
}

/// Whether a session's route was not there as it has it.
fn is_repaired(
    routes: &dyn TenantRoutes,
    session: &Session,
    inbox: InboxId,
    filter: &TopicFilter<'_>,
) -> bool {
    let Some(subscription) = session.subscription(filter.as_str()) else { return false };
    let receiver = receiver(session, inbox, filter, subscription, u32::MAX);
    routes.restore(filter, receiver) == Restored::Repaired
}
