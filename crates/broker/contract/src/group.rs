//! Shared groups: one of several members takes each message.
//!
//! A [`Group`] is a snapshot of its members, shared by all who hold a resolution; a change of
//! members makes a new one. `$share` spreads evenly over the members that can take more,
//! `$oshare` keeps one publisher at one member while that member lives (rendezvous hashing).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use ratatosk_codec::SubscriptionOptions;
use ratatosk_topic::rendezvous;

use crate::{HostNumber, PublisherId, SessionRef, dist::RouteId, inbox::InboxId};

/// What is known of a member by all who choose.
#[derive(Debug, Default)]
pub struct MemberState {
    /// Something waits because its client does not read or confirm: choose another if there is
    /// one. Written by the shard that serves the member.
    pub congested: AtomicBool,
    /// Its queue takes no further message of QoS 1 or 2. Written by whoever has the queue: the shard
    /// of a transient session, the inbox of a persistent one.
    pub full: AtomicBool,
    /// A persistent session without a connection. Written by the inbox.
    pub offline: AtomicBool,
}

impl MemberState {
    /// Sets one of the flags. What others read all the time is written only if it changes.
    #[inline]
    pub fn note(flag: &AtomicBool, is_set: bool) {
        if flag.load(Ordering::Relaxed) != is_set {
            flag.store(is_set, Ordering::Relaxed);
        }
    }
}

/// Where a member's messages go.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MemberTarget {
    /// A transient session.
    Session(SessionRef),
    /// A persistent session, online or not.
    Inbox(InboxId),
    /// A transient session of another host.
    Host(HostNumber),
}

/// A member of a shared group.
#[derive(Clone, Debug)]
pub struct Member {
    /// The member's session identity as a number, the same on every host.
    pub id: u64,
    /// Which life of the session joined; a later one wins. Lives are numbered by the nanoseconds
    /// of the monotonic clock at their start (or one more than the last, where two coincide), so
    /// that those of transient and persistent sessions of one identity compare.
    pub incarnation: u64,
    /// Where its messages go.
    pub target: MemberTarget,
    /// Granted options.
    pub options: SubscriptionOptions,
    /// The subscription identifier, if the client gave one.
    pub subscription_id: Option<u32>,
    /// Shared with the shard that owns the member.
    pub state: Arc<MemberState>,
}

/// How willingly a member is chosen, the most willingly first.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Can take more at once.
    Ready,
    /// Can take more later.
    Congested,
    /// Keeps it until its client comes.
    Away,
    /// Takes no more; its client is there.
    Full,
    /// Takes no more, and its client is away.
    FullAway,
}

impl Member {
    /// The host that it lives on; `None`: this one, or none in particular.
    pub fn host(&self) -> Option<HostNumber> {
        match self.target {
            MemberTarget::Host(host) => Some(host),
            MemberTarget::Session(_) | MemberTarget::Inbox(_) => None,
        }
    }

    fn rank(&self) -> Rank {
        match (self.is_full(), self.is_online()) {
            (false, true) if self.state.congested.load(Ordering::Relaxed) => Rank::Congested,
            (false, true) => Rank::Ready,
            (false, false) => Rank::Away,
            (true, true) => Rank::Full,
            (true, false) => Rank::FullAway,
        }
    }

    fn is_full(&self) -> bool {
        self.state.full.load(Ordering::Relaxed)
    }

    /// Whether its messages reach a client now.
    pub fn is_online(&self) -> bool {
        !self.state.offline.load(Ordering::Relaxed)
    }
}

/// A shared group of one filter.
#[derive(Debug)]
pub struct Group {
    /// The group's name.
    pub name: Arc<str>,
    /// `$oshare`: one publisher stays at one member.
    pub is_ordered: bool,
    /// The filter's route.
    pub route: RouteId,
    /// The members; never empty. Where several hosts say that a session of one identity is theirs,
    /// it is here once for each.
    pub members: Vec<Member>,
    /// Where the next round-robin choice begins.
    pub cursor: AtomicU32,
}

