//! Packets as bytes: one function for each kind each way.
//!
//! A packet is its kind, the length of its body, and the body. A kind that is not known is passed over and
//! counted: every packet may be lost, so nobody takes harm. So are bytes behind what is known of a body: a
//! later version may say more, of which the earlier one need not know. What must not be passed over gets
//! a kind of its own.
//!
//! What is decoded comes from a network: nothing here panics, and what is made takes some megabytes more
//! than the bytes that came, at most. The protobuf library follows nested groups as deep as they go, keeps
//! each field that it does not know in a table, and makes a hundred bytes of an empty entry: so a message
//! is looked through before.

use std::sync::Arc;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use ratatosk_clock::Instant;
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_store::log::GroupId;
use ratatosk_store::machine::{Ask, Beat, Envelope, Loan, Sleep, Token, Verdict};
use ratatosk_store::range::Descriptor;
use ratatosk_store::snapshot::sender::{Parcel, Receipt, Said};
use ratatosk_store::snapshot::stream::{Position, SnapshotId};
use ratatosk_store::transport::Packet;

use crate::editions;

/// Bytes before the body of a packet.
const HEAD: usize = 5;
/// Entries of one message: the library's own limit is in bytes, and an entry has some.
const ENTRIES_MAX: usize = 1 << 16;
/// Fields of one message that are not known: a later version of the library may have some.
const UNKNOWN_MAX: usize = 1 << 10;

/// The kinds. A number is never used for something else.
mod kind {
    pub(super) const RAFT: u8 = 1;
    pub(super) const ASKS: u8 = 2;
    pub(super) const TELLS: u8 = 3;
    pub(super) const URGES: u8 = 4;
    pub(super) const BEAT: u8 = 5;
    pub(super) const SLEEP: u8 = 6;
    pub(super) const BEGIN: u8 = 7;
    pub(super) const PIECE: u8 = 8;
    pub(super) const RECEIPT: u8 = 9;
    pub(super) const BORROWS: u8 = 10;
    pub(super) const LENDS: u8 = 11;
    pub(super) const REACHED: u8 = 12;
    pub(super) const INQUIRES: u8 = 13;
}

/// What came.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The packets, in their order.
    pub packets: Vec<Packet>,
    /// How many there were of kinds that are not known.
    pub unknown: usize,
}

/// Appends a packet.
pub fn encode(packet: &Packet, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&[0; HEAD]);
    let kind = put_body(packet, into);
    let length = u32::try_from(into.len() - start - HEAD);
    let Ok(length) = length else {
        // Nothing in a store comes near to it: it would not be taken.
        into.truncate(start);
        return;
    };
    into[start] = kind;
    into[start + 1..start + HEAD].copy_from_slice(&length.to_be_bytes());
}

/// Reads packets to the end.
///
/// # Errors
/// [`Malformed`] if one of them is not what [`encode`] writes, in this version or a later one.
pub fn decode(data: &Bytes) -> Result<Decoded, Malformed> {
    let (mut decoded, mut rest) = (Decoded::default(), Parser::new(data));
    while !rest.is_at_end() {
        let kind = rest.take_u8()?;
        let head = rest.take_exactly(HEAD - 1)?.try_into().map_err(|_| Malformed)?;
        let length = usize::try_from(u32::from_be_bytes(head)).map_err(|_| Malformed)?;
        let mut body = Parser::new(rest.take_exactly(length)?);
        match take_body(kind, &mut body, data)? {
            Some(packet) => decoded.packets.push(packet),
            None => decoded.unknown += 1,
        }
    }
    Ok(decoded)
}

