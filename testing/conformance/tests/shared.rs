//! Shared subscriptions.

use std::collections::BTreeMap;

use ratatosk_codec::{PacketType, ReasonCode};
use ratatosk_conformance::{Broker, Client, Event, Setup};
use ratatosk_contract::TenantSettings;
use ratatosk_mqtt::Stats;
use ratatosk_telemetry::{ByteCount, memory::Share};

use crate::cases::{Case, QOS0, QOS1, QOS2, VERSIONS, assert_quiet};

/// Clients that subscribed to `filter`, half of them persistent if so wished.
fn members(case: &Case, count: usize, filter: &str, stored: bool) -> Vec<Client> {
    (0..count)
        .map(|number| {
            let mut connector = case.client(&format!("member-{number}"));
            if stored && number % 2 == 0 {
                connector = connector.persistent();
            }
            let mut client = connector.connect();
            assert!(!client.subscribe(filter, QOS2).is_error());
            client.subscribe("$fence", QOS0);
            client
        })
        .collect()
}

/// What each member got until the fence, acknowledged.
fn collect(publisher: &mut Client, members: &mut [Client]) -> Vec<Vec<String>> {
    publisher.publish("$fence", "end", QOS0);
    let read = |member: &mut Client| {
        let mut all = Vec::new();
        let mut is_fenced = false;
        loop {
            // QoS 1 of a persistent session may come behind QoS 0: the ping is behind both.
            match member.event() {
                Event::Publish(message) if message.topic == "$fence" => {
                    is_fenced = true;
                    member.send(&ratatosk_codec::Packet::Pingreq);
                }
                Event::Publish(message) => {
                    member.acknowledge(&message);
                    all.push(message.text().to_owned());
                }
                Event::Pingresp if is_fenced => return all,
                other => panic!("unexpected: {other:?}"),
            }
        }
    };
    members.iter_mut().map(read).collect()
}

/// MQTT-084: each message goes to exactly one member, in both versions, and to each group.
#[test]
fn each_message_goes_to_one_member_of_each_group() {
    for case in Case::all(Setup::default) {
        for qos in [QOS0, QOS1, QOS2] {
            let mut publisher = case.client("publisher").connect();
            let mut one = members(&case, 4, "$share/one/t/+", true);
            let mut plain = case.client("plain").connect();
            plain.subscribe("t/#", QOS2);
            for number in 0..40 {
                publisher.deliver("t/x", number.to_string(), qos);
            }
            let mut got: Vec<u32> = collect(&mut publisher, &mut one)
                .into_iter()
                .flatten()
                .map(|text| text.parse().expect("a number"))
                .collect();
            got.sort_unstable();
            assert_eq!(got, (0..40).collect::<Vec<_>>(), "{}, {qos:?}", case.name);
            for number in 0..40 {
                assert_eq!(plain.message().text().parse(), Ok(number), "{}", case.name);
            }
        }
    }
}

/// DIST-011: messages are spread evenly over the members, wherever they are.
#[test]
fn an_unordered_group_is_spread_evenly() {
    for case in Case::all(Setup::default) {
        let mut publisher = case.client("publisher").connect();
        let mut all = members(&case, 4, "$share/g/t", false);
        for number in 0..400 {
            publisher.deliver("t", number.to_string(), QOS1);
        }
        let counts: Vec<usize> = collect(&mut publisher, &mut all).iter().map(Vec::len).collect();
        assert_eq!(counts.iter().sum::<usize>(), 400);
        // A member that is slow for a moment is passed over.
        assert!(counts.iter().all(|count| (50..=150).contains(count)), "{}: {counts:?}", case.name);
    }
}

