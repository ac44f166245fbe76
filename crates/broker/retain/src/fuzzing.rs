//! The body of the fuzz target `retain_command`, so that its corpus is replayed by plain tests.
//!
//! It guards what a log or another node brings: commands, and the records and keys that come of
//! them.

use bytes::Bytes;
use ratatosk_engine::{Batch, Change, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::coprocessor::{Coprocessor, Position, Writer};

use crate::{
    RetainCoprocessor,
    coprocessor::Answer,
    effect::{Command, Draft, Effect},
    schema::message::{Record, key, parse_key},
};

const SPACE: SpaceId = SpaceId(0);

/// Bytes as a command, a record and a key. What decodes is encoded to the same bytes, and what a
/// command leaves behind can be read.
pub fn command_any(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        check_record(&record, data);
    }
    if let Ok((tenant, topic)) = parse_key(data) {
        assert_eq!(key(tenant, topic), data, "a key has one form");
    }
    let command = Bytes::copy_from_slice(data);
    let decoded = Command::decode(&command);
    if let Ok(decoded) = &decoded {
        check_command(decoded, data);
    }
    let overlay = Overlay::new(MemoryEngine::new(1), 1);
    let (boundary, mut changes) = (KeyRange::all(), Batch::new());
    let mut writer = Writer::new(&overlay, SPACE, &boundary, &mut changes);
    let position = Position { index: 1, number: 0 };
    let answer = RetainCoprocessor::new().apply(position, &command, &mut writer);
    let answer = answer.expect("the engine in memory does not fail");
    assert_eq!(Answer::is_done(&answer), decoded.is_ok(), "what can be read is carried out");
    assert_eq!(changes.len(), decoded.map_or(0, |command| command.effects.len()));
    changes.iter().for_each(check_change);
}

fn check_record(record: &Record<'_>, bytes: &[u8]) {
    let mut again = Vec::new();
    record.put(&mut again);
    assert!(again.ends_with(bytes), "a record has one form");
    assert!(again.len() <= bytes.len() + 10, "behind its length only");
}

fn check_command(command: &Command<'_>, bytes: &[u8]) {
    assert!(!command.effects.is_empty(), "a command does something");
    let draft =
        command.effects.iter().fold(Draft::of(command.tenant), |draft, effect| match effect {
            Effect::Put { record, .. } => draft.put(record),
            Effect::Removed(topic) => draft.removed(*topic),
        });
    assert_eq!(draft.finish(), bytes, "a command has one form");
}

fn check_change(change: &Change) {
    match change {
        Change::Put { key, value, .. } => {
            assert!(parse_key(key).is_ok(), "a key can be read");
            assert!(Record::decode(value).is_ok(), "a record can be read");
        }
        Change::Remove { key, .. } => assert!(parse_key(key).is_ok(), "a key can be read"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn the_stored_commands_are_carried_out_or_refused_and_never_panic() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus");
        let entries = std::fs::read_dir(corpus.join("retain_command")).expect("it is stored");
        let bytes = entries.map(|entry| std::fs::read(entry.expect("readable").path()));
        let count = bytes.map(|bytes| command_any(&bytes.expect("readable"))).count();
        assert!(count >= 6, "the golden ones at least");
    }

    proptest! {
        #[test]
        fn random_bytes_are_carried_out_or_refused_and_never_panic(data in vec(any::<u8>(), 0..99)) {
            command_any(&data);
        }

        /// The beginnings are sound, so that what follows is reached.
        #[test]
        fn random_effects_are_carried_out_or_refused_and_never_panic(
            kind in 1..3_u8,
            data in vec(prop_oneof![0..4_u8, any::<u8>()], 0..60),
        ) {
            let length = u8::try_from(data.len()).expect("short");
            command_any(&[&[1, 1, b't', kind, length][..], &data].concat());
            command_any(&[&[1, 1, b't', kind][..], &data].concat());
            command_any(&[&[1, 4][..], &data].concat());
        }
    }
}
