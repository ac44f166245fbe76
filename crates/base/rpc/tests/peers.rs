//! Peers that do not belong here, do their worst, or have no certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ratatosk_rpc::{
    ClusterId, Config, Discovery, Environment, Error, HostId, ListenError, MemoryDiscovery,
    Permission, ServerRecord, Target, Tls, TlsError, TlsMaterial, Version,
};
use ratatosk_rpc_example::ParrotClient;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Bird, Host, LONG, call, config, id, phrase};

/// A host with a parrot that loses patience soon.
async fn impatient(discovery: &MemoryDiscovery) -> Host {
    let mut config = config(1);
    config.handshake_timeout = Duration::from_millis(100);
    config.keepalive_interval = Duration::from_millis(50);
    config.keepalive_timeout = Duration::from_millis(50);
    config.connections_max = 2;
    let (bird, _) = Bird::new("polly");
    let mut host = Host::with(discovery, config).await;
    host.serve("polly", &bird);
    host
}

/// What a client of host 1 says first, byte by byte as `docs/formats/rpc.md` has it.
fn hello(host: u128) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(1_u16.to_be_bytes());
    body.extend(0_u16.to_be_bytes());
    body.extend(77_u128.to_be_bytes());
    body.extend(host.to_be_bytes());
    body.extend(1_u128.to_be_bytes());
    body.push(4);
    body.extend(b"test");
    let mut bytes = b"RTRP".to_vec();
    bytes.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
    bytes.extend(body);
    bytes
}

const WELCOME: &[u8] = b"RTRP\x00\x01\x00";

/// A socket that is let in and may speak HTTP/2.
async fn introduced(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(&hello(66)).await.expect("room");
    let mut answer = [0; WELCOME.len()];
    socket.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, WELCOME);
    socket
}

/// Until the other side closes; what it said meanwhile.
async fn closed(socket: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let read = tokio::time::timeout(LONG, socket.read_to_end(&mut said)).await;
    // A reset is a close, too.
    let _ = read.expect("it is closed in time");
    said
}

async fn refused(host: &Host, reason: &str, count: u64) {
    let words = ["rpc_refused_connections_total", reason];
    let counted = async {
        while host.metric(&words) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, counted).await.expect("it is counted");
}

async fn still_serves(discovery: &MemoryDiscovery) {
    let caller = Host::start(discovery, 99).await;
    let client = ParrotClient::new(&caller.node);
    // Of two connections both may be taken by peers that are about to be thrown out.
    let served = async {
        while client.say(call("t"), &Target::Random, phrase("hello")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, served).await.expect("it serves");
}

#[tokio::test]
async fn strangers_are_refused_and_counted() {
    let discovery = MemoryDiscovery::new();
    let host = impatient(&discovery).await;
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "garbage"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "garbage"),
        (b"RTRP\xff\xff", "garbage"),
        (b"RTRP\x00\x02\x00\x01", "garbage"),
        (b"RTRP\x00", "timeout"),
    ];
    for (index, (bytes, _)) in cases.into_iter().enumerate() {
        let mut socket = TcpStream::connect(host.address()).await.expect("a connection");
        socket.write_all(bytes).await.expect("room");
        assert_eq!(closed(&mut socket).await, b"", "case {index}");
    }
    refused(&host, "garbage", 4).await;
    refused(&host, "timeout", 1).await;
    let mut socket = introduced(host.address()).await;
    socket.write_all(b"this is not a preface of HTTP/2").await.expect("room");
    closed(&mut socket).await;
    refused(&host, "protocol", 1).await;
    still_serves(&discovery).await;
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_thrown_out() {
    let discovery = MemoryDiscovery::new();
    let host = impatient(&discovery).await;
    let mut socket = introduced(host.address()).await;
    // Preface and empty settings; then nothing, least of all an answer to a ping.
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("room");
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("room");
    closed(&mut socket).await;
    refused(&host, "silent", 1).await;
    still_serves(&discovery).await;
}

