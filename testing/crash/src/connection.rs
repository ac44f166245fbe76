//! One connection of a client: CONNECT and CONNACK, packets in, packets out.

use std::num::NonZeroU16;
use std::rc::Rc;

use anyhow::{Result, bail, ensure};
use ratatosk_codec::{
    Ack, Connect, ConnectProperties, Decoded, Decoder, Disconnect, Packet, PacketId, PacketType,
    ProtocolVersion, Qos, ReasonCode, Will, WillProperties,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::history::{ClientIndex, What};
use crate::stage::{Gate, PATIENCE, Stage};

/// Who connects.
#[derive(Clone, Debug)]
pub(crate) struct Persona {
    pub(crate) client: ClientIndex,
    pub(crate) name: String,
    pub(crate) version: ProtocolVersion,
    /// Takes up its session and leaves one behind; otherwise it starts clean and leaves nothing.
    pub(crate) is_persistent: bool,
    pub(crate) will: Option<Testament>,
}

/// A will to be.
#[derive(Clone, Debug)]
pub(crate) struct Testament {
    pub(crate) topic: String,
    pub(crate) qos: Qos,
    pub(crate) delay_s: Option<u32>,
}

/// Seconds that a session outlives its connection in MQTT 5: longer than any run.
const EXPIRY_S: u32 = 7 * 24 * 3600;
/// What the broker may have open towards an MQTT 5 client.
const RECEIVE_MAX: NonZeroU16 = NonZeroU16::new(12).unwrap();

/// A packet from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Connack { is_present: bool, reason: ReasonCode },
    Publish(Publication),
    Ack { kind: PacketType, id: u16, reason: ReasonCode },
    Suback { id: u16, reason: ReasonCode },
    Unsuback { id: u16 },
    Pingresp,
    Disconnect(ReasonCode),
    Other(PacketType),
}

/// A PUBLISH from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
    pub(crate) is_retained: bool,
    pub(crate) is_dup: bool,
    pub(crate) id: u16,
}

