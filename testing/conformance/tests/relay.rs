//! Messages from node to node, for transient sessions.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ratatosk_codec::{
    Publish, PublishPropertiesBuilder, ReasonCode, RetainHandling, SubscriptionOptions,
};
use ratatosk_conformance::{Broker, Client, Event, Message, Setup, Testament};
use ratatosk_contract::{
    TenantId,
    dist::{Dist as _, Resolution},
};
use ratatosk_mqtt::Config;
use ratatosk_rpc::{HostId, MemoryDiscovery};
use ratatosk_topic::{TopicLimits, TopicName};

use crate::{
    cases::{ALL_QOS, QOS0, QOS1, QOS2, standstill},
    nodes::until,
};

/// Nodes that know each other.
pub(crate) fn nodes(count: usize, setup: impl Fn() -> Setup) -> Vec<Broker> {
    let discovery = MemoryDiscovery::new();
    let start = |number: usize| {
        let host = HostId(0xA0 + number as u128);
        Broker::with(Setup { cluster: Some((discovery.clone(), host)), ..setup() })
    };
    let nodes: Vec<Broker> = (0..count).map(start).collect();
    for node in &nodes {
        let relay = node.relay.as_ref().expect("it is one of several");
        until("the nodes know each other", || relay.hosts().borrow().len() == count - 1);
    }
    nodes
}

/// What a node knows of a topic: the other nodes that want it, and the members of groups.
pub(crate) fn known(node: &Broker, topic: &str) -> (usize, usize) {
    let topic = TopicName::parse(topic, &TopicLimits::PROTOCOL).expect("a topic");
    let mut found = Resolution::default();
    node.dist.tenant(&TenantId::new("default")).resolve(topic, &mut found);
    (found.hosts.len(), found.groups.iter().map(|group| group.members.len()).sum())
}

/// Waits until a node knows so many others that want a topic.
pub(crate) fn wanted(node: &Broker, topic: &str, hosts: usize) {
    until("what others want is known", || known(node, topic).0 == hosts);
}

/// Waits until all nodes know so many members.
pub(crate) fn joined(nodes: &[Broker], topic: &str, members: usize) {
    until("members are known", || nodes.iter().all(|node| known(node, topic).1 == members));
}

/// What a client gets up to a message to `end`, acknowledged.
fn until_end(client: &mut Client) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let Event::Publish(message) = client.event() else { panic!("only messages come") };
        client.acknowledge(&message);
        if message.topic == "end" {
            return all;
        }
        all.push(message);
    }
}

fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::text).collect()
}

/// MQTT-054, MQTT-055, MQTT-069: what is published at one node comes to sessions of all nodes, once each
/// and in order, large or small.
#[test]
fn messages_reach_sessions_of_other_nodes_once_and_in_order() {
    const COUNT: usize = 100;
    let nodes = nodes(3, Setup::default);
    for qos in ALL_QOS {
        let mut watchers: Vec<Client> = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            for version in 0..4 {
                let name = format!("w{number}{version}");
                let mut watcher = match version % 2 {
                    0 => node.v4(&name).connect(),
                    _ => node.v5(&name).connect(),
                };
                watcher.subscribe("t", QOS2);
                watcher.subscribe("end", QOS0);
                watchers.push(watcher);
            }
        }
        wanted(&nodes[0], "t", 2);
        wanted(&nodes[0], "end", 2);
        let mut publisher = nodes[0].v5("publisher").connect();
        let payload = |number: usize| match number % 10 {
            9 => format!("{number:0>20000}"),
            _ => number.to_string(),
        };
        let ids: Vec<u16> =
            (0..COUNT).map(|number| publisher.publish("t", payload(number), qos)).collect();
        for id in ids {
            assert_eq!(publisher.finish(qos, id), ReasonCode::Success);
        }
        publisher.deliver("end", "", qos);
        let expected: Vec<String> = (0..COUNT).map(payload).collect();
        for watcher in &mut watchers {
            let got = until_end(watcher);
            assert_eq!(texts(&got), expected, "{qos:?}");
            assert!(got.iter().all(|message| message.qos == qos && !message.dup));
        }
    }
}

