//! One connection of a client: CONNECT and CONNACK, packets in, packets out.

use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ratatosk_codec::{
    Ack, Connect, ConnectProperties, Decoded, Decoder, Disconnect, Packet, PacketId, PacketType,
    ProtocolVersion, Qos, ReasonCode, Will, WillProperties,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::history::{ClientIndex, What};
use crate::stage::{Access, Gate, PATIENCE, Seat, Stage};

/// Who connects.
#[derive(Clone, Debug)]
pub struct Persona {
    /// Its place in the history.
    pub client: ClientIndex,
    /// Its client identifier.
    pub name: String,
    /// What it speaks.
    pub version: ProtocolVersion,
    /// Takes up its session and leaves one behind; otherwise it starts clean and leaves nothing.
    pub is_persistent: bool,
    /// What is to be sent if it goes without a word.
    pub will: Option<Testament>,
}

/// A will to be.
#[derive(Clone, Debug)]
pub struct Testament {
    /// Its topic, which is its payload too.
    pub topic: String,
    /// Its QoS.
    pub qos: Qos,
    /// How many seconds after its client went it is sent; at once if not given.
    pub delay_s: Option<u32>,
}

/// Seconds that a session outlives its connection in MQTT 5: longer than any run.
const EXPIRY_S: u32 = 7 * 24 * 3600;
/// What the broker may have open towards an MQTT 5 client.
const RECEIVE_MAX: NonZeroU16 = NonZeroU16::new(12).unwrap();

/// How long one of several brokers may take for CONNACK before another one is asked.
const CONNACK_MAX: Duration = Duration::from_secs(5);
/// Between two attempts to be let in.
const ENTRY_PAUSE: Duration = Duration::from_millis(100);
/// When a client that hears nothing any more finds out.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// A packet from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// CONNACK.
    Connack {
        /// The broker had the session.
        is_present: bool,
        /// Whether it lets the client in.
        reason: ReasonCode,
    },
    /// PUBLISH.
    Publish(Publication),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        /// Which of them.
        kind: PacketType,
        /// What it is about.
        id: u16,
        /// Whether it went well.
        reason: ReasonCode,
    },
    /// SUBACK.
    Suback {
        /// What it is about.
        id: u16,
        /// Of the first filter.
        reason: ReasonCode,
    },
    /// UNSUBACK.
    Unsuback {
        /// What it is about.
        id: u16,
    },
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(ReasonCode),
    /// Anything else.
    Other(PacketType),
}

/// A PUBLISH from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// As it came.
    pub qos: Qos,
    /// RETAIN was set.
    pub is_retained: bool,
    /// DUP was set.
    pub is_dup: bool,
    /// Its packet identifier; 0 at QoS 0.
    pub id: u16,
}

impl Incoming {
    /// What a packet says.
    #[must_use]
    pub fn of(packet: &Packet<'_>) -> Incoming {
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
    /// Where it is to.
    pub(crate) seat: Seat,
    /// CONNACK said that the session was there.
    pub(crate) is_present: bool,
    version: ProtocolVersion,
    stream: TcpStream,
    gate: watch::Receiver<Gate>,
    /// Since when no packet comes through.
    dark_since: Option<Instant>,
    decoder: Decoder,
    read: Vec<u8>,
}

impl Connection {
    /// Connects as soon as there is a broker that lets the client in, and writes down what became of
    /// all attempts.
    pub(crate) async fn enter(stage: &Rc<Stage>, persona: &Persona) -> Connection {
        let mut since = Instant::now();
        loop {
            let door = stage.admission(persona.client).await;
            let seat = Seat { door, epoch: stage.door(door).epoch };
            let opened = Connection::open(stage, persona, door);
            let span = if stage.is_one_of_several() { CONNACK_MAX } else { PATIENCE };
            let why = match timeout(span, opened).await {
                Ok(Ok(connection)) => return connection,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no CONNACK within {span:?}"),
            };
            if stage.is_one_of_several() && since.elapsed() < PATIENCE {
                stage.record(persona.client, What::TurnedAway(why));
            } else {
                stage.ended(persona.client, seat, why);
                since = Instant::now();
            }
            stage.turned_away(seat, ENTRY_PAUSE).await;
        }
    }

    /// Connects to a broker that listens.
    pub(crate) async fn open(
        stage: &Rc<Stage>,
        persona: &Persona,
        door: usize,
    ) -> Result<Connection> {
        let seat = Seat { door, epoch: stage.door(door).epoch };
        let stream = TcpStream::connect(stage.door(door).address).await?;
        stream.set_nodelay(true)?;
        let version = persona.version;
        let mut connection = Connection {
            seat,
            is_present: false,
            version,
            stream,
            gate: stage.follow(),
            dark_since: None,
            decoder: Decoder::client(version, u32::MAX),
            read: Vec::new(),
        };
        stage.record(persona.client, What::ConnectSent { door });
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
                why = lost(&mut self.gate, self.seat, &mut self.dark_since) => bail!(why),
            }
        }
    }
}

/// Waits until a client has to give its connection up, and says why. May be given up and asked again.
async fn lost(
    gate: &mut watch::Receiver<Gate>,
    seat: Seat,
    dark_since: &mut Option<Instant>,
) -> &'static str {
    loop {
        let (is_cut, access) = {
            let gate = gate.borrow_and_update();
            (gate.is_cut(seat), gate.door(seat).access)
        };
        if is_cut {
            return "the network failed";
        }
        let silent_at = match access {
            Access::Dark => Some(*dark_since.get_or_insert_with(Instant::now) + KEEPALIVE),
            Access::Open | Access::Harmed | Access::Closed => None,
        };
        if silent_at.is_none() {
            *dark_since = None;
        }
        tokio::select! {
            changed = gate.changed() => {
                if changed.is_err() {
                    // The stage is gone, and its clients are about to be.
                    std::future::pending::<()>().await;
                }
            }
            () = sleep_until(silent_at.unwrap_or_else(Instant::now)), if silent_at.is_some() => {
                return "nothing comes any more";
            }
        }
    }
}
