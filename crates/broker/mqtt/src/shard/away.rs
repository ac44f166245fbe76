//! Messages for transient sessions of other hosts.
//!
//! A topic's message goes once to each host that wants it; its sessions are found there. One that was
//! chosen for a member of a shared group on another host is kept until that host says that the member
//! was there: if it was not, another member is chosen. Whoever published with QoS 1 or 2 waits until
//! each host has it or it is dropped there, which the relay bounds and counts; it is dropped for sessions
//! that do not outlive their connection, so it is acknowledged all the same.
//!
//! `bytes` is the sum of what is kept, and grows to [`KEPT_LANES`] lanes at most.

use std::{collections::HashMap, sync::Arc};

use ratatosk_codec::Qos;
use ratatosk_contract::{
    HostNumber, Message, ReplyTo, SessionRef, StoredMessage, Ticket,
    call::Settlement,
    group::{Group, Member},
    relay::{Addressee, Dispatch, Outcome},
};
use ratatosk_session::DropReason;
use ratatosk_telemetry::memory::{Hold, Share};

use super::{
    Shard,
    regroup::{HOPS_MAX, Other, Returned},
};
use crate::tenants::TenantNumber;

/// How much one shard keeps of what is on its way to members on other hosts, as a multiple of what a
/// lane may hold, which is less while memory is short. What is beyond it is sent, nobody waits for it, and it
/// is lost if the member is not there.
const KEPT_LANES: usize = 2;

/// The slot of nobody's session: who waits is the shard, for a message that it keeps.
const NOBODY: u32 = u32::MAX;

/// A member of a shared group on another host that was chosen for a message.
#[derive(Clone, Debug)]
pub(super) struct FarMember {
    pub(super) host: HostNumber,
    pub(super) id: u64,
    pub(super) incarnation: u64,
    pub(super) group: Arc<Group>,
    /// How often the message was given to another member already.
    pub(super) hops: u8,
}

impl FarMember {
    pub(super) fn new(group: &Arc<Group>, member: &Member, host: HostNumber, hops: u8) -> Self {
        let (id, incarnation) = (member.id, member.incarnation);
        FarMember { host, id, incarnation, group: Arc::clone(group), hops }
    }
}

/// What a shard has on its way to other hosts.
#[derive(Default)]
pub(super) struct Away {
    /// The members that were chosen for one message.
    pub(super) chosen: Vec<FarMember>,
    kept: HashMap<u64, Kept, foldhash::fast::RandomState>,
    last: u64,
    bytes: usize,
    filter: String,
}

/// A message that is on its way to a member.
struct Kept {
    tenant: TenantNumber,
    member: FarMember,
    message: StoredMessage,
    /// The publisher, if it waits.
    waits: Option<ReplyTo>,
    /// What it takes, with its payload.
    bytes: usize,
    /// A payload that is shared is charged where it came from.
    _hold: Hold,
}

impl Away {
    fn keep(&mut self, kept: Kept) {
        self.bytes += kept.bytes;
        self.kept.insert(self.last, kept);
    }

    fn take(&mut self, ticket: Ticket) -> Option<Kept> {
        let kept = self.kept.remove(&ticket.0)?;
        self.bytes -= kept.bytes;
        if self.kept.is_empty() && self.kept.capacity() > 64 {
            self.kept = HashMap::default();
        }
        Some(kept)
    }
}

/// Whether it is no session that waits but its shard, for a message that it keeps.
pub(crate) fn is_kept(session: SessionRef) -> bool {
    session.slot == NOBODY
}

impl Shard {
    /// Sends a message to the hosts of its topic and to the members that were chosen on others. Answers
    /// for how many of them its publisher waits.
    #[inline(never)]
    pub(super) fn send_away(
        &mut self,
        number: TenantNumber,
        hosts: &[HostNumber],
        message: &Message<'_>,
        reply_to: Option<ReplyTo>,
    ) -> u32 {
        let mut parts = 0;
        if let Some(relay) = self.node.relay.as_deref()
            && !hosts.is_empty()
        {
            let tenant = &self.tenant(number).id;
            let dispatch = Dispatch { tenant, to: Addressee::Sessions, message: *message };
            let sent = relay.send(&dispatch, hosts, reply_to);
            if reply_to.is_some() {
                parts = u32::try_from(sent.pending).unwrap_or(u32::MAX);
            }
        }
        let mut chosen = std::mem::take(&mut self.away.chosen);
        for member in chosen.drain(..) {
            parts += u32::from(self.send_far(number, member, message, reply_to));
        }
        self.away.chosen = chosen;
        parts
    }