/// MQTT-101, MQTT-081, MQTT-082: what belongs to a message, and to the subscription, is the same on
/// another node.
#[test]
fn all_that_belongs_to_a_message_goes_with_it() {
    let nodes = nodes(2, Setup::default);
    let options = |retain_as_published| SubscriptionOptions {
        retain_as_published,
        retain_handling: RetainHandling::DoNotSend,
        ..SubscriptionOptions::new(QOS1)
    };
    let mut watcher = nodes[1].v5("watcher").connect();
    watcher.subscribe_as(&[("t", options(true))], Some(77));
    let mut other = nodes[1].v5("other").connect();
    other.subscribe_as(&[("+", options(false))], None);
    wanted(&nodes[0], "t", 1);
    let mut publisher = nodes[0].v5("publisher").connect();
    let pairs = [("b", "1"), ("a", "2"), ("b", "3")];
    for (qos, retain) in [(QOS0, false), (QOS1, true), (QOS2, true)] {
        let mut builder = PublishPropertiesBuilder::new();
        builder.payload_is_utf8(true).expect("fits");
        builder.message_expiry_s(100).expect("fits");
        builder.response_topic("answer").expect("fits");
        builder.correlation_data(b"number").expect("fits");
        builder.content_type("text").expect("fits");
        for (key, value) in pairs {
            builder.user_property(key, value).expect("fits");
        }
        let properties = builder.view();
        let publish = Publish { qos, retain, properties, ..Publish::new("t", b"payload") };
        let id = publisher.publish_as(publish);
        assert_eq!(publisher.finish(qos, id), ReasonCode::Success);
        for (client, flag, ids) in [(&mut watcher, retain, vec![77]), (&mut other, false, vec![])] {
            let message = client.message();
            assert_eq!((message.topic.as_str(), message.text()), ("t", "payload"));
            assert_eq!((message.qos, message.retain), (qos.min(QOS1), flag));
            assert_eq!(message.subscription_ids, ids);
            assert!(message.is_utf8);
            assert!((1..=100).contains(&message.expiry_s.expect("it expires")));
            assert_eq!(message.response_topic.as_deref(), Some("answer"));
            assert_eq!(message.correlation_data.as_deref(), Some(&b"number"[..]));
            assert_eq!(message.content_type.as_deref(), Some("text"));
            let expected = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(message.user_properties, expected);
        }
    }
}

/// MQTT-070, DIST-009: however many filters of a node match, it gets a message once, and its sessions one
/// for each subscription.
#[test]
fn overlapping_filters_of_a_node_give_one_copy_each() {
    let nodes = nodes(2, Setup::default);
    let filters = ["a/b", "a/+", "+/b", "a/#", "#"];
    let mut watchers: Vec<Client> = Vec::new();
    for (number, filter) in filters.into_iter().enumerate() {
        for copy in 0..3 {
            let mut watcher = nodes[1].v5(&format!("w{number}{copy}")).connect();
            watcher.subscribe(filter, QOS1);
            watcher.subscribe("end", QOS0);
            watchers.push(watcher);
        }
    }
    wanted(&nodes[0], "a/b", 1);
    wanted(&nodes[0], "end", 1);
    let tenant = TenantId::new("default");
    let filters_known = || nodes[0].dist.tenant(&tenant).len();
    until("all filters are known", || filters_known() == filters.len() + 1);
    let mut publisher = nodes[0].v5("publisher").connect();
    for number in 0..20 {
        assert_eq!(publisher.deliver("a/b", number.to_string(), QOS1), ReasonCode::Success);
    }
    publisher.publish("end", "", QOS0);
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    for watcher in &mut watchers {
        assert_eq!(texts(&until_end(watcher)), expected);
    }
    let stats = nodes[1].stats_when(|stats| stats.sent >= 15 * 20);
    assert_eq!(stats.received, 0, "it was not published there");
}

