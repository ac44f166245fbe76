//! The routes of one tenant where all nodes have those of persistent sessions.
//!
//! The table has what was applied here. In it the incarnation of a persistent session's route is the number of
//! its inbox, which rises from life to life on whatever node; a member that is persistent has a place
//! of its own beside a transient one of its identity. What is asked for is submitted, whatever the table
//! has, since another node's replica may not have it; so it may be asked for twice.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use ratatosk_contract::dist::{
    AddError, Receiver, Restored, RouteEpoch, RouteId, RouteTold, StoredKey, StoredRoute,
    TenantRoutes,
};
use ratatosk_contract::{Call, group::MemberState, inbox::InboxId};
use ratatosk_engine::KeyRange;
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::effect::{Draft, Effect, Name};
use crate::entry::Removed;
use crate::journal::COMMAND_BYTES;
use crate::replicas::Replication;
use crate::schema::{self, Kept};
use crate::table::Changed;
use crate::tenant::{Tenant, receiver_of};

/// How many routes go under one lock: at most two microseconds each.
const RELEASED: usize = 128;
/// How often the epoch is compared before it is taken for one that changes all the time.
const EPOCH_LOOKS: usize = 16;
/// How many states there are at least before a look for those that nobody has any more.
const STATES_MIN: usize = 64;

/// What is known of persistent members, by who serves them here. Others are taken for those that are there
/// and have room.
#[derive(Debug, Default)]
pub(crate) struct MemberStates(Mutex<States>);

#[derive(Debug, Default)]
struct States {
    by_inbox: HashMap<InboxId, Weak<MemberState>, RandomState>,
    /// How many there may be before the next look for unused ones.
    look_at: usize,
    /// Of all others.
    unknown: Arc<MemberState>,
}

impl MemberStates {
    /// Whether nobody is served here that may be a member.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().by_inbox.values().all(|state| state.strong_count() == 0)
    }

    fn note(&self, inbox: InboxId, state: &Arc<MemberState>) {
        let mut states = self.0.lock();
        if states.by_inbox.len() >= states.look_at.max(STATES_MIN) {
            states.by_inbox.retain(|_, state| state.strong_count() > 0);
            states.look_at = states.by_inbox.len() * 2;
        }
        states.by_inbox.insert(inbox, Arc::downgrade(state));
    }

    fn of(&self, inbox: InboxId) -> Arc<MemberState> {
        let states = self.0.lock();
        let known = states.by_inbox.get(&inbox).and_then(Weak::upgrade);
        known.unwrap_or_else(|| Arc::clone(&states.unknown))
    }
}

impl Tenant {
    /// An effect was applied.
    pub(crate) fn follow(&self, effect: &Effect<'_>) {
        match *effect {
            Effect::Added { filter, member, kept } => self.put(&filter, member, kept),
            Effect::Removed(Name { filter, member, inbox }) => {
                self.change(|table| table.remove_stored(&filter, inbox, member));
            }
        }
    }

    /// The data has this route.
    pub(crate) fn put(&self, filter: &TopicFilter<'_>, member: Option<u64>, kept: Kept) {
        let receiver = self.receiver(member, kept);
        let added = self.change(|table| table.add(filter, receiver));
        debug_assert!(added.is_ok(), "a stored route needs no room: {added:?}");
    }

    /// As the table has it.
    fn receiver(&self, member: Option<u64>, kept: Kept) -> Receiver {
        receiver_of(member, kept, kept.inbox.0, self.states().of(kept.inbox))
    }

    /// Takes the stored routes away whose keys are in some intervals, little by little.
    pub(crate) fn release(&self, intervals: &[KeyRange]) {
        let keys = self.keys();
        if intervals.iter().all(|interval| interval.intersection(&keys).is_empty()) {
            return;
        }
        let (mut found, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            found.clear();
            next = self.read().stored(from, &mut found);
            let parsed = found.iter().filter_map(|held| Some((parse(&held.filter)?, held)));
            let gone: Vec<_> = parsed
                .filter(|(filter, held)| {
                    let key = schema::key(self.id().as_str(), *filter, number_of(held));
                    intervals.iter().any(|interval| interval.contains(&key))
                })
                .collect();
            for page in gone.chunks(RELEASED) {
                self.change(|table| {
                    let mut is_changed = false;
                    for (filter, held) in page {
                        let removed = table.remove_stored(filter, held.route.inbox, held.member);
                        is_changed |= removed.0 != Removed::Nothing;
                    }
                    ((), Changed::when(is_changed))
                });
            }
        }
    }

