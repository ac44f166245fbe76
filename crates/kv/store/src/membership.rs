//! Who keeps a range, and how that changes.
//!
//! A change goes in steps that are each safe by themselves: voters change through a joint
//! configuration, which the leader leaves once it is applied; learners, which nobody's majority
//! needs, come and go one by one. [`Membership::toward`] plans the next step to a [`Target`], and
//! whoever wants the target asks again until there is none. KV-008
//!
//! Who votes no more becomes a learner first, and goes by a step of its own. Members that have not
//! heard yet that the joint configuration was left need its vote; once the second step is committed,
//! whoever has the longest log of any majority has heard.
//!
//! Every replica has a number of its own in its group, never given twice: a store that was removed
//! and comes back is another replica. It knows nothing of what the former one promised, and nobody
//! takes its word for the former one's. DUR-011

use std::collections::BTreeSet;

use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use ratatosk_engine::wire::{self, Malformed, Parser};

use crate::edition::Edition;

/// What a replica may do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It votes.
    Voter,
    /// It is sent everything, and no majority needs it.
    Learner,
    /// It votes in the configuration to come only.
    Joining,
    /// It votes in the configuration that is left only, and is a learner afterwards.
    Demoting,
}

/// A store's part of a range.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its number in the group.
    pub id: u64,
    /// Where it is.
    pub store: u64,
    /// What it may do.
    pub role: Role,
}

/// The replicas of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// By their numbers; each store has one at most.
    replicas: Vec<Replica>,
    /// The number of the next one. All below were given.
    next: u64,
}

/// Who is to keep a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Stores that vote.
    pub voters: BTreeSet<u64>,
    /// Stores that are sent everything and do not vote.
    pub learners: BTreeSet<u64>,
}

/// A change as the log has it, and what it makes of the membership.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// For the Raft library.
    pub change: ConfChangeV2,
    /// Afterwards.
    pub membership: Membership,
}

/// Why no step can be taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStep {
    /// It is as wanted.
    #[error("the range has these replicas")]
    Reached,
    /// The one before is not over.
    #[error("another change of the replicas is not over yet")]
    Underway,
    /// The target has no voter, or a store twice.
    #[error("a range needs a voter, and no store can be voter and learner")]
    Senseless,
    /// A store that would come does not carry out what the range's commands are.
    #[error("store {store:x} does not support edition {edition} of the range's commands")]
    Unsupported {
        /// The store.
        store: u64,
        /// What is active.
        edition: Edition,
    },
    /// A store that would come has not said what it supports.
    #[error("store {store:x} does not say what it supports")]
    Unheard {
        /// The store.
        store: u64,
    },
}

impl Membership {
    /// One voter.
    #[must_use]
    pub fn alone(store: u64) -> Self {
        Self { replicas: vec![Replica { id: 1, store, role: Role::Voter }], next: 2 }
    }

    /// The replica of a store as the one voter.
    #[must_use]
    pub(crate) fn only(&self, store: u64) -> Self {
        let kept = self.replicas.iter().filter(|replica| replica.store == store);
        let replicas = kept.map(|replica| Replica { role: Role::Voter, ..*replica }).collect();
        Self { replicas, next: self.next }
    }

    /// Whether a store has the one replica, which votes.
    #[must_use]
    pub(crate) fn is_only(&self, store: u64) -> bool {
        matches!(&self.replicas[..], [one] if one.store == store && one.role == Role::Voter)
    }

    /// All, by their numbers.
    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// The replica of a number.
    #[must_use]
    pub fn replica(&self, id: u64) -> Option<Replica> {
        self.replicas.iter().find(|replica| replica.id == id).copied()
    }

    /// The replica of a store.
    #[must_use]
    pub fn of_store(&self, store: u64) -> Option<Replica> {
        self.replicas.iter().find(|replica| replica.store == store).copied()
    }

    /// Whether a number was given to a replica that has been removed since.
    #[must_use]
    pub fn has_removed(&self, id: u64) -> bool {
        id < self.next && self.replica(id).is_none()
    }

    /// Whether there never was a replica but one.
    #[must_use]
    pub fn is_unshared(&self) -> bool {
        self.replicas.len() == 1 && self.next == 2
    }

    /// The same, of a group that has taken in another: what was ever said of shared replicas is so still.
    #[must_use]
    pub(crate) fn with_past_of(self, other: &Self) -> Self {
        Self { next: self.next.max(other.next), ..self }
    }

