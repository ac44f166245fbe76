//! Sessions: taking them over, leaving them, coming back to them.

use std::io::Write as _;

use ratatosk_codec::{
    Disconnect, Packet, PacketId, PacketType, ProtocolVersion, Publish, ReasonCode,
};
use ratatosk_conformance::{Broker, Client, Event, Setup, Testament};
use ratatosk_contract::{ClientId, SessionIdentity, TenantId, TenantSettings};

use crate::cases::{Case, QOS0, QOS1, QOS2, VERSIONS, assert_quiet};

/// MQTT-042, DICT-001: of twenty that race for one session one is left, and each other is told.
#[test]
fn of_many_that_race_for_one_session_one_survives() {
    for is_persistent in [false, true] {
        let broker = Broker::start();
        let id = "wanted";
        let connector = match is_persistent {
            false => broker.v5(id),
            true => broker.v5(id).persistent(),
        };
        let threads: Vec<_> = (0..20)
            .map(|_| {
                let connector = connector.clone();
                std::thread::spawn(move || connector.open())
            })
            .collect();
        let clients: Vec<Client> =
            threads.into_iter().map(|thread| thread.join().expect("connects")).collect();
        // Whoever is left is the one that another one's publish reaches.
        let (told, left): (Vec<_>, Vec<_>) = outcomes(clients);
        assert_eq!((told.len(), left.len()), (19, 1), "persistent: {is_persistent}");
        let mut survivor = left.into_iter().next().expect("one is left");
        survivor.subscribe("t", QOS1);
        let mut publisher = broker.v5("publisher").connect();
        assert_eq!(publisher.deliver("t", "one", QOS1), ReasonCode::Success);
        assert_eq!(survivor.message().text(), "one");
        assert_quiet(&mut publisher, &mut survivor);
        let identity = SessionIdentity {
            tenant: TenantId::new("default"),
            user: None,
            client: ClientId::new(id),
        };
        assert_eq!(broker.session_dict.tenant_len(&identity.tenant), 2);
        let stats = broker.stats_when(|stats| stats.live == 2);
        assert_eq!(stats.connected - stats.disconnected, 2);
    }
}

/// Waits until all but one were told 0x8E; the clients told, and those left. Who lost before it
/// had the session is refused: CONNACK knows no 0x8E.
fn outcomes(clients: Vec<Client>) -> (Vec<Client>, Vec<Client>) {
    let (tell, told) = std::sync::mpsc::sync_channel(clients.len());
    let count = clients.len();
    let writers: Vec<_> = clients.iter().map(Client::writer).collect();
    for (index, mut client) in clients.into_iter().enumerate() {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let fate = loop {
                match client.event() {
                    Event::Connack(welcome) if welcome.reason == ReasonCode::Success => {}
                    Event::Connack(welcome) => {
                        assert_eq!(welcome.reason, ReasonCode::ServerBusy);
                        break Some(welcome.reason);
                    }
                    Event::Disconnect(code) => {
                        assert_eq!(code, ReasonCode::SessionTakenOver);
                        break Some(code);
                    }
                    Event::Pingresp => break None,
                    other => panic!("unexpected: {other:?}"),
                }
            };
            tell.send((index, fate, client)).expect("the test waits");
        });
    }
    // A client without a fate is then the end of the wait.
    drop(tell);
    let mut losers = Vec::new();
    while losers.len() + 1 < count {
        let (_, fate, mut client) = told.recv().expect("every loser is told");
        assert!(fate.is_some(), "nobody is asked yet");
        client.expect_close();
        losers.push(client);
    }
    // Only now one is left to be asked.
    for writer in writers {
        let _ = (&writer).write_all(&[0xC0, 0]);
    }
    let (_, fate, client) = told.recv().expect("the survivor answers");
    assert_eq!(fate, None, "the last one was not told to go");
    (losers, vec![client])
}

/// MQTT-042: [MQTT-3.1.4-3] the newer connection owns the session; the older is told in 5.0,
/// closed in 3.1.1.
#[test]
fn a_newer_connection_takes_the_session_over() {
    for case in Case::all(Setup::default) {
        for is_persistent in [false, true] {
            let id = format!("owner-{is_persistent}");
            let mut connector = case.client(&id);
            if is_persistent {
                connector = connector.persistent();
            }
            let (mut old, mut new, _guard) = case.pair(connector.clone(), connector.clone());
            old.expect_farewell(ReasonCode::SessionTakenOver);
            new.subscribe("mine", QOS1);
            new.deliver("mine", "still here", QOS1);
            assert_eq!(new.message().text(), "still here", "{}", case.name);
        }
    }
}

