//! The receivers of one filter.
//!
//! Most filters have transient sessions only: an [`Entry`] then is 24 bytes. Persistent sessions
//! and groups are in a box of their own, which is there only while it holds something.
//!
//! Other hosts that want the filter are not here but in [`hosts`](crate::hosts); members on them are.
//!
//! Invariants: inboxes rise by id; groups rise by (name, order); members of a group rise by (id,
//! place); no group is empty.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ratatosk_contract::{
    HostNumber,
    dist::{AddError, HostRoute, InboxRoute, Receiver, RouteId},
    group::{Group, Member, MemberTarget},
    identity::ShardSet,
    inbox::InboxId,
};
use ratatosk_topic::{FilterId, Share};

use crate::schema::Kept;

/// One place of the table beside the filter index.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The filter's number in the index, kept because no other code can make one.
    pub(crate) filter: FilterId,
    /// Tells the filters that had this number apart.
    pub(crate) generation: u32,
    /// Shards with transient sessions.
    pub(crate) shards: ShardSet,
    /// What most filters do not have.
    rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<Entry>() <= 24, "there is one for each of millions of filters");

#[derive(Debug, Default)]
struct Rare {
    inboxes: Vec<InboxRoute>,
    groups: Vec<Arc<Group>>,
}

/// Where a session is that is a member: of one identity there is one member a place.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Here, or stored where nobody else stores anything.
    Here,
    /// Where all nodes have it.
    Everywhere,
    /// On another host.
    Host(HostNumber),
}

/// Whether persistent members have a place of their own. They do where all nodes store them: there what
/// becomes of one does not follow from what else the identity does here.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    Shared,
    Apart,
}

/// A member that comes to a group.
#[derive(Debug)]
pub(crate) struct Joining<'a> {
    pub(crate) share: Share<'a>,
    pub(crate) route: RouteId,
    pub(crate) members_max: u32,
    pub(crate) places: Places,
}

impl Places {
    /// Where a member is.
    pub(crate) fn of(self, member: &Member) -> Place {
        match (member.target, self) {
            (MemberTarget::Host(host), _) => Place::Host(host),
            (MemberTarget::Inbox(_), Places::Apart) => Place::Everywhere,
            (MemberTarget::Inbox(_) | MemberTarget::Session(_), _) => Place::Here,
        }
    }

    fn seat(self, member: &Member) -> (u64, Place) {
        (member.id, self.of(member))
    }

    fn find(self, members: &[Member], seat: (u64, Place)) -> Result<usize, usize> {
        members.binary_search_by_key(&seat, |member| self.seat(member))
    }
}

/// What adding a receiver did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It was there, just so, or in a later life.
    Nothing,
    /// What was known of it was replaced; of that, this was kept.
    Replaced(Option<Kept>),
    /// It is new.
    New,
}

/// What taking a receiver away did.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It was not there, or only in a later life.
    Nothing,
    /// It is gone; of it, this was kept.
    Receiver(Option<Kept>),
    /// It is gone, and its group with it.
    Group(Option<Kept>),
}

impl Entry {
    pub(crate) fn new(filter: FilterId, generation: u32) -> Self {
        Entry { filter, generation, shards: ShardSet::EMPTY, rare: None }
    }

