//! The broker as one session sees it: the shard and what the session has in it.

use std::time::Duration;

use bytes::Bytes;
use ratatosk_codec::{PacketId, Qos, RetainHandling, SubscriptionOptions};
use ratatosk_contract::TenantSettings;
use ratatosk_contract::{
    Call, Message, ReplyTo, SessionRef, Ticket,
    call::Settlement,
    dist::{AddError, Receiver, ReceiverKey, RouteId},
    inbox::{Claim, Entry, FetchBudget, Sequence, StaleClaim, SubscribeOutcome, Subscription},
};
use ratatosk_plugin::permission::Action;
use ratatosk_session::{Broker, Permit, Published, Report, Subscribed, Unsubscribed};
use ratatosk_telemetry::memory::Share;
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use super::{
    Shard,
    connection::{Filter, Local, RetainedRead, Retaining, TopicPermit},
    hands::{CHANGE, RETAINED},
    local_routes::{LocalSubscription, Removed},
    outcome::Outcome,
    publish::Sender,
};
use crate::tenants::TenantNumber;

/// How long a permission is taken for granted.
const PERMIT_AGE_MAX: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Link<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) local: &'a mut Local,
    pub(super) session: SessionRef,
    pub(super) settings: &'a TenantSettings,
    pub(super) publisher: u64,
}

impl Broker for Link<'_> {
    #[inline]
    fn publish(
        &mut self,
        message: &Message<'_>,
        ticket: Ticket,
        exchange: Option<PacketId>,
    ) -> Published {
        let published = self.route(message, ticket, exchange);
        let is_brought_again =
            matches!(published, Published::Later | Published::Busy | Published::QuotaExceeded);
        if let Some(tenant) = self.local.tenant
            && !is_brought_again
        {
            let flow = self.shard.flow(tenant);
            flow.received += 1;
            flow.received_bytes += message.payload.len() as u64;
            match published {
                Published::Handed { is_matched } | Published::Pending { is_matched, .. } => {
                    flow.unmatched += u64::from(!is_matched);
                }
                Published::Unknown => {}
                _ => flow.refused_late += 1,
            }
        }
        published
    }

    fn share(&mut self, payload: Vec<u8>) -> Bytes {
        let Some(tenant) = self.local.tenant else { return Bytes::from(payload) };
        let held = payload.capacity();
        self.shard.tenant(tenant).account.keep(Share::Queues, payload, held)
    }

    fn permits_subscribe(&mut self, filter: TopicFilter<'_>, qos: Qos) -> Permit {
        // A share's inner filter is what is read.
        self.check(Action::Subscribe { filter: filter.filter(), qos })
    }

    fn permits_unsubscribe(&mut self, filter: TopicFilter<'_>) -> Permit {
        self.check(Action::Unsubscribe { filter: filter.filter() })
    }

    fn subscribe(
        &mut self,
        place: usize,
        filter: TopicFilter<'_>,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Subscribed {
        let Some(tenant) = self.local.tenant else { return Subscribed::Busy };
        let outcome = match self.local.claim.as_deref().copied() {
            Some(claim) => {
                let filter = filter.as_str().into();
                let subscription = Subscription { filter, options, subscription_id };
                self.subscribe_persistent(claim, place, subscription)
            }
            None => self.subscribe_transient(tenant, filter, options, subscription_id),
        };
        let existed = match outcome {
            Ok(existed) => existed,
            Err(refused) => return refused,
        };
        self.shard.stats.subscribed += 1;
        self.read_retained(filter, options, subscription_id, existed);
        Subscribed::Granted
    }

    fn unsubscribe(&mut self, filter: TopicFilter<'_>) -> Unsubscribed {
        let Some(tenant) = self.local.tenant else { return Unsubscribed::Busy };
        if let Some(reads) = &mut self.local.retained {
            let gone = Filter::new(self.shard.node.seed, filter.as_str());
            reads.retain(|read| read.filter != gone);
        }
        self.shard.stats.unsubscribed += 1;
        if let Some(claim) = self.local.claim.as_deref().copied() {
            if let Some(rare) = &mut self.local.rare {
                rare.persistent.retain(|known| &**known != filter.as_str());
            }
            let reply_to = self.on_change();
            let removed = self.shard.node.inbox.unsubscribe(claim, filter.as_str(), reply_to);
            return match removed.map(|promised| self.local.promised(promised)) {
                Ok(true) => Unsubscribed::Removed,
                Ok(false) => Unsubscribed::NotFound,
                Err(StaleClaim) => Unsubscribed::Stale,
            };
        }
        if filter.share().is_some() {
            return self.leave_group(tenant, filter);
        }
        let Some(route) = self.shard.tenant(tenant).routes.find(&filter) else {
            return Unsubscribed::NotFound;
        };
        let Some(index) = self.local.routes.iter().position(|known| *known == route) else {
            return Unsubscribed::NotFound;
        };
        self.local.routes.swap_remove(index);
        self.local.filter_bytes = self.local.filter_bytes.saturating_sub(length_of(&filter));
        self.shard.leave_route(tenant, route, self.session.slot);
        Unsubscribed::Removed
    }

    fn fetch(
        &mut self,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim> {
        let claim = self.claim()?;
        self.shard.node.inbox.fetch(claim, after, budget, entries)
    }

    fn commit(&mut self, sequence: Sequence) -> Result<(), StaleClaim> {
        let claim = self.claim()?;
        self.shard.node.inbox.commit(claim, sequence)
    }

    fn received(&mut self, sequence: Sequence) -> Result<(), StaleClaim> {
        let claim = self.claim()?;
        let reply_to = self.on_change();
        let noted = self.shard.node.inbox.received(claim, sequence, reply_to)?;
        self.local.promised(noted);
        Ok(())
    }

    fn released(&mut self, packet_id: PacketId) -> Result<(), StaleClaim> {
        let claim = self.claim()?;
        let reply_to = self.on_change();
        let noted = self.shard.node.inbox.inbound(claim, packet_id, true, reply_to)?;
        self.local.promised(noted);
        Ok(())
    }

    fn assign_client_id(&mut self) -> String {
        self.shard.node.client_id()
    }

    fn report(&mut self, report: Report<'_>) {
        self.shard.report_denied(self.local, &report);
        let line = match report {
            Report::PublishRefused { topic, code, .. } => {
                match self.local.tenant {
                    Some(tenant) => self.shard.flow(tenant).refused += 1,
                    None => self.shard.stats.publish_refused += 1,
                }
                format!("publish to {topic:?} refused: {code}")
            }
            Report::SubscribeRefused { filter, code, .. } => {
                self.shard.stats.subscribe_refused += 1;
                format!("subscription to {filter:?} refused: {code}")
            }
            Report::ResendsExhausted { count } => {
                format!("{count} messages given up after the last re-send")
            }
        };
        let at = self.shard.node.clock.wall();
        self.local.rare().ring.note(at, &line);
    }
}

