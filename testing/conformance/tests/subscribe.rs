//! SUBSCRIBE and UNSUBSCRIBE: filters, codes, options.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use ratatosk_codec::{Qos, ReasonCode, RetainHandling, SubscriptionOptions};
use ratatosk_conformance::{Broker, Client, Event, PermissionBy, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_plugin::{
    answer::Answer,
    permission::{Action, Verdict},
};

use crate::cases::{Case, QOS0, QOS1, QOS2, VERSIONS, assert_quiet};

fn options(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions::new(qos)
}

/// Whether a message on `topic` reaches a subscriber of `filter`.
fn matches(publisher: &mut Client, subscriber: &mut Client, filter: &str, topic: &str) -> bool {
    subscriber.subscribe(filter, QOS0);
    subscriber.subscribe("$fence", QOS0);
    publisher.publish(topic, "x", QOS0);
    publisher.publish("$fence", "end", QOS0);
    let first = subscriber.message();
    let is_matched = first.topic == topic;
    if is_matched {
        assert_eq!(subscriber.message().topic, "$fence", "{filter} matches {topic} once");
    }
    subscriber.unsubscribe(&[filter, "$fence"]);
    is_matched
}

/// MQTT-070, MQTT-071: [MQTT-3.3.2-3] filters match as the specification says, `$` topics by their name only.
#[test]
fn filters_match_as_the_specification_says() {
    let expected = [
        ("a/b", "a/b", true),
        ("a/b", "a/B", false),
        ("a/b", "a/b/c", false),
        ("a/b", "/a/b", false),
        ("a", "a/", false),
        ("+", "a", true),
        ("+", "a/b", false),
        ("+", "/a", false),
        ("+/+", "/a", true),
        ("/+", "/a", true),
        ("a/+/c", "a/b/c", true),
        ("a/+/c", "a//c", true),
        ("a/+", "a", false),
        ("a/+", "a/", true),
        ("#", "a/b/c", true),
        ("#", "/", true),
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("a/#", "ab", false),
        ("+/#", "a", true),
        ("a/+/#", "a/b", true),
        ("a/+/#", "a", false),
        ("#", "$x/a", false),
        ("+/a", "$x/a", false),
        ("+/#", "$x/a", false),
        ("$x/#", "$x/a", true),
        ("$x/+", "$x/a", true),
        ("a/#", "a/$x", true),
        ("a/+", "a/$x", true),
    ];
    for case in Case::all(Setup::default) {
        let (mut publisher, mut subscriber, _guard) =
            case.pair(case.client("publisher"), case.client("subscriber"));
        for (filter, topic, is_matched) in expected {
            let found = matches(&mut publisher, &mut subscriber, filter, topic);
            assert_eq!(found, is_matched, "{}: {filter} and {topic}", case.name);
        }
    }
}

/// MQTT-072, DIST-005: once the SUBACK is there the next publish comes, and after the UNSUBACK
/// none does, whoever has the topic resolved already.
#[test]
fn a_subscription_is_effective_when_it_is_acknowledged() {
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            let mut connector = case.client("subscriber");
            if is_stored {
                connector = connector.persistent();
            }
            let (mut publisher, mut subscriber, _guard) =
                case.pair(case.client("publisher"), connector);
            for number in 0..50 {
                let (filter, topic) = [("t", "t"), ("t/+", "t/x"), ("#", "t")][number % 3];
                publisher.publish(topic, "before", QOS0);
                publisher.ping();
                subscriber.subscribe(filter, QOS1);
                assert_eq!(publisher.deliver(topic, number.to_string(), QOS1).value(), 0);
                let message = subscriber.message();
                assert_eq!(message.text().parse(), Ok(number), "{}, {filter}", case.name);
                subscriber.unsubscribe(&[filter]);
            }
            publisher.publish("t", "after", QOS1);
            assert_quiet(&mut publisher, &mut subscriber);
        }
    }
}

