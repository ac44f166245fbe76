//! Whose memory is counted how, and what is given up when it is short.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use ratatosk_codec::{Packet, Publish, ReasonCode};
use ratatosk_conformance::{Broker, Client, PATIENCE, Setup};
use ratatosk_telemetry::{ByteCount, memory::Share};

use crate::cases::{QOS0, QOS1};

const LIMIT: ByteCount = ByteCount::mebibytes(256);

/// Waits until the whole process is charged with as much as is meant.
fn charged_when(broker: &Broker, is_meant: impl Fn(u64) -> bool) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        let charged = broker.memory.charged().bytes();
        if is_meant(charged) {
            return charged;
        }
        assert!(
            Instant::now() < end,
            "{charged} bytes are charged: {:?}",
            broker.memory.snapshot()
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// How often a step of shedding was taken.
fn shed_when(broker: &Broker, step: &str, is_meant: impl Fn(u64) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let shed = broker.node_stats().shed();
        let count = shed.iter().find(|(name, _)| *name == step).map(|(_, count)| *count);
        if is_meant(count.expect("a step of that name")) {
            return;
        }
        assert!(Instant::now() < end, "{step} was not taken so often: {shed:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// MEM-001: a payload that fifty receivers have yet to get is charged once, whether it was copied
/// out of the shard's buffer or has one of its own; with the last of them it is given back.
#[test]
fn a_payload_that_many_wait_for_is_charged_once() {
    const RECEIVERS: usize = 50;
    const COUNT: usize = 10;
    for size in [6_000, 200_000] {
        let broker = Broker::start();
        let mut publisher = broker.v5("publisher").connect();
        let mut receivers: Vec<Client> = (0..RECEIVERS)
            .map(|number| {
                // One at a time: the others wait in the broker.
                let connector = broker.v5(&format!("receiver-{number}")).receive_maximum(1);
                let mut client = connector.connect();
                client.subscribe("to/all", QOS1);
                client
            })
            .collect();
        let idle = charged_when(&broker, |_| true);
        for _ in 0..COUNT {
            publisher.deliver("to/all", vec![b'x'; size], QOS1);
        }
        broker.stats_when(|stats| stats.queued >= (RECEIVERS * (COUNT - 1)) as u64);
        let waiting = (size * (COUNT - 1)) as u64;
        let charged = charged_when(&broker, |charged| charged >= idle + waiting);
        let most = 3 * (size * COUNT) as u64 + (RECEIVERS as u64) * 16_000;
        assert!(charged < idle + most, "{charged} bytes are charged for {waiting}, {idle} before");
        let payloads = broker.memory.snapshot().charged[Share::Queues.index()].bytes();
        assert!(payloads < 2 * (size * COUNT) as u64, "{payloads} bytes of payloads");
        for _ in 0..COUNT {
            for receiver in &mut receivers {
                assert_eq!(receiver.message().payload.len(), size);
            }
        }
        charged_when(&broker, |charged| charged < idle + 200_000);
        let is_released = |_| broker.memory.snapshot().charged[Share::Queues.index()].bytes() == 0;
        charged_when(&broker, is_released);
    }
}

/// MEM-001: caches, QoS 0, readers, those who were not read, CONNECT, the largest: each step is
/// taken when its turn comes, not before, and counted.
#[test]
fn every_step_of_shedding_is_taken_in_order_and_counted() {
    let broker = Broker::with(Setup { memory_max: LIMIT, ..Setup::default() });
    let account = broker.memory.account("somebody");
    let mut held = 0;
    let mut hold = |percent: u64| {
        let bytes = usize::try_from(LIMIT.bytes() * percent / 100).expect("it fits");
        account.adjust(Share::Retained, held, bytes);
        held = bytes;
    };
    let counts = || broker.node_stats().shed().map(|(_, count)| count);

    let mut small = broker.v5("small").connect();
    small.subscribe("small", QOS1);
    small.deliver("small", "x", QOS1);
    assert_eq!(small.message().text(), "x");
    let mut large = broker.v5("large").connect();
    let mut bytes = Vec::new();
    let payload = vec![0; 600_000];
    let packet = Packet::Publish(Publish::new("t", &payload));
    ratatosk_codec::encode(&packet, large.version(), &mut bytes);
    large.send_raw(&bytes[..400_000]);
    broker.stats_when(|stats| stats.read_bytes >= 400_000);
    // Somebody who takes nothing: what the system does not take for it stays with the broker.
    let mut deaf = broker.v5("deaf").connect();
    deaf.subscribe("flood", QOS0);
    let mut publisher = broker.v5("publisher").connect();
    let flood = vec![b'x'; 60_000];
    while broker.stats_when(|_| true).dropped_overflow == 0 {
        publisher.publish("flood", &flood, QOS0);
        publisher.ping();
    }
    drop(publisher);
    assert_eq!(counts(), [0; 6]);

    hold(80);
    shed_when(&broker, "caches", |count| count > 0);
    assert_eq!(counts()[1..], [0; 5]);

    hold(87);
    small.deliver("flood", "x", QOS1);
    shed_when(&broker, "qos0", |count| count == 1);
    assert_eq!(counts()[2..], [0; 4]);

    hold(92);
    (&large.writer()).write_all(&bytes[400_000..500_000]).expect("the system takes it");
    shed_when(&broker, "pause_reader", |count| count == 1);
    assert_eq!(counts()[3..], [0; 3]);
    shed_when(&broker, "end_paused", |count| count == 1);
    large.expect_farewell(ReasonCode::QuotaExceeded);
    assert_eq!(counts()[4..], [0; 2]);

    hold(99);
    broker.v5("late").open().expect_close();
    shed_when(&broker, "refuse_connect", |count| count == 1);
    shed_when(&broker, "end_largest", |count| count >= 1);
    // Who brings little and takes what it gets notices nothing of all that.
    small.deliver("small", "y", QOS1);
    assert_eq!(small.message().text(), "y");
    hold(0);
    broker.v5("late").connect().ping();
}

/// MEM-002: what waits for persistent sessions and what is retained is charged to the tenant, a
/// message for many sessions once, and given back when it is taken over or cleared.
#[test]
fn queues_of_persistent_sessions_and_retained_messages_are_charged() {
    const SESSIONS: usize = 20;
    const COUNT: usize = 200;
    const SIZE: usize = 1_000;
    let broker = Broker::start();
    let connector = |number: usize| broker.v5(&format!("away-{number}")).persistent();
    for number in 0..SESSIONS {
        let mut client = connector(number).connect();
        client.subscribe("news", QOS1);
        client.disconnect(ReasonCode::Success);
    }
    let mut publisher = broker.v5("publisher").connect();
    let share = |share: Share| broker.memory.snapshot().charged[share.index()].bytes();
    charged_when(&broker, |_| share(Share::Queues) > SESSIONS as u64 * 200);
    let sessions = share(Share::Queues);
    for _ in 0..COUNT {
        publisher.deliver("news", vec![b'x'; SIZE], QOS1);
    }
    let payloads = (COUNT * SIZE) as u64;
    charged_when(&broker, |_| share(Share::Queues) > sessions + payloads);
    // Each queue has its slots, and all have the one message.
    let slots = (SESSIONS * 2 * COUNT * 16) as u64;
    assert!(share(Share::Queues) < sessions + 2 * payloads + slots, "{}", share(Share::Queues));

    for number in 0..COUNT {
        publisher.retain(&format!("kept/{number}"), vec![b'x'; SIZE], QOS1);
    }
    charged_when(&broker, |_| share(Share::Retained) > payloads);
    assert!(share(Share::Retained) < 2 * payloads, "{}", share(Share::Retained));
    let snapshot = broker.memory.snapshot();
    let tenants: u64 = snapshot.tenants.iter().map(|tenant| tenant.total().bytes()).sum();
    assert_eq!(tenants, snapshot.charged.iter().map(|bytes| bytes.bytes()).sum::<u64>());

    for number in 0..COUNT {
        publisher.retain(&format!("kept/{number}"), "", QOS1);
    }
    for number in 0..SESSIONS {
        let mut client = connector(number).clean().connect();
        client.ping();
        client.disconnect(ReasonCode::Success);
    }
    // What the sessions themselves take may not all have been charged when it was looked at first.
    let is_given_back = |_| share(Share::Queues) < sessions + payloads / 2;
    charged_when(&broker, |charged| share(Share::Retained) == 0 && is_given_back(charged));
}
