//! From the first byte to CONNACK, and how a node that stops says good-bye.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use ratatosk_codec::{Connect, ConnectReturnCode, Packet, ProtocolVersion, Publish, ReasonCode};
use ratatosk_conformance::{
    AuthBy, Broker, Client, Event, PATIENCE, PermissionBy, Setup, Site, Tunnel,
};
use ratatosk_contract::TenantSettings;
use ratatosk_mqtt::Config;
use ratatosk_plugin::{
    answer::Answer,
    auth::{AuthResult, DenialReason, Grant},
    permission::{Action, Verdict},
    secret::Secret,
};
use ratatosk_telemetry::{ByteCount, memory::Share};

use crate::cases::{ALL_QOS, QOS0, QOS1, VERSIONS, event_names};

const V31: ProtocolVersion = ProtocolVersion::V31;
const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

fn config() -> Config {
    Config { shards: 2, ..Config::default() }
}

/// MQTT-001: [MQTT-4.2.0-1] [MQTT-7.1.1-1] clients of all three versions are served by every kind
/// of listener, and meet.
#[test]
fn every_version_is_served_by_every_listener() {
    let site = Site::new();
    let kinds =
        [false, true].map(|has_tls| [false, true].map(|has_ws| site.layers(has_tls, has_ws)));
    let listeners = kinds.concat();
    let broker = Broker::with(Setup { listeners: listeners.clone(), ..Setup::default() });
    let mut all = Vec::new();
    for (address, layers) in broker.addresses().iter().zip(&listeners) {
        let tunnel = Tunnel::open(*address, layers, &site);
        for version in ProtocolVersion::ALL {
            let id = format!("c{}", all.len());
            all.push(broker.client(version, &id).at(tunnel.address()).connect());
        }
    }
    assert_eq!(all.len(), 12);
    for client in &mut all {
        assert_eq!(client.subscribe("to/all", QOS1), ReasonCode::GrantedQos1);
    }
    for sender in 0..all.len() {
        for qos in ALL_QOS {
            let text = format!("from {sender} at {qos:?}");
            assert_eq!(all[sender].deliver("to/all", &text, qos), ReasonCode::Success);
            for client in &mut all {
                assert_eq!(client.message().text(), text, "{}", client.version());
            }
        }
    }
    assert_eq!(broker.stats_when(|stats| stats.live == 12).connected, 12);
}

/// MQTT-011: above the rate a connection is turned away and counted; those before it stay.
#[test]
fn connections_above_the_rate_are_refused_and_counted() {
    let config = Config { connections_per_second_max: Some(3), ..config() };
    let broker = Broker::with(Setup { config, ..Setup::default() });
    let mut outcomes: Vec<(Client, bool)> = Vec::new();
    // Whatever second it is: of twelve at once at most six can pass, and three must.
    let clients: Vec<Client> = (0..12).map(|n| broker.v4(&format!("c{n}")).open()).collect();
    for mut client in clients {
        let is_in = matches!(client.event(), Event::Connack(_));
        outcomes.push((client, is_in));
    }
    let admitted = outcomes.iter().filter(|(_, is_in)| *is_in).count();
    assert!((3..=6).contains(&admitted), "{admitted} of 12 were let in");
    broker.refused_when(|refused| refused == 12 - admitted as u64);
    for (client, _) in outcomes.iter_mut().filter(|(_, is_in)| *is_in) {
        client.ping();
    }
    if let Some((client, _)) = outcomes.iter_mut().find(|(_, is_in)| !*is_in) {
        client.expect_close();
    }
}

/// MQTT-011: above the memory watermark nobody new comes in, and who is in stays.
#[test]
fn connections_are_refused_while_memory_is_short() {
    let broker = Broker::with(Setup { memory_max: ByteCount::mebibytes(64), ..Setup::default() });
    let mut before = broker.v5("before").connect();
    let account = broker.memory.account("somebody");
    account.charge(Share::Retained, 63 << 20);
    let mut refused = broker.v5("refused").open();
    refused.expect_close();
    broker.refused_when(|refused| refused == 1);
    before.ping();
    account.release(Share::Retained, 63 << 20);
    broker.v5("after").connect().ping();
}