/// About how many bytes a packet takes, in memory as on the wire.
#[must_use]
pub fn weight(packet: &Packet) -> usize {
    const BASE: usize = 64;
    let of_message = |message: &Message| {
        let entries =
            message.entries.iter().map(|entry| entry.data.len() + entry.context.len() + 16);
        entries.sum::<usize>() + message.context.len() + message.get_snapshot().data.len()
    };
    BASE + match packet {
        Packet::Raft(envelope) => of_message(&envelope.message),
        Packet::Asks(ask) => ask.descriptor.as_ref().map_or(0, |held| held.keyspace.len() + 128),
        Packet::Urges { order, .. } => order.len(),
        Packet::Parcel(Parcel::Begin { envelope, head }) => {
            of_message(&envelope.message) + head.len()
        }
        Packet::Parcel(Parcel::Piece { data, .. }) => data.len(),
        Packet::Receipt(Receipt { said: Said::Has(position), .. }) => position.last_key.len(),
        Packet::Tells { .. }
        | Packet::Beat(_)
        | Packet::Inquires
        | Packet::Sleep(_)
        | Packet::Loan(_)
        | Packet::Receipt(_) => 0,
    }
}

fn put_body(packet: &Packet, into: &mut Vec<u8>) -> u8 {
    match packet {
        Packet::Raft(envelope) => {
            put_envelope(into, envelope);
            kind::RAFT
        }
        Packet::Asks(ask) => {
            put_ask(into, ask);
            kind::ASKS
        }
        Packet::Tells { group, replica, verdict } => {
            wire::put_u64(into, group.0);
            wire::put_u64(into, *replica);
            into.push(match verdict {
                Verdict::Removed => 0,
                Verdict::Merged => 1,
                Verdict::Apart => 2,
            });
            kind::TELLS
        }
        Packet::Urges { group, order } => {
            wire::put_u64(into, group.0);
            wire::put_bytes(into, order);
            kind::URGES
        }
        Packet::Beat(Beat { life, supported }) => {
            wire::put_u64(into, *life);
            editions::put(into, supported);
            kind::BEAT
        }
        Packet::Inquires => kind::INQUIRES,
        Packet::Sleep(Sleep { group, replica, term, index }) => {
            [group.0, *replica, *term, *index]
                .iter()
                .for_each(|number| wire::put_u64(into, *number));
            kind::SLEEP
        }
        Packet::Loan(loan) => put_loan(into, loan),
        Packet::Parcel(Parcel::Begin { envelope, head }) => {
            wire::put_bytes(into, head);
            put_envelope(into, envelope);
            kind::BEGIN
        }
        Packet::Parcel(Parcel::Piece { group, id, data }) => {
            wire::put_u64(into, group.0);
            put_id(into, *id);
            wire::put_bytes(into, data);
            kind::PIECE
        }
        Packet::Receipt(receipt) => {
            put_receipt(into, receipt);
            kind::RECEIPT
        }
    }
}

