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
use crate::reason::ReasonCode;
use crate::suback::{Suback, Unsuback};
use crate::subscribe::Subscribe;
use crate::unsubscribe::Unsubscribe;
use crate::version::{PacketId, ProtocolVersion};

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
    /// What `role` and `version` make of a first byte.
    first_bytes: &'static FirstBytes,
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
#[derive(Clone, Copy)]
struct Header {
    packet: PacketType,
    flags: u8,
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
        let first_bytes = FirstBytes::of(Role::Server, None);
        Self { role: Role::Server, version: None, packet_size_max, first_bytes }
    }

    /// A client's decoder: it takes what a server sends to a client of this version.
    #[must_use]
    pub const fn client(version: ProtocolVersion, packet_size_max: u32) -> Self {
        let version = Some(version);
        let first_bytes = FirstBytes::of(Role::Client, version);
        Self { role: Role::Client, version, packet_size_max, first_bytes }
    }

    /// The server's decoder after CONNECT: it takes all packets but CONNECT.
    pub const fn set_version(&mut self, version: ProtocolVersion) {
        self.version = Some(version);
        self.first_bytes = FirstBytes::of(self.role, self.version);
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
    // Every path builds its result in the caller's place and small values stay in registers: to
    // move a packet from enum to enum costs more than to read it.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Decoded<'a>, DecodeError> {
        let Some((&first, after)) = bytes.split_first() else {
            return Ok(Decoded::Incomplete { packet_length: None });
        };
        let Some(packet) = self.first_bytes.packet_type(first) else {
            return Err(self.refusal(first));
        };
        let (remaining, digits, shortest) = match read_variable(after) {
            None => return Ok(Decoded::Incomplete { packet_length: None }),
            Some(Variable::Complete { value, length, shortest }) => (value, length, shortest),
            Some(Variable::Endless) => return Err(self.malformed_length(packet)),
        };
        // [MQTT-1.5.5-1] Versions 3.x do not ask for the shortest form.
        if !shortest && self.version == Some(ProtocolVersion::V5) {
            return Err(self.malformed_length(packet));
        }
        let header_length = 1 + digits;
        let length = header_length + remaining as usize;
        // [MQTT-3.2.2-15]
        if length > self.packet_size_max as usize {
            return self.too_large(packet, bytes, header_length, length);
        }
        let Some(body) = bytes.get(header_length..length) else {
            return Ok(Decoded::Incomplete { packet_length: Some(length) });
        };
        let reader = Reader::new(body, header_length);
        let flags = first & 0x0F;
        let header = Header { packet, flags, length, shortest };
        let Some(version) = self.version else {
            return self.connect(header, reader);
        };
        match packet {
            PacketType::Publish => self.publish(header, reader, version),
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                self.ack(header, reader, version)
            }
            _ => self.control(header, reader, version),
        }
    }

    fn publish<'a>(
        &self,
        header: Header,
        reader: Reader<'a>,
        version: ProtocolVersion,
    ) -> Result<Decoded<'a>, DecodeError> {
        match Publish::decode(reader, header.flags, version, self.role) {
            Ok(publish) => {
                Ok(Decoded::Packet { packet: Packet::Publish(publish), length: header.length })
            }
            Err(fault) => Err(self.error_of(fault, header.packet)),
        }
    }

    #[inline]
    fn ack<'a>(
        &self,
        header: Header,
        reader: Reader<'a>,
        version: ProtocolVersion,
    ) -> Result<Decoded<'a>, DecodeError> {
        let length = header.length;
        if let &[high, low] = reader.rest()
            && let Some(packet_id) = PacketId::new(u16::from_be_bytes([high, low]))
        {
            let ack = Ack::new(packet_id, ReasonCode::Success);
            return Ok(Decoded::Packet { packet: ack_packet(header.packet, ack), length });
        }
        match Ack::decode(reader, header.packet, version) {
            Ok(ack) => Ok(Decoded::Packet { packet: ack_packet(header.packet, ack), length }),
            Err(fault) => Err(self.error_of(fault, header.packet)),
        }
    }

    fn control<'a>(
        &self,
        header: Header,
        reader: Reader<'a>,
        version: ProtocolVersion,
    ) -> Result<Decoded<'a>, DecodeError> {
        match control_body(header.packet, reader, version, self.role) {
            Ok(packet) => Ok(Decoded::Packet { packet, length: header.length }),
            Err(fault) => Err(self.error_of(fault, header.packet)),
        }
    }

    /// The first packet: an error tells the version as soon as it was read.
    fn connect<'a>(&self, header: Header, reader: Reader<'a>) -> Result<Decoded<'a>, DecodeError> {
        let mut version = None;
        let connect = match Connect::decode(reader, &mut version) {
            // [MQTT-1.5.5-1] Only now is it known that this rule holds.
            Ok(connect) if !header.shortest && connect.version.is_v5() => {
                Err(Fault { kind: ErrorKind::MalformedVariableInteger, offset: 1 })
            }
            other => other,
        };
        match connect {
            Ok(connect) => {
                Ok(Decoded::Packet { packet: Packet::Connect(connect), length: header.length })
            }
            Err(fault) => Err(DecodeError { version, ..self.error_of(fault, header.packet) }),
        }
    }

    /// A CONNECT is refused as soon as its version is known, because the version decides whether
    /// the client gets an answer; any other packet at once.
    #[cold]
    fn too_large(
        &self,
        packet: PacketType,
        bytes: &[u8],
        header_length: usize,
        length: usize,
    ) -> Result<Decoded<'static>, DecodeError> {
        debug_assert!(length <= PACKET_BYTES_MAX, "four digits cannot say more");
        let kind = ErrorKind::TooLarge {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            packet_size_max: self.packet_size_max,
        };
        let mut error = self.error_of(Fault { kind, offset: 1 }, packet);
        if self.version.is_none() {
            match asked_version(&bytes[header_length..], length - header_length) {
                Asked::NotYetKnown => return Ok(Decoded::Incomplete { packet_length: None }),
                Asked::Known(version) => error.version = Some(version),
                Asked::Other => {}
            }
        }
        Err(error)
    }

    #[cold]
    fn malformed_length(&self, packet: PacketType) -> DecodeError {
        self.error_of(Fault { kind: ErrorKind::MalformedVariableInteger, offset: 1 }, packet)
    }

    /// Why the first byte is not taken.
    #[cold]
    fn refusal(&self, first: u8) -> DecodeError {
        let kind = check_first_byte(first, self.role, self.version);
        let kind = kind.unwrap_or(ErrorKind::UnknownPacketType { value: first >> 4 });
        let packet = PacketType::from_u8(first >> 4);
        DecodeError { kind, packet, offset: 0, version: self.version }
    }

    #[cold]
    fn error_of(&self, fault: Fault, packet: PacketType) -> DecodeError {
        let Fault { kind, offset } = fault;
        DecodeError { kind, packet: Some(packet), offset, version: self.version }
    }
}

