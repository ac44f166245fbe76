//! An inbox that serves some of the partitions of a cluster: what is asked of it beside
//! [`Inbox`], by whoever knows which host serves what.

use crate::{
    Call, Message, ReplyTo, SessionRef,
    call::{Promised, Settlement},
    inbox::{Claim, DirectDelivery, Inbox, InboxId, NotServed, StaleClaim, Targets, WillId},
};
use ratatosk_clock::Instant;
use ratatosk_codec::PacketId;

/// Why a session does not go on, or a will.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This inbox does not serve its partition; another one may. Nothing was changed.
    #[error("the partition is not served here")]
    NotServed,
    /// A newer owner has it, or it is gone. Nothing was changed.
    #[error("it has another owner, or is gone")]
    Stale,
}

impl From<NotServed> for Refusal {
    fn from(_: NotServed) -> Self {
        Refusal::NotServed
    }
}

/// Which message of a persistent session it is, of those that go in several commands: so it is queued once in
/// each partition, also if it is brought again. DUR-010
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The session that publishes it.
    pub publisher: InboxId,
    /// Which of its messages it is. Counts up, and is never given twice.
    pub number: u64,
    /// The smallest of its numbers whose message may come again; not above `number`.
    pub low: u64,
}

/// Tells the shared groups of a tenant apart, the same on all hosts: a hash of filter, name and kind.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupMark(pub u64);

/// Whom somebody who begins a message has chosen of a shared group.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The group.
    pub group: GroupMark,
    /// The member.
    pub inbox: InboxId,
    /// The member that was chosen before, and is one no longer.
    pub instead_of: Option<InboxId>,
}

/// The member of a shared group that has a message which was begun, or gets it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The group.
    pub group: GroupMark,
    /// The member.
    pub inbox: InboxId,
    /// The number under which the message goes to it: that of the message, or a later one if the member was
    /// chosen when the message was brought again. Then its partition may have the message for others.
    pub number: u64,
}

/// What is said of a message that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Which message it is.
    pub once: Once,
    /// Whom it goes to of shared groups.
    pub choices: Vec<Choice>,
    /// The number under which it goes to members that were wished for and are none of the choices, for there
    /// may not be more.
    pub others: u64,
}

/// On what terms a part of a message is queued.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// As of [`Inbox::append`].
    pub exchange: Option<(Claim, PacketId)>,
    /// Which message it is, if it was [begun](Serving::begin).
    pub once: Option<Once>,
    /// Who is told.
    pub reply_to: Option<ReplyTo>,
}

/// The inbox of a host, which serves some of the partitions. One that stands alone serves all.
pub trait Serving: Inbox {
    /// The term in which it serves a partition; `None`: it does not, and answers claims on it as stale.
    fn serves(&self, partition: usize) -> Option<u64>;

    /// Names the range that a partition is of, if it is served here: what is for partitions of one range is one
    /// command, and is there as a whole or not at all.
    fn range(&self, partition: usize) -> Option<u64>;

    /// A message of an exchange is going to be queued in several commands: says which of its publisher's
    /// messages it is. That is durable, as `reply_to` is told, before anything is queued. `mark` is a hash of
    /// the message: whoever begins the same one again under the same identifier, after a crash perhaps, is
    /// given the same number; another one has another number, and what was begun before is given up.
    ///
    /// Whom it goes to of shared groups is kept with it: what is `wished` for again is another member only where
    /// the one before is named as gone, or none was chosen. DIST-011
    ///
    /// # Errors
    /// The claim is stale, or its session is served elsewhere; nothing was noted.
    fn begin(
        &self,
        exchange: (Claim, PacketId),
        mark: u64,
        wished: &[Wish],
        reply_to: Option<ReplyTo>,
    ) -> Result<Promised<Begun>, StaleClaim>;

    /// Whether something is begun under the identifier of an exchange: then nothing of it was accepted, and a
    /// message of it is to be begun, as this may be the one. False if the claim is stale.
    fn is_begun(&self, exchange: (Claim, PacketId)) -> bool;

    /// As [`Inbox::append`]. A message that was begun is not queued again in partitions that have it, or in
    /// which its publisher is further: it is done there, once that is durable. Its exchange is accepted if it
    /// still is what was begun; otherwise nothing is queued, and the answer is `Unknown`. DUR-010
    fn append_on(
        &self,
        targets: Targets<'_>,
        message: &Message<'_>,
        terms: Terms,
        direct: &mut Vec<DirectDelivery>,
    ) -> Call<Settlement>;

    /// The owner of a session that came to this inbox lives: it is `owner` from now on. The claim stays
    /// what it is. To do it again, or for the owner that is there, changes nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    fn resume(&self, claim: Claim, owner: SessionRef) -> Result<(), Refusal>;

    /// Whether the owner of a session is awaited, who has this claim: what is asked under it is refused until
    /// he is [resumed](Serving::resume), but he has nothing less than before.
    fn is_awaited(&self, claim: Claim) -> bool;

    /// Whether the message of an exchange was accepted, for whoever brings it again as it is not known: if it
    /// was, it settles as [`Inbox::append`] does once that is durable; `None`: it was not, or the claim is
    /// stale.
    fn accepted(
        &self,
        claim: Claim,
        packet_id: PacketId,
        reply_to: Option<ReplyTo>,
    ) -> Option<Call<Settlement>>;

    /// The host of a session's owner is over: the session is left as by a connection that broke, and the will
    /// that it came with is due by its delay. INBOX-012
    ///
    /// # Errors
    /// [`Refusal`].
    fn abandon(&self, claim: Claim, now: Instant) -> Result<(), Refusal>;

    /// The transient session lives whose will came to this inbox.
    ///
    /// # Errors
    /// [`Refusal`]: stale is a will that is gone, or due.
    fn resume_will(&self, will: WillId) -> Result<(), Refusal>;

    /// The host of a transient session is over: its will is due.
    ///
    /// # Errors
    /// As of [`Serving::resume_will`].
    fn abandon_will(&self, will: WillId, now: Instant) -> Result<(), Refusal>;
}
