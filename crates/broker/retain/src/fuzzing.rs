//! The body of the fuzz target `retain_command`, so that its corpus is replayed by plain tests.
//!
//! It guards what a log or another node brings: commands, and the records and keys that come of
//! them.

use std::sync::Arc;

use bytes::Bytes;
use ratatosk_client::Divide;
use ratatosk_clock::{Epoch, Instant};
use ratatosk_contract::{
    TenantId,
    retain::{Cursor, Page, Retain, RetainLimits},
};
use ratatosk_engine::{Batch, Change, KeyRange, MemoryEngine, Overlay, SpaceId};
use ratatosk_store::coprocessor::{Coprocessor, Position, SpaceReader, Writer};
use ratatosk_topic::{TopicFilter, TopicLimits, TopicName};

use crate::{
    RetainCoprocessor, RetainDivision, RetainService,
    coprocessor::Answer,
    effect::{Command, Draft, Effect},
    schema::message::{Record, key, parse_key},
};

const SPACE: SpaceId = SpaceId(0);

/// Bytes as a command, a record and a key. What decodes is encoded to the same bytes, and what a
/// command leaves behind can be read. It is the same whether the command goes to one range or is cut between
/// two, and whether it comes once or again.
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
    let whole = Node::default();
    let changes = whole.apply(&command, decoded.is_ok());
    let effects = decoded.as_ref().map_or(&[][..], |command| &command.effects);
    let ends = |effect: &&Effect<'_>| matches!(effect, Effect::Ended { .. });
    let ended = effects.iter().filter(ends).count();
    assert!(changes.len() <= effects.len() && changes.len() + ended >= effects.len());
    changes.iter().for_each(check_change);
    let content = whole.content();
    whole.apply(&command, decoded.is_ok());
    if ended == 0 {
        assert_eq!(whole.content(), content, "the same again changes nothing");
    }
    if let Ok(decoded) = &decoded {
        check_division(decoded, &command, &content);
    }
}

/// A node that follows what is applied.
struct Node {
    overlay: Overlay<MemoryEngine>,
    service: Arc<RetainService>,
}

impl Default for Node {
    fn default() -> Self {
        let limits = RetainLimits::default();
        let service = Arc::new(RetainService::replicated(limits, Epoch::default(), 1));
        Node { overlay: Overlay::new(MemoryEngine::new(1), 1), service }
    }
}

impl Node {
    fn apply(&self, command: &Bytes, is_sound: bool) -> Vec<Change> {
        let (boundary, mut changes) = (KeyRange::all(), Batch::new());
        let mut coprocessor = RetainCoprocessor::feeding(&Arc::downgrade(&self.service));
        let view = self.overlay.view();
        let reader = SpaceReader::new(&view, SPACE, &boundary);
        // Topics that are none can be written, and are not read.
        let is_read = coprocessor.reset(&boundary, &reader).is_ok();
        drop(view);
        let mut writer = Writer::new(&self.overlay, SPACE, &boundary, &mut changes);
        let position = Position { index: 1, number: 0 };
        let answer = coprocessor.apply(position, command, &mut writer);
        let answer = answer.expect("the engine in memory does not fail");
        assert_eq!(Answer::is_done(&answer), is_sound, "what can be read is carried out");
        let changed = changes.iter().cloned().collect();
        self.overlay.apply(changes);
        if is_read {
            self.check_memory();
        }
        coprocessor.leave();
        changed
    }

    /// Memory has what the data has.
    fn check_memory(&self) {
        let filter = TopicFilter::parse("#", &TopicLimits::PROTOCOL).expect("a filter");
        let (mut stored, mut tenant_id) = (Vec::new(), TenantId::new(""));
        let content = self.content();
        for (key, value) in &content {
            let (tenant, _) = parse_key(key).expect("a key can be read");
            tenant_id = TenantId::new(tenant);
            let record = Record::decode(value).expect("a record can be read");
            let is_topic = TopicName::parse(record.topic, &TopicLimits::PROTOCOL).is_ok();
            if is_topic && !record.topic.starts_with('$') && record.deadline.is_none() {
                stored.push((record.topic.to_owned(), record.payload.to_vec()));
            }
        }
        // All are of one tenant.
        let tenant = self.service.tenant(&tenant_id);
        let mut page = Page { messages_max: usize::MAX, bytes_max: usize::MAX, ..Page::default() };
        let mut cursor = Cursor::Start;
        while cursor != Cursor::End {
            tenant.scan(Instant::ZERO, &filter, &mut cursor, &mut page);
        }
        let live = page.messages.iter().filter(|held| held.deadline.is_none());
        let mut shown: Vec<_> =
            live.map(|held| (held.topic.to_string(), held.payload.to_vec())).collect();
        stored.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, stored, "memory follows the data");
    }

    fn content(&self) -> Vec<(Vec<u8>, Bytes)> {
        let (view, boundary) = (self.overlay.view(), KeyRange::all());
        let reader = SpaceReader::new(&view, SPACE, &boundary);
        let mut content = Vec::new();
        ratatosk_store::coprocessor::scan_all(&reader, &boundary, |key, value| {
            content.push((key.to_vec(), value.clone()));
            Ok(())
        })
        .expect("the engine in memory does not fail");
        content
    }
}

/// Cut in two it does the same.
fn check_division(command: &Command<'_>, bytes: &Bytes, content: &[(Vec<u8>, Bytes)]) {
    let key_of = |effect: &Effect<'_>| key(command.tenant, effect.topic());
    let (first, parted) = (Node::default(), key_of(&command.effects[0]));
    // The first key alone.
    let end = Bytes::from([&parted[..], &[0]].concat());
    let boundary = KeyRange { start: parted.into(), end: Some(end) };
    match RetainDivision.divide(bytes, &boundary) {
        None => {
            let is_inside = |effect: &Effect<'_>| boundary.contains(&key_of(effect));
            assert!(command.effects.iter().all(is_inside), "nothing is for other keys");
        }
        Some(divided) => {
            first.apply(&divided.inside, true);
            first.apply(&divided.rest, true);
            assert_eq!(first.content(), content, "each topic stands by itself");
        }
    }
}

fn check_record(record: &Record<'_>, bytes: &[u8]) {
    let mut again = Vec::new();
    record.put(&mut again);
    assert!(again.ends_with(bytes), "a record has one form");
    assert!(again.len() <= bytes.len() + 10, "behind its length only");
}

fn check_command(command: &Command<'_>, bytes: &[u8]) {
    assert!(!command.effects.is_empty(), "a command does something");
    let draft = command.effects.iter().fold(Draft::of(command.tenant), Draft::effect);
    assert_eq!(draft.finish(), bytes, "a command has one form");
    for effect in &command.effects {
        if let Effect::Put { record, value } = effect {
            check_record(record, value);
        }
    }
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
        assert!(count >= 12, "the golden ones at least");
    }

    proptest! {
        #[test]
        fn random_bytes_are_carried_out_or_refused_and_never_panic(data in vec(any::<u8>(), 0..99)) {
            command_any(&data);
        }

        /// The beginnings are sound, so that what follows is reached.
        #[test]
        fn random_effects_are_carried_out_or_refused_and_never_panic(
            kind in 1..5_u8,
            data in vec(prop_oneof![0..4_u8, any::<u8>()], 0..60),
        ) {
            let length = u8::try_from(data.len()).expect("short");
            command_any(&[&[1, 1, b't', kind, length][..], &data].concat());
            command_any(&[&[1, 1, b't', kind][..], &data].concat());
            command_any(&[&[1, 4][..], &data].concat());
        }
    }
}
