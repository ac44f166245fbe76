//! How the inbox of a host takes a part of a message, whichever host sends it.
//!
//! What would take several commands and was not begun is not taken: it could not be sent again. Whoever sent it
//! took its sessions for those of one range, and begins it before he sends it again.

use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Claim, DirectDelivery, Targets};
use ratatosk_contract::serving::{Serving, Terms};
use ratatosk_contract::{Call, Message, ReplyTo, TenantId};

use crate::ask::Intent;
use crate::jobs::Group;
use crate::seats::partition_of;

/// Has an inbox queue a part of a message, unless it is known by its exchange.
pub(crate) fn append_part(
    inbox: &dyn Serving,
    (tenant, group): (&TenantId, &Group),
    message: &Message<'_>,
    (intent, reply_to): (Intent, Option<ReplyTo>),
    direct: &mut Vec<DirectDelivery>,
) -> Call<Settlement> {
    let Intent { exchange, once, is_again, goes_on: _ } = intent;
    let noted = exchange
        .filter(|_| is_again)
        .and_then(|(claim, packet_id)| inbox.accepted(claim, packet_id, reply_to));
    noted.unwrap_or_else(|| {
        if must_begin(inbox, group, intent) {
            return Call::Ready(Settlement::Busy);
        }
        let targets = Targets { tenant, routes: &group.routes, shared: &group.shared };
        inbox.append_on(targets, message, Terms { exchange, once, reply_to }, direct)
    })
}

/// Whether a part that was answered so was not taken, and may be somewhere else, or once it is begun.
pub(crate) fn is_left(
    inbox: &dyn Serving,
    (group, intent): (&Group, Intent),
    settlement: Settlement,
) -> bool {
    let is_served = group.partitions().all(|number| inbox.serves(number).is_some());
    match settlement {
        Settlement::Busy => !is_served || must_begin(inbox, group, intent),
        Settlement::Unknown => {
            !is_served || intent.exchange.is_some_and(|(claim, _)| is_left_to_owner(inbox, claim))
        }
        Settlement::Done | Settlement::QuotaExceeded => false,
    }
}

/// Whether a claim that was refused may be good: its session is served elsewhere, or was read here anew and
/// its owner has not gone on yet. INBOX-013
pub(crate) fn is_left_to_owner(inbox: &dyn Serving, claim: Claim) -> bool {
    // In this order: what was not served when it was asked may be now, and then its owner is awaited.
    inbox.serves(partition_of(claim.inbox.0)).is_none() || inbox.is_awaited(claim)
}

/// Whether a part takes several commands and was not begun.
fn must_begin(inbox: &dyn Serving, group: &Group, intent: Intent) -> bool {
    let mut ranges = group.partitions().map(|number| inbox.range(number));
    let first = ranges.next();
    let is_apart = ranges.any(|range| Some(range) != first);
    is_apart && intent.exchange.is_some() && intent.once.is_none()
}
