//! Peers that do their worst: they do not read, talk nonsense, or are not who they say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ratatosk_clock::SystemClock;
use ratatosk_remote::packet;
use ratatosk_remote::{Config, Network, Serving, service_name};
use ratatosk_rpc::{
    Call, ClusterId, Environment, Error, Event, HostId, Hosting, Identity, Listener,
    MemoryDiscovery, Permission, Receiver, Registration, Sender, ServerId, Stream, Target, Tenant,
    Version,
};
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::Beat;
use ratatosk_store::node::Node as StoreNode;
use ratatosk_store::transport::Packet;
use ratatosk_stores::counter::counters;
use ratatosk_stores::{CLUSTER, Make, PATIENCE, Stores};
use ratatosk_telemetry::metric::Registry;
use tokio::time::timeout;

use crate::support::metric;

/// The service as anybody could call it.
mod raw {
    #![allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/ratatosk.kv.rs"));
}

use raw::{Answer, Command, Frame, Hello, StoresClient, stores_service};

/// Who is at a port.
struct Host {
    node: ratatosk_rpc::Node,
    registry: Registry,
    _listener: Listener,
}

async fn host(discovery: &MemoryDiscovery, number: u128) -> Host {
    let mut config = ratatosk_rpc::Config::new(Identity {
        cluster: ClusterId(CLUSTER.into()),
        environment: Environment::new("test").expect("a name"),
        host: HostId(number),
        version: Version::CURRENT,
    });
    config.reconnect_delay = (Duration::from_millis(5), Duration::from_millis(50));
    let registry = Registry::new(1);
    let discovery = Arc::new(discovery.clone());
    let node = ratatosk_rpc::Node::new(config, discovery, &registry, 7);
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = node.listen(any, None, Permission::Silent).await.expect("a port");
    Host { node, registry, _listener: listener }
}

fn hosting(store: u64, cluster: u64) -> Hosting {
    let mut hosting = Hosting::new(server(store));
    hosting.attributes.insert("cluster".to_owned(), format!("{cluster:016x}"));
    hosting
}

fn server(store: u64) -> ServerId {
    ServerId::new(&format!("{store:016x}")).expect("a name")
}

/// A store that is served.
struct Served {
    network: Network,
    _serving: Serving,
    store: StoreNode,
    host: Host,
    _stores: Stores,
}

async fn serve(discovery: &MemoryDiscovery, number: u64) -> Served {
    let host = host(discovery, number.into()).await;
    let mut config = Config::new(CLUSTER, number);
    (config.words_bytes_max, config.data_bytes_max) = (1 << 20, 1 << 20);
    config.whole_bytes_max = 1 << 20;
    config.unknown_max = Duration::from_millis(200);
    let network = Network::new(host.node.clone(), &host.registry, SystemClock::new(), config);
    let name = format!("remote-peers-{number}");
    let mut stores = Stores::new(&name, 0, &[("k", counters as Make)]);
    let mut config = stores.config(number);
    config.transport = network.transport();
    let store = StoreNode::open(config).expect("it opens");
    let serving = network.serve(&store.handle()).expect("it is announced");
    Served { network, _serving: serving, store, host, _stores: stores }
}

/// Waits until a network knows so many other stores.
async fn knows(served: &Served, count: usize) {
    let mut rolls = served.network.roll();
    let known = rolls.wait_for(|roll| roll.seats.len() == count + 1);
    drop(timeout(PATIENCE, known).await.expect("in time"));
    assert_eq!(served.network.transport().stores().len(), count);
}

