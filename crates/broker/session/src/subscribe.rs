//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! All filters are checked, permissions included, before the first is acted on, so that the
//! packet can be brought again while permissions are being determined; the broker is asked for all
//! of them each time, and says how many it determines at once. Then they are handled one
//! by one and answered with one packet, a code for each. [MQTT-3.8.4-5] [MQTT-3.8.4-6]
//!
//! What becomes of a subscription may be known later only. Then the packet is brought again, too; what is
//! known already is kept, so that nothing is done twice.

use ratatosk_clock::Instant;
use ratatosk_codec::{
    Packet, ProtocolVersion, Qos, ReasonCode, Suback, Subscribe, SubscribeFilter, Unsuback,
    Unsubscribe,
};
use ratatosk_topic::TopicFilter;

use crate::{
    Broker, Farewell, Permit, Session, Subscribed, Unsubscribed,
    broker::Report,
    connect::topic_limits,
    publish::BUSY_RETRY,
    session::{Next, Taken},
};

impl Session {
    pub(crate) fn on_subscribe<B: Broker>(
        &mut self,
        subscribe: &Subscribe<'_>,
        broker: &mut B,
    ) -> Result<Taken, Farewell> {
        let mut asking = match self.inbound.as_mut().and_then(|inbound| inbound.asking.take()) {
            Some(asking) => *asking,
            None => match self.permitted(subscribe, broker)? {
                Some(asking) => asking,
                None => return Ok(Taken::Again(Next::Retry)),
            },
        };
        debug_assert_eq!(asking.codes.len(), subscribe.filters.len(), "the same packet is brought");
        let limits = topic_limits(&self.settings);
        let mut waiting = 0;
        let mut by: Option<Instant> = None;
        for (place, (asked, code)) in subscribe.filters.iter().zip(&mut asking.codes).enumerate() {
            if code.is_some() {
                continue;
            }
            let subscribed = match TopicFilter::parse(asked.filter, &limits) {
                Ok(filter) => {
                    broker.subscribe(place, filter, asked.options, subscribe.subscription_id)
                }
                Err(_) => Subscribed::Busy,
            };
            if let Subscribed::Later { by: until } = subscribed {
                waiting += 1;
                by = Some(by.map_or(until, |by| by.min(until)));
                if waiting == WAITING_MAX {
                    break;
                }
                continue;
            }
            if subscribed == Subscribed::Stale {
                return Err(Farewell::StaleClaim);
            }
            *code = Some(code_of(subscribed, asked.options.qos));
            report_refused(&asked, *code, broker);
        }
        if let Some(by) = by {
            self.inbound_mut().asking = Some(Box::new(asking));
            return Ok(Taken::Again(Next::RetryBy(by)));
        }
        let codes: Vec<ReasonCode> =
            asking.codes.into_iter().flatten().map(|code| self.granted_code(code)).collect();
        // [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.2.1-6] [MQTT-2.3.1-7]
        self.write_explained(Packet::Suback(Suback::new(subscribe.packet_id, &codes)));
        Ok(Taken::Whole)
    }

    /// What is refused of a packet before it is acted on; `None` while that is being determined.
    fn permitted<B: Broker>(
        &self,
        subscribe: &Subscribe<'_>,
        broker: &mut B,
    ) -> Result<Option<Asking>, Farewell> {
        self.check_count(subscribe.filters.len())?;
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut is_later = false;
        for asked in subscribe.filters.iter() {
            let verdict = self.check_filter(&asked, subscribe.subscription_id.is_some(), broker)?;
            is_later |= matches!(verdict, Verdict::Later);
            codes.push(match verdict {
                Verdict::Refused(code) => Some(code),
                Verdict::Fine | Verdict::Later => None,
            });
        }
        if is_later {
            return Ok(None);
        }
        for (asked, code) in subscribe.filters.iter().zip(&codes) {
            report_refused(&asked, *code, broker);
        }
        Ok(Some(Asking { codes }))
    }

    pub(crate) fn on_unsubscribe<B: Broker>(
        &mut self,
        now: Instant,
        unsubscribe: &Unsubscribe<'_>,
        broker: &mut B,
    ) -> Result<Taken, Farewell> {
        self.check_count(unsubscribe.filters.len())?;
        let limits = topic_limits(&self.settings);
        let mut permits = Vec::with_capacity(unsubscribe.filters.len());
        for text in unsubscribe.filters.iter() {
            let permit = TopicFilter::parse(text, &limits)
                .map_or(Permit::Allowed, |filter| broker.permits_unsubscribe(filter));
            permits.push(permit);
        }
        if permits.contains(&Permit::Later) {
            return Ok(Taken::Again(Next::Retry));
        }
        let mut codes = Vec::with_capacity(permits.len());
        for (text, permit) in unsubscribe.filters.iter().zip(permits) {
            let code = match (permit, TopicFilter::parse(text, &limits)) {
                (_, Err(_)) => ReasonCode::TopicFilterInvalid,
                (Permit::Denied, _) => ReasonCode::NotAuthorized,
                (Permit::Error, _) => ReasonCode::ImplementationSpecificError,
                (_, Ok(filter)) => match broker.unsubscribe(filter) {
                    Unsubscribed::Removed => ReasonCode::Success,
                    Unsubscribed::NotFound => ReasonCode::NoSubscriptionExisted,
                    // UNSUBACK of MQTT 3 can only say that it is done: the packet is brought
                    // again, and what was removed already is then not found.
                    Unsubscribed::Busy if !self.version.is_v5() => {
                        return Ok(Taken::Again(Next::RetryAt(now + BUSY_RETRY)));
                    }
                    Unsubscribed::Busy => ReasonCode::ImplementationSpecificError,
                    Unsubscribed::Stale => return Err(Farewell::StaleClaim),
                },
            };
            codes.push(code);
        }
        // [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6]; what is queued or in flight stays
        // [MQTT-3.10.4-3].
        self.write_explained(Packet::Unsuback(Unsuback::new(unsubscribe.packet_id, &codes)));
        Ok(Taken::Whole)
    }