/// The packet of a body; `None` if its kind is not known.
fn take_body(kind: u8, body: &mut Parser<'_>, whole: &Bytes) -> Result<Option<Packet>, Malformed> {
    Ok(Some(match kind {
        kind::RAFT => {
            let envelope = take_envelope(body)?;
            is_none_of_raft(&envelope, MessageType::MsgSnapshot)?;
            Packet::Raft(envelope)
        }
        kind::ASKS => Packet::Asks(take_ask(body)?),
        kind::TELLS => Packet::Tells {
            group: GroupId(body.take_u64()?),
            replica: body.take_u64()?,
            verdict: match body.take_u8()? {
                0 => Verdict::Removed,
                1 => Verdict::Merged,
                2 => Verdict::Apart,
                _ => return Ok(None),
            },
        },
        kind::URGES => {
            let group = GroupId(body.take_u64()?);
            Packet::Urges { group, order: body.take_bytes()?.to_vec() }
        }
        kind::BEAT => {
            let life = body.take_u64()?;
            Packet::Beat(Beat { life, supported: Arc::new(editions::take(body)?) })
        }
        kind::INQUIRES => Packet::Inquires,
        kind::SLEEP => Packet::Sleep(Sleep {
            group: GroupId(body.take_u64()?),
            replica: body.take_u64()?,
            term: body.take_u64()?,
            index: body.take_u64()?,
        }),
        kind::BORROWS | kind::LENDS | kind::REACHED => Packet::Loan(take_loan(kind, body)?),
        kind::BEGIN => {
            let head = whole.slice_ref(body.take_bytes()?);
            let envelope = Box::new(take_envelope(body)?);
            if envelope.message.get_msg_type() != MessageType::MsgSnapshot {
                return Err(Malformed);
            }
            Packet::Parcel(Parcel::Begin { envelope, head })
        }
        kind::PIECE => Packet::Parcel(Parcel::Piece {
            group: GroupId(body.take_u64()?),
            id: take_id(body)?,
            data: whole.slice_ref(body.take_bytes()?),
        }),
        kind::RECEIPT => match take_receipt(body)? {
            Some(receipt) => Packet::Receipt(receipt),
            None => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn put_envelope(into: &mut Vec<u8>, envelope: &Envelope) {
    wire::put_u64(into, envelope.group.0);
    wire::put_u64(into, envelope.message.compute_size().into());
    // A vector takes all that it is given.
    let _ = envelope.message.write_to_vec(into);
}

fn take_envelope(body: &mut Parser<'_>) -> Result<Envelope, Malformed> {
    let group = GroupId(body.take_u64()?);
    let bytes = body.take_bytes()?;
    look_through(bytes, Shape::Message)?;
    let message = Message::parse_from_bytes(bytes).map_err(|_| Malformed)?;
    Ok(Envelope { group, message })
}

/// What a library says to itself is not taken from others, nor what goes another way.
fn is_none_of_raft(envelope: &Envelope, other: MessageType) -> Result<(), Malformed> {
    let own = [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        other,
    ];
    if own.contains(&envelope.message.get_msg_type()) { Err(Malformed) } else { Ok(()) }
}

/// The messages of the library, as far as one can be in another.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Shape {
    Message,
    Snapshot,
    Metadata,
    /// Has none in it.
    Flat,
}

impl Shape {
    fn of_field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Message, 7) | (Self::Metadata, 1) => Some(Self::Flat),
            (Self::Message, 9) => Some(Self::Snapshot),
            (Self::Snapshot, 2) => Some(Self::Metadata),
            _ => None,
        }
    }

    /// The greatest number of a field that it has.
    const fn last_field(self) -> u64 {
        match self {
            Self::Message => 16,
            Self::Snapshot => 2,
            Self::Metadata => 3,
            Self::Flat => 6,
        }
    }
}

/// Whether the bytes of a message have fields that are known, but for a few, and no groups.
fn look_through(bytes: &[u8], shape: Shape) -> Result<(), Malformed> {
    let (mut unknown, mut entries) = (0, 0);
    let mut pending = vec![(bytes, shape)];
    while let Some((bytes, shape)) = pending.pop() {
        let mut rest = bytes;
        while !rest.is_empty() {
            let tag = varint(&mut rest)?;
            let number = tag >> 3;
            unknown += usize::from(number > shape.last_field());
            match tag & 7 {
                0 => drop(varint(&mut rest)?),
                1 => drop(cut(&mut rest, 8)?),
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed)?;
                    let inner = cut(&mut rest, length)?;
                    if let Some(inner_shape) = shape.of_field(number) {
                        entries += usize::from(shape == Shape::Message);
                        pending.push((inner, inner_shape));
                    }
                }
                5 => drop(cut(&mut rest, 4)?),
                _ => return Err(Malformed),
            }
            if unknown > UNKNOWN_MAX || entries > ENTRIES_MAX {
                return Err(Malformed);
            }
        }
    }
    Ok(())
}

/// A number of the library, which need not be in its shortest form.
fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first().ok_or(Malformed)?;
        *rest = behind;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn cut<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, behind) = rest.split_at_checked(count).ok_or(Malformed)?;
    *rest = behind;
    Ok(taken)
}

