//! Commands of retained messages: what was decided, in the bytes of the log.
//!
//! A command belongs to one tenant and has one effect or more, which are carried out together.
//! The bytes are specified in `docs/formats/retain.md`. A command has one form: what decodes is
//! what would be encoded.
//!
//! A single node removes: what it decides is in the order of the log. Where several nodes decide, a topic is
//! cleared, whatever it has, and what has expired is ended, which is that message and no newer one.

use bytes::Bytes;
use ratatosk_engine::wire::{Malformed, Parser, put_bytes};

use crate::schema::{
    message::{Record, TENANT_BYTES_MAX, TopicHash},
    stamp::Stamp,
};

/// The first byte of every command.
const VERSION: u8 = 1;
const PUT: u8 = 1;
const REMOVED: u8 = 2;
const CLEARED: u8 = 3;
const ENDED: u8 = 4;

/// A command that is being written.
#[derive(Debug)]
pub(crate) struct Draft(Vec<u8>);

impl Draft {
    /// A command of the tenant, without effects yet.
    pub(crate) fn of(tenant: &str) -> Self {
        debug_assert!(tenant.len() <= TENANT_BYTES_MAX, "the tenant fits into a key");
        let mut bytes = vec![VERSION];
        put_bytes(&mut bytes, tenant.as_bytes());
        Draft(bytes)
    }

    /// The topic has this message from now on.
    #[must_use]
    pub(crate) fn put(mut self, record: &Record<'_>) -> Self {
        self.0.push(PUT);
        record.put(&mut self.0);
        self
    }

    /// The topic has no message from now on.
    #[must_use]
    pub(crate) fn removed(mut self, topic: TopicHash) -> Self {
        self.0.push(REMOVED);
        self.0.extend_from_slice(topic.as_bytes());
        self
    }

    /// The topic has no message from now on, by this change.
    #[must_use]
    pub(crate) fn cleared(mut self, topic: &str, stamp: Stamp) -> Self {
        self.0.push(CLEARED);
        stamp.put(&mut self.0);
        put_bytes(&mut self.0, topic.as_bytes());
        self
    }

    /// The topic's message of this stamp is over; one of another stamp stays.
    #[must_use]
    pub(crate) fn ended(mut self, topic: TopicHash, stamp: Option<Stamp>) -> Self {
        self.0.push(ENDED);
        self.0.extend_from_slice(topic.as_bytes());
        Stamp::put_or_none(stamp, &mut self.0);
        self
    }

    /// An effect as it was read.
    #[must_use]
    pub(crate) fn effect(mut self, effect: &Effect<'_>) -> Self {
        match *effect {
            Effect::Put { value, .. } => {
                self.0.push(PUT);
                put_bytes(&mut self.0, value);
                self
            }
            Effect::Removed(topic) => self.removed(topic),
            Effect::Cleared { topic, stamp } => self.cleared(topic, stamp),
            Effect::Ended { topic, stamp } => self.ended(topic, stamp),
        }
    }

    /// The bytes of the command.
    pub(crate) fn finish(self) -> Bytes {
        self.0.into()
    }
}

/// A command that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command<'a> {
    pub(crate) tenant: &'a str,
    /// One at least.
    pub(crate) effects: Vec<Effect<'a>>,
}

/// What becomes of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    /// It has this message from now on.
    Put {
        /// The message.
        record: Record<'a>,
        /// The bytes of the record, which are kept as they are.
        value: &'a [u8],
    },
    /// It has none from now on.
    Removed(TopicHash),
    /// It has none from now on, because somebody cleared it.
    Cleared {
        /// The topic.
        topic: &'a str,
        /// Which change it is.
        stamp: Stamp,
    },
    /// It has none from now on, if the one that it has is meant.
    Ended {
        /// The topic.
        topic: TopicHash,
        /// The message's stamp.
        stamp: Option<Stamp>,
    },
}

impl<'a> Command<'a> {
    /// Reads a command. Copies none of its bytes, and an effect takes memory only once its bytes
    /// were seen.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        if parser.take_u8()? != VERSION {
            return Err(Malformed);
        }
        let tenant = parser.take_str()?;
        if tenant.len() > TENANT_BYTES_MAX {
            return Err(Malformed);
        }
        let mut effects = vec![Effect::take(&mut parser)?];
        while !parser.is_at_end() {
            effects.push(Effect::take(&mut parser)?);
        }
        Ok(Command { tenant, effects })
    }
}

impl<'a> Effect<'a> {
    fn take(parser: &mut Parser<'a>) -> Result<Self, Malformed> {
        match parser.take_u8()? {
            PUT => {
                let value = parser.take_bytes()?;
                Ok(Effect::Put { record: Record::decode(value)?, value })
            }
            REMOVED => Ok(Effect::Removed(TopicHash::take(parser)?)),
            CLEARED => {
                let stamp = Stamp::take(parser)?;
                Ok(Effect::Cleared { topic: parser.take_str()?, stamp })
            }
            ENDED => {
                let topic = TopicHash::take(parser)?;
                Ok(Effect::Ended { topic, stamp: Stamp::take_or_none(parser)? })
            }
            _ => Err(Malformed),
        }
    }

    /// The topic.
    pub(crate) fn topic(&self) -> TopicHash {
        match self {
            Effect::Put { record, .. } => TopicHash::of(record.topic),
            Effect::Cleared { topic, .. } => TopicHash::of(topic),
            Effect::Removed(topic) | Effect::Ended { topic, .. } => *topic,
        }
    }
}
