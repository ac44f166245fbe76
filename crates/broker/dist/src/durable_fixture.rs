//! A process whose routes are in a keyspace in the hands of the test.

use std::{collections::BTreeMap, sync::Arc};

use ratatosk_client::held::HeldKeyspace;
use ratatosk_codec::{Qos, SubscriptionOptions};
use ratatosk_contract::{
    SessionRef, ShardId, TenantId,
    dist::{
        AddError, Dist, InboxRoute, RESTORED_LIFE, Receiver, ReceiverKey, Restored, RouteId,
        StoredRoute, TenantRoutes,
    },
    group::{Member, MemberTarget},
    inbox::InboxId,
};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{DistCoprocessor, DistService, schema::decode};

/// A life of a session: its inbox, its number as a member, its incarnation in this process.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) member: u64,
    pub(crate) inbox: u64,
    pub(crate) incarnation: u64,
}

/// Routes by tenant, filter and member, or inbox if there is none: the inbox, and the QoS.
pub(crate) type Routes = BTreeMap<(String, String, u64), (u64, u8)>;

/// A service and its keyspace.
pub(crate) struct Process {
    pub(crate) keyspace: Arc<HeldKeyspace>,
    pub(crate) service: DistService,
}

pub(crate) fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).expect("a filter")
}

impl Life {
    /// As a receiver of `text`.
    pub(crate) fn receiver(self, text: &str, qos: u8) -> Receiver {
        let options = SubscriptionOptions::new(Qos::try_from(qos).expect("below 3"));
        let (inbox, incarnation) = (InboxId(self.inbox), self.incarnation);
        if filter(text).share().is_none() {
            let subscription_id = None;
            return Receiver::Inbox(InboxRoute { inbox, incarnation, options, subscription_id });
        }
        let target = MemberTarget::Inbox(inbox);
        Receiver::Member { member: self.member_of(target, options), members_max: 100 }
    }

    /// As a transient member.
    pub(crate) fn transient(self) -> Receiver {
        let session = SessionRef { shard: ShardId(0), slot: 0, generation: 0 };
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        let member = self.member_of(MemberTarget::Session(session), options);
        Receiver::Member { member, members_max: 100 }
    }

    fn member_of(self, target: MemberTarget, options: SubscriptionOptions) -> Member {
        let Life { member: id, incarnation, .. } = self;
        Member { id, incarnation, target, options, subscription_id: None, state: Arc::default() }
    }

    pub(crate) fn key(self, text: &str) -> ReceiverKey {
        let Life { member: id, inbox, incarnation } = self;
        match filter(text).share() {
            None => ReceiverKey::Inbox { inbox: InboxId(inbox), incarnation },
            Some(_) => ReceiverKey::Member { id, incarnation },
        }
    }
}

impl Process {
    /// One with nothing in it.
    pub(crate) fn new() -> Self {
        Self::of(HeldKeyspace::new(Box::new(DistCoprocessor::new())))
    }

    fn of(keyspace: Arc<HeldKeyspace>) -> Self {
        let service = DistService::new().kept_in(Arc::clone(&keyspace) as _);
        service.restore().expect("it reads what it wrote");
        Process { keyspace, service }
    }

    /// What comes after a crash, and what after a good stop.
    pub(crate) fn crash(&self) -> Self {
        Self::of(self.keyspace.crash(Box::new(DistCoprocessor::new())))
    }

    pub(crate) fn reopen(&self) -> Self {
        Self::of(self.keyspace.reopen(Box::new(DistCoprocessor::new())))
    }

    pub(crate) fn tenant(&self, tenant: &str) -> Arc<dyn TenantRoutes> {
        self.service.tenant(&TenantId::new(tenant))
    }

    pub(crate) fn add(&self, tenant: &str, text: &str, life: Life) -> Result<RouteId, AddError> {
        self.add_at(tenant, text, life, 1)
    }

    pub(crate) fn add_at(
        &self,
        tenant: &str,
        text: &str,
        life: Life,
        qos: u8,
    ) -> Result<RouteId, AddError> {
        let receiver = life.receiver(text, qos);
        self.tenant(tenant).add(&filter(text), receiver).ready().expect("it is there at once")
    }

    pub(crate) fn remove(&self, tenant: &str, text: &str, life: Life) -> bool {
        let removed = self.tenant(tenant).remove(&filter(text), &life.key(text));
        removed.ready().expect("it is there at once")
    }

    /// Corrects the routes as the inbox does; answers how many were added and removed.
    pub(crate) fn repair(&self, truth: &Routes) -> (usize, usize) {
        let (mut added, mut removed) = (0, 0);
        for ((tenant, text, member), (inbox, qos)) in truth {
            let life = Life { member: *member, inbox: *inbox, incarnation: RESTORED_LIFE };
            let receiver = life.receiver(text, *qos);
            let restored = self.tenant(tenant).restore(&filter(text), receiver);
            added += usize::from(restored == Restored::Repaired);
        }
        for id in self.service.tenants() {
            let stored = self.stored(&id);
            let is_stale = |held: &&StoredRoute| !truth.contains_key(&name(&id, held));
            let stale = stored.iter().filter(is_stale);
            let stale: Vec<_> = stale.map(|held| (filter(&held.filter), held.key())).collect();
            removed += self.service.tenant(&id).remove_each(&stale);
        }
        (added, removed)
    }

    /// The routes of persistent sessions in memory.
    pub(crate) fn routes(&self) -> Routes {
        let of = |id: &TenantId| -> Vec<_> {
            let of = |held: StoredRoute| {
                (name(id, &held), (held.route.inbox.0, held.route.options.qos.value()))
            };
            self.stored(id).into_iter().map(of).collect()
        };
        self.service.tenants().iter().flat_map(of).collect()
    }

    /// The routes in the data.
    pub(crate) fn content(&self) -> Routes {
        let content = self.keyspace.content();
        let decoded = content.iter().map(|(key, record)| {
            let (tenant, stored) = decode(key, record).expect("it was written");
            let (kept, tenant) = (stored.kept, tenant.to_owned());
            let number = stored.member.unwrap_or(kept.inbox.0);
            ((tenant, stored.text, number), (kept.inbox.0, kept.options.qos.value()))
        });
        decoded.collect()
    }

    fn stored(&self, id: &TenantId) -> Vec<StoredRoute> {
        let (mut found, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = self.service.tenant(id).stored(from, &mut found);
        }
        found
    }
}

fn name(id: &TenantId, held: &StoredRoute) -> (String, String, u64) {
    let number = held.member.unwrap_or(held.route.inbox.0);
    (id.as_str().to_owned(), held.filter.to_string(), number)
}
