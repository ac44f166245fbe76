//! Single calls over the network.

use std::time::Duration;

use ratatosk_rpc::{
    Call, Config, Delivery, Error, Hosting, MemoryDiscovery, Target, Trace, Version,
};
use ratatosk_rpc_example::ParrotClient;

use crate::support::{Bird, Host, LONG, call, config, hear, id, phrase, tenant};

/// A caller, and a host with a parrot.
async fn pair()
-> (Host, Host, ParrotClient, std::sync::Arc<Bird>, tokio::sync::mpsc::Receiver<String>) {
    let discovery = MemoryDiscovery::new();
    let (bird, hears) = Bird::new("polly");
    let mut server = Host::start(&discovery, 1).await;
    server.serve("polly", &bird);
    let caller = Host::start(&discovery, 2).await;
    let client = ParrotClient::new(&caller.node);
    (server, caller, client, bird, hears)
}

/// RPC-007, RPC-011: a call is answered, and its tenant, trace and deadline are there with it.
#[tokio::test]
async fn a_call_carries_its_tenant_trace_and_deadline() {
    let (_server, _caller, client, _bird, _hears) = pair().await;
    let answer = client.say(call("acme"), &Target::Random, phrase("hello")).await;
    let answer = answer.expect("an answer");
    assert_eq!((&answer.words[..], answer.tenant.as_str()), (&b"hello"[..], "acme"));

    let trace = Trace { trace: 0xabc, span: 0xdef, is_sampled: true };
    let traced = call("acme").traced(trace);
    let answer = client.say(traced, &Target::Random, phrase("trace")).await.expect("an answer");
    assert_eq!(answer.words, format!("{:?}", Some(trace)));

    let short = Call::new(tenant("acme")).within(Duration::from_secs(5));
    let answer = client.say(short, &Target::Random, phrase("left")).await.expect("an answer");
    let left: u64 = std::str::from_utf8(&answer.words).expect("text").parse().expect("a number");
    assert!((1..=5_000).contains(&left), "{left} ms left of 5 s");
}

#[tokio::test]
async fn what_the_handler_answers_is_told_from_what_went_wrong() {
    let (server, caller, client, _bird, _hears) = pair().await;
    let refused = client.say(call("t"), &Target::Random, phrase("refuse")).await;
    assert_eq!(refused, Err(Error::Application { code: 7, message: "no".into() }));
    // What a handler says of its own calls does not send this one elsewhere.
    let nobody = client.say(call("t"), &Target::Random, phrase("nobody")).await;
    assert_eq!(nobody, Err(Error::NoServer { service: "of its own".into() }));
    let panicked = client.say(call("t"), &Target::Random, phrase("panic")).await;
    assert!(matches!(&panicked, Err(error @ Error::Internal { .. }) if error.is_in_doubt()));
    let answer = client.say(call("t"), &Target::Random, phrase("still there")).await;
    assert!(answer.is_ok(), "the server lives: {answer:?}");
    let counted = |kind| caller.metric(&["rpc_errors_total", "\"client\"", kind]);
    assert_eq!((counted("application"), counted("internal"), counted("lost")), (1, 1, 0));
    assert_eq!(caller.metric(&["rpc_calls_total", "Say", "\"client\""]), 4);
    assert_eq!(server.metric(&["rpc_calls_total", "Say", "\"server\""]), 4);
    assert_eq!(caller.metric(&["rpc_in_flight_calls", "Say", "\"client\""]), 0);
}

#[tokio::test]
async fn a_deadline_ends_the_call_at_both_sides() {
    let (_server, _caller, client, _bird, mut hears) = pair().await;
    let (short, target) = (Call::new(tenant("t")).within(Duration::from_secs(3)), Target::Random);
    let mut late = Box::pin(client.say(short, &target, phrase("hold")));
    tokio::select! {
        answer = &mut late => panic!("it is held: {answer:?}"),
        told = hear(&mut hears) => assert_eq!(told, "held say"),
    }
    // From here on nothing but the deadline is due, so it comes at once.
    tokio::time::pause();
    assert_eq!(late.await, Err(Error::Deadline(Delivery::InDoubt)));
    tokio::time::resume();
    assert_eq!(hear(&mut hears).await, "cancelled say");
}

#[tokio::test]
async fn a_caller_that_gives_up_cancels_the_handler() {
    let (_server, caller, client, _bird, mut hears) = pair().await;
    let target = Target::Random;
    let waiting = client.say(call("t"), &target, phrase("hold"));
    tokio::select! {
        answer = waiting => panic!("it is held: {answer:?}"),
        told = hear(&mut hears) => assert_eq!(told, "held say"),
    }
    assert_eq!(hear(&mut hears).await, "cancelled say");
    assert_eq!(caller.metric(&["rpc_errors_total", "\"client\"", "cancelled"]), 1);
}