impl Link<'_> {
    /// Permission, the retained copy, receivers: the way of one publish.
    #[inline]
    fn route(
        &mut self,
        message: &Message<'_>,
        ticket: Ticket,
        exchange: Option<PacketId>,
    ) -> Published {
        let Some(tenant) = self.local.tenant else { return Published::PermissionError };
        let session = self.session;
        if self.shard.withholds_enough(session) {
            return Published::Later;
        }
        let waits = message.qos != Qos::AtMostOnce;
        let reply_to = waits.then_some(ReplyTo { session, ticket });
        let is_same = self.local.topic.as_ref().is_some_and(|last| &*last.topic == message.topic);
        let is_permitted = is_same && self.has_permit(message);
        let is_replicated = self.shard.is_replicated(tenant);
        if is_replicated
            && let Err(refused) = self.shard.await_routes(tenant, (self.local, session), message)
        {
            return refused;
        }
        let mut outcome = Outcome::default();
        if !is_permitted || message.retain {
            match self.admit(tenant, message, is_permitted, exchange, reply_to) {
                Ok(retained) => outcome.add(retained),
                Err(refused) => return refused,
            }
            if outcome.has_failed() && waits {
                return outcome.published(false);
            }
        }
        let fresh = match self.local.topic.take() {
            Some(last)
                if is_same
                    && self.shard.is_fresh(tenant, &last)
                    && (!is_replicated || self.shard.answers_as_of(tenant, last.epoch)) =>
            {
                last
            }
            _ => match TopicName::parse(message.topic, &limits(self.settings)) {
                Ok(topic) if is_replicated => match self.shard.resolve_answered(tenant, topic) {
                    Some(resolved) => resolved,
                    None => {
                        return self.shard.wait_for_routes(tenant, (self.local, session), message);
                    }
                },
                Ok(topic) => self.shard.resolve(tenant, topic),
                Err(error) => return Published::InvalidTopic(error),
            },
        };
        let exchange = self.local.claim.as_deref().copied().zip(exchange);
        let sender = Sender { session: Some(session), exchange, reply_to };
        self.shard.distribute(tenant, &fresh, message, sender, &mut outcome);
        let is_matched = fresh.is_matched();
        self.local.topic = Some(fresh);
        if waits { outcome.published(is_matched) } else { Published::Handed { is_matched } }
    }

    /// Whom the inbox tells when a change of this session is durable.
    fn on_change(&self) -> Option<ReplyTo> {
        Some(ReplyTo { session: self.session, ticket: CHANGE })
    }

    /// Whether the last topic's permission covers this message.
    fn has_permit(&self, message: &Message<'_>) -> bool {
        if self.local.identity.is_none() {
            return true;
        }
        self.local.topic_permit.as_ref().is_some_and(|permit| {
            permit.qos == message.qos
                && permit.retain == message.retain
                && permit.until > self.shard.now
                && permit.epoch == self.shard.node.plugins.permission_epoch()
        })
    }

    /// The way of a message whose topic is new to the connection, or which is to be retained:
    /// checks topic and permission, and retains it before it is routed.
    fn admit(
        &mut self,
        tenant: TenantNumber,
        message: &Message<'_>,
        is_permitted: bool,
        exchange: Option<PacketId>,
        reply_to: Option<ReplyTo>,
    ) -> Result<Call<Settlement>, Published> {
        if let Err(error) = TopicName::parse(message.topic, &limits(self.settings)) {
            return Err(Published::InvalidTopic(error));
        }
        if !is_permitted {
            self.local.topic_permit = None;
            let action = Action::Publish {
                topic: message.topic,
                qos: message.qos,
                retain: message.retain,
                is_will: false,
            };
            match self.check(action) {
                Permit::Allowed => {}
                Permit::Denied => return Err(Published::NotPermitted),
                Permit::Error => return Err(Published::PermissionError),
                Permit::Later => return Err(Published::Later),
            }
            self.local.topic_permit = Some(Box::new(TopicPermit {
                epoch: self.shard.node.plugins.permission_epoch(),
                until: self.shard.now + PERMIT_AGE_MAX,
                qos: message.qos,
                retain: message.retain,
            }));
        }
        match exchange {
            _ if !message.retain => Ok(Call::Ready(Settlement::Done)),
            None => Ok(self.shard.retain(tenant, message, reply_to)),
            Some(packet_id) => self.retain_first(tenant, message, packet_id),
        }
    }

    /// Retains a message before its exchange is noted. It is brought again when that is durable.
    fn retain_first(
        &mut self,
        tenant: TenantNumber,
        message: &Message<'_>,
        packet_id: PacketId,
    ) -> Result<Call<Settlement>, Published> {
        let known = self.local.rare.as_ref().and_then(|rare| rare.retaining);
        match known.filter(|known| known.packet_id == packet_id) {
            Some(Retaining { is_done: false, .. }) => return Err(Published::Later),
            Some(Retaining { is_done: true, .. }) => {
                self.local.rare().retaining = None;
                return Ok(Call::Ready(Settlement::Done));
            }
            None => {}
        }
        let reply_to = ReplyTo { session: self.session, ticket: RETAINED };
        let call = self.shard.retain(tenant, message, Some(reply_to));
        if call == Call::Pending {
            self.local.rare().retaining = Some(Retaining { packet_id, is_done: false });
            return Err(Published::Later);
        }
        Ok(call)
    }

    fn claim(&self) -> Result<Claim, StaleClaim> {
        self.local.claim.as_deref().copied().ok_or(StaleClaim)
    }

    fn check(&mut self, action: Action<'_>) -> Permit {
        let Some(identity) = self.local.identity.clone() else { return Permit::Allowed };
        let bypass = self.settings.by_pass_perm_check_error;
        self.shard.permit(self.local, self.session, &identity, action, bypass)
    }

    fn subscribe_transient(
        &mut self,
        tenant: TenantNumber,
        filter: TopicFilter<'_>,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Result<bool, Subscribed> {
        if filter.share().is_some() {
            return self.join_group(tenant, filter, options, subscription_id);
        }
        let routes = &self.shard.tenant(tenant).routes;
        let known = routes.find(&filter).filter(|route| self.local.routes.contains(route));
        let subscription = LocalSubscription {
            slot: self.session.slot,
            subscription_id: subscription_id.unwrap_or(0),
            options,
        };
        // [MQTT-3.8.4-3]
        if let Some(route) = known {
            self.shard.tenant_mut(tenant).locals.replace(route, subscription);
            return Ok(true);
        }
        self.check_filter_count()?;
        let receiver = Receiver::Shard(self.shard.id);
        let route = added(self.shard.tenant(tenant).routes.add(&filter, receiver))?;
        let is_first = self.shard.tenant_mut(tenant).locals.insert(route, subscription);
        if is_first && let Some(relay) = &self.shard.node.relay {
            relay.want(&self.shard.tenant(tenant).id, &filter);
        }
        self.local.routes.push(route);
        self.local.filter_bytes += length_of(&filter);
        Ok(false)
    }

    pub(super) fn check_filter_count(&self) -> Result<(), Subscribed> {
        if self.local.filters() >= self.settings.max_topic_filters_per_inbox as usize {
            return Err(Subscribed::TooManyFilters);
        }
        Ok(())
    }

    fn subscribe_persistent(
        &mut self,
        claim: Claim,
        place: usize,
        subscription: Subscription,
    ) -> Result<bool, Subscribed> {
        let guarded = self.local.identity.is_some().then(|| subscription.filter.clone());
        match self.ask_inbox(claim, place, subscription)? {
            SubscribeOutcome::Done { existed, .. } => {
                if let Some(filter) = guarded.filter(|_| !existed) {
                    self.local.rare().persistent.push(filter);
                }
                Ok(existed)
            }
            SubscribeOutcome::TooManyFilters => Err(Subscribed::TooManyFilters),
            SubscribeOutcome::GroupFull => Err(Subscribed::GroupFull),
            SubscribeOutcome::Busy => Err(Subscribed::Busy),
            SubscribeOutcome::Stale => Err(Subscribed::Stale),
        }
    }

    /// Notes that retained messages are owed to a new subscription.
    fn read_retained(
        &mut self,
        filter: TopicFilter<'_>,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
        existed: bool,
    ) {
        // [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4]; 3.1.1 [MQTT3-3.3.1-6]
        // [MQTT3-3.8.4-3]
        let is_wanted = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        let left = self.settings.retain_message_match_limit.unwrap_or(u32::MAX);
        // MQTT-088
        let is_shared = filter.share().is_some();
        if !is_wanted || is_shared || left == 0 || !self.settings.retain_enabled {
            return;
        }
        let since = self.shard.node.clock.now();
        let filter = Filter::new(self.shard.node.seed, filter.as_str());
        let reads = self.local.retained.get_or_insert_default();
        if existed {
            reads.retain(|read| read.filter != filter);
        }
        reads.push_back(RetainedRead {
            filter,
            options,
            subscription_id,
            cursor: Default::default(),
            since,
            left,
            wait: None,
        });
    }
}