impl Incoming {
    fn of(packet: &Packet<'_>) -> Incoming {
        let code = |codes: ratatosk_codec::ReasonCodes<'_>| codes.iter().next();
        match packet {
            Packet::Connack(it) => {
                Incoming::Connack { is_present: it.session_present, reason: it.reason }
            }
            Packet::Publish(it) => Incoming::Publish(Publication {
                topic: it.topic.to_owned(),
                payload: it.payload.to_vec(),
                qos: it.qos,
                is_retained: it.retain,
                is_dup: it.dup,
                id: it.packet_id.map_or(0, PacketId::value),
            }),
            Packet::Puback(it) | Packet::Pubrec(it) | Packet::Pubrel(it) | Packet::Pubcomp(it) => {
                let (kind, id) = (packet.packet_type(), it.packet_id.value());
                Incoming::Ack { kind, id, reason: it.reason }
            }
            Packet::Suback(it) => Incoming::Suback {
                id: it.packet_id.value(),
                reason: code(it.codes).unwrap_or(ReasonCode::UnspecifiedError),
            },
            Packet::Unsuback(it) => Incoming::Unsuback { id: it.packet_id.value() },
            Packet::Pingresp => Incoming::Pingresp,
            Packet::Disconnect(it) => Incoming::Disconnect(it.reason),
            other => Incoming::Other(other.packet_type()),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The broker that it is to.
    pub(crate) epoch: u32,
    /// CONNACK said that the session was there.
    pub(crate) is_present: bool,
    version: ProtocolVersion,
    stream: TcpStream,
    gate: watch::Receiver<Gate>,
    decoder: Decoder,
    read: Vec<u8>,
}

impl Connection {
    /// Connects as soon as there is a broker that lets the client in, and writes both down.
    pub(crate) async fn enter(stage: &Rc<Stage>, persona: &Persona) -> Connection {
        let mut gate = stage.follow();
        loop {
            // The sender lives as long as the stage.
            let _ = gate.wait_for(|gate| gate.mode.is_open()).await;
            let epoch = stage.gate().epoch;
            match timeout(PATIENCE, Connection::open(stage, persona, epoch)).await {
                Ok(Ok(connection)) => return connection,
                Ok(Err(error)) => stage.ended(persona.client, epoch, format!("{error:#}")),
                Err(_) => stage.record(persona.client, What::Stalled("CONNACK".to_owned())),
            }
            // Who is not let in tries the next broker, and does not besiege this one.
            let _ = gate.wait_for(|gate| gate.epoch != epoch).await;
        }
    }

    /// Connects to a broker that listens.
    pub(crate) async fn open(
        stage: &Rc<Stage>,
        persona: &Persona,
        epoch: u32,
    ) -> Result<Connection> {
        let stream = TcpStream::connect(stage.address).await?;
        stream.set_nodelay(true)?;
        let version = persona.version;
        let decoder = Decoder::client(version, u32::MAX);
        let (gate, read) = (stage.follow(), Vec::new());
        let mut connection =
            Connection { epoch, is_present: false, version, stream, gate, decoder, read };
        stage.record(persona.client, What::ConnectSent);
        connection.send_connect(persona).await?;
        match connection.next().await? {
            Incoming::Connack { is_present, reason: ReasonCode::Success } => {
                connection.is_present = is_present;
                stage.record(persona.client, What::Connected { is_present });
                Ok(connection)
            }
            other => bail!("CONNECT was answered by {other:?}"),
        }
    }

    async fn send_connect(&mut self, persona: &Persona) -> Result<()> {
        let will = persona.will.as_ref().map(|will| Will {
            qos: will.qos,
            retain: false,
            topic: &will.topic,
            payload: will.topic.as_bytes(),
            properties: WillProperties { delay_s: will.delay_s, ..WillProperties::default() },
        });
        let is_v5 = self.version.is_v5();
        let properties = ConnectProperties {
            session_expiry_s: (is_v5 && persona.is_persistent).then_some(EXPIRY_S),
            receive_maximum: is_v5.then_some(RECEIVE_MAX),
            ..ConnectProperties::default()
        };
        let connect = Connect {
            will,
            properties,
            keep_alive_s: 0,
            ..Connect::new(self.version, &persona.name, !persona.is_persistent)
        };
        self.send(&Packet::Connect(connect)).await
    }

    /// Sends a packet.
    pub(crate) async fn send(&mut self, packet: &Packet<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        ratatosk_codec::encode(packet, self.version, &mut bytes);
        match timeout(PATIENCE, self.stream.write_all(&bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => bail!("nothing is taken for {PATIENCE:?}"),
        }
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(crate) async fn ack(&mut self, kind: PacketType, id: u16) -> Result<()> {
        let Some(id) = PacketId::new(id) else { bail!("a packet has the identifier 0") };
        let ack = Ack::new(id, ReasonCode::Success);
        self.send(&match kind {
            PacketType::Puback => Packet::Puback(ack),
            PacketType::Pubrec => Packet::Pubrec(ack),
            PacketType::Pubrel => Packet::Pubrel(ack),
            PacketType::Pubcomp => Packet::Pubcomp(ack),
            other => bail!("{} is no acknowledgement", other.name()),
        })
        .await
    }

    /// Says good-bye; the session stays.
    pub(crate) async fn disconnect(&mut self) -> Result<()> {
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await
    }

    /// The next packet. May be given up and asked again: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Incoming> {
        loop {
            if let Decoded::Packet { packet, length } = self.decoder.decode(&self.read)? {
                let incoming = Incoming::of(&packet);
                self.read.drain(..length);
                if let Incoming::Disconnect(reason) = incoming {
                    bail!("the broker says {reason:?}");
                }
                return Ok(incoming);
            }
            tokio::select! {
                biased;
                count = self.stream.read_buf(&mut self.read) => {
                    ensure!(count? > 0, "the broker closed");
                }
                _ = self.gate.wait_for(|gate| gate.epoch != self.epoch) => {
                    bail!("the network failed");
                }
            }
        }
    }
}
