//! What an entry of a range's log says: commands for its coprocessor, and for which version of the
//! range they were meant. Described in `docs/formats/store.md`.

use bytes::Bytes;
use ratatosk_engine::wire::{self, Malformed, Parser};

use crate::range::Version;

/// The first byte of every entry that is not empty.
const FORMAT: u8 = 1;

/// Commands that are written together: one entry, one fsync, each with an answer of its own.
#[derive(Debug)]
pub struct Commands {
    data: Vec<u8>,
    count: u32,
}

impl Commands {
    /// None yet, for a range that is believed to have this version.
    #[must_use]
    pub fn new(version: Version) -> Self {
        let mut data = vec![FORMAT];
        wire::put_u64(&mut data, version.boundary);
        wire::put_u64(&mut data, version.config);
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

/// Reads an entry that has data: the version, and each command in its order.
///
/// # Errors
/// [`Malformed`] if it is not what [`Commands`] wrote, or of a later format.
pub fn parse(data: &Bytes) -> Result<(Version, Vec<Bytes>), Malformed> {
    let mut parser = Parser::new(data);
    if parser.take_u8()? != FORMAT {
        return Err(Malformed);
    }
    let version = Version { boundary: parser.take_u64()?, config: parser.take_u64()? };
    let mut commands = Vec::new();
    while !parser.is_at_end() {
        commands.push(data.slice_ref(parser.take_bytes()?));
    }
    Ok((version, commands))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn commands_come_back_in_their_order(commands: Vec<Vec<u8>>, boundary: u64, config: u64) {
            let version = Version { boundary, config };
            let mut written = Commands::new(version);
            commands.iter().for_each(|command| written.push(command));
            let data = Bytes::from(written.into_data());
            let (found, parsed) = parse(&data).expect("well formed");
            prop_assert_eq!(found, version);
            prop_assert!(parsed.iter().eq(commands.iter()));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            let _ = parse(&Bytes::from(data));
        }
    }
}