/// The first bytes that are taken, as computed by [`check_first_byte`]: for each packet type, bit
/// `n` says whether its flags may be `n`.
#[derive(Debug, PartialEq, Eq)]
struct FirstBytes([u16; 16]);

impl FirstBytes {
    const fn of(role: Role, version: Option<ProtocolVersion>) -> &'static Self {
        use ProtocolVersion::{V5, V31, V311};
        const fn new(role: Role, version: Option<ProtocolVersion>) -> FirstBytes {
            let mut table = [0; 16];
            let mut first = 0u8;
            loop {
                if check_first_byte(first, role, version).is_none() {
                    table[(first >> 4) as usize] |= 1 << (first & 0x0F);
                }
                if first == u8::MAX {
                    return FirstBytes(table);
                }
                first += 1;
            }
        }
        match (role, version) {
            (Role::Server, None) => const { &new(Role::Server, None) },
            (Role::Server, Some(V31)) => const { &new(Role::Server, Some(V31)) },
            (Role::Server, Some(V311)) => const { &new(Role::Server, Some(V311)) },
            (Role::Server, Some(V5)) => const { &new(Role::Server, Some(V5)) },
            (Role::Client, Some(V31)) => const { &new(Role::Client, Some(V31)) },
            (Role::Client, Some(V311)) => const { &new(Role::Client, Some(V311)) },
            (Role::Client, Some(V5) | None) => const { &new(Role::Client, Some(V5)) },
        }
    }

    #[inline]
    fn packet_type(&self, first: u8) -> Option<PacketType> {
        let flags = self.0[usize::from(first >> 4)];
        let is_taken = flags >> (first & 0x0F) & 1 == 1;
        if is_taken { PacketType::from_u8(first >> 4) } else { None }
    }
}

