//! Between hosts: what their transient sessions want, and messages on their way to them.
//!
//! A host tells all others which filters its transient sessions have, and which members of shared groups
//! are with it ([`Relay::want`], [`Relay::join`]). What others tell is in dist, as receivers
//! ([`Receiver::Host`](crate::dist::Receiver::Host)). A message for such a receiver goes by
//! [`Relay::send`], once to each host, whose [`Deliverer`] finds the sessions there.
//!
//! Nothing of this is durable: a message that a host did not take within a bound is dropped, and whoever
//! waits is told by [`Outcomes`].

use ratatosk_topic::TopicFilter;

use crate::{Call, HostNumber, Message, ReplyTo, TenantId, group::Member};

/// How far the table of a host's wishes has come: rises with each change of it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableSequence(pub u64);

/// The way to other hosts. No call here blocks.
pub trait Relay: Send + Sync {
    /// One receiver more of this host has a filter; a share prefix has no say. Others are told when it
    /// is the first. Answers the sequence from which on it is told.
    fn want(&self, tenant: &TenantId, filter: &TopicFilter<'_>) -> TableSequence;

    /// One receiver less. Whoever was not there changes nothing.
    fn unwant(&self, tenant: &TenantId, filter: &TopicFilter<'_>) -> TableSequence;

    /// A transient session of this host is a member of the group that the filter names, or is one with
    /// other options. One of an older incarnation than the one that is there is ignored.
    ///
    /// # Panics
    /// When the filter names no group: a bug of the caller.
    fn join(&self, tenant: &TenantId, filter: &TopicFilter<'_>, member: &Member) -> TableSequence;

    /// A member of this or an older incarnation is none any more.
    fn leave(
        &self,
        tenant: &TenantId,
        filter: &TopicFilter<'_>,
        id: u64,
        incarnation: u64,
    ) -> TableSequence;

    /// Whether all hosts that count as alive have applied the table up to a sequence. Pending: then
    /// [`Outcomes::visible`] tells when they have, or that they did not within the bound.
    fn when_visible(&self, sequence: TableSequence, reply_to: ReplyTo) -> Call<IsVisible>;

    /// Sends a message to each of `hosts`, encoded once. Messages of one caller reach a host in the order
    /// in which they were sent. With `reply_to`, [`Outcomes::settled`] tells of each host that is
    /// counted as pending, once; it may do so before this returns.
    fn send(
        &self,
        dispatch: &Dispatch<'_>,
        hosts: &[HostNumber],
        reply_to: Option<ReplyTo>,
    ) -> Sent;

    /// Whether no message is on its way.
    fn is_idle(&self) -> bool;
}

/// A message for other hosts.
#[derive(Copy, Clone, Debug)]
pub struct Dispatch<'a> {
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// Who is to have it there.
    pub to: Addressee<'a>,
    /// The message.
    pub message: Message<'a>,
}

/// Who is to have a message at its host.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Addressee<'a> {
    /// All transient sessions with a filter that matches its topic. Members of groups are not meant.
    Sessions,
    /// One member of a shared group.
    Member {
        /// The filter, without its share prefix.
        filter: &'a str,
        /// The group's name.
        group: &'a str,
        /// See [`Group::is_ordered`](crate::group::Group::is_ordered).
        is_ordered: bool,
        /// See [`Member::id`].
        id: u64,
        /// The life that was chosen; a later one of the same session may take it as well.
        incarnation: u64,
    },
}

/// What became of [`Relay::send`] at once.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Hosts that it is on its way to.
    pub pending: usize,
    /// Hosts that it is dropped for: there is no room, or the host is gone. It was counted, and nobody
    /// tells of them.
    pub dropped: usize,
}

/// What became of a message at a host.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its deliverer has it.
    Taken,
    /// The member is not there: another one is to have it.
    Gone,
    /// It was dropped, and was counted.
    Dropped(Why),
}

/// Why a message did not reach the sessions of a host.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was no room for it, here or there.
    Full,
    /// No answer came within the bound. It may still be delivered.
    Late,
    /// The host is gone, or the way to it broke. It may have been delivered.
    Lost,
}

/// What became of a message for a host.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    /// Who waits.
    pub reply_to: ReplyTo,
    /// Which host.
    pub host: HostNumber,
    /// What became of it.
    pub outcome: Outcome,
}

/// Whether all hosts see what this one wants.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum IsVisible {
    /// All that count as alive have it.
    Yes,
    /// Some did not say so within the bound.
    NotInTime,
}

/// Who is told what became of messages. Called on the relay's thread: implementations only leave a
/// note.
pub trait Outcomes: Send + Sync {
    /// Messages whose senders wait for it.
    fn settled(&self, dispatched: &[Dispatched]);

    /// Somebody waited for the table to be seen: see [`Relay::when_visible`].
    fn visible(&self, reply_to: ReplyTo, is_visible: IsVisible);
}

/// A message that came from another host.
#[derive(Copy, Clone, Debug)]
pub struct Parcel<'a> {
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// Who is to have it.
    pub to: Addressee<'a>,
    /// The message; accepted, by the clock of this host, when it came.
    pub message: Message<'a>,
}

/// What a deliverer says to a parcel.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It will be delivered to whoever is there, as if it had been published here.
    Taken,
    /// The member that it is for is not here.
    Gone,
    /// There is no room; it was dropped.
    Full,
}

/// Who has the transient sessions of this host.
pub trait Deliverer: Send + Sync {
    /// Takes parcels of one host, in their order, and appends one fate for each to `fates`. Called on
    /// the relay's thread: implementations leave notes, and neither block nor run sessions.
    fn deliver(&self, parcels: &[Parcel<'_>], fates: &mut Vec<Fate>);
}