    /// Sends a message to a member on another host, or to another one if that host takes nothing. True
    /// if whoever waits, waits for it.
    pub(super) fn send_far(
        &mut self,
        number: TenantNumber,
        member: FarMember,
        message: &Message<'_>,
        waits: Option<ReplyTo>,
    ) -> bool {
        let mut filter = std::mem::take(&mut self.away.filter);
        filter.clear();
        let node = Arc::clone(&self.node);
        let tenant = self.tenant(number);
        let is_there = tenant.routes.filter_text(member.group.route, &mut filter);
        let bytes = message.stored_bytes() + message.payload.len();
        let is_kept = message.qos != Qos::AtMostOnce
            && self.away.bytes + bytes <= KEPT_LANES * self.lane_max();
        let reply_to = is_kept.then(|| {
            self.away.last += 1;
            let session = SessionRef { shard: self.id, slot: NOBODY, generation: 0 };
            ReplyTo { session, ticket: Ticket(self.away.last) }
        });
        let to = Addressee::Member {
            filter: &filter,
            group: &member.group.name,
            is_ordered: member.group.is_ordered,
            id: member.id,
            incarnation: member.incarnation,
        };
        let tenant = self.tenant(number);
        let dispatch = Dispatch { tenant: &tenant.id, to, message: *message };
        let relay = node.relay.as_deref().filter(|_| is_there);
        let sent = relay.map(|relay| relay.send(&dispatch, &[member.host], reply_to));
        let is_sent = sent.is_some_and(|sent| sent.pending > 0);
        self.away.filter = filter;
        if !is_sent {
            return self.send_to_other(number, &member, message, waits);
        }
        if is_kept {
            // Its outcome comes by the mailbox, and so not before this.
            let own = if message.shared.is_some() { message.stored_bytes() } else { bytes };
            let hold = self.tenant(number).account.hold(Share::Queues, own);
            let message = message.to_stored();
            self.away.keep(Kept { tenant: number, member, message, waits, bytes, _hold: hold });
        }
        is_kept && waits.is_some()
    }

    /// Chooses another member than one on another host, which does not have the message. True if whoever
    /// waits, waits for it.
    fn send_to_other(
        &mut self,
        number: TenantNumber,
        member: &FarMember,
        message: &Message<'_>,
        waits: Option<ReplyTo>,
    ) -> bool {
        let reason = DropReason::SessionClosed;
        let other = (member.hops < HOPS_MAX).then(|| {
            let returned = Returned { by: Some(member.id), reason };
            let group = &member.group;
            let is_it = |known: &Group| {
                known.route == group.route
                    && known.is_ordered == group.is_ordered
                    && known.name == group.name
            };
            self.choose_other(number, is_it, returned, false, message).or_else(|| {
                // A session of that identity may have gone over to another host.
                let returned = Returned { by: None, reason };
                let again = self.choose_other(number, is_it, returned, false, message);
                again.filter(|(_, chosen)| chosen.host() != Some(member.host))
            })
        });
        match other.flatten() {
            Some((group, chosen)) => {
                let other = Other { group: &group, member: &chosen, hops: member.hops + 1 };
                self.pass_on(number, other, message, waits)
            }
            None => {
                self.flow(number).lost(reason);
                false
            }
        }
    }

    /// What became of a message that is kept.
    pub(super) fn settle_kept(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(kept) = self.away.take(ticket) else { return };
        let Kept { tenant, member, message, waits, .. } = kept;
        let is_waited_for = match outcome {
            Outcome::Taken | Outcome::Dropped(_) => false,
            Outcome::Gone => self.send_to_other(tenant, &member, &message.as_message(), waits),
        };
        if let Some(ReplyTo { session, ticket }) = waits
            && !is_waited_for
        {
            self.settle(session, ticket, Settlement::Done);
        }
    }
}
