//! Subscriptions that somebody else makes and ends on behalf of the client. DICT-002
//!
//! They are subject to all that SUBSCRIBE and UNSUBSCRIBE of the client are, its permissions and its
//! tenant's limits included, one filter at a time. The client is told nothing, and whatever is wrong
//! with what is wanted does not end its connection.

use ratatosk_codec::{ReasonCode, SubscribeFilter};
use ratatosk_contract::{
    inbox::Subscription,
    session_dict::{Change, Changed},
};
use ratatosk_topic::TopicFilter;

use crate::{
    Broker, Farewell, Permit, Session, Subscribed, Unsubscribed,
    connect::topic_limits,
    subscribe::{Verdict, code_of, report_refused},
};

/// The place of a filter that no packet brought.
pub const ON_BEHALF: usize = usize::MAX;

/// The largest subscription identifier. The smallest is 1.
const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;

/// What somebody else wants, on its way.
#[derive(Debug)]
pub struct OnBehalf {
    change: Change,
    /// That is settled, whatever becomes of the permission while the rest is being determined.
    is_permitted: bool,
}

impl OnBehalf {
    /// Nothing was done yet.
    pub fn new(change: Change) -> Self {
        OnBehalf { change, is_permitted: false }
    }

    /// About how many bytes it holds besides itself.
    pub fn memory_bytes(&self) -> usize {
        match &self.change {
            Change::Subscribe(wanted) => wanted.filter.len(),
            Change::Unsubscribe(filter) => filter.len(),
        }
    }
}

impl Session {
    /// Does what somebody else wants; `None` while something is being determined. Then the same is to
    /// be brought again when that is known, and nothing else of the kind before.
    pub fn change<B: Broker>(&mut self, wanted: &mut OnBehalf, broker: &mut B) -> Option<Changed> {
        if !self.is_live() {
            return Some(Changed::NotConnected);
        }
        match &wanted.change {
            Change::Subscribe(subscription) => {
                self.subscribe_for(subscription, &mut wanted.is_permitted, broker)
            }
            Change::Unsubscribe(filter) => self.unsubscribe_for(filter, broker),
        }
    }

    fn subscribe_for<B: Broker>(
        &mut self,
        wanted: &Subscription,
        is_permitted: &mut bool,
        broker: &mut B,
    ) -> Option<Changed> {
        let Subscription { filter, options, subscription_id } = wanted;
        let is_id_wrong =
            subscription_id.is_some_and(|id| !(1..=SUBSCRIPTION_ID_MAX).contains(&id));
        let limits = topic_limits(self.settings());
        let (Ok(parsed), false) = (TopicFilter::parse(filter, &limits), is_id_wrong) else {
            return Some(Changed::Invalid);
        };
        let asked = SubscribeFilter { filter, options: *options };
        let mut refused = None;
        if !*is_permitted {
            match self.check_filter(&asked, subscription_id.is_some(), broker) {
                // The client would have broken the protocol.
                Err(_) => return Some(Changed::Invalid),
                Ok(Verdict::Later) => return None,
                Ok(Verdict::Refused(code)) => refused = Some(code),
                Ok(Verdict::Fine) => *is_permitted = true,
            }
        }
        let code = match refused {
            Some(code) => code,
            None => match broker.subscribe(ON_BEHALF, parsed, *options, *subscription_id) {
                Subscribed::Later { .. } => return None,
                Subscribed::Granted => return Some(Changed::Granted(options.qos)),
                Subscribed::Stale => return Some(self.end_stale()),
                refused => code_of(refused, options.qos),
            },
        };
        report_refused(&asked, Some(code), broker);
        Some(refusal(code))
    }

    fn unsubscribe_for<B: Broker>(&mut self, filter: &str, broker: &mut B) -> Option<Changed> {
        let Ok(parsed) = TopicFilter::parse(filter, &topic_limits(self.settings())) else {
            return Some(Changed::Invalid);
        };
        Some(match broker.permits_unsubscribe(parsed) {
            Permit::Later => return None,
            Permit::Denied => Changed::NotPermitted,
            Permit::Error => Changed::Busy,
            Permit::Allowed => match broker.unsubscribe(parsed) {
                Unsubscribed::Removed => Changed::Removed,
                Unsubscribed::NotFound => Changed::NotFound,
                Unsubscribed::Busy => Changed::Busy,
                Unsubscribed::Stale => self.end_stale(),
            },
        })
    }

    /// The session has another owner, who may be asked.
    fn end_stale(&mut self) -> Changed {
        self.farewell = Some(Box::new(Farewell::StaleClaim));
        Changed::Busy
    }
}

/// What a client would have been told.
fn refusal(code: ReasonCode) -> Changed {
    match code {
        ReasonCode::TopicFilterInvalid => Changed::Invalid,
        ReasonCode::NotAuthorized => Changed::NotPermitted,
        ReasonCode::QuotaExceeded => Changed::QuotaExceeded,
        ReasonCode::SharedSubscriptionsNotSupported
        | ReasonCode::WildcardSubscriptionsNotSupported
        | ReasonCode::SubscriptionIdsNotSupported => Changed::NotSupported,
        _ => Changed::Busy,
    }
}
