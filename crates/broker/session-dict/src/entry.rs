//! One live session, in 24 bytes beside the identity that it shares with its owner.

use std::{cmp::Ordering, sync::Arc};

use ratatosk_contract::{SessionIdentity, SessionRef};

/// One live session of a tenant.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) identity: Arc<SessionIdentity>,
    pub(crate) owner: SessionRef,
}

const _: () = assert!(size_of::<Entry>() <= 24, "there is one for each of millions of sessions");

impl Entry {
    /// What tells the sessions of a tenant apart.
    pub(crate) fn key(&self) -> Key<'_> {
        Key::of(&self.identity)
    }
}

/// A session within its tenant, in the order of listings.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key<'a> {
    client: &'a str,
    user: Option<&'a str>,
}

impl<'a> Key<'a> {
    pub(crate) fn of(identity: &'a SessionIdentity) -> Self {
        Key { client: identity.client.as_str(), user: identity.user.as_deref() }
    }
}

/// A session of a listing, ordered as listings are.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) identity: SessionIdentity,
    pub(crate) owner: SessionRef,
}

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> Ordering {
        Key::of(&self.identity).cmp(&Key::of(&other.identity))
    }
}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Listed {}