    /// Whether it has no receiver of its own; another host may be one still.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.rare.is_none()
    }

    /// Subscriptions of persistent sessions.
    pub(crate) fn inboxes(&self) -> &[InboxRoute] {
        self.rare.as_ref().map_or(&[], |rare| &rare.inboxes)
    }

    /// Shared groups.
    pub(crate) fn groups(&self) -> &[Arc<Group>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.groups)
    }

    /// The routes of persistent sessions, each with the group and the number of a member.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (InboxRoute, Option<(&Group, u64)>)> {
        let plain = self.inboxes().iter().map(|route| (*route, None));
        let members = self.groups().iter().flat_map(|group| {
            let of =
                move |member: &Member| Some((stored_route(member)?, Some((&**group, member.id))));
            group.members.iter().filter_map(of)
        });
        plain.chain(members)
    }

    /// The group `share`, if it has members.
    pub(crate) fn group(&self, share: Share<'_>) -> Option<&Arc<Group>> {
        let at = group_position(self.groups(), share).ok()?;
        self.groups().get(at)
    }

    /// Whether adding the receiver would change nothing.
    pub(crate) fn has(
        &self,
        share: Option<Share<'_>>,
        receiver: &Receiver,
        places: Places,
    ) -> bool {
        match receiver {
            Receiver::Shard(shard) => self.shards.contains(*shard),
            // Not known here.
            Receiver::Host(_) => false,
            Receiver::Inbox(route) => {
                let found = inbox_position(self.inboxes(), route.inbox);
                found.is_ok_and(|at| !is_route_replaced(&self.inboxes()[at], route))
            }
            Receiver::Member { member, .. } => {
                let members = share.and_then(|share| Some(&self.group(share)?.members[..]));
                let members = members.unwrap_or_default();
                let found = places.find(members, places.seat(member));
                found.is_ok_and(|at| !is_replaced(&members[at], member))
            }
        }
    }

    /// DIST-001
    pub(crate) fn add_inbox(&mut self, route: InboxRoute) -> Added {
        let inboxes = &mut self.rare_mut().inboxes;
        let at = match inbox_position(inboxes, route.inbox) {
            Err(at) => {
                insert_lean(inboxes, at, route);
                return Added::New;
            }
            Ok(at) => at,
        };
        if !is_route_replaced(&inboxes[at], &route) {
            return Added::Nothing;
        }
        let before = mem::replace(&mut inboxes[at], route);
        Added::Replaced(Some(Kept::of(&before)))
    }

    /// DIST-002
    pub(crate) fn remove_inbox(&mut self, inbox: InboxId, incarnation: u64) -> Removed {
        let Some(rare) = &mut self.rare else {
            return Removed::Nothing;
        };
        let Ok(at) = inbox_position(&rare.inboxes, inbox) else {
            return Removed::Nothing;
        };
        if rare.inboxes[at].incarnation > incarnation {
            return Removed::Nothing;
        }
        let kept = Kept::of(&rare.inboxes.remove(at));
        shrink_lean(&mut rare.inboxes);
        self.drop_empty();
        Removed::Receiver(Some(kept))
    }

    /// Nothing is changed on an error. MQTT-086
    pub(crate) fn add_member(
        &mut self,
        joining: &Joining<'_>,
        member: Member,
    ) -> Result<(Added, IsNewGroup), AddError> {
        let Joining { share, route, members_max, places } = *joining;
        let full = Err(AddError::GroupFull { members_max });
        let limit = usize::try_from(members_max).unwrap_or(usize::MAX);
        let Ok(at) = group_position(self.groups(), share) else {
            if limit == 0 {
                return full;
            }
            let group = Group {
                name: share.group.into(),
                is_ordered: share.ordered,
                route,
                members: vec![member],
                cursor: AtomicU32::new(0),
            };
            let groups = &mut self.rare_mut().groups;
            // Found as missing above, so there is a place for it.
            let at = group_position(groups, share).unwrap_or_else(|at| at);
            insert_lean(groups, at, Arc::new(group));
            return Ok((Added::New, IsNewGroup::Yes));
        };
        let group = &mut self.rare_mut().groups[at];
        match places.find(&group.members, places.seat(&member)) {
            Err(_) if group.members.len() >= limit => full,
            Err(at) => {
                change_members(group, |members| members.insert(at, member));
                Ok((Added::New, IsNewGroup::No))
            }
            Ok(at) if !is_replaced(&group.members[at], &member) => {
                Ok((Added::Nothing, IsNewGroup::No))
            }
            Ok(at) => {
                let before = Kept::of_member(&group.members[at]);
                change_members(group, |members| members[at] = member);
                Ok((Added::Replaced(before), IsNewGroup::No))
            }
        }
    }

    /// DIST-002, DIST-013
    pub(crate) fn remove_member(
        &mut self,
        share: Share<'_>,
        seat: (u64, Place),
        incarnation: u64,
        places: Places,
    ) -> Removed {
        let Some(rare) = &mut self.rare else {
            return Removed::Nothing;
        };
        let Ok(group_at) = group_position(&rare.groups, share) else {
            return Removed::Nothing;
        };
        let group = &mut rare.groups[group_at];
        let Ok(at) = places.find(&group.members, seat) else {
            return Removed::Nothing;
        };
        if group.members[at].incarnation > incarnation {
            return Removed::Nothing;
        }
        let kept = Kept::of_member(&group.members[at]);
        if group.members.len() > 1 {
            change_members(group, |members| {
                members.remove(at);
            });
            return Removed::Receiver(kept);
        }
        rare.groups.remove(group_at);
        shrink_lean(&mut rare.groups);
        self.drop_empty();
        Removed::Group(kept)
    }

    /// Takes away the members on a host that `keep` does not want; answers how many members and how
    /// many groups went.
    pub(crate) fn retain_members(
        &mut self,
        host: HostNumber,
        keep: &mut dyn FnMut(HostRoute<'_>) -> bool,
    ) -> (usize, usize) {
        let Some(rare) = &mut self.rare else { return (0, 0) };
        let groups = rare.groups.len();
        let mut members = 0;
        rare.groups.retain_mut(|group| {
            let mut stays = |member: &Member| {
                member.host() != Some(host) || keep(HostRoute::Member { group, id: member.id })
            };
            let staying: Vec<bool> = group.members.iter().map(&mut stays).collect();
            let left = staying.iter().filter(|stays| **stays).count();
            members += staying.len() - left;
            if left > 0 && left < staying.len() {
                let mut staying = staying.iter();
                change_members(group, |all| all.retain(|_| staying.next() == Some(&true)));
            }
            left > 0
        });
        let gone = groups - rare.groups.len();
        shrink_lean(&mut rare.groups);
        self.drop_empty();
        (members, gone)
    }

    /// Panics unless the invariants of the file's head hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self, places: Places) {
        let Some(rare) = &self.rare else { return };
        assert!(!(rare.inboxes.is_empty() && rare.groups.is_empty()), "the box holds something");
        assert!(rare.inboxes.is_sorted_by(|a, b| a.inbox < b.inbox), "inboxes rise");
        assert!(
            rare.groups.is_sorted_by(|a, b| (&a.name, a.is_ordered) < (&b.name, b.is_ordered)),
            "groups rise"
        );
        for group in &rare.groups {
            assert!(!group.members.is_empty(), "group {} has members", group.name);
            assert!(
                group.members.is_sorted_by(|a, b| places.seat(a) < places.seat(b)),
                "members rise"
            );
        }
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn drop_empty(&mut self) {
        if self.inboxes().is_empty() && self.groups().is_empty() {
            self.rare = None;
        }
    }
}

