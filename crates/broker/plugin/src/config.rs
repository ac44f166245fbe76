//! The `[auth]` section: which providers there are, and how they are joined.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::auth::AuthProvider;
use crate::builtin::{
    AclFile, AllowAll, Anonymous, CertificateIdentity, Chain, Development, Passwords,
    StaticSettings, Tenancy,
};
use crate::host::{Limits, Providers};
use crate::permission::PermissionProvider;
use crate::registry::Registry;
use crate::settings::SettingsProvider;

/// Who is let in, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Clients without credentials: everywhere, nowhere, or (absent) on loopback listeners as
    /// long as nothing else authenticates.
    pub anonymous: Option<bool>,
    /// The file of users and password hashes.
    pub password_file: Option<PathBuf>,
    /// The file of access rules; without one everybody may do everything in its tenant.
    pub acl_file: Option<PathBuf>,
    /// The common name of a verified client certificate is the user.
    pub certificate_identity: bool,
    /// Every client is who it says. Never in production.
    pub development: bool,
    /// The tenant of users that name none.
    pub tenant: String,
    /// A proven user name `tenant/user` names its tenant.
    pub tenant_from_user: bool,
    /// An auth provider that is compiled in, by name; asked before all others.
    pub provider: Option<String>,
    /// A permission provider that is compiled in, by name; instead of `acl_file`.
    pub permission_provider: Option<String>,
    /// A settings provider that is compiled in, by name.
    pub settings_provider: Option<String>,
    /// Seconds that a provider has for an answer.
    pub timeout_seconds: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            anonymous: None,
            password_file: None,
            acl_file: None,
            certificate_identity: false,
            development: false,
            tenant: "default".to_owned(),
            tenant_from_user: false,
            provider: None,
            permission_provider: None,
            settings_provider: None,
            timeout_seconds: 5,
        }
    }
}

/// The providers that are compiled in beside the built-in ones, by name.
pub struct Registries {
    /// Auth providers.
    pub auth: Registry<dyn AuthProvider>,
    /// Permission providers.
    pub permission: Registry<dyn PermissionProvider>,
    /// Settings providers.
    pub settings: Registry<dyn SettingsProvider>,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            auth: Registry::new("auth provider"),
            permission: Registry::new("permission provider"),
            settings: Registry::new("settings provider"),
        }
    }
}

impl Config {
    /// Checks what can be checked without opening a file.
    pub fn validate(&self) -> anyhow::Result<()> {
        let is_name = !self.tenant.is_empty() && !self.tenant.contains(['/', '\0', '+', '#']);
        anyhow::ensure!(is_name, "auth.tenant = {:?}: empty, or has one of / + #", self.tenant);
        anyhow::ensure!(
            (1..=300).contains(&self.timeout_seconds),
            "auth.timeout_seconds = {}: not in 1 to 300",
            self.timeout_seconds
        );
        anyhow::ensure!(
            self.acl_file.is_none() || self.permission_provider.is_none(),
            "auth.acl_file and auth.permission_provider exclude each other"
        );
        Ok(())
    }

    /// Whether clients without credentials are let in by a listener.
    pub fn allows_anonymous(&self, is_loopback: bool) -> bool {
        let is_alone = self.password_file.is_none()
            && !self.certificate_identity
            && !self.development
            && self.provider.is_none();
        self.anonymous.unwrap_or(is_loopback && is_alone)
    }

    /// Opens the providers. `listeners` are the names of all listeners, and whether only this
    /// machine reaches them. A file or a name that is wrong stops the start.
    pub fn open(
        &self,
        listeners: &[(String, bool)],
        registries: &Registries,
    ) -> anyhow::Result<Providers> {
        self.validate()?;
        let mut chain: Vec<Arc<dyn AuthProvider>> = Vec::new();
        if let Some(name) = &self.provider {
            chain.push(registries.auth.make(name)?);
        }
        if self.certificate_identity {
            chain.push(Arc::new(CertificateIdentity::new(self.tenancy())));
        }
        if let Some(path) = &self.password_file {
            chain.push(Arc::new(Passwords::open(path, self.tenancy())?));
        }
        if self.development {
            chain.push(Arc::new(Development::new(&self.tenant)));
        }
        chain.push(Arc::new(Anonymous::on(
            listeners
                .iter()
                .filter(|(_, is_loopback)| self.allows_anonymous(*is_loopback))
                .map(|(name, _)| name.as_str()),
            &self.tenant,
        )));
        let permission: Arc<dyn PermissionProvider> =
            match (&self.permission_provider, &self.acl_file) {
                (Some(name), _) => registries.permission.make(name)?,
                (None, Some(path)) => Arc::new(AclFile::open(path)?),
                (None, None) => Arc::new(AllowAll),
            };
        let settings: Arc<dyn SettingsProvider> = match &self.settings_provider {
            Some(name) => registries.settings.make(name)?,
            None => Arc::new(StaticSettings),
        };
        Ok(Providers { auth: Arc::new(Chain::new(chain)), permission, settings })
    }

