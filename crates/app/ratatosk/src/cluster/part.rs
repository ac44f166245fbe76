//! What the store of a node with some roles is to have of each keyspace. Decision 0031.
//!
//! A role is a vote. Whoever has clients, or sessions whose wills are published, matches by routes and reads
//! retained messages without asking anybody, so it has copies of both.

use std::collections::{BTreeMap, BTreeSet};

use super::ZONE;
use crate::configuration::Roles;
use crate::store::Space;

/// The label of stores with the roles of their node.
pub(crate) const ROLES: &str = "roles";

/// The keyspaces whose ranges it may vote for.
pub(super) fn voted(roles: Roles) -> BTreeSet<String> {
    let is_of = |space: &Space| match space {
        Space::Dist => roles.dist,
        Space::Inbox => roles.inbox,
        Space::Retain => roles.retain,
    };
    names(Space::ALL.into_iter().filter(is_of))
}

/// The keyspaces that it reads.
pub(super) fn read(roles: Roles) -> BTreeSet<String> {
    let publishes = roles.mqtt || roles.inbox;
    let of_it: &[Space] = if publishes { &[Space::Dist, Space::Retain] } else { &[] };
    names(of_it.iter().copied())
}

/// What is said of it to people and planners.
pub(super) fn labels(zone: &str, roles: Roles) -> BTreeMap<String, String> {
    let roles = roles.words().join(" ");
    [(ZONE.to_owned(), zone.to_owned()), (ROLES.to_owned(), roles)].into()
}

fn names(spaces: impl Iterator<Item = Space>) -> BTreeSet<String> {
    spaces.map(|space| space.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Roles = Roles {
        mqtt: false,
        dist: false,
        inbox: false,
        retain: false,
        session_dict: false,
        admin: false,
    };

    /// CFG-002: a front end has no votes and reads what it matches by; a store reads what its wills need.
    #[test]
    fn a_role_is_a_vote_and_who_publishes_has_copies() {
        let check = |roles: Roles, votes: &[Space], copies: &[Space], words: &str| {
            assert_eq!(voted(roles), names(votes.iter().copied()), "{words}");
            assert_eq!(read(roles), names(copies.iter().copied()), "{words}");
            assert_eq!(labels("a", roles)[ROLES], words);
        };
        let both = [Space::Dist, Space::Retain];
        check(Roles { mqtt: true, ..NONE }, &[], &both, "mqtt");
        check(Roles { dist: true, admin: true, ..NONE }, &[Space::Dist], &[], "dist admin");
        let store = Roles { inbox: true, retain: true, session_dict: true, ..NONE };
        check(store, &[Space::Inbox, Space::Retain], &both, "inbox retain session-dict");
        check(Roles { admin: true, ..NONE }, &[], &[], "admin");
        let all = Roles { mqtt: true, dist: true, admin: true, ..store };
        check(all, &Space::ALL, &both, "all");
    }
}
