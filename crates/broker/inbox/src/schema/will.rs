//! A will: registered while its client is connected, waiting, or due.

use ratatosk_clock::Timestamp;
use ratatosk_contract::{SessionIdentity, inbox::InboxId};
use ratatosk_engine::wire::{Malformed, Parser, put_u64};

use super::{flag, flags, put_identity, take_identity};

const FLAG_USER: u8 = 0x01;
const FLAG_SESSION: u8 = 0x02;
const FLAG_DUE: u8 = 0x04;
const FLAGS: u8 = 0x07;

/// A will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WillRecord<'a> {
    pub(crate) identity: SessionIdentity,
    /// The persistent session whose end makes it due.
    pub(crate) session: Option<InboxId>,
    pub(crate) delay_s: u32,
    /// When it is due; `None` while its client is connected.
    pub(crate) due: Option<Timestamp>,
    /// A [`MessageRecord`](super::MessageRecord). While `due` is not known its deadline is a span,
    /// which begins when it is.
    pub(crate) message: &'a [u8],
}

impl<'a> WillRecord<'a> {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.push(
            flag(self.identity.user.is_some(), FLAG_USER)
                | flag(self.session.is_some(), FLAG_SESSION)
                | flag(self.due.is_some(), FLAG_DUE),
        );
        put_identity(into, &self.identity);
        put_u64(into, self.delay_s.into());
        if let Some(session) = self.session {
            put_u64(into, session.0);
        }
        if let Some(due) = self.due {
            put_u64(into, due.as_millis());
        }
        into.extend_from_slice(self.message);
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let flags = flags(parser.take_u8()?, FLAGS)?;
        let identity = take_identity(&mut parser, flags & FLAG_USER != 0)?;
        let delay_s = parser.take()?;
        let session = match flags & FLAG_SESSION {
            0 => None,
            _ => Some(InboxId(parser.take_u64()?)),
        };
        let due = match flags & FLAG_DUE {
            0 => None,
            _ => Some(Timestamp::from_millis(parser.take_u64()?)),
        };
        Ok(WillRecord { identity, session, delay_s, due, message: parser.rest() })
    }
}