/// Whether a member made its group.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum IsNewGroup {
    Yes,
    No,
}

fn inbox_position(inboxes: &[InboxRoute], inbox: InboxId) -> Result<usize, usize> {
    inboxes.binary_search_by_key(&inbox, |route| route.inbox)
}

fn group_position(groups: &[Arc<Group>], share: Share<'_>) -> Result<usize, usize> {
    groups.binary_search_by(|group| {
        (&*group.name, group.is_ordered).cmp(&(share.group, share.ordered))
    })
}

/// The route of a member that is a persistent session.
fn stored_route(member: &Member) -> Option<InboxRoute> {
    let MemberTarget::Inbox(inbox) = member.target else { return None };
    let Member { incarnation, options, subscription_id, .. } = *member;
    Some(InboxRoute { inbox, incarnation, options, subscription_id })
}

/// As [`is_replaced`], for a session of its own.
fn is_route_replaced(old: &InboxRoute, new: &InboxRoute) -> bool {
    new.incarnation >= old.incarnation && old != new
}

/// Whether `new` says anything that `old` does not, and is not of an earlier life.
fn is_replaced(old: &Member, new: &Member) -> bool {
    let is_same = old.incarnation == new.incarnation
        && old.target == new.target
        && old.options == new.options
        && old.subscription_id == new.subscription_id
        && Arc::ptr_eq(&old.state, &new.state);
    new.incarnation >= old.incarnation && !is_same
}

/// Changes the members in place while nobody else holds the snapshot, else in a new one.
fn change_members(group: &mut Arc<Group>, change: impl FnOnce(&mut Vec<Member>)) {
    if let Some(group) = Arc::get_mut(group) {
        change(&mut group.members);
        return;
    }
    // One more than there are: usually it is a member that comes.
    let mut members = Vec::with_capacity(group.members.len() + 1);
    members.extend_from_slice(&group.members);
    change(&mut members);
    *group = Arc::new(Group {
        name: Arc::clone(&group.name),
        is_ordered: group.is_ordered,
        route: group.route,
        members,
        cursor: AtomicU32::new(group.cursor.load(Ordering::Relaxed)),
    });
}

/// Inserts; the first element does not reserve for more, because most lists have one.
fn insert_lean<T>(list: &mut Vec<T>, at: usize, element: T) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
    list.insert(at, element);
}

/// Gives memory back once three quarters are unused.
fn shrink_lean<T>(list: &mut Vec<T>) {
    if list.is_empty() {
        drop(mem::take(list));
    } else if list.len() * 4 <= list.capacity() {
        list.shrink_to(list.len() * 2);
    }
}