/// MQTT-074: [MQTT-3.8.4-5] [MQTT3-3.9.3-2] [MQTT-4.7.1-3] each refused filter has its code, and
/// the others of the packet are granted.
#[test]
fn refused_filters_have_their_codes() {
    let setup = || Setup {
        settings: TenantSettings {
            wildcard_subscription_enabled: false,
            shared_subscription_enabled: false,
            ..TenantSettings::default()
        },
        permission: PermissionBy::new(|_, action| match action {
            Action::Subscribe { filter: "no", .. } => Answer::Now(Verdict::denied("rule")),
            Action::Subscribe { filter: "later-no", .. } => {
                Answer::later(async { Verdict::denied("rule") })
            }
            Action::Subscribe { filter: "later-yes", .. } => {
                Answer::later(async { Verdict::Allowed })
            }
            _ => Answer::Now(Verdict::Allowed),
        }),
        ..Setup::default()
    };
    for case in Case::all(setup) {
        let mut client = case.client("c").connect();
        let filters = [
            ("fine", 0x01),
            ("a/#/b", 0x8F),
            ("a+", 0x8F),
            ("a/+", 0xA2),
            ("$share/g/t", 0x9E),
            ("$oshare/g/t", 0x9E),
            ("no", 0x87),
            ("later-no", 0x87),
            ("later-yes", 0x01),
        ];
        let asked: Vec<_> = filters.iter().map(|(filter, _)| (*filter, options(QOS1))).collect();
        let codes: Vec<u8> =
            client.subscribe_as(&asked, None).iter().map(|code| code.value()).collect();
        let expected = filters.map(|(_, code)| match case.version.is_v5() || code < 0x80 {
            true => code,
            false => 0x80,
        });
        assert_eq!(codes, expected, "{}", case.name);
        let mut publisher = case.client("publisher").connect();
        for topic in ["fine", "no", "later-no", "later-yes", "a/b", "t"] {
            publisher.deliver(topic, "x", QOS1);
        }
        assert_eq!([client.message().topic, client.message().topic], ["fine", "later-yes"]);
        assert_quiet(&mut publisher, &mut client);
    }
}

/// MQTT-073: a list that is empty or longer than the tenant allows ends the connection.
#[test]
fn empty_and_endless_lists_of_filters_end_the_connection() {
    assert_eq!(TenantSettings::default().max_topic_filters_per_sub, 1000);
    let settings = TenantSettings { max_topic_filters_per_sub: 3, ..TenantSettings::default() };
    let broker = Broker::with_settings(settings);
    for version in ratatosk_codec::ProtocolVersion::ALL {
        let connect = || broker.client(version, "c").connect();
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        let length = u8::try_from(2 + properties.len()).expect("short");
        for head in [0x82, 0xA2] {
            let mut client = connect();
            client.send_raw(&[&[head, length, 0, 1], properties].concat());
            client.expect_farewell(ReasonCode::ProtocolError);
        }
        let four = ["a", "b", "c", "d"].map(|filter| (filter, options(QOS0)));
        let mut client = connect();
        assert_eq!(client.subscribe_as(&four[..3], None).len(), 3, "{version}");
        client.unsubscribe(&["a", "b", "c"]);
        client.begin_subscribe(&four, None);
        client.expect_farewell(ReasonCode::AdministrativeAction);
        let mut client = connect();
        let mut unsubscribe = vec![0xA2, length + 12, 0, 1];
        unsubscribe.extend_from_slice(properties);
        for (filter, _) in four {
            unsubscribe.extend([0, 1, filter.as_bytes()[0]]);
        }
        client.send_raw(&unsubscribe);
        client.expect_farewell(ReasonCode::AdministrativeAction);
    }
    assert_eq!(broker.dist.stats().routes, 0, "nothing of such a packet is carried out");
}