/// MQTT-085, DIST-012: an ordered group keeps each publisher at one member, in order; when that
/// member leaves only its publishers move.
#[test]
fn an_ordered_group_keeps_publishers_at_their_members() {
    for case in Case::all(Setup::default) {
        let mut publishers: Vec<Client> =
            (0..12).map(|number| case.client(&format!("publisher-{number}")).connect()).collect();
        let mut all = members(&case, 4, "$oshare/g/t", true);
        let mut round = |all: &mut Vec<Client>| {
            for number in 0..20 {
                for (id, publisher) in publishers.iter_mut().enumerate() {
                    publisher.deliver("t", format!("{id}/{number}"), QOS1);
                }
            }
            let mut homes: BTreeMap<usize, usize> = BTreeMap::new();
            let mut next: BTreeMap<usize, usize> = BTreeMap::new();
            for (member, got) in collect(&mut publishers[0], all).iter().enumerate() {
                for text in got {
                    let (id, number) = text.split_once('/').expect("two numbers");
                    let (id, number): (usize, usize) =
                        (id.parse().expect("a number"), number.parse().expect("a number"));
                    let home = *homes.entry(id).or_insert(member);
                    assert_eq!(home, member, "{}: publisher {id} has two members", case.name);
                    let expected = next.entry(id).or_default();
                    assert_eq!(number, *expected, "{}: publisher {id}", case.name);
                    *expected += 1;
                }
            }
            assert!(next.len() == 12 && next.values().all(|count| *count == 20), "{next:?}");
            homes
        };
        let before = round(&mut all);
        // The last leaves; the others keep their places.
        let last = all.len() - 1;
        all.remove(last).disconnect(ReasonCode::Success);
        let after = round(&mut all);
        for (publisher, home) in &before {
            if *home != last {
                assert_eq!(after[publisher], *home, "{}: {publisher} moved", case.name);
            }
        }
    }
}

/// MQTT-086: a group has no more members than the tenant allows.
#[test]
fn a_full_group_takes_no_more_members() {
    let settings = || TenantSettings { max_shared_group_members: 2, ..TenantSettings::default() };
    for case in Case::all(|| Setup { settings: settings(), ..Setup::default() }) {
        let full = match case.version.is_v5() {
            true => ReasonCode::QuotaExceeded,
            false => ReasonCode::UnspecifiedError,
        };
        let mut all = members(&case, 2, "$share/g/t", true);
        for is_stored in [false, true] {
            let mut connector = case.client("third");
            if is_stored {
                connector = connector.persistent();
            }
            let mut third = connector.connect();
            assert_eq!(third.subscribe("$share/g/t", QOS1), full, "{}", case.name);
            // Other groups, and who is a member already, are not concerned.
            assert_eq!(third.subscribe("$share/h/t", QOS1), ReasonCode::GrantedQos1);
            assert_eq!(all[0].subscribe("$share/g/t", QOS1), ReasonCode::GrantedQos1);
        }
        all[1].unsubscribe(&["$share/g/t"]);
        let mut third = case.client("third").connect();
        assert_eq!(third.subscribe("$share/g/t", QOS1), ReasonCode::GrantedQos1);
    }
    assert_eq!(TenantSettings::default().max_shared_group_members, 10_000);
}

/// MQTT-087: what a lost member had not acknowledged at QoS 1 reaches another, every message.
#[test]
fn messages_of_a_lost_member_reach_another() {
    for case in Case::all(Setup::default) {
        for (filter, stored) in
            [("$share/g/t", false), ("$share/g/t", true), ("$oshare/g/t", false)]
        {
            let mut publisher = case.client("publisher").connect();
            let connector = |id: &str| match stored {
                true => case.client(id).persistent(),
                false => case.client(id),
            };
            let mut dying = connector("dying").connect();
            let mut living = connector("living").connect();
            dying.subscribe(filter, QOS1);
            for number in 0..50 {
                publisher.deliver("t", number.to_string(), QOS1);
            }
            // Some it has acknowledged, some it has, some are on their way.
            let mut got: Vec<u32> = Vec::new();
            for _ in 0..10 {
                got.push(dying.message().text().parse().expect("a number"));
            }
            dying.ping();
            living.subscribe(filter, QOS1);
            for number in 50..100 {
                publisher.deliver("t", number.to_string(), QOS1);
            }
            dying.vanish();
            for number in 100..110 {
                publisher.deliver("t", number.to_string(), QOS1);
            }
            while got.len() < 110 {
                let message = living.message();
                got.push(message.text().parse().expect("a number"));
            }
            got.sort_unstable();
            let expected: Vec<u32> = (0..110).collect();
            assert_eq!(got, expected, "{}, {filter}, stored: {stored}", case.name);
            assert_quiet(&mut publisher, &mut living);
            connector("dying").clean().connect().disconnect(ReasonCode::Success);
            living.unsubscribe(&[filter]);
        }
    }
}

/// MQTT-087: QoS 2 in flight stays with its session, which gets it when it comes back.
#[test]
fn qos2_in_flight_stays_with_its_session() {
    for case in Case::all(Setup::default) {
        let stored = case.client("dying").persistent();
        let mut dying = stored.connect();
        dying.subscribe("$share/g/t", QOS2);
        let mut publisher = case.client("publisher").connect();
        publisher.deliver("t", "in flight", QOS2);
        let message = dying.unacknowledged();
        let mut living = case.client("living").connect();
        living.subscribe("$share/g/t", QOS2);
        dying.vanish();
        assert_quiet(&mut publisher, &mut living);
        let mut dying = stored.connect();
        let again = dying.message();
        let expected = ("in flight", message.packet_id, true);
        assert_eq!((again.text(), again.packet_id, again.dup), expected, "{}", case.name);
    }
}