    /// The bounds of the host.
    pub fn limits(&self) -> Limits {
        let timeout = Duration::from_secs(u64::from(self.timeout_seconds));
        Limits { timeout, ..Limits::default() }
    }

    fn tenancy(&self) -> Tenancy {
        if self.tenant_from_user {
            Tenancy::FromUser { default: self.tenant.clone() }
        } else {
            Tenancy::Single(self.tenant.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AuthRequest, AuthResult};
    use crate::passwd::{self, Costs, Schemes};
    use crate::secret::Secret;
    use crate::testing::{TempDir, request, resolve};

    fn listeners() -> Vec<(String, bool)> {
        vec![("local".to_owned(), true), ("public".to_owned(), false)]
    }

    fn enters(config: &Config, listener: &str, user: Option<&str>) -> bool {
        let providers = config.open(&listeners(), &Registries::default()).unwrap();
        let request = AuthRequest {
            listener: listener.into(),
            username: user.map(Into::into),
            password: user.map(|_| Secret::from("secret")),
            ..request("c")
        };
        matches!(resolve(providers.auth.authenticate(request)), AuthResult::Granted(_))
    }

    /// SEC-003: nothing but loopback is open unless asked for by name.
    #[test]
    fn by_default_only_loopback_is_open() {
        let config = Config::default();
        assert!(enters(&config, "local", None));
        assert!(!enters(&config, "public", None));
        assert!(!enters(&config, "public", Some("tenant/user")));
        let open = Config { anonymous: Some(true), ..Config::default() };
        assert!(enters(&open, "public", None));
        let closed = Config { anonymous: Some(false), ..Config::default() };
        assert!(!enters(&closed, "local", None));
        let development = Config { development: true, ..Config::default() };
        assert!(enters(&development, "public", Some("tenant/user")));
    }

    #[test]
    fn a_password_file_closes_what_was_open_by_default() {
        let dir = TempDir::new();
        let path = dir.path().join("passwd");
        let costs = Costs { memory_kib: 64, passes: 1, iterations: 4_096 };
        let secret = Secret::from("secret");
        passwd::set_with(&path, "alice", &secret, Schemes::Argon2, costs).unwrap();
        let config = Config { password_file: Some(path), ..Config::default() };
        assert!(enters(&config, "public", Some("alice")));
        assert!(!enters(&config, "local", Some("bob")));
        assert!(!enters(&config, "local", None));
        let both = Config { anonymous: Some(true), ..config };
        assert!(enters(&both, "public", None));
        assert!(!enters(&both, "public", Some("bob")), "a wrong user is not let in as nobody");
    }

    fn failure(config: &Config) -> String {
        let opened = config.open(&listeners(), &Registries::default());
        opened.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    /// PLG-012: what cannot be opened stops the start.
    #[test]
    fn files_and_names_that_are_wrong_stop_the_start() {
        let dir = TempDir::new();
        let acl = dir.file("acl", "topic\n");
        let missing = dir.path().join("missing");
        let with = |change: fn(&mut Config, PathBuf), path: &PathBuf| {
            let mut config = Config::default();
            change(&mut config, path.clone());
            failure(&config)
        };
        let error = with(|config, path| config.acl_file = Some(path), &acl);
        assert_eq!(error, format!("{}:1: a filter is missing", acl.display()));
        let error = with(|config, path| config.password_file = Some(path), &missing);
        assert!(error.starts_with(&missing.display().to_string()), "{error}");
        let error = with(|config, _| config.provider = Some("ldap".to_owned()), &acl);
        assert_eq!(error, "no auth provider is called \"ldap\"; there is none");
        assert!(!with(|config, _| config.tenant = String::new(), &acl).is_empty());
        assert!(!with(|config, _| config.timeout_seconds = 0, &acl).is_empty());
    }

    #[test]
    fn the_section_is_read_and_unknown_keys_are_refused() {
        let config: Config = toml::from_str("anonymous = true\nacl_file = \"acl\"\n").unwrap();
        let expected =
            Config { anonymous: Some(true), acl_file: Some("acl".into()), ..Config::default() };
        assert_eq!(config, expected);
        let error = toml::from_str::<Config>("anonimous = true").unwrap_err();
        assert!(error.to_string().contains("anonimous"), "{error}");
    }
}
