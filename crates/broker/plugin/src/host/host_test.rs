//! How the host bounds, contains and counts the calls of providers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use ratatosk_codec::Qos;
use ratatosk_contract::settings::SettingValue;

use super::*;
use crate::auth::{Challenge, Grant};
use crate::builtin::{AllowAll, StaticSettings};
use crate::settings::Overrides;
use crate::testing::{ManualTimer, identity, quietly, request, resolve};

type Script<T> = Box<dyn Fn() -> Answer<T> + Send + Sync>;

struct Scripted {
    auth: Script<AuthResult>,
    verdict: Script<Verdict>,
    overrides: Script<anyhow::Result<Overrides>>,
}

impl Default for Scripted {
    fn default() -> Self {
        Self {
            auth: Box::new(|| Answer::Now(AuthResult::Abstained)),
            verdict: Box::new(|| Answer::Now(Verdict::Allowed)),
            overrides: Box::new(|| Answer::Now(Ok(Vec::new()))),
        }
    }
}

impl Plugin for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }
}

impl AuthProvider for Scripted {
    fn authenticate(&self, _request: AuthRequest) -> Answer<AuthResult> {
        (self.auth)()
    }

    fn begin(&self, request: &AuthRequest) -> Option<Box<dyn AuthExchange>> {
        (request.method.as_deref() == Some("ENDLESS")).then(|| Box::new(Endless) as _)
    }
}

impl PermissionProvider for Scripted {
    fn check(&self, _who: &Identity, _action: Action<'_>) -> Answer<Verdict> {
        (self.verdict)()
    }
}

impl SettingsProvider for Scripted {
    fn overrides(&self, _tenant: &str) -> Answer<anyhow::Result<Overrides>> {
        (self.overrides)()
    }
}

struct Endless;

impl AuthExchange for Endless {
    fn step(&mut self, data: &[u8]) -> Answer<AuthResult> {
        assert_ne!(data, b"panic");
        Answer::Now(AuthResult::Continue(Challenge::default()))
    }
}

fn host_with(scripted: Scripted, limits: Limits) -> (Host, Arc<ManualTimer>) {
    let timer = Arc::new(ManualTimer::default());
    let scripted = Arc::new(scripted);
    let providers =
        Providers { auth: scripted.clone(), permission: scripted.clone(), settings: scripted };
    let hosted: Arc<dyn Timer> = timer.clone();
    (Host::new(providers, TenantSettings::default(), &hosted, limits), timer)
}

fn host(scripted: Scripted) -> (Host, Arc<ManualTimer>) {
    host_with(scripted, Limits::default())
}

fn publish() -> Action<'static> {
    Action::Publish { topic: "a", qos: Qos::AtMostOnce, retain: false, is_will: false }
}

fn denied(result: AuthResult) -> (DenialReason, String) {
    match result {
        AuthResult::Denied(denial) => (denial.reason, denial.detail.into_owned()),
        other => panic!("not a denial: {other:?}"),
    }
}

fn never<T: Send + 'static>() -> Answer<T> {
    Answer::later(std::future::pending())
}

/// PLG-013: an answer that does not come is a denial after the timeout, and counted.
#[test]
fn a_hanging_auth_provider_denies_after_the_timeout() {
    let (host, timer) = host(Scripted { auth: Box::new(never), ..Scripted::default() });
    let answer = host.authenticate(request("c"));
    assert_eq!(host.counts().auth.pending, 1);
    let ticking = timer.tick_in_background(Duration::from_secs(5));
    let (reason, detail) = denied(resolve(answer));
    ticking.join().unwrap();
    assert_eq!((reason, detail.as_str()), (DenialReason::Error, "provider did not answer in time"));
    let counts = host.counts().auth;
    assert_eq!((counts.calls, counts.timeouts, counts.failures(), counts.pending), (1, 1, 1, 0));
}

