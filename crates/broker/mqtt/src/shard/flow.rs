//! What becomes of the messages of one tenant in one shard.
//!
//! A message makes a copy for each receiver, counted where the receiver is found; what becomes of
//! the copy is counted where that is known. Between the two it waits in a queue or on its way to
//! another shard, so once nothing is on its way (DUR-008):
//!
//! - what clients published is `received - wills + refused - refused_late`, what was accepted
//!   `received - refused_late`, of which `unmatched` had no receiver;
//! - `copies = stored + sent + dropped + moved + ended + waiting`, where of `dropped` those count
//!   that are not among `fetched_lost`, and `waiting = queued - unqueued`;
//! - for the inboxes `stored + moved there = appended + passed_on`, and what they append is committed,
//!   fetched, handed back, queued, moved or dropped (`InboxStats`);
//! - `handed_back` is what the inboxes gave to connections: `direct + passed_on`.
//!
//! The totals of the shard are sums of these.

use ratatosk_contract::Message;
use ratatosk_session::{Delivered, DropReason, Late};

use super::{
    Shard,
    stats::{Stats, counters},
};
use crate::tenants::TenantNumber;

counters! {
    /// What became of a tenant's messages.
    Flow {
        /// Messages that were published and concluded.
        received,
        /// Their payload bytes.
        received_bytes,
        /// Of these, wills.
        wills,
        /// Of these, what nobody subscribes to.
        unmatched,
        /// Publishes that were refused, before they were received or after.
        refused,
        /// Of these, what was received.
        refused_late,
        /// Copies made for receivers.
        copies,
        /// Copies that an inbox took.
        stored,
        /// Copies that an inbox gave to connections without keeping them.
        handed_back,
        /// Copies written to their connection, once each.
        sent,
        /// Their payload bytes.
        sent_bytes,
        /// Copies that waited in the queue of a transient session.
        queued,
        /// Those that left it.
        unqueued,
        /// Copies of shared groups given to another member or to an inbox.
        moved,
        /// Copies that waited when their session ended. Those of shared groups are offered anew.
        ended,
        /// Messages fetched from an inbox and written, again or for the first time.
        fetched,
        /// Their payload bytes.
        fetched_bytes,
        /// Messages fetched from an inbox and dropped: they are in `dropped_*`, too.
        fetched_lost,
        /// Not delivered: the session was not live.
        dropped_session_closed,
        /// Not delivered: the client does not keep up.
        dropped_overflow,
        /// Not delivered: published by the client itself.
        dropped_no_local,
        /// Not delivered: its time was over.
        dropped_expired,
        /// Not delivered: too large for the client.
        dropped_oversize,
        /// Not delivered: no longer permitted.
        dropped_no_permission,
        /// Not delivered: memory is short.
        dropped_resource,
    }
}

impl Flow {
    pub(super) fn dropped(&mut self, reason: DropReason) {
        let counter = match reason {
            DropReason::SessionClosed => &mut self.dropped_session_closed,
            DropReason::Overflow => &mut self.dropped_overflow,
            DropReason::NoLocal => &mut self.dropped_no_local,
            DropReason::Expired => &mut self.dropped_expired,
            DropReason::Oversize => &mut self.dropped_oversize,
            DropReason::NoSubPermission => &mut self.dropped_no_permission,
            DropReason::ResourceExhausted => &mut self.dropped_resource,
        };
        *counter += 1;
    }

    /// A copy that nobody counted is dropped.
    pub(super) fn lost(&mut self, reason: DropReason) {
        self.copies += 1;
        self.dropped(reason);
    }

    /// What was dropped, for any reason.
    pub fn dropped_sum(&self) -> u64 {
        self.dropped_session_closed
            + self.dropped_overflow
            + self.dropped_no_local
            + self.dropped_expired
            + self.dropped_oversize
            + self.dropped_no_permission
            + self.dropped_resource
    }

    /// Copies that wait in the queues of transient sessions.
    pub fn waiting(&self) -> u64 {
        self.queued.wrapping_sub(self.unqueued)
    }

    /// What became of copies, with those that wait: their number once none is on its way.
    pub fn accounted(&self) -> u64 {
        let dropped = self.dropped_sum() - self.fetched_lost;
        self.stored + self.sent + dropped + self.moved + self.ended + self.waiting()
    }

    /// Takes note of what became of messages that waited for a client.
    fn note_late(&mut self, late: &Late, is_persistent: bool) {
        let lost = u64::from(late.expired) + u64::from(late.oversize);
        self.dropped_expired += u64::from(late.expired);
        self.dropped_oversize += u64::from(late.oversize);
        let (sent, bytes) = (u64::from(late.sent), u64::from(late.sent_bytes));
        if is_persistent {
            self.fetched += sent;
            self.fetched_bytes += bytes;
            self.fetched_lost += lost;
        } else {
            self.sent += sent;
            self.sent_bytes += bytes;
            self.unqueued += sent + lost;
        }
    }

    /// Adds it to the totals.
    fn add_to(&self, stats: &mut Stats) {
        stats.received += self.received;
        stats.received_bytes += self.received_bytes;
        stats.sent += self.sent + self.fetched;
        stats.sent_bytes += self.sent_bytes + self.fetched_bytes;
        stats.queued += self.queued;
        stats.publish_refused += self.refused;
        stats.dropped_session_closed += self.dropped_session_closed;
        stats.dropped_overflow += self.dropped_overflow;
        stats.dropped_no_local += self.dropped_no_local;
        stats.dropped_expired += self.dropped_expired;
        stats.dropped_oversize += self.dropped_oversize;
        stats.dropped_no_permission += self.dropped_no_permission;
        stats.dropped_resource += self.dropped_resource;
    }
}

impl Shard {
    /// Where the messages of a tenant are counted.
    #[inline]
    pub(super) fn flow(&mut self, number: TenantNumber) -> &mut Flow {
        &mut self.tenant_mut(number).flow
    }

    /// Counts what became of a copy.
    #[inline]
    pub(super) fn count(
        &mut self,
        number: TenantNumber,
        delivered: Delivered,
        message: &Message<'_>,
    ) {
        if super::publish::is_kept(delivered) {
            self.given.note(message);
        }
        let flow = self.flow(number);
        match delivered {
            Delivered::Sent => {
                flow.sent += 1;
                flow.sent_bytes += message.payload.len() as u64;
            }
            Delivered::Queued => flow.queued += 1,
            Delivered::Dropped(reason) => flow.dropped(reason),
        }
    }

    /// Counts what became of messages that waited for a client.
    pub(super) fn count_late(&mut self, number: TenantNumber, late: &Late, is_persistent: bool) {
        if *late != Late::default() {
            self.stats.dropped_oversize += u64::from(late.replies);
            self.flow(number).note_late(late, is_persistent);
        }
    }

    /// Shows the counters to others; once a tick.
    pub(super) fn publish_counters(&mut self) {
        self.stats.connections = self.connections as u64;
        let mut total = self.stats;
        let flows = self.tenants.iter().map(|tenant| tenant.as_ref().map(|tenant| &tenant.flow));
        flows.clone().flatten().for_each(|flow| flow.add_to(&mut total));
        self.node.stats.publish(self.id.index(), &total, flows);
    }
}