impl Shard {
    /// Takes a session of this shard from a route, and the shard from it if it was the last.
    pub(super) fn leave_route(&mut self, tenant: TenantNumber, route: RouteId, slot: u32) {
        if self.tenant_mut(tenant).locals.remove(route, slot) == Removed::Last {
            self.unwant(tenant, route);
            let key = ReceiverKey::Shard(self.id);
            let _ = self.tenant(tenant).routes.remove_route(route, &key);
        }
    }

    /// Tells other hosts that this shard does not want a filter any more, while its route is there.
    fn unwant(&self, tenant: TenantNumber, route: RouteId) {
        let Some(relay) = &self.node.relay else { return };
        let tenant = self.tenant(tenant);
        let mut text = String::new();
        let is_there = tenant.routes.filter_text(route, &mut text);
        debug_assert!(is_there, "a route stays while this shard receives by it");
        if let Ok(filter) = TopicFilter::parse(&text, &TopicLimits::PROTOCOL) {
            relay.unwant(&tenant.id, &filter);
        }
    }
}

pub(super) fn added(call: Call<Result<RouteId, AddError>>) -> Result<RouteId, Subscribed> {
    match call {
        Call::Ready(Ok(route)) => Ok(route),
        Call::Ready(Err(AddError::GroupFull { .. })) => Err(Subscribed::GroupFull),
        Call::Ready(Err(AddError::Busy)) | Call::Pending => Err(Subscribed::Busy),
    }
}

/// A filter is shorter than 65,536 bytes.
fn length_of(filter: &TopicFilter<'_>) -> u32 {
    u32::try_from(filter.as_str().len()).unwrap_or(u32::MAX)
}

/// A tenant's limits on topics.
pub(super) fn limits(settings: &TenantSettings) -> TopicLimits {
    TopicLimits {
        length_max: settings.max_topic_length,
        levels_max: settings.max_topic_levels,
        level_length_max: settings.max_topic_level_length,
    }
}
