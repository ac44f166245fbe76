//! The host of the providers: every call is bounded in time, contained, and counted.
//!
//! Guarantees: a provider that panics, hangs in its future or is asked too much at once costs its
//! caller a refusal, never more. Authentication and permission fail closed; settings keep the
//! last value. A provider that blocks inside the call itself cannot be interrupted: its trait
//! forbids it, and the counted time shows it.
//!
//! Not here: what a permission error means for a tenant (its setting decides), remembering
//! verdicts (the caller does, by epoch).

mod calls;
mod settings_cache;

use std::sync::Arc;
use std::time::Duration;

use ratatosk_contract::settings::TenantSettings;

pub use calls::CallCounts;

use crate::answer::{Answer, BoxFuture};
use crate::auth::{AuthExchange, AuthProvider, AuthRequest, AuthResult, AuthStage, DenialReason};
use crate::permission::{Action, Identity, PermissionProvider, Verdict};
use crate::plugin::Plugin;
use crate::settings::SettingsProvider;
use calls::{Calls, Failure};
use settings_cache::SettingsCache;

/// Steps of one exchange of enhanced authentication, after which it is refused.
const EXCHANGE_STEPS_MAX: u32 = 16;

/// The time, as the host needs it. The binary implements it by its clock and its runtime:
/// `Box::pin(tokio::time::sleep(span))`. `sleep` is called where the answer is awaited.
pub trait Timer: Send + Sync + 'static {
    /// The time since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Completes after that time.
    fn sleep(&self, span: Duration) -> BoxFuture<()>;
}

/// The bounds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long one answer may take.
    pub timeout: Duration,
    /// Answers of one kind that may be awaited at once; beyond it a question is refused.
    pub pending_max: u32,
    /// Age at which a tenant's settings are asked for again.
    pub settings_age_max: Duration,
    /// Tenants whose settings are remembered.
    pub tenants_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            pending_max: 10_000,
            // With a provider that answers within 3 s, a change is in force within 5 s.
            settings_age_max: Duration::from_secs(2),
            tenants_max: 10_000,
        }
    }
}

/// The providers of a node.
#[derive(Clone)]
pub struct Providers {
    /// Who clients are.
    pub auth: Arc<dyn AuthProvider>,
    /// What they may do.
    pub permission: Arc<dyn PermissionProvider>,
    /// What their tenants are set to.
    pub settings: Arc<dyn SettingsProvider>,
}

impl Providers {
    fn each(&self) -> [&dyn Plugin; 3] {
        [&*self.auth, &*self.permission, &*self.settings]
    }
}

/// Asks the providers. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    providers: Providers,
    auth_calls: Arc<Calls>,
    permission_calls: Arc<Calls>,
    settings_calls: Arc<Calls>,
    settings: Arc<SettingsCache>,
}

/// How the calls went since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCounts {
    /// Authentication, each step of an exchange counted.
    pub auth: CallCounts,
    /// Permission checks that reached the provider.
    pub permission: CallCounts,
    /// Questions for a tenant's settings.
    pub settings: CallCounts,
}

impl Host {
    /// A host of these providers. `defaults` are the settings of a tenant without overrides.
    pub fn new(
        providers: Providers,
        defaults: TenantSettings,
        timer: &Arc<dyn Timer>,
        limits: Limits,
    ) -> Self {
        let calls = || Arc::new(Calls::new(timer.clone(), limits.timeout, limits.pending_max));
        Self {
            providers,
            auth_calls: calls(),
            permission_calls: calls(),
            settings_calls: calls(),
            settings: Arc::new(SettingsCache::new(
                defaults,
                limits.settings_age_max,
                limits.tenants_max,
            )),
        }
    }

    /// Starts the providers. After an error those that were started are stopped again.
    pub fn start(&self) -> anyhow::Result<()> {
        let each = self.providers.each();
        for (index, plugin) in each.iter().enumerate() {
            if let Err(error) = plugin.start() {
                each[..index].iter().for_each(|started| started.stop());
                return Err(error.context(format!("plugin {} does not start", plugin.name())));
            }
        }
        Ok(())
    }

    /// Lets every provider read its sources again. One that fails goes on with what it had; the
    /// others reload all the same. Returns what failed.
    pub fn reload(&self) -> Vec<anyhow::Error> {
        let reload = |plugin: &dyn Plugin| {
            plugin.reload().map_err(|error| {
                error.context(format!("plugin {} keeps what it had", plugin.name()))
            })
        };
        self.providers.each().into_iter().filter_map(|plugin| reload(plugin).err()).collect()
    }

    /// Stops the providers.
    pub fn stop(&self) {
        self.providers.each().iter().for_each(|plugin| plugin.stop());
    }

    /// Asks who a client is. Never `Continue` nor `Abstained`: what does not end in a grant is a
    /// denial.
    pub fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult> {
        let stage = request.stage.clone();
        let provider = &self.providers.auth;
        self.auth_calls.run(|| provider.authenticate(request)).map(move |outcome| {
            match settled(outcome, &stage) {
                AuthResult::Continue(_) => AuthResult::denied(
                    DenialReason::Error,
                    "auth provider asked to continue outside of an exchange",
                ),
                result => result,
            }
        })
    }

