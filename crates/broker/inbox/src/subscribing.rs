//! Subscriptions of sessions, and their routes in dist.

use std::sync::Arc;

use ratatosk_contract::{
    Call, ReplyTo,
    call::Promised,
    dist::{AddError, InboxRoute, Receiver, StoredKey},
    group::{Member, MemberTarget},
    inbox::{Claim, InboxId, StaleClaim, SubscribeOutcome, Subscription},
};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    InboxService,
    effect::Effect,
    journal::{Change, Journal},
    partitions::Sequel,
    repair::LeftRoutes,
    routing::{Both, Unsure},
    session::{Session, Waiting},
};

impl InboxService {
    /// See [`Inbox::subscribe`](ratatosk_contract::inbox::Inbox::subscribe).
    pub(crate) fn put_subscription(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Promised<SubscribeOutcome> {
        let refused = Promised::kept;
        let mut partition = self.partitions.lock_of(claim.inbox);
        let Ok(session) = partition.claimed(claim) else {
            return refused(SubscribeOutcome::Stale);
        };
        let Ok(filter) = TopicFilter::parse(&subscription.filter, &TopicLimits::PROTOCOL) else {
            debug_assert!(false, "{:?} is no topic filter", subscription.filter);
            return refused(SubscribeOutcome::Busy);
        };
        let held = session.subscription(&subscription.filter);
        let (existed, is_same) = (held.is_some(), held == Some(subscription));
        let count = session.subscriptions().len() as u64;
        if !existed && count >= u64::from(session.limits.filters_max) {
            return refused(SubscribeOutcome::TooManyFilters);
        }
        // Clients subscribe again whenever they come back: that is no reason to keep them from their
        // queue while there is no room. INBOX-015, DUR-006
        let is_busy = |journal: &Journal| journal.check_at(claim.inbox).is_err();
        if !is_same && self.journal.as_ref().is_some_and(is_busy) {
            return refused(SubscribeOutcome::Busy);
        }
        // Under the session's lock, so that the route does not outlive the session.
        let members_max = session.limits.members_max;
        let receiver = receiver(session, claim.inbox, &filter, subscription, members_max);
        let routes = self.dist.tenant(&session.identity.tenant);
        let both = routes.is_replicated().then(|| Both::new(reply_to, &self.partitions.sessions));
        let unsure = both.iter().map(|_| {
            let tenant = session.identity.tenant.clone();
            let key = stored_key(&filter, claim.inbox, session);
            Unsure::new(tenant, subscription.filter.clone(), key)
        });
        let told = self.routing.watch(unsure.collect(), both.clone());
        let (route, both) = match routes.add_stored(&filter, receiver, told) {
            Call::Ready(Ok(route)) => (Some(route), None),
            Call::Pending => (None, both),
            Call::Ready(Err(AddError::GroupFull { .. })) => {
                return refused(SubscribeOutcome::GroupFull);
            }
            Call::Ready(Err(AddError::Busy)) => return refused(SubscribeOutcome::Busy),
        };
        let ordinal = session.put_subscription(subscription.clone());
        // Something may wait for the group that has it as a member now.
        let may_take = filter.share().is_some() && !self.stranded().is_empty();
        let woken = if may_take { session.wake(Waiting::Message) } else { None };
        let outcome = SubscribeOutcome::Done { route, existed };
        // What is there already may not be durable yet: so the answer waits in any case.
        let sequel = sequel(reply_to, both);
        let promised = self.promise_both(outcome, claim.inbox, sequel, |effects| {
            if !is_same {
                effects.subscription(claim.inbox, ordinal, subscription);
            }
        });
        drop(partition);
        woken.into_iter().for_each(|owner| self.partitions.sessions.inbox_ready(owner));
        promised
    }

    /// See [`Inbox::unsubscribe`](ratatosk_contract::inbox::Inbox::unsubscribe).
    pub(crate) fn remove_subscription(
        &self,
        claim: Claim,
        filter: &str,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, StaleClaim> {
        let mut partition = self.partitions.lock_of(claim.inbox);
        let session = partition.claimed(claim)?;
        let routes = self.dist.tenant(&session.identity.tenant);
        let removed = session.remove_subscription(filter);
        if removed.is_none() && !routes.is_replicated() {
            // Perhaps it was removed before, and that is not durable yet.
            return Ok(self.promise(false, claim.inbox, reply_to, |_| {}));
        }
        // Or its route is not gone everywhere, or is not known to be: so it is removed again, and whoever is told
        // that there is no subscription has it behind him. [MQTT-3.10.4-2]
        let both = routes.is_replicated().then(|| Both::new(reply_to, &self.partitions.sessions));
        let left = LeftRoutes::of_one(claim.inbox, session, filter.into());
        if self.seats().is_none() {
            left.remove(&*self.dist, &self.routing, both.clone());
        }
        let joint = self.remove_later(std::iter::once(left), both.clone());
        let mut change = Change::default();
        if removed.is_some() {
            let tenant = &session.identity.tenant;
            self.nudge_heirs(tenant, std::iter::once(filter), &mut change);
        }
        let sequel = Sequel { joint, ..sequel(reply_to, both) };
        let promised = self.promise_both(removed.is_some(), claim.inbox, sequel, |effects| {
            if let Some((_, ordinal)) = removed {
                effects.push(&Effect::Unsubscribed { inbox: claim.inbox, ordinal });
            }
        });
        drop(partition);
        self.finish(change);
        Ok(promised)
    }
}

/// Who is told: whoever waits, for another command as well if there is one.
fn sequel(reply_to: Option<ReplyTo>, both: Option<Arc<Both>>) -> Sequel {
    let reply_to = reply_to.filter(|_| both.is_none());
    Sequel { reply_to, both, ..Sequel::default() }
}

/// The session as a receiver of `filter`.
pub(crate) fn receiver(
    session: &Session,
    inbox: InboxId,
    filter: &TopicFilter<'_>,
    subscription: &Subscription,
    members_max: u32,
) -> Receiver {
    let (options, subscription_id) = (subscription.options, subscription.subscription_id);
    let incarnation = session.incarnation;
    if filter.share().is_none() {
        return Receiver::Inbox(InboxRoute { inbox, incarnation, options, subscription_id });
    }
    let member = Member {
        id: session.publisher.0,
        incarnation,
        target: MemberTarget::Inbox(inbox),
        options,
        subscription_id,
        state: Arc::clone(&session.member),
    };
    Receiver::Member { member, members_max }
}

/// The same receiver, to be removed.
pub(crate) fn stored_key(filter: &TopicFilter<'_>, inbox: InboxId, session: &Session) -> StoredKey {
    let member = filter.share().map(|_| session.publisher.0);
    StoredKey { inbox, incarnation: session.incarnation, member }
}
