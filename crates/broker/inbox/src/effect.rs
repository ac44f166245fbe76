//! What the log carries: the effects of what was decided, and their bytes.
//!
//! A command is a version and then effects, which take effect together. They name every key that
//! they touch, so that whoever applies them searches nothing; records are carried as they are
//! stored. The bytes are described in `docs/formats/inbox.md`; a command has one form.

use ratatosk_codec::PacketId;
use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::wire::{Malformed, Parser, put_bytes, put_u64};
use smallvec::SmallVec;

use crate::schema::{BegunRecord, Head, NoteRecord, Position};

/// The version of commands. One of another version is not applied.
pub(crate) const VERSION: u8 = 1;

/// One thing that comes of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    /// The session has this record now.
    Session { inbox: InboxId, record: &'a [u8] },
    /// The session is gone.
    End(End),
    /// The subscription has this record now.
    Subscription { inbox: InboxId, ordinal: u32, record: &'a [u8] },
    /// The subscription is gone.
    Unsubscribed { inbox: InboxId, ordinal: u32 },
    /// A message is in one queue, and stored there.
    Entry { inbox: InboxId, sequence: u64, record: &'a [u8] },
    /// A message is in several queues, and stored under the first.
    Fan { targets: Vec<Target<'a>>, message: &'a [u8] },
    /// Entries are gone: at least one, rising, none behind `position.last`.
    Removed { inbox: InboxId, sequences: SmallVec<[u64; 2]>, position: Position },
    /// So far the queue is.
    Position { inbox: InboxId, position: Position },
    /// The PUBREC of an entry came.
    Received { inbox: InboxId, sequence: u64 },
    /// A QoS 2 message of the client was accepted.
    Accepted { inbox: InboxId, packet_id: PacketId },
    /// Its PUBREL came.
    Released { inbox: InboxId, packet_id: PacketId },
    /// The will has this record now.
    Will { will: InboxId, record: &'a [u8] },
    /// The will is gone.
    WillEnd { will: InboxId },
    /// What nobody refers to is gone: see the coprocessor.
    Sweep { key: &'a [u8] },
    /// A QoS 2 message of the client is going to be queued. So many numbers were given by then.
    Begun { inbox: InboxId, packet_id: PacketId, record: BegunRecord, turn: u64 },
    /// Messages are begun no longer; at the end of the session nothing is left of what was.
    Ceased { inbox: InboxId, packet_ids: Vec<PacketId>, is_end: bool },
    /// The sessions of a partition, which stands for an inbox, have a message.
    Noted { inbox: InboxId, publisher: InboxId, number: u64, record: NoteRecord },
    /// Messages of a publisher do not come again: at least one.
    Unnoted { inbox: InboxId, publisher: InboxId, numbers: Vec<u64> },
}

/// What the end of a session takes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) inbox: InboxId,
    /// The first sequence that may have an entry.
    pub(crate) first: u64,
    /// How many may, from there on.
    pub(crate) count: u32,
    pub(crate) ordinals: Vec<u32>,
    pub(crate) inbound: Vec<PacketId>,
}

/// A queue that shares a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) inbox: InboxId,
    pub(crate) sequence: u64,
    pub(crate) head: Head<'a>,
}

const SESSION: u8 = 1;
const END: u8 = 2;
const SUBSCRIPTION: u8 = 3;
const UNSUBSCRIBED: u8 = 4;
const ENTRY: u8 = 5;
const FAN: u8 = 6;
const REMOVED: u8 = 7;
const POSITION: u8 = 8;
const RECEIVED: u8 = 9;
const ACCEPTED: u8 = 10;
const RELEASED: u8 = 11;
const WILL: u8 = 12;
const WILL_END: u8 = 13;
const SWEEP: u8 = 14;
const BEGUN: u8 = 15;
const CEASED: u8 = 16;
const NOTED: u8 = 17;
const UNNOTED: u8 = 18;
/// [`Effect::Begun`] with choices, or under a number that is not the last.
const CHOSEN: u8 = 19;

/// Reads a whole command.
pub(crate) fn decode(command: &[u8]) -> Result<Vec<Effect<'_>>, Malformed> {
    let mut parser = Parser::new(command);
    if parser.take_u8()? != VERSION {
        return Err(Malformed);
    }
    let mut effects = Vec::new();
    while !parser.is_at_end() {
        effects.push(Effect::take(&mut parser)?);
    }
    Ok(effects)
}

impl<'a> Effect<'a> {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        let mut begin = |tag: u8, inbox: InboxId| {
            into.push(tag);
            put_u64(into, inbox.0);
        };
        match self {
            Effect::Session { inbox, record } => {
                begin(SESSION, *inbox);
                put_bytes(into, record);
            }
            Effect::End(end) => {
                begin(END, end.inbox);
                end.encode(into);
            }
            Effect::Subscription { inbox, ordinal, record } => {
                begin(SUBSCRIPTION, *inbox);
                put_u64(into, (*ordinal).into());
                put_bytes(into, record);
            }
            Effect::Unsubscribed { inbox, ordinal } => {
                begin(UNSUBSCRIBED, *inbox);
                put_u64(into, (*ordinal).into());
            }
            Effect::Entry { inbox, sequence, record } => {
                begin(ENTRY, *inbox);
                put_u64(into, *sequence);
                put_bytes(into, record);
            }
            Effect::Fan { targets, message } => encode_fan(targets, message, into),
            Effect::Removed { inbox, sequences, position } => {
                begin(REMOVED, *inbox);
                encode_removed(sequences, *position, into);
            }
            Effect::Position { inbox, position } => {
                begin(POSITION, *inbox);
                position.encode(into);
            }
            Effect::Received { inbox, sequence } => {
                begin(RECEIVED, *inbox);
                put_u64(into, *sequence);
            }
            Effect::Accepted { inbox, packet_id } => {
                begin(ACCEPTED, *inbox);
                put_u64(into, packet_id.value().into());
            }
            Effect::Released { inbox, packet_id } => {
                begin(RELEASED, *inbox);
                put_u64(into, packet_id.value().into());
            }
            Effect::Will { will, record } => {
                begin(WILL, *will);
                put_bytes(into, record);
            }
            Effect::WillEnd { will } => begin(WILL_END, *will),
            Effect::Sweep { key } => {
                into.push(SWEEP);
                put_bytes(into, key);
            }
            once => once.encode_once(into),
        }
    }

    /// Those by which a message that may come again is queued once.
    fn encode_once(&self, into: &mut Vec<u8>) {
        let mut begin = |tag: u8, inbox: InboxId| {
            into.push(tag);
            put_u64(into, inbox.0);
        };
        match self {
            Effect::Begun { inbox, packet_id, record, turn } => {
                let is_plain = is_plain(record, *turn);
                begin(if is_plain { BEGUN } else { CHOSEN }, *inbox);
                put_u64(into, packet_id.value().into());
                record.encode_head(into);
                if !is_plain {
                    put_u64(into, turn.wrapping_sub(record.last()));
                    record.encode_choices(into);
                }
            }
            Effect::Ceased { inbox, packet_ids, is_end } => {
                begin(CEASED, *inbox);
                into.push(u8::from(*is_end));
                put_packet_ids(packet_ids, into);
            }
            Effect::Noted { inbox, publisher, number, record } => {
                begin(NOTED, *inbox);
                put_u64(into, publisher.0);
                put_u64(into, *number);
                record.encode(into);
            }
            Effect::Unnoted { inbox, publisher, numbers } => {
                begin(UNNOTED, *inbox);
                put_u64(into, publisher.0);
                put_u64(into, numbers.len() as u64);
                numbers.iter().for_each(|number| put_u64(into, *number));
            }
            other => debug_assert!(false, "{other:?} is encoded above"),
        }
    }

    fn take(parser: &mut Parser<'a>) -> Result<Self, Malformed> {
        let tag = parser.take_u8()?;
        if tag == FAN {
            return take_fan(parser);
        }
        if tag == SWEEP {
            return Ok(Effect::Sweep { key: parser.take_bytes()? });
        }
        let inbox = InboxId(parser.take_u64()?);
        Ok(match tag {
            SESSION => Effect::Session { inbox, record: parser.take_bytes()? },
            END => Effect::End(End::take(inbox, parser)?),
            SUBSCRIPTION => {
                let (ordinal, record) = (parser.take()?, parser.take_bytes()?);
                Effect::Subscription { inbox, ordinal, record }
            }
            UNSUBSCRIBED => Effect::Unsubscribed { inbox, ordinal: parser.take()? },
            ENTRY => {
                let (sequence, record) = (parser.take_u64()?, parser.take_bytes()?);
                Effect::Entry { inbox, sequence, record }
            }
            REMOVED => take_removed(inbox, parser)?,
            POSITION => Effect::Position { inbox, position: Position::take(parser)? },
            RECEIVED => Effect::Received { inbox, sequence: parser.take_u64()? },
            ACCEPTED => Effect::Accepted { inbox, packet_id: take_packet_id(parser)? },
            RELEASED => Effect::Released { inbox, packet_id: take_packet_id(parser)? },
            WILL => Effect::Will { will: inbox, record: parser.take_bytes()? },
            WILL_END => Effect::WillEnd { will: inbox },
            _ => Self::take_once(tag, inbox, parser)?,
        })
    }

    fn take_once(tag: u8, inbox: InboxId, parser: &mut Parser<'a>) -> Result<Self, Malformed> {
        Ok(match tag {
            BEGUN => {
                let packet_id = take_packet_id(parser)?;
                let record = BegunRecord::take_head(parser)?;
                let turn = record.number;
                Effect::Begun { inbox, packet_id, record, turn }
            }
            CHOSEN => {
                let packet_id = take_packet_id(parser)?;
                let mut record = BegunRecord::take_head(parser)?;
                let behind = parser.take_u64()?;
                record.take_choices(parser)?;
                let turn = record.last().checked_add(behind).ok_or(Malformed)?;
                if is_plain(&record, turn) {
                    return Err(Malformed);
                }
                Effect::Begun { inbox, packet_id, record, turn }
            }
            CEASED => {
                let is_end = match parser.take_u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed),
                };
                Effect::Ceased { inbox, packet_ids: take_list(parser, take_packet_id)?, is_end }
            }
            NOTED => {
                let (publisher, number) = (InboxId(parser.take_u64()?), parser.take_u64()?);
                Effect::Noted { inbox, publisher, number, record: NoteRecord::take(parser)? }
            }
            UNNOTED => {
                let publisher = InboxId(parser.take_u64()?);
                let numbers = take_list(parser, Parser::take_u64)?;
                if numbers.is_empty() {
                    return Err(Malformed);
                }
                Effect::Unnoted { inbox, publisher, numbers }
            }
            _ => return Err(Malformed),
        })
    }
}

