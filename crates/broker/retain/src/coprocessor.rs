//! How commands change the data of a range of retained messages.
//!
//! What a command says was decided when it was submitted; here it is carried into the data. Only what is
//! to end is looked at first: if the topic has another message by now, that one stays. The same command
//! again changes nothing, and so does one that cannot be read.
//!
//! A range may end between any two topics, also of one tenant. Commands are cut there before they are
//! submitted ([`RetainDivision`](crate::RetainDivision)), or go to the range of their first topic; effects
//! that lie outside it all the same are left out. That matters only to collections: an expired message that
//! stays is found again, and collected then.
//!
//! Where replicas have the messages the memory of their node follows: whatever becomes of the data becomes of
//! it, and as the range gets keys or loses them the messages of these come and go.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use ratatosk_contract::TenantId;
use ratatosk_engine::{Error, KeyRange, wire::Malformed};
use ratatosk_store::coprocessor::{Coprocessor, Position, Reader, Reign, Writer};

use crate::{
    RetainService,
    effect::{Command, Effect},
    replicated::Applied,
    schema::message::{Record, key},
};

/// The part of a range that knows retained messages. Keeps nothing beside the data but what the service has of
/// it.
#[derive(Debug, Default)]
pub struct RetainCoprocessor {
    boundary: KeyRange,
    feed: Option<Feed>,
}

/// The service whose memory follows.
#[derive(Debug)]
struct Feed {
    service: Weak<RetainService>,
    /// Tells the coprocessors of a service apart.
    number: u64,
}

impl RetainCoprocessor {
    /// One for a range without data that has every key, until it is told otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, of a replica whose messages are those of a [replicated](RetainService::replicated) service,
    /// which must have no other store, and no earlier life of this one.
    #[must_use]
    pub fn feeding(service: &Weak<RetainService>) -> Self {
        let number = service.upgrade().map_or(0, |service| service.next_coprocessor());
        let feed = Some(Feed { service: Weak::clone(service), number });
        Self { boundary: KeyRange::default(), feed }
    }

    /// The service, while there is one.
    fn fed(&self) -> Option<(Arc<RetainService>, u64)> {
        let feed = self.feed.as_ref()?;
        Some((feed.service.upgrade()?, feed.number))
    }
}

impl Coprocessor for RetainCoprocessor {
    fn reset(&mut self, boundary: &KeyRange, reader: &dyn Reader) -> Result<(), Error> {
        self.boundary = boundary.clone();
        match self.fed() {
            Some((service, number)) => service.cover(number, boundary, reader),
            None => Ok(()),
        }
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        // Read to its end before any of it takes effect.
        let Ok(Command { tenant, effects }) = Command::decode(command) else {
            return Ok(Answer::Malformed.encode());
        };
        let mut answer = Answer::Done;
        let follower = self.fed().and_then(|(service, _)| service.follower(&TenantId::new(tenant)));
        for effect in effects {
            let key = key(tenant, effect.topic());
            if !self.boundary.contains(&key) {
                answer = Answer::Outside;
                continue;
            }
            match effect {
                Effect::Put { record, value } => {
                    writer.put(key, command.slice_ref(value));
                    if let Some(follower) = &follower {
                        follower.follow(&Applied::Put(record));
                    }
                }
                Effect::Cleared { topic, stamp } => {
                    writer.remove(key);
                    if let Some(follower) = &follower {
                        follower.follow(&Applied::Cleared { topic, stamp: Some(stamp) });
                    }
                }
                Effect::Removed(_) => {
                    // Which topic it is only the data know.
                    let before = if follower.is_some() { writer.get(&key)? } else { None };
                    if let Some((follower, value)) = follower.as_ref().zip(before) {
                        let topic = read(&key, &value)?.topic;
                        follower.follow(&Applied::Cleared { topic, stamp: None });
                    }
                    writer.remove(key);
                }
                Effect::Ended { stamp, .. } => {
                    let Some(value) = writer.get(&key)? else { continue };
                    let record = read(&key, &value)?;
                    if record.stamp != stamp {
                        continue;
                    }
                    writer.remove(key);
                    if let Some(follower) = &follower {
                        follower.follow(&Applied::Ended { topic: record.topic });
                    }
                }
            }
        }
        Ok(answer.encode())
    }

    /// No questions are asked: the service reads the data itself.
    fn query(&self, _question: &Bytes, _reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(Answer::Malformed.encode())
    }

    fn lead(&mut self, reign: Option<&Reign>) {
        if let Some((service, number)) = self.fed() {
            service.note_lead(number, reign.map(|reign| &reign.range.boundary));
        }
    }

    fn leave(&mut self) {
        if let Some((service, number)) = self.fed() {
            service.note_lead(number, None);
            service.uncover(number);
        }
    }
}

/// What was written under a key.
fn read<'a>(key: &[u8], value: &'a [u8]) -> Result<Record<'a>, Error> {
    Record::decode(value).map_err(|Malformed| Error::Corrupt {
        detail: format!("retained message {}: the record cannot be read", key.escape_ascii()),
    })
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