/// MQTT-080: who loses the permission to a filter gets nothing by it any more, and the filter is
/// gone: it does not come back with the permission.
#[test]
fn a_lost_permission_ends_the_subscription() {
    let is_denied = Arc::new(AtomicBool::new(false));
    let denied = Arc::clone(&is_denied);
    let permission = PermissionBy::new(move |_, action| match action {
        Action::Subscribe { filter: "lost" | "lost/#", .. } if denied.load(Ordering::SeqCst) => {
            Answer::Now(Verdict::denied("rule"))
        }
        _ => Answer::Now(Verdict::Allowed),
    });
    let setup = || Setup { permission: Arc::clone(&permission) as _, ..Setup::default() };
    for case in Case::all(setup) {
        for is_stored in [false, true] {
            is_denied.store(false, Ordering::SeqCst);
            permission.change();
            let mut connector = case.client("c");
            if is_stored {
                connector = connector.persistent();
            }
            let (mut publisher, mut client, _guard) =
                case.pair(case.client("publisher"), connector);
            for filter in ["lost", "lost/#", "$share/g/lost", "kept"] {
                client.subscribe(filter, QOS1);
            }
            let before = case.broker.stats_when(|_| true).revoked;
            is_denied.store(true, Ordering::SeqCst);
            permission.change();
            case.broker.stats_when(|stats| stats.revoked == before + 3);
            for topic in ["lost", "lost/x", "kept"] {
                publisher.deliver(topic, "x", QOS1);
            }
            assert_eq!(client.message().topic, "kept", "{}, stored: {is_stored}", case.name);
            assert_quiet(&mut publisher, &mut client);
            is_denied.store(false, Ordering::SeqCst);
            permission.change();
            client.unsubscribe(&["kept"]);
            publisher.deliver("lost", "x", QOS1);
            assert_quiet(&mut publisher, &mut client);
            assert_eq!(case.broker.dist.stats().routes, 0, "{}, stored: {is_stored}", case.name);
            client.disconnect(ReasonCode::Success);
            case.client("c").connect().disconnect(ReasonCode::Success);
        }
    }
}

/// MQTT-075: identifier 0 is a breach; where identifiers are off the filter is refused.
#[test]
fn subscription_identifiers_are_checked() {
    let broker = Broker::start();
    let mut client = broker.v5("c").connect();
    client.send_raw(&[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b't', 0]);
    client.expect_farewell(ReasonCode::ProtocolError);
    let off =
        TenantSettings { subscription_identifier_enabled: false, ..TenantSettings::default() };
    let broker = Broker::with_settings(off);
    let mut client = broker.v5("c").connect();
    let codes = client.subscribe_as(&[("t", options(QOS0))], Some(7));
    assert_eq!(codes, [ReasonCode::SubscriptionIdsNotSupported]);
    assert_eq!(client.subscribe("t", QOS0), ReasonCode::Success);
}

/// MQTT-076: a session has no more filters than the tenant allows, of whatever kind.
#[test]
fn a_session_has_a_bound_of_filters() {
    let settings =
        || TenantSettings { max_topic_filters_per_inbox: 3, ..TenantSettings::default() };
    for case in Case::all(|| Setup { settings: settings(), ..Setup::default() }) {
        let full = match case.version.is_v5() {
            true => ReasonCode::QuotaExceeded,
            false => ReasonCode::UnspecifiedError,
        };
        for is_stored in [false, true] {
            let mut connector = case.client("c");
            if is_stored {
                connector = connector.persistent();
            }
            let mut client = connector.connect();
            assert_eq!(client.subscribe("a", QOS0), ReasonCode::Success);
            assert_eq!(client.subscribe("$share/g/b", QOS0), ReasonCode::Success);
            assert_eq!(client.subscribe("c", QOS0), ReasonCode::Success);
            assert_eq!(client.subscribe("d", QOS0), full, "{}", case.name);
            assert_eq!(client.subscribe("$share/g/d", QOS0), full, "{}", case.name);
            // One that is there may be changed, and one that goes makes room.
            assert_eq!(client.subscribe("a", QOS1), ReasonCode::GrantedQos1);
            client.unsubscribe(&["$share/g/b"]);
            assert_eq!(client.subscribe("d", QOS0), ReasonCode::Success, "{}", case.name);
            assert_eq!(client.subscribe("e", QOS0), full, "{}", case.name);
        }
    }
    assert_eq!(TenantSettings::default().max_topic_filters_per_inbox, 10_000);
}

/// MQTT-078: [MQTT-4.8.2-3] the same filter again replaces its options, and its messages come once.
#[test]
fn resubscribing_replaces_the_options() {
    for case in Case::all(Setup::default) {
        for filter in ["t", "t/#", "$share/g/t"] {
            for is_stored in [false, true] {
                let mut connector = case.client("c");
                if is_stored {
                    connector = connector.persistent();
                }
                let (mut publisher, mut client, _guard) =
                    case.pair(case.client("publisher"), connector);
                for (qos, code) in [(QOS0, 0), (QOS2, 2), (QOS1, 1)] {
                    assert_eq!(client.subscribe(filter, qos).value(), code, "{}", case.name);
                    publisher.deliver("t", "x", QOS2);
                    assert_eq!(client.message().qos, qos, "{}, {filter}", case.name);
                    assert_quiet(&mut publisher, &mut client);
                }
                client.disconnect(ReasonCode::Success);
                drop(publisher);
                case.client("c").connect().disconnect(ReasonCode::Success);
            }
        }
    }
}

