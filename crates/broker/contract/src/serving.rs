//! An inbox that serves some of the partitions of a cluster: what is asked of it beside
//! [`Inbox`], by whoever knows which host serves what.

use crate::{
    Call, ReplyTo, SessionRef,
    call::Settlement,
    inbox::{Claim, Inbox, NotServed, WillId},
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

/// The inbox of a host, which serves some of the partitions. One that stands alone serves all.
pub trait Serving: Inbox {
    /// The term in which it serves a partition; `None`: it does not, and answers claims on it as stale.
    fn serves(&self, partition: usize) -> Option<u64>;

    /// The owner of a session that came to this inbox lives: it is `owner` from now on. The claim stays
    /// what it is. To do it again, or for the owner that is there, changes nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    fn resume(&self, claim: Claim, owner: SessionRef) -> Result<(), Refusal>;

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