/// PLG-013, TEN-005: a permission check that hangs is an error, which denies.
#[test]
fn a_hanging_permission_provider_fails_closed() {
    let (host, timer) = host(Scripted { verdict: Box::new(never), ..Scripted::default() });
    let answer = host.check(&identity("u", "c"), publish());
    let ticking = timer.tick_in_background(Duration::from_secs(5));
    let verdict = resolve(answer);
    ticking.join().unwrap();
    assert_eq!(verdict, Verdict::error("provider did not answer in time"));
    assert!(!verdict.permits(TenantSettings::default().by_pass_perm_check_error));
}

#[test]
fn a_timeout_counts_only_once_its_time_has_passed() {
    let (host, timer) = host(Scripted {
        auth: Box::new(never),
        verdict: Box::new(|| Answer::later(async { Verdict::Allowed })),
        ..Scripted::default()
    });
    let verdict = resolve(host.check(&identity("u", "c"), publish()));
    assert_eq!(verdict, Verdict::Allowed);
    assert_eq!(timer.sleeping(), 0);
    assert_eq!(host.counts().permission.failures(), 0);
}

/// PLG-013: a panic inside a call or inside its answer denies, and the host goes on.
#[test]
fn panicking_providers_fail_closed() {
    let scripted = || Scripted {
        auth: Box::new(|| panic!("auth")),
        verdict: Box::new(|| Answer::later(async { panic!("verdict") })),
        ..Scripted::default()
    };
    let (host, _) = host(scripted());
    quietly(|| {
        for _ in 0..2 {
            let (reason, detail) = denied(resolve(host.authenticate(request("c"))));
            assert_eq!((reason, detail.as_str()), (DenialReason::Error, "provider panicked"));
            let verdict = resolve(host.check(&identity("u", "c"), publish()));
            assert_eq!(verdict, Verdict::error("provider panicked"));
        }
    });
    assert_eq!((host.counts().auth.panics, host.counts().permission.panics), (2, 2));
    assert_eq!(host.counts().permission.pending, 0);
}

#[test]
fn beyond_the_limit_of_pending_answers_clients_are_refused() {
    let scripted = Scripted { auth: Box::new(never), ..Scripted::default() };
    let (host, _) = host_with(scripted, Limits { pending_max: 2, ..Limits::default() });
    let first = host.authenticate(request("a"));
    let second = host.authenticate(request("b"));
    let (reason, _) = denied(resolve(host.authenticate(request("c"))));
    assert_eq!(reason, DenialReason::Error);
    assert_eq!((host.counts().auth.refusals, host.counts().auth.pending), (1, 2));
    drop((first, second));
    assert_eq!(host.counts().auth.pending, 0);
    assert!(matches!(host.authenticate(request("d")), Answer::Later(_)));
}

/// TEN-027: without a tenant from the provider nobody is let in, nor by abstention.
#[test]
fn what_no_provider_decides_is_denied() {
    let (abstaining, _) = host(Scripted::default());
    let (reason, _) = denied(resolve(abstaining.authenticate(request("c"))));
    assert_eq!(reason, DenialReason::NotAuthorized);
    let nameless = || Answer::Now(AuthResult::Granted(Grant::default()));
    let (host, _) = host(Scripted { auth: Box::new(nameless), ..Scripted::default() });
    assert_eq!(denied(resolve(host.authenticate(request("c")))).0, DenialReason::Error);
}

/// PLG-004: re-authentication proves the same user; another one is refused.
#[test]
fn reauthentication_cannot_change_the_user() {
    let grant = || Grant { tenant: "default".into(), user: "bob".into(), ..Grant::default() };
    let auth = move || Answer::Now(AuthResult::Granted(grant()));
    let (host, _) = host(Scripted { auth: Box::new(auth), ..Scripted::default() });
    let again = |user: &str| AuthRequest {
        stage: AuthStage::Reauthenticate(identity(user, "c")),
        ..request("c")
    };
    assert_eq!(resolve(host.authenticate(again("bob"))), AuthResult::Granted(grant()));
    assert_eq!(denied(resolve(host.authenticate(again("eve")))).0, DenialReason::NotAuthorized);
}