/// Members of a group, `each` on every node.
fn members(nodes: &[Broker], each: usize, filter: &str) -> Vec<Client> {
    let mut all = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        for copy in 0..each {
            let mut member = node.v5(&format!("m{number}{copy}")).connect();
            member.subscribe(filter, QOS1);
            member.subscribe("end", QOS0);
            all.push(member);
        }
    }
    joined(nodes, "t", nodes.len() * each);
    nodes.iter().for_each(|node| wanted(node, "end", nodes.len() - 1));
    all
}

/// MQTT-084, DIST-011: a group over several nodes gets each message once, and its members share evenly,
/// wherever it is published.
#[test]
fn a_group_over_several_nodes_shares_evenly() {
    const COUNT: usize = 200;
    let nodes = nodes(3, Setup::default);
    let mut members = members(&nodes, 2, "$share/g/t");
    for (number, node) in nodes.iter().enumerate() {
        let mut publisher = node.v5(&format!("p{number}")).connect();
        for text in 0..COUNT {
            let code = publisher.deliver("t", format!("{number}/{text}"), QOS1);
            assert_eq!(code, ReasonCode::Success);
        }
    }
    let mut publisher = nodes[0].v5("publisher").connect();
    publisher.publish("end", "", QOS0);
    let mut all = Vec::new();
    for member in &mut members {
        let got = until_end(member);
        let share = nodes.len() * COUNT / 6;
        assert!((share / 2..=share * 3 / 2).contains(&got.len()), "{} of {share}", got.len());
        all.extend(got.iter().map(|message| message.text().to_owned()));
    }
    assert_eq!(all.len(), nodes.len() * COUNT);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), nodes.len() * COUNT, "each once");
}

/// MQTT-085, DIST-012: a publisher stays at one member of an ordered group, on whichever node either is,
/// and in order.
#[test]
fn an_ordered_group_keeps_a_publisher_at_a_member_of_any_node() {
    let nodes = nodes(3, Setup::default);
    let mut members = members(&nodes, 2, "$oshare/g/t");
    for number in 0..12 {
        let mut publisher = nodes[number % 3].v5(&format!("p{number}")).connect();
        for text in 0..20 {
            publisher.deliver("t", format!("{number}/{text}"), QOS1);
        }
        publisher.disconnect(ReasonCode::Success);
        // From another node it is the same member.
        let mut publisher = nodes[(number + 1) % 3].v5(&format!("p{number}")).connect();
        for text in 20..40 {
            publisher.deliver("t", format!("{number}/{text}"), QOS1);
        }
    }
    let mut publisher = nodes[0].v5("publisher").connect();
    publisher.publish("end", "", QOS0);
    let mut homes: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for (member, client) in members.iter_mut().enumerate() {
        for message in until_end(client) {
            let (id, text) = message.text().split_once('/').expect("two numbers");
            let entry = (member, text.parse().expect("a number"));
            homes.entry(id.to_owned()).or_default().push(entry);
        }
    }
    assert_eq!(homes.len(), 12);
    for (publisher, got) in homes {
        let expected: Vec<_> = (0..40).map(|text| (got[0].0, text)).collect();
        assert_eq!(got, expected, "publisher {publisher}");
    }
}

