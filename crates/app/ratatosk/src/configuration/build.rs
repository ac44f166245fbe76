//! From single values to the configuration as a whole: what keys say together, and who may reach
//! what.

mod cluster;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ratatosk_contract::settings::TenantSettings;
use ratatosk_mqtt::transport::{self, ClientAuth, Layers, ProxyConfig, TlsConfig, WebSocketConfig};
use ratatosk_plugin::config::{Config as Auth, Registries};
use ratatosk_telemetry::memory::machine;
use ratatosk_telemetry::{ByteCount, log};

use crate::configuration::effective::Effective;
use crate::configuration::kind::Value;
use crate::configuration::problem::{Problem, Refused};
use crate::configuration::resolve::Fields;
use crate::configuration::{Cluster, Configuration, Limits, Listener, Mqtt, Protocol, Roles};

/// The payload of one WebSocket frame: the largest packet of MQTT. What a tenant's clients may
/// send is for the session to judge, which can say 0x95; frames are passed on as they arrive.
const FRAME_BYTES_MAX: usize = 268_435_460;

/// Builds the configuration and collects what is wrong.
pub(super) struct Builder {
    fields: Fields,
    problems: Vec<Problem>,
}

impl Builder {
    pub(super) fn new(fields: Fields, problems: Vec<Problem>) -> Self {
        Self { fields, problems }
    }

    pub(super) fn build(mut self) -> Result<Configuration, Refused> {
        let tenant = self.tenant();
        let auth = self.auth();
        let listeners = self.listeners(&tenant, &auth);
        self.try_auth(&auth, &listeners);
        let cluster = self.cluster();
        let roles = self.roles(cluster.as_ref());
        let admin = self.admin();
        let configuration = Configuration {
            data_dir: self.path("data_dir").unwrap_or_default(),
            roles,
            auth,
            admin,
            cluster,
            mqtt: Mqtt { shards: self.shards() },
            limits: self.limits(),
            memory_limit: self.memory_limit(),
            metrics_tenants_max: to_usize(self.count("metrics.max_tenants")),
            tenant,
            log: self.log(),
            effective: Effective::new(&self.fields, &listeners),
            listeners,
        };
        if self.problems.is_empty() { Ok(configuration) } else { Err(Refused::new(self.problems)) }
    }

    fn complain(&mut self, path: &str, what: impl Into<String>) {
        let problem =
            Problem { origin: self.fields.origin(path), key: path.to_owned(), what: what.into() };
        // A value that was refused already is not missing.
        if !self.problems.iter().any(|known| known.key == path) {
            self.problems.push(problem);
        }
    }

    fn flag(&self, path: &str) -> Option<bool> {
        match self.fields.value(path) {
            Some(Value::Flag(flag)) => Some(*flag),
            None => None,
            Some(other) => wrong_kind(path, other),
        }
    }

    fn count(&self, path: &str) -> u64 {
        match self.fields.value(path) {
            Some(Value::Count(count)) => *count,
            // It was refused, so what is built is thrown away.
            None => 0,
            Some(other) => wrong_kind(path, other),
        }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        match self.fields.value(path) {
            Some(Value::Path(value)) => Some(value.clone()),
            None => None,
            Some(other) => wrong_kind(path, other),
        }
    }

    fn text(&self, path: &str) -> Option<String> {
        match self.fields.value(path) {
            Some(Value::Text(text)) => Some(text.clone()),
            None => None,
            Some(other) => wrong_kind(path, other),
        }
    }

    fn address(&self, path: &str) -> Option<SocketAddr> {
        match self.fields.value(path) {
            Some(Value::Address(address)) => Some(*address),
            None => None,
            Some(other) => wrong_kind(path, other),
        }
    }

