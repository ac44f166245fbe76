//! Subscriptions of sessions, and their routes in dist.

use std::sync::Arc;

use ratatosk_contract::{
    Call, ReplyTo,
    call::Promised,
    dist::{AddError, InboxRoute, Receiver, ReceiverKey},
    group::{Member, MemberTarget},
    inbox::{Claim, InboxId, StaleClaim, SubscribeOutcome, Subscription},
};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    InboxService,
    effect::Effect,
    journal::{Change, Journal},
    repair::LeftRoutes,
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
        let added = self.dist.tenant(&session.identity.tenant).add(&filter, receiver);
        let route = match added {
            Call::Ready(Ok(route)) => route,
            Call::Ready(Err(AddError::GroupFull { .. })) => {
                return refused(SubscribeOutcome::GroupFull);
            }
            Call::Ready(Err(AddError::Busy)) | Call::Pending => {
                return refused(SubscribeOutcome::Busy);
            }
        };
        let ordinal = session.put_subscription(subscription.clone());
        // Something may wait for the group that has it as a member now.
        let may_take = filter.share().is_some() && !self.stranded().is_empty();
        let woken = if may_take { session.wake(Waiting::Message) } else { None };
        let outcome = SubscribeOutcome::Done { route, existed };
        // What is there already may not be durable yet: so the answer waits in any case.
        let promised = self.promise(outcome, claim.inbox, reply_to, |effects| {
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
        let Some((removed, ordinal)) = session.remove_subscription(filter) else {
            // Perhaps it was removed before, and that is not durable yet.
            return Ok(self.promise(false, claim.inbox, reply_to, |_| {}));
        };
        let left = LeftRoutes::of_one(claim.inbox, session, removed.filter.clone());
        if self.seats().is_none() {
            left.remove(&*self.dist);
        }
        let joint = self.remove_later(std::iter::once(left));
        let unsubscribed = Effect::Unsubscribed { inbox: claim.inbox, ordinal };
        let mut change = Change::default();
        let tenant = &session.identity.tenant;
        self.nudge_heirs(tenant, std::iter::once(&*removed.filter), &mut change);
        let promised = self.promise_then(true, (claim.inbox, joint), reply_to, |effects| {
            effects.push(&unsubscribed);
        });
        drop(partition);
        self.finish(change);
        Ok(promised)
    }
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
pub(crate) fn receiver_key(
    filter: &TopicFilter<'_>,
    inbox: InboxId,
    id: u64,
    incarnation: u64,
) -> ReceiverKey {
    match filter.share() {
        None => ReceiverKey::Inbox { inbox, incarnation },
        Some(_) => ReceiverKey::Member { id, incarnation },
    }
}
