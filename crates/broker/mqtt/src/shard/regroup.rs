//! A message of a shared group that its member cannot take: another one is chosen.

use std::sync::{Arc, atomic::Ordering};

use ratatosk_contract::{
    Call, Message, ReplyTo,
    group::{Group, Member, MemberTarget as GroupTarget},
};
use ratatosk_session::DropReason;
use ratatosk_topic::{TopicLimits, TopicName};

use super::{
    Shard,
    away::FarMember,
    publish::{group_key, member_target, refusal, shared_route},
    wire::MemberTarget,
};
use crate::tenants::TenantNumber;

/// How often a message of a shared group is passed on to another member. Who chooses knows who is
/// full, so it is passed on where many messages for one member are on their way.
pub(super) const HOPS_MAX: u8 = 3;

/// Set in the hops of what came from another host: it is passed on here only, or it could go to and
/// fro between hosts that do not know yet how full the other's members are.
pub(crate) const FROM_AWAY: u8 = 0x80;

/// Why a message of a shared group is to go to another member.
#[derive(Copy, Clone, Debug)]
pub(super) struct Returned {
    /// The member that does not have it, which is passed over.
    pub(super) by: Option<u64>,
    /// Why not.
    pub(super) reason: DropReason,
}

/// A member that was chosen in place of another one.
pub(super) struct Other<'a> {
    pub(super) group: &'a Arc<Group>,
    pub(super) member: &'a Member,
    /// How often the message was given to another member, with this time.
    pub(super) hops: u8,
}

impl Shard {
    /// Offers a message of a shared group to another member: of one that left, or of one that has
    /// no room, and then to one that has some. If there is none it is dropped, for the reason for
    /// which it was returned.
    pub(super) fn regroup(
        &mut self,
        number: TenantNumber,
        target: &MemberTarget,
        returned: Returned,
        message: &Message<'_>,
    ) {
        let hops = target.hops & !FROM_AWAY;
        let is_from_away = target.hops != hops;
        let other = (hops < HOPS_MAX).then(|| {
            let is_it = |group: &Group| {
                group.route == target.route
                    && group_key(&group.name, group.is_ordered) == target.group
            };
            self.choose_other(number, is_it, returned, is_from_away, message)
        });
        let Some((group, member)) = other.flatten() else {
            self.flow(number).dropped(returned.reason);
            return;
        };
        self.flow(number).moved += 1;
        let hops = (hops + 1) | (target.hops & FROM_AWAY);
        let other = Other { group: &group, member: &member, hops };
        // Its publisher has its answer already.
        self.pass_on(number, other, message, None);
    }

    /// Chooses a member of a group of the message's topic in place of another one; with `is_here` none
    /// of another host.
    pub(super) fn choose_other(
        &mut self,
        number: TenantNumber,
        is_it: impl Fn(&Group) -> bool,
        Returned { by, reason }: Returned,
        is_here: bool,
        message: &Message<'_>,
    ) -> Option<(Arc<Group>, Member)> {
        let topic = TopicName::parse(message.topic, &TopicLimits::PROTOCOL).ok()?;
        let resolved = self.resolve(number, topic);
        let group = resolved.groups.iter().find(|group| is_it(group))?;
        let part = is_here.then(|| members_here(group));
        let among = part.as_ref().unwrap_or(group);
        let member = match reason {
            DropReason::SessionClosed => among.choose(message.publisher, by),
            _ => among.choose_with_room(message.publisher, by),
        };
        member.map(|member| (Arc::clone(group), member.clone()))
    }

    /// Gives a message to a member that was chosen in place of another one. True if whoever waits,
    /// waits for it.
    pub(super) fn pass_on(
        &mut self,
        number: TenantNumber,
        Other { group, member, hops }: Other<'_>,
        message: &Message<'_>,
        waits: Option<ReplyTo>,
    ) -> bool {
        match member.target {
            GroupTarget::Session(session) => {
                self.flow(number).copies += 1;
                let target = member_target(group, session, hops);
                self.send_member(number, session.shard, &target, message);
                false
            }
            GroupTarget::Inbox(inbox) => {
                let shared = [shared_route(group, member, inbox)];
                let call = self.append(number, (&[], &shared), message, None, waits);
                if let Some(reason) = refusal(call).filter(|_| waits.is_some()) {
                    // Others have it, so it cannot be refused any more.
                    self.flow(number).lost(reason);
                }
                call == Call::Pending && waits.is_some()
            }
            GroupTarget::Host(host) => {
                let far = FarMember::new(group, member, host, hops);
                self.send_far(number, far, message, waits)
            }
        }
    }
}

/// The part of a group that is not on other hosts.
fn members_here(group: &Group) -> Arc<Group> {
    let members = group.members.iter().filter(|member| member.host().is_none());
    Arc::new(Group {
        name: Arc::clone(&group.name),
        is_ordered: group.is_ordered,
        route: group.route,
        members: members.cloned().collect(),
        cursor: group.cursor.fetch_add(1, Ordering::Relaxed).into(),
    })
}
