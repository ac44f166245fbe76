//! How services reach live sessions: what mqtt offers to them.
//!
//! Every call here only leaves a note in the mailbox of the session's shard; it never blocks and
//! never runs the session on the caller's thread. A note for a connection that has ended is
//! dropped by the shard.

use std::sync::Arc;

use crate::{SessionRef, StoredMessage, TenantId, Ticket, call::Settlement};

/// The live sessions of a node.
pub trait Sessions: Send + Sync {
    /// The session's queue has something to fetch again.
    fn inbox_ready(&self, session: SessionRef);

    /// A pending answer has come.
    fn settle(&self, session: SessionRef, ticket: Ticket, settlement: Settlement);

    /// Publishes a message that no live session publishes: a will that is due.
    fn publish(&self, tenant: &TenantId, message: Arc<StoredMessage>);
}
