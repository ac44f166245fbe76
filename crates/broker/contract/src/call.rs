//! Answers that are there at once, or later under a ticket.
//!
//! What is in memory answers at once and costs no more than a call. What must be made durable or
//! asked elsewhere answers [`Call::Pending`]; its outcome is handed to
//! [`Sessions::settle`](crate::sessions::Sessions::settle) with the ticket.
//!
//! One ticket may be given to several calls, for one message that several stores make durable:
//! each that was pending settles once, and whoever waits adds them up.

use crate::SessionRef;

/// Names one answer that is still to come. Chosen by the caller, meaningful to it alone.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Who waits for an answer, and under which ticket.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The session that is told. If it has ended meanwhile nobody is.
    pub session: SessionRef,
    /// The ticket that it is told.
    pub ticket: Ticket,
}

/// An answer, or the promise of one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Call<T> {
    /// The answer.
    Ready(T),
    /// The answer comes later, under the ticket that the caller gave.
    Pending,
}

impl<T> Call<T> {
    /// The answer, if it is there.
    pub fn ready(self) -> Option<T> {
        match self {
            Call::Ready(answer) => Some(answer),
            Call::Pending => None,
        }
    }
}

/// An answer that holds at once. What it changed is durable already, or will be: then whoever the
/// call names is told by [`Sessions::settle`](crate::sessions::Sessions::settle), and what depends
/// on it may not leave the node before.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Promised<T> {
    /// The answer.
    pub answer: T,
    /// Nobody will be told, for there is nothing to wait for.
    pub is_durable: bool,
}

impl<T> Promised<T> {
    /// An answer that needs no disk, or has it behind it.
    pub fn kept(answer: T) -> Self {
        Promised { answer, is_durable: true }
    }

    /// An answer whose change is on its way to the disk.
    pub fn later(answer: T) -> Self {
        Promised { answer, is_durable: false }
    }
}

/// What became of durable work, from the best to the worst: where one message is work for several,
/// the worst counts.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Settlement {
    /// Durable as promised.
    #[default]
    Done,
    /// Refused before anything was attempted: the queue of the store is full. May be retried.
    Busy,
    /// Refused by a limit of the receiver that the tenant chose to make the publisher feel.
    QuotaExceeded,
    /// It may or may not have happened. Only a retry under the same identity may follow.
    Unknown,
}