/// MQTT-078: [MQTT-3.8.4-3] [MQTT-3.8.4-4] [MQTT3-3.8.4-3] while a subscription is replaced no
/// message is lost and none comes twice; what is retained comes again each time.
#[test]
fn replacing_a_subscription_loses_nothing() {
    const COUNT: u32 = 1000;
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            let mut connector = case.client("c");
            if is_stored {
                connector = connector.persistent();
            }
            let (mut publisher, mut client, _guard) =
                case.pair(case.client("publisher"), connector);
            publisher.retain("t", "kept", QOS1);
            client.subscribe("t", QOS1);
            let publishing = std::thread::spawn(move || {
                for number in 0..COUNT {
                    publisher.deliver("t", number.to_string(), QOS1);
                }
                publisher
            });
            let (mut next, mut kept, mut asked) = (0, 0, 1);
            while next < COUNT || kept < asked {
                match client.event() {
                    Event::Publish(message) if message.retain => {
                        assert_eq!(message.text(), "kept");
                        client.acknowledge(&message);
                        kept += 1;
                    }
                    Event::Publish(message) => {
                        assert_eq!(message.text().parse(), Ok(next), "{}", case.name);
                        client.acknowledge(&message);
                        next += 1;
                        // One that is asked for before the last has come stands for both.
                        if next % 20 == 0 && kept == asked {
                            client.begin_subscribe(&[("t", options(QOS1))], None);
                            asked += 1;
                        }
                    }
                    Event::Suback(_, codes) => assert_eq!(codes, [ReasonCode::GrantedQos1]),
                    other => panic!("unexpected: {other:?}"),
                }
            }
            assert!(asked > 1, "{}: it was replaced", case.name);
            let mut publisher = publishing.join().expect("all is acknowledged");
            assert_quiet(&mut publisher, &mut client);
            client.disconnect(ReasonCode::Success);
            case.client("c").connect().disconnect(ReasonCode::Success);
        }
    }
}

/// Where filters overlap the highest QoS counts: one copy comes by each, with its own.
/// [MQTT-3.3.4-2] [MQTT-3.3.5-1]
#[test]
fn overlapping_filters_keep_the_highest_qos() {
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            let mut connector = case.client("c");
            if is_stored {
                connector = connector.persistent();
            }
            let (mut publisher, mut client, _guard) =
                case.pair(case.client("publisher"), connector);
            for (filter, qos) in [("t/x", QOS0), ("t/+", QOS2), ("t/#", QOS1)] {
                client.subscribe(filter, qos);
            }
            for (sent, expected) in
                [(QOS0, [QOS0; 3]), (QOS1, [QOS0, QOS1, QOS1]), (QOS2, [QOS0, QOS1, QOS2])]
            {
                publisher.deliver("t/x", "x", sent);
                let mut found: Vec<Qos> = (0..3).map(|_| client.message().qos).collect();
                found.sort();
                assert_eq!(found, expected, "{}, stored: {is_stored}", case.name);
            }
            assert_quiet(&mut publisher, &mut client);
            client.disconnect(ReasonCode::Success);
            case.client("c").connect().disconnect(ReasonCode::Success);
        }
    }
}