    /// Whether a change of voters is not over yet.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.replicas.iter().any(|replica| matches!(replica.role, Role::Joining | Role::Demoting))
    }

    /// Who keeps the range once a change that is underway is over.
    #[must_use]
    pub fn target(&self) -> Target {
        let left = self.left();
        let stores = |role| {
            let of_role = left.replicas.iter().filter(move |replica| replica.role == role);
            of_role.map(|replica| replica.store).collect()
        };
        Target { voters: stores(Role::Voter), learners: stores(Role::Learner) }
    }

    /// As the Raft library has it.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        let ids = |roles: &[Role]| -> Vec<u64> {
            let held = self.replicas.iter().filter(|replica| roles.contains(&replica.role));
            held.map(|replica| replica.id).collect()
        };
        let outgoing = match self.is_joint() {
            true => ids(&[Role::Voter, Role::Demoting]),
            false => Vec::new(),
        };
        ConfState {
            voters: ids(&[Role::Voter, Role::Joining]),
            learners: ids(&[Role::Learner]),
            voters_outgoing: outgoing,
            learners_next: ids(&[Role::Demoting]),
            ..ConfState::default()
        }
    }

    /// The next step to the target.
    ///
    /// # Errors
    /// [`NoStep`].
    pub fn toward(&self, target: &Target) -> Result<Step, NoStep> {
        if self.is_joint() {
            return Err(NoStep::Underway);
        }
        if target.voters.is_empty() || !target.voters.is_disjoint(&target.learners) {
            return Err(NoStep::Senseless);
        }
        let now = self.target();
        if now.voters != target.voters {
            return Ok(self.change_voters(target));
        }
        let gone = now.learners.difference(&target.learners).next();
        let come = target.learners.difference(&now.learners).next();
        let mut step = Draft::of(self, ConfChangeTransition::Auto);
        match (gone, come) {
            (Some(store), _) => step.remove(*store),
            (None, Some(store)) => step.add(*store, Role::Learner),
            (None, None) => return Err(NoStep::Reached),
        }
        Ok(step.0)
    }

    /// All voters at once; who votes no more is a learner, to be removed by the next step.
    fn change_voters(&self, target: &Target) -> Step {
        let mut step = Draft::of(self, ConfChangeTransition::Explicit);
        for replica in &self.replicas {
            let is_voter = replica.role == Role::Voter;
            let votes = target.voters.contains(&replica.store);
            match (is_voter, votes) {
                (true, false) => step.turn(*replica, Role::Demoting),
                (false, true) => step.turn(*replica, Role::Joining),
                (true, true) | (false, false) => {}
            }
        }
        for store in &target.voters {
            if self.of_store(*store).is_none() {
                step.add(*store, Role::Joining);
            }
        }
        step.0
    }

    /// What is there when a joint configuration was left; the same, where there is none.
    #[must_use]
    pub fn left(&self) -> Self {
        let after = |replica: &Replica| {
            let role = match replica.role {
                Role::Voter | Role::Joining => Role::Voter,
                Role::Learner | Role::Demoting => Role::Learner,
            };
            Replica { role, ..*replica }
        };
        Self { replicas: self.replicas.iter().map(after).collect(), next: self.next }
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        wire::put_u64(into, self.next);
        wire::put_u64(into, self.replicas.len() as u64);
        for replica in &self.replicas {
            wire::put_u64(into, replica.id);
            wire::put_u64(into, replica.store);
            into.push(match replica.role {
                Role::Voter => 0,
                Role::Learner => 1,
                Role::Joining => 2,
                Role::Demoting => 3,
            });
        }
    }

    pub(crate) fn decode(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        let next = parser.take_u64()?;
        let count = parser.take_u64()?;
        let mut replicas = Vec::new();
        for _ in 0..count {
            let (id, store) = (parser.take_u64()?, parser.take_u64()?);
            let role = match parser.take_u8()? {
                0 => Role::Voter,
                1 => Role::Learner,
                2 => Role::Joining,
                3 => Role::Demoting,
                _ => return Err(Malformed),
            };
            let last = replicas.last().map_or(0, |last: &Replica| last.id);
            let is_known = replicas.iter().any(|held: &Replica| held.store == store);
            if id <= last || id >= next || is_known {
                return Err(Malformed);
            }
            replicas.push(Replica { id, store, role });
        }
        Ok(Self { replicas, next })
    }
}

/// A step as it is made up.
struct Draft(Step);

impl Draft {
    fn of(membership: &Membership, transition: ConfChangeTransition) -> Self {
        let mut change = ConfChangeV2::default();
        change.set_transition(transition);
        Self(Step { change, membership: membership.clone() })
    }

    fn push(&mut self, id: u64, kind: ConfChangeType) {
        let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        self.0.change.mut_changes().push(single);
    }

    fn add(&mut self, store: u64, role: Role) {
        let membership = &mut self.0.membership;
        let id = membership.next;
        membership.next += 1;
        membership.replicas.push(Replica { id, store, role });
        self.push(id, kind_of(role));
    }

