//! Who the password file lets in.

use ratatosk_contract::settings::TenantSettings;

use super::*;
use crate::auth::{AuthStage, Challenge};
use crate::builtin::{AllowAll, StaticSettings};
use crate::host::{Host, Limits, Providers, Timer};
use crate::passwd::{self, Schemes};
use crate::permission::Identity;
use crate::scram::tests::Client;
use crate::testing::{ManualTimer, TempDir, identity, request, resolve};

const CHEAP: passwd::Costs = passwd::Costs { memory_kib: 64, passes: 1, iterations: 4_096 };

fn set(path: &Path, user: &str, password: &str) {
    passwd::set_with(path, user, &Secret::from(password), Schemes::Both, CHEAP).unwrap();
}

fn opened(users: &[(&str, &str)]) -> (TempDir, Arc<Passwords>) {
    let dir = TempDir::new();
    let path = dir.file("passwd", "# users\n");
    users.iter().for_each(|(user, password)| set(&path, user, password));
    let passwords = Passwords::open(&path, Tenancy::Single("main".to_owned())).unwrap();
    (dir, Arc::new(passwords))
}

fn login(passwords: &Passwords, user: Option<&str>, password: Option<&str>) -> AuthResult {
    resolve(passwords.authenticate(AuthRequest {
        username: user.map(Into::into),
        password: password.map(Secret::from),
        ..request("c")
    }))
}

fn user_of(result: AuthResult) -> Result<String, DenialReason> {
    match result {
        AuthResult::Granted(grant) => {
            assert_eq!(grant.tenant, "main");
            Ok(grant.user)
        }
        AuthResult::Denied(denial) => Err(denial.reason),
        other => panic!("{other:?}"),
    }
}

/// MQTT-021, PLG-002: the right password grants, everything else is a bad password.
#[test]
fn passwords_are_compared() {
    let (_dir, passwords) = opened(&[("alice", "secret"), ("bob", "other")]);
    let check = |user, password| user_of(login(&passwords, Some(user), password));
    assert_eq!(check("alice", Some("secret")), Ok("alice".to_owned()));
    assert_eq!(check("bob", Some("other")), Ok("bob".to_owned()));
    for (user, password) in [
        ("alice", Some("other")),
        ("alice", Some("")),
        ("alice", None),
        ("Alice", Some("secret")),
        ("carol", Some("secret")),
        ("", Some("secret")),
    ] {
        assert_eq!(check(user, password), Err(DenialReason::BadPassword), "{user} {password:?}");
    }
    assert_eq!(login(&passwords, None, Some("secret")), AuthResult::Abstained);
}

#[test]
fn a_password_is_compared_off_the_asking_thread() {
    let (_dir, passwords) = opened(&[("alice", "secret"), ("bob", "other")]);
    let answer = passwords.authenticate(AuthRequest {
        username: Some("alice".into()),
        password: Some(Secret::from("secret")),
        ..request("c")
    });
    assert!(matches!(answer, Answer::Later(_)));
    passwords.stop();
    // The first one may be known by now.
    let result = login(&passwords, Some("bob"), Some("other"));
    assert_eq!(user_of(result), Err(DenialReason::Error), "after the stop nothing is compared");
}

/// The hash that stands in for an unknown user asks for the same memory and passes.
#[test]
fn an_unknown_user_costs_as_much_as_a_wrong_password() {
    let dir = TempDir::new();
    let path = dir.file("passwd", "");
    let costs = passwd::Costs { memory_kib: 4_096, passes: 3, iterations: 4_096 };
    passwd::set_with(&path, "alice", &Secret::from("secret"), Schemes::Argon2, costs).unwrap();
    let known = load(&path, [0; 32]).unwrap();
    assert_eq!(format!("{:?}", known.nobody), "argon2id hash of 4096 KiB");
    let costliest = known.users.costliest();
    assert_eq!((costliest.m_cost(), costliest.t_cost(), costliest.p_cost()), (4_096, 3, 1));
    assert!(!known.prove(&"nobody".into(), &Secret::from("secret")));
}

#[test]
fn a_proven_password_is_known_at_once_and_no_other_is() {
    let (_dir, passwords) = opened(&[("alice", "secret"), ("bob", "other")]);
    let ask = |user: &str, password: &str| {
        passwords.authenticate(AuthRequest {
            username: Some(user.into()),
            password: Some(Secret::from(password)),
            ..request("c")
        })
    };
    let is_now = |user, password| matches!(ask(user, password), Answer::Now(_));
    assert!(!is_now("alice", "secret"), "the first time takes the slow way");
    assert!(user_of(resolve(ask("alice", "wrong"))).is_err());
    assert!(!is_now("alice", "wrong"), "what was not proven is not remembered");
    assert!(user_of(resolve(ask("alice", "secret"))).is_ok());
    assert!(is_now("alice", "secret"));
    assert_eq!(user_of(resolve(ask("alice", "secret"))), Ok("alice".to_owned()));
    for (user, password) in [("alice", "wrong"), ("bob", "secret"), ("", "secret")] {
        assert!(!is_now(user, password), "{user} {password}");
    }
    passwords.reload().unwrap();
    assert!(!is_now("alice", "secret"), "a reload forgets");
}