/// MQTT-054: a node that says nothing holds acknowledgements up for as long as the bound, and no others.
#[test]
fn a_silent_node_holds_up_acknowledgements_within_a_bound() {
    const BOUND: Duration = Duration::from_millis(500);
    let nodes = nodes(2, || Setup { patience: BOUND, ..Setup::default() });
    let mut far = nodes[1].v5("far").connect();
    far.subscribe("t", QOS1);
    far.subscribe("$share/g/s", QOS1);
    let mut near = nodes[0].v5("near").connect();
    near.subscribe("t", QOS1);
    near.subscribe("other", QOS1);
    wanted(&nodes[0], "t", 1);
    joined(&nodes, "s", 1);
    let mut publisher = nodes[0].v5("publisher").connect();
    publisher.deliver("t", "before", QOS1);
    assert_eq!((far.message().text(), near.message().text()), ("before", "before"));
    let hold = nodes[1].freeze();
    let mut independent = nodes[0].v5("independent").connect();
    for (topic, qos) in [("t", QOS1), ("t", QOS2), ("s", QOS1), ("s", QOS2)] {
        let begin = Instant::now();
        let id = publisher.publish(topic, "x", qos);
        if topic == "t" {
            assert_eq!(near.message().text(), "x", "who is here has it at once");
        }
        independent.deliver("other", "y", QOS1);
        assert_eq!(near.message().text(), "y");
        assert_eq!(publisher.finish(qos, id), ReasonCode::Success, "{topic}, {qos:?}");
        // Later its connection may count as broken, and nobody waits any more.
        let was_waited_for = begin.elapsed() >= BOUND;
        assert!(was_waited_for || (topic, qos) != ("t", QOS1), "{:?}", begin.elapsed());
    }
    drop(hold);
}

/// A shard of another node that stands still is sent what its mailbox takes; the rest is dropped, and
/// nobody waits for it.
#[test]
fn a_shard_that_stands_still_takes_what_its_mailbox_holds() {
    const PAYLOAD: usize = 64 << 10;
    const COUNT: usize = 160;
    let (hold, permission) = standstill();
    // On both, but nobody blocks the first.
    let config = || Config { shards: 1, ..Config::default() };
    let setup = || Setup { config: config(), permission: permission.clone(), ..Setup::default() };
    let nodes = nodes(2, setup);
    let mut far = nodes[1].v5("far").connect();
    far.subscribe("t", QOS1);
    far.subscribe("end", QOS1);
    wanted(&nodes[0], "t", 1);
    wanted(&nodes[0], "end", 1);
    let mut blocker = nodes[1].v5("blocker").connect();
    blocker.publish("block", "", QOS0);
    let mut publisher = nodes[0].v5("publisher").connect();
    for _ in 0..COUNT {
        let code = publisher.deliver("t", vec![0; PAYLOAD], QOS1);
        assert_eq!(code, ReasonCode::Success);
    }
    drop(hold);
    blocker.ping();
    publisher.deliver("end", "", QOS1);
    let got = until_end(&mut far).len() * PAYLOAD;
    // What came before it stood still may be one more.
    assert!((4 << 20..=5 << 20).contains(&got), "{got} bytes");
}

/// MQTT-087: a message for a member that has left before its node could say so goes to another member.
#[test]
fn a_member_that_is_not_there_is_replaced() {
    const COUNT: usize = 20;
    let nodes = nodes(3, Setup::default);
    for qos in [QOS1, QOS2] {
        let mut leaving = nodes[1].v5("leaving").connect();
        leaving.subscribe("$share/g/t", qos);
        let mut staying = nodes[2].v5("staying").connect();
        staying.subscribe("$share/g/t", qos);
        joined(&nodes, "t", 2);
        let mut publisher = nodes[0].v5("publisher").connect();
        // It does not hear that somebody leaves, nor does it send.
        let hold = nodes[0].freeze();
        leaving.disconnect(ReasonCode::Success);
        let publish = |number: usize| publisher.publish("t", number.to_string(), qos);
        let ids: Vec<u16> = (0..COUNT).map(publish).collect();
        nodes[0].stats_when(|stats| stats.received >= COUNT as u64);
        assert_eq!(known(&nodes[0], "t").1, 2, "it does not know");
        drop(hold);
        for id in ids {
            assert_eq!(publisher.finish(qos, id), ReasonCode::Success);
        }
        let mut got: Vec<usize> =
            (0..COUNT).map(|_| staying.message().text().parse().expect("a number")).collect();
        got.sort_unstable();
        assert_eq!(got, (0..COUNT).collect::<Vec<_>>(), "{qos:?}");
        staying.disconnect(ReasonCode::Success);
        joined(&nodes, "t", 0);
    }
}