    /// The keys of all its routes.
    pub(crate) fn keys(&self) -> KeyRange {
        schema::keys_of(self.id().as_str())
    }

    /// See [`TenantRoutes::may_answer`]. The table has not changed while the replicas were asked: so what it
    /// has at this epoch is what they have answered for, whatever it loses later.
    pub(crate) fn epoch_of(&self, replication: &Replication) -> Option<RouteEpoch> {
        let keys = self.keys();
        for _ in 0..EPOCH_LOOKS {
            let epoch = self.epoch();
            if !replication.serving.may_answer(&keys) {
                return None;
            }
            if self.epoch() == epoch {
                return Some(epoch);
            }
        }
        None
    }

    /// See [`TenantRoutes::add_stored`].
    pub(crate) fn ask_to_add(
        &self,
        replication: &Replication,
        filter: &TopicFilter<'_>,
        receiver: &Receiver,
        (member, kept): (Option<u64>, Kept),
        told: RouteTold,
    ) -> Call<Result<RouteId, AddError>> {
        let busy = Call::Ready(Err(AddError::Busy));
        let Some(keyspace) = replication.keyspace().filter(|_| !self.is_unfit()) else {
            return busy;
        };
        if let Receiver::Member { members_max, .. } = receiver
            && !self.read().has_room(filter, receiver)
        {
            return Call::Ready(Err(AddError::GroupFull { members_max: *members_max }));
        }
        // Who asks for what he has is not refused. MQTT-077, DUR-006
        let is_known = self.learn(filter, receiver, (member, kept));
        if !is_known && keyspace.check().is_err() {
            return busy;
        }
        replication.submit(vec![self.draft_of(filter, member, kept)], told);
        Call::Pending
    }

    /// See [`TenantRoutes::remove_stored`].
    pub(crate) fn ask_to_remove(
        &self,
        replication: &Replication,
        routes: &[(TopicFilter<'_>, StoredKey)],
        told: RouteTold,
    ) -> Call<usize> {
        if routes.is_empty() || self.is_unfit() {
            return Call::Ready(0);
        }
        let (mut drafts, mut last) = (Vec::new(), Draft::of(self.id().as_str()));
        for (filter, StoredKey { inbox, member, .. }) in routes {
            let (filter, inbox, member) = (*filter, *inbox, *member);
            debug_assert_eq!(filter.share().is_some(), member.is_some());
            last.push(&Effect::Removed(Name { filter, member, inbox }));
            if last.len() >= COMMAND_BYTES {
                drafts.push(std::mem::replace(&mut last, Draft::of(self.id().as_str())));
            }
        }
        if !last.is_empty() {
            drafts.push(last);
        }
        match replication.submit(drafts, told) {
            true => Call::Pending,
            false => Call::Ready(0),
        }
    }

    /// See [`TenantRoutes::restore`].
    pub(crate) fn repair(
        &self,
        replication: &Replication,
        filter: &TopicFilter<'_>,
        receiver: &Receiver,
        (member, kept): (Option<u64>, Kept),
    ) -> Restored {
        if self.is_unfit() || self.learn(filter, receiver, (member, kept)) {
            return Restored::Known;
        }
        replication.submit(vec![self.draft_of(filter, member, kept)], Box::new(drop));
        Restored::Repaired
    }

    /// Takes note of a member's state, and says whether the table has the route just so.
    fn learn(
        &self,
        filter: &TopicFilter<'_>,
        receiver: &Receiver,
        (member, kept): (Option<u64>, Kept),
    ) -> bool {
        if let Receiver::Member { member, .. } = receiver {
            self.states().note(kept.inbox, &member.state);
        }
        let held = self.read().kept(filter, member, kept.inbox);
        let is_known = held == Some(kept);
        if is_known && member.is_some() {
            // The same, with the state.
            self.put(filter, member, kept);
        }
        is_known
    }

    fn draft_of(&self, filter: &TopicFilter<'_>, member: Option<u64>, kept: Kept) -> Draft<'_> {
        let mut draft = Draft::of(self.id().as_str());
        draft.push(&Effect::Added { filter: *filter, member, kept });
        draft
    }
}

fn parse(text: &str) -> Option<TopicFilter<'_>> {
    TopicFilter::parse(text, &TopicLimits::PROTOCOL).ok()
}

/// The receiver in the key.
fn number_of(held: &StoredRoute) -> u64 {
    held.member.unwrap_or(held.route.inbox.0)
}
