//! A transient session as a member of shared groups. A persistent one is a member through its inbox.

use std::sync::Arc;

use ratatosk_codec::SubscriptionOptions;
use ratatosk_contract::{
    dist::{Receiver, ReceiverKey},
    group::{Member, MemberTarget},
};
use ratatosk_session::{Subscribed, Unsubscribed};
use ratatosk_topic::TopicFilter;

use super::{
    Shard,
    connection::{Filter, SharedSubscription},
    link::{Link, added},
    publish::group_key,
};
use crate::tenants::TenantNumber;

impl Link<'_> {
    /// Joins a shared group, or changes the options under which the session is a member.
    pub(super) fn join_group(
        &mut self,
        tenant: TenantNumber,
        filter: TopicFilter<'_>,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> Result<bool, Subscribed> {
        let Some(share) = filter.share() else { return Err(Subscribed::Busy) };
        let text = Filter::new(self.shard.node.seed, filter.as_str());
        let shared = self.local.rare.as_ref().map(|rare| &rare.shared);
        let existed = shared.is_some_and(|all| all.iter().any(|known| known.filter == text));
        if !existed {
            self.check_filter_count()?;
        }
        let state = Arc::clone(self.local.member.get_or_insert_default());
        let member = Member {
            id: self.publisher,
            incarnation: self.local.incarnation,
            target: MemberTarget::Session(self.session),
            options,
            subscription_id,
            state,
        };
        let members_max = self.settings.max_shared_group_members;
        let relay = self.shard.node.relay.as_ref();
        let told = relay.map(|relay| (relay, member.clone()));
        let receiver = Receiver::Member { member, members_max };
        let here = self.shard.tenant(tenant);
        let route = added(here.routes.add(&filter, receiver))?;
        if let Some((relay, member)) = told {
            relay.join(&here.id, &filter, &member);
        }
        let group = group_key(share.group, share.ordered);
        let rare = self.local.rare();
        if let Some(known) = rare.shared.iter_mut().find(|known| known.filter == text) {
            known.options = options;
            known.subscription_id = subscription_id;
            return Ok(true);
        }
        rare.shared_count += 1;
        let number = std::num::NonZeroU32::new(rare.shared_count).ok_or(Subscribed::Busy)?;
        rare.shared_bytes += filter.as_str().len();
        rare.shared.push(SharedSubscription {
            number,
            filter: text,
            route,
            group,
            options,
            subscription_id,
        });
        Ok(false)
    }

    pub(super) fn leave_group(
        &mut self,
        tenant: TenantNumber,
        filter: TopicFilter<'_>,
    ) -> Unsubscribed {
        let text = Filter::new(self.shard.node.seed, filter.as_str());
        let Some(rare) = &mut self.local.rare else { return Unsubscribed::NotFound };
        let is_it = |known: &SharedSubscription| known.filter == text;
        let Some(index) = rare.shared.iter().position(is_it) else {
            return Unsubscribed::NotFound;
        };
        rare.shared.swap_remove(index);
        rare.shared_bytes = rare.shared_bytes.saturating_sub(filter.as_str().len());
        self.shard.end_membership(tenant, &filter, self.publisher, self.local.incarnation);
        Unsubscribed::Removed
    }
}

impl Shard {
    /// Takes a session out of the group that a filter names, here and at other hosts.
    pub(super) fn end_membership(
        &self,
        tenant: TenantNumber,
        filter: &TopicFilter<'_>,
        id: u64,
        incarnation: u64,
    ) {
        let here = self.tenant(tenant);
        if let Some(relay) = &self.node.relay {
            relay.leave(&here.id, filter, id, incarnation);
        }
        let _ = here.routes.remove(filter, &ReceiverKey::Member { id, incarnation });
    }
}
