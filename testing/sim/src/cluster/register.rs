//! What ranges do here: each key is a list that grows, so that what is there tells who came when.
//!
//! There are two editions. In the second one values are stored in another way, so that who carries a
//! command out in the wrong one has other data; and commands may be written in another way, which builds
//! of the first one do not understand.

use std::collections::BTreeMap;

use bytes::Bytes;
use ratatosk_engine::{Error, KeyRange, SpaceId};
use ratatosk_inbox::InboxCoprocessor;
use ratatosk_store::coprocessor::{Coprocessor, Factory, Keyspaces, Position, Reader, Writer};
use ratatosk_store::edition::{Edition, Editions};

/// The keyspace, and where its data is.
pub(super) const KEYSPACE: &str = "register";
pub(super) const SPACE: SpaceId = SpaceId(1);
/// The other one, which is the inbox's.
pub(super) const INBOX: &str = "inbox";
pub(super) const INBOX_SPACE: SpaceId = SpaceId(2);
/// Between a key and the number of one of its values: no key has it.
const MARK: u8 = b'/';
/// The edition that newer builds have beside the first.
pub(super) const TWO: Edition = Edition(2);
/// What commands begin with that are written for it; no value has it.
const WRITTEN_FOR_TWO: [u8; 8] = [0xFF; 8];
/// What values end with that are stored in it.
const STORED_IN_TWO: u8 = 2;

/// What a command does to a key.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Adds this value.
    Add(u64),
    /// Says how many there are.
    Count,
}

/// See the module.
struct Register {
    /// The last edition that this build knows.
    newest: Edition,
}

/// What a build knows, by the last edition of it.
pub(super) fn keyspaces(newest: Edition) -> Keyspaces {
    let register: Factory = Box::new(move || Box::new(Register { newest }));
    let inbox: Factory = Box::new(|| Box::new(InboxCoprocessor::new()));
    let (editions, first) = (Editions::new(Edition::FIRST, newest), Editions::only(Edition::FIRST));
    let keyspaces =
        vec![(KEYSPACE.to_owned(), editions, register), (INBOX.to_owned(), first, inbox)];
    Keyspaces::with_editions(keyspaces).served_by_replicas(KEYSPACE)
}

/// A command, written for an edition; its answer is how many values there were before.
pub(super) fn command(key: &str, deed: Deed, written: Edition) -> Vec<u8> {
    let value = match deed {
        Deed::Add(value) => value,
        Deed::Count => 0,
    };
    let mark = if written >= TWO { &WRITTEN_FOR_TWO[..] } else { &[] };
    [mark, &value.to_be_bytes(), key.as_bytes()].concat()
}

/// The answer of a command.
pub(super) fn answer(answer: &Bytes) -> Option<u64> {
    answer[..].try_into().map(u64::from_be_bytes).ok()
}

/// A value as it is stored.
fn value(stored: &Bytes) -> Option<u64> {
    answer(&stored.slice(..stored.len().min(8)))
}

/// Where a key is in its range.
pub(super) fn place(key: &str) -> &[u8] {
    key.as_bytes()
}

/// The values of each key, in their order.
///
/// # Errors
/// What cannot be.
pub(super) fn lists(
    content: impl IntoIterator<Item = (Bytes, Bytes)>,
) -> Result<BTreeMap<String, Vec<u64>>, String> {
    let mut lists: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (key, stored) in content {
        let Some(mark) = key.iter().position(|byte| *byte == MARK) else { continue };
        let name = String::from_utf8_lossy(&key[..mark]).into_owned();
        let value = value(&stored).ok_or_else(|| format!("{key:?} has no number"))?;
        let list = lists.entry(name).or_default();
        let number = answer(&key.slice(mark + 1..));
        if number != Some(list.len() as u64) {
            return Err(format!("{key:?} is not value {}", list.len()));
        }
        list.push(value);
    }
    Ok(lists)
}

/// Whether every key has as many values as it says.
///
/// # Errors
/// One that has not.
pub(super) fn check(content: Vec<(Bytes, Bytes)>) -> Result<(), String> {
    let counts = content.iter().filter(|(key, _)| !key.contains(&MARK));
    let counts: Vec<_> = counts.cloned().collect();
    let lists = lists(content)?;
    if counts.len() != lists.len() {
        return Err(format!("{} keys have values, {} a count", lists.len(), counts.len()));
    }
    for (key, count) in counts {
        let held = lists.get(&*String::from_utf8_lossy(&key)).map(|list| list.len() as u64);
        if held != answer(&count) {
            return Err(format!("{key:?} has {held:?} values, and says {:?}", answer(&count)));
        }
    }
    Ok(())
}

impl Coprocessor for Register {
    fn reset(&mut self, _boundary: &KeyRange, _reader: &dyn Reader) -> Result<(), Error> {
        Ok(())
    }

    fn apply(
        &mut self,
        _position: Position,
        command: &Bytes,
        writer: &mut Writer<'_>,
    ) -> Result<Bytes, Error> {
        let (command, written) = match command.strip_prefix(&WRITTEN_FOR_TWO) {
            Some(command) => (command, TWO),
            None => (&command[..], Edition::FIRST),
        };
        if written.max(writer.edition()) > self.newest {
            let detail =
                format!("edition {} comes to a build of {}", writer.edition(), self.newest);
            return Err(Error::Corrupt { detail });
        }
        let (value, key) = command.split_at(8);
        let count = writer.get(key)?.and_then(|count| answer(&count)).unwrap_or(0);
        if value != [0; 8] {
            let place = [key, &[MARK], &count.to_be_bytes()].concat();
            let mark = if writer.edition() >= TWO { &[STORED_IN_TWO][..] } else { &[] };
            writer.put(place, [value, mark].concat());
            writer.put(key.to_vec(), (count + 1).to_be_bytes().to_vec());
        }
        Ok(Bytes::from(count.to_be_bytes().to_vec()))
    }

    fn query(&self, question: &Bytes, reader: &dyn Reader) -> Result<Bytes, Error> {
        Ok(reader.get(question)?.unwrap_or_default())
    }
}