fn put_ask(into: &mut Vec<u8>, ask: &Ask) {
    wire::put_u64(into, ask.group.0);
    wire::put_u64(into, ask.replica);
    match &ask.descriptor {
        None => into.push(0),
        Some(descriptor) => {
            into.push(1);
            wire::put_bytes(into, &descriptor.encode());
        }
    }
}

fn take_ask(body: &mut Parser<'_>) -> Result<Ask, Malformed> {
    let (group, replica) = (GroupId(body.take_u64()?), body.take_u64()?);
    let descriptor = match body.take_u8()? {
        0 => None,
        1 => Some(Box::new(Descriptor::decode(group, body.take_bytes()?)?)),
        _ => return Err(Malformed),
    };
    Ok(Ask { group, replica, descriptor })
}

fn put_loan(into: &mut Vec<u8>, loan: &Loan) -> u8 {
    let (kind, group, replica, index, token) = match loan {
        Loan::Asks { group, replica, applied, token } => {
            (kind::BORROWS, group, replica, applied, Some(token))
        }
        Loan::Lends { group, replica, index, token } => {
            (kind::LENDS, group, replica, index, Some(token))
        }
        Loan::Reached { group, replica, index } => (kind::REACHED, group, replica, index, None),
    };
    [group.0, *replica, *index].iter().for_each(|number| wire::put_u64(into, *number));
    if let Some(Token { life, asked }) = token {
        wire::put_u64(into, *life);
        wire::put_u64(into, asked.as_nanos());
    }
    kind
}

fn take_loan(kind: u8, body: &mut Parser<'_>) -> Result<Loan, Malformed> {
    let (group, replica, index) = (GroupId(body.take_u64()?), body.take_u64()?, body.take_u64()?);
    if kind == kind::REACHED {
        return Ok(Loan::Reached { group, replica, index });
    }
    let token = Token { life: body.take_u64()?, asked: Instant::from_nanos(body.take_u64()?) };
    Ok(match kind {
        kind::BORROWS => Loan::Asks { group, replica, applied: index, token },
        _ => Loan::Lends { group, replica, index, token },
    })
}

fn put_id(into: &mut Vec<u8>, id: SnapshotId) {
    wire::put_u64(into, id.store);
    wire::put_u64(into, id.number);
}

fn take_id(body: &mut Parser<'_>) -> Result<SnapshotId, Malformed> {
    Ok(SnapshotId { store: body.take_u64()?, number: body.take_u64()? })
}

fn put_receipt(into: &mut Vec<u8>, Receipt { group, id, said }: &Receipt) {
    wire::put_u64(into, group.0);
    put_id(into, *id);
    match said {
        Said::Arrived => into.push(0),
        Said::Unknown => into.push(1),
        Said::Refused => into.push(2),
        Said::Has(Position { chunks, last_key, pairs, bytes, sum }) => {
            into.push(3);
            wire::put_u64(into, *chunks);
            wire::put_bytes(into, last_key);
            wire::put_u64(into, *pairs);
            wire::put_u64(into, *bytes);
            wire::put_u64(into, u64::from(*sum));
        }
    }
}

fn take_receipt(body: &mut Parser<'_>) -> Result<Option<Receipt>, Malformed> {
    let (group, id) = (GroupId(body.take_u64()?), take_id(body)?);
    let said = match body.take_u8()? {
        0 => Said::Arrived,
        1 => Said::Unknown,
        2 => Said::Refused,
        3 => Said::Has(Position {
            chunks: body.take_u64()?,
            last_key: Bytes::copy_from_slice(body.take_bytes()?),
            pairs: body.take_u64()?,
            bytes: body.take_u64()?,
            sum: body.take()?,
        }),
        _ => return Ok(None),
    };
    Ok(Some(Receipt { group, id, said }))
}

#[cfg(test)]
#[path = "packet_test.rs"]
mod tests;
