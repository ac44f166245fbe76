//! What collectors of events are told of connections and sessions.

use std::sync::{
    Arc,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use ratatosk_codec::{Disconnect, Packet, ProtocolVersion, ReasonCode};
use ratatosk_conformance::{AuthBy, Broker, PATIENCE, Setup};
use ratatosk_plugin::{
    auth::{AuthResult, DenialReason, Grant},
    event::{Event, EventCollector, EventCollectors, EventKind},
    plugin::Plugin,
};

/// Writes down what it is told; panics at a client that asks for it.
struct Scribe {
    lines: SyncSender<String>,
}

impl Plugin for Scribe {
    fn name(&self) -> &str {
        "scribe"
    }
}

impl EventCollector for Scribe {
    fn report(&self, event: &Event<'_>) {
        let client = event.client.map_or("-", |client| &client.identity.client_id);
        let what = match event.kind {
            EventKind::ClientConnected {
                session_present, keep_alive_seconds, last_will, ..
            } => {
                let will = last_will.map_or("-", |will| will.topic);
                format!("connected present={session_present} {keep_alive_seconds}s will={will}")
            }
            EventKind::ByClient { without_disconnect } => {
                format!("by client, without disconnect: {without_disconnect}")
            }
            ref kind => kind.event_type().name().to_owned(),
        };
        self.lines.send(format!("{client}: {what}")).expect("the test reads");
        assert_ne!(client, "breaker", "a collector that fails");
    }
}

fn broker() -> (Broker, Receiver<String>) {
    let (lines, told) = sync_channel(1000);
    let scribe: Arc<dyn EventCollector> = Arc::new(Scribe { lines });
    let events = EventCollectors::new([scribe]);
    (Broker::with(Setup { events, auth: AuthBy::name(), ..Setup::default() }), told)
}

fn next(told: &Receiver<String>) -> String {
    told.recv_timeout(PATIENCE).expect("an event comes")
}

/// EVT-003, EVT-005: a session begins and ends with its events, once each.
#[test]
fn a_session_is_bracketed_by_its_events() {
    let (broker, told) = broker();
    let mut polite = broker.v5("polite").connect();
    assert_eq!(next(&told), "polite: MQTT_SESSION_START");
    assert_eq!(next(&told), "polite: connected present=false 0s will=-");
    polite.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    assert_eq!(next(&told), "polite: by client, without disconnect: false");
    assert_eq!(next(&told), "polite: MQTT_SESSION_STOP");
    let rude = broker.v4("rude").connect();
    assert_eq!(next(&told), "rude: MQTT_SESSION_START");
    assert_eq!(next(&told), "rude: connected present=false 0s will=-");
    drop(rude);
    assert_eq!(next(&told), "rude: by client, without disconnect: true");
    assert_eq!(next(&told), "rude: MQTT_SESSION_STOP");
}

/// Writes down all that it is told.
struct Everything {
    lines: SyncSender<String>,
}

impl Plugin for Everything {
    fn name(&self) -> &str {
        "everything"
    }
}

impl EventCollector for Everything {
    fn report(&self, event: &Event<'_>) {
        self.lines.send(format!("{event:?}")).expect("the test reads");
    }
}

/// SEC-007: what a client proves itself by is in no event, whether it is let in or not.
#[test]
fn secrets_are_in_no_event() {
    let (lines, told) = sync_channel(1000);
    let everything: Arc<dyn EventCollector> = Arc::new(Everything { lines });
    let events = EventCollectors::new([everything]);
    let auth = AuthBy::new(|request| match request.username.as_deref() {
        Some("in") => AuthResult::Granted(Grant {
            tenant: "default".to_owned(),
            user: "in".to_owned(),
            ..Grant::default()
        }),
        _ => AuthResult::denied(DenialReason::BadPassword, "unknown"),
    });
    let broker = Broker::with(Setup { events, auth, ..Setup::default() });
    let mut count = 0;
    for version in ProtocolVersion::ALL {
        let known = broker.client(version, "known").user("in").password("hunter2").connect();
        known.disconnect(ReasonCode::Success);
        broker.client(version, "unknown").user("out").password("hunter2").refused();
        // Session start and stop, connected and disconnected, and the refusal.
        for _ in 0..5 {
            let line = told.recv_timeout(PATIENCE).expect("an event comes");
            assert!(!line.contains("hunter2") && !line.contains("104, 117"), "{line}");
            count += usize::from(line.contains("known"));
        }
    }
    assert!(count > 0, "events say whose they are");
}

/// EVT-020: a collector that fails affects neither the client nor those who come after.
#[test]
fn a_collector_that_panics_leaves_the_broker_as_it_was() {
    let (broker, told) = broker();
    let mut breaker = broker.v5("breaker").connect();
    breaker.ping();
    let _other = broker.v5("other").connect();
    let lines: Vec<String> = (0..4).map(|_| next(&told)).collect();
    assert!(lines.contains(&"other: MQTT_SESSION_START".to_owned()), "{lines:?}");
}