/// MQTT-012: whoever says nothing, or not enough, is closed; by default after 20 s.
#[test]
fn a_connection_without_connect_is_closed_in_time() {
    assert_eq!(Config::default().connect_timeout, Duration::from_secs(20));
    let timeout = Duration::from_millis(400);
    let config = Config { connect_timeout: timeout, ..config() };
    let (events, told) = event_names();
    let broker = Broker::with(Setup { config, events, ..Setup::default() });
    let started = Instant::now();
    let mut silent = Client::silent(broker.address(), V311);
    let mut slow = Client::silent(broker.address(), V5);
    slow.send_raw(&[0x10, 20, 0, 4, b'M']);
    let mut live = broker.v4("live").connect();
    silent.expect_close();
    slow.expect_close();
    let waited = started.elapsed();
    assert!(waited >= timeout, "closed after {waited:?}");
    let timeouts = std::iter::from_fn(|| told.recv_timeout(PATIENCE).ok());
    assert_eq!(timeouts.filter(|name| *name == "CONNECT_TIMEOUT").take(2).count(), 2);
    // Who has connected is not meant.
    live.ping();
}

/// MQTT-013: what is not CONNECT is answered with nothing but the end.
#[test]
fn a_first_packet_other_than_connect_closes() {
    let (events, told) = event_names();
    let broker = Broker::with(Setup { events, ..Setup::default() });
    for version in VERSIONS {
        for packet in [Packet::Pingreq, Packet::Publish(Publish::new("t", b"x"))] {
            let mut client = Client::silent(broker.address(), version);
            client.send(&packet);
            client.expect_close();
            assert_eq!(told.recv_timeout(PATIENCE), Ok("PROTOCOL_ERROR"));
        }
    }
    let total = broker.stats_when(|stats| stats.refused == 4);
    assert_eq!(total.connected, 0);
}

/// MQTT-015: clients are told 0x8B or just closed, at no more than the rate, which is 1000.
#[test]
fn a_graceful_stop_sends_clients_away_at_its_rate() {
    assert_eq!(Config::default().disconnects_per_second, 1000);
    let config = Config { disconnects_per_second: 40, ..config() };
    let mut broker = Broker::with(Setup { config, ..Setup::default() });
    let mut clients: Vec<Client> = (0..40)
        .map(|n| {
            let version = VERSIONS[n % 2];
            let mut client = broker.client(version, &format!("c{n}")).connect();
            client.ping();
            client
        })
        .collect();
    let started = Instant::now();
    broker.stop(Duration::from_secs(20));
    for client in &mut clients {
        client.expect_farewell(ReasonCode::ServerShuttingDown);
        client.writer().shutdown(Shutdown::Both).ok();
    }
    let took = started.elapsed();
    // Forty at forty a second, less what one tick may owe.
    assert!(took >= Duration::from_millis(700), "all were gone after {took:?}");
    broker.stopped();
}

/// MQTT-019: an empty identifier is replaced by one that nobody else has.
#[test]
fn an_empty_client_id_is_replaced_by_the_servers() {
    let broker = Broker::start();
    let (mut one, welcome) = broker.v5("").welcome();
    let first = welcome.client_id.expect("CONNACK carries the identifier");
    let (mut two, welcome) = broker.v5("").welcome();
    let second = welcome.client_id.expect("CONNACK carries the identifier");
    assert!(!first.is_empty() && first != second, "{first:?}, {second:?}");
    let mut three = broker.v4("").connect();
    let mut four = broker.v4("").connect();
    // They are four sessions: none takes another over.
    for client in [&mut one, &mut two, &mut three, &mut four] {
        client.ping();
    }
    // The identifier is the session's: who comes with it takes it over.
    broker.v5(&first).connect();
    one.expect_farewell(ReasonCode::SessionTakenOver);
}

/// MQTT-021: each refusal of the provider has its code in both versions.
#[test]
fn refusals_of_the_provider_have_their_codes() {
    let auth = AuthBy::new(|request| {
        let reason = match request.username.as_deref() {
            Some("password") => DenialReason::BadPassword,
            Some("unknown") => DenialReason::NotAuthorized,
            Some("banned") => DenialReason::Banned,
            Some("method") => DenialReason::BadMethod,
            _ => DenialReason::Error,
        };
        AuthResult::denied(reason, "the test says so")
    });
    let broker = Broker::with(Setup { auth, ..Setup::default() });
    let cases = [
        ("password", 0x86, 0x04),
        ("unknown", 0x87, 0x05),
        ("banned", 0x8A, 0x05),
        ("method", 0x8C, 0x05),
        ("error", 0x80, 0x03),
    ];
    for (user, v5, v3) in cases {
        assert_eq!(broker.v5("c").user(user).refused().value(), v5, "{user}");
        for version in [V31, V311] {
            let code = broker.client(version, "c").user(user).refused();
            let code = code.connect_return_code().expect("a return code of MQTT 3");
            assert_eq!(code.value(), v3, "{user}, {version}");
        }
    }
    // A method that no provider knows.
    assert_eq!(broker.v5("c").method("NONE").refused(), ReasonCode::BadAuthenticationMethod);
}

