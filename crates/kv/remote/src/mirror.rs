//! What a store tells of itself, and its image elsewhere: a head and an entry for each group, of which
//! only what has changed goes over the wire.
//!
//! Each round of telling has a number. A reader says nothing of what it has: the teller of a stream knows
//! what it has sent. A new stream begins with everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use ratatosk_engine::wire::{self, Malformed, Parser};
use ratatosk_store::log::GroupId;
use tokio::sync::watch;

/// Groups that are gone and are remembered for those who have not heard; with more they are told
/// everything.
const GONE_MAX: usize = 4_096;
/// All before is to be forgotten.
const WHOLE: u8 = 1;

/// What is told.
#[derive(Debug)]
pub(crate) struct Source {
    held: Mutex<Held>,
    number: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Held {
    number: u64,
    head: Bytes,
    /// Each with the round in which it changed last.
    entries: BTreeMap<GroupId, (u64, Bytes)>,
    gone: BTreeMap<GroupId, u64>,
    /// What was gone by then is not remembered.
    forgotten: u64,
}

/// What a reader is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// The question that it answers, 0 for none.
    pub(crate) answers: u64,
    pub(crate) is_whole: bool,
    pub(crate) head: Bytes,
    pub(crate) changed: Vec<(GroupId, Bytes)>,
    pub(crate) gone: Vec<GroupId>,
}

impl Default for Source {
    fn default() -> Self {
        Self { held: Mutex::default(), number: watch::Sender::new(0) }
    }
}

impl Source {
    /// Tells this in place of what was told before.
    pub(crate) fn tell(&self, head: Bytes, mut entries: BTreeMap<GroupId, Bytes>) {
        let mut held = self.held.lock();
        held.number += 1;
        held.head = head;
        let Held { number, entries: before, gone, forgotten, .. } = &mut *held;
        before.retain(|group, (changed, data)| match entries.remove(group) {
            Some(now) => {
                if *data != now {
                    (*changed, *data) = (*number, now);
                }
                true
            }
            None => {
                gone.insert(*group, *number);
                false
            }
        });
        for (group, data) in entries {
            gone.remove(&group);
            before.insert(group, (*number, data));
        }
        if gone.len() > GONE_MAX {
            gone.clear();
            *forgotten = *number;
        }
        self.number.send_replace(held.number);
    }

    /// Follows the numbers of the rounds; 0 while nothing was told.
    pub(crate) fn numbers(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// What is new to who has seen the round of this number, and the number of the one that it is told.
    pub(crate) fn since(&self, seen: u64) -> (u64, Note) {
        let held = self.held.lock();
        let is_whole = seen == 0 || seen < held.forgotten;
        let seen = if is_whole { 0 } else { seen };
        let changed = held.entries.iter().filter(|(_, (changed, _))| *changed > seen);
        let gone = held.gone.iter().filter(|(_, gone)| !is_whole && **gone > seen);
        let note = Note {
            answers: 0,
            is_whole,
            head: held.head.clone(),
            changed: changed.map(|(group, (_, data))| (*group, data.clone())).collect(),
            gone: gone.map(|(group, _)| *group).collect(),
        };
        (held.number, note)
    }
}

impl Note {
    pub(crate) fn encode(&self) -> Bytes {
        let Self { answers, is_whole, head, changed, gone } = self;
        let data: usize = changed.iter().map(|(_, data)| data.len() + 20).sum();
        let mut into = Vec::with_capacity(data + head.len() + 10 * gone.len() + 40);
        into.push(if *is_whole { WHOLE } else { 0 });
        wire::put_u64(&mut into, *answers);
        wire::put_bytes(&mut into, head);
        wire::put_u64(&mut into, changed.len() as u64);
        for (group, data) in changed {
            wire::put_u64(&mut into, group.0);
            wire::put_bytes(&mut into, data);
        }
        wire::put_u64(&mut into, gone.len() as u64);
        gone.iter().for_each(|group| wire::put_u64(&mut into, group.0));
        into.into()
    }

    pub(crate) fn decode(data: &Bytes) -> Result<Self, Malformed> {
        let mut body = Parser::new(data);
        let is_whole = match body.take_u8()? {
            0 => false,
            WHOLE => true,
            _ => return Err(Malformed),
        };
        let answers = body.take_u64()?;
        let head = data.slice_ref(body.take_bytes()?);
        let mut note = Self { answers, is_whole, head, ..Self::default() };
        for _ in 0..body.take_u64()? {
            let group = GroupId(body.take_u64()?);
            note.changed.push((group, data.slice_ref(body.take_bytes()?)));
        }
        for _ in 0..body.take_u64()? {
            note.gone.push(GroupId(body.take_u64()?));
        }
        Ok(note)
    }

    /// Has an image become what is told. `decode` reads an entry.
    ///
    /// # Errors
    /// [`Malformed`] if an entry is; the image is of no use then.
    pub(crate) fn apply<T>(
        &self,
        image: &mut BTreeMap<GroupId, T>,
        decode: impl Fn(GroupId, &[u8]) -> Result<T, Malformed>,
    ) -> Result<(), Malformed> {
        if self.is_whole {
            image.clear();
        }
        for group in &self.gone {
            image.remove(group);
        }
        for (group, data) in &self.changed {
            image.insert(*group, decode(*group, data)?);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "mirror_test.rs"]
mod tests;
