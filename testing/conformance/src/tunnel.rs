//! TLS and WebSocket for clients that know only TCP: what they say goes into the layers of a
//! listener, by the libraries of others.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ratatosk_mqtt::transport::{ClientAuth, Config, TlsConfig, WebSocketConfig};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::{Message, WebSocket, client::IntoClientRequest as _};

/// How long one side of a tunnel is listened to before the other has its turn.
const TURN: Duration = Duration::from_millis(1);

/// A listener without layers.
pub fn plain() -> Config {
    Config { websocket: None, tls: None, proxy_protocol: None, packet_size_max: 1 << 20 }
}

/// A certificate for `localhost` in a folder of its own, which goes with it.
pub struct Site {
    folder: PathBuf,
    trust: Arc<ClientConfig>,
}

impl Site {
    /// A new certificate.
    ///
    /// # Panics
    /// If it cannot be made or written.
    pub fn new() -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ratatosk-conformance-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("server.pem"), cert.pem()).expect("is written");
        std::fs::write(folder.join("server.key"), signing_key.serialize_pem()).expect("is written");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("is one");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Site { folder, trust: Arc::new(trust) }
    }

    /// The layers of a listener: TLS with this certificate, and WebSocket.
    pub fn layers(&self, has_tls: bool, has_websocket: bool) -> Config {
        let tls = TlsConfig {
            certificate: self.folder.join("server.pem"),
            key: self.folder.join("server.key"),
            client_ca: None,
            crl: None,
            client_auth: ClientAuth::None,
        };
        let websocket = WebSocketConfig { path: "/mqtt".to_owned(), frame_max: 1 << 20 };
        Config {
            tls: has_tls.then_some(tls),
            websocket: has_websocket.then_some(websocket),
            ..plain()
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Site::new()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A way to a listener with layers, for clients without. Each connection ends with its client or
/// with the broker.
pub struct Tunnel {
    address: SocketAddr,
}

impl Tunnel {
    /// A tunnel to the listener at this address.
    ///
    /// # Panics
    /// If nothing can listen.
    pub fn open(target: SocketAddr, layers: &Config, site: &Site) -> Tunnel {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let trust = layers.tls.is_some().then(|| Arc::clone(&site.trust));
        let has_websocket = layers.websocket.is_some();
        // It waits for clients until the process of the tests ends.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let trust = trust.clone();
                std::thread::spawn(move || {
                    let far = TcpStream::connect(target).expect("the broker listens");
                    match trust {
                        None => enter(near, far, has_websocket),
                        Some(trust) => {
                            let name = "localhost".try_into().expect("a name");
                            let tls = ClientConnection::new(trust, name).expect("a client");
                            enter(near, StreamOwned::new(tls, far), has_websocket);
                        }
                    }
                });
            }
        });
        Tunnel { address }
    }

    /// Where clients enter it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What the far end of a tunnel is made of.
trait Far: Read + Write {
    fn socket(&self) -> &TcpStream;

    /// Says all that has to be said before MQTT; however long that takes.
    fn shake_hands(&mut self);
}

impl Far for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn shake_hands(&mut self) {}
}

impl Far for StreamOwned<ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }

    fn shake_hands(&mut self) {
        while self.conn.is_handshaking() {
            self.conn.complete_io(&mut self.sock).expect("the broker speaks TLS");
        }
    }
}

fn enter<F: Far>(near: TcpStream, mut far: F, has_websocket: bool) {
    far.shake_hands();
    if !has_websocket {
        far.socket().set_read_timeout(Some(TURN)).expect("a socket option");
        carry(near, Bytes(far));
        return;
    }
    let mut request = "ws://localhost/mqtt".into_client_request().expect("a request");
    let protocol = "mqtt".try_into().expect("a header");
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
    let (websocket, _) = tungstenite::client(request, far).expect("the broker upgrades");
    websocket.get_ref().socket().set_read_timeout(Some(TURN)).expect("a socket option");
    carry(near, Frames(websocket));
}

/// Carries bytes both ways until one side ends.
fn carry(mut near: TcpStream, mut far: impl Pipe) {
    near.set_nodelay(true).expect("a socket option");
    near.set_read_timeout(Some(TURN)).expect("a socket option");
    let mut buffer = [0; 16 * 1024];
    loop {
        match near.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) if far.put(&buffer[..count]).is_none() => return,
            Err(error) if !is_pause(error.kind()) => return,
            _ => {}
        }
        match far.take() {
            Some(bytes) if near.write_all(&bytes).is_ok() => {}
            _ => return,
        }
    }
}

fn is_pause(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// One side of a tunnel; `None` is its end.
trait Pipe {
    fn put(&mut self, bytes: &[u8]) -> Option<()>;
    fn take(&mut self) -> Option<Vec<u8>>;
}

/// MQTT as it is.
struct Bytes<F>(F);

impl<F: Far> Pipe for Bytes<F> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).ok()
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 16 * 1024];
        match self.0.read(&mut buffer) {
            Ok(0) => None,
            Ok(count) => {
                buffer.truncate(count);
                Some(buffer)
            }
            Err(error) => is_pause(error.kind()).then(Vec::new),
        }
    }
}

/// MQTT in WebSocket frames.
struct Frames<F>(WebSocket<F>);

impl<F: Far> Pipe for Frames<F> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.send(Message::binary(bytes.to_vec())).ok()
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        match self.0.read() {
            Ok(Message::Binary(bytes)) => Some(bytes.to_vec()),
            Ok(Message::Close(_)) => None,
            Ok(_) => Some(Vec::new()),
            Err(tungstenite::Error::Io(error)) if is_pause(error.kind()) => Some(Vec::new()),
            Err(_) => None,
        }
    }
}