#[test]
fn reloading_replaces_the_users_and_raises_the_epoch() {
    let (dir, passwords) = opened(&[("alice", "secret")]);
    let path = dir.path().join("passwd");
    let before = passwords.epoch();
    passwd::remove(&path, "alice").unwrap();
    set(&path, "bob", "other");
    assert!(user_of(login(&passwords, Some("alice"), Some("secret"))).is_ok());
    passwords.reload().unwrap();
    assert!(passwords.epoch() > before);
    assert!(user_of(login(&passwords, Some("alice"), Some("secret"))).is_err());
    assert!(user_of(login(&passwords, Some("bob"), Some("other"))).is_ok());

    let epoch = passwords.epoch();
    std::fs::write(&path, "bob:secret\n").unwrap();
    let error = passwords.reload().unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:1: ", path.display())), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert!(user_of(login(&passwords, Some("bob"), Some("other"))).is_ok());
    assert_eq!(passwords.epoch(), epoch);
}

fn host(passwords: &Arc<Passwords>) -> Host {
    let providers = Providers {
        auth: passwords.clone(),
        permission: Arc::new(AllowAll),
        settings: Arc::new(StaticSettings),
    };
    let timer: Arc<dyn Timer> = Arc::new(ManualTimer::default());
    Host::new(providers, TenantSettings::default(), &timer, Limits::default())
}

/// Runs a whole exchange as a client; returns its end and whether the server proved itself.
fn exchange(host: &Host, user: &str, password: &str, stage: AuthStage) -> (AuthResult, bool) {
    let request = AuthRequest { method: Some(scram::METHOD.into()), stage, ..request("c") };
    let client = Client::new(user, password, "cnonce");
    let mut exchange = host.begin(&request);
    let challenge = match resolve(exchange.step(client.first().as_bytes())) {
        AuthResult::Continue(Challenge { data, .. }) => String::from_utf8(data).unwrap(),
        other => return (other, false),
    };
    let (last, expected) = client.last(&challenge);
    let result = resolve(exchange.step(last.as_bytes()));
    let is_proven = matches!(
        &result,
        AuthResult::Granted(grant) if grant.auth_data.as_deref() == Some(expected.as_bytes())
    );
    let after = resolve(exchange.step(last.as_bytes()));
    assert!(matches!(after, AuthResult::Denied(_)), "an exchange ends once");
    (result, is_proven)
}

/// PLG-004: continue, then success with the server's own proof, or failure.
#[test]
fn scram_authenticates_both_sides() {
    let (_dir, passwords) = opened(&[("alice", "secret")]);
    let host = host(&passwords);
    let (result, is_proven) = exchange(&host, "alice", "secret", AuthStage::Connect);
    assert_eq!((user_of(result), is_proven), (Ok("alice".to_owned()), true));
    for (user, password) in [("alice", "wrong"), ("carol", "secret")] {
        let (result, _) = exchange(&host, user, password, AuthStage::Connect);
        assert_eq!(user_of(result), Err(DenialReason::BadPassword), "{user}");
    }
    let mut malformed =
        host.begin(&AuthRequest { method: Some(scram::METHOD.into()), ..request("c") });
    assert_eq!(user_of(resolve(malformed.step(b""))), Err(DenialReason::NotAuthorized));
}

/// PLG-004: a live session may prove itself again, as the same user only.
#[test]
fn scram_reauthenticates_the_same_user_only() {
    let (_dir, passwords) = opened(&[("alice", "secret"), ("bob", "other")]);
    let host = host(&passwords);
    let live =
        || AuthStage::Reauthenticate(Identity { tenant: "main".into(), ..identity("alice", "c") });
    let (result, is_proven) = exchange(&host, "alice", "secret", live());
    assert_eq!((user_of(result), is_proven), (Ok("alice".to_owned()), true));
    assert_eq!(user_of(exchange(&host, "alice", "x", live()).0), Err(DenialReason::BadPassword));
    assert_eq!(
        user_of(exchange(&host, "bob", "other", live()).0),
        Err(DenialReason::NotAuthorized)
    );
}

#[test]
fn only_the_method_of_the_file_is_taken() {
    let (_dir, passwords) = opened(&[("alice", "secret")]);
    for method in ["SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "scram-sha-256", ""] {
        let request = AuthRequest { method: Some(method.into()), ..request("c") };
        assert!(passwords.begin(&request).is_none(), "{method}");
    }
}

#[test]
fn each_exchange_has_its_own_nonce() {
    let (_dir, passwords) = opened(&[("alice", "secret")]);
    let host = host(&passwords);
    let challenge = || {
        let request = AuthRequest { method: Some(scram::METHOD.into()), ..request("c") };
        match resolve(host.begin(&request).step(b"n,,n=alice,r=x")) {
            AuthResult::Continue(challenge) => challenge.data,
            other => panic!("{other:?}"),
        }
    };
    assert_ne!(challenge(), challenge());
}
