//! The settings of tenants as last known.
//!
//! A tenant's settings are the process's defaults with its overrides. An override that is out of
//! its range leaves the setting as it was; a provider that fails leaves all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ratatosk_contract::settings::{SettingError, TenantSettings};

use crate::settings::Overrides;

/// A tenant that nobody asked for during this time is forgotten when room is needed.
const IDLE_MAX: Duration = Duration::from_secs(300);

pub(super) struct SettingsCache {
    age_max: Duration,
    tenants_max: usize,
    known: Mutex<Known>,
}

struct Known {
    defaults: Arc<TenantSettings>,
    tenants: HashMap<Arc<str>, Entry>,
}

struct Entry {
    settings: Arc<TenantSettings>,
    /// When the provider was asked last; `None`: it must be asked before the next use.
    asked_at: Option<Duration>,
    /// What was wrong with the last answer, so that it is logged once.
    complaint: String,
}

impl SettingsCache {
    pub(super) fn new(defaults: TenantSettings, age_max: Duration, tenants_max: usize) -> Self {
        let known = Known { defaults: Arc::new(defaults), tenants: HashMap::new() };
        Self { age_max, tenants_max, known: Mutex::new(known) }
    }

    /// The settings, unless the caller must ask the provider. Of several callers that find them
    /// too old one asks; the others go on with what is known.
    pub(super) fn fresh(&self, tenant: &str, now: Duration) -> Option<Arc<TenantSettings>> {
        let mut known = self.known.lock();
        let entry = known.tenants.get_mut(tenant)?;
        let asked_at = entry.asked_at?;
        if now.saturating_sub(asked_at) < self.age_max {
            return Some(entry.settings.clone());
        }
        entry.asked_at = Some(now);
        None
    }

    pub(super) fn last_known(&self, tenant: &str) -> Arc<TenantSettings> {
        let known = self.known.lock();
        known.tenants.get(tenant).map_or(&known.defaults, |entry| &entry.settings).clone()
    }

    /// Takes the provider's answer.
    pub(super) fn take(
        &self,
        tenant: &Arc<str>,
        now: Duration,
        overrides: &Overrides,
    ) -> Arc<TenantSettings> {
        let mut known = self.known.lock();
        let current = known.tenants.get(tenant).map(|entry| entry.settings.clone());
        let (settings, refused) =
            combined(&known.defaults, current.as_deref().unwrap_or(&known.defaults), overrides);
        let complaint = refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        self.store(&mut known, tenant, now, Arc::new(settings), complaint)
    }

    /// Takes note that the provider failed: what is known stays.
    pub(super) fn keep(&self, tenant: &Arc<str>, now: Duration, why: &str) -> Arc<TenantSettings> {
        let mut known = self.known.lock();
        let current =
            known.tenants.get(tenant).map_or(&known.defaults, |entry| &entry.settings).clone();
        self.store(&mut known, tenant, now, current, why.to_owned())
    }

    pub(super) fn replace_defaults(&self, defaults: TenantSettings) {
        let mut known = self.known.lock();
        known.defaults = Arc::new(defaults);
        known.tenants.values_mut().for_each(|entry| entry.asked_at = None);
    }

    fn store(
        &self,
        known: &mut Known,
        tenant: &Arc<str>,
        now: Duration,
        settings: Arc<TenantSettings>,
        complaint: String,
    ) -> Arc<TenantSettings> {
        let before = known.tenants.get(tenant).map(|entry| &entry.complaint);
        let is_known = before.is_some();
        if !complaint.is_empty() && before != Some(&complaint) {
            tracing::warn!(tenant = &**tenant, complaint, "tenant settings stay as they are");
        }
        if !is_known && known.tenants.len() >= self.tenants_max {
            let is_awake =
                |at: Option<Duration>| at.is_some_and(|at| now.saturating_sub(at) < IDLE_MAX);
            known.tenants.retain(|_, entry| is_awake(entry.asked_at));
        }
        // With no room left the tenant is asked for at each connection: slow, never wrong.
        if is_known || known.tenants.len() < self.tenants_max {
            let entry = Entry { settings: settings.clone(), asked_at: Some(now), complaint };
            known.tenants.insert(tenant.clone(), entry);
        }
        settings
    }
}

/// The defaults with the overrides; what is refused or said to stay keeps its current value.
fn combined(
    defaults: &TenantSettings,
    current: &TenantSettings,
    overrides: &Overrides,
) -> (TenantSettings, Vec<SettingError>) {
    let given = overrides.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_ref()?)));
    let (settings, refused) = defaults.overridden(given);
    let staying = overrides
        .iter()
        .filter(|(_, value)| value.is_none())
        .map(|(key, _)| key.as_str())
        .chain(refused.iter().map(|error| error.key.as_str()));
    let kept: Vec<_> = staying.filter_map(|key| Some((key, current.value(key)?))).collect();
    let (settings, _) = settings.overridden(kept.iter().map(|(key, value)| (*key, value)));
    (settings, refused)
}
