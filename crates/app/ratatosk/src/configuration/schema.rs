//! Every key of the configuration: its path, kind, default and meaning. The one place where a key
//! is declared.
//!
//! From this table follow the checks, the defaults, `config show`, the suggestions and
//! `docs/configuration.md`. The tenant settings are appended from their own table. In a path `[]`
//! stands for an element's number.

mod cluster;

use ratatosk_contract::settings::TenantSettings;

use crate::configuration::kind::Kind;

/// As many threads as the data plane can have.
const SHARDS_MAX: u64 = ratatosk_contract::ShardId::COUNT_MAX as u64;

/// One key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// As it would be written in the file.
    pub(crate) default: Standard,
    /// Whether SIGHUP takes a new value over.
    pub(crate) reload: bool,
    /// For the reference, which a test writes.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) about: &'static str,
}

/// What holds when a key is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    /// This value, as text.
    Value(String),
    /// No value.
    Unset,
    /// It must be set where its section is.
    Required,
}

const fn row(
    path: &'static str,
    kind: Kind,
    default: Row,
    reload: Reload,
    about: &'static str,
) -> (&'static str, Kind, Row, Reload, &'static str) {
    (path, kind, default, reload, about)
}

#[derive(Clone, Copy)]
enum Row {
    Value(&'static str),
    Unset,
    Required,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reload {
    Yes,
    No,
}

/// The services that can be switched on alone.
pub(crate) const ROLES: &[&str] =
    &["all", "mqtt", "dist", "inbox", "retain", "session-dict", "admin"];

const ROWS: &[(&str, Kind, Row, Reload, &str)] = &[
    row(
        "data_dir",
        Kind::Path,
        Row::Value("./ratatosk-data"),
        Reload::No,
        "Where everything that must survive a restart is kept. It is made if it is missing.",
    ),
    row(
        "roles",
        Kind::Choices(ROLES),
        Row::Value("all"),
        Reload::No,
        "The services of this node: whether it has clients, and what it keeps for the cluster ([cluster.md](cluster.md)).",
    ),
    row(
        "listener[].protocol",
        Kind::Choice(&["mqtt", "mqtts", "ws", "wss"]),
        Row::Value("mqtt"),
        Reload::No,
        "What is spoken: MQTT over TCP, TLS, WebSocket or secure WebSocket.",
    ),
    row(
        "listener[].address",
        Kind::Address,
        Row::Required,
        Reload::No,
        "Where to listen; 0.0.0.0 or [::] is every address of the machine.",
    ),
    row(
        "listener[].path",
        Kind::WebPath,
        Row::Value("/mqtt"),
        Reload::No,
        "The path of a WebSocket listener.",
    ),
    row(
        "listener[].proxy_protocol.trusted",
        Kind::Networks,
        Row::Required,
        Reload::No,
        "The proxies whose PROXY headers are believed.",
    ),
    row(
        "listener[].proxy_protocol.required",
        Kind::Flag,
        Row::Value("false"),
        Reload::No,
        "A connection without a PROXY header is refused.",
    ),
    row(
        "listener[].tls.certificate",
        Kind::Path,
        Row::Required,
        Reload::No,
        "The certificate and the intermediate ones, PEM. The file is watched: a new one is used without restart.",
    ),
    row(
        "listener[].tls.key",
        Kind::Path,
        Row::Required,
        Reload::No,
        "The private key of the certificate, PEM.",
    ),
    row(
        "listener[].tls.client_ca",
        Kind::Path,
        Row::Unset,
        Reload::No,
        "The authorities whose client certificates are accepted, PEM.",
    ),
    row(
        "listener[].tls.crl",
        Kind::Path,
        Row::Unset,
        Reload::No,
        "The revocation lists of those authorities, PEM.",
    ),
    row(
        "listener[].tls.client_auth",
        Kind::Choice(&["none", "optional", "required"]),
        Row::Value("none"),
        Reload::No,
        "Whether clients present certificates.",
    ),
    row(
        "auth.anonymous",
        Kind::Flag,
        Row::Unset,
        Reload::No,
        "Clients without credentials are let in. Unset: only on loopback, and only while nothing else identifies clients.",
    ),
    row(
        "auth.password_file",
        Kind::File,
        Row::Unset,
        Reload::Yes,
        "Users and their hashed passwords; `ratatosk passwd` writes it.",
    ),
    row(
        "auth.acl_file",
        Kind::File,
        Row::Unset,
        Reload::Yes,
        "Who may publish and subscribe where; without one everybody may do everything in its tenant.",
    ),
    row(
        "auth.certificate_identity",
        Kind::Flag,
        Row::Value("false"),
        Reload::No,
        "The common name of a verified client certificate is the user.",
    ),
    row(
        "auth.development",
        Kind::Flag,
        Row::Value("false"),
        Reload::No,
        "Every client is who it says. Never in production.",
    ),
    row(
        "auth.tenant",
        Kind::Text,
        Row::Value("default"),
        Reload::No,
        "The tenant of users that name none.",
    ),
    row(
        "auth.tenant_from_user",
        Kind::Flag,
        Row::Value("false"),
        Reload::No,
        "A proven user name `tenant/user` names its tenant.",
    ),
    row(
        "auth.provider",
        Kind::Text,
        Row::Unset,
        Reload::No,
        "An auth provider that is compiled in, by name; asked before all others.",
    ),
    row(
        "auth.permission_provider",
        Kind::Text,
        Row::Unset,
        Reload::No,
        "A permission provider that is compiled in, by name; instead of `auth.acl_file`.",
    ),
    row(
        "auth.settings_provider",
        Kind::Text,
        Row::Unset,
        Reload::No,
        "A settings provider that is compiled in, by name.",
    ),
    row(
        "auth.timeout_seconds",
        Kind::Count { min: 1, max: 300 },
        Row::Value("5"),
        Reload::No,
        "How long a provider may take to answer.",
    ),
    row(
        "admin.address",
        Kind::Address,
        Row::Value("127.0.0.1:18083"),
        Reload::No,
        "HTTP API, metrics and health. An address that others can reach needs `admin.token`.",
    ),
    row(
        "admin.token",
        Kind::Secret,
        Row::Unset,
        Reload::No,
        "The bearer token that the HTTP API asks for, except for its health checks.",
    ),
    row(
        "mqtt.shards",
        Kind::Count { min: 0, max: SHARDS_MAX },
        Row::Value("0"),
        Reload::No,
        "Threads that own connections; 0: one per core, at most 64.",
    ),
    row(
        "limits.max_connections_per_second",
        Kind::Count { min: 0, max: 10_000_000 },
        Row::Value("0"),
        Reload::No,
        "New connections beyond this are refused and reported; 0: unlimited.",
    ),
    row(
        "limits.max_disconnects_per_second",
        Kind::Count { min: 1, max: 10_000_000 },
        Row::Value("1000"),
        Reload::No,
        "How fast a graceful stop disconnects clients, so that they do not all come back at once.",
    ),
    row(
        "limits.connect_timeout_seconds",
        Kind::Count { min: 1, max: 3_600 },
        Row::Value("20"),
        Reload::No,
        "A connection that sends no CONNECT for so long is closed.",
    ),
    row(
        "limits.shutdown_timeout_seconds",
        Kind::Count { min: 1, max: 3_600 },
        Row::Value("30"),
        Reload::No,
        "A graceful stop ends after so long, whoever is still connected.",
    ),
    row(
        "memory.limit",
        Kind::Bytes { min: 16 << 20 },
        Row::Value("auto"),
        Reload::No,
        "What the process may use; near it, caches, QoS 0, reading and new connections give way in this order. auto: 70 % of the machine's or the container's memory.",
    ),
    row(
        "metrics.max_tenants",
        Kind::Count { min: 0, max: 10_000 },
        Row::Value("200"),
        Reload::No,
        "Tenants with metrics of their own; later ones are summed as `_other`.",
    ),
    row(
        "log.format",
        Kind::Choice(&["auto", "text", "json"]),
        Row::Value("auto"),
        Reload::No,
        "auto: text on a terminal, JSON otherwise.",
    ),
    row(
        "log.level",
        Kind::Filter,
        Row::Value("info"),
        Reload::Yes,
        "off, error, warn, info, debug or trace; for single modules `info,ratatosk_mqtt=debug`. RATATOSK_LOG sets it too.",
    ),
];

/// The rows of the file, and those of a cluster behind them.
fn rows() -> impl Iterator<Item = &'static (&'static str, Kind, Row, Reload, &'static str)> {
    ROWS.iter().chain(cluster::ROWS)
}

/// All keys, in the order of the documentation.
pub(crate) fn keys() -> Vec<Key> {
    let rows = rows().map(|(path, kind, default, reload, about)| Key {
        path: (*path).to_owned(),
        kind: kind.clone(),
        default: match default {
            Row::Value(text) => Standard::Value((*text).to_owned()),
            Row::Unset => Standard::Unset,
            Row::Required => Standard::Required,
        },
        reload: *reload == Reload::Yes,
        about,
    });
    let defaults = TenantSettings::default();
    let settings = TenantSettings::KEYS.iter().filter_map(move |name| {
        Some(Key {
            path: format!("tenant.{name}"),
            kind: Kind::Setting(name),
            default: Standard::Value(defaults.value(name)?.to_string()),
            reload: true,
            about: "",
        })
    });
    rows.chain(settings).collect()
}

/// The path with `[]` for each number.
pub(crate) fn pattern(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for part in path.split('.') {
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            pattern.push_str("[]");
            continue;
        }
        if !pattern.is_empty() {
            pattern.push('.');
        }
        pattern.push_str(part);
    }
    pattern
}

/// Whether keys lie below the path: a table, or a list of tables.
pub(crate) fn is_section(path: &str) -> bool {
    let pattern = pattern(path);
    is_list_of_sections(path) || sections().any(|section| section == pattern)
}

/// Whether the path is written `[[…]]`.
pub(crate) fn is_list_of_sections(path: &str) -> bool {
    path == "listener"
}

/// The patterns of all tables.
pub(crate) fn sections() -> impl Iterator<Item = &'static str> {
    let from_rows =
        rows().flat_map(|(path, ..)| path.match_indices('.').map(|(dot, _)| &path[..dot]));
    from_rows.chain(["tenant"])
}
