//! Servers that come, die and change their groups, while calls go on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ratatosk_rpc::{
    AnnounceError, Config, Discovery, Error, Event, HostId, MemoryDiscovery, PipelineLimits, Scope,
    ServiceName, Target, pinned_to,
};
use ratatosk_rpc_example::{Ask, ParrotClient};
use tokio::time::Instant;

use crate::support::{
    Bird, Host, LONG, amount, call, config, group, hear, id, in_group, phrase, tenant,
};

async fn who(client: &ParrotClient, of: &str, target: &Target) -> Result<String, Error> {
    let answer = client.say(call(of), target, phrase("name")).await?;
    Ok(String::from_utf8(answer.words.into()).expect("text"))
}

/// Calls until somebody of this name answers.
async fn until_answered_by(client: &ParrotClient, of: &str, name: &str) {
    let answered = async {
        while who(client, of, &Target::RoundRobin).await.as_deref() != Ok(name) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, answered).await.expect("it answers in time");
}

/// RPC-001: a new server has calls within a second of its announcement.
#[tokio::test]
async fn a_new_server_takes_calls_within_a_second() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    let (old, _) = Bird::new("old");
    let (new, _) = Bird::new("new");
    let mut first = Host::start(&discovery, 1).await;
    first.serve("old", &old);
    until_answered_by(&client, "t", "old").await;
    let mut second = Host::start(&discovery, 2).await;
    let announced = Instant::now();
    second.serve("new", &new);
    until_answered_by(&client, "t", "new").await;
    assert!(announced.elapsed() < Duration::from_secs(1), "{:?}", announced.elapsed());
}

/// RPC-002: after a host is known to be dead, no call goes to it, and none fails.
#[tokio::test]
async fn a_dead_server_gets_no_call() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    let mut hosts = Vec::new();
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        let (bird, _) = Bird::new(name);
        let mut host = Host::start(&discovery, number).await;
        host.serve(name, &bird);
        until_answered_by(&client, "t", name).await;
        hosts.push(host);
    }
    hosts.remove(0).die().await;
    discovery.remove_host(HostId(1));
    let nobody = Err(Error::NoServer { service: ParrotClient::SERVICE.into() });
    let known = async {
        while who(&client, "t", &Target::Server(id("a"))).await != nobody {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, known).await.expect("the caller learns of it");
    for target in [Target::Random, Target::RoundRobin] {
        for _ in 0..50 {
            let name = who(&client, "t", &target).await.expect("an answer");
            assert_ne!(name, "a");
        }
    }
}

