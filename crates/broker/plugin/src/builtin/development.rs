//! Development only: everybody is whoever they say, in whatever tenant they say.
//!
//! The user name `tenant/user` chooses both. It is active only when the configuration asks for it
//! by name, and says so in the log at each start.

use super::Tenancy;
use crate::answer::Answer;
use crate::auth::{AuthProvider, AuthRequest, AuthResult};
use crate::plugin::Plugin;

/// Believes every user name.
#[derive(Debug, Clone)]
pub struct Development {
    tenancy: Tenancy,
}

impl Development {
    /// Believes everybody; who names no tenant is of `default_tenant`.
    pub fn new(default_tenant: impl Into<String>) -> Self {
        Self { tenancy: Tenancy::FromUser { default: default_tenant.into() } }
    }
}

impl Plugin for Development {
    fn name(&self) -> &str {
        "development"
    }

    fn start(&self) -> anyhow::Result<()> {
        tracing::warn!("development authentication is on: every client is who it says");
        Ok(())
    }
}

impl AuthProvider for Development {
    fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult> {
        let name = request.username.as_deref().unwrap_or_default();
        Answer::Now(AuthResult::Granted(self.tenancy.grant(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, resolve};

    /// PLG-015: the user name chooses tenant and user.
    #[test]
    fn development_believes_the_user_name() {
        let named = AuthRequest { username: Some("acme/alice".into()), ..request("c") };
        let result = resolve(Development::new("dev").authenticate(named));
        let AuthResult::Granted(grant) = result else { panic!("{result:?}") };
        assert_eq!((grant.tenant.as_str(), grant.user.as_str()), ("acme", "alice"));
        let result = resolve(Development::new("dev").authenticate(request("c")));
        let AuthResult::Granted(grant) = result else { panic!("{result:?}") };
        assert_eq!((grant.tenant.as_str(), grant.user.as_str()), ("dev", ""));
    }
}
