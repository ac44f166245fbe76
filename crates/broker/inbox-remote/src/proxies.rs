//! What an inbox does for sessions of other hosts outside of their streams: QoS 0 past their queues, and what
//! is due when a host is over.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ratatosk_clock::Instant;
use ratatosk_contract::inbox::{Detach, DirectDelivery, WillId};
use ratatosk_contract::sessions::Delivery;
use ratatosk_contract::{Message, SessionRef, TenantId};
use ratatosk_rpc::HostId;

use crate::cluster_inbox::Shared;
use crate::desk::PROXY_SHARD;
use crate::tell::{Direct, Tell};

/// Names the wills of transient sessions of other hosts that are kept here.
pub(crate) type KeptWills = Mutex<HashMap<WillId, HostId>>;

impl Shared {
    /// Hands a QoS 0 message to sessions that are online, past their queues, wherever they are connected.
    pub(crate) fn hand_direct(
        &self,
        tenant: &TenantId,
        direct: &[DirectDelivery],
        message: &Message<'_>,
    ) {
        if direct.is_empty() {
            return;
        }
        let stored = Arc::new(message.to_stored());
        for DirectDelivery { owner, options, subscription_id } in direct {
            if owner.shard == PROXY_SHARD {
                let direct = Direct {
                    tenant: tenant.clone(),
                    options: *options,
                    subscription_id: *subscription_id,
                    message: Arc::clone(&stored),
                };
                self.tell_direct(*owner, direct);
            } else {
                let delivery = Delivery {
                    tenant: tenant.clone(),
                    options: *options,
                    subscription_id: *subscription_id,
                    group: Arc::clone(&self.no_group),
                    message: Arc::clone(&stored),
                };
                self.home.deliver(*owner, delivery);
            }
        }
    }

    /// The same for one session of another host.
    pub(crate) fn tell_direct(&self, owner: SessionRef, direct: Direct) {
        let Some((link, claim)) = self.desk.find(owner) else {
            self.metrics.dropped_direct.increment();
            return;
        };
        if !link.has_room() {
            self.metrics.dropped_direct.increment();
            return;
        }
        link.tell(&Tell::Direct { claim, direct: Box::new(direct) }, self.clock.now());
    }

    /// Leaves the sessions of hosts that are over, as by connections that broke; the wills of their transient
    /// sessions are due. INBOX-012
    pub(crate) fn bury(&self) {
        let (now, over) = (self.clock.now(), self.over.lock().clone());
        if over.is_empty() {
            return;
        }
        let is_over = |host: HostId| over.contains(&host);
        for claim in self.desk.bury(is_over) {
            // Another owner may have it by now.
            let _ = self.local.abandon(claim, now);
            self.metrics.abandoned.increment();
        }
        let mut due = Vec::new();
        self.kept_wills.lock().retain(|will, host| {
            due.extend(is_over(*host).then_some(*will));
            !is_over(*host)
        });
        for will in due {
            let _ = self.local.abandon_will(will, now);
        }
    }

    /// Leaves sessions that their hosts do not know of: the answer to an attach was lost, and so no client
    /// was let in.
    pub(crate) fn forget_unclaimed(&self) {
        let now = self.clock.now();
        let is_long_ago = |since: Instant| now.since(since) >= self.config.claim_patience * 3;
        for claim in self.desk.forget_unclaimed(is_long_ago) {
            let detach = Detach { expiry_s: None, will: None, now };
            let _ = self.local.detach(claim, detach, None);
        }
    }
}