    fn choice(&self, path: &str) -> &'static str {
        match self.fields.value(path) {
            Some(Value::Choice(word)) => word,
            None => "",
            Some(other) => wrong_kind(path, other),
        }
    }

    /// A path that its section cannot do without.
    fn required_path(&mut self, path: &str) -> PathBuf {
        self.path(path).unwrap_or_else(|| {
            self.complain(path, "is missing");
            PathBuf::new()
        })
    }

    fn roles(&mut self, cluster: Option<&Cluster>) -> Roles {
        let words = match self.fields.value("roles") {
            Some(Value::Choices(words)) => words.clone(),
            None => Vec::new(),
            Some(other) => wrong_kind("roles", other),
        };
        let has = |role| words.contains(&"all") || words.contains(&role);
        let roles = Roles {
            mqtt: has("mqtt"),
            dist: has("dist"),
            inbox: has("inbox"),
            retain: has("retain"),
            session_dict: has("session-dict"),
            admin: has("admin"),
        };
        let missing = |needless: &[&str]| {
            let all = roles.all().into_iter();
            let missing = all.filter(|(role, is_on)| !is_on && !needless.contains(role));
            missing.map(|(role, _)| role).collect::<Vec<_>>().join(", ")
        };
        let makes_cluster = |cluster: &Cluster| cluster.join.is_empty() && cluster.expect.is_none();
        let (missing, who, remedy) = match cluster {
            None => (missing(&["admin"]), "stands alone", "a [cluster]"),
            // Clients may be at nodes that come later.
            Some(cluster) if makes_cluster(cluster) => {
                (missing(&["admin", "mqtt"]), "has nobody to join", "cluster.join")
            }
            Some(_) => return roles,
        };
        if !missing.is_empty() {
            let what =
                format!("a node that {who} cannot do without {missing}: add it, or {remedy}");
            self.complain("roles", what);
        }
        roles
    }

    fn tenant(&mut self) -> TenantSettings {
        let set: Vec<_> = TenantSettings::KEYS
            .iter()
            .filter_map(|name| match self.fields.value(&format!("tenant.{name}")) {
                Some(Value::Setting(value)) => Some((*name, value.clone())),
                _ => None,
            })
            .collect();
        let (settings, refused) =
            TenantSettings::default().overridden(set.iter().map(|(name, value)| (*name, value)));
        for error in refused {
            self.complain(
                &format!("tenant.{}", error.key),
                format!("{}: {}", error.value, error.why),
            );
        }
        settings
    }

    fn auth(&self) -> Auth {
        let is_on = |name: &str| self.flag(&format!("auth.{name}")).unwrap_or(false);
        let text = |name: &str| self.text(&format!("auth.{name}"));
        Auth {
            anonymous: self.flag("auth.anonymous"),
            password_file: self.path("auth.password_file"),
            acl_file: self.path("auth.acl_file"),
            certificate_identity: is_on("certificate_identity"),
            development: is_on("development"),
            tenant: text("tenant").unwrap_or_default(),
            tenant_from_user: is_on("tenant_from_user"),
            provider: text("provider"),
            permission_provider: text("permission_provider"),
            settings_provider: text("settings_provider"),
            timeout_seconds: u16::try_from(self.count("auth.timeout_seconds")).unwrap_or(u16::MAX),
        }
    }

    /// What the files say and the names mean is found before a socket is opened.
    fn try_auth(&mut self, auth: &Auth, listeners: &[Listener]) {
        let listeners: Vec<_> = listeners
            .iter()
            .map(|listener| (listener.address.to_string(), is_loopback(listener.address)))
            .collect();
        if self.problems.is_empty()
            && let Err(error) = auth.open(&listeners, &Registries::default())
        {
            self.complain("auth", format!("{error:#}"));
        }
    }

    fn admin(&mut self) -> ratatosk_admin::Config {
        let address = self.address("admin.address").unwrap_or_else(|| loopback(0));
        let token = match self.fields.value("admin.token") {
            Some(Value::Secret(token)) => Some(token.clone()),
            _ => None,
        };
        ratatosk_admin::Config::new(address, token).unwrap_or_else(|error| {
            self.complain(
                "admin.address",
                format!(
                    "{error}: set admin.token (or RATATOSK_ADMIN__TOKEN_FILE), or listen on 127.0.0.1"
                ),
            );
            ratatosk_admin::Config::loopback()
        })
    }

    fn shards(&self) -> usize {
        match to_usize(self.count("mqtt.shards")) {
            0 => ratatosk_mqtt::default_shards(),
            count => count,
        }
    }

    fn limits(&self) -> Limits {
        let seconds = |path| Duration::from_secs(self.count(path));
        Limits {
            connections_per_second_max: Some(self.count("limits.max_connections_per_second"))
                .filter(|limit| *limit > 0),
            disconnects_per_second_max: self.count("limits.max_disconnects_per_second"),
            connect_timeout: seconds("limits.connect_timeout_seconds"),
            shutdown_timeout: seconds("limits.shutdown_timeout_seconds"),
        }
    }

    fn memory_limit(&self) -> ByteCount {
        match self.fields.value("memory.limit") {
            Some(Value::Bytes(Some(limit))) => *limit,
            _ => machine::default_limit(),
        }
    }

    fn log(&self) -> log::Config {
        let format = match self.choice("log.format") {
            "text" => log::Format::Text,
            "json" => log::Format::Json,
            _ => log::Format::Auto,
        };
        let filter = match self.fields.value("log.level") {
            Some(Value::Filter(filter)) => filter.clone(),
            _ => log::Filter::default(),
        };
        log::Config { format, filter }
    }

    fn listeners(&mut self, tenant: &TenantSettings, auth: &Auth) -> Vec<Listener> {
        let packet_size_max = to_usize(u64::from(tenant.max_user_payload_bytes));
        let Some(count) = self.fields.listeners else {
            return default_listeners(packet_size_max, auth);
        };
        let listeners: Vec<_> = (0..count)
            .filter_map(|index| self.listener(&format!("listener.{index}"), packet_size_max, auth))
            .collect();
        for (index, listener) in listeners.iter().enumerate() {
            let taken = |other: &Listener| {
                other.address == listener.address && listener.address.port() != 0
            };
            if listeners[..index].iter().any(taken) {
                self.complain(
                    &format!("listener.{index}.address"),
                    format!("{} is taken by another listener", listener.address),
                );
            }
        }
        listeners
    }

    fn listener(&mut self, section: &str, packet_size_max: usize, auth: &Auth) -> Option<Listener> {
        let key = |name: &str| format!("{section}.{name}");
        let protocol = match self.choice(&key("protocol")) {
            "mqtts" => Protocol::Mqtts,
            "ws" => Protocol::Ws,
            "wss" => Protocol::Wss,
            _ => Protocol::Mqtt,
        };
        let Some(address) = self.address(&key("address")) else {
            self.complain(&key("address"), "is missing");
            return None;
        };
        let transport = transport::Config {
            websocket: self.websocket(section, protocol),
            tls: self.tls(section, protocol),
            proxy_protocol: self.proxy_protocol(section),
            packet_size_max,
        };
        // Files that cannot be used are found before a socket is opened.
        if self.problems.is_empty()
            && let Err(error) = Layers::open(&transport)
        {
            self.complain(&key("tls.certificate"), error.to_string());
        }
        let anonymous = self.anonymous(section, protocol, address, auth);
        Some(Listener { protocol, address, transport, anonymous, required: true })
    }

    fn websocket(&mut self, section: &str, protocol: Protocol) -> Option<WebSocketConfig> {
        let key = format!("{section}.path");
        let path = self.text(&key).unwrap_or_default();
        if protocol.is_websocket() {
            return Some(WebSocketConfig { path, frame_max: FRAME_BYTES_MAX });
        }
        if self.fields.has_written(&key) {
            self.complain(&key, format!("has no meaning for {}: use ws or wss", protocol.name()));
        }
        None
    }

    fn tls(&mut self, section: &str, protocol: Protocol) -> Option<TlsConfig> {
        let tls = format!("{section}.tls");
        let written = self.fields.has_section(&tls);
        if !protocol.is_tls() {
            if written {
                let name = protocol.name();
                let secure = if protocol.is_websocket() { "wss" } else { "mqtts" };
                self.complain(&tls, format!("has no meaning for {name}: use {secure}"));
            }
            return None;
        }
        if !written {
            let name = protocol.name();
            self.complain(&tls, format!("{name} needs tls.certificate and tls.key"));
            return None;
        }
        let certificate = self.required_path(&format!("{tls}.certificate"));
        let key = self.required_path(&format!("{tls}.key"));
        let client_auth = match self.choice(&format!("{tls}.client_auth")) {
            "optional" => ClientAuth::Optional,
            "required" => ClientAuth::Required,
            _ => ClientAuth::None,
        };
        let client_ca = self.path(&format!("{tls}.client_ca"));
        let crl = self.path(&format!("{tls}.crl"));
        Some(TlsConfig { certificate, key, client_ca, crl, client_auth })
    }

    fn proxy_protocol(&mut self, section: &str) -> Option<ProxyConfig> {
        let proxy = format!("{section}.proxy_protocol");
        if !self.fields.has_section(&proxy) {
            return None;
        }
        let key = format!("{proxy}.trusted");
        let Some(Value::Networks(trusted)) = self.fields.value(&key).cloned() else {
            self.complain(&key, "is missing: name the proxies, such as [\"10.0.0.0/8\"]");
            return None;
        };
        let required = self.flag(&format!("{proxy}.required")).unwrap_or(false);
        Some(ProxyConfig { trusted, required })
    }

    /// Whether clients without credentials are let in at a listener. Reachable by others, it must
    /// be said by name; who says nothing must have named somebody who identifies clients.
    fn anonymous(
        &mut self,
        section: &str,
        protocol: Protocol,
        address: SocketAddr,
        auth: &Auth,
    ) -> bool {
        let unsaid = Auth { anonymous: None, ..auth.clone() };
        let is_identified = !unsaid.allows_anonymous(true);
        let is_open = !is_loopback(address) && auth.anonymous.is_none() && !is_identified;
        if is_open {
            let name = protocol.name();
            self.complain(
                &format!("{section}.address"),
                format!(
                    "{name} {address} can be reached by others and nothing says who may connect: \
                     either name users (`ratatosk passwd FILE USER`, then auth.password_file = \"FILE\"), \
                     or let everybody in knowingly (auth.anonymous = true, or --allow-anonymous)"
                ),
            );
        }
        auth.allows_anonymous(is_loopback(address))
    }
}

/// Whether only this machine reaches the address.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn default_listeners(packet_size_max: usize, auth: &Auth) -> Vec<Listener> {
    let anonymous = auth.allows_anonymous(true);
    let both = [(Protocol::Mqtt, 1883), (Protocol::Ws, 8083)];
    both.into_iter()
        .flat_map(|(protocol, port)| {
            [loopback(port), SocketAddr::from((Ipv6Addr::LOCALHOST, port))].map(|address| {
                let websocket = protocol.is_websocket().then(|| WebSocketConfig {
                    path: "/mqtt".to_owned(),
                    frame_max: FRAME_BYTES_MAX,
                });
                let transport = transport::Config {
                    websocket,
                    tls: None,
                    proxy_protocol: None,
                    packet_size_max,
                };
                let required = address.is_ipv4();
                Listener { protocol, address, transport, anonymous, required }
            })
        })
        .collect()
}

/// # Panics
/// Always: the table of keys and its reader disagree.
fn wrong_kind(path: &str, value: &Value) -> ! {
    panic!("{path} is read as another kind than {value:?}")
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