    fn turn(&mut self, replica: Replica, role: Role) {
        let mut held = self.0.membership.replicas.iter_mut();
        if let Some(held) = held.find(|held| held.id == replica.id) {
            held.role = role;
        }
        self.push(replica.id, kind_of(role));
    }

    fn remove(&mut self, store: u64) {
        let Some(replica) = self.0.membership.of_store(store) else { return };
        self.0.membership.replicas.retain(|held| held.id != replica.id);
        self.push(replica.id, ConfChangeType::RemoveNode);
    }
}

/// What makes a replica take a role.
fn kind_of(role: Role) -> ConfChangeType {
    match role {
        Role::Voter | Role::Joining => ConfChangeType::AddNode,
        Role::Learner | Role::Demoting => ConfChangeType::AddLearnerNode,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::storage::MemStorage;
    use raft::{Config, RawNode};

    use super::*;

    fn target(voters: &[u64], learners: &[u64]) -> Target {
        let set = |stores: &[u64]| stores.iter().copied().collect();
        Target { voters: set(voters), learners: set(learners) }
    }

    /// The library, with the configuration of a membership.
    fn library(membership: &Membership) -> RawNode<MemStorage> {
        let storage = MemStorage::new_with_conf_state(membership.conf_state());
        let config = Config { id: 1, ..Config::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        RawNode::new(&config, storage, &logger).expect("well formed")
    }

    fn assert_same(one: &ConfState, two: &ConfState) {
        let sorted = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(sorted(&one.voters), sorted(&two.voters));
        assert_eq!(sorted(&one.learners), sorted(&two.learners));
        assert_eq!(sorted(&one.voters_outgoing), sorted(&two.voters_outgoing));
        assert_eq!(sorted(&one.learners_next), sorted(&two.learners_next));
    }

    proptest! {
        /// KV-008: each step is one that the library takes, with what the library makes of it.
        #[test]
        fn every_target_is_reached_by_steps_that_the_library_takes(
            targets in prop::collection::vec(
                (prop::collection::btree_set(1..7_u64, 1..5), prop::collection::btree_set(1..7_u64, 0..4)),
                1..5,
            ),
        ) {
            let mut membership = Membership::alone(1);
            let mut given = 1;
            for (voters, learners) in targets {
                let learners = learners.difference(&voters).copied().collect();
                let target = Target { voters, learners };
                let mut steps = 0;
                while let Ok(step) = membership.toward(&target) {
                    let mut library = library(&membership);
                    let now = library.apply_conf_change(&step.change).expect("it is taken");
                    assert_same(&now, &step.membership.conf_state());
                    membership = step.membership;
                    if membership.is_joint() {
                        prop_assert_eq!(membership.toward(&target), Err(NoStep::Underway));
                        let left = library.apply_conf_change(&ConfChangeV2::default()).expect("joint");
                        membership = membership.left();
                        assert_same(&left, &membership.conf_state());
                    }
                    let ids: Vec<_> = membership.replicas().iter().map(|held| held.id).collect();
                    prop_assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
                    let highest = ids.last().copied().unwrap_or(0);
                    prop_assert!(highest >= given || ids.iter().all(|id| *id <= given));
                    given = given.max(highest);
                    steps += 1;
                    prop_assert!(steps < 12, "it comes to an end");
                }
                prop_assert_eq!(membership.toward(&target), Err(NoStep::Reached));
                prop_assert_eq!(membership.target(), target);
                let mut written = Vec::new();
                membership.encode(&mut written);
                let mut parser = Parser::new(&written);
                prop_assert_eq!(Membership::decode(&mut parser), Ok(membership.clone()));
                prop_assert!(parser.is_at_end());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            let _ = Membership::decode(&mut Parser::new(&data));
        }
    }

    #[test]
    fn who_comes_back_is_another_replica() {
        let first = Membership::alone(1).toward(&target(&[1], &[2])).expect("a step").membership;
        let second = first.toward(&target(&[1], &[])).expect("a step").membership;
        let third = second.toward(&target(&[1], &[2])).expect("a step").membership;
        let ids = |held: &Membership| held.of_store(2).map(|replica| replica.id);
        assert_eq!((ids(&first), ids(&second), ids(&third)), (Some(2), None, Some(3)));
        assert!(!first.has_removed(2) && second.has_removed(2) && third.has_removed(2));
        assert!(!third.has_removed(3) && !third.has_removed(4));
    }

    #[test]
    fn a_target_that_makes_no_sense_is_refused() {
        let membership = Membership::alone(1);
        assert_eq!(membership.toward(&target(&[], &[1])), Err(NoStep::Senseless));
        assert_eq!(membership.toward(&target(&[1, 2], &[2])), Err(NoStep::Senseless));
    }
}
