//! Providers made of one function each: who clients are, what they may do, what tenants have.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ratatosk_plugin::{
    answer::Answer,
    auth::{AuthProvider, AuthRequest, AuthResult, Grant},
    permission::{Action, Identity, PermissionProvider, Verdict},
    plugin::Plugin,
    settings::{Overrides, SettingsProvider},
};

type AuthFunction = dyn Fn(&AuthRequest) -> AuthResult + Send + Sync;
type PermissionFunction = dyn Fn(&Identity, Action<'_>) -> Answer<Verdict> + Send + Sync;
type SettingsFunction = dyn Fn(&str) -> Overrides + Send + Sync;

/// Decides by a function who a client is.
pub struct AuthBy(Box<AuthFunction>);

impl AuthBy {
    /// A provider that answers as the function does.
    pub fn new(decide: impl Fn(&AuthRequest) -> AuthResult + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(AuthBy(Box::new(decide)))
    }

    /// Lets everybody in. A user name `tenant/user` is taken apart; without one the tenant is
    /// `default` and the user nobody in particular.
    pub fn name() -> Arc<Self> {
        AuthBy::new(|request| {
            let name = request.username.as_deref().unwrap_or("default/");
            let (tenant, user) = name.split_once('/').unwrap_or(("default", name));
            AuthResult::Granted(Grant {
                tenant: tenant.to_owned(),
                user: user.to_owned(),
                ..Grant::default()
            })
        })
    }
}

impl Plugin for AuthBy {
    fn name(&self) -> &str {
        "auth_by_function"
    }
}

impl AuthProvider for AuthBy {
    fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult> {
        Answer::Now((self.0)(&request))
    }
}

/// Decides by a function what a client may do.
pub struct PermissionBy {
    decide: Box<PermissionFunction>,
    epoch: AtomicU64,
}

impl PermissionBy {
    /// A provider that answers as the function does.
    pub fn new(
        decide: impl Fn(&Identity, Action<'_>) -> Answer<Verdict> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(PermissionBy { decide: Box::new(decide), epoch: AtomicU64::new(0) })
    }

    /// Says that the answers have changed.
    pub fn change(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

impl Plugin for PermissionBy {
    fn name(&self) -> &str {
        "permission_by_function"
    }
}

impl PermissionProvider for PermissionBy {
    fn check(&self, who: &Identity, action: Action<'_>) -> Answer<Verdict> {
        (self.decide)(who, action)
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }
}

/// Says by a function what a tenant has otherwise than the process.
pub struct SettingsBy(Box<SettingsFunction>);

impl SettingsBy {
    /// A provider that answers as the function does.
    pub fn new(decide: impl Fn(&str) -> Overrides + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(SettingsBy(Box::new(decide)))
    }
}

impl Plugin for SettingsBy {
    fn name(&self) -> &str {
        "settings_by_function"
    }
}

impl SettingsProvider for SettingsBy {
    fn overrides(&self, tenant: &str) -> Answer<anyhow::Result<Overrides>> {
        Answer::Now(Ok((self.0)(tenant)))
    }
}