/// MQTT-040: [MQTT-3.1.4-4] a clean start discards what was stored: subscriptions, queue, a will
/// that waits.
#[test]
fn a_clean_start_discards_the_stored_session() {
    for case in Case::all(Setup::default) {
        // The new session is transient, or persistent itself.
        for stays in [false, true] {
            let mut watcher = case.client("watcher").connect();
            watcher.subscribe("will", QOS1);
            let will =
                |topic: &str| Testament { delay_s: Some(1), ..Testament::new("will", topic) };
            let mut stored = case.client("stored").persistent();
            // MQTT 3 knows no delay.
            if case.version.is_v5() {
                stored = stored.will(will("never"));
            }
            let mut client = stored.connect();
            client.subscribe("t", QOS1);
            client.vanish();
            let mut publisher = case.client("publisher").connect();
            publisher.deliver("t", "queued", QOS1);
            let returning = match stays {
                true => case.client("stored").persistent().clean(),
                false => case.client("stored"),
            };
            let (mut client, welcome) = returning.welcome();
            assert!(!welcome.is_present, "{}", case.name);
            assert_quiet(&mut publisher, &mut client);
            publisher.deliver("t", "not subscribed", QOS1);
            assert_quiet(&mut publisher, &mut client);
            // Another one's will of the same delay shows that the time is over.
            case.broker.v5("other").persistent().will(will("other")).connect().vanish();
            assert_eq!(watcher.message().text(), "other", "{}", case.name);
            client.disconnect(ReasonCode::Success);
        }
    }
}

/// MQTT-041: DISCONNECT may change the expiry within the ceiling, but not raise it from zero.
#[test]
fn disconnect_changes_the_session_expiry() {
    let settings = TenantSettings { max_session_expiry_seconds: 100, ..TenantSettings::default() };
    let broker = Broker::with_settings(settings);
    let disconnect = |mut client: Client, expiry_s: u32| {
        let packet =
            Disconnect { session_expiry_s: Some(expiry_s), ..Disconnect::new(ReasonCode::Success) };
        client.send(&Packet::Disconnect(packet));
        client
    };
    // To zero: the session ends with its connection.
    disconnect(broker.v5("c").persistent().connect(), 0).expect_close();
    let (client, welcome) = broker.v5("c").persistent().welcome();
    assert!(!welcome.is_present);
    // To more than the ceiling: clamped, so the session is there.
    disconnect(client, 1_000_000).expect_close();
    let (client, welcome) = broker.v5("c").persistent().welcome();
    assert!(welcome.is_present);
    assert_eq!(welcome.session_expiry_s, Some(100));
    // To a second: gone after it.
    disconnect(client, 1).expect_close();
    broker.inbox_when(|stats| stats.sessions == 0);
    assert!(!broker.v5("c").persistent().welcome().1.is_present);
    // From zero: a breach.
    let mut client = disconnect(broker.v5("transient").connect(), 60);
    client.expect_farewell(ReasonCode::ProtocolError);
}

/// MQTT-044, MQTT-091: [MQTT-4.4.0-1] [MQTT-3.1.2-5] [MQTT-4.3.2-3] [MQTT-4.3.3-3] what was sent
/// and not acknowledged comes again on resume, marked, with its identifier.
#[test]
fn unacknowledged_messages_come_again_on_resume() {
    for case in Case::all(Setup::default) {
        for qos in [QOS1, QOS2] {
            let id = format!("resume-{}", qos.value());
            let stored = case.client(&id).persistent();
            let (mut client, mut publisher, _guard) =
                case.pair(stored.clone(), case.client(&format!("publisher-{}", qos.value())));
            client.subscribe(&id, QOS2);
            for number in 0..3 {
                publisher.deliver(&id, number.to_string(), qos);
            }
            let first: Vec<_> = (0..3).map(|_| client.unacknowledged()).collect();
            assert!(first.iter().all(|message| !message.dup && message.qos == qos));
            client.vanish();
            let (mut client, welcome) = stored.welcome();
            assert!(welcome.is_present);
            for before in &first {
                let again = client.message();
                let expected = (true, before.packet_id, &before.payload);
                let found = (again.dup, again.packet_id, &again.payload);
                assert_eq!(found, expected, "{}, {qos:?}", case.name);
            }
            assert_quiet(&mut publisher, &mut client);
            client.disconnect(ReasonCode::Success);
            let mut client = stored.connect();
            assert_quiet(&mut publisher, &mut client);
        }
    }
}

/// MQTT-045: an owed PUBREL is sent again on resume, and the message is not.
#[test]
fn an_owed_pubrel_comes_again_on_resume() {
    for case in Case::all(Setup::default) {
        let stored = case.client("owed").persistent();
        let (mut client, mut publisher, _guard) =
            case.pair(stored.clone(), case.client("publisher"));
        client.subscribe("t", QOS2);
        publisher.deliver("t", "once", QOS2);
        let message = client.unacknowledged();
        client.ack(PacketType::Pubrec, message.packet_id);
        client.find_ack(PacketType::Pubrel, message.packet_id);
        client.vanish();
        let mut client = stored.connect();
        let owed = Event::Ack(PacketType::Pubrel, message.packet_id, ReasonCode::Success);
        assert_eq!(client.event(), owed, "{}", case.name);
        client.ack(PacketType::Pubcomp, message.packet_id);
        assert_quiet(&mut publisher, &mut client);
        client.disconnect(ReasonCode::Success);
        let mut client = stored.connect();
        assert_quiet(&mut publisher, &mut client);
    }
}