impl Group {
    /// Chooses the member that takes a message of `publisher`; `without` is passed over (a member
    /// that just left or gave a message back). `None` if nobody else is there.
    pub fn choose(&self, publisher: PublisherId, without: Option<u64>) -> Option<&Member> {
        if self.is_ordered {
            return self.choose_ordered(publisher, without, |_| true);
        }
        self.choose_even(without).map(|(_, member)| member)
    }

    /// As [`Group::choose`], for a message that `without` had no room for; `None` if nobody else
    /// seems to have any.
    pub fn choose_with_room(
        &self,
        publisher: PublisherId,
        without: Option<u64>,
    ) -> Option<&Member> {
        if self.is_ordered {
            return self.choose_ordered(publisher, without, |member| !member.is_full());
        }
        let (rank, member) = self.choose_even(without)?;
        (rank < Rank::Full).then_some(member)
    }

    /// Round robin over members that can take more; failing that, whoever ranks highest.
    fn choose_even(&self, without: Option<u64>) -> Option<(Rank, &Member)> {
        let count = self.members.len();
        let start = self.cursor.fetch_add(1, Ordering::Relaxed) as usize % count.max(1);
        let (mut best, mut has_online) = (None::<(Rank, &Member)>, false);
        // A group may have thousands of members: look at a bounded number of busy ones.
        const LOOK_MAX: u32 = 64;
        let looks = (0..LOOK_MAX).zip((start..count).chain(0..start));
        for (step, index) in looks {
            let member = &self.members[index];
            if Some(member.id) == without {
                continue;
            }
            let rank = member.rank();
            if rank == Rank::Ready {
                // The next choice begins behind this one, so that whoever stands behind busy
                // members is not chosen twice a round.
                self.cursor.fetch_add(step, Ordering::Relaxed);
                return Some((rank, member));
            }
            has_online |= matches!(rank, Rank::Congested | Rank::Full);
            if best.is_none_or(|(known, _)| rank < known) {
                best = Some((rank, member));
            }
        }
        if !has_online {
            // Where all of a long stretch are away the next choice looks elsewhere.
            self.cursor.fetch_add(LOOK_MAX - 1, Ordering::Relaxed);
        }
        best
    }

    /// Rendezvous over the eligible members online, or over all eligible ones if none is online.
    /// Congestion does not count: order is what this group asked for.
    fn choose_ordered(
        &self,
        publisher: PublisherId,
        without: Option<u64>,
        is_eligible: impl Fn(&Member) -> bool,
    ) -> Option<&Member> {
        let best = |only_online: bool| {
            let eligible = || {
                self.members
                    .iter()
                    .filter(|member| Some(member.id) != without && is_eligible(member))
                    .filter(|member| !only_online || member.is_online())
            };
            let at = rendezvous(publisher.0, eligible().map(|member| member.id))?;
            eligible().nth(at)
        };
        best(true).or_else(|| best(false))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatosk_codec::Qos;

    use super::*;

    fn group(is_ordered: bool, ids: impl IntoIterator<Item = u64>) -> Group {
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        let member = |id| Member {
            id,
            incarnation: 1,
            target: MemberTarget::Inbox(InboxId(id)),
            options,
            subscription_id: None,
            state: Arc::default(),
        };
        Group {
            name: "g".into(),
            is_ordered,
            route: RouteId { index: 0, generation: 0 },
            members: ids.into_iter().map(member).collect(),
            cursor: AtomicU32::new(0),
        }
    }

    fn counts(group: &Group, choices: u64, without: Option<u64>) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for publisher in 0..choices {
            let member = group.choose(PublisherId(publisher), without);
            *counts.entry(member.map_or(u64::MAX, |member| member.id)).or_default() += 1;
        }
        counts
    }

    /// DIST-011: each member takes its share, to the message.
    #[test]
    fn unordered_choice_is_spread_evenly() {
        let counts = counts(&group(false, 0..7), 7_000, None);
        assert_eq!(counts, (0..7).map(|id| (id, 1_000)).collect());
    }