/// MQTT-022: who may not connect is told so; a permission that comes later is waited for.
#[test]
fn a_denied_permission_to_connect_refuses() {
    let permission = PermissionBy::new(|who, action| match (action, &*who.user) {
        (Action::Connect, "no") => Answer::Now(Verdict::denied("rule 1")),
        (Action::Connect, "later-no") => Answer::later(async { Verdict::denied("rule 2") }),
        (Action::Connect, "later-yes") => Answer::later(async { Verdict::Allowed }),
        _ => Answer::Now(Verdict::Allowed),
    });
    let broker = Broker::with(Setup { permission, ..Setup::default() });
    for user in ["no", "later-no"] {
        let name = format!("default/{user}");
        assert_eq!(broker.v5("c").user(&name).refused(), ReasonCode::NotAuthorized);
        let code = broker.v4("c").user(&name).refused();
        assert_eq!(code.connect_return_code().map(ConnectReturnCode::value), Some(0x05));
    }
    for user in ["yes", "later-yes"] {
        broker.v5("c").user(&format!("default/{user}")).connect().ping();
    }
}

/// MQTT-024: a version that the tenant switched off gets the version's own refusal.
#[test]
fn a_disabled_version_is_refused() {
    let on = TenantSettings::default();
    let without = [
        (V31, TenantSettings { mqtt3_enabled: false, ..on.clone() }),
        (V311, TenantSettings { mqtt4_enabled: false, ..on.clone() }),
        (V5, TenantSettings { mqtt5_enabled: false, ..on }),
    ];
    for (disabled, settings) in without {
        let broker = Broker::with_settings(settings);
        for version in ProtocolVersion::ALL {
            let client = broker.client(version, "c");
            if version != disabled {
                client.connect().ping();
                continue;
            }
            let code = client.refused();
            match version {
                V5 => assert_eq!(code, ReasonCode::UnsupportedProtocolVersion),
                _ => {
                    assert_eq!(
                        code.connect_return_code().map(ConnectReturnCode::value),
                        Some(0x01)
                    );
                }
            }
        }
    }
}

/// MQTT-027: [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.2-1] [MQTT-4.8.0-1] CONNECT comes once;
/// nothing follows the farewell but the end.
#[test]
fn a_second_connect_ends_the_connection() {
    let broker = Broker::start();
    for version in VERSIONS {
        let mut client = broker.client(version, "twice").connect();
        client.send(&Packet::Connect(Connect::new(version, "twice", true)));
        // A version's decoder takes no second CONNECT: the code is the same.
        client.expect_farewell(ReasonCode::ProtocolError);
    }
}

/// MQTT-031: [MQTT-3.1.2-6] [MQTT-3.1.4-5] session present says that a stored session goes on, and
/// nothing else.
#[test]
fn session_present_only_when_a_session_is_resumed() {
    let broker = Broker::start();
    for version in VERSIONS {
        let id = format!("s{}", version.level());
        let present = |persistent: bool, clean: bool| {
            let mut client = broker.client(version, &id);
            if persistent {
                client = client.persistent();
            }
            if clean {
                client = client.clean();
            }
            let (client, welcome) = client.welcome();
            client.disconnect(ReasonCode::Success);
            welcome.is_present
        };
        assert!(!present(true, false), "there was none");
        assert!(present(true, false), "it was stored");
        assert!(present(true, false), "it is still stored");
        assert!(!present(false, true), "a clean start discards it");
        assert!(!present(true, false), "it was discarded, and the clean one left none");
    }
}

/// MQTT-032: a keep alive below the tenant's floor is raised, 0 stays 0.
#[test]
fn a_short_keep_alive_is_raised() {
    let settings = TenantSettings { min_keep_alive_seconds: 30, ..TenantSettings::default() };
    let broker = Broker::with_settings(settings);
    let server_says = |asked: u16| broker.v5("c").keep_alive(asked).welcome().1.keep_alive_s;
    assert_eq!(server_says(10), Some(30));
    assert_eq!(server_says(30), None);
    assert_eq!(server_says(60), None);
    assert_eq!(server_says(0), None);
    let broker = Broker::start();
    assert_eq!(broker.v5("c").keep_alive(1).welcome().1.keep_alive_s, None, "no floor");
}

