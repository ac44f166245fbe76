//! Subscriptions whose permission was taken away. MQTT-080
//!
//! When the provider's rules change, and once a minute in any case, every subscription of a
//! client that is subject to permissions is checked again, some sessions a tick. One that is no
//! longer permitted is ended as if the client had asked for it.

use std::{sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::Qos;
use ratatosk_contract::SessionRef;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Identity, Verdict},
};
use ratatosk_session::Broker as _;
use ratatosk_topic::{TopicFilter, TopicLimits};

use super::{Shard, connection::Local, runner};
use crate::tenants::TenantNumber;

/// How many sessions are looked at in one tick.
const SESSIONS_MAX: usize = 512;
/// How long a permission counts without being asked for again.
const AGE_MAX: Duration = Duration::from_secs(60);

/// How far the shard is with checking again.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    epoch: u64,
    started: Instant,
    /// The next slot to look at; `None`: nothing is due.
    next: Option<usize>,
}

impl Shard {
    /// Goes on with checking, if it is due.
    pub(super) fn recheck(&mut self) {
        let epoch = self.node.plugins.permission_epoch();
        let is_old = self.now.since(self.recheck.started) >= AGE_MAX;
        if epoch != self.recheck.epoch || is_old {
            self.recheck = Recheck { epoch, started: self.now, next: Some(0) };
        }
        let Some(first) = self.recheck.next else { return };
        let end = (first + SESSIONS_MAX).min(self.slots.len());
        for slot in first..end {
            let Ok(slot) = u32::try_from(slot) else { break };
            self.recheck_session(self.reference(slot));
        }
        self.recheck.next = (end < self.slots.len()).then_some(end);
    }

    fn recheck_session(&mut self, session: SessionRef) {
        let Some(connection) = self.connection(session) else { return };
        let (Some(identity), Some(tenant)) =
            (connection.local.identity.clone(), connection.local.tenant)
        else {
            return;
        };
        let filters = {
            let place = &self.slots[session.slot as usize];
            let Some(connection) = &place.connection else { return };
            self.filters(tenant, &connection.local)
        };
        for filter in filters {
            self.recheck_filter(session, &identity, filter);
        }
    }

    /// The filters of a session, with their share prefixes.
    fn filters(&self, tenant: TenantNumber, local: &Local) -> Vec<String> {
        let routes = &self.tenant(tenant).routes;
        let mut filters = Vec::new();
        for route in &local.routes {
            let mut text = String::new();
            if routes.filter_text(*route, &mut text) {
                filters.push(text);
            }
        }
        if let Some(rare) = &local.rare {
            filters.extend(rare.shared.iter().map(|shared| shared.filter.as_str().to_owned()));
            filters.extend(rare.persistent.iter().map(ToString::to_string));
        }
        filters
    }

    fn recheck_filter(&mut self, session: SessionRef, identity: &Arc<Identity>, filter: String) {
        let Ok(parsed) = TopicFilter::parse(&filter, &TopicLimits::PROTOCOL) else { return };
        let action = Action::Subscribe { filter: parsed.filter(), qos: Qos::AtMostOnce };
        match self.node.plugins.check(identity, action) {
            Answer::Now(verdict) => {
                if !still_permits(&verdict) {
                    self.end_subscription(session, &filter);
                }
            }
            Answer::Later(verdict) => runner::spawn(async move {
                if !still_permits(&verdict.await) {
                    runner::with(|shard| shard.end_subscription(session, &filter));
                }
            }),
        }
    }

    fn end_subscription(&mut self, session: SessionRef, filter: &str) {
        let at = self.node.clock.wall();
        let line = format!("subscription to {filter:?} ended: no longer permitted");
        self.stats.revoked += 1;
        self.drive(session, |machine, _, link| {
            if !machine.is_live() {
                return;
            }
            if let Ok(parsed) = TopicFilter::parse(filter, &TopicLimits::PROTOCOL) {
                link.unsubscribe(parsed);
            }
            link.local.rare().ring.note(at, &line);
        });
    }
}

/// A provider that fails now says nothing about what it granted before.
fn still_permits(verdict: &Verdict) -> bool {
    !matches!(verdict, Verdict::Denied { .. })
}