/// MQTT-079: [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-3] [MQTT-3.10.4-6] the filter that is
/// the same ends, and no other; what is in flight by it is finished, nothing new comes.
#[test]
fn unsubscribing_ends_one_filter_and_nothing_in_flight() {
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            let mut connector = case.client("c");
            if is_stored {
                connector = connector.persistent();
            }
            let (mut publisher, mut client, _guard) =
                case.pair(case.client("publisher"), connector.clone());
            for filter in ["t/x", "t/+", "T/x", "u"] {
                client.subscribe(filter, QOS2);
            }
            for qos in [QOS1, QOS2] {
                publisher.deliver("u", "begun", qos);
            }
            let begun = [client.unacknowledged(), client.unacknowledged()];
            // Two filters, one answer: none of another spelling goes with them.
            let codes = client.unsubscribe(&["u", "t/+"]);
            assert_eq!(codes.len(), if case.version.is_v5() { 2 } else { 0 });
            for topic in ["u", "t/x", "t/y", "T/x"] {
                publisher.deliver(topic, "after", QOS2);
            }
            assert_eq!(client.message().topic, "t/x", "{}, stored: {is_stored}", case.name);
            assert_eq!(client.message().topic, "T/x");
            assert_quiet(&mut publisher, &mut client);
            if is_stored {
                // It is still owed, whatever was unsubscribed.
                client.vanish();
                client = connector.connect();
                for before in &begun {
                    let again = client.message();
                    let found = (again.packet_id, again.text(), again.dup);
                    assert_eq!(found, (before.packet_id, "begun", true), "{}", case.name);
                }
            } else {
                for message in &begun {
                    client.acknowledge(message);
                }
            }
            client.ping();
            client.disconnect(ReasonCode::Success);
            case.client("c").connect().disconnect(ReasonCode::Success);
        }
    }
}

/// Options that are none end the connection. [MQTT3-3.8.3-4] [MQTT-3.8.3-5]
#[test]
fn reserved_options_of_a_subscription_end_the_connection() {
    let broker = Broker::start();
    for version in ratatosk_codec::ProtocolVersion::ALL {
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        let reserved: &[u8] = if version.is_v5() { &[3, 0x40, 0x80, 0x30] } else { &[3, 4, 0x80] };
        for options in reserved {
            // 3.1 calls the upper bits unused.
            if version == ratatosk_codec::ProtocolVersion::V31 && *options != 3 {
                continue;
            }
            let length = u8::try_from(6 + properties.len()).expect("short");
            let mut client = broker.client(version, "c").connect();
            client.send_raw(&[&[0x82, length, 0, 1], properties, &[0, 1, b't', *options]].concat());
            let mut end = client.event();
            if version.is_v5() {
                assert!(matches!(end, Event::Disconnect(code) if code.is_error()), "{end:?}");
                end = client.event();
            }
            assert_eq!(end, Event::Closed, "{version}, {options:#x}");
        }
    }
}

/// MQTT-079: each filter of UNSUBSCRIBE has its code.
#[test]
fn unsuback_has_a_code_for_each_filter() {
    let permission = PermissionBy::new(|_, action| match action {
        Action::Unsubscribe { filter: "kept" } => Answer::Now(Verdict::denied("rule")),
        Action::Unsubscribe { filter: "later" } => Answer::later(async { Verdict::Allowed }),
        Action::Unsubscribe { filter: "unknown" } => Answer::Now(Verdict::error("no answer")),
        _ => Answer::Now(Verdict::Allowed),
    });
    let broker = Broker::with(Setup { permission, ..Setup::default() });
    for is_stored in [false, true] {
        let mut connector = broker.v5("c");
        if is_stored {
            connector = connector.persistent();
        }
        let mut client = connector.connect();
        for filter in ["gone", "kept", "later", "unknown", "$share/g/t"] {
            client.subscribe(filter, QOS0);
        }
        let filters =
            ["gone", "never", "a/#/b", "kept", "later", "unknown", "$share/g/t", "$share/h/t"];
        let codes: Vec<u8> = client.unsubscribe(&filters).iter().map(|code| code.value()).collect();
        assert_eq!(codes, [0x00, 0x11, 0x8F, 0x87, 0x00, 0x83, 0x00, 0x11]);
        let mut publisher = broker.v5("publisher").connect();
        for topic in ["gone", "kept", "later", "t"] {
            publisher.publish(topic, "x", QOS0);
        }
        assert_eq!(client.message().topic, "kept");
        assert_quiet(&mut publisher, &mut client);
    }
}