    /// MQTT-073
    fn check_count(&self, count: usize) -> Result<(), Farewell> {
        let count_max = usize::from(self.settings.max_topic_filters_per_sub);
        if count <= count_max {
            return Ok(());
        }
        Err(Farewell::Violation {
            code: ReasonCode::AdministrativeAction,
            detail: format!("{count} filters in one packet, {count_max} are allowed"),
        })
    }

    /// Whether a filter may be subscribed to, and if not, why.
    pub(crate) fn check_filter<B: Broker>(
        &self,
        asked: &SubscribeFilter<'_>,
        has_id: bool,
        broker: &mut B,
    ) -> Result<Verdict, Farewell> {
        let settings = &self.settings;
        let Ok(filter) = TopicFilter::parse(asked.filter, &topic_limits(settings)) else {
            return Ok(Verdict::Refused(ReasonCode::TopicFilterInvalid));
        };
        if filter.share().is_some() {
            // [MQTT-3.8.3-4]
            if asked.options.no_local {
                return Err(Farewell::ProtocolError("no local on a shared subscription"));
            }
            if !settings.shared_subscription_enabled {
                return Ok(Verdict::Refused(ReasonCode::SharedSubscriptionsNotSupported));
            }
        }
        if filter.has_wildcard() && !settings.wildcard_subscription_enabled {
            return Ok(Verdict::Refused(ReasonCode::WildcardSubscriptionsNotSupported));
        }
        if has_id && !settings.subscription_identifier_enabled {
            return Ok(Verdict::Refused(ReasonCode::SubscriptionIdsNotSupported));
        }
        Ok(match broker.permits_subscribe(filter, asked.options.qos) {
            Permit::Allowed => Verdict::Fine,
            Permit::Denied => Verdict::Refused(ReasonCode::NotAuthorized),
            Permit::Error => Verdict::Refused(ReasonCode::ImplementationSpecificError),
            Permit::Later => Verdict::Later,
        })
    }

    /// The code as the client's version knows it: MQTT 3.1.1 has one for every refusal, which MQTT
    /// 3.1 does not name but its clients understand. 3.1.1 [MQTT3-3.9.3-2]
    fn granted_code(&self, code: ReasonCode) -> ReasonCode {
        match self.version {
            ProtocolVersion::V5 => code,
            _ if code.is_error() => ReasonCode::UnspecifiedError,
            _ => code,
        }
    }
}

pub(crate) enum Verdict {
    Fine,
    Refused(ReasonCode),
    Later,
}

/// A SUBSCRIBE of which not everything is known yet.
#[derive(Debug)]
pub(crate) struct Asking {
    /// A code for each filter that has one.
    codes: Vec<Option<ReasonCode>>,
}

impl Asking {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.codes.capacity() * size_of::<Option<ReasonCode>>()
    }
}

/// How many subscriptions of one packet are being determined at a time.
const WAITING_MAX: usize = 256;

pub(crate) fn code_of(subscribed: Subscribed, qos: Qos) -> ReasonCode {
    match subscribed {
        // [MQTT-3.8.4-7] [MQTT-3.2.2-10]
        Subscribed::Granted => match qos {
            Qos::AtMostOnce => ReasonCode::Success,
            Qos::AtLeastOnce => ReasonCode::GrantedQos1,
            Qos::ExactlyOnce => ReasonCode::GrantedQos2,
        },
        Subscribed::TooManyFilters | Subscribed::GroupFull => ReasonCode::QuotaExceeded,
        Subscribed::Busy | Subscribed::Stale | Subscribed::Later { .. } => {
            ReasonCode::ImplementationSpecificError
        }
    }
}

pub(crate) fn report_refused<B: Broker>(
    asked: &SubscribeFilter<'_>,
    code: Option<ReasonCode>,
    broker: &mut B,
) {
    if let Some(code) = code.filter(|code| code.is_error()) {
        let (filter, qos) = (asked.filter, asked.options.qos);
        broker.report(Report::SubscribeRefused { filter, qos, code });
    }
}