    /// Opens an exchange of enhanced authentication. A method that no provider knows gives an
    /// exchange that refuses with `BadMethod` at its first step.
    pub fn begin(&self, request: &AuthRequest) -> Exchange {
        let provider = &self.providers.auth;
        let exchange = calls::contained(|| provider.begin(request));
        let state = match exchange {
            Ok(Some(exchange)) => State::Open(exchange),
            Ok(None) => State::Over(DenialReason::BadMethod),
            Err(_) => State::Over(DenialReason::Error),
        };
        Exchange {
            state,
            stage: request.stage.clone(),
            steps_left: EXCHANGE_STEPS_MAX,
            calls: self.auth_calls.clone(),
        }
    }

    /// Asks whether a client may do something. A superuser may, without a question.
    pub fn check(&self, who: &Identity, action: Action<'_>) -> Answer<Verdict> {
        let provider = &self.providers.permission;
        if who.superuser || provider.allows_everything() {
            return Answer::Now(Verdict::Allowed);
        }
        self.permission_calls.run(|| provider.check(who, action)).map(|outcome| match outcome {
            Ok(verdict) => verdict,
            Err(failure) => Verdict::error(failure.text()),
        })
    }

    /// Rises when remembered verdicts are void.
    pub fn permission_epoch(&self) -> u64 {
        self.providers.permission.epoch()
    }

    /// Whether `check` always allows, so that the packet path need not ask.
    pub fn allows_everything(&self) -> bool {
        self.providers.permission.allows_everything()
    }

    /// Rises when users may have changed.
    pub fn auth_epoch(&self) -> u64 {
        self.providers.auth.epoch()
    }

    /// The settings of a tenant, for a new connection: what the provider says, also at the first
    /// connection ever. Where it fails, the last that it said.
    pub fn settings(&self, tenant: &str) -> Answer<Arc<TenantSettings>> {
        let now = self.settings_calls.now();
        if let Some(settings) = self.settings.fresh(tenant, now) {
            return Answer::Now(settings);
        }
        let provider = &self.providers.settings;
        let cache = self.settings.clone();
        let tenant: Arc<str> = tenant.into();
        let asked = tenant.clone();
        self.settings_calls.run(|| provider.overrides(&asked)).map(move |outcome| match outcome {
            Ok(Ok(overrides)) => cache.take(&tenant, now, &overrides),
            Ok(Err(error)) => cache.keep(&tenant, now, &format!("{error:#}")),
            Err(failure) => cache.keep(&tenant, now, failure.text()),
        })
    }

    /// The settings of a tenant as last known, for a running connection.
    pub fn settings_last_known(&self, tenant: &str) -> Arc<TenantSettings> {
        self.settings.last_known(tenant)
    }

    /// Changes the settings of tenants without overrides; every tenant is asked for anew.
    pub fn replace_defaults(&self, defaults: TenantSettings) {
        self.settings.replace_defaults(defaults);
    }

    /// How the calls went.
    pub fn counts(&self) -> HostCounts {
        HostCounts {
            auth: self.auth_calls.counts(),
            permission: self.permission_calls.counts(),
            settings: self.settings_calls.counts(),
        }
    }
}

/// One exchange of enhanced authentication under the host's bounds. [MQTT-4.12.0-1]
pub struct Exchange {
    state: State,
    stage: AuthStage,
    steps_left: u32,
    calls: Arc<Calls>,
}

enum State {
    Open(Box<dyn AuthExchange>),
    Over(DenialReason),
}

impl Exchange {
    /// Hands on what the client sent. Never `Abstained`. The caller drops the exchange after a
    /// grant or a denial.
    pub fn step(&mut self, data: &[u8]) -> Answer<AuthResult> {
        if self.steps_left == 0 {
            self.state = State::Over(DenialReason::NotAuthorized);
        }
        let exchange = match &mut self.state {
            State::Open(exchange) => exchange,
            State::Over(reason) => {
                let detail = match reason {
                    DenialReason::BadMethod => "authentication method is not supported",
                    DenialReason::NotAuthorized => "authentication exchange has too many steps",
                    _ => "auth provider failed",
                };
                return Answer::Now(AuthResult::denied(*reason, detail));
            }
        };
        self.steps_left -= 1;
        let stage = self.stage.clone();
        let answer = self.calls.run(|| exchange.step(data));
        if let Answer::Now(Err(_)) = answer {
            self.state = State::Over(DenialReason::Error);
        }
        answer.map(move |outcome| settled(outcome, &stage))
    }
}

/// What a provider said, after the rules that no provider may break.
fn settled(outcome: Result<AuthResult, Failure>, stage: &AuthStage) -> AuthResult {
    let result = match outcome {
        Ok(result) => result,
        Err(failure) => return AuthResult::denied(DenialReason::Error, failure.text()),
    };
    match (result, stage) {
        (AuthResult::Abstained, _) => AuthResult::denied(
            DenialReason::NotAuthorized,
            "no auth provider takes these credentials",
        ),
        (AuthResult::Granted(grant), _) if grant.tenant.is_empty() => {
            AuthResult::denied(DenialReason::Error, "auth provider granted no tenant")
        }
        (AuthResult::Granted(grant), AuthStage::Reauthenticate(current))
            if grant.tenant != *current.tenant || grant.user != *current.user =>
        {
            AuthResult::denied(
                DenialReason::NotAuthorized,
                "re-authentication as another tenant or user",
            )
        }
        (result, _) => result,
    }
}

#[cfg(test)]
#[path = "host/host_test.rs"]
mod tests;
