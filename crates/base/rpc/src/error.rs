//! What can become of a call that has no answer.
//!
//! Each variant says what state was left: whether the server may have carried the call out.

use crate::identity::Version;

/// Whether a failed call may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It never left, or the server did not take it: nothing was done, it may be tried again.
    NotSent,
    /// It left, and what became of it is not known. Only the caller knows whether doing it twice
    /// does harm.
    InDoubt,
}

/// A call without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No answer came in time.
    #[error("no answer before the deadline ({0:?})")]
    Deadline(Delivery),
    /// No server works for the tenant, or the named one is not there. Nothing was done.
    #[error("no server of {service} for the call")]
    NoServer {
        /// The service that was asked for.
        service: String,
    },
    /// A bounded queue or the server's limit of calls is full. Nothing was done; slow down.
    #[error("too many calls are under way")]
    Busy,
    /// The connection could not be made, or was lost.
    #[error("the connection failed ({delivery:?}): {why}")]
    Lost {
        /// Whether the call had left.
        delivery: Delivery,
        /// What the connection died of.
        why: String,
    },
    /// The two sides are too far apart to serve together. Nothing was done; an upgrade is needed.
    #[error("version {theirs} does not speak with {ours}")]
    Version {
        /// What this node speaks.
        ours: Version,
        /// What the other speaks.
        theirs: Version,
    },
    /// The other side does not accept this peer or this call as it is: another cluster, a foreign
    /// certificate, an unknown method, a message beyond the limit. Nothing was done, and trying
    /// again will not help.
    #[error("refused: {why}")]
    Refused {
        /// What it said.
        why: String,
    },
    /// The handler failed without an answer. What it did until then is not known.
    #[error("the handler failed: {why}")]
    Internal {
        /// What is known of it.
        why: String,
    },
    /// The handler's own answer: the service defines its codes and what state each leaves.
    #[error("error {code} of the service: {message}")]
    Application {
        /// A code of the service.
        code: u32,
        /// For a person.
        message: String,
    },
}

impl Error {
    /// All that [`Error::kind`] can say.
    pub(crate) const KINDS: [&'static str; 8] =
        ["deadline", "no_server", "busy", "lost", "version", "refused", "internal", "application"];

    /// Whether the server may have carried the call out. An [`Error::Application`] is an answer,
    /// so nothing about it is in doubt.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        match self {
            Self::Deadline(delivery) | Self::Lost { delivery, .. } => {
                matches!(delivery, Delivery::InDoubt)
            }
            Self::Internal { .. } => true,
            _ => false,
        }
    }

    /// A short name for metrics: one word for each variant.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::NoServer { .. } => "no_server",
            Self::Busy => "busy",
            Self::Lost { .. } => "lost",
            Self::Version { .. } => "version",
            Self::Refused { .. } => "refused",
            Self::Internal { .. } => "internal",
            Self::Application { .. } => "application",
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "they are what `map_err` wants")]
impl Error {
    pub(crate) fn not_sent(why: impl ToString) -> Self {
        Self::Lost { delivery: Delivery::NotSent, why: why.to_string() }
    }

    pub(crate) fn in_doubt(why: impl ToString) -> Self {
        Self::Lost { delivery: Delivery::InDoubt, why: why.to_string() }
    }

    pub(crate) fn refused(why: impl ToString) -> Self {
        Self::Refused { why: why.to_string() }
    }
}