/// MQTT-081: each message carries the identifier of the subscription that it came by.
#[test]
fn subscription_identifiers_come_with_the_messages() {
    for is_across in [false, true] {
        for is_stored in [false, true] {
            let broker = Broker::start();
            let mut connector = broker.v5("c");
            if is_stored {
                connector = connector.persistent();
            }
            let mut client = connector.connect();
            let _between = (!is_across).then(|| broker.v4("between").connect());
            let mut publisher = broker.v5("publisher").connect();
            publisher.retain("t/x", "stored", QOS1);
            client.subscribe_as(&[("t/x", options(QOS1))], Some(5));
            let stored = client.message();
            assert_eq!(stored.text(), "stored");
            assert_eq!(stored.subscription_ids, [5]);
            client.subscribe_as(&[("t/+", options(QOS0))], Some(268_435_455));
            client.message();
            client.subscribe("#", QOS0);
            client.message();
            publisher.deliver("t/x", "live", QOS1);
            let mut ids: Vec<Vec<u32>> =
                (0..3).map(|_| client.message().subscription_ids).collect();
            ids.sort();
            assert_eq!(ids, [vec![], vec![5], vec![268_435_455]]);
            // The same filter without identifier has none from then on.
            client.unsubscribe(&["#", "t/+"]);
            client.subscribe("t/x", QOS1);
            client.message();
            publisher.deliver("t/x", "live", QOS1);
            assert!(client.message().subscription_ids.is_empty());
            assert_quiet(&mut publisher, &mut client);
        }
    }
}

/// MQTT-082: who asks for it does not get its own messages.
#[test]
fn no_local_is_honoured() {
    for is_stored in [false, true] {
        let broker = Broker::start();
        let mut connector = broker.v5("c");
        if is_stored {
            connector = connector.persistent();
        }
        let mut client = connector.connect();
        let mut other = broker.v5("other").connect();
        let mut third = broker.v5("third").connect();
        client
            .subscribe_as(&[("t", SubscriptionOptions { no_local: true, ..options(QOS1) })], None);
        for qos in [QOS0, QOS1] {
            client.deliver("t", "own", qos);
            for publisher in [&mut other, &mut third] {
                publisher.deliver("t", "other's", qos);
                assert_eq!(client.message().text(), "other's");
            }
        }
        assert_quiet(&mut other, &mut client);
        // A shared subscription has no such option.
        let share = ("$share/g/t", SubscriptionOptions { no_local: true, ..options(QOS0) });
        client.begin_subscribe(&[share], None);
        client.expect_farewell(ReasonCode::ProtocolError);
    }
}

/// MQTT-082: live messages have retain 0 unless 5.0 asks for the flag as it was published.
#[test]
fn retain_as_published_is_honoured() {
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            for as_published in [false, true] {
                if as_published && !case.version.is_v5() {
                    continue;
                }
                // A session of its own: the last message of another may come again when it is resumed.
                let mut connector = case.client(&format!("c-{is_stored}-{as_published}"));
                if is_stored {
                    connector = connector.persistent();
                }
                let (mut publisher, mut client, _guard) =
                    case.pair(case.client("publisher"), connector);
                let wanted =
                    SubscriptionOptions { retain_as_published: as_published, ..options(QOS1) };
                let topic = format!("t/{is_stored}/{as_published}");
                client.subscribe_as(&[(&topic, wanted)], None);
                for qos in [QOS0, QOS1] {
                    publisher.retain(&topic, "x", qos);
                    assert_eq!(client.message().retain, as_published, "{}", case.name);
                    publisher.deliver(&topic, "x", qos);
                    assert!(!client.message().retain, "{}", case.name);
                }
            }
        }
    }
}

/// MQTT-083: [MQTT-3.3.1-10] [MQTT-3.3.1-11] retained messages come at every subscription, at new ones, or never.
#[test]
fn retain_handling_is_honoured() {
    for is_stored in [false, true] {
        let broker = Broker::start();
        let mut connector = broker.v5("c");
        if is_stored {
            connector = connector.persistent();
        }
        let mut client = connector.connect();
        let mut publisher = broker.v5("publisher").connect();
        publisher.retain("t", "stored", QOS1);
        let mut subscribe = |client: &mut Client, retain_handling| {
            let wanted = SubscriptionOptions { retain_handling, ..options(QOS1) };
            client.subscribe_as(&[("t", wanted)], None);
            publisher.publish("t", "live", QOS1);
            let first = client.message();
            if first.text() == "stored" {
                assert!(first.retain);
                assert_eq!(client.message().text(), "live");
                return true;
            }
            false
        };
        assert!(!subscribe(&mut client, RetainHandling::DoNotSend));
        assert!(subscribe(&mut client, RetainHandling::Send));
        assert!(subscribe(&mut client, RetainHandling::Send), "again");
        assert!(!subscribe(&mut client, RetainHandling::SendIfNew), "it exists");
        client.unsubscribe(&["t"]);
        assert!(subscribe(&mut client, RetainHandling::SendIfNew), "it is new");
    }
    // Before 5.0 they come at every subscription.
    let broker = Broker::start();
    let mut client = broker.v4("c").connect();
    client.retain("t", "stored", QOS1);
    for _ in 0..2 {
        client.subscribe("t", QOS1);
        assert_eq!(client.message().text(), "stored");
    }
}

