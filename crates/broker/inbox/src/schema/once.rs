//! Records of messages that are queued once although they may be brought again: at the publisher's session, and
//! in each partition that has them.

use ratatosk_contract::{
    inbox::InboxId,
    serving::{Choice, GroupMark, Wish},
};
use ratatosk_engine::wire::{Malformed, Parser, put_u64};

use super::end;

/// How many choices are kept of one message. Who else was chosen may be another one the next time.
pub(crate) const CHOICES_MAX: usize = 64;

/// A message that was begun. The numbers of its choices are not below its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BegunRecord {
    /// Which of its session's messages it is.
    pub(crate) number: u64,
    /// A hash of the message.
    pub(crate) mark: u64,
    /// Whom it goes to of shared groups: one for each.
    pub(crate) choices: Vec<Choice>,
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
    /// Keeps whom somebody chose, under the message's own number.
    pub(crate) fn new(number: u64, mark: u64, wished: &[Wish]) -> Self {
        let mut record = BegunRecord { number, mark, choices: Vec::new() };
        record.choose(wished, number);
        record
    }

    /// Keeps whom somebody chose under this number, as far as nobody else was chosen; answers whether somebody
    /// was: also of those that are not kept, for they are too many.
    pub(crate) fn choose(&mut self, wished: &[Wish], number: u64) -> bool {
        let mut is_changed = false;
        for Wish { group, inbox, instead_of } in wished {
            let choice = Choice { group: *group, inbox: *inbox, number };
            match self.choices.iter().position(|known| known.group == *group) {
                Some(at) if Some(self.choices[at].inbox) != *instead_of => continue,
                Some(at) => self.choices[at] = choice,
                None if self.choices.len() < CHOICES_MAX => self.choices.push(choice),
                None => {}
            }
            is_changed = true;
        }
        is_changed
    }

    /// The last number that was given for it.
    pub(crate) fn last(&self) -> u64 {
        self.choices.iter().map(|choice| choice.number).fold(self.number, u64::max)
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        self.encode_head(into);
        if !self.choices.is_empty() {
            self.encode_choices(into);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let mut record = Self::take_head(&mut parser)?;
        if !parser.is_at_end() {
            record.take_choices(&mut parser)?;
            if record.choices.is_empty() {
                return Err(Malformed);
            }
        }
        end(&parser, record)
    }

    /// Without the choices.
    pub(crate) fn encode_head(&self, into: &mut Vec<u8>) {
        put_u64(into, self.number);
        into.extend_from_slice(&self.mark.to_be_bytes());
    }

    pub(crate) fn take_head(parser: &mut Parser<'_>) -> Result<Self, Malformed> {
        let number = parser.take_u64()?;
        Ok(BegunRecord { number, mark: take_mark(parser)?, choices: Vec::new() })
    }

    pub(crate) fn encode_choices(&self, into: &mut Vec<u8>) {
        put_u64(into, self.choices.len() as u64);
        for Choice { group, inbox, number } in &self.choices {
            into.extend_from_slice(&group.0.to_be_bytes());
            put_u64(into, inbox.0);
            put_u64(into, number.wrapping_sub(self.number));
        }
    }

    pub(crate) fn take_choices(&mut self, parser: &mut Parser<'_>) -> Result<(), Malformed> {
        let count: usize = parser.take()?;
        if count > CHOICES_MAX {
            return Err(Malformed);
        }
        for _ in 0..count {
            let (group, inbox) = (GroupMark(take_mark(parser)?), InboxId(parser.take_u64()?));
            let number = self.number.checked_add(parser.take_u64()?).ok_or(Malformed)?;
            self.choices.push(Choice { group, inbox, number });
        }
        Ok(())
    }
}

fn take_mark(parser: &mut Parser<'_>) -> Result<u64, Malformed> {
    let mark = parser.take_exactly(8)?.try_into().map_err(|_| Malformed)?;
    Ok(u64::from_be_bytes(mark))
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