/// Waits until what a registry has is as wanted.
async fn counted(registry: &Registry, words: &[&str], is_so: impl Fn(u64) -> bool) -> u64 {
    let looking = async {
        loop {
            let now = metric(registry, words);
            if is_so(now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let shown = || format!("{words:?}: {}", registry.render());
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{}", shown()))
}

fn urges(count: usize, bytes: usize) -> Vec<Packet> {
    (0..count).map(|_| Packet::Urges { group: GroupId(99), order: vec![7; bytes] }).collect()
}

/// A store that greets, and then reads nothing.
struct Deaf;

impl raw::Stores for Deaf {
    async fn carry(
        &self,
        _call: Call,
        mut questions: Receiver<Frame>,
        answers: Sender<Frame>,
    ) -> Result<(), Error> {
        let hello = questions.next().await.and_then(|frame| frame.hello).expect("a hello");
        let welcome = Hello { cluster: CLUSTER, from: hello.to, ..Hello::default() };
        let welcome = Frame { hello: Some(welcome), ..Frame::default() };
        answers.send(welcome).await.expect("it waits for it");
        std::future::pending().await
    }

    async fn propose(
        &self,
        _call: Call,
        _questions: Receiver<Frame>,
        _answers: Sender<Frame>,
    ) -> Result<(), Error> {
        std::future::pending().await
    }

    async fn follow(
        &self,
        _call: Call,
        _questions: Receiver<Frame>,
        _answers: Sender<Frame>,
    ) -> Result<(), Error> {
        std::future::pending().await
    }

    async fn order(&self, _call: Call, _question: Command) -> Result<Answer, Error> {
        std::future::pending().await
    }
}

/// RPC-012: who does not read costs a bounded number of bytes, and keeps nobody else waiting.
#[tokio::test]
async fn a_peer_that_never_reads_keeps_nobody_waiting() {
    let discovery = MemoryDiscovery::new();
    let (one, two) = (serve(&discovery, 1).await, serve(&discovery, 2).await);
    let deaf = host(&discovery, 9).await;
    let registration = deaf.node.serve(stores_service(&Arc::new(Deaf)), hosting(9, CLUSTER));
    let _registration: Registration = registration.expect("it is announced");
    knows(&one, 2).await;
    let of_nine = ["0000000000000009", "\"words\""];
    counted(&one.host.registry, &["open_lanes", of_nine[0], of_nine[1]], |open| open == 1).await;
    let transport = one.network.transport();
    // Far more than the connection, the stream's window and the queue hold.
    for _ in 0..1_000 {
        transport.send(9, urges(4, 64 << 10));
        tokio::task::yield_now().await;
    }
    let lost = ["lost_packets", of_nine[0], "\"full\""];
    let lost = counted(&one.host.registry, &lost, |lost| lost > 3_000).await;
    assert!(lost < 4_000, "some went: {lost}");
    let waiting = metric(&one.host.registry, &["waiting_bytes", of_nine[0]]);
    assert!(waiting <= 1 << 20, "{waiting}");
    // Another one is reached as ever.
    transport.send(2, urges(3, 100));
    counted(&two.host.registry, &["packets_total", "\"in\"", "0000000000000001"], |came| came >= 3)
        .await;
    assert_eq!(metric(&one.host.registry, &["lost_packets", "0000000000000002"]), 0);
}

/// A store that is elsewhere from one moment to the next is sent nothing of what was meant for where it
/// was.
#[tokio::test]
async fn what_waited_for_a_store_that_moved_is_forgotten() {
    let discovery = MemoryDiscovery::new();
    let one = serve(&discovery, 1).await;
    let (before, after) = (host(&discovery, 9).await, host(&discovery, 10).await);
    let deaf = Arc::new(Deaf);
    let registration = before.node.serve(stores_service(&deaf), hosting(9, CLUSTER));
    knows(&one, 1).await;
    let registry = &one.host.registry;
    counted(registry, &["open_lanes", "\"words\""], |open| open == 1).await;
    let transport = one.network.transport();
    for _ in 0..100 {
        transport.send(9, urges(4, 64 << 10));
        tokio::task::yield_now().await;
    }
    counted(registry, &["lost_packets", "\"words\"", "\"full\""], |lost| lost > 0).await;
    assert_eq!(metric(registry, &["lost_packets", "\"words\"", "\"broken\""]), 0);
    let sent = metric(registry, &["packets_total", "\"words\"", "\"out\""]);
    // In one go, so that nobody sees the store nowhere.
    drop(registration);
    let registration = after.node.serve(stores_service(&deaf), hosting(9, CLUSTER));
    let _registration: Registration = registration.expect("it is announced");
    counted(registry, &["lost_packets", "\"words\"", "\"broken\""], |lost| lost > 0).await;
    counted(registry, &["waiting_bytes", "\"words\""], |waiting| waiting == 0).await;
    counted(registry, &["open_lanes", "\"words\""], |open| open == 1).await;
    transport.send(9, urges(3, 100));
    counted(registry, &["packets_total", "\"words\"", "\"out\""], |now| now == sent + 3).await;
}

/// Data does not hold up what stores say to each other: each has a way of its own.
#[tokio::test]
async fn data_does_not_hold_up_words() {
    let discovery = MemoryDiscovery::new();
    let one = serve(&discovery, 1).await;
    let deaf = host(&discovery, 9).await;
    let registration = deaf.node.serve(stores_service(&Arc::new(Deaf)), hosting(9, CLUSTER));
    let _registration: Registration = registration.expect("it is announced");
    knows(&one, 1).await;
    counted(&one.host.registry, &["open_lanes"], |open| open == 2).await;
    let id = ratatosk_store::snapshot::stream::SnapshotId { store: 1, number: 1 };
    let data = Bytes::from(vec![7; 256 << 10]);
    let piece = || {
        let piece = ratatosk_store::snapshot::sender::Parcel::Piece {
            group: GroupId(1),
            id,
            data: data.clone(),
        };
        Packet::Parcel(piece)
    };
    let transport = one.network.transport();
    for _ in 0..100 {
        transport.send(9, vec![piece()]);
        tokio::task::yield_now().await;
    }
    counted(&one.host.registry, &["lost_packets", "\"data\"", "\"full\""], |lost| lost > 0).await;
    transport.send(9, urges(3, 100));
    counted(&one.host.registry, &["packets_total", "\"words\"", "\"out\""], |sent| sent >= 3).await;
    assert_eq!(metric(&one.host.registry, &["lost_packets", "\"words\""]), 0);
}

/// Somebody who says what he likes.
struct Stranger {
    client: StoresClient,
    _host: Host,
    _registration: Option<Registration>,
}

impl Stranger {
    /// At a host, and announced as a store if he has a number.
    async fn new(discovery: &MemoryDiscovery, host_number: u128, store: Option<u64>) -> Self {
        let host = host(discovery, host_number).await;
        let announce = |store| {
            let service = stores_service(&Arc::new(Deaf));
            host.node.serve(service, hosting(store, CLUSTER)).expect("it is announced")
        };
        let registration = store.map(announce);
        Self { client: StoresClient::new(&host.node), _host: host, _registration: registration }
    }

    fn hello(from: u64, to: u64) -> Hello {
        Hello { cluster: CLUSTER, from, to, purpose: 1, turn: 1, client: 5 }
    }

    /// Opens a lane to a store; what becomes of it.
    async fn open(
        &self,
        to: u64,
        hello: Hello,
    ) -> Result<(Stream<Frame, Frame>, Sender<Frame>), Error> {
        let (call, target) = (Call::new(Tenant::none()), Target::Server(server(to)));
        let mut stream = match hello.purpose {
            3 => self.client.propose(call, target),
            _ => self.client.carry(call, target),
        };
        let sender = loop {
            match next(&mut stream).await {
                Event::Opened { questions, .. } => break questions,
                Event::Lost(Error::NoServer { .. }) => {}
                other => panic!("{other:?}"),
            }
        };
        let opening = Frame { hello: Some(hello), ..Frame::default() };
        sender.send(opening).await.expect("there is credit");
        match next(&mut stream).await {
            Event::Message(frame) => {
                assert_eq!(frame.hello.map(|hello| hello.from), Some(to));
                Ok((stream, sender))
            }
            Event::Lost(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}

async fn next(stream: &mut Stream<Frame, Frame>) -> Event<Frame, Frame> {
    timeout(PATIENCE, stream.next()).await.expect("in time").expect("it goes on")
}

async fn is_refused(stream: &mut Stream<Frame, Frame>, why: &str) {
    match next(stream).await {
        Event::Lost(Error::Refused { why: said }) => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?}"),
    }
}

fn frame(data: Vec<u8>, goes_on: bool) -> Frame {
    Frame { hello: None, data: data.into(), goes_on }
}

/// Garbage and what is too long end their own stream and are counted; everybody else goes on.
#[tokio::test]
async fn garbage_and_what_is_too_long_are_refused_and_counted() {
    let discovery = MemoryDiscovery::new();
    let (one, two) = (serve(&discovery, 1).await, serve(&discovery, 2).await);
    let stranger = Stranger::new(&discovery, 8, Some(8)).await;
    knows(&one, 2).await;
    let mut good = Vec::new();
    let beat = Beat { life: 1, ..Beat::default() };
    packet::encode(&Packet::Beat(beat), &mut good);
    let nonsense: [(&[Frame], &str, &str); 3] = [
        (&[frame(vec![1, 2, 3], false)], "no sense", "malformed"),
        (
            &[frame(vec![0; 700 << 10], true), frame(vec![0; 700 << 10], true)],
            "more bytes",
            "frames",
        ),
        (
            &[
                frame(good.clone(), false),
                Frame { hello: Some(Hello::default()), ..Frame::default() },
            ],
            "second hello",
            "frames",
        ),
    ];
    for (frames, why, reason) in nonsense {
        let before = metric(&one.host.registry, &["remote_refused", reason]);
        let hello = Stranger::hello(8, 1);
        let (mut stream, sender) = stranger.open(1, hello).await.expect("it is known");
        for frame in frames {
            sender.send(frame.clone()).await.expect("there is credit");
        }
        is_refused(&mut stream, why).await;
        assert_eq!(metric(&one.host.registry, &["remote_refused", reason]), before + 1);
    }
    // What was good before the nonsense was taken.
    assert_eq!(metric(&one.host.registry, &["packets_total", "\"in\"", "0000000000000008"]), 1);
    one.network.transport().send(2, urges(3, 100));
    counted(&two.host.registry, &["packets_total", "\"in\"", "0000000000000001"], |came| came >= 3)
        .await;
}

/// KV-017: a store of another cluster is passed over and refused, and so is who speaks for a store that is
/// not his.
#[tokio::test]
async fn who_is_not_who_he_says_is_refused() {
    let discovery = MemoryDiscovery::new();
    let (one, _two) = (serve(&discovery, 1).await, serve(&discovery, 2).await);
    let stranger = Stranger::new(&discovery, 8, Some(8)).await;
    let foreign = host(&discovery, 9).await;
    let registration = foreign.node.serve(stores_service(&Arc::new(Deaf)), hosting(9, 66));
    let _registration: Registration = registration.expect("it is announced");
    knows(&one, 2).await;
    let mut rolls = one.network.roll();
    let foreign = rolls.wait_for(|roll| !roll.foreign.is_empty());
    let foreign = timeout(PATIENCE, foreign).await.expect("in time").expect("open").foreign.clone();
    assert_eq!(foreign.get(&format!("{:016x}", 9)), Some(&format!("{:016x}", 66)));
    let hello = Stranger::hello(8, 1);
    let cases = [
        (Hello { cluster: 66, ..hello }, "and it is of cluster 0000000000000042", "cluster"),
        (Hello { to: 3, ..hello }, "it means store 0000000000000003", "\"store\""),
        (Hello { from: 2, ..hello }, "which is at host", "stolen"),
        (Hello { from: 7, ..hello }, "of which nobody has heard", "unknown\""),
    ];
    for (hello, why, reason) in cases {
        match stranger.open(1, hello).await {
            Err(Error::Refused { why: said }) => assert!(said.contains(why), "{said}"),
            other => panic!("{:?}", other.map(|_| ())),
        }
        assert_eq!(metric(&one.host.registry, &["remote_refused", reason]), 1, "{reason}");
    }
    let unknown = Hello { purpose: 99, ..hello };
    assert!(matches!(stranger.open(1, unknown).await, Err(Error::Refused { .. })));
    stranger.open(1, hello).await.expect("it is who it says");
}

/// What is proposed on a stream that was replaced comes too late, whatever still lies in its socket.
#[tokio::test]
async fn a_stream_that_was_replaced_proposes_nothing_more() {
    let discovery = MemoryDiscovery::new();
    let one = serve(&discovery, 1).await;
    let stranger = Stranger::new(&discovery, 8, None).await;
    let hello = Hello { purpose: 3, from: 0, ..Stranger::hello(0, 1) };
    let (mut first, of_first) = stranger.open(1, hello).await.expect("clients may");
    let later = Hello { turn: 2, ..hello };
    let (mut second, of_second) = stranger.open(1, later).await.expect("clients may");
    let range = one.store.handle().ranges("k").remove(0);
    // A proposal: its number, a term that nobody leads in, the group, and no bytes.
    let proposal = |number: u8| {
        assert!(range.group.0 < 128);
        frame(vec![0, number, 99, u8::try_from(range.group.0).expect("a small number"), 0], false)
    };
    of_second.send(proposal(1)).await.expect("there is credit");
    match next(&mut second).await {
        // Number 1, refused, as it does not lead in this term.
        Event::Message(frame) => assert_eq!(&frame.data[..], [1, 1, 0]),
        other => panic!("{other:?}"),
    }
    of_first.send(proposal(2)).await.expect("there is credit");
    is_refused(&mut first, "a later stream").await;
    let late = stranger.open(1, hello).await;
    assert!(matches!(late, Ok(_) | Err(Error::Refused { .. })));
}

/// The name that stores are announced under is that of the service.
#[test]
fn the_name_of_the_service_is_known() {
    assert_eq!(service_name().as_str(), StoresClient::SERVICE);
}