/// MQTT-046: a QoS 2 message that is sent again after a reconnect is known by its identifier.
#[test]
fn inbound_duplicates_are_known_after_a_reconnect() {
    for case in Case::all(Setup::default) {
        let stored = case.client("sender").persistent();
        let (mut sender, mut watcher, _guard) = case.pair(stored.clone(), case.client("watcher"));
        watcher.subscribe("t", QOS0);
        let id = sender.publish("t", "once", QOS2);
        assert_eq!(sender.find_ack(PacketType::Pubrec, id), ReasonCode::Success);
        assert_eq!(watcher.message().text(), "once");
        sender.vanish();
        let mut sender = stored.connect();
        let publish = Publish {
            dup: true,
            qos: QOS2,
            packet_id: PacketId::new(id),
            ..Publish::new("t", b"once")
        };
        sender.publish_as(publish);
        assert_eq!(sender.finish(QOS2, id), ReasonCode::Success, "{}", case.name);
        assert_quiet(&mut sender, &mut watcher);
        // The identifier is free now.
        sender.publish_as(Publish { dup: false, ..publish });
        assert_eq!(sender.finish(QOS2, id), ReasonCode::Success);
        assert_eq!(watcher.message().text(), "once");
    }
}

/// Sessions of one version are taken up by clients of the other.
#[test]
fn a_session_is_resumed_in_another_version() {
    let broker = Broker::start();
    let mut client = broker.v4("both").persistent().connect();
    client.subscribe("t", QOS1);
    client.disconnect(ReasonCode::Success);
    let mut publisher = broker.v4("publisher").connect();
    publisher.deliver("t", "for 5.0", QOS1);
    let (mut client, welcome) = broker.v5("both").persistent().welcome();
    assert!(welcome.is_present);
    assert_eq!(client.message().text(), "for 5.0");
    client.disconnect(ReasonCode::Success);
    publisher.deliver("t", "for 3.1.1", QOS1);
    let mut client = broker.client(ProtocolVersion::V311, "both").persistent().connect();
    assert_eq!(client.message().text(), "for 3.1.1");
}

/// A storm of reconnects of a persistent session loses no message and gives none twice that was
/// acknowledged.
#[test]
fn reconnects_while_messages_come_lose_none() {
    const COUNT: u32 = 600;
    for version in VERSIONS {
        let broker = Broker::start();
        let stored = broker.client(version, "restless").persistent();
        let mut client = stored.connect();
        client.subscribe("t", QOS1);
        let connector = broker.v5("publisher");
        let publisher = std::thread::spawn(move || {
            let mut publisher = connector.connect();
            for number in 0..COUNT {
                assert_eq!(publisher.deliver("t", number.to_string(), QOS1), ReasonCode::Success);
            }
        });
        let mut next = 0;
        let mut since_connect = 0;
        while next < COUNT {
            let message = client.unacknowledged();
            let number: u32 = message.text().parse().expect("a number");
            assert!(number <= next, "{next} was lost: {number} came");
            assert!(number == next || message.dup, "{number} came twice, unmarked");
            client.acknowledge(&message);
            next = next.max(number + 1);
            since_connect += 1;
            if since_connect == 40 {
                since_connect = 0;
                match next % 3 {
                    0 => client.vanish(),
                    1 => client.disconnect(ReasonCode::Success),
                    _ => drop(client),
                }
                client = stored.connect();
            }
        }
        publisher.join().expect("all were acknowledged");
    }
}

/// INBOX-017: sessions that return all at once are served, each with all that waits for it; how fast
/// that is for thousands is what the scenario R1 of the benchmarks measures.
#[test]
fn a_storm_of_returning_sessions_is_served() {
    let broker = Broker::start();
    let ids: Vec<String> = (0..400).map(|number| format!("sleeper-{number}")).collect();
    for id in &ids {
        let mut client = broker.v5(id).persistent().connect();
        client.subscribe("t", QOS1);
        client.disconnect(ReasonCode::Success);
    }
    let mut publisher = broker.v5("publisher").connect();
    for number in 0..10 {
        assert_eq!(publisher.deliver("t", number.to_string(), QOS1), ReasonCode::Success);
    }
    // Each has asked before the first reads its answer.
    let returning: Vec<Client> = ids.iter().map(|id| broker.v5(id).persistent().open()).collect();
    for mut client in returning {
        let welcome = client.connack();
        assert!(welcome.is_present, "{welcome:?}");
        for number in 0..10 {
            assert_eq!(client.message().text(), number.to_string());
        }
    }
}
