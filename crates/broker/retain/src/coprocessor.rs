//! How commands change the data of a range of retained messages.
//!
//! What a command says was decided when it was submitted; here it is only carried into the data.
//! The same command again changes nothing, and so does one that cannot be read.
//!
//! A range may end between any two topics, also of one tenant. A command goes to the range of its
//! first topic; effects that lie outside it are left out. That matters only to collections: an
//! expired message that stays is found at the next start, and collected then.

use bytes::Bytes;
use ratatosk_engine::{Error, KeyRange};
use ratatosk_store::coprocessor::{Coprocessor, Position, Reader, Writer};

use crate::{
    effect::{Command, Effect},
    schema::message::key,
};

/// The part of a range that knows retained messages. Keeps nothing beside the data.
#[derive(Debug, Default)]
pub struct RetainCoprocessor {
    boundary: KeyRange,
}

impl RetainCoprocessor {
    /// One for a range without data that has every key, until it is told otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Coprocessor for RetainCoprocessor {
    fn reset(&mut self, boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        self.boundary = boundary.clone();
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        let Ok(Command { tenant, effects }) = Command::decode(command) else {
            return Ok(Answer::Malformed.encode());
        };
        let mut answer = Answer::Done;
        for effect in effects {
            let key = key(tenant, effect.topic());
            if !self.boundary.contains(&key) {
                answer = Answer::Outside;
                continue;
            }
            match effect {
                Effect::Put { value, .. } => writer.put(key, command.slice_ref(value)),
                Effect::Removed(_) => writer.remove(key),
            }
        }
        Ok(answer.encode())
    }

    /// No questions are asked: the service reads the data itself.
    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Answer::Malformed.encode())
    }
}

/// What the submitter of a command is told.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// All effects are in the data.
    Done,
    /// Those within the range are.
    Outside,
    /// Nothing was changed: the command could not be read.
    Malformed,
}

impl Answer {
    fn encode(self) -> Bytes {
        Bytes::from_static(match self {
            Answer::Done => &[0],
            Answer::Outside => &[1],
            Answer::Malformed => &[2],
        })
    }

    /// Whether the bytes say that all was carried out.
    pub(crate) fn is_done(bytes: &[u8]) -> bool {
        bytes == &Answer::Done.encode()[..]
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_engine::{Batch, MemoryEngine, Overlay, SpaceId};
    use ratatosk_store::coprocessor::SpaceReader;

    use super::*;
    use crate::{effect::Draft, schema::message::TopicHash};

    const SPACE: SpaceId = SpaceId(0);

    fn apply(boundary: &KeyRange, command: &Bytes) -> (Batch, Bytes) {
        let overlay = Overlay::new(MemoryEngine::new(1), 1);
        let mut coprocessor = RetainCoprocessor::new();
        coprocessor
            .reset(boundary, &SpaceReader::new(&overlay.view(), SPACE, boundary))
            .expect("nothing is read");
        let mut changes = Batch::new();
        let mut writer = Writer::new(&overlay, SPACE, boundary, &mut changes);
        let answer = coprocessor.apply(Position { index: 1, number: 0 }, command, &mut writer);
        (changes, answer.expect("nothing is written to a disk"))
    }

    /// RET-006: a range that ends between two topics of a command carries out its own part.
    #[test]
    fn what_lies_outside_the_range_is_left_out() {
        let topics = ["a", "b", "c", "d"].map(TopicHash::of);
        let draft = topics.iter().fold(Draft::of("t"), |draft, topic| draft.removed(*topic));
        let command = draft.finish();
        let mut keys = topics.map(|topic| key("t", topic));
        keys.sort();
        let split = Bytes::from(keys[1].clone());
        let left = KeyRange { end: Some(split.clone()), ..KeyRange::all() };
        let right = KeyRange { start: split, end: None };
        for (boundary, count) in [(left, 1), (right, 3)] {
            let (changes, answer) = apply(&boundary, &command);
            assert_eq!((changes.len(), Answer::is_done(&answer)), (count, false));
        }
        let (changes, answer) = apply(&KeyRange::all(), &command);
        assert_eq!((changes.len(), Answer::is_done(&answer)), (4, true));
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let command = Draft::of("t").removed(TopicHash::of("a")).removed(TopicHash::of("b"));
        let command = command.finish();
        let (changes, answer) = apply(&KeyRange::all(), &command.slice(..command.len() - 1));
        assert_eq!((changes.len(), Answer::is_done(&answer)), (0, false));
    }
}
