//! The providers of a node that configures none.

use crate::answer::Answer;
use crate::permission::{Action, Identity, PermissionProvider, Verdict};
use crate::plugin::Plugin;
use crate::settings::{Overrides, SettingsProvider};

/// Allows everything to everybody who was let in.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Plugin for AllowAll {
    fn name(&self) -> &str {
        "allow_all"
    }
}

impl PermissionProvider for AllowAll {
    fn check(&self, _who: &Identity, _action: Action<'_>) -> Answer<Verdict> {
        Answer::Now(Verdict::Allowed)
    }

    fn allows_everything(&self) -> bool {
        true
    }
}

/// Every tenant has the settings of `[tenant]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct StaticSettings;

impl Plugin for StaticSettings {
    fn name(&self) -> &str {
        "static"
    }
}

impl SettingsProvider for StaticSettings {
    fn overrides(&self, _tenant: &str) -> Answer<anyhow::Result<Overrides>> {
        Answer::Now(Ok(Vec::new()))
    }
}
