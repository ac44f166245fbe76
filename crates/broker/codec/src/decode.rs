//! The decoder: one packet from the head of a read buffer, or how much is missing.
//!
//! It holds no bytes. What the first bytes already show to be wrong is refused before the rest
//! has come: type, direction, flags, length. A packet never reaches past its own end.

use crate::ack::Ack;
use crate::auth::Auth;
use crate::connack::Connack;
use crate::connect::Connect;
use crate::disconnect::Disconnect;
use crate::error::{DecodeError, ErrorKind};
use crate::packet::{Packet, PacketType};
use crate::primitive::{Fault, PACKET_BYTES_MAX, Reader, Variable, read_variable};
use crate::publish::{self, Publish};
use crate::suback::{Suback, Unsuback};
use crate::subscribe::Subscribe;
use crate::unsubscribe::Unsubscribe;
use crate::version::ProtocolVersion;

/// Which side of the connection decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads what clients send.
    Server,
    /// Reads what servers send.
    Client,
}

/// The rules by which one side of a connection reads packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoder {
    role: Role,
    version: Option<ProtocolVersion>,
    packet_size_max: u32,
}

/// What the bytes hold.
// The large variant is the usual one.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A complete packet.
    Packet {
        /// The packet.
        packet: Packet<'a>,
        /// How many bytes it took: the next packet begins there.
        length: usize,
    },
    /// More bytes are needed.
    Incomplete {
        /// The length of the whole packet once its fixed header is there: a buffer of that size
        /// holds it exactly. It is within the limit of the decoder.
        packet_length: Option<usize>,
    },
}

/// The fixed header of a packet.
struct Header {
    packet: PacketType,
    flags: u8,
    header_length: usize,
    /// Fixed header included.
    length: usize,
    shortest: bool,
}

impl Decoder {
    /// A server's decoder for a new connection: it takes CONNECT and nothing else until
    /// [`set_version`](Self::set_version). Packets above `packet_size_max` bytes, fixed header
    /// included, are refused.
    #[must_use]
    pub const fn server(packet_size_max: u32) -> Self {
        Self { role: Role::Server, version: None, packet_size_max }
    }

    /// A client's decoder: it takes what a server sends to a client of this version.
    #[must_use]
    pub const fn client(version: ProtocolVersion, packet_size_max: u32) -> Self {
        Self { role: Role::Client, version: Some(version), packet_size_max }
    }

    /// The server's decoder after CONNECT: it takes all packets but CONNECT.
    pub const fn set_version(&mut self, version: ProtocolVersion) {
        self.version = Some(version);
    }

    /// The version, `None` before CONNECT.
    #[must_use]
    pub const fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Which side decodes.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The longest packet taken.
    #[must_use]
    pub const fn packet_size_max(&self) -> u32 {
        self.packet_size_max
    }

    /// Changes the limit, when the tenant of the client is known.
    pub const fn set_packet_size_max(&mut self, packet_size_max: u32) {
        self.packet_size_max = packet_size_max;
    }

    /// Reads the packet at the head of `bytes`. Bytes behind it are not looked at.
    #[inline]
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Decoded<'a>, DecodeError> {
        let Some(header) = self.header(bytes)? else {
            return Ok(Decoded::Incomplete { packet_length: None });
        };
        let length = header.length;
        let Some(body) = bytes.get(header.header_length..length) else {
            return Ok(Decoded::Incomplete { packet_length: Some(length) });
        };
        let reader = Reader::new(body, header.header_length);
        let mut version = self.version;
        match body_of(&header, reader, &mut version, self.role) {
            Ok(packet) => Ok(Decoded::Packet { packet, length }),
            Err(Fault { kind, offset }) => {
                Err(DecodeError { kind, packet: Some(header.packet), offset, version })
            }
        }
    }

    /// Everything that the fixed header tells; `None` while it is incomplete.
    #[inline]
    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some((&first, after)) = bytes.split_first() else {
            return Ok(None);
        };
        let packet = self.packet_type(first).map_err(|kind| self.error(kind, first, 0))?;
        let flags = first & 0x0F;
        let (remaining, digits, shortest) = match read_variable(after) {
            None => return Ok(None),
            Some(Variable::Complete { value, length, shortest }) => (value, length, shortest),
            Some(Variable::Endless) => {
                return Err(self.error(ErrorKind::MalformedVariableInteger, first, 1));
            }
        };
        // [MQTT-1.5.5-1] Versions 3.x do not ask for the shortest form.
        if !shortest && self.version == Some(ProtocolVersion::V5) {
            return Err(self.error(ErrorKind::MalformedVariableInteger, first, 1));
        }
        let header_length = 1 + digits;
        let length = header_length + remaining as usize;
        if length > self.packet_size_max as usize {
            return self.too_large(bytes, header_length, length);
        }
        Ok(Some(Header { packet, flags, header_length, length, shortest }))
    }

    /// What the first byte tells.
    #[inline]
    fn packet_type(&self, first: u8) -> Result<PacketType, ErrorKind> {
        let flags = first & 0x0F;
        let unknown = ErrorKind::UnknownPacketType { value: first >> 4 };
        let packet = PacketType::from_u8(first >> 4).ok_or(unknown)?;
        let Some(version) = self.version else {
            return match packet {
                PacketType::Connect if flags == 0 => Ok(packet),
                PacketType::Connect => Err(ErrorKind::ReservedFlags { flags }),
                _ => Err(ErrorKind::ConnectExpected),
            };
        };
        if packet == PacketType::Publish {
            return publish::check_flags(flags).map(|()| packet);
        }
        if packet == PacketType::Auth && !version.is_v5() {
            return Err(unknown);
        }
        check_direction(packet, self.role, version)?;
        // [MQTT-2.1.3-1]; 3.1.1 [MQTT-2.2.2-1] [MQTT-2.2.2-2]
        if flags != packet.fixed_flags() && !is_resent(packet, flags, version) {
            return Err(ErrorKind::ReservedFlags { flags });
        }
        Ok(packet)
    }

    /// A CONNECT is refused as soon as its version is known, because the version decides whether
    /// the client gets an answer; any other packet at once.
    #[cold]
    fn too_large(
        &self,
        bytes: &[u8],
        header_length: usize,
        length: usize,
    ) -> Result<Option<Header>, DecodeError> {
        debug_assert!(length <= PACKET_BYTES_MAX, "four digits cannot say more");
        let kind = ErrorKind::TooLarge {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            packet_size_max: self.packet_size_max,
        };
        let mut error = self.error(kind, bytes[0], 1);
        if self.version.is_none() {
            match asked_version(&bytes[header_length..], length - header_length) {
                Asked::NotYetKnown => return Ok(None),
                Asked::Known(version) => error.version = Some(version),
                Asked::Other => {}
            }
        }
        Err(error)
    }

    #[cold]
    fn error(&self, kind: ErrorKind, first: u8, offset: usize) -> DecodeError {
        let packet = PacketType::from_u8(first >> 4);
        DecodeError { kind, packet, offset, version: self.version }
    }
}

