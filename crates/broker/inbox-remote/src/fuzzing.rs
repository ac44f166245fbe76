//! The body of the fuzz target `inbox_calls`, so that its corpus is replayed by a plain test.
//!
//! Guarded: nothing panics, and what is read means the same when it is written again. It need not have the
//! same bytes: what a later version adds is passed over.

use bytes::Bytes;
use ratatosk_clock::Instant;

use crate::{ask, tell};

const NOW: Instant = Instant::from_millis(1_000);

/// Words of one side or the other: the first byte says of which.
pub fn words_any(data: &[u8]) {
    let Some((side, body)) = data.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    if side % 2 == 0 {
        let Ok(words) = ask::take_all(&body, NOW) else { return };
        let mut written = Vec::new();
        words.iter().for_each(|word| word.put(&mut written, NOW));
        let again = ask::take_all(&written.into(), NOW).expect("it was written");
        assert_eq!(format!("{again:?}"), format!("{words:?}"));
    } else {
        let Ok(words) = tell::take_all(&body, NOW) else { return };
        let mut written = Vec::new();
        words.iter().for_each(|word| word.put(&mut written, NOW));
        let again = tell::take_all(&written.into(), NOW).expect("it was written");
        assert_eq!(format!("{again:?}"), format!("{words:?}"));
    }
}

#[cfg(test)]
mod tests {
    use ratatosk_contract::inbox::InboxId;

    use super::*;
    use crate::ask::Ask;
    use crate::tell::Tell;
    use crate::turn::Turn;

    #[test]
    fn the_corpus_is_read_or_refused() {
        let folder = format!("{}/../../../fuzz/corpus/inbox_calls", env!("CARGO_MANIFEST_DIR"));
        let seeds = std::fs::read_dir(folder).expect("the corpus");
        let seeds = seeds.map(|seed| std::fs::read(seed.expect("a seed").path()).expect("a seed"));
        let count = seeds.map(|seed| words_any(&seed)).count();
        assert!(count >= 5, "{count} seeds");
    }

    fn seed(name: &str) -> Bytes {
        let folder = format!("{}/../../../fuzz/corpus/inbox_calls", env!("CARGO_MANIFEST_DIR"));
        let seed = std::fs::read(format!("{folder}/{name}")).expect("a seed");
        Bytes::copy_from_slice(&seed[1..])
    }

    fn asked(name: &str) -> Ask {
        ask::take_all(&seed(name), NOW).expect("it is read").pop().expect("a word")
    }

    fn told(name: &str) -> Tell {
        tell::take_all(&seed(name), NOW).expect("it is read").pop().expect("a word")
    }

    /// DUR-010: what an earlier version says of a message that is begun, without groups, is read, and so is what
    /// this one says.
    #[test]
    fn words_of_a_beginning_are_read_with_groups_and_without() {
        let wished = |name| match asked(name) {
            Ask::Begin { wished, .. } => wished.iter().map(|it| it.instead_of).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let none: Vec<Option<InboxId>> = Vec::new();
        assert_eq!(wished("ask_begin"), none);
        assert_eq!(wished("ask_begin_for"), [None, Some(InboxId(0x43))]);
        let said = |name| match told(name) {
            Tell::Begun { said, .. } => (said.numbers, said.others, said.choices.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(said("tell_begun"), ((9, 5), 9, 0));
        assert_eq!(said("tell_begun_for"), ((9, 5), 9, 1));
    }

    /// MQTT-054: a message says its turn, and one that comes again the first that is not done.
    #[test]
    fn a_message_says_its_turn() {
        let turn = |name| match asked(name) {
            Ask::Append { order, .. } => order.intent.turn,
            other => panic!("{other:?}"),
        };
        assert_eq!(turn("ask_append"), Turn { number: 7, first: None });
        assert_eq!(turn("ask_append_again"), Turn { number: 7, first: Some(5) });
    }
}