/// Whether a message that is begun has the form that has no choices.
fn is_plain(record: &BegunRecord, turn: u64) -> bool {
    record.choices.is_empty() && record.number == turn
}

impl End {
    fn encode(&self, into: &mut Vec<u8>) {
        put_u64(into, self.first);
        put_u64(into, self.count.into());
        put_u64(into, self.ordinals.len() as u64);
        self.ordinals.iter().for_each(|ordinal| put_u64(into, (*ordinal).into()));
        put_packet_ids(&self.inbound, into);
    }

    fn take(inbox: InboxId, parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        let (first, count): (u64, u32) = (parser.take_u64()?, parser.take()?);
        first.checked_add(count.into()).ok_or(Malformed)?;
        let ordinals = take_list(parser, Parser::take)?;
        let inbound = take_list(parser, take_packet_id)?;
        Ok(End { inbox, first, count, ordinals, inbound })
    }
}

/// A count, and then so many.
fn take_list<'a, T>(
    parser: &mut Parser<'a>,
    take: impl Fn(&mut Parser<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count: usize = parser.take()?;
    // Each takes a byte at least: what is not there needs no room.
    if count > parser.rest().len() {
        return Err(Malformed);
    }
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(take(parser)?);
    }
    Ok(list)
}

fn take_packet_id(parser: &mut Parser<'_>) -> Result<PacketId, Malformed> {
    PacketId::new(parser.take()?).ok_or(Malformed)
}