/// PLG-004: an exchange has a method that is known, and an end.
#[test]
fn exchanges_are_bounded() {
    let (host, _) = host(Scripted::default());
    let mut unknown = host.begin(&AuthRequest { method: Some("X".into()), ..request("c") });
    assert_eq!(denied(resolve(unknown.step(b""))).0, DenialReason::BadMethod);
    let endless = AuthRequest { method: Some("ENDLESS".into()), ..request("c") };
    let mut exchange = host.begin(&endless);
    for _ in 0..EXCHANGE_STEPS_MAX {
        assert!(matches!(resolve(exchange.step(b"")), AuthResult::Continue(_)));
    }
    assert_eq!(denied(resolve(exchange.step(b""))).0, DenialReason::NotAuthorized);
    let mut broken = host.begin(&endless);
    assert_eq!(denied(quietly(|| resolve(broken.step(b"panic")))).0, DenialReason::Error);
    assert_eq!(denied(resolve(broken.step(b""))).0, DenialReason::Error);
}

#[test]
fn a_superuser_is_never_asked_about() {
    let (host, _) = host(Scripted {
        verdict: Box::new(|| Answer::Now(Verdict::denied("rule"))),
        ..Scripted::default()
    });
    let root = Identity { superuser: true, ..identity("root", "c") };
    assert_eq!(resolve(host.check(&root, publish())), Verdict::Allowed);
    assert_eq!(resolve(host.check(&identity("u", "c"), publish())), Verdict::denied("rule"));
    assert_eq!(host.counts().permission.calls, 1);
}

fn scripted_settings(
    next: &Arc<Mutex<anyhow::Result<Overrides>>>,
) -> Box<dyn Fn() -> Answer<anyhow::Result<Overrides>> + Send + Sync> {
    let next = next.clone();
    Box::new(move || {
        let answer = match &*next.lock() {
            Ok(overrides) => Ok(overrides.clone()),
            Err(error) => Err(anyhow::anyhow!("{error}")),
        };
        Answer::later(async move { answer })
    })
}

fn alias(value: u64) -> (String, Option<SettingValue>) {
    ("max_topic_alias".to_owned(), Some(SettingValue::Number(value)))
}

/// TEN-024, TEN-025: the first connection sees the provider's values, later ones its changes.
#[test]
fn settings_are_asked_for_first_and_again_when_old() {
    let next = Arc::new(Mutex::new(Ok(vec![alias(7)])));
    let scripted = Scripted { overrides: scripted_settings(&next), ..Scripted::default() };
    let (host, timer) = host(scripted);
    assert_eq!(host.settings_last_known("acme").max_topic_alias, 32);
    assert_eq!(resolve(host.settings("acme")).max_topic_alias, 7);
    *next.lock() = Ok(vec![alias(8)]);
    timer.advance(Duration::from_millis(1_999));
    assert_eq!(resolve(host.settings("acme")).max_topic_alias, 7);
    timer.advance(Duration::from_millis(1));
    let asking = host.settings("acme");
    assert!(matches!(host.settings("acme"), Answer::Now(known) if known.max_topic_alias == 7));
    assert_eq!(resolve(asking).max_topic_alias, 8);
    assert_eq!(host.settings_last_known("acme").max_topic_alias, 8);
    assert_eq!(resolve(host.settings("other")).max_topic_alias, 8);
}

