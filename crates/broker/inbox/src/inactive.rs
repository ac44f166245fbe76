//! Sessions of a tenant that an operator wants to end because nobody uses them.
//!
//! An order is carried out little by little: each call of `expire` makes a bounded number of
//! sessions due, which then end as any other, with will, routes and what they have in the log. So
//! nobody else waits for longer than for a look at one partition. Who returned, or left after the
//! order was given, is not meant.

use std::time::Duration;

use ratatosk_clock::{Epoch, Instant, Timestamp};
use ratatosk_contract::{
    TenantId,
    inbox::{InboxId, TooManyOrders},
};

use crate::{
    InboxService,
    partition::{PARTITION_COUNT, Partition},
    session::Session,
};

/// How many sessions one call of `expire` makes due for orders: a thousand a second at two calls.
pub(crate) const DUE_MAX: usize = 500;

/// How many orders there are at once.
const ORDERS_MAX: usize = 64;

/// What an operator ordered for one tenant.
#[derive(Debug)]
pub(crate) struct Order {
    tenant: TenantId,
    /// Who left later is not meant.
    until: Timestamp,
    /// The partition to go on with.
    next: usize,
}

impl InboxService {
    /// See [`Inbox::expire_inactive`](ratatosk_contract::inbox::Inbox::expire_inactive).
    pub(crate) fn order_inactive(
        &self,
        tenant: &TenantId,
        away_min: Duration,
        now: Instant,
    ) -> Result<usize, TooManyOrders> {
        let span_ms = u64::try_from(away_min.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.epoch().stamp(now).as_millis();
        // Nobody was away before the first moment.
        let until = now_ms.checked_sub(span_ms).map(Timestamp::from_millis);
        let Some(until) = until else { return Ok(0) };
        {
            let mut orders = self.orders.lock();
            let known = orders.iter().position(|order| order.tenant == *tenant);
            if known.is_none() && orders.len() >= ORDERS_MAX {
                return Err(TooManyOrders);
            }
            let before = known.and_then(|at| orders.remove(at)).map(|order| order.until);
            let until = before.map_or(until, |before| before.max(until));
            orders.push_back(Order { tenant: tenant.clone(), until, next: 0 });
        }
        let count = |partition: &Partition| partition.inactive(tenant, until, now).count();
        Ok(self.partitions.iter().map(|partition| count(&partition.lock())).sum())
    }

    /// Makes some sessions due that were ordered to end. One order after the other has its turn.
    pub(crate) fn make_inactive_due(&self, now: Instant) {
        let Some(mut order) = self.orders.lock().pop_front() else { return };
        let mut left = DUE_MAX;
        while order.next < PARTITION_COUNT {
            let mut locks = self.partitions.lock_one(order.next);
            let partition = locks.at(order.next);
            let found: Vec<InboxId> =
                partition.inactive(&order.tenant, order.until, now).take(left).collect();
            found.iter().for_each(|id| partition.make_due(*id, now));
            left -= found.len();
            if left == 0 {
                break;
            }
            order.next += 1;
        }
        if order.next >= PARTITION_COUNT {
            return;
        }
        let mut orders = self.orders.lock();
        match orders.iter_mut().find(|other| other.tenant == order.tenant) {
            // One that came meanwhile begins anew, so it can stand for both.
            Some(newer) => newer.until = newer.until.max(order.until),
            None => orders.push_back(order),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.journal.as_ref().map(|journal| journal.epoch).unwrap_or_default()
    }
}

impl Partition {
    /// Sessions of a tenant that lost their connection until a moment and are not due yet.
    fn inactive(
        &self,
        tenant: &TenantId,
        until: Timestamp,
        now: Instant,
    ) -> impl Iterator<Item = InboxId> {
        let place = self.tallies.find(tenant);
        let is_served = self.is_served;
        let is_meant = move |session: &Session| {
            let is_away = session.is_away() && session.away_since <= until;
            is_served && is_away && Some(session.tally) == place && !session.is_over(now)
        };
        let meant = self.sessions.iter().filter(move |(_, session)| is_meant(session));
        meant.map(|(id, _)| *id)
    }
}
