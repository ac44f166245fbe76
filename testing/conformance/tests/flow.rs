//! What is bounded: windows, queues, readers that do not read, memory, large fan-outs.

use std::{
    collections::VecDeque,
    io::Write as _,
    time::{Duration, Instant},
};

use ratatosk_codec::{Packet, PacketType, Publish, Qos, ReasonCode};
use ratatosk_conformance::{Broker, Client, Event, PATIENCE, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_telemetry::{ByteCount, memory::Share};

use crate::cases::{Case, QOS0, QOS1, QOS2, VERSIONS, assert_quiet};

/// MQTT-090: [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT-4.9.0-3] never more in flight than the client's
/// Receive Maximum, each with an identifier of its own; all come in the end.
#[test]
fn in_flight_stays_within_the_receive_maximum() {
    const WINDOW: u16 = 7;
    const COUNT: u32 = 100;
    for is_stored in [false, true] {
        for qos in [QOS1, QOS2] {
            let broker = Broker::start();
            let mut connector = broker.v5("c").receive_maximum(WINDOW);
            if is_stored {
                connector = connector.persistent();
            }
            let mut client = connector.connect();
            client.subscribe("t", QOS2);
            let mut publisher = broker.v5("publisher").connect();
            for number in 0..COUNT {
                publisher.deliver("t", number.to_string(), qos);
            }
            // Nothing is acknowledged: the window is all that comes.
            let mut open: VecDeque<u16> =
                (0..WINDOW).map(|_| client.unacknowledged().packet_id).collect();
            assert_quiet(&mut publisher, &mut client);
            let mut next = u32::from(WINDOW);
            while let Some(id) = open.pop_front() {
                match qos {
                    QOS2 => {
                        client.ack(PacketType::Pubrec, id);
                        client.find_ack(PacketType::Pubrel, id);
                        // Until PUBCOMP the message is in flight.
                        client.send(&Packet::Pingreq);
                        assert_eq!(client.event(), Event::Pingresp);
                        client.ack(PacketType::Pubcomp, id);
                    }
                    _ => client.ack(PacketType::Puback, id),
                }
                if next < COUNT {
                    let message = client.unacknowledged();
                    assert_eq!(message.text().parse(), Ok(next));
                    assert!(!open.contains(&message.packet_id), "an identifier is in use");
                    open.push_back(message.packet_id);
                    next += 1;
                }
                client.send(&Packet::Pingreq);
                assert_eq!(client.event(), Event::Pingresp, "one came for one");
            }
            assert_quiet(&mut publisher, &mut client);
        }
    }
}

/// The longest of `count` round trips of a message through the broker.
fn longest_round_trip(echo: &mut Client, count: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let sent = Instant::now();
        echo.publish("echo", "x", QOS0);
        echo.message();
        longest = longest.max(sent.elapsed());
    }
    longest
}

/// MQTT-097: what a client that does not read has no room for is dropped and counted; its
/// neighbours on both shards are served as before.
#[test]
fn a_client_that_never_reads_costs_only_itself() {
    const COUNT: usize = 4000;
    const BATCH: usize = 25;
    for is_across in [false, true] {
        let broker = Broker::start();
        let mut deaf = broker.v5("deaf").connect();
        let _between = (!is_across).then(|| broker.v4("between").connect());
        deaf.subscribe("flood", QOS0);
        let mut publisher = broker.v5("publisher").connect();
        let mut reader = broker.v5("reader").connect();
        let mut near = broker.v5("near").connect();
        let mut far = broker.v5("far").connect();
        for (number, echo) in [&mut near, &mut far].into_iter().enumerate() {
            echo.subscribe(&format!("echo{number}"), QOS0);
        }
        reader.subscribe("flood", QOS0);
        // The publisher waits for the one that reads, so that only the deaf one falls behind.
        let (tell, told) = std::sync::mpsc::sync_channel(COUNT);
        let reading = std::thread::spawn(move || {
            for number in 0..COUNT {
                reader.message();
                if number % BATCH == BATCH - 1 {
                    tell.send(()).expect("the publisher waits");
                }
            }
        });
        let payload = vec![b'x'; 4096];
        let mut longest = Duration::ZERO;
        for number in 0..COUNT {
            publisher.publish("flood", &payload, QOS0);
            if number % BATCH == BATCH - 1 {
                told.recv().expect("who reads gets everything");
                for (number, echo) in [&mut near, &mut far].into_iter().enumerate() {
                    let sent = Instant::now();
                    echo.publish(&format!("echo{number}"), "x", QOS0);
                    echo.message();
                    longest = longest.max(sent.elapsed());
                }
            }
        }
        reading.join().expect("who reads gets everything");
        assert!(longest < Duration::from_secs(1), "a neighbour waited for {longest:?}");
        // All of it is either with the deaf one's sockets, or counted.
        let stats = broker.stats_when(|stats| stats.dropped_overflow > 0);
        let most = COUNT as u64;
        assert!(stats.dropped_overflow < most, "some fitted: {}", stats.dropped_overflow);
        let mut heard = 0;
        deaf.send(&Packet::Pingreq);
        loop {
            match deaf.event() {
                Event::Publish(_) => heard += 1,
                Event::Pingresp => break,
                other => panic!("unexpected: {other:?}"),
            }
        }
        let stats = broker.stats_when(|stats| stats.dropped_overflow + heard == most);
        assert_eq!(stats.dropped_overflow + heard, most, "sent or counted, each of them");
    }
}

