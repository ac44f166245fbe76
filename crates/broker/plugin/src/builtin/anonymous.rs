//! Clients without credentials, where the operator allows them.
//!
//! An anonymous client has no user, whatever name it sent: a name that nobody proved must not
//! open what rules grant to that name.

use std::collections::BTreeSet;

use crate::answer::Answer;
use crate::auth::{AuthProvider, AuthRequest, AuthResult, Grant};
use crate::plugin::Plugin;

/// Lets in who comes to certain listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anonymous {
    tenant: String,
    listeners: Listeners,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Listeners {
    All,
    Named(BTreeSet<String>),
}

impl Anonymous {
    /// Lets everybody in, on every listener.
    pub fn everywhere(tenant: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), listeners: Listeners::All }
    }

    /// Lets everybody in on the listeners of these names.
    pub fn on(
        listeners: impl IntoIterator<Item = impl Into<String>>,
        tenant: impl Into<String>,
    ) -> Self {
        let named = listeners.into_iter().map(Into::into).collect();
        Self { tenant: tenant.into(), listeners: Listeners::Named(named) }
    }
}

impl Plugin for Anonymous {
    fn name(&self) -> &str {
        "anonymous"
    }
}

impl AuthProvider for Anonymous {
    fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult> {
        let allowed = match &self.listeners {
            Listeners::All => true,
            Listeners::Named(names) => names.contains(&*request.listener),
        };
        Answer::Now(if allowed {
            AuthResult::Granted(Grant { tenant: self.tenant.clone(), ..Grant::default() })
        } else {
            AuthResult::Abstained
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, resolve};

    fn let_in(anonymous: &Anonymous, listener: &str) -> Option<Grant> {
        let request = AuthRequest {
            listener: listener.into(),
            username: Some("admin".into()),
            ..request("c")
        };
        match resolve(anonymous.authenticate(request)) {
            AuthResult::Granted(grant) => Some(grant),
            _ => None,
        }
    }

    #[test]
    fn anonymous_clients_enter_only_where_allowed() {
        let local = Anonymous::on(["local"], "main");
        assert!(let_in(&local, "local").is_some());
        assert_eq!(let_in(&local, "public"), None);
        assert!(let_in(&Anonymous::everywhere("main"), "public").is_some());
    }

    /// TEN-027, SEC-005: a claimed user name is worth nothing without proof.
    #[test]
    fn an_anonymous_client_has_no_user() {
        let grant = let_in(&Anonymous::everywhere("main"), "public").unwrap();
        assert_eq!((grant.tenant.as_str(), grant.user.as_str()), ("main", ""));
        assert!(!grant.superuser);
    }
}
