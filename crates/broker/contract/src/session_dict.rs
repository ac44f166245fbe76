//! Who holds which live session: what session-dict offers.
//!
//! Every live session, transient or persistent, is registered once under its identity; the newest
//! registration wins, and the one before it is named so that it can be ended. DICT-001

use std::sync::Arc;

use crate::{SessionIdentity, SessionRef, TenantId};

/// The session directory of a node.
pub trait SessionDict: Send + Sync {
    /// Registers `owner`; returns whom it replaces. The identity is shared with the owner for as long
    /// as it is registered.
    fn register(&self, identity: &Arc<SessionIdentity>, owner: SessionRef) -> Option<SessionRef>;

    /// Takes the registration back, if `owner` still holds it.
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
