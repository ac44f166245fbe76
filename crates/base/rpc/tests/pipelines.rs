//! Ordered pipelines over the network.

use std::time::Duration;

use ratatosk_rpc::{Call, Delivery, Error, MemoryDiscovery, Pipeline, PipelineLimits, Target};
use ratatosk_rpc_example::{Amount, ParrotClient, Total};

use crate::support::{Bird, HELD, Host, LONG, REFUSED, amount, call, hear, id, tenant};

struct Pair {
    server: Host,
    caller: Host,
    client: ParrotClient,
    bird: std::sync::Arc<Bird>,
    hears: tokio::sync::mpsc::Receiver<String>,
    discovery: MemoryDiscovery,
}

impl Pair {
    async fn new() -> Self {
        let discovery = MemoryDiscovery::new();
        let (bird, hears) = Bird::new("polly");
        let mut server = Host::start(&discovery, 1).await;
        server.serve("polly", &bird);
        let caller = Host::start(&discovery, 2).await;
        let client = ParrotClient::new(&caller.node);
        Self { server, caller, client, bird, hears, discovery }
    }

    fn pipeline(&self, limits: PipelineLimits) -> Pipeline<Amount, Total> {
        self.client.add(call("t"), Target::RoundRobin, limits)
    }
}

/// RPC-007: answers come in the order of the questions and match them, errors in their place.
#[tokio::test]
async fn a_pipeline_answers_in_order() {
    let pair = Pair::new().await;
    let limits = PipelineLimits { queue_max: 5_000, ..PipelineLimits::default() };
    let pipeline = pair.pipeline(limits);
    let mut answers = Vec::new();
    for number in 1..=3_000_u64 {
        let value = if number % 100 == 0 { REFUSED } else { 1 };
        answers.push((number, pipeline.submit(&call("t"), amount(value)).expect("room")));
    }
    for (number, answer) in answers {
        let answer = tokio::time::timeout(LONG, answer).await.expect("in time");
        if number % 100 == 0 {
            assert_eq!(answer, Err(Error::Application { code: 8, message: "too much".into() }));
        } else {
            assert_eq!(answer.expect("an answer").value, number - number / 100);
        }
    }
    assert_eq!(pair.server.metric(&["rpc_calls_total", "Add", "\"server\""]), 3_000);
    assert_eq!(pair.caller.metric(&["rpc_calls_total", "Add", "\"client\""]), 3_000);
}

/// RPC-012: what does not fit into the queue is answered at once, and nothing of it is done.
#[tokio::test]
async fn a_full_pipeline_answers_at_once() {
    let mut pair = Pair::new().await;
    let limits = PipelineLimits { queue_max: 3, in_flight_max: 2, ..PipelineLimits::default() };
    let pipeline = pair.pipeline(limits);
    let mut answers = vec![
        pipeline.submit(&call("t"), amount(HELD)).expect("room"),
        pipeline.submit(&call("t"), amount(HELD)).expect("room"),
    ];
    for _ in 0..2 {
        assert_eq!(hear(&mut pair.hears).await, "held add");
    }
    for _ in 0..3 {
        answers.push(pipeline.submit(&call("t"), amount(1)).expect("room"));
    }
    assert!(matches!(pipeline.submit(&call("t"), amount(1)), Err(Error::Busy)));
    let short = Call::new(tenant("t")).within(Duration::from_millis(10));
    let waited = pipeline.call(&short, amount(1)).await;
    assert_eq!(waited, Err(Error::Deadline(Delivery::NotSent)));
    pair.bird.gate.add_permits(2);
    for (number, answer) in answers.into_iter().enumerate() {
        let value = tokio::time::timeout(LONG, answer).await.expect("in time").expect("an answer");
        assert_eq!(value.value, [0, 0, 1, 2, 3][number]);
    }
}

