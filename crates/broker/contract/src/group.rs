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

use crate::{PublisherId, SessionRef, dist::RouteId, inbox::InboxId};

/// What is known of a member by all who choose, written by the shard that owns it.
#[derive(Debug, Default)]
pub struct MemberState {
    /// Its send window is closed: choose another if there is one.
    pub congested: AtomicBool,
    /// A persistent session without a connection.
    pub offline: AtomicBool,
}

/// Where a member's messages go.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum MemberTarget {
    /// A transient session.
    Session(SessionRef),
    /// A persistent session, online or not.
    Inbox(InboxId),
}

/// A member of a shared group.
#[derive(Clone, Debug)]
pub struct Member {
    /// The member's session identity as a number, the same on every host.
    pub id: u64,
    /// Which life of the session joined; a later one wins.
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

impl Member {
    fn is_ready(&self) -> bool {
        !self.state.congested.load(Ordering::Relaxed) && self.is_online()
    }

    fn is_online(&self) -> bool {
        !self.state.offline.load(Ordering::Relaxed)
    }
}

/// A shared group of one filter.
#[derive(Debug)]
pub struct Group {
    /// The group's name.
    pub name: Box<str>,
    /// `$oshare`: one publisher stays at one member.
    pub is_ordered: bool,
    /// The filter's route.
    pub route: RouteId,
    /// The members; never empty.
    pub members: Vec<Member>,
    /// Where the next round-robin choice begins.
    pub cursor: AtomicU32,
}

impl Group {
    /// Chooses the member that takes a message of `publisher`; `without` is passed over (a member
    /// that just left or gave a message back). `None` if nobody else is there.
    pub fn choose(&self, publisher: PublisherId, without: Option<u64>) -> Option<&Member> {
        if self.is_ordered {
            return self.choose_ordered(publisher, without);
        }
        self.choose_even(without)
    }

    /// Round robin over members that can take more; failing that over those online; failing that
    /// over all.
    fn choose_even(&self, without: Option<u64>) -> Option<&Member> {
        let count = self.members.len();
        let start = self.cursor.fetch_add(1, Ordering::Relaxed) as usize % count.max(1);
        let (mut online, mut any) = (None, None);
        // A group may have thousands of members: look at a bounded number of busy ones.
        const LOOK_MAX: usize = 64;
        for step in 0..count.min(LOOK_MAX) {
            let member = &self.members[(start + step) % count];
            if Some(member.id) == without {
                continue;
            }
            if member.is_ready() {
                return Some(member);
            }
            if online.is_none() && member.is_online() {
                online = Some(member);
            }
            any = any.or(Some(member));
        }
        online.or(any)
    }

    /// Rendezvous over the members online, or over all if none is. Congestion does not count:
    /// order is what this group asked for.
    fn choose_ordered(&self, publisher: PublisherId, without: Option<u64>) -> Option<&Member> {
        let best = |only_online: bool| {
            self.members
                .iter()
                .filter(|member| Some(member.id) != without)
                .filter(|member| !only_online || member.is_online())
                .max_by_key(|member| (rendezvous_weight(publisher.0, member.id), member.id))
        };
        best(true).or_else(|| best(false))
    }
}

/// The weight of a member for a publisher: the same on every host.
fn rendezvous_weight(publisher: u64, member: u64) -> u64 {
    let mut mixed = publisher ^ member.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