/// A server that takes a call and then reads and says nothing more is given up, and the caller is
/// told that its call is in doubt.
#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let discovery = MemoryDiscovery::new();
    let mut host = Host::start(&discovery, 1).await;
    let (bird, _) = Bird::new("polly");
    host.serve("polly", &bird);
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    let deaf = announced_as(&discovery, |record| record.address = Some(address));
    let mut impatient = config(2);
    impatient.keepalive_interval = Duration::from_millis(20);
    impatient.keepalive_timeout = Duration::from_millis(20);
    let server = async {
        let (mut peer, _) = socket.accept().await.expect("a connection");
        let mut said = vec![0; hello(66).len()];
        peer.read_exact(&mut said).await.expect("a handshake");
        peer.write_all(WELCOME).await.expect("room");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = server => {}
        answer = call_from(&deaf, impatient) => {
            assert!(matches!(&answer, Err(error) if error.is_in_doubt()), "{answer:?}");
            assert!(!matches!(answer, Err(Error::Deadline(_))), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused() {
    let discovery = MemoryDiscovery::new();
    let host = impatient(&discovery).await;
    let _one = introduced(host.address()).await;
    let _two = introduced(host.address()).await;
    let mut third = TcpStream::connect(host.address()).await.expect("the system takes it");
    closed(&mut third).await;
    refused(&host, "connections", 1).await;
    still_serves(&discovery).await;
}

/// Whatever is sent as a call is refused or reset, and the connection goes on.
#[tokio::test]
async fn calls_that_are_none_end_alone() {
    let discovery = MemoryDiscovery::new();
    let mut host = Host::with(&discovery, config(1)).await;
    let (bird, _) = Bird::new("polly");
    host.serve("polly", &bird);
    let socket = introduced(host.address()).await;
    let (sender, connection) = h2::client::handshake(socket).await.expect("a handshake");
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(connection);
    let open = b"\x00\x00\x00\x08\x01\x00\x05polly\x00".as_slice();
    let cases: [(&str, Vec<u8>); 10] = [
        ("Say", vec![]),
        ("Say", vec![0xff; 64]),
        ("Say", vec![0xff, 0xff, 0xff, 0xff, 1]),
        ("Say", [open, &[0, 0, 0, 3, 2, 0xff, 0xff, 0xff]].concat()),
        ("Say", [open, &[0, 0, 0, 3, 5, 1, 2, 3]].concat()),
        ("Say", [open, &[0, 0, 0, 9, 2, 1]].concat()),
        ("Add", [open, &[0, 0, 0, 3, 3, 0xff, 0xff, 0xff]].concat()),
        ("Chatter", [open, &[0, 0, 0, 4, 5, 0xff, 0xff, 0xff, 0xff]].concat()),
        // One message more than the stream's window.
        ("Chatter", [open, &b"\0\0\0\x02\x02\x08\x01".repeat(65)].concat()),
        ("None", open.to_vec()),
    ];
    for (method, bytes) in cases {
        let mut sender = sender.clone().ready().await.expect("open");
        let uri = format!("http://rpc/{}/{method}", ParrotClient::SERVICE);
        let request = http::Request::post(uri).body(()).expect("a request");
        let (response, mut stream) = sender.send_request(request, false).expect("room");
        stream.send_data(bytes.clone().into(), true).expect("room");
        let ended = tokio::time::timeout(LONG, whole(response)).await.expect("it ends");
        // An answer says 4 (an error) with code 4 (refused); what is cut off is reset.
        let is_refused = ended.as_ref().is_none_or(|answer| has_refusal(answer));
        assert!(is_refused, "{method} {bytes:?}: {ended:?}");
    }
    still_serves(&discovery).await;
    assert!(connections.try_join_next().is_none(), "the connection is still there");
}

/// All frames of the answer, or none if it was reset.
async fn whole(response: h2::client::ResponseFuture) -> Option<Bytes> {
    let mut body = response.await.ok()?.into_body();
    let mut whole = BytesMut::new();
    while let Some(piece) = body.data().await {
        whole.extend_from_slice(&piece.ok()?);
    }
    Some(whole.freeze())
}

fn has_refusal(answer: &[u8]) -> bool {
    let mut rest = answer;
    while let [a, b, c, d, kind, tail @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if *kind == 4 {
            return [Some(&4), Some(&6)].contains(&tail.first());
        }
        rest = &tail[length..];
    }
    false
}

/// Calls host 1 as it is announced in `discovery`, from a host with this configuration.
async fn call_from(discovery: &MemoryDiscovery, config: Config) -> Result<(), Error> {
    let caller = Host::silent(discovery, config);
    let client = ParrotClient::new(&caller.node);
    client.say(call("t"), &Target::Server(id("polly")), phrase("hello")).await.map(drop)
}

#[tokio::test]
async fn peers_of_other_clusters_and_environments_are_refused_with_the_reason() {
    let discovery = MemoryDiscovery::new();
    let mut host = Host::start(&discovery, 1).await;
    let (bird, _) = Bird::new("polly");
    host.serve("polly", &bird);
    let mut foreign = config(2);
    foreign.identity.cluster = ClusterId(78);
    let mut staging = config(3);
    staging.identity.environment = Environment::new("staging").expect("a name");
    for (config, reason) in [(foreign, "cluster"), (staging, "environment")] {
        let answer = call_from(&discovery, config).await;
        assert!(
            matches!(&answer, Err(Error::Refused { why }) if why.contains(reason)),
            "{answer:?}"
        );
        refused(&host, reason, 1).await;
    }
    assert_eq!(call_from(&discovery, config(4)).await, Ok(()));
}

/// What `discovery` would say if host 1 lied about itself.
fn announced_as(
    discovery: &MemoryDiscovery,
    change: impl FnOnce(&mut ServerRecord),
) -> MemoryDiscovery {
    let service = ratatosk_rpc::ServiceName::new(ParrotClient::SERVICE).expect("a service");
    let landscape = discovery.watch(&service).borrow().clone();
    let mut record = landscape.servers[&id("polly")].clone();
    change(&mut record);
    let other = MemoryDiscovery::new();
    other.announce(record).expect("room");
    other
}

#[tokio::test]
async fn another_process_at_the_address_is_not_mistaken_for_its_predecessor() {
    let discovery = MemoryDiscovery::new();
    let mut host = Host::start(&discovery, 1).await;
    let (bird, _) = Bird::new("polly");
    host.serve("polly", &bird);
    let stale = announced_as(&discovery, |record| record.host = HostId(5));
    let answer = call_from(&stale, config(2)).await;
    assert!(
        matches!(&answer, Err(error @ Error::Lost { .. }) if !error.is_in_doubt()),
        "{answer:?}"
    );
    refused(&host, "host", 1).await;
}

#[tokio::test]
async fn versions_one_apart_serve_together_and_others_refuse_each_other() {
    let discovery = MemoryDiscovery::new();
    let mut host = Host::start(&discovery, 1).await;
    let (bird, _) = Bird::new("polly");
    host.serve("polly", &bird);
    let minor = |minor| {
        let mut config = config(u128::from(minor) + 10);
        config.identity.version.minor = minor;
        config
    };
    assert_eq!(call_from(&discovery, minor(1)).await, Ok(()));
    let ours = Version { major: 1, minor: 2 };
    let refusal = Err(Error::Version { ours, theirs: Version::CURRENT });
    assert_eq!(call_from(&discovery, minor(2)).await, refusal, "by what is announced");
    let lie = announced_as(&discovery, |record| record.version = ours);
    assert_eq!(call_from(&lie, minor(2)).await, refusal, "by the handshake");
    refused(&host, "version", 1).await;
}

/// An authority of a cluster.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// Certificate and key of a node.
    fn node(&self, name: &str) -> (String, String) {
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A node whose certificate is of this authority, and which trusts `trusted`.
    fn tls(&self, trusted: &str) -> Arc<Tls> {
        let (chain, key) = self.node("node.test");
        let material = material(&chain, &key, trusted);
        Arc::new(Tls::new(material, "node.test").expect("it fits"))
    }
}

fn material<'a>(chain: &'a str, key: &'a str, authorities: &'a str) -> TlsMaterial<'a> {
    TlsMaterial {
        chain: chain.as_bytes(),
        key: key.as_bytes(),
        authorities: authorities.as_bytes(),
    }
}

fn with_tls(number: u128, tls: &Arc<Tls>) -> Config {
    Config { tls: Some(Arc::clone(tls)), ..config(number) }
}

/// RPC-010: both sides show a certificate of the cluster's authority, or nothing is said.
#[tokio::test]
async fn nodes_require_each_others_certificates() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let discovery = MemoryDiscovery::new();
    let mut host = Host::with(&discovery, with_tls(1, &ours.tls(&ours.pem))).await;
    let (bird, _) = Bird::new("polly");
    host.serve("polly", &bird);
    assert_eq!(call_from(&discovery, with_tls(2, &ours.tls(&ours.pem))).await, Ok(()));
    // A certificate of another authority, a server that is not trusted, no TLS at all.
    let foreign = call_from(&discovery, with_tls(3, &theirs.tls(&ours.pem))).await;
    assert!(matches!(foreign, Err(Error::Refused { .. })), "{foreign:?}");
    let distrusting = call_from(&discovery, with_tls(4, &ours.tls(&theirs.pem))).await;
    assert!(matches!(distrusting, Err(Error::Refused { .. })), "{distrusting:?}");
    let plain = call_from(&discovery, config(5)).await;
    assert!(plain.is_err(), "{plain:?}");
    refused(&host, "tls", 3).await;
}

