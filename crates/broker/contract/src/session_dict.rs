//! Who holds which live session: what session-dict offers to the data plane, and needs of it.
//!
//! Every live session, transient or persistent, is registered once under its identity; the newest
//! registration wins, and the one before it is ended first. DICT-001
//!
//! A directory of one node answers at once, and names the predecessor for the data plane to end. A
//! directory of several nodes may have to ask: it answers later, and has predecessors ended itself,
//! here and elsewhere, by [`Holders`]. So it has subscriptions made and ended on behalf of clients.

use std::sync::Arc;

use ratatosk_codec::Qos;

use crate::{SessionIdentity, SessionRef, TenantId, inbox::Subscription};

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

/// What somebody else than the client wants of a session's subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// As if the client had sent SUBSCRIBE. The filter may be none.
    Subscribe(Subscription),
    /// As if it had sent UNSUBSCRIBE with this filter, which may be none.
    Unsubscribe(Box<str>),
}

/// What became of a [`Change`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The subscription is effective, and durable if the session is.
    Granted(Qos),
    /// It was there and is gone, durably if the session is durable.
    Removed,
    /// There was no such subscription to end.
    NotFound,
    /// No connection has the session, or its client is not let in yet. A session that is kept for a client
    /// that is away is not changed.
    NotConnected,
    /// The filter is none, or does not go with the options. Nothing was done.
    Invalid,
    /// The tenant does without shared subscriptions, wildcards or subscription identifiers, whichever
    /// this needs. Nothing was done.
    NotSupported,
    /// The client may not. Nothing was done.
    NotPermitted,
    /// The session has as many filters as it may, or the shared group is full. Nothing was done.
    QuotaExceeded,
    /// It could not be done, or be asked for, now. Nothing was done.
    Busy,
    /// Nobody said in time. It may have been done, or be done yet.
    InDoubt,
}

/// Who is told what became of a [`Change`], once. Dropped, it tells [`Changed::InDoubt`].
pub struct ChangeAnswer(Option<Box<dyn FnOnce(Changed) + Send>>);

impl ChangeAnswer {
    /// `hear` is told; it must neither wait nor panic.
    pub fn new(hear: impl FnOnce(Changed) + Send + 'static) -> Self {
        ChangeAnswer(Some(Box::new(hear)))
    }

    /// Tells.
    pub fn tell(mut self, changed: Changed) {
        self.say(changed);
    }

    fn say(&mut self, changed: Changed) {
        if let Some(hear) = self.0.take() {
            hear(changed);
        }
    }
}

impl Drop for ChangeAnswer {
    fn drop(&mut self) {
        self.say(Changed::InDoubt);
    }
}

impl std::fmt::Debug for ChangeAnswer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ChangeAnswer").finish_non_exhaustive()
    }
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

    /// Somebody wants something of a connection's subscriptions, of which its client is told nothing.
    /// Here nothing is dropped: a connection that has ended is answered for. DICT-002
    fn change(&self, session: SessionRef, change: Change, answer: ChangeAnswer);
}