/// RPC-002: a server that is dead and still announced is passed over while its link is down.
#[tokio::test]
async fn a_server_that_cannot_be_reached_is_passed_over() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    let (living, _) = Bird::new("living");
    let (dead, _) = Bird::new("dead");
    let mut first = Host::start(&discovery, 1).await;
    first.serve("living", &living);
    let mut second = Host::start(&discovery, 2).await;
    second.serve("dead", &dead);
    until_answered_by(&client, "t", "dead").await;
    second.die().await;
    let mut failed = 0;
    for _ in 0..50 {
        match who(&client, "t", &Target::RoundRobin).await {
            Ok(name) => assert_eq!(name, "living"),
            // One may be lost with the connection that it was on.
            Err(error) => {
                assert!(error.is_in_doubt(), "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed <= 1, "{failed} of 50 failed");
    let direct = who(&client, "t", &Target::Server(id("dead"))).await;
    assert!(matches!(direct, Err(Error::Lost { .. })), "{direct:?}");
}

/// RPC-005, RPC-006: a tenant is pinned to a group and let go again, at run time, for all callers.
#[tokio::test]
async fn a_tenant_is_pinned_to_a_group_while_calls_go_on() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    let (plain, _) = Bird::new("plain");
    let (own, _) = Bird::new("own");
    let mut first = Host::start(&discovery, 1).await;
    first.serve("plain", &plain);
    let mut second = Host::start(&discovery, 2).await;
    second.serve_as(in_group("own", "vip"), &own);
    until_answered_by(&client, "acme", "plain").await;
    let service = ServiceName::new(ParrotClient::SERVICE).expect("a service");
    let scope = Scope::Tenant(tenant("acme"));
    discovery.set_rule(&service, scope.clone(), Some(pinned_to(group("vip")))).expect("room");
    until_answered_by(&client, "acme", "own").await;
    for _ in 0..20 {
        assert_eq!(who(&client, "acme", &Target::Random).await.as_deref(), Ok("own"));
        assert_eq!(who(&client, "other", &Target::Random).await.as_deref(), Ok("plain"));
    }
    discovery.set_rule(&service, scope, None).expect("room");
    until_answered_by(&client, "acme", "plain").await;
}

/// RPC-006, RPC-008: pipelines and streams that never pause follow a change of rules all the same.
#[tokio::test]
async fn what_is_always_busy_moves_too() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    let service = ServiceName::new(ParrotClient::SERVICE).expect("a service");
    let pin = |to: &str| {
        let shares = Some(pinned_to(group(to)));
        discovery.set_rule(&service, Scope::Tenant(tenant("t")), shares).expect("room");
    };
    let mut hosts = Vec::new();
    for (number, name) in [(1, "one"), (2, "two")] {
        let (bird, _) = Bird::new(name);
        let mut host = Host::start(&discovery, number).await;
        host.serve_as(in_group(name, name), &bird);
        hosts.push(host);
    }
    pin("one");
    let added = |host: &Host| host.metric(&["rpc_calls_total", "Add", "\"server\""]);
    let pipeline = client.add(call("t"), Target::RoundRobin, PipelineLimits::default());
    let mut stream = client.chatter(call("t"), Target::RoundRobin);
    let mut answers = std::collections::VecDeque::new();
    let (mut at, mut is_moved) = (String::new(), false);
    let moving = async {
        while !is_moved || added(&hosts[1]) == 0 {
            while let Ok(answer) = pipeline.submit(&call("t"), amount(1)) {
                answers.push_back(answer);
            }
            answers.pop_front().expect("the queue is full").await.expect("an answer");
            match stream.next().await {
                Some(Event::Opened { server, questions }) => {
                    is_moved = server == id("two");
                    at = server.to_string();
                    questions.send(Ask { phrases: u32::MAX }).await.expect("open");
                }
                Some(Event::Message(phrase)) => assert!(phrase.words.starts_with(at.as_bytes())),
                other => panic!("{other:?}"),
            }
            if at == "one" && added(&hosts[0]) > 2_000 {
                pin("two");
            }
        }
    };
    tokio::time::timeout(LONG, moving).await.expect("both move");
    for answer in answers {
        answer.await.expect("an answer");
    }
}

/// RPC-006: the groups of a server change while it serves.
#[tokio::test]
async fn a_server_changes_its_groups_while_it_serves() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    let (bird, _) = Bird::new("polly");
    let host = Host::start(&discovery, 1).await;
    let service = ratatosk_rpc_example::parrot_service(&bird);
    let hosting = ratatosk_rpc::Hosting::new(id("polly"));
    let registration = host.node.serve(service, hosting).expect("room");
    until_answered_by(&client, "t", "polly").await;
    registration.change(BTreeSet::from([group("vip")]), BTreeMap::new()).expect("room");
    let nobody = Error::NoServer { service: ParrotClient::SERVICE.into() };
    let left = async {
        while who(&client, "t", &Target::Random).await != Err(nobody.clone()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, left).await.expect("nobody is left in the default group");
    assert_eq!(who(&client, "t", &Target::Server(id("polly"))).await.as_deref(), Ok("polly"));
}

/// A server that leaves in peace answers what is under way, and its connection goes behind it.
#[tokio::test]
async fn a_server_that_leaves_answers_what_is_under_way() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let (bird, mut hears) = Bird::new("polly");
    let mut host = Host::start(&discovery, 1).await;
    host.serve("polly", &bird);
    let client = ParrotClient::new(&caller.node);
    let target = Target::Random;
    let mut held = Box::pin(client.say(call("t"), &target, phrase("hold")));
    tokio::select! {
        answer = &mut held => panic!("it is held: {answer:?}"),
        told = hear(&mut hears) => assert_eq!(told, "held say"),
    }
    host.withdraw();
    host.close();
    let nobody = Err(Error::NoServer { service: ParrotClient::SERVICE.into() });
    let left = async {
        while who(&client, "t", &Target::Random).await != nobody {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, left).await.expect("no new call goes to it");
    bird.gate.add_permits(1);
    assert!(held.await.is_ok());
    let gone = async {
        while host.metric(&["rpc_open_connections", "\"server\""]) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("the connection ends");
}

#[tokio::test]
async fn a_host_has_as_many_connections_as_it_is_to_have() {
    let discovery = MemoryDiscovery::new();
    let (bird, _) = Bird::new("polly");
    let mut host = Host::start(&discovery, 1).await;
    host.serve("polly", &bird);
    let caller = Host::with(&discovery, Config { connections_per_host: 3, ..config(9) }).await;
    let client = ParrotClient::new(&caller.node);
    for _ in 0..20 {
        assert!(who(&client, "t", &Target::Random).await.is_ok());
    }
    assert_eq!(host.metric(&["rpc_open_connections", "\"server\""]), 3);
    assert_eq!(caller.metric(&["rpc_open_connections", "\"client\""]), 3);
}

#[tokio::test]
async fn a_name_is_served_once() {
    let discovery = MemoryDiscovery::new();
    let (bird, _) = Bird::new("polly");
    let (one, two) = (Host::start(&discovery, 1).await, Host::start(&discovery, 2).await);
    let serve = |host: &Host| {
        let service = ratatosk_rpc_example::parrot_service(&bird);
        host.node.serve(service, ratatosk_rpc::Hosting::new(id("polly")))
    };
    let first = serve(&one).expect("room");
    for host in [&one, &two] {
        assert!(matches!(serve(host), Err(AnnounceError::Taken { host: HostId(1), .. })));
    }
    let client = ParrotClient::new(&two.node);
    until_answered_by(&client, "t", "polly").await;
    drop(first);
    let _second = serve(&two).expect("it is free again");
    until_answered_by(&client, "t", "polly").await;
}

/// A host that comes back under its address is another life of it: it is found anew.
#[tokio::test]
async fn a_host_that_restarts_is_found_again() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    for life in 1..4 {
        let (bird, _) = Bird::new("polly");
        let mut host = Host::start(&discovery, life).await;
        host.serve("polly", &bird);
        until_answered_by(&client, "t", "polly").await;
        host.die().await;
        discovery.remove_host(HostId(life));
    }
}
