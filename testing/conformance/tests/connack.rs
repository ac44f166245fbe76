//! CONNACK of those who are let in, and how long their session stays.

use std::time::{Duration, Instant};

use ratatosk_codec::{ConnackProperties, Packet, ProtocolVersion, Qos, ReasonCode};
use ratatosk_conformance::{AuthBy, Broker, Client, Connector, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_plugin::auth::{AuthResult, Grant};

use crate::cases::{QOS1, VERSIONS, assert_quiet};

/// What a CONNACK that accepts says besides.
fn properties<T>(client: &mut Client, see: impl FnOnce(&ConnackProperties<'_>) -> T) -> T {
    client.look(|packet| {
        let Packet::Connack(connack) = packet else { panic!("not a CONNACK: {packet:?}") };
        assert_eq!(connack.reason, ReasonCode::Success);
        see(&connack.properties)
    })
}

fn broker(change: impl FnOnce(&mut TenantSettings)) -> Broker {
    let mut settings = TenantSettings::default();
    change(&mut settings);
    Broker::with_settings(settings)
}

/// MQTT-028: [MQTT-3.2.2-9] the limits are told always, and what is off where it is off.
#[test]
fn connack_tells_the_limits_and_what_is_off() {
    let told = |broker: &Broker| {
        properties(&mut broker.v5("c").open(), |told| {
            let numbers = (
                told.packet_size_max.map(u32::from),
                told.topic_alias_max,
                told.receive_maximum.map(u16::from),
            );
            let features = [
                told.retain_available,
                told.wildcard_available,
                told.subscription_ids_available,
                told.shared_available,
            ];
            (numbers, features, told.qos_max)
        })
    };
    let as_shipped = (Some(1 << 20), Some(32), Some(1024));
    assert_eq!(told(&Broker::start()), (as_shipped, [None; 4], None));
    let restricted = broker(|settings| {
        settings.max_user_payload_bytes = 5000;
        settings.max_topic_alias = 0;
        settings.receiving_maximum = 7;
        settings.maximum_qos = 1;
        settings.retain_enabled = false;
        settings.wildcard_subscription_enabled = false;
        settings.subscription_identifier_enabled = false;
        settings.shared_subscription_enabled = false;
    });
    let numbers = (Some(5000), Some(0), Some(7));
    assert_eq!(told(&restricted), (numbers, [Some(false); 4], Some(Qos::AtLeastOnce)));
    // Any QoS may be asked for all the same. [MQTT-3.2.2-10]
    let mut client = restricted.v5("c").connect();
    assert_eq!(client.subscribe("t", Qos::ExactlyOnce), ReasonCode::GrantedQos2);
}

/// MQTT-029: [MQTT-3.2.2-21] keep alive and expiry are told where the server changed them, and
/// only there.
#[test]
fn connack_tells_what_was_changed() {
    let broker = broker(|settings| {
        settings.min_keep_alive_seconds = 10;
        settings.min_session_expiry_seconds = 50;
        settings.max_session_expiry_seconds = 100;
    });
    let cases = [
        (5, 200, Some(10), Some(100)),
        (10, 100, None, None),
        (60, 70, None, None),
        (0, 0, None, None),
        (9, 1, Some(10), Some(50)),
    ];
    for (keep_alive_s, expiry_s, keep_alive_told, expiry_told) in cases {
        let mut client = broker.v5("c").keep_alive(keep_alive_s).expiry(expiry_s).open();
        let told =
            properties(&mut client, |told| (told.server_keep_alive_s, told.session_expiry_s));
        assert_eq!(told, (keep_alive_told, expiry_told), "{keep_alive_s} s, {expiry_s} s");
    }
}

/// MQTT-030: [MQTT-3.1.2-28] what the provider adds is told; response information to those who
/// ask for it.
#[test]
fn connack_carries_what_the_provider_adds() {
    let auth = AuthBy::new(|_| {
        AuthResult::Granted(Grant {
            tenant: "default".to_owned(),
            response_information: Some("answers/here".to_owned()),
            user_properties: vec![("b".into(), "1".into()), ("a".into(), "2".into())],
            ..Grant::default()
        })
    });
    let broker = Broker::with(Setup { auth, ..Setup::default() });
    for (asks, expected) in [(None, None), (Some(false), None), (Some(true), Some("answers/here"))]
    {
        let mut client = broker.v5("c").open_with(|connect| {
            connect.properties.request_response_information = asks;
        });
        properties(&mut client, |told| {
            assert_eq!(told.response_information, expected, "{asks:?}");
            let pairs: Vec<_> = told.user_properties.iter().collect();
            assert_eq!(pairs, [("b", "1"), ("a", "2")]);
        });
    }
    broker.v4("c").connect().ping();
}

/// Subscribes, goes, and tells after the given wait whether the session is still there.
fn is_kept(connector: &Connector, wait: impl FnOnce()) -> bool {
    let mut client = connector.connect();
    client.subscribe("t", QOS1);
    client.vanish();
    wait();
    let (client, welcome) = connector.welcome();
    client.disconnect(ReasonCode::Success);
    welcome.is_present
}

/// Lasts until a session that ends after a second is gone.
fn a_second(broker: &Broker) {
    let before = broker.inbox.stats().sessions;
    let started = Instant::now();
    broker.v5("a second").persistent().expiry(1).connect().vanish();
    broker.inbox_when(|stats| stats.sessions == before);
    assert!(started.elapsed() >= Duration::from_millis(950));
}

/// MQTT-036: [MQTT-4.1.0-2] without expiry a session of 5.0 goes with its connection.
#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    let broker = Broker::start();
    let zero = broker.v5("zero").persistent().expiry(0);
    // No clean start: it is not that which ends it.
    let absent = broker.v5("absent").persistent().no_expiry();
    for (name, connector) in [("zero", zero), ("absent", absent)] {
        assert!(!is_kept(&connector, || ()), "{name}");
        assert_eq!(broker.inbox.stats().sessions, 0, "{name}");
    }
    // With one it stays.
    assert!(is_kept(&broker.v5("kept").persistent(), || ()));
}

/// MQTT-037, MQTT-038: [MQTT-3.1.2-23] the expiry that counts is within the
/// tenant's bounds; the largest is for ever if the bound is.
#[test]
fn the_expiry_is_kept_within_the_bounds() {
    let defaults = TenantSettings::default();
    let bounds = (defaults.min_session_expiry_seconds, defaults.max_session_expiry_seconds);
    assert_eq!(bounds, (0, 604_800));
    let told = |broker: &Broker, asked_s: u32| {
        let (client, welcome) = broker.v5("c").persistent().expiry(asked_s).welcome();
        client.disconnect(ReasonCode::Success);
        welcome.session_expiry_s
    };
    let as_shipped = Broker::start();
    assert_eq!(told(&as_shipped, 604_801), Some(604_800));
    assert_eq!(told(&as_shipped, u32::MAX), Some(604_800));
    assert_eq!(told(&as_shipped, 604_800), None);
    // From below: it outlives the second that it asked for.
    let long = broker(|settings| settings.min_session_expiry_seconds = 3600);
    assert_eq!(told(&long, 1), Some(3600));
    let short = long.v5("short").persistent().expiry(1);
    assert!(is_kept(&short, || ()), "at once");
    let started = Instant::now();
    assert!(is_kept(&short, || while started.elapsed() < Duration::from_millis(1500) {
        std::thread::park_timeout(Duration::from_millis(50));
    }));
    // From above: it ends after the second that is allowed, and takes its routes with it.
    let brief = broker(|settings| settings.max_session_expiry_seconds = 1);
    let asked = brief.v5("asked").persistent().expiry(3600);
    assert!(!is_kept(&asked, || {
        brief.inbox_when(|stats| stats.sessions == 0);
        assert_eq!(brief.dist.stats().routes, 0);
    }));
    // For ever.
    let endless = broker(|settings| settings.max_session_expiry_seconds = u32::MAX);
    assert_eq!(told(&endless, u32::MAX), None);
    let forever = endless.v5("forever").persistent().expiry(u32::MAX);
    assert!(is_kept(&forever, || a_second(&endless)));
}

/// A session does not expire while its client is there, however short its expiry.
/// [MQTT-4.1.0-1]
#[test]
fn a_session_lasts_while_its_client_is_there() {
    let broker = Broker::start();
    let brief = broker.v5("brief").persistent().expiry(1);
    let mut client = brief.connect();
    client.subscribe("t", QOS1);
    // Two that go are gone a second later each; the one that stays has outlived both.
    a_second(&broker);
    a_second(&broker);
    client.deliver("t", "still", QOS1);
    assert_eq!(client.message().text(), "still");
    client.vanish();
    assert!(brief.welcome().1.is_present);
}

/// MQTT-039: [MQTT3-3.1.2-4] [MQTT3-3.1.2-5] [MQTT3-3.1.2-6] before 5.0 a session that is not
/// clean stays as long as the bound allows, and gathers messages; a clean one leaves nothing.
#[test]
fn sessions_before_5_0_stay_unless_they_are_clean() {
    for version in [ProtocolVersion::V31, ProtocolVersion::V311] {
        let broker = broker(|settings| settings.max_session_expiry_seconds = 1);
        let mut publisher = broker.v5("publisher").connect();
        let stored = broker.client(version, "c").persistent();
        let mut client = stored.connect();
        client.subscribe("t", QOS1);
        client.vanish();
        publisher.deliver("t", "while away", QOS1);
        let (mut client, welcome) = stored.welcome();
        // 3.1 knows no flag for it.
        assert_eq!(welcome.is_present, version == ProtocolVersion::V311);
        assert_eq!(client.message().text(), "while away", "{version}");
        // The bound counts from the end of the connection.
        let started = Instant::now();
        client.vanish();
        broker.inbox_when(|stats| stats.sessions == 0);
        assert!(started.elapsed() >= Duration::from_millis(950), "{version}");
        let mut client = broker.client(version, "c").connect();
        client.subscribe("t", QOS1);
        client.vanish();
        assert_eq!(broker.inbox.stats().sessions, 0, "{version}");
        let mut client = stored.connect();
        assert_quiet(&mut publisher, &mut client);
        publisher.deliver("t", "not subscribed", QOS1);
        assert_quiet(&mut publisher, &mut client);
    }
    // All are transient where the tenant says so.
    let broker = broker(|settings| settings.force_transient = true);
    for version in VERSIONS {
        let stored = broker.client(version, "c").persistent();
        let told = stored.welcome().1.session_expiry_s;
        assert_eq!(told, version.is_v5().then_some(0), "{version}");
        assert!(!is_kept(&stored, || ()), "{version}");
        assert_eq!(broker.inbox.stats().sessions, 0, "{version}");
    }
}
