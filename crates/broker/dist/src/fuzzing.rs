//! The body of the fuzz target `dist_command`, so that its corpus is replayed by plain tests.
//!
//! It guards what a log or another node brings: commands, and the keys and records that come of
//! them.

use bytes::Bytes;
use ratatosk_engine::{Batch, Change, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::coprocessor::{Coprocessor, Position, Writer};
use ratatosk_topic::{TopicFilter, TopicLimits};

use crate::{
    DistCoprocessor,
    coprocessor::Answer,
    effect::{Command, Draft},
    schema::{decode, key, record},
};

const SPACE: SpaceId = SpaceId(0);

/// Bytes as a command, and as a key with its record behind the length of the key in two bytes. What
/// decodes is encoded to the same bytes, and what a command leaves behind can be read.
pub fn command_any(data: &[u8]) {
    if let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        if let Some((key, record)) = rest.split_at_checked(length) {
            check_route(key, record);
        }
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
    let answer = DistCoprocessor::new().apply(position, &command, &mut writer);
    let answer = answer.expect("the engine in memory does not fail");
    assert_eq!(Answer::is_done(&answer), decoded.is_ok(), "what can be read is carried out");
    assert!(changes.len() <= decoded.map_or(0, |command| command.effects.len()));
    for change in changes.iter() {
        if let Change::Put { key, value, .. } = change {
            assert!(decode(key, value).is_ok(), "a route can be read");
        }
    }
}

fn check_route(bytes: &[u8], value: &[u8]) {
    let Ok((tenant, stored)) = decode(bytes, value) else { return };
    let filter = TopicFilter::parse(&stored.text, &TopicLimits::PROTOCOL).expect("a filter");
    let number = stored.member.unwrap_or(stored.kept.inbox.0);
    assert_eq!(key(tenant, filter, number), bytes, "a key has one form");
    assert_eq!(record(filter, &stored.kept), value, "a record has one form");
}

fn check_command(command: &Command<'_>, bytes: &[u8]) {
    assert!(!command.effects.is_empty(), "a command does something");
    let mut draft = Draft::of(command.tenant);
    command.effects.iter().for_each(|effect| draft.push(effect));
    let (key, again) = draft.finish();
    assert_eq!(again, bytes, "a command has one form");
    assert_eq!(key, command.effects[0].key(command.tenant));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn the_stored_commands_are_carried_out_or_refused_and_never_panic() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus");
        let entries = std::fs::read_dir(corpus.join("dist_command")).expect("it is stored");
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
            tag in 1..3_u8,
            text in prop_oneof![Just("a/+"), Just("$share/g/a"), Just("$oshare/h/#")],
            data in vec(prop_oneof![0..4_u8, any::<u8>()], 0..60),
        ) {
            let length = u8::try_from(text.len()).expect("short");
            let head = [&[1, 1, b't', tag, length][..], text.as_bytes(), &[0; 8]].concat();
            command_any(&[&head[..], &data].concat());
            command_any(&[&head[..head.len() - 8], &data].concat());
            command_any(&[&[1, 1, b't', tag][..], &data].concat());
        }

        #[test]
        fn random_keys_and_records_are_read_or_refused_and_never_panic(
            key in vec(prop_oneof![Just(0xff), Just(0xfe), 0..4_u8, 0x61..0x63_u8], 0..40),
            record in vec(prop_oneof![0..4_u8, any::<u8>()], 0..12),
        ) {
            let length = u16::try_from(key.len()).expect("short").to_be_bytes();
            command_any(&[&length[..], &key, &record].concat());
        }
    }
}