/// RPC-012: a server with as many calls as it may have answers the next one at once.
#[tokio::test]
async fn a_full_server_answers_at_once() {
    let discovery = MemoryDiscovery::new();
    let (bird, mut hears) = Bird::new("polly");
    let mut server = Host::start(&discovery, 1).await;
    server.serve_as(Hosting { calls_max: 1, ..Hosting::new(id("polly")) }, &bird);
    let caller = Host::start(&discovery, 2).await;
    let client = ParrotClient::new(&caller.node);
    let target = Target::Random;
    let mut held = Box::pin(client.say(call("t"), &target, phrase("hold")));
    tokio::select! {
        answer = &mut held => panic!("it is held: {answer:?}"),
        told = hear(&mut hears) => assert_eq!(told, "held say"),
    }
    let busy = client.say(call("t"), &Target::Random, phrase("hello")).await;
    assert_eq!(busy, Err(Error::Busy));
    bird.gate.add_permits(1);
    assert!(held.await.is_ok());
    assert!(client.say(call("t"), &Target::Random, phrase("hello")).await.is_ok());
}

/// RPC-012: a connection with as many calls as it may have answers the next one at once.
#[tokio::test]
async fn a_full_connection_answers_at_once() {
    let discovery = MemoryDiscovery::new();
    let (bird, mut hears) = Bird::new("polly");
    let mut server = Host::start(&discovery, 1).await;
    server.serve("polly", &bird);
    let caller = Host::with(&discovery, Config { streams_max: 1, ..config(2) }).await;
    let client = ParrotClient::new(&caller.node);
    let target = Target::Random;
    let mut held = Box::pin(client.say(call("t"), &target, phrase("hold")));
    tokio::select! {
        answer = &mut held => panic!("it is held: {answer:?}"),
        told = hear(&mut hears) => assert_eq!(told, "held say"),
    }
    assert_eq!(client.say(call("t"), &target, phrase("hello")).await, Err(Error::Busy));
    bird.gate.add_permits(1);
    assert!(held.await.is_ok());
    assert!(client.say(call("t"), &target, phrase("hello")).await.is_ok());
}

#[tokio::test]
async fn a_service_without_a_server_is_an_error_of_its_own() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 2).await;
    let client = ParrotClient::new(&caller.node);
    let nobody = Error::NoServer { service: ParrotClient::SERVICE.into() };
    let answer = client.say(call("t"), &Target::Random, phrase("hello")).await;
    assert_eq!(answer, Err(nobody.clone()));
    let answer = client.say(call("t"), &Target::Server(id("polly")), phrase("hello")).await;
    assert_eq!(answer, Err(nobody));
}

#[tokio::test]
async fn servers_of_a_version_out_of_reach_are_told_as_such() {
    let discovery = MemoryDiscovery::new();
    let (bird, _hears) = Bird::new("polly");
    let mut newer = config(1);
    newer.identity.version = Version { major: 1, minor: 5 };
    let mut server = Host::with(&discovery, newer).await;
    server.serve("polly", &bird);
    let caller = Host::start(&discovery, 2).await;
    let client = ParrotClient::new(&caller.node);
    let answer = client.say(call("t"), &Target::Random, phrase("hello")).await;
    let theirs = Version { major: 1, minor: 5 };
    assert_eq!(answer, Err(Error::Version { ours: Version::CURRENT, theirs }));
}

/// A message of 4 MiB crosses in many pieces; one beyond the limit leaves nobody's process.
#[tokio::test]
async fn messages_up_to_the_limit_pass_and_longer_ones_are_refused() {
    let (_server, caller, client, _bird, _hears) = pair().await;
    let limit = config(1).message_bytes_max;
    let long = phrase(&"x".repeat(limit - 100));
    let answer = client.say(call("t"), &Target::Random, long.clone()).await.expect("an answer");
    assert_eq!(answer.words, long.words);
    let answer = client.say(call("t"), &Target::Random, phrase(&"x".repeat(limit + 1))).await;
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    assert!(caller.metric(&["rpc_frame_bytes_total", "out", "Say"]) >= limit as u64 - 100);
}

/// Shards have a thread and a runtime each, and call through the same node.
#[tokio::test]
async fn calls_come_from_any_thread() {
    let (_server, _caller, client, _bird, _hears) = pair().await;
    let (done, mut is_done) = tokio::sync::mpsc::channel(2);
    for number in 0..2 {
        let (client, done) = (client.clone(), done.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                for _ in 0..200 {
                    let words = format!("{number}");
                    let answer = client.say(call("t"), &Target::Random, phrase(&words)).await;
                    assert_eq!(answer.expect("an answer").words, words);
                }
                done.send(()).await.expect("somebody waits");
            });
        });
    }
    for _ in 0..2 {
        tokio::time::timeout(LONG, is_done.recv()).await.expect("in time").expect("no panic");
    }
}

/// RPC-003: many calls at a time over one connection are each given their own answer.
#[tokio::test]
async fn calls_beside_each_other_are_not_mixed_up() {
    let (_server, _caller, client, _bird, _hears) = pair().await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500 {
        let client = client.clone();
        calls.spawn(async move {
            let words = format!("{number}");
            let answer = client.say(call(&words), &Target::RoundRobin, phrase(&words)).await;
            let answer = answer.expect("an answer");
            assert_eq!((&answer.words[..], &answer.tenant), (words.as_bytes(), &words));
        });
    }
    let all = async { while calls.join_next().await.transpose().expect("no panic").is_some() {} };
    tokio::time::timeout(LONG, all).await.expect("in time");
}