/// RPC-010: whoever trusts the cluster's authority and shows no certificate is told nothing.
#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let ours = Authority::new();
    let discovery = MemoryDiscovery::new();
    let host = Host::with(&discovery, with_tls(1, &ours.tls(&ours.pem))).await;
    let mut roots = RootCertStore::empty();
    let authorities = CertificateDer::pem_slice_iter(ours.pem.as_bytes());
    authorities.for_each(|it| roots.add(it.expect("a certificate")).expect("an authority"));
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("there are some")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(host.address()).await.expect("a connection");
    let name = ServerName::try_from("node.test").expect("a name");
    // It may hear of its refusal only when it waits for an answer.
    if let Ok(mut socket) = TlsConnector::from(Arc::new(config)).connect(name, socket).await {
        let _ = socket.write_all(&hello(66)).await;
        let answer = tokio::time::timeout(LONG, socket.read_u8()).await;
        assert!(answer.expect("it is closed in time").is_err(), "it is let in");
    }
    refused(&host, "tls", 1).await;
}

/// RPC-010: certificates and authorities are replaced while the node serves.
#[tokio::test]
async fn certificates_are_replaced_at_run_time() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = old.tls(&old.pem);
    let discovery = MemoryDiscovery::new();
    let mut host = Host::with(&discovery, with_tls(1, &server)).await;
    let (bird, _) = Bird::new("polly");
    host.serve("polly", &bird);
    let caller = Host::silent(&discovery, with_tls(2, &old.tls(&old.pem)));
    let client = ParrotClient::new(&caller.node);
    assert!(client.say(call("t"), &Target::Random, phrase("hello")).await.is_ok());
    let (chain, key) = new.node("node.test");
    let torn = material(&chain, "-----", &new.pem);
    assert!(matches!(server.replace(torn), Err(TlsError::Pem { what: "key", .. })));
    assert_eq!(call_from(&discovery, with_tls(3, &old.tls(&old.pem))).await, Ok(()), "as before");
    server.replace(material(&chain, &key, &new.pem)).expect("it fits");
    assert!(client.say(call("t"), &Target::Random, phrase("hello")).await.is_ok(), "it is open");
    assert!(call_from(&discovery, with_tls(4, &old.tls(&old.pem))).await.is_err());
    assert_eq!(call_from(&discovery, with_tls(5, &new.tls(&new.pem))).await, Ok(()));
}

/// RPC-010: the cluster's port is not open to other machines by mistake.
#[tokio::test]
async fn a_node_does_not_listen_for_strangers_unasked() {
    let discovery = MemoryDiscovery::new();
    let host = Host::silent(&discovery, config(1));
    let everywhere = "0.0.0.0:0".parse().expect("an address");
    let answer = host.node.listen(everywhere, None, Permission::Silent).await;
    assert!(matches!(answer, Err(ListenError::Exposed(_))), "{answer:?}");
    let answer = host.node.listen(everywhere, None, Permission::Exposed).await;
    assert!(matches!(answer, Err(ListenError::Unspecified { .. })), "{answer:?}");
    let announced = "127.0.0.1:7883".parse().ok();
    assert!(host.node.listen(everywhere, announced, Permission::Exposed).await.is_ok());
}
