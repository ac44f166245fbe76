//! Streams with credit over the network.

use std::sync::Arc;

use ratatosk_rpc::{Error, Event, MemoryDiscovery, PipelineLimits, Sender, Stream, Target, Trace};
use ratatosk_rpc_example::{Ask, ParrotClient, Phrase};
use tokio::sync::mpsc;

use crate::support::{Bird, CURIOUS, Host, LONG, amount, call, config, hear, id};

async fn next(stream: &mut Stream<Ask, Phrase>) -> Option<Event<Ask, Phrase>> {
    tokio::time::timeout(LONG, stream.next()).await.expect("something happens in time")
}

async fn opened(stream: &mut Stream<Ask, Phrase>) -> (String, Sender<Ask>) {
    loop {
        match next(stream).await {
            Some(Event::Opened { server, questions }) => return (server.to_string(), questions),
            Some(Event::Lost(_) | Event::Message(_)) => {}
            None => panic!("the stream has ended"),
        }
    }
}

async fn words(stream: &mut Stream<Ask, Phrase>) -> String {
    match next(stream).await {
        Some(Event::Message(phrase)) => String::from_utf8(phrase.words.into()).expect("text"),
        other => panic!("no message: {other:?}"),
    }
}

async fn pair(window: u32) -> (Host, Host, Stream<Ask, Phrase>, Arc<Bird>, mpsc::Receiver<String>) {
    let discovery = MemoryDiscovery::new();
    let (bird, hears) = Bird::new("polly");
    let mut server = Host::start(&discovery, 1).await;
    server.serve("polly", &bird);
    let mut config = config(2);
    config.stream_window = window;
    let caller = Host::with(&discovery, config).await;
    let stream = ParrotClient::new(&caller.node).chatter(call("t"), Target::Random);
    (server, caller, stream, bird, hears)
}

/// RPC-007: messages go both ways, and the end of the questions is the end of the stream.
#[tokio::test]
async fn a_stream_carries_messages_both_ways_to_its_end() {
    let (_server, _caller, mut stream, _bird, _hears) = pair(64).await;
    let (server, questions) = opened(&mut stream).await;
    assert_eq!(server, "polly");
    for _ in 0..3 {
        questions.send(Ask { phrases: 200 }).await.expect("open");
        for number in 0..200 {
            assert_eq!(words(&mut stream).await, format!("polly {number}"));
        }
    }
    drop(questions);
    assert!(next(&mut stream).await.is_none());
    assert!(next(&mut stream).await.is_none());
}

/// RPC-012: a sender has as much on its way as its receiver gave credit for, and no more.
#[tokio::test]
async fn a_sender_stops_when_its_credit_is_used_up() {
    let (_server, _caller, mut stream, _bird, mut hears) = pair(4).await;
    let (_, questions) = opened(&mut stream).await;
    questions.send(Ask { phrases: 1_000 }).await.expect("open");
    let mut said = 0;
    for expected in 0..4 {
        assert_eq!(hear(&mut hears).await, format!("said {expected}"));
        said += 1;
    }
    // Two are taken, which is half of the window: two more may follow, and no fifth before.
    for taken in 0..100 {
        assert_eq!(words(&mut stream).await, format!("polly {taken}"));
        while let Ok(told) = hears.try_recv() {
            assert_eq!(told, format!("said {said}"));
            said += 1;
        }
        assert!(said <= taken + 1 + 4, "{said} said, {} taken", taken + 1);
    }
}

