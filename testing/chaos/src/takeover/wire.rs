//! A connection that may be opened long before CONNECT is written, and says how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ratatosk_codec::{
    Ack, Connect, ConnectProperties, Decoded, Decoder, Packet, PacketId, PacketType,
    ProtocolVersion, ReasonCode,
};
use ratatosk_crash::connection::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const VERSION: ProtocolVersion = ProtocolVersion::V5;
/// Longer than any run.
const EXPIRY_S: u32 = 7 * 24 * 3600;
/// A node that is cut off takes nothing.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// A connection of MQTT 5.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    decoder: Decoder,
    read: Vec<u8>,
    /// Nothing can be written any more. What has come can still be read.
    is_mute: bool,
}

impl Wire {
    /// Connects, and says nothing.
    pub(super) async fn open(address: SocketAddr) -> Result<Wire> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let decoder = Decoder::client(VERSION, u32::MAX);
        Ok(Wire { stream, decoder, read: Vec::new(), is_mute: false })
    }

    /// Asks for a session that outlives its connections.
    pub(super) async fn connect(&mut self, client: &str) {
        let properties =
            ConnectProperties { session_expiry_s: Some(EXPIRY_S), ..ConnectProperties::default() };
        let connect =
            Connect { properties, keep_alive_s: 0, ..Connect::new(VERSION, client, false) };
        self.send(&Packet::Connect(connect)).await;
    }

    /// Writes a packet, if that can be done. What becomes of the connection is found by reading.
    pub(super) async fn send(&mut self, packet: &Packet<'_>) {
        if self.is_mute {
            return;
        }
        let mut bytes = Vec::new();
        ratatosk_codec::encode(packet, VERSION, &mut bytes);
        let written = timeout(WRITE_MAX, self.stream.write_all(&bytes)).await;
        self.is_mute = !matches!(written, Ok(Ok(())));
    }

    /// Writes PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(super) async fn ack(&mut self, kind: PacketType, id: u16) -> Result<()> {
        let id = PacketId::new(id).context("a packet has the identifier 0")?;
        let ack = Ack::new(id, ReasonCode::Success);
        self.send(&match kind {
            PacketType::Puback => Packet::Puback(ack),
            PacketType::Pubrec => Packet::Pubrec(ack),
            PacketType::Pubrel => Packet::Pubrel(ack),
            _ => Packet::Pubcomp(ack),
        })
        .await;
        Ok(())
    }

    /// The next packet; `None` when the connection is over. May be given up and asked again.
    ///
    /// # Errors
    /// If what comes is no packet.
    pub(super) async fn next(&mut self) -> Result<Option<Incoming>> {
        loop {
            if let Decoded::Packet { packet, length } = self.decoder.decode(&self.read)? {
                let incoming = Incoming::of(&packet);
                self.read.drain(..length);
                return Ok(Some(incoming));
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }
}
