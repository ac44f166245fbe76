//! The body of the fuzz target `inbox_effect`, so that its corpus is replayed by plain tests.
//!
//! The first byte chooses a decoder, the others are its input. Guarded: none panics, and what
//! decodes is encoded to the bytes that it came from: each thing has one form.

use ratatosk_engine::wire::Malformed;

use crate::{
    effect::{self, VERSION},
    schema::{
        BegunRecord, EntryRecord, Key, MessageRecord, NoteRecord, Position, SessionRecord,
        SubscriptionRecord, TurnRecord, WillRecord,
    },
};

/// A command, a key or a record.
pub fn effect_any(data: &[u8]) {
    let Some((selector, bytes)) = data.split_first() else { return };
    let again = match selector % 11 {
        0 => command(bytes),
        1 => Key::parse(bytes).map(|key| key.to_bytes().to_vec()),
        2 => encoded(SessionRecord::decode(bytes), SessionRecord::encode),
        3 => encoded(SubscriptionRecord::decode(bytes), SubscriptionRecord::encode),
        4 => encoded(EntryRecord::decode(bytes), EntryRecord::encode),
        5 => encoded(MessageRecord::decode(bytes), MessageRecord::encode),
        6 => encoded(WillRecord::decode(bytes), WillRecord::encode),
        7 => encoded(Position::decode(bytes), |record, into| record.encode(into)),
        8 => encoded(BegunRecord::decode(bytes), BegunRecord::encode),
        9 => encoded(TurnRecord::decode(bytes), TurnRecord::encode),
        _ => encoded(NoteRecord::decode(bytes), NoteRecord::encode),
    };
    if let Ok(again) = again {
        assert_eq!(again, bytes, "one form");
    }
}

fn encoded<T>(
    decoded: Result<T, Malformed>,
    encode: impl Fn(&T, &mut Vec<u8>),
) -> Result<Vec<u8>, Malformed> {
    let mut bytes = Vec::new();
    encode(&decoded?, &mut bytes);
    Ok(bytes)
}

fn command(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let effects = effect::decode(bytes)?;
    let mut again = vec![VERSION];
    effects.iter().for_each(|effect| effect.encode(&mut again));
    Ok(again)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The stored corpus, which holds the golden bytes.
    #[test]
    fn the_stored_corpus_decodes_or_is_refused_and_never_panics() {
        let corpus =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus/inbox_effect");
        let entries = std::fs::read_dir(corpus).expect("part of the repository");
        let mut count = 0;
        for entry in entries {
            effect_any(&std::fs::read(entry.expect("readable").path()).expect("readable"));
            count += 1;
        }
        assert!(count > 0, "there are seeds");
    }
}
