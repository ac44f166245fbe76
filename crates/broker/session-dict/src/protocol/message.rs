//! What nodes and servers say to each other. The bytes are in `proto/dict.proto`.

use std::sync::Arc;

use ratatosk_contract::{SessionIdentity, SessionRef};

use crate::protocol::stamp::{Host, Stamp};
use crate::protocol::view::ViewId;

/// What a node asks of a server. What one node asks of one server arrives in order, or the node
/// is told that it may not have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The node holds this session.
    Register {
        /// The view by which the node chose the server.
        view: ViewId,
        /// The session.
        identity: Arc<SessionIdentity>,
        /// The connection, which means something at the node only.
        session: SessionRef,
        /// When it was registered first.
        stamp: Stamp,
        /// A client has just come. Otherwise the node has held the session before.
        is_claim: bool,
    },
    /// A node does not hold this session any more.
    Remove {
        /// The session.
        identity: Arc<SessionIdentity>,
        /// The node; not always the one that asks.
        host: Host,
        /// Only if this is its registration; `None`: whichever.
        stamp: Option<Stamp>,
    },
    /// The node is about to register all that belongs to the server by a view, but for what it has
    /// registered by another one.
    Begin {
        /// By which view.
        view: ViewId,
        /// What the server should have already.
        base: Option<ViewId>,
    },
    /// It has.
    Commit {
        /// By which view.
        view: ViewId,
        /// What [`Reply::Begun`] said.
        round: u64,
    },
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The session is registered.
    Registered {
        /// By this stamp, which is larger than those of the others if a client has just come.
        stamp: Stamp,
        /// Which other nodes hold it.
        others: Vec<Registration>,
        /// Nobody holds it but those. Otherwise every node has to be asked.
        is_complete: bool,
    },
    /// It is not registered any more.
    Removed,
    /// See [`Begun`]; the round is to be told at the end.
    Begun(Begun, u64),
    /// The server has all that the node holds by the view.
    Committed,
    /// The server does not see this node, or has lost sight of it in between. Nothing was done.
    Stranger,
}

/// What a node has to register.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: the server has it all.
    Nothing,
    /// What does not belong to the server by the base.
    Rest,
    /// Everything.
    All,
}

/// A session as a node has registered it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The node.
    pub host: Host,
    /// The connection there.
    pub session: SessionRef,
    /// Since when.
    pub stamp: Stamp,
}

/// What the node of a session asks of another one that may hold it, too: exactly one of the two is
/// to be left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The session.
    pub identity: Arc<SessionIdentity>,
    /// The connection of the node that asks.
    pub session: SessionRef,
    /// Since when it is registered.
    pub stamp: Stamp,
    /// It has just come and was not told that the session is its own. Otherwise it was.
    pub is_claim: bool,
    /// The view of the node that asks.
    pub view: ViewId,
    /// Its server could not be asked, so the session may be unknown there.
    pub is_unsure: bool,
}

/// What the other one answers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does not hold the session: it never did, or what it held has ended.
    Gone {
        /// It did hold it.
        was_held: bool,
    },
    /// It holds the session, and will.
    Stays {
        /// Since when.
        stamp: Stamp,
        /// It was told that the session is its own.
        is_live: bool,
    },
    /// Its session is about to end: ask again.
    Again,
}