/// A deadline that passes is told at once, and the answer that comes later goes to nobody else.
#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_next() {
    let mut pair = Pair::new().await;
    let limits = PipelineLimits { in_flight_max: 2, ..PipelineLimits::default() };
    let pipeline = pair.pipeline(limits);
    let short = Call::new(tenant("t")).within(Duration::from_secs(3));
    // The handler keeps the deadline, too, so this one is answered and its place is free again.
    let late = pipeline.submit(&short, amount(HELD + 1)).expect("room");
    let given_up = pipeline.submit(&call("t"), amount(HELD + 10)).expect("room");
    let queued = pipeline.submit(&short, amount(100)).expect("room");
    let last = pipeline.submit(&call("t"), amount(1_000)).expect("room");
    for _ in 0..2 {
        assert_eq!(hear(&mut pair.hears).await, "held add");
    }
    drop(given_up);
    // From here on nothing but the deadline is due, so it comes at once.
    tokio::time::pause();
    assert_eq!(late.await, Err(Error::Deadline(Delivery::InDoubt)));
    let queued = queued.await;
    tokio::time::resume();
    assert!(matches!(queued, Err(Error::Deadline(_))), "{queued:?}");
    assert_eq!(hear(&mut pair.hears).await, "cancelled add");
    pair.bird.gate.add_permits(1);
    let last = tokio::time::timeout(LONG, last).await.expect("in time").expect("an answer");
    assert!([1_011, 1_111].contains(&last.value), "{}", last.value);
}

/// RPC-008: what was under way when a server dies is in doubt, and what comes later goes on
/// elsewhere.
#[tokio::test]
async fn what_is_under_way_at_a_dying_server_is_in_doubt() {
    let mut pair = Pair::new().await;
    let pipeline = pair.pipeline(PipelineLimits::default());
    let held = pipeline.submit(&call("t"), amount(HELD)).expect("room");
    assert_eq!(hear(&mut pair.hears).await, "held add");
    let (other, _hears) = Bird::new("coco");
    let mut second = Host::start(&pair.discovery, 3).await;
    second.serve("coco", &other);
    pair.server.die().await;
    let doubt = tokio::time::timeout(LONG, held).await.expect("in time");
    assert!(matches!(&doubt, Err(error) if error.is_in_doubt()), "{doubt:?}");
    // The dead one is still announced, and passed over because its link is down.
    tokio::time::timeout(LONG, async {
        while pipeline.call(&call("t"), amount(1)).await.is_err() {}
    })
    .await
    .expect("the other takes over");
}

/// RPC-008: a pipeline that moves has all its answers, in order, and none twice.
#[tokio::test]
async fn a_pipeline_moves_without_reordering() {
    let discovery = MemoryDiscovery::new();
    let caller = Host::start(&discovery, 9).await;
    let client = ParrotClient::new(&caller.node);
    // One parrot that sits on several hosts in turn sees the order across moves.
    let (bird, _hears) = Bird::new("polly");
    let pipeline = client.add(call("t"), Target::Server(id("polly")), PipelineLimits::default());
    let mut hosts = Vec::new();
    let mut expected = 0;
    let mut answers = std::collections::VecDeque::new();
    for number in 1..=5_u128 {
        let mut host = Host::start(&discovery, number).await;
        if let Some(before) = hosts.last_mut() {
            Host::withdraw(before);
        }
        host.serve("polly", &bird);
        hosts.push(host);
        for _ in 0..500 {
            answers.push_back(pipeline.submit(&call("t"), amount(1)));
            while answers.len() > 200 {
                let answer = answers.pop_front().expect("not empty");
                settle(answer, &mut expected).await;
            }
        }
    }
    for answer in answers {
        settle(answer, &mut expected).await;
    }
    assert!(expected >= 500, "{expected} were answered");
    assert!(caller.metric(&["rpc_moves_total", "Add"]) >= 1);
}

/// Nobody may be in doubt: every server of this test answered what it was sent. While the server is
/// at no host, questions are refused without harm.
async fn settle(answer: Result<ratatosk_rpc::Answer<Total>, Error>, expected: &mut u64) {
    let result = match answer {
        Ok(answer) => tokio::time::timeout(LONG, answer).await.expect("in time"),
        Err(error) => Err(error),
    };
    match result {
        Ok(total) => {
            *expected += 1;
            assert_eq!(total.value, *expected);
        }
        Err(error) => assert!(!error.is_in_doubt(), "{error}"),
    }
}
