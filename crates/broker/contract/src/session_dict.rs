//! Who holds which live session: what session-dict offers to the data plane, and needs of it.
//!
//! Every live session, transient or persistent, is registered once under its identity; the newest
//! registration wins, and the one before it is ended first. DICT-001
//!
//! A directory of one node answers at once, and names the predecessor for the data plane to end. A
//! directory of several nodes may have to ask: it answers later, and has predecessors ended itself,
//! here and elsewhere, by [`Holders`].

use std::sync::Arc;

use crate::{SessionIdentity, SessionRef, TenantId};

/// What became of a registration.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Registered {
    /// Nobody else has the session.
    Alone,
    /// This connection of the same node had it, and is to be ended by who registers.
    Replaces(SessionRef),
    /// [`Holders::grant`] or [`Holders::end`] follows. Until then the session may not be used.
    Pending,
}

/// Why the directory has a connection ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// A newer connection has the session.
    TakenOver,
    /// An operator wants it.
    Kicked,
    /// The directory has more to do than it can.
    Overloaded,
}

/// The session directory as a node has it. What is found and listed here is of this node only.
pub trait SessionDict: Send + Sync {
    /// Registers `owner`. The identity is shared with the owner for as long as it is registered.
    fn register(&self, identity: &Arc<SessionIdentity>, owner: SessionRef) -> Registered;

    /// Takes a registration back: `owner` has ended, with all that it did for the session. Whoever
    /// waits for that goes on. False if it is not known, as one that was replaced may be.
    fn remove(&self, identity: &SessionIdentity, owner: SessionRef) -> bool;

    /// Who holds the session.
    fn find(&self, identity: &SessionIdentity) -> Option<SessionRef>;

    /// Who holds each of the sessions, in their order, appended to `found`. DICT-005
    fn find_many(&self, identities: &[SessionIdentity], found: &mut Vec<Option<SessionRef>>);

    /// The live sessions of a tenant in the order of client ids, of one client id in the order of
    /// users, behind `after` (of which only client id and user count), at most `count_max`. API-014
    fn list(
        &self,
        tenant: &TenantId,
        after: Option<&SessionIdentity>,
        count_max: usize,
    ) -> Vec<(SessionIdentity, SessionRef)>;

    /// How many sessions are live.
    fn len(&self) -> usize;

    /// Whether none is.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The connections of a node, as its directory reaches them. Calls only leave a note; one for a
/// connection that has ended is dropped.
pub trait Holders: Send + Sync {
    /// A connection whose registration was pending has the session alone.
    fn grant(&self, session: SessionRef);

    /// A connection is to end. [`SessionDict::remove`] tells when it has.
    fn end(&self, session: SessionRef, cause: EndCause);
}
