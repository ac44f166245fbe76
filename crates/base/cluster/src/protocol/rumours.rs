//! News that are still being told, and how often each was.
//!
//! A piece of news is told a bounded number of times, those first that were told least often, as SWIM
//! does with its updates. What is told is read when it is told, so it is always the newest; news of
//! something that changes again start from the beginning.

use std::collections::BTreeMap;

use super::identity::HostId;
use super::shared_map::MapKey;
use super::wire::{Malformed, Reader, put_medium};

/// The longest piece of news that is told whole; of a longer one it is told that it is there.
pub(crate) const ITEM_MAX: usize = 1000;

/// What there is news of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Record(HostId),
    Entry(MapKey),
}

/// A piece of news as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A record, encoded.
    Record(&'a [u8]),
    /// A host has a record of this version, which is too long to be told.
    Notice { host: HostId, version: u64 },
    /// An entry of the map with its key, encoded.
    Entry(&'a [u8]),
    /// The map has an entry that is too long to be told.
    Entries,
}

/// The news of one host.
#[derive(Debug, Default)]
pub(crate) struct Rumours {
    told: BTreeMap<Topic, u8>,
}

impl Item<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Item::Record(bytes) => {
                out.push(1);
                put_medium(out, bytes);
            }
            Item::Notice { host, version } => {
                out.push(2);
                out.extend_from_slice(host.as_bytes());
                out.extend_from_slice(&version.to_be_bytes());
            }
            Item::Entry(bytes) => {
                out.push(3);
                put_medium(out, bytes);
            }
            Item::Entries => out.push(4),
        }
    }

    /// Reads all items of a datagram.
    pub(crate) fn decode_all(bytes: &[u8]) -> Result<Vec<Item<'_>>, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut items = Vec::new();
        while !reader.rest().is_empty() {
            items.push(match reader.u8()? {
                1 => Item::Record(reader.medium()?),
                2 => {
                    let host = HostId::from_bytes(reader.array()?);
                    Item::Notice { host, version: reader.u64()? }
                }
                3 => Item::Entry(reader.medium()?),
                4 => Item::Entries,
                _ => return Err(Malformed),
            });
        }
        Ok(items)
    }
}

impl Rumours {
    /// There is news of this.
    pub(crate) fn add(&mut self, topic: Topic) {
        self.told.insert(topic, 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Appends as much as fits into `room` bytes, and forgets what was told `times` times or what
    /// `write` says there is nothing of.
    pub(crate) fn fill(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        times: u8,
        write: impl Fn(&Topic, &mut Vec<u8>) -> bool,
    ) {
        let mut order: Vec<(u8, Topic)> =
            self.told.iter().map(|(topic, told)| (*told, topic.clone())).collect();
        order.sort();
        let end = out.len() + room;
        for (told, topic) in order {
            let length = out.len();
            if !write(&topic, out) {
                out.truncate(length);
                self.told.remove(&topic);
                continue;
            }
            if out.len() > end {
                out.truncate(length);
                continue;
            }
            if told + 1 >= times {
                self.told.remove(&topic);
            } else {
                self.told.insert(topic, told + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(index: u8) -> Topic {
        Topic::Record(HostId::from_bytes([index; 16]))
    }

    fn told(rumours: &mut Rumours, room: usize) -> Vec<u8> {
        let mut out = Vec::new();
        rumours.fill(&mut out, room, 3, |topic, out| {
            let Topic::Record(host) = topic else { return false };
            let index = host.as_bytes()[0];
            out.extend_from_slice(&vec![index; index.into()]);
            index != 9
        });
        out.dedup();
        out
    }

    #[test]
    fn news_are_told_three_times_and_those_first_that_were_told_least() {
        let mut rumours = Rumours::default();
        for index in [4, 5, 2, 9] {
            rumours.add(topic(index));
        }
        assert_eq!(told(&mut rumours, 6), [2, 4]);
        assert_eq!(told(&mut rumours, 6), [5]);
        assert_eq!(told(&mut rumours, 6), [2, 4]);
        rumours.add(topic(2));
        assert_eq!(told(&mut rumours, 100), [2, 5, 4]);
        assert_eq!(told(&mut rumours, 100), [2, 5]);
        assert_eq!(told(&mut rumours, 100), [2]);
        assert!(rumours.is_empty());
    }

    #[test]
    fn items_are_read_as_they_were_written() {
        let host = HostId::from_bytes([1; 16]);
        let items = [
            Item::Record(b"r"),
            Item::Notice { host, version: 7 },
            Item::Entry(b""),
            Item::Entries,
        ];
        let mut bytes = Vec::new();
        items.iter().for_each(|item| item.encode(&mut bytes));
        assert_eq!(Item::decode_all(&bytes).as_deref(), Ok(&items[..]));
        bytes.push(5);
        assert_eq!(Item::decode_all(&bytes), Err(Malformed));
    }
}