/// MEM-001: what is kept until a silent node says that its members are there is bounded, and given back.
#[test]
fn what_is_kept_for_members_of_a_silent_node_is_bounded() {
    const PAYLOAD: usize = 64 << 10;
    const COUNT: usize = 400;
    const KEPT_MAX: usize = 8 << 20;
    let nodes = nodes(2, Setup::default);
    let mut member = nodes[1].v5("member").connect();
    member.subscribe("$share/g/t", QOS1);
    joined(&nodes, "t", 1);
    let mut publisher = nodes[0].v5("publisher").connect();
    publisher.deliver("t", "before", QOS1);
    member.message();
    let charged = || usize::try_from(nodes[0].memory.charged().bytes()).expect("it fits");
    let idle = charged();
    let hold = nodes[1].freeze();
    let publish = |_| publisher.publish("t", vec![0; PAYLOAD], QOS1);
    let ids: Vec<u16> = (0..COUNT).map(publish).collect();
    nodes[0].stats_when(|stats| stats.received > COUNT as u64);
    // All of it waits in the lane, and some is kept.
    let expected = COUNT * PAYLOAD + KEPT_MAX - PAYLOAD;
    until("it is charged", || charged() >= idle + expected);
    assert!(charged() <= idle + expected + (2 << 20), "{} bytes", charged());
    drop(hold);
    for id in ids {
        assert_eq!(publisher.finish(QOS1, id), ReasonCode::Success);
        assert_eq!(member.message().payload.len(), PAYLOAD);
    }
    until("it is given back", || charged() <= idle + (1 << 20));
}

/// MQTT-087: what a lost member had not acknowledged goes to a member of another node.
#[test]
fn messages_of_a_lost_member_reach_another_node() {
    const COUNT: usize = 50;
    let nodes = nodes(2, Setup::default);
    for (dying_at, living_at) in [(0, 1), (1, 0)] {
        let mut dying = nodes[dying_at].v5("dying").connect();
        dying.subscribe("$share/g/t", QOS1);
        joined(&nodes, "t", 1);
        let mut publisher = nodes[0].v5("publisher").connect();
        for number in 0..COUNT {
            publisher.deliver("t", number.to_string(), QOS1);
        }
        let first = dying.message();
        dying.ping();
        let mut living = nodes[living_at].v5("living").connect();
        living.subscribe("$share/g/t", QOS1);
        joined(&nodes, "t", 2);
        dying.vanish();
        let mut got: Vec<usize> = vec![first.text().parse().expect("a number")];
        while got.len() < COUNT {
            got.push(living.message().text().parse().expect("a number"));
        }
        got.sort_unstable();
        assert_eq!(got, (0..COUNT).collect::<Vec<_>>());
        living.disconnect(ReasonCode::Success);
        joined(&nodes, "t", 0);
    }
}

/// MQTT-048, MQTT-052: a will reaches sessions of other nodes, live copies with the retain flag as they
/// asked for.
#[test]
fn wills_reach_other_nodes() {
    let nodes = nodes(2, Setup::default);
    let mut watcher = nodes[0].v5("watcher").connect();
    let as_published =
        SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::new(QOS1) };
    watcher.subscribe_as(&[("will", as_published)], None);
    wanted(&nodes[1], "will", 1);
    for retain in [false, true] {
        let will = Testament { retain, ..Testament::new("will", "gone") };
        nodes[1].v5("dying").will(will).connect().vanish();
        let message = watcher.message();
        assert_eq!((message.text(), message.qos, message.retain), ("gone", QOS1, retain));
    }
}