    /// DIST-011: and so are those who can take more while others cannot.
    #[test]
    fn unordered_choice_is_spread_evenly_over_members_that_can_take_more() {
        let group = group(false, 0..7);
        group.members[1].state.congested.store(true, Ordering::Relaxed);
        group.members[2].state.offline.store(true, Ordering::Relaxed);
        group.members[5].state.offline.store(true, Ordering::Relaxed);
        assert_eq!(counts(&group, 4_000, None), [0, 3, 4, 6].map(|id| (id, 1_000)).into());
        assert_eq!(counts(&group, 3_000, Some(0)), [3, 4, 6].map(|id| (id, 1_000)).into());
    }

    #[test]
    fn the_congested_are_chosen_before_the_absent_and_these_before_nobody() {
        for is_ordered in [false, true] {
            let group = group(is_ordered, 0..2);
            group.members[0].state.congested.store(true, Ordering::Relaxed);
            group.members[1].state.offline.store(true, Ordering::Relaxed);
            assert_eq!(counts(&group, 10, None), [(0, 10)].into());
            assert_eq!(counts(&group, 10, Some(0)), [(1, 10)].into());
        }
        assert!(group(false, [3]).choose(PublisherId(0), Some(3)).is_none());
        assert!(group(true, [3]).choose(PublisherId(0), Some(3)).is_none());
    }

    #[test]
    fn the_full_are_chosen_last_and_get_nothing_that_another_had_no_room_for() {
        for is_ordered in [false, true] {
            let group = group(is_ordered, 0..4);
            let set = |id: usize, flag: fn(&MemberState) -> &AtomicBool| {
                flag(&group.members[id].state).store(true, Ordering::Relaxed);
            };
            set(0, |state| &state.full);
            set(1, |state| &state.full);
            set(2, |state| &state.congested);
            set(3, |state| &state.offline);
            let with_room = |without: u64| {
                let choose =
                    |publisher| group.choose_with_room(PublisherId(publisher), Some(without));
                (0..20).map(|publisher| choose(publisher).map(|it| it.id)).collect::<Vec<_>>()
            };
            if !is_ordered {
                assert_eq!(counts(&group, 10, None), [(2, 10)].into());
                assert_eq!(counts(&group, 10, Some(2)), [(3, 10)].into());
            }
            assert_eq!(with_room(0), [Some(2); 20]);
            assert_eq!(with_room(2), [Some(3); 20]);
            set(3, |state| &state.full);
            assert_eq!(with_room(0), [Some(2); 20]);
            assert_eq!(with_room(2), [None; 20], "nobody has room");
            assert!(group.choose(PublisherId(0), Some(2)).is_some(), "better full than nobody");
        }
    }

    #[test]
    fn the_one_who_is_online_among_thousands_is_found_in_a_few_choices() {
        let group = group(false, 0..5_000);
        for member in &group.members[..4_999] {
            member.state.offline.store(true, Ordering::Relaxed);
        }
        let counts = counts(&group, 5_000, None);
        assert!(counts[&4_999] > 2_500 / 64, "{}", counts[&4_999]);
    }

    /// DIST-012: whoever's member is still there stays with it.
    #[test]
    fn ordered_choice_moves_only_publishers_of_the_member_that_left() {
        let (all, rest) = (group(true, 0..9), group(true, (0..9).filter(|id| *id != 4)));
        let mut moved = 0;
        for publisher in (0..9_000).map(PublisherId) {
            let (before, after) = (all.choose(publisher, None), rest.choose(publisher, None));
            let (before, after) = (before.unwrap().id, after.unwrap().id);
            assert!(before == after || before == 4, "{publisher:?} moved from {before}");
            // To pass over a member, or to find it absent, is the same as its having left.
            assert_eq!(all.choose(publisher, Some(4)).unwrap().id, after);
            moved += u64::from(before == 4);
        }
        assert!((700..1_300).contains(&moved), "{moved} of 9000");
    }
}