/// RPC-011: pipelines and streams carry the tenant, the trace and the caller, too.
#[tokio::test]
async fn pipelines_and_streams_carry_their_tenant() {
    let discovery = MemoryDiscovery::new();
    let (bird, mut hears) = Bird::new("polly");
    let mut server = Host::start(&discovery, 1).await;
    server.serve("polly", &bird);
    let caller = Host::start(&discovery, 2).await;
    // The same is said within the process.
    for (host, number) in [(&caller, 2), (&server, 1)] {
        let client = ParrotClient::new(&host.node);
        let trace = Trace { trace: 1, span: 2, is_sampled: false };
        let own = || call(CURIOUS);
        let pipeline = client.add(own(), Target::Random, PipelineLimits::default());
        pipeline.call(&own().traced(trace), amount(1)).await.expect("an answer");
        assert_eq!(hear(&mut hears).await, format!("add by Some({number}), with trace: true"));
        let mut stream = client.chatter(own(), Target::Random);
        let (_, questions) = opened(&mut stream).await;
        assert_eq!(hear(&mut hears).await, format!("chatter by Some({number}), with trace: false"));
        drop(questions);
        assert!(next(&mut stream).await.is_none());
        assert_eq!(hear(&mut hears).await, "the questions ended");
    }
}

#[tokio::test]
async fn a_stream_that_fails_is_opened_again_and_says_why() {
    let (_server, _caller, mut stream, _bird, _hears) = pair(64).await;
    for _ in 0..3 {
        let (_, questions) = opened(&mut stream).await;
        questions.send(Ask { phrases: 1 }).await.expect("open");
        assert_eq!(words(&mut stream).await, "polly 0");
        questions.send(Ask { phrases: 0 }).await.expect("open");
        match next(&mut stream).await {
            Some(Event::Lost(Error::Application { code: 9, .. })) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_cancels_its_handler() {
    let (_server, _caller, mut stream, _bird, mut hears) = pair(4).await;
    let (_, questions) = opened(&mut stream).await;
    questions.send(Ask { phrases: 1_000 }).await.expect("open");
    assert_eq!(hear(&mut hears).await, "said 0");
    drop(stream);
    while hear(&mut hears).await != "cancelled chatter" {}
    let gone = tokio::time::timeout(LONG, async {
        while questions.send(Ask { phrases: 1 }).await.is_ok() {}
    });
    gone.await.expect("its sender learns of it");
}

/// RPC-008: a stream follows its server to another host, dead or alive, and says so.
#[tokio::test]
async fn a_stream_moves_when_its_server_does() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let (first, mut hears) = Bird::new("first");
    let (second, _hears) = Bird::new("second");
    let mut one = Host::start(&discovery, 1).await;
    one.serve("polly", &first);
    let mut stream =
        ParrotClient::new(&caller.node).chatter(call("t"), Target::Server(id("polly")));
    let (_, questions) = opened(&mut stream).await;
    questions.send(Ask { phrases: 1 }).await.expect("open");
    assert_eq!(words(&mut stream).await, "first 0");
    one.withdraw();
    match next(&mut stream).await {
        Some(Event::Lost(Error::NoServer { .. })) => {}
        other => panic!("{other:?}"),
    }
    while hear(&mut hears).await != "cancelled chatter" {}
    let mut two = Host::start(&discovery, 2).await;
    two.serve("polly", &second);
    let (_, again) = opened(&mut stream).await;
    assert!(questions.try_send(Ask { phrases: 1 }).is_err(), "the old sender leads nowhere");
    again.send(Ask { phrases: 1 }).await.expect("open");
    assert_eq!(words(&mut stream).await, "second 0");
    assert!(caller.metric(&["rpc_moves_total", "Chatter"]) >= 1);
}

/// RPC-002, RPC-008: when its host dies, a stream of free choice goes to another.
#[tokio::test]
async fn a_stream_leaves_a_dead_host() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let mut hosts = Vec::new();
    for (number, name) in [(1, "a"), (2, "b")] {
        let (bird, _) = Bird::new(name);
        let mut host = Host::start(&discovery, number).await;
        host.serve(name, &bird);
        hosts.push((name, host));
    }
    let mut stream = ParrotClient::new(&caller.node).chatter(call("t"), Target::RoundRobin);
    let (at, _questions) = opened(&mut stream).await;
    let position = hosts.iter().position(|(name, _)| *name == at).expect("one of them");
    let (_, dead) = hosts.remove(position);
    dead.die().await;
    let (now_at, questions) = opened(&mut stream).await;
    assert_ne!(now_at, at);
    questions.send(Ask { phrases: 1 }).await.expect("open");
    assert_eq!(words(&mut stream).await, format!("{now_at} 0"));
}