/// TEN-023, PLG-007: what is out of range, null, or not answered keeps its current value.
#[test]
fn settings_that_are_wrong_or_missing_keep_the_last_value() {
    let next = Arc::new(Mutex::new(Ok(vec![alias(7)])));
    let scripted = Scripted { overrides: scripted_settings(&next), ..Scripted::default() };
    let (host, timer) = host(scripted);
    assert_eq!(resolve(host.settings("acme")).max_topic_alias, 7);
    let steps: [(anyhow::Result<Overrides>, u16); 5] = [
        (Err(anyhow::anyhow!("unreachable")), 7),
        (Ok(vec![alias(65_536)]), 7),
        (Ok(vec![("max_topic_alias".to_owned(), None)]), 7),
        (Ok(vec![("no_such_key".to_owned(), None), alias(9)]), 9),
        (Ok(vec![]), 32),
    ];
    for (answer, expected) in steps {
        let label = format!("{answer:?}");
        *next.lock() = answer;
        timer.advance(Duration::from_secs(2));
        assert_eq!(resolve(host.settings("acme")).max_topic_alias, expected, "{label}");
    }
}

#[test]
fn replaced_defaults_reach_every_tenant() {
    let (host, _) = host(Scripted::default());
    assert_eq!(resolve(host.settings("acme")).max_topic_alias, 32);
    host.replace_defaults(TenantSettings { max_topic_alias: 3, ..TenantSettings::default() });
    assert_eq!(resolve(host.settings("acme")).max_topic_alias, 3);
}

#[test]
fn more_tenants_than_fit_are_still_answered() {
    let limits = Limits { tenants_max: 2, ..Limits::default() };
    let (host, timer) = host_with(Scripted::default(), limits);
    for tenant in ["a", "b", "c", "c"] {
        resolve(host.settings(tenant));
    }
    assert_eq!(host.counts().settings.calls, 4, "the third tenant is asked for each time");
    timer.advance(Duration::from_secs(300));
    for tenant in ["c", "c"] {
        resolve(host.settings(tenant));
    }
    assert_eq!(host.counts().settings.calls, 5, "idle tenants make room");
}

struct Lifecycle {
    starts: bool,
    running: AtomicBool,
    reloads: AtomicU64,
}

impl Plugin for Lifecycle {
    fn name(&self) -> &str {
        "lifecycle"
    }

    fn start(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.starts, "not today");
        self.running.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn reload(&self) -> anyhow::Result<()> {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        anyhow::bail!("file is gone")
    }

    fn stop(&self) {
        self.running.store(false, Ordering::Relaxed);
    }
}

impl AuthProvider for Lifecycle {
    fn authenticate(&self, _request: AuthRequest) -> Answer<AuthResult> {
        Answer::Now(AuthResult::Abstained)
    }
}

impl PermissionProvider for Lifecycle {
    fn check(&self, _who: &Identity, _action: Action<'_>) -> Answer<Verdict> {
        Answer::Now(Verdict::Allowed)
    }
}

fn lifecycle(starts: bool) -> Arc<Lifecycle> {
    Arc::new(Lifecycle { starts, running: AtomicBool::new(false), reloads: AtomicU64::new(0) })
}

/// PLG-014: start and stop reach every plugin; one that does not start stops the others.
#[test]
fn plugins_are_started_reloaded_and_stopped() {
    let hosted = |auth: &Arc<Lifecycle>, permission: Arc<dyn PermissionProvider>| {
        let settings = Arc::new(StaticSettings);
        let providers = Providers { auth: auth.clone(), permission, settings };
        let timer: Arc<dyn Timer> = Arc::new(ManualTimer::default());
        Host::new(providers, TenantSettings::default(), &timer, Limits::default())
    };
    let auth = lifecycle(true);
    let host = hosted(&auth, lifecycle(false));
    let error = host.start().unwrap_err();
    assert_eq!(format!("{error:#}"), "plugin lifecycle does not start: not today");
    assert!(!auth.running.load(Ordering::Relaxed));

    let host = hosted(&auth, Arc::new(AllowAll));
    host.start().unwrap();
    assert!(auth.running.load(Ordering::Relaxed));
    let errors: Vec<_> = host.reload().iter().map(|error| format!("{error:#}")).collect();
    assert_eq!(errors, ["plugin lifecycle keeps what it had: file is gone"]);
    assert_eq!(auth.reloads.load(Ordering::Relaxed), 1);
    host.stop();
    assert!(!auth.running.load(Ordering::Relaxed));
}
