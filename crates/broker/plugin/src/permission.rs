//! Permission: what an authenticated client may do.
//!
//! Answers may be remembered by the caller as long as the provider's epoch stays.

use std::borrow::Cow;
use std::sync::Arc;

use ratatosk_codec::Qos;

use crate::answer::Answer;
use crate::plugin::Plugin;

/// An authenticated client. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Whose client it is.
    pub tenant: Arc<str>,
    /// Who it is there; empty: nobody in particular.
    pub user: Arc<str>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// What authentication knows of it.
    pub attributes: Arc<[(String, String)]>,
    /// No permission is ever checked for it.
    pub superuser: bool,
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Open a session.
    Connect,
    /// Publish a message, now or as a will.
    Publish {
        /// The topic, aliases resolved.
        topic: &'a str,
        /// Its QoS.
        qos: Qos,
        /// Whether it is to be retained.
        retain: bool,
        /// Whether it is the will of the connection.
        is_will: bool,
    },
    /// Subscribe, or go on receiving by a subscription.
    Subscribe {
        /// The filter as sent, with the prefix of a shared subscription.
        filter: &'a str,
        /// The QoS asked for.
        qos: Qos,
    },
    /// Give a subscription up.
    Unsubscribe {
        /// The filter as sent.
        filter: &'a str,
    },
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may not.
    Denied {
        /// Why, for the log and for `why`; names the rule where there is one.
        reason: Cow<'static, str>,
    },
    /// The question could not be answered. Counts as denied unless the tenant opted out.
    Error {
        /// What went wrong.
        reason: Cow<'static, str>,
    },
}

impl Verdict {
    /// A denial.
    pub fn denied(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Denied { reason: reason.into() }
    }

    /// A question without answer.
    pub fn error(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Error { reason: reason.into() }
    }

    /// Whether the client may go on. `errors_allow` is the tenant's `by_pass_perm_check_error`.
    pub fn permits(&self, errors_allow: bool) -> bool {
        match self {
            Self::Allowed => true,
            Self::Denied { .. } => false,
            Self::Error { .. } => errors_allow,
        }
    }
}

/// Decides what a client may do.
pub trait PermissionProvider: Plugin {
    /// Answers one question. Must not block.
    fn check(&self, who: &Identity, action: Action<'_>) -> Answer<Verdict>;

    /// Rises whenever answers may have changed; remembered answers of an older epoch are void.
    fn epoch(&self) -> u64 {
        0
    }

    /// Whether nobody is ever denied anything, so that the packet path need not ask.
    fn allows_everything(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TEN-005: a check that failed denies, unless the tenant opted out.
    #[test]
    fn a_failed_check_denies_unless_the_tenant_opted_out() {
        assert!(!Verdict::error("timed out").permits(false));
        assert!(Verdict::error("timed out").permits(true));
        assert!(!Verdict::denied("rule").permits(true));
        assert!(Verdict::Allowed.permits(false));
    }
}