fn check_direction(
    packet: PacketType,
    role: Role,
    version: ProtocolVersion,
) -> Result<(), ErrorKind> {
    let to_server = match packet {
        PacketType::Connect if role == Role::Server => return Err(ErrorKind::SecondConnect),
        PacketType::Connect
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::Pingreq => true,
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            false
        }
        PacketType::Disconnect if !version.is_v5() => true,
        _ => return Ok(()),
    };
    if to_server == (role == Role::Server) {
        return Ok(());
    }
    Err(ErrorKind::WrongDirection)
}

/// MQTT 3.1 lets the sender set DUP on a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE.
fn is_resent(packet: PacketType, flags: u8, version: ProtocolVersion) -> bool {
    let repeats =
        matches!(packet, PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe);
    repeats && version == ProtocolVersion::V31 && flags == 0b1010
}

/// The version that a CONNECT asks for, as far as its first bytes tell.
enum Asked {
    NotYetKnown,
    Known(ProtocolVersion),
    Other,
}

/// `body` is what has come of the `remaining` bytes behind the fixed header.
fn asked_version(body: &[u8], remaining: usize) -> Asked {
    let body = &body[..body.len().min(remaining)];
    for version in ProtocolVersion::ALL {
        let name = version.protocol_name().as_bytes();
        let mut head = vec![0, u8::try_from(name.len()).unwrap_or(0)];
        head.extend_from_slice(name);
        head.push(version.level());
        if body.starts_with(&head) {
            return Asked::Known(version);
        }
        if head.starts_with(body) && body.len() < remaining {
            return Asked::NotYetKnown;
        }
    }
    Asked::Other
}

#[inline]
fn body_of<'a>(
    header: &Header,
    reader: Reader<'a>,
    version: &mut Option<ProtocolVersion>,
    role: Role,
) -> Result<Packet<'a>, Fault> {
    let Some(known) = *version else {
        let connect = Connect::decode(reader, version)?;
        // [MQTT-1.5.5-1] Only now is it known that this rule holds.
        if !header.shortest && connect.version.is_v5() {
            return Err(Fault { kind: ErrorKind::MalformedVariableInteger, offset: 1 });
        }
        return Ok(Packet::Connect(connect));
    };
    if header.packet == PacketType::Publish {
        return Publish::decode(reader, header.flags, known, role).map(Packet::Publish);
    }
    let ack = |reader| Ack::decode(reader, header.packet, known);
    Ok(match header.packet {
        PacketType::Puback => Packet::Puback(ack(reader)?),
        PacketType::Pubrec => Packet::Pubrec(ack(reader)?),
        PacketType::Pubrel => Packet::Pubrel(ack(reader)?),
        PacketType::Pubcomp => Packet::Pubcomp(ack(reader)?),
        _ => return control_body(header.packet, reader, known, role),
    })
}

/// The packets that are rare on a connection.
fn control_body(
    packet: PacketType,
    reader: Reader<'_>,
    version: ProtocolVersion,
    role: Role,
) -> Result<Packet<'_>, Fault> {
    Ok(match packet {
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(reader, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(reader, version)?),
        PacketType::Connack => Packet::Connack(Connack::decode(reader, version)?),
        PacketType::Suback => Packet::Suback(Suback::decode(reader, version)?),
        PacketType::Unsuback => Packet::Unsuback(Unsuback::decode(reader, version)?),
        PacketType::Pingreq => {
            reader.finish()?;
            Packet::Pingreq
        }
        PacketType::Pingresp => {
            reader.finish()?;
            Packet::Pingresp
        }
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(reader, version, role)?),
        PacketType::Auth => Packet::Auth(Auth::decode(reader)?),
        // The first byte was checked; these have their own way.
        PacketType::Connect
        | PacketType::Publish
        | PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubrel
        | PacketType::Pubcomp => return Err(reader.fault(ErrorKind::WrongDirection)),
    })
}