/// MQTT-098, INBOX-009: a stored session keeps its bound of messages; beyond it the newest is dropped, or
/// the oldest of QoS 0 if the tenant wants that, and each drop is counted.
#[test]
fn an_offline_queue_is_bounded() {
    for drop_oldest in [false, true] {
        let settings = || TenantSettings {
            session_inbox_size: 10,
            queue_qos0_when_offline: true,
            qos0_drop_oldest: drop_oldest,
            ..TenantSettings::default()
        };
        for case in Case::all(|| Setup { settings: settings(), ..Setup::default() }) {
            let stored = case.client("away").persistent();
            let mut publisher = case.client("publisher").connect();
            for qos in [QOS0, QOS1] {
                let mut client = stored.connect();
                client.subscribe("t", QOS1);
                client.disconnect(ReasonCode::Success);
                for number in 0..25 {
                    publisher.deliver("t", number.to_string(), qos);
                }
                publisher.ping();
                let mut client = stored.connect();
                let got: Vec<u32> =
                    (0..10).map(|_| client.message().text().parse().expect("a number")).collect();
                let expected = match drop_oldest && qos == QOS0 {
                    true => (15..25).collect::<Vec<_>>(),
                    false => (0..10).collect(),
                };
                assert_eq!(got, expected, "{}, {qos:?}", case.name);
                assert_quiet(&mut publisher, &mut client);
                client.disconnect(ReasonCode::Success);
            }
            let dropped = case.broker.inbox.stats().dropped;
            assert_eq!((dropped.overflow, dropped.overflow_qos0), (15, 15), "{}", case.name);
        }
    }
    assert_eq!(TenantSettings::default().session_inbox_size, 10_000);
}

/// MQTT-103: while memory is short who brings much is not read, and closed after 5 s; who brings
/// little goes on. A quota of inbound bytes is not among it.
#[test]
fn memory_pressure_stops_readers_and_then_closes_them() {
    let setup = || Setup { memory_max: ByteCount::mebibytes(256), ..Setup::default() };
    let broker = Broker::with(setup());
    let mut large = [broker.v5("large").connect(), broker.v4("old").connect()];
    let mut small = broker.v5("small").connect();
    // Half of a large packet is held by its connection.
    let payload = vec![0; 600_000];
    let packets = VERSIONS.map(|version| {
        let mut bytes = Vec::new();
        ratatosk_codec::encode(&Packet::Publish(Publish::new("t", &payload)), version, &mut bytes);
        bytes
    });
    let [old, new] = &packets;
    for (client, bytes) in large.iter_mut().zip([new, old]) {
        client.send_raw(&bytes[..400_000]);
    }
    broker.stats_when(|stats| stats.read_bytes >= 800_000);
    let account = broker.memory.account("somebody");
    account.charge(Share::Retained, 235 << 20);
    let started = Instant::now();
    for (client, bytes) in large.iter_mut().zip([new, old]) {
        let more = &bytes[400_000..500_000];
        (&client.writer()).write_all(more).expect("the system takes it");
    }
    small.ping();
    for client in &mut large {
        client.expect_farewell(ReasonCode::QuotaExceeded);
        let waited = started.elapsed();
        assert!(waited >= Duration::from_millis(4800), "closed after {waited:?}");
    }
    small.ping();

    // Once there is memory again a reader that waited goes on.
    account.release(Share::Retained, 235 << 20);
    let (first, rest) = new.split_at(400_000);
    let mut large = broker.v5("large").connect();
    let read = broker.stats_when(|_| true).read_bytes;
    large.send_raw(first);
    broker.stats_when(|stats| stats.read_bytes >= read + 400_000);
    account.charge(Share::Retained, 235 << 20);
    (&large.writer()).write_all(&rest[..100_000]).expect("the system takes it");
    small.ping();
    account.release(Share::Retained, 235 << 20);
    large.send_raw(&rest[100_000..]);
    large.ping();
}

