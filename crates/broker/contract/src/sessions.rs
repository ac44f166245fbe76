//! How services reach live sessions: what mqtt offers to them.
//!
//! Every call here only leaves a note in the mailbox of the session's shard; it never blocks and
//! never runs the session on the caller's thread. A note for a connection that has ended is
//! dropped by the shard.

use std::sync::Arc;

use ratatosk_codec::SubscriptionOptions;

use crate::{
    ReplyTo, SessionRef, StoredMessage, TenantId, Ticket,
    call::Settlement,
    group::Group,
    inbox::{Answer, DueWill},
};

/// The live sessions of a node.
pub trait Sessions: Send + Sync {
    /// The session's queue has something to fetch again.
    fn inbox_ready(&self, session: SessionRef);

    /// Delivers a message that another member of a shared group gave back: to a transient member
    /// at any QoS, to a persistent one, which has its queue for the others, at QoS 0.
    fn deliver(&self, session: SessionRef, delivery: Delivery);

    /// A pending answer has come.
    fn settle(&self, session: SessionRef, ticket: Ticket, settlement: Settlement);

    /// Of the message that waits under `ticket` for its exchange, members of these groups were chosen when it
    /// was brought before, at another host perhaps, and have it or get it: no transient session is to have it
    /// as a member of them. Comes before the outcome. Whoever withholds nothing need not know. DUR-010
    fn chosen_before(&self, session: SessionRef, ticket: Ticket, groups: Vec<Arc<Group>>) {
        drop((session, ticket, groups));
    }

    /// A call of a session to its inbox, which was pending, has its answer. That of a connection that has
    /// ended is not dropped: its owner gives back what it was given.
    fn answered(&self, reply_to: ReplyTo, answer: Answer);

    /// Publishes a will that is due, and tells the inbox when it was
    /// ([`Inbox::will_sent`](crate::inbox::Inbox::will_sent)).
    fn publish(&self, will: DueWill);
}

/// A message of a shared group for a live member.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Whose message it is.
    pub tenant: TenantId,
    /// Granted options of the member.
    pub options: SubscriptionOptions,
    /// The subscription identifier of the member.
    pub subscription_id: Option<u32>,
    /// The group: who takes the message if this member goes, too.
    pub group: Arc<Group>,
    /// The message.
    pub message: Arc<StoredMessage>,
}
