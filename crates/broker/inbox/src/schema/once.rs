//! Records of messages that are queued once although they may be brought again: at the publisher's session, and
//! in each partition that has them.

use ratatosk_engine::wire::{Malformed, Parser, put_u64};

use super::end;

/// A message that was begun.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct BegunRecord {
    /// Which of its session's messages it is.
    pub(crate) number: u64,
    /// A hash of the message.
    pub(crate) mark: u64,
}

/// The last number that a session gave.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct TurnRecord(pub(crate) u64);

/// A message that the sessions of a partition have.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoteRecord {
    /// What is below was known not to come again.
    pub(crate) low: u64,
    /// When it came, in milliseconds since 1970.
    pub(crate) since_ms: u64,
}

impl BegunRecord {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        put_u64(into, self.number);
        into.extend_from_slice(&self.mark.to_be_bytes());
    }

    pub(crate) fn take(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        let number = parser.take_u64()?;
        let mark = parser.take_exactly(8)?.try_into().map_err(|_| Malformed)?;
        Ok(BegunRecord { number, mark: u64::from_be_bytes(mark) })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let record = Self::take(&mut parser)?;
        end(&parser, record)
    }
}

impl TurnRecord {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        put_u64(into, self.0);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let record = TurnRecord(parser.take_u64()?);
        end(&parser, record)
    }
}

impl NoteRecord {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        put_u64(into, self.low);
        put_u64(into, self.since_ms);
    }

    pub(crate) fn take(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(NoteRecord { low: parser.take_u64()?, since_ms: parser.take_u64()? })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let record = Self::take(&mut parser)?;
        end(&parser, record)
    }
}
