//! Persistent sessions: what inbox offers.
//!
//! The inbox holds what a session owns beyond its connection: subscriptions, the queue, packet
//! identifiers of QoS 2, expiry and will. A connection *attaches*, which raises the session's
//! version: whatever an older owner still asks is refused, so two owners never both act.
//!
//! The queue is read by a cursor: [`Inbox::fetch`] hands out what follows a sequence number, and
//! [`Inbox::commit`] removes what the client confirmed. Packet identifiers follow from sequence
//! numbers, so they are the same after a reconnect. [MQTT-4.4.0-1]
//!
//! What changes a session holds at once and is durable later: such calls answer with [`Promised`].
//! They settle with [`Settlement::Done`], or [`Settlement::Unknown`] if the node stops first.
//!
//! A session may be served by another host. What has to be known from there is [`Call::Pending`], and
//! is answered once, later, by [`Sessions::answered`](crate::sessions::Sessions::answered); what is
//! answered so is durable already. A call that nobody can answer any more is answered by
//! [`NotServed`], within a bound that the inbox keeps; callers have one of their own all the same.

use std::{sync::Arc, time::Duration};

use ratatosk_clock::Instant;
use ratatosk_codec::{PacketId, Qos, SubscriptionOptions};

use crate::{
    Call, Message, ReplyTo, SessionIdentity, SessionRef, StoredMessage, TenantId,
    call::{Promised, Settlement},
    dist::{InboxRoute, RouteId},
    group::{Group, MemberState},
};

/// Names a persistent session on this node. Never reused, by a later process neither.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxId(pub u64);

/// Names the will of a client, from its CONNECT until it was published or withdrawn. Never reused.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WillId(pub u64);

/// The place of a QoS 1 or 2 message in a session's queue; the first is 1.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The packet identifier under which the message is sent: 1 to 65,535, over and over.
    pub fn packet_id(self) -> PacketId {
        debug_assert!(self.0 > 0, "sequences begin at 1");
        let turn = self.0.wrapping_sub(1) % 65_535;
        u16::try_from(turn + 1).ok().and_then(PacketId::new).unwrap_or(PacketId::FIRST)
    }
}

/// An owner's claim: the session and the version that it attached with.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The session.
    pub inbox: InboxId,
    /// Raised by each attach; an older one is refused.
    pub version: u64,
}