/// MQTT-100: while routes change around it a subscription gets each publish exactly once.
#[test]
fn no_duplicates_while_routes_change() {
    const COUNT: u32 = 2000;
    for version in VERSIONS {
        let broker = Broker::start();
        let mut subscribers: Vec<Client> = (0..4)
            .map(|number| {
                let connector = broker.client(version, &format!("s{number}"));
                match number {
                    0 | 1 => connector.connect(),
                    _ => connector.persistent().connect(),
                }
            })
            .collect();
        for subscriber in &mut subscribers {
            subscriber.subscribe("t/#", QOS1);
        }
        let changer = broker.client(version, "changer");
        let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
        let changing = std::thread::spawn(move || {
            let mut client = changer.connect();
            let mut rounds = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                client.subscribe("t/x", QOS0);
                client.subscribe("$share/g/t/+", QOS0);
                client.unsubscribe(&["t/x", "$share/g/t/+"]);
                rounds += 1;
            }
            rounds
        });
        let connector = broker.client(version, "publisher");
        let publishing = std::thread::spawn(move || {
            let mut publisher = connector.connect();
            let mut last = 0;
            for number in 0..COUNT {
                last = publisher.publish("t/x", number.to_string(), QOS1);
                if number % 64 == 0 {
                    publisher.find_ack(ratatosk_codec::PacketType::Puback, last);
                }
            }
            publisher.find_ack(ratatosk_codec::PacketType::Puback, last);
            publisher
        });
        let reading: Vec<_> = subscribers
            .into_iter()
            .map(|mut subscriber| {
                std::thread::spawn(move || {
                    for number in 0..COUNT {
                        assert_eq!(subscriber.message().text().parse(), Ok(number));
                    }
                    subscriber
                })
            })
            .collect();
        let mut publisher = publishing.join().expect("all is acknowledged");
        for subscriber in reading {
            let mut subscriber = subscriber.join().expect("each message comes once");
            assert_quiet(&mut publisher, &mut subscriber);
        }
        drop(stop);
        assert!(changing.join().expect("routes change") > 0);
    }
}

/// A provider that answers later is asked for every filter of the largest packets, and the packet
/// is taken once all answers are there.
#[test]
fn as_many_filters_as_fit_are_permitted_by_a_provider_that_answers_later() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let permission = PermissionBy::new(move |_, action| {
        let verdict = match action {
            Action::Subscribe { filter, .. } if filter.ends_with('7') => {
                Verdict::Denied { reason: "it ends with 7".into() }
            }
            Action::Subscribe { .. } | Action::Unsubscribe { .. } => Verdict::Allowed,
            _ => return Answer::Now(Verdict::Allowed),
        };
        count.fetch_add(1, Ordering::SeqCst);
        Answer::later(async move {
            tokio::task::yield_now().await;
            verdict
        })
    });
    let broker = Broker::with(Setup { permission, ..Setup::default() });
    for version in VERSIONS {
        let mut client = broker.client(version, "client").connect();
        let names: Vec<String> = (0..1000).map(|number| format!("f/{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let filters: Vec<_> = names.iter().map(|name| (*name, options(QOS1))).collect();
        let codes = client.subscribe_as(&filters, None);
        assert_eq!(codes.len(), 1000);
        assert_eq!(codes.iter().filter(|code| code.is_error()).count(), 100);
        assert_eq!(asked.swap(0, Ordering::SeqCst), 1000, "nobody is asked twice");
        client.unsubscribe(&names);
        assert_eq!(asked.swap(0, Ordering::SeqCst), 1000, "nobody is asked twice");
        // What was kept for the packets costs nothing any more.
        client.ping();
        let held = broker.memory.charged().bytes();
        assert!(held < 100_000, "{held} bytes are charged");
    }
}