/// What is wrong with a first byte.
const fn check_first_byte(
    first: u8,
    role: Role,
    version: Option<ProtocolVersion>,
) -> Option<ErrorKind> {
    let flags = first & 0x0F;
    let unknown = Some(ErrorKind::UnknownPacketType { value: first >> 4 });
    let Some(packet) = PacketType::from_u8(first >> 4) else {
        return unknown;
    };
    let Some(version) = version else {
        return match packet {
            PacketType::Connect if flags == 0 => None,
            PacketType::Connect => Some(ErrorKind::ReservedFlags { flags }),
            _ => Some(ErrorKind::ConnectExpected),
        };
    };
    match packet {
        PacketType::Publish => return publish::check_flags(flags),
        PacketType::Auth if !version.is_v5() => return unknown,
        _ => {}
    }
    if let Some(kind) = check_direction(packet, role, version) {
        return Some(kind);
    }
    // [MQTT-2.1.3-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]; 3.1.1
    // MQTT-2.2.2-1 [MQTT-2.2.2-2]
    if flags != packet.fixed_flags() && !is_resent(packet, flags, version) {
        return Some(ErrorKind::ReservedFlags { flags });
    }
    None
}

const fn check_direction(
    packet: PacketType,
    role: Role,
    version: ProtocolVersion,
) -> Option<ErrorKind> {
    let is_server = matches!(role, Role::Server);
    let to_server = match packet {
        PacketType::Connect if is_server => return Some(ErrorKind::SecondConnect),
        PacketType::Connect
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::Pingreq => true,
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            false
        }
        PacketType::Disconnect if !version.is_v5() => true,
        _ => return None,
    };
    if to_server == is_server { None } else { Some(ErrorKind::WrongDirection) }
}

/// MQTT 3.1 lets the sender set DUP on a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE.
const fn is_resent(packet: PacketType, flags: u8, version: ProtocolVersion) -> bool {
    let repeats =
        matches!(packet, PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe);
    repeats && matches!(version, ProtocolVersion::V31) && flags == 0b1010
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
        // Two bytes of length, the longest name, the level.
        let mut head = [0; 9];
        let end = 2 + name.len();
        head[1] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        head[2..end].copy_from_slice(name);
        head[end] = version.level();
        let head = &head[..=end];
        if body.starts_with(head) {
            return Asked::Known(version);
        }
        if head.starts_with(body) && body.len() < remaining {
            return Asked::NotYetKnown;
        }
    }
    Asked::Other
}

#[inline]
fn ack_packet(packet: PacketType, ack: Ack<'_>) -> Packet<'_> {
    match packet {
        PacketType::Puback => Packet::Puback(ack),
        PacketType::Pubrec => Packet::Pubrec(ack),
        PacketType::Pubrel => Packet::Pubrel(ack),
        _ => Packet::Pubcomp(ack),
    }
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
