//! What a publisher is told by a store that is slow, busy or full.

use std::sync::Arc;

use ratatosk_codec::{Packet, PacketType, ProtocolVersion, Publish, Qos, ReasonCode};
use ratatosk_conformance::{Broker, Client, Event, Reply, Setup, Store};
use ratatosk_contract::{TenantSettings, call::Settlement};

use crate::cases::{QOS0, QOS1, QOS2, VERSIONS, assert_quiet};

/// A broker behind a store of the test's.
fn broker(store: &Arc<Store>) -> Broker {
    Broker::with(Setup { store: Arc::clone(store), ..Setup::default() })
}

/// The acknowledgement that a QoS has first.
fn first_ack(qos: Qos) -> PacketType {
    if qos == QOS2 { PacketType::Pubrec } else { PacketType::Puback }
}

/// Nothing is on its way to a client but what it pings for.
fn assert_silent(client: &mut Client) {
    client.send(&Packet::Pingreq);
    assert_eq!(client.event(), Event::Pingresp);
}

/// MQTT-054: a publish is acknowledged when every append is durable, to a session and to a member
/// of a group, and the retained copy.
#[test]
fn an_acknowledgement_waits_for_all_that_is_durable() {
    use Settlement::{Busy, Done, QuotaExceeded};
    // Who subscribes, whether it is retained, how many answers that takes.
    let cases: [(&[&str], bool, usize); 6] = [
        (&["t"], false, 1),
        (&["$share/g/t"], false, 1),
        (&["t", "$share/g/t", "$oshare/h/t"], false, 1),
        (&[], true, 1),
        (&["t"], true, 2),
        (&["$share/g/t"], true, 2),
    ];
    for (filters, retain, parts) in cases {
        for qos in [QOS1, QOS2] {
            for worst in [Done, Busy, QuotaExceeded] {
                let store = Store::new();
                let broker = broker(&store);
                for (number, filter) in filters.iter().enumerate() {
                    let stored = broker.v5(&format!("s{number}")).persistent();
                    let mut stored = stored.connect();
                    stored.subscribe(filter, QOS2);
                    stored.disconnect(ReasonCode::Success);
                }
                let mut publisher = broker.v5("publisher").connect();
                store.append(Reply::Late);
                store.retain(Reply::Late);
                let id = publisher.publish_as(Publish { qos, retain, ..Publish::new("t", b"x") });
                let next = publisher.publish("nobody", "x", QOS1);
                store.owes(parts);
                for part in 0..parts {
                    assert_silent(&mut publisher);
                    store.settle(if part == 0 { worst } else { Done });
                }
                let code = match worst {
                    Busy => ReasonCode::ImplementationSpecificError,
                    QuotaExceeded => ReasonCode::QuotaExceeded,
                    _ if filters.is_empty() => ReasonCode::NoMatchingSubscribers,
                    _ => ReasonCode::Success,
                };
                let acks = [publisher.event(), publisher.event()];
                let behind =
                    Event::Ack(PacketType::Puback, next, ReasonCode::NoMatchingSubscribers);
                assert_eq!(acks, [Event::Ack(first_ack(qos), id, code), behind], "{filters:?}");
            }
        }
    }
}

/// RET-007: a message is delivered while its retained copy, or its append, is not durable.
#[test]
fn a_slow_store_delays_no_delivery() {
    let store = Store::new();
    let broker = broker(&store);
    let mut stored = broker.v5("stored").persistent().connect();
    stored.subscribe("t", QOS1);
    let mut reader = broker.v5("reader").connect();
    reader.subscribe("t", QOS1);
    let mut publisher = broker.v5("publisher").connect();
    store.append(Reply::Late);
    store.retain(Reply::Late);
    publisher.publish_as(Publish { qos: QOS1, retain: true, ..Publish::new("t", b"x") });
    assert_eq!(reader.message().text(), "x");
    assert_eq!(stored.message().text(), "x");
    let mut late = broker.v5("late").connect();
    late.subscribe("t", QOS1);
    assert!(late.message().retain, "nobody falls between route and store");
    assert_silent(&mut publisher);
    // QoS 0 waits for nothing.
    publisher.publish_as(Publish { retain: true, ..Publish::new("t", b"y") });
    assert_eq!(reader.message().text(), "y");
    store.owes(2);
}

/// MQTT-056: what is refused is refused as a whole, in words that 5.0 has.
#[test]
fn a_store_without_room_is_told_to_publishers_of_mqtt_5() {
    for (refused, code) in [
        (Settlement::Busy, ReasonCode::ImplementationSpecificError),
        (Settlement::QuotaExceeded, ReasonCode::QuotaExceeded),
    ] {
        for filter in ["t", "$share/g/t"] {
            let store = Store::new();
            let broker = broker(&store);
            let mut stored = broker.v5("stored").persistent().connect();
            stored.subscribe(filter, QOS2);
            let mut reader = broker.v5("reader").connect();
            reader.subscribe("+", QOS2);
            let mut publisher = broker.v5("publisher").connect();
            store.append(Reply::Refused(refused));
            for qos in [QOS1, QOS2] {
                let id = publisher.publish("t", "refused", qos);
                assert_eq!(publisher.find_ack(first_ack(qos), id), code);
            }
            assert_quiet(&mut publisher, &mut reader);
            // Who has only transient receivers notices nothing, and QoS 0 goes where it can.
            assert_eq!(publisher.deliver("u", "elsewhere", QOS1), ReasonCode::Success);
            assert_eq!(reader.message().text(), "elsewhere");
            publisher.publish("t", "at most once", QOS0);
            assert_eq!(reader.message().text(), "at most once");
            store.append(Reply::Prompt);
            assert_eq!(publisher.deliver("t", "taken", QOS2), ReasonCode::Success);
            assert_eq!(reader.message().text(), "taken");
            assert_eq!(stored.message().text(), "taken");
        }
    }
    // A retained copy is refused likewise.
    let store = Store::new();
    let broker = broker(&store);
    let mut reader = broker.v5("reader").connect();
    reader.subscribe("+", QOS2);
    let mut publisher = broker.v5("publisher").connect();
    store.retain(Reply::Refused(Settlement::Busy));
    let id =
        publisher.publish_as(Publish { qos: QOS1, retain: true, ..Publish::new("t", b"refused") });
    let code = publisher.find_ack(PacketType::Puback, id);
    assert_eq!(code, ReasonCode::ImplementationSpecificError);
    assert_quiet(&mut publisher, &mut reader);
}