/// MQTT-088: a shared subscription gets no retained messages.
#[test]
fn a_shared_subscription_gets_nothing_retained() {
    for case in Case::all(Setup::default) {
        let (mut publisher, mut member, _guard) =
            case.pair(case.client("publisher"), case.client("member"));
        publisher.retain("t", "stored", QOS1);
        for filter in ["$share/g/t", "$oshare/g/#"] {
            member.subscribe(filter, QOS1);
            member.ping();
            assert_quiet(&mut publisher, &mut member);
        }
    }
}

/// DIST-013: removing one group leaves the others and plain subscriptions as they are.
#[test]
fn groups_of_one_filter_are_apart() {
    for case in Case::all(Setup::default) {
        for is_stored in [false, true] {
            let mut connector = case.client("all");
            if is_stored {
                connector = connector.persistent();
            }
            let mut client = connector.connect();
            let filters = ["t", "$share/g/t", "$share/h/t", "$oshare/g/t"];
            let mut publisher = case.client("publisher").connect();
            for filter in filters {
                client.subscribe(filter, QOS1);
            }
            for left in (0..=filters.len()).rev() {
                publisher.deliver("t", "x", QOS1);
                for _ in 0..left {
                    assert_eq!(client.message().text(), "x");
                }
                assert_quiet(&mut publisher, &mut client);
                if let Some(filter) = left.checked_sub(1).map(|last| filters[last]) {
                    client.unsubscribe(&[filter]);
                }
            }
        }
    }
}

/// A member whose window is closed is passed over while others can take more.
#[test]
fn a_member_that_is_stuck_is_passed_over() {
    for is_stored in [false, true] {
        let broker = Broker::start();
        let mut connector = broker.v5("stuck").receive_maximum(1);
        if is_stored {
            connector = connector.persistent();
        }
        let mut stuck = connector.connect();
        let mut ready = broker.v5("ready").connect();
        let mut publisher = broker.v5("publisher").connect();
        stuck.subscribe("$share/g/t", QOS1);
        ready.subscribe("$share/g/t", QOS1);
        for number in 0..100 {
            publisher.deliver("t", number.to_string(), QOS1);
        }
        // It has one that it does not acknowledge, and at most a few that were on their way.
        let first = stuck.unacknowledged();
        for _ in 0..90 {
            ready.message();
        }
        stuck.ack(PacketType::Puback, first.packet_id);
    }
}

/// Publishes to `t`, whose one receiver does not read, until the counters satisfy a condition; each
/// message is sent or counted.
fn flood(
    broker: &Broker,
    publisher: &mut Client,
    payload_bytes: usize,
    is_met: impl Fn(&Stats) -> bool,
) -> Stats {
    const BATCH_BYTES: usize = 1 << 20;
    const BATCHES_MAX: usize = 64;
    let mut published = 0;
    for _ in 0..BATCHES_MAX {
        for _ in 0..BATCH_BYTES / payload_bytes {
            publisher.deliver("t", vec![0; payload_bytes], QOS1);
            published += 1;
        }
        let counted = |stats: &Stats| stats.sent + stats.dropped_overflow + stats.dropped_resource;
        let stats = broker.stats_when(|stats| counted(stats) == published);
        if is_met(&stats) {
            return stats;
        }
    }
    panic!("{BATCHES_MAX} MiB fit");
}

/// DIST-011: a member that has caught up gets its share again, without having to say anything; and
/// one that was only sent what it does not take never lost it.
#[test]
fn a_member_that_is_idle_gets_its_share() {
    const LARGE: usize = 64 << 10;
    let broker = Broker::start();
    let mut slow = broker.v5("slow").connect();
    let mut small = broker.v5("small").packet_size_max(100).connect();
    let mut ready = broker.v5("ready").connect();
    let mut publisher = broker.v5("publisher").connect();
    slow.subscribe("$share/g/t", QOS0);
    let stats = flood(&broker, &mut publisher, LARGE, |stats| stats.dropped_overflow > 0);
    assert_eq!(stats.dropped_resource, 0);
    ready.subscribe("$share/g/t", QOS0);
    small.subscribe("$share/g/t", QOS0);
    for _ in 0..stats.sent {
        assert_eq!(slow.message().payload.len(), LARGE);
    }
    // What is too large for it costs a member nothing but that.
    for _ in 0..3 {
        publisher.deliver("t", vec![0; 1000], QOS1);
    }
    broker.stats_when(|stats| stats.dropped_oversize == 1);
    for number in 0..30 {
        publisher.deliver("t", number.to_string(), QOS1);
    }
    for client in [&mut slow, &mut ready, &mut small] {
        let mut count = 0;
        while count < 10 {
            count += usize::from(client.message().payload.len() < 1000);
        }
        assert_quiet(&mut publisher, client);
    }
}

