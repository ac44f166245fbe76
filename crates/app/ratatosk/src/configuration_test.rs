//! Layers, places of problems, provenance, and who may reach what.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ratatosk_telemetry::ByteCount;
use ratatosk_telemetry::log::Format;

use super::{Configuration, Origins, Override, Protocol, Refused, Scope, Sources};

static FILES: AtomicU32 = AtomicU32::new(0);

/// A directory with a configuration file, removed at the end.
pub(super) struct Place {
    directory: PathBuf,
    sources: Sources,
}

impl Place {
    pub(super) fn new(text: &str) -> Self {
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("ratatosk-configuration-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("r.toml");
        std::fs::write(&file, text.replace("DIR", directory.to_str().unwrap())).unwrap();
        Self { sources: Sources { file: Some(file), ..Sources::default() }, directory }
    }

    pub(super) fn with_file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.directory.join(name), text).unwrap();
        self
    }

    fn with_variable(mut self, name: &str, value: &str) -> Self {
        let value = value.replace("DIR", self.directory.to_str().unwrap());
        self.sources.variables.push((name.to_owned(), value));
        self
    }

    pub(super) fn with_flag(mut self, path: &str, value: &str) -> Self {
        let flag = format!("--set {path}");
        let (path, value) = (path.to_owned(), value.to_owned());
        self.sources.overrides.push(Override { flag, path, value });
        self
    }

    fn load(&self) -> Result<Configuration, Refused> {
        Configuration::load(&self.sources)
    }

    pub(super) fn valid(&self) -> Configuration {
        self.load().unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// The problems, with the directory's name left out.
    pub(super) fn problems(&self) -> String {
        let refused = self.load().expect_err("it should be refused").to_string();
        refused.replace(&format!("{}/", self.directory.display()), "")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn valid(text: &str) -> Configuration {
    Place::new(text).valid()
}

/// What is refused, and with which words.
pub(super) fn check_refused(text: &str, expected: &str) {
    assert_eq!(Place::new(text).problems(), expected, "{text}");
}

/// MQTT-002, MQTT-004, API-001: with nothing configured only this machine reaches the node.
#[test]
fn the_defaults_listen_on_loopback_and_let_anybody_in_there() {
    let configuration = valid("");
    let listeners: Vec<_> = configuration
        .listeners
        .iter()
        .map(|listener| {
            let path =
                listener.transport.websocket.as_ref().map(|websocket| websocket.path.as_str());
            (listener.protocol, listener.address.to_string(), path, listener.required)
        })
        .collect();
    let expected = [
        (Protocol::Mqtt, "127.0.0.1:1883".to_owned(), None, true),
        (Protocol::Mqtt, "[::1]:1883".to_owned(), None, false),
        (Protocol::Ws, "127.0.0.1:8083".to_owned(), Some("/mqtt"), true),
        (Protocol::Ws, "[::1]:8083".to_owned(), Some("/mqtt"), false),
    ];
    assert_eq!(listeners, expected);
    assert!(configuration.listeners.iter().all(|listener| listener.anonymous));
    assert_eq!(configuration.admin.address().to_string(), "127.0.0.1:18083");
    assert_eq!(configuration.data_dir, Path::new("./ratatosk-data"));
    assert!(configuration.roles.mqtt && configuration.roles.admin);
    let limits = configuration.limits;
    assert_eq!(limits.connections_per_second_max, None);
    assert_eq!(limits.disconnects_per_second_max, 1_000);
    assert_eq!((limits.connect_timeout.as_secs(), limits.shutdown_timeout.as_secs()), (20, 30));
    assert_eq!(configuration.tenant, ratatosk_contract::settings::TenantSettings::default());
    assert_eq!(configuration.log.format, Format::Auto);
}

/// CFG-003: threads default from the number of cores.
#[test]
fn shards_default_to_the_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(valid("").mqtt.shards, cores.min(64));
    assert_eq!(valid("mqtt.shards = 7").mqtt.shards, 7);
}

/// CFG-001: one file says everything.
#[test]
fn every_section_of_the_file_is_taken() {
    let place = Place::new(
        r#"
        data_dir = "/var/lib/ratatosk"
        roles = ["mqtt", "dist", "inbox", "retain", "session-dict"]
        [[listener]]
        address = "127.0.0.1:1884"
        proxy_protocol = { trusted = ["10.0.0.0/8", "fd00::1"], required = true }
        [[listener]]
        protocol = "ws"
        address = "[::1]:8080"
        path = "/broker"
        [auth]
        password_file = "DIR/users"
        [admin]
        address = "0.0.0.0:9000"
        token = "0123456789abcdef"
        [mqtt]
        shards = 3
        [limits]
        max_connections_per_second = 500
        max_disconnects_per_second = 50
        connect_timeout_seconds = 5
        shutdown_timeout_seconds = 6
        [memory]
        limit = "512MiB"
        [metrics]
        max_tenants = 5
        [tenant]
        session_inbox_size = 100
        max_group_fanout = "unlimited"
        min_session_expiry_seconds = 700_000
        max_session_expiry_seconds = 800_000
        [log]
        format = "json"
        level = "warn,ratatosk_mqtt=debug"
        "#,
    )
    .with_file("users", "");
    let configuration = place.valid();
    assert_eq!(configuration.data_dir, Path::new("/var/lib/ratatosk"));
    assert!(!configuration.roles.admin && configuration.roles.session_dict);
    let [first, second] = &configuration.listeners[..] else { panic!("two listeners") };
    assert_eq!((first.protocol, first.address.port()), (Protocol::Mqtt, 1884));
    let proxy = first.transport.proxy_protocol.as_ref().unwrap();
    assert_eq!((proxy.trusted.len(), proxy.required), (2, true));
    assert_eq!((second.protocol, second.address.port()), (Protocol::Ws, 8080));
    assert_eq!(second.transport.websocket.as_ref().unwrap().path, "/broker");
    assert_eq!(configuration.auth.password_file, Some(place.directory.join("users")));
    assert_eq!(configuration.admin.address().to_string(), "0.0.0.0:9000");
    assert_eq!(configuration.mqtt.shards, 3);
    assert_eq!(configuration.limits.connections_per_second_max, Some(500));
    assert_eq!(configuration.limits.connect_timeout.as_secs(), 5);
    assert_eq!(configuration.memory_limit, ByteCount::mebibytes(512));
    assert_eq!(configuration.metrics_tenants_max, 5);
    assert_eq!(configuration.tenant.session_inbox_size, 100);
    assert_eq!(configuration.tenant.min_session_expiry_seconds, 700_000);
    assert_eq!(configuration.log.format, Format::Json);
    assert_eq!(configuration.log.filter.as_str(), "warn,ratatosk_mqtt=debug");
}

/// CFG-007: unknown keys are refused with place and suggestion.
#[test]
fn unknown_keys_are_refused_with_place_and_suggestion() {
    for (text, expected) in [
        (
            "\n[admin]\nadress = \"127.0.0.1:1\"",
            "r.toml:3:1: admin.adress: unknown key; did you mean admin.address?",
        ),
        ("data-dir = \"x\"", "r.toml:1:1: data-dir: unknown key; did you mean data_dir?"),
        (
            "[[listner]]\naddress = \"127.0.0.1:1\"\n[[listner]]\n",
            "r.toml:1:3: listner: unknown section; did you mean listener?",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\n  tls.certifcate = \"x\"",
            "r.toml:3:7: listener.0.tls.certifcate: unknown key; did you mean listener.tls.certificate?\n\
             r.toml:3:3: listener.0.tls: has no meaning for mqtt: use mqtts",
        ),
        (
            "[tenant]\nsession_inbox_sise = 1",
            "r.toml:2:1: tenant.session_inbox_sise: unknown key; did you mean tenant.session_inbox_size?",
        ),
        ("level = \"info\"", "r.toml:1:1: level: unknown key; did you mean log.level?"),
        ("[zzz]\na = 1\nb = 2", "r.toml:1:2: zzz: unknown section"),
        ("[zzz]", "r.toml:1:2: zzz: unknown section"),
        ("admin = 5", "r.toml:1:1: admin: is a section, not a value"),
        ("[log.level]\nx = 1", "r.toml:1:6: log.level: is a value, not a section"),
        ("\"admin.address\" = 1", "r.toml:1:1: \"admin\\u002eaddress\": unknown key"),
    ] {
        let found = Place::new(text).problems();
        let mut found: Vec<_> = found.lines().collect();
        let mut expected: Vec<_> = expected.lines().collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }
}

/// CFG-007: invalid values are refused with place, value and what is allowed.
#[test]
fn invalid_values_are_refused_with_what_is_allowed() {
    for (text, expected) in [
        (
            "admin.address = \"localhost\"",
            "r.toml:1:7: admin.address: \"localhost\" is not an IP address and a port, such as 127.0.0.1:1883 or [::]:1883",
        ),
        (
            "[limits]\nconnect_timeout_seconds = 0",
            "r.toml:2:1: limits.connect_timeout_seconds: 0 is not a whole number from 1 to 3600",
        ),
        (
            "[mqtt]\nshards = \"2\"",
            "r.toml:2:1: mqtt.shards: \"2\" is not a whole number from 0 to 64",
        ),
        ("[mqtt]\nshards = 65", "r.toml:2:1: mqtt.shards: 65 is not a whole number from 0 to 64"),
        (
            "[mqtt]\nshards = 1.5",
            "r.toml:2:1: mqtt.shards: a fraction is not a whole number from 0 to 64",
        ),
        (
            "memory.limit = \"1MiB\"",
            "r.toml:1:8: memory.limit: \"1MiB\" is not auto or a size of at least 16MiB (a number of bytes, or text such as 512MiB)",
        ),
        ("auth.anonymous = \"yes\"", "r.toml:1:6: auth.anonymous: \"yes\" is not true or false"),
        ("log.format = \"xml\"", "r.toml:1:5: log.format: \"xml\" is not one of auto, text, json"),
        (
            "log.level = \"loud\"",
            "r.toml:1:5: log.level: \"loud\" is no log level: \"loud\" is none of off, error, warn, info, debug, trace",
        ),
        (
            "roles = [\"mqtt\", \"dust\"]",
            "r.toml:1:1: roles: [\"mqtt\", \"dust\"] is not a list of all, mqtt, dist, inbox, retain, session-dict, admin",
        ),
        (
            "roles = []",
            "r.toml:1:1: roles: [] is not a list of all, mqtt, dist, inbox, retain, session-dict, admin",
        ),
        (
            "roles = [\"mqtt\"]",
            "r.toml:1:1: roles: a node that stands alone cannot do without dist, inbox, retain, session-dict: add it, or a [cluster]",
        ),
        (
            "tenant.maximum_qos = 3",
            "r.toml:1:8: tenant.maximum_qos: 3 is not a whole number from 0 to 2",
        ),
        (
            "tenant.max_group_fanout = \"many\"",
            "r.toml:1:8: tenant.max_group_fanout: \"many\" is not unlimited or a whole number from 1 to 4294967295",
        ),
        (
            "tenant.min_session_expiry_seconds = 604801",
            "r.toml:1:8: tenant.min_session_expiry_seconds: 604801: tenant setting min_session_expiry_seconds = 604801: above max_session_expiry_seconds = 604800",
        ),
        (
            "auth.password_file = \"DIR/nowhere\"",
            "r.toml:1:6: auth.password_file: cannot read nowhere: No such file or directory (os error 2)",
        ),
        ("data_dir = \"\"", "r.toml:1:1: data_dir: \"\" is not a path"),
        (
            "listener = []",
            "r.toml:1:1: listener: needs at least one element; remove it for the default listeners",
        ),
        ("[[listener]]\nprotocol = \"mqtt\"", "r.toml:1:1: listener.0.address: is missing"),
    ] {
        check_refused(text, expected);
    }
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_place() {
    let problems = Place::new("data_dir = \"x\"\n[admin\n").problems();
    assert!(problems.starts_with("r.toml:2:7: "), "{problems}");
    let missing = Sources { file: Some("/nowhere/r.toml".into()), ..Sources::default() };
    let problems = Configuration::load(&missing).unwrap_err().to_string();
    assert!(problems.starts_with("cannot read configuration file /nowhere/r.toml: "), "{problems}");
}

#[test]
fn all_problems_are_told_at_once_in_order_of_place() {
    check_refused(
        "zzz = 1\n[mqtt]\nshards = -1\n[log]\nformat = 7\n",
        "r.toml:1:1: zzz: unknown key\n\
         r.toml:3:1: mqtt.shards: -1 is not a whole number from 0 to 64\n\
         r.toml:5:1: log.format: 7 is not one of auto, text, json",
    );
}

/// CFG-011: the data directory comes from the environment, which wins over the file and loses to
/// flags.
#[test]
fn layers_win_in_their_order() {
    let file = || Place::new("data_dir = \"from-file\"\nadmin.address = \"127.0.0.1:1\"");
    assert_eq!(file().valid().data_dir, Path::new("from-file"));
    let both = file().with_variable("RATATOSK_DATA_DIR", "from-env");
    assert_eq!(both.valid().data_dir, Path::new("from-env"));
    let all = both.with_flag("data_dir", "from-flag");
    assert_eq!(all.valid().data_dir, Path::new("from-flag"));
    let shown = all.valid().effective.render(Origins::Shown);
    for line in [
        "data_dir = \"from-flag\"  # flag --set data_dir".to_owned(),
        format!("address = \"127.0.0.1:1\"  # {}:2", all.sources.file.as_ref().unwrap().display()),
        "shards = 0  # default".to_owned(),
    ] {
        assert!(shown.lines().any(|found| found == line), "{line} in\n{shown}");
    }
}

#[test]
fn the_environment_and_flags_need_no_types() {
    let place = Place::new("")
        .with_variable("RATATOSK_MQTT__SHARDS", "5")
        .with_variable("RATATOSK_AUTH__ANONYMOUS", "true")
        .with_variable("RATATOSK_ROLES", "mqtt, dist,inbox,retain,session-dict")
        .with_variable("RATATOSK_TENANT__MAX_PERSISTENT_FANOUT", "9")
        .with_variable("RATATOSK_LISTENER__0__ADDRESS", "0.0.0.0:1883")
        .with_variable("RATATOSK_LISTENER__0__PROXY_PROTOCOL__TRUSTED", "10.0.0.0/8,10.0.0.1")
        .with_variable("RATATOSK_LOG", "debug")
        .with_flag("memory.limit", "1GiB")
        .with_flag("admin.address", "\"127.0.0.1:5\"");
    let configuration = place.valid();
    assert_eq!(configuration.mqtt.shards, 5);
    assert!(!configuration.roles.admin);
    assert_eq!(configuration.tenant.max_persistent_fanout, Some(9));
    assert_eq!(configuration.listeners.len(), 1);
    assert!(configuration.listeners[0].anonymous);
    let proxy = configuration.listeners[0].transport.proxy_protocol.as_ref().unwrap();
    assert_eq!(proxy.trusted.len(), 2);
    assert_eq!(configuration.memory_limit, ByteCount::mebibytes(1_024));
    assert_eq!(configuration.admin.address().port(), 5);
    assert_eq!(configuration.log.filter.as_str(), "debug");
}

#[test]
fn a_list_of_listeners_can_be_replaced_and_patched() {
    let file = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"";
    let ports = |place: Place| -> Vec<u16> {
        place.valid().listeners.iter().map(|listener| listener.address.port()).collect()
    };
    assert_eq!(ports(Place::new(file).with_flag("listener.1.address", "127.0.0.1:3")), [1, 3]);
    assert_eq!(ports(Place::new(file).with_flag("listener.2.address", "127.0.0.1:3")), [1, 2, 3]);
    let whole = "[{ address = \"127.0.0.1:9\" }]";
    assert_eq!(ports(Place::new(file).with_variable("RATATOSK_LISTENER", whole)), [9]);
    let gap = Place::new(file).with_flag("listener.3.address", "127.0.0.1:3").problems();
    assert!(gap.contains("there are 3 listeners, so 3 leaves a gap"), "{gap}");
    let double = Place::new(file).with_flag("listener.1.address", "127.0.0.1:1").problems();
    assert!(double.contains("127.0.0.1:1 is taken by another listener"), "{double}");
}

/// CFG-007: the environment's and the flags' mistakes name the variable and the flag.
#[test]
fn mistakes_outside_the_file_are_placed_too() {
    let problems = Place::new("").with_variable("RATATOSK_DATADIR", "x").problems();
    assert_eq!(
        problems,
        "environment variable RATATOSK_DATADIR: datadir: unknown key; did you mean data_dir?"
    );
    let problems = Place::new("").with_flag("log.format", "xml").problems();
    assert_eq!(problems, "--set log.format: log.format: \"xml\" is not one of auto, text, json");
    let problems = Place::new("").with_flag("listener", "[{").problems();
    assert!(problems.starts_with("--set listener: listener: is a section: "), "{problems}");
}

#[test]
fn what_kubernetes_puts_into_the_environment_is_left_out() {
    let links = [
        ("RATATOSK_PORT", "tcp://10.0.0.1:1883"),
        ("RATATOSK_SERVICE_HOST", "10.0.0.1"),
        ("RATATOSK_SERVICE_PORT_MQTT", "1883"),
        ("RATATOSK_PORT_1883_TCP_ADDR", "10.0.0.1"),
        ("RATATOSK_MQTT_PORT_1883_TCP", "tcp://10.0.0.1:1883"),
        ("RATATOSK_MQTT_SERVICE_HOST", "10.0.0.1"),
    ];
    let place =
        links.iter().fold(Place::new(""), |place, (name, value)| place.with_variable(name, value));
    place.valid();
    assert!(Place::new("").with_variable("RATATOSK_PORT", "1883").load().is_err());
}

/// MQTT-002, SEC-003: who listens to the network without users must say so by name.
#[test]
fn a_listener_open_to_the_network_must_be_asked_for_by_name() {
    let open = "[[listener]]\naddress = \"0.0.0.0:1883\"\n";
    let refused = Place::new(open).problems();
    assert!(
        refused.starts_with("r.toml:2:1: listener.0.address: mqtt 0.0.0.0:1883 can be"),
        "{refused}"
    );
    for way in
        ["auth.password_file", "ratatosk passwd", "auth.anonymous = true", "--allow-anonymous"]
    {
        assert!(refused.contains(way), "{way} in {refused}");
    }
    let anonymous = |place: Place| -> Vec<bool> {
        place.valid().listeners.iter().map(|listener| listener.anonymous).collect()
    };
    assert_eq!(anonymous(Place::new(&format!("{open}[auth]\nanonymous = true"))), [true]);
    assert_eq!(anonymous(Place::new(open).with_flag("auth.anonymous", "true")), [true]);
    assert_eq!(anonymous(Place::new(&format!("{open}[auth]\nanonymous = false"))), [false]);
    let users = format!("{open}[auth]\npassword_file = \"DIR/users\"");
    assert_eq!(anonymous(Place::new(&users).with_file("users", "")), [false]);
    let local = "[[listener]]\naddress = \"127.0.0.1:1\"\n[auth]\npassword_file = \"DIR/users\"";
    assert_eq!(anonymous(Place::new(local).with_file("users", "")), [false]);
    let certified = format!("{open}[auth]\ncertificate_identity = true");
    assert_eq!(anonymous(Place::new(&certified)), [false]);
    let mixed = format!("[[listener]]\naddress = \"[::1]:1\"\n{open}");
    assert!(Place::new(&mixed).problems().contains("listener.1.address"));
}

/// SEC-003: development auth is off, and on only where it was written down.
#[test]
fn development_auth_must_be_asked_for() {
    assert!(!valid("").auth.development);
    assert!(valid("auth.development = true").auth.development);
}

/// PLG-012, CFG-007: a provider that does not exist and a file that says nothing stop the start.
#[test]
fn what_authenticates_is_opened_before_anything_starts() {
    let problems = Place::new("auth.provider = \"oracle\"").problems();
    assert!(problems.contains("auth: ") && problems.contains("oracle"), "{problems}");
    let place = Place::new("auth.password_file = \"DIR/users\"").with_file("users", "no user here");
    assert!(place.problems().contains("users"), "{}", place.problems());
    let problems = Place::new("auth.tenant = \"a/b\"").problems();
    assert!(problems.contains("auth.tenant"), "{problems}");
}

/// SEC-004: the management API is on loopback or has a token.
#[test]
fn the_management_api_is_not_opened_without_a_token() {
    let refused = Place::new("admin.address = \"0.0.0.0:18083\"").problems();
    assert!(
        refused.starts_with("r.toml:1:7: admin.address: the management api at 0.0.0.0:18083"),
        "{refused}"
    );
    assert!(refused.contains("set admin.token"), "{refused}");
    valid("admin = { address = \"0.0.0.0:18083\", token = \"0123456789abcdef\" }");
}

/// SEC-007, CFG-008: a secret is in no output, whatever its layer, also when it is refused.
#[test]
fn secrets_are_shown_nowhere() {
    const SECRET: &str = "hunter2-hunter2-hunter2";
    let places = [
        Place::new(&format!("admin.token = \"{SECRET}\"")),
        Place::new("").with_variable("RATATOSK_ADMIN__TOKEN", SECRET),
        Place::new("").with_flag("admin.token", SECRET),
        Place::new("")
            .with_file("token", &format!("{SECRET}\n"))
            .with_variable("RATATOSK_ADMIN__TOKEN_FILE", "DIR/token"),
    ];
    for place in places {
        let configuration = place.valid();
        let shown = configuration.effective.render(Origins::Shown);
        assert!(shown.contains("token = \"<secret>\""), "{shown}");
        let logged = configuration.effective.log_lines(Scope::All);
        for text in [shown, format!("{configuration:?}"), format!("{logged:?}")] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    for bad in ["hunter2", "hunter2 hunter2 hunter2", "hunter2\u{7}hunter2-hunter2"] {
        let problems = Place::new("").with_variable("RATATOSK_ADMIN__TOKEN", bad).problems();
        assert!(!problems.contains("hunter2"), "{problems}");
    }
    check_refused(
        "admin.token = 5",
        "r.toml:1:7: admin.token: is not a text of 16 to 1024 printable characters",
    );
}

/// CFG-008: all that is in force is logged, or for a person what somebody chose.
#[test]
fn what_is_in_force_is_logged_in_whole_or_as_chosen() {
    let configuration = Place::new("limits.connect_timeout_seconds = 7").valid();
    let all = configuration.effective.log_lines(Scope::All);
    let sections: Vec<&str> = all.iter().map(|(section, _)| section.as_str()).collect();
    assert!(sections.contains(&"tenant") && sections.contains(&"listener"), "{sections:?}");
    let chosen = configuration.effective.log_lines(Scope::Chosen);
    assert_eq!(chosen.len(), 1, "{chosen:?}");
    assert_eq!(chosen[0].0, "limits");
    assert!(chosen[0].1.starts_with("connect_timeout_seconds = 7 ("), "{chosen:?}");
}

/// MQTT-003, CFG-010: TLS needs its files, and they must fit.
#[test]
fn tls_listeners_need_certificates_that_can_be_used() {
    let head =
        "auth.anonymous = true\n[[listener]]\naddress = \"127.0.0.1:8883\"\nprotocol = \"mqtts\"\n";
    check_refused(head, "r.toml:2:1: listener.0.tls: mqtts needs tls.certificate and tls.key");
    check_refused(
        &format!("{head}tls = {{ certificate = \"DIR/c\" }}"),
        "r.toml:5:1: listener.0.tls.key: is missing",
    );
    let tls = format!("{head}tls = {{ certificate = \"DIR/c\", key = \"DIR/k\" }}");
    assert!(Place::new(&tls).problems().contains("cannot read"), "files that are not there");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let place = Place::new(&tls).with_file("c", &certificate).with_file("k", &key);
    let configuration = place.valid();
    assert_eq!(configuration.listeners[0].protocol, Protocol::Mqtts);
    assert!(configuration.listeners[0].transport.tls.is_some());
    let refused = Place::new(&tls).with_file("c", &certificate).with_file("k", "no key").problems();
    assert!(refused.contains("listener.0.tls.certificate: "), "{refused}");
    let secure_websocket = tls.replace("mqtts", "wss");
    let place = Place::new(&secure_websocket).with_file("c", &certificate).with_file("k", &key);
    let transport = &place.valid().listeners[0].transport;
    assert!(transport.tls.is_some() && transport.websocket.is_some());
}

#[test]
fn keys_without_meaning_for_the_protocol_are_refused() {
    let head = "[[listener]]\naddress = \"127.0.0.1:1\"\n";
    check_refused(
        &format!("{head}path = \"/x\""),
        "r.toml:3:1: listener.0.path: has no meaning for mqtt: use ws or wss",
    );
    check_refused(
        &format!("{head}tls = {{ certificate = \"x\", key = \"y\" }}"),
        "r.toml:3:1: listener.0.tls: has no meaning for mqtt: use mqtts",
    );
    check_refused(
        &format!("{head}proxy_protocol = {{ required = true }}"),
        "r.toml:3:1: listener.0.proxy_protocol.trusted: is missing: name the proxies, such as [\"10.0.0.0/8\"]",
    );
}

/// CFG-008: what is shown is a configuration that says the same.
#[test]
fn what_is_shown_can_be_loaded_again() {
    let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\nprotocol = \"ws\"\naddress = \"[::1]:2\"\npath = \"/p\"\n[log]\nlevel = \"warn\"";
    let first = valid(text).effective.render(Origins::Hidden);
    let second = valid(&first).effective.render(Origins::Hidden);
    assert_eq!(first, second);
}

#[test]
fn a_reload_tells_what_holds_now_and_what_needs_a_restart() {
    let before = valid("log.level = \"info\"\n[[listener]]\naddress = \"127.0.0.1:1\"");
    let after = valid("log.level = \"debug\"\nmqtt.shards = 2\nadmin.token = \"0123456789abcdef\"");
    let changes = before.effective.changes(&after.effective);
    let told: Vec<_> =
        changes.iter().map(|change| (change.path.as_str(), change.effective)).collect();
    assert!(told.contains(&("log.level", true)), "{told:?}");
    assert!(told.contains(&("mqtt.shards", false)), "{told:?}");
    assert!(told.contains(&("listener.0.address", false)), "{told:?}");
    assert!(told.contains(&("admin.token", false)), "{told:?}");
    let other = valid("log.level = \"debug\"\nmqtt.shards = 2\nadmin.token = \"0123456789abcdeX\"");
    let changes = after.effective.changes(&other.effective);
    assert_eq!(changes.len(), 1, "a secret that changed is a change: {changes:?}");
    assert_eq!(after.effective.changes(&after.effective), []);
}