/// MQTT-056: MQTT 3 has no word for it: the publisher is held, and what it says then comes once.
#[test]
fn a_store_without_room_holds_publishers_of_mqtt_3() {
    for refused in [Settlement::Busy, Settlement::QuotaExceeded] {
        for qos in [QOS1, QOS2] {
            let store = Store::new();
            let broker = broker(&store);
            let mut stored = broker.v5("stored").persistent().connect();
            stored.subscribe("t", QOS2);
            let mut reader = broker.v5("reader").connect();
            reader.subscribe("+", QOS2);
            let mut publisher = broker.v4("publisher").connect();
            store.append(Reply::Refused(refused));
            let held = publisher.publish("t", "held", qos);
            let behind = publisher.publish("u", "behind", QOS1);
            store.has_refused(3);
            store.append(Reply::Prompt);
            assert_eq!(
                publisher.event(),
                Event::Ack(first_ack(qos), held, ReasonCode::Success),
                "nothing is said before"
            );
            let ack = Event::Ack(PacketType::Puback, behind, ReasonCode::Success);
            assert_eq!(publisher.event(), ack);
            assert_eq!(stored.message().text(), "held");
            assert_eq!(
                [reader.message().payload, reader.message().payload],
                [b"held".to_vec(), b"behind".to_vec()]
            );
            assert_quiet(&mut publisher, &mut reader);
            assert_eq!(broker.stats_when(|stats| stats.received >= 3).received, 3, "each once");
        }
    }
}

/// MQTT-056: and if there is no room for long, or an outcome is not known, the connection ends.
#[test]
fn what_never_becomes_durable_ends_the_connection() {
    let store = Store::new();
    let broker = broker(&store);
    let mut stored = broker.v5("stored").persistent().connect();
    stored.subscribe("t", QOS2);
    let publisher = |version: ProtocolVersion, reply: Reply| {
        let mut publisher = broker.client(version, "publisher").connect();
        store.append(reply);
        publisher.publish("t", "x", QOS1);
        publisher
    };
    let mut held = publisher(ProtocolVersion::V311, Reply::Refused(Settlement::Busy));
    assert_eq!(held.event(), Event::Closed);
    for version in VERSIONS {
        let mut lost = publisher(version, Reply::Late);
        store.owes(1);
        store.settle(Settlement::Unknown);
        if version.is_v5() {
            let code = ReasonCode::ImplementationSpecificError;
            assert_eq!(lost.event(), Event::Disconnect(code));
        }
        assert_eq!(lost.event(), Event::Closed);
    }
    // MQTT 3 cannot be told that a message is refused which it has sent long ago.
    let mut refused = publisher(ProtocolVersion::V311, Reply::Late);
    store.owes(1);
    store.settle(Settlement::QuotaExceeded);
    assert_eq!(refused.event(), Event::Closed);
}

/// MQTT-058: beyond our Receive Maximum MQTT 3 is read later, when acknowledgements went out.
#[test]
fn a_publisher_of_mqtt_3_beyond_the_receive_maximum_is_read_later() {
    const WINDOW: u16 = 4;
    const COUNT: usize = 20;
    for (version, qos) in
        [(ProtocolVersion::V31, QOS1), (ProtocolVersion::V311, QOS1), (ProtocolVersion::V311, QOS2)]
    {
        let store = Store::new();
        let settings = TenantSettings { receiving_maximum: WINDOW, ..TenantSettings::default() };
        let broker =
            Broker::with(Setup { store: Arc::clone(&store), settings, ..Setup::default() });
        let mut stored = broker.v5("stored").persistent().connect();
        stored.subscribe("t", QOS2);
        let mut publisher = broker.client(version, "publisher").connect();
        store.append(Reply::Late);
        let ids: Vec<u16> =
            (0..COUNT).map(|number| publisher.publish("t", number.to_string(), qos)).collect();
        publisher.send(&Packet::Pingreq);
        let window = usize::from(WINDOW);
        for (number, id) in ids.iter().enumerate() {
            // What was read and is not acknowledged, and no more.
            store.owes(window.min(COUNT - number));
            let read = COUNT.min(number + window) as u64;
            assert_eq!(broker.inbox.stats().queued, read);
            store.settle(Settlement::Done);
            let ack = Event::Ack(first_ack(qos), *id, ReasonCode::Success);
            assert_eq!(publisher.find(|event| (*event == ack).then_some(())), ());
        }
        publisher.find(|event| (*event == Event::Pingresp).then_some(()));
        for number in 0..COUNT {
            assert_eq!(stored.message().text().parse(), Ok(number));
        }
    }
}
