//! SWIM's messages on the wire, as the library asks for them.
//!
//! A message is a header, a count of updates and the updates; the library puts these together. The
//! bytes are in `docs/formats/gossip.md`.
//!
//! The library has one word for a host that left and one that died. On the wire these are two; which
//! hosts have left is remembered beside the library, in [`Left`].

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use parking_lot::Mutex;

use super::identity::Host;
use super::wire::{Malformed, Reader};

/// Hosts that said themselves that they go.
pub(crate) type Left = Arc<Mutex<BTreeSet<Host>>>;

/// The messages of one version of the format.
#[derive(Clone, Debug, Default)]
pub(crate) struct SwimCodec {
    pub(crate) left: Left,
}

/// What somebody says of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) member: Member<Host>,
    /// It is down because it has left.
    pub(crate) has_left: bool,
}

/// A message, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) header: Header<Host>,
    pub(crate) updates: Vec<Update>,
}

impl Packet {
    /// Reads a whole message. An update takes at least 34 bytes, so the message bounds their number.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Packet, Malformed> {
        let mut reader = Reader::new(bytes);
        let header = decode_header(&mut reader)?;
        let mut updates = Vec::new();
        if !reader.rest().is_empty() {
            let is_bare = matches!(header.message, Message::Announce | Message::TurnUndead);
            if is_bare || header.message == Message::Broadcast {
                return Err(Malformed);
            }
            for _ in 0..reader.u16()? {
                updates.push(Update::decode(&mut reader)?);
            }
        }
        reader.end()?;
        Ok(Packet { header, updates })
    }
}

/// Reads the header of a message that this process made itself.
pub(crate) fn decode_header(reader: &mut Reader<'_>) -> Result<Header<Host>, Malformed> {
    let kind = reader.u8()?;
    let src_incarnation = reader.u16()?;
    let src = Host::decode(reader)?;
    let dst = Host::decode(reader)?;
    let message = match kind {
        1 => Message::Ping(reader.u8()?),
        2 => Message::Ack(reader.u8()?),
        3 => Message::PingReq { target: Host::decode(reader)?, probe_number: reader.u8()? },
        4 => Message::IndirectPing { origin: Host::decode(reader)?, probe_number: reader.u8()? },
        5 => Message::IndirectAck { target: Host::decode(reader)?, probe_number: reader.u8()? },
        6 => Message::ForwardedAck { origin: Host::decode(reader)?, probe_number: reader.u8()? },
        7 => Message::Announce,
        8 => Message::Feed,
        9 => Message::Gossip,
        10 => Message::Broadcast,
        11 => Message::TurnUndead,
        _ => return Err(Malformed),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

fn encode_header(header: &Header<Host>, out: &mut Vec<u8>) {
    let (kind, host, number) = match &header.message {
        Message::Ping(number) => (1, None, Some(number)),
        Message::Ack(number) => (2, None, Some(number)),
        Message::PingReq { target, probe_number } => (3, Some(target), Some(probe_number)),
        Message::IndirectPing { origin, probe_number } => (4, Some(origin), Some(probe_number)),
        Message::IndirectAck { target, probe_number } => (5, Some(target), Some(probe_number)),
        Message::ForwardedAck { origin, probe_number } => (6, Some(origin), Some(probe_number)),
        Message::Announce => (7, None, None),
        Message::Feed => (8, None, None),
        Message::Gossip => (9, None, None),
        Message::Broadcast => (10, None, None),
        Message::TurnUndead => (11, None, None),
    };
    out.push(kind);
    out.extend_from_slice(&header.src_incarnation.to_be_bytes());
    header.src.encode(out);
    header.dst.encode(out);
    if let Some(host) = host {
        host.encode(out);
    }
    out.extend(number);
}

impl Update {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Update, Malformed> {
        let host = Host::decode(reader)?;
        let incarnation = reader.u16()?;
        let (state, has_left) = match reader.u8()? {
            0 => (State::Alive, false),
            1 => (State::Suspect, false),
            2 => (State::Down, false),
            3 => (State::Down, true),
            _ => return Err(Malformed),
        };
        Ok(Update { member: Member::new(host, incarnation, state), has_left })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.member.id().encode(out);
        out.extend_from_slice(&self.member.incarnation().to_be_bytes());
        out.push(match self.member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down if self.has_left => 3,
            State::Down => 2,
        });
    }
}

/// Writes all or nothing.
fn put(mut buffer: impl BufMut, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Malformed> {
    let mut bytes = Vec::with_capacity(128);
    encode(&mut bytes);
    if buffer.remaining_mut() < bytes.len() {
        return Err(Malformed);
    }
    buffer.put_slice(&bytes);
    Ok(())
}

/// Reads one thing off the front; the library gives contiguous buffers.
fn read<T>(
    mut buffer: impl Buf,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let mut reader = Reader::new(buffer.chunk());
    let read = decode(&mut reader)?;
    let count = buffer.chunk().len() - reader.rest().len();
    buffer.advance(count);
    Ok(read)
}

impl foca::Codec<Host> for SwimCodec {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Host>,
        buffer: impl BufMut,
    ) -> Result<(), Malformed> {
        put(buffer, |out| encode_header(header, out))
    }

    fn decode_header(&mut self, buffer: impl Buf) -> Result<Header<Host>, Malformed> {
        read(buffer, decode_header)
    }

    fn encode_member(
        &mut self,
        member: &Member<Host>,
        buffer: impl BufMut,
    ) -> Result<(), Malformed> {
        let has_left = self.left.lock().contains(member.id());
        put(buffer, |out| Update { member: member.clone(), has_left }.encode(out))
    }

    fn decode_member(&mut self, buffer: impl Buf) -> Result<Member<Host>, Malformed> {
        read(buffer, Update::decode).map(|update| update.member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::HostId;

    fn host(last: u8) -> Host {
        let address = std::net::SocketAddr::from(([10, 0, 0, last], 7883));
        Host { address, generation: last.into(), id: HostId::from_bytes([last; 16]) }
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let messages = [
            Message::Ping(7),
            Message::Ack(7),
            Message::PingReq { target: host(3), probe_number: 1 },
            Message::IndirectPing { origin: host(3), probe_number: 2 },
            Message::IndirectAck { target: host(3), probe_number: 3 },
            Message::ForwardedAck { origin: host(3), probe_number: 4 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header { src: host(1), src_incarnation: 513, dst: host(2), message };
            let mut bytes = Vec::new();
            encode_header(&header, &mut bytes);
            let packet = Packet::decode(&bytes);
            assert_eq!(packet, Ok(Packet { header, updates: Vec::new() }));
            for cut in 0..bytes.len() {
                assert_eq!(Packet::decode(&bytes[..cut]), Err(Malformed));
            }
        }
    }

    #[test]
    fn updates_are_read_to_the_last_byte() {
        let message = Message::Gossip;
        let header = Header { src: host(1), src_incarnation: 0, dst: host(2), message };
        let states = [(State::Alive, false), (State::Suspect, false), (State::Down, false)];
        let updates: Vec<Update> = states
            .into_iter()
            .chain([(State::Down, true)])
            .map(|(state, has_left)| Update { member: Member::new(host(4), 9, state), has_left })
            .collect();
        let mut bytes = Vec::new();
        encode_header(&header, &mut bytes);
        bytes.extend_from_slice(&4_u16.to_be_bytes());
        updates.iter().for_each(|update| update.encode(&mut bytes));
        assert_eq!(Packet::decode(&bytes), Ok(Packet { header, updates }));
        bytes.push(0);
        assert_eq!(Packet::decode(&bytes), Err(Malformed));
    }
}
