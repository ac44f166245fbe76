//! How the inbox of a host takes a part of a message, whichever host sends it.
//!
//! What would take several commands and was not begun is not taken: it could not be sent again. Whoever sent it
//! took its sessions for those of one range, and begins it before he sends it again. So does whoever sends as one
//! command what somebody else began: others may have it already.

use ratatosk_contract::call::Settlement;
use ratatosk_contract::inbox::{Claim, DirectDelivery, SharedRoute, Targets};
use ratatosk_contract::serving::{Serving, Terms};
use ratatosk_contract::{Call, Message, ReplyTo, TenantId};

use crate::ask::Intent;
use crate::choices::Wanted;
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
    let Intent { exchange, once, is_again, turn: _ } = intent;
    let noted = exchange
        .filter(|_| is_again)
        .and_then(|(claim, packet_id)| inbox.accepted(claim, packet_id, reply_to));
    noted.unwrap_or_else(|| {
        if must_begin(inbox, group, intent).is_some() {
            return Call::Ready(Settlement::Busy);
        }
        let shared: Vec<SharedRoute> = group.shared.iter().map(Wanted::shared_route).collect();
        let targets = Targets { tenant, routes: &group.routes, shared: &shared };
        inbox.append_on(targets, message, Terms { exchange, once, reply_to }, direct)
    })
}

/// Why a part was not taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It may be somewhere else, or once its message is begun.
    Elsewhere,
    /// Its message is to be begun, and nobody has anything of the part.
    ToBegin,
}

/// Why a part that was answered so was not taken; `None`: it was, or is not to be.
pub(crate) fn left(
    inbox: &dyn Serving,
    (group, intent): (&Group, Intent),
    settlement: Settlement,
) -> Option<Left> {
    let is_served = group.partitions().all(|number| inbox.serves(number).is_some());
    let elsewhere = |is_so: bool| is_so.then_some(Left::Elsewhere);
    match settlement {
        Settlement::Busy => must_begin(inbox, group, intent).or_else(|| elsewhere(!is_served)),
        Settlement::Unknown => elsewhere(
            !is_served || intent.exchange.is_some_and(|(claim, _)| is_left_to_owner(inbox, claim)),
        ),
        Settlement::Done | Settlement::QuotaExceeded => None,
    }
}

/// Whether a claim that was refused may be good: its session is served elsewhere, or was read here anew and
/// its owner has not gone on yet. INBOX-013
pub(crate) fn is_left_to_owner(inbox: &dyn Serving, claim: Claim) -> bool {
    // In this order: what was not served when it was asked may be now, and then its owner is awaited.
    inbox.serves(partition_of(claim.inbox.0)).is_none() || inbox.is_awaited(claim)
}

/// Why a part is not taken that was not begun: it takes several commands, or something is begun under the
/// identifier of its exchange, and it may be the same message.
fn must_begin(inbox: &dyn Serving, group: &Group, intent: Intent) -> Option<Left> {
    let exchange = intent.exchange.filter(|_| intent.once.is_none())?;
    if inbox.is_begun(exchange) {
        return Some(Left::ToBegin);
    }
    let ranges: Vec<_> = group.partitions().map(|number| inbox.range(number)).collect();
    let is_apart = ranges.windows(2).any(|two| two[0] != two[1]);
    let is_whole = ranges.iter().all(Option::is_some);
    is_apart.then_some(if is_whole && !intent.is_again { Left::ToBegin } else { Left::Elsewhere })
}
