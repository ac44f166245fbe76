//! What an entry of a range's log says: commands for its coprocessor, or an order to the range
//! itself, and for which version of the range it was meant. Described in `docs/formats/store.md`.

use bytes::Bytes;
use ratatosk_engine::wire::{self, Malformed, Parser};

use crate::edition::Edition;
use crate::log::GroupId;
use crate::range::{Descriptor, Version};

/// The first byte of an entry says what it is.
const COMMANDS: u8 = 1;
const SPLIT: u8 = 2;
const FREEZE: u8 = 3;
const MERGE: u8 = 4;
const RAISE: u8 = 5;
const THAW: u8 = 6;
const UPGRADE: u8 = 7;

/// What an entry says that has data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// For the coprocessor, one after the other.
    Commands {
        /// What they were written for.
        edition: Edition,
        /// Their bytes.
        commands: Vec<Bytes>,
    },
    /// The keys from this one on become a range of their own. KV-013
    Split(Bytes),
    /// Nothing is carried out any more, until the left neighbour takes the range in, in this version of
    /// it. KV-015
    Freeze {
        /// The neighbour.
        into: GroupId,
        /// Its version.
        expected: Version,
    },
    /// The right neighbour's keys become this range's, which froze as it is here. KV-015
    Merge(Box<Descriptor>),
    /// Nothing that was meant for the version before is carried out: a merge will not come.
    Raise,
    /// The range is at work again.
    Thaw,
    /// From now on this edition is active, which all replicas of the range in this version support. KV-002
    Upgrade(Edition),
}

/// Commands that are written together: one entry, one fsync, each with an answer of its own.
#[derive(Debug)]
pub struct Commands {
    data: Vec<u8>,
    count: u32,
}

impl Commands {
    /// None yet, for a range that is believed to have this version; written for the first edition.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self::in_edition(version, Edition::FIRST)
    }

    /// The same, written for another edition: a range in an older one refuses them.
    #[must_use]
    pub fn in_edition(version: Version, edition: Edition) -> Self {
        let mut data = begun(COMMANDS, version);
        wire::put_u64(&mut data, edition.0);
        Self { data, count: 0 }
    }

    /// Adds a command.
    pub fn push(&mut self, command: &[u8]) {
        wire::put_bytes(&mut self.data, command);
        self.count += 1;
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Their bytes in the log.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.data.len()
    }

    /// The data of the entry.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }
}

/// The data of an entry that splits a range of this version at a key.
#[must_use]
pub fn split(version: Version, key: &[u8]) -> Vec<u8> {
    let mut data = begun(SPLIT, version);
    wire::put_bytes(&mut data, key);
    data
}

/// The data of an entry that freezes a range of this version, for its left neighbour in another.
#[must_use]
pub fn freeze(version: Version, into: GroupId, expected: Version) -> Vec<u8> {
    let mut data = begun(FREEZE, version);
    for number in [into.0, expected.boundary, expected.config] {
        wire::put_u64(&mut data, number);
    }
    data
}

/// The data of an entry that has a range of this version take in a frozen one.
#[must_use]
pub fn merge(version: Version, right: &Descriptor) -> Vec<u8> {
    let mut data = begun(MERGE, version);
    wire::put_u64(&mut data, right.group.0);
    wire::put_bytes(&mut data, &right.encode());
    data
}

/// The data of an entry that raises this version.
#[must_use]
pub(crate) fn raise(version: Version) -> Vec<u8> {
    begun(RAISE, version)
}

/// The data of an entry that thaws a range that froze to this version.
#[must_use]
pub(crate) fn thaw(version: Version) -> Vec<u8> {
    begun(THAW, version)
}

/// The data of an entry that raises a range of this version to an edition.
#[must_use]
pub fn upgrade(version: Version, edition: Edition) -> Vec<u8> {
    let mut data = begun(UPGRADE, version);
    wire::put_u64(&mut data, edition.0);
    data
}

/// Whether an entry has a range take in another, which has to be whole first.
pub(crate) fn is_merge(data: &[u8]) -> bool {
    data.first() == Some(&MERGE)
}

/// Reads an entry that has data: for which version it was meant, and what it says.
///
/// # Errors
/// [`Malformed`] if it is not what [`Commands`] or a function here wrote, or of a later format.
pub fn parse(data: &Bytes) -> Result<(Version, Order), Malformed> {
    let mut parser = Parser::new(data);
    let kind = parser.take_u8()?;
    let version = Version { boundary: parser.take_u64()?, config: parser.take_u64()? };
    let order = match kind {
        COMMANDS => {
            let edition = Edition(parser.take_u64()?);
            let mut commands = Vec::new();
            while !parser.is_at_end() {
                commands.push(data.slice_ref(parser.take_bytes()?));
            }
            Order::Commands { edition, commands }
        }
        SPLIT => Order::Split(data.slice_ref(parser.take_bytes()?)),
        FREEZE => Order::Freeze {
            into: GroupId(parser.take_u64()?),
            expected: Version { boundary: parser.take_u64()?, config: parser.take_u64()? },
        },
        MERGE => {
            let group = GroupId(parser.take_u64()?);
            Order::Merge(Box::new(Descriptor::decode(group, parser.take_bytes()?)?))
        }
        RAISE => Order::Raise,
        THAW => Order::Thaw,
        UPGRADE => Order::Upgrade(Edition(parser.take_u64()?)),
        _ => return Err(Malformed),
    };
    if parser.is_at_end() { Ok((version, order)) } else { Err(Malformed) }
}

fn begun(kind: u8, version: Version) -> Vec<u8> {
    let mut data = vec![kind];
    wire::put_u64(&mut data, version.boundary);
    wire::put_u64(&mut data, version.config);
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn commands_come_back_in_their_order(
            commands: Vec<Vec<u8>>, boundary: u64, config: u64, edition: u64,
        ) {
            let (version, edition) = (Version { boundary, config }, Edition(edition));
            let mut written = Commands::in_edition(version, edition);
            commands.iter().for_each(|command| written.push(command));
            let data = Bytes::from(written.into_data());
            let (found, parsed) = parse(&data).expect("well formed");
            prop_assert_eq!(found, version);
            let Order::Commands { edition: found, commands: parsed } = parsed else { panic!("{parsed:?}") };
            prop_assert!(found == edition && parsed.iter().eq(commands.iter()));
        }

        #[test]
        fn a_split_comes_back(key: Vec<u8>, boundary: u64, config: u64) {
            let version = Version { boundary, config };
            let data = Bytes::from(split(version, &key));
            prop_assert_eq!(parse(&data), Ok((version, Order::Split(Bytes::from(key)))));
        }

        #[test]
        fn a_freeze_comes_back(boundary: u64, config: u64, into: u64) {
            let (version, expected) =
                (Version { boundary, config }, Version { boundary: config, config: boundary });
            let into = GroupId(into);
            let data = Bytes::from(freeze(version, into, expected));
            prop_assert_eq!(parse(&data), Ok((version, Order::Freeze { into, expected })));
        }

        #[test]
        fn an_upgrade_comes_back(edition: u64, boundary: u64, config: u64) {
            let (version, edition) = (Version { boundary, config }, Edition(edition));
            let data = Bytes::from(upgrade(version, edition));
            prop_assert_eq!(parse(&data), Ok((version, Order::Upgrade(edition))));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            let _ = parse(&Bytes::from(data));
        }
    }
}
