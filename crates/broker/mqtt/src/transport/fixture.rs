//! What the tests of this module share: certificates, and a client whose TLS and WebSocket are
//! those of rustls and tungstenite, over memory.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tungstenite::handshake::client::Request;
use tungstenite::{ClientHandshake, HandshakeError, Message, WebSocket};

use crate::transport::{
    ClientAuth, Config, Error, Layers, Pipeline, ProxyConfig, State, TlsConfig, WebSocketConfig,
};

/// A client outside every trusted network.
pub(super) const STRANGER: &str = "203.0.113.9:50000";
/// Inside the network that [`trusting`] names.
pub(super) const PROXY: &str = "10.1.2.3:40000";

pub(super) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A folder for one test, removed afterwards.
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ratatosk-transport-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A certificate authority.
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(super) struct Identity {
    pub(super) certificate: Certificate,
    pub(super) key: KeyPair,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(super) fn issue(&self, name: &str, serial: u8) -> Identity {
        let mut params = CertificateParams::new(vec!["broker.test".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "Acme");
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate, key }
    }

    pub(super) fn revocation_list(&self, serials: &[u8]) -> String {
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// What a client needs to trust servers of this authority.
    pub(super) fn client_config(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        self.client_config_with(identity, &[])
    }

    pub(super) fn client_config_with(
        &self,
        identity: Option<&Identity>,
        application_protocols: &[&str],
    ) -> Arc<ClientConfig> {
        self.client_config_of(rustls::DEFAULT_VERSIONS, identity, application_protocols)
    }

    pub(super) fn client_config_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        identity: Option<&Identity>,
        application_protocols: &[&str],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        config.alpn_protocols =
            application_protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A listener's certificate files and the authority that issued them.
pub(super) struct Site {
    pub(super) folder: Folder,
    pub(super) authority: Authority,
}

impl Site {
    pub(super) fn new() -> Self {
        let site = Self { folder: Folder::new(), authority: Authority::new("test authority") };
        site.install(&site.authority.issue("broker", 1));
        site
    }

    pub(super) fn install(&self, identity: &Identity) {
        self.folder.write("server.pem", &identity.certificate.pem());
        self.folder.write("server.key", &identity.key.serialize_pem());
    }

    pub(super) fn tls(&self) -> TlsConfig {
        TlsConfig {
            certificate: self.folder.path("server.pem"),
            key: self.folder.path("server.key"),
            client_ca: None,
            crl: None,
            client_auth: ClientAuth::None,
        }
    }

    /// TLS that asks clients for certificates of the site's own authority.
    pub(super) fn mutual_tls(&self, client_auth: ClientAuth) -> TlsConfig {
        let client_ca = self.folder.write("ca.pem", &self.authority.certificate.pem());
        TlsConfig { client_ca: Some(client_ca), client_auth, ..self.tls() }
    }
}

pub(super) fn plain() -> Config {
    Config { websocket: None, tls: None, proxy_protocol: None, packet_size_max: 1024 }
}

pub(super) fn websocket() -> Config {
    let websocket = WebSocketConfig { path: "/mqtt".to_owned(), frame_max: 4096 };
    Config { websocket: Some(websocket), ..plain() }
}

pub(super) fn trusting(config: Config) -> Config {
    let trusted = vec!["10.0.0.0/8".parse().unwrap()];
    Config { proxy_protocol: Some(ProxyConfig { trusted, required: false }), ..config }
}

/// A request that tungstenite accepts to send, with what a test adds.
pub(super) fn request(path: &str, headers: &[(&str, &str)]) -> Request {
    let mut builder = Request::builder()
        .uri(format!("ws://broker.test{path}"))
        .header("Host", "broker.test")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

pub(super) fn mqtt_request() -> Request {
    request("/mqtt", &[("Sec-WebSocket-Protocol", "mqtt")])
}

/// Both directions of a connection, shared by the test and the client library.
#[derive(Clone, Default)]
pub(super) struct Memory {
    buffers: Rc<RefCell<(Vec<u8>, Vec<u8>)>>,
}

impl Memory {
    fn push_incoming(&self, bytes: &[u8]) {
        self.buffers.borrow_mut().0.extend_from_slice(bytes);
    }

    fn take_outgoing(&self) -> Vec<u8> {
        std::mem::take(&mut self.buffers.borrow_mut().1)
    }
}

impl Read for Memory {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let incoming = &mut self.buffers.borrow_mut().0;
        if incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = incoming.len().min(target.len());
        target[..size].copy_from_slice(&incoming[..size]);
        incoming.drain(..size);
        Ok(size)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffers.borrow_mut().1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum ClientWebSocket {
    Upgrading(tungstenite::handshake::MidHandshake<ClientHandshake<Memory>>),
    Open(Box<WebSocket<Memory>>),
    Failed(String),
}

/// A client and the pipeline that serves it.
pub(super) struct Connection {
    pub(super) pipeline: Pipeline,
    tls: Option<ClientConnection>,
    memory: Memory,
    websocket: Option<ClientWebSocket>,
    /// What the server's MQTT side has received.
    pub(super) mqtt: Vec<u8>,
    /// What the client's MQTT side has received.
    pub(super) answered: Vec<u8>,
    /// What the client has received below MQTT, in clear.
    pub(super) raw: Vec<u8>,
    /// Sizes in which the client's bytes reach the server, again and again.
    cuts: Vec<usize>,
    cut: usize,
}

impl Connection {
    pub(super) fn new(layers: &Layers, peer: &str) -> Self {
        Self {
            pipeline: Pipeline::new(layers, socket(peer)),
            tls: None,
            memory: Memory::default(),
            websocket: None,
            mqtt: Vec::new(),
            answered: Vec::new(),
            raw: Vec::new(),
            cuts: vec![usize::MAX],
            cut: 0,
        }
    }

    pub(super) fn cut_into(mut self, cuts: &[usize]) -> Self {
        self.cuts = cuts.to_vec();
        self
    }

    pub(super) fn with_tls(mut self, config: &Arc<ClientConfig>) -> Self {
        let name = "broker.test".try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        tls.set_buffer_limit(None);
        self.tls = Some(tls);
        self
    }

    pub(super) fn with_websocket(mut self, request: Request) -> Self {
        self.websocket = Some(match tungstenite::client(request, self.memory.clone()) {
            Err(HandshakeError::Interrupted(middle)) => ClientWebSocket::Upgrading(middle),
            Err(HandshakeError::Failure(error)) => panic!("{error}"),
            Ok(_) => panic!("no server has answered yet"),
        });
        self
    }

    /// Exchanges bytes until nobody has any.
    pub(super) fn settle(&mut self) -> Result<State, Error> {
        let mut state = State::Handshaking;
        loop {
            let outgoing = self.outgoing();
            if outgoing.is_empty() {
                return Ok(state);
            }
            state = self.deliver(&outgoing)?;
        }
    }

    pub(super) fn open(mut self) -> Self {
        assert_eq!(self.settle(), Ok(State::Open));
        self
    }

    /// The client's MQTT side sends: one frame, if there are frames.
    pub(super) fn send(&mut self, mqtt: &[u8]) {
        match &mut self.websocket {
            None => self.memory.buffers.borrow_mut().1.extend_from_slice(mqtt),
            Some(_) => self.message(Message::Binary(mqtt.to_vec().into())),
        }
    }

    pub(super) fn message(&mut self, message: Message) {
        match &mut self.websocket {
            Some(ClientWebSocket::Open(websocket)) => websocket.send(message).unwrap(),
            _ => panic!("the client's websocket is not open"),
        }
    }

    /// Raw bytes within TLS, beneath WebSocket.
    pub(super) fn raw_send(&mut self, bytes: &[u8]) {
        self.memory.buffers.borrow_mut().1.extend_from_slice(bytes);
    }

    pub(super) fn tls_close(&mut self) {
        self.tls.as_mut().unwrap().send_close_notify();
    }

    pub(super) fn client_tls(&self) -> &ClientConnection {
        self.tls.as_ref().unwrap()
    }

    /// What the client's WebSocket library has to object, if anything.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.websocket {
            Some(ClientWebSocket::Failed(reason)) => Some(reason),
            _ => None,
        }
    }

    pub(super) fn serve(&mut self, mqtt: &[u8]) {
        let mut wire = Vec::new();
        self.pipeline.send(mqtt, &mut wire).unwrap();
        self.incoming(&wire);
    }

    pub(super) fn serve_close(&mut self) -> usize {
        let mut wire = Vec::new();
        self.pipeline.close(&mut wire);
        self.incoming(&wire);
        wire.len()
    }

    /// What the client has for the server's socket.
    pub(super) fn outgoing(&mut self) -> Vec<u8> {
        let clear = self.memory.take_outgoing();
        let Some(tls) = &mut self.tls else {
            return clear;
        };
        tls.writer().write_all(&clear).unwrap();
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub(super) fn deliver(&mut self, bytes: &[u8]) -> Result<State, Error> {
        let mut rest = bytes;
        let mut state = State::Handshaking;
        while !rest.is_empty() {
            let size = self.cuts[self.cut % self.cuts.len()].clamp(1, rest.len());
            self.cut += 1;
            let (piece, later) = rest.split_at(size);
            rest = later;
            let mut wire = Vec::new();
            let outcome = self.pipeline.receive(piece, &mut self.mqtt, &mut wire);
            self.incoming(&wire);
            state = outcome?.state;
        }
        Ok(state)
    }

    fn incoming(&mut self, mut wire: &[u8]) {
        let mut clear = Vec::new();
        match &mut self.tls {
            None => clear.extend_from_slice(wire),
            Some(tls) => {
                while !wire.is_empty() && tls.read_tls(&mut wire).unwrap() > 0 {
                    // An alert of the server is what some tests expect.
                    let _ = tls.process_new_packets();
                    let _ = tls.reader().read_to_end(&mut clear);
                }
            }
        }
        self.raw.extend_from_slice(&clear);
        match self.websocket.take() {
            None => self.answered.extend_from_slice(&clear),
            Some(websocket) => {
                self.memory.push_incoming(&clear);
                self.websocket = Some(self.advance(websocket));
            }
        }
    }

    fn advance(&mut self, websocket: ClientWebSocket) -> ClientWebSocket {
        match websocket {
            ClientWebSocket::Upgrading(middle) => match middle.handshake() {
                Ok((websocket, _)) => self.advance(ClientWebSocket::Open(Box::new(websocket))),
                Err(HandshakeError::Interrupted(middle)) => ClientWebSocket::Upgrading(middle),
                Err(HandshakeError::Failure(error)) => ClientWebSocket::Failed(error.to_string()),
            },
            ClientWebSocket::Open(mut websocket) => loop {
                match websocket.read() {
                    Ok(Message::Binary(payload)) => self.answered.extend_from_slice(&payload),
                    Ok(_) => {}
                    Err(tungstenite::Error::Io(_)) => return ClientWebSocket::Open(websocket),
                    Err(error) => return ClientWebSocket::Failed(error.to_string()),
                }
            },
            failed @ ClientWebSocket::Failed(_) => failed,
        }
    }
}

/// The reason of a configuration that must not be accepted.
pub(super) fn refused(config: &Config) -> String {
    match Layers::open(config) {
        Ok(_) => panic!("the configuration was accepted"),
        Err(error) => error.to_string(),
    }
}

pub(super) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap()
}