fn put_packet_ids(packet_ids: &[PacketId], into: &mut Vec<u8>) {
    put_u64(into, packet_ids.len() as u64);
    packet_ids.iter().for_each(|packet_id| put_u64(into, packet_id.value().into()));
}

fn encode_fan(targets: &[Target<'_>], message: &[u8], into: &mut Vec<u8>) {
    into.push(FAN);
    put_u64(into, targets.len() as u64);
    for target in targets {
        put_u64(into, target.inbox.0);
        put_u64(into, target.sequence);
        target.head.encode(into);
    }
    put_bytes(into, message);
}

fn take_fan<'a>(parser: &mut Parser<'a>) -> Result<Effect<'a>, Malformed> {
    let targets = take_list(parser, |parser| {
        let (inbox, sequence) = (InboxId(parser.take_u64()?), parser.take_u64()?);
        Ok(Target { inbox, sequence, head: Head::take(parser)? })
    })?;
    if targets.is_empty() {
        return Err(Malformed);
    }
    Ok(Effect::Fan { targets, message: parser.take_bytes()? })
}

/// The first, the steps to those behind it, and from the last of them to the position.
fn encode_removed(sequences: &[u64], position: Position, into: &mut Vec<u8>) {
    put_u64(into, sequences.len() as u64);
    let mut before = 0;
    for sequence in sequences {
        put_u64(into, sequence.wrapping_sub(before));
        before = *sequence;
    }
    debug_assert!(before <= position.last, "{position:?}");
    put_u64(into, position.last.wrapping_sub(before));
    position.encode_behind(into);
}

fn take_removed<'a>(inbox: InboxId, parser: &mut Parser<'a>) -> Result<Effect<'a>, Malformed> {
    let steps = take_list(parser, Parser::take_u64)?;
    let is_rising = steps.iter().skip(1).all(|step| *step > 0);
    if steps.is_empty() || !is_rising {
        return Err(Malformed);
    }
    let mut sequences = SmallVec::with_capacity(steps.len());
    let mut sequence = 0_u64;
    for step in steps {
        sequence = sequence.checked_add(step).ok_or(Malformed)?;
        sequences.push(sequence);
    }
    let last = sequence.checked_add(parser.take_u64()?).ok_or(Malformed)?;
    let position = Position::take_behind(last, parser)?;
    Ok(Effect::Removed { inbox, sequences, position })
}
