//! One live session, in 40 bytes beside the texts that it shares with its owner.
//!
//! The tenant is not here: the entries of a tenant are in a table under its name.

use std::{cmp::Ordering, sync::Arc};

use ratatosk_contract::{ClientId, SessionIdentity, SessionRef, TenantId};

/// One live session of a tenant.
#[derive(Debug)]
pub(crate) struct Entry {
    client: ClientId,
    /// Boxed, because most tenants do not make users part of the identity.
    user: Option<Box<Arc<str>>>,
    pub(crate) owner: SessionRef,
}

const _: () = assert!(size_of::<Entry>() <= 40, "there is one for each of millions of sessions");

impl Entry {
    pub(crate) fn new(identity: &SessionIdentity, owner: SessionRef) -> Self {
        let user = identity.user.clone().map(Box::new);
        Entry { client: identity.client.clone(), user, owner }
    }

    /// What tells the sessions of a tenant apart.
    pub(crate) fn key(&self) -> Key<'_> {
        Key { client: self.client.as_str(), user: self.user.as_deref().map(|user| &**user) }
    }

    pub(crate) fn identity(&self, tenant: &TenantId) -> SessionIdentity {
        SessionIdentity {
            tenant: tenant.clone(),
            user: self.user.as_deref().cloned(),
            client: self.client.clone(),
        }
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
