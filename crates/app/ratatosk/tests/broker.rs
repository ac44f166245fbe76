//! A broker for tests of the client commands: it does what a script says and notes what it was
//! sent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use ratatosk_codec::{
    Ack, Connack, Decoded, Decoder, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode,
    Suback, encode,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the broker does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The answer to CONNECT.
    pub(crate) connack: ReasonCode,
    /// The answer to PUBLISH.
    pub(crate) puback: ReasonCode,
    /// The answer to each filter.
    pub(crate) suback: ReasonCode,
    /// What a subscriber gets: topic, payload, QoS.
    pub(crate) messages: Vec<(&'static str, &'static str, Qos)>,
}

impl Default for Script {
    fn default() -> Self {
        let ok = ReasonCode::Success;
        Self { connack: ok, puback: ok, suback: ok, messages: Vec::new() }
    }
}

/// What came, one line a packet.
pub(crate) struct Broker {
    pub(crate) port: String,
    thread: JoinHandle<Vec<String>>,
}

impl Broker {
    /// Serves one connection.
    pub(crate) fn start(script: Script) -> Self {
        Self::serve(script, None)
    }

    /// Serves one connection over TLS.
    pub(crate) fn start_tls(script: Script, config: Arc<ServerConfig>) -> Self {
        Self::serve(script, Some(config))
    }

    fn serve(script: Script, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(config) => {
                    let connection = ServerConnection::new(config).unwrap();
                    Box::new(StreamOwned::new(connection, stream))
                }
            };
            Connection { stream, script, version: ProtocolVersion::V5, log: Vec::new() }.serve()
        });
        Self { port, thread }
    }

    /// What came, once the client is gone.
    pub(crate) fn log(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

struct Connection {
    stream: Box<dyn Stream>,
    script: Script,
    version: ProtocolVersion,
    log: Vec<String>,
}

impl Connection {
    fn serve(mut self) -> Vec<String> {
        let mut decoder = Decoder::server(1 << 20);
        let mut input = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            while let Decoded::Packet { packet, length } = decoder.decode(&input).unwrap() {
                if let Packet::Connect(connect) = &packet {
                    self.version = connect.version;
                    decoder.set_version(connect.version);
                }
                self.answer(&packet);
                input.drain(..length);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return self.log,
                Ok(length) => input.extend_from_slice(&chunk[..length]),
            }
        }
    }

    fn answer(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Connect(connect) => {
                let password = connect.password.map(String::from_utf8_lossy);
                self.log.push(format!(
                    "connect {} {} {:?} {:?}",
                    connect.version, connect.client_id, connect.username, password
                ));
                self.send(&Packet::Connack(Connack::new(self.script.connack, false)));
            }
            Packet::Publish(publish) => {
                let payload = String::from_utf8_lossy(publish.payload);
                let retain = if publish.retain { " retain" } else { "" };
                let Publish { topic, qos, .. } = publish;
                self.log.push(format!("publish {topic} {payload:?} {}{retain}", qos.value()));
                let Some(id) = publish.packet_id else { return };
                let ack = Ack::new(id, self.script.puback);
                let exactly_once = *qos == Qos::ExactlyOnce;
                self.send(&if exactly_once { Packet::Pubrec(ack) } else { Packet::Puback(ack) });
            }
            Packet::Pubrel(ack) => {
                self.log.push("pubrel".to_owned());
                self.send(&Packet::Pubcomp(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::Subscribe(subscribe) => {
                for filter in subscribe.filters.iter() {
                    let qos = filter.options.qos.value();
                    self.log.push(format!("subscribe {} {qos}", filter.filter));
                }
                let codes = vec![self.script.suback; subscribe.filters.len()];
                self.send(&Packet::Suback(Suback::new(subscribe.packet_id, &codes)));
                self.deliver();
            }
            Packet::Pubrec(ack) => {
                self.log.push("pubrec".to_owned());
                self.send(&Packet::Pubrel(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            other => self.log.push(other.packet_type().name().to_lowercase()),
        }
    }

    /// Messages of QoS 2 are sent twice with one id, as a broker does that lost the answer.
    fn deliver(&mut self) {
        let mut id = PacketId::FIRST;
        for (topic, payload, qos) in self.script.messages.clone() {
            let packet_id = (qos != Qos::AtMostOnce).then_some(id);
            let message = Publish::new(topic, payload.as_bytes());
            let publish = Publish { qos, packet_id, ..message };
            self.send(&Packet::Publish(publish));
            if qos == Qos::ExactlyOnce {
                self.send(&Packet::Publish(Publish { dup: true, ..publish }));
            }
            id = id.successor();
        }
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode(packet, self.version, &mut bytes);
        // A client that has what it wanted may be gone.
        let _ = self.stream.write_all(&bytes).and_then(|()| self.stream.flush());
    }
}
