//! An entry of a queue: how its message is to be sent, and the message or where it is.

use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::wire::{Malformed, Parser, put_bytes, put_u64};

use super::{end, flag, flags};

const FLAG_QOS2: u8 = 0x01;
const FLAG_RETAIN: u8 = 0x02;
const FLAG_SUBSCRIPTION: u8 = 0x04;
const FLAG_ORIGIN: u8 = 0x08;
const FLAGS_HEAD: u8 = 0x0F;
const FLAG_ELSEWHERE: u8 = 0x10;
const RECEIVED: u8 = 0x20;

/// How a message is to be sent to one session.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) is_qos2: bool,
    pub(crate) retain: bool,
    /// Never zero.
    pub(crate) subscription_id: Option<u32>,
    /// The shared filter of the group through which it came.
    pub(crate) origin: Option<&'a str>,
}

/// An entry of a queue.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryRecord<'a> {
    /// With its message, which is a [`MessageRecord`](super::MessageRecord).
    Here { head: Head<'a>, message: &'a [u8] },
    /// Its message is under the body of another entry.
    Elsewhere { head: Head<'a>, inbox: InboxId, sequence: u64 },
    /// Its PUBREC came: the message is gone, a PUBREL is owed.
    Received,
}

/// How far a queue is: `begun ≤ sent ≤ last`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last sequence that was handed out for sure.
    pub(crate) begun: u64,
    /// The last that may have been: more than `begun` only after a crash.
    pub(crate) sent: u64,
    /// The last that was given to a message.
    pub(crate) last: u64,
}

impl<'a> Head<'a> {
    fn flags(&self) -> u8 {
        flag(self.is_qos2, FLAG_QOS2)
            | flag(self.retain, FLAG_RETAIN)
            | flag(self.subscription_id.is_some(), FLAG_SUBSCRIPTION)
            | flag(self.origin.is_some(), FLAG_ORIGIN)
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        self.encode_as(self.flags(), into);
    }

    fn encode_as(&self, flags: u8, into: &mut Vec<u8>) {
        into.push(flags);
        if let Some(subscription_id) = self.subscription_id {
            put_u64(into, subscription_id.into());
        }
        if let Some(origin) = self.origin {
            put_bytes(into, origin.as_bytes());
        }
    }

    pub(crate) fn take(parser: &mut Parser<'a>) -> Result<Self, Malformed> {
        let flags = flags(parser.take_u8()?, FLAGS_HEAD)?;
        Self::take_as(flags, parser)
    }

    fn take_as(flags: u8, parser: &mut Parser<'a>) -> Result<Self, Malformed> {
        let subscription_id = match flags & FLAG_SUBSCRIPTION {
            0 => None,
            _ => Some(parser.take()?).filter(|number| *number != 0).map(Some).ok_or(Malformed)?,
        };
        let origin = if flags & FLAG_ORIGIN != 0 { Some(parser.take_str()?) } else { None };
        let (is_qos2, retain) = (flags & FLAG_QOS2 != 0, flags & FLAG_RETAIN != 0);
        Ok(Head { is_qos2, retain, subscription_id, origin })
    }
}

impl<'a> EntryRecord<'a> {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        match self {
            EntryRecord::Here { head, message } => {
                head.encode(into);
                into.extend_from_slice(message);
            }
            EntryRecord::Elsewhere { head, inbox, sequence } => {
                head.encode_as(head.flags() | FLAG_ELSEWHERE, into);
                put_u64(into, inbox.0);
                put_u64(into, *sequence);
            }
            EntryRecord::Received => into.push(RECEIVED),
        }
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let flags = parser.take_u8()?;
        if flags == RECEIVED {
            return end(&parser, EntryRecord::Received);
        }
        let flags = super::flags(flags, FLAGS_HEAD | FLAG_ELSEWHERE)?;
        let head = Head::take_as(flags, &mut parser)?;
        if flags & FLAG_ELSEWHERE == 0 {
            return Ok(EntryRecord::Here { head, message: parser.rest() });
        }
        let (inbox, sequence) = (InboxId(parser.take_u64()?), parser.take_u64()?);
        end(&parser, EntryRecord::Elsewhere { head, inbox, sequence })
    }
}

impl Position {
    pub(crate) fn encode(self, into: &mut Vec<u8>) {
        put_u64(into, self.last);
        self.encode_behind(into);
    }

    pub(crate) fn take(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        let last = parser.take_u64()?;
        Self::take_behind(last, parser)
    }

    /// How far the others are behind `last`.
    pub(crate) fn encode_behind(self, into: &mut Vec<u8>) {
        debug_assert!(self.begun <= self.sent && self.sent <= self.last, "{self:?}");
        put_u64(into, self.last.wrapping_sub(self.sent));
        put_u64(into, self.sent.wrapping_sub(self.begun));
    }

    pub(crate) fn take_behind(last: u64, parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        let sent = last.checked_sub(parser.take_u64()?).ok_or(Malformed)?;
        let begun = sent.checked_sub(parser.take_u64()?).ok_or(Malformed)?;
        Ok(Position { begun, sent, last })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let position = Self::take(&mut parser)?;
        end(&parser, position)
    }
}
