//! Whom the inbox of a host tells: the sessions of this host, or those of others.
//!
//! The inbox knows owners by references. Those with a shard number that no data plane has are of other hosts,
//! or stand for whoever adds up what became of one message.

use std::sync::{Arc, OnceLock, Weak};

use ratatosk_contract::call::Settlement;
use ratatosk_contract::group::Group;
use ratatosk_contract::inbox::{Answer, DueWill};
use ratatosk_contract::sessions::{Delivery, Sessions};
use ratatosk_contract::{ReplyTo, SessionRef, Ticket};

use crate::append::JOIN_SHARD;
use crate::cluster_inbox::Shared;
use crate::desk::PROXY_SHARD;
use crate::jobs::PartId;
use crate::kept::CHANGE_SLOT;
use crate::link::LINK_SHARD;
use crate::tell::Direct;

/// The live sessions that an inbox is given, which are of several hosts. Cheap to clone.
#[derive(Clone)]
pub struct Switch {
    home: Arc<dyn Sessions>,
    shared: Arc<OnceLock<Weak<Shared>>>,
}

impl Switch {
    /// Tells `home` of the sessions of this host. Those of others are told once a
    /// [`ClusterInbox`](crate::ClusterInbox) was made with it.
    #[must_use]
    pub fn new(home: Arc<dyn Sessions>) -> Self {
        Self { home, shared: Arc::default() }
    }

    pub(crate) fn home(&self) -> &Arc<dyn Sessions> {
        &self.home
    }

    /// # Panics
    /// When it was joined before: a bug of the caller.
    pub(crate) fn join(&self, shared: &Arc<Shared>) {
        let is_first = self.shared.set(Arc::downgrade(shared)).is_ok();
        assert!(is_first, "a switch belongs to one inbox");
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get()?.upgrade()
    }
}

impl Sessions for Switch {
    fn inbox_ready(&self, session: SessionRef) {
        if session.shard != PROXY_SHARD {
            self.home.inbox_ready(session);
        } else if let Some(shared) = self.shared() {
            shared.desk.stir(session);
        }
    }

    fn deliver(&self, session: SessionRef, delivery: Delivery) {
        if session.shard != PROXY_SHARD {
            self.home.deliver(session, delivery);
        } else if let Some(shared) = self.shared() {
            let Delivery { tenant, options, subscription_id, group: _, message } = delivery;
            shared.tell_direct(session, Direct { tenant, options, subscription_id, message });
        }
    }

    fn settle(&self, session: SessionRef, ticket: Ticket, settlement: Settlement) {
        match session.shard {
            LINK_SHARD => {
                let Some(shared) = self.shared() else { return };
                if let Some(link) = shared.desk.link(session) {
                    link.settle(ticket, settlement, shared.clock.now());
                }
            }
            JOIN_SHARD => {
                let Some(shared) = self.shared() else { return };
                match session.slot {
                    CHANGE_SLOT => shared.settle_kept(ticket, settlement),
                    _ => shared.settle_part(PartId(ticket.0), settlement),
                }
            }
            _ => self.home.settle(session, ticket, settlement),
        }
    }

    fn chosen_before(&self, session: SessionRef, ticket: Ticket, groups: Vec<Arc<Group>>) {
        self.home.chosen_before(session, ticket, groups);
    }

    fn answered(&self, reply_to: ReplyTo, answer: Answer) {
        self.home.answered(reply_to, answer);
    }

    fn publish(&self, will: DueWill) {
        self.home.publish(will);
    }
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Switch").finish_non_exhaustive()
    }
}
