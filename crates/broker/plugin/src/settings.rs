//! Settings per tenant: where what differs from the process's defaults comes from.

use ratatosk_contract::settings::SettingValue;

use crate::answer::Answer;
use crate::plugin::Plugin;

/// What a tenant has otherwise than the process: key and value. A key that is absent follows the
/// process's default; one whose value is `None`, or is out of its range, stays as it is.
pub type Overrides = Vec<(String, Option<SettingValue>)>;

/// Knows the settings of tenants.
pub trait SettingsProvider: Plugin {
    /// The overrides of a tenant; an unknown tenant has none. After an error the tenant's
    /// settings stay as they are.
    fn overrides(&self, tenant: &str) -> Answer<anyhow::Result<Overrides>>;
}
