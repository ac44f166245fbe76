//! Calls within the process: nothing is encoded, nothing leaves.

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use ratatosk_rpc::{
    Error, Event, Hosting, MemoryDiscovery, Method, MethodKind, PipelineLimits, Receiver, Sender,
    Service, ServiceName, Target,
};
use ratatosk_rpc_example::ParrotClient;

use crate::support::{Bird, Host, LONG, amount, call, config, hear, id, phrase};

/// A message that no wire ever sees.
#[derive(Clone, Debug, Default, PartialEq)]
struct Secret(u64);

impl prost::Message for Secret {
    fn encode_raw(&self, _: &mut impl BufMut) {
        panic!("a secret is encoded");
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: WireType,
        _: &mut impl Buf,
        _: DecodeContext,
    ) -> Result<(), DecodeError> {
        panic!("a secret is decoded");
    }

    fn encoded_len(&self) -> usize {
        panic!("a secret is measured");
    }

    fn clear(&mut self) {
        self.0 = 0;
    }
}

const VAULT: &str = "test.Vault";
const ASK: Method<Secret, Secret> = Method::new(VAULT, "Ask", MethodKind::Unary);
const ADD: Method<Secret, Secret> = Method::new(VAULT, "Add", MethodKind::Pipeline);
const TALK: Method<Secret, Secret> = Method::new(VAULT, "Talk", MethodKind::Stream);

fn vault() -> Service {
    let next = |_, secret: Secret| async move { Ok(Secret(secret.0 + 1)) };
    Service::new(VAULT).answer(&ASK, next).answer(&ADD, next).converse(
        &TALK,
        |_, mut questions: Receiver<Secret>, answers: Sender<Secret>| async move {
            while let Some(secret) = questions.next().await {
                answers
                    .send(Secret(secret.0 + 1))
                    .await
                    .map_err(|closed| Error::Internal { why: closed.to_string() })?;
            }
            Ok(())
        },
    )
}

/// RPC-009: every kind of call reaches a server in the same process, as it is.
#[tokio::test]
async fn a_message_that_cannot_be_encoded_reaches_a_server_in_the_process() {
    let discovery = MemoryDiscovery::new();
    // It listens nowhere, so nothing can have gone through a socket either.
    let host = Host::silent(&discovery, config(1));
    let served = host.node.serve(vault(), Hosting::new(id("vault"))).expect("room");
    let client = host.node.client(&ServiceName::new(VAULT).expect("a name"));
    for target in [Target::Random, Target::RoundRobin, Target::Server(id("vault"))] {
        assert_eq!(client.call(&ASK, call("t"), &target, Secret(1)).await, Ok(Secret(2)));
    }
    let pipeline = client.pipeline(&ADD, call("t"), Target::Random, PipelineLimits::default());
    assert_eq!(pipeline.call(&call("t"), Secret(5)).await, Ok(Secret(6)));
    let mut stream = client.stream(&TALK, call("t"), Target::Random);
    let Some(Event::Opened { questions, .. }) = stream.next().await else { panic!("not open") };
    questions.send(Secret(7)).await.expect("open");
    drop(questions);
    assert!(matches!(stream.next().await, Some(Event::Message(Secret(8)))));
    assert!(stream.next().await.is_none());
    drop(served);
    let gone = client.call(&ASK, call("t"), &Target::Random, Secret(1)).await;
    tokio::time::timeout(LONG, async {
        let mut gone = gone;
        while gone.is_ok() {
            tokio::task::yield_now().await;
            gone = client.call(&ASK, call("t"), &Target::Random, Secret(1)).await;
        }
        assert_eq!(gone, Err(Error::NoServer { service: VAULT.into() }));
    })
    .await
    .expect("in time");
}

