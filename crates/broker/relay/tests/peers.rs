//! Peers that do their worst: they do not read, or talk nonsense.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_contract::relay::{Outcome, Why};
use ratatosk_rpc::{
    Call, Error, Event, HostId, Hosting, Listener, MemoryDiscovery, Node, Receiver, Registration,
    Sender, ServerId, Stream, Target, Tenant,
};
use ratatosk_telemetry::metric::Registry;
use tokio::time::timeout;

use crate::support::raw::{Frame, Relay, RelayClient, relay_service};
use crate::support::{Host, LONG, Sketch, meet, node};

/// What a bad host says.
enum Bad {
    /// It reads nothing.
    Deaf,
    /// It says this to everything.
    Says(&'static [u8]),
}

impl Relay for Bad {
    async fn follow(
        &self,
        _call: Call,
        questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        if let Self::Says(what) = self {
            let frame = Frame { data: Bytes::from_static(what), goes_on: false };
            let _ = answers.send(frame).await;
        }
        std::future::pending::<()>().await;
        drop(questions);
        Ok(())
    }

    async fn deliver(
        &self,
        _call: Call,
        mut questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        if let Self::Says(what) = self {
            while questions.next().await.is_some() {
                let frame = Frame { data: Bytes::from_static(what), goes_on: false };
                let _ = answers.send(frame).await;
            }
        }
        std::future::pending().await
    }
}

struct BadHost {
    _node: Node,
    _registry: Registry,
    _listener: Listener,
    _serving: Registration,
}

async fn start(discovery: &MemoryDiscovery, id: u128, bad: Bad) -> BadHost {
    let discovery = Arc::new(discovery.clone());
    let (node, registry, listener) = node(discovery, HostId(id), "127.0.0.1:0").await;
    let mut hosting = Hosting::new(ServerId::new(&HostId(id).to_string()).expect("a name"));
    hosting.attributes.insert("generation".to_owned(), "1".to_owned());
    let serving = node.serve(relay_service(&Arc::new(bad)), hosting).expect("it is announced");
    BadHost { _node: node, _registry: registry, _listener: listener, _serving: serving }
}

/// DIST-015: what waits for it is bounded and answered in time, and others have theirs.
#[tokio::test]
async fn a_host_that_reads_nothing_holds_nobody_up() {
    let discovery = MemoryDiscovery::new();
    let shared = Arc::new(discovery.clone());
    let one = Host::start_at(shared, HostId(1), "127.0.0.1:0", |config| {
        config.patience = Duration::from_millis(300);
        (config.lane_bytes_max, config.in_flight_bytes_max) = (1 << 20, 256 << 10);
    });
    let one = one.await;
    let two = Host::start(&discovery, 2).await;
    let _deaf = start(&discovery, 3, Bad::Deaf).await;
    one.knows(&[2, 3]).await;
    two.knows(&[1, 3]).await;
    let payload = [7; 1_000];
    let (mut pending, mut dropped) = (0, 0);
    for ticket in 0..2_000 {
        let sent = one.send(&Sketch::new(&payload), &[3], Some(ticket));
        (pending, dropped) = (pending + sent.pending, dropped + sent.dropped);
    }
    assert!(dropped > 900, "{dropped} of 2000 did not fit");
    let told = one.sessions.settle(pending).await;
    let late = Outcome::Dropped(Why::Late);
    assert!(told.iter().all(|(_, outcome)| *outcome == late), "{:?}", told[0]);
    assert_eq!(told.len(), pending);
    let words = ["ratatosk_relay_dropped_messages_total", "tenant=\"t\""];
    assert_eq!(one.metric(&words), 2_000);

    assert_eq!(one.send(&Sketch::new(b"x"), &[2], Some(5_000)).pending, 1);
    assert_eq!(two.sessions.have(1).await.len(), 1);
    one.sessions.settle(pending + 1).await;
}

#[tokio::test]
async fn a_host_that_tells_nonsense_is_counted_and_has_no_routes() {
    let discovery = MemoryDiscovery::new();
    let [one, two] = [Host::start(&discovery, 1).await, Host::start(&discovery, 2).await];
    meet(&[&one, &two]).await;
    two.sees(two.want("a")).await;
    // A filter before the beginning; and bytes that mean nothing.
    let _gap = start(&discovery, 3, Bad::Says(&[5, 1, b't', 6, 1, b'a'])).await;
    let _nonsense = start(&discovery, 4, Bad::Says(&[0xFF; 20])).await;
    one.knows(&[2, 3, 4]).await;
    let refused = "ratatosk_relay_refused_streams_total";
    one.counted(&[refused, "gap"], |count| count >= 1).await;
    one.counted(&[refused, "malformed"], |count| count >= 1).await;
    assert_eq!(one.hosts_of("a"), [2]);

    // A receipt of nothing that was sent.
    one.send(&Sketch::new(b"x"), &[4], Some(1));
    assert_eq!(one.sessions.settle(1).await, [(1, Outcome::Dropped(Why::Lost))]);
    one.counted(&[refused, "receipt"], |count| count >= 1).await;
}

/// Says something on a stream; what it is told in the end.
async fn say(client: &RelayClient, to: u128, is_message: bool, data: &'static [u8]) -> Error {
    let (call, id) = (Call::new(Tenant::none()), HostId(to).to_string());
    let target = Target::Server(ServerId::new(&id).expect("a name"));
    let mut stream =
        if is_message { client.deliver(call, target) } else { client.follow(call, target) };
    loop {
        match timeout(LONG, stream.next()).await.expect("in time").expect("it goes on") {
            Event::Opened { questions, .. } => {
                let frame = Frame { data: Bytes::from_static(data), goes_on: false };
                questions.send(frame).await.expect("it is there");
                // Whoever lets go of it has ended.
                std::mem::forget(questions);
            }
            Event::Message(_) => {}
            Event::Lost(error) => return error,
        }
    }
}

#[tokio::test]
async fn nonsense_is_refused_and_nothing_of_it_is_delivered() {
    let discovery = MemoryDiscovery::new();
    let one = Host::start(&discovery, 1).await;
    let shared = Arc::new(discovery.clone());
    let (stranger, _registry, _listener) = node(shared, HostId(9), "127.0.0.1:0").await;
    let client = RelayClient::new(&stranger);
    let malformed: &[u8] = &[200, 1, 1];
    for is_message in [true, false] {
        let data = if is_message { malformed } else { &[0x80] };
        let error = say(&client, 1, is_message, data).await;
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
    let refused = "ratatosk_relay_refused_streams_total";
    assert_eq!(one.metric(&[refused, "messages"]), 1);
    assert_eq!(one.metric(&[refused, "acknowledgement"]), 1);
    assert!(one.sessions.came.borrow().is_empty());
}

/// Opens a stream of messages, and has one taken by it.
async fn open(client: &RelayClient) -> (Stream<Frame, Frame>, Sender<Frame>) {
    let target = Target::Server(ServerId::new(&HostId(1).to_string()).expect("a name"));
    let mut stream = client.deliver(Call::new(Tenant::none()), target);
    let opened = timeout(LONG, stream.next()).await.expect("in time");
    let Some(Event::Opened { questions, .. }) = opened else { panic!("{opened:?}") };
    questions.send(message()).await.expect("it is there");
    let answer = timeout(LONG, stream.next()).await.expect("in time");
    assert!(matches!(answer, Some(Event::Message(_))), "{answer:?}");
    (stream, questions)
}

/// One without a payload.
fn message() -> Frame {
    let data = b"\x0f\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x4d\x01a\x00\x00";
    Frame { data: Bytes::from_static(data), goes_on: false }
}

/// DIST-007: what still lies in a stream that broke would come out of order.
#[tokio::test]
async fn nothing_is_taken_of_a_stream_when_its_host_has_opened_another() {
    let discovery = MemoryDiscovery::new();
    let one = Host::start(&discovery, 1).await;
    let shared = Arc::new(discovery.clone());
    let (other, _registry, _listener) = node(shared, HostId(9), "127.0.0.1:0").await;
    let client = RelayClient::new(&other);
    let (mut first, to_first) = open(&client).await;
    let (_second, to_second) = open(&client).await;
    to_first.send(message()).await.expect("it is there");
    let lost = timeout(LONG, first.next()).await.expect("in time");
    assert!(matches!(lost, Some(Event::Lost(Error::Refused { .. }))), "{lost:?}");
    to_second.send(message()).await.expect("it is there");
    assert_eq!(one.sessions.have(3).await.len(), 3);
}
