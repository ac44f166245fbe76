//! Commands of routes: what was decided, in the bytes of the log.
//!
//! A command belongs to one tenant and has one effect or more. The bytes are specified in
//! `docs/formats/dist.md`. A command has one form: what decodes is what would be encoded.

use bytes::Bytes;
use ratatosk_contract::inbox::InboxId;
use ratatosk_engine::wire::{Malformed, Parser, put_bytes, put_u64};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::schema::{Kept, TENANT_BYTES_MAX, key, put_kept, take_kept};

/// The first byte of every command.
const VERSION: u8 = 1;
const ADDED: u8 = 1;
const REMOVED: u8 = 2;

/// Which route: its filter, and who receives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    pub(crate) filter: TopicFilter<'a>,
    /// The number as a member, if the filter is shared.
    pub(crate) member: Option<u64>,
    /// The session, and its incarnation.
    pub(crate) inbox: InboxId,
}

impl Name<'_> {
    /// The receiver in the key.
    pub(crate) fn number(&self) -> u64 {
        self.member.unwrap_or(self.inbox.0)
    }
}

/// What becomes of one route.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    /// It is there, unless a later life has it.
    Added {
        filter: TopicFilter<'a>,
        /// The number as a member, if the filter is shared.
        member: Option<u64>,
        kept: Kept,
    },
    /// It is gone, unless a later life has it.
    Removed(Name<'a>),
}

/// A command that is being written.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    tenant: &'a str,
    bytes: Vec<u8>,
    /// Of the first effect: it says to which range the command goes.
    key: Vec<u8>,
}

/// A command that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command<'a> {
    pub(crate) tenant: &'a str,
    /// One at least.
    pub(crate) effects: Vec<Effect<'a>>,
}

impl<'a> Draft<'a> {
    /// A command of the tenant, without effects yet.
    pub(crate) fn of(tenant: &'a str) -> Self {
        assert!(tenant.len() <= TENANT_BYTES_MAX, "the tenant fits into a key");
        let mut bytes = Vec::with_capacity(64);
        bytes.push(VERSION);
        put_bytes(&mut bytes, tenant.as_bytes());
        Draft { tenant, bytes, key: Vec::new() }
    }

    pub(crate) fn push(&mut self, effect: &Effect<'_>) {
        if self.is_empty() {
            self.key = effect.key(self.tenant);
        }
        effect.encode(&mut self.bytes);
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.key.is_empty()
    }

    /// The bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The key of the first effect, and the bytes of the command.
    pub(crate) fn finish(self) -> (Vec<u8>, Bytes) {
        (self.key, self.bytes.into())
    }
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
        let tag = parser.take_u8()?;
        let text = parser.take_str()?;
        let filter = TopicFilter::parse(text, &TopicLimits::PROTOCOL).map_err(|_| Malformed)?;
        let is_shared = filter.share().is_some();
        let number = parser.take_exactly(8)?.first_chunk().ok_or(Malformed)?;
        let number = u64::from_be_bytes(*number);
        let member = is_shared.then_some(number);
        match tag {
            ADDED => {
                let kept = take_kept(parser, is_shared, number)?;
                Ok(Effect::Added { filter, member, kept })
            }
            REMOVED => {
                let inbox = InboxId(if is_shared { parser.take_u64()? } else { number });
                Ok(Effect::Removed(Name { filter, member, inbox }))
            }
            _ => Err(Malformed),
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let name = self.name();
        into.push(if matches!(self, Effect::Added { .. }) { ADDED } else { REMOVED });
        put_bytes(into, name.filter.as_str().as_bytes());
        into.extend_from_slice(&name.number().to_be_bytes());
        match self {
            Effect::Added { filter, kept, .. } => put_kept(*filter, kept, into),
            Effect::Removed(name) if name.member.is_some() => put_u64(into, name.inbox.0),
            Effect::Removed(_) => {}
        }
    }

    /// The route.
    pub(crate) fn name(&self) -> Name<'a> {
        match *self {
            Effect::Added { filter, member, kept } => Name { filter, member, inbox: kept.inbox },
            Effect::Removed(name) => name,
        }
    }

    /// The route's key.
    pub(crate) fn key(&self, tenant: &str) -> Vec<u8> {
        let name = self.name();
        debug_assert_eq!(name.member.is_some(), name.filter.share().is_some());
        key(tenant, name.filter, name.number())
    }
}