/// RPC-009, RPC-012: limits, panics and cancelling are the same as over the network.
#[tokio::test]
async fn a_call_within_the_process_behaves_as_one_over_the_network() {
    let discovery = MemoryDiscovery::new();
    let mut host = Host::silent(&discovery, config(1));
    let (bird, mut hears) = Bird::new("polly");
    host.serve_as(Hosting { calls_max: 1, ..Hosting::new(id("polly")) }, &bird);
    let client = ParrotClient::new(&host.node);
    let target = Target::Random;
    let panicked = client.say(call("t"), &target, phrase("panic")).await;
    assert!(matches!(panicked, Err(Error::Internal { .. })));
    let mut waiting = Box::pin(client.say(call("t"), &target, phrase("hold")));
    tokio::select! {
        answer = &mut waiting => panic!("it is held: {answer:?}"),
        told = hear(&mut hears) => assert_eq!(told, "held say"),
    }
    let busy = client.say(call("t"), &target, phrase("hello")).await;
    assert_eq!(busy, Err(Error::Busy));
    drop(waiting);
    assert_eq!(hear(&mut hears).await, "cancelled say");
    assert!(client.say(call("t"), &target, phrase("hello")).await.is_ok());
    assert_eq!(host.metric(&["rpc_frame_bytes_total"]), 0, "nothing was encoded");
}

/// RPC-003, RPC-009: a free choice falls on the process itself, a hashed one where the key belongs.
#[tokio::test]
async fn only_free_choices_prefer_the_process_itself() {
    let discovery = MemoryDiscovery::new();
    let (near, _) = Bird::new("near");
    let (far, _) = Bird::new("far");
    let mut here = Host::start(&discovery, 1).await;
    here.serve("near", &near);
    let mut there = Host::start(&discovery, 2).await;
    there.serve("far", &far);
    let client = ParrotClient::new(&here.node);
    let mut from = Vec::new();
    for number in 0..40_u8 {
        let key = bytes::Bytes::copy_from_slice(&[number]);
        for target in [Target::Random, Target::Hashed(key.clone()), Target::Rendezvous(key)] {
            let answer = client.say(call("t"), &target, phrase("name")).await.expect("an answer");
            from.push((std::mem::discriminant(&target), answer.words));
        }
    }
    let counts = [
        Target::Random,
        Target::Hashed(b"".as_slice().into()),
        Target::Rendezvous(b"".as_slice().into()),
    ]
    .map(|target| {
        let kind = std::mem::discriminant(&target);
        from.iter().filter(|(of, words)| *of == kind && words == "far").count()
    });
    assert_eq!(counts[0], 0, "random choices stay");
    assert!((5..35).contains(&counts[1]), "{} of 40 keys of the ring", counts[1]);
    assert!((5..35).contains(&counts[2]), "{} of 40 keys by rendezvous", counts[2]);
}

/// RPC-007, RPC-009: a pipeline within the process keeps its order while handlers wait.
#[tokio::test]
async fn a_pipeline_within_the_process_keeps_its_order() {
    let discovery = MemoryDiscovery::new();
    let mut host = Host::silent(&discovery, config(1));
    let (bird, mut hears) = Bird::new("polly");
    host.serve("polly", &bird);
    let client = ParrotClient::new(&host.node);
    let pipeline = client.add(call("t"), Target::Random, PipelineLimits::default());
    let held = pipeline.submit(&call("t"), amount(crate::support::HELD + 1)).expect("room");
    let behind = pipeline.submit(&call("t"), amount(2)).expect("room");
    assert_eq!(hear(&mut hears).await, "held add");
    bird.gate.add_permits(1);
    assert_eq!(held.await.expect("an answer").value, 1);
    assert_eq!(behind.await.expect("an answer").value, 3);
}

#[test]
fn a_service_knows_its_methods_by_kind() {
    let wrong = Method::<Secret, Secret>::new(VAULT, "Talk", MethodKind::Unary);
    let twice =
        std::panic::catch_unwind(|| vault().answer(&wrong, |_, secret| async { Ok(secret) }));
    assert!(twice.is_err(), "two handlers of one method are a bug");
    let foreign = Method::<Secret, Secret>::new("test.Other", "Ask", MethodKind::Unary);
    let other =
        std::panic::catch_unwind(|| vault().answer(&foreign, |_, secret| async { Ok(secret) }));
    assert!(other.is_err(), "a method of another service is a bug");
}
