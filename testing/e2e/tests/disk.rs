//! What the broker does when its disk is full, slow or broken. The disk is real; between it and the
//! broker stands a library that lets calls wait or fail.

use std::time::Duration;

use ratatosk_e2e::{Broker, Connect, Exchange, Raw, Request, Transport};
use ratatosk_power::Order;

const PATIENCE: Duration = Duration::from_secs(30);
const V5: Request = Request { version: 5 };
const PUBACK: u8 = 0x40;
const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: u8 = 0xd0;

fn broker() -> Broker {
    Broker::start_watched(&[Transport::Tcp]).unwrap_or_else(|error| panic!("{error:#}"))
}

fn exchange(broker: &Broker) -> Exchange<'_> {
    Exchange { broker, transport: Transport::Tcp, version: "mqttv5", qos: 1 }
}

fn client(broker: &Broker, client_id: &str) -> Raw {
    let connect = Connect { version: 5, client_id, credentials: None };
    let (raw, connack) = Raw::connect(broker.port(Transport::Tcp), &connect).expect("answers");
    assert_eq!(connack.body[1], 0);
    raw
}

/// The reason code of the PUBACK; none means success.
fn publish(client: &mut Raw, topic: &str, payload: &str) -> Option<u8> {
    client.write(&V5.publish(topic, payload, 1)).expect("is taken");
    let puback = client.packet().expect("is answered");
    assert_eq!((puback.head, &puback.body[..2]), (PUBACK, &[0, 7][..]));
    puback.body.get(2).copied().filter(|code| *code != 0 && *code != 0x10)
}

/// Everything was published, in order, and nothing else.
#[track_caller]
fn assert_kept(broker: &Broker, sleeper: &ratatosk_e2e::Sleeper, payloads: &[&str]) {
    let kept = exchange(broker).wake(sleeper, payloads.len()).expect("comes back");
    assert_eq!(kept, payloads);
}

/// DUR-006: a disk without room refuses what would have to be stored, with a reason; QoS 0 and what
/// is read go on, nothing that was acknowledged is lost, and service returns with the room.
#[test]
fn without_room_what_must_be_stored_is_refused_and_all_else_goes_on() {
    let broker = broker();
    let sleeper = exchange(&broker).fall_asleep("sleeper", "kept/#").expect("sleeps");
    let early = exchange(&broker).fall_asleep("early", "kept/#").expect("sleeps");
    let mut publisher = client(&broker, "publisher");
    assert_eq!(publish(&mut publisher, "kept/1", "before"), None);

    broker.order(Order::HideRoom).expect("obeys");
    broker.wait_for_log("the disk is nearly full", 1).expect("says so");
    assert_eq!(publish(&mut publisher, "kept/2", "refused"), Some(0x83));
    assert_eq!(publish(&mut publisher, "nobody/wants/it", "taken"), None);
    let mut listener = client(&broker, "listener");
    listener.write(&V5.subscribe("#")).expect("is taken");
    listener.packet().expect("SUBACK");
    publisher.write(&V5.publish("kept/3", "passes", 0)).expect("is taken");
    let passed = listener.packet().expect("is delivered");
    assert!(passed.body.ends_with(b"passes"), "{passed:?}");
    assert_kept(&broker, &early, &["before"]);

    broker.withdraw(Order::HideRoom).expect("obeys");
    broker.wait_for_log("the disk has room again", 1).expect("says so");
    assert_eq!(publish(&mut publisher, "kept/4", "after"), None);
    assert_kept(&broker, &sleeper, &["before", "after"]);
}

/// DUR-009: while the disk does not answer a sync no acknowledgement leaves, though the broker is
/// there; when it answers they leave.
#[test]
fn while_a_sync_waits_no_acknowledgement_leaves() {
    let broker = broker();
    let sleeper = exchange(&broker).fall_asleep("sleeper", "kept").expect("sleeps");
    let mut publisher = client(&broker, "publisher");
    broker.order(Order::HoldSync).expect("obeys");
    publisher.write(&V5.publish("kept", "waits", 1)).expect("is taken");
    for _ in 0..50 {
        publisher.write(&PINGREQ).expect("is taken");
        assert_eq!(publisher.packet().expect("is answered").head, PINGRESP);
        let mut passer = client(&broker, "passer");
        assert_eq!(publish(&mut passer, "nobody/wants/it", "passes"), None);
    }
    broker.withdraw(Order::HoldSync).expect("obeys");
    assert_eq!(publisher.packet().expect("is answered").head, PUBACK);
    assert_kept(&broker, &sleeper, &["waits"]);
}

/// The broker ends with exit code 1 and a line that says why, and nothing acknowledged is lost.
#[track_caller]
fn assert_ends_well(order: Order, reason: &str) {
    let mut broker = broker();
    let sleeper = exchange(&broker).fall_asleep("sleeper", "kept").expect("sleeps");
    let mut publisher = client(&broker, "publisher");
    assert_eq!(publish(&mut publisher, "kept", "before"), None);
    broker.order(order).expect("obeys");
    publisher.write(&V5.publish("kept", "lost", 1)).expect("is taken");
    let rest = publisher.read_to_end().expect("closes");
    assert!(rest.first() != Some(&PUBACK), "{rest:?}");
    let status = broker.wait(PATIENCE).expect("ends");
    let log = broker.log().expect("is there");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(reason) && !log.contains("panicked"), "{log}");

    broker.withdraw(order).expect("obeys");
    broker.kill_and_restart().expect("starts");
    let mut publisher = client(&broker, "publisher");
    assert_eq!(publish(&mut publisher, "kept", "after"), None);
    let kept = exchange(&broker).wake(&sleeper, 2).expect("comes back");
    // What was not acknowledged may have come to the disk.
    assert!(kept == ["before", "after"] || kept == ["before", "lost"], "{kept:?}");
}

/// DUR-001: what the disk has after a sync that failed is unknown, so nothing is called durable any
/// more.
#[test]
fn a_sync_that_fails_ends_the_broker() {
    assert_ends_well(Order::FailSync, "Input/output error");
}

/// DUR-006: a disk that fills up at once, between two looks at it, ends the broker.
#[test]
fn a_write_that_fails_ends_the_broker() {
    assert_ends_well(Order::FailWrite, "No space left on device");
}

/// DUR-006: a start on a full disk says so.
#[test]
fn a_start_without_room_is_refused() {
    let mut broker = broker();
    broker.order(Order::FailWrite).expect("obeys");
    let error = broker.kill_and_restart().expect_err("there is no room");
    let text = format!("{error:#}");
    assert!(text.contains("exit status: 4"), "{text}");
    assert!(text.contains("check its owner and free space: No space left"), "{text}");
    broker.withdraw(Order::FailWrite).expect("obeys");
    broker.kill_and_restart().expect("starts");
}