/// MQTT-033: [MQTT-3.2.2-22] one and a half times the keep alive without a word is the end.
#[test]
fn silence_beyond_the_keep_alive_ends_the_connection() {
    let broker = Broker::start();
    let mut all: Vec<(Client, Instant)> = VERSIONS
        .into_iter()
        .map(|version| {
            let id = format!("k{}", version.level());
            let client = broker.client(version, &id).keep_alive(1).connect();
            (client, Instant::now())
        })
        .collect();
    let mut forever = broker.v4("forever").keep_alive(0).connect();
    for (client, since) in &mut all {
        client.expect_farewell(ReasonCode::KeepAliveTimeout);
        let waited = since.elapsed();
        assert!(waited >= Duration::from_millis(1400), "ended after {waited:?}");
    }
    forever.ping();
}

/// What a client sends keeps it alive, whatever it is; what it gets does not.
#[test]
fn packets_from_the_client_keep_it_alive() {
    let broker = Broker::start();
    let mut client = broker.v5("alive").keep_alive(1).connect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2500) {
        client.deliver("alive", "still", QOS1);
        std::thread::park_timeout(Duration::from_millis(200));
    }
    client.ping();
    client.expect_farewell(ReasonCode::KeepAliveTimeout);
}

/// MQTT-035: [MQTT-3.1.3-2] the tenant and the identifier name a session; a setting adds the user.
#[test]
fn a_session_belongs_to_tenant_and_client_id() {
    for user_in_identity in [false, true] {
        let settings = TenantSettings { user_in_identity, ..TenantSettings::default() };
        let broker = Broker::with_settings(settings);
        let mut ann = broker.v5("same").user("one/ann").connect();
        let mut other = broker.v5("same").user("two/ann").connect();
        ann.ping();
        other.ping();
        let mut bob = broker.v5("same").user("one/bob").connect();
        if user_in_identity {
            ann.ping();
        } else {
            ann.expect_farewell(ReasonCode::SessionTakenOver);
        }
        other.ping();
        bob.ping();
        // The same of all three is the same session.
        broker.v5("same").user("one/bob").connect();
        bob.expect_farewell(ReasonCode::SessionTakenOver);
    }
}

/// Bytes in any portions make the same packets; one that never ends stops nobody else.
#[test]
fn packets_may_come_byte_by_byte() {
    let broker = Broker::start();
    let mut watcher = broker.v4("watcher").connect();
    watcher.subscribe("t", QOS0);
    let mut slow = TcpStream::connect(broker.address()).expect("the broker listens");
    slow.set_nodelay(true).expect("a socket option");
    let mut bytes = Vec::new();
    ratatosk_codec::encode(&Packet::Connect(Connect::new(V311, "slow", true)), V311, &mut bytes);
    let publish = Packet::Publish(Publish::new("t", b"in pieces"));
    ratatosk_codec::encode(&publish, V311, &mut bytes);
    for byte in bytes {
        slow.write_all(&[byte]).expect("the broker reads");
    }
    assert_eq!(watcher.message().text(), "in pieces");
    let mut connack = [0; 4];
    slow.read_exact(&mut connack).expect("CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

/// TEN-027: the provider decides whose a client is, whatever the client sends.
#[test]
fn tenant_and_user_are_the_providers_to_decide() {
    let auth = AuthBy::new(|request| {
        let tenant = match request.password.as_ref().map(Secret::expose) {
            Some(b"key-of-a") => "a",
            Some(b"key-of-b") => "b",
            _ => return AuthResult::denied(DenialReason::BadPassword, "unknown key"),
        };
        let grant = Grant { tenant: tenant.to_owned(), ..Grant::default() };
        AuthResult::Granted(grant)
    });
    let broker = Broker::with(Setup { auth, ..Setup::default() });
    let mut of_b = broker.v5("b/c").user("b/u").password("key-of-b").connect();
    of_b.subscribe("#", QOS0);
    // Names, identifiers and topics that look like another tenant's change nothing.
    let mut of_a = broker.v5("b/c").user("b/u").password("key-of-a").connect();
    assert_eq!(of_a.deliver("b/secret", "x", QOS1), ReasonCode::NoMatchingSubscribers);
    of_b.ping();
    of_b.deliver("own", "y", QOS1);
    assert_eq!(of_b.message().text(), "y");
    assert_eq!(broker.v5("c").user("a/u").refused(), ReasonCode::BadUsernameOrPassword);
}