/// The inbox service of a node.
pub trait Inbox: Send + Sync {
    /// Finds the session or makes it, and makes `attach.owner` its one owner.
    ///
    /// Pending: [`Answer::Attached`] follows. Whoever is answered when its connection has ended
    /// [detaches](Inbox::detach).
    fn attach(
        &self,
        attach: &Attach<'_>,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<Attached>, NotServed>>;

    /// Ends the ownership; the session lives on for its expiry, or ends now if that is zero.
    /// INBOX-003
    ///
    /// Messages of shared groups that were not sent, or sent at QoS 1 and not acknowledged, go to
    /// another member that is online, if there is one; when the session ends, to any other. QoS 2
    /// in flight stays. What nobody is there for waits, and is taken over by whoever
    /// [fetches](Inbox::fetch). MQTT-087, [MQTT-4.8.2-4], [MQTT-4.8.2-5]
    fn detach(
        &self,
        claim: Claim,
        detach: Detach,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim>;

    /// Ends the session because its client starts clean: deletes its queue, its routes, and a will
    /// that is not due yet. MQTT-040, [MQTT-3.1.2-4], [MQTT-3.1.2-8]
    ///
    /// Pending: [`Answer::Discarded`] follows.
    fn discard(
        &self,
        identity: &SessionIdentity,
        now: Instant,
        reply_to: Option<ReplyTo>,
    ) -> Call<Result<Promised<bool>, NotServed>>;

    /// Records a subscription and adds its route. The same filter replaces its options. MQTT-078
    ///
    /// Pending: [`Answer::Subscribed`] follows. Calls of one session take effect in their order.
    fn subscribe(
        &self,
        claim: Claim,
        subscription: &Subscription,
        reply_to: Option<ReplyTo>,
    ) -> Call<Promised<SubscribeOutcome>>;

    /// Forgets a subscription and removes its route; answers false if there was none.
    fn unsubscribe(
        &self,
        claim: Claim,
        filter: &str,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<bool>, StaleClaim>;

    /// Queues `message` for the sessions of `targets`. QoS 0 is handed back in `direct` for the
    /// owners that are online, and queued for the others only if their tenant asks for it. A
    /// member of a group whose session is gone is replaced by another. No-local is honoured here.
    /// [MQTT-3.8.3-3]
    ///
    /// `exchange` is the publisher's, if it is persistent and the message is of QoS 2: that it was
    /// accepted is durable together with what is queued, or neither is. Then whoever sends it again
    /// after a crash is recognised. If the claim is stale nothing is queued, and the answer is
    /// `Unknown`: the connection is no longer the one to answer. DUR-010
    ///
    /// Pending: durable later; `reply_to` is told. Without it nobody asks, and what is refused later
    /// is counted here. `Busy` and `QuotaExceeded` mean that nothing was queued for anybody: whoever
    /// brings the message again makes no duplicate.
    fn append(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        exchange: Option<(Claim, PacketId)>,
        reply_to: Option<ReplyTo>,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement>;

    /// Hands out entries that follow `after`, oldest first, at most `messages_max` and about
    /// `bytes_max`. Once nothing is left, the owner is told by
    /// [`Sessions::inbox_ready`](crate::sessions::Sessions::inbox_ready) when more is there; after
    /// a fetch that used up its budget it asks again by itself. What expired before it was handed
    /// out for the first time is dropped. What is not durable yet is not handed out. [MQTT-3.3.2-5]
    ///
    /// What is handed out lies within 65,535 sequences of the oldest that is not committed, so
    /// that packet identifiers in flight are unique. [MQTT-2.2.1-3]
    ///
    /// If nothing is left and the budget is not used up, the session takes over what waits for
    /// members of its shared groups that are away, and is told once it may have it. Of an ordered
    /// group these are all messages of publishers whose member it is. MQTT-087, DIST-011, DIST-012
    fn fetch(
        &self,
        claim: Claim,
        after: Sequence,
        budget: FetchBudget,
        entries: &mut Vec<Entry>,
    ) -> Result<(), StaleClaim>;

    /// The client has taken over the message of `sequence`: it is never delivered again. DUR-003
    fn commit(&self, claim: Claim, sequence: Sequence) -> Result<(), StaleClaim>;

    /// A PUBREC for `sequence` came: from now on only its PUBREL is sent. MQTT-092
    fn received(
        &self,
        claim: Claim,
        sequence: Sequence,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim>;

    /// Records that the QoS 2 message of `packet_id` from this client was accepted, or
    /// (`is_released`) that its PUBREL came. MQTT-046
    fn inbound(
        &self,
        claim: Claim,
        packet_id: PacketId,
        is_released: bool,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<()>, StaleClaim>;

    /// Keeps the will of a transient session, so that it is published if the node dies: then it is
    /// due `delay_s` after the node is back. Its deadline counts from when it is due.
    fn keep_will(
        &self,
        identity: &SessionIdentity,
        owner: SessionRef,
        message: &Arc<StoredMessage>,
        delay_s: u32,
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<WillId>, NotServed>;

    /// Forgets a will that is not to be published, or was by the shard of its connection.
    fn withdraw_will(&self, will: WillId);

    /// A will that [`Inbox::expire`] handed out was published, and what came of it is durable: it is
    /// forgotten. If the node dies before, it is published again.
    fn will_sent(&self, will: WillId);

    /// Removes sessions whose time is over and takes the wills that are due, at most `due_max`
    /// of each. To be called about once a second. Each will is handed out once, and is to be
    /// confirmed by [`Inbox::will_sent`]. INBOX-010, INBOX-011
    fn expire(&self, now: Instant, due_max: usize, wills: &mut Vec<DueWill>);

    /// Orders that the sessions of a tenant end that have had no connection for `away_min`, as if their
    /// time were over; answers how many there are now. They go with the next calls of
    /// [`Inbox::expire`], a bounded number with each. A client that returns before its turn keeps its
    /// session. The order itself ends with the process; each end is durable. INBOX-016
    fn expire_inactive(
        &self,
        tenant: &TenantId,
        away_min: Duration,
        now: Instant,
    ) -> Result<usize, TooManyOrders>;

    /// How many sessions there are, attached or not.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A newer owner holds the session; nothing was changed. INBOX-002
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session was taken over by a newer owner")]
pub struct StaleClaim;

/// Nobody that could be reached serves the session's partition now: try again later. What was asked for
/// may have been done all the same if the call was on its way to another host.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody that can be reached serves the session")]
pub struct NotServed;

/// The answer to a call that was pending. It is durable.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Inbox::attach`].
    Attached(Result<Box<Attached>, NotServed>),
    /// To [`Inbox::discard`]: whether there was a session.
    Discarded(Result<bool, NotServed>),
    /// To [`Inbox::subscribe`]; [`SubscribeOutcome::Busy`] if nobody answered.
    Subscribed(SubscribeOutcome),
}

/// The orders of so many tenants are under way that no more are taken; nothing was ordered.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("orders of too many tenants are under way: try again later")]
pub struct TooManyOrders;

/// A wish to own a session.
#[derive(Clone, Debug)]
pub struct Attach<'a> {
    /// Which session.
    pub identity: &'a SessionIdentity,
    /// Who wants it.
    pub owner: SessionRef,
    /// Discard what is there.
    pub is_clean: bool,
    /// Keep or make it for this long after its connection ended; `None` or `u32::MAX`: for ever.
    pub expiry_s: Option<u32>,
    /// The queue's limits and what is done at them.
    pub limits: QueueLimits,
    /// The will with its delay in seconds: published if the node dies with the connection. Its
    /// deadline counts from when it is due. Every other end is told by [`Inbox::detach`].
    pub will: Option<(Arc<StoredMessage>, u32)>,
    /// Now.
    pub now: Instant,
}

/// The limits of a session's queue.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages of each kind (QoS 0; QoS 1 and 2).
    pub messages_max: u32,
    /// Filters that the session may hold.
    pub filters_max: u32,
    /// Members that a shared group may have for the session to join. MQTT-086
    pub members_max: u32,
    /// Drop the oldest QoS 0 message instead of the newest. TEN-020
    pub qos0_drop_oldest: bool,
    /// Queue QoS 0 while there is no connection. TEN-020
    pub qos0_when_offline: bool,
}

/// The owner's view of the session it attached to.
#[derive(Clone, Debug)]
pub struct Attached {
    /// To be shown with every later call.
    pub claim: Claim,
    /// Which life of the session this is: its routes carry it. A session that is resumed is in the
    /// life that it was made in.
    pub incarnation: u64,
    /// Stored state was resumed. MQTT-031
    pub is_present: bool,
    /// The state shared with those who choose among the members of a group.
    pub member: Arc<MemberState>,
    /// The subscriptions that the session has.
    pub subscriptions: Vec<Subscription>,
    /// Ids of QoS 2 messages that were accepted and not yet released.
    pub inbound: Vec<PacketId>,
    /// The last sequence that may have been handed to the client before: what follows up to it is a
    /// resend. MQTT-044
    pub sent: Sequence,
}

/// One subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The filter as the client wrote it, with its share prefix.
    pub filter: Box<str>,
    /// Granted options.
    pub options: SubscriptionOptions,
    /// The subscription identifier, if the client gave one.
    pub subscription_id: Option<u32>,
}

/// What became of a subscription.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SubscribeOutcome {
    /// It is effective.
    Done {
        /// The filter's route; `None` if it is added elsewhere, or later.
        route: Option<RouteId>,
        /// It replaced one of the same filter.
        existed: bool,
    },
    /// The session has as many filters as it may. MQTT-076
    TooManyFilters,
    /// The shared group is full. MQTT-086
    GroupFull,
    /// Try later. MQTT-077
    Busy,
    /// A newer owner holds the session.
    Stale,
}

/// How an ownership ends.
#[derive(Clone, Debug)]
pub struct Detach {
    /// The session's expiry from now on, if the client changed it; zero ends it now, `u32::MAX`
    /// keeps it for ever.
    pub expiry_s: Option<u32>,
    /// The will to be published later, with its delay in seconds. MQTT-049
    pub will: Option<(Arc<StoredMessage>, u32)>,
    /// Now.
    pub now: Instant,
}

/// A will whose time has come.
#[derive(Clone, Debug)]
pub struct DueWill {
    /// Its name, for [`Inbox::will_sent`].
    pub id: WillId,
    /// Whose will it is.
    pub identity: SessionIdentity,
    /// The message.
    pub message: Arc<StoredMessage>,
}

/// Who is to have a message.
#[derive(Copy, Clone, Debug)]
pub struct Targets<'a> {
    /// Whose sessions they are.
    pub tenant: &'a TenantId,
    /// Subscriptions of sessions.
    pub routes: &'a [InboxRoute],
    /// The members that were chosen of shared groups.
    pub shared: &'a [SharedRoute],
}

/// A member of a shared group, chosen for one message.
#[derive(Clone, Debug)]
pub struct SharedRoute {
    /// The member's session.
    pub route: InboxRoute,
    /// The group: who takes the message if the member goes.
    pub group: Arc<Group>,
}

/// A QoS 0 message for a session that is online: straight to its connection.
#[derive(Copy, Clone, Debug)]
pub struct DirectDelivery {
    /// The owner.
    pub owner: SessionRef,
    /// Granted options of the subscription that matched.
    pub options: SubscriptionOptions,
    /// Its identifier.
    pub subscription_id: Option<u32>,
}

/// How much a fetch may hand out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FetchBudget {
    /// Now.
    pub now: Instant,
    /// Messages.
    pub messages_max: usize,
    /// Bytes; one message is handed out even if it is larger.
    pub bytes_max: usize,
}

/// A queued message.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place. QoS 0 entries, which are forgotten once handed out, have the place of the
    /// QoS 1 or 2 entry before them.
    pub sequence: Sequence,
    /// At which quality of service it is delivered.
    pub qos: Qos,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Its PUBREC came: only the PUBREL is owed. MQTT-045
    pub is_received: bool,
    /// The subscription identifier to send.
    pub subscription_id: Option<u32>,
    /// The message.
    pub message: Arc<StoredMessage>,
}