/// SEC-006: what one connection makes the broker hold has a bound, whatever the client does.
#[test]
fn the_memory_of_one_connection_is_bounded() {
    let settings = TenantSettings { session_inbox_size: 500, ..TenantSettings::default() };
    let broker = Broker::with_settings(settings);
    let mut greedy = broker.v5("greedy").connect();
    let mut publisher = broker.v5("publisher").connect();
    greedy.subscribe("flood/#", QOS1);
    // It reads nothing and acknowledges nothing.
    let payload = vec![b'x'; 2048];
    for number in 0..6000_u32 {
        let qos = [QOS0, QOS1][(number % 2) as usize];
        publisher.deliver(&format!("flood/{}", number % 3), &payload, qos);
    }
    // All aliases, and as many unfinished messages as it may have.
    let mut builder = ratatosk_codec::PublishPropertiesBuilder::new();
    for alias in 1..=32 {
        builder.clear();
        builder.topic_alias(alias).expect("not zero");
        let topic = "a".repeat(60_000);
        greedy.publish_as(Publish { properties: builder.view(), ..Publish::new(&topic, b"") });
    }
    for _ in 0..1024 {
        greedy.publish("t", "x", QOS2);
    }
    publisher.ping();
    broker.stats_when(|stats| stats.received >= 6000 + 32 + 1024);
    // Output 256 KiB and a frame, aliases 32 x 64 KiB, queue and window 1,000 x 2 KiB, input.
    let held = broker.memory.charged().bytes();
    assert!(held < 12 << 20, "{held} bytes are charged");
    let stats = broker.stats_when(|stats| stats.dropped_overflow > 0);
    // What was taken for it has left, or is in the output, or in the queue: sockets may take more for
    // a moment.
    let left = stats.written_bytes / 2048;
    let taken = 6000 - stats.dropped_overflow;
    assert!(taken <= left + 130 + 500, "{stats:?}");
}

/// DIST-008: a fan-out of 1,500 is carried by both shards: a part of it by each.
#[test]
fn a_large_fanout_is_spread_over_the_shards() {
    const SUBSCRIBERS: usize = 1500;
    let broker = Broker::start();
    let mut subscribers: Vec<Client> = (0..SUBSCRIBERS)
        .map(|number| {
            let mut client = broker.v4(&format!("s{number}")).connect();
            client.subscribe("to/all", QOS0);
            client
        })
        .collect();
    let stats = broker.dist.stats();
    assert_eq!((stats.routes, stats.shards), (1, 2), "one route, both shards behind it");
    let mut publisher = broker.v5("publisher").connect();
    for number in 0..5 {
        publisher.deliver("to/all", number.to_string(), QOS1);
    }
    for subscriber in &mut subscribers {
        for number in 0..5 {
            assert_eq!(subscriber.message().text().parse(), Ok(number));
        }
    }
    let stats = broker.stats_when(|stats| stats.sent == 5 * SUBSCRIBERS as u64);
    assert_eq!(stats.connections, SUBSCRIBERS as u64 + 1);
    // The route goes with the last of them.
    drop(subscribers);
    let end = Instant::now() + PATIENCE;
    while broker.dist.stats().routes > 0 {
        assert!(Instant::now() < end, "routes stay: {:?}", broker.dist.stats());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A burst between two shards that is larger than a lane holds slows the publisher and loses
/// nothing.
#[test]
fn a_lane_that_is_full_slows_the_publisher() {
    let broker = Broker::start();
    let mut subscriber = broker.v5("subscriber").connect();
    subscriber.subscribe("t", QOS1);
    let connector = broker.v5("publisher");
    const COUNT: u32 = 400;
    let publishing = std::thread::spawn(move || {
        let mut publisher = connector.connect();
        let payload = vec![b'x'; 100_000];
        let ids: Vec<u16> =
            (0..COUNT).map(|_| publisher.publish("t", &payload, Qos::AtLeastOnce)).collect();
        for id in ids {
            assert_eq!(publisher.find_ack(PacketType::Puback, id), ReasonCode::Success);
        }
    });
    for _ in 0..COUNT {
        assert_eq!(subscriber.message().payload.len(), 100_000);
    }
    publishing.join().expect("all are acknowledged");
}

/// What is published at a high rate costs others on the shard no more than a moment.
#[test]
fn a_fast_publisher_leaves_room_for_others() {
    let broker = Broker::start();
    let mut fast = broker.v5("fast").connect();
    let mut slow = broker.v5("slow").connect();
    slow.subscribe("echo", QOS0);
    let flooding = std::thread::spawn(move || {
        for _ in 0..200 {
            for _ in 0..100 {
                fast.publish("nobody", "x", QOS0);
            }
            fast.ping();
        }
    });
    let longest = longest_round_trip(&mut slow, 100);
    flooding.join().expect("all is sent");
    assert!(longest < Duration::from_secs(1), "the longest round trip took {longest:?}");
}
