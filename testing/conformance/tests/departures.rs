//! What other nodes know of sessions that leave, and what becomes of messages for them.

use ratatosk_codec::ReasonCode;
use ratatosk_conformance::{Broker, Client, Setup};
use ratatosk_contract::{TenantId, TenantSettings, session_dict::SessionDict as _};
use ratatosk_session_dict::Victims;

use crate::{
    cases::QOS1,
    nodes::{dict, until},
    relay::{joined, known, nodes, wanted},
};

/// DIST-005, DIST-014: who unsubscribes or goes is not sent to any more, and neither is a node that is
/// gone.
#[test]
fn nothing_is_sent_to_who_has_left() {
    let mut nodes = nodes(3, Setup::default);
    let mut publisher = nodes[0].v5("publisher").connect();
    let mut first = nodes[1].v5("first").connect();
    let mut second = nodes[1].v4("second").connect();
    first.subscribe("t", QOS1);
    second.subscribe("t", QOS1);
    second.subscribe("$share/g/t", QOS1);
    wanted(&nodes[0], "t", 1);
    joined(&nodes, "t", 1);
    second.unsubscribe(&["t"]);
    second.unsubscribe(&["$share/g/t"]);
    joined(&nodes, "t", 0);
    publisher.deliver("t", "one", QOS1);
    assert_eq!(first.message().text(), "one");
    second.ping();
    assert!(known(&nodes[0], "t").0 == 1, "the other one still wants it");
    first.vanish();
    wanted(&nodes[0], "t", 0);
    assert_eq!(publisher.deliver("t", "two", QOS1), ReasonCode::NoMatchingSubscribers);
    second.subscribe("$share/g/t", QOS1);
    joined(&nodes, "t", 1);
    second.disconnect(ReasonCode::Success);
    joined(&nodes, "t", 0);
    let mut third = nodes[2].v5("third").connect();
    third.subscribe("t", QOS1);
    third.subscribe("$share/g/t", QOS1);
    wanted(&nodes[0], "t", 1);
    joined(&nodes, "t", 1);
    drop(nodes.pop());
    wanted(&nodes[0], "t", 0);
    joined(&nodes, "t", 0);
    assert_eq!(publisher.deliver("t", "three", QOS1), ReasonCode::NoMatchingSubscribers);
}

/// DIST-014: however a session ends, other nodes forget what it wanted, and know what the next one wants.
#[test]
fn other_nodes_forget_what_a_session_wanted_however_it_ends() {
    let nodes = nodes(2, Setup::default);
    let is_met = |node: &Broker| dict(node).seen() == (2, 1) && dict(node).is_synced();
    until("the directory is one", || nodes.iter().all(is_met));
    let end_by_operator = |mut client: Client| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let victims = Victims::Tenant(TenantId::new("default"));
        let killed = runtime.expect("a runtime").block_on(dict(&nodes[0]).kill(&victims));
        assert_eq!(killed.count, 1);
        client.expect_farewell(ReasonCode::AdministrativeAction);
    };
    let take_over = |mut client: Client, node: &Broker| {
        let next = node.v5("c").connect();
        client.expect_farewell(ReasonCode::SessionTakenOver);
        next.disconnect(ReasonCode::Success);
    };
    let endings: [&dyn Fn(Client); 7] = [
        &|client| client.disconnect(ReasonCode::Success),
        &Client::vanish,
        &|mut client| {
            client.send_raw(&[0xF0, 0xFF, 0xFF, 0xFF, 0xFF]);
            client.expect_farewell(ReasonCode::MalformedPacket);
        },
        &|mut client| {
            // Its membership changes before it ends.
            client.subscribe("$share/g/t", QOS1);
            client.unsubscribe(&["t"]);
            client.subscribe("t", QOS1);
            client.disconnect(ReasonCode::Success);
        },
        &|client| take_over(client, &nodes[1]),
        &|client| take_over(client, &nodes[0]),
        &end_by_operator,
    ];
    for end in endings {
        let mut client = nodes[1].v5("c").connect();
        for filter in ["t", "+", "$share/g/t", "$share/g/#", "$oshare/g/t"] {
            client.subscribe(filter, QOS1);
        }
        wanted(&nodes[0], "t", 1);
        joined(&nodes, "t", 3);
        end(client);
        let tenant = TenantId::new("default");
        let is_forgotten =
            |node: &Broker| ratatosk_contract::dist::Dist::tenant(&*node.dist, &tenant).is_empty();
        until("nothing is left", || nodes.iter().all(is_forgotten));
        assert_eq!(known(&nodes[0], "t"), (0, 0));
    }
    until("nobody is left", || nodes.iter().all(|node| dict(node).is_empty()));
}

/// DUR-008: what none of the members on several nodes has room for is dropped, and each message is
/// counted once, wherever it went.
#[test]
fn messages_of_a_group_of_several_nodes_are_counted_once() {
    const COUNT: u64 = 200;
    const QUEUE: u32 = 5;
    for filter in ["$share/g/t", "$oshare/g/t"] {
        let settings = || TenantSettings { session_inbox_size: QUEUE, ..TenantSettings::default() };
        let nodes = nodes(3, || Setup { settings: settings(), ..Setup::default() });
        let mut members: Vec<Client> = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            for copy in 0..2 {
                let connector = node.v5(&format!("m{number}{copy}")).receive_maximum(1);
                let mut member = connector.connect();
                member.subscribe(filter, QOS1);
                members.push(member);
            }
        }
        joined(&nodes, "t", 6);
        for (number, node) in nodes.iter().enumerate() {
            let mut publisher = node.v5(&format!("p{number}")).connect();
            for _ in 0..COUNT {
                assert_eq!(publisher.deliver("t", "x", QOS1), ReasonCode::Success);
            }
        }
        let sum = || {
            let all = nodes.iter().map(|node| node.node_stats().total());
            all.fold((0, 0), |(kept, dropped), stats| {
                let kept = kept + stats.sent + stats.queued;
                (kept, dropped + stats.dropped_overflow + stats.dropped_session_closed)
            })
        };
        until("all is counted", || sum().0 + sum().1 >= 3 * COUNT);
        let (kept, dropped) = sum();
        assert_eq!(kept + dropped, 3 * COUNT, "{filter}: {kept} and {dropped}");
        let room = 6 * (1 + u64::from(QUEUE));
        assert_eq!(kept, room, "{filter}: all that has room is used");
    }
}
