//! Wills.

use std::time::{Duration, Instant};

use ratatosk_codec::{Disconnect, Packet, ReasonCode};
use ratatosk_conformance::{Broker, Client, PermissionBy, Setup, Testament};
use ratatosk_contract::TenantSettings;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Verdict},
};

use crate::cases::{Case, QOS0, QOS1, VERSIONS, assert_quiet};

fn delayed(topic: &str, payload: &str, seconds: u32) -> Testament {
    Testament { delay_s: Some(seconds), ..Testament::new(topic, payload) }
}

/// MQTT-048: an abnormal end and DISCONNECT 0x04 publish the will, a normal end drops it.
#[test]
fn a_will_is_published_unless_the_client_says_goodbye() {
    for case in Case::all(Setup::default) {
        let dying = |id: &str| case.client(id).will(Testament::new("will", id));
        let (mut watcher, client, _guard) = case.pair(case.client("watcher"), dying("vanishes"));
        watcher.subscribe("will", QOS1);
        client.vanish();
        assert_eq!(watcher.message().text(), "vanishes", "{}", case.name);

        dying("polite").connect().disconnect(ReasonCode::Success);
        let mut publisher = case.client("publisher").connect();
        assert_quiet(&mut publisher, &mut watcher);

        let mut breaks = dying("breaks").connect();
        breaks.send_raw(&[0xF0, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(watcher.message().text(), "breaks");

        let old = dying("taken").connect();
        let new = dying("taken").connect();
        assert_eq!(watcher.message().text(), "taken", "the old connection's");
        drop(old);
        new.disconnect(ReasonCode::Success);

        if case.version.is_v5() {
            dying("asks").connect().disconnect(ReasonCode::DisconnectWithWill);
            assert_eq!(watcher.message().text(), "asks");
        }
        assert_quiet(&mut publisher, &mut watcher);
    }
}

/// MQTT-048: silence beyond the keep alive is an abnormal end.
#[test]
fn a_will_follows_a_keep_alive_timeout() {
    let broker = Broker::start();
    let mut watcher = broker.v4("watcher").connect();
    watcher.subscribe("will", QOS0);
    for version in VERSIONS {
        let will = Testament::new("will", "silent");
        let _client = broker.client(version, "silent").keep_alive(1).will(will).connect();
        assert_eq!(watcher.message().text(), "silent");
    }
}

/// MQTT-049: [MQTT-3.1.2-7] the will comes after its delay, or at the session's end if that is
/// earlier.
#[test]
fn a_delayed_will_comes_after_its_delay_or_with_the_session() {
    let broker = Broker::start();
    let mut watcher = broker.v5("watcher").connect();
    watcher.subscribe("will", QOS1);
    let cases = [
        ("delay", 1, 3600, Some(Duration::from_millis(950))),
        ("session", 3600, 1, Some(Duration::from_millis(950))),
        ("transient", 3600, 0, None),
    ];
    for (name, delay_s, expiry_s, at_least) in cases {
        let will = delayed("will", name, delay_s);
        let client = broker.v5(name).expiry(expiry_s).will(will).connect();
        let started = Instant::now();
        client.vanish();
        assert_eq!(watcher.message().text(), name);
        let waited = started.elapsed();
        match at_least {
            Some(least) => assert!(waited >= least, "{name} after {waited:?}"),
            None => assert!(waited < Duration::from_secs(5), "{name} after {waited:?}"),
        }
    }
}

/// MQTT-050: who comes back before the delay is over cancels the will.
#[test]
fn a_reconnect_cancels_a_delayed_will() {
    let broker = Broker::start();
    let mut watcher = broker.v5("watcher").connect();
    watcher.subscribe("will", QOS1);
    let dying = broker.v5("back").persistent().will(delayed("will", "never", 1));
    dying.connect().vanish();
    let client = broker.v5("back").persistent().connect();
    // Another one's will of the same delay shows that the time is over.
    broker.v5("other").persistent().will(delayed("will", "other", 1)).connect().vanish();
    assert_eq!(watcher.message().text(), "other");
    let mut publisher = broker.v5("publisher").connect();
    assert_quiet(&mut publisher, &mut watcher);
    drop(client);
}

fn permission() -> std::sync::Arc<PermissionBy> {
    PermissionBy::new(|_, action| match action {
        Action::Publish { topic, is_will: true, .. } if topic.starts_with("denied/") => {
            Answer::Now(Verdict::denied("rule"))
        }
        Action::Publish { topic, is_will: true, .. } if topic.starts_with("later-denied/") => {
            Answer::later(async { Verdict::denied("rule") })
        }
        Action::Publish { topic, is_will: true, .. } if topic.starts_with("later/") => {
            Answer::later(async { Verdict::Allowed })
        }
        _ => Answer::Now(Verdict::Allowed),
    })
}

/// MQTT-052: a will needs the permission to publish, delayed or not.
#[test]
fn a_will_needs_the_permission_to_publish() {
    let broker = Broker::with(Setup { permission: permission(), ..Setup::default() });
    let mut watcher = broker.v5("watcher").connect();
    watcher.subscribe("#", QOS1);
    for delay_s in [0, 1] {
        for topic in ["denied/w", "later-denied/w", "later/w", "allowed/w"] {
            let will = delayed(topic, "will", delay_s);
            broker.v5(topic).persistent().will(will).connect().vanish();
        }
        let mut topics = [watcher.message().topic, watcher.message().topic];
        topics.sort();
        assert_eq!(topics, ["allowed/w", "later/w"], "delay {delay_s} s");
        let mut publisher = broker.v5("publisher").connect();
        publisher.deliver("end", "end", QOS1);
        assert_eq!(watcher.message().topic, "end", "delay {delay_s} s");
    }
}

/// MQTT-052: [MQTT-3.1.2-14] [MQTT-3.1.2-15] the will's retain flag counts.
#[test]
fn a_will_may_be_retained() {
    for case in Case::all(Setup::default) {
        let will = Testament { retain: true, ..Testament::new("status", "gone") };
        let (mut watcher, client, _guard) =
            case.pair(case.client("watcher"), case.client("c").will(will));
        watcher.subscribe("status", QOS1);
        client.vanish();
        let live = watcher.message();
        assert_eq!((live.text(), live.retain), ("gone", false), "{}", case.name);
        let mut late = case.client("late").connect();
        late.subscribe("status", QOS1);
        let stored = late.message();
        assert_eq!((stored.text(), stored.retain), ("gone", true), "{}", case.name);
        // Not retained: nothing is kept.
        case.client("d").will(Testament::new("other", "gone")).connect().vanish();
        late.subscribe("other", QOS1);
        let mut publisher = case.client("publisher").connect();
        assert_quiet(&mut publisher, &mut late);
    }
}

/// MQTT-053: a graceful stop publishes no wills, unless the tenant wants them.
#[test]
fn a_graceful_stop_suppresses_wills_if_the_tenant_says_so() {
    for suppressed in [true, false] {
        let settings = TenantSettings {
            no_lwt_when_server_shutting_down: suppressed,
            ..TenantSettings::default()
        };
        let config = ratatosk_mqtt::Config {
            shards: 1,
            // The watcher, which came last, goes last.
            disconnects_per_second: 5,
            ..ratatosk_mqtt::Config::default()
        };
        let mut broker = Broker::with(Setup { settings, config, ..Setup::default() });
        let mut dying = broker.v5("dying").will(Testament::new("will", "stop")).connect();
        let mut watcher = broker.v5("watcher").connect();
        watcher.subscribe("will", QOS0);
        broker.stop(Duration::from_secs(10));
        dying.expect_farewell(ReasonCode::ServerShuttingDown);
        if !suppressed {
            assert_eq!(watcher.message().text(), "stop");
        }
        watcher.expect_farewell(ReasonCode::ServerShuttingDown);
        drop((dying, watcher));
        broker.stopped();
    }
}

/// A will's own properties: QoS as min of both, and DISCONNECT of 5.0 that keeps it.
#[test]
fn a_normal_disconnect_of_a_persistent_session_drops_its_delayed_will() {
    let broker = Broker::start();
    let mut watcher = broker.v5("watcher").connect();
    watcher.subscribe("will", QOS1);
    let mut client: Client =
        broker.v5("c").persistent().will(delayed("will", "dropped", 1)).connect();
    client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    client.expect_close();
    broker.v5("other").persistent().will(delayed("will", "other", 1)).connect().vanish();
    assert_eq!(watcher.message().text(), "other");
    let mut publisher = broker.v5("publisher").connect();
    assert_quiet(&mut publisher, &mut watcher);
}