/// MQTT-097: a group keeps as much as its members together; what none has room for is dropped, and
/// each message is counted once.
#[test]
fn a_group_is_full_when_its_members_are() {
    const MEMBERS: u64 = 3;
    const QUEUE: u64 = 5;
    const COUNT: u64 = 100;
    for is_ordered in [false, true] {
        let settings = TenantSettings {
            session_inbox_size: u32::try_from(QUEUE).expect("small"),
            ..TenantSettings::default()
        };
        let broker = Broker::with_settings(settings);
        let filter = if is_ordered { "$oshare/g/t" } else { "$share/g/t" };
        let mut members: Vec<Client> = (0..MEMBERS)
            .map(|number| {
                let connector = broker.v5(&format!("m{number}")).receive_maximum(1);
                let mut member = connector.connect();
                member.subscribe(filter, QOS1);
                member
            })
            .collect();
        let mut publisher = broker.v5("publisher").connect();
        for number in 0..COUNT {
            publisher.deliver("t", number.to_string(), QOS1);
        }
        let room = MEMBERS * (1 + QUEUE);
        let stats =
            broker.stats_when(|stats| stats.sent + stats.queued + stats.dropped_overflow >= COUNT);
        let counts = (stats.sent, stats.queued, stats.dropped_overflow);
        assert_eq!(counts, (MEMBERS, MEMBERS * QUEUE, COUNT - room), "{filter}");
        assert_eq!(stats.dropped_session_closed, 0, "{filter}");
        let mut got: Vec<u64> = Vec::new();
        for member in &mut members {
            for _ in 0..=QUEUE {
                got.push(member.message().text().parse().expect("a number"));
            }
            assert_quiet(&mut publisher, member);
        }
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len() as u64, room, "{filter}: each once");
        // There is room again.
        assert_eq!(publisher.deliver("t", "last", QOS1), ReasonCode::Success);
        broker.stats_when(|stats| stats.sent > MEMBERS);
    }
}

/// While memory is short a member that does not read is given nothing of QoS 0, as a plain
/// subscriber is; another takes it, or it is counted.
#[test]
fn a_member_that_does_not_read_gives_up_while_memory_is_short() {
    let broker = Broker::with(Setup { memory_max: ByteCount::mebibytes(256), ..Setup::default() });
    let mut deaf = broker.v5("deaf").connect();
    deaf.subscribe("$share/g/t", QOS0);
    let mut publisher = broker.v5("publisher").connect();
    let account = broker.memory.account("somebody");
    account.charge(Share::Retained, 222 << 20);
    let stats = flood(&broker, &mut publisher, 4096, |stats| stats.dropped_resource > 0);
    let mut ready = broker.v5("ready").connect();
    ready.subscribe("$share/g/t", QOS0);
    for _ in 0..10 {
        publisher.deliver("t", "x", QOS1);
        assert_eq!(ready.message().text(), "x");
    }
    let after = broker.stats_when(|after| after.sent == stats.sent + 10);
    assert_eq!(after.dropped_resource, stats.dropped_resource);
}

/// Groups of both versions mix.
#[test]
fn members_of_both_versions_share_a_group() {
    let broker = Broker::start();
    let mut all: Vec<Client> = VERSIONS
        .into_iter()
        .map(|version| {
            let mut client = broker.client(version, &format!("v{}", version.level())).connect();
            client.subscribe("$share/g/t", QOS1);
            client.subscribe("$fence", QOS0);
            client
        })
        .collect();
    let mut publisher = broker.v5("publisher").connect();
    for number in 0..20 {
        publisher.deliver("t", number.to_string(), QOS1);
    }
    let counts: Vec<usize> = collect(&mut publisher, &mut all).iter().map(Vec::len).collect();
    assert_eq!(counts, [10, 10]);
}
